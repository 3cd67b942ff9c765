"""What a task states is what batches and predictions are held to."""

import pytest
import torch

from pinakes import UserError, tasks
from pinakes.data.base import DataInfo
from pinakes.tasks.base import IMAGE, Field, check_fields

FIELDS = {
    "image": IMAGE,
    "label": Field("class", "batch", torch.int64, 0, 9),
    "boxes": Field("boxes", "batch boxes 4", ragged=True, optional=True),
    "kind": Field("kind", "batch", str, optional=True),
}


def batch(**changes: object) -> dict[str, object]:
    return {"image": torch.rand(2, 3, 8, 8), "label": torch.tensor([0, 9]), "kind": ["a", "b"], **changes}


def test_a_batch_as_stated_passes() -> None:
    check_fields(FIELDS, batch(boxes=[torch.rand(3, 4), torch.rand(0, 4)]), {"channels": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(2, 1, 8, 8)}, "image: expected 3 channels, got 1"),
        ({"image": torch.rand(3, 8, 8)}, "image: expected 4 dimensions"),
        ({"image": torch.full((2, 3, 8, 8), torch.nan)}, "image: holds NaN"),
        ({"image": torch.rand(2, 3, 8, 8) * 255}, "image: expected values from 0.0 to 1.0"),
        ({"image": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "divide 8-bit images by 255"),
        ({"label": torch.tensor([1])}, "label: expected 2 batch, got 1"),
        ({"label": torch.tensor([1, 10])}, "label: expected values"),
        ({"label": torch.tensor([1.0, 2.0])}, "label: expected torch.int64"),
        ({"kind": ["a"]}, "kind: expected 2 batch, got 1"),
        ({"boxes": [torch.rand(3, 5), torch.rand(1, 4)]}, "boxes: expected 4 "),
    ],
)
def test_what_is_not_as_stated_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fields(FIELDS, batch(**changes), {"channels": 3})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="label: missing"):
        check_fields(FIELDS, {"image": torch.rand(1, 3, 8, 8)}, {})


def test_ragged_fields_are_collated_into_lists() -> None:
    task = tasks.get("anomaly")
    samples = [{"image": torch.rand(3, 8, 8), "label": 0, "kind": "good"}] * 2
    collated = task.collate(samples)
    assert collated["image"].shape == (2, 3, 8, 8)
    assert collated["kind"] == ["good", "good"]


def test_a_misspelt_task_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'anomaly'"):
        tasks.get("anomoly")


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_states_itself_whole(name: str) -> None:
    task = tasks.get(name)
    assert task.name == name
    assert task.headline in task.metrics
    assert task.prediction
    for stated in (*task.inputs.values(), *task.truth.values(), *task.prediction.values()):
        assert stated.about
    task.meter(DataInfo())
