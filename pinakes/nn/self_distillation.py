"""Self-distillation: a student foretells what its own moving average, the teacher, says of other views of an image or
of patches that are hidden from the student.

The pieces are a transformer that takes images of several sizes, a head with prototypes, what makes targets of the
teacher's logits, which patches to hide, and losses; none of them needs the others:

    targets = centre(teacher_logits, temperature=0.04)
    loss = view_cross_entropy(student_logits, targets)
    centre.update(teacher_logits)

All losses are means over images, or look at the images of all processes, so that processes that share their gradients
take the step of one with the joint batch.

Sources: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv:2104.14294); Zhou et
al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022 (arXiv:2111.07832); Oquab et al., DINOv2: Learning
Robust Visual Features without Supervision, TMLR 2024 (arXiv:2304.07193).
"""

import math
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.gathering import gathered, rank, summed
from pinakes.nn.masked_autoencoder import HEAD_WIDTH, initialise, normalised

SLANT = 0.3
"""Least height of a block over its width, and least width over its height."""
BLOCKS = 16
"""How many blocks are tried for each image."""


class ViewTransformer(nn.Module):
    """A vision transformer whose positions are interpolated to the size of the image.

    timm's VisionTransformer with learnt positions, a class token and a last normalisation. Linear layers start with
    Xavier's numbers, which go by their width: those of deviation 0.02, as wide networks have them, make a narrow one
    say nearly the same of all images, and it may collapse before it learns.

    Args:
        size: Height and width in pixels for which positions are learnt, multiples of `patch`.
        patch: Side of a patch in pixels.
        channels: Of the images.
        width: Of the tokens, a multiple of 32; a head of attention for each 32.
        depth: Number of blocks.

    Raises:
        ValueError: If the size is no multiple of the patch, or the width none of 32.

    Example:
        >>> encoder = ViewTransformer((32, 32), patch=4, width=32, depth=2)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder(torch.rand(2, 3, 16, 16)).shape
        (torch.Size([2, 65, 32]), torch.Size([2, 17, 32]))
    """

    def __init__(
        self, size: tuple[int, int], patch: int = 4, channels: int = 3, width: int = 96, depth: int = 6
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"size: {size[0]}x{size[1]} is no multiple of the patch, {patch}")
        if width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ValueError(f"width: expected a multiple of {HEAD_WIDTH}, got {width}")
        self.patch, self.width, self.depth = patch, width, depth
        network: Any = VisionTransformer(
            img_size=size,
            patch_size=patch,
            in_chans=channels,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=width // HEAD_WIDTH,
            dynamic_img_size=True,
        )
        initialise(network)
        nn.init.trunc_normal_(network.cls_token, std=0.02)
        self.network: Any = network

    def embedded(
        self,
        image: Float[Tensor, "batch channels height width"],
        hidden: Bool[Tensor, "batch patches"] | None = None,
        mask_token: Float[Tensor, " _width"] | None = None,
    ) -> Float[Tensor, "batch tokens _width"]:
        """What enters the first block, the class token first; a mask token stands for hidden patches."""
        patches = self.network.patch_embed(normalised(image))
        if hidden is not None:
            assert mask_token is not None, "something must stand for hidden patches"
            rows, columns = patches.shape[1:3]
            where = rearrange(hidden, "b (h w) -> b h w 1", h=rows, w=columns)
            patches = torch.where(where, mask_token, patches)
        tokens: Tensor = self.network._pos_embed(patches)
        return tokens

    def after(
        self, image: Float[Tensor, "batch channels height width"], blocks: list[int]
    ) -> list[Float[Tensor, "batch tokens _width"]]:
        """The tokens after some of the blocks, each from 1 to the depth, normalised as the last ones are."""
        tokens = self.embedded(image)
        found = {}
        for count, block in enumerate(self.network.blocks[: max(blocks)], start=1):
            tokens = block(tokens)
            if count in blocks:
                found[count] = self.network.norm(tokens)
        return [found[count] for count in blocks]

    def maps(
        self, tokens: Float[Tensor, "batch tokens width"], height: int
    ) -> Float[Tensor, "batch width rows columns"]:
        """Tokens of images of so many pixels in height as a feature map, without the class token."""
        return rearrange(tokens[:, 1:], "b (h w) c -> b c h w", h=height // self.patch)

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        hidden: Bool[Tensor, "batch patches"] | None = None,
        mask_token: Float[Tensor, " _width"] | None = None,
    ) -> Float[Tensor, "batch tokens _width"]:
        """The tokens after the last normalisation, the class token first.

        Args:
            image: Images in [0, 1] whose sides are multiples of the patch.
            hidden: Which patches are hidden; None for none.
            mask_token: What stands for them.
        """
        tokens: Tensor = self.network.norm(self.network.blocks(self.embedded(image, hidden, mask_token)))
        return tokens


