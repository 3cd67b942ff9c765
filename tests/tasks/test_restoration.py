"""The task `restoration`: degraded images with what they were, and metrics against torchmetrics and closed forms."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.errors import UserError
from pinakes.nn.degradations import DEGRADATIONS, degraded, downsampled
from pinakes.nn.image_quality import PerceptualFeatures, perceptual_distance
from pinakes.nn.sample_quality import frechet_distance
from pinakes.tasks.restoration import TASK

SPEC = "digits?n=20&size=16"
INFO = DataInfo(3, (8, 9))


@pytest.mark.parametrize("spec", [TASK.default_data, TASK.example_data, "faces?size=16&channels=1&n=20"])
@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_built_in_data_are_as_stated(spec: str, kind: str) -> None:
    data = load_data(f"{spec}&degradation={kind}", task="restoration")
    for _, part in data.splits():
        TASK.check_batch(TASK.collate([part[0], part[1]]), data.info, truth=True)
    assert DEGRADATIONS[kind] in data.layout


def test_images_are_degraded_as_the_seed_the_part_and_the_place_say() -> None:
    def images(spec: str, part: str = "train") -> Tensor:
        samples = dict(load_data(f"{spec}&degradation=noise", task="restoration").splits())[part]
        return torch.stack([samples[index]["image"] - samples[index]["clean"] for index in range(10)])

    assert torch.equal(images(SPEC), images(SPEC))
    assert not torch.equal(images(SPEC), images(f"{SPEC}&seed=1"))
    assert not torch.equal(images(SPEC), images(SPEC, "test"))
    assert len({each.numpy().tobytes() for each in images(SPEC)}) == 10


def test_the_truth_is_the_image_and_the_input_is_what_is_left_of_it() -> None:
    plain, data = load_data(SPEC), load_data(SPEC, task="restoration")
    for index in range(5):
        image = plain.train[index]["image"]
        assert torch.equal(data.train[index]["clean"], image)
        assert torch.equal(data.train[index]["image"], downsampled(image, 4).clamp(0, 1))


def test_pairs_of_ones_own_stay_as_they_are() -> None:
    sample = {"image": torch.rand(3, 8, 9), "clean": torch.rand(3, 8, 9)}
    data = TASK.arrange(TaskData("mine", "mine", [sample], info=INFO))
    assert data.train[0] == sample


def pairs(root: Path, *names: str) -> Path:
    """Images of which the true one is twice as bright, in one or two folders of each."""
    for number, name in enumerate(names, start=1):
        for folder, grey in (("input", 5 * number), ("target", 10 * number)):
            above, _, file = name.rpartition("/")
            place = root / above / folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (grey,) * 3).save(place)
    return root


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ([f"{letter}.png" for letter in "abcdefghij"], {"train": 8, "test": 2}),
        (["train/a.png", "train/b.png", "test/a.png"], {"train": 2, "test": 1}),
    ],
)
def test_a_folder_of_pairs_gives_each_image_its_own(
    tmp_path: Path, names: list[str], counts: dict[str, int]
) -> None:
    data = load_data(pairs(tmp_path, *names), task="restoration")
    assert {name: len(part) for name, part in data.splits()} == counts
    assert data.layout.startswith(f"{len(names)} pairs")
    assert data.classes == ()
    seen = []
    for _, part in data.splits():
        TASK.check_batch(TASK.collate([part[index] for index in range(len(part))]), data.info, truth=True)
        for index in range(len(part)):
            assert torch.allclose(part[index]["clean"], 2 * part[index]["image"])
            seen.append(float(part[index]["clean"].mean()))
    assert len(set(seen)) == len(names)


def test_an_image_without_its_counterpart_is_named(tmp_path: Path) -> None:
    pairs(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "target/c.png").unlink()
    with pytest.raises(UserError, match=r"input/c\.png has no counterpart target/c\.png"):
        load_data(tmp_path, task="restoration")


def test_a_pair_of_which_one_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    pairs(tmp_path, *(f"{letter}.png" for letter in "abcdef"))
    (tmp_path / "target/c.png").write_bytes(b"nothing")
    data = load_data(tmp_path, task="restoration", skip_bad=True)
    assert sum(len(part) for _, part in data.splits()) == 5


def test_pairs_are_not_degraded(tmp_path: Path) -> None:
    spec = f"folder:{pairs(tmp_path, 'a.png', 'b.png')}?degradation=blur"
    with pytest.raises(UserError, match="degraded images of its own; leave out 'degradation'"):
        load_data(spec, task="restoration")


def test_an_unknown_degradation_is_refused() -> None:
    with pytest.raises(UserError, match="degradation: 'blurr' is unknown; did you mean 'blur'"):
        load_data(f"{SPEC}&degradation=blurr", task="restoration")


def batches() -> list[dict[str, Any]]:
    data = load_data("textures?size=32&labels=material", task="restoration")
    return [TASK.collate([data.test[index] for index in range(start, start + 6)]) for start in (0, 6)]


def test_metrics_are_those_of_torchmetrics_and_of_all_images_at_once() -> None:
    meter, given = TASK.meter(INFO), batches()
    for batch in given:
        meter.update(batch, {"restored": batch["image"]})
    restored, clean = (torch.cat([batch[name] for batch in given]) for name in ("image", "clean"))
    psnr = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
    network = PerceptualFeatures()
    levels, others = network(restored), network(clean)
    assert meter.compute().metrics == pytest.approx(
        {
            "psnr": psnr(restored, clean).item(),
            "ssim": ssim(restored, clean).item(),
            "perceptual": perceptual_distance(levels, others).mean().item(),
            "fid": frechet_distance(others[-1].mean((2, 3)), levels[-1].mean((2, 3))).item(),
        },
        rel=1e-3,
    )


def test_the_truth_is_perfect_and_one_grey_level_off_is_not() -> None:
    batch = batches()[0]
    for added, psnr in ((0, 100), (0.1, 20)):
        meter = TASK.meter(INFO)
        clean = batch["clean"] * 0.5
        meter.update(batch | {"clean": clean}, {"restored": clean + added})
        assert meter.compute().metrics["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_too_few_images_have_no_distance_of_distributions() -> None:
    meter, batch = TASK.meter(INFO), batches()[0]
    meter.update(batch, {"restored": batch["image"]})
    assert sorted(meter.compute().metrics) == ["perceptual", "psnr", "ssim"]


def test_stronger_degradations_are_further_from_the_truth() -> None:
    def distance(kind: str) -> float:
        meter = TASK.meter(INFO)
        for batch in batches():
            image = torch.stack([degraded(kind, each, torch.Generator()) for each in batch["clean"]])
            meter.update(batch, {"restored": image})
        return meter.compute().metrics["perceptual"]

    assert distance("downsample2") < distance("downsample4")


def test_pictures_show_what_was_given_made_and_wanted() -> None:
    sample = {"image": torch.zeros(1, 8, 9), "clean": torch.ones(1, 8, 9), "path": "a/b.png"}
    assert [panel.caption for panel in TASK.draw_sample(sample, INFO)] == ["degraded", "true"]
    assert [
        panel.caption for panel in TASK.draw_sample({"image": sample["image"], "path": "a/b.png"}, INFO)
    ] == ["b.png"]
    restored, error = TASK.draw_prediction(sample, {"restored": torch.full((1, 8, 9), 0.8)})
    assert (restored.caption, error.caption) == ("restored", "absolute error x 3, mean 0.200")
    assert len(TASK.draw_prediction({"image": sample["image"]}, {"restored": torch.ones(1, 8, 9)})) == 1
