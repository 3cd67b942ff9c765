r"""Xie et al., Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning,
CVPR 2021, arXiv:2011.10043.

Features of pixels, not of images: two crops of an image are drawn, and it is known where each lies, so it is known
which cells of their feature maps show the same place. A cell of one crop, smoothed by those of its own crop that are
like it, is to say what the other crop's cell says there. The other crop is looked at by a network that follows slowly.

What the code follows, with x_i a cell of the trained network's map and x'_j one of the follower's:

- Section 3.1, equation 1, `positive_pairs`: cells are a pair if their centres, warped into the image, are no further
  apart than T = 0.7 times the diagonal of a cell.
- Section 3.1, equation 2, `pixcontrast_loss`: each cell is to find its partners among all cells of the other crop. A
  second method, `PixContrast`, is trained so.
- Section 3.2, equations 3 and 4, `PixelPropagation`: y_i = sum over j of max(cos(x_i, x_j), 0)^gamma g(x_j).
- Section 3.2, equation 5, `consistency_loss`: -cos(y_i, x'_j) - cos(y_j, x'_i), the mean over all pairs of an image.

From github.com/zdaxie/PixPro: of two cells of different size the larger diagonal counts; g(x_j) is normalised; g is
one linear layer; images without a pair count with a loss of 0; the follower's momentum rises from 0.99 to 1.

Differences from the paper: a small network, batch and projection; AdamW in place of LARS; colours change as in SimCLR.
Of `pixcontrast_loss`, cells with a partner count as those inside both crops. No instance branch, and no pre-trained
feature pyramid.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.crops import cropped, random_boxes
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.simclr import SimCLR
from pinakes.papers.self_supervised.views import SHORT_PLAN, ConvolutionalFromViews, Following

EQUATIONS = (
    ("Equation 1", r"A(i, j) = 1 \text{ if } \mathrm{dist}(i, j) \le T, \; 0 \text{ otherwise}"),
    (
        "Equation 2",
        r"L_{Pix}(i) = -\log \frac{\sum_{j \in \Omega_p^i} e^{\cos(x_i, x'_j) / \tau}}"
        r"{\sum_{j \in \Omega_p^i} e^{\cos(x_i, x'_j) / \tau} + \sum_{k \in \Omega_n^i} e^{\cos(x_i, x'_k) / \tau}}",
    ),
    ("Equations 3 and 4", r"y_i = \sum_{j \in \Omega} \max(\cos(x_i, x_j), 0)^\gamma \, g(x_j)"),
    ("Equation 5", r"L_{PixPro} = -\cos(y_i, x'_j) - \cos(y_j, x'_i)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

CLAIM_DATA = "scenes:people?size=48&n=1000"
"""Made people, whose parts are to be told apart: the data of both claims. Of made scenes of single things, after as few
steps, a linear classifier read no more from `PixPro` or SimCLR than from a network that was not trained, so that a
comparison of the two said nothing; from `PixContrast` it read somewhat more."""
CLAIMED: dict[str, Any] = {"backbone": "pinakes/resnet8s2"}
"""The network of claims, small because two of them look at every view."""


def cell_centres(boxes: Float[Tensor, "batch 4"], grid: tuple[int, int]) -> Float[Tensor, "batch cells 2"]:
    """Where in the image the cells of crops have their centres, x and y, row by row.

    Args:
        boxes: x0, y0, x1, y1 of each crop, in any unit; of a mirrored crop x0 and x1 are exchanged.
        grid: Rows and columns of cells.

    Example:
        >>> cell_centres(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), (1, 2))
        tensor([[[2., 2.],
                 [6., 2.]]])
    """
    rows, columns = (
        (torch.arange(count, device=boxes.device, dtype=boxes.dtype) + 0.5) / count for count in grid
    )
    shares = torch.cartesian_prod(rows, columns).flip(1).view(-1, 2)
    return torch.lerp(boxes[:, None, :2], boxes[:, None, 2:], shares)


def positive_pairs(
    one: Float[Tensor, "batch 4"],
    other: Float[Tensor, "batch 4"],
    grid: tuple[int, int],
    threshold: float = 0.7,
) -> Bool[Tensor, "batch cells others"]:
    """Which cells of two crops of an image show the same place.

    Args:
        one: The boxes of one crop of each image, as in `cell_centres`.
        other: Those of another.
        grid: Rows and columns of cells of both.
        threshold: T, the distance of centres up to which they do, in diagonals of the larger of the two's cells.

    Source: equation 1.
    """
    sides = one.new_tensor([grid[1], grid[0]])
    diagonals = [((boxes[:, 2:] - boxes[:, :2]) / sides).norm(dim=1) for boxes in (one, other)]
    apart = (cell_centres(one, grid)[:, :, None] - cell_centres(other, grid)[:, None]).norm(dim=3)
    return apart <= threshold * torch.maximum(*diagonals)[:, None, None]


def consistency_loss(
    propagated: Float[Tensor, "batch cells dim"],
    target: Float[Tensor, "batch others dim"],
    positive: Bool[Tensor, "batch cells others"],
) -> Float[Tensor, ""]:
    """-cos(y_i, x'_j), the mean over the pairs of an image, 0 where it has none, and then over images.

    Args:
        propagated: y, of the cells of one crop.
        target: x', of those of another.
        positive: Which of them are pairs.

    Source: equation 5, one half of it.
    """
    cosines = functional.normalize(propagated, dim=2) @ functional.normalize(target, dim=2).mT
    return -((cosines * positive).sum((1, 2)) / positive.sum((1, 2)).clamp(min=1)).mean()


def pixcontrast_loss(
    one: Float[Tensor, "batch cells dim"],
    other: Float[Tensor, "batch others dim"],
    positive: Bool[Tensor, "batch cells others"],
    temperature: float = 0.3,
) -> Float[Tensor, ""]:
    """How badly cells find their partners among all of the other crop: the mean over those that have one, 0 where none
    has, and then over images.

    Args:
        one: x, of the cells of one crop.
        other: x', of those of another.
        positive: Which of them are pairs.
        temperature: tau, what cosines are divided by, above 0.

    Source: equation 2.
    """
    logits = functional.normalize(one, dim=2) @ functional.normalize(other, dim=2).mT / temperature
    # the least number in place of minus infinity, whose gradient is no number where a cell has no partner
    partners = logits.masked_fill(~positive, torch.finfo(logits.dtype).min).logsumexp(2)
    has_partner = positive.any(2)
    loss = torch.where(has_partner, logits.logsumexp(2) - partners, 0.0)
    return (loss.sum(1) / has_partner.sum(1).clamp(min=1)).mean()


class PixelPropagation(nn.Module):
    """Smooths each cell by those of its map that are like it.

    Args:
        width: Of the cells.
        gamma: How sharply likeness counts, 1 or more.

    Source: equations 3 and 4.
    """

    def __init__(self, width: int, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.transform = nn.Linear(width, width)

    def forward(self, cells: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        """y, of the cells of each map."""
        normal = functional.normalize(cells, dim=2)
        likeness = (normal @ normal.mT).clamp(min=0) ** self.gamma
        return likeness @ functional.normalize(self.transform(cells), dim=2)


class ProjectedMaps(nn.Module):
    """What a head says of every cell of an encoder's last map.

    Args:
        encoder: Gives feature maps.
        head: Of one cell.
    """

    def __init__(self, encoder: FeatureExtractor, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """The projected map."""
        maps: Tensor = self.encoder(image)[-1].movedim(1, 3)
        projected: Tensor = self.head(maps.flatten(0, 2))
        return projected.unflatten(0, maps.shape[:3]).movedim(3, 1)


class FromCells(Following, ConvolutionalFromViews):
    """A convolutional encoder that learns from the cells of two crops, and a copy that follows it.

    A subclass gives `compare`.

    Args:
        threshold: T, how far the centres of two cells that show the same place may be apart, above 0, in diagonals of
            the larger one.
        projection: Width of the head's output; its hidden layer is twice as wide as the encoder's last map.
        momentum: The share of its own weights that the copy keeps in a step, 0 to 1, at first; it rises to 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, threshold: float = 0.7, projection: int = 64, momentum: float = 0.99, **shared: Any
    ) -> None:
        super().__init__(**shared)
        if not threshold > 0:
            raise UserError(f"threshold: expected a number above 0, got {threshold}")
        if projection < 1:
            raise UserError(f"projection: expected a whole number of 1 or more, got {projection}")
        if not 0 <= momentum <= 1:
            raise UserError(f"momentum: expected a share from 0 to 1, got {momentum}")
        self.threshold, self.projection, self.momentum = threshold, projection, momentum

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, its head, and the copy of both."""
        super().build(info)
        self.head = projection_head([self.width, 2 * self.width, self.projection])
        self.target = MomentumCopy(self.online())

    def online(self) -> ProjectedMaps:
        """The encoder with its head."""
        return ProjectedMaps(self.encoder, self.head)

    def followed(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """The copy follows encoder and head."""
        return [(self.target, self.online())]

    def placed_view(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch 4"]]:
        """A random view of each image, and where it lies: x0, y0, x1, y1 in pixels, x0 and x1 exchanged if mirrored."""
        height, width = image.shape[-2:]
        boxes = random_boxes(len(image), (height, width), (self.least_area, 1.0), image.device).to(
            image.dtype
        )
        view = cropped(image, boxes)
        heads = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
        view = torch.where(heads, view.flip(-1), view)
        boxes = torch.where(heads[:, 0, 0], boxes[:, [2, 1, 0, 3]], boxes)
        return self.recoloured(view), boxes * boxes.new_tensor([width, height] * 2)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly cells agree with those of the other crop that show the same place."""
        (one, box), (other, other_box) = self.placed_view(image), self.placed_view(image)
        online = self.online()
        maps, other_maps = online(one), online(other)
        grid = (maps.shape[2], maps.shape[3])
        cells, other_cells = maps.flatten(2).mT, other_maps.flatten(2).mT
        target, other_target = (self.target(view).flatten(2).mT for view in (one, other))
        positive = positive_pairs(box, other_box, grid, self.threshold)
        return self.compare(cells, other_target, positive) + self.compare(other_cells, target, positive.mT)

    def compare(
        self,
        online: Float[Tensor, "batch cells dim"],
        target: Float[Tensor, "batch others dim"],
        positive: Bool[Tensor, "batch cells others"],
    ) -> Float[Tensor, ""]:
        """The loss of one direction."""
        raise NotImplementedError(f"{type(self).__name__} gives no compare")


