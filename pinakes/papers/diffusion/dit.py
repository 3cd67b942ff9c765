r"""Peebles and Xie, Scalable Diffusion Models with Transformers, ICCV 2023, arXiv:2212.09748.

The network of a diffusion model need not be a U-Net: a plain transformer on patches does. How strong the noise is, and
what the image shows, enter through the normalisation in each block, whose shift and scale follow from them, and through
gates. These start at zero, so that each block at first leaves its input as it is (adaLN-Zero).

What the code follows:

- Section 3.2, "Patchify", `DiTNetwork`: patches of p x p as tokens, with fixed sine-cosine positions.
- Section 3.2, "DiT block design", `AdaLNZeroBlock`: with c the sum of what t and the class are embedded as,
  (beta_1, gamma_1, alpha_1, beta_2, gamma_2, alpha_2) = W SiLU(c) + b, and
  x <- x + alpha (F((1 + gamma) LN(x) + beta)), F the attention and then the perceptron.
- The same, "adaptive layer norm", `AdaLNBlock`: without gates, and started at random; "in-context conditioning": t and
  the class are two more tokens of a plain transformer, which are left out at the end.
- Section 3.2, "Transformer decoder": an adaptive layer norm, and a linear map of each token to its patch of noise.
- How layers are initialised, and the form of each: the authors' code (github.com/facebookresearch/DiT).

Differences from the paper: by default it works on pixels; with `factor` 2 or more on the latents of an autoencoder that
is trained before, as in latent diffusion. Small networks, and by default patches of 4 pixels, where the paper has 2 of
latents. The variance of the steps back is not learnt, only the noise. Cross-attention to t and the class, which the
paper compares as well, is left out.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import step_embedding
from pinakes.nn.masked_autoencoder import patchify, positions, unpatchify
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, Foretold, Sampler
from pinakes.papers.diffusion.latent_diffusion import LatentDiffusion

EQUATIONS = (
    (
        "Section 3.2",
        r"(\beta_1, \gamma_1, \alpha_1, \beta_2, \gamma_2, \alpha_2) = W \, \mathrm{SiLU}(c) + b",
    ),
    (
        "Section 3.2",
        r"x \leftarrow x + \alpha_i \, F_i\left( (1 + \gamma_i) \, \mathrm{LN}(x) + \beta_i \right)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Conditioning = Literal["adaln-zero", "adaln", "in-context"]
FREQUENCIES = 256
"""Sines and cosines of t."""
GELU: Any = partial(nn.GELU, approximate="tanh")
SMALL_INIT = 0.02
"""Deviation at which embeddings start."""


def modulate(
    tokens: Float[Tensor, "batch tokens width"],
    shift: Float[Tensor, "batch width"],
    scale: Float[Tensor, "batch width"],
) -> Float[Tensor, "batch tokens width"]:
    """Normalised tokens, scaled by 1 + `scale` and shifted, both for each sample."""
    return (1 + scale[:, None]) * tokens + shift[:, None]


class AdaLNZeroBlock(nn.Module):
    """A block of a transformer whose shifts, scales and gates follow from what it is told; at first it does nothing.

    Args:
        width: Of the tokens, a multiple of `heads`.
        heads: Of attention.
        mlp_ratio: How many times as wide the perceptron is inside.

    Source: section 3.2, figure 3.

    Example:
        >>> tokens = torch.randn(2, 9, 32)
        >>> torch.equal(AdaLNZeroBlock(32, 4)(tokens, torch.randn(2, 32)), tokens)
        True
    """

    gated = True

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, round(width * mlp_ratio), act_layer=GELU)
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(width, (6 if self.gated else 4) * width))
        for layer in self.modules():
            _start_evenly(layer)
        if self.gated:
            _start_at_zero(self.told[1])

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], told: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Tokens after attention and perceptron.

        Args:
            tokens: Of patches.
            told: c, of each sample.
        """
        parts = self.told(told).chunk(6 if self.gated else 4, dim=1)
        half = len(parts) // 2
        for norm, layer, own in zip(
            self.norms, (self.attention, self.mlp), (parts[:half], parts[half:]), strict=True
        ):
            changed = layer(modulate(norm(tokens), own[0], own[1]))
            tokens = tokens + (own[2][:, None] * changed if self.gated else changed)
        return tokens


class AdaLNBlock(AdaLNZeroBlock):
    """The same without gates, and with shifts and scales that start at random.

    Args:
        width: Of the tokens, a multiple of `heads`.
        heads: Of attention.
        mlp_ratio: How many times as wide the perceptron is inside.

    Source: section 3.2, "Adaptive layer norm (adaLN) block".
    """

    gated = False


