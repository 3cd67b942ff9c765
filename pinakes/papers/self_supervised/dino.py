r"""Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, arXiv:2104.14294.

A student looks at views of an image, large and small, and says to which of many prototypes each belongs. It is to say
what a teacher says of another view, who sees the large ones alone. The teacher is the student's own moving average.
That all views get the same answer is prevented by two opposite means: the teacher's running mean is taken off its
logits, so that no prototype prevails, and a low temperature makes it decide.

What the code follows, in `pinakes.nn.self_distillation` unless said otherwise:

- Section 3.1, equation 3, `view_cross_entropy`: the cross-entropy over all pairs of different views, of which the
  teacher sees two.
- Section 3.1, "SSL with Knowledge Distillation", `ViTFromViews.views`: two large views and several small ones, of more
  and of less than a share of the image's area.
- Section 3.1, "Teacher network", `pinakes.nn.momentum`: theta_t <- lambda theta_t + (1 - lambda) theta_s, with lambda
  rising to 1 as a cosine.
- Section 3.1, "Avoiding collapse", equation 4, `Centre`: centring; the teacher's temperature rises along a line.
- Section 3.1, "Network architecture", `PrototypeHead`.
- Of github.com/facebookresearch/dino: gradients of each tensor are clipped, and prototypes rest at first.

Differences from the paper: a small network, patch, head and number of prototypes, four small views in place of eight,
of a tenth of the area or more in place of a twentieth, and a teacher that follows faster (0.99 in place of 0.996), for
short training on images of 32 pixels; the transformer starts with Xavier's numbers; both kinds of views are changed
alike, by default neither smoothed nor solarised; no stochastic depth, and the decay of weights is constant. The
embedding is the teacher's class token behind the last normalisation.

The teacher's temperature is 0.02 from first to last, in place of 0.04, rising to 0.07 in long training. Near the state
where all images get the same answer, a student can foretell of the teacher's logits the share R that two views of an
image have in common; over one round of teaching, what tells images apart then grows by R tau_s / tau_t. For digits and
a new network, R is well below a half; with the paper's temperatures and short training the answers became the same for
all images, and the loss stayed at the logarithm of `out_dim`. Should it do so in yours, lower `teacher_temp`, or make
the views more alike: `least_area`, `least_local_area`, `colour`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.self_distillation import Centre, PrototypeHead, ViewTransformer, view_cross_entropy
from pinakes.papers.self_supervised.base import no_loss
from pinakes.papers.self_supervised.transformer import check_counts, check_width
from pinakes.papers.self_supervised.views import CLAIM_DATA, SHORT_PLAN, Following, FromViews, check_patches
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "Equation 3",
        r"\min_{\theta_s} \sum_{x \in \{x_1^g, x_2^g\}} \sum_{x' \in V, x' \neq x} "
        r"-P_t(x)^\top \log P_s(x')",
    ),
    (
        "Section 3.1",
        r"P_t(x) = \mathrm{softmax}\left((g_{\theta_t}(x) - c) / \tau_t\right), \quad "
        r"P_s(x) = \mathrm{softmax}\left(g_{\theta_s}(x) / \tau_s\right)",
    ),
    ("Equation 4", r"c \leftarrow m c + (1 - m) \frac{1}{B} \sum_{i=1}^{B} g_{\theta_t}(x_i)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


class ViTFromViews(Following, FromViews):
    """A vision transformer that learns from views of several sizes, with a copy that follows it.

    A subclass gives `loss`, which draws views by `views`, makes its heads in `build`, and adds their copies to
    `followed`. Features are those of the copy.

    Args:
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the encoder, a multiple of 32.
        depth: Blocks of the encoder.
        momentum: The share of its own weights that the copy keeps at first, 0 to 1; it rises to 1.
        local_crops_number: How many small views there are beside two large ones.
        local_side: Side of small views over that of large ones, above 0 and at most 1; cut to whole patches.
        least_local_area: The smallest share of an image's area that a small view shows, above 0 and at most
            `least_area`, which is the largest one.
        clip_grad: The largest norm of the gradient of each tensor, above 0.
        least_area: The smallest share of an image's area that a large view shows.
        colour: How strongly colours are changed: 0 for not at all, 1 as in SimCLR.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        patch: int = 4,
        embed_dim: int = 96,
        depth: int = 6,
        momentum: float = 0.99,
        local_crops_number: int = 4,
        local_side: float = 0.5,
        least_local_area: float = 0.1,
        clip_grad: float = 3.0,
        least_area: float = 0.4,
        colour: float = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, colour=colour, **shared)
        check_width("embed_dim", embed_dim)
        check_counts(patch=patch, depth=depth)
        if not 0 <= momentum <= 1:
            raise UserError(f"momentum: expected 0 to 1, got {momentum}")
        if local_crops_number < 0:
            raise UserError(
                f"local_crops_number: expected a whole number of 0 or more, got {local_crops_number}"
            )
        if not 0 < local_side <= 1:
            raise UserError(f"local_side: expected a share above 0 and at most 1, got {local_side}")
        if not 0 < least_local_area <= least_area:
            raise UserError(
                f"least_local_area: expected a share above 0 and at most least_area, {least_area}, got "
                f"{least_local_area}"
            )
        if not clip_grad > 0:
            raise UserError(f"clip_grad: expected a number above 0, got {clip_grad}")
        self.patch, self.embed_dim, self.depth, self.momentum = patch, embed_dim, depth, momentum
        self.local_crops_number, self.local_side = local_crops_number, local_side
        self.least_local_area, self.clip_grad = least_local_area, clip_grad

    def build(self, info: DataInfo) -> None:
        """Makes the encoder and its copy.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        check_patches(info.size, self.patch)
        self.encoder = ViewTransformer(info.size, self.patch, info.channels, self.embed_dim, self.depth)
        self.teacher = MomentumCopy(self.encoder)

    def followed(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """The copy with the encoder."""
        return [(self.teacher, self.encoder)]

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The class token of the copy, and the patches."""
        tokens = self.teacher.network(image)
        maps = rearrange(tokens[:, 1:], "b (h w) c -> b c h w", h=image.shape[2] // self.patch)
        return {"embedding": tokens[:, 0], "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The copy, with a level behind each of its blocks; negative numbers count from the last.

        Raises:
            UserError: If there is no such block.
        """
        encoder: Any = self.teacher.network
        return ViewLevels(encoder, layers)

    def large_size(self) -> tuple[int, int]:
        """Height and width of large views; by default those of the images."""
        return self.info.size

    def views(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "several_batches channels _rows _columns"]]:
        """Random views: two large ones of each image, view by view, and likewise the small ones, if there are any."""
        height, width = self.large_size()
        found = [self.view(image.repeat(2, 1, 1, 1), (self.least_area, 1.0), (height, width))]
        if self.local_crops_number:
            small = self.whole_patches(height * self.local_side), self.whole_patches(width * self.local_side)
            several = image.repeat(self.local_crops_number, 1, 1, 1)
            found.append(self.view(several, (self.least_local_area, self.least_area), small))
        return found

    def whole_patches(self, side: float) -> int:
        """The side in pixels, brought to the nearest multiple of the patch that is not 0."""
        return max(1, round(side / self.patch)) * self.patch

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clips the gradient of each tensor."""
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        if gradients:
            norms = torch._foreach_norm(gradients)
            torch._foreach_mul_(gradients, [(self.clip_grad / (norm + 1e-6)).clamp(max=1) for norm in norms])


class ViewLevels(nn.Module):
    """Feature maps behind some blocks of a transformer, of images of any size, which are cut to whole patches.

    Args:
        encoder: The transformer.
        layers: Numbers of blocks, from 0; negative numbers count from the last.

    Raises:
        UserError: If there is no such block.
    """

    def __init__(self, encoder: ViewTransformer, layers: Sequence[int]) -> None:
        super().__init__()
        for layer in layers:
            if not -encoder.depth <= layer < encoder.depth:
                raise UserError(
                    f"layers: the encoder has {encoder.depth} blocks, from 0, and none is {layer}"
                )
        self.encoder = encoder
        self.blocks = [layer % encoder.depth + 1 for layer in layers]
        self.widths, self.strides = [encoder.width] * len(layers), [encoder.patch] * len(layers)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The feature maps, one for each block; sides of images that are no multiples of the patch are made so."""
        patch = self.encoder.patch
        height, width = (max(1, round(side / patch)) * patch for side in image.shape[-2:])
        if (height, width) != tuple(image.shape[-2:]):
            image = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
        return [self.encoder.maps(tokens, height) for tokens in self.encoder.after(image, self.blocks)]


class DINO(ViTFromViews):
    """A vision transformer that learns to say of a view what its moving average says of another one.

    Args:
        student_temp: What the student's logits are divided by, above 0.
        teacher_temp: What the teacher's are divided by in the end, above 0.
        warmup_teacher_temp: What they are divided by at first, above 0.
        warmup_teacher: The share of training in which the temperature rises from one to the other along a line.
        out_dim: How many prototypes there are, 2 or more.
        hidden_dim: Width of the head's hidden layers.
        bottleneck_dim: Width of what is compared with prototypes.
        center_momentum: The share of the old centre that is kept, 0 to 1.
        centring: Whether the centre is taken off the teacher's logits; without it they collapse.
        freeze_last_layer: The share of training, at its start, in which prototypes stay as they are.
        learning_rate: Of AdamW, as in `FromViews`.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        student_temp: float = 0.1,
        teacher_temp: float = 0.02,
        warmup_teacher_temp: float = 0.02,
        warmup_teacher: float = 0.3,
        out_dim: int = 1024,
        hidden_dim: int = 256,
        bottleneck_dim: int = 64,
        center_momentum: float = 0.9,
        centring: bool = True,
        freeze_last_layer: float = 0.01,
        learning_rate: float = 3e-4,
        **shared: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **shared)
        check_temperatures(
            student_temp=student_temp, teacher_temp=teacher_temp, warmup_teacher_temp=warmup_teacher_temp
        )
        check_counts(hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim)
        if out_dim < 2:
            raise UserError(f"out_dim: expected a whole number of 2 or more, got {out_dim}")
        for name, share in (
            ("warmup_teacher", warmup_teacher),
            ("center_momentum", center_momentum),
            ("freeze_last_layer", freeze_last_layer),
        ):
            if not 0 <= share <= 1:
                raise UserError(f"{name}: expected 0 to 1, got {share}")
        self.student_temp, self.teacher_temp = student_temp, teacher_temp
        self.warmup_teacher_temp, self.warmup_teacher = warmup_teacher_temp, warmup_teacher
        self.out_dim, self.hidden_dim, self.bottleneck_dim = out_dim, hidden_dim, bottleneck_dim
        self._answers: dict[Centre, Tensor] = {}
        self.center_momentum, self.centring, self.freeze_last_layer = (
            center_momentum,
            centring,
            freeze_last_layer,
        )

    def build(self, info: DataInfo) -> None:
        """Makes encoder and head, their copies, and the centre."""
        super().build(info)
        self.head = self.new_head()
        self.teacher_head = MomentumCopy(self.head)
        self.centre = Centre(self.out_dim, self.center_momentum)

    def new_head(self) -> PrototypeHead:
        """A head of the widths that the options name."""
        return PrototypeHead(self.embed_dim, self.hidden_dim, self.bottleneck_dim, self.out_dim)

    def heads(self) -> list[PrototypeHead]:
        """The student's heads."""
        return [self.head]

    def followed(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """The copies with encoder and head."""
        return [*super().followed(), (self.teacher_head, self.head)]

    def warmed(self, last: float, first: float | None = None) -> float:
        """A temperature of the teacher on its way from the first to the last one.

        Args:
            last: In the end.
            first: At the start; by default `warmup_teacher_temp`.
        """
        share = min(1.0, self.done / self.warmup_teacher) if self.warmup_teacher else 1.0
        first = self.warmup_teacher_temp if first is None else first
        return first + share * (last - first)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the student is from what the teacher says of other views."""
        views = self.views(image)
        tokens = torch.cat([self.encoder(each)[:, 0] for each in views])
        return self.view_loss(tokens, self.teacher(views[0])[:, 0])

    def view_loss(
        self,
        tokens: Float[Tensor, "all_views _embed_dim"],
        known: Float[Tensor, "large_views _embed_dim"],
    ) -> Float[Tensor, ""]:
        """The same of class tokens: the student's of all views, and the teacher's of the two large ones."""
        targets = self.view_targets(self.teacher_head(known)).unflatten(0, (2, -1))
        student = self.head(tokens).unflatten(0, (-1, targets.shape[1]))
        return view_cross_entropy(student, targets, self.student_temp)

    def view_targets(
        self, logits: Float[Tensor, "large_views prototypes"]
    ) -> Float[Tensor, "large_views prototypes"]:
        """The teacher's distributions."""
        return self.centred(self.centre, logits, self.warmed(self.teacher_temp))

    def centred(
        self, centre: Centre, logits: Float[Tensor, "*batch prototypes"], temperature: float
    ) -> Float[Tensor, "*batch prototypes"]:
        """Centred and sharpened logits; the centre moves when the step is done."""
        if self.centring:
            self._answers[centre] = logits.detach()
        targets: Tensor = centre(logits, temperature)
        return targets

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves centres, and lets the copies follow."""
        for centre, logits in self._answers.items():
            centre.update(logits)
        self._answers.clear()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clips gradients, and holds prototypes still at first."""
        super().on_before_optimizer_step(optimizer)
        if self.done < self.freeze_last_layer:
            for head in self.heads():
                head.prototypes.grad = None


def check_temperatures(**temperatures: float) -> None:
    """Makes sure that temperatures are above 0.

    Raises:
        UserError: If one is not; names the option.
    """
    for name, value in temperatures.items():
        if not value > 0:
            raise UserError(f"{name}: expected a number above 0, got {value}")


SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 4, "out_dim": 256}
"""The networks of claims about whole images, small because six views of each image are costly."""
FINE: dict[str, Any] = SMALL | {"local_crops_number": 2}
"""Those of claims about patches of larger images."""


class _Untrained(DINO):
    """The same transformer, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0, **SMALL)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="The nearest images have the same class more often by the features of DINO than by those of random weights.",
    where="implied by the classification by nearest neighbours of section 4.1, table 2",
    higher_is_better=True,
)
def following_oneself_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same transformer on both sides."""
    return lab.duel(
        ours=lambda: DINO(**SMALL), baseline=_Untrained, data=CLAIM_DATA, metric="knn", **SHORT_PLAN
    )


def told_of_images(answers: Float[Tensor, "images prototypes"]) -> Float[Tensor, ""]:
    """How much distributions tell of which image they are of, in nats: 0 if all are the same, as after a collapse.

    It is the entropy of their mean less the mean of their entropies.

    Args:
        answers: One distribution an image.

    Source: section 5.3, which follows the entropy and the divergence from the uniform distribution.

    Example:
        >>> told_of_images(torch.eye(4)).exp().round(decimals=3)
        tensor(4.)
    """
    return torch.special.entr(answers.mean(0)).sum() - torch.special.entr(answers).sum(1).mean()


@torch.no_grad()
def told_after_training(method: DINO, seed: int, steps: int, device: str) -> float:
    """How much the teacher's answers tell of unseen images, after training on others."""
    data = load_data(CLAIM_DATA, task=method.task, seed=seed)
    assert data.test is not None
    method.fit(data, **SHORT_PLAN | {"steps": steps, "seed": seed, "device": device, "hold_out": 0.0})
    embedding = method.predict(data.test)["embedding"].to(method.device)
    return float(told_of_images(method.centre(method.teacher_head(embedding), method.teacher_temp)))


@claim(
    text="Without centring the teacher's answers collapse: they tell less of which image is seen.",
    where="section 5.3, figure 7",
    higher_is_better=True,
)
def centring_prevents_collapse(lab: Lab) -> Trial:
    """As above; sharpening is the same on both sides."""
    steps = 2 if lab.quick else SHORT_PLAN["steps"]
    return lab.measure(
        ours=lambda seed: told_after_training(DINO(**SMALL), seed, steps, str(lab.device)),
        baseline=lambda seed: told_after_training(
            DINO(centring=False, **SMALL), seed, steps, str(lab.device)
        ),
        metric="what the teacher's answers tell of unseen images",
        unit="nats",
    )
