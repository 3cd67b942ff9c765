r"""Singh et al., The effectiveness of MAE pre-pretraining for billion-scale pretraining, ICCV 2023, arXiv:2303.13496.

Images from the web come with tags that say something of them, and often something wrong. An encoder that is to learn
from such tags first learns without them, as a masked autoencoder; the decoder is then dropped, and the whole encoder is
trained on the tags. The authors found that this does better than either stage alone, however large model and data were.

What the code follows:

- Pre-pretraining, `pinakes.nn.masked_autoencoder`: L_MAE, the mean squared error of hidden patches.
- Weakly supervised pretraining, `weak_tag_loss`: the softmax cross-entropy of a linear layer on whole images, against
  a target y that is spread evenly over the tags T of the image, L_WSP = -1/|T| sum over t in T of log p_t. Nothing is
  frozen.
- Both are parts of one fit, the first a set share of its steps, `pre_share`. Each has its own rise and fall of the
  learning rate and fresh statistics of the optimiser. 0 leaves tags alone, 1 a masked autoencoder alone.

To see what wrong tags do, `with_wrong_tags` replaces a share of them; which ones, and by which, follows from the pixels
of the image, so that it is the same in every pass.

Differences from the paper: hundreds to thousands of images in place of billions, and classes of images in place of
hashtags where the data have no `tags`; networks and patches are small by default. The linear layer reads the mean over
the patches, as the embedding is, where the authors' models (github.com/facebookresearch/maws) read the class token.
Both stages have the same learning rate, weight decay and augmentation. Of the third stage, transfer, nothing is here
but what the task measures.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN
from pinakes.papers.self_supervised.mae import MAE
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Pre-pretraining",
        r"L_{MAE} = \frac{1}{|M|} \sum_{i \in M} \lVert \hat x_i - x_i \rVert^2 \text{ over hidden patches } M",
    ),
    ("Weakly supervised pretraining", r"L_{WSP} = -\frac{1}{|T|} \sum_{t \in T} \log p_t"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

STEP, FIRST, SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""The constants of SplitMix64, as signed numbers."""


def weak_tag_loss(
    logits: Float[Tensor, "batch classes"], tags: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """The softmax cross-entropy against a target that is spread evenly over the tags of an image.

    Args:
        logits: What the network says of each tag.
        tags: 1 for the tags of an image, 0 for others; images without any are left out.

    Source: section on weakly supervised pretraining.

    Example:
        >>> weak_tag_loss(torch.zeros(2, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        tensor(1.3863)
    """
    tagged = tags.sum(1) > 0
    if not tagged.any():
        return 0 * logits.sum()
    target = tags[tagged] / tags[tagged].sum(1, keepdim=True)
    return functional.cross_entropy(logits[tagged], target)


def drawn_by_content(
    image: Float[Tensor, "batch channels height width"], count: int
) -> Int[Tensor, "batch count"]:
    """Numbers from 0 to 2^31 - 1 that look random and follow from an image's pixels alone.

    Args:
        image: Images in [0, 1], of which 256 grey levels are told apart.
        count: How many numbers for each.

    Source: the last lines are SplitMix64 of Steele et al., Fast Splittable Pseudorandom Number Generators, 2014.
    """
    pixels = (image * 255).round().long().flatten(1)
    source = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (pixels.shape[1],), generator=source).to(image.device)
    # numbers of 64 bits wrap around
    number = (pixels * factors).sum(1, keepdim=True) + STEP * torch.arange(1, count + 1, device=image.device)
    for shift, factor in ((30, FIRST), (27, SECOND)):
        number = (number ^ _shifted(number, shift)) * factor
    return _shifted(number ^ _shifted(number, 31), 33)


def _shifted(number: Int[Tensor, "batch count"], places: int) -> Int[Tensor, "batch count"]:
    """Bits moved to the right, zeros put in front."""
    return (number >> places) & (2 ** (64 - places) - 1)


def with_wrong_tags(
    tags: Float[Tensor, "batch classes"], image: Float[Tensor, "batch channels height width"], share: float
) -> Float[Tensor, "batch classes"]:
    """Tags of which some are replaced by others, the same ones for the same image every time.

    Args:
        tags: 1 for the tags of an image, 0 for others.
        image: The images, not changed at random.
        share: With which chance a tag is replaced, 0 to 1; any other tag is as likely to stand in its place.

    Example:
        >>> image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> with_wrong_tags(torch.eye(2), image, 1.0)
        tensor([[0., 1.],
                [1., 0.]])
    """
    classes = tags.shape[1]
    chance, other = drawn_by_content(image, 2 * classes).chunk(2, dim=1)
    wrong = tags * (chance < int(share * 2**31))
    places = (torch.arange(classes, device=tags.device) + 1 + other % (classes - 1)) % classes
    # two tags may be replaced by the same one
    return (tags - wrong).scatter_add(1, places, wrong).clamp(max=1)


