"""Reverse distillation: Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022,
arXiv:2201.10703.

A frozen pretrained encoder is the teacher. The student is a decoder that never sees the image: it gets a compact
embedding of the teacher's features and has to restore them, from the deepest scale to the shallowest. Trained on
normal images only, it restores normal features and no others. Where teacher and student disagree, there is a defect.

The equations and parts that the code follows:

- (1) `anomaly_map`: M_k(h, w) = 1 - cos(f_E^k(h, w), f_D^k(h, w)), the cosine taken over the channels of scale k.
- (2) `distillation_loss`: L = sum_k 1 / (H_k W_k) sum_{h, w} M_k(h, w).
- Section 3.2, `OneClassBottleneck`: multi-scale feature fusion (MFF) brings each scale to the deepest one's size by
  3x3 convolutions of stride 2 with batch normalisation and ReLU, concatenates, and mixes by a 1x1 convolution;
  one-class embedding (OCE) is the residual stage that comes next in the encoder.
- Section 3.1, `ReverseDecoder`: the encoder's residual stages in reverse, with 2x2 transposed convolutions of stride
  2 where the encoder has strided ones.
- Section 3.3, `accumulated_map`: the maps M_k, upsampled bilinearly, are summed; a Gaussian of sigma 4 smooths the
  sum, whose maximum is the score of the image.

What the authors' code (github.com/hq-deng/RD4AD) does otherwise, and what is done here:

- Its loss is not (2): it flattens each scale to one vector and takes one cosine an image, which weights positions by
  their magnitude. That is `flattened_loss`. Its issue 22 reports less accuracy from (2) (92.3 % image AUROC on
  carpet), and anomalib's ReverseDistillation trains with the flattened one as well, so the paper's published figures
  belong to it. It is the default; `flattened=False` trains with (2).
- Its MFF declares the 1x1 convolution but never applies it, and anomalib follows. Here it is applied, as the paper
  says; the paper leaves its width open, and the deepest level's makes OCE the encoder's next stage exactly.
- It upsamples maps with aligned corners. Here cells are squares of pixels, as everywhere in this library.

Differences from the paper: stages are made of basic residual blocks, `blocks` of them, whatever the teacher's are, so
that any backbone whose levels halve the resolution can teach. Where a side is odd, what is too large after a stride
loses its last row or column: strided convolutions keep the first cells over each other. The default backbone is the
embedded `pinakes/tiny_conv` with one block a stage; the paper's is `timm/wide_resnet50_2`. The paper trains for 200
epochs in batches of 16; the default is 300 steps, so that a first fit on a small CPU ends in minutes: for figures that
count, give `epochs` or `steps`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.maps import smoothed_map
from pinakes.papers.anomaly.base import Detector
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    (
        "(1)",
        r"M_k(h, w) = 1 - \frac{f_E^k(h, w)^{\top} f_D^k(h, w)}"
        r"{\lVert f_E^k(h, w) \rVert \, \lVert f_D^k(h, w) \rVert}",
    ),
    ("(2)", r"\mathcal{L} = \sum_{k=1}^{K} \frac{1}{H_k W_k} \sum_{h=1}^{H_k} \sum_{w=1}^{W_k} M_k(h, w)"),
    ("Section 3.3", r"S = G_{\sigma} * \sum_{k=1}^{K} \Psi(M_k), \qquad s = \max\limits_{h, w} S(h, w)"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

Levels = Sequence[Float[Tensor, "batch _width _h _w"]]
"""Feature maps of several scales, the finest first."""


def anomaly_map(
    teacher: Float[Tensor, "batch width h w"], student: Float[Tensor, "batch width h w"]
) -> Float[Tensor, "batch h w"]:
    """How much two feature maps of one scale disagree at each position: 0 where they point the same way, at most 2.

    Source: equation (1).
    """
    return 1 - functional.cosine_similarity(teacher, student, dim=1)


def distillation_loss(teacher: Levels, student: Levels) -> Float[Tensor, ""]:
    """The mean disagreement of each scale, summed over scales and averaged over the batch.

    Args:
        teacher: The encoder's feature maps.
        student: The decoder's, of the same shapes.

    Source: equation (2).

    Example:
        >>> levels = [torch.rand(2, 8, 4, 4), torch.rand(2, 16, 2, 2)]
        >>> abs(distillation_loss(levels, [3 * level for level in levels]).item()) < 1e-5
        True
    """
    return torch.stack([anomaly_map(t, s).mean() for t, s in zip(teacher, student, strict=True)]).sum()


def flattened_loss(teacher: Levels, student: Levels) -> Float[Tensor, ""]:
    """As `distillation_loss`, but with one cosine for each image and scale, over all channels and positions at once.

    Positions count by the product of their norms, where equation (2) counts all alike.

    Source: the authors' code, not the paper.
    """
    similarity = [
        functional.cosine_similarity(t.flatten(1), s.flatten(1)).mean()
        for t, s in zip(teacher, student, strict=True)
    ]
    return (1 - torch.stack(similarity)).sum()


def accumulated_map(
    teacher: Levels, student: Levels, size: tuple[int, int]
) -> Float[Tensor, "batch height width"]:
    """The sum over scales of the anomaly maps, each upsampled bilinearly to `size`.

    Source: section 3.3, before the Gaussian.
    """
    maps = [anomaly_map(t, s)[:, None] for t, s in zip(teacher, student, strict=True)]
    upsampled = [functional.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(upsampled, dim=1).sum(1)


class OneClassBottleneck(nn.Module):
    """OCBE: the teacher's levels, fused and compressed to one compact embedding.

    Args:
        widths: Channels of the levels, the finest first; each level has half the resolution of the one before.
        blocks: Residual blocks of the embedding stage.

    Source: section 3.2.

    Example:
        >>> bottleneck = OneClassBottleneck([8, 16, 32])
        >>> bottleneck([torch.rand(2, 8, 16, 12), torch.rand(2, 16, 8, 6), torch.rand(2, 32, 4, 3)]).shape
        torch.Size([2, 64, 2, 2])
    """

    def __init__(self, widths: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        deepest = widths[-1]
        self.reduce = nn.ModuleList(
            nn.Sequential(
                *(
                    nn.Sequential(conv3x3(before, after, stride=2), nn.BatchNorm2d(after), nn.ReLU())
                    for before, after in zip(widths[level:-1], widths[level + 1 :], strict=True)
                )
            )
            for level in range(len(widths))
        )
        self.fuse = nn.Sequential(conv1x1(deepest * len(widths), deepest), nn.BatchNorm2d(deepest), nn.ReLU())
        shortcut = nn.Sequential(conv1x1(deepest, 2 * deepest, stride=2), nn.BatchNorm2d(2 * deepest))
        self.embed = nn.Sequential(
            BasicBlock(deepest, 2 * deepest, stride=2, downsample=shortcut),
            *(BasicBlock(2 * deepest, 2 * deepest) for _ in range(blocks - 1)),
        )

    def forward(self, levels: Levels) -> Float[Tensor, "batch embedding rows columns"]:
        """The embedding, twice as wide as the deepest level and half its resolution, rounded up."""
        grid = tuple(levels[-1].shape[-2:])
        reduced = [_on_grid(reduce(level), grid) for reduce, level in zip(self.reduce, levels, strict=True)]
        embedding: Tensor = self.embed(self.fuse(torch.cat(reduced, dim=1)))
        return embedding


class ReverseDecoder(nn.Module):
    """The student: from the embedding back to the teacher's levels, the deepest first.

    Args:
        widths: Channels of the levels, the finest first.
        blocks: Residual blocks of each stage.

    Source: section 3.1.
    """

    def __init__(self, widths: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        deep_to_shallow = [2 * widths[-1], *reversed(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                _upsampling_block(before, after), *(BasicBlock(after, after) for _ in range(blocks - 1))
            )
            for before, after in pairwise(deep_to_shallow)
        )

    def forward(
        self, embedding: Float[Tensor, "batch embedding rows columns"], grids: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "batch _width _h _w"]]:
        """The student's levels, the finest first, on the `grids` (rows, columns) of the teacher's."""
        levels: list[Tensor] = []
        features = embedding
        for stage, grid in zip(self.stages, reversed(grids), strict=True):
            features = _on_grid(stage(features), grid)
            levels.insert(0, features)
        return levels


def _upsampling_block(inputs: int, outputs: int) -> BasicBlock:
    """The residual block that opens a stage of the encoder, its strided convolutions transposed."""

    def transposed() -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2, bias=False)

    block = BasicBlock(inputs, outputs, downsample=nn.Sequential(transposed(), nn.BatchNorm2d(outputs)))
    block.conv1 = transposed()
    return block


def _on_grid(
    features: Float[Tensor, "batch width _h _w"], grid: tuple[int, ...]
) -> Float[Tensor, "batch width _rows _columns"]:
    """Leaves out rows and columns beyond `grid`, and repeats the last ones where some are missing."""
    kept = features[..., : grid[0], : grid[1]]
    missing = (0, grid[1] - kept.shape[-1], 0, grid[0] - kept.shape[-2])
    return functional.pad(kept, missing, mode="replicate") if any(missing) else kept


class ReverseDistillation(Detector):
    """The detector of the paper: a frozen encoder, and a decoder that restores normal features only.

    Args:
        backbone: Name of the teacher, any network whose levels halve the resolution one after the other; the paper's
            is "timm/wide_resnet50_2".
        layers: Its feature levels, the finest first, two or more; 1, 2 and 3 are the paper's layer1 to layer3.
        blocks: Residual blocks of the embedding and of each stage of the decoder; a ResNet-18 has 2.
        learning_rate: Learning rate of Adam.
        betas: Decay rates of Adam's two moments.
        flattened: Whether to train with the loss of the authors' code, or with the paper's equation (2).
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    min_images = 2
    training_defaults = {"steps": 300, "batch_size": 16}

    def __init__(
        self,
        backbone: str = "pinakes/tiny_conv",
        layers: Sequence[int] = (1, 2, 3),
        blocks: int = 1,
        learning_rate: float = 0.005,
        betas: tuple[float, float] = (0.5, 0.999),
        flattened: bool = True,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        if len(layers) < 2:
            raise UserError(f"layers: expected two or more of the backbone's levels, got {tuple(layers)}")
        if blocks < 1:
            raise UserError(f"blocks: expected 1 or more, got {blocks}")
        if learning_rate <= 0:
            raise UserError(f"learning_rate: expected above 0, got {learning_rate}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas: expected two numbers from 0 to below 1, got {betas}")
        if sigma < 0:
            raise UserError(f"sigma: expected 0 or more pixels, got {sigma}")
        self.backbone_name = backbone
        self.layers = tuple(layers)
        self.blocks = blocks
        self.learning_rate = learning_rate
        self.betas = betas
        self.flattened = flattened
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the teacher, the bottleneck and the decoder.

        Raises:
            UserError: If the levels do not halve the resolution one after the other.
        """
        self.teacher = FeatureExtractor(self.backbone_name, self.layers, info.channels).freeze()
        strides = self.teacher.strides
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise UserError(
                f"backbone, layers: each level must have half the resolution of the one before, but levels "
                f"{', '.join(map(str, self.layers))} of {self.backbone_name} have strides "
                f"{', '.join(map(str, strides))}; name consecutive levels of a network like timm/resnet18"
            )
        self.bottleneck = OneClassBottleneck(self.teacher.widths, self.blocks)
        self.decoder = ReverseDecoder(self.teacher.widths, self.blocks)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[list[Float[Tensor, "batch _width _h _w"]], list[Float[Tensor, "batch _width _h _w"]]]:
        """The teacher's and the student's levels for images in [0, 1], the finest first."""
        with torch.no_grad():
            levels = self.teacher(image)
        return levels, self.decoder(self.bottleneck(levels), [tuple(level.shape[-2:]) for level in levels])

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the bottleneck and the decoder.

        Raises:
            UserError: If a batch would hold one value a channel, which batch normalisation cannot take.
        """
        if plan.batch_size == 1 and max(data.size) <= 2 * self.teacher.strides[-1]:
            raise UserError(
                f"batch_size: the embedding of {data.size[0]}x{data.size[1]} pixels is a single cell, too little for "
                f"batch normalisation over one image; give 2 or more, or a larger size"
            )
        super().learn(data, plan)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch of normal images."""
        return (flattened_loss if self.flattened else distillation_loss)(*self(batch["image"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the bottleneck and the decoder; the paper's settings by default."""
        trained = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam(trained, lr=self.learning_rate, betas=self.betas)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores pixels by the disagreement of teacher and student, and images by their worst pixel."""
        teacher, student = self(batch["image"])
        size = batch["image"].shape[-2:]
        smoothed = smoothed_map(accumulated_map(teacher, student, size), size, self.sigma)
        return {"score": smoothed.flatten(1).max(1).values, "map": smoothed}


class ForwardDistillation(ReverseDistillation):
    """A student of the teacher's own architecture that sees the image, and learns by the same loss."""

    def build(self, info: DataInfo) -> None:
        """Makes the teacher, and the student without its weights."""
        self.teacher = FeatureExtractor(self.backbone_name, self.layers, info.channels).freeze()
        self.student = FeatureExtractor(
            f"{self.backbone_name.partition('@')[0]}@random", self.layers, info.channels
        )

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[list[Float[Tensor, "batch _width _h _w"]], list[Float[Tensor, "batch _width _h _w"]]]:
        """The teacher's and the student's levels for images in [0, 1], the finest first."""
        with torch.no_grad():
            levels = self.teacher(image)
        return levels, self.student(image)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the student."""
        return torch.optim.Adam(self.student.parameters(), lr=self.learning_rate, betas=self.betas)


@claim(
    text="Distilling in reverse, from an embedding, locates defects better than a student that sees the image.",
    where="abstract, and the comparison with knowledge distillation in the experiments",
    higher_is_better=True,
)
def reverse_beats_forward_distillation(lab: Lab) -> Trial:
    """Same teacher, loss, optimiser and steps; each seed draws crops of one material and weights anew."""
    return lab.duel(
        ours=ReverseDistillation,
        baseline=ForwardDistillation,
        data="textures?size=64",
        metric="pixel_auroc",
        steps=150,
        batch_size=16,
    )
