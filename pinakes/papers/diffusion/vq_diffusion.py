r"""Gu et al., Vector Quantized Diffusion Model for Text-to-Image Synthesis, CVPR 2022, arXiv:2111.14822.

An autoencoder with a codebook turns images into a grid of tokens. Then tokens get lost: in each step some are masked,
and some are replaced by others, until only masks and accidental tokens are left. A transformer sees the whole grid and
says which token was where at first. Masks show it where to look; tokens that may be false teach it to trust none, so
that an error of an early step can still be mended in a later one. All tokens are drawn at once, in a few steps, where a
model that writes them one after the other needs a step for each.

What the code follows:

- Section 3, `image_autoencoder.VQAutoencoder`: tokens of images, and images of tokens; trained first, then fixed.
- Section 4.1, equations 7 and 8, `mask_and_replace` and `changed`: what a token is after t steps; `posterior`: the
  step before, given the first.
- Equation 11, `mean_posterior`: the mean of these over the network's chances of the first.
- Section 4.2, `vq_diffusion_loss`: the divergence of the two, and lambda times -log p(x_0 | x_t).
- Section 4.2, `TokenTransformer`: attention of all tokens to all, with adaptive layer norm told t.
- Fast inference: steps are left out, as the network foretells x_0 whatever the step.
- `truncated`: tokens are drawn among the likeliest that together have a share r of the chance.

Differences from the paper: it is told a class and not a text, by adaptive layer norm before the perceptron, as the
authors' code does it for ImageNet (github.com/cientgu/VQ-Diffusion), where the perceptron is of convolutions. Steps
are drawn by how much they add to the loss, as there. That code has next to no replacement in its schedule, where the
paper says a tenth; here it is the paper's. The autoencoder is small and learns without a discriminator.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.engine.checkpoints import latest
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import load_tensors
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import spaced_steps
from pinakes.nn.discrete_diffusion import (
    CategoricalSchedule,
    ImportantSteps,
    bound_term,
    categorical_path,
    divergence,
    mask_and_replace,
    mean_posterior,
    one_hot,
    q_sample,
    start_of,
    uniform_like,
)
from pinakes.nn.image_autoencoder import VQAutoencoder, code_vectors, train_autoencoder
from pinakes.papers.diffusion.base import CLAIM_PLAN, LARGE_CLAIM_DATA, MakesImages
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Equation 8",
        r"q(x_t | x_0) = \bar\alpha_t v(x_0) + (\bar\gamma_t - \bar\beta_t) v(K + 1) + \bar\beta_t",
    ),
    (
        "Equation 11",
        r"p_\theta(x_{t-1} | x_t, y) = \sum_{\tilde{x}_0} q(x_{t-1} | x_t, \tilde{x}_0) \, "
        r"p_\theta(\tilde{x}_0 | x_t, y)",
    ),
    (
        "Section 4.2",
        r"L = L_{vlb} - \lambda \log p_\theta(x_0 | x_t, y)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""
ENCODED = 64
"""Images that are encoded together."""


# -- the network -------------------------------------------------------------------------------------------------


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose scale and shift follow from a number.

    Args:
        width: Of the tokens.
        numbers: How many numbers there are, from 0.

    Source: section 4.2: AdaLN(h, t) = a_t LayerNorm(h) + b_t, of a learnt embedding of t.
    """

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.told = nn.Sequential(nn.Embedding(numbers, width), nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], number: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Normalised tokens, scaled and shifted for each sample."""
        scale, shift = self.told(number)[:, None].chunk(2, dim=2)
        changed: Tensor = functional.layer_norm(tokens, tokens.shape[2:]) * (1 + scale) + shift
        return changed


class TokenTransformer(nn.Module):
    """Looks at a grid of tokens, of which some are masks or false, and says which was where at first.

    Args:
        grid: Rows and columns.
        codes: K, how many tokens there are; K itself is the mask.
        steps: T.
        hidden_size: Width, a multiple of `num_heads`.
        depth: Blocks.
        num_heads: Of attention.
        classes: How many classes it can be told of; 0 for none.
        dropout: Share of the values that are left out behind attention and inside the perceptron.

    Example:
        >>> network = TokenTransformer((4, 3), codes=16, steps=100, hidden_size=32, depth=2, num_heads=4, classes=10)
        >>> network(torch.full((2, 4, 3), 16), torch.tensor([100, 100]), torch.tensor([9, -1])).shape
        torch.Size([2, 16, 4, 3])
    """

    def __init__(
        self,
        grid: tuple[int, int],
        codes: int,
        steps: int,
        hidden_size: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.token = nn.Embedding(codes + 1, hidden_size)
        self.row, self.column = (nn.Embedding(side, hidden_size) for side in grid)
        self.first = nn.ModuleList(AdaptiveLayerNorm(hidden_size, steps + 1) for _ in range(depth))
        # one more, for images whose class is not told
        self.second = nn.ModuleList(AdaptiveLayerNorm(hidden_size, classes + 1) for _ in range(depth))
        self.attention = nn.ModuleList(
            Attention(hidden_size, num_heads=num_heads, qkv_bias=True, proj_drop=dropout)
            for _ in range(depth)
        )
        self.mlp = nn.ModuleList(Mlp(hidden_size, 4 * hidden_size, drop=dropout) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, codes))

    def forward(
        self,
        noised: Int[Tensor, "batch rows columns"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch codes rows columns"]:
        """Logits of x_0, which is no mask.

        Args:
            noised: x_t.
            t: 1 to T.
            label: The class of each, -1 where it is not told; None for none.
        """
        places = self.row.weight[:, None] + self.column.weight
        tokens = (self.token(noised) + places).flatten(1, 2)
        told = torch.full_like(t, -1) if label is None else label
        told = torch.where(told < 0, self.classes, told)
        blocks = zip(self.first, self.attention, self.second, self.mlp, strict=True)
        for first, attention, second, mlp in blocks:
            tokens = tokens + attention(first(tokens, t))
            tokens = tokens + mlp(second(tokens, told))
        return rearrange(self.leave(tokens), "b (h w) k -> b k h w", h=noised.shape[1])


# -- what it learns from, and how it is asked --------------------------------------------------------------------


def with_mask(chances: Float[Tensor, "batch codes *places"]) -> Float[Tensor, "batch classes *places"]:
    """Chances of K tokens and of a mask, which is 0."""
    return torch.cat([chances, torch.zeros_like(chances[:, :1])], dim=1)


def vq_diffusion_loss(
    chances: Float[Tensor, "batch classes *places"],
    noised: Int[Tensor, "batch *places"],
    clean: Int[Tensor, "batch *places"],
    schedule: CategoricalSchedule,
    t: Int[Tensor, " batch"],
    auxiliary: float,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """What step t adds to the bound, and that with lambda times -log p(x_0 | x_t), in nats for each token.

    Args:
        chances: Of x_0, of the mask 0.
        noised: x_t.
        clean: x_0.
        schedule: Of masks and replacements.
        t: 1 to T.
        auxiliary: lambda.

    Source: section 4.2.
    """
    term = bound_term(noised, clean, chances, schedule, t, mean_posterior).flatten(1).mean(1)
    said = divergence(one_hot(clean, chances.shape[1]), chances).flatten(1).mean(1)
    return term, term + auxiliary * said


def truncated(
    chances: Float[Tensor, "batch classes *places"], rate: float
) -> Float[Tensor, "batch classes *places"]:
    """Chances of the likeliest categories, down to the one with which they together reach a share.

    Args:
        chances: With sum 1.
        rate: r, above 0; 1 for all.

    Source: section 5; ties and bounds as in diffusers' `VQDiffusionPipeline`.

    Example:
        >>> truncated(torch.tensor([[0.1, 0.6, 0.3]]), 0.85)
        tensor([[0.0000, 0.6667, 0.3333]])
    """
    if rate >= 1:
        return chances
    ordered, order = chances.sort(dim=1, descending=True)
    kept = functional.pad((ordered.cumsum(1) < rate)[:, :-1].float().movedim(1, -1), (1, 0), value=1.0)
    left = torch.zeros_like(chances).scatter(1, order, ordered * kept.movedim(-1, 1))
    return left / left.sum(1, keepdim=True)


# -- the method --------------------------------------------------------------------------------------------------


class StoredTokens(Dataset[Sample]):
    """Tokens of images, found once, with their labels.

    Args:
        tokens: Of all images.
        label: The class of each, -1 where it is not known.
    """

    def __init__(self, tokens: Int[Tensor, "images rows columns"], label: Int[Tensor, " images"]) -> None:
        self.tokens, self.label = tokens, label

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Sample:
        return {"tokens": self.tokens[index], "label": int(self.label[index])}


class VQDiffusion(MakesImages):
    """A transformer finds lost tokens of images again, and makes up images of which all tokens are lost.

    Args:
        factor: How many pixels stand side by side for one token: a power of 2, 2 or more.
        codes: K, entries of the codebook, 2 or more.
        autoencoder_steps: Steps of its training; None for as many as the transformer is trained for after it. Under a
            time limit it gets half of the time at most.
        mask_rate: The share of tokens that are masked in the end, 0 to 1; all others are replaced. 1 for masks only, 0
            for replacement only.
        auxiliary: lambda, what -log p(x_0 | x_t) counts beside the bound, 0 or more.
        truncation: r, the share of the chance among which tokens are drawn, above 0; 1 for all.
        T: Steps after which nothing of an image is left, 2 or more.
        sampling_steps: How often the network is asked for one image, 1 to T.
        hidden_size: Width of the transformer, a multiple of `num_heads`.
        depth: Blocks.
        num_heads: Heads of attention.
        dropout: Share of the values that are left out inside blocks while it learns.
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
        factor: int = 4,
        codes: int = 128,
        autoencoder_steps: int | None = None,
        mask_rate: float = 0.9,
        auxiliary: float = 5e-4,
        truncation: float = 0.86,
        T: int = 100,
        sampling_steps: int = 25,
        hidden_size: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        dropout: float = 0.0,
        classes: bool = True,
        mirror: bool = False,
        average: float = 0.995,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(
            classes=classes, mirror=mirror, dropout=dropout, average=average, learning_rate=learning_rate
        )
        if factor < 2 or factor & (factor - 1):
            raise UserError(f"factor: expected a power of 2, 2 or more, got {factor}")
        if autoencoder_steps is not None and autoencoder_steps < 1:
            raise UserError(f"autoencoder_steps: expected 1 or more, or None, got {autoencoder_steps}")
        if not 0 <= mask_rate <= 1:
            raise UserError(f"mask_rate: expected a share from 0 to 1, got {mask_rate}")
        if auxiliary < 0:
            raise UserError(f"auxiliary: expected 0 or more, got {auxiliary}")
        if not truncation > 0:
            raise UserError(f"truncation: expected a share above 0, got {truncation}")
        if not 1 <= sampling_steps <= T:
            raise UserError(f"sampling_steps: expected 1 to T, {T}, got {sampling_steps}")
        for name, count, least in (
            ("codes", codes, 2),
            ("T", T, 2),
            ("depth", depth, 1),
            ("num_heads", num_heads, 1),
        ):
            if count < least:
                raise UserError(f"{name}: expected {least} or more, got {count}")
        if hidden_size < 1 or hidden_size % num_heads:
            raise UserError(f"hidden_size: expected a multiple of num_heads, {num_heads}, got {hidden_size}")
        self.factor, self.codes, self.autoencoder_steps = factor, codes, autoencoder_steps
        self.mask_rate, self.auxiliary, self.truncation = mask_rate, auxiliary, truncation
        self.T, self.sampling_steps = T, sampling_steps
        self.hidden_size, self.depth, self.num_heads = hidden_size, depth, num_heads

    def build(self, info: DataInfo) -> None:
        """Makes the autoencoder, frozen, the schedule, and then the transformer."""
        self.autoencoder = VQAutoencoder(info.channels, self.factor, codes=self.codes).requires_grad_(False)
        self.schedule = CategoricalSchedule(*mask_and_replace(self.T, self.mask_rate, 1 - self.mask_rate))
        self.important = ImportantSteps(self.T)
        super().build(info)

    def make_network(self, info: DataInfo) -> TokenTransformer:
        """A transformer for grids of one size."""
        return TokenTransformer(
            self.autoencoder.grid(info.size),
            self.codes,
            self.T,
            self.hidden_size,
            self.depth,
            self.num_heads,
            len(info.classes) if self.is_told_classes(info) else 0,
            self.dropout,
        )

    # -- images and tokens ---------------------------------------------------------------------------------------

    def shape(self, info: DataInfo) -> tuple[int, ...]:
        """Rows and columns of the tokens."""
        return self.autoencoder.grid(info.size)

    def encode(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Int[Tensor, "batch rows columns"]:
        """The tokens of images in [0, 1]."""
        return self.autoencoder.tokens(image)

    def decode(
        self, found: Int[Tensor, "batch rows columns"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images of tokens; a mask stands for the mean of all codes."""
        codebook = self.autoencoder.codebook
        vectors = code_vectors(found, torch.cat([codebook, codebook.mean(0, keepdim=True)]))
        return self.autoencoder.painted(vectors, self.info.size)

    # -- learning ------------------------------------------------------------------------------------------------

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the autoencoder, then the transformer on tokens; a run that is resumed keeps its autoencoder."""
        started = time.monotonic()
        before = latest(plan.out) if plan.out is not None and plan.resume else None
        if before is not None:
            load_tensors(self, before.state["state_dict"])
        else:
            epochs = plan.epochs or 1
            train_autoencoder(
                self.autoencoder,
                data.train,
                steps=self.autoencoder_steps
                or plan.steps
                or epochs * math.ceil(len(data.train) / plan.batch_size),
                batch_size=plan.batch_size,
                seed=plan.seed,
                seconds=None if plan.time_limit is None else plan.time_limit / 2,
            )
        if not self.mirror:
            data = replace(data, train=self._stored(data.train))
        if plan.time_limit is not None:
            left = plan.time_limit - (time.monotonic() - started)
            plan = replace(plan, time_limit=max(left, 1e-3))
        super().learn(data, plan)

    def _stored(self, samples: SampleSet) -> StoredTokens:
        tokens, label = [], []
        for first in range(0, len(samples), ENCODED):
            some = [samples[place] for place in range(first, min(len(samples), first + ENCODED))]
            image = torch.stack([each["image"] for each in some]).to(self.device)
            tokens.append(self.encode(image).cpu())
            label += [int(each.get("label", -1)) for each in some]
        return StoredTokens(torch.cat(tokens), torch.tensor(label))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch of images, or of their tokens."""
        if "tokens" not in batch:
            return super().training_step(batch, batch_idx)
        return self.loss(batch["tokens"], self.told_in_training(batch))

    def told_in_training(self, batch: Batch) -> Int[Tensor, " batch"] | None:
        """What the network is told of the classes of a batch of images, or of tokens."""
        return super().told_in_training({"image": batch.get("image", batch.get("tokens"))} | batch)

    def loss(
        self, clean: Int[Tensor, "batch rows columns"], label: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, ""]:
        """An estimate, in nats for each token, of the bound and of what is added to it."""
        t, weight = self.important.draw(len(clean))
        noised = q_sample(clean, self.schedule.until(t), self.codes + 1)
        chances = with_mask(self.network(noised, t, label).softmax(1))
        term, loss = vq_diffusion_loss(chances, noised, clean, self.schedule, t, self.auxiliary)
        self.important.note(t, term)
        return self.T * (weight * loss).mean()

    # -- making images -------------------------------------------------------------------------------------------

    def path(
        self,
        start: Float[Tensor, "batch rows columns"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Int[Tensor, "batch rows columns"]]:
        """From masks and accidental tokens to those of images, with a generator for each image."""

        def foretell(noised: Tensor, t: Tensor) -> Tensor:
            return with_mask(truncated(self.averaged(noised, t, label).softmax(1), self.truncation))

        begin = start_of(self.schedule, self.codes + 1, uniform_like(start, generators))
        steps = spaced_steps(self.T, self.sampling_steps)
        return categorical_path(
            foretell, begin, self.schedule, steps, lambda: uniform_like(begin, generators), mean_posterior
        )[0]


CLAIMED_SIZE: dict[str, Any] = {
    "factor": 2,
    "codes": 64,
    "autoencoder_steps": 200,
    "hidden_size": 64,
    "depth": 4,
}
SHORT: dict[str, Any] = CLAIM_PLAN | {"steps": 600}


@claim(
    text="After equally many steps, samples are nearer to real images if a tenth of the tokens is replaced than if all "
    "are masked.",
    where="section 5, ablation of the mask-and-replace strategy",
    higher_is_better=False,
)
def some_replacement_beats_masks_only(lab: Lab) -> Trial:
    """Digits of 16 pixels as 64 tokens, the same autoencoder on both sides; FID by the features of the embedded
    network.
    """
    return lab.duel(
        ours=lambda: VQDiffusion(**CLAIMED_SIZE),
        baseline=lambda: VQDiffusion(mask_rate=1.0, **CLAIMED_SIZE),
        data=LARGE_CLAIM_DATA,
        metric="fid",
        **SHORT,
    )


@claim(
    text="After equally many steps, samples are nearer to real images if most tokens are masked than if all are "
    "replaced.",
    where="section 5, ablation of the mask-and-replace strategy",
    higher_is_better=False,
)
def masks_beat_replacement_only(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: VQDiffusion(**CLAIMED_SIZE),
        baseline=lambda: VQDiffusion(mask_rate=0.0, **CLAIMED_SIZE),
        data=LARGE_CLAIM_DATA,
        metric="fid",
        **SHORT,
    )
