"""What this shelf's methods for segmentation share: a student and a teacher that name the class of every pixel, and two
ways to train the student that others are held against.

Options, augmentation, learning rate and the teacher's life are those of `pinakes.papers.distillation.base`.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.nn.segmenter import ImageSegmenter, resized
from pinakes.papers.distillation.base import Distiller, distillation_divergence
from pinakes.papers.distillation.classifier import LAYERS, Answer, Classifier, labelled_cross_entropy
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.classification import UNLABELLED
from pinakes.tasks.segmentation import NO_CLASS

assert NO_CLASS == UNLABELLED


def rows_of(
    maps: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "pixels channels"]:
    """One row for every pixel, image after image."""
    return maps.movedim(1, -1).flatten(0, 2)


def pixel_cross_entropy(
    logits: Float[Tensor, "batch classes height width"], semantic: Int[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the pixels that have a class; 0 where none has.

    Args:
        logits: Unnormalised.
        semantic: The class of each pixel, -1 where it has none.
    """
    return labelled_cross_entropy(rows_of(logits), semantic.flatten())


def pixel_divergence(
    student: Float[Tensor, "batch classes height width"],
    teacher: Float[Tensor, "batch classes height width"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over all pixels.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperature: T, above 0.

    Source: Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019 (arXiv:1903.04197),
        equation 1.

    Example:
        >>> logits = torch.rand(2, 5, 8, 8)
        >>> bool(pixel_divergence(logits, logits + 1) < 1e-6)
        True
    """
    return distillation_divergence(rows_of(student), rows_of(teacher), temperature)


class Segmenter(Classifier):
    """A backbone with a light decoder, trained by the cross-entropy of every pixel: the student alone, or the teacher.

    Args:
        student: Name of the backbone that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images and their classes are changed: "shift" moves them by up to an eighth, "flip"
            also mirrors them, "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "segmentation"
    training_defaults = {"steps": 500, "batch_size": 16}

    network: ImageSegmenter  # type: ignore[assignment]  # of pixels, in place of one of images

    def new_network(self, info: DataInfo) -> Any:
        """The student, not yet trained."""
        return ImageSegmenter(self.student_name, len(info.classes), info.channels, LAYERS)

    def answers(self, image: Float[Tensor, "batch channels height width"]) -> Answer:
        """The embedding, as the only level, and the logits of every pixel, of images in [0, 1]."""
        embedding = self.network.embed(image)
        return Answer([embedding], self.network.read(embedding, image.shape[-2:]))

    def augmented_pair(
        self,
        image: Float[Tensor, "batch channels height width"],
        semantic: Int[Tensor, "batch height width"],
    ) -> tuple[Float[Tensor, "batch channels height width"], Int[Tensor, "batch height width"]]:
        """Training images and the classes of their pixels, changed at random in the same way."""
        both = self.augmented(torch.cat([image, semantic[:, None].to(image.dtype)], dim=1))
        return both[:, :-1], both[:, -1].to(semantic.dtype)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy of a batch."""
        image, semantic = self.augmented_pair(batch["image"], batch["semantic"])
        return pixel_cross_entropy(self.answers(image).logits, semantic)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The probability of each class at each pixel, and the most probable one."""
        probabilities = self.answers(batch["image"]).logits.softmax(1)
        return {"semantic": probabilities.argmax(1), "probabilities": probabilities}


class SegmentationDistiller(Distiller, Segmenter):
    """A segmenter that learns from a teacher: what `Distiller` is, at every pixel.

    `Answer.levels` holds the embedding alone, and `helpers` is given the widths of these.
    """

    def loss(
        self, student: Answer, teacher: Answer, label: Int[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        """What is minimised.

        Args:
            student: What the student says of a batch, with gradients.
            teacher: What the teacher says of it, without, its logits in the size of the images.
            label: The class of each pixel, -1 where it has none.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no loss")

    def taught(self, image: Float[Tensor, "batch channels height width"]) -> Answer:
        """What the teacher says of images in [0, 1], its logits in their size, without gradients."""
        found = super().taught(image)
        return Answer(found.levels, resized(found.logits, image.shape[-2:]))

    def _fresh_teacher(self) -> Segmenter:
        return Segmenter(self.teacher_name, augmentation=self.augmentation)

    def _set_teacher(self, teacher: Any) -> None:
        self._teacher = [teacher.eval().requires_grad_(False)]
        with isolated(0):
            self.helping = self.helpers([self.network.width], [teacher.network.width])

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; teacher and student see the same view of it."""
        image, semantic = self.augmented_pair(batch["image"], batch["semantic"])
        teacher = self.heard(image, batch)
        return self.loss(self.answers(image), teacher, semantic)


class PixelKD(SegmentationDistiller):
    """A student that learns the teacher's probabilities at every pixel beside the classes.

    Args:
        temperature: T of both.
        weight: Of the divergence from the teacher.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, temperature: float = 1.0, weight: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if weight < 0:
            raise UserError(f"weight: expected 0 or more, got {weight}")
        self.temperature = temperature
        self.weight = weight

    def loss(
        self, student: Answer, teacher: Answer, label: Int[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        """The cross-entropy of the classes and the divergence from the teacher."""
        told = pixel_divergence(student.logits, teacher.logits, self.temperature)
        return pixel_cross_entropy(student.logits, label) + self.weight * told
