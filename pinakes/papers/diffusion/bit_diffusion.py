r"""Chen et al., Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning, ICLR 2023,
arXiv:2208.04202.

Pixels are whole numbers, and diffusion models make real ones. Here each number is written in bits, each bit becomes -1
or +1, and a usual diffusion model learns these as if they were real numbers; a threshold at the end gives bits again.
What the model says of the clean bits in one step it is shown in the next, rather than forget it: that is
self-conditioning. And where few steps are taken, it helps to go a little further in each than one says.

What the code follows:

- Section 2, "Analog bits", with algorithm 3, `analog_bits` and `read_bits`: a number from 0 to K - 1 in log2 K bits, as
  -1 and +1. Section 3.1, "gray": neighbouring numbers differ in one bit. Appendix B.1, "one-hot": K channels of which
  one is +1.
- Section 2, "Self-conditioning", with algorithm 1, `BitDiffusion.loss`: half of the time the network first estimates
  x_0 without an estimate, and learns with that one as a further input; no gradient goes through it.
- Section 2, "Asymmetric time intervals", with algorithm 2, `asymmetric_path`: a step leads to where one with `td` more
  intervals would, while the network is still told the time without these.
- Equation 2: the squared error of x_0, which section 3.2 finds to be better than that of the noise. gamma(t) is
  alpha_bar here.

Differences from the paper: steps are counted in whole numbers, not as a real time. A network is small, and its weights'
average fast. The estimate for self-conditioning is made for half of each batch, as in the authors' code
(github.com/google-research/pix2seq), which also settles that gamma follows a cosine and that estimates are cut to
[-1, 1]. Bits without any order, with a softmax in front of them, and the other losses of appendix B are left out.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import (
    Denoise,
    Draw,
    ancestral_step,
    ddim_step,
    dpm_solver_path,
    spaced_steps,
)
from pinakes.nn.gaussian_diffusion import q_sample
from pinakes.papers.diffusion.base import (
    CLAIM_DATA,
    CLAIM_PLAN,
    CLAIMED,
    Diffusion,
    Foretold,
    as_clean,
    drawn_like,
    to_foretell,
)

EQUATIONS = (
    (
        "Equation 2",
        r"L = \mathbb{E}_{t, \epsilon} \lVert f(\sqrt{\gamma(t)} \, x_0 + \sqrt{1 - \gamma(t)} \, \epsilon, \tilde "
        r"x_0, t) - x_0 \rVert^2",
    ),
    ("Self-conditioning", r"\tilde x_0 = 0 \text{ or } \mathrm{sg}(f(x_t, 0, t))"),
    ("Algorithm 2", r"x_t \to x_{\max(0, \, t - (1 + td) \Delta)}, \quad t \to t - \Delta"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list. sg lets no gradient through,
and Delta is the interval between two steps."""

Code = Literal["binary", "gray", "one-hot"]
MOST_BITS = 8
"""Bits of a pixel in an image file."""
FEW_BITS = CLAIMED | {"bits": 4}
"""Digits have 17 shades."""


def codewords(bits: int, code: Code = "binary") -> Float[Tensor, "numbers width"]:
    """How each number is written, in -1 and +1, the least significant bit first.

    Args:
        bits: log2 of how many numbers there are.
        code: "binary", "gray", in which neighbours differ in one place, or "one-hot".

    Source: section 3.1, "Binary encoding", and appendix B.1.

    Example:
        >>> codewords(2, "gray").tolist()
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    """
    number = torch.arange(2**bits)
    if code == "one-hot":
        return 2 * functional.one_hot(number).float() - 1
    if code == "gray":
        number = number ^ (number >> 1)
    return 2 * ((number[:, None] >> torch.arange(bits)) & 1).float() - 1


def analog_bits(
    number: Int[Tensor, "batch channels height width"], bits: int, code: Code = "binary"
) -> Float[Tensor, "batch analog height width"]:
    """Whole numbers as channels of -1 and +1.

    Args:
        number: From 0 to 2^bits - 1.
        bits: How many each has.
        code: As in `codewords`.

    Source: section 2, "Analog bits", and algorithm 3.
    """
    return rearrange(codewords(bits, code).to(number.device)[number], "b c h w n -> b (c n) h w")


