r"""Kinakh et al., ScatSimCLR: self-supervised contrastive learning with pretext task regularization for small-scale
datasets, ICCV Workshops 2021, arXiv:2108.13939.

With few images there is little to learn filters from. So the first layers are not learnt: a scattering transform, made
of wavelets, already hardly changes when things move or bend a little. A small network, the adapter, learns to read it,
by finding the other view of the same image as in SimCLR, and by saying of images what was done to them: how far they
were turned, or how their pieces were mixed up.

What the code follows:

- Section 3, figure 5, `ScatteringEncoder`: the scattering of each colour by itself, then the adapter f_h on all of it.
- Equation 1, `nt_xent_loss` of `pinakes.nn.contrastive`: of two views, behind a projector.
- Equation 2: the cross-entropy of the parameters of the transform, said from h. Section 4: four turns, `rotation_loss`,
  or 35 ways to mix up nine pieces, `JigsawHead`; one of the two.
- Equation 3: L = L_contrast + lambda L_pretext. Section 5: lambda is 0 in the first 40 of 1000 epochs, then 0.3.

The authors' code, github.com/vkinakh/scatsimclr, settled what the text leaves open: the adapter, without strides, and
its 4 x 4 averages as h; pretext tasks with images of their own beside the two views; the layers of their heads.

Differences from the paper: a small adapter and heads; 8 directions, where 16 are the paper's best; coefficients are
normalised over the batch, which the authors' code prepares and does not do; views are turned after they were mirrored,
not before, as a quarter to the left could not be told from one to the right otherwise; the ways to mix up are chosen
here, and the pieces have the edge that the image leaves.
"""

