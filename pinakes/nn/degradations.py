"""What makes images worse: fewer pixels, blur, noise, and lines of their Fourier transform left out."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

Image = Float[Tensor, "channels height width"]

BLUR = 2.0
"""Standard deviation of the blur, in pixels."""
NOISE = 0.2
"""Standard deviation of the noise."""
KEPT, CENTRE = 0.25, 0.08
"""Shares of the columns of the Fourier transform that are kept, and that are kept around its middle."""


def degraded(
    kind: str, image: Float[Tensor, "channels height width"], generator: torch.Generator
) -> Float[Tensor, "channels height width"]:
    """A worse image of the same size.

    Args:
        kind: One of `DEGRADATIONS`.
        image: In [0, 1].
        generator: What is random is drawn from it.

    Returns:
        In [0, 1].

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in DEGRADATIONS:
        raise ValueError(f"kind: expected one of {', '.join(DEGRADATIONS)}, got '{kind}'")
    return _DEGRADED[kind](image, generator).clamp(0, 1)


def downsampled(
    image: Float[Tensor, "channels height width"], factor: int
) -> Float[Tensor, "channels height width"]:
    """Brought to a fraction of its size and back, both bicubically, the first with antialiasing.

    Args:
        image: The image.
        factor: By how much each side shrinks.
    """
    size = tuple(image.shape[-2:])
    small = [max(1, side // factor) for side in size]
    less = functional.interpolate(image[None], small, mode="bicubic", antialias=True)
    return functional.interpolate(less, size, mode="bicubic")[0]


def blurred(
    image: Float[Tensor, "channels height width"], sigma: float
) -> Float[Tensor, "channels height width"]:
    """Smoothed by a Gaussian.

    Args:
        image: The image.
        sigma: Its standard deviation, in pixels.
    """
    # the border is mirrored, which goes no further than the image does
    reach = min(round(3 * sigma), min(image.shape[-2:]) - 1)
    found: Tensor = v2.functional.gaussian_blur(image, [2 * reach + 1] * 2, [sigma, sigma])
    return found


def noisy(
    image: Float[Tensor, "channels height width"], sigma: float, generator: torch.Generator
) -> Float[Tensor, "channels height width"]:
    """With normal noise added.

    Args:
        image: The image.
        sigma: Its standard deviation.
        generator: What it is drawn from.
    """
    return image + sigma * torch.randn(image.shape, generator=generator)


def kept_columns(width: int, generator: torch.Generator) -> Bool[Tensor, " width"]:
    """Which columns of a Fourier transform are kept: a quarter, a third of these around the middle, which is that of
    the lowest frequency; the others are drawn.

    Args:
        width: How many columns there are.
        generator: What they are drawn from.

    Source: Zbontar et al., fastMRI: An Open Dataset and Benchmarks for Accelerated MRI, 2018 (arXiv:1811.08839),
        section 6.3, with four-fold acceleration.
    """
    count = max(1, round(KEPT * width))
    middle = min(count, max(1, round(CENTRE * width)))
    order = torch.rand(width, generator=generator)
    start = width // 2 - middle // 2
    order[start : start + middle] = 2
    kept = torch.zeros(width, dtype=torch.bool)
    kept[order.topk(count).indices] = True
    return kept


def zero_filled(
    image: Float[Tensor, "channels height width"], kept: Bool[Tensor, " width"]
) -> Float[Tensor, "channels height width"]:
    """The magnitude of the image that follows from some columns of its Fourier transform, with 0 for the others.

    Args:
        image: The image.
        kept: Which columns; the middle one, width // 2, is that of the lowest frequency.
    """
    spectrum = torch.fft.fft2(image) * torch.fft.ifftshift(kept)
    return torch.fft.ifft2(spectrum).abs()


def _lines(image: Image, generator: torch.Generator) -> Image:
    return zero_filled(image, kept_columns(image.shape[-1], generator))


DEGRADATIONS = {
    "downsample4": "a quarter of the height and width, enlarged bicubically",
    "downsample2": "half the height and width, enlarged bicubically",
    "downsample8": "an eighth of the height and width, enlarged bicubically",
    "blur": f"a Gaussian blur of {BLUR:g} pixels",
    "noise": f"normal noise of standard deviation {NOISE:g}",
    "lines": "three of four columns of the Fourier transform left out, as when magnetic resonance is measured fast",
}
"""The kinds of degradation, and what each is."""

_DEGRADED: dict[str, Callable[[Image, torch.Generator], Image]] = {
    "downsample4": lambda image, _: downsampled(image, 4),
    "downsample2": lambda image, _: downsampled(image, 2),
    "downsample8": lambda image, _: downsampled(image, 8),
    "blur": lambda image, _: blurred(image, BLUR),
    "noise": lambda image, generator: noisy(image, NOISE, generator),
    "lines": _lines,
}
