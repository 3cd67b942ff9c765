r"""Feng et al., ERNIE-ViLG 2.0: Improving Text-to-Image Diffusion Model with Knowledge-Enhanced
Mixture-of-Denoising-Experts, CVPR 2023, arXiv:2210.15257.

Out of almost nothing but noise, a network must sketch what an image is to show; near the end it only sharpens details.
Here these are tasks of several networks of the same form, the experts: the steps are cut into blocks, and each block
has an expert of its own. As only one of them is asked in each step, an image costs what it costs with one network.
Where it is known which parts of training images matter most, errors there count more.

What is not here is the text. The paper's model has 24 billion parameters and makes images of Chinese sentences, in
which a parser marks key words for its attention and a detector finds the objects that they name. Its images and
sentences are not public, nor is its code, and this is no attempt at it: the two mechanisms are tried on small networks
that are told classes at most, and key regions come with the data, as the field "mask".

What the code follows:

- Experts, `ExpertMixture`: the T steps are cut into n blocks of the same length, one after the other; expert i answers
  in block i.
- Key regions, `key_region_error`: the squared error of each pixel counts 1 + w inside of key regions, and 1 elsewhere.

Differences from the paper, where its code would have to settle it: fewer experts, each with an embedding of classes of
its own, while the paper's share what reads the text; all learn as one first, as in Balaji et al., eDiff-I, 2022
(arXiv:2211.01324); the steps of a batch are spread evenly over all blocks, so that no expert misses a batch; the size
of w.
"""

import copy
import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.augment import flipped
from pinakes.nn.gaussian_diffusion import q_sample
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, Diffusion, to_foretell
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Experts",
        r"\epsilon_\theta(x_t, t) = \epsilon_{\theta_i}(x_t, t) , \quad i = \lfloor (t - 1) \, n / T \rfloor",
    ),
    (
        "Key regions",
        r"L = \mathbb{E} \lVert \sqrt{W} \odot (\epsilon - \epsilon_\theta(x_t, t)) \rVert^2 , \quad "
        r"W_{ij} = 1 + w \, [(i, j) \in \mathrm{region}]",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def expert_of(t: Int[Tensor, " batch"], steps: int, experts: int) -> Int[Tensor, " batch"]:
    """Which expert answers at a step, from 0.

    Args:
        t: Steps, 1 to `steps`.
        steps: T.
        experts: n, how many blocks the steps are cut into.

    Example:
        >>> expert_of(torch.tensor([1, 250, 251, 1000]), 1000, 4)
        tensor([0, 0, 1, 3])
    """
    return (t - 1) * experts // steps


def spread_steps(count: int, steps: int, device: torch.device | None = None) -> Int[Tensor, " count"]:
    """Random steps, from 1, one in each of as many parts of the same length; drawn from torch's generator.

    Args:
        count: How many.
        steps: T.
        device: Where they are needed.
    """
    place = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    return (place * steps).long().clamp(max=steps - 1) + 1


def key_region_error(
    error: Float[Tensor, "batch channels height width"],
    region: Bool[Tensor, "batch height width"],
    weight: float,
) -> Float[Tensor, " batch"]:
    """The mean squared error of each sample, of which more counts in key regions.

    Args:
        error: What is foretold less what is true.
        region: Where an image shows what matters.
        weight: w, how much more that counts, 0 or more.

    Source: key regions.
    """
    return ((1 + weight * region[:, None]) * error.square()).flatten(1).mean(1)


def region_of_boxes(
    boxes: Float[Tensor, "boxes 4"], height: int, width: int
) -> Bool[Tensor, "{height} {width}"]:
    """The pixels of an image whose middle lies in a box.

    Args:
        boxes: Left, top, right and bottom in pixels.
        height: Of the image.
        width: Of the image.
    """
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(size, device=boxes.device) + 0.5 for size in (height, width))
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, :, None] & across[:, None, :]).any(0)