class MAEPrePretraining(MAE):
    """A vision transformer that learns to paint what is hidden of images, and then from tags that may be wrong.

    Args:
        pre_share: Share of the steps of training that paint, 0 to 1; the others learn from tags. Those are a field
            `tags` of the training samples, 1 for the tags of an image and 0 for others, or else its class. Images
            that have none are left out.
        wrong_tags: With which chance each tag is replaced by another, 0 to 1, to see what that does.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"label": "a class or tag of each image"}

    def __init__(self, pre_share: float = 0.5, wrong_tags: float = 0.0, **shared: Any) -> None:
        super().__init__(**shared)
        for name, value in (("pre_share", pre_share), ("wrong_tags", wrong_tags)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {value}")
        self.pre_share, self.wrong_tags = pre_share, wrong_tags

    def build(self, info: DataInfo) -> None:
        """Makes encoder, decoder and a linear layer that tells tags.

        Raises:
            UserError: If images cannot be cut into two patches or more, or there are fewer than two tags.
        """
        super().build(info)
        if len(info.classes) < 2:
            raise UserError(
                f"data: {type(self).__name__} learns from tags, of which there must be two or more, got "
                f"{len(info.classes)}; put the images into a folder for each class"
            )
        self.head = nn.Linear(self.embed_dim, len(info.classes))

    # -- the two stages --------------------------------------------------------------------------------------

    def stage_shares(self) -> Sequence[float]:
        """Painting, then tags."""
        return self.pre_share, 1 - self.pre_share

    def parts(self) -> tuple[bool, bool]:
        """Whether the step in progress paints, and whether it learns from tags.

        Outside of a fit nothing says which stage it is, and a step does all that training does.
        """
        if self.stage is None:
            return self.pre_share > 0, self.pre_share < 1
        return self.stage == 0, self.stage == 1

    def tags_of(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """The tags of a batch, of which some may be wrong; all 0 for images whose tags are not known."""
        if "tags" in batch:
            tags = batch["tags"].float()
        else:
            label = batch["label"]
            tags = functional.one_hot(label.clamp(min=0), len(self.info.classes)).float()
            tags = tags * (label >= 0)[:, None]
        return with_wrong_tags(tags, batch["image"], self.wrong_tags) if self.wrong_tags else tags

    def tags_loss(
        self, image: Float[Tensor, "batch channels height width"], tags: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""]:
        """L_WSP, of augmented images in [0, 1]."""
        return weak_tag_loss(self.head(self.encode(image)["embedding"]), tags)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """L_MAE in the first stage, L_WSP in the second."""
        image = self.augmented(self.sized(batch["image"]))
        paints, tells = self.parts()
        losses = [self.loss(image)] if paints else []
        if tells:
            losses.append(self.tags_loss(image, self.tags_of(batch)))
        return torch.stack(losses).sum()

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """As a masked autoencoder in the first stage; then nothing, as the decoder is no longer trained."""
        return super().painted(image) if self.parts() == (True, False) else {}


def _half_wrong(pre_share: float) -> MAEPrePretraining:
    return MAEPrePretraining(pre_share, wrong_tags=0.5, patch=8)


@claim(
    text="A linear classifier reads more from an encoder that first painted hidden patches and then learnt from tags, "
    "half of them wrong, than from one that learnt from these alone.",
    where="abstract and figure 1; wrong tags are made here",
    higher_is_better=True,
)
def painting_first_beats_tags_alone(lab: Lab) -> Trial:
    """Made scenes of single objects; equal steps in all, the same wrong classes, and right ones for the classifier."""
    return lab.duel(
        ours=lambda: _half_wrong(0.5),
        baseline=lambda: _half_wrong(0.0),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )


@claim(
    text="A linear classifier reads more from an encoder that first painted hidden patches and then learnt from tags, "
    "half of them wrong, than from one that painted all the time.",
    where="abstract and figure 1; wrong tags are made here",
    higher_is_better=True,
)
def tags_afterwards_beat_painting_alone(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: _half_wrong(0.5),
        baseline=lambda: _half_wrong(1.0),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
