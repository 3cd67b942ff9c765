"""What each label says is true of its picture."""

import pytest
import torch
from torch import Tensor

from pinakes.data.base import Sample
from pinakes.data.sources import Request
from pinakes.scenes.labels import LABELS
from pinakes.scenes.labels.detection import boxes_of
from pinakes.scenes.labels.table import morphometry
from pinakes.scenes.source import SceneSamples, load

SIZE = 48


def samples(what: str, count: int = 5, split: str = "train", size: int = SIZE, **words: str) -> list[Sample]:
    data = load(
        Request(f"scenes:{what}", what, (size, size)),
        n=str(count if split == "train" else 4 * count),
        **words,
    )
    part = getattr(data, split)
    return [part[i] for i in range(count)]


def test_boxes_enclose_masks_tightly() -> None:
    masks = torch.zeros(1, 10, 12, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    assert boxes_of(masks).tolist() == [[3, 2, 9, 5]]


def test_detection_boxes_are_those_of_the_masks() -> None:
    for sample in samples("detection"):
        assert len(sample["boxes"]) == len(sample["labels"]) == len(sample["masks"]) > 0
        assert torch.equal(boxes_of(sample["masks"]), sample["boxes"])
        assert sample["masks"].sum(0).max() <= 1
        assert (sample["boxes"] >= 0).all()
        assert (sample["boxes"] <= SIZE).all()


def test_segmentation_instances_are_of_one_class_each() -> None:
    for sample in samples("segmentation"):
        for i in sample["instance"].unique().tolist():
            if i:
                assert len(sample["semantic"][sample["instance"] == i].unique()) == 1


def test_normals_are_units_that_face_the_camera() -> None:
    for sample in samples("normals"):
        normal = sample["normal"]
        torch.testing.assert_close(normal.norm(dim=0), torch.ones(SIZE, SIZE), atol=1e-4, rtol=0)
        assert (normal[2] < 0.35).all()


def test_depth_is_positive_and_grows_upwards_on_the_ground() -> None:
    for sample in samples("depth"):
        assert sample["depth"].min() > 1
        assert sample["depth"][0].mean() > sample["depth"][-1].mean()


def test_anomaly_trains_on_good_parts_and_masks_defects() -> None:
    assert all(s["label"] == 0 and s["kind"] == "good" and not s["mask"].any() for s in samples("anomaly"))
    tested = samples("anomaly", 12, "test", size=64)
    assert {s["kind"] for s in tested} == {"good", "scratch", "dent", "stain", "missing", "swapped"}
    for sample in tested:
        assert bool(sample["label"]) == (sample["kind"] != "good") == bool(sample["mask"].any())


def test_defects_change_the_picture_where_the_mask_is() -> None:
    for product in ("board", "sweets"):
        for sample in samples("anomaly", 10, "test", size=64, product=product):
            if sample["label"]:
                assert 3 <= sample["mask"].sum() < 800


def test_ood_shows_new_things_in_the_test_only() -> None:
    assert all(s["kind"] == "good" and s["category"] >= 0 for s in samples("ood"))
    tested = samples("ood", 8, "test")
    assert {s["kind"] for s in tested} == {"good", "shape", "texture"}
    assert all((s["category"] < 0) == (s["kind"] == "shape") for s in tested)


def test_classes_are_all_drawn() -> None:
    drawn = torch.stack([s["label"] for s in samples("classification", 80, size=16)])
    assert len(drawn.unique()) == 10


def grid(height: int, width: int) -> Tensor:
    """Pixel coordinates (2, height, width): column, row."""
    v, u = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([u, v])


@pytest.mark.parametrize("what", LABELS)
def test_every_label_can_be_drawn(what: str) -> None:
    data = load(
        Request(f"scenes:{what}", what, (16, 24)), n="2", **({"frames": "2"} if what == "video" else {})
    )
    assert isinstance(data.test, SceneSamples)
    drawn = data.test.panels(data.test[1])
    assert drawn
    assert all(panel.image.shape == (16, 24, 3) and panel.image.dtype == "uint8" for panel in drawn)


def test_a_table_holds_what_is_seen_of_the_main_thing() -> None:
    mask = torch.zeros(20, 40, dtype=torch.bool)
    mask[4:16, 10:13] = True
    area, width, height, fill, elongation, uprightness, x, y = morphometry(mask).tolist()
    assert (area, width, height, fill) == pytest.approx((36 / 800, 3 / 40, 12 / 20, 1))
    assert (elongation, uprightness) == pytest.approx((1 - 3 / 12, 1))
    assert (x, y) == pytest.approx((11.5 / 40, 10 / 20))
    assert morphometry(mask.T)[5] == pytest.approx(-1)
    assert not morphometry(torch.zeros(4, 4, dtype=torch.bool)).any()


def test_a_table_has_a_column_for_each_number_of_a_row() -> None:
    data = load(Request("scenes:table", "table", (32, 32)), n="40", noise="2")
    table = torch.stack([data.train[i]["table"] for i in range(40)])
    assert table.shape == (40, len(data.info.columns))
    assert [column.name for column in data.info.columns][-3:] == ["texture", "noise 1", "noise 2"]
    for place, column in enumerate(data.info.columns):
        if column.choices:
            assert table[:, place].long().unique().max() < len(column.choices)
