r"""Choi et al., Perception Prioritized Training of Diffusion Models, CVPR 2022, arXiv:2204.00227.

What a network learns depends on how strong the noise is. Under strong noise it learns what there is in an image, under
weak noise only to clean up details that nobody would miss. So errors under weak noise are counted less, and the network
has more of itself left for the rest. Nothing else changes.

What the code follows:

- P2 weights, `p2_weights`: the squared error of the noise at step t counts lambda_t / (k + SNR(t))^gamma with
  SNR(t) = alpha_bar_t / (1 - alpha_bar_t), and lambda_t = 1 as in the simple loss. With gamma = 0 it is that loss.
- The authors' code (github.com/jychoi118/P2-weighting): the weight is that of the error of the noise, k = 1 and
  gamma = 1 or 0.5, and weights are not scaled to have mean 1.
- `weights_for`: a network that foretells something else has another scale of errors; its weights are those under which
  the loss is the same.

Differences from the paper: a small network, trained for a short time, that learns no variances.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, Diffusion, Foretold
from pinakes.papers.diffusion.ddpm import DDPM

EQUATIONS = (
    (
        "P2 weights",
        r"\lambda'_t = \frac{\lambda_t}{(k + \mathrm{SNR}(t))^\gamma} , \quad "
        r"\mathrm{SNR}(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t}",
    ),
)
"""The equation above in LaTeX, for the documentation; a label opens an item of the list."""


def p2_weights(
    alpha_bar: Float[Tensor, " *steps"], gamma: float = 1.0, k: float = 1.0
) -> Float[Tensor, " *steps"]:
    """What the squared error of the noise counts.

    Args:
        alpha_bar: What is left of an image's variance, 0 or more and below 1.
        gamma: How much less weak noise counts, 0 or more; 0 for no less.
        k: Above 0; below it, a signal-to-noise ratio makes little difference.

    Returns:
        The weights, 1 / k^gamma at most.

    Source: the P2 weights for lambda_t = 1.

    Example:
        >>> import torch
        >>> p2_weights(torch.tensor([0.0, 0.5, 0.75]))
        tensor([1.0000, 0.5000, 0.2500])
    """
    return (k + alpha_bar / (1 - alpha_bar)) ** -gamma


def weights_for(
    kind: Foretold, alpha_bar: Float[Tensor, " *steps"], gamma: float = 1.0, k: float = 1.0
) -> Float[Tensor, " *steps"]:
    """What the squared error of what a network foretells counts, so that the loss is that of `p2_weights`.

    An error of x_0 is one of the noise that is sqrt(SNR) times as large, and an error of the velocity one that is
    sqrt(alpha_bar) times as large.

    Args:
        kind: "noise", "clean" or "velocity".
        alpha_bar: As there.
        gamma: As there.
        k: As there.
    """
    weight = p2_weights(alpha_bar, gamma, k)
    if kind == "noise":
        return weight
    return weight * (alpha_bar if kind == "velocity" else alpha_bar / (1 - alpha_bar))


class P2Weighting(Diffusion):
    """A diffusion model that learns most from strong noise.

    Args:
        gamma: How much less weak noise counts, 0 or more; 0 for the simple loss.
        k: Above 0; below it, a signal-to-noise ratio makes little difference.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        if gamma < 0:
            raise UserError(f"gamma: expected 0 or more, got {gamma}")
        if not k > 0:
            raise UserError(f"k: expected a number above 0, got {k}")
        self.gamma, self.k = gamma, k

    def weight(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How much the error at each step counts."""
        return weights_for(self.foretold, self.alpha_bar[t], self.gamma, self.k)


@claim(
    text="With errors under weak noise counted less, samples along the same noise are nearer to real images than with "
    "all counted alike.",
    where="abstract: the weighting improves diffusion models whatever the sampler",
    higher_is_better=False,
)
def counting_weak_noise_less_helps(lab: Lab) -> Trial:
    """Digits of 8 pixels; FID by the features of the embedded network. Samples are drawn with DDIM. The paper's
    images are far larger.
    """
    return lab.duel(
        ours=lambda: P2Weighting(**CLAIMED),
        baseline=lambda: DDPM(**CLAIMED),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )


@claim(
    text="With errors under weak noise counted less, samples with new noise in each step are nearer to real images "
    "than with all counted alike.",
    where="abstract: the weighting improves diffusion models whatever the sampler",
    higher_is_better=False,
)
def it_helps_with_new_noise_in_each_step(lab: Lab) -> Trial:
    """As above; both sides draw their samples as DDPM does, with 100 questions to the network for each."""
    ancestral = CLAIMED | {"sampler": "ddpm", "sampling_steps": 100}
    return lab.duel(
        ours=lambda: P2Weighting(**ancestral),
        baseline=lambda: DDPM(**ancestral),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )
