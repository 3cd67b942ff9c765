"""Heads for tasks of one view and of two: depth, optical flow, relative pose; and how all of a network is trained."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from pinakes.engine.schedules import rise_and_fall
from pinakes.nn.masked_autoencoder import MaskedEncoder, unpatchify


class DenseHead(nn.Module):
    """Numbers for every pixel from the token of its patch: depth, or optical flow.

    Args:
        width: Of the tokens.
        size: Height and width of the images in pixels, multiples of `patch`.
        patch: Side of a patch in pixels.
        outputs: Numbers for a pixel: 1 for depth, 2 for flow.

    Example:
        >>> DenseHead(32, (16, 24), patch=4, outputs=2)(torch.rand(5, 24, 32)).shape
        torch.Size([5, 2, 16, 24])
    """

    def __init__(self, width: int, size: tuple[int, int], patch: int, outputs: int) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        self.linear = nn.Linear(width, patch**2 * outputs)

    def forward(
        self, tokens: Float[Tensor, "batch patches width"]
    ) -> Float[Tensor, "batch outputs height columns"]:
        """The numbers of all pixels."""
        return unpatchify(self.linear(tokens), self.patch, self.size)


class PoseHead(nn.Module):
    """How two cameras lie to each other, from the mean of the tokens; at first without turn or move.

    Args:
        width: Of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 9)
        nn.init.normal_(self.linear.weight, std=0.01)
        with torch.no_grad():
            self.linear.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))

    def forward(self, tokens: Float[Tensor, "batch patches width"]) -> Float[Tensor, "batch 4 4"]:
        """The transformation that takes points from the first camera's frame to the second's."""
        numbers = self.linear(tokens.mean(1))
        pose = torch.eye(4, device=tokens.device, dtype=tokens.dtype).repeat(len(tokens), 1, 1)
        pose[:, :3, :3] = rotation_from(numbers[:, :6])
        pose[:, :3, 3] = numbers[:, 6:]
        return pose


def rotation_from(six: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 3 3"]:
    """Rotations from two vectors each, made orthonormal one after the other: their first two columns.

    Source: Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019 (arXiv:1812.07035).

    Example:
        >>> rotation_from(torch.tensor([[2.0, 0, 0, 1, 3, 0]]))
        tensor([[[1., 0., 0.],
                 [0., 1., 0.],
                 [0., 0., 1.]]])
    """
    first = functional.normalize(six[:, :3], dim=1)
    second = functional.normalize(six[:, 3:] - (first * six[:, 3:]).sum(1, keepdim=True) * first, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def pose_loss(found: Float[Tensor, "batch 4 4"], true: Float[Tensor, "batch 4 4"]) -> Float[Tensor, ""]:
    """The mean over pairs of |R^ - R|^2 + |t^ - t|^2."""
    return (found - true)[:, :3].square().sum((1, 2)).mean()


def turn_error(
    found: Float[Tensor, "batch 4 4"], true: Float[Tensor, "batch 4 4"]
) -> Float[Tensor, " batch"]:
    """Degrees between the rotations of poses.

    Example:
        >>> turn_error(torch.eye(4)[None], torch.diag(torch.tensor([-1.0, -1, 1, 1]))[None])
        tensor([180.])
    """
    trace = (found[:, :3, :3] * true[:, :3, :3]).sum((1, 2))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())


class Monocular(nn.Module):
    """An encoder with a head, for tasks of one image.

    Args:
        encoder: Pre-trained or not.
        norm: Normalises its tokens.
        head: From its patches' tokens to the answer.
    """

    def __init__(self, encoder: MaskedEncoder, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.norm, self.head = encoder, norm, head

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        """What the head answers."""
        answer: Tensor = self.head(self.norm(self.encoder(image)[:, 1:]))
        return answer


class Binocular(nn.Module):
    """Encoder and decoder with a head, for tasks of two images, neither of which is masked.

    Args:
        encoder: Pre-trained or not.
        decoder: From what the encoder says of two images to tokens of the first one's patches.
        head: From the tokens of the first view's patches to the answer.
    """

    def __init__(self, encoder: MaskedEncoder, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        image_2: Float[Tensor, "batch channels height width"],
    ) -> Tensor:
        """What the head answers."""
        first, second = self.encoder(torch.cat([image, image_2])).chunk(2)
        answer: Tensor = self.head(self.decoder(first, second))
        return answer


def fine_tune(
    network: nn.Module,
    loss: Callable[[Mapping[str, Tensor]], Float[Tensor, ""]],
    samples: Mapping[str, Tensor],
    steps: int = 200,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> None:
    """Trains all of a network, in place, with AdamW and a learning rate that rises and falls.

    Args:
        network: What is trained.
        loss: The loss of a batch, which asks the network.
        samples: Fields of labelled samples, each (samples, ...); a batch has the same fields.
        steps: How many steps.
        batch_size: Samples of a step, drawn with replacement.
        learning_rate: At its height.
        weight_decay: Of AdamW.
        seed: Of the order of samples.

    Example:
        >>> line = nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 50)[:, None]
        >>> samples = {"x": x, "y": 2 * x}
        >>> fine_tune(line, lambda some: (line(some["x"]) - some["y"]).square().mean(), samples, learning_rate=0.1)
        >>> bool((line(x) - 2 * x).abs().max() < 0.1)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(next(iter(samples.values())))
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
    course = LambdaLR(optimiser, lambda step: rise_and_fall(step / steps))
    network.train()
    for _ in range(steps):
        rows = torch.randint(count, (batch_size,), generator=generator)
        optimiser.zero_grad()
        loss({name: each[rows.to(each.device)] for name, each in samples.items()}).backward()
        optimiser.step()
        course.step()
    network.eval()
