"""Methods of every form go through `Method` and `Task` without a special case in either."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.method import Method
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


class Samples:
    """A data set in memory."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


class MeanError(Meter):
    """The mean absolute error of one field."""

    def __init__(self, name: str) -> None:
        self.name, self.errors = name, []

    def update(self, batch: Batch, prediction: Prediction) -> None:
        truth, found = batch[self.name], prediction[self.name]
        self.errors += [(f - t).abs().mean() for f, t in zip(found, truth, strict=True)]

    def compute(self) -> Evaluation:
        return Evaluation({"error": float(torch.stack(self.errors).mean())})


class ToyTask(Task):
    name = "toy"
    title = "Toy"
    truth = {}
    metrics = (Metric("error", "error", "mean absolute error", higher_is_better=False),)
    default_data = example_data = ""
    measured = ""

    def meter(self, info: DataInfo) -> MeanError:
        return MeanError(self.measured)

    def draw_sample(self, sample: dict[str, Any], info: DataInfo) -> list[Panel]:
        return [Panel(to_pixels(sample["image"]), "")]

    def draw_prediction(
        self, sample: dict[str, Any], prediction: Prediction, scale: Any = None
    ) -> list[Panel]:
        return []


class ToyMethod(Method):
    toy_task: Task

    @property
    def task(self) -> Task:
        return self.toy_task


def image_samples(count: int = 4, **more: Any) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(3, 16, 16, generator=generator), **more} for _ in range(count)]


INFO = DataInfo(3, (16, 16), ("a", "b"))


class Stereo(ToyTask):
    inputs = {"image": IMAGE, "right": IMAGE}
    truth = {"disparity": Field("pixels", "batch height width", low=0)}
    prediction = {"disparity": Field("pixels", "batch height width", low=0)}
    measured = "disparity"


class BlockMatching(ToyMethod):
    """Answers for a pair, with no training."""

    toy_task = Stereo()

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Has nothing to learn."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        shifted = torch.stack([batch["right"].roll(s, -1) for s in range(4)])
        return {"disparity": (shifted - batch["image"]).abs().sum(2).argmin(0).float()}


def test_answers_for_a_pair() -> None:
    samples = [
        s | {"right": s["image"].roll(-2, -1), "disparity": torch.full((16, 16), 2.0)}
        for s in image_samples()
    ]
    method = BlockMatching().fit((Samples(samples), INFO))
    assert method.evaluate((Samples(samples), INFO)) == {"error": 0.0}
    with pytest.raises(ValueError, match="right: missing"):
        method.predict(samples[0]["image"])


class Detection(ToyTask):
    inputs = {"image": IMAGE}
    truth = {"boxes": Field("xyxy", "batch boxes 4", ragged=True)}
    prediction = {"boxes": Field("xyxy", "batch boxes 4", ragged=True)}
    measured = "boxes"


class MeanBox(ToyMethod):
    """Answers of differing length, from parameters that have a gradient."""

    toy_task = Detection()

    def build(self, info: DataInfo) -> None:
        self.box = nn.Parameter(torch.zeros(4))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return torch.stack([(boxes - self.box).square().mean() for boxes in batch["boxes"]]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"boxes": [self.box.detach().expand(2, 4) for _ in batch["image"]]}


def test_answers_of_differing_length() -> None:
    box = torch.tensor([1.0, 2.0, 9.0, 8.0])
    samples = [s | {"boxes": box.expand(2, 4)} for s in image_samples(8)]
    method = MeanBox().fit((Samples(samples), INFO), epochs=10, batch_size=4)
    assert method.evaluate((Samples(samples), INFO))["error"] < 0.1
    assert len(method.predict(Samples(samples))["boxes"]) == 8


