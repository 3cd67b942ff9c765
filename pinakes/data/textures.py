"""`textures`: photographs of materials, with painted defects to detect or the material to tell."""

import hashlib
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.data.defects import KINDS, paint
from pinakes.data.mvtec import CLASSES
from pinakes.data.photographs import MATERIALS, REGIONS, crop
from pinakes.data.sources import Request
from pinakes.errors import UserError

_DEFAULT_SIZE = (64, 64)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Textures(Dataset[Sample]):
    """Crops of photographed materials, each a pure function of the arguments and its index.

    Args:
        materials: Which materials, in turn.
        split: "train" or "test": which region of the photographs to cut from, and, with defects, whether every
            second crop gets one.
        n: Number of crops.
        size: Height and width in pixels.
        seed: Another seed gives other crops.
        channels: 3 or 1.
        label: What the label says: "defect" (0 none, 1 some; samples have masks) or "material".
    """

    def __init__(
        self,
        materials: tuple[str, ...],
        split: str,
        n: int,
        *,
        size: tuple[int, int],
        seed: int,
        channels: int,
        label: str,
    ) -> None:
        self.materials = materials
        self.split = split
        self.n = n
        self.size = size
        self.seed = seed
        self.channels = channels
        self.label = label

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the samples."""
        return tuple(self._name(index) for index in range(self.n))

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each sample."""
        return tuple(self._label(index) for index in range(self.n))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of defect, or the material where that is the label, of each sample."""
        by_material = self.label == "material"
        return tuple(self._material(i) if by_material else self._defect(i) for i in range(self.n))

    def fingerprint(self) -> str:
        """A hash of the arguments."""
        return hashlib.sha256(repr(sorted(vars(self).items())).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if not -self.n <= index < self.n:
            raise IndexError(f"there are {self.n} samples, not {index}")
        index %= self.n
        material, defect = self._material(index), self._defect(index)
        rng = np.random.default_rng([self.seed, list(REGIONS).index(self.split), index])
        image = crop(material, self.split, self.size, rng)
        mask = np.zeros(self.size, dtype=bool)
        if defect != "good":
            foreign = str(rng.choice([name for name in ("brick", "grass", "gravel") if name != material]))
            image, mask = paint(image, defect, rng, crop(foreign, self.split, self.size, rng))
        if self.channels == 1:
            image = np.tensordot(_LUMINANCE, image, 1)[None]
        sample: Sample = {
            "image": torch.from_numpy(image),
            "label": torch.tensor(self._label(index)),
            "path": self._name(index),
        }
        if self.label == "material":
            return sample | {"kind": material}
        return sample | {"kind": defect, "mask": torch.from_numpy(mask)}

    def _material(self, index: int) -> str:
        turn = index if self.label == "material" else index // 2 + index // (2 * len(KINDS))
        return self.materials[turn % len(self.materials)]

    def _defect(self, index: int) -> str:
        if self.label == "material" or self.split == "train" or index % 2 == 0:
            return "good"
        return list(KINDS)[index // 2 % len(KINDS)]

    def _label(self, index: int) -> int:
        if self.label == "material":
            return self.materials.index(self._material(index))
        return int(self._defect(index) != "good")

    def _name(self, index: int) -> str:
        return f"textures/{self.split}/{self._material(index)}/{index:03d}"


def load(
    request: Request,
    *,
    n: int = 200,
    material: Literal["auto", "brick", "grass", "gravel", "tissue", "stars", "all"] = "auto",
    labels: Literal["defect", "material"] = "defect",
) -> TaskData:
    """Crops of photographs that come with scikit-image, of real bricks, grass, gravel, tissue and stars.

    Training crops are free of defects. Every second test crop carries a painted defect with its mask. Training and
    test crops come from different regions of the photographs.

    Args:
        request: What is asked for; 64 x 64 pixels by default.
        n: Number of training crops, and of test crops.
        material: Which material; by default brick, or all of them if the material is the label.
        labels: "defect" for anomaly detection, "material" for classification without defects.

    Raises:
        UserError: If the spec has a path, `n` is too small, or the material is the label and there is only one.
    """
    request.refuse_path()
    if material == "auto":
        material = "all" if labels == "material" else "brick"
    materials = tuple(MATERIALS) if material == "all" else (material,)
    if labels == "material" and len(materials) == 1:
        raise UserError(f"labels=material needs several materials; leave out material={material}")
    least = len(materials) if labels == "material" else 2
    if not least <= n <= 1_000_000:
        raise UserError(f"the option 'n' must be from {least} to 1000000, got {n}")
    size = request.size or _DEFAULT_SIZE
    train, test = (
        Textures(
            materials,
            split,
            n,
            size=size,
            seed=request.seed,
            channels=request.channels,
            label=labels,
        )
        for split in ("train", "test")
    )
    what = (
        "the material is the class" if labels == "material" else "defects painted on every second test crop"
    )
    return TaskData(
        spec=request.spec,
        layout=f"crops of photographs ({', '.join(materials)}), {what}",
        train=train,
        test=test,
        info=DataInfo(request.channels, size, materials if labels == "material" else CLASSES),
    )
