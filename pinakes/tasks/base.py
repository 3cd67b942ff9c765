"""What a task states: the batch, the prediction, the metrics, the picture. Methods are checked against it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData

if TYPE_CHECKING:
    from pinakes.method import Method

Batch = dict[str, Any]
"""Several samples collated: tensors with a leading batch dimension, lists for strings and ragged fields."""

Prediction = dict[str, Any]
"""What a method answers for a batch, under the names that its task states."""


@dataclass(frozen=True)
class Field:
    """One named value of a batch or a prediction.

    Args:
        about: What it is, with its unit.
        shape: Names of its dimensions, "batch channels height width"; the same name is the same size across
            the fields of one batch and its prediction; a number is a size of its own ("batch boxes 4").
        dtype: Its torch dtype, or `str` for a list of strings.
        low: Smallest allowed value, if there is one.
        high: Largest allowed value, if there is one.
        optional: Whether it may be missing.
        ragged: Whether its length differs from sample to sample; collated into a list, one tensor a sample.
    """

    about: str
    shape: str = "batch"
    dtype: torch.dtype | type[str] = torch.float32
    low: float | None = None
    high: float | None = None
    optional: bool = False
    ragged: bool = False

    @property
    def dimensions(self) -> list[str]:
        """The names of its dimensions."""
        return self.shape.split()

    def check(self, name: str, value: Any, sizes: dict[str, int]) -> None:
        """Raises ValueError, naming `name`, if `value` is not as stated; binds new dimensions in `sizes`."""
        if self.dtype is str or self.ragged:
            self._bind(name, [("batch", len(value))], sizes)
            if self.ragged:
                inner = Field(self.about, self.shape.removeprefix("batch "), self.dtype, self.low, self.high)
                for item in value:
                    inner.check(name, item, dict(sizes))
            return
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name}: expected a tensor ({self.about}), got {type(value).__name__}")
        if value.ndim != len(self.dimensions):
            raise ValueError(
                f"{name}: expected {len(self.dimensions)} dimensions ({self.shape}), got shape {tuple(value.shape)}"
            )
        self._bind(name, list(zip(self.dimensions, value.shape, strict=True)), sizes)
        if isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point:
            self._check_floats(name, value)
        elif value.dtype != self.dtype:
            raise ValueError(f"{name}: expected {self.dtype}, got {value.dtype}")
        self._check_range(name, value)

    def _bind(self, name: str, found: list[tuple[str, int]], sizes: dict[str, int]) -> None:
        for dimension, size in found:
            if size == 0 and dimension == "batch":
                raise ValueError(f"{name}: is empty; give at least one sample")
            expected = int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, size)
            if expected != size:
                raise ValueError(
                    f"{name}: expected {expected} {'' if dimension.isdigit() else dimension}, got {size}"
                )

    def _check_floats(self, name: str, value: torch.Tensor) -> None:
        if not value.dtype.is_floating_point:
            hint = "; divide 8-bit images by 255" if value.dtype == torch.uint8 else ""
            raise ValueError(f"{name}: expected floating point, got {value.dtype}{hint}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: holds NaN or infinite values")

    def _check_range(self, name: str, value: torch.Tensor) -> None:
        if value.numel() == 0 or value.dtype == torch.bool or (self.low is None and self.high is None):
            return
        low, high = value.min().item(), value.max().item()
        tolerance = 1e-4
        if (self.low is not None and low < self.low - tolerance) or (
            self.high is not None and high > self.high + tolerance
        ):
            bounds = (
                f"{'-inf' if self.low is None else self.low} to {'inf' if self.high is None else self.high}"
            )
            raise ValueError(f"{name}: expected values from {bounds}, got {low:.4g} to {high:.4g}")


def decision(name: str, usual: str) -> dict[str, Field]:
    """The fields that a calibrated method adds to its score: the probability, and the decision under `name`.

    Args:
        name: What a sample is that scores high, "anomalous" or "unknown".
        usual: What the others are, "normal" or "known".
    """
    return {
        "probability": Field(
            f"share of held-out {usual} images that score lower, counting the image itself as one more",
            low=0.0,
            high=1.0,
            optional=True,
        ),
        name: Field(
            f"whether the score is above the threshold that lets a set share of {usual} images through",
            dtype=torch.bool,
            optional=True,
        ),
    }


IMAGE = Field("images, values 0 to 1", "batch channels height width", low=0.0, high=1.0)


def check_fields(fields: Mapping[str, Field], values: Mapping[str, Any], sizes: dict[str, int]) -> None:
    """Checks every stated field of `values`; names not stated are let through.

    Raises:
        ValueError: If a needed field is missing or one is not as stated; the message names it.
    """
    for name, stated in fields.items():
        if name in values:
            stated.check(name, values[name], sizes)
        elif not stated.optional:
            raise ValueError(f"{name}: missing; expected {stated.about} of shape ({stated.shape})")


@dataclass(frozen=True)
class Metric:
    """A figure of merit: its name in results, its label for people, and which way is better."""

    name: str
    label: str
    about: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class Evaluation:
    """What judging a method on a data set gave.

    Args:
        metrics: Value of each metric that the data allows (pixel metrics need masks).
        groups: The same for parts of the data, such as each kind of defect: {"crack": {"auroc": 0.98}}.
    """

    metrics: dict[str, float]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)


class Meter(ABC):
    """Gathers what the metrics of a task need, batch by batch, in memory that does not grow with the pixels."""

    @abstractmethod
    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its truth and the prediction for it."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """The metrics over everything taken in."""


@dataclass(frozen=True)
class Panel:
    """One small picture with a caption: what a task draws of a sample or of a prediction.

    Args:
        image: uint8 array (height, width, 3).
        caption: A few words under it.
    """

    image: np.ndarray
    caption: str


Observer = Callable[[int, Batch, Prediction], None]
"""Called by `Task.evaluate` after each batch, with the index of its first sample."""


class Task(ABC):
    """A kind of problem; one object a task, the `TASK` of its module in `pinakes.tasks`.

    A method for the task gets batches with the fields `inputs` and, when it is fitted or judged, `truth`,
    and answers with the fields `prediction`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[Mapping[str, Field]]
    truth: ClassVar[Mapping[str, Field]]
    prediction: ClassVar[Mapping[str, Field]]
    metrics: ClassVar[Sequence[Metric]]
    """The first is the headline."""
    default_data: ClassVar[str]
    """A spec of built-in data that shows the task off."""
    example_data: ClassVar[str]
    """A spec of built-in data so small that a fit takes a second; the contract tests use it."""
    options: ClassVar[Mapping[str, str]] = {}
    """The options of a data spec that `arrange` reads, for any source, and what each says."""
    ranking: ClassVar[tuple[str, str] | None] = None
    """A field of the prediction that ranks samples, and the field of the truth, 0 or 1, by which it should."""

    confusion: ClassVar[tuple[str, str] | None] = None
    """A field of the prediction that names a class, and the field of the truth with the class it should be."""

    @property
    def headline(self) -> Metric:
        """The metric by which leaderboards sort."""
        return self.metrics[0]

    def arrange(self, data: TaskData) -> TaskData:
        """Gives `data` the form that the task needs, or says why it cannot serve; reads `data.wishes`.

        Raises:
            UserError: If the data cannot serve this task; the message says what is missing.
        """
        return data

    def check_test(self, samples: SampleSet) -> None:  # noqa: B027 - most tasks have nothing to check
        """Makes sure, as far as can be seen without decoding, that methods can be judged on these samples.

        Raises:
            UserError: If they cannot; the message says what is missing.
        """

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Makes one batch of several samples; fields stated as ragged become lists."""
        fields = {**self.inputs, **self.truth}
        ragged = {name for name in samples[0] if name in fields and fields[name].ragged}
        batch: Batch = default_collate(
            [{k: v for k, v in sample.items() if k not in ragged} for sample in samples]
        )
        return batch | {name: [sample[name] for sample in samples] for name in ragged}

    def check_batch(self, batch: Batch, info: DataInfo, *, truth: bool = False) -> None:
        """Raises ValueError, naming the field, if `batch` is not what the task states.

        Args:
            batch: The batch to check.
            info: What the method was built for; channels must agree.
            truth: Whether the fields that only fitting and judging need are checked as well.
        """
        sizes = {"channels": info.channels}
        check_fields(self.inputs, batch, sizes)
        if truth:
            check_fields(self.truth, batch, sizes)

    def check_prediction(self, batch: Batch, prediction: Prediction, info: DataInfo) -> None:
        """Raises ValueError, naming the field, if `prediction` is not what the task states for `batch`."""
        sizes = {"channels": info.channels, "classes": len(info.classes)}
        check_fields(self.inputs, batch, sizes)
        check_fields(self.prediction, prediction, sizes)

    @abstractmethod
    def meter(self, info: DataInfo) -> Meter:
        """A fresh meter for the task's metrics."""

    def evaluate(
        self,
        method: "Method",
        samples: SampleSet,
        *,
        batch_size: int = 32,
        workers: int = 0,
        observe: Observer | None = None,
    ) -> Evaluation:
        """Judges a fitted method; samples are streamed, never held.

        Tasks whose answers are not made sample by sample (generation, a data set, a whole scene) override this.
        """
        meter = self.meter(method.info)
        start = 0
        for batch in DataLoader(
            samples,  # type: ignore[arg-type]  # torch asks for its Dataset class, any map-style set serves
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.collate,
        ):
            prediction = method.predict(batch)
            meter.update(batch, prediction)
            if observe is not None:
                observe(start, batch, prediction)
            start += len(next(iter(prediction.values())))
        return meter.compute()

    @abstractmethod
    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """Pictures of a sample and its truth."""

    @abstractmethod
    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """Pictures of one prediction (without batch dimension) for a sample.

        Args:
            sample: The sample, for its image.
            prediction: The prediction for it, each value without its batch dimension.
            scale: What `scale` returned for the predictions that are shown together; by default this one's.
        """

    def scale(self, predictions: Sequence[Prediction]) -> Any:
        """What predictions drawn together must share to be comparable, such as the ends of a colour scale."""
        return None


def to_pixels(image: torch.Tensor) -> np.ndarray:
    """A float image (channels, height, width) in [0, 1] as a uint8 array (height, width, 3) for drawing.

    One channel becomes grey; of more than three the first three are shown.
    """
    shown = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return (shown.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def unbatch(values: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The values of one sample of a batch or prediction."""
    return {name: value[index] for name, value in values.items()}