class PrototypeHead(nn.Module):
    """Three linear layers with GELU between them, then the cosine to each of many prototypes.

    Args:
        inputs: Width of what it is given.
        hidden: Width of its hidden layers.
        bottleneck: Width of the last layer, whose output is brought to length 1.
        prototypes: How many there are; of length 1 too.

    Source: Caron et al., as above, section 3.1, "Network architecture", and appendix C, with the last layer normalised.
    """

    def __init__(self, inputs: int, hidden: int = 256, bottleneck: int = 64, prototypes: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.prototypes, std=bottleneck**-0.5)

    def forward(self, tokens: Float[Tensor, "*batch _width"]) -> Float[Tensor, "*batch _prototypes"]:
        """Cosines, -1 to 1, to be divided by a temperature."""
        short = functional.normalize(self.layers(tokens), dim=-1)
        return functional.linear(short, functional.normalize(self.prototypes, dim=-1))


class Centre(nn.Module):
    """The running mean of a teacher's logits, which is taken off them, so that no prototype gets everything.

    Args:
        prototypes: How many logits there are.
        momentum: The share of the old mean that is kept, 0 to 1.

    Source: Caron et al., as above, section 3.1, "Avoiding collapse", equation 4, over all processes.

    Example:
        >>> centre = Centre(2, momentum=0.9)
        >>> centre.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> centre.value
        tensor([0.2000, 0.0000])
    """

    value: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))

    def forward(
        self, logits: Float[Tensor, "*batch prototypes"], temperature: float
    ) -> Float[Tensor, "*batch prototypes"]:
        """Centred and sharpened: softmax of (logits - mean) / temperature, without gradients."""
        return ((logits.detach() - self.value) / temperature).softmax(-1)

    @torch.no_grad()
    def update(self, logits: Float[Tensor, "*batch prototypes"]) -> None:
        """Moves the mean towards that of these logits, of all processes; without any it stays."""
        rows = logits.flatten(0, -2).float()
        count = summed(self.value.new_tensor(float(len(rows))))
        mean = summed(rows.sum(0)) / count.clamp(min=1)
        self.value.copy_(torch.where(count > 0, self.value.lerp(mean, 1 - self.momentum), self.value))