class ExpertMixture(nn.Module):
    """Networks of the same form, each of which answers in its own block of steps.

    Args:
        expert: The first of them; the others start as copies.
        experts: n, how many there are.
        steps: T.
    """

    def __init__(self, expert: nn.Module, experts: int, steps: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList([expert, *(copy.deepcopy(expert) for _ in range(experts - 1))])
        self.steps = steps

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch _outputs height width"]:
        """What the expert for each image's step says."""
        block = expert_of(t, self.steps, len(self.experts))
        places, answers = [], []
        for number, expert in enumerate(self.experts):
            place = (block == number).nonzero()[:, 0]
            if len(place):
                places.append(place)
                answers.append(expert(image[place], t[place], None if label is None else label[place]))
        return torch.cat(answers)[torch.cat(places).argsort()]

    def share_gradients(self) -> None:
        """Gives all experts the gradients of the first, so that they learn as one."""
        first, *others = (list(expert.parameters()) for expert in self.experts)
        for other in others:
            for own, taken in zip(other, first, strict=True):
                own.grad = None if taken.grad is None else taken.grad.clone()


class DenoisingExperts(Diffusion):
    """A diffusion model with a network of its own for each block of steps.

    Args:
        experts: How many networks there are, 1 to T; 10 in the paper.
        together: The share of training in which all of them learn as one, for all steps; 0 or more and below 1. Where
            only a time limit ends training, they learn apart from the start.
        region_weight: How much more errors count inside of the masks of training images, 0 or more, where the data give
            a field "mask".

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    network: ExpertMixture

    def __init__(
        self, experts: int = 4, together: float = 0.5, region_weight: float = 0.1, **shared: Any
    ) -> None:
        super().__init__(**shared)
        if not 1 <= experts <= self.T:
            raise UserError(f"experts: expected 1 to T, {self.T}, got {experts}")
        if not 0 <= together < 1:
            raise UserError(f"together: expected a share of 0 or more and below 1, got {together}")
        if region_weight < 0:
            raise UserError(f"region_weight: expected 0 or more, got {region_weight}")
        self.experts, self.together, self.region_weight = experts, together, region_weight

    def make_network(self, info: DataInfo) -> nn.Module:
        """As many U-Nets as there are experts, which start equal."""
        return ExpertMixture(super().make_network(info), self.experts, self.T)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; key regions are those of its field "mask", if it has one."""
        image, mask = batch["image"], batch.get("mask")
        region = torch.zeros_like(image[:, 0]) if mask is None else (mask > 0).to(image)
        if self.mirror:
            both = flipped(torch.cat([image, region[:, None]], dim=1))
            image, region = both[:, :-1], both[:, -1]
        return self.loss(self.encode(image), self.told_in_training(batch), region > 0)

    def loss(
        self,
        clean: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        region: Bool[Tensor, "batch height width"] | None = None,
    ) -> Float[Tensor, ""]:
        """What is minimised, of images in [-1, 1], what they are told to be, and where they show what matters."""
        t = spread_steps(len(clean), self.T, clean.device)
        noise = torch.randn_like(clean)
        kept = self.alpha_bar[t]
        network = self.network.experts[0] if self._learn_as_one() else self.network
        told = network(q_sample(clean, noise, kept), t, label)
        if region is None:
            region = torch.zeros_like(clean[:, 0], dtype=torch.bool)
        error = key_region_error(
            told - to_foretell(self.foretold, clean, noise, kept), region, self.region_weight
        )
        return (self.weight(t) * error).mean()

    def on_after_backward(self) -> None:
        """Lets all experts learn from the gradients of the first, as long as they are to learn as one."""
        if self._learn_as_one():
            self.network.share_gradients()

    def _learn_as_one(self) -> bool:
        if self._trainer is None:
            return False
        total = self.trainer.estimated_stepping_batches
        # a number beyond reach stands for training that only time ends
        known = math.isfinite(total) and 0 < total < 10**8
        return known and self.global_step < self.together * total


@claim(
    text="At the same cost of training and of each image, samples by four experts are nearer to real images than those "
    "by one network of the same size.",
    where="section 1: experts learn the data of each stage better, without longer inference",
    higher_is_better=False,
)
def four_experts_beat_one_network(lab: Lab) -> Trial:
    """Digits of 8 pixels, half again as many steps as usual; FID by the features of the embedded network."""
    return lab.duel(
        ours=lambda: DenoisingExperts(experts=4, **CLAIMED),
        baseline=lambda: DenoisingExperts(experts=1, **CLAIMED),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN | {"steps": 1500},
    )
