"""What the methods of this shelf share that learn from several views of an image: how views are drawn, and a
convolutional encoder.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.nn.augment import flipped
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.crops import randomly_cropped
from pinakes.nn.momentum import MomentumCopy, momentum_at
from pinakes.nn.photometric import blurred, greyed, jittered, solarised
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.base import CLAIM_PLAN, ConvolutionalLevels, SelfSupervised, no_loss
from pinakes.tasks.base import Prediction

# That DINO with its own temperatures collapses in short training, as its page says, was found later; a short SimCLR
# hardly beat its untrained network on scenes either.
CLAIM_DATA = "digits?size=16"
"""Handwritten digits: the data of most claims of methods that learn from views. Made scenes, which other claims of the
shelf are about, will not do: tried with a seed that no claim uses, a short DINO told less of their classes than before
it learnt."""
SHORT_PLAN: dict[str, Any] = CLAIM_PLAN | {"steps": 500}
"""Half as long as other claims, where a step computes many views or large ones."""


class FromViews(SelfSupervised):
    """An encoder that learns from random views of images: crops whose colours are changed.

    A subclass gives `build`, `encode` and `loss`, which draws views by `view`.

    Args:
        least_area: The smallest share of an image's area that a view may show, above 0 and at most 1.
        colour: How strongly colours are changed: 0 for not at all, 1 as in SimCLR.
        grey: The share of the views that lose their colour.
        blur: The share of the views that are smoothed; 0 as SimCLR has it for images as small as CIFAR-10's.
        solarise: The share of the views whose bright values are inverted.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        weight_decay: Of AdamW, for weights of two dimensions or more.

    Raises:
        UserError: If a value is out of range; the message names it.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020
        (arXiv:2002.05709), appendix A; B.9 for small images.
    """

    def __init__(
        self,
        least_area: float = 0.2,
        colour: float = 1.0,
        grey: float = 0.2,
        blur: float = 0.0,
        solarise: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        if not 0 < least_area <= 1:
            raise UserError(f"least_area: expected a share above 0 and at most 1, got {least_area}")
        if not 0 <= colour <= 1.25:
            raise UserError(f"colour: expected 0 to 1.25, got {colour}")
        for name, share in (("grey", grey), ("blur", blur), ("solarise", solarise)):
            if not 0 <= share <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {share}")
        self.least_area, self.colour, self.grey = least_area, colour, grey
        self.blur, self.solarise = blur, solarise

    def view(
        self,
        image: Float[Tensor, "batch channels height width"],
        area: tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch channels rows columns"]:
        """A random view of each image.

        Args:
            image: Images in [0, 1].
            area: Least and greatest share of the area that it shows; by default from `least_area` to all.
            size: Its height and width; by default those of the images.
        """
        return self.recoloured(flipped(randomly_cropped(image, area or (self.least_area, 1.0), size)))

    def recoloured(
        self, view: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Views with their colours and sharpness changed at random; everything stays where it is."""
        if self.colour:
            strength = 0.8 * self.colour
            view = jittered(view, strength, strength, strength, 0.2 * self.colour)
        if self.grey:
            view = greyed(view, self.grey)
        if self.blur:
            view = blurred(view, self.blur)
        return solarised(view, self.solarise) if self.solarise else view

    def augmented(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """A view of each image."""
        return self.view(image)

    def training_step(self, batch: Any, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; labels are not looked at."""
        return self.loss(self.sized(batch["image"]))

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """What is minimised, of images in [0, 1] as they are, of which it draws views."""
        raise NotImplementedError(f"{type(self).__name__} gives no loss")

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Two views of each image, for pictures; the same ones every time."""
        with isolated(0):
            return {"view": self.view(image), "view_2": self.view(image)}


class ConvolutionalFromViews(FromViews):
    """A convolutional encoder that learns from random views of images.

    A subclass calls `build` before it makes its heads, and gives `loss`.

    Args:
        backbone: Name of the network, as `pinakes.nn.backbones` reads it, without weights unless they are named.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, backbone: str = "pinakes/resnet20s2", **shared: Any) -> None:
        super().__init__(**shared)
        self.backbone_name = backbone

    def build(self, info: DataInfo) -> None:
        """Makes the encoder."""
        self.encoder = FeatureExtractor(self.backbone_name, (-1,), info.channels)

    @property
    def width(self) -> int:
        """Of the embedding."""
        return self.encoder.widths[-1]

    def pooled(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch _width"]:
        """The mean over the last feature map."""
        maps: Tensor = self.encoder(image)[-1]
        return maps.mean((2, 3))

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the last feature map, and the map."""
        maps = self.encoder(image)[-1]
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network, with the levels that timm gives it."""
        return ConvolutionalLevels(self.encoder, self.backbone_name, self.info.channels, layers)


class Following:
    """Part of a method with a `MomentumCopy` that follows what is trained after every step.

    A subclass gives `followed` and a `momentum` at the start of training, which rises to 1.
    """

    momentum: float
    done: float
    global_step: int

    def followed(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """Each copy with the network that it follows."""
        raise NotImplementedError(f"{type(self).__name__} gives no followed")

    def on_train_start(self) -> None:
        """The copies start as the networks do, wherever these have their weights from."""
        if self.global_step == 0:
            for follower, network in self.followed():
                follower.follow(network, 0.0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lets the copies follow."""
        momentum = momentum_at(self.done, self.momentum)
        for follower, network in self.followed():
            follower.follow(network, momentum)
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[misc]  # that of the method


def of_two_views(
    encode: Callable[[Tensor], Tensor], one: Float[Tensor, "batch channels height width"], other: Tensor
) -> tuple[Tensor, Tensor]:
    """What a network says of two batches, asked once for both, so that batch statistics are those of all."""
    first, second = encode(torch.cat([one, other])).chunk(2)
    return first, second


def check_patches(size: tuple[int, int], patch: int) -> None:
    """Makes sure that images can be cut into two patches or more.

    Args:
        size: Height and width of the images in pixels.
        patch: Side of a patch in pixels.

    Raises:
        UserError: If they cannot.
    """
    height, width = size
    if height % patch or width % patch or height * width < 2 * patch**2:
        raise UserError(
            f"patch: images of {height}x{width} pixels cannot be cut into patches of {patch}; give another "
            "patch or size"
        )


class Projecting(nn.Module):
    """An encoder with a head.

    Args:
        encoder: Gives levels of feature maps, of which the last is averaged.
        head: Takes that average.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self, view: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _projection"]:
        """What the head says of views."""
        projected: Tensor = self.head(self.encoder(view)[-1].mean((2, 3)))
        return projected


class PredictsTarget(Following, ConvolutionalFromViews):
    """A convolutional encoder that foretells of a view what a slow copy of itself says of the other view.

    A subclass gives `compare`. Both views are drawn alike, and each goes through the network by itself.

    Args:
        projection: Width of what is foretold.
        hidden: Width of the hidden layers of head and predictor.
        momentum: The share of its weights that the copy keeps in a step, 0 to 1, at the start; it rises to 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    last_norm: ClassVar[bool] = False
    """Whether head and predictor end with a normalisation."""

    def __init__(
        self, projection: int = 64, hidden: int = 256, momentum: float = 0.99, **shared: Any
    ) -> None:
        super().__init__(**shared)
        for name, width in (("projection", projection), ("hidden", hidden)):
            if width < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {width}")
        if not 0 <= momentum <= 1:
            raise UserError(f"momentum: expected a share from 0 to 1, got {momentum}")
        self.projection, self.hidden, self.momentum = projection, hidden, momentum

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, its head, the predictor and the slow copy of the first two."""
        super().build(info)
        self.head = projection_head([self.width, self.hidden, self.projection], self.last_norm)
        self.predictor = projection_head([self.projection, self.hidden, self.projection], self.last_norm)
        self.target = MomentumCopy(self.online())

    def online(self) -> Projecting:
        """The encoder with its head."""
        return Projecting(self.encoder, self.head)

    def followed(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """The slow copy follows encoder and head."""
        return [(self.target, self.online())]

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly each view foretells the other."""
        one, other = self.view(image), self.view(image)
        online = self.online()
        forth = self.compare(self.predictor(online(one)), self.target(other))
        return forth + self.compare(self.predictor(online(other)), self.target(one))

    def compare(
        self, prediction: Float[Tensor, "batch _projection"], target: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """The loss of one direction."""
        raise NotImplementedError(f"{type(self).__name__} gives no compare")


class ComparesStatistics(ConvolutionalFromViews):
    """A convolutional encoder that learns from statistics of projections of two views over a batch.

    A subclass gives `compare`. Both views are drawn alike, and each goes through the network by itself.

    Args:
        projection: Width of each of the head's three layers.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, projection: int = 256, **shared: Any) -> None:
        super().__init__(**shared)
        if projection < 2:
            raise UserError(f"projection: expected a whole number of 2 or more, got {projection}")
        self.projection = projection

    def build(self, info: DataInfo) -> None:
        """Makes the encoder and its head, whose last layer has no bias, as statistics would not see it."""
        super().build(info)
        layers = projection_head([self.width, *[self.projection] * 3])
        self.head = nn.Sequential(*layers[:-1], nn.Linear(self.projection, self.projection, bias=False))

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """What the statistics of two views of each image lack."""
        project = Projecting(self.encoder, self.head)
        return self.compare(project(self.view(image)), project(self.view(image)))

    def compare(
        self, one: Float[Tensor, "batch _projection"], other: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """The loss of projections."""
        raise NotImplementedError(f"{type(self).__name__} gives no compare")


class Untrained(ConvolutionalFromViews):
    """The network of these methods, which keeps the weights that it was initialised with: a baseline of claims."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)
