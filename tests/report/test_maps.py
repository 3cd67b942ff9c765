from pathlib import Path

import numpy as np
import pytest
import torch

from pinakes.report.maps import MapFile, from_afar


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    values = torch.rand(23, 31, generator=torch.Generator().manual_seed(0))
    file = MapFile(tmp_path / "map.npy", values.shape)
    for rows in values.split(5):
        file.write(rows)
    stored = np.load(file.close())
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, values.numpy(), rtol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["map.npy"]


@pytest.mark.parametrize("place", [0, 12, 22])
def test_a_value_beyond_float16_makes_all_float32(place: int, tmp_path: Path) -> None:
    values = torch.rand(23, 31, generator=torch.Generator().manual_seed(0))
    values[place, 3] = -1e6
    file = MapFile(tmp_path / "map.npy", values.shape)
    for rows in values.split(5):
        file.write(rows)
    stored = np.load(file.close())
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, values.numpy(), rtol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["map.npy"]


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    file = MapFile(tmp_path / "map.npy", (4, 4))
    file.write(torch.zeros(2, 4))
    file.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 3, 8, 100])
def test_peaks_stay_visible_from_afar(step: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((21, 13)).astype(np.float16)
    np.save(tmp_path / "map.npy", values)
    expected = [
        [values[y : y + step, x : x + step].max() for x in range(0, 13, step)] for y in range(0, 21, step)
    ]
    np.testing.assert_array_equal(from_afar(tmp_path / "map.npy", step), np.array(expected, np.float32))
