r"""Subramaniam et al., Training the Untrainable: Introducing Inductive Bias via Representational Alignment, NeurIPS
2025, arXiv:2410.20035.

Some networks do badly at a task however long they are tuned: deep fully connected ones overfit images, deep
convolutional ones without shortcuts underfit them. Here such a network, the target, is trained on its task and, layer
by layer, to find those images alike that a guide finds alike: a fixed network of a form that suits the task. A trained
guide passes on what it knows; one that was never trained can only pass on what lies in its form, and helps as well.

What the code follows, with outputs X, Y of two layers for a batch of n images, one row each:

- Alignment, `pinakes.nn.similarity.linear_cka`: K = X X^T, L = Y Y^T; HSIC(K, L) = tr(K H L H), H = 1 - 11^T / n;
  CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
- `layer_pairs`: layer i of the guide's g guides layer round(i (t - 1) / (g - 1)) of the target's t, counted from 0, as
  in the authors' code (github.com/vsubramaniam851/untrainable-networks); where two guide one, the later does.
- Loss: the cross-entropy of the labels plus alpha sum (1 - CKA) over the guided layers. Layers are the
  outputs of convolutions and linear layers, before normalisation and activation, without the logits, and alpha is 1
  (the authors' code).
- `FullyConnected`: blocks of a linear layer, batch normalisation, ReLU and dropout of 0.1 (the authors' code).

Differences from the paper: the fully connected network has 24 layers of 128 in place of 48 of 1024 and more, and the
optimiser is that of the whole shelf. The default guide, like any with trained weights, knows more than the data; a name
with `@random` starts from none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import DESCRIPTION
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.method import Method
from pinakes.nn.classifier import ImageClassifier
from pinakes.nn.similarity import linear_cka
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller
from pinakes.papers.distillation.classifier import (
    Augmentation,
    Classifier,
    OwnLayersClassifier,
    labelled_cross_entropy,
)
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Alignment",
        r"\mathrm{CKA}(K, L) = \mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K) \mathrm{HSIC}(L, L)}",
    ),
    ("Alignment", r"\mathrm{HSIC}(K, L) = \mathrm{tr}(K H L H), \quad K = X X^\top, L = Y Y^\top"),
    ("Loss", r"L = \mathrm{CE} + \alpha \sum_i (1 - \mathrm{CKA}(\mathrm{target}_{m(i)}, \mathrm{guide}_i))"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

FULLY_CONNECTED = "fully-connected"
"""The student that is no backbone but a deep network of linear layers."""

Guide = Literal["trained", "untrained"]


def layer_pairs(guiding: int, guided: int) -> list[tuple[int, int]]:
    """Which layer of a guide guides which of a target, in the order of their depth, the first and the last together.

    Args:
        guiding: Number of the guide's layers.
        guided: Number of the target's.

    Returns:
        Pairs of a guide's layer and a target's; every layer of the target is in one pair at most.

    Example:
        >>> layer_pairs(3, 5)
        [(0, 0), (1, 2), (2, 4)]
    """
    step = (guided - 1) / (guiding - 1) if guiding > 1 else 1.0
    guide_of = {min(round(layer * step), guided - 1): layer for layer in range(guiding)}
    return [(guide, target) for target, guide in guide_of.items()]


def representational_distance(target: list[Tensor], guide: list[Tensor]) -> Float[Tensor, ""]:
    """The sum of 1 - CKA over the guided layers.

    Args:
        target: Outputs of the target's layers for a batch, each (batch, ...).
        guide: Those of the guide's for the same batch.

    Raises:
        ValueError: If one of them has no layer.
    """
    if not target or not guide:
        raise ValueError(
            f"target, guide: expected a layer or more of each, got {len(target)} and {len(guide)}"
        )
    pairs = layer_pairs(len(guide), len(target))
    return torch.stack([1 - linear_cka(target[mine], guide[its].detach()) for its, mine in pairs]).sum()


@contextmanager
def layer_outputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """Gathers what the convolutions and linear layers of a network give, in the order in which they run.

    Args:
        network: Run it inside the block.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with layer_outputs(network) as found:
        ...     answer = network(torch.rand(5, 3))
        >>> [tuple(each.shape) for each in found]
        [(5, 4), (5, 2)]
    """
    found: list[Tensor] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _, __, output: found.append(output)) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one, which has no variance, by its running statistics."""

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """The normalised features."""
        if self.training and len(features) == 1:
            return functional.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(features)


