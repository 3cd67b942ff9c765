"""What the methods of this shelf share: an encoder, the training of it on images without labels, and signs of how that
goes: pictures of what it paints, and figures of how its embeddings spread.
"""

import logging
import math
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from pinakes.data.base import SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.schedules import rise_and_fall
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.method import Method
from pinakes.nn.augment import flipped, shifted
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.collapse import alignment, effective_rank, leave_one_out_accuracy, spread, uniformity
from pinakes.nn.crops import randomly_cropped
from pinakes.shared_options import spell_out
from pinakes.tasks.base import Batch, Prediction, to_pixels

log = logging.getLogger(__name__)

Augmentation = Literal["crop", "shift", "none"]

PICTURES = "pictures"
"""The folder of a run that holds what the method painted while it was trained."""
PICTURE_EVERY = 120.0
"""Seconds of training between two pictures."""
PICTURED = 8
WATCHED = 256
"""Training images whose embeddings are looked at during training."""
WATCH_EVERY = 200
"""Steps between two looks at them."""

CLAIM_DATA = "scenes:classification?size=32&n=2000"
"""Made scenes with one main object each: the data of most claims."""
CLAIM_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 64}
"""How long an encoder learns in a claim, 32 passes over the images: so long that a masked autoencoder is clearly better
than before it learnt, which was tried with a seed that no claim uses."""


def no_loss(method: Method) -> Float[Tensor, ""]:
    """0, with a gradient of 0 for all that is trained: a baseline takes as many steps as others, and learns nothing.

    Args:
        method: Its weights must not decay.
    """
    return 0 * torch.stack([each.sum() for each in method.parameters() if each.requires_grad]).sum()


