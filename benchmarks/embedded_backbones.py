"""Measure the embedded backbones against the same networks at random weights.

    PINAKES_TEST_DATA=FOLDER python benchmarks/embedded_backbones.py

- ``cifar10``: accuracy of the 20 nearest neighbours (cosine) of the pooled features, 10,000 training and 2,000
  test images, enlarged from 32 x 32 to 64 x 64 pixels. Layout: cifar10/{train,test}/CLASS/*.jpg.
- ``magnetic_tile``: image AUROC of a patch memory at 128 x 128 pixels, on the features at strides 8 and 16
  (blocks 3 and 5 of the transformer), 3 x 3 average pooled and concatenated; a greedy coreset of 2,000 patches
  of the good training images; an image's score is its largest distance of a patch to the memory. Layout:
  magnetic_tile/train/good and magnetic_tile/test/{good, DEFECT}. Source: Roth et al., Towards Total Recall in
  Industrial Anomaly Detection, CVPR 2022 (arXiv:2106.08265), without the re-weighting of equation 7.
- ``digits``: accuracy of the 5 nearest neighbours (cosine) on scikit-learn's digits, enlarged to 32 x 32
  pixels, 1,000 training and 797 test images.
- ``textures``: as ``magnetic_tile``, at 64 x 64 pixels on the built-in crops of a photograph of bricks with painted
  defects; a coreset of 1,000 patches. The photograph is one of those that were trained on.

The folder may hold the data as folders or as zip files. But for ``textures``, none of these images was used in
training. Random weights are measured with three seeds; the mean is given, and each figure. They are as timm draws
them: the whitening of their pooled features is the identity.
"""

import argparse
import json
import os
import platform
import statistics
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

import pinakes.nn.tiny  # noqa: F401 - registers the two networks with timm
from benchmarks.harness import Finding
from pinakes.data import load_data

LEVELS = {"pinakes_tiny_conv": (2, 3), "pinakes_tiny_vit": (2, 4)}
RESULT = Path(__file__).parents[1] / "results" / "bench" / "embedded_backbones.json"
Measure = Callable[[nn.Module, str], float]


def pictures(data: Path, name: str) -> Iterator[tuple[tuple[str, ...], Image.Image]]:
    """The parts of the path below the folder ``name``, and the picture, of each JPEG of a data set, in order.

    Raises:
        FileNotFoundError: If there is neither a folder nor a zip file of that name.
    """
    folder = next((path for path in (data / name, *sorted(data.glob(f"*/{name}"))) if path.is_dir()), None)
    archive = next(iter([*sorted(data.glob(f"{name}*.zip")), *sorted(data.glob(f"*/{name}*.zip"))]), None)
    if folder:
        for path in sorted(folder.rglob("*.jpg")):
            yield path.relative_to(folder).parts, Image.open(path)
    elif archive:
        with zipfile.ZipFile(archive) as members:
            for member in sorted(members.namelist()):
                if member.endswith(".jpg"):
                    parts = PurePosixPath(member).parts
                    below = parts[parts.index(name) + 1 :] if name in parts else parts
                    yield below, Image.open(BytesIO(members.read(member)))
    else:
        raise FileNotFoundError(f"neither a folder {name} nor {name}*.zip in {data}")


def tensor(images: list[Image.Image]) -> Tensor:
    """Pictures of one size as float [batch, 3, height, width] in [0, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def normalised(images: Tensor) -> Tensor:
    """Images in [0, 1] as the networks expect them."""
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (images - mean) / std


@torch.no_grad()
def pooled(network: nn.Module, images: Tensor) -> np.ndarray:
    """The pooled features, [images, width]."""
    return torch.cat([network(normalised(part)) for part in images.split(250)]).numpy()


@torch.no_grad()
def patches(network: nn.Module, images: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The features of each patch, [images, patches, width], at the resolution of the first level."""
    found = []
    for part in images.split(32):
        maps = network.forward_intermediates(normalised(part), intermediates_only=True)
        pooled_maps = [F.avg_pool2d(maps[level], 3, stride=1, padding=1) for level in levels]
        side = pooled_maps[0].shape[-2:]
        joined = torch.cat([F.interpolate(level, side, mode="bilinear") for level in pooled_maps], 1)
        found.append(joined.flatten(2).transpose(1, 2))
    return torch.cat(found)


def coreset(memory: Tensor, count: int) -> Tensor:
    """Greedily, the patch farthest from those already chosen, in a random projection to 64 dimensions."""
    generator = torch.Generator().manual_seed(0)
    projected = memory @ torch.randn(memory.shape[1], 64, generator=generator) / 8
    squares = projected.square().sum(1)
    chosen = [0]
    distance = torch.full_like(squares, torch.inf)
    while len(chosen) < count:
        last = chosen[-1]
        distance = torch.minimum(distance, squares + squares[last] - 2 * projected @ projected[last])
        chosen.append(int(distance.argmax()))
    return memory[chosen]


