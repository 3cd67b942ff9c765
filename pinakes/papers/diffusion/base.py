"""What the methods of this shelf share, in three steps of which each builds on the one before.

- `Denoiser`: a network, its training, and the moving average of its weights, with which answers are made.
- `MakesImages`: new images of the task `generation`, of a class where there are classes; pictures of them while the
  network learns.
- `Diffusion`: Gaussian noise, what a network may foretell of it, and the ways back to images.
"""

import importlib.util
import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import mix
from pinakes.errors import UserError, suggest
from pinakes.method import Method
from pinakes.nn.augment import flipped
from pinakes.nn.diffusion_sampling import ancestral_path, ddim_path, dpm_solver_path, spaced_steps
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean, q_sample
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.unet import GROUPS, UNet
from pinakes.shared_options import spell_out
from pinakes.tasks.base import Batch, Prediction, to_pixels
from pinakes.tasks.generation import grid

log = logging.getLogger(__name__)

Sampler = Literal["ddim", "ddpm", "dpm"]
Foretold = Literal["noise", "clean", "velocity"]

PICTURES = "pictures"
"""The folder of a run that holds samples that were made while it was trained."""
PICTURE_EVERY = 300.0
"""Seconds of training between two pictures."""
PICTURED = 16
STAGES = 6
"""Images of a path that are kept for pictures."""
WARM_UP = 100
"""Steps in which the learning rate rises."""
HIDDEN = 0.1
"""Share of the images whose class is left out in training, where guidance needs it."""

CLAIM_DATA = "digits?size=8&channels=1&n=1500"
"""Handwritten digits, as large as they were recorded."""
LARGE_CLAIM_DATA = "digits?size=16&n=1500"
"""The same brought to 16 pixels, for what needs more room."""
CLAIMED: dict[str, Any] = {"n_channels": 16, "ch_mults": (1, 2), "sampling_steps": 25}
"""The network of claims, and how often it is asked for one image."""
CLAIM_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 64}
"""How long networks learn in claims."""


