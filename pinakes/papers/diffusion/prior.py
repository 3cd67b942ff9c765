"""A diffusion model of whole images, for papers that restore spoilt ones with it and change nothing but sampling."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.engine.seeds import mix
from pinakes.errors import UserError
from pinakes.papers.diffusion.base import Diffusion, Sampler, stages_of
from pinakes.tasks.base import Batch, Prediction


class Prior(Diffusion):
    """A diffusion model that learns from whole images alone, and restores others by a path of its own.

    A subclass states its task, whose samples have a true image `clean`, and gives `restoring_path`.

    Args:
        classes: Whether the network is told the class of images, where they come with one. A tenth of them is learnt
            without, so that images of no known class can be restored as well.
        sampler: "ddpm" draws new noise in each step backwards, "ddim" goes along the same noise.
        sampling_steps: Into how many steps the way from noise to images is divided, 1 to T.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    export_obstacle = "it asks its network many times for one image, with new noise each time"

    def __init__(
        self, classes: bool = False, sampler: Sampler = "ddpm", sampling_steps: int = 50, **shared: Any
    ) -> None:
        super().__init__(classes=classes, sampler=sampler, sampling_steps=sampling_steps, **shared)
        if sampler == "dpm":
            raise UserError("sampler: 'dpm' gives no single steps to change; take 'ddpm' or 'ddim'")
        self.hides_classes = True

    @property
    def eta(self) -> float:
        """How much of the noise is new in each step backwards, as `ddim_step` takes it."""
        return 1.0 if self.sampler == "ddpm" else 0.0

    @abstractmethod
    def restoring_path(
        self, batch: Batch, label: Int[Tensor, " batch"] | None, generators: Sequence[torch.Generator]
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to restored images in [-1, 1], with a generator of noise for each image.

        Args:
            batch: Spoilt images, as the task states them.
            label: What the network is told that they are; None where it is told nothing.
            generators: One for each image.
        """

    @torch.no_grad()
    def restore(self, batch: Batch, *, seed: int = 0, first: int = 0) -> Prediction:
        """Restored images, as the task states predictions; another seed gives others.

        Args:
            batch: Spoilt images on the method's device.
            seed: Of the noise.
            first: The number of the first of them among all answers of the seed, 0 or more.
        """
        count = len(batch["image"])
        generators = [
            torch.Generator().manual_seed(mix(seed, place)) for place in range(first, first + count)
        ]
        path = self.restoring_path(batch, self._told(count, batch.get("label")), generators)
        stages = [self.decode(each).clamp(0, 1) for each in stages_of(path)]
        return {"restored": stages[-1], "stages": torch.stack(stages, dim=1)}

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Restored images, the same ones every time."""
        return self.restore(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of whole images."""
        return super().training_step(batch | {"image": batch["clean"]}, batch_idx)
