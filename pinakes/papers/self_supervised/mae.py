r"""He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv:2111.06377.

Three quarters of an image's patches are hidden. A transformer looks at the others alone, which makes it four times as
cheap, and a light decoder paints the hidden ones from what it says. To paint them the encoder must know what is in the
picture; the decoder is then dropped.

What the code follows, in `pinakes.nn.masked_autoencoder`:

- Section 3, "Masking" and "Simple implementation", `random_masking`: a random number for every patch; those with the
  lowest stay visible.
- Section 3, "MAE encoder", `MaskedEncoder`: a ViT on the visible patches, with fixed sine-cosine positions.
- Section 3, "MAE decoder", `MaskedDecoder`: a mask token, the same for all, stands for every hidden patch; positions
  are added to all, and a small transformer paints pixels.
- Section 3, "Reconstruction target", `reconstruction_loss`: L = mean over hidden patches of |x^ - x|^2, with x brought
  to mean 0 and variance 1 within each patch, unless `norm_pix_loss` is off.

Differences from the paper: networks and patches are small by default (a patch of 4 pixels, 6 blocks of width 96), for
images of 32 pixels. The embedding is the mean over the patches behind the last normalisation, without the class token.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import (
    CENTRE,
    HEAD_WIDTH,
    SPREAD,
    MaskedDecoder,
    MaskedEncoder,
    masking_from,
    patchify,
    random_masking,
    reconstruction_loss,
    unpatchify,
)
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN, SelfSupervised, no_loss
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        'Section 3, "Reconstruction target"',
        r"L = \frac{1}{|M|} \sum_{i \in M} \lVert \hat x_i - \tilde x_i \rVert^2",
    ),
    (
        'Section 3, "Reconstruction target"',
        r"\tilde x_i = (x_i - \mathrm{mean}(x_i)) / \sqrt{\mathrm{var}(x_i) + \varepsilon}",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

GREY = 0.5


class MAE(SelfSupervised):
    """A vision transformer that learns to paint what is hidden of images.

    Args:
        mask_ratio: Share of the patches that are hidden, above 0 and below 1.
        norm_pix_loss: Whether each patch to be painted is first brought to mean 0 and variance 1.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the encoder, a multiple of 32.
        depth: Blocks of the encoder.
        decoder_embed_dim: Width of the decoder, a multiple of 32.
        decoder_depth: Blocks of the decoder.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor

    def __init__(
        self,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        patch: int = 4,
        embed_dim: int = 96,
        depth: int = 6,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        for name, value in (("embed_dim", embed_dim), ("decoder_embed_dim", decoder_embed_dim)):
            if value < HEAD_WIDTH or value % HEAD_WIDTH:
                raise UserError(f"{name}: expected a multiple of {HEAD_WIDTH}, got {value}")
        for name, value in (("patch", patch), ("depth", depth), ("decoder_depth", decoder_depth)):
            if value < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
        self.mask_ratio, self.norm_pix_loss = mask_ratio, norm_pix_loss
        self.patch, self.embed_dim, self.depth = patch, embed_dim, depth
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        height, width = info.size
        if height % self.patch or width % self.patch or height * width < 2 * self.patch**2:
            raise UserError(
                f"patch: images of {height}x{width} pixels cannot be cut into patches of {self.patch}; give another "
                "patch or size"
            )
        self.encoder = MaskedEncoder((height, width), self.patch, info.channels, self.embed_dim, self.depth)
        self.decoder = MaskedDecoder(
            self.encoder.grid,
            self.patch,
            info.channels,
            self.embed_dim,
            self.decoder_embed_dim,
            self.decoder_depth,
        )
        # by which patches are hidden in pictures
        noise = torch.rand(self.encoder.patches, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the patches, and the patches, of whole images."""
        tokens = self.decoder.norm(self.encoder(image))[:, 1:]
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": tokens.mean(1), "features": maps}

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the painted patches are from the hidden ones."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        patches = self.decoder(self.encoder(image, masking.visible), masking.restore)
        return reconstruction_loss(patches, image, masking.hidden, self.patch, self.norm_pix_loss)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these painted; the same patches are hidden in all images.

        Patches that were learnt with mean 0 and variance 1 are painted with the true mean and variance.
        """
        masking = masking_from(self.noise.expand(len(image), -1), self.mask_ratio)
        patches = self.decoder(self.encoder(image, masking.visible), masking.restore)
        true = patchify(image, self.patch)
        if self.norm_pix_loss:
            spread, centre = torch.var_mean(true, dim=2, keepdim=True)
            found = patches * (spread + 1e-6 * SPREAD**2).sqrt() + centre
        else:
            found = patches * SPREAD + CENTRE
        hidden = masking.hidden[:, :, None]
        size = (image.shape[-2], image.shape[-1])
        return {
            "shown": unpatchify(torch.where(hidden, torch.full_like(true, GREY), true), self.patch, size),
            "reconstruction": unpatchify(torch.where(hidden, found, true), self.patch, size).clamp(0, 1),
        }


class _Untrained(MAE):
    """The same transformer, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="A linear classifier reads more from a masked autoencoder's features than from those of random weights.",
    where="section 4.1, table 1",
    higher_is_better=True,
)
def painting_teaches_more_than_chance(lab: Lab) -> Trial:
    """Made scenes of single objects; the same transformer on both sides."""
    return lab.duel(ours=MAE, baseline=_Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)


@claim(
    text="With three quarters of the patches hidden a linear classifier reads more than with a quarter hidden.",
    where="section 4.1, figure 5",
    higher_is_better=True,
)
def hiding_much_beats_hiding_little(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=MAE,
        baseline=lambda: MAE(mask_ratio=0.25),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