class SelfSupervised(Method):
    """An encoder that learns features of images without their labels.

    A subclass gives `build`, `encode` and `loss`, and `painted` if it paints images. It names its own options in
    `__init__` and passes all others on, `**shared`; they count as its own options.

    Args:
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        weight_decay: Of AdamW, for weights of two dimensions or more.
        augmentation: How training images are changed: "crop" takes a fifth to all of the area and mirrors half of them,
            "shift" moves them by up to an eighth, "none" leaves them. Crops serve when there is time for many passes.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "representation"
    min_size = 16
    min_images = 2
    training_defaults = {"steps": 1000, "batch_size": 64}

    def __init__(
        self, learning_rate: float = 1e-3, weight_decay: float = 0.05, augmentation: Augmentation = "shift"
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise UserError(f"learning_rate: expected a number above 0, got {learning_rate}")
        if weight_decay < 0:
            raise UserError(f"weight_decay: expected 0 or more, got {weight_decay}")
        if augmentation not in get_args(Augmentation):
            raise UserError(
                f"augmentation: '{augmentation}' is unknown{suggest(augmentation, get_args(Augmentation))}"
            )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.augmentation = augmentation
        self._pictures: Path | None = None
        self._watched: Batch = {}
        self._pictured_at = time.monotonic()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            spell_out(cls, next(base for base in cls.__mro__[1:] if "__init__" in vars(base)))

    # -- what a subclass gives -------------------------------------------------------------------------------

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The `embedding` (batch, width) of images in [0, 1] of the method's size and, where it has patches, their
        `features` (batch, width, rows, columns); with gradients, for fine-tuning.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no encode")

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """What is minimised, of augmented images in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} gives no loss")

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The encoder as a backbone of other methods.

        Args:
            layers: Which levels are wanted. By default there is one, the `features`, which is given for each.

        Returns:
            A module that takes images in [0, 1] of any size and gives a feature map for each level; it states their
            `widths` and, for images of the size that the method was fitted on, their `strides`.

        Raises:
            UserError: If the method has no features of patches, or no such level.
        """
        return EncodedLevels(self, len(layers))

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """What the method is shown of images and what it paints, as `shown` and `reconstruction`; by default nothing.

        The same images give the same answer.
        """
        return {}

    # -- learning --------------------------------------------------------------------------------------------

    def augmented(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Training images, changed at random."""
        if self.augmentation == "crop":
            return flipped(randomly_cropped(image))
        return shifted(image) if self.augmentation == "shift" else image

    def sized(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Images brought to the size that the method was made for."""
        if tuple(image.shape[-2:]) == self.info.size:
            return image
        return functional.interpolate(image, self.info.size, mode="bilinear", antialias=True).clamp(0, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; labels are not looked at."""
        return self.loss(self.augmented(self.sized(batch["image"])))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The features of a batch."""
        return self.encode(self.sized(batch["image"]))

    def drawn(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """What `painted` gives, in the size of the images."""
        size = tuple(image.shape[-2:])
        return {
            name: functional.interpolate(value, size, mode="bilinear").clamp(0, 1)
            for name, value in self.painted(self.sized(image)).items()
        }

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the encoder. A run folder gets a picture of what it paints every two minutes, and figures of how its
        embeddings of some training images spread in its log.
        """
        self._pictures = None if plan.out is None else Path(plan.out) / PICTURES
        self._pictured_at = time.monotonic()
        self._watched = {} if plan.out is None else self._some(data.train)
        super().learn(data, plan)

    def _some(self, samples: SampleSet) -> Batch:
        """Samples from all over a set, as many as are watched."""
        count = min(WATCHED, len(samples))
        return self.task.collate([samples[place * len(samples) // count] for place in range(count)])

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Looks at the embeddings and paints a picture, if it is time."""
        if self._pictures is None or not self.trainer.is_global_zero:
            return
        is_time = self.global_step % WATCH_EVERY == 0 or self.global_step == self.total_steps()
        if is_time and "image" in self._watched:
            found = self.spread_of_embeddings(self._watched)
            if self.logger is not None:
                self.logger.log_metrics(found, self.global_step)
            said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            log.info("embeddings after step %d: %s", self.global_step, said)
        if time.monotonic() - self._pictured_at < PICTURE_EVERY:
            return
        self._pictured_at = time.monotonic()
        file = self._pictures / f"step-{self.global_step:07d}.png"
        if self.save_picture(batch["image"][:PICTURED], file):
            log.info("what it paints after step %d: %s", self.global_step, file)

    @torch.no_grad()
    def spread_of_embeddings(self, batch: Batch) -> dict[str, float]:
        """Signs of collapse, or of none, in the embeddings of images.

        Args:
            batch: At least two images, with their labels if these are known.

        Returns:
            `rank`, `spread`, `alignment` of two changed copies of each image and `uniformity`, as in
            `pinakes.nn.collapse`, and `knn`, the accuracy of the nearest others, if all have a label.
        """
        was_training = self.training
        self.eval()
        image = self.sized(batch["image"].to(self.device))
        embedding = self.encode(image)["embedding"]
        with isolated(0):
            one, other = (self.encode(self.augmented(image))["embedding"] for _ in range(2))
        self.train(was_training)
        found = {
            "rank": effective_rank(embedding),
            "spread": spread(embedding),
            "alignment": alignment(one, other),
            "uniformity": uniformity(embedding),
        }
        label = batch.get("label")
        if label is not None and (label >= 0).all():
            found["knn"] = leave_one_out_accuracy(embedding, label.to(self.device))
        return {name: float(value) for name, value in found.items()}

    def save_picture(self, image: Float[Tensor, "batch channels height width"], file: Path) -> bool:
        """Writes images, what the method is shown of them and what it paints, one below the other.

        Args:
            image: Some images in [0, 1].
            file: Where to write a PNG; folders are made.

        Returns:
            Whether it paints at all; if not, nothing is written.
        """
        was_training = self.training
        self.eval()
        with torch.no_grad():
            painted = self.painted(self.sized(image))
        self.train(was_training)
        if not painted:
            return False
        rows = [self.sized(image), *painted.values()]
        page = torch.cat([torch.cat(list(row.cpu()), dim=-1) for row in rows], dim=-2)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_pixels(page)).save(file)
        return True

    # -- stages and the optimiser ----------------------------------------------------------------------------

    def stage_shares(self) -> Sequence[float]:
        """The shares of training that its stages have; they sum to 1, and some may be 0. By default there is one stage.

        Each stage has its own rise and fall of the learning rate, and starts with fresh statistics of the optimiser.
        """
        return (1.0,)

    def begin_stage(self, stage: int) -> None:
        """Called before the first step of every stage but the first one of training."""

    def first_steps(self) -> list[int]:
        """With which step each stage begins, and behind them the number of all steps."""
        ends = accumulate(self.stage_shares())
        # rounded first, so that three times a third is not a little more than all
        return [0, *(math.ceil(round(end * self.total_steps(), 6)) for end in ends)]

    @property
    def stage(self) -> int | None:
        """Which stage training is in, from 0; None where nothing says how long training is."""
        if not self.total_steps():
            return None
        return _stage_of(self.global_step, self.first_steps())

    def on_fit_start(self) -> None:
        """Makes sure that the length of training is known, if it has several stages.

        Raises:
            UserError: If it is not.
        """
        if len([share for share in self.stage_shares() if share]) > 1 and not self.total_steps():
            raise UserError(
                f"{type(self).__name__} trains in stages, which are shares of a length that must be known; give steps "
                "or epochs"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begins a stage, if it is time for one."""
        stage = self.stage
        if not self.global_step or stage is None or self.global_step != self.first_steps()[stage]:
            return
        self.begin_stage(stage)
        for optimiser in self.trainer.optimizers:
            optimiser.state.clear()

    @property
    def done(self) -> float:
        """The share of training that is done, 0 to 1; 1 where nothing says how long it is."""
        total = self.total_steps()
        return min(1.0, self.global_step / total) if total else 1.0

    def configure_optimizers(self) -> Any:
        """AdamW on everything that is trained; the learning rate rises and falls once in each stage."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.learning_rate, betas=(0.9, 0.95)
        )
        if not self.total_steps():
            return optimiser
        firsts = self.first_steps()

        def height(step: int) -> float:
            stage = _stage_of(step, firsts)
            return rise_and_fall((step - firsts[stage]) / max(1, firsts[stage + 1] - firsts[stage]))

        schedule = LambdaLR(optimiser, height)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def total_steps(self) -> int:
        """How many steps training has, or 0 where it has no trainer or only a time limit."""
        if self._trainer is None:
            return 0
        total = self.trainer.estimated_stepping_batches
        return int(total) if math.isfinite(total) and 0 < total < 10**8 else 0


def _stage_of(step: int, firsts: Sequence[int]) -> int:
    """The last stage that has begun, of those with any steps if there is one."""
    return max(number for number, first in enumerate(firsts[:-1]) if first <= step and first < firsts[-1])


class EncodedLevels(nn.Module):
    """What a method's `encode` says of patches, as a backbone with one level, which is given several times.

    Args:
        method: The method, built.
        count: How many times.

    Raises:
        UserError: If it says nothing of patches.
    """

    def __init__(self, method: SelfSupervised, count: int) -> None:
        super().__init__()
        self.method, self.count = method, count
        with torch.no_grad():
            found = method.eval().encode(torch.zeros(1, method.info.channels, *method.info.size))
        if "features" not in found:
            raise UserError(
                f"backbone: {type(method).__name__} has no features of patches, so it is no backbone"
            )
        maps = found["features"]
        self.widths = [maps.shape[1]] * count
        self.strides = [method.info.size[0] // maps.shape[2]] * count

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The level, as often as it was asked for."""
        return [self.method.encode(self.method.sized(image))["features"]] * self.count


class ConvolutionalLevels(nn.Module):
    """Levels of a convolutional encoder, with its weights.

    Args:
        encoder: The encoder.
        name: Its backbone's name.
        channels: Of the images.
        layers: Which levels, as `FeatureExtractor` takes them; the encoder must have been made with all weights that
            they need.
    """

    def __init__(self, encoder: FeatureExtractor, name: str, channels: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.extractor = FeatureExtractor(f"{name.partition('@')[0]}@random", layers, channels)
        own = encoder.network.state_dict()
        self.extractor.network.load_state_dict({key: own[key] for key in self.extractor.network.state_dict()})
        self.widths, self.strides = self.extractor.widths, self.extractor.strides

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The levels of images in [0, 1]."""
        levels: list[Tensor] = self.extractor(image)
        return levels
