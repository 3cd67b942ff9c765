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

from jaxtyping import Float
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import MaskedDecoder, Masking, random_masking, reconstruction_loss
from pinakes.nn.painting import shown_and_painted
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN, no_loss
from pinakes.papers.self_supervised.transformer import PatchTransformer, check_counts, check_width

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


class MAE(PatchTransformer):
    """A vision transformer that learns to paint what is hidden of images.

    Args:
        norm_pix_loss: Whether each patch to be painted is first brought to mean 0 and variance 1.
        decoder_embed_dim: Width of the decoder, a multiple of 32.
        decoder_depth: Blocks of the decoder.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_width("decoder_embed_dim", decoder_embed_dim)
        check_counts(decoder_depth=decoder_depth)
        self.norm_pix_loss = norm_pix_loss
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        self.decoder = MaskedDecoder(
            self.encoder.grid,
            self.patch,
            info.channels,
            self.embed_dim,
            self.decoder_embed_dim,
            self.decoder_depth,
        )

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens, normalised as at the entrance of the decoder."""
        normal: Tensor = self.decoder.norm(tokens)
        return normal

    def paint(
        self, image: Float[Tensor, "batch channels height width"], masking: Masking
    ) -> Float[Tensor, "batch patches values"]:
        """All patches, as they are painted from the visible ones."""
        patches: Tensor = self.decoder(self.encoder(image, masking.visible), masking.restore)
        return patches

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the painted patches are from the hidden ones."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        painted = self.paint(image, masking)
        return reconstruction_loss(painted, image, masking.hidden, self.patch, self.norm_pix_loss)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these painted; the same ones in all images."""
        masking = self.same_masking(len(image))
        return shown_and_painted(
            image, self.paint(image, masking), masking.hidden, self.patch, self.norm_pix_loss
        )


class _Untrained(MAE):
    """The same transformer, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="A linear classifier reads more from a masked autoencoder's features than from those of random weights.",
    where="implied by the linear probes of section 4.1, table 1",
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
