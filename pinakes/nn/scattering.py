r"""The wavelet scattering transform of images: a convolutional network of two layers whose filters nobody trains.

Waves of several scales and directions are looked for; how strong they are is looked at in the same way once more, and
all of it is averaged over a neighbourhood. What comes out hardly changes when things move or bend a little:

    S_0 x = x * phi_J,   S_1 x = |x * psi_a| * phi_J,   S_2 x = ||x * psi_a| * psi_b| * phi_J

Source: Bruna and Mallat, Invariant Scattering Convolution Networks, TPAMI 2013 (arXiv:1203.1513), section 2. Which
Morlet waves are taken, the borders and the order of the channels are those of Kymatio (Andreux et al., Kymatio:
Scattering Transforms in Python, JMLR 2020; github.com/kymatio/kymatio), which works with NumPy and SciPy filter banks.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

COPIES = 2
"""How often a filter is wrapped around the borders of the image, each way."""


def gabor(
    size: tuple[int, int], sigma: float, angle: float = 0.0, frequency: float = 0.0, slant: float = 1.0
) -> Complex[Tensor, "height width"]:
    """A wave under a Gaussian, around the first pixel of an image without borders; in double precision.

    Args:
        size: Height and width of the image.
        sigma: Width of the Gaussian along the wave, in pixels.
        angle: Of the wave's direction, from the first axis, in radians.
        frequency: Of the wave, in radians a pixel; 0 for the Gaussian alone, which sums to about 1.
        slant: Its width along the wave, as a share of that across.
    """
    height, width = size
    rows = torch.arange(-COPIES * height, (COPIES + 1) * height, dtype=torch.float64)[:, None]
    columns = torch.arange(-COPIES * width, (COPIES + 1) * width, dtype=torch.float64)
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = columns * math.cos(angle) - rows * math.sin(angle)
    envelope = torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2))
    wave = torch.polar(envelope, frequency * along) * (slant / (2 * math.pi * sigma**2))
    copies = 2 * COPIES + 1
    return wave.reshape(copies, height, copies, width).sum((0, 2))


def morlet(
    size: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float
) -> Complex[Tensor, "height width"]:
    """A wave under a Gaussian, less as much of the Gaussian as makes its mean 0.

    Args:
        size: Height and width of the image.
        sigma: Width of the Gaussian along the wave, in pixels.
        angle: Of the wave's direction, from the first axis, in radians.
        frequency: Of the wave, in radians a pixel.
        slant: Its width along the wave, as a share of that across.
    """
    wave, gauss = gabor(size, sigma, angle, frequency, slant), gabor(size, sigma, angle, 0.0, slant)
    return wave - wave.sum() / gauss.sum() * gauss


class Scattering(nn.Module):
    """Scattering coefficients of the orders 0, 1 and 2, of each channel of an image by itself.

    Args:
        size: Height and width of the images.
        scales: J: neighbourhoods of 2^J pixels are averaged over, and as far apart are the answers.
        angles: L: how many directions are told apart.

    Raises:
        ValueError: If a number is below 1, or the images are no larger than 2^J.

    Example:
        >>> scattering = Scattering((32, 32), scales=2, angles=8)
        >>> scattering(torch.rand(2, 3, 32, 32)).shape, scattering.paths
        (torch.Size([2, 3, 81, 8, 8]), 81)
    """

    def __init__(self, size: tuple[int, int], scales: int = 2, angles: int = 8) -> None:
        super().__init__()
        if scales < 1 or angles < 1:
            raise ValueError(f"scales, angles: expected 1 or more, got {scales} and {angles}")
        step = 2**scales
        if min(size) <= step:
            raise ValueError(f"size: expected sides above 2^scales = {step}, got {size[0]}x{size[1]}")
        self.size, self.scales, self.angles = size, scales, angles
        self.paths = 1 + angles * scales + angles**2 * scales * (scales - 1) // 2
        height, width = ((side // step + 2) * step for side in size)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        self.borders = left, width - size[1] - left, top, height - size[0] - top
        phi = gabor((height, width), 0.8 * 2 ** (scales - 1)).real
        # a round Gaussian is one along the rows times one along the columns
        for axis, line in (("rows", phi.sum(1)), ("columns", phi.sum(0))):
            for scale in range(scales):
                average = _averages(line / phi.sum().sqrt(), scale, scales - scale).float()
                self.register_buffer(f"{axis}_{scale}", average, persistent=False)
        # counted downwards from the first direction, as Kymatio does
        turns = [(int(angles / 2 - 1) - turn) * math.pi / angles for turn in range(angles)]
        for scale in range(scales):
            sigma, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
            waves = [morlet((height, width), sigma, turn, frequency, 4 / angles) for turn in turns]
            # of waves that are mirrored in their middle, the spectrum is real
            psi = torch.fft.fft2(torch.stack(waves)).real.float()
            self.register_buffer(f"psi_{scale}", psi, persistent=False)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels paths _rows _columns"]:
        """The coefficients.

        Args:
            image: Images of the size that was stated.

        Returns:
            For each channel its blurred self, then the strength of waves by scale and direction, then that of waves of
            a larger scale in the strength of each; every 2^J pixels.

        Raises:
            ValueError: If the images have another size.
        """
        if tuple(image.shape[-2:]) != self.size:
            raise ValueError(
                f"image: expected {self.size[0]}x{self.size[1]} pixels, got {image.shape[-2]}x{image.shape[-1]}"
            )
        bordered = functional.pad(image, self.borders, mode="reflect")[:, :, None]
        spectrum = torch.fft.fft2(bordered)
        first, second = [self._averaged(bordered, 0)], []
        for scale in range(self.scales):
            # one direction after the other, so that what is worked on stays in the processor's cache
            for angle in range(self.angles):
                strength = self._strength(spectrum, scale, 0, slice(angle, angle + 1))
                first.append(self._averaged(strength, scale))
                if scale < self.scales - 1:
                    inner = torch.fft.fft2(strength)
                    second += [
                        self._averaged(self._strength(inner, larger, scale, slice(None)), larger)
                        for larger in range(scale + 1, self.scales)
                    ]
        return torch.cat([*first, *second], 2)

    def _strength(self, spectrum: Tensor, scale: int, reached: int, angles: slice) -> Tensor:
        """How strong the waves of a scale are, every 2^scale pixels, where every 2^reached-th was left before."""
        psi = self.get_buffer(f"psi_{scale}")[angles]
        for axis in (-2, -1):
            psi = _low(psi, axis, reached)
        # real and imaginary parts side by side, as not every format of graphs can cut complex numbers
        waves = torch.view_as_real(spectrum) * (psi / 4 ** (scale - reached))[..., None]
        # to leave out every other pixel is to fold the spectrum
        for _ in range(scale - reached):
            for axis in (-3, -2):
                one, other = waves.chunk(2, axis)
                waves = one + other
        return torch.fft.ifft2(torch.view_as_complex(waves)).abs()

    def _averaged(self, strength: Tensor, reached: int) -> Tensor:
        """The averages over neighbourhoods, without those of the borders."""
        rows, columns = self.get_buffer(f"rows_{reached}"), self.get_buffer(f"columns_{reached}")
        return rows @ strength @ columns.mT


def _low(spectrum: Tensor, axis: int, times: int) -> Tensor:
    """The low frequencies of a filter, for images of which every 2^times-th pixel is left."""
    half = spectrum.shape[axis] >> times + 1
    ends = spectrum.narrow(axis, 0, half), spectrum.narrow(axis, spectrum.shape[axis] - half, half)
    return torch.cat(ends, axis) if times else spectrum


def _averages(line: Float[Tensor, " side"], reached: int, times: int) -> Float[Tensor, "_kept _side"]:
    """The matrix that averages a line of pixels and leaves every 2^times-th, but for the first and the last.

    Args:
        line: Their weights around the first pixel, before every 2^reached-th pixel was left.
        reached: See above.
        times: See above.
    """
    spectrum = _low(torch.fft.fft(line).real, 0, reached)
    pixels = torch.eye(len(spectrum), dtype=line.dtype)
    average = torch.fft.ifft(torch.fft.fft(pixels, dim=0) * spectrum[:, None], dim=0).real
    return average[:: 2**times][1:-1]
