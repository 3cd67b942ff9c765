r"""Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022, arXiv:2204.06986.

A good teacher of segmentation arranges the pixels of all images, not only those of one, by what they show. So the
student learns how similar a pixel is to the pixels of the other images of the batch, and to pixels and regions of many
earlier images, of which two memories keep the teacher's embeddings, the same number for every class.

What the code follows, with embeddings F of unit length, s the student, t the teacher, and the softmax over rows:

- Mini-batch pixel to pixel, `batch_divergence`: S_ij = F_i F_j^T for images i and j, and the mean over all pairs and
  all pixels of KL(softmax(S^t_ij / tau) || softmax(S^s_ij / tau)).
- Memory pixel to pixel, `memory_divergence`: p = F V^T / tau for embeddings V drawn from the memory of pixels, as many
  of each class, and T^2 times the mean over the labelled pixels of KL(softmax(p^t / T) || softmax(p^s / T)). The
  student's embeddings come from a projection head that is dropped after training.
- Memory pixel to region: the same with the memory of regions. A region is the mean embedding of the pixels of one
  class in one image.
- The whole: L = L_task + L_kd + alpha L_batch + beta L_memory_pixel + gamma L_memory_region, with the cross-entropy of
  the pixels and the divergence of their probabilities for the first two.

Settled by the authors' code (github.com/winycg/CIRKD): KL takes the teacher's distribution for the true one; alpha is
1, beta and gamma are 0.1, tau is 0.1 and T is 1; the head is two 1x1 convolutions without bias around normalisation and
ReLU; the memories take in a batch before they are drawn from; 16 pixels of each class of each image enter.

Differences from the authors' code: memories are a tenth and draws an eighth as large, for small images. Embeddings are
pooled 2x2 for the mini-batch term, because a batch of 16 on one device has 256 pairs of images; the code has 4 on each
device, and pools large maps only. Maps of unequal size are averaged down to the smaller. Memories start empty, not with
noise, and are rings. Pixels that enter under a class are drawn from the pixels of that class; the code draws their
places from a count of those pixels but looks them up among all pixels of the image. Each class is drawn from on its
own, not in the same places as the others. On several devices the memories take in the batches of the first, not of all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import distillation_divergence, in_smaller_size
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.segmenters import (
    PixelKD,
    SegmentationDistiller,
    Segmenter,
    pixel_cross_entropy,
    pixel_divergence,
    rows_of,
)

EQUATIONS = (
    (
        "Mini-batch pixel to pixel",
        r"S_{ij} = F_i F_j^\top, \quad L_{batch} = \frac{1}{N^2} \sum_{i,j} \frac{1}{A} \sum_a "
        r"\mathrm{KL}(\sigma(S^t_{ij,a} / \tau) \,\|\, \sigma(S^s_{ij,a} / \tau))",
    ),
    (
        "Memory pixel to pixel",
        r"L_{memory} = \frac{T^2}{A} \sum_a \mathrm{KL}(\sigma(p^t_a / T) \,\|\, \sigma(p^s_a / T)), \quad "
        r"p_a = F_a V^\top / \tau",
    ),
    (
        "The whole",
        r"L = L_{task} + L_{kd} + \alpha L_{batch} + \beta L_{memory}^{pixel} + \gamma L_{memory}^{region}",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

CLAIM_DATA = "scenes:segmentation?size=64&n=400"
CLAIM_STEPS = 250

PIXELS_PER_REGION = 16
"""How many pixels of each class of each image enter the memory in a step, at most."""


def batch_divergence(
    student: Float[Tensor, "batch features rows columns"],
    teacher: Float[Tensor, "batch _features rows columns"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """How differently student and teacher relate the pixels of every pair of images, an image and itself included.

    Args:
        student: Its embeddings, of any length.
        teacher: Its embeddings, whose number of features may be another.
        temperature: tau, above 0.

    Returns:
        The divergence of a pixel's similarities with the pixels of one image, the mean over pixels and images.

    Source: mini-batch-based pixel-to-pixel distillation.

    Example:
        >>> embeddings = torch.rand(2, 8, 4, 4)
        >>> bool(batch_divergence(embeddings, 3 * embeddings) < 1e-6)
        True
    """
    pixels = student.shape[-2:].numel()
    said, told = (_similarities(maps).reshape(-1, pixels) / temperature for maps in (student, teacher))
    return distillation_divergence(said, told, 1.0)


def _similarities(maps: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "pixels pixels"]:
    """The cosine between every two pixels of a batch."""
    embeddings = functional.normalize(rows_of(maps), dim=1)
    return embeddings @ embeddings.T


def memory_divergence(
    student: Float[Tensor, "pixels features"],
    teacher: Float[Tensor, "pixels features"],
    memory: Float[Tensor, "remembered features"],
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """How differently student and teacher relate pixels to what is remembered, the mean over the pixels.

    Args:
        student: Its embeddings, projected to the teacher's space, of unit length.
        teacher: Its embeddings, of unit length.
        memory: Embeddings of pixels or regions by the teacher, of unit length.
        temperature: tau, by which similarities are divided.
        kd_temperature: T, by which the distributions are softened once more.

    Source: memory-based pixel-to-pixel and pixel-to-region distillation.
    """
    said, told = (pixels @ memory.T / temperature for pixels in (student, teacher))
    return distillation_divergence(said, told, kd_temperature)


def place_in_group(group: Int[Tensor, " members"]) -> Int[Tensor, " members"]:
    """For each member, how many of its group come before it.

    Example:
        >>> place_in_group(torch.tensor([3, 5, 3, 3, 5]))
        tensor([0, 0, 1, 2, 1])
    """
    ordered, order = group.sort(stable=True)
    place = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).scatter_(0, order, place)


def regions(
    embedding: Float[Tensor, "batch features rows columns"],
    semantic: Int[Tensor, "batch rows columns"],
    classes: int,
) -> tuple[Float[Tensor, "regions features"], Int[Tensor, " regions"]]:
    """The mean embedding of the pixels of each class in each image, of unit length, and its class.

    Args:
        embedding: Of unit length at each pixel.
        semantic: The class of each pixel, -1 where it has none.
        classes: Number of classes.
    """
    member = functional.one_hot(semantic + 1, classes + 1)[..., 1:].flatten(1, 2).to(embedding.dtype)
    sums = torch.einsum("bpc,bfp->bcf", member, embedding.flatten(2))
    image, label = member.any(1).nonzero(as_tuple=True)
    return functional.normalize(sums[image, label], dim=1), label


def some_pixels(
    embedding: Float[Tensor, "batch features rows columns"],
    semantic: Int[Tensor, "batch rows columns"],
    classes: int,
    most: int,
) -> tuple[Float[Tensor, "chosen features"], Int[Tensor, " chosen"]]:
    """The embeddings of at most so many pixels of each class in each image, drawn at random, and their classes.

    Args:
        embedding: At each pixel.
        semantic: The class of each pixel, -1 where it has none.
        classes: Number of classes.
        most: How many of a class in an image.
    """
    image, row, column = (semantic >= 0).nonzero(as_tuple=True)
    shuffled = torch.randperm(len(image), device=image.device)
    image, row, column = image[shuffled], row[shuffled], column[shuffled]
    label = semantic[image, row, column]
    chosen = place_in_group(image * classes + label) < most
    return embedding[image[chosen], :, row[chosen], column[chosen]], label[chosen]


class ClassMemory(nn.Module):
    """The latest embeddings of each class: a ring for each.

    Args:
        classes: Number of classes.
        size: How many embeddings of each class are kept.
        features: Their width.
    """

    kept: Tensor
    seen: Tensor

    def __init__(self, classes: int, size: int, features: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(classes, size, features))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def add(self, embeddings: Float[Tensor, "new features"], label: Int[Tensor, " new"]) -> None:
        """Keeps embeddings, in their order, in place of the oldest of their class."""
        classes, size, _ = self.kept.shape
        count = functional.one_hot(label, classes).sum(0)
        place = place_in_group(label)
        last = place >= count[label] - size
        label, place = label[last], place[last]
        self.kept[label, (self.seen[label] + place) % size] = embeddings[last].to(self.kept.dtype)
        self.seen += count

    def draw(self, count: int) -> Float[Tensor, "drawn features"]:
        """At most `count` embeddings of each class, all different, at random from those that are kept."""
        classes, size, _ = self.kept.shape
        filled = torch.arange(size, device=self.seen.device) < self.seen[:, None]
        chance = torch.rand(classes, size, device=self.seen.device).masked_fill(~filled, -1.0)
        best, place = chance.topk(min(count, size), dim=1)
        label, rank = (best >= 0).nonzero(as_tuple=True)
        return self.kept[label, place[label, rank]]


class Relations(nn.Module):
    """What training needs besides the student: the projection head and the two memories.

    Args:
        student: Width of the student's embedding.
        teacher: Width of the teacher's.
        classes: Number of classes.
        pixels: Pixels of each class that are kept.
        regions: Regions of each class that are kept.
    """

    def __init__(self, student: int, teacher: int, classes: int, pixels: int, regions: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.BatchNorm2d(teacher),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.pixels = ClassMemory(classes, pixels, teacher)
        self.regions = ClassMemory(classes, regions, teacher)


class CIRKD(SegmentationDistiller):
    """A student of segmentation that learns how the teacher relates the pixels of different images.

    Args:
        alpha: Weight of the relations within the mini-batch.
        beta: Weight of those to remembered pixels.
        gamma: Weight of those to remembered regions.
        kd_temperature: Temperature of the probabilities in L_kd.
        contrast_temperature: tau, by which all similarities are divided.
        contrast_kd_temperature: T of the relations to what is remembered.
        pixel_memory_size: Pixels of each class that are remembered.
        region_memory_size: Regions of each class that are remembered.
        pixel_contrast_size: Remembered pixels that a step compares with, all classes together.
        region_contrast_size: Remembered regions that a step compares with, all classes together.
        pooling: Side of the squares of pixels whose mean embeddings are compared in the mini-batch; 1 for none.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.1,
        gamma: float = 0.1,
        kd_temperature: float = 1.0,
        contrast_temperature: float = 0.1,
        contrast_kd_temperature: float = 1.0,
        pixel_memory_size: int = 2000,
        region_memory_size: int = 200,
        pixel_contrast_size: int = 512,
        region_contrast_size: int = 128,
        pooling: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if value < 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        for name, value in (
            ("kd_temperature", kd_temperature),
            ("contrast_temperature", contrast_temperature),
            ("contrast_kd_temperature", contrast_kd_temperature),
        ):
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        for name, value in (
            ("pixel_memory_size", pixel_memory_size),
            ("region_memory_size", region_memory_size),
            ("pixel_contrast_size", pixel_contrast_size),
            ("region_contrast_size", region_contrast_size),
            ("pooling", pooling),
        ):
            if value < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.kd_temperature = kd_temperature
        self.contrast_temperature = contrast_temperature
        self.contrast_kd_temperature = contrast_kd_temperature
        self.memory_sizes = pixel_memory_size, region_memory_size
        self.contrast_sizes = pixel_contrast_size, region_contrast_size
        self.pooling = pooling

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """The projection head and the memories."""
        return Relations(student[-1], teacher[-1], len(self.classes), *self.memory_sizes)

    def loss(
        self, student: Answer, teacher: Answer, label: Int[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        """The sum of all five terms; what the teacher says of the batch enters the memories."""
        said, told, semantic = _on_one_map(student.levels[-1], teacher.levels[-1], label)
        pooled = [functional.avg_pool2d(maps, self.pooling, ceil_mode=True) for maps in (said, told)]
        to_pixels, to_regions = self.to_memories(said, told, semantic)
        return (
            pixel_cross_entropy(student.logits, label)
            + pixel_divergence(student.logits, teacher.logits, self.kd_temperature)
            + self.alpha * batch_divergence(pooled[0], pooled[1], self.contrast_temperature)
            + self.beta * to_pixels
            + self.gamma * to_regions
        )

    def to_memories(
        self,
        student: Float[Tensor, "batch features rows columns"],
        teacher: Float[Tensor, "batch _features rows columns"],
        semantic: Int[Tensor, "batch rows columns"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The divergences of the relations to remembered pixels and to remembered regions, 0 without labelled pixels.

        Args:
            student: Its embeddings.
            teacher: Its embeddings, which enter the memories first.
            semantic: The class of each pixel, -1 where it has none.
        """
        relations = self.helping
        assert isinstance(relations, Relations)
        said = functional.normalize(relations.project(student), dim=1)
        told = functional.normalize(teacher, dim=1)
        known = semantic.flatten() >= 0
        if not known.any():
            return said.new_zeros(()), said.new_zeros(())
        classes = len(self.classes)
        relations.pixels.add(*some_pixels(told, semantic, classes, PIXELS_PER_REGION))
        relations.regions.add(*regions(told, semantic, classes))
        anchors = rows_of(said)[known], rows_of(told)[known]
        to_pixels, to_regions = (
            memory_divergence(
                *anchors,
                memory.draw(count // classes + 1),
                self.contrast_temperature,
                self.contrast_kd_temperature,
            )
            for memory, count in zip((relations.pixels, relations.regions), self.contrast_sizes, strict=True)
        )
        return to_pixels, to_regions


def _on_one_map(
    student: Float[Tensor, "batch features _rows _columns"],
    teacher: Float[Tensor, "batch _features _rows2 _columns2"],
    semantic: Int[Tensor, "batch height width"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Both embeddings averaged down to the smaller of their maps, and the class in the middle of each of its pixels."""
    said, told = in_smaller_size(student, teacher)
    classes = functional.interpolate(semantic[:, None].to(said.dtype), said.shape[-2:], mode="nearest-exact")
    return said, told, classes[:, 0].to(semantic.dtype)


@claim(
    text="A student of segmentation taught by CIRKD reaches a higher mIoU than one that learns the labels alone.",
    where="abstract and the tables of results on Cityscapes, CamVid and Pascal VOC",
    higher_is_better=True,
)
def cirkd_beats_labels_alone(lab: Lab) -> Trial:
    """Made scenes with twelve classes of pixels, a twelfth as many parameters in the student as in the teacher."""
    return lab.duel(ours=CIRKD, baseline=Segmenter, data=CLAIM_DATA, metric="miou", steps=CLAIM_STEPS)


@claim(
    text="A student of segmentation taught by CIRKD reaches a higher mIoU than one taught by the teacher's "
    "probabilities at every pixel.",
    where="the tables of results on Cityscapes, CamVid and Pascal VOC, and the ablation of the loss terms",
    higher_is_better=True,
)
def cirkd_beats_pixelwise_distillation(lab: Lab) -> Trial:
    """As above; what is left out on the other side are the three terms of relations."""
    return lab.duel(ours=CIRKD, baseline=PixelKD, data=CLAIM_DATA, metric="miou", steps=CLAIM_STEPS)