class PixPro(FromCells):
    """A convolutional network whose cells learn to say, smoothed, what those of another crop say of the same place.

    Args:
        gamma: How sharply likeness counts where cells are smoothed, 1 or more.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, gamma: float = 2.0, **shared: Any) -> None:
        super().__init__(**shared)
        if gamma < 1:
            raise UserError(f"gamma: expected a number of 1 or more, got {gamma}")
        self.gamma = gamma

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, its head, the copy of both, and the propagation of cells."""
        super().build(info)
        self.propagation = PixelPropagation(self.projection, self.gamma)

    def compare(
        self,
        online: Float[Tensor, "batch cells dim"],
        target: Float[Tensor, "batch others dim"],
        positive: Bool[Tensor, "batch cells others"],
    ) -> Float[Tensor, ""]:
        """How far smoothed cells are from their partners."""
        return consistency_loss(self.propagation(online), target, positive)


class PixContrast(FromCells):
    """A convolutional network whose cells learn to find those of another crop that show the same place.

    Args:
        temperature: tau, what cosines are divided by, above 0.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, temperature: float = 0.3, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.temperature = temperature

    def compare(
        self,
        online: Float[Tensor, "batch cells dim"],
        target: Float[Tensor, "batch others dim"],
        positive: Bool[Tensor, "batch cells others"],
    ) -> Float[Tensor, ""]:
        """How badly cells find their partners."""
        return pixcontrast_loss(online, target, positive, self.temperature)


@claim(
    text="A linear classifier of patches reads the classes of pixels better from features that agree cell by cell than "
    "from those by which whole images are found again.",
    where="abstract; tables of transfer to detection and segmentation",
    higher_is_better=True,
)
def cells_teach_more_of_pixels_than_images(lab: Lab) -> Trial:
    """Made people; the same network, crops, colours and steps on both sides."""
    return lab.duel(
        ours=lambda: PixPro(**CLAIMED),
        baseline=lambda: SimCLR(**CLAIMED),
        data=CLAIM_DATA,
        metric="linear_miou",
        **SHORT_PLAN,
    )


@claim(
    text="A linear classifier of patches reads the classes of pixels better from cells that learnt to agree than from "
    "cells that learnt to find each other.",
    where="abstract; section 3.2",
    higher_is_better=True,
)
def agreeing_beats_finding(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: PixPro(**CLAIMED),
        baseline=lambda: PixContrast(**CLAIMED),
        data=CLAIM_DATA,
        metric="linear_miou",
        **SHORT_PLAN,
    )
