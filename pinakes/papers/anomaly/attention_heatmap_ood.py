"""Cultrera et al., Leveraging Visual Attention for out-of-distribution Detection, ICCV 2023 workshops,
doi:10.1109/ICCVW60793.2023.00479.

Where a transformer looks in an image of a class that it knows follows a pattern. So a convolutional autoencoder learns
to reconstruct the attention heat maps of the training images, and an image whose heat map it reconstructs badly is of
no known class. The classifier is trained first and then left as it is; the autoencoder needs no labels.

What the code follows, with A the attention weights of the last block (heads H, one row a query, rows sum to 1):

- h_j = 1/H sum_h A_h[q, j]: `attention_heatmap`, over the patches j; the query q is the class token.
- h' = resize(h) / max resize(h): `as_picture`, a square grey picture with values to 1.
- L = mean (D(E(h')) - h')^2: `reconstruction_error`, with E and D a convolutional autoencoder.
- score = mean (D(E(h')) - h')^2: the same of a test image.

Sources: idea and data are the abstract's; block, heads, normalisation, autoencoder, loss and score are those of the
authors' code (github.com/lcultrera/WildCapture). We did not have the paper's own equations. Attention is not rolled out
over the blocks there. That code leaves out the first patch and repeats one near the end, which we take to be an
oversight: here all patches are in the map, each once.

Differences: the paper fine-tunes a ViT-B/16 at 224 pixels and reconstructs maps of 128 x 128 with a code of 512
numbers, in 200 epochs. The default backbone here is the embedded `pinakes/tiny_vit`, which has no class token: the
classifier reads the mean over its patches, so the query is that mean, and h_j the attention that patch j receives on
average. `class_token` gives the paper's query where the backbone has one. As a map of a small image has few patches,
its picture is 32 x 32 and the code has 64 numbers; `side=128, latent=512` is the authors' network, but for an
activation before its last layer that they leave out. Classifier and autoencoder are each trained for the steps or
epochs of the fit.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.max_softmax import max_softmax_score
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("h_j =", r"h_j = \frac{1}{H} \sum_{h=1}^{H} A_h[q, j]"),
    ("h' =", r"h' = \frac{\operatorname{resize}(h)}{\max \operatorname{resize}(h)}"),
    ("L =", r"\mathcal{L} = \frac{1}{n} \lVert D(E(h')) - h' \rVert_2^2"),
    ("score =", r"s = \frac{1}{n} \lVert D(E(h')) - h' \rVert_2^2"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

CODE_GRID = 8
"""Side of the autoencoder's last feature map, which one convolution turns into the code."""
SIDES = (16, 32, 64, 128)

Picture = Float[Tensor, "batch shades side side"]


def attention_heatmap(
    attention: Float[Tensor, "batch heads tokens tokens"], grid: tuple[int, int], *, class_token: bool = False
) -> Float[Tensor, "batch rows columns"]:
    """How much attention each patch receives, averaged over the heads.

    Args:
        attention: Weights of one block, query by key; class and register tokens, if any, come before the patches.
        grid: Rows and columns of patches.
        class_token: Whether the query is the class token, the first one; else the mean over all patches.

    Source: the authors' code for the class token.

    Example:
        >>> attention_heatmap(torch.full((1, 2, 5, 5), 0.2), (2, 2), class_token=True)
        tensor([[[0.2000, 0.2000],
                 [0.2000, 0.2000]]])
    """
    rows, columns = grid
    first = attention.shape[-1] - rows * columns
    queried = attention[:, :, 0] if class_token else attention[:, :, first:].mean(2)
    return queried[..., first:].mean(1).unflatten(1, (rows, columns))


def as_picture(heatmap: Float[Tensor, "batch rows columns"], side: int) -> Float[Tensor, "batch 1 side side"]:
    """A heat map as a square grey picture whose largest value is 1.

    Args:
        heatmap: Values of 0 or more, some above.
        side: Side of the picture in pixels.

    Source: the authors' code.
    """
    resized = _resized(heatmap[:, None], side)
    return resized / resized.amax(dim=(1, 2, 3), keepdim=True)


def reconstruction_error(reconstruction: Picture, picture: Picture) -> Float[Tensor, " batch"]:
    """The mean squared error of each picture's reconstruction: the loss in training, and the score of an image."""
    return (reconstruction - picture).square().mean(dim=(1, 2, 3))


