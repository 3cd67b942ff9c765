r"""Xiang et al., Denoising Diffusion Autoencoders are Unified Self-supervised Learners, ICCV 2023, arXiv:2303.09769.

A network that takes noise out of images at every strength makes images out of nothing but noise. To do so it must know
what is in them. A plain diffusion model is trained, and nothing is added to it; features are then read from a block in
the middle of its decoder while it is shown an image with a little noise. For fine-tuning the network ends there.

What the code follows, with alpha_bar_t = prod of (1 - beta_s) over s up to t:

- Noise, `q_sample`: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, for t from 1 to T = 1000 and beta_t from
  0.0001 to 0.02 along a line (`alpha_bar_schedule`), with images in [-1, 1].
- Training, `epsilon_loss`: L = E |eps - eps_theta(x_t, t)|^2, with t drawn evenly.
- Network, `UNet`: residual blocks that are told t, self-attention at the second level and in the middle, links from
  encoder to decoder.
- Features: a clean image gets the noise of a small t, and the answer of one block of the decoder is averaged over its
  pixels.

The choice of t = 11 and of the last block of the decoder's second level from below is that of the authors' code for
CIFAR-10 (github.com/FutureXiang/ddae: `timestep: 11`, `blockname: out_6`), and so are T, beta, and the form of the
network.

Differences from the paper: the network is much smaller by default (32 channels in place of 128, three levels with a
block each in place of four with two); the network is told t, where the authors' code tells it t / T; weights are not
averaged over training; the noise of features is the same for all images, drawn once, so that an image has the same
features every time; images are moved, not mirrored, in training. Of the paper's diffusion models only the first is here
(DDPM), not EDM and not the latent transformers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, epsilon_loss, predicted_clean, q_sample
from pinakes.nn.unet import GROUPS, UNet
from pinakes.papers.self_supervised.base import Augmentation, SelfSupervised, no_loss
from pinakes.papers.self_supervised.transformer import check_counts
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Noise", r"x_t = \sqrt{\bar\alpha_t} \, x_0 + \sqrt{1 - \bar\alpha_t} \, \epsilon"),
    ("Noise", r"\bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s)"),
    (
        "Training",
        r"L = \mathbb{E}_{x_0, \epsilon, t} \lVert \epsilon - \epsilon_\theta(x_t, t) \rVert^2",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


class DDAE(SelfSupervised):
    """A diffusion model whose decoder is read half way.

    Args:
        t: Steps of noise that images have when features are read, 0 to `n_T`.
        layer: Block of the decoder that is read, from 1, the coarsest first; of each level there are `n_blocks` + 1.
        n_T: Steps after which nothing but noise is left.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder; the decoder has one more.
        dropout: Share of the values that are left out inside blocks while it learns.
        augmentation: How training images are changed: "crop" takes a fifth to all of the area and mirrors half of them,
            "shift" moves them by up to an eighth, "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor
    alpha_bar: Tensor

    def __init__(
        self,
        t: int = 11,
        layer: int = 4,
        n_T: int = 1000,
        n_channels: int = 32,
        ch_mults: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        dropout: float = 0.1,
        augmentation: Augmentation = "shift",
        **shared: Any,
    ) -> None:
        super().__init__(augmentation=augmentation, **shared)
        check_counts(n_T=n_T, n_blocks=n_blocks, ch_mults=min(ch_mults, default=0))
        if not 0 <= t <= n_T:
            raise UserError(f"t: expected 0 to n_T, {n_T}, got {t}")
        if n_channels < GROUPS or n_channels % GROUPS:
            raise UserError(f"n_channels: expected a multiple of {GROUPS}, got {n_channels}")
        layers = len(ch_mults) * (n_blocks + 1)
        if not 1 <= layer <= layers:
            raise UserError(f"layer: the decoder has blocks 1 to {layers}, got {layer}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: expected a share of 0 or more and below 1, got {dropout}")
        self.t, self.layer, self.n_T = t, layer, n_T
        self.n_channels, self.ch_mults, self.n_blocks, self.dropout = n_channels, ch_mults, n_blocks, dropout

    def build(self, info: DataInfo) -> None:
        """Makes the network, the schedule of the noise, and the noise that all images get."""
        self.network = UNet(info.channels, self.n_channels, self.ch_mults, self.n_blocks, self.dropout)
        self.register_buffer("alpha_bar", alpha_bar_schedule(self.n_T), persistent=False)
        noise = torch.randn(1, info.channels, *info.size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    def noised(
        self, image: Float[Tensor, "batch channels height width"], t: int
    ) -> tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]:
        """Images with the noise that is the same for all, in the network's range of [-1, 1], and t of each."""
        steps = torch.full((len(image),), t, device=image.device)
        return q_sample(2 * image - 1, self.noise, self.alpha_bar[steps]), steps

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """What the chosen block of the decoder says, and its mean over the pixels."""
        maps = self.network.features(*self.noised(image, self.t), self.layer)
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the foretold noise is from the noise."""
        return epsilon_loss(self.network, 2 * image - 1, self.alpha_bar)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images with a quarter of the steps of noise, and what the network takes for clean, in one go."""
        noised, steps = self.noised(image, max(1, self.n_T // 4))
        clean = predicted_clean(noised, self.network(noised, steps), self.alpha_bar[steps])
        return {
            name: (each / 2 + 0.5).clamp(0, 1)
            for name, each in (("shown", noised), ("reconstruction", clean))
        }


CLAIMED: dict[str, Any] = {"n_channels": 16}
CLAIM_DATA = "digits?size=16"
CLAIM_PLAN: dict[str, Any] = {"steps": 600, "batch_size": 64}
"""How long a network learns in a claim, about 35 passes over the images."""


class _Untrained(DDAE):
    """The same network, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0, **CLAIMED)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="A linear classifier reads more from a network that learnt to take noise out than from random weights.",
    where="abstract: diffusion models learn discriminative features without labels",
    higher_is_better=True,
)
def denoising_teaches(lab: Lab) -> Trial:
    """Digits of 16 pixels; the same network, block and noise on both sides."""
    return lab.duel(
        ours=lambda: DDAE(**CLAIMED),
        baseline=_Untrained,
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )


@claim(
    text="A linear classifier reads more from a block in the middle of a diffusion model's decoder than from its last.",
    where="section on linear probes: accuracy against the depth of the layer",
    higher_is_better=True,
)
def the_middle_says_more_than_the_end(lab: Lab) -> Trial:
    """Digits of 16 pixels, the same noise; both sides train the same network in the same way."""
    return lab.duel(
        ours=lambda: DDAE(**CLAIMED),
        baseline=lambda: DDAE(layer=6, **CLAIMED),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )


@claim(
    text="A linear classifier reads more from a diffusion model that is shown images with little noise than with much.",
    where="section on linear probes: accuracy against the noise",
    higher_is_better=True,
)
def little_noise_says_more_than_much(lab: Lab) -> Trial:
    """As above, with 11 against 500 of 1000 steps of noise, and the same block."""
    return lab.duel(
        ours=lambda: DDAE(**CLAIMED),
        baseline=lambda: DDAE(t=500, **CLAIMED),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
