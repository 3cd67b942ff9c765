"""A U-Net for images with noise, told how strong the noise is, and of which class the image is if that is known."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.gaussian_diffusion import step_embedding

GROUPS = 8
"""Groups of channels that are normalised together."""
ATTENTIVE = 1
"""The level with self-attention, 0 the finest."""


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is led past; between them t is added. Then, if wanted, self-attention.

    Args:
        inputs: Channels of the input.
        width: Channels of the output.
        told: Width of what tells t.
        attentive: Whether pixels attend to each other behind it.
        dropout: Share of the values that are left out before the second convolution.
    """

    def __init__(self, inputs: int, width: int, told: int, attentive: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, width, 3, padding=1)
        )
        self.step = nn.Sequential(nn.SiLU(), nn.Linear(told, width))
        self.second = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, padding=1)
        )
        self.past = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attention = SelfAttention(width) if attentive else nn.Identity()

    def forward(
        self, maps: Float[Tensor, "batch inputs height width"], told: Float[Tensor, "batch told"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """Maps of the same size."""
        inner = self.second(self.first(maps) + self.step(told)[:, :, None, None])
        answer: Tensor = self.attention(inner + self.past(maps))
        return answer


class SelfAttention(nn.Module):
    """Attention, with one head, of all pixels to all pixels; added to the input.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Maps of the same size."""
        parts = self.ask(self.norm(maps)).flatten(2).mT.chunk(3, dim=2)
        answered = functional.scaled_dot_product_attention(*parts).mT.unflatten(2, maps.shape[2:])
        changed: Tensor = maps + self.project(answered)
        return changed


class UNet(nn.Module):
    """A network that tells the noise in images of any size, given its strength.

    The decoder has, at each level, one block more than the encoder. Its blocks are numbered from 1, the coarsest first.

    Args:
        channels: Of the images.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder.
        dropout: Share of the values that are left out inside blocks.
        classes: How many classes it can be told of; 0 for none.
        outputs: Channels of the answer; by default those of the images.

    Example:
        >>> network = UNet(3, 8, (1, 2))
        >>> image, t = torch.rand(2, 3, 20, 17), torch.tensor([3, 500])
        >>> network(image, t).shape, network.features(image, t, layer=2).shape
        (torch.Size([2, 3, 20, 17]), torch.Size([2, 16, 10, 9]))
    """

    def __init__(
        self,
        channels: int = 3,
        n_channels: int = 32,
        ch_mults: Sequence[int] = (1, 2, 2),
        n_blocks: int = 1,
        dropout: float = 0.1,
        classes: int = 0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        widths = [n_channels * each for each in ch_mults]
        self.n_channels, self.n_blocks, told = n_channels, n_blocks, 4 * n_channels
        self.layers = len(widths) * (n_blocks + 1)
        self.tell = nn.Sequential(nn.Linear(n_channels, told), nn.SiLU(), nn.Linear(told, told))
        self.enter = nn.Conv2d(channels, n_channels, 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        width, linked = n_channels, [n_channels]
        for level, wide in enumerate(widths):
            for _ in range(n_blocks):
                self.down.append(ResidualBlock(width, wide, told, level == ATTENTIVE, dropout))
                width = wide
                linked.append(width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                linked.append(width)
        self.middle = nn.ModuleList(
            ResidualBlock(width, width, told, attentive, dropout) for attentive in (True, False)
        )
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(n_blocks + 1):
                self.up.append(ResidualBlock(width + linked.pop(), wide, told, level == ATTENTIVE, dropout))
                width = wide
            if level > 0:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, outputs or channels, 3, padding=1)
        )
        # one more, for images whose class is not told
        self.tell_class = nn.Embedding(classes + 1, told) if classes else None

    def features(
        self,
        image: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        layer: int,
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch _width _rows _columns"]:
        """What the decoder says after some of its blocks; no block behind the last of these is run.

        Args:
            image: x_t.
            t: How many steps of noise each has.
            layer: After how many blocks of the decoder, 1 to `layers`.
            label: The class of each, -1 where it is not told; None for none.

        Raises:
            ValueError: If there is no such block.
        """
        if not 1 <= layer <= self.layers:
            raise ValueError(f"layer: expected 1 to {self.layers}, got {layer}")
        told = self.tell(step_embedding(t, self.n_channels))
        if self.tell_class is not None:
            unknown = self.tell_class.num_embeddings - 1
            label = torch.full_like(t, -1) if label is None else label
            told = told + self.tell_class(torch.where(label < 0, unknown, label))
        maps = self.enter(image)
        links = [maps]
        for number, block in enumerate(self.down, start=1):
            maps = block(maps, told)
            links.append(maps)
            if number % self.n_blocks == 0 and number < len(self.down):
                maps = self.shrink[number // self.n_blocks - 1](maps)
                links.append(maps)
        for block in self.middle:
            maps = block(maps, told)
        for number, block in enumerate(self.up[:layer]):
            link = links.pop()
            if number and number % (self.n_blocks + 1) == 0:
                larger = functional.interpolate(maps, link.shape[2:], mode="nearest")
                maps = self.grow[number // (self.n_blocks + 1) - 1](larger)
            maps = block(torch.cat([maps, link], dim=1), told)
        return maps

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch _outputs height width"]:
        """What is foretold of x_t, such as its noise."""
        answer: Tensor = self.leave(self.features(image, t, self.layers, label))
        return answer
