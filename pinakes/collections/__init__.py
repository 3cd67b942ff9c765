"""What features are for once they are learnt: looking at a whole collection of images by them.

A collection is any folder of images, or any data that a spec names. A method of the task `representation` gives each
image its embedding; near-duplicates are then found, the collection is drawn as a map and held against another one, in
pages that need no other file and no network. A detector says which images are to be left out.
"""

from pinakes.collections.detectors import load_detector
from pinakes.collections.differ import write_differences
from pinakes.collections.duplicates import write_duplicates
from pinakes.collections.embeddings import embed, load_encoder, read_embeddings, write_embeddings
from pinakes.collections.exclude import exclude
from pinakes.collections.map import write_map
from pinakes.collections.prototypes import assign

__all__ = [
    "assign",
    "embed",
    "exclude",
    "load_detector",
    "load_encoder",
    "read_embeddings",
    "write_differences",
    "write_duplicates",
    "write_embeddings",
    "write_map",
]