def _resized(picture: Tensor, side: int) -> Tensor:
    return functional.interpolate(
        picture, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


class PictureAutoencoder(nn.Module):
    """A convolutional autoencoder from a square picture to a code without spatial extent, and back.

    Args:
        channels: Of the picture.
        side: Of the picture: 16, 32, 64 or 128; it is halved to 8 x 8 before the code.
        width: Channels at first; four times as many where there are most.
        latent: Numbers in the code.

    Source: the authors' code; it is the network of Bergmann et al., Improving Unsupervised Defect Segmentation by
        Applying Structural Similarity to Autoencoders, 2018 (arXiv:1807.02011), table 1, with `side=128`.

    Example:
        >>> PictureAutoencoder(side=32)(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, channels: int = 1, side: int = 128, width: int = 32, latent: int = 512) -> None:
        super().__init__()
        if side not in SIDES:
            raise UserError(f"side: expected {', '.join(map(str, SIDES))} pixels, got {side}")
        halvings = int(math.log2(side // CODE_GRID))
        widths = [channels, *[width, width, 2 * width, 4 * width][-halvings:]]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for fine, coarse in pairwise(widths):
            refined = fine != channels and coarse > fine
            encoder += _activated(nn.Conv2d(fine, fine, 3, padding=1)) if refined else []
            encoder += _activated(nn.Conv2d(fine, coarse, 4, stride=2, padding=1))
        for coarse, fine in pairwise(reversed(widths)):
            refined = fine != channels and coarse > fine
            decoder += _activated(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1))
            decoder += _activated(nn.Conv2d(fine, fine, 3, padding=1)) if refined else []
        self.encoder = nn.Sequential(
            *encoder,
            *_activated(nn.Conv2d(4 * width, 2 * width, 3, padding=1)),
            *_activated(nn.Conv2d(2 * width, width, 3, padding=1)),
            nn.Conv2d(width, latent, CODE_GRID),
        )
        self.decoder = nn.Sequential(
            *_activated(nn.ConvTranspose2d(latent, width, CODE_GRID)),
            *_activated(nn.Conv2d(width, 2 * width, 3, padding=1)),
            *_activated(nn.Conv2d(2 * width, 4 * width, 3, padding=1)),
            *decoder[:-1],
        )

    def forward(self, picture: Picture) -> Picture:
        """The reconstruction."""
        reconstruction: Tensor = self.decoder(self.encoder(picture))
        return reconstruction


def _activated(layer: nn.Module) -> list[nn.Module]:
    return [layer, nn.LeakyReLU(0.2)]


def last_attention(backbone: FeatureExtractor, *, class_token: bool = False) -> nn.Module:
    """The attention of a vision transformer's last block, from now on computed in the form that shows its weights.

    Raises:
        UserError: If the backbone is no vision transformer of timm, or has no class token where one is asked for.
    """
    network = getattr(backbone.network, "model", None)
    blocks = getattr(network, "blocks", None)
    attention = getattr(blocks[-1], "attn", None) if isinstance(blocks, nn.Sequential) else None
    if not (isinstance(attention, nn.Module) and hasattr(attention, "fused_attn")):
        raise UserError(
            "backbone: has no attention to look at; give a vision transformer, such as pinakes/tiny_vit"
        )
    if class_token and getattr(network, "cls_token", None) is None:
        raise UserError("class_token: the backbone has none; leave it False")
    attention.fused_attn = False  # type: ignore[assignment]  # a plain attribute
    return attention


def features_and_attention(
    backbone: FeatureExtractor, image: Float[Tensor, "batch channels height width"]
) -> tuple[Float[Tensor, "batch features rows columns"], Float[Tensor, "batch heads tokens tokens"]]:
    """The last feature map of images in [0, 1] and the attention weights of the block that made it."""
    seen: list[Tensor] = []
    dropout = last_attention(backbone).get_submodule("attn_drop")
    handle = dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        features = backbone(image)[-1]
    finally:
        handle.remove()
    return features, seen[0]


class AttentionHeatmapOOD(UnknownDetector):
    """Scores images by how badly an autoencoder reconstructs where a classifier looks.

    Args:
        backbone: Name of the vision transformer that is fine-tuned; the paper's is "timm/vit_base_patch16_224".
        learning_rate: Of AdamW, for the classifier; 1e-4 in the authors' code.
        class_token: Whether the heat map is the class token's, as in the paper; else that of the mean over patches,
            which the classifier reads.
        side: Side of the picture that is made of a heat map: 16, 32, 64 or 128, the paper's.
        width: Channels of the autoencoder at first.
        latent: Numbers in its code; 512 in the authors' code.
        autoencoder_learning_rate: Of Adam, for the autoencoder; 1e-4 in the authors' code, for many more steps.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        backbone: str = "pinakes/tiny_vit",
        learning_rate: float = 1e-3,
        class_token: bool = False,
        side: int = 32,
        width: int = 32,
        latent: int = 64,
        autoencoder_learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(backbone, learning_rate)
        if side not in SIDES:
            raise UserError(f"side: expected {', '.join(map(str, SIDES))} pixels, got {side}")
        for name, count in {"width": width, "latent": latent}.items():
            if count < 1:
                raise UserError(f"{name}: expected 1 or more, got {count}")
        if not autoencoder_learning_rate > 0:
            raise UserError(f"autoencoder_learning_rate: expected above 0, got {autoencoder_learning_rate}")
        self.class_token = class_token
        self.side = side
        self.width = width
        self.latent = latent
        self.autoencoder_learning_rate = autoencoder_learning_rate

    def build(self, info: DataInfo) -> None:
        """Makes the classifier, and the autoencoder, which `training_step` does not train.

        Raises:
            UserError: If the backbone is no vision transformer, or has no class token where one is asked for.
        """
        super().build(info)
        last_attention(self.classifier.backbone, class_token=self.class_token)
        self.autoencoder = PictureAutoencoder(self.picture_channels(info), self.side, self.width, self.latent)
        self.autoencoder.requires_grad_(False)

    def picture_channels(self, info: DataInfo) -> int:
        """Channels of what is reconstructed."""
        return 1

    def look(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], Picture]:
        """The logits of images in [0, 1], and the picture that is reconstructed: their heat maps'."""
        features, attention = features_and_attention(self.classifier.backbone, image)
        rows, columns = features.shape[-2:]
        heatmap = attention_heatmap(attention, (rows, columns), class_token=self.class_token)
        return self.classifier.head(features.mean((2, 3))), as_picture(heatmap, self.side)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the classifier, then the autoencoder on what the classifier makes of the training images."""
        super().learn(data, plan)
        self.eval()
        pictures = torch.cat(
            [self.look(batch["image"])[1] for batch in self.batches(data.train, plan, "heat maps")]
        )
        self.learn_to_reconstruct(pictures, plan)

    def learn_to_reconstruct(self, pictures: Picture, plan: TrainingPlan) -> None:
        """Trains the autoencoder for the plan's steps or epochs, in an order that follows from its seed."""
        batch_size = min(plan.batch_size, len(pictures))
        steps = plan.steps or (plan.epochs or 1) * math.ceil(len(pictures) / batch_size)
        generator = torch.Generator().manual_seed(plan.seed)
        rounds = math.ceil(steps * batch_size / len(pictures))
        order = torch.cat([torch.randperm(len(pictures), generator=generator) for _ in range(rounds)])
        self.autoencoder.requires_grad_(True).train()
        optimiser = torch.optim.Adam(self.autoencoder.parameters(), lr=self.autoencoder_learning_rate)
        batches = order.to(pictures.device).split(batch_size)[:steps]
        for rows in tqdm(batches, desc="autoencoder", disable=not plan.progress, leave=False):
            loss = reconstruction_error(self.autoencoder(pictures[rows]), pictures[rows]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.autoencoder.requires_grad_(False).eval()

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        logits, picture = self.look(image)
        score = reconstruction_error(self.autoencoder(picture), picture)
        return {"score": score, "label": logits.argmax(1)}


class PixelAutoencoderOOD(AttentionHeatmapOOD):
    """The same classifier, and the same autoencoder on the images themselves."""

    def picture_channels(self, info: DataInfo) -> int:
        """Channels of the images."""
        return info.channels

    def look(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], Picture]:
        """The logits of images in [0, 1], and the images, made square."""
        return self.classifier(image), _resized(image, self.side)


