"""What a camera does to the light that reaches it: noise, blur, grain of few pixels, loss of colour, tint."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor


@dataclass(frozen=True)
class Sensor:
    """A camera's faults; the default has none.

    Args:
        noise: Standard deviation of the noise, in the range of the image.
        blur: Standard deviation of the blur, as a share of the height.
        colour: Saturation; 0 is grey, 1 leaves colours as they are.
        exposure: Factor on the brightness.
        tint: Factors on red, green and blue.
    """

    noise: float = 0.0
    blur: float = 0.0
    colour: float = 1.0
    exposure: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(
        self, image: Float[Tensor, "3 height width"], rng: np.random.Generator
    ) -> Float[Tensor, "3 height width"]:
        """The picture as this camera takes it, values 0 to 1."""
        seen = image * (self.exposure * torch.tensor(self.tint)[:, None, None])
        grey = seen.mean(0, keepdim=True)
        seen = grey + self.colour * (seen - grey)
        sigma = self.blur * image.shape[1]
        if sigma > 0.1:
            seen = torch.from_numpy(gaussian_filter(seen.numpy(), (0, sigma, sigma)))
        if self.noise:
            seen = seen + self.noise * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        return seen.clamp(0, 1)
