"""Which modules the reference describes, and the public names in each, read without importing them."""

import ast
import importlib.util
from pathlib import Path

MODULES = {
    "pinakes": "The front door: list, search, create, load, load_data, compare.",
    "pinakes.catalogue": "Papers and shelves, found without importing a method.",
    "pinakes.method": "What every method can do.",
    "pinakes.tasks.base": "What a task states.",
    "pinakes.data.base": "What every data source gives.",
    "pinakes.data.loading": "Load data by spec or path.",
    "pinakes.engine.plan": "How long, on what and with which seed a method is fitted.",
    "pinakes.engine.compiling": "Networks translated by torch.compile.",
    "pinakes.nn.backbones": "Backbones by name.",
    "pinakes.lab.compare": "Methods against each other.",
    "pinakes.lab.leaderboard": "The outcome of a comparison.",
    "pinakes.lab.claims": "What a paper says of itself, put to the test.",
    "pinakes.lab.duel": "Ours against a baseline, with everything else equal.",
    "pinakes.lab.trial": "Every seed's figures.",
    "pinakes.lab.verdict": "The verdict, computed.",
    "pinakes.lab.verify": "Put claims to the test and publish what comes out.",
    "pinakes.report.page": "The report of a comparison.",
    "pinakes.collections.embeddings": "The embeddings of a collection of images.",
    "pinakes.collections.duplicates": "Near-duplicates of a collection.",
    "pinakes.collections.similarity": "Which of many rows are alike.",
    "pinakes.collections.map": "A collection as a map.",
    "pinakes.collections.prototypes": "Which prototypes the images of two collections have.",
    "pinakes.collections.differ": "What one collection has that another lacks.",
    "pinakes.collections.detectors": "Detectors of what is to be left out.",
    "pinakes.collections.exclude": "A collection without what a detector finds.",
    "pinakes.errors": "Errors that speak to the user.",
}


def public_names(module: str) -> list[str]:
    """The functions and classes that a module defines for others, in the order of its file."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module}: the reference names a module that does not exist")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node)
    ]