class Generation(ToyTask):
    inputs = {"label": Field("class", "batch", torch.int64, optional=True)}
    prediction = {"image": IMAGE}

    def evaluate(self, method: Method, samples: SampleSet, **settings: Any) -> Evaluation:
        made = method.sample(16, seed=0)["image"]  # type: ignore[operator]
        real = torch.stack([samples[i]["image"] for i in range(len(samples))])
        return Evaluation({"error": float((made.mean() - real.mean()).abs())})


class MeanColour(ToyMethod):
    """Makes samples; what it keeps of the data is a buffer whose shape only the data knows."""

    toy_task = Generation()

    def build(self, info: DataInfo) -> None:
        self.register_buffer("images", torch.empty(0))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        self.images = torch.stack([data.train[i]["image"] for i in range(len(data.train))])

    def sample(self, count: int, seed: int = 0) -> Prediction:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        return {"image": self.images[chosen]}

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return self.sample(len(batch["label"]))


def test_makes_samples(tmp_path: Path) -> None:
    data = (Samples(image_samples(6)), INFO)
    method = MeanColour().fit(data)
    assert method.evaluate(data)["error"] < 0.1
    made = method.predict({"label": torch.tensor([0, 1, 1])})
    method.save(tmp_path)
    assert torch.equal(
        MeanColour.load(tmp_path).predict({"label": torch.tensor([0, 1, 1])})["image"], made["image"]
    )


class Condensation(ToyTask):
    inputs = {"image": IMAGE}
    prediction = {"image": IMAGE}

    def evaluate(self, method: Method, samples: SampleSet, **settings: Any) -> Evaluation:
        return Evaluation({"error": float(len(method.result.train))})  # type: ignore[union-attr]


class FirstOnes(ToyMethod):
    """Makes a data set."""

    toy_task = Condensation()

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        chosen = Samples([data.train[i] for i in range(self.size)])
        self.result = TaskData(spec="condensed", layout="made", train=chosen, info=data.info)


def test_makes_a_data_set() -> None:
    data = (Samples(image_samples(6)), INFO)
    assert FirstOnes(size=3).fit(data).evaluate(data) == {"error": 3.0}


class Attribution(ToyTask):
    inputs = {"image": IMAGE}
    prediction = {"map": Field("attribution", "batch height width")}


class Saliency(ToyMethod):
    """Looks at a model through gradients, inside predict."""

    toy_task = Attribution()

    def build(self, info: DataInfo) -> None:
        self.model = nn.Conv2d(3, 1, 3, padding=1)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Has nothing to learn."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        with torch.enable_grad():
            image = batch["image"].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model(image).sum(), image)
        return {"map": gradient.abs().sum(1)}


def test_looks_at_a_model() -> None:
    method = Saliency().fit((Samples(image_samples()), INFO))
    batch = {"image": torch.rand(2, 3, 16, 16)}
    prediction = method.predict(batch)
    method.task.check_prediction(batch, prediction, INFO)
    assert prediction["map"].min() > 0


class NewViews(ToyTask):
    inputs = {"position": Field("camera position in scene units", "batch 3")}
    truth = {"image": IMAGE}
    prediction = {"image": IMAGE}
    measured = "image"


class OneScene(ToyMethod):
    """Fits one scene: the training set is its views."""

    toy_task = NewViews()

    def build(self, info: DataInfo) -> None:
        self.field = nn.Linear(3, info.channels * info.size[0] * info.size[1])

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return (self.render(batch) - batch["image"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def render(self, batch: Batch) -> torch.Tensor:
        return self.field(batch["position"]).sigmoid().unflatten(1, (3, 16, 16))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"image": self.render(batch)}


def test_fits_one_scene() -> None:
    samples = [s | {"position": torch.eye(3)[i]} for i, s in enumerate(image_samples(3))]
    untrained = OneScene().prepare(INFO).evaluate((Samples(samples), INFO))["error"]
    method = OneScene().fit((Samples(samples), INFO), epochs=60)
    assert method.evaluate((Samples(samples), INFO))["error"] < untrained / 3