class FullyConnected(nn.Module):
    """A deep network of linear layers that sees an image as a list of numbers.

    Args:
        channels: Channels of the images.
        size: Their height and width; images of another size are brought to it.
        width: Outputs of each layer.
        depth: Number of layers, 3 or more.
        dropout: Share of outputs that is dropped after each while training.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], width: int, depth: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.size = size
        self.widths = [width] * 3
        inputs = [channels * size[0] * size[1]] + [width] * (depth - 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(each, width), BatchNorm(width), nn.ReLU(), nn.Dropout(dropout))
            for each in inputs
        )

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width 1 1"]]:
        """What is known after one, two and three thirds of the layers, as maps of one pixel."""
        if tuple(image.shape[-2:]) != self.size:
            image = functional.interpolate(image, self.size, mode="bilinear", antialias=True)
        features, depth, levels = image.flatten(1), len(self.blocks), []
        for layer, block in enumerate(self.blocks, 1):
            features = block(features)
            if layer in (depth // 3, 2 * depth // 3, depth):
                levels.append(features[:, :, None, None])
        return levels


class Guidance(Distiller):
    """A network ill suited to images that learns their labels and, layer by layer, how a guide arranges them.

    Args:
        guide: "trained", the teacher as it is; or "untrained", the teacher's network with random weights.
        alpha: Weight of the distance to the guide; 0 for no guide.
        guided: Share of training, above 0 up to 1, after which the guide is left behind.
        student: The target: "fully-connected", or the name of a network, as `pinakes.nn.backbones` reads it.
        depth: Layers of a fully connected target, 3 or more.
        width: Outputs of each of them.
        teacher: The guide: the run folder of a fitted method of this shelf, or the name of a backbone, which is
            fine-tuned on the training images that have a label, unless it is to be untrained.
        teacher_steps: How many steps of training that takes; None for twice as long as the target learns. A limit of
            time holds for guide and target each.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them. Guide and target see the same.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        guide: Guide = "trained",
        alpha: float = 1.0,
        guided: float = 1.0,
        student: str = FULLY_CONNECTED,
        depth: int = 24,
        width: int = 128,
        teacher: str = "pinakes/tiny_conv",
        teacher_steps: int | None = None,
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(teacher, teacher_steps, student, learning_rate, augmentation)
        if guide not in get_args(Guide):
            raise UserError(f"guide: '{guide}' is unknown{suggest(guide, get_args(Guide))}")
        if alpha < 0:
            raise UserError(f"alpha: expected 0 or more, got {alpha}")
        if not 0 < guided <= 1:
            raise UserError(f"guided: expected a share above 0 up to 1, got {guided}")
        if depth < 3:
            raise UserError(f"depth: expected 3 layers or more, got {depth}")
        if width < 1:
            raise UserError(f"width: expected 1 or more, got {width}")
        self.guide = guide
        self.alpha = alpha
        self.guided = guided
        self.depth = depth
        self.width = width

    def new_network(self, info: DataInfo) -> ImageClassifier:
        """The target, not yet trained."""
        if self.student_name != FULLY_CONNECTED:
            return super().new_network(info)
        layers = FullyConnected(info.channels, info.size, self.width, self.depth)
        return OwnLayersClassifier(layers, len(info.classes))

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Loads the guide, trains it if that has not been done before, or makes an untrained one from the seed.

        Raises:
            UserError: If the guide's run does not fit the data, or a run is to be untrained.
        """
        if self.alpha == 0:
            return
        if self.guide == "trained":
            super().ready(data, plan)
            return
        if (Path(self.teacher_name) / DESCRIPTION).is_file():
            raise UserError(
                f"teacher: {self.teacher_name} is a trained run, and guide is 'untrained'; name a backbone"
            )
        self._set_teacher(self._fresh_teacher().prepare(data.info, seed=plan.seed))

    def learnt_from(self) -> dict[str, Method]:
        """The guide, if it was trained; an untrained one knows no class, so that it is not worth judging."""
        return super().learnt_from() if self.guide == "trained" else {}

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy, and the distance to the guide as long as it guides."""
        image = self.augmented(batch["image"])
        with layer_outputs(self.network) as target:
            logits = self.answers(image).logits
        learnt = labelled_cross_entropy(logits, batch["label"])
        if self.alpha == 0 or (self.guided < 1 and self.done >= self.guided):
            return learnt
        # the last layers are those of the logits
        return learnt + self.alpha * representational_distance(target[:-1], self.guide_layers(image)[:-1])

    def guide_layers(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """What the guide's layers give, without gradients; features of random weights may be too large for halves."""
        self._begin()
        guide = self._teacher[0]
        with layer_outputs(guide.network) as found:
            if self.guide == "trained":
                self.taught(image)
            else:
                with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
                    guide.to(image.device).answers(image)
        return found

    def _begin(self) -> None:
        if self.alpha > 0:
            super()._begin()

    def _fresh_teacher(self) -> Classifier:
        name = self.teacher_name
        untrained = f"{name.partition('@')[0]}@random"
        return Classifier(untrained if self.guide == "untrained" else name, augmentation=self.augmentation)


@claim(
    text="A deep fully connected network guided by a trained convolutional one is more accurate than the same network "
    "trained on the labels alone.",
    where="abstract",
    higher_is_better=True,
)
def a_trained_guide_helps(lab: Lab) -> Trial:
    """Made scenes of single objects; 24 layers of 128."""
    return lab.duel(
        ours=lambda: Guidance(guide="trained"),
        baseline=lambda: Guidance(alpha=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="A guide that was never trained helps a deep fully connected network too.",
    where="abstract",
    higher_is_better=True,
)
def an_untrained_guide_helps(lab: Lab) -> Trial:
    """As above, with random weights in the guide."""
    return lab.duel(
        ours=lambda: Guidance(guide="untrained"),
        baseline=lambda: Guidance(alpha=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
