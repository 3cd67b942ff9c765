r"""Benny and Wolf, Dynamic Dual-Output Diffusion Models, CVPR 2022, arXiv:2203.04304.

A network may foretell the noise in an image, or the image itself. Either says where the next step leads. Under strong
noise the image is the safer answer: to take out noise that is foretold a little wrongly blows up the error. Under weak
noise it is the other way round. This network gives both answers, and a gate, for each pixel, that says how far to trust
which. That costs some channels of its last layer, and helps most where few steps are taken.

What the code follows:

- Answers, `two_answers`: one network gives eps_theta, x_theta and a gate r_theta between 0 and 1.
- Mean, `blended`: mu_theta = r mu_x + (1 - r) mu_eps. A mean is a fixed mixture of x_t and an estimate of x_0, so to
  mix the two means is to mix the two estimates, and DDIM and DPM-Solver++ can use them as well.
- Loss, `dual_output_loss`: the squared errors of eps_theta, of x_theta and of the mean; the last one reaches only the
  gate, as gradients stop at both answers.

Differences from the paper: a small network, trained for a short time, and no learnt variances. No public code settles
three things, and they are ours. All terms count the same. The gate has a value for each pixel and channel. The error of
the mean is divided by the sum of the errors of the two means that it mixes: so it is 1 at most, is the same whether
means or estimates of x_0 are compared, and teaches the gate at every step, while the plain error all but vanishes
except in the last few steps to the image. The estimate that follows from the noise is cut to [-1, 1] before it is
blended, as it is in DDPM, so that the gate learns about what is used.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import predicted_clean, q_sample
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, Diffusion
from pinakes.papers.diffusion.ddpm import DDPM

EQUATIONS = (
    ("Mean", r"\mu_\theta = r_\theta \, \mu_x + (1 - r_\theta) \, \mu_\epsilon"),
    (
        "Loss",
        r"L = \lVert \epsilon - \epsilon_\theta \rVert^2 + \lVert x_0 - x_\theta \rVert^2 + \lVert \tilde\mu_t - "
        r"r_\theta \, \mathrm{sg}(\mu_x) - (1 - r_\theta) \, \mathrm{sg}(\mu_\epsilon) \rVert^2",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

TINY = 1e-12
"""Keeps a quotient of errors defined where there are none."""
FEW = CLAIMED | {"sampling_steps": 5}
"""Where answers are asked for so rarely, it matters most which is trusted."""


def two_answers(
    told: Float[Tensor, "batch outputs height width"],
) -> tuple[
    Float[Tensor, "batch channels height width"],
    Float[Tensor, "batch channels height width"],
    Float[Tensor, "batch channels height width"],
]:
    """What the channels of a network's answer mean.

    Args:
        told: Three times as many channels as images have.

    Returns:
        eps_theta, x_theta and r_theta, the latter between 0 and 1.
    """
    noise, clean, gate = told.chunk(3, dim=1)
    return noise, clean, gate.sigmoid()


def blended(
    noised: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    gate: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " batch"],
    within_bounds: bool = True,
) -> Float[Tensor, "batch *shape"]:
    """The estimate of x_0 whose mean of the next step is the gate's mixture of both means.

    Args:
        noised: x_t.
        noise: eps_theta.
        clean: x_theta.
        gate: r_theta, how far `clean` is trusted, 0 to 1.
        alpha_bar: alpha_bar_t of each sample, above 0.
        within_bounds: Whether the estimate that follows from the noise is cut to [-1, 1] first.

    Source: the mean; it is linear in the estimate of x_0.
    """
    other = predicted_clean(noised, noise, alpha_bar)
    if within_bounds:
        other = other.clamp(-1, 1)
    return gate * clean + (1 - gate) * other


def dual_output_loss(
    told: Float[Tensor, "batch outputs height width"],
    clean: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    alpha_bar: Float[Tensor, " batch"],
    within_bounds: bool = True,
) -> Float[Tensor, " batch"]:
    """The squared errors of the noise, of the clean image and of their mixture, for each sample.

    Args:
        told: What the network says of x_t, as `two_answers` takes it.
        clean: x_0.
        noise: eps.
        alpha_bar: alpha_bar_t of each sample, above 0.
        within_bounds: As in `blended`.

    Source: the loss, with the error of the mean divided by those of the two means.
    """
    foretold, image, gate = two_answers(told)
    noised = q_sample(clean, noise, alpha_bar)

    def error(estimate: Tensor, truth: Tensor) -> Tensor:
        return (estimate - truth).square().flatten(1).mean(1)

    def mixed(gate: Tensor) -> Tensor:
        estimate = blended(noised, foretold.detach(), image.detach(), gate, alpha_bar, within_bounds)
        return error(estimate, clean)

    alone = mixed(torch.zeros_like(gate)) + mixed(torch.ones_like(gate))
    return error(foretold, noise) + error(image, clean) + mixed(gate) / alone.clamp(min=TINY)


class DualOutput(Diffusion):
    """A diffusion model that foretells the noise and the clean image, and how far to trust which.

    Args:
        foretold: "both", which is what makes this method.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, foretold: str = "both", **shared: Any) -> None:
        super().__init__(**shared)
        if foretold != "both":
            raise UserError(f"foretold: this method foretells 'both', got '{foretold}'; ddpm foretells one")

    def make_network(self, info: DataInfo) -> nn.Module:
        """A U-Net with three times as many channels at its end."""
        classes = len(info.classes) if self.is_told_classes(info) else 0
        return self.unet(info.channels, classes, 3 * info.channels)

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
        return (self.weight(t) * dual_output_loss(told, clean, noise, kept, self.within_bounds)).mean()

    def denoise(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The estimate of the clean image by the averaged network."""
        clean = self._blended(noised, t, label)
        if label is not None and self.guidance != 1:
            free = self._blended(noised, t, torch.full_like(label, -1))
            clean = free + self.guidance * (clean - free)
        return clean.clamp(-1, 1) if self.within_bounds else clean

    def _blended(self, noised: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        answers = two_answers(self.averaged(noised, t, label))
        return blended(noised, *answers, self.alpha_bar[t], self.within_bounds)


@claim(
    text="With 5 questions to the network for each image, samples are nearer to real images than those of a network "
    "that foretells only the noise.",
    where="abstract: better images from few iterations",
    higher_is_better=False,
)
def two_answers_beat_the_noise_alone(lab: Lab) -> Trial:
    """Digits of 8 pixels; FID by the features of the embedded network."""
    return lab.duel(
        ours=lambda: DualOutput(**FEW),
        baseline=lambda: DDPM(**FEW),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )


@claim(
    text="With 5 questions to the network for each image, samples are nearer to real images than those of a network "
    "that foretells only the clean image.",
    where="abstract: better images from few iterations",
    higher_is_better=False,
)
def two_answers_beat_the_image_alone(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: DualOutput(**FEW),
        baseline=lambda: DDPM(foretold="clean", **FEW),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )
