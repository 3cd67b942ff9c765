"""Image restoration: the image as it was before it lost detail, became blurred or noisy, or was measured in part.

Any images will do: they are degraded, `?degradation=downsample4` by default, and what was there before is the truth. A
folder with `input/` and `target/`, which hold files of the same names, gives pairs of its own; so does one with these
two in each of `train` and `test`.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.data.sources import SOURCES
from pinakes.data.spec import Spec, to_int
from pinakes.data.splits import hold_out
from pinakes.data.views import View
from pinakes.engine.seeds import mix
from pinakes.errors import UserError, suggest
from pinakes.nn.degradations import DEGRADATIONS, degraded
from pinakes.nn.image_quality import BEST, PerceptualFeatures, perceptual_distance
from pinakes.nn.sample_quality import frechet_distance
from pinakes.tasks.base import (
    IMAGE,
    Batch,
    Evaluation,
    Field,
    Meter,
    Metric,
    Panel,
    Prediction,
    Task,
    to_pixels,
)

INPUT, TARGET = "input", "target"
"""The folders of pairs."""
TEST_SHARE = 0.2
LEAST_IMAGES = 8
"""With fewer, nothing is said of how images as a whole are distributed."""
STAGES_SHOWN = 6
AMPLIFIED = 3
"""By how much errors are made larger in pictures."""

CLEAN = Field("the images as they should be, values 0 to 1", "batch channels height width", low=0.0, high=1.0)
RESTORED = {
    "restored": Field("the restored images", "batch channels height width", low=0.0, high=1.0),
    "stages": Field(
        "how each came to be, if in several steps", "batch stages channels height width", optional=True
    ),
}
"""What a method answers that restores images."""
QUALITY = (
    Metric(
        "perceptual",
        "perceptual distance",
        "distance of the features of a network, at four levels, to those of the true image",
        higher_is_better=False,
    ),
    Metric("psnr", "PSNR", "peak signal-to-noise ratio in decibels, mean over the images"),
    Metric("ssim", "SSIM", "structural similarity to the true image"),
    Metric(
        "fid",
        "FID",
        "Fréchet distance of the features of restored and of true images",
        higher_is_better=False,
    ),
)
"""The metrics of restored images."""


class Changed(Dataset[Sample]):
    """Samples of a set, each changed by a function when it is asked for.

    What the set states of itself (labels, kinds, paths, a fingerprint), this states as well.

    Args:
        samples: The set.
        change: From a sample and its place to what takes its place.
    """

    def __init__(self, samples: SampleSet, change: Callable[[Sample, int], Sample]) -> None:
        self.samples, self.change = samples, change

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.change(self.samples[index], index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "samples":
            raise AttributeError(name)
        return getattr(self.samples, name)


def changed(data: TaskData, change: Callable[..., Sample], **options: Any) -> TaskData:
    """The data with every sample changed.

    Args:
        data: The data.
        change: Called with a sample and a `generator` that follows from the data's seed, the part and the place.
        **options: Further arguments of it.
    """
    seed = to_int("seed", Spec.parse(data.spec, SOURCES).options.get("seed", "0"))
    parts: dict[str, Any] = {
        name: Changed(part, functools.partial(_change, change, (seed, place), options))
        for place, (name, part) in enumerate(data.splits())
    }
    return replace(data, **parts)


def _change(
    change: Callable[..., Sample], seeds: tuple[int, int], options: dict[str, Any], sample: Sample, index: int
) -> Sample:
    generator = torch.Generator().manual_seed(mix(*seeds, index))
    return change(sample, generator=generator, **options)


class RestorationMeter(Meter):
    """The metrics of each image, kept as numbers, and its features."""

    group = ""
    """A field of the batch with words by which metrics are also stated, if there are several."""

    def __init__(self) -> None:
        self.network = PerceptualFeatures()
        self._found: list[dict[str, Tensor]] = []
        self._features: list[tuple[Tensor, Tensor]] = []
        self._groups: list[str] = []

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its truth and the prediction for it."""
        restored = prediction["restored"].float().clamp(0, 1)
        clean = batch["clean"].to(restored)
        found = self.measured(restored, clean, batch)
        self._found.append({name: value.detach().cpu() for name, value in found.items()})
        self._groups += batch.get(self.group, [""] * len(clean))

    @torch.no_grad()
    def measured(
        self,
        restored: Float[Tensor, "batch channels height width"],
        clean: Float[Tensor, "batch channels height width"],
        batch: Batch,
    ) -> dict[str, Float[Tensor, " batch"]]:
        """The metrics of each image by name, NaN where one cannot be had; keeps the features."""
        network = self.network.to(restored.device)
        levels, others = network(restored), network(clean)
        self._features.append((levels[-1].mean((2, 3)).cpu(), others[-1].mean((2, 3)).cpu()))
        psnr = peak_signal_noise_ratio(restored, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))
        ssim = structural_similarity_index_measure(restored, clean, data_range=1.0, reduction="none")
        assert isinstance(ssim, Tensor)
        return {
            "perceptual": perceptual_distance(levels, others),
            "psnr": psnr.clamp(max=BEST).reshape(-1),
            "ssim": ssim.reshape(-1),
        }

    def compute(self) -> Evaluation:
        """The means over all images, and over those of each group if there are several."""
        values = {name: torch.cat([each[name] for each in self._found]).double() for name in self._found[0]}
        metrics = _means(values)
        if len(values["psnr"]) >= LEAST_IMAGES:
            restored, clean = (torch.cat(each) for each in zip(*self._features, strict=True))
            metrics["fid"] = float(frechet_distance(clean, restored))
        groups = {}
        if len(set(self._groups)) > 1:
            for group in sorted(set(self._groups)):
                rows = torch.tensor([each == group for each in self._groups])
                own = _means({name: value[rows] for name, value in values.items()})
                groups[group] = own | {"images": float(rows.sum())}
        return Evaluation(metrics, groups)


