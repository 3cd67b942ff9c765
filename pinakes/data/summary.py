"""What is in a data set: figures to read by machine, and a sheet of samples to look at."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.tasks.base import Panel, to_pixels

if TYPE_CHECKING:
    from pinakes.tasks.base import Task

_LOOKS = 100
"""How many samples of each split are decoded for what cannot be counted without."""
_COLUMNS = 8
_ROWS = 12
_TILE, _GAP, _MARGIN, _LEFT = 128, 10, 24, 132
_INK, _PALE, _MARK = "#1f2430", "#7b8294", (255, 64, 32)


def describe(data: TaskData) -> dict[str, Any]:
    """What is in a data set, as plain JSON values.

    Args:
        data: The data.

    Returns:
        `spec`, `layout`, `fingerprint`, `channels`, `size` (height, width), `classes`; `splits`, for each its
        `count` and its counts by `classes` and `kinds`; `native_sizes`, the sizes of the files, most frequent first;
        `values`, the `low`, `high`, and by channel `mean` and `std` of up to 100 images a split; `masks`, the share
        of samples with a marked pixel and the mean share of marked pixels in those, or None without masks; and
        `skipped`, the files that were left out, with the reason.
    """
    looks = {name: list(_spread(part)) for name, part in data.splits()}
    samples = [sample for part in looks.values() for sample in part]
    native: Counter[tuple[int, int]] = Counter()
    for _, part in data.splits():
        native.update(getattr(part, "native_sizes", {}))
    return {
        "spec": data.spec,
        "layout": data.layout,
        "fingerprint": data.fingerprint(),
        "channels": data.channels,
        "size": list(data.size),
        "classes": list(data.classes),
        "splits": {name: _counts(part, looks[name], data.info) for name, part in data.splits()},
        "native_sizes": [
            {"height": height, "width": width, "count": count}
            for (height, width), count in native.most_common()
        ],
        "values": _values(samples),
        "masks": _masks(samples),
        "skipped": [{"path": str(problem.path), "reason": problem.reason} for problem in data.skipped],
    }


def _spread(part: SampleSet) -> Iterator[Sample]:
    """At most a hundred samples, evenly spread."""
    for index in _choose(range(len(part)), _LOOKS):
        yield part[index]


def _counts(part: SampleSet, looks: Sequence[Sample], info: DataInfo) -> dict[str, Any]:
    """Counts of a whole split where it states its labels and kinds, else of the samples that were looked at."""
    labels = getattr(part, "labels", [sample["label"] for sample in looks if "label" in sample])
    kinds = getattr(part, "kinds", [sample["kind"] for sample in looks if "kind" in sample])
    by_label = Counter(int(label) for label in labels if label is not None)
    return {
        "count": len(part),
        "counted": len(part) if hasattr(part, "labels") else len(looks),
        "classes": {name: by_label[label] for label, name in enumerate(info.classes) if by_label[label]},
        "kinds": dict(sorted(Counter(kind for kind in kinds if kind).items())),
    }


def _values(samples: Sequence[Sample]) -> dict[str, Any] | None:
    images = [sample["image"].numpy() for sample in samples if "image" in sample]
    if not images:
        return None
    mean = np.mean([image.mean((1, 2), dtype=np.float64) for image in images], axis=0)
    square = np.mean([(image**2).mean((1, 2), dtype=np.float64) for image in images], axis=0)
    return {
        "low": round(float(min(image.min() for image in images)), 4),
        "high": round(float(max(image.max() for image in images)), 4),
        "mean": mean.round(4).tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0)).round(4).tolist(),
    }


def _masks(samples: Sequence[Sample]) -> dict[str, float] | None:
    shares = [float(sample["mask"].numpy().mean()) for sample in samples if "mask" in sample]
    if not shares:
        return None
    marked = [share for share in shares if share > 0]
    return {
        "samples": round(len(marked) / len(shares), 4),
        "pixels": round(sum(marked) / len(marked), 6) if marked else 0.0,
    }


def contact_sheet(data: TaskData, task: "Task | None" = None) -> Image.Image:
    """A sheet of samples: for each split one row for each kind or class, masks outlined and boxes drawn.

    Args:
        data: The data.
        task: Draws the samples its own way, by its `draw_sample`.

    Returns:
        An RGB picture, about 1270 pixels wide.
    """
    sheet = _Sheet(data.spec, data.layout)
    for name, part in data.splits():
        groups = _groups(part)
        sheet.heading(f"{name} · {len(part)}")
        for kind, indices in list(groups.items())[:_ROWS]:
            panels: list[Panel] = []
            for index in _choose(indices, _COLUMNS):
                panels += _panels(part, part[index], task, data.info)
                if len(panels) >= _COLUMNS:
                    break
            sheet.row(kind, len(indices), panels[:_COLUMNS])
        if len(groups) > _ROWS:
            sheet.note(f"and {len(groups) - _ROWS} more: {', '.join(list(groups)[_ROWS:])}")
    if data.skipped:
        sheet.note(f"{len(data.skipped)} files left out")
    return sheet.picture()


def _panels(part: SampleSet, sample: Sample, task: "Task | None", info: DataInfo) -> list[Panel]:
    """As the task draws it, or else as the data set itself does, or else the image with its mask and boxes."""
    if task is not None:
        return task.draw_sample(sample, info)
    draw = getattr(part, "panels", None)
    return draw(sample) if draw else [_draw(sample, info)]


def _groups(part: SampleSet) -> dict[str, list[int]]:
    """Positions by kind; "good" first. Of a set that does not state its kinds, the first hundred."""
    count = min(len(part), _LOOKS)
    kinds = getattr(part, "kinds", None) or [part[index].get("kind", "") for index in range(count)]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        groups[kind].append(index)
    return dict(sorted(groups.items(), key=lambda group: (group[0] != "good", group[0])))


def _choose(indices: Sequence[int], count: int) -> list[int]:
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def _draw(sample: Sample, info: DataInfo) -> Panel:
    pixels = to_pixels(sample["image"])
    picture, scale = _fitted(Image.fromarray(pixels))
    if "mask" in sample:
        mask = Image.fromarray(sample["mask"].numpy()).resize(picture.size, Image.Resampling.NEAREST)
        drawn = np.array(picture)
        drawn[_outline(np.array(mask))] = _MARK
        picture = Image.fromarray(drawn)
    if "boxes" in sample:
        pen = ImageDraw.Draw(picture)
        for box, label in zip(sample["boxes"].tolist(), sample["labels"].tolist(), strict=True):
            colour = matplotlib.colormaps["tab10"](label % 10, bytes=True)[:3]
            left, top, right, bottom = (value * scale for value in box)
            pen.rectangle((left, top, right, bottom), outline=colour, width=2)
            if info.classes:
                name = info.classes[label]
                pen.text((left + 3, top + 1), name, "white", _font(10), stroke_width=2, stroke_fill=colour)
    return Panel(np.array(picture), Path(sample.get("path", "")).name)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels just outside the marked ones."""
    padded = np.pad(mask, 1)
    return (padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]) & ~mask


