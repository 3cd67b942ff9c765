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
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean, q_sample, step_embedding
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

GROUPS = 8
"""Groups of channels that are normalised together."""
ATTENTIVE = 1
"""The level with self-attention, 0 the finest."""


def epsilon_loss(
    network: nn.Module, clean: Float[Tensor, "batch *shape"], alpha_bar: Float[Tensor, " steps_and_0"]
) -> Float[Tensor, ""]:
    """The mean squared error of foretold noise; draws noise and its strengths from torch's generator.

    Args:
        network: From x_t and t to noise.
        clean: x_0.
        alpha_bar: As `alpha_bar_schedule` gives it.

    Source: Ho et al., equation 14.
    """
    t = torch.randint(1, len(alpha_bar), (len(clean),), device=clean.device)
    noise = torch.randn_like(clean)
    return functional.mse_loss(network(q_sample(clean, noise, alpha_bar[t]), t), noise)


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is led past; between them t is added. Then, if wanted, self-attention.

    Args:
        inputs: Channels of the input.
        width: Channels of the output.
        told: Width of what tells t.
        attentive: Whether pixels attend to each other behind it.
        dropout: Share of the values that are left out before the second convolution.
    """

    def __init__(self, inputs: int, width: int, told: int, attentive: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, width, 3, padding=1)
        )
        self.step = nn.Sequential(nn.SiLU(), nn.Linear(told, width))
        self.second = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, padding=1)
        )
        self.past = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attention = SelfAttention(width) if attentive else nn.Identity()

    def forward(
        self, maps: Float[Tensor, "batch inputs height width"], told: Float[Tensor, "batch told"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """Maps of the same size."""
        inner = self.second(self.first(maps) + self.step(told)[:, :, None, None])
        answer: Tensor = self.attention(inner + self.past(maps))
        return answer


class SelfAttention(nn.Module):
    """Attention, with one head, of all pixels to all pixels; added to the input.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Maps of the same size."""
        parts = self.ask(self.norm(maps)).flatten(2).mT.chunk(3, dim=2)
        answered = functional.scaled_dot_product_attention(*parts).mT.unflatten(2, maps.shape[2:])
        changed: Tensor = maps + self.project(answered)
        return changed


class UNet(nn.Module):
    """A network that tells the noise in images of any size, given its strength.

    The decoder has, at each level, one block more than the encoder. Its blocks are numbered from 1, the coarsest first.

    Args:
        channels: Of the images.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder.
        dropout: Share of the values that are left out inside blocks.

    Example:
        >>> network = UNet(3, 8, (1, 2))
        >>> image, t = torch.rand(2, 3, 20, 17), torch.tensor([3, 500])
        >>> network(image, t).shape, network.features(image, t, layer=2).shape
        (torch.Size([2, 3, 20, 17]), torch.Size([2, 16, 10, 9]))
    """

    def __init__(
        self,
        channels: int = 3,
        n_channels: int = 32,
        ch_mults: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [n_channels * each for each in ch_mults]
        self.n_channels, self.n_blocks, told = n_channels, n_blocks, 4 * n_channels
        self.layers = len(widths) * (n_blocks + 1)
        self.tell = nn.Sequential(nn.Linear(n_channels, told), nn.SiLU(), nn.Linear(told, told))
        self.enter = nn.Conv2d(channels, n_channels, 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        width, linked = n_channels, [n_channels]
        for level, wide in enumerate(widths):
            for _ in range(n_blocks):
                self.down.append(ResidualBlock(width, wide, told, level == ATTENTIVE, dropout))
                width = wide
                linked.append(width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                linked.append(width)
        self.middle = nn.ModuleList(
            ResidualBlock(width, width, told, attentive, dropout) for attentive in (True, False)
        )
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(n_blocks + 1):
                self.up.append(ResidualBlock(width + linked.pop(), wide, told, level == ATTENTIVE, dropout))
                width = wide
            if level > 0:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def features(
        self, image: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"], layer: int
    ) -> Float[Tensor, "batch _width _rows _columns"]:
        """What the decoder says after some of its blocks; no block behind the last of these is run.

        Args:
            image: x_t.
            t: How many steps of noise each has.
            layer: After how many blocks of the decoder, 1 to `layers`.

        Raises:
            ValueError: If there is no such block.
        """
        if not 1 <= layer <= self.layers:
            raise ValueError(f"layer: expected 1 to {self.layers}, got {layer}")
        told = self.tell(step_embedding(t, self.n_channels))
        maps = self.enter(image)
        links = [maps]
        for number, block in enumerate(self.down, start=1):
            maps = block(maps, told)
            links.append(maps)
            if number % self.n_blocks == 0 and number < len(self.down):
                maps = self.shrink[number // self.n_blocks - 1](maps)
                links.append(maps)
        for block in self.middle:
            maps = block(maps, told)
        for number, block in enumerate(self.up[:layer]):
            link = links.pop()
            if number and number % (self.n_blocks + 1) == 0:
                larger = functional.interpolate(maps, link.shape[2:], mode="nearest")
                maps = self.grow[number // (self.n_blocks + 1) - 1](larger)
            maps = block(torch.cat([maps, link], dim=1), told)
        return maps

    def forward(
        self, image: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The noise in x_t."""
        noise: Tensor = self.leave(self.features(image, t, self.layers))
        return noise


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
