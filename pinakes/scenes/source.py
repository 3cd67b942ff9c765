"""Scenes as data: `scenes:WHAT?size=64&n=2000&seed=0`, for every label in `pinakes.scenes.labels`."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.data.sources import Request
from pinakes.data.spec import Spec, read_options, to_int
from pinakes.errors import UserError
from pinakes.scenes.label import Block, Label
from pinakes.scenes.labels import find_label
from pinakes.scenes.pictures import panels
from pinakes.tasks.base import Panel

DEFAULT_SIZE = (64, 64)
SMALLEST_SIZE = 16
BLOCK = 16
"""Most samples that are rendered together; fewer of large pictures, of which one may then be had for little."""
BLOCK_PIXELS = BLOCK * 64 * 64
MEMORY = 1 << 29
"""Bytes of finished samples that one split keeps."""


def load(request: Request, **words: str) -> TaskData:
    """Makes a data set of scenes; nothing is rendered before it is asked for.

    Args:
        request: Its path is the name of the label; its size is 64 x 64 unless given.
        words: Options of the label, as they stand in the spec, and `n`, the number of training samples; the
            validation and test parts have a quarter of that each.

    Raises:
        UserError: If there is no such label or option, or a value cannot be used.

    Example:
        >>> data = load(Request("scenes:depth?n=8", "depth", size=(32, 32)), n="8")
        >>> data.train[0]["depth"].shape
        torch.Size([32, 32])
    """
    what = request.path
    label = find_label(what)
    spec = Spec("scenes", what, words)
    options = read_options(label.samples, Spec(f"scenes:{what}", "", words), {"n": to_int})
    count = options.pop("n", label.count)
    size = request.size or DEFAULT_SIZE
    if min(size) < SMALLEST_SIZE:
        raise UserError(f"scenes need a size of at least {SMALLEST_SIZE}, got {size[0]} x {size[1]}")
    if count < 1:
        raise UserError(f"the option 'n' must be at least 1, got {count}")
    if request.seed < 0:
        raise UserError(f"the option 'seed' must not be negative, got {request.seed}")
    classes = label.classes(**options)
    quarter = max(2, count // 4)
    train, val, test = (
        SceneSamples(what, split, length, size, request.seed, options, request.channels)
        for split, length in (("train", count), ("val", quarter), ("test", quarter))
    )
    label.samples(Block(what, "train", range(1), size, request.seed), **options)
    return TaskData(
        spec=request.spec or str(spec),
        layout=f"made scenes, {label.about}",
        train=train,
        val=val,
        test=test,
        info=DataInfo(request.channels, size, classes, label.columns(**options)),
    )


class SceneSamples(Dataset[Sample]):
    """Samples that are rendered when they are first asked for, a block at a time, and then kept.

    Args:
        what: Name of the label.
        split: "train", "val" or "test".
        length: Number of samples.
        size: Height and width of the pictures.
        seed: Seed of the data set.
        options: Options of the label.
        channels: 3 for colour, 1 for grey.
    """

    def __init__(
        self,
        what: str,
        split: str,
        length: int,
        size: tuple[int, int],
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        channels: int = 3,
    ) -> None:
        self.what, self.split, self.length = what, split, length
        self.size, self.seed, self.channels = size, seed, channels
        self.options = dict(options or {})
        self.block = max(1, min(BLOCK, BLOCK_PIXELS // (size[0] * size[1])))
        self._blocks: OrderedDict[int, list[Sample]] = OrderedDict()
        self._bytes = 0

    @property
    def label(self) -> Label:
        """What these samples hold."""
        return find_label(self.what)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            index += self.length
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        number, place = divmod(index, self.block)
        if number not in self._blocks:
            self._keep(number, [_packed(sample) for sample in self._make(number)])
        self._blocks.move_to_end(number)
        sample = _unpacked(self._blocks[number][place])
        if self.channels == 1:
            sample |= {k: v.mean(-3, keepdim=True) for k, v in sample.items() if _is_image(k)}
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_blocks": OrderedDict(), "_bytes": 0}

    def panels(self, sample: Sample) -> list[Panel]:
        """Pictures of a sample and its labels."""
        label, options = self.label, self.options
        info = DataInfo(self.channels, self.size, label.classes(**options), label.columns(**options))
        return panels(sample, info)

    def fingerprint(self) -> str:
        """Changes when the samples do."""
        words = repr((self.what, self.split, self.seed, self.size, sorted(self.options.items())))
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def _make(self, number: int) -> list[Sample]:
        indices = range(number * self.block, min(self.length, (number + 1) * self.block))
        block = Block(self.what, self.split, indices, self.size, self.seed)
        with torch.no_grad():
            samples = self.label.samples(block, **self.options)
        folder = f"scenes/{self.what}/{self.split}"
        return [s | {"path": f"{folder}/{i:06d}"} for i, s in zip(indices, samples, strict=True)]

    def _keep(self, number: int, samples: list[Sample]) -> None:
        self._blocks[number] = samples
        self._bytes += _bytes(samples)
        while self._bytes > MEMORY and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= _bytes(oldest)


def _bytes(samples: list[Sample]) -> int:
    return sum(v.nbytes for sample in samples for v in sample.values() if isinstance(v, Tensor))


def _is_image(name: str) -> bool:
    return name in ("image", "frames") or name.startswith("image_")


def _packed(sample: Sample) -> Sample:
    """Pictures as bytes and maps of ids as short integers, which is how they are kept."""
    small: Sample = {}
    for name, value in sample.items():
        if _is_image(name):
            small[name] = (value * 255).round().to(torch.uint8)
        elif isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim >= 2:
            small[name] = value.to(torch.int16)
        elif isinstance(value, int | float):
            small[name] = torch.tensor(value)
        else:
            small[name] = value.clone() if isinstance(value, Tensor) else value
    return small


def _unpacked(sample: Sample) -> Sample:
    full: Sample = {}
    for name, value in sample.items():
        if isinstance(value, Tensor):
            if value.dtype == torch.uint8:
                value = value.float() / 255
            elif value.dtype == torch.int16:
                value = value.long()
            else:
                value = value.clone()
        full[name] = value
    return full
