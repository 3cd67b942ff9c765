"""The task `inpainting`: holes that hide what is in them, and metrics that see them filled."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.nn.holes import HOLES
from pinakes.tasks.inpainting import MAGENTA, TASK

SPEC = "digits?n=20&size=16"
INFO = DataInfo(3, (8, 9))


@pytest.mark.parametrize("spec", [TASK.default_data, TASK.example_data, "faces?size=16&channels=1&n=20"])
def test_built_in_data_are_as_stated(spec: str) -> None:
    data = load_data(spec, task="inpainting")
    for _, part in data.splits():
        TASK.check_batch(TASK.collate([part[0], part[1]]), data.info, truth=True)


def test_what_is_in_a_hole_is_gone_and_all_else_is_there() -> None:
    whole, holed = load_data(SPEC), load_data(SPEC, task="inpainting")
    for (_, before), (_, after) in zip(whole.splits(), holed.splits(), strict=True):
        for index in range(len(before)):
            sample, image = after[index], before[index]["image"]
            assert torch.equal(sample["clean"], image)
            assert not sample["image"][:, sample["hole"]].any()
            assert torch.equal(sample["image"][:, ~sample["hole"]], image[:, ~sample["hole"]])


def test_holes_follow_from_the_seed_the_part_and_the_place() -> None:
    def holes(spec: str, part: str = "train") -> Tensor:
        samples = dict(load_data(spec, task="inpainting").splits())[part]
        return torch.stack([samples[index]["hole"] for index in range(10)])

    assert torch.equal(holes(SPEC), holes(SPEC))
    assert not torch.equal(holes(SPEC), holes(f"{SPEC}&seed=1"))
    assert not torch.equal(holes(SPEC), holes(SPEC, "test"))
    assert len({each.numpy().tobytes() for each in holes(f"{SPEC}&holes=wide")}) == 10


def test_holes_are_the_same_whoever_loads_them() -> None:
    samples = load_data(SPEC, task="inpainting").train
    loader = DataLoader(samples, batch_size=4, num_workers=2, collate_fn=TASK.collate)  # type: ignore[arg-type]
    found = torch.cat([batch["hole"] for batch in loader])
    assert torch.equal(found, torch.stack([samples[index]["hole"] for index in range(len(samples))]))


def test_the_kinds_of_holes_are_those_that_are_wanted() -> None:
    def kinds(holes: str) -> set[str]:
        samples = load_data(f"digits?size=16&holes={holes}", task="inpainting").train
        return {samples[index]["hole_kind"] for index in range(100)}

    assert kinds("box") == {"box"}
    assert kinds("wide, narrow") == {"wide", "narrow"}
    assert kinds("mixed") == set(HOLES)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="holes: 'boxes' is unknown; did you mean 'box'"):
        load_data(f"{SPEC}&holes=boxes", task="inpainting")


def test_holes_and_true_images_of_ones_own_are_kept() -> None:
    hole = torch.zeros(8, 9, dtype=torch.bool)
    hole[2] = True
    image, clean = torch.rand(3, 8, 9), torch.rand(3, 8, 9)
    own = TaskData("mine", "mine", [{"image": image, "hole": hole, "clean": clean}], info=INFO)
    sample = TASK.arrange(own).train[0]
    assert torch.equal(sample["hole"], hole)
    assert torch.equal(sample["clean"], clean)
    assert not sample["image"][:, 2].any()


def judged(fill: Any, spec: str = "digits?n=200&size=16") -> Any:
    data = load_data(spec, task="inpainting")
    meter = TASK.meter(data.info)
    for start in range(0, 60, 20):
        batch = TASK.collate([data.test[index] for index in range(start, start + 20)])
        meter.update(batch, {"restored": fill(batch)})
    return meter.compute()


def test_the_truth_is_perfect_and_holes_are_not() -> None:
    perfect, empty = judged(lambda batch: batch["clean"]), judged(lambda batch: batch["image"])
    assert perfect.metrics == pytest.approx(
        {"perceptual": 0, "psnr": 100, "ssim": 1, "fid": 0, "hole_psnr": 100}, abs=1e-4
    )
    assert empty.metrics["perceptual"] > 0.5
    assert empty.metrics["hole_psnr"] < empty.metrics["psnr"] < 20


def test_only_pixels_in_the_hole_count_for_the_ratio_in_it() -> None:
    def fill(batch: dict[str, Any]) -> Tensor:
        hole = batch["hole"][:, None]
        off = torch.where(batch["clean"] > 0.5, batch["clean"] - 0.1, batch["clean"] + 0.1)
        return torch.where(hole, off, 1 - batch["clean"])

    assert judged(fill).metrics["hole_psnr"] == pytest.approx(20, abs=1e-3)


def test_metrics_are_stated_by_the_kind_of_hole_where_there_are_several() -> None:
    found = judged(lambda batch: batch["image"])
    assert set(found.groups) == set(HOLES)
    images = sum(group["images"] for group in found.groups.values())
    mean = sum(group["psnr"] * group["images"] for group in found.groups.values()) / images
    assert images == 60
    assert mean == pytest.approx(found.metrics["psnr"])
    assert judged(lambda batch: batch["image"], "digits?n=200&size=16&holes=box").groups == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hole": torch.zeros(2, 8, 8, dtype=torch.bool)}, "image: expected 8 width, got 9"),
        ({"hole": torch.zeros(2, 8, 9)}, "hole: expected torch.bool"),
        ({"image": torch.rand(2, 3, 8, 9) + 1}, "image: expected values from 0.0 to 1.0"),
    ],
)
def test_batches_that_are_not_as_stated_are_named(changes: dict[str, Tensor], message: str) -> None:
    batch = {"image": torch.rand(2, 3, 8, 9), "hole": torch.zeros(2, 8, 9, dtype=torch.bool), **changes}
    with pytest.raises(ValueError, match=message):
        TASK.check_batch(batch, INFO)


def test_images_without_a_hole_are_refused() -> None:
    with pytest.raises(ValueError, match="hole: missing; expected True where pixels are missing"):
        TASK.check_batch({"image": torch.rand(2, 3, 8, 9)}, INFO)


def test_pictures_show_the_hole_the_filling_and_its_error() -> None:
    hole = torch.zeros(8, 9, dtype=torch.bool)
    hole[:2] = True
    sample = {
        "image": torch.zeros(1, 8, 9),
        "hole": hole,
        "hole_kind": "every_second",
        "clean": torch.ones(1, 8, 9),
    }
    holed, true = TASK.draw_sample(sample, INFO)
    assert (holed.caption, true.caption) == ("every second", "true")
    assert (holed.image[:2] == MAGENTA).all()
    assert not holed.image[2:].any()
    path = torch.rand(10, 1, 8, 9)
    restored, error, steps = TASK.draw_prediction(
        sample, {"restored": torch.full((1, 8, 9), 0.9), "stages": path}
    )
    assert (restored.caption, error.caption) == ("restored", "absolute error x 3, mean 0.100")
    assert np.ptp(error.image) == 0
    assert error.image[0, 0, 0] in (76, 77)
    assert steps.image.shape == (8, 54, 3)


class Filled(Method):
    """Fills holes with one colour, which it learns."""

    task_name = "inpainting"

    def __init__(self) -> None:
        super().__init__()

    def build(self, info: DataInfo) -> None:
        self.colour = nn.Parameter(torch.zeros(info.channels, 1, 1))

    def filled(self, batch: dict[str, Any]) -> Tensor:
        return torch.where(batch["hole"][:, None], self.colour, batch["image"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return (self.filled(batch) - batch["clean"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return {"restored": self.filled(batch).clamp(0, 1)}


def test_a_method_learns_and_is_judged() -> None:
    data = load_data("digits?n=40&size=16&holes=half", task="inpainting")
    method = Filled().fit(data, steps=30, batch_size=10, device="cpu")
    found = method.evaluate(data)
    assert sorted(found) == ["fid", "hole_psnr", "perceptual", "psnr", "ssim"]
    assert found["psnr"] > judged(lambda batch: batch["image"]).metrics["psnr"]
