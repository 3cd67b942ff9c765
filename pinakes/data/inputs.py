"""Images to predict on: files and folders, without labels."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Problem, Sample
from pinakes.data.files import leave_out
from pinakes.data.images import read_image, to_tensor
from pinakes.data.inspection import inspect_files
from pinakes.data.layouts import listing
from pinakes.errors import UserError


class InputImages(Dataset[Sample]):
    """Images to predict on, decoded when they are asked for.

    Samples hold `image`, float (channels, height, width) as the info says; `path`; and `original_size`, int64
    (2,), height and width in pixels before resizing.

    Args:
        paths: The files.
        info: Channels and size that the method was built for.
        skipped: Files that were left out.
    """

    def __init__(self, paths: Iterable[str], info: DataInfo, skipped: tuple[Problem, ...] = ()) -> None:
        self.paths = tuple(paths)
        self.info = info
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        pixels = read_image(path)
        return {
            "image": to_tensor(pixels, self.info.size, self.info.channels),
            "path": path,
            "original_size": torch.tensor(pixels.shape[:2]),
        }


def load_images(
    inputs: str | Path | Sequence[str | Path], info: DataInfo, *, skip_bad: bool = False
) -> InputImages:
    """Loads images to predict on, and checks each file.

    Args:
        inputs: An image file, a folder (searched with everything below it, sorted), or several of these. A file
            that is named is read whatever its ending.
        info: Channels and size that the method was built for.
        skip_bad: Leave out files that cannot be read, and list them in `skipped`.

    Returns:
        A data set of samples with `image`, `path` and `original_size`.

    Raises:
        UserError: If there is nothing at a path or no image in it, or a file cannot be read.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    found: list[tuple[Path, str]] = []
    for path in (Path(each).expanduser() for each in given):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
        root, names = (path, listing(path).images) if path.is_dir() else (path.parent, (path.name,))
        found += [(root, name) for name in names]
    by_root: dict[Path, list[str]] = defaultdict(list)
    for root, name in found:
        by_root[root].append(name)
    facts = {root: inspect_files(root, names) for root, names in by_root.items()}
    paths = [str(root / name) for root, name in found if not facts[root][name].problem]
    problems = [
        Problem(root / name, fact.problem)
        for root, files in facts.items()
        for name, fact in files.items()
        if fact.problem
    ]
    skipped = leave_out(problems, skip_bad=skip_bad)
    if not paths:
        raise UserError("there is no image to predict on; give image files or folders of images")
    return InputImages(dict.fromkeys(paths), info, skipped)