def _fitted(picture: Image.Image) -> tuple[Image.Image, float]:
    """The picture as large as a tile allows, and by how much it was enlarged; pixels of small ones stay square."""
    scale = _TILE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = scale >= 2
    return picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS), scale


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


class _Sheet:
    """Rows of panels, gathered first and drawn when the height is known."""

    def __init__(self, title: str, subtitle: str) -> None:
        self.width = 2 * _MARGIN + _LEFT + _COLUMNS * (_TILE + _GAP) - _GAP
        self.height = _MARGIN
        self.texts: list[tuple[tuple[int, int], str, int, str]] = []
        self.panels: list[tuple[tuple[int, int], Image.Image]] = []
        self._write(title, 18, _INK, after=6)
        self._write(subtitle, 12, _PALE, after=4)

    def _write(self, text: str, size: int, colour: str, after: int) -> None:
        self.texts.append(((_MARGIN, self.height), _cut(text, size, self.width - 2 * _MARGIN), size, colour))
        self.height += round(1.3 * size) + after

    def heading(self, text: str) -> None:
        self.height += 14
        self._write(text, 15, _INK, after=8)

    def note(self, text: str) -> None:
        self._write(text, 12, _PALE, after=4)

    def row(self, kind: str, count: int, panels: Sequence[Panel]) -> None:
        at = (_MARGIN, self.height + _TILE // 2 - 18)
        if kind:
            self.texts.append((at, _cut(kind, 13, _LEFT - 12), 13, _INK))
        self.texts.append(((at[0], at[1] + 20), str(count), 11, _PALE))
        for column, panel in enumerate(panels):
            left = _MARGIN + _LEFT + column * (_TILE + _GAP)
            picture, _ = _fitted(Image.fromarray(panel.image))
            self.panels.append(((left, self.height), picture))
            caption = _cut(panel.caption, 9, _TILE)
            self.texts.append(((left, self.height + picture.height + 3), caption, 9, _PALE))
        self.height += _TILE + 24

    def picture(self) -> Image.Image:
        sheet = Image.new("RGB", (self.width, self.height + _MARGIN), "white")
        pen = ImageDraw.Draw(sheet)
        for at, text, size, colour in self.texts:
            pen.text(at, text, fill=colour, font=_font(size))
        for at, picture in self.panels:
            sheet.paste(picture, at)
        return sheet


def _cut(text: str, size: int, width: int) -> str:
    """The text, with its middle left out where it is wider than `width` pixels."""
    font = _font(size)
    text = " ".join(text.split())
    kept = len(text)
    shown = text
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
