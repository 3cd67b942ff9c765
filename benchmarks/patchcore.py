"""PatchCore from image files to maps, against anomalib's engine if it is installed.

Both fit on the same normal images and predict the same test images, with the same backbone weights, size, share of
patches kept and batch size, on one thread. The images are those of the folder `magnetic_tile` in PINAKES_TEST_DATA
(photographs in the layout of MVTec AD) if there is one, else textures that are drawn.
"""

import importlib
import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import pinakes
from benchmarks.harness import Finding, memory_ratio, missing, race, save
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.patchcore import PatchCore
from pinakes.tasks.base import to_pixels

NAME = "patchcore"
AGAINST = "anomalib's engine"
SIZE = 128
BATCH = 32
LAYERS = {2: "layer2", 3: "layer3"}
END_TO_END, PREDICTING = 0.01, 0.1
"""Shares of the patches that are kept: the whole way from files to maps, and where only prediction is timed."""


def bench() -> list[Finding]:
    """Times fitting and predicting, predicting alone with a larger bank that both share, and measures memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = images(Path(folder))
        weights = backbone(Path(folder))
        counts = [len(list((root / part).rglob("*.*"))) for part in ("train", "test")]
        what = f"{counts[0]} and {counts[1]} images of {SIZE}x{SIZE} ({root.name}), timm/resnet18, a bank of "
        whole = f"fit and predict {what}{END_TO_END:.0%}"
        predicting = f"predict {what}{PREDICTING:.0%}"
        if why := missing("anomalib"):
            return [Finding(NAME, each, AGAINST, skipped=why) for each in (whole, predicting)]
        quiet()
        found = [
            race(
                NAME,
                f"{whole}: time",
                ours=partial(ours, root, weights),
                peer=partial(anomalib, root, weights),
                against=AGAINST,
                check=expect_same_images,
                rounds=2,
            ),
            memory_ratio(
                NAME,
                f"{whole}: memory",
                ours=prepared_ours,
                peer=prepared_anomalib,
                against=AGAINST,
                arguments=(root, weights),
                rounds=1,
            ),
            race_of_predictions(f"{predicting}: time", root, weights),
        ]
    save(NAME, found)
    return found


def images(folder: Path) -> Path:
    """The folder of images, in the layout of MVTec AD."""
    real = Path(os.environ.get("PINAKES_TEST_DATA", "")) / "magnetic_tile"
    if os.environ.get("PINAKES_TEST_DATA") and (real / "train" / "good").is_dir():
        return real.resolve()
    data = pinakes.load_data(f"textures?size={SIZE}&n=240", task="anomaly")
    root = folder / "textures"
    for part, samples in data.splits():
        for index in range(len(samples)):
            sample = samples[index]
            path = root / part / ("defect" if sample["label"] else "good") / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_pixels(sample["image"])).save(path)
    return root


def backbone(folder: Path) -> Path:
    """Weights that both sides load; drawn, for time does not depend on them."""
    torch.manual_seed(0)
    path = folder / "resnet18.safetensors"
    network = FeatureExtractor("timm/resnet18@random", tuple(LAYERS)).network
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


def our_detector(weights: Path, share: float) -> PatchCore:
    """Ours, with the weights."""
    return PatchCore(backbone=f"timm/resnet18@{weights}", layers=tuple(LAYERS), coreset_ratio=share)


def ours(root: Path, weights: Path) -> dict[str, float]:
    """Image scores by file name, from files to maps."""
    data = pinakes.load_data(f"mvtec:{root}?size={SIZE}", task="anomaly")
    detector = our_detector(weights, END_TO_END).fit(data, batch_size=BATCH, hold_out=0, device="cpu")
    test: Any = data.test
    scores = detector.predict(test, batch_size=BATCH)["score"]
    return dict(zip(test.paths, scores.tolist(), strict=True))


def anomalib_model(weights: Path, share: float) -> Any:
    """anomalib's, with the weights, and without what ours does not do: thresholds, metrics and pictures."""
    from anomalib.models import Patchcore
    from safetensors.torch import load_file

    model = Patchcore(
        backbone="resnet18",
        layers=list(LAYERS.values()),
        pre_trained=False,
        coreset_sampling_ratio=share,
        pre_processor=Patchcore.configure_pre_processor(image_size=(SIZE, SIZE)),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    model.model.feature_extractor.feature_extractor.load_state_dict(load_file(weights))
    return model


def anomalib(root: Path, weights: Path) -> dict[str, float]:
    """The same by anomalib."""
    from anomalib.data import Folder
    from anomalib.engine import Engine

    kinds = sorted(path.name for path in (root / "test").iterdir() if path.name != "good")
    data = Folder(
        name=root.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds],
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=0,
        val_split_mode="same_as_test",
    )
    model = anomalib_model(weights, END_TO_END)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        with redirect_stderr(io.StringIO()):  # of its progress bars
            engine.fit(model, datamodule=data)
            batches: Any = engine.predict(model, datamodule=data)
    return {
        str(Path(path).relative_to(root)): score
        for batch in batches
        for path, score in zip(batch.image_path, batch.pred_score.flatten().tolist(), strict=True)
    }


def race_of_predictions(what: str, root: Path, weights: Path) -> Finding:
    """Times predictions of decoded images with one bank, put into both."""
    data = pinakes.load_data(f"mvtec:{root}?size={SIZE}", task="anomaly")
    detector = our_detector(weights, PREDICTING).fit(data, batch_size=BATCH, hold_out=0, device="cpu")
    model = anomalib_model(weights, PREDICTING).eval()
    model.model.memory_bank = detector.bank
    test: Any = data.test
    decoded = torch.stack([test[index]["image"] for index in range(len(test))])

    def ours() -> Tensor:
        return torch.cat([detector.predict(each)["score"] for each in decoded.split(BATCH)])

    @torch.inference_mode()
    def peer() -> Tensor:
        return torch.cat([model(each).pred_score.flatten() for each in decoded.split(BATCH)])

    def expect_same_scores(ours: Tensor, peer: Tensor) -> None:
        torch.testing.assert_close(ours, peer, rtol=1e-3, atol=1e-4)

    return race(
        NAME, what, ours=ours, peer=peer, against="anomalib's model", check=expect_same_scores, rounds=3
    )


def prepared_ours(root: Path, weights: Path) -> Callable[[], Any]:
    """Ours, ready to run."""
    torch.set_num_threads(1)
    return partial(ours, root, weights)


def prepared_anomalib(root: Path, weights: Path) -> Callable[[], Any]:
    """anomalib's, imported and ready to run."""
    torch.set_num_threads(1)
    quiet()
    return partial(anomalib, root, weights)


def quiet() -> None:
    """Imports anomalib, which takes seconds, and silences what it and Lightning say."""
    for part in ("data", "engine", "models"):
        importlib.import_module(f"anomalib.{part}")
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def expect_same_images(ours: dict[str, float], peer: dict[str, float]) -> None:
    """Both score the same images, with numbers.

    That they agree is checked where it can be exact: with one bank for both in `race_of_predictions`, and with the
    whole bank in `tests/parity/test_anomalib.py`. Two banks of one patch in a hundred, chosen from other starts, rank
    images only roughly alike.
    """
    assert ours.keys() == peer.keys()
    assert all(math.isfinite(score) for score in (*ours.values(), *peer.values()))
