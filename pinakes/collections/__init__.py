"""What features are for once they are learnt: looking at a whole collection of images by them.

A collection is any folder of images, or any data that a spec names. A method of the task `representation` gives each
image its embedding; near-duplicates are then found and the collection is drawn as a map, in pages that need no other
file and no network.
"""

from pinakes.collections.duplicates import write_duplicates
from pinakes.collections.embeddings import embed, load_encoder, read_embeddings, write_embeddings
from pinakes.collections.map import write_map

__all__ = ["embed", "load_encoder", "read_embeddings", "write_duplicates", "write_embeddings", "write_map"]
