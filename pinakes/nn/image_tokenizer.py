"""A tokenizer of images: a small convolutional autoencoder whose code is an entry of a codebook for every patch.

Source: van den Oord et al., Neural Discrete Representation Learning, NeurIPS 2017 (arXiv:1711.00937).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.masked_autoencoder import CENTRE, SPREAD, normalised

TOKENIZER_WIDTH = 48
COMMITMENT = 0.25
"""Weight of what holds the tokenizer's vectors to their codes."""
RARE = 0.05
"""A code is put elsewhere when it is used for less than this share of what an even use would be."""


def nearest_codes(
    vectors: Float[Tensor, "batch dim rows columns"], codebook: Float[Tensor, "codes dim"]
) -> Int[Tensor, "batch rows columns"]:
    """The codes with the greatest cosine to vectors.

    Example:
        >>> nearest_codes(torch.tensor([[[[0.1]], [[3.0]]]]), torch.eye(2))
        tensor([[[1]]])
    """
    directions = functional.normalize(codebook, dim=1)
    return torch.einsum("b d h w, k d -> b k h w", vectors, directions).argmax(1)


def vector_quantisation_loss(
    vectors: Float[Tensor, "batch dim rows columns"],
    codes: Float[Tensor, "batch dim rows columns"],
    commitment: float = COMMITMENT,
) -> Float[Tensor, ""]:
    """The mean squared difference of vectors and their codes: it moves the codes, and by a share of it the vectors.

    Args:
        vectors: What an encoder says.
        codes: The vector of the code of each.
        commitment: beta.

    Source: equation 3.

    Example:
        >>> vector_quantisation_loss(torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1), 0.25)
        tensor(1.2500)
    """
    moved = functional.mse_loss(codes, vectors.detach())
    held = functional.mse_loss(vectors, codes.detach())
    return moved + commitment * held


class Tokenizer(nn.Module):
    """Turns images into codes and codes into images; codes and what is compared with them have length 1.

    Args:
        channels: Of the images.
        codes: Entries of the codebook.
        dim: Width of the codes.
        patch: Side in pixels of what one code stands for, a power of 2.

    Example:
        >>> tokenizer = Tokenizer(channels=3, codes=16, dim=8, patch=4)
        >>> tokens = tokenizer.tokens(torch.rand(2, 3, 32, 48))
        >>> tokens.shape, tokenizer.decode(tokenizer.vectors(tokens)).shape
        (torch.Size([2, 8, 12]), torch.Size([2, 3, 32, 48]))
    """

    use: Tensor

    def __init__(self, channels: int = 3, codes: int = 128, dim: int = 32, patch: int = 4) -> None:
        super().__init__()
        width, stages = TOKENIZER_WIDTH, int(math.log2(patch))
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for stage in range(stages):
            last = stage == stages - 1
            down += [nn.Conv2d(width if stage else channels, width, 4, 2, 1), nn.GELU()]
            up += [nn.GELU(), nn.ConvTranspose2d(width, channels if last else width, 4, 2, 1)]
        self.encoder = nn.Sequential(
            *down, nn.Conv2d(width, width, 3, 1, 1), nn.GELU(), nn.Conv2d(width, dim, 1)
        )
        self.decoder = nn.Sequential(nn.Conv2d(dim, width, 3, 1, 1), *up)
        self.codebook = nn.Parameter(functional.normalize(torch.randn(codes, dim), dim=1))
        self.register_buffer("use", torch.zeros(codes))

    def tokens(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Int[Tensor, "batch rows columns"]:
        """The codes of images in [0, 1]."""
        with torch.no_grad():
            return nearest_codes(self.encoder(normalised(image)), self.codebook)

    def vectors(self, tokens: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        """The vectors of codes."""
        return rearrange(functional.normalize(self.codebook, dim=1)[tokens], "b h w c -> b c h w")

    def decode(
        self, vectors: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images as they are painted from vectors of codes; about in [0, 1]."""
        painted: Tensor = self.decoder(vectors)
        return painted * SPREAD + CENTRE

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The error of images painted from their codes, plus what brings codes and encoder together.

        In training codes that are hardly used are first put to where images are.
        """
        found = functional.normalize(self.encoder(normalised(image)), dim=1)
        if self.training:
            self._spread(found.detach())
        codes = self.vectors(nearest_codes(found.detach(), self.codebook.detach()))
        # the gradient of the painted image passes by the codes
        painted = self.decoder(found + (codes - found).detach())
        return functional.mse_loss(painted, normalised(image)) + vector_quantisation_loss(found, codes)

    @torch.no_grad()
    def _spread(self, found: Tensor) -> None:
        vectors = rearrange(found, "b c h w -> (b h w) c")
        rare = self.use < RARE / len(self.use)
        chosen = torch.randint(len(vectors), (len(self.use),), device=found.device)
        self.codebook.copy_(torch.where(rare[:, None], vectors[chosen], self.codebook))
        used = nearest_codes(found, self.codebook).flatten().bincount(minlength=len(self.use)) / len(vectors)
        self.use.copy_(torch.where(rare, used, 0.95 * self.use + 0.05 * used))
