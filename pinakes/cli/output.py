"""Folders to write to, checked before the long work starts and left as they were."""

import re
import tempfile
from pathlib import Path

from pinakes.engine.runs import DESCRIPTION, read_description
from pinakes.errors import UserError


def check_folder(folder: Path) -> Path:
    """Makes sure that a folder can be written or made, and makes nothing.

    Raises:
        UserError: If not; says why and what to do.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(
            f"{folder}: cannot be written ({existing} is a file); choose another folder with --out"
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from error


def check_run_folder(folder: Path, slug: str, *, resume: bool) -> Path:
    """As `check_folder`, and makes sure that no earlier run would be lost.

    Raises:
        UserError: If the folder cannot be written, holds a run of another method, or holds one that is not to be
            continued.
    """
    check_folder(folder)
    if (folder / DESCRIPTION).exists():
        found = read_description(folder)["method"]
        if found != slug:
            raise UserError(
                f"{folder}: holds a run of '{found}', not of '{slug}'; choose another folder with --out"
            )
        if not resume:
            raise UserError(
                f"{folder}: already holds a run; continue it with --resume, or choose another with --out"
            )
    return folder


def run_name(*parts: str) -> str:
    """A folder's name from words such as a slug and a data spec.

    Example:
        >>> run_name("patchcore", "mvtec:parts/Wood screws?size=64")
        'patchcore-wood-screws'
    """
    words = [re.sub(r"\?.*$", "", part).rstrip("/").rpartition("/")[2].rpartition(":")[2] for part in parts]
    return "-".join(re.sub(r"[^\w]+", "-", word.lower()).strip("-") or "data" for word in words)
