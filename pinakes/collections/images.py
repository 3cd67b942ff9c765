"""The images of a collection: all that lie in a folder, or in the data that a spec names."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from pinakes.data import load_data, load_images
from pinakes.data.base import DataInfo, Problem, Sample, SampleSet
from pinakes.data.images import opened, read_image
from pinakes.data.layouts import listing, recognise
from pinakes.data.sources import SOURCES
from pinakes.data.spec import Spec
from pinakes.errors import UserError
from pinakes.tasks.base import to_pixels


class Images(Dataset[Sample]):
    """The images of a collection, decoded when they are asked for; samples hold `image` alone.

    Args:
        source: The words that name the collection.
        parts: Where the images come from, one part after the other.
        names: What each image is called: its path below the folder, where it is a file.
        kinds: The class of each, or an empty string.
        root: The folder that the names of files are relative to.
        skipped: Files that were left out.
    """

    def __init__(
        self,
        source: str,
        parts: Sequence[SampleSet],
        names: Sequence[str],
        kinds: Sequence[str],
        *,
        root: Path | None = None,
        skipped: tuple[Problem, ...] = (),
    ) -> None:
        self.source, self.parts, self.root, self.skipped = source, tuple(parts), root, skipped
        self.names, self.kinds = tuple(names), tuple(kinds)
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that there are, sorted; empty where no image has one."""
        return tuple(sorted({kind for kind in self.kinds if kind}))

    @property
    def about(self) -> str:
        """How many images there are, in how many classes."""
        classes = f" in {len(self.classes)} classes" if len(self.classes) > 1 else ""
        return f"{len(self):,} image{'s' * (len(self) != 1)}{classes}"

    @property
    def title(self) -> str:
        """A short name of the collection."""
        words = self.source.partition("?")[0].rstrip("/\\").replace("\\", "/")
        return words.rpartition("/")[2] or words or self.source

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self._sample(index)["image"]}

    def file(self, index: int) -> Path | None:
        """The file of an image, or None where it is not one of its own."""
        path = None if self.root is None else self.root / self.names[index]
        return path if path is not None and path.is_file() else None

    def thumbnail(self, index: int, side: int) -> Image.Image:
        """An image in its own proportions, made smaller where it is larger than `side` pixels a side."""
        file = self.file(index)
        drawn = self._drawn(index) if file is None else _reduced(file, side)
        drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
        return drawn

    def _drawn(self, index: int) -> Image.Image:
        return Image.fromarray(to_pixels(self._sample(index)["image"]))

    def _sample(self, index: int) -> Sample:
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]


def open_images(source: str | Path, info: DataInfo, *, skip_bad: bool = False) -> Images:
    """Opens a collection for a method, and checks each file.

    Of a folder per class, a flat folder, or one that is a mixture of both, every image is taken; of other layouts, and
    of specs, the images of all parts.

    Args:
        source: A folder of any layout, or a data spec.
        info: Channels and size that the method was built for.
        skip_bad: Leave out files that cannot be used, and list them.

    Raises:
        UserError: If there is no image, or a file cannot be used.
    """
    spec = Spec("", str(source)) if isinstance(source, Path) else Spec.parse(source, SOURCES)
    folder = Path(spec.path).expanduser()
    if not spec.scheme and not spec.options and folder.is_dir():
        listing(folder)  # raises if it holds no image
        if recognise(folder)[0] == "folder":
            return _whole_folder(folder, info, skip_bad)
    return _data(spec, info, skip_bad)


def _whole_folder(folder: Path, info: DataInfo, skip_bad: bool) -> Images:
    images = load_images(folder, info, skip_bad=skip_bad)
    names = [Path(path).relative_to(folder).as_posix() for path in images.paths]
    known: dict[str, str] = {}
    try:
        # what a layout says of classes; where it is none of the known ones, the folders at the top are the classes
        data = load_data(str(Spec("folder", str(folder))), size=info.size, skip_bad=True)
        known = {name: kind for _, part in data.splits() for name, kind in _named(part, "", data.info)}
    except UserError:
        pass
    kinds = [known.get(name, name.rpartition("/")[0].partition("/")[0]) for name in names]
    return Images(str(folder), [images], names, kinds, root=folder, skipped=images.skipped)


def _data(spec: Spec, info: DataInfo, skip_bad: bool) -> Images:
    options = {"channels": str(info.channels), **spec.options}
    data = load_data(str(replace(spec, options=options)), size=info.size, skip_bad=skip_bad)
    if data.channels != info.channels:
        raise UserError(
            f"{spec}: has {data.channels} channels, but the method was fitted on {info.channels}; "
            f"write ?channels={info.channels}"
        )
    parts = dict(data.splits())
    named = [each for split, part in parts.items() for each in _named(part, split, data.info)]
    roots = {getattr(part, "root", None) for part in parts.values()}
    root = roots.pop() if len(roots) == 1 else None
    return Images(
        str(spec),
        list(parts.values()),
        [name for name, _ in named],
        [kind for _, kind in named],
        root=root,
        skipped=data.skipped,
    )


def _named(part: SampleSet, split: str, info: DataInfo) -> list[tuple[str, str]]:
    """The name and the class of each sample."""
    count = len(part)
    names = getattr(part, "paths", None) or [f"{split}/{index:06d}" for index in range(count)]
    kinds = getattr(part, "kinds", None)
    if kinds is None:
        labels = getattr(part, "labels", None) or [None] * count
        kinds = ["" if label is None or label < 0 else info.classes[label] for label in labels]
    return [(str(name), str(kind or "")) for name, kind in zip(names, kinds, strict=True)]


def _reduced(file: Path, side: int) -> Image.Image:
    """A file's image; a JPEG is decoded no larger than needed, where that turns nothing."""
    with opened(file) as image:
        plain = image.format == "JPEG" and image.mode in {"RGB", "L"} and not image.getexif()
        if plain:
            image.draft(None, (2 * side, 2 * side))
            return image.convert("RGB")
    pixels = read_image(file)
    return Image.fromarray(
        pixels if pixels.dtype == "uint8" else (pixels * 255).round().astype("uint8")
    ).convert("RGB")
