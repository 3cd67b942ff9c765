import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pinakes.data import TaskData, load_data
from pinakes.data.base import Sample
from pinakes.data.summary import contact_sheet, describe
from pinakes.tasks import get

Writer = Callable[..., Path]


def test_a_description_is_plain_json(parts: Path) -> None:
    found = describe(load_data(parts))
    assert json.loads(json.dumps(found)) == found
    assert found["layout"].startswith("MVTec AD layout")
    assert found["splits"]["test"] == {
        "count": 3,
        "counted": 3,
        "classes": {"normal": 1, "anomalous": 2},
        "kinds": {"good": 1, "scratch": 2},
    }
    assert found["native_sizes"] == [{"height": 12, "width": 16, "count": 6}]
    assert found["masks"] == {"samples": pytest.approx(2 / 6, abs=1e-4), "pixels": 0.25}
    assert found["values"]["low"] == pytest.approx(0, abs=0.02)
    assert found["values"]["high"] == pytest.approx(1, abs=0.02)
    assert found["skipped"] == []


def test_means_are_those_of_the_pixels() -> None:
    data = load_data("faces")
    pixels = np.stack([sample["image"].numpy() for sample in data.train])
    found = describe(replace(data, val=None, test=None))
    assert found["values"]["mean"] == pytest.approx(pixels.mean((0, 2, 3)), abs=0.02)
    assert found["values"]["std"] == pytest.approx(pixels.std((0, 2, 3)), abs=0.02)


def test_files_left_out_are_listed_with_the_reason(parts: Path) -> None:
    (parts / "train/good/0.png").write_bytes(b"")
    found = describe(load_data(parts, skip_bad=True))
    assert found["skipped"] == [{"path": str(parts / "train/good/0.png"), "reason": "is empty (0 bytes)"}]


def test_sets_without_labels_or_masks_have_no_counts_of_them(write: Writer, tmp_path: Path) -> None:
    write("a.png")
    found = describe(load_data(tmp_path))
    assert found["splits"]["train"] == {"count": 1, "counted": 1, "classes": {}, "kinds": {}}
    assert found["masks"] is None


class Plain:
    """A data set that states nothing but its samples."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def test_of_a_set_that_states_no_labels_the_samples_are_counted() -> None:
    data = load_data("textures?n=12&size=16")
    plain = replace(data, test=Plain(list(data.test)))
    assert describe(plain)["splits"] == describe(data)["splits"]
    assert contact_sheet(plain).size == contact_sheet(data).size


def test_a_sheet_has_a_row_for_every_kind_of_every_split(parts: Path) -> None:
    sheet = contact_sheet(load_data(parts))
    fewer = contact_sheet(replace(load_data(parts), test=None))
    assert sheet.mode == "RGB"
    assert sheet.width == fewer.width
    assert sheet.height - fewer.height > 2 * 128


def test_masks_are_outlined(parts: Path) -> None:
    with_masks = np.array(contact_sheet(load_data(parts)))
    mark = (with_masks == (255, 64, 32)).all(-1).sum()
    assert mark > 2 * 80
    for mask in (parts / "ground_truth/scratch").iterdir():
        mask.unlink()
    assert not (np.array(contact_sheet(load_data(parts))) == (255, 64, 32)).all(-1).any()


def test_a_task_draws_the_samples_its_own_way() -> None:
    data = load_data("textures?n=4&size=16", task="anomaly")
    assert contact_sheet(data, get("anomaly")) != contact_sheet(data)


def test_many_kinds_are_cut_short(write: Writer, tmp_path: Path) -> None:
    for i in range(30):
        write(f"class{i:02d}/1.png", (4, 4))
    data = load_data(tmp_path)
    assert contact_sheet(data).height < 12 * 160 + 200


def test_boxes_are_drawn(write: Writer, tmp_path: Path) -> None:
    for i in range(2):
        write(f"{i}.png")
    document = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(2)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 8, 6]} for i in range(2)],
        "categories": [{"id": 1, "name": "nut"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(document))
    data: TaskData = load_data(tmp_path)
    assert describe(data)["splits"]["train"]["classes"] == {"nut": 1}
    blue = np.array(contact_sheet(data)) == (31, 119, 180)
    assert blue.all(-1).sum() > 100