import itertools
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.nn.projection import projection_head
from pinakes.nn.scattering import Scattering
from pinakes.nn.small_resnet import ResidualBlock
from pinakes.papers.self_supervised.rotnet import TURNS, rotation_loss, turned
from pinakes.papers.self_supervised.views import SHORT_PLAN, FromViews, of_two_views
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Equation 2", r"L_t = \frac{1}{2N} \sum_i d(t_i, g_{\theta_t}(h_i))"),
    ("Equation 3", r"L = L_{\mathrm{ScatSimCLR}} + \lambda L_t"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Pretext = Literal["rotation", "jigsaw", "none"]
POOLED = 4
"""Rows and columns of the averages that make up h."""
SIDE = 3
PIECES = SIDE**2
MIXTURES = 35
DROPPED = 0.5
"""The share of the numbers that is left out between the layers of the pretext heads."""


class ScatteringEncoder(nn.Module):
    """A scattering transform, and a small residual network that reads it.

    Args:
        size: Height and width of the images.
        channels: Of the images.
        scales: J of the scattering: its answers are 2^J pixels apart.
        angles: L of the scattering: how many directions it tells apart.
        width: Of the adapter's second half; a quarter of it at its entrance, and half of it in its first half.
        blocks: Residual blocks of the adapter, an even number.

    Source: section 3.
    """

    def __init__(
        self, size: tuple[int, int], channels: int, scales: int, angles: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.scattering = Scattering(size, scales, angles)
        coefficients = channels * self.scattering.paths
        self.norm = nn.BatchNorm2d(coefficients, affine=False)
        layers = [nn.Conv2d(coefficients, width // 4, 3, padding=1, bias=False), nn.BatchNorm2d(width // 4)]
        widths = [width // 4] + [width // 2] * (blocks // 2) + [width] * (blocks // 2)
        residual = (ResidualBlock(inner, outer, 1) for inner, outer in itertools.pairwise(widths))
        self.adapter = nn.Sequential(*layers, nn.ReLU(inplace=True), *residual)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _width _rows _columns"]:
        """The adapter's map."""
        maps: Tensor = self.adapter(self.norm(self.scattering(image).flatten(1, 2)))
        return maps


def pieces(
    image: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "tiles channels height width"]:
    """Nine pieces of each image, row by row, each brought to the size of the image.

    What is left over when a side is cut in three is left out.
    """
    height, width = image.shape[-2:]
    whole = image[..., : height // SIDE * SIDE, : width // SIDE * SIDE]
    cut = rearrange(whole, "b c (i h) (j w) -> (b i j) c h w", i=SIDE, j=SIDE)
    return functional.interpolate(cut, (height, width), mode="bilinear")


@cache
def _mixtures(count: int) -> Int[np.ndarray, "count 9"]:
    every = np.array(list(itertools.permutations(range(PIECES))), dtype=np.int8)
    chosen, nearest = [0], np.full(len(every), PIECES + 1)
    while len(chosen) < count:
        nearest = np.minimum(nearest, (every != every[chosen[-1]]).sum(1))
        chosen.append(int(nearest.argmax()))
    return every[chosen].astype(np.int64)


def mixtures(count: int = MIXTURES) -> Int[Tensor, "count 9"]:
    """Orders of nine pieces that differ much from each other, the same every time.

    The first leaves the pieces where they are; each other one is as far as can be from the nearest of those before it.

    Args:
        count: How many.

    Source: Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, ECCV 2016
        (arXiv:1603.09246), section 4.2, where the distance is that of pieces in different places.

    Example:
        >>> mixtures(2)
        tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8],
                [1, 0, 3, 2, 5, 4, 7, 8, 6]])
    """
    return torch.from_numpy(_mixtures(count).copy())


class JigsawHead(nn.Module):
    """Says how nine pieces were mixed up, from what the encoder says of each.

    Args:
        inputs: Width of that.
        hidden: Width of what is kept of each piece; the layer for all nine has twice as many.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of_piece = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(DROPPED))
        self.of_all = nn.Sequential(
            nn.Linear(PIECES * hidden, 2 * hidden),
            nn.ReLU(),
            nn.Dropout(DROPPED),
            nn.Linear(2 * hidden, MIXTURES),
        )

    def forward(self, piece: Float[Tensor, "batch 9 inputs"]) -> Float[Tensor, "batch mixtures"]:
        """Logits of the mixtures."""
        logits: Tensor = self.of_all(self.of_piece(piece).flatten(1))
        return logits


class ScatSimCLR(FromViews):
    """A small network on a scattering transform, which finds the other view and says what was done to images.

    Args:
        pretext: What it says of images beside that: by how many quarters they were turned ("rotation"), how their nine
            pieces were mixed up ("jigsaw"), or nothing ("none").
        pretext_weight: Weight of that loss, lambda, 0 or more.
        warm_up: The share of training in which that weight is 0, from 0 and below 1.
        scales: J of the scattering, 1 or more: its answers are 2^J pixels apart.
        angles: L of the scattering, 1 or more: how many directions it tells apart.
        width: Of the adapter, a multiple of 4.
        blocks: Residual blocks of the adapter, an even number of 2 or more.
        temperature: What cosines are divided by, above 0.
        hidden: Width of the hidden layers of projector and pretext head, an even number.
        projection: Width of the projector's output.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        pretext: Pretext = "rotation",
        pretext_weight: float = 0.3,
        warm_up: float = 0.04,
        scales: int = 2,
        angles: int = 8,
        width: int = 64,
        blocks: int = 4,
        temperature: float = 0.5,
        hidden: int = 128,
        projection: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if pretext not in get_args(Pretext):
            raise UserError(f"pretext: '{pretext}' is unknown{suggest(pretext, get_args(Pretext))}")
        if pretext_weight < 0:
            raise UserError(f"pretext_weight: expected 0 or more, got {pretext_weight}")
        if not 0 <= warm_up < 1:
            raise UserError(f"warm_up: expected a share from 0 and below 1, got {warm_up}")
        for name, number, step in (
            ("scales", scales, 1),
            ("angles", angles, 1),
            ("width", width, 4),
            ("blocks", blocks, 2),
            ("hidden", hidden, 2),
            ("projection", projection, 1),
        ):
            if number < step or number % step:
                raise UserError(f"{name}: expected a multiple of {step}, above 0, got {number}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.pretext, self.pretext_weight, self.warm_up = pretext, pretext_weight, warm_up
        self.scales, self.angles, self.width, self.blocks = scales, angles, width, blocks
        self.temperature, self.hidden, self.projection = temperature, hidden, projection

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, the projector and the head of the pretext task.

        Raises:
            UserError: If images are too small to be scattered, or not square and to be turned.
        """
        height, width = info.size
        if min(info.size) <= 2**self.scales:
            raise UserError(
                f"scales: images of {height}x{width} pixels are too small for 2^{self.scales} pixels; give fewer"
            )
        if self.pretext == "rotation" and height != width:
            raise UserError(
                f"pretext: images of {height}x{width} pixels are not square, so that turning them changes their size; "
                "give 'jigsaw' or another size"
            )
        self.encoder = self.made_encoder(info)
        inputs = self.width * POOLED**2
        self.head = projection_head([inputs, self.hidden, self.projection])
        if self.pretext == "rotation":
            self.pretext_head: nn.Module = nn.Sequential(
                nn.Linear(inputs, self.hidden),
                nn.ReLU(),
                nn.Dropout(DROPPED),
                nn.Linear(self.hidden, self.hidden // 2),
                nn.ReLU(),
                nn.Dropout(DROPPED),
                nn.Linear(self.hidden // 2, TURNS),
            )
        elif self.pretext == "jigsaw":
            self.pretext_head = JigsawHead(inputs, self.hidden)
            self.register_buffer("orders", mixtures(), persistent=False)

    def made_encoder(self, info: DataInfo) -> nn.Module:
        """What makes a map of `width` channels of images."""
        return ScatteringEncoder(info.size, info.channels, self.scales, self.angles, self.width, self.blocks)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The averages over parts of the map, one after the other, and the map."""
        maps = self.encoder(image)
        return {"embedding": functional.adaptive_avg_pool2d(maps, POOLED).flatten(1), "features": maps}

    def represent(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _inputs"]:
        """h of images, the embedding."""
        return self.encode(image)["embedding"]

    def project(
        self, view: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch projection"]:
        """What the projector says of views."""
        projected: Tensor = self.head(self.represent(view))
        return projected

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly views find each other, and how badly it is said what was done to images."""
        one, other = of_two_views(self.project, self.view(image), self.view(image))
        loss = nt_xent_loss(one, other, self.temperature)
        if self.pretext == "none" or self.done < self.warm_up:
            return loss
        told = self.rotation(image) if self.pretext == "rotation" else self.jigsaw(image)
        return loss + self.pretext_weight * told

    def rotation(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly it is said by how many quarters a view was turned."""
        return rotation_loss(self.pretext_head(self.represent(turned(self.view(image)))))

    def jigsaw(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly it is said how the pieces of an image were mixed up."""
        orders: Tensor = self.get_buffer("orders")
        mixture = (torch.rand(len(image), device=image.device) * len(orders)).long()
        said = rearrange(self.represent(pieces(image)), "(b p) w -> b p w", p=PIECES)
        mixed = said.gather(1, orders[mixture][:, :, None].expand_as(said))
        return functional.cross_entropy(self.pretext_head(mixed), mixture)


class _Maps(nn.Module):
    """The last map of a residual network all of whose filters are learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extractor = FeatureExtractor("pinakes/resnet20s2", (-1,), channels)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _width _rows _columns"]:
        """The map."""
        maps: Tensor = self.extractor(image)[-1]
        return maps


class _AllLearnt(ScatSimCLR):
    """SimCLR with the same heads, and a residual network in the place of scattering and adapter."""

    def made_encoder(self, info: DataInfo) -> nn.Module:
        """A residual network with as wide a map."""
        return _Maps(info.channels)


LARGE_DIGITS = "digits?size=32"
"""Handwritten digits, so large that the last map of a residual network has 4 x 4 places, as the averages have."""


@claim(
    text="Saying by how much views were turned, beside finding the other view, makes features from which a linear "
    "classifier reads more.",
    where="section 6.2.1, table 3",
    higher_is_better=True,
)
def saying_the_turn_helps(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides, with and without the pretext task."""
    return lab.duel(
        ours=lambda: ScatSimCLR(angles=4),
        baseline=lambda: ScatSimCLR(pretext="none", angles=4),
        data=LARGE_DIGITS,
        metric="linear_probe",
        **SHORT_PLAN,
    )


@claim(
    text="From scattering and an adapter a linear classifier reads more than from a residual network with more numbers "
    "to be learnt, after the same training.",
    where="section 6.2.1, table 3; figure 1",
    higher_is_better=True,
)
def fixed_wavelets_beat_learnt_filters(lab: Lab) -> Trial:
    """As above, without the pretext task on either side; both embeddings are 4 x 4 averages of 64 channels."""
    return lab.duel(
        ours=lambda: ScatSimCLR(pretext="none", angles=4),
        baseline=lambda: _AllLearnt(pretext="none"),
        data=LARGE_DIGITS,
        metric="linear_probe",
        **SHORT_PLAN,
    )
