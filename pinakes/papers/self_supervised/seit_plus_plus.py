r"""Lee et al., SeiT++: Masked Token Modeling Improves Storage-efficient Training, ECCV 2024, arXiv:2312.10105.

A tokenizer turns every image into the numbers of a few codes, and only these are stored, in the paper a hundredth of
the bytes. A transformer learns from them, without labels, by foretelling the codes that are hidden. It needs
augmentations, and those of pixels do not suit codes: the code of a mirrored patch is another one. So a pair of maps
leads from codes to a space in which crops and mirrors act as they do on pixels, and back; colours are changed by
exchanging the means and deviations of code vectors between images.

What the code follows, with codes T of an image x, their vectors Z_T, and a change A such as a crop:

- Token data set, `pinakes.data.stored_tokens.TokenStore`: of each image its codes, packed to as many bits as they need,
  and its label.
- TokenAdapt, `TokenAdapt`: S = f(Z_T) of twice the rows and columns, A(S), and g, whose highest logits are the new
  codes; f and g are trained so that these are the codes of the changed image, `token_adapt_loss`:
  L = CE(g(A(f(Z_T))), T_A), with T_A = tokenizer(A(x)). Then they are frozen.
- ColorAdapt, `color_adapt`: sigma(Z_j) (Z_i - mu(Z_i)) / sigma(Z_i) + mu(Z_j), with mean and deviation over positions.
- Masked token modelling, `TokenEncoder`, `TokenDecoder`, `masked_token_loss`: a share of the positions drawn from a
  truncated normal distribution is hidden; the least share is left out of the encoder, and a mask token stands for the
  others. In the decoder the encoder's class token stands for all. L = mean over hidden positions of CE(logits, T).

The forms of f, g and ColorAdapt, the masking and the decoder are those of the authors' code (github.com/naver-ai/seit).
That holds f and g trained, not their training: that the codes of the changed image are the target, by cross-entropy on
the logits that g gives, is our reading of the paper.

Differences from the paper: a small convolutional tokenizer with codes of length 1, trained on the same images by
reconstruction alone, in place of a ViT-VQGAN of 391 codes; it, and then f and g, are trained for as many steps as the
encoder before that starts, which does not count as its training. Codes are packed to whole bits, in place of a byte
with an escape. Networks are small, and embeddings of codes start nine times as long, at about 1, so that logits are
soon large enough. f and g are trained on crops and mirrors only, and images are not sheared or rotated. Half of a batch
passes through TokenAdapt, half is cropped as it is, as in that code; ColorAdapt is drawn for each image. The embedding
is the mean over the patches; fine-tuning and probes see the codes of images that are not stored, and fine-tuning moves
and mirrors these images and not their codes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from PIL import Image
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

import pinakes
from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.data.stored_tokens import TokenStore
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.crops import cropped, random_boxes, randomly_cropped
from pinakes.nn.image_tokenizer import Tokenizer, nearest_codes
from pinakes.nn.masked_autoencoder import (
    HEAD_WIDTH,
    Masking,
    initialise,
    masking_from,
    positions,
    visible_only,
)
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN, PICTURED, SelfSupervised, no_loss
from pinakes.papers.self_supervised.transformer import check_counts, check_width
from pinakes.tasks.base import Batch, Prediction, to_pixels

EQUATIONS = (
    (
        "Masked token modelling",
        r"L = -\frac{1}{|M|} \sum_{i \in M} \log p(t_i \mid T_{\setminus M})",
    ),
    (
        "TokenAdapt",
        r"L = \mathrm{CE}\left(g(A(f(Z_T))), T_A\right), \quad T_A = \mathrm{tokenizer}(A(x))",
    ),
    (
        "ColorAdapt",
        r"\mathrm{ColorAdapt}(Z_i, Z_j) = \sigma(Z_j) \frac{Z_i - \mu(Z_i)}{\sigma(Z_i)} + \mu(Z_j)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

TOKENIZER_LEARNING_RATE, ADAPT_LEARNING_RATE = 2e-3, 4e-3
DROPOUT = 0.1


# -- augmentations of codes --------------------------------------------------------------------------------------


def color_adapt(
    content: Float[Tensor, "batch dim rows columns"], style: Float[Tensor, "batch dim rows columns"]
) -> Float[Tensor, "batch dim rows columns"]:
    """Vectors of codes, with the mean and deviation that those of other images have over their positions.

    Args:
        content: Z_i.
        style: Z_j.

    Source: section on ColorAdapt; the authors' code.

    Example:
        >>> color_adapt(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 10.0]]]]))
        tensor([[[[ 0., 10.]]]])
    """
    spread, centre = torch.std_mean(content, dim=(2, 3), keepdim=True)
    wanted, place = torch.std_mean(style, dim=(2, 3), keepdim=True)
    return (content - centre) / spread.clamp(min=1e-6) * wanted + place


class TokenAdapt(nn.Module):
    """Two maps: from vectors of codes to a space in which they are changed as images are, and back to codes.

    Args:
        grid: Rows and columns of codes.
        codes: Entries of the codebook.
        dim: Width of the codes, and of the space between.
        width: Of the maps, a multiple of 32.

    Source: section on TokenAdapt; the form is that of the authors' code.
    """

    places: Tensor

    def __init__(self, grid: tuple[int, int], codes: int, dim: int, width: int = 64) -> None:
        super().__init__()
        self.grid = grid
        self.enter, self.leave = nn.Linear(dim, width), nn.Conv2d(dim, width, 2, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(Block(width, width // HEAD_WIDTH, act_layer=nn.Tanh), nn.LayerNorm(width))
            for _ in "fg"
        )
        self.widen, self.classify = nn.ConvTranspose2d(width, dim, 2, 2), nn.Linear(width, codes)
        self.register_buffer("places", positions(*grid, width)[:, 1:], persistent=False)
        initialise(self)

    def convert(
        self, vectors: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch dim height width"]:
        """f: to the space between, with twice the rows and columns."""
        tokens = self.enter(rearrange(vectors, "b c h w -> b (h w) c")) + self.places
        wide: Tensor = self.widen(rearrange(self.blocks[0](tokens), "b (h w) c -> b c h w", h=self.grid[0]))
        return wide

    def revert(
        self, space: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch codes rows columns"]:
        """g: the logits of codes."""
        tokens = rearrange(self.leave(space), "b c h w -> b (h w) c") + self.places
        return rearrange(self.classify(self.blocks[1](tokens)), "b (h w) c -> b c h w", h=self.grid[0])

    def forward(
        self, vectors: Float[Tensor, "batch dim rows columns"], change: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch codes rows columns"]:
        """The logits of the codes of changed images.

        Args:
            vectors: Of codes.
            change: A: what would be done to the images, such as a crop, a mirror or a mixture; keeps the shape.
        """
        return self.revert(change(self.convert(vectors)))


def token_adapt_loss(
    adapt: TokenAdapt,
    tokenizer: Tokenizer,
    image: Float[Tensor, "batch channels height width"],
    change: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """The cross-entropy of codes changed in the space between, where the codes of changed images are right.

    Args:
        adapt: f and g.
        tokenizer: Is not trained by it.
        image: Images in [0, 1].
        change: A: the same for images and for the space between, which is smaller.
    """
    with torch.no_grad():
        vectors, wanted = tokenizer.vectors(tokenizer.tokens(image)), tokenizer.tokens(change(image))
    return functional.cross_entropy(adapt(vectors, change), wanted)


def random_crop_and_mirror(
    batch: int, size: tuple[int, int], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A crop of a fifth to all of each image, of which half are mirrored: the same ones whenever it is called.

    Args:
        batch: Images.
        size: Their height and width.
        device: Of the images.
    """
    boxes = random_boxes(batch, size, device=device)
    mirrored = torch.rand(batch, 1, 1, 1, device=device) < 0.5

    def change(maps: Tensor) -> Tensor:
        part = cropped(maps, boxes)
        return torch.where(mirrored, part.flip(-1), part)

    return change


