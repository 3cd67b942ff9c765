r"""Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, arXiv:2112.10752.

An autoencoder brings images to a map with fewer rows and columns, and back, so well that hardly a difference is seen.
Diffusion then works on these maps, which is far cheaper than on pixels; a sample is decoded once, when it is done. What
an image is to show is told as a sequence of tokens, be it a class, the words of a caption or boxes with their classes:
places of the network's maps attend to them.

What the code follows:

- Section 3.1 and appendix G, `pinakes.nn.image_autoencoder`: z = E(x), trained on the absolute error, the difference of
  features and a discriminator of patches; z is a Gaussian with a weak pull to the normal distribution ("kl"), or is
  replaced by a codebook's entries in the decoder ("vq"). `factor` is f.
- Appendix G, `latent_scale`: latents are divided by their deviation, one number for all.
- Equation 2, `Diffusion.loss` on z: L = E |eps - eps_theta(z_t, t, tau(y))|^2.
- Section 3.3, `CrossAttention`: softmax(Q K^T / sqrt(d)) V with Q = W_Q phi(z_t), K = W_K tau(y), V = W_V tau(y).
  `SpatialTransformer` is one attention of places to places, one of places to tokens, and a gated layer, as in the
  authors' code (github.com/CompVis/latent-diffusion).
- Section 4.3.1 and appendix E.2.1, `TokenEncoder` and `layout_tokens`: tau for captions and for boxes, as plain torch.
  The method is told classes, each as one token.

`factor=1` is diffusion on pixels with the same network, LDM-1 of section 4.1.

Differences from the paper: small networks; noise with the steps of DDPM; the divergence counts 1e-2 for each value of
an image, not 1e-6, so that the decoder learns in short training to bear noise; features are compared by the embedded
backbone without learnt weights of channels, and codes that nothing is near to are put elsewhere. Latents are all
scaled, in the paper those of "vq" are not. They are computed once, if they fit in memory and images are not mirrored;
those of "kl" are drawn anew each time. The last layer of `SpatialTransformer` does not start at 0. Conditions that are
concatenated, for inpainting and super-resolution, are left out.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.engine.checkpoints import latest
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import load_tensors
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import step_embedding
from pinakes.nn.image_autoencoder import (
    KL_WEIGHT,
    ImageAutoencoder,
    KLAutoencoder,
    VQAutoencoder,
    train_autoencoder,
)
from pinakes.nn.unet import GROUPS, ResidualBlock
from pinakes.papers.diffusion.base import Diffusion
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Equation 2",
        r"L_{LDM} = \mathbb{E}_{E(x), \epsilon, t} \lVert \epsilon - \epsilon_\theta(z_t, t) \rVert^2",
    ),
    (
        "Section 3.3",
        r"\mathrm{softmax}\left( \frac{Q K^\top}{\sqrt{d}} \right) V, \quad Q = W_Q \varphi(z_t), \; "
        r"K = W_K \tau(y), \; V = W_V \tau(y)",
    ),
    ("Appendix G", r"z \leftarrow \frac{z}{\hat\sigma}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

log = logging.getLogger(__name__)

Regularisation = Literal["kl", "vq"]
HEAD = 32
"""Most channels of one head."""
STORED = 1 << 30
"""Bytes of latents that are kept in memory."""
STORED_BY = 0.75
"""Share of a time limit after which latents are no longer computed beforehand."""
SCALED_ON = 128
"""Images by which latents are scaled, at most."""
ENCODED = 64
"""Images that are encoded together."""


# -- conditions --------------------------------------------------------------------------------------------------


class ClassTokens(nn.Module):
    """Each class as one token, and one for images whose class is not told.

    Args:
        classes: How many there are.
        width: Of a token.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes + 1, width)

    def forward(self, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 width"]:
        """The token of each label, -1 where it is not told."""
        tokens: Tensor = self.embedding(torch.where(label < 0, self.embedding.num_embeddings - 1, label))
        return tokens[:, None]


class TokenEncoder(nn.Module):
    """A transformer that turns numbers, such as those of the words of a caption, into tokens that know each other.

    Args:
        vocabulary: How many numbers there are.
        width: Of a token, a multiple of `heads`.
        length: Most numbers of a sequence.
        depth: Blocks.
        heads: Of attention.

    Source: appendix E.2.1.

    Example:
        >>> TokenEncoder(vocabulary=100, width=32, length=16)(torch.randint(100, (2, 9))).shape
        torch.Size([2, 9, 32])
    """

    def __init__(self, vocabulary: int, width: int, length: int = 77, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """A token for each number."""
        placed = self.embedding(numbers) + self.position[: numbers.shape[1]]
        tokens: Tensor = self.norm(self.blocks(placed))
        return tokens


def layout_tokens(
    boxes: Float[Tensor, "batch boxes 4"],
    labels: Int[Tensor, "batch boxes"],
    size: Sequence[int],
    cells: int = 16,
) -> Int[Tensor, "batch tokens"]:
    """Boxes as numbers for a `TokenEncoder`: for each the cell of its first corner, that of its last, and its class.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        labels: Their classes, from 0.
        size: Rows and columns of the images.
        cells: Rows and columns of the grid of corners.

    Returns:
        Numbers below cells^2 for corners, and from cells^2 on for classes.

    Source: appendix E.2.1.

    Example:
        >>> layout_tokens(torch.tensor([[[0.0, 8.0, 15.0, 16.0]]]), torch.tensor([[2]]), (16, 16), cells=4)
        tensor([[ 8, 15, 18]])
    """
    sides = boxes.new_tensor([size[1], size[0]])
    corners = boxes.unflatten(2, (2, 2)) / sides
    cell = (corners * cells).floor().long().clamp(0, cells - 1)
    numbers = torch.stack([*(cells * cell[..., 1] + cell[..., 0]).unbind(2), cells**2 + labels], dim=2)
    return numbers.flatten(1)


# -- the network -------------------------------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """Attention of one sequence to another, or to itself.

    Args:
        width: Of the sequence that asks, a multiple of `heads`.
        told: Width of the sequence that is asked.
        heads: How many.
    """

    def __init__(self, width: int, told: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(told, width, bias=False)
        self.value = nn.Linear(told, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, places: Float[Tensor, "batch places width"], tokens: Float[Tensor, "batch _tokens _told"]
    ) -> Float[Tensor, "batch places width"]:
        """What each place is answered."""
        parts = self.query(places), self.key(tokens), self.value(tokens)
        apart = [rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts]
        answered = functional.scaled_dot_product_attention(*apart)
        answer: Tensor = self.out(rearrange(answered, "b h n d -> b n (h d)"))
        return answer


class SpatialTransformer(nn.Module):
    """Lets the places of a map attend to each other, and to tokens if there are any; added to the map.

    Args:
        width: Channels, a multiple of 8 and of `heads`.
        told: Width of the tokens; 0 for none.
        heads: Of attention.
    """

    def __init__(self, width: int, told: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if told else 2))
        self.own = CrossAttention(width, width, heads)
        self.other = CrossAttention(width, told, heads) if told else None
        self.widen, self.narrow = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        maps: Float[Tensor, "batch width rows columns"],
        tokens: Float[Tensor, "batch _tokens _told"] | None = None,
    ) -> Float[Tensor, "batch width rows columns"]:
        """Maps of the same size.

        Args:
            maps: Where it looks from.
            tokens: What it is told; needed where `told` is not 0.
        """
        places = rearrange(self.enter(self.norm(maps)), "b c h w -> b (h w) c")
        normed = self.norms[0](places)
        places = places + self.own(normed, normed)
        if self.other is not None:
            places = places + self.other(self.norms[1](places), tokens)
        value, gate = self.widen(self.norms[-1](places)).chunk(2, dim=2)
        places = places + self.narrow(value * functional.gelu(gate))
        changed: Tensor = maps + self.leave(rearrange(places, "b (h w) c -> b c h w", h=maps.shape[2]))
        return changed


class ConditionalBlock(nn.Module):
    """A residual block, behind which places attend to each other and to tokens, if wanted.

    Args:
        inputs: Channels of the input.
        width: Channels of the output.
        step: Width of what tells t.
        told: Width of the tokens; 0 for none.
        attentive: Whether places attend at all.
        dropout: Share of the values that are left out inside.
    """

    def __init__(
        self, inputs: int, width: int, step: int, told: int, attentive: bool, dropout: float
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, width, step, False, dropout)
        heads = width // HEAD if width % HEAD == 0 else 1
        self.attention = SpatialTransformer(width, told, heads) if attentive else None

    def forward(
        self,
        maps: Float[Tensor, "batch _inputs rows columns"],
        step: Float[Tensor, "batch _step"],
        tokens: Float[Tensor, "batch _tokens _told"] | None = None,
    ) -> Float[Tensor, "batch _width rows columns"]:
        """Maps of the same size."""
        answer: Tensor = self.block(maps, step)
        return answer if self.attention is None else self.attention(answer, tokens)


class ConditionalUNet(nn.Module):
    """A U-Net whose maps attend to tokens at every level but the finest; one of a single level attends there.

    Args:
        channels: Of what it is shown, and of its answer.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder; the decoder has one more.
        dropout: Share of the values that are left out inside blocks.
        told: Width of the tokens; 0 for none.

    Example:
        >>> network, tokens = ConditionalUNet(4, 16, (1, 2), told=32), torch.randn(2, 5, 32)
        >>> network(torch.randn(2, 4, 8, 6), torch.tensor([3, 500]), tokens).shape
        torch.Size([2, 4, 8, 6])
    """

    def __init__(
        self,
        channels: int = 4,
        n_channels: int = 32,
        ch_mults: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        dropout: float = 0.1,
        told: int = 0,
    ) -> None:
        super().__init__()
        self.n_channels, self.n_blocks = n_channels, n_blocks
        widths, step = [n_channels * each for each in ch_mults], 4 * n_channels
        self.tell = nn.Sequential(nn.Linear(n_channels, step), nn.SiLU(), nn.Linear(step, step))
        self.enter = nn.Conv2d(channels, n_channels, 3, padding=1)

        def block(inputs: int, width: int, level: int) -> ConditionalBlock:
            attentive = level > 0 or len(widths) == 1
            return ConditionalBlock(inputs, width, step, told, attentive, dropout)

        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        width, linked = n_channels, [n_channels]
        for level, wide in enumerate(widths):
            for _ in range(n_blocks):
                self.down.append(block(width, wide, level))
                width = wide
                linked.append(width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                linked.append(width)
        self.middle = nn.ModuleList(
            ConditionalBlock(width, width, step, told, attentive, dropout) for attentive in (True, False)
        )
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(n_blocks + 1):
                self.up.append(block(width + linked.pop(), wide, level))
                width = wide
            if level > 0:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(
        self,
        latent: Float[Tensor, "batch channels rows columns"],
        t: Int[Tensor, " batch"],
        tokens: Float[Tensor, "batch _tokens _told"] | None = None,
    ) -> Float[Tensor, "batch channels rows columns"]:
        """What is foretold of z_t, such as its noise.

        Args:
            latent: z_t.
            t: How many steps of noise each has.
            tokens: What is told of each; needed where `told` is not 0.
        """
        step = self.tell(step_embedding(t, self.n_channels))
        maps = self.enter(latent)
        links = [maps]
        for number, block in enumerate(self.down, start=1):
            maps = block(maps, step, tokens)
            links.append(maps)
            if number % self.n_blocks == 0 and number < len(self.down):
                maps = self.shrink[number // self.n_blocks - 1](maps)
                links.append(maps)
        for block in self.middle:
            maps = block(maps, step, tokens)
        for number, block in enumerate(self.up):
            link = links.pop()
            if number and number % (self.n_blocks + 1) == 0:
                larger = functional.interpolate(maps, link.shape[2:], mode="nearest")
                maps = self.grow[number // (self.n_blocks + 1) - 1](larger)
            maps = block(torch.cat([maps, link], dim=1), step, tokens)
        answer: Tensor = self.leave(maps)
        return answer


class ToldClasses(nn.Module):
    """A network that attends to tokens, told classes.

    Args:
        network: From z_t, t and tokens to what is foretold.
        condition: From labels to tokens; None where the network is told nothing.
    """

    def __init__(self, network: nn.Module, condition: nn.Module | None) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def forward(
        self,
        latent: Float[Tensor, "batch channels rows columns"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels rows columns"]:
        """What is foretold of z_t, given the class of each, -1 or None where it is not told."""
        tokens = None
        if self.condition is not None:
            tokens = self.condition(torch.full_like(t, -1) if label is None else label)
        answer: Tensor = self.network(latent, t, tokens)
        return answer


# -- latents -----------------------------------------------------------------------------------------------------


def latent_scale(latent: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, ""]:
    """What latents are multiplied with so that their variance is 1 over all their values together.

    Source: appendix G.
    """
    return 1 / latent.std(correction=0).clamp(min=1e-6)


class StoredLatents(Dataset[Sample]):
    """What an encoder says of images, computed once, with their labels.

    Args:
        said: What it says of each, as `ImageAutoencoder.said` does.
        label: The class of each, -1 where it is not known.
    """

    def __init__(
        self, said: Float[Tensor, "images said rows columns"], label: Int[Tensor, " images"]
    ) -> None:
        self.said, self.label = said, label

    def __len__(self) -> int:
        return len(self.said)

    def __getitem__(self, index: int) -> Sample:
        return {"said": self.said[index], "label": int(self.label[index])}


class LatentDiffusion(Diffusion):
    """Takes noise out of the latents of an autoencoder, which is trained on the same images before.

    Args:
        factor: f, how many pixels stand side by side for one place of a latent: a power of 2; 1 for no autoencoder.
        regularisation: "kl" for latents near the normal distribution, "vq" for those of a codebook.
        latent_channels: Channels of latents.
        codes: Entries of the codebook, 2 or more.
        kl_weight: What the divergence from the normal distribution counts, 0 or more.
        perceptual: What the difference of features counts beside the absolute error, 0 or more.
        adversarial: What the discriminator counts, as a share of the pull of the error; 0 for none.
        autoencoder_width: Channels of the autoencoder at the finest level, a multiple of 8.
        autoencoder_steps: Steps of its training; None for as many as the network is trained for after it. Under a time
            limit it gets half of the time at most.
        token_width: Width of the tokens that tell classes.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    scale: Tensor

    def __init__(
        self,
        factor: int = 4,
        regularisation: Regularisation = "kl",
        latent_channels: int = 4,
        codes: int = 256,
        kl_weight: float = KL_WEIGHT,
        perceptual: float = 1.0,
        adversarial: float = 0.5,
        autoencoder_width: int = 16,
        autoencoder_steps: int | None = None,
        token_width: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if factor < 1 or factor & (factor - 1):
            raise UserError(f"factor: expected a power of 2 such as 1, 2 or 4, got {factor}")
        if regularisation not in get_args(Regularisation):
            near = suggest(regularisation, get_args(Regularisation))
            raise UserError(f"regularisation: '{regularisation}' is unknown{near}")
        if autoencoder_width < GROUPS or autoencoder_width % GROUPS:
            raise UserError(f"autoencoder_width: expected a multiple of {GROUPS}, got {autoencoder_width}")
        if autoencoder_steps is not None and autoencoder_steps < 1:
            raise UserError(f"autoencoder_steps: expected 1 or more, or None, got {autoencoder_steps}")
        for name, count, least in (
            ("latent_channels", latent_channels, 1),
            ("token_width", token_width, 1),
            ("codes", codes, 2),
        ):
            if count < least:
                raise UserError(f"{name}: expected {least} or more, got {count}")
        for name, weight in (
            ("kl_weight", kl_weight),
            ("perceptual", perceptual),
            ("adversarial", adversarial),
        ):
            if weight < 0:
                raise UserError(f"{name}: expected 0 or more, got {weight}")
        self.factor, self.regularisation, self.latent_channels = factor, regularisation, latent_channels
        self.codes, self.kl_weight, self.perceptual, self.adversarial = (
            codes,
            kl_weight,
            perceptual,
            adversarial,
        )
        self.autoencoder_width, self.autoencoder_steps = autoencoder_width, autoencoder_steps
        self.token_width = token_width
        self.within_bounds = factor == 1

    def build(self, info: DataInfo) -> None:
        """Makes the autoencoder, frozen, and then the network for its latents."""
        self.autoencoder = None if self.factor == 1 else self.make_autoencoder(info).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))
        super().build(info)

    def make_autoencoder(self, info: DataInfo) -> ImageAutoencoder:
        """The first stage."""
        form = info.channels, self.factor, self.latent_channels, self.autoencoder_width
        if self.regularisation == "kl":
            return KLAutoencoder(*form, kl_weight=self.kl_weight)
        return VQAutoencoder(*form, codes=self.codes)

    def make_network(self, info: DataInfo) -> nn.Module:
        """The second stage."""
        classes = len(info.classes) if self.is_told_classes(info) else 0
        told = self.token_width if classes else 0
        network = ConditionalUNet(
            self.shape(info)[0], self.n_channels, self.ch_mults, self.n_blocks, self.dropout, told
        )
        return ToldClasses(network, ClassTokens(classes, told) if classes else None)

    # -- images and latents --------------------------------------------------------------------------------------

    def shape(self, info: DataInfo) -> tuple[int, ...]:
        """The form of a latent."""
        if self.autoencoder is None:
            return super().shape(info)
        return self.latent_channels, *self.autoencoder.grid(info.size)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Latents of unit variance; those of "kl" are drawn."""
        if self.autoencoder is None:
            return super().encode(image)
        with torch.no_grad():
            return self.scale * self.autoencoder.drawn(self.autoencoder.said(image))

    def decode(self, found: Tensor) -> Float[Tensor, "batch channels height width"]:
        """Images from latents."""
        if self.autoencoder is None:
            return super().decode(found)
        return self.autoencoder.decode(found / self.scale, self.info.size)

    # -- learning ------------------------------------------------------------------------------------------------

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the autoencoder, then the network on latents; a run that is resumed keeps its autoencoder."""
        if self.autoencoder is None:
            super().learn(data, plan)
            return
        limit, started = plan.time_limit, time.monotonic()
        before = latest(plan.out) if plan.out is not None and plan.resume else None
        if before is not None:
            load_tensors(self, before.state["state_dict"])
        else:
            self._learn_latents(self.autoencoder, data, plan)
        kept = self._stored(self.autoencoder, data, None if limit is None else started + STORED_BY * limit)
        if limit is not None:
            plan = replace(plan, time_limit=max(1e-3, limit - (time.monotonic() - started)))
        super().learn(data if kept is None else replace(data, train=kept), plan)

    def _learn_latents(self, autoencoder: ImageAutoencoder, data: TaskData, plan: TrainingPlan) -> None:
        epochs = plan.epochs or 1
        steps = self.autoencoder_steps or plan.steps or epochs * -(-len(data.train) // plan.batch_size)
        train_autoencoder(
            autoencoder,
            data.train,
            steps=steps,
            batch_size=plan.batch_size,
            seed=plan.seed,
            perceptual=self.perceptual,
            adversarial=self.adversarial,
            seconds=None if plan.time_limit is None else plan.time_limit / 2,
        )
        some = range(0, len(data.train), -(-len(data.train) // SCALED_ON))
        said = torch.cat([each for each, _ in _said(autoencoder, data.train, some)])
        self.scale.copy_(latent_scale(autoencoder.drawn(said)))

    def _stored(
        self, autoencoder: ImageAutoencoder, data: TaskData, until: float | None = None
    ) -> StoredLatents | None:
        """Latents of all training images, or none if they are too many, take too long, or change from step to step."""
        values = self.latent_channels * (2 if self.regularisation == "kl" else 1)
        rows, columns = autoencoder.grid(data.info.size)
        if self.mirror or 4 * values * rows * columns * len(data.train) > STORED:
            return None
        found = []
        for some in _said(autoencoder, data.train, range(len(data.train))):
            found.append(some)
            if until is not None and time.monotonic() > until:
                return None
        log.info("latents of %d images are kept in memory", len(data.train))
        said, label = (torch.cat(each) for each in zip(*found, strict=True))
        return StoredLatents(said.cpu(), label)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch of images, or of what the encoder said of them."""
        if self.autoencoder is None or "said" not in batch:
            return super().training_step(batch, batch_idx)
        return self.loss(self.scale * self.autoencoder.drawn(batch["said"]), self.told_in_training(batch))


def _said(
    autoencoder: ImageAutoencoder, samples: SampleSet, places: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """What an encoder says of some images, and their labels, -1 where it is not known, some at a time."""
    device = next(autoencoder.parameters()).device
    for first in range(0, len(places), ENCODED):
        some = [samples[place] for place in places[first : first + ENCODED]]
        image = torch.stack([each["image"] for each in some]).to(device)
        label = torch.tensor([int(each.get("label", -1)) for each in some])
        with torch.no_grad():
            yield autoencoder.said(image), label


CLAIMED: dict[str, Any] = {
    "n_channels": 32,
    "ch_mults": (1, 2),
    "sampling_steps": 25,
    "autoencoder_steps": 200,
}


@claim(
    text="In equal time, that of training the autoencoder counted, samples of diffusion on latents are nearer to real "
    "images than those of diffusion on pixels.",
    where="section 4.1, figure 6: LDM-4 and LDM-1",
    higher_is_better=False,
)
def latents_beat_pixels_in_equal_time(lab: Lab) -> Trial:
    """Digits of 8 pixels enlarged to 32, of which latents lose little; the same network on both sides, with latents of
    8 rows or with pixels. FID by the features of the embedded transformer, as the autoencoder learns by those of the
    embedded convolutional network.
    """
    return lab.duel(
        ours=lambda: LatentDiffusion(**CLAIMED),
        baseline=lambda: LatentDiffusion(factor=1, **CLAIMED),
        data="digits?size=32&channels=1&n=1500&features=pinakes/tiny_vit",
        metric="fid",
        budget="time",
        seconds=180.0,
        batch_size=64,
    )