def cifar10(data: Path) -> Measure:
    """Reads CIFAR-10, and returns the accuracy of a network on it."""
    parts, images = zip(*pictures(data, "cifar10"), strict=True)
    everything = F.interpolate(tensor(list(images)), (64, 64), mode="bilinear")
    training = np.array([part[0] == "train" for part in parts])
    labels = np.array([part[1] for part in parts])

    def accuracy(network: nn.Module, _: str) -> float:
        features = pooled(network, everything)
        neighbours = KNeighborsClassifier(20, metric="cosine").fit(features[training], labels[training])
        return float(neighbours.score(features[~training], labels[~training]))

    return accuracy


def magnetic_tile(data: Path) -> Measure:
    """Reads the tiles, and returns the AUROC of a patch memory of a network on them."""
    parts, images = zip(*pictures(data, "magnetic_tile"), strict=True)
    everything = tensor(
        [image.convert("L").resize((128, 128), Image.Resampling.BILINEAR) for image in images]
    )
    training = np.array([part[0] == "train" for part in parts])
    testing = np.array([part[0] == "test" for part in parts])
    defective = np.array([part[1] != "good" for part in parts])

    def auroc(network: nn.Module, name: str) -> float:
        memory = coreset(patches(network, everything[training], LEVELS[name]).flatten(0, 1), 2000)
        tested = patches(network, everything[testing], LEVELS[name])
        scores = torch.stack([torch.cdist(image, memory).amin(1).amax() for image in tested])
        return float(roc_auc_score(defective[testing], scores.numpy()))

    return auroc


def textures() -> Measure:
    """Makes the crops, and returns the AUROC of a patch memory of a network on them."""
    data = load_data("textures?size=64", task="anomaly")
    assert data.test is not None
    training = torch.stack([data.train[i]["image"] for i in range(len(data.train))])
    testing = torch.stack([data.test[i]["image"] for i in range(len(data.test))])
    defective = np.array([int(data.test[i]["label"]) for i in range(len(data.test))])

    def auroc(network: nn.Module, name: str) -> float:
        memory = coreset(patches(network, training, LEVELS[name]).flatten(0, 1), 1000)
        scores = [
            torch.cdist(image, memory).amin(1).amax() for image in patches(network, testing, LEVELS[name])
        ]
        return float(roc_auc_score(defective, torch.stack(scores).numpy()))

    return auroc


def digits() -> Measure:
    """Reads the digits, and returns the accuracy of a network on them."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None].expand(-1, 3, -1, -1) / 16
    enlarged = F.interpolate(images, (32, 32), mode="bilinear")

    def accuracy(network: nn.Module, _: str) -> float:
        features = pooled(network, enlarged)
        neighbours = KNeighborsClassifier(5, metric="cosine").fit(features[:1000], bunch.target[:1000])
        return float(neighbours.score(features[1000:], bunch.target[1000:]))

    return accuracy


def measures(data: Path | None) -> dict[str, Measure]:
    """The measurements for which there is data; the others are named on the terminal."""
    found: dict[str, Measure] = {}
    for name, read in {"cifar10": cifar10, "magnetic_tile": magnetic_tile}.items():
        try:
            if data is None:
                raise FileNotFoundError("PINAKES_TEST_DATA names no folder")
            found[name] = read(data)
        except FileNotFoundError as missing:
            print(f"{name}: skipped ({missing})", flush=True)
    return {**found, "digits": digits(), "textures": textures()}


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Measures both networks, embedded and random, and writes the result.

    Args:
        arguments: Words of the command line; by default those that were given.
    """
    parser = argparse.ArgumentParser(description="Measure the embedded backbones against random weights.")
    parser.add_argument("--seeds", type=int, default=3, help="random networks to average over")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    folder = os.environ.get("PINAKES_TEST_DATA")
    result: dict[str, dict] = {}
    for measure_name, measure in measures(Path(folder) if folder else None).items():
        result[measure_name] = {}
        for name in LEVELS:
            embedded = measure(timm.create_model(name, pretrained=True).eval(), name)
            random = []
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                random.append(measure(timm.create_model(name).eval(), name))
            figures = {"embedded": embedded, "random": statistics.mean(random), "random_by_seed": random}
            result[measure_name][name] = {
                key: np.round(value, 4).tolist() if isinstance(value, list) else round(value, 4)
                for key, value in figures.items()
            }
            print(
                f"{measure_name} {name}: embedded {embedded:.3f}, random {figures['random']:.3f}", flush=True
            )
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    written = {"date": date.today().isoformat(), "versions": versions, "figures": result}
    options.out.write_text(json.dumps(written, indent=2) + "\n")
    return result


def bench() -> list[Finding]:
    """Measures where there is data, and returns each network's figure beside that of random weights."""
    if not os.environ.get("PINAKES_TEST_DATA"):
        return [Finding("embedded_backbones", "features", skipped="PINAKES_TEST_DATA names no folder")]
    return [
        Finding(
            "embedded_backbones",
            f"{measure}, {network}",
            "random weights",
            figure=f"{figures['embedded']:.3f} against {figures['random']:.3f}",
        )
        for measure, networks in main([]).items()
        for network, figures in networks.items()
    ]


if __name__ == "__main__":
    main()