def as_clean(
    kind: Foretold,
    told: Float[Tensor, "batch *shape"],
    noised: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """The estimate of x_0 that follows from what a network foretells.

    Args:
        kind: "noise", "clean" for x_0 itself, or "velocity", sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0.
        told: What it foretells.
        noised: x_t.
        alpha_bar: alpha_bar_t of each sample, above 0.

    Source: velocity: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, ICLR 2022
        (arXiv:2202.00512), appendix D.
    """
    if kind == "clean":
        return told
    if kind == "noise":
        return predicted_clean(noised, told, alpha_bar)
    kept = alpha_bar.view(-1, *[1] * (noised.ndim - 1))
    return kept.sqrt() * noised - (1 - kept).sqrt() * told


def to_foretell(
    kind: Foretold,
    clean: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """What a network is to foretell: the inverse of `as_clean`.

    Args:
        kind: As there.
        clean: x_0.
        noise: eps.
        alpha_bar: alpha_bar_t of each sample.
    """
    if kind == "clean":
        return clean
    if kind == "noise":
        return noise
    kept = alpha_bar.view(-1, *[1] * (clean.ndim - 1))
    return kept.sqrt() * noise - (1 - kept).sqrt() * clean


class Denoiser(Method):
    """A network that takes noise out of what it is shown, and the moving average of its weights.

    A subclass says what it learns from in `training_step`, and may change `make_network`. It names its own options in
    `__init__` and passes all others on, `**shared`; they count as its own options.

    Args:
        n_channels: Channels of the network at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder.
        dropout: Share of the values that are left out inside blocks while it learns.
        average: The share of the averaged weights that is kept in each step, 0 or more and below 1; answers are made
            with the average.
        learning_rate: Of Adam, after a rise over the first 100 steps.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    min_size = 8
    min_images = 2
    training_defaults = {"steps": 5000, "batch_size": 64}

    def __init__(
        self,
        n_channels: int = 32,
        ch_mults: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        dropout: float = 0.1,
        average: float = 0.995,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        if n_channels < GROUPS or n_channels % GROUPS:
            raise UserError(f"n_channels: expected a multiple of {GROUPS}, got {n_channels}")
        for name, count in (("ch_mults", min(ch_mults, default=0)), ("n_blocks", n_blocks)):
            if count < 1:
                raise UserError(f"{name}: expected whole numbers of 1 or more, got {count}")
        for name, share in (("dropout", dropout), ("average", average)):
            if not 0 <= share < 1:
                raise UserError(f"{name}: expected a share of 0 or more and below 1, got {share}")
        if not learning_rate > 0:
            raise UserError(f"learning_rate: expected a number above 0, got {learning_rate}")
        self.n_channels, self.ch_mults, self.n_blocks = n_channels, tuple(ch_mults), n_blocks
        self.dropout, self.average, self.learning_rate = dropout, average, learning_rate

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            spell_out(cls, next(base for base in cls.__mro__[1:] if "__init__" in vars(base)))

    def build(self, info: DataInfo) -> None:
        """Makes the network and its average."""
        self.network = self.make_network(info)
        self.averaged = MomentumCopy(self.network)

    def make_network(self, info: DataInfo) -> nn.Module:
        """From what is shown, the step t and labels to what is foretold; by default a U-Net for images."""
        return self.unet(info.channels)

    def unet(self, channels: int, classes: int = 0, outputs: int | None = None) -> UNet:
        """A U-Net of the size that the options say.

        Args:
            channels: Of what it is shown.
            classes: How many classes it can be told of.
            outputs: Channels of its answer; by default those of what it is shown.
        """
        return UNet(channels, self.n_channels, self.ch_mults, self.n_blocks, self.dropout, classes, outputs)

    def configure_optimizers(self) -> Any:
        """Adam with a short rise of the learning rate."""
        trained = [each for each in self.parameters() if each.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=self.learning_rate)
        schedule = LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / WARM_UP))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Lets the average follow, which keeps less at first, when there is little to average."""
        step = self.global_step
        self.averaged.follow(self.network, min(self.average, step / (9 + step)))


class MakesImages(Denoiser):
    """A method that makes new images out of noise.

    A subclass gives `loss` and `path`. Where it does not work on images themselves, it changes `shape`, `encode` and
    `decode` as well.

    Args:
        classes: Whether the network is told the class of images, where the data have classes.
        mirror: Whether training images are mirrored at random.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "generation"
    export_obstacle = "it makes images out of noise, and does not answer about images that it is given"
    hides_classes = False
    """Whether the class of some images is left out in training, so that the network can do without."""

    def __init__(self, classes: bool = True, mirror: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.classes, self.mirror = classes, mirror
        self._pictures: Path | None = None
        self._pictured_at = time.monotonic()

    # -- what a subclass may change ------------------------------------------------------------------------------

    def make_network(self, info: DataInfo) -> nn.Module:
        """From what is shown, the step t and labels to what is foretold; by default a U-Net for images."""
        return self.unet(info.channels, len(info.classes) if self.is_told_classes(info) else 0)

    def shape(self, info: DataInfo) -> tuple[int, ...]:
        """The form of what noise is taken out of, for one image."""
        return info.channels, *info.size

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        """What images in [0, 1] are for the network, such as values in [-1, 1]."""
        return 2 * image - 1

    def decode(self, found: Tensor) -> Float[Tensor, "batch channels height width"]:
        """The inverse of `encode`; values out of [0, 1] are cut off later."""
        return found / 2 + 0.5

    @abstractmethod
    def loss(self, clean: Tensor, label: Int[Tensor, " batch"] | None) -> Float[Tensor, ""]:
        """What is minimised, of encoded images and what the network is told that they are, -1 for nothing."""

    @abstractmethod
    def path(
        self, start: Tensor, label: Int[Tensor, " batch"] | None, generators: Sequence[torch.Generator]
    ) -> list[Tensor]:
        """From normal noise to encoded images, with a generator of noise for each image."""

    # -- making images -------------------------------------------------------------------------------------------

    def is_told_classes(self, info: DataInfo) -> bool:
        """Whether the network is told classes."""
        return self.classes and len(info.classes) > 1

    def sample(
        self,
        n: int,
        *,
        labels: Int[Tensor, " batch"] | None = None,
        seed: int | None = None,
        first: int = 0,
    ) -> Float[Tensor, "batch channels height width"]:
        """New images in [0, 1].

        Args:
            n: How many.
            labels: The class of each, where classes are told, -1 for any; by default any.
            seed: Of the noise; None draws it from torch's generator.
            first: The number of the first of them among all images of the seed, 0 or more.

        Raises:
            UserError: If there is not one label for each, or one is out of range.
        """
        samples: Tensor = self.generate(n, labels=labels, seed=seed, first=first)["sample"]
        return samples

    @torch.no_grad()
    def generate(
        self, n: int, *, labels: Tensor | None = None, seed: int | None = None, first: int = 0
    ) -> Prediction:
        """New images with the way that led to them, as the task states predictions; arguments are those of `sample`."""
        if n < 1:
            raise UserError(f"n: expected 1 or more, got {n}")
        told = self._told(n, labels)
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        generators = [torch.Generator().manual_seed(mix(seed, place)) for place in range(first, first + n)]
        like = torch.empty(n, *self.shape(self.info), device=self.device)
        path = self.path(drawn_like(like, generators), told, generators)
        stages = [self.decode(each).clamp(0, 1) for each in stages_of(path)]
        found: Prediction = {"sample": stages[-1], "stages": torch.stack(stages, dim=1)}
        return found | ({"label": told} if told is not None and (told >= 0).all() else {})

    def _told(self, n: int, labels: Tensor | None) -> Tensor | None:
        if not self.is_told_classes(self.info):
            return None
        if labels is None:
            return torch.full((n,), -1, device=self.device)
        if labels.shape != (n,) or (labels >= len(self.info.classes)).any():
            raise UserError(
                f"labels: expected {n} numbers below {len(self.info.classes)}, got {labels.tolist()[:20]}"
            )
        return labels.to(self.device)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """As many images as the batch has, of its classes if they are known; the same ones every time."""
        return self.generate(len(batch["image"]), labels=batch.get("label"), seed=0)

    # -- learning ------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch."""
        image = flipped(batch["image"]) if self.mirror else batch["image"]
        return self.loss(self.encode(image), self.told_in_training(batch))

    def told_in_training(self, batch: Batch) -> Int[Tensor, " batch"] | None:
        """What the network is told of the classes of a batch."""
        if not self.is_told_classes(self.info):
            return None
        label = batch.get("label")
        if label is None:
            return torch.full((len(batch["image"]),), -1, device=self.device)
        if not self.hides_classes:
            return label
        hidden = torch.rand(len(label), device=label.device) < HIDDEN
        return torch.where(hidden, -1, label)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the network; every few minutes some samples are put into the run folder."""
        self._pictures = None if plan.out is None else Path(plan.out) / PICTURES
        self._pictured_at = time.monotonic()
        super().learn(data, plan)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Lets the average follow; makes samples, if it is time."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self._pictures is None or not self.trainer.is_global_zero:
            return
        if time.monotonic() - self._pictured_at < PICTURE_EVERY:
            return
        self._pictured_at = time.monotonic()
        file = self._pictures / f"step-{self.global_step:07d}.png"
        self.save_picture(file)
        log.info("samples after step %d: %s", self.global_step, file)

    def save_picture(self, file: Path, n: int = PICTURED) -> None:
        """Writes a grid of samples, the same noise every time.

        Args:
            file: Where to write a PNG; folders are made.
            n: How many.
        """
        was_training = self.training
        self.eval()
        labels = torch.arange(n) % max(1, len(self.info.classes))
        sample = self.sample(n, labels=labels, seed=0)
        self.train(was_training)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_pixels(grid(sample))).save(file)


class Diffusion(MakesImages):
    """A network that takes Gaussian noise out of images.

    A subclass changes `loss`, `weight`, `make_network`, `denoise` or `path`.

    Args:
        T: Steps after which nothing but noise is left, 2 or more.
        foretold: What the network foretells: "noise", "clean" images or "velocity".
        guidance: How far samples are drawn towards their class, 0 or more; 1 for as the network says. Where it is not
            1, the class is left out for a tenth of the images in training.
        sampler: "ddim" makes images along the same noise, "ddpm" with new noise in each step, "dpm" along the same
            noise with the answers of two steps, which needs fewer of them (and diffusers).
        sampling_steps: How often the network is asked for one image, 1 to T.

    Raises:
        UserError: If a value is out of range; the message names it.

    Source: guidance: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022 (arXiv:2207.12598), equation 6.
    """

    within_bounds = True
    """Whether estimates of what is clean are cut to [-1, 1], as fits images."""
    alpha_bar: Tensor

    def __init__(
        self,
        T: int = 1000,
        foretold: Foretold = "noise",
        guidance: float = 1.0,
        sampler: Sampler = "ddim",
        sampling_steps: int = 50,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if T < 2:
            raise UserError(f"T: expected a whole number of 2 or more, got {T}")
        for name, word, known in (
            ("foretold", foretold, get_args(Foretold)),
            ("sampler", sampler, get_args(Sampler)),
        ):
            if word not in known:
                raise UserError(f"{name}: '{word}' is unknown{suggest(word, known)}")
        if guidance < 0:
            raise UserError(f"guidance: expected 0 or more, got {guidance}")
        if not 1 <= sampling_steps <= T:
            raise UserError(f"sampling_steps: expected 1 to T, {T}, got {sampling_steps}")
        if sampler == "dpm" and importlib.util.find_spec("diffusers") is None:
            raise UserError(
                "sampler: 'dpm' needs diffusers; pip install 'pinakes[generation]', or take 'ddim'"
            )
        self.T, self.foretold, self.guidance = T, foretold, guidance
        self.sampler, self.sampling_steps = sampler, sampling_steps
        self.hides_classes = guidance != 1

    # -- what a subclass may change ------------------------------------------------------------------------------

    def build(self, info: DataInfo) -> None:
        """Makes the network, its average, and the schedule of the noise."""
        self.register_buffer("alpha_bar", self.schedule(), persistent=False)
        super().build(info)

    def schedule(self) -> Float[Tensor, " steps_and_0"]:
        """What is left of an image's variance after each step, from 0."""
        # betas that add up to about as much noise as 1000 steps of the usual ones
        scale = 1000 / self.T
        return alpha_bar_schedule(self.T, min(0.999, 1e-4 * scale), min(0.999, 0.02 * scale))

    def loss(
        self,
        clean: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, ""]:
        """What is minimised, of images in [-1, 1] and what they are told to be, -1 for nothing."""
        t = torch.randint(1, self.T + 1, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        kept = self.alpha_bar[t]
        told = self.network(q_sample(clean, noise, kept), t, label)
        error = (told - to_foretell(self.foretold, clean, noise, kept)).square().flatten(1).mean(1)
        return (self.weight(t) * error).mean()

    def weight(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How much the error at each step counts; by default the same for all."""
        return torch.ones_like(t, dtype=torch.float32)

    def denoise(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The estimate of the clean image by the averaged network."""
        told = self.averaged(noised, t, label)
        if label is not None and self.guidance != 1:
            free = self.averaged(noised, t, torch.full_like(label, -1))
            told = free + self.guidance * (told - free)
        clean = as_clean(self.foretold, told, noised, self.alpha_bar[t])
        return clean.clamp(-1, 1) if self.within_bounds else clean

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to images in [-1, 1], with a generator of noise for each image."""
        steps = spaced_steps(self.T, self.sampling_steps)

        def denoise(noised: Tensor, t: Tensor) -> Tensor:
            return self.denoise(noised, t, label)

        if self.sampler == "ddim":
            return ddim_path(denoise, start, self.alpha_bar, steps)
        if self.sampler == "dpm":
            return dpm_solver_path(denoise, start, self.alpha_bar, self.sampling_steps)
        return ancestral_path(denoise, start, self.alpha_bar, steps, lambda: drawn_like(start, generators))


def drawn_like(
    like: Float[Tensor, "batch *shape"], generators: Sequence[torch.Generator]
) -> Float[Tensor, "batch *shape"]:
    """Normal noise of the form of a tensor, each sample's from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=each) for each in generators]).to(like)


def stages_of(path: Sequence[Tensor]) -> list[Tensor]:
    """Some of a path from noise, the last one among them."""
    places = torch.linspace(0, len(path) - 1, min(STAGES, len(path))).long().tolist()
    return [path[place] for place in places]
