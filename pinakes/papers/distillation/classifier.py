"""A network that learns the classes of images from their labels: every student of this shelf, and every teacher."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.method import Method
from pinakes.nn.augment import flipped, shifted
from pinakes.nn.classifier import ImageClassifier
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.classification import UNLABELLED, answer

LAYERS = (-3, -2, -1)
"""The feature levels that losses may compare: the last three of a backbone."""
WARM_UP = 0.1
"""Share of training in which the learning rate rises to its full height."""

Augmentation = Literal["none", "shift", "flip"]


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch.

    Args:
        levels: The last three feature maps (batch, width, rows, columns), the deepest last.
        logits: (batch, classes).
    """

    levels: list[Tensor]
    logits: Tensor


def labelled_cross_entropy(
    logits: Float[Tensor, "batch classes"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the images that have a label; 0 where none has.

    Args:
        logits: Unnormalised.
        label: The class, or -1 where it is not known.
    """
    count = (label != UNLABELLED).sum().clamp(min=1)
    return functional.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="sum") / count


class OwnLayersClassifier(ImageClassifier):
    """An image classifier on layers that are made elsewhere, not by the name of a backbone.

    Args:
        backbone: Gives the feature levels of images in [0, 1]; its `widths` say how wide they are.
        classes: Number of classes.
    """

    def __init__(self, backbone: Any, classes: int) -> None:
        nn.Module.__init__(self)  # not the parent's, which makes a backbone
        self.backbone = backbone
        self.head = nn.Linear(backbone.widths[-1], classes)


class Classifier(Method):
    """A backbone with a linear layer, trained by the cross-entropy of its labels.

    Args:
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "classification"
    min_size = 32
    min_images = 2
    training_defaults = {"steps": 500, "batch_size": 64}

    def __init__(
        self,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise UserError(f"learning_rate: expected a number above 0, got {learning_rate}")
        if augmentation not in get_args(Augmentation):
            raise UserError(
                f"augmentation: '{augmentation}' is unknown{suggest(augmentation, get_args(Augmentation))}"
            )
        self.student_name = student
        self.learning_rate = learning_rate
        self.augmentation = augmentation

    def build(self, info: DataInfo) -> None:
        """Makes the network.

        Raises:
            UserError: If there are fewer than two classes.
        """
        if len(info.classes) < 2:
            raise UserError(f"data: a classifier needs at least two classes, got {len(info.classes)}")
        self.network = self.new_network(info)
        self.classes = info.classes

    def new_network(self, info: DataInfo) -> ImageClassifier:
        """The student, not yet trained; a subclass may give another one."""
        return ImageClassifier(self.student_name, len(info.classes), info.channels, LAYERS)

    def answers(self, image: Float[Tensor, "batch channels height width"]) -> Answer:
        """Feature levels and logits of images in [0, 1]."""
        levels = self.network.levels(image)
        return Answer(levels, self.network.read(levels[-1]))

    def augmented(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Training images, changed at random."""
        if self.augmentation == "none":
            return image
        moved = shifted(image)
        return flipped(moved) if self.augmentation == "flip" else moved

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy of a batch."""
        logits = self.answers(self.augmented(batch["image"])).logits
        return labelled_cross_entropy(logits, batch["label"])

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The probability of each class, and the most probable one."""
        return answer(self.answers(batch["image"]).logits, self.classes)

    @property
    def done(self) -> float:
        """The share of training that is done, 0 to 1; 1 where nothing says how long it is."""
        total = self.total_steps()
        return min(1.0, self.global_step / total) if total else 1.0

    def needs_a_length(self, option: str) -> None:
        """Makes sure that the length of training is known.

        Args:
            option: What is a share of it.

        Raises:
            UserError: If only a limit of time ends training.
        """
        if not self.total_steps():
            raise UserError(
                f"{option}: is a share of training, whose length must be known; give steps or epochs"
            )

    def configure_optimizers(self) -> Any:
        """AdamW on everything that is trained, with a rise and a fall of the learning rate."""
        optimiser = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            weight_decay=0.05,
        )
        total = self.total_steps()
        if not total:
            return optimiser
        schedule = LambdaLR(optimiser, lambda step: rise_and_fall(step / total))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def total_steps(self) -> int:
        """How many steps training has, or 0 where it has no trainer or only a time limit."""
        if self._trainer is None:
            return 0
        total = self.trainer.estimated_stepping_batches
        return int(total) if math.isfinite(total) and 0 < total < 10**8 else 0


def rise_and_fall(done: float) -> float:
    """The learning rate as a share of its full height, when a share of training is done."""
    if done < WARM_UP:
        return (done + 1e-3) / (WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