class SoftmaxOfTheSameClassifier(AttentionHeatmapOOD):
    """The same classifier, scored by its largest class probability."""

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        logits = self.classifier(image)
        return {"score": max_softmax_score(logits), "label": logits.argmax(1)}


@claim(
    text="Reconstructing attention heat maps tells unknown images better than reconstructing the images.",
    where="abstract",
    higher_is_better=True,
)
def heatmaps_beat_pixels(lab: Lab) -> Trial:
    """Same classifier, autoencoder and steps on heat maps and on images; handwritten digits, three of ten unknown."""
    return lab.duel(
        ours=AttentionHeatmapOOD,
        baseline=PixelAutoencoderOOD,
        data="digits?size=64",
        metric="auroc",
        steps=150,
        batch_size=16,
    )


@claim(
    text="Reconstructing a classifier's attention heat maps tells unknown images better than its softmax does.",
    where="abstract: effective on a standard benchmark, where softmax is the usual baseline",
    higher_is_better=True,
)
def heatmaps_beat_softmax(lab: Lab) -> Trial:
    """Two scores of the same classifier; handwritten digits, three of ten unknown."""
    return lab.duel(
        ours=AttentionHeatmapOOD,
        baseline=SoftmaxOfTheSameClassifier,
        data="digits?size=64",
        metric="auroc",
        steps=150,
        batch_size=16,
    )