# -- masked token modelling --------------------------------------------------------------------------------------


def random_mask_ratio(low: float = 0.4, centre: float = 0.45, spread: float = 0.25) -> float:
    """A share from a normal distribution that is cut off below `low` and above 1.

    Args:
        low: The least share.
        centre: Mean of the normal distribution.
        spread: Its deviation.

    Source: the authors' code.
    """
    ends = torch.special.ndtr((torch.tensor([low, 1.0], dtype=torch.float64) - centre) / spread)
    place = torch.rand((), dtype=torch.float64) * (ends[1] - ends[0]) + ends[0]
    return min(1.0, max(low, float(torch.special.ndtri(place)) * spread + centre))


def token_masking(noise: Float[Tensor, "batch patches"], ratio: float, left_out: float) -> Masking:
    """Hides the patches with the highest noise, and leaves only a part of these out of the encoder.

    Args:
        noise: A random number for every patch.
        ratio: The share that is hidden, up to 1.
        left_out: The share that the encoder does not compute, of the hidden ones; the others are its mask tokens.

    Example:
        >>> found = token_masking(torch.tensor([[0.7, 0.1, 0.9, 0.3]]), ratio=0.5, left_out=0.25)
        >>> found.visible.tolist(), found.hidden.tolist()
        ([[1, 3, 0]], [[True, False, True, False]])
    """
    masking = masking_from(noise, left_out)
    patches = noise.shape[1]
    hidden = max(patches - masking.visible.shape[1], math.ceil(patches * ratio - 1e-6))
    return Masking(masking.visible, masking.restore, masking.restore >= patches - hidden)


def masked_token_loss(
    logits: Float[Tensor, "batch codes rows columns"],
    tokens: Int[Tensor, "batch rows columns"],
    hidden: Bool[Tensor, "batch patches"],
    token_patch: int = 1,
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the codes in hidden patches.

    Args:
        logits: Of codes.
        tokens: The true codes.
        hidden: Whether a patch is hidden.
        token_patch: Side of a patch in codes.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
        >>> masked_token_loss(logits, torch.tensor([[[0, 1]]]), torch.tensor([[True, False]]))
        tensor(0.6931)
    """
    error = functional.cross_entropy(logits, tokens, reduction="none")
    counted = on_codes(hidden, (tokens.shape[1], tokens.shape[2]), token_patch)
    return (error * counted).sum() / counted.sum()


def on_codes(
    hidden: Bool[Tensor, "batch patches"], grid: tuple[int, int], token_patch: int
) -> Bool[Tensor, "batch rows columns"]:
    """Whether each code is in a hidden patch."""
    patches = rearrange(hidden, "b (h w) -> b h w", h=grid[0] // token_patch)
    return patches.repeat_interleave(token_patch, 1).repeat_interleave(token_patch, 2)


class TokenEncoder(nn.Module):
    """A vision transformer on codes.

    Args:
        grid: Rows and columns of codes, multiples of `token_patch`.
        codes: Entries of the codebook; each has an embedding of its own here.
        dim: Width of the embeddings of codes.
        token_patch: Side of a patch in codes.
        width: Of the tokens, a multiple of 32.
        depth: Number of blocks.

    Example:
        >>> encoder = TokenEncoder((8, 8), codes=16, dim=8, token_patch=1, width=32, depth=1)
        >>> encoder(torch.randint(16, (2, 8, 8))).shape
        torch.Size([2, 65, 32])
    """

    places: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        codes: int,
        dim: int,
        token_patch: int = 2,
        width: int = 96,
        depth: int = 6,
    ) -> None:
        super().__init__()
        self.grid = grid[0] // token_patch, grid[1] // token_patch
        self.patches = self.grid[0] * self.grid[1]
        self.embedding = nn.Embedding(codes, dim)
        self.entrance = nn.Sequential(nn.LayerNorm(dim, eps=1e-6), nn.Dropout(DROPOUT))
        self.patch_embed = nn.Conv2d(dim, width, token_patch, token_patch)
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.cls_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.register_buffer("places", positions(*self.grid, width), persistent=False)
        initialise(self)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        for each in (self.cls_token, self.mask_token):
            nn.init.normal_(each, std=0.02)

    def forward(
        self, tokens: Int[Tensor, "batch rows columns"], masking: Masking | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens behind the last normalisation, the class token first.

        Args:
            tokens: Codes.
            masking: What is hidden; None to look at everything.
        """
        embedded = rearrange(self.entrance(self.embedding(tokens)), "b h w c -> b c h w")
        patches = rearrange(self.patch_embed(embedded), "b c h w -> b (h w) c")
        if masking is not None:
            patches = torch.where(masking.hidden[:, :, None], self.mask_token, patches)
        patches = patches + self.places[:, 1:]
        if masking is not None:
            patches = visible_only(patches, masking.visible)
        first = self.cls_token.expand(len(patches), -1, -1)
        seen: Tensor = self.norm(self.blocks(torch.cat([first, patches], dim=1)))
        return seen


class TokenDecoder(nn.Module):
    """Foretells codes from what the encoder says of those that it saw; its class token stands for the hidden ones.

    Args:
        encoder: The encoder whose tokens it gets, and whose embeddings of codes answers are compared with.
        width: Of its tokens, a multiple of 32.
        depth: Number of blocks.
    """

    def __init__(self, encoder: TokenEncoder, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        codes, dim = encoder.embedding.weight.shape
        self.grid, self.token_patch = encoder.grid, encoder.patch_embed.kernel_size[0]
        self.embed = nn.Linear(encoder.norm.normalized_shape[0], width)
        self.places = nn.Parameter(torch.zeros(1, 1 + encoder.patches, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, width // HEAD_WIDTH, qkv_bias=True, proj_drop=DROPOUT, attn_drop=DROPOUT)
                for _ in range(depth)
            ),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.answer = nn.Linear(width, dim * self.token_patch**2)
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(codes))
        initialise(self)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        masking: Masking,
        embedding: Float[Tensor, "codes dim"],
    ) -> Float[Tensor, "batch codes rows columns"]:
        """The logits of all codes.

        Args:
            tokens: Of the encoder, the class token first.
            masking: What is hidden.
            embedding: The encoder's embeddings of codes; no gradient flows to them.
        """
        known = self.embed(tokens)
        first = known[:, :1]
        left_out = masking.restore.shape[1] - masking.visible.shape[1]
        everywhere = visible_only(
            torch.cat([known[:, 1:], first.expand(-1, left_out, -1)], 1), masking.restore
        )
        everywhere = torch.where(masking.hidden[:, :, None], first, everywhere)
        told = self.answer(self.blocks(torch.cat([first, everywhere], dim=1) + self.places)[:, 1:])
        told = rearrange(
            told, "b (h w) (p q c) -> b (h p) (w q) c", h=self.grid[0], p=self.token_patch, q=self.token_patch
        )
        logits = self.norm(functional.gelu(told)) @ embedding.detach().mT + self.bias
        return rearrange(logits, "b h w c -> b c h w")


# -- the method --------------------------------------------------------------------------------------------------


class _Tokenizing(SelfSupervised):
    """Trains a tokenizer."""

    def __init__(self, codes: int, code_dim: int, patch: int) -> None:
        super().__init__(learning_rate=TOKENIZER_LEARNING_RATE, weight_decay=0.0)
        self.codes, self.code_dim, self.patch = codes, code_dim, patch

    def build(self, info: DataInfo) -> None:
        self.tokenizer = Tokenizer(info.channels, self.codes, self.code_dim, self.patch)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        return self.tokenizer.loss(image)


class _Adapting(_Tokenizing):
    """Trains the two maps of TokenAdapt for a tokenizer that is trained before."""

    def __init__(self, codes: int, code_dim: int, patch: int, adapt_dim: int) -> None:
        super().__init__(codes, code_dim, patch)
        self.adapt_dim, self.learning_rate = adapt_dim, ADAPT_LEARNING_RATE

    def build(self, info: DataInfo) -> None:
        super().build(info)
        self.tokenizer.requires_grad_(False)
        grid = info.size[0] // self.patch, info.size[1] // self.patch
        self.adapt = TokenAdapt(grid, self.codes, self.code_dim, self.adapt_dim)

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        made = fitted_once(_Tokenizing(self.codes, self.code_dim, self.patch), data, plan)
        self.tokenizer.load_state_dict(made.tokenizer.state_dict())

    def augmented(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return image

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        change = random_crop_and_mirror(len(image), self.info.size, image.device)
        return token_adapt_loss(self.adapt, self.tokenizer, image, change)


class SeiTPlusPlus(SelfSupervised):
    """A vision transformer that learns from stored codes of images to foretell hidden ones.

    `augmentation` is what is done to codes: in TokenAdapt's space as to images; of codes as they are, none is mirrored.

    Args:
        codes: Entries of the tokenizer's codebook, 2 to 65536.
        code_dim: Width of the codes.
        patch: Side in pixels of what one code stands for: 2, 4, 8 or 16; the sides of images are multiples of it.
        token_patch: Side in codes of a patch of the transformer.
        token_adapt: Share of a batch that is changed in TokenAdapt's space, 0 to 1; the rest is changed as it is.
        color_adapt: Share of the images that get the means and deviations of another's codes, 0 to 1.
        adapt_dim: Width of TokenAdapt's maps, a multiple of 32.
        tokenizer_steps: Steps of training for the tokenizer, and as many for TokenAdapt; None for as many as the
            encoder gets.
        mask_ratio_min: The least share of patches that are hidden, and the share left out of the encoder; above 0 and
            below 1.
        mask_ratio_mu: Peak of the share that is hidden.
        mask_ratio_std: Deviation of the share that is hidden, above 0.
        embed_dim: Width of the encoder, a multiple of 32.
        depth: Blocks of the encoder.
        decoder_embed_dim: Width of the decoder, a multiple of 32.
        decoder_depth: Blocks of the decoder.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor

    def __init__(
        self,
        codes: int = 128,
        code_dim: int = 32,
        patch: int = 4,
        token_patch: int = 2,
        token_adapt: float = 0.5,
        color_adapt: float = 0.25,
        adapt_dim: int = 64,
        tokenizer_steps: int | None = None,
        mask_ratio_min: float = 0.4,
        mask_ratio_mu: float = 0.45,
        mask_ratio_std: float = 0.25,
        embed_dim: int = 96,
        depth: int = 6,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 2,
        learning_rate: float = 3e-3,
        **shared: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **shared)
        if not 2 <= codes <= 65536:
            raise UserError(f"codes: expected 2 to 65536, got {codes}")
        if patch not in (2, 4, 8, 16):
            raise UserError(f"patch: expected 2, 4, 8 or 16, got {patch}")
        for name, share in (("token_adapt", token_adapt), ("color_adapt", color_adapt)):
            if not 0 <= share <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {share}")
        if not 0 < mask_ratio_min < 1:
            raise UserError(f"mask_ratio_min: expected a share above 0 and below 1, got {mask_ratio_min}")
        if not 0 <= mask_ratio_mu <= 1:
            raise UserError(f"mask_ratio_mu: expected a share from 0 to 1, got {mask_ratio_mu}")
        if not mask_ratio_std > 0:
            raise UserError(f"mask_ratio_std: expected a number above 0, got {mask_ratio_std}")
        if tokenizer_steps is not None:
            check_counts(tokenizer_steps=tokenizer_steps)
        check_counts(code_dim=code_dim, token_patch=token_patch, depth=depth, decoder_depth=decoder_depth)
        for name, width in (
            ("adapt_dim", adapt_dim),
            ("embed_dim", embed_dim),
            ("decoder_embed_dim", decoder_embed_dim),
        ):
            check_width(name, width)
        self.codes, self.code_dim, self.patch, self.token_patch = codes, code_dim, patch, token_patch
        self.token_adapt, self.color_adapt, self.adapt_dim = token_adapt, color_adapt, adapt_dim
        self.tokenizer_steps = tokenizer_steps
        self.mask_ratio_min, self.mask_ratio_mu, self.mask_ratio_std = (
            mask_ratio_min,
            mask_ratio_mu,
            mask_ratio_std,
        )
        self.embed_dim, self.depth = embed_dim, depth
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes tokenizer, TokenAdapt, encoder and decoder; the first two are not trained with the others.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        (height, width), side = info.size, self.patch * self.token_patch
        if height % side or width % side or height * width < 2 * side**2:
            raise UserError(
                f"patch: images of {height}x{width} pixels cannot be cut into patches of {self.token_patch} x "
                f"{self.patch} pixels; give another patch, token_patch or size"
            )
        grid = height // self.patch, width // self.patch
        self.tokenizer = Tokenizer(info.channels, self.codes, self.code_dim, self.patch).requires_grad_(False)
        self.adapt = TokenAdapt(grid, self.codes, self.code_dim, self.adapt_dim).requires_grad_(False)
        self.encoder = TokenEncoder(
            grid, self.codes, self.code_dim, self.token_patch, self.embed_dim, self.depth
        )
        self.decoder = TokenDecoder(self.encoder, self.decoder_embed_dim, self.decoder_depth)
        noise = torch.rand(self.encoder.patches, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    # -- tokens ----------------------------------------------------------------------------------------------

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the tokenizer and then TokenAdapt, if that has not been done before on these images."""
        if self.tokenizer_steps is not None:
            plan = replace(plan, steps=self.tokenizer_steps, epochs=None)
        parts = (self.codes, self.code_dim, self.patch)
        made: Any
        if self.token_adapt:
            made = fitted_once(_Adapting(*parts, self.adapt_dim), data, plan)
            self.adapt.load_state_dict(made.adapt.state_dict())
        else:
            made = fitted_once(_Tokenizing(*parts), data, plan)
        self.tokenizer.load_state_dict(made.tokenizer.state_dict())

    def stored(self, samples: SampleSet, batch_size: int = 64) -> TokenStore:
        """Images, and their labels if all have one, as stored tokens.

        Args:
            samples: Images in [0, 1], one or more.
            batch_size: Images at a time.
        """
        tokens, labels = [], []
        for start in range(0, len(samples), batch_size):
            some = [samples[index] for index in range(start, min(len(samples), start + batch_size))]
            image = torch.stack([each["image"] for each in some]).to(self.device)
            tokens.append(self.tokenizer.tokens(self.sized(image)).cpu())
            labels += [int(each["label"]) for each in some if "label" in each]
        whole = torch.tensor(labels, dtype=torch.int16) if len(labels) == len(samples) else None
        return TokenStore.pack(torch.cat(tokens), self.codes, whole)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Turns the training images into stored tokens, and trains on these alone."""
        super().learn(replace(data, train=self.stored(data.train)), plan)

    @torch.no_grad()
    def changed(self, tokens: Int[Tensor, "batch rows columns"]) -> Int[Tensor, "batch rows columns"]:
        """Codes, changed at random by ColorAdapt, TokenAdapt and, for the others, as they are."""
        vectors = self.tokenizer.vectors(tokens)
        chosen = torch.rand(len(tokens), 1, 1, 1, device=tokens.device) < self.color_adapt
        vectors = torch.where(chosen, color_adapt(vectors, vectors.flip(0)), vectors)
        adapted = round(self.token_adapt * len(tokens)) if self.augmentation != "none" else 0
        parts = []
        if adapted:
            parts.append(self.adapt(vectors[:adapted], self.augmented).argmax(1))
        if adapted < len(tokens):
            rest = vectors[adapted:]
            rest = randomly_cropped(rest) if self.augmentation == "crop" else self.augmented(rest)
            parts.append(nearest_codes(rest, self.tokenizer.codebook))
        return torch.cat(parts)

    # -- learning --------------------------------------------------------------------------------------------

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the patches, and the patches, of the codes of whole images."""
        patches = self.encoder(self.tokenizer.tokens(image))[:, 1:]
        maps = rearrange(patches, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": patches.mean(1), "features": maps}

    def foretold(
        self, tokens: Int[Tensor, "batch rows columns"], masking: Masking
    ) -> Float[Tensor, "batch codes rows columns"]:
        """The logits of codes, from those that are not hidden."""
        logits: Tensor = self.decoder(self.encoder(tokens, masking), masking, self.encoder.embedding.weight)
        return logits

    def token_loss(self, tokens: Int[Tensor, "batch rows columns"]) -> Float[Tensor, ""]:
        """How badly hidden codes are foretold."""
        noise = torch.rand(len(tokens), self.encoder.patches, device=tokens.device)
        ratio = random_mask_ratio(self.mask_ratio_min, self.mask_ratio_mu, self.mask_ratio_std)
        masking = token_masking(noise, ratio, self.mask_ratio_min)
        return masked_token_loss(self.foretold(tokens, masking), tokens, masking.hidden, self.token_patch)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The same, of images."""
        return self.token_loss(self.tokenizer.tokens(image))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch of stored tokens, or of images, after augmentation."""
        tokens = batch["tokens"] if "tokens" in batch else self.tokenizer.tokens(self.sized(batch["image"]))
        return self.token_loss(self.changed(tokens))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Paints a picture of stored tokens, if it is time for one."""
        if self._pictures is not None:
            with torch.no_grad():
                vectors = self.tokenizer.vectors(batch["tokens"][:PICTURED])
                batch = {"image": self.tokenizer.decode(vectors).clamp(0, 1)}
        super().on_train_batch_end(outputs, batch, batch_idx)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images painted from their codes with some of these grey, and from codes of which those are foretold."""
        tokens = self.tokenizer.tokens(image)
        ratio = max(self.mask_ratio_min, self.mask_ratio_mu)
        masking = token_masking(self.noise.expand(len(image), -1), ratio, self.mask_ratio_min)
        hidden = on_codes(masking.hidden, (tokens.shape[1], tokens.shape[2]), self.token_patch)
        found = torch.where(hidden, self.foretold(tokens, masking).argmax(1), tokens)
        covered = hidden[:, None].repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        whole, filled = (self.tokenizer.decode(self.tokenizer.vectors(each)) for each in (tokens, found))
        return {
            "shown": torch.where(covered, torch.full_like(image, GREY), whole.clamp(0, 1)),
            "reconstruction": filled.clamp(0, 1),
        }


def storage_report(method: SeiTPlusPlus, data: str | Path | TaskData) -> dict[str, float]:
    """What storing the training images as tokens saves, beside how well the method does.

    Args:
        method: Fitted.
        data: As for `fit`, with a test part.

    Returns:
        `token_bytes` and `png_bytes`, the training images' size on disk in both forms, of the method's size; `share`,
        the first over the second; and the metrics of `evaluate`.
    """
    loaded = pinakes.load_data(data, task=method.task, size=method.info.size)
    token_bytes, png_bytes = method.stored(loaded.train).bytes_on_disk, 0
    for index in range(len(loaded.train)):
        file = BytesIO()
        Image.fromarray(to_pixels(loaded.train[index]["image"])).save(file, "png", optimize=True)
        png_bytes += file.tell()
    return {
        "token_bytes": float(token_bytes),
        "png_bytes": float(png_bytes),
        "share": token_bytes / png_bytes,
    } | method.evaluate(loaded)


CLAIM_OPTIONS: dict[str, Any] = {"embed_dim": 64, "depth": 4}


class _Untrained(SeiTPlusPlus):
    """The same transformer on the same codes, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0, **CLAIM_OPTIONS)

    def token_loss(self, tokens: Int[Tensor, "batch rows columns"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="Trained on the codes of images with a tenth of the labels, a transformer is more accurate if it learnt "
    "before to foretell hidden codes of all images.",
    where="abstract: masked token modelling before training with labels",
    higher_is_better=True,
)
def masked_token_modelling_helps(lab: Lab) -> Trial:
    """Made scenes of single objects; the same tokenizer and transformer on both sides."""
    return lab.duel(
        ours=lambda: SeiTPlusPlus(**CLAIM_OPTIONS),
        baseline=_Untrained,
        data=f"{CLAIM_DATA}&finetune=10",
        metric="finetune_10",
        **CLAIM_PLAN,
    )


@claim(
    text="Masked token modelling makes features from which a linear classifier reads more if half of the images are "
    "changed by TokenAdapt than if all codes are cropped as they are.",
    where="abstract and section on TokenAdapt",
    higher_is_better=True,
)
def token_adapt_beats_crops_of_codes(lab: Lab) -> Trial:
    """As above, judged without fine-tuning."""
    return lab.duel(
        ours=lambda: SeiTPlusPlus(**CLAIM_OPTIONS),
        baseline=lambda: SeiTPlusPlus(token_adapt=0.0, **CLAIM_OPTIONS),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
