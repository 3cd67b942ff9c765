"""Representation learning: features of images, learnt without labels and judged by what simple models read from them.

Any images will do to learn from, with or without labels. Judging needs a test part and, for each metric, its truth: a
class for every image (k-NN, linear probe, fine-tuning), a class or a depth for every pixel (linear probes of the patch
features). The probes are fitted on the training images whose truth is known and judged on the test images; the method
is frozen, but for fine-tuning, which is done on a copy of it where the spec asks for it: `?finetune=1,10,100` for so
many percent of the labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.nn.finetuning import finetuned_accuracy
from pinakes.nn.patch_probes import PatchProbes
from pinakes.nn.probes import fitted_classifier, nearest, nearest_neighbour_classes
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

NEIGHBOURS = 20
NEIGHBOURS_SHOWN = 4
UNLABELLED = -1
DRAWINGS = (
    ("shown", "shown"),
    ("reconstruction", "painted"),
    ("view", "a view to learn from"),
    ("view_2", "another view"),
)
"""What a method may draw of an image, and the titles of the pictures."""
SHARES = (1, 10, 100)
"""Percent of the labels for which the accuracy of fine-tuning is stated."""


class Judged(Dataset[Sample]):
    """Samples to judge on, with those that probes are fitted on.

    Args:
        samples: To judge on.
        known: Training samples whose truth is known, as far as they have any.
        percents: For how many percent of the labels the method is fine-tuned.
    """

    def __init__(self, samples: SampleSet, known: SampleSet, percents: Sequence[int] = ()) -> None:
        self.samples, self.known, self.percents = samples, known, tuple(percents)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __getattr__(self, name: str) -> Any:
        # labels, kinds, paths and whatever else the samples state of themselves
        if name.startswith("__") or name == "samples":
            raise AttributeError(name)
        return getattr(self.samples, name)


class ProbeMeter(Meter):
    """Fits probes on what a method says of training images, and judges them on what it says of others.

    Embeddings of whole images are kept; of the features of patches, those that a probe is fitted on.

    Args:
        classes: Names of the classes; of images, or of pixels.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.patches = PatchProbes(len(classes))
        self._known: list[tuple[Tensor, Tensor]] = []
        self._learnt: Tensor | None = None
        self._judged: list[tuple[Tensor, Tensor]] = []

    def learn(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch to fit probes on, with its truth and the prediction for it."""
        self._known.append(_embedded(batch, prediction))
        self.patches.learn(batch, prediction)

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch to judge on; all to fit on must have been taken in before."""
        if not self._judged:
            self.patches.fit()
        self._judged.append(_embedded(batch, prediction))
        self.patches.judge(batch, prediction)

    def neighbours(self, prediction: Prediction, known: SampleSet) -> Prediction:
        """For pictures: what is nearest to each image among those that probes are fitted on.

        Args:
            prediction: Of a batch.
            known: The samples that were taken in to fit probes on, in that order.
        """
        if self._learnt is None:
            self._learnt = torch.cat([embedding for embedding, _ in self._known])
        count = min(NEIGHBOURS_SHOWN, len(self._learnt) // 2 * 2)
        if not count:
            return {}
        _, places = nearest(prediction["embedding"].float().cpu(), self._learnt, count)
        return {"neighbours": [Neighbours(known, tuple(row)) for row in places.tolist()]}

    def compute(self) -> Evaluation:
        """What probes read from embeddings and patches, as far as there is truth for them; by class for images."""
        metrics, groups = self._of_images()
        return Evaluation(metrics | self.patches.metrics(), groups)

    def _of_images(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        learnt, label = (torch.cat(each) for each in zip(*self._known, strict=True))
        asked, truth = (torch.cat(each) for each in zip(*self._judged, strict=True))
        labelled = label >= 0
        if len(self.classes) < 2 or not labelled.any() or (truth < 0).all():
            return {}, {}
        if (truth < 0).any():
            raise UserError("data: judging needs the label of every test image, and some have none")
        learnt, label = learnt[labelled], label[labelled]
        answers = fitted_classifier(learnt, label, len(self.classes))(asked).argmax(1)
        neighbours = nearest_neighbour_classes(asked, learnt, label, NEIGHBOURS)
        right = {"linear_probe": answers == truth, "knn": neighbours == truth}
        metrics = {name: float(each.double().mean()) for name, each in right.items()}
        groups = {}
        for number, name in enumerate(self.classes):
            rows = truth == number
            if rows.any():
                groups[name] = {of: float(each[rows].double().mean()) for of, each in right.items()}
                groups[name]["images"] = float(rows.sum())
        return metrics, groups


@dataclass(frozen=True)
class Neighbours:
    """The training images whose embeddings are nearest to that of an image, for pictures.

    Args:
        known: The training samples.
        places: Theirs, the nearest first.
    """

    known: SampleSet
    places: tuple[int, ...]

    def panel(self) -> Panel:
        """The images side by side, two in a row."""
        images = [self.known[place]["image"] for place in self.places]
        rows = [torch.cat(images[start : start + 2], dim=2) for start in range(0, len(images), 2)]
        return Panel(to_pixels(torch.cat(rows, dim=1)), "nearest training images")


def _embedded(batch: Batch, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The embeddings of a batch and its labels, -1 where one is not known."""
    embedding = prediction["embedding"].float().cpu()
    label = batch.get("label")
    return embedding, torch.full((len(embedding),), UNLABELLED) if label is None else label.cpu()


def feature_colours(
    features: Sequence[Float[Tensor, "width rows columns"]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How patch features become colours: their first three principal components, over all these images.

    Args:
        features: Of several images.

    Returns:
        Mean (width), components (width, 3), and the lowest and highest value of each component (3).
    """
    rows = torch.cat([each.flatten(1).mT for each in features]).double()
    mean = rows.mean(0)
    with isolated(0):  # the routine starts from random vectors
        _, _, components = torch.pca_lowrank(rows - mean, q=min(3, *rows.shape), center=False, niter=8)
    components = functional.pad(components, (0, 3 - components.shape[1]))
    # a component may point either way; the larger half is made positive, so that colours do not flip
    places = components.abs().argmax(0)
    signs = components.gather(0, places[None]).sign()
    components = components * torch.where(signs == 0, torch.ones_like(signs), signs)
    low, high = torch.aminmax((rows - mean) @ components, dim=0)
    return mean, components, low, high


class Representation(Task):
    """Learn from images without labels; judge by what frozen features tell of images, patches and pixels."""

    name = "representation"
    title = "Representation learning"
    inputs = {"image": IMAGE}
    truth = {
        "label": Field(
            f"the class, from 0; {UNLABELLED} where it is not known", dtype=torch.int64, low=-1, optional=True
        ),
        "semantic": Field(
            "class of each pixel, -1 where it has none",
            "batch height width",
            torch.int64,
            UNLABELLED,
            optional=True,
        ),
        "depth": Field("depth of each pixel, in scene units", "batch height width", optional=True),
        "table": Field(
            "the image's row of a table: quantities, and the numbers of choices",
            "batch columns",
            optional=True,
        ),
    }
    prediction = {
        "embedding": Field("features of the whole image", "batch dim"),
        "features": Field("features of its patches", "batch features rows columns", optional=True),
        "reconstruction": Field(
            "the image as the method paints it from what it was shown",
            "batch channels height width",
            optional=True,
        ),
        "shown": Field("what it was shown, the rest grey", "batch channels height width", optional=True),
        "view": Field(
            "the image, changed at random as for learning", "batch channels height width", optional=True
        ),
        "view_2": Field("likewise, once more", "batch channels height width", optional=True),
    }
    metrics = (
        Metric("linear_probe", "linear probe", "accuracy of logistic regression on the frozen embedding"),
        Metric("knn", "k-NN", f"accuracy of the {NEIGHBOURS} nearest training images by cosine"),
        *(
            Metric(
                f"finetune_{percent}",
                f"fine-tuned, {percent} %",
                f"accuracy after training all layers on {percent} % of the labels",
            )
            for percent in SHARES
        ),
        Metric(
            "linear_miou", "linear mIoU", "mIoU of logistic regression on the frozen features of each patch"
        ),
        Metric(
            "depth_error",
            "depth error",
            "mean |estimate / depth - 1| of ridge regression on the frozen features of each patch",
            higher_is_better=False,
        ),
    )
    default_data = "digits"
    example_data = "digits?n=40"
    options = {"finetune": f"percent of the labels to fine-tune on, some of {', '.join(map(str, SHARES))}"}

    def arrange(self, data: TaskData) -> TaskData:
        """Gives the parts to judge on the training images, on which probes are fitted.

        Raises:
            UserError: If `finetune` is not as stated.
        """
        percents = _percents(data)
        val, test = (
            part if part is None or isinstance(part, Judged) else Judged(part, data.train, percents)
            for part in (data.val, data.test)
        )
        return replace(data, val=val, test=test)

    def check_test(self, samples: SampleSet) -> None:
        """Wants some truth to judge by.

        Raises:
            UserError: If the samples have none, or come without training images.
        """
        if not isinstance(samples, Judged):
            raise UserError(
                "data: probes are fitted on the training images; judge on the test or validation part"
            )
        if not {"label", "semantic", "depth"} & set(samples[0]):
            raise UserError(
                "data: judging a representation needs the class of each test image, or a class or depth of each pixel; "
                "put the images into a folder for each class"
            )

    def meter(self, info: DataInfo) -> ProbeMeter:
        """A fresh meter, to which training images must be shown before others."""
        return ProbeMeter(info.classes)

    def evaluate(
        self,
        method: "Method",
        samples: SampleSet,
        *,
        batch_size: int = 32,
        workers: int = 0,
        observe: Observer | None = None,
    ) -> Evaluation:
        """Judges a fitted method by probes on its features, which are computed once.

        Args:
            method: The method.
            samples: To judge on, as `arrange` makes them.
            batch_size: Samples at a time.
            workers: Processes that load.
            observe: Called after each batch of the samples to judge on.

        Raises:
            UserError: If there is too little truth.
        """
        self.check_test(samples)
        assert isinstance(samples, Judged)
        meter = self.meter(method.info)
        for batch, prediction in self._predicted(method, samples.known, batch_size, workers):
            meter.learn(batch, prediction)
        start = 0
        for batch, prediction in self._predicted(method, samples, batch_size, workers):
            meter.update(batch, prediction)
            if observe is not None:
                shown = _drawn(method, batch) | meter.neighbours(prediction, samples.known)
                observe(start, batch, prediction | shown)
            start += len(batch["image"])
        found = meter.compute()
        metrics = dict(found.metrics)
        if "linear_probe" in metrics:
            for percent in samples.percents:
                tuned = finetuned_accuracy(method, samples, samples.known, percent / 100)
                metrics[f"finetune_{percent}"] = tuned
        if not metrics:
            raise UserError("data: no training image has a truth of the kind that the test images have")
        ordered = {each.name: metrics[each.name] for each in self.metrics if each.name in metrics}
        return Evaluation(ordered, found.groups)

    def _predicted(
        self, method: "Method", samples: SampleSet, batch_size: int, workers: int
    ) -> Iterator[tuple[Batch, Prediction]]:
        loader: DataLoader[Batch] = DataLoader(
            samples,  # type: ignore[arg-type]  # torch asks for its Dataset class, any map-style set serves
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.collate,
        )
        for batch in loader:
            yield batch, method.predict(batch)

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image, with its class where it is known, else its file's name."""
        label = int(sample.get("label", UNLABELLED))
        name = str(sample.get("path", "")).rpartition("/")[2]
        return [
            Panel(to_pixels(sample["image"]), info.classes[label] if 0 <= label < len(info.classes) else name)
        ]

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The nearest training images, if they are known; features of patches as colours; what the method was shown and
        what it painted, if it paints.
        """
        panels = [prediction["neighbours"].panel()] if "neighbours" in prediction else []
        if "features" in prediction:
            mean, components, low, high = scale or feature_colours([prediction["features"].cpu()])
            maps = prediction["features"].cpu().double()
            colours = (maps.flatten(1).mT - mean) @ components
            shown = ((colours - low) / (high - low).clamp(min=1e-12)).mT.reshape(3, *maps.shape[1:]).float()
            size = tuple(sample["image"].shape[-2:])
            image = functional.interpolate(shown[None].clamp(0, 1), size, mode="nearest")[0]
            panels.append(Panel(to_pixels(image), "patch features, three components"))
        for name, about in DRAWINGS:
            if name in prediction:
                panels.append(Panel(to_pixels(prediction[name]), about))
        if not panels:
            panels.append(Panel(_bars(prediction["embedding"].cpu()), "embedding"))
        return panels

    def scale(self, predictions: Sequence[Prediction]) -> Any:
        """The colours that patch features shown together share."""
        features = [each["features"].cpu() for each in predictions if "features" in each]
        return feature_colours(features) if features else None


def _drawn(method: "Method", batch: Batch) -> Prediction:
    """What a method paints of a batch, if it paints: for pictures alone, so that nobody else waits for it."""
    drawn = getattr(method, "drawn", None)
    if drawn is None:
        return {}
    with torch.no_grad():
        found: Prediction = drawn(batch["image"].to(method.device))
    return found


def _percents(data: TaskData) -> tuple[int, ...]:
    words = data.wishes.get("finetune", "")
    known = {str(share): share for share in SHARES}
    given = [each.strip() for each in words.split(",") if each.strip()]
    for each in given:
        if each not in known:
            raise UserError(f"{data.spec}: finetune must be some of {', '.join(known)}, got '{each}'")
    return tuple(known[each] for each in dict.fromkeys(given))


def _bars(embedding: Float[Tensor, " width"]) -> np.ndarray:
    """An embedding as grey columns, the lowest value black."""
    low, high = embedding.aminmax()
    grey = ((embedding - low) / (high - low).clamp(min=1e-12) * 255).byte().numpy()
    return np.repeat(np.repeat(grey[None, :, None], max(8, len(grey) // 4), axis=0), 3, axis=2)


TASK = Representation()
