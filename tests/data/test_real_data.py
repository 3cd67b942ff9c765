"""Real photographs, where `PINAKES_TEST_DATA` names a folder of them."""

from pathlib import Path

import pytest

from pinakes.data import load_data
from pinakes.data.layouts import recognise
from pinakes.data.summary import describe


@pytest.mark.slow
def test_every_folder_of_real_data_loads(test_data: Path) -> None:
    folders = [path for path in sorted(test_data.iterdir()) if path.is_dir()]
    assert folders, f"{test_data} holds no folders"
    for folder in folders:
        assert recognise(folder) in {"mvtec", "folder", "coco"}
        found = describe(load_data(folder, skip_bad=True))
        assert found["splits"]["train"]["count"] > 0
        assert 0 <= found["values"]["low"] < found["values"]["high"] <= 1