def read_bits(
    analog: Float[Tensor, "batch analog height width"], bits: int, code: Code = "binary"
) -> Int[Tensor, "batch channels height width"]:
    """The whole numbers that real numbers stand for: a threshold at 0, for "one-hot" the largest.

    Args:
        analog: As `analog_bits` gives it, or near.
        bits: How many each number has.
        code: As in `codewords`.

    Source: section 2, "Analog bits", and appendix B.1.
    """
    known = codewords(bits, code).to(analog.device)
    parted = rearrange(analog, "b (c n) h w -> b c h w n", n=known.shape[1])
    if code == "one-hot":
        return parted.argmax(-1)
    value = 2 ** torch.arange(bits, device=analog.device)
    written = ((known > 0) * value).sum(1)
    return written.argsort()[((parted > 0) * value).sum(-1)]


def cosine_schedule(steps: int) -> Float[Tensor, " steps_and_0"]:
    """What is left of the variance after each step, from 0, as a cosine: gamma of the paper.

    Args:
        steps: T.

    Source: the authors' code.
    """
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((t + 0.0002) / 1.00025 * math.pi / 2).cos().square()
    kept[0] = 1
    return kept.float()


def with_estimate(
    noised: Float[Tensor, "batch channels height width"],
    estimate: Float[Tensor, "batch channels height width"] | None,
) -> Float[Tensor, "batch _both height width"]:
    """What a self-conditioned network is shown: x_t, and below it an estimate of x_0, 0 where there is none.

    Source: section 2, "Self-conditioning".
    """
    return torch.cat([noised, torch.zeros_like(noised) if estimate is None else estimate], dim=1)


def asymmetric_path(
    denoise: Denoise,
    start: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
    td: float = 0.0,
    draw: Draw | None = None,
) -> list[Float[Tensor, "batch *shape"]]:
    """From noise to images by steps that lead further than the network is told.

    Args:
        denoise: The network.
        start: x_t of the first step.
        alpha_bar: Of all steps of training.
        steps: Falling numbers that end with 0.
        td: How much further, in intervals between two steps, 0 or more; with 0 it is `ddim_path` or `ancestral_path`.
        draw: Noise of the form of `start`, for ancestral steps; None for DDIM.

    Returns:
        x of all steps, the first `start` and the last the images.

    Source: algorithm 2.
    """
    path = [start]
    for t, s in pairwise(steps):
        clean = denoise(path[-1], torch.full((len(start),), t, device=start.device))
        now, later = alpha_bar[t], alpha_bar[max(0, round(s - td * (t - s)))]
        path.append(
            ddim_step(path[-1], clean, now, later)
            if draw is None
            else ancestral_step(path[-1], clean, now, later, draw())
        )
    return path


