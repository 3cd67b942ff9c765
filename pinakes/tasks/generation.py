"""Image generation: new images that look like those of a set, of a class if the method takes classes.

Any images will do to learn from. Judging compares as many samples as there are test images, at most 1,000, with these,
by features of a network: `?features=NAME` names another backbone than the embedded one, such as `timm/inception_v3`,
and `?samples=500` another number. Distances grow as samples become fewer and mean nothing across networks: they compare
methods on one set.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.data.spec import to_int
from pinakes.errors import UserError
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.probes import fitted_classifier
from pinakes.nn.sample_quality import (
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)
from pinakes.tasks.base import (
    IMAGE,
    Batch,
    Evaluation,
    Field,
    Meter,
    Metric,
    Observer,
    Panel,
    Prediction,
    Task,
    to_pixels,
)

if TYPE_CHECKING:
    from pinakes.method import Method

FEATURES = "pinakes/tiny_conv"
MOST_SAMPLES = 1000
LEAST_SAMPLES = 8
"""Fewer have no neighbours to speak of."""
SIDE = 32
"""Pixels to which images are brought before a network looks at them; 299 for Inception."""
INCEPTION_SIDE = 299
STAGES_SHOWN = 6


class Judged(Dataset[Sample]):
    """Samples to judge on, with the training samples and how to compare.

    Args:
        samples: Real images to compare with.
        known: Training images, among which the nearest are shown.
        features: The backbone whose features are compared.
        count: How many images are made, at most.
    """

    def __init__(self, samples: SampleSet, known: SampleSet, features: str, count: int) -> None:
        self.samples, self.known, self.features, self.count = samples, known, features, count

    def __len__(self) -> int:
        return min(self.count, len(self.samples))

    def __getitem__(self, index: int) -> Sample:
        # from all over the set, which may be sorted by class
        return self.samples[index * len(self.samples) // len(self)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "samples":
            raise AttributeError(name)
        return getattr(self.samples, name)


class Features:
    """Features of images by a backbone: the mean over its last map.

    Args:
        name: The backbone.
        device: Where it runs.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.side = INCEPTION_SIDE if "inception" in name else SIDE
        self.network = FeatureExtractor(name, (-1,), 3).freeze().to(device)
        self.device = device

    @torch.no_grad()
    def __call__(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """The features of images in [0, 1], on the CPU; one channel is repeated, and of more than three the first three
        count.
        """
        image = image.to(self.device)
        image = image[:, :3] if image.shape[1] >= 3 else image[:, :1].expand(-1, 3, -1, -1)
        if tuple(image.shape[-2:]) != (self.side, self.side):
            image = functional.interpolate(image, (self.side,) * 2, mode="bicubic", antialias=True).clamp(
                0, 1
            )
        features: Tensor = self.network(image)[0].mean((2, 3))
        return features.cpu()


class Generator(Protocol):
    """What a method for this task gives besides its answers for a batch."""

    def generate(
        self, n: int, *, labels: Tensor | None = None, seed: int | None = None, first: int = 0
    ) -> Prediction:
        """So many new images, as the task states predictions.

        Args:
            n: How many.
            labels: The class that each is to have (n), for methods that take classes; -1 for any.
            seed: Of the noise; None draws it from torch's generator.
            first: The number of the first of them among all images of the seed.
        """


class SampleMeter(Meter):
    """Compares features of generated images with those of real ones.

    Args:
        network: Gives the features.
        classes: How many classes there are.
    """

    def __init__(self, network: Features, classes: int) -> None:
        self.network, self.classes = network, classes
        self._real: list[Tensor] = []
        self._made: list[Tensor] = []
        self._asked: list[Tensor] = []
        self._known: list[tuple[Tensor, Tensor]] = []

    def learn(self, batch: Batch) -> None:
        """Takes in training images, with their class where it is known."""
        features = self.network(batch["image"])
        label = batch.get("label")
        self._known.append((features, torch.full((len(features),), -1) if label is None else label.cpu()))

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in real images, and as many samples, with the class that each was to have, if any."""
        self._real.append(self.network(batch["image"]))
        self._made.append(self.network(prediction["sample"]))
        if "label" in prediction:
            self._asked.append(prediction["label"].cpu())

    def nearest(self, sample: Float[Tensor, "batch channels height width"]) -> Int[Tensor, " batch"]:
        """The places of the training images whose features are nearest."""
        known = torch.cat([features for features, _ in self._known])
        return torch.cdist(self.network(sample), known).argmin(1)

    def compute(self) -> Evaluation:
        """All metrics for which there is enough."""
        real, made = torch.cat(self._real), torch.cat(self._made)
        if len(real) < LEAST_SAMPLES:
            raise UserError(f"data: judging needs {LEAST_SAMPLES} test images or more, got {len(real)}")
        precision, recall = precision_and_recall(real, made)
        density, coverage = density_and_coverage(real, made)
        metrics = {
            "fid": frechet_distance(real, made),
            "kid": kernel_distance(real, made),
            "precision": precision,
            "recall": recall,
            "density": density,
            "coverage": coverage,
        }
        found = {name: float(value) for name, value in metrics.items()}
        features, label = (torch.cat(each) for each in zip(*self._known, strict=True))
        if self._asked and self.classes > 1 and (label >= 0).any():
            probe = fitted_classifier(features[label >= 0], label[label >= 0], self.classes)
            found["consistency"] = float((probe(made).argmax(1) == torch.cat(self._asked)).double().mean())
        return Evaluation(found)


@dataclass(frozen=True)
class Nearest:
    """The training image that is nearest to a sample, for pictures.

    Args:
        known: The training samples.
        place: Which of them.
    """

    known: SampleSet
    place: int

    def panel(self) -> Panel:
        """The image."""
        return Panel(to_pixels(self.known[self.place]["image"]), "nearest training image")


def grid(image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "channels rows columns"]:
    """Images side by side in about as many rows as columns; empty places are white."""
    columns = max(1, round(len(image) ** 0.5))
    rows = -(-len(image) // columns)
    white = image.new_ones(rows * columns - len(image), *image.shape[1:])
    return rearrange(torch.cat([image, white]), "(r q) c h w -> c (r h) (q w)", r=rows)


class Generation(Task):
    """Make images like those of a set; judge by how the features of many lie to those of real ones."""

    name = "generation"
    title = "Image generation"
    inputs = {"image": IMAGE}
    truth = {
        "label": Field(
            "the class, from 0; -1 where it is not known", dtype=torch.int64, low=-1, optional=True
        )
    }
    prediction = {
        "sample": Field("new images", "batch channels height width", low=0.0, high=1.0),
        "label": Field("the class that each was to have", dtype=torch.int64, low=0, optional=True),
        "stages": Field(
            "how each came to be, from noise to the image",
            "batch stages channels height width",
            optional=True,
        ),
    }
    metrics = (
        Metric("fid", "FID", "Fréchet distance of the features of samples and of test images", False),
        Metric("kid", "KID", "squared maximum mean discrepancy of the features", False),
        Metric("precision", "precision", "share of samples that lie among test images"),
        Metric("recall", "recall", "share of test images that lie among samples"),
        Metric("density", "density", "how densely test images lie where samples are"),
        Metric("coverage", "coverage", "share of test images with a sample near"),
        Metric(
            "consistency", "class consistency", "share of samples that a linear probe finds in their class"
        ),
    )
    default_data = "digits"
    example_data = "digits?n=40"
    options = {
        "features": f"the backbone whose features are compared, {FEATURES} by default",
        "samples": f"how many images are made and compared, {MOST_SAMPLES} at most by default",
    }

    def arrange(self, data: TaskData) -> TaskData:
        """Tells the parts to judge on what to compare, and how.

        Raises:
            UserError: If `samples` is no number of 8 or more.
        """
        count = to_int("samples", data.wishes.get("samples", str(MOST_SAMPLES)))
        if count < LEAST_SAMPLES:
            raise UserError(f"{data.spec}: samples must be {LEAST_SAMPLES} or more, got {count}")
        features = data.wishes.get("features", FEATURES)
        val, test = (
            part if part is None or isinstance(part, Judged) else Judged(part, data.train, features, count)
            for part in (data.val, data.test)
        )
        return replace(data, val=val, test=test)

    def check_test(self, samples: SampleSet) -> None:
        """Wants images to compare with.

        Raises:
            UserError: If the samples come without training images, or are too few.
        """
        if not isinstance(samples, Judged):
            raise UserError(
                "data: samples are compared with the test or validation part; judge on one of these"
            )
        if len(samples) < LEAST_SAMPLES:
            raise UserError(
                f"data: judging needs {LEAST_SAMPLES} test images or more, got {len(samples)}; add images"
            )

    def meter(self, info: DataInfo) -> SampleMeter:
        """A fresh meter with the embedded features."""
        return SampleMeter(Features(FEATURES, torch.device("cpu")), len(info.classes))

    def evaluate(
        self,
        method: "Method",
        samples: SampleSet,
        *,
        batch_size: int = 32,
        workers: int = 0,
        observe: Observer | None = None,
    ) -> Evaluation:
        """Judges a fitted method by as many samples as there are images to compare with.

        Args:
            method: The method.
            samples: To compare with, as `arrange` makes them.
            batch_size: Samples at a time.
            workers: Processes that load.
            observe: Called after each batch.
        """
        self.check_test(samples)
        assert isinstance(samples, Judged)
        meter = SampleMeter(Features(samples.features, method.device), len(method.info.classes))
        for batch in self._loaded(samples.known, batch_size, workers):
            meter.learn(batch)
        generator = cast("Generator", method)
        start = 0
        for batch in self._loaded(samples, batch_size, workers):
            prediction: Prediction = generator.generate(
                len(batch["image"]), labels=batch.get("label"), seed=0, first=start
            )
            meter.update(batch, prediction)
            if observe is not None:
                places = meter.nearest(prediction["sample"]).tolist()
                near = [Nearest(samples.known, place) for place in places]
                observe(start, batch, prediction | {"nearest": near})
            start += len(batch["image"])
        return meter.compute()

    def _loaded(self, samples: SampleSet, batch_size: int, workers: int) -> DataLoader[Batch]:
        return DataLoader(
            samples,  # type: ignore[arg-type]  # torch asks for its Dataset class, any map-style set serves
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.collate,
        )

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """A real image, with its class where it is known."""
        label = int(sample.get("label", -1))
        return [
            Panel(
                to_pixels(sample["image"]), info.classes[label] if 0 <= label < len(info.classes) else "real"
            )
        ]

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The sample, the training image that is nearest to it, and how it came to be."""
        panels = [Panel(to_pixels(prediction["sample"]), "sample")]
        if "nearest" in prediction:
            panels.append(prediction["nearest"].panel())
        if "stages" in prediction:
            path = prediction["stages"]
            chosen = torch.linspace(0, len(path) - 1, min(STAGES_SHOWN, len(path))).long().tolist()
            panels.append(Panel(to_pixels(torch.cat([path[stage] for stage in chosen], dim=2)), "from noise"))
        return panels


TASK = Generation()
