"""The small networks that learn the labels, and how each is trained: a fixed number of steps, seeded."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BATCH = 32
RATE = 3e-3
WIDTHS = (16, 32, 64, 96)
Loss = Callable[..., Tensor]


def train(
    network: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    loss: Loss,
    steps: int,
    batch: int = BATCH,
) -> nn.Module:
    """Trains with AdamW, its rate rising and falling once, on samples drawn at random.

    Args:
        network: Takes a batch of each of `inputs`.
        inputs: Tensors with a leading dimension of samples.
        targets: The same for what the loss takes after the prediction.
        loss: From prediction and targets to a number.
        steps: Steps of the optimiser.
        batch: Samples a step.

    Returns:
        The network, in evaluation mode.
    """
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2))
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(inputs[0]), (batch,), generator=generator)
        optimizer.zero_grad()
        loss(network(*(each[chosen] for each in inputs)), *(each[chosen] for each in targets)).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, *inputs: Tensor, batch: int = 256) -> Tensor:
    """What the network says of all samples."""
    parts = zip(*(each.split(batch) for each in inputs), strict=True)
    return torch.cat([network(*part) for part in parts])


def block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class Encoder(nn.Sequential):
    """Feature maps at full, half, quarter and eighth resolution, each from the one before."""

    def __init__(self, channels: int = 3) -> None:
        stages = [block(channels, WIDTHS[0])]
        for before, width in pairwise(WIDTHS):
            stages.append(nn.Sequential(block(before, width, 2), block(width, width)))
        super().__init__(*stages)


class Pooled(nn.Module):
    """One answer a picture: the encoder, the means of 3 x 3 fields of its last map, and a linear layer.

    Args:
        outputs: Numbers in the answer.
        channels: Channels of the input, 6 for two pictures.
    """

    def __init__(self, outputs: int, channels: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(9 * WIDTHS[-1], outputs)
        )

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """The answers."""
        answer: Tensor = self.head(self.encoder(image))
        return answer


class Dense(nn.Module):
    """An answer for every pixel, or every cell of 4 x 4: the encoder, and back up with its maps joined on the way.

    Args:
        outputs: Channels of the answer.
        channels: Channels of the input.
        cells: Whether the answer is for cells.
    """

    def __init__(self, outputs: int, channels: int = 3, cells: bool = False) -> None:
        super().__init__()
        self.cells = cells
        self.encoder = Encoder(channels)
        finest = 2 if cells else 1
        levels = range(len(WIDTHS) - 2, finest - 1, -1)
        self.up = nn.ModuleList(block(WIDTHS[level] + WIDTHS[level + 1], WIDTHS[level]) for level in levels)
        self.head = nn.Conv2d(WIDTHS[finest], outputs, 1)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs h w"]:
        """The answers."""
        maps = [image]
        for stage in self.encoder:
            maps.append(stage(maps[-1]))
        found = maps.pop()
        for join in self.up:
            side = maps.pop()
            found = join(torch.cat([F.interpolate(found, side.shape[-2:]), side], 1))
        answer: Tensor = self.head(found)
        return answer if self.cells else F.interpolate(answer, image.shape[-2:], mode="bilinear")


class Matching(nn.Module):
    """A dense network that is also told how unlike the second picture is when it is shifted.

    Args:
        outputs: Channels of the answer.
        reach: Furthest shifts of the second picture, in pixels: left, right, up, down.
    """

    def __init__(self, outputs: int, reach: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.reach = reach
        left, right, up, down = reach
        self.dense = Dense(outputs, 6 + (left + right + 1) * (up + down + 1))

    def forward(
        self, image: Float[Tensor, "batch 6 height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """The answers."""
        left, right, up, down = self.reach
        first, second = image.chunk(2, 1)
        height, width = image.shape[-2:]
        around = F.pad(second, (right, left, down, up), mode="replicate")
        costs = [
            (first - around[..., y : y + height, x : x + width]).abs().mean(1)
            for y in range(up + down + 1)
            for x in range(left + right + 1)
        ]
        smooth = F.avg_pool2d(torch.stack(costs, 1), 3, 1, 1)
        answer: Tensor = self.dense(torch.cat([image, 5 * smooth], 1))
        return answer


class Words(nn.Module):
    """A picture and some words, each a vector of the same width.

    Args:
        vocabulary: Number of words.
        width: Width of the vectors.
    """

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.see = Pooled(width)
        self.read = nn.Sequential(nn.Linear(vocabulary, width), nn.ReLU(), nn.Linear(width, width))

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], words: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch 2 width"]:
        """The unit vectors of picture and words."""
        return F.normalize(torch.stack([self.see(image), self.read(words)], 1), dim=-1)


class Answering(nn.Module):
    """A picture and the words of a question: which words are seen, and which one is the answer.

    Every cell of the encoder's last map has a score for every word. The question attends to the cells where its own
    words are seen. A perceptron answers from the question, the scores of the whole picture, and features and scores
    at those cells; to its answers are added the scores and the question's words, each weighed by the question.

    Args:
        vocabulary: Number of words.
        width: Width of the vector of the question.
    """

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.see = nn.Conv2d(WIDTHS[-1], vocabulary, 1)
        self.read = nn.Linear(vocabulary, width)
        self.weigh = nn.Linear(vocabulary, 3)
        self.answer = nn.Sequential(
            nn.Linear(width + 3 * vocabulary + WIDTHS[-1], 128), nn.ReLU(), nn.Linear(128, vocabulary)
        )

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], words: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch 2 vocabulary"]:
        """Scores of each word as the answer, and as something that is seen anywhere."""
        found = self.encoder(image)
        scores, features = self.see(found).flatten(2), found.flatten(2)
        seen = scores.logsumexp(2)
        where = (words[:, None] @ scores).softmax(2).transpose(1, 2)
        feature, there = (features @ where)[..., 0], (scores @ where)[..., 0]
        answer = self.answer(torch.cat([self.read(words), seen, seen * words, feature, there], 1))
        direct = self.weigh(words)[:, None] @ torch.stack([seen, there, words], 1)
        return torch.stack([answer + direct[:, 0], seen], 1)


class RadianceField(nn.Module):
    """Colour along a ray: density and colour at points between near and far, from a small perceptron.

    Source: Mildenhall et al., NeRF, ECCV 2020 (arXiv:2003.08934), sections 3 to 5.1, without view dependence.
    """

    depth: Tensor
    length: Tensor
    waves: Tensor

    def __init__(self, points: int = 32, near: float = 3.0, far: float = 24.0, waves: int = 6) -> None:
        super().__init__()
        edges = 1 / torch.linspace(1 / near, 1 / far, points + 1)
        self.register_buffer("depth", (edges[1:] + edges[:-1]) / 2)
        self.register_buffer("length", edges.diff())
        self.register_buffer("waves", 0.5 * 2.0 ** torch.arange(waves))
        layers = [nn.Linear(3 + 6 * waves, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)]
        self.field = nn.Sequential(*layers)

    def forward(self, rays: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 3"]:
        """Colours of rays; a ray is its origin and its direction, of which one unit is one unit of depth."""
        origin, direction = rays[:, None].chunk(2, -1)
        points = origin + self.depth[:, None] * direction
        points = points / points.norm(dim=-1, keepdim=True).clamp_min(4) * 4
        angles = (points[..., None] * self.waves).flatten(-2)
        found = self.field(torch.cat([points, angles.sin(), angles.cos()], -1))
        opaque = 1 - (-F.softplus(found[..., 0] - 1) * self.length).exp()
        passed = torch.cumprod(1 - opaque + 1e-6, 1)
        weight = opaque * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
        return (weight[..., None] * found[..., 1:].sigmoid()).sum(1)