def view_cross_entropy(
    student: Float[Tensor, "views batch prototypes"],
    targets: Float[Tensor, "known_views batch prototypes"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """The cross-entropy of what a student says of each view and what the teacher says of each other one.

    Args:
        student: Logits, for all views of each image; the first views are those of the teacher, in the same order.
        targets: The teacher's distributions, without gradients.
        temperature: What the student's logits are divided by, above 0.

    Returns:
        The mean over pairs of different views and over images.

    Raises:
        ValueError: If there is no pair.

    Source: Caron et al., as above, equation 3, and algorithm 1.
    """
    agreement = torch.einsum("tbk,sbk->ts", targets, (student / temperature).log_softmax(-1))
    pairs = agreement.numel() - min(agreement.shape)
    if not pairs:
        raise ValueError("student: expected at least two views, got one")
    # the diagonal holds pairs of the same view
    return (agreement.diagonal().sum() - agreement.sum()) / (pairs * student.shape[1])


def patch_cross_entropy(
    student: Float[Tensor, "hidden_patches prototypes"],
    targets: Float[Tensor, "hidden_patches prototypes"],
    hidden: Bool[Tensor, "batch patches"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """The cross-entropy of what a student says of hidden patches and what the teacher says, who sees them.

    Args:
        student: Logits of the hidden patches of all images, in the order of `hidden`.
        targets: The teacher's distributions, without gradients.
        hidden: Which patches are hidden.
        temperature: What the student's logits are divided by, above 0.

    Returns:
        The mean over the hidden patches of each image, averaged over images; 0 for those without any.

    Source: Zhou et al., as above, section 3.1; the average of each image as in github.com/bytedance/ibot.
    """
    entropy = -(targets * (student / temperature).log_softmax(-1)).sum(-1)
    share = 1 / hidden.sum(1, keepdim=True).clamp(min=1)
    return (entropy * share.expand(hidden.shape)[hidden]).sum() / len(hidden)


def koleo_loss(features: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Draws features apart: minus the log of the distance of each to the nearest other one, on the sphere, averaged.

    The nearest is sought among those of all processes.

    Args:
        features: Of two or more images in all processes together.

    Raises:
        ValueError: If there is only one.

    Source: Sablayrolles et al., Spreading vectors for similarity search, ICLR 2019 (arXiv:1806.03198), equation 2; used
        so by Oquab et al., as above, section 4; the small number as in github.com/facebookresearch/dinov2.

    Example:
        >>> round(koleo_loss(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item(), 4)
        -0.6931
    """
    own = functional.normalize(features.float(), dim=1, eps=1e-8)
    every = gathered(own)
    if len(every) < 2:
        raise ValueError("features: expected those of two images or more, got one")
    with torch.no_grad():
        itself = rank() * len(own) + torch.arange(len(own), device=own.device)
        nearest = (own @ every.T).scatter(1, itself[:, None], -torch.inf).argmax(1)
    return -(functional.pairwise_distance(own, every[nearest], eps=1e-8) + 1e-8).log().mean()


@torch.no_grad()
def random_patches(counts: Int[Tensor, " images"], patches: int) -> Bool[Tensor, "images patches"]:
    """Hides a number of patches of each image, scattered at random.

    Args:
        counts: How many patches of each image are hidden.
        patches: How many it has.
    """
    noise = torch.rand(len(counts), patches, device=counts.device)
    return noise.argsort(1).argsort(1) < counts[:, None]


@torch.no_grad()
def blocks_of_patches(
    counts: Int[Tensor, " images"], grid: tuple[int, int]
) -> Bool[Tensor, "images patches"]:
    """Hides about a number of patches of each image, in rectangles of random size, proportions and place.

    A rectangle is left out that would hide nothing new or too much; so an image may have a few hidden patches less than
    it was to have, and never more.

    Args:
        counts: How many patches of each image are hidden.
        grid: Rows and columns of patches.

    Source: Bao et al., BEiT: BERT Pre-Training of Image Transformers, ICLR 2022 (arXiv:2106.08254), algorithm 1, with
        the smallest rectangle of github.com/bytedance/ibot; all images at a time.

    Example:
        >>> hidden = blocks_of_patches(torch.tensor([0, 20]), (8, 8))
        >>> hidden.shape, hidden[0].any().item(), hidden[1].sum().item() <= 20
        (torch.Size([2, 64]), False, True)
    """
    rows, columns = grid
    draws = torch.rand(len(counts), BLOCKS, 4, device=counts.device)
    hidden = torch.zeros(len(counts), rows, columns, dtype=torch.bool, device=counts.device)
    down = torch.arange(rows, device=counts.device)[None, :, None]
    right = torch.arange(columns, device=counts.device)[None, None, :]
    least = (min(grid) // 3) ** 2
    for area, slant, below, beside in (draw.unbind(1) for draw in draws.unbind(1)):
        left = counts - hidden.sum((1, 2))
        area = least + (left - least) * area
        slant = (math.log(SLANT) * (1 - 2 * slant)).exp()
        tall, wide = (area * slant).sqrt().round(), (area / slant).sqrt().round()
        top = (below * (rows - tall + 1)).floor()[:, None, None]
        start = (beside * (columns - wide + 1)).floor()[:, None, None]
        inside = (down >= top) & (down < top + tall[:, None, None])
        inside = inside & (right >= start) & (right < start + wide[:, None, None])
        new = (inside & ~hidden).sum((1, 2))
        fits = (tall < rows) & (wide < columns) & (new > 0) & (new <= left)
        hidden |= inside & fits[:, None, None]
    return hidden.flatten(1)
