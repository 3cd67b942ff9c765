"""Memory banks, Gaussians and metrics against anomalib's, with the same backbone and the same images.

anomalib upsamples PatchCore's map by nearest cells where the paper and ours interpolate, so patch distances and image
scores are compared there, and maps for PaDiM. Its PaDiM adds another 0.00001 to the variances.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.measure import label as connected_components
from torch import Tensor, nn

from pinakes import load_data
from pinakes.data.base import TaskData
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.padim import PaDiM
from pinakes.papers.anomaly.patchcore import PatchCore, nearest_neighbours, patch_features
from pinakes.tasks.anomaly import PixelCurves, image_metrics

pytest.importorskip("anomalib", reason="anomalib is not here")

TEXTURES = "textures?size=64&n=60"
TILES = "magnetic_tile"
TILE_COUNTS = {"train": 60, "test": 90}
LAYERS = ("layer1", "layer2", "layer3")
EPSILON_THERE = 0.01 + 1e-5


@cache
def textures() -> TaskData:
    return load_data(TEXTURES, task="anomaly")


@pytest.fixture(params=["textures", "tiles"])
def data(request: pytest.FixtureRequest) -> TaskData:
    if request.param == "textures":
        return textures()
    folder: Path = request.getfixturevalue("test_data") / TILES
    if not folder.is_dir():
        pytest.skip(f"there is no {TILES} in PINAKES_TEST_DATA")
    return load_data(f"{folder}?size=64", task="anomaly")


def some(data: TaskData, split: str) -> dict[str, Tensor]:
    """Images, labels and masks of a split; of tiles, which lie sorted by kind, every so many."""
    samples: Any = dict(data.splits())[split]
    count = min(len(samples), TILE_COUNTS[split]) if data.spec != textures().spec else len(samples)
    chosen = [samples[int(index)] for index in np.linspace(0, len(samples) - 1, count)]
    return {name: torch.stack([each[name] for each in chosen]) for name in ("image", "label", "mask")}


class Images:
    """The chosen training images as a data set."""

    def __init__(self, images: dict[str, Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images["image"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value[index] for name, value in self.images.items()} | {"kind": "good"}


class SameFeatures(nn.Module):
    """Our backbone, under the names by which anomalib asks for layers."""

    def __init__(self, extractor: FeatureExtractor, names: tuple[str, ...]) -> None:
        super().__init__()
        self.extractor = extractor
        self.names = names

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.extractor(image), strict=True))


def their_patchcore(detector: PatchCore, images: Tensor, share: float, seed: int = 0) -> nn.Module:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=LAYERS[1:], backbone="resnet18", pre_trained=False)
    model.feature_extractor = SameFeatures(detector.backbone, LAYERS[1:])
    model.train()
    model(images)
    if share < 1:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - anomalib draws from it
        model.subsample_embedding(share)
    else:
        model.memory_bank = torch.vstack(model.embedding_store)
    return model.eval()


def test_timms_features_are_those_that_anomalib_takes_from_timm() -> None:
    from anomalib.models.components import TimmFeatureExtractor

    ours = FeatureExtractor("timm/resnet18@random", (1, 2, 3)).freeze()
    theirs = TimmFeatureExtractor("resnet18", LAYERS, pre_trained=False).eval()
    theirs.feature_extractor.load_state_dict(ours.network.state_dict())
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours(image), theirs((image - ours.mean) / ours.std)
    for level, name in zip(found, LAYERS, strict=True):
        torch.testing.assert_close(level, expected[name])


def test_patchcore_with_the_whole_bank_scores_as_anomalibs(data: TaskData) -> None:
    train, test = some(data, "train"), some(data, "test")
    detector = PatchCore(coreset_ratio=1.0, bank_limit=10**6).fit((Images(train), data.info), hold_out=0)
    model = their_patchcore(detector, train["image"], share=1.0)
    torch.testing.assert_close(detector.bank, model.memory_bank)
    described = patch_features(detector.backbone(test["image"]))
    patches = described.permute(0, 2, 3, 1).flatten(0, 2)
    distances = nearest_neighbours(patches, detector.bank)[0][:, 0]
    torch.testing.assert_close(distances, model.nearest_neighbors(patches, 1)[0], rtol=1e-3, atol=1e-2)
    scores, expected = detector.predict(test["image"])["score"], model(test["image"]).pred_score
    assert spearmanr(scores, expected).statistic >= 0.99
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_patchcore_with_a_coreset_detects_as_anomalibs_does(data: TaskData) -> None:
    train, test = some(data, "train"), some(data, "test")
    ours, theirs = [], []
    for seed in range(3):
        detector = PatchCore(coreset_ratio=0.1).fit((Images(train), data.info), hold_out=0, seed=seed)
        ours.append(image_metrics(detector.predict(test["image"])["score"], test["label"])["auroc"])
        scores = their_patchcore(detector, train["image"], 0.1, seed)(test["image"]).pred_score
        theirs.append(image_metrics(scores, test["label"])["auroc"])
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.01


def test_padim_maps_and_scores_as_anomalibs(data: TaskData) -> None:
    from anomalib.models.image.padim.torch_model import PadimModel

    train, test = some(data, "train"), some(data, "test")
    detector = PaDiM(features=30, epsilon=EPSILON_THERE).fit((Images(train), data.info), hold_out=0)
    model = PadimModel("resnet18", list(LAYERS), pre_trained=False, n_features=30)
    model.feature_extractor = SameFeatures(detector.backbone, LAYERS)
    model.idx = detector.chosen
    model.train()
    model(train["image"])
    model.fit()
    expected, found = model.eval()(test["image"]), detector.predict(test["image"])
    torch.testing.assert_close(found["map"], expected.anomaly_map[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["score"], expected.pred_score.flatten(), rtol=1e-3, atol=1e-3)


def exact_aupro(maps: Tensor, masks: Tensor, limit: float = 0.3) -> float:
    """Every score a threshold, in double precision, region by region."""
    scores = maps.flatten().double().numpy()
    regions, count = np.zeros(masks.shape, dtype=int), 0
    for index, mask in enumerate(masks.numpy()):
        found = connected_components(mask, connectivity=2)
        regions[index] = np.where(found > 0, found + count, 0)
        count += found.max()
    regions = regions.flatten()
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    false_rate = np.cumsum(regions[order] == 0)[last] / (regions == 0).sum()
    area = np.bincount(regions)
    weight = np.where(regions == 0, 0.0, 1 / area[regions])
    overlap = np.cumsum(weight[order])[last] / count
    false_rate, overlap = np.append(0.0, false_rate), np.append(0.0, overlap)
    end = np.interp(limit, false_rate, overlap)
    inside = false_rate <= limit
    x, y = np.append(false_rate[inside], limit), np.append(overlap[inside], end)
    return float(np.trapezoid(y, x) / limit)


def aupros(maps: Tensor, masks: Tensor) -> tuple[float, float, float]:
    """Ours, anomalib's and the exact one."""
    from anomalib.metrics.aupro import _AUPRO

    curves, metric = PixelCurves(), _AUPRO()
    for part, truth in zip(maps.split(7), masks.split(7), strict=True):
        curves.update(part, truth)
        metric.update(part, truth.int())
    return curves.aupro(), float(metric.compute()), exact_aupro(maps, masks)


def drawn_masks(count: int, side: int, generator: torch.Generator) -> Tensor:
    noise = torch.rand(count, 1, side // 8, side // 8, generator=generator)
    return nn.functional.interpolate(noise, size=(side, side), mode="bilinear")[:, 0] > 0.75


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_aupro_of_random_maps_is_anomalibs_and_the_exact_one(strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = drawn_masks(20, 64, generator)
    maps = torch.randn(20, 64, 64, generator=generator) + strength * masks
    ours, theirs, exact = aupros(maps, masks)
    assert ours == pytest.approx(exact, abs=1e-3)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_aupro_of_a_detectors_maps_is_anomalibs_and_the_exact_one(data: TaskData) -> None:
    test = some(data, "test")
    detector = PaDiM(features=30).fit((Images(some(data, "train")), data.info), hold_out=0)
    ours, theirs, exact = aupros(detector.predict(test["image"])["map"], test["mask"])
    assert ours == pytest.approx(exact, abs=1e-3)
    assert ours == pytest.approx(theirs, abs=1e-3)
