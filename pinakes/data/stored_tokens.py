"""Images kept as the numbers of codes, packed to whole bits: a data set of a few hundredths of the bytes."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pinakes.data.base import Sample
from pinakes.engine.runs import write_whole
from pinakes.errors import UserError


def bits_of(codes: int) -> int:
    """How many bits a code needs, of so many.

    Example:
        >>> bits_of(128), bits_of(391)
        (7, 9)
    """
    return max(1, (codes - 1).bit_length())


class TokenStore:
    """A data set of images as the numbers of their codes, packed; its samples have `tokens` and, if known, a `label`.

    Args:
        packed: The codes (images, bytes), as `pack` makes them.
        codes: Entries of the codebook.
        grid: Rows and columns of codes.
        labels: Classes of the images, -1 where it is not known; None if none is.

    Example:
        >>> store = TokenStore.pack(torch.tensor([[[5, 1], [0, 7]]]), codes=8)
        >>> store.packed.shape, store[0]["tokens"].tolist()
        (torch.Size([1, 2]), [[5, 1], [0, 7]])
    """

    def __init__(
        self,
        packed: UInt8[Tensor, "images bytes"],
        codes: int,
        grid: tuple[int, int],
        labels: Int[Tensor, " images"] | None = None,
    ) -> None:
        self.packed, self.codes, self.grid, self.labels = packed, codes, grid, labels

    @classmethod
    def pack(
        cls,
        tokens: Int[Tensor, "images rows columns"],
        codes: int,
        labels: Int[Tensor, " images"] | None = None,
    ) -> "TokenStore":
        """Packs codes into as many bits as they need.

        Args:
            tokens: From 0 to `codes`, which is left out.
            codes: Entries of the codebook.
            labels: As above.

        Raises:
            ValueError: If a code is out of range.
        """
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < codes:
            raise ValueError(f"tokens: expected codes from 0 to {codes - 1}")
        flat = tokens.cpu().flatten(1).numpy()[:, :, None] >> np.arange(bits_of(codes))
        packed = np.packbits((flat & 1).astype(np.uint8).reshape(len(tokens), -1), axis=1)
        return cls(torch.from_numpy(packed), codes, (tokens.shape[1], tokens.shape[2]), labels)

    def tokens(self, rows: Sequence[int] | slice = slice(None)) -> Int[Tensor, "images rows columns"]:
        """The codes of some of the images."""
        width = bits_of(self.codes)
        bits = np.unpackbits(self.packed[rows].numpy(), axis=1, count=math.prod(self.grid) * width)
        values = bits.reshape(len(bits), *self.grid, width).astype(np.int64) << np.arange(width)
        return torch.from_numpy(values.sum(-1))

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {"tokens": self.tokens([index])[0]}
        return sample if self.labels is None else sample | {"label": self.labels[index].long()}

    def encoded(self) -> bytes:
        """The content of the file that `save` writes."""
        form = torch.tensor([self.codes, *self.grid], dtype=torch.int32)
        tensors = {"packed": self.packed, "form": form}
        return save_safetensors(tensors if self.labels is None else tensors | {"labels": self.labels.short()})

    @property
    def bytes_on_disk(self) -> int:
        """Size of that file."""
        return len(self.encoded())

    def save(self, path: str | Path) -> Path:
        """Writes a safetensors file.

        Raises:
            UserError: If it cannot be written.
        """
        write_whole(Path(path), self.encoded())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "TokenStore":
        """Reads what `save` wrote.

        Raises:
            UserError: If there is no such file, or it is of another kind.
        """
        try:
            tensors = load_safetensors(Path(path).read_bytes())
            codes, rows, columns = tensors["form"].tolist()
            return cls(tensors["packed"], codes, (rows, columns), tensors.get("labels"))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{path}: holds no stored tokens; give a file that a TokenStore wrote") from error
