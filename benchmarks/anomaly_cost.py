"""How the cost of every method of the task `anomaly` grows: with images, with their size, with the bank.

Each method is fitted on and predicts images held in memory, on one thread, in a process of its own. Time is the
processor's; memory is what the process takes on top of what it held before. Growth is the slope of a straight line
through the logarithms.

The costs at 100,000 images of 224 pixels are an extrapolation far outside what was measured, made twice: along those
slopes, which fixed costs make too small, and along straight lines (a fixed cost and one for each image, pixel or row of
the bank), which is how a stream must grow. Each axis multiplies the cost by its own factor; one along which a cost grew
by less than a fifth from end to end is taken to leave it alone.

A method with the option `bank_limit` is measured twice: within the limit, and with one so small that it streams. What
is extrapolated is the stream, with the method's own limit.
"""

import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

import pinakes
from benchmarks.harness import Finding, save
from pinakes.catalogue import papers
from pinakes.data.base import DataInfo, Sample
from pinakes.errors import UserError
from pinakes.lab import notation
from pinakes.lab.memory import peak_of

NAME = "anomaly_cost"
BASE_SIZE, SMALL_BANK = 64, 1024
AXES: Mapping[str, tuple[int, ...]] = {"images": (50, 100, 200), "size": (64, 96, 128)}
IMAGES_OF_SIZES = 24
BANKS, IMAGES_OF_BANKS = (1024, 2048, 4096, 8192), 300
TARGET_IMAGES, TARGET_SIZE = 100_000, 224
PREDICTED = 8
LEAST_GROWTH = 1.2
QUANTITIES = ("fit_seconds", "fit_bytes", "predict_seconds", "predict_bytes", "state_bytes")


@dataclass(frozen=True)
class Point:
    """One measurement.

    Args:
        method: The method, and how it was limited.
        axis: What varies: "images", "size" or "bank".
        value: Its value: training images, pixels a side, or the most rows that are held.
        fit_seconds: Processor time of one pass over the training images, or of what the method does with them.
        fit_bytes: Memory at the peak of that.
        predict_seconds: Processor time of predicting one image.
        predict_bytes: Memory at the peak of predicting eight.
        state_bytes: What weights and buffers weigh.
    """

    method: str
    axis: str
    value: int
    fit_seconds: float
    fit_bytes: int
    predict_seconds: float
    predict_bytes: int
    state_bytes: int


class Held:
    """Images in memory, every second one of the test images with a defect."""

    def __init__(self, count: int, size: int) -> None:
        source = pinakes.load_data(f"textures?size={size}&n={min(count, 32)}", task="anomaly")
        self.samples = [source.train[index] for index in range(min(count, 32))]
        self.count = count
        self.info: DataInfo = source.info

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index % len(self.samples)]
        noise = torch.randn(sample["image"].shape, generator=torch.Generator().manual_seed(index))
        return sample | {"image": (sample["image"] + 0.05 * noise).clamp(0, 1)}


def bench() -> list[Finding]:
    """Measures, fits lines, extrapolates, prints both tables and writes them."""
    points: list[Point] = []
    skipped: dict[str, str] = {}
    for paper in papers(task="anomaly"):
        limits = ({}, {"bank_limit": SMALL_BANK}) if "bank_limit" in paper.load().option_defaults() else ({},)
        for options in limits:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measured, paper.slug, options).result()
            if isinstance(found, str):
                skipped[paper.slug] = found
            else:
                points += found
    growth = slopes(points)
    target = extrapolated(points, growth)
    console = Console(width=150, highlight=False)
    console.print(table_of_points(points))
    console.print(table_of_growth(growth, target))
    findings = [
        Finding(
            NAME, f"{method}: {TARGET_IMAGES:,} images of {TARGET_SIZE} px, EXTRAPOLATED", figure=each["says"]
        )
        for method, each in target.items()
    ] + [Finding(NAME, slug, skipped=why) for slug, why in skipped.items()]
    save(
        NAME,
        findings,
        about=__doc__,
        points=[asdict(point) for point in points],
        growth=growth,
        extrapolation=target,
    )
    return findings


def measured(slug: str, options: dict[str, Any]) -> list[Point] | str:
    """All points of a method, or why it cannot be fitted on normal images alone; in a process of its own."""
    torch.set_num_threads(1)
    name = slug + "".join(f" ({key} {value:,})" for key, value in options.items())
    try:
        measure(slug, options, name, "images", 16, BASE_SIZE, 16)
        points = [measure(slug, options, name, "images", n, BASE_SIZE, n) for n in AXES["images"]]
        points += [measure(slug, options, name, "size", IMAGES_OF_SIZES, side, side) for side in AXES["size"]]
        if options:
            for limit in BANKS:
                limited = options | {"bank_limit": limit}
                points.append(measure(slug, limited, name, "bank", IMAGES_OF_BANKS, BASE_SIZE, limit))
    except UserError as error:
        return str(error)
    return points