class BitDiffusion(Diffusion):
    """A diffusion model that makes the bits of pixels.

    Args:
        bits: Of each pixel and channel, 1 to 8; images get 2^bits shades.
        code: How they are written: "binary", "gray", in which neighbouring shades differ in one bit, or "one-hot", with
            a channel for each shade.
        self_conditioning: Whether the network is shown what it last said.
        td: How much further a step leads than the network is told, in intervals between two steps, 0 or more; for the
            samplers "ddim" and "ddpm".
        foretold: What the network foretells: "noise", "clean" bits or "velocity".

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        bits: int = 8,
        code: Code = "binary",
        self_conditioning: bool = True,
        td: float = 0.0,
        foretold: Foretold = "clean",
        **shared: Any,
    ) -> None:
        super().__init__(foretold=foretold, **shared)
        if not 1 <= bits <= MOST_BITS:
            raise UserError(f"bits: expected 1 to {MOST_BITS}, got {bits}")
        if code not in get_args(Code):
            raise UserError(f"code: '{code}' is unknown{suggest(code, get_args(Code))}")
        if not td >= 0:
            raise UserError(f"td: expected 0 or more, got {td}")
        if td and self.sampler == "dpm":
            raise UserError("td: the sampler 'dpm' chooses its own steps; take 'ddim', or leave td at 0")
        self.bits, self.code, self.self_conditioning, self.td = bits, code, self_conditioning, td

    def schedule(self) -> Float[Tensor, " steps_and_0"]:
        """A cosine."""
        return cosine_schedule(self.T)

    def shape(self, info: DataInfo) -> tuple[int, ...]:
        """Channels for the bits of all channels of one image, and its size."""
        width = 2**self.bits if self.code == "one-hot" else self.bits
        return info.channels * width, *info.size

    def make_network(self, info: DataInfo) -> nn.Module:
        """A U-Net for bits, with as many channels again for an estimate of them."""
        channels, classes = self.shape(info)[0], len(info.classes) if self.is_told_classes(info) else 0
        return self.unet(channels * (2 if self.self_conditioning else 1), classes, channels)

    def encode(self, image: Tensor) -> Tensor:
        """Images in [0, 1] as channels of -1 and +1."""
        return analog_bits((image * (2**self.bits - 1)).round().long(), self.bits, self.code)

    def decode(self, found: Tensor) -> Tensor:
        """Images in [0, 1], by a threshold."""
        return read_bits(found, self.bits, self.code) / (2**self.bits - 1)

    def loss(
        self,
        clean: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, ""]:
        """What is minimised, of bits in [-1, 1] and what they are told to be, -1 for nothing."""
        t = torch.randint(1, self.T + 1, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        kept = self.alpha_bar[t]
        noised = shown = q_sample(clean, noise, kept)
        if self.self_conditioning:
            # of an odd batch the smaller or the larger half
            half = (len(clean) + int(torch.randint(2, ()))) // 2
            shown = with_estimate(
                noised, self.first_estimate(noised, t, label, half) if half else torch.zeros_like(noised)
            )
        told = self.network(shown, t, label)
        error = (told - to_foretell(self.foretold, clean, noise, kept)).square().flatten(1).mean(1)
        return (self.weight(t) * error).mean()

    @torch.no_grad()
    def first_estimate(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None,
        count: int,
    ) -> Float[Tensor, "batch channels height width"]:
        """Estimates of the clean bits of the first samples, made without an estimate, and 0 for the others.

        Args:
            noised: x_t.
            t: How many steps of noise each has.
            label: What they are told to be.
            count: For how many it is made, 1 or more.
        """
        some, when = noised[:count], t[:count]
        told = self.network(with_estimate(some, None), when, None if label is None else label[:count])
        clean = as_clean(self.foretold, told, some, self.alpha_bar[when]).clamp(-1, 1)
        return torch.cat([clean, torch.zeros_like(noised[count:])])

    def denoise(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        estimate: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The estimate of the clean bits by the averaged network, which may be shown an earlier one."""
        shown = with_estimate(noised, estimate) if self.self_conditioning else noised
        told = self.averaged(shown, t, label)
        if label is not None and self.guidance != 1:
            free = self.averaged(shown, t, torch.full_like(label, -1))
            told = free + self.guidance * (told - free)
        return as_clean(self.foretold, told, noised, self.alpha_bar[t]).clamp(-1, 1)

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to bits; each estimate is shown to the network when it makes the next."""
        estimate: Tensor | None = None

        def denoise(noised: Tensor, t: Tensor) -> Tensor:
            nonlocal estimate
            estimate = self.denoise(noised, t, label, estimate)
            return estimate

        if self.sampler == "dpm":
            return dpm_solver_path(denoise, start, self.alpha_bar, self.sampling_steps)
        steps = spaced_steps(self.T, self.sampling_steps)
        draw = None if self.sampler == "ddim" else lambda: drawn_like(start, generators)
        return asymmetric_path(denoise, start, self.alpha_bar, steps, self.td, draw)


@claim(
    text="With self-conditioning, samples of a model of bits are nearer to real images than without, after equally "
    "many steps of training.",
    where='section 3.2, "Ablation of Self-Conditioning", figure 5a',
    higher_is_better=False,
)
def showing_the_last_estimate_helps(lab: Lab) -> Trial:
    """Digits of 8 pixels in 16 shades, which are four bits; FID by the features of the embedded network. A step of ours
    takes about a quarter longer; the network is asked equally often for a sample.
    """
    return lab.duel(
        ours=lambda: BitDiffusion(**FEW_BITS),
        baseline=lambda: BitDiffusion(self_conditioning=False, **FEW_BITS),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )


@claim(
    text="Samples of a model of bits are nearer to real images than those of a model of one-hot codes.",
    where="appendix B.4, table 6, squared error",
    higher_is_better=False,
)
def bits_beat_one_hot_codes(lab: Lab) -> Trial:
    """As above, with self-conditioning on both sides; the networks differ in their first and last layer."""
    return lab.duel(
        ours=lambda: BitDiffusion(**FEW_BITS),
        baseline=lambda: BitDiffusion(code="one-hot", **FEW_BITS),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )
