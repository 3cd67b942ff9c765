r"""Bachmann et al., MultiMAE: Multi-modal Multi-task Masked Autoencoders, ECCV 2022, arXiv:2204.01678.

A masked autoencoder of several aligned maps: colour, depth and classes of one scene. The encoder sees a few patches of
any of them, how many of which is left to chance, and a decoder for each map paints what is hidden of it. To paint one
map from patches of another the encoder must know what they have in common; it can then use whichever are at hand.

What the code follows, with K tokens visible of all maps together:

- Encoder: every map has its own linear projection of patches, whose bias tells the maps apart; classes are embedded
  pixel by pixel first, `ClassPatches`. Fixed sine-cosine positions are added, and one ViT looks at all visible tokens.
- Masking, `dirichlet_masking`: lambda ~ Dir(alpha) for each image, with the same alpha for all maps; round(lambda_m K)
  random patches of map m stay visible. Where rounding left too many or too few, random ones are dropped or added.
- Decoders, `CrossDecoder`: queries are mask tokens and the visible tokens of the map, with positions and an embedding
  of the map; they ask all visible tokens once by cross-attention, without a residual; blocks of self-attention follow.
- Loss, the sum over the maps of the mean over what is hidden: `rgb_loss` is the squared error of pixels and, with a
  second decoder, of pixels brought to mean 0 and variance 1 within each patch; `depth_loss` is the absolute error of
  depth, standardised by `standardised_depth`; `semantic_loss` is the cross-entropy of classes.

Order of normalisations, rounding, the second decoder of colour, the trimming of depth, and the mean over images of the
mean over what is hidden of each are those of the authors' code (github.com/EPFL-VILAB/MultiMAE).

Differences from the paper: networks and patches are small by default. Depth and classes are those of the data, where
the paper lets networks guess them. A normalisation stands behind the last block, as in masked autoencoders. Pixels
without a class have an embedding of 0 and count for nothing. Depth is divided by no less than a hundredth of its mean,
so that flat scenes do not blow it up. The embedding is the mean over the image's tokens, which have looked at all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import (
    CENTRE,
    HEAD_WIDTH,
    SPREAD,
    Masking,
    filled_in,
    initialise,
    normalised,
    patchify,
    positions,
    standardised,
    unpatchify,
    visible_only,
)
from pinakes.nn.painting import shown_and_painted
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.transformer import PatchTransformer, check_counts, check_width
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.segmentation import NO_CLASS

EQUATIONS = (
    ("Masking", r"\lambda \sim \mathrm{Dir}(\alpha, \dots, \alpha), \quad K_m = \mathrm{round}(\lambda_m K)"),
    (
        "Loss",
        r"L = \sum_m \frac{1}{|H_m|} \sum_{i \in H_m} \ell_m(\hat x_i, x_i), \quad \ell_{rgb} = \lVert \hat x - x "
        r"\rVert^2, \; \ell_{depth} = \lVert \hat x - x \rVert_1, \; \ell_{sem} = -\log \hat p(x)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

MODALITIES = ("image", "depth", "semantic")
"""The maps that are known, by the names of their fields."""
CLASS_WIDTH = 64
"""Width of the embedding of a pixel's class."""
TRIMMED = 0.1
"""The share of the lowest and of the highest depths that does not count where depth is standardised."""
CLAIM_DATA = "scenes:modalities?size=32&n=1000"
CLAIM_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 32}
"""How long encoders learn, 32 passes over the scenes."""
COMPLETED_FROM = 32
"""Visible tokens there, as many as in training."""


def masking_from_shares(
    shares: Float[Tensor, "batch modalities"], noise: Float[Tensor, "2 batch modalities patches"], kept: int
) -> Masking:
    """Which tokens of several modalities are visible, the tokens of one behind those of the other.

    Args:
        shares: Of each modality in the visible tokens; 0 or more, of sum 1. One of share 0 is visible only where all
            others are.
        noise: Random numbers from 0 to 1: the first ones say which patches of a modality are visible, the second ones
            which are dropped or added to come out at `kept`.
        kept: How many tokens are visible in all.

    Raises:
        ValueError: If `kept` is below 1 or above the number of tokens.

    Source: section on multi-modal masking; rounding as in the authors' code.

    Example:
        >>> noise = torch.tensor([[0.7, 0.1], [0.9, 0.3]]).expand(2, 1, 2, 2)
        >>> masking_from_shares(torch.tensor([[0.5, 0.5]]), noise, kept=2).visible
        tensor([[1, 3]])
    """
    tokens = noise.shape[2] * noise.shape[3]
    if not 1 <= kept <= tokens:
        raise ValueError(f"kept: expected 1 to {tokens} tokens, got {kept}")
    wanted = (shares * kept).round()
    ranks = noise[0].argsort(2).argsort(2)
    surplus = ranks >= wanted[:, :, None]
    order = (surplus + 2 * (shares == 0)[:, :, None] + noise[1]).flatten(1).argsort(1)
    restore = order.argsort(1)
    return Masking(order[:, :kept], restore, restore >= kept)


def dirichlet_masking(
    batch: int,
    modalities: int,
    patches: int,
    kept: int,
    alpha: float = 1.0,
    device: torch.device | str = "cpu",
) -> Masking:
    """Leaves a fixed number of tokens visible, shared out among the modalities at random; draws from torch's generator.

    Args:
        batch: Images.
        modalities: How many there are.
        patches: Of each of them.
        kept: How many tokens are visible in all.
        alpha: Concentration: near 0 one modality has all, at 1 all shares are equally likely, above they are alike.
        device: Of the result.

    Example:
        >>> dirichlet_masking(2, modalities=3, patches=64, kept=32).visible.shape
        torch.Size([2, 32])
    """
    # the distribution checks its samples unless told not to, which would make a GPU wait
    concentration = torch.full((modalities,), alpha, device=device)
    shares = torch.distributions.Dirichlet(concentration, validate_args=False).sample((batch,))
    return masking_from_shares(shares, torch.rand(2, batch, modalities, patches, device=device), kept)


def standardised_depth(depth: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Depth, shifted and scaled so that its middle four fifths have mean 0 and variance 1 in each image.

    Args:
        depth: In any unit.

    Source: the authors' code.
    """
    values = depth.flatten(1).sort(1).values
    count = values.shape[1]
    spread, centre = torch.var_mean(values[:, int(TRIMMED * count) : int((1 - TRIMMED) * count)], dim=1)
    scale = (spread + (0.01 * centre).square() + 1e-6).sqrt()
    return (depth - centre[:, None, None]) / scale[:, None, None]


def hidden_mean(
    error: Float[Tensor, "batch patches values"], counted: Bool[Tensor, "batch patches values"]
) -> Float[Tensor, ""]:
    """The mean over what counts of each image, and of that the mean over images of which something does.

    Args:
        error: Of every value.
        counted: Whether it counts.

    Source: the authors' code.
    """
    counts = counted.flatten(1).sum(1)
    means = (error * counted).flatten(1).sum(1) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum().clamp(min=1)


def rgb_loss(
    painted: Float[Tensor, "batch patches values"],
    image: Float[Tensor, "batch channels height width"],
    hidden: Bool[Tensor, "batch patches"],
    patch: int,
    norm_pix_loss: bool = False,
) -> Float[Tensor, ""]:
    """The squared error of hidden patches.

    Args:
        painted: The patches as the decoder paints them.
        image: Images in [0, 1]; the target is their `normalised` pixels.
        hidden: Whether a patch is hidden.
        patch: Side of a patch in pixels.
        norm_pix_loss: Whether each patch of the target is first brought to mean 0 and variance 1.
    """
    target = patchify(normalised(image), patch)
    if norm_pix_loss:
        target = standardised(target)
    return hidden_mean((painted - target).square(), hidden[:, :, None].expand_as(target))


def depth_loss(
    painted: Float[Tensor, "batch patches values"],
    depth: Float[Tensor, "batch height width"],
    hidden: Bool[Tensor, "batch patches"],
    patch: int,
) -> Float[Tensor, ""]:
    """The absolute error of the standardised depth of hidden patches.

    Args:
        painted: The patches as the decoder paints them.
        depth: In any unit.
        hidden: Whether a patch is hidden.
        patch: Side of a patch in pixels.
    """
    target = patchify(standardised_depth(depth)[:, None], patch)
    return hidden_mean((painted - target).abs(), hidden[:, :, None].expand_as(target))


def semantic_loss(
    painted: Float[Tensor, "batch patches values"],
    semantic: Int[Tensor, "batch height width"],
    hidden: Bool[Tensor, "batch patches"],
    patch: int,
) -> Float[Tensor, ""]:
    """The cross-entropy of the classes of hidden pixels that have one.

    Args:
        painted: Logits, those of a pixel's classes side by side.
        semantic: Class of each pixel, -1 where it has none.
        hidden: Whether a patch is hidden.
        patch: Side of a patch in pixels.
    """
    target = rearrange(semantic, "b (h p) (w q) -> b (h w) (p q)", p=patch, q=patch)
    logits = painted.float().unflatten(2, (patch**2, -1)).movedim(-1, 1)
    error = functional.cross_entropy(logits, target.clamp(min=0), reduction="none")
    return hidden_mean(error, hidden[:, :, None] & (target >= 0))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "image": rgb_loss,
    "depth": depth_loss,
    "semantic": semantic_loss,
    "norm_image": partial(rgb_loss, norm_pix_loss=True),
}


class ClassPatches(nn.Module):
    """Tokens of patches of a map of classes: each pixel's class is embedded, and patches of that are projected.

    No pixel is embedded one by one: a patch is a sum of rows of the projected embeddings of all classes.

    Args:
        classes: How many there are.
        patch: Side of a patch in pixels.
        width: Of the tokens.

    Source: section on the encoder; widths are those of the authors' code.
    """

    def __init__(self, classes: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.classes = patch, classes
        self.embed = nn.Parameter(torch.zeros(classes, CLASS_WIDTH))
        self.proj = nn.Linear(patch**2 * CLASS_WIDTH, width)
        nn.init.trunc_normal_(self.embed, std=0.02)
        initialise(self)

    def forward(self, semantic: Int[Tensor, "batch height width"]) -> Float[Tensor, "batch patches dim"]:
        """Tokens, row by row, from the class of each pixel, -1 where it has none."""
        pixels = functional.one_hot(semantic + 1, self.classes + 1)[..., 1:].movedim(-1, 1)
        projected = self.proj.weight.unflatten(1, (-1, CLASS_WIDTH)) @ self.embed.mT
        patches = patchify(pixels.to(projected.dtype), self.patch)
        return functional.linear(patches, projected.flatten(1), self.proj.bias)


class CrossDecoder(nn.Module):
    """Paints all patches of one modality from the encoder's tokens of all.

    Args:
        grid: Rows and columns of patches.
        modalities: How many there are.
        painted: The number of the one that is painted.
        values: Numbers of a patch of it.
        inputs: Width of the encoder's tokens.
        width: Of its own, a multiple of 32.
        depth: Number of blocks behind the cross-attention.

    Source: section on the decoders; order of layers as in the authors' code.
    """

    places: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        modalities: int,
        painted: int,
        values: int,
        inputs: int,
        width: int = 32,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.painted = painted
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.modality = nn.Parameter(torch.zeros(modalities, 1, width))
        self.register_buffer("places", positions(*grid, width)[:, 1:], persistent=False)
        self.norm_query, self.norm_context, self.norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.ask = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)))
        self.paint = nn.Linear(width, values)
        initialise(self)
        nn.init.trunc_normal_(self.modality, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], masking: Masking
    ) -> Float[Tensor, "batch patches values"]:
        """The patches, from the encoder's tokens (the class token first) and what is visible of all modalities."""
        embedded = self.embed(tokens)
        where = (self.modality + self.places).flatten(0, 1)
        everywhere = filled_in(embedded[:, 1:], self.mask_token, masking.restore) + where
        query = everywhere.chunk(len(self.modality), dim=1)[self.painted]
        context = torch.cat([embedded[:, :1], embedded[:, 1:] + where[masking.visible]], dim=1)
        context = self.norm_context(context)
        answered, _ = self.ask(self.norm_query(query), context, context, need_weights=False)
        patches: Tensor = self.paint(self.blocks(answered + self.mlp(self.norm(answered))))
        return patches


class MultiMAE(PatchTransformer):
    """A vision transformer that learns to paint what is hidden of colour, depth and classes, from some of all three.

    Args:
        mask_ratio: Share of the tokens of all modalities together that are hidden, above 0 and below 1.
        modalities: What it learns from, some of "image", "depth" and "semantic", the image among them.
        inputs: What of these `predict` looks at where it answers a batch, the image among them.
        alpha: Concentration of the Dirichlet distribution of the modalities' shares in the visible tokens, above 0.
        extra_norm_pix_loss: Whether a second decoder paints patches of mean 0 and variance 1.
        decoder_embed_dim: Width of the decoders, a multiple of 32.
        decoder_depth: Blocks of each decoder behind its cross-attention.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"depth": "the depth of every pixel", "semantic": "the class of every pixel"}
    example_data = "scenes:modalities?size=32&n=40"
    chance: Tensor

    def __init__(
        self,
        mask_ratio: float = 5 / 6,
        modalities: Sequence[str] = MODALITIES,
        inputs: Sequence[str] = ("image",),
        alpha: float = 1.0,
        extra_norm_pix_loss: bool = True,
        decoder_embed_dim: int = 32,
        decoder_depth: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(mask_ratio, **shared)
        if not alpha > 0:
            raise UserError(f"alpha: expected a number above 0, got {alpha}")
        check_width("decoder_embed_dim", decoder_embed_dim)
        check_counts(decoder_depth=decoder_depth)
        self.modalities = _chosen("modalities", modalities, MODALITIES, "image")
        self.inputs = _chosen("inputs", inputs, self.modalities, "image")
        self.alpha, self.extra_norm_pix_loss = alpha, extra_norm_pix_loss
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth
        # of which modality a decoder paints
        self.painting = {name: name for name in self.modalities}
        if extra_norm_pix_loss:
            self.painting["norm_image"] = "image"
        about = type(self).needs
        self.needs = {  # type: ignore[misc]  # what one method needs of all that its class may need
            name: about[name] for name in self.modalities if name in about
        }

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, projections and decoders.

        Raises:
            UserError: If images cannot be cut into two patches or more, or pixels have no classes.
        """
        super().build(info)
        classes = len(info.classes)
        if "semantic" in self.modalities and not classes:
            raise UserError(
                "modalities: 'semantic' needs data that name the classes of pixels; leave it out or give such data"
            )
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.projections = nn.ModuleDict()
        if "depth" in self.modalities:
            self.projections["depth"] = nn.Linear(self.patch**2, self.embed_dim)
            initialise(self.projections["depth"])
        if "semantic" in self.modalities:
            self.projections["semantic"] = ClassPatches(classes, self.patch, self.embed_dim)
        planes = {"image": info.channels, "depth": 1, "semantic": classes}
        self.decoders = nn.ModuleDict(
            {
                name: CrossDecoder(
                    self.encoder.grid,
                    len(self.modalities),
                    self.modalities.index(of),
                    self.patch**2 * planes[of],
                    self.embed_dim,
                    self.decoder_embed_dim,
                    self.decoder_depth,
                )
                for name, of in self.painting.items()
            }
        )
        # by which tokens are visible where nothing is left to chance
        chance = torch.rand(
            2, len(self.modalities), self.encoder.patches, generator=torch.Generator().manual_seed(0)
        )
        self.register_buffer("chance", chance, persistent=False)

    @property
    def kept(self) -> int:
        """How many tokens are visible in training."""
        tokens = len(self.modalities) * self.encoder.patches
        return min(tokens - 1, max(1, int(tokens * (1 - self.mask_ratio) + 1e-6)))

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens behind the last normalisation."""
        normal: Tensor = self.norm(tokens)
        return normal

    # -- the encoder -----------------------------------------------------------------------------------------

    def tokens_of(self, name: str, value: Tensor) -> Float[Tensor, "batch patches width"]:
        """The tokens of one modality, with positions.

        Args:
            name: "image", "depth" or "semantic".
            value: The map, in the method's size.
        """
        network = self.encoder.network
        if name == "image":
            tokens = network.patch_embed(normalised(value))
        elif name == "depth":
            tokens = self.projections["depth"](patchify(standardised_depth(value)[:, None], self.patch))
        else:
            tokens = self.projections["semantic"](value)
        placed: Tensor = tokens + network.pos_embed[:, 1:]
        return placed

    def encoded(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch more width"]:
        """What the encoder says of tokens of any modalities, with the class token before them."""
        network = self.encoder.network
        first = (network.cls_token + network.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return self.normal(network.blocks(torch.cat([first, tokens], dim=1)))

    def encode(
        self,
        image: Float[Tensor, "batch channels height width"],
        depth: Float[Tensor, "batch height width"] | None = None,
        semantic: Int[Tensor, "batch height width"] | None = None,
    ) -> Prediction:
        """The mean over the image's patches, and these, which have looked at the other modalities.

        Args:
            image: Images in [0, 1] of the method's size.
            depth: In any unit, if at hand.
            semantic: Class of each pixel, -1 where it has none, if at hand.
        """
        given = self._given(image=image, depth=depth, semantic=semantic)
        tokens = self.encoded(torch.cat([self.tokens_of(*each) for each in given.items()], dim=1))
        tokens = tokens[:, 1 : 1 + self.encoder.patches]
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": tokens.mean(1), "features": maps}

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The features of a batch, from what `inputs` names."""
        return self.encode(**self._sized(batch, self.inputs))

    # -- painting --------------------------------------------------------------------------------------------

    def seen(self, given: Mapping[str, Tensor], masking: Masking) -> Float[Tensor, "batch tokens width"]:
        """What the encoder says of the visible tokens, with the class token before them.

        Args:
            given: Modalities by name; of others no token may be visible.
            masking: What is visible of all modalities that the method knows.
        """
        tokens = {name: self.tokens_of(name, value) for name, value in given.items()}
        nothing = torch.zeros_like(tokens[next(iter(given))])
        every = torch.cat([tokens.get(name, nothing) for name in self.modalities], dim=1)
        return self.encoded(visible_only(every, masking.visible))

    def loss(
        self,
        image: Float[Tensor, "batch channels height width"],
        depth: Float[Tensor, "batch height width"] | None = None,
        semantic: Int[Tensor, "batch height width"] | None = None,
        masking: Masking | None = None,
    ) -> Float[Tensor, ""]:
        """The sum of the losses of all modalities, which must be given; by default for random tokens."""
        given = self._given(image=image, depth=depth, semantic=semantic)
        for name in self.modalities:
            if name not in given:
                raise UserError(f"{name}: the method learns from it; give it, or leave it out of modalities")
        count = len(self.modalities)
        if masking is None:
            masking = dirichlet_masking(
                len(image), count, self.encoder.patches, self.kept, self.alpha, image.device
            )
        tokens = self.seen(given, masking)
        hidden = dict(zip(self.modalities, masking.hidden.chunk(count, dim=1), strict=True))
        losses = [
            LOSSES[name](decoder(tokens, masking), given[of], hidden[of], self.patch)
            for name, of, decoder in zip(
                self.painting, self.painting.values(), self.decoders.values(), strict=True
            )
        ]
        return torch.stack(losses).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; all modalities of an image are changed alike."""
        changed = self._parted(self.augmented(self._stacked(batch, self.modalities)), self.modalities)
        return self.loss(changed["image"], changed.get("depth"), changed.get("semantic"))

    def complete(
        self, batch: Batch, given: Sequence[str] = ("image",), tokens: int | None = None
    ) -> dict[str, Tensor]:
        """Paints every modality from some tokens of a few; the same patches are visible every time.

        Args:
            batch: Has the fields that are given.
            given: Names of the modalities of which tokens are visible.
            tokens: How many of all of them together, shared out evenly; None for all.

        Returns:
            `image` (batch, channels, height, width) in [0, 1], `depth` (batch, height, width) as `standardised_depth`
            gives it, and the logits `semantic` (batch, classes, height, width), as far as the method knows them.

        Raises:
            UserError: If a modality is unknown or not in the batch, or there are not so many tokens.
        """
        names = _chosen("given", given, self.modalities)
        values = self._sized(batch, names)
        masking = self._same(names, len(values[names[0]]), tokens)
        seen = self.seen(values, masking)
        maps = {
            name: unpatchify(self.decoders[name](seen, masking), self.patch, self.encoder.size)
            for name in self.modalities
        }
        maps["image"] = (maps["image"] * SPREAD + CENTRE).clamp(0, 1)
        return {name: value[:, 0] if name == "depth" else value for name, value in maps.items()}

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these painted; the same ones in all images."""
        masking = self._same(("image",), len(image), min(self.kept, self.encoder.patches - 1))
        found = self.decoders["image"](self.seen({"image": image}, masking), masking)
        hidden = masking.hidden.chunk(len(self.modalities), dim=1)[self.modalities.index("image")]
        return shown_and_painted(image, found, hidden, self.patch, norm_pix_loss=False)

    # -- inside ----------------------------------------------------------------------------------------------

    def _given(self, **values: Tensor | None) -> dict[str, Tensor]:
        """What is given, in the order of the modalities.

        Raises:
            UserError: If one is given that the method does not know.
        """
        given = {name: value for name, value in values.items() if value is not None}
        for name in given:
            if name not in self.modalities:
                raise UserError(
                    f"{name}: this method was made for {', '.join(self.modalities)}; leave it out"
                )
        return {name: given[name] for name in self.modalities if name in given}

    def _same(self, given: Sequence[str], images: int, tokens: int | None) -> Masking:
        """The same visible tokens for all images and every time, of what is given alone."""
        most = len(given) * self.encoder.patches
        kept = most if tokens is None else tokens
        if not 1 <= kept <= most:
            raise UserError(f"tokens: {', '.join(given)} have 1 to {most}, got {tokens}")
        shares = torch.tensor([name in given for name in self.modalities], device=self.chance.device)
        masking = masking_from_shares(shares[None] / len(given), self.chance[:, None], kept)
        every = (each.expand(images, -1) for each in (masking.visible, masking.restore, masking.hidden))
        return Masking(*every)

    def _stacked(self, batch: Batch, names: Sequence[str]) -> Float[Tensor, "batch planes height width"]:
        """Some modalities as planes of one image of the method's size, with a plane for every class."""
        for name in names:
            if name not in batch:
                raise UserError(f"{name}: the method looks at it, but the batch has {', '.join(batch)}")
        planes = {name: batch[name] for name in names}
        if "depth" in planes:
            planes["depth"] = planes["depth"][:, None]
        if "semantic" in planes:
            each = functional.one_hot(planes["semantic"] + 1, len(self.info.classes) + 1)
            planes["semantic"] = each.movedim(-1, 1).float()
        stack = torch.cat([planes[name] for name in names], dim=1)
        if tuple(stack.shape[-2:]) == self.info.size:
            return stack
        return functional.interpolate(stack, self.info.size, mode="bilinear", antialias=True)

    def _parted(
        self, stack: Float[Tensor, "batch planes height width"], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The modalities of a stack; a pixel has the class with the largest part in it."""
        planes = {"image": self.info.channels, "depth": 1, "semantic": len(self.info.classes) + 1}
        parts = dict(zip(names, stack.split([planes[name] for name in names], dim=1), strict=True))
        if "depth" in parts:
            parts["depth"] = parts["depth"][:, 0]
        if "semantic" in parts:
            parts["semantic"] = parts["semantic"].argmax(1) - 1
        return parts

    def _sized(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """Some modalities of a batch in the method's size."""
        return self._parted(self._stacked(batch, names), names)


def _chosen(option: str, names: Sequence[str], known: Sequence[str], needed: str = "") -> tuple[str, ...]:
    """Some of the known modalities, in their order.

    Raises:
        UserError: If there is none, one is unknown, or the needed one is missing; names the option.
    """
    if isinstance(names, str) or not names:
        raise UserError(f"{option}: expected some of {', '.join(known)}, got {names!r}")
    for name in names:
        if name not in known:
            raise UserError(f"{option}: '{name}' is not one of {', '.join(known)}{suggest(name, known)}")
    if needed and needed not in names:
        raise UserError(f"{option}: '{needed}' must be among them, got {', '.join(names)}")
    return tuple(name for name in known if name in names)


@lru_cache(maxsize=1)
def _pretrained(seed: int, steps: int, device: str) -> tuple[MultiMAE, Batch]:
    """A method that was pre-trained on scenes of a seed, and the unseen ones."""
    method = MultiMAE()
    data = load_data(CLAIM_DATA, task=method.task, seed=seed)
    assert data.test is not None
    method.fit(data, **CLAIM_PLAN | {"steps": steps, "seed": seed, "device": device, "hold_out": 0.0})
    return method.cpu(), method.task.collate([data.test[index] for index in range(len(data.test))])


@claim(
    text="Classes are completed with less error from colour and depth than from the better one of the two, at as many "
    "visible tokens.",
    where="abstract, and the section on transfers with multiple modalities, which compares by fine-tuning",
    higher_is_better=False,
)
def two_modalities_complete_better_than_one(lab: Lab) -> Trial:
    """A pre-trained network paints the classes of unseen scenes, none of which it is shown; both sides are the same
    network.
    """

    def error(seed: int, *choices: Sequence[str]) -> float:
        method, unseen = _pretrained(seed, 2 if lab.quick else CLAIM_PLAN["steps"], str(lab.device))
        errors = []
        for given in choices:
            with torch.no_grad():
                logits = method.complete(unseen, given, COMPLETED_FROM)["semantic"]
            errors.append(functional.cross_entropy(logits, unseen["semantic"], ignore_index=NO_CLASS))
        return float(min(errors))

    return lab.measure(
        ours=lambda seed: error(seed, ("image", "depth")),
        baseline=lambda seed: error(seed, ("image",), ("depth",)),
        metric="cross-entropy of completed classes",
        unit="nats",
    )


@claim(
    text="From colour alone a linear classifier reads more of the classes of pixels than after pre-training on colour.",
    where="section on transfers with RGB only, table 1",
    higher_is_better=True,
)
def multimae_beats_mae_on_colour_alone(lab: Lab) -> Trial:
    """The same encoder on both sides; the classes that are asked for are those of pre-training."""
    return lab.duel(ours=MultiMAE, baseline=MAE, data=CLAIM_DATA, metric="linear_miou", **CLAIM_PLAN)