def measure(
    slug: str, options: dict[str, Any], name: str, axis: str, images: int, size: int, value: int
) -> Point:
    """Fits and predicts once for memory and, with it, for time.

    Args:
        slug: The method.
        options: Its options.
        name: What to call it.
        axis: What varies.
        images: Training images.
        size: Pixels a side.
        value: Where on the axis.
    """
    data = Held(images, size)
    if options and "coreset_ratio" in pinakes.find(slug).load().option_defaults():
        options = options | {"coreset_ratio": 1.0}
    method = pinakes.create(slug, **options)
    batch = torch.stack([data[index]["image"] for index in range(PREDICTED)])
    seconds: list[float] = []

    def fit() -> None:
        before = time.process_time()
        method.fit((data, data.info), epochs=1, batch_size=8, hold_out=0, device="cpu")
        seconds.append(time.process_time() - before)

    def predict() -> float:
        before = time.process_time()
        method.predict(batch)
        return time.process_time() - before

    forget()
    fit_bytes, _ = peak_of(fit)
    forget()
    predict_bytes, _ = peak_of(predict)
    return Point(
        method=name,
        axis=axis,
        value=value,
        fit_seconds=seconds[0],
        fit_bytes=fit_bytes,
        predict_seconds=statistics.median(predict() for _ in range(5)) / PREDICTED,
        predict_bytes=predict_bytes,
        state_bytes=sum(tensor.nbytes for tensor in method.state_dict().values()),
    )


def forget() -> None:
    """Gives memory that is no longer used back to the system, where that can be asked for."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        return


def slopes(points: list[Point]) -> dict[str, dict[str, dict[str, float]]]:
    """The slope in logarithms of each quantity by method and axis; for sizes, against pixels of the image."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(point.method for point in points):
        for axis in dict.fromkeys(point.axis for point in points if point.method == method):
            chosen = [point for point in points if (point.method, point.axis) == (method, axis)]
            at = np.log([point.value ** (2 if axis == "size" else 1) for point in chosen])
            found.setdefault(method, {})[axis] = {
                name: round(
                    float(np.polyfit(at, np.log([max(getattr(p, name), 1e-9) for p in chosen]), 1)[0]), 3
                )
                for name in QUANTITIES
            }
    return found


def straight(points: list[Point], axis: str, quantity: str, start: float, end: float) -> float:
    """The factor from one place on an axis to another by a fixed cost and one in proportion, neither below 0."""
    at = np.array([point.value ** (2 if axis == "size" else 1) for point in points], dtype=float)
    cost = np.array([max(getattr(point, quantity), 1e-9) for point in points])
    parts, _ = nnls(np.stack([np.ones_like(at), at], 1) / cost[:, None], np.ones_like(cost))
    return float((parts[0] + parts[1] * end) / (parts[0] + parts[1] * start))


def extrapolated(
    points: list[Point], growth: dict[str, dict[str, dict[str, float]]]
) -> dict[str, dict[str, Any]]:
    """Costs at the target, from the point with the most images, by slopes and by straight lines."""
    found: dict[str, dict[str, Any]] = {}
    for method, axes in growth.items():
        slug = method.split(" ")[0]
        if "bank" not in axes and any(other.startswith(f"{slug} (") for other in growth):
            continue
        mine = [point for point in points if point.method == method]
        start = max((point for point in mine if point.axis == "images"), key=lambda point: point.value)
        ends = {"images": (start.value, TARGET_IMAGES), "size": (BASE_SIZE**2, TARGET_SIZE**2)}
        if "bank" in axes:
            ends["bank"] = (SMALL_BANK, pinakes.find(slug).load().option_defaults()["bank_limit"])
        power, line = {}, {}
        for name in QUANTITIES:
            power[name] = line[name] = getattr(start, name)
            for axis, (here, there) in ends.items():
                along = [point for point in mine if point.axis == axis]
                if getattr(along[-1], name) >= LEAST_GROWTH * getattr(along[0], name):
                    power[name] *= (there / here) ** axes[axis][name]
                    line[name] *= straight(along, axis, name, here, there)
        found[method] = {
            "by_slopes": power,
            "by_lines": line,
            "bank_limit": ends["bank"][1] if "bank" in ends else None,
            "says": f"by slopes: {says(power)}; by lines: {says(line)}",
        }
    return found


def says(costs: Mapping[str, float]) -> str:
    """Costs for people."""
    fit_memory, predict_memory = (notation.size(int(costs[name])) for name in ("fit_bytes", "predict_bytes"))
    return (
        f"fit {costs['fit_seconds'] / 3600:.3g} h on one core, {fit_memory}, "
        f"predict {1000 * costs['predict_seconds']:.3g} ms an image, {predict_memory}"
    )


def table_of_points(points: list[Point]) -> Table:
    """What was measured."""
    shown = Table(title="measured on one thread", title_justify="left")
    for column in (
        "method",
        "axis",
        "value",
        "fit s",
        "fit memory",
        "predict ms/image",
        "predict memory",
        "state",
    ):
        shown.add_column(column, justify="left" if column in ("method", "axis") else "right")
    for p in points:
        shown.add_row(
            p.method,
            p.axis,
            f"{p.value:,}",
            f"{p.fit_seconds:.2f}",
            notation.size(p.fit_bytes),
            f"{1000 * p.predict_seconds:.1f}",
            notation.size(p.predict_bytes),
            notation.size(p.state_bytes),
        )
    return shown


def table_of_growth(
    growth: dict[str, dict[str, dict[str, float]]], target: dict[str, dict[str, Any]]
) -> Table:
    """Slopes by axis, and what they lead to."""
    shown = Table(
        title=f"growth: slope in logarithms; EXTRAPOLATED to {TARGET_IMAGES:,} images of {TARGET_SIZE} px",
        title_justify="left",
    )
    for column in ("method", "axis", *(name.replace("_", " ") for name in QUANTITIES), "extrapolated"):
        shown.add_column(column, justify="left" if column in ("method", "axis", "extrapolated") else "right")
    for method, axes in growth.items():
        for position, (axis, values) in enumerate(axes.items()):
            says = target[method]["says"] if position == 0 and method in target else ""
            against = "pixels" if axis == "size" else axis
            shown.add_row(method, against, *(f"{values[name]:.2f}" for name in QUANTITIES), says)
    return shown