def _means(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.nanmean()) for name, value in values.items() if not value.isnan().all()}


def degraded_sample(sample: Sample, *, generator: torch.Generator, kind: str) -> Sample:
    """A sample with a degraded image and the true one; one that has a true image already stays as it is.

    Args:
        sample: The sample.
        generator: What is random is drawn from it.
        kind: How it is degraded.
    """
    if "clean" in sample:
        return sample
    image = sample["image"]
    return sample | {"image": degraded(kind, image, generator), "clean": image}


def _paired(data: TaskData) -> TaskData:
    """The pairs of a folder with two classes, the degraded images and the true ones."""
    places: dict[str, tuple[str, SampleSet, int]] = {
        path: (name, part, index)
        for name, part in data.splits()
        for index, path in enumerate(getattr(part, "paths", ()))
    }
    other = {path: _counterpart(path) for path in places}
    lost = {str(problem.path) for problem in data.skipped}
    for path in places:
        if other[path] not in places and not any(each.endswith(other[path]) for each in lost):
            raise UserError(
                f"{data.spec}: {path} has no counterpart {other[path]}; add it, or remove the file"
            )
    inputs = [path for path in places if INPUT in path.split("/")[:2] and other[path] in places]
    if not inputs:
        raise UserError(f"{data.spec}: no image of {INPUT}/ has a counterpart in {TARGET}/")
    parts = {path: places[path][0] for path in inputs}
    if any(path.startswith(f"{INPUT}/") for path in inputs):
        # the two of a pair may have been put into different parts
        seed = to_int("seed", Spec.parse(data.spec, SOURCES).options.get("seed", "0"))
        test = hold_out(inputs, [""] * len(inputs), TEST_SHARE, seed)
        parts = {path: "test" if place in test else "train" for place, path in enumerate(inputs)}
    found: dict[str, Any] = dict.fromkeys(("val", "test"))
    for name in dict.fromkeys(parts.values()):
        own = [path for path in inputs if parts[path] == name]
        degraded_images = View([places[path][1:] for path in own], keep=("image", "path"))
        true_images = View([places[other[path]][1:] for path in own], keep=("image",))
        found[name] = Changed(degraded_images, functools.partial(_joined, true_images))
    layout = f"{len(inputs)} pairs of a degraded image ({INPUT}) and a true one ({TARGET})"
    return replace(data, layout=layout, info=replace(data.info, classes=()), **found)


def _counterpart(path: str) -> str:
    """The place of the other file of a pair."""
    words = path.split("/")
    depth = 0 if words[0] in (INPUT, TARGET) else 1
    words[depth] = TARGET if words[depth] == INPUT else INPUT
    return "/".join(words)


def _joined(true_images: SampleSet, sample: Sample, index: int) -> Sample:
    return sample | {"clean": true_images[index]["image"]}


class Restoration(Task):
    """Learn from degraded images and what they were; judge by how near the restored ones are."""

    name = "restoration"
    title = "Image restoration"
    inputs = {"image": replace(IMAGE, about="degraded images, at full size, values 0 to 1")}
    truth = {"clean": CLEAN}
    prediction = RESTORED
    metrics = QUALITY
    default_data = "textures?size=64&labels=material"
    example_data = "digits?n=20&size=16"
    options = {"degradation": f"how images are degraded: {', '.join(DEGRADATIONS)}"}

    def arrange(self, data: TaskData) -> TaskData:
        """Degrades the images, or takes them in pairs.

        Raises:
            UserError: If there is no such degradation, or an image lacks its counterpart.
        """
        if set(data.classes) == {INPUT, TARGET}:
            if "degradation" in data.wishes:
                raise UserError(f"{data.spec}: has degraded images of its own; leave out 'degradation'")
            return _paired(data)
        kind = data.wishes.get("degradation", next(iter(DEGRADATIONS)))
        if kind not in DEGRADATIONS:
            raise UserError(f"{data.spec}: degradation: '{kind}' is unknown{suggest(kind, DEGRADATIONS)}")
        return changed(
            replace(data, layout=f"{data.layout}; degraded: {DEGRADATIONS[kind]}"), degraded_sample, kind=kind
        )

    def meter(self, info: DataInfo) -> RestorationMeter:
        """A fresh meter with the embedded features."""
        return RestorationMeter()

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The degraded image and, where it is known, the true one."""
        panels = [Panel(to_pixels(sample["image"]), "degraded" if "clean" in sample else _file_of(sample))]
        return panels + ([Panel(to_pixels(sample["clean"]), "true")] if "clean" in sample else [])

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The restored image, its error where the truth is known, and how it came to be."""
        return restored_panels(sample, prediction)


def restored_panels(sample: Sample, prediction: Prediction) -> list[Panel]:
    """Pictures of a restored image, its error where the truth is known, and how it came to be."""
    restored = prediction["restored"].float().cpu()
    panels = [Panel(to_pixels(restored), "restored")]
    if "clean" in sample:
        error = (restored - sample["clean"].cpu()).abs().mean(0, keepdim=True)
        panels.append(
            Panel(to_pixels(AMPLIFIED * error), f"absolute error x {AMPLIFIED}, mean {error.mean():.3f}")
        )
    if "stages" in prediction:
        path = prediction["stages"]
        chosen = torch.linspace(0, len(path) - 1, min(STAGES_SHOWN, len(path))).long().tolist()
        panels.append(Panel(to_pixels(torch.cat([path[stage] for stage in chosen], dim=2)), "step by step"))
    return panels


def _file_of(sample: Sample) -> str:
    return str(sample.get("path", "")).rpartition("/")[2]


TASK = Restoration()
