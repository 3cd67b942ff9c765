"""The order of samples and their draws follow from seed and position."""

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from pinakes import UserError
from pinakes.data.base import Sample
from pinakes.engine.loading import Position, TrainingLoader, validation_loader


class Numbers:
    """Each sample is its own number and a draw."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return {"index": index, "draw": torch.rand(())}


def loader(count: int = 20, **settings: Any) -> TrainingLoader:
    return TrainingLoader(Numbers(count), default_collate, **{"batch_size": 6, "seed": 3} | settings)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def test_an_epoch_gives_each_sample_once_and_the_next_another_order() -> None:
    batches = loader()
    first, second = indices(batches), indices(batches)
    assert [len(batch) for batch in first] == [6, 6, 6, 2]
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(20))
    assert first != second


def test_a_rest_of_one_sample_is_left_out() -> None:
    assert [len(batch) for batch in indices(loader(19))] == [6, 6, 6]
    assert [len(batch) for batch in indices(loader(1))] == [1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_from_a_position_with_the_same_draws(workers: int) -> None:
    whole = loader()
    expected = [batch for _ in range(3) for batch in whole]
    resumed = loader(workers=workers)
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    found = [batch for _ in range(2) for batch in resumed]
    resumed.close()
    assert indices(found) == indices(expected[6:])
    for one, other in zip(found, expected[6:], strict=True):
        torch.testing.assert_close(one["draw"], other["draw"], rtol=0, atol=0)


def test_the_position_counts_batches_handed_out() -> None:
    batches = loader()
    positions = [batches.position for _ in batches]
    assert positions == [Position(0, 1), Position(0, 2), Position(0, 3), Position(1, 0)]


def test_processes_share_the_global_batches_of_one() -> None:
    joint = indices(loader(23, batch_size=6))
    parts = [indices(loader(23, batch_size=3, rank=rank, processes=2)) for rank in (0, 1)]
    together = [sorted(a + b) for a, b in zip(*parts, strict=True)]
    assert together[:3] == [sorted(batch) for batch in joint[:3]]
    assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]] == [3, 3, 3, 2]


def test_fewer_samples_than_devices_are_refused() -> None:
    with pytest.raises(UserError, match="2 training samples cannot be split over 3 devices"):
        loader(2, processes=3)


def test_validation_keeps_the_order_and_gives_every_process_as_many_batches() -> None:
    settings: dict[str, Any] = {"batch_size": 2, "seed": 0}
    assert indices(validation_loader(Numbers(5), default_collate, **settings)) == [[0, 1], [2, 3], [4]]
    shares = [
        indices(validation_loader(Numbers(5), default_collate, rank=rank, processes=2, **settings))
        for rank in (0, 1)
    ]
    assert shares == [[[0, 2], [4]], [[1, 3], [0]]]
