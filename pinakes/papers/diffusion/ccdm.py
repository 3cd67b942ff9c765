r"""Zbinden et al., Stochastic Segmentation with Conditional Categorical Diffusion Models, ICCV 2023, arXiv:2303.08888.

Where people disagree about what an image shows, there is no one right label map, and a network that names the most
probable class of each pixel answers with a mean of all opinions that nobody holds. Here label maps are drawn instead.
Noise replaces the classes of more and more pixels by others, until nothing is left of the map. A network that sees the
image learns what the map was, and taking the noise out step by step leads from random classes to one whole map that
suits the image. Other noise leads to another map, and each kind of map turns up as often as people draw it.

What the code follows:

- Forward process: q(x_t | x_{t-1}) keeps a class with chance 1 - beta_t, or else draws one evenly from all K; by
  `pinakes.nn.discrete_diffusion`, with the cosine schedule of the authors.
- Reverse process, `mean_posterior`: q(x_{t-1} | x_t, x_0) summed over all x_0, each as probable as the network says.
- Loss, `posterior_loss`: the divergence of that from q(x_{t-1} | x_t, x_0) with the true x_0; at t = 1 it is the
  cross-entropy. The network sees the image beside x_t, class by class.
- The authors' code (github.com/LarsDoorenbos/ccdm-stochastic-segmentation): 250 steps; a drawn map has the class of
  each pixel that is most probable in the last step; one answer is the mean of the probabilities that the last steps of
  several draws foretell.
- Generalised energy distance, `generalised_energy_distance`, and `hungarian_iou`, of the experiments on LIDC: how near
  drawn maps are to those of several people. As in the authors' code a set's distance to itself counts each map with
  itself, class 0 is background and does not count, and a class that neither map has counts as a full match; maps are
  repeated until both sets have as many.

Differences from the paper: a small network, and a faster average of its weights, for short training; the loss is a mean
of pixels, not their sum; pixels without a class have random ones and do not count; maps are drawn in fewer steps than
were trained, with transitions over those between (the authors' code keeps that of a single step); no features of a
pretrained network are shown beside the image.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import mix
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.diffusion_sampling import spaced_steps
from pinakes.nn.discrete_diffusion import (
    CategoricalSchedule,
    categorical_path,
    cosine_kept,
    divergence,
    drawn,
    mean_posterior,
    one_hot,
    posterior,
    q_sample,
    start_of,
    uniform_like,
)
from pinakes.papers.diffusion.base import Denoiser
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.segmentation import NO_CLASS

EQUATIONS = (
    (
        "Forward process",
        r"q(x_t \mid x_{t-1}) = \mathcal{C}\left(x_t; (1 - \beta_t) \, x_{t-1} + \frac{\beta_t}{K}\right)",
    ),
    (
        "Reverse process",
        r"p_\theta(x_{t-1} \mid x_t, I) = \sum_{x_0} q(x_{t-1} \mid x_t, x_0) \, p_\theta(x_0 \mid x_t, I)",
    ),
    (
        "Loss",
        r"L = \mathbb{E}_{t, x_t} \, D_{KL}\left(q(x_{t-1} \mid x_t, x_0) \,\Vert\, "
        r"p_\theta(x_{t-1} \mid x_t, I)\right)",
    ),
    (
        "Generalised energy distance",
        r"D^2 = 2 \, \mathbb{E} \, d(S, Y) - \mathbb{E} \, d(S, S') - \mathbb{E} \, d(Y, Y') , \quad d = 1 - IoU",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

AT_ONCE = 128
"""Label maps that are drawn together."""


def posterior_loss(
    clean: Int[Tensor, "batch *places"],
    noised: Int[Tensor, "batch *places"],
    foretold: Float[Tensor, "batch classes *places"],
    t: Int[Tensor, " batch"],
    schedule: CategoricalSchedule,
) -> Float[Tensor, "batch *places"]:
    """How far the step back that is foretold is from the true one, in nats.

    Args:
        clean: x_0.
        noised: x_t.
        foretold: The probabilities of x_0 that the network gives.
        t: The step of each sample, from 1.
        schedule: Of the noise.

    Source: the loss above, with the sum over x_0 of the authors' code.
    """
    until, between = schedule.until(t - 1), schedule.between(t - 1, t)
    true = posterior(noised, one_hot(clean, foretold.shape[1]), until, between)
    return divergence(true, mean_posterior(noised, foretold, until, between))


def map_distances(
    maps: Int[Tensor, "batch maps height width"],
    others: Int[Tensor, "batch others height width"],
    classes: int,
) -> Float[Tensor, "batch maps others"]:
    """One minus the intersection over union of any two label maps, mean over the classes but the first.

    Args:
        maps: Classes of pixels, from 0.
        others: The maps that they are compared with.
        classes: How many there are, 2 or more.

    Source: the authors' code. A class that neither map has counts as a full match.

    Example:
        >>> maps = torch.tensor([[[[0, 1]], [[1, 1]], [[0, 0]]]])
        >>> map_distances(maps, maps, 2)
        tensor([[[0.0000, 0.5000, 1.0000],
                 [0.5000, 0.0000, 1.0000],
                 [1.0000, 1.0000, 0.0000]]])
    """
    of_class = torch.arange(1, classes, device=maps.device)[:, None]
    here, there = ((each.flatten(2).unsqueeze(2) == of_class).float() for each in (maps, others))
    both = torch.einsum("bmcp,bocp->bmoc", here, there)
    either = here.sum(-1)[:, :, None] + there.sum(-1)[:, None] - both
    return 1 - torch.where(either > 0, both / either.clamp(min=1), 1.0).mean(-1)


def generalised_energy_distance(
    samples: Int[Tensor, "batch samples height width"],
    annotations: Int[Tensor, "batch annotations height width"],
    classes: int,
) -> Float[Tensor, " batch"]:
    """How far drawn label maps are, as a set, from those that people drew; 0 for the same maps in the same shares.

    Args:
        samples: Drawn maps of each image.
        annotations: The maps of people; of any number.
        classes: How many classes there are, 2 or more.

    Source: Kohl et al., A Probabilistic U-Net for Segmentation of Ambiguous Images, NeurIPS 2018 (arXiv:1806.05034),
        section 3.

    Example:
        >>> annotations = torch.tensor([[[[0, 1]], [[1, 1]]]])
        >>> generalised_energy_distance(annotations, annotations, 2)
        tensor([0.])
        >>> generalised_energy_distance(annotations[:, :1], annotations, 2)
        tensor([0.2500])
    """
    across, within, among = (
        map_distances(one, other, classes).mean((1, 2))
        for one, other in ((samples, annotations), (samples, samples), (annotations, annotations))
    )
    return 2 * across - within - among


def hungarian_iou(
    samples: Int[Tensor, "batch samples height width"],
    annotations: Int[Tensor, "batch annotations height width"],
    classes: int,
) -> Float[Tensor, " batch"]:
    """The mean intersection over union of drawn label maps with those of people, paired as suits best.

    Each set is repeated until both have as many.

    Args:
        samples: Drawn maps of each image.
        annotations: The maps of people; of any number.
        classes: How many classes there are, 2 or more.

    Source: the authors' code.

    Example:
        >>> annotations = torch.tensor([[[[0, 1]], [[1, 1]]]])
        >>> hungarian_iou(annotations.flip(1), annotations, 2), hungarian_iou(annotations[:, :1], annotations, 2)
        (tensor([1.]), tensor([0.7500]))
    """
    distances = map_distances(samples, annotations, classes)
    rows, columns = distances.shape[1:]
    count = math.lcm(rows, columns)
    repeated = distances.repeat_interleave(count // rows, 1).repeat_interleave(count // columns, 2)
    found = [each[linear_sum_assignment(each)].mean() for each in repeated.double().cpu().numpy()]
    return 1 - torch.tensor(np.array(found), dtype=distances.dtype, device=distances.device)


class CCDM(Denoiser):
    """A network that takes noise out of label maps, with a look at the image that they belong to.

    Args:
        T: Steps after which nothing but noise is left, 2 or more.
        sampling_steps: How often the network is asked for one label map, 1 to T.
        evaluations: Label maps that are drawn for one answer, whose probabilities are averaged.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "segmentation"
    export_obstacle = "it draws label maps out of noise, step by step"
    training_defaults = {"steps": 3000, "batch_size": 32}

    def __init__(self, T: int = 250, sampling_steps: int = 25, evaluations: int = 4, **shared: Any) -> None:
        super().__init__(**shared)
        if T < 2:
            raise UserError(f"T: expected a whole number of 2 or more, got {T}")
        if not 1 <= sampling_steps <= T:
            raise UserError(f"sampling_steps: expected 1 to T, {T}, got {sampling_steps}")
        if evaluations < 1:
            raise UserError(f"evaluations: expected 1 or more, got {evaluations}")
        self.T, self.sampling_steps, self.evaluations = T, sampling_steps, evaluations

    def build(self, info: DataInfo) -> None:
        """Makes the network, its average, and the schedule of the noise."""
        # the square: that of Nichol and Dhariwal, as in the authors' code
        self.schedule = CategoricalSchedule(cosine_kept(self.T).square())
        self.classes = len(info.classes)
        super().build(info)

    def make_network(self, info: DataInfo) -> nn.Module:
        """From an image and a label map with noise to logits of the classes of the map without."""
        return self.unet(info.channels + len(info.classes), outputs=len(info.classes))

    def shown(
        self,
        image: Float[Tensor, "batch channels height width"],
        noised: Int[Tensor, "batch height width"],
    ) -> Float[Tensor, "batch _channels height width"]:
        """What the network sees: the image, and a map for each class."""
        return torch.cat([2 * image - 1, one_hot(noised, self.classes)], dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch, a mean of the pixels that have a class."""
        image, semantic = batch["image"], batch["semantic"]
        clean = torch.where(semantic == NO_CLASS, torch.randint_like(semantic, self.classes), semantic)
        t = torch.randint(1, self.T + 1, (len(image),), device=image.device)
        noised = q_sample(clean, self.schedule.until(t), self.classes)
        foretold = self.network(self.shown(image, noised), t).softmax(1)
        loss = posterior_loss(clean, noised, foretold, t, self.schedule)
        counted = semantic != NO_CLASS
        return (loss * counted).sum() / counted.sum().clamp(min=1)

    def drawn_chances(
        self, image: Float[Tensor, "batch channels height width"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch _classes height width"]:
        """The probabilities of classes in the last step of one draw.

        Args:
            image: In [0, 1].
            seeds: Of the noise of each image.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pixels = torch.zeros(len(image), *image.shape[2:], dtype=torch.int64, device=image.device)

        def uniform() -> Tensor:
            return uniform_like(pixels, generators)

        def foretell(noised: Tensor, t: Tensor) -> Tensor:
            return self.averaged(self.shown(image, noised), t).softmax(1)

        start = start_of(self.schedule, self.classes, uniform())
        steps = spaced_steps(self.T, self.sampling_steps)
        return categorical_path(foretell, start, self.schedule, steps, uniform, mean_posterior)[1]

    def map_of(
        self, chances: Float[Tensor, "batch classes height width"], seeds: Sequence[int]
    ) -> Int[Tensor, "batch height width"]:
        """The label maps that the last step leads to: the most probable class of each pixel."""
        return chances.argmax(1)

    @torch.no_grad()
    def samples(
        self, image: Float[Tensor, "batch channels height width"], n: int, seed: int = 0
    ) -> Int[Tensor, "batch samples height width"]:
        """Several label maps that suit an image.

        Args:
            image: Images in [0, 1].
            n: How many maps of each.
            seed: Of the noise.

        Raises:
            UserError: If none is asked for.
            ValueError: If the images are not as those of training; the message names them.
        """
        if n < 1:
            raise UserError(f"n: expected 1 or more, got {n}")
        self.task.check_batch({"image": image}, self.info)
        image = image.to(self.device)
        places = [(place, number) for place in range(len(image)) for number in range(n)]
        found = []
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            seeds = [mix(seed, *each) for each in some]
            found.append(self.map_of(self.drawn_chances(image[[place for place, _ in some]], seeds), seeds))
        return torch.cat(found).unflatten(0, (len(image), n))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The mean of the probabilities of several draws, with the same noise for all images."""
        image = batch["image"]
        draws = [
            self.drawn_chances(image, [mix(0, number)] * len(image)) for number in range(self.evaluations)
        ]
        probabilities = torch.stack(draws).mean(0).clamp(0, 1)
        return {"semantic": probabilities.argmax(1), "probabilities": probabilities}


class IndependentPixels(CCDM):
    """The same network, which foretells the class of each pixel from the image alone; maps are drawn pixel by pixel."""

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy of a batch."""
        logits = self._logits(self.network, batch["image"])
        return functional.cross_entropy(logits, batch["semantic"], ignore_index=NO_CLASS)

    def drawn_chances(
        self, image: Float[Tensor, "batch channels height width"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch _classes height width"]:
        """The probabilities of classes, whatever the noise."""
        return self._logits(self.averaged, image).softmax(1)

    def map_of(
        self, chances: Float[Tensor, "batch classes height width"], seeds: Sequence[int]
    ) -> Int[Tensor, "batch height width"]:
        """A draw for each pixel."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return drawn(chances, uniform_like(chances[:, 0], generators))

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        untold = torch.zeros(len(image), self.classes, *image.shape[2:], device=image.device)
        t = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        logits: Tensor = network(torch.cat([2 * image - 1, untold], dim=1), t)
        return logits


SIDE, TRAINED, JUDGED = 24, 2000, 64
READERS = (5, 3, 2)
"""Of ten people, how many mark the core alone, the core and its rim, and the spot beside them as well."""
CLASSES = ("background", "lesion")
CLAIMED: dict[str, Any] = {"n_channels": 16, "ch_mults": (1, 2), "sampling_steps": 25}
CLAIM_PLAN: dict[str, Any] = {"steps": 800, "batch_size": 32}


class Readings(Dataset[Sample]):
    """Images of a disc with a pale rim and a pale spot beside it, each with what one person out of ten marked.

    Args:
        count: How many.
        seed: Of what is drawn, and of whom is asked.
    """

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def between(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, 1, 1, generator=generator)

        place = (torch.arange(SIDE) + 0.5) / SIDE
        grid = torch.stack(torch.meshgrid(place, place, indexing="ij"))
        centre, angle = between(0.4, 0.6, 2), between(0, 2 * math.pi)
        core = between(0.12, 0.18)
        outer = core + between(0.07, 0.1)
        away = torch.stack([angle.cos(), angle.sin()], dim=1) * (outer + 0.13)[:, None]
        far, apart = ((grid - each).norm(dim=1) for each in (centre, centre + away))
        inside, around, beside = far < core, far < outer, apart < between(0.08, 0.1)
        maps = torch.stack([inside, around, around | beside], dim=1)
        pale = 0.2 + 0.25 * maps[:, 2] + 0.35 * inside
        noise = 0.05 * torch.randn(pale.shape, generator=generator)
        self.image = (pale + noise).clamp(0, 1)[:, None]
        self.annotations = maps.repeat_interleave(torch.tensor(READERS), 1).long()
        self.reader = torch.randint(sum(READERS), (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.image[index], "semantic": self.annotations[index, self.reader[index]]}


def _drawn_maps(lab: Lab, method: CCDM, seed: int) -> tuple[Tensor, Tensor]:
    """As many maps of unseen images as there are people, drawn after training, and those of the people."""
    info = DataInfo(1, (SIDE, SIDE), CLASSES)
    train, test = Readings(TRAINED, mix(seed, 0)), Readings(JUDGED, mix(seed, 1))
    data = TaskData(f"readings of discs, seed {seed}", "discs that people read differently", train, info=info)
    plan = TrainingPlan(seed=seed, device=str(lab.device), hold_out=0.0, **CLAIM_PLAN)
    method = fitted_once(method, data, replace(plan, steps=2) if lab.quick else plan)
    return method.samples(test.image, sum(READERS), seed=seed).cpu(), test.annotations


@claim(
    text="The label maps that are drawn for an image are nearer, as a set, to those that people drew than maps whose "
    "pixels are drawn one by one from what the same network foretells of each.",
    where="abstract, and experiments on LIDC with the generalised energy distance",
    higher_is_better=False,
)
def whole_maps_are_nearer_to_what_people_draw(lab: Lab) -> Trial:
    """Made images of a disc, its pale rim and a spot, of which five in ten people mark the disc alone, three with the
    rim and two all; training shows what one of them marked. Ten maps of each of 64 unseen images.
    """

    def distance(method: CCDM, seed: int) -> float:
        return float(generalised_energy_distance(*_drawn_maps(lab, method, seed), len(CLASSES)).mean())

    return lab.measure(
        ours=lambda seed: distance(CCDM(**CLAIMED), seed),
        baseline=lambda seed: distance(IndependentPixels(**CLAIMED), seed),
        metric="generalised energy distance",
    )


@claim(
    text="Paired with the maps that people drew as suits best, drawn label maps overlap more with them than maps whose "
    "pixels are drawn one by one.",
    where="experiments on LIDC, Hungarian-matched intersection over union",
    higher_is_better=True,
)
def whole_maps_overlap_with_what_people_draw(lab: Lab) -> Trial:
    """As above."""

    def overlap(method: CCDM, seed: int) -> float:
        return float(hungarian_iou(*_drawn_maps(lab, method, seed), len(CLASSES)).mean())

    return lab.measure(
        ours=lambda seed: overlap(CCDM(**CLAIMED), seed),
        baseline=lambda seed: overlap(IndependentPixels(**CLAIMED), seed),
        metric="IoU of matched maps",
    )