class PlainBlock(nn.Module):
    """A block of a transformer that is told nothing.

    Args:
        width: Of the tokens, a multiple of `heads`.
        heads: Of attention.
        mlp_ratio: How many times as wide the perceptron is inside.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, round(width * mlp_ratio), act_layer=GELU)
        for layer in self.modules():
            _start_evenly(layer)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], told: Float[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Tokens after attention and perceptron; what is told is not heard."""
        tokens = tokens + self.attention(self.norms[0](tokens))
        after: Tensor = tokens + self.mlp(self.norms[1](tokens))
        return after


BLOCKS: dict[Conditioning, type[nn.Module]] = {
    "adaln-zero": AdaLNZeroBlock,
    "adaln": AdaLNBlock,
    "in-context": PlainBlock,
}


class DiTNetwork(nn.Module):
    """A transformer that foretells what a diffusion model asks, patch by patch.

    Args:
        size: Rows and columns of what it is shown, multiples of the patch.
        channels: Of what it is shown, and of its answer.
        patch_size: p.
        hidden_size: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Blocks.
        num_heads: Of attention.
        mlp_ratio: How many times as wide perceptrons are inside.
        classes: How many classes it can be told of; 0 for none.
        conditioning: How t and the class enter.

    Example:
        >>> network = DiTNetwork((16, 8), channels=3, patch_size=4, hidden_size=32, depth=2, num_heads=4, classes=10)
        >>> network(torch.randn(2, 3, 16, 8), torch.tensor([3, 500]), torch.tensor([9, -1])).shape
        torch.Size([2, 3, 16, 8])
    """

    places: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        channels: int = 3,
        patch_size: int = 2,
        hidden_size: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        conditioning: Conditioning = "adaln-zero",
    ) -> None:
        super().__init__()
        self.patch, self.in_context = patch_size, conditioning == "in-context"
        self.enter = nn.Linear(channels * patch_size**2, hidden_size)
        grid = size[0] // patch_size, size[1] // patch_size
        self.register_buffer("places", positions(*grid, hidden_size)[:, 1:], persistent=False)
        self.tell = nn.Sequential(
            nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        # one more, for images whose class is not told
        self.tell_class = nn.Embedding(classes + 1, hidden_size) if classes else None
        self.blocks = nn.ModuleList(
            BLOCKS[conditioning](hidden_size, num_heads, mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=self.in_context)
        self.told = (
            None if self.in_context else nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))
        )
        self.leave = nn.Linear(hidden_size, channels * patch_size**2)
        for layer in (self.enter, *(self.told or ())):
            _start_evenly(layer)
        for layer in self.tell:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=SMALL_INIT)
                nn.init.zeros_(layer.bias)
        if self.tell_class is not None:
            nn.init.normal_(self.tell_class.weight, std=SMALL_INIT)
        if self.told is not None and conditioning == "adaln-zero":
            _start_at_zero(self.told[1])
        _start_at_zero(self.leave)

    def conditions(
        self, t: Int[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> list[Float[Tensor, "batch _width"]]:
        """What t and, where classes can be told, the label are embedded as.

        Args:
            t: How many steps of noise each has.
            label: The class of each, -1 where it is not told; None for none.
        """
        told = [self.tell(step_embedding(t, FREQUENCIES))]
        if self.tell_class is not None:
            label = torch.full_like(t, -1) if label is None else label
            unknown = self.tell_class.num_embeddings - 1
            told.append(self.tell_class(torch.where(label < 0, unknown, label)))
        return told

    def answer(
        self,
        image: Float[Tensor, "batch channels height width"],
        told: list[Float[Tensor, "batch _width"]],
    ) -> Float[Tensor, "batch channels height width"]:
        """What is foretold of x_t, given embeddings of what is known of it."""
        tokens, together = self.enter(patchify(image, self.patch)) + self.places, torch.stack(told).sum(0)
        if self.in_context:
            tokens = torch.cat([tokens, torch.stack(told, dim=1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, together)
        tokens = self.norm(tokens[:, : self.places.shape[1]])
        if self.told is not None:
            tokens = modulate(tokens, *self.told(together).chunk(2, dim=1))
        return unpatchify(self.leave(tokens), self.patch, (image.shape[2], image.shape[3]))

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """What is foretold of x_t, such as its noise."""
        return self.answer(image, self.conditions(t, label))


def _start_evenly(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def _start_at_zero(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class DiT(LatentDiffusion):
    """A transformer on patches takes noise out of images, or out of the latents of an autoencoder.

    Args:
        patch_size: p, the side of a patch; it divides the sides of images, or of latents.
        hidden_size: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Blocks.
        num_heads: Heads of attention.
        mlp_ratio: How many times as wide perceptrons are inside, above 0.
        conditioning: How t and the class enter: "adaln-zero", "adaln" or "in-context".
        factor: f of the autoencoder, a power of 2; 1 for pixels.
        autoencoder_steps: Steps of its training; None for as many as the network is trained for after it.
        T: Steps after which nothing but noise is left, 2 or more.
        foretold: What the network foretells: "noise", "clean" images or "velocity".
        guidance: How far samples are drawn towards their class, 0 or more; 1 for as the network says. Where it is not
            1, the class is left out for a tenth of the images in training.
        sampler: "ddim" makes images along the same noise, "ddpm" with new noise in each step, "dpm" along the same
            noise with the answers of two steps, which needs fewer of them (and diffusers).
        sampling_steps: How often the network is asked for one image, 1 to T.
        classes: Whether the network is told the class of images, where the data have classes.
        mirror: Whether training images are mirrored at random.
        average: The share of the averaged weights that is kept in each step, 0 or more and below 1; answers are made
            with the average.
        learning_rate: Of Adam, after a rise over the first 100 steps.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        patch_size: int = 4,
        hidden_size: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        conditioning: Conditioning = "adaln-zero",
        factor: int = 1,
        autoencoder_steps: int | None = None,
        T: int = 1000,
        foretold: Foretold = "noise",
        guidance: float = 1.0,
        sampler: Sampler = "ddim",
        sampling_steps: int = 50,
        classes: bool = True,
        mirror: bool = False,
        average: float = 0.995,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(
            factor=factor,
            autoencoder_steps=autoencoder_steps,
            T=T,
            foretold=foretold,
            guidance=guidance,
            sampler=sampler,
            sampling_steps=sampling_steps,
            classes=classes,
            mirror=mirror,
            average=average,
            learning_rate=learning_rate,
        )
        for name, count in (("patch_size", patch_size), ("depth", depth), ("num_heads", num_heads)):
            if count < 1:
                raise UserError(f"{name}: expected 1 or more, got {count}")
        if hidden_size < 1 or hidden_size % 4 or hidden_size % num_heads:
            raise UserError(
                f"hidden_size: expected a multiple of 4 and of num_heads, {num_heads}, got {hidden_size}"
            )
        if not mlp_ratio > 0:
            raise UserError(f"mlp_ratio: expected a number above 0, got {mlp_ratio}")
        if conditioning not in get_args(Conditioning):
            near = suggest(conditioning, get_args(Conditioning))
            raise UserError(f"conditioning: '{conditioning}' is unknown{near}")
        self.patch_size, self.hidden_size, self.depth = patch_size, hidden_size, depth
        self.num_heads, self.mlp_ratio, self.conditioning = num_heads, mlp_ratio, conditioning

    def make_network(self, info: DataInfo) -> nn.Module:
        """A transformer for images or latents of one size.

        Raises:
            UserError: If these cannot be cut into patches.
        """
        channels, rows, columns = self.shape(info)
        if rows % self.patch_size or columns % self.patch_size:
            raise UserError(
                f"patch_size: {rows}x{columns} cannot be cut into patches of {self.patch_size}; give another, or "
                "another size"
            )
        return DiTNetwork(
            (rows, columns),
            channels,
            self.patch_size,
            self.hidden_size,
            self.depth,
            self.num_heads,
            self.mlp_ratio,
            len(info.classes) if self.is_told_classes(info) else 0,
            self.conditioning,
        )


CLAIMED: dict[str, Any] = {"patch_size": 2, "hidden_size": 64, "depth": 4, "sampling_steps": 25}
LONG: dict[str, Any] = CLAIM_PLAN | {"steps": 2500, "same_start": False}
"""A transformer needs more steps than a U-Net until samples look like digits."""


@claim(
    text="After equally many steps, samples of a transformer that is told t and the class by adaLN-Zero are nearer to "
    "real images than those of one that is told by two more tokens.",
    where="section 5, figure 5",
    higher_is_better=False,
)
def adaln_zero_beats_tokens(lab: Lab) -> Trial:
    """Digits of 8 pixels in patches of 2; FID by the features of the embedded network."""
    return lab.duel(
        ours=lambda: DiT(**CLAIMED),
        baseline=lambda: DiT(conditioning="in-context", **CLAIMED),
        data=CLAIM_DATA,
        metric="fid",
        **LONG,
    )


@claim(
    text="After equally many steps, samples of a transformer whose adaptive layer norms have gates and start at zero "
    "are nearer to real images than those of one without gates that starts at random.",
    where="section 5, figure 5",
    higher_is_better=False,
)
def starting_at_zero_helps(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: DiT(**CLAIMED),
        baseline=lambda: DiT(conditioning="adaln", **CLAIMED),
        data=CLAIM_DATA,
        metric="fid",
        **LONG,
    )
