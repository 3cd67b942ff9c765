r"""Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021, arXiv:2104.02057.

Each view is to find, among the views of all images of the batch, the other one of its own image. It looks for that by
what a predictor says of it, among the keys that a slow copy of the network gives of the others. The copy takes the
place of MoCo's queue of earlier keys, which large batches make needless.

What the code follows:

- Section 3, equation 1, `info_nce_loss` of `pinakes.nn.contrastive`: the InfoNCE loss of queries and keys.
- Algorithm 1, `moco_v3_loss`: that loss times 2 tau, of either view as the query of the other, summed.
- Section 3 and github.com/facebookresearch/moco-v3, `PredictsTarget`: a head and a predictor of two layers each, the
  last one with a normalisation, as for the authors' ResNet; the copy has no predictor. Its momentum rises to 1 as a
  cosine.

Differences from the paper: a small convolutional network and batch, where the paper goes on to vision transformers;
narrow layers; AdamW for both; keys come from the copy as the step before left it. Both views are drawn alike: in
blur and solarisation, which are off by default for small images, the paper's two differ.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.contrastive import info_nce_loss
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, PredictsTarget, Untrained

EQUATIONS = (
    (
        "Equation 1",
        r"\mathcal{L}_q = -\log \frac{\exp(q \cdot k^+ / \tau)}{\exp(q \cdot k^+ / \tau) + "
        r"\sum_{k^-} \exp(q \cdot k^- / \tau)}",
    ),
    ("Algorithm 1", r"2 \tau \, (\mathcal{L}(q_1, k_2) + \mathcal{L}(q_2, k_1))"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def moco_v3_loss(
    query: Float[Tensor, "batch width"], key: Float[Tensor, "batch width"], temperature: float = 0.2
) -> Float[Tensor, ""]:
    """2 tau times the InfoNCE loss, so that gradients keep their size whatever the temperature is; of one direction.

    The keys of all processes are candidates.

    Args:
        query: What the predictor says of a view of each image.
        key: What the slow copy says of another view of the same images; no gradient flows to it.
        temperature: Tau, above 0.

    Source: algorithm 1, `ctr`.

    Example:
        >>> import torch
        >>> views = torch.eye(4)
        >>> moco_v3_loss(views, views) < moco_v3_loss(views, views.flip(0))
        tensor(True)
    """
    return 2 * temperature * info_nce_loss(query, key.detach(), temperature)


class MoCoV3(PredictsTarget):
    """A convolutional network whose predictor finds the key of the other view among those of a whole batch.

    Args:
        temperature: What cosines are divided by, above 0.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    last_norm = True

    def __init__(self, temperature: float = 0.2, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.temperature = temperature

    def compare(
        self, prediction: Float[Tensor, "batch _projection"], target: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """How badly predictions find their keys."""
        return moco_v3_loss(prediction, target, self.temperature)


@claim(
    text="A linear classifier reads more from features that learnt to find a slow copy's key of the other view than "
    "from random ones.",
    where="implied by the linear probes of section 5",
    higher_is_better=True,
)
def finding_the_key_of_a_slow_copy_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(ours=MoCoV3, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)
