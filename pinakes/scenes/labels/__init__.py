"""The labels by name. A new one is one file with a `LABEL`, and one line here."""

import importlib

from pinakes.errors import UserError, suggest
from pinakes.scenes.label import Label

LABELS = {
    "classification": "classification",
    "attributes": "attributes",
    "table": "table",
    "longtail": "longtail",
    "groups": "groups",
    "domains": "domains",
    "ood": "ood",
    "anomaly": "anomaly",
    "segmentation": "segmentation",
    "people": "people",
    "detection": "detection",
    "relations": "relations",
    "depth": "depth",
    "normals": "normals",
    "modalities": "modalities",
    "intrinsics": "intrinsics",
    "stereo": "stereo",
    "pairs": "pairs",
    "flow": "flow",
    "video": "video",
    "multiview": "multiview",
    "captions": "captions",
    "questions": "questions",
}
"""Name of each label, and the module here that makes it."""


def find_label(what: str) -> Label:
    """The label of this name.

    Raises:
        UserError: If there is none; the message names the nearest.
    """
    if what not in LABELS:
        known = suggest(what, LABELS)
        raise UserError(
            f"scenes have no label {what!r}{known}" if what else f"'scenes:' needs a label{known}"
        )
    label: Label = importlib.import_module(f"{__name__}.{LABELS[what]}").LABEL
    return label
