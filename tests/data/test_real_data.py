"""Real photographs, where `PINAKES_TEST_DATA` names a folder of them."""

from pathlib import Path

import pytest

from pinakes.data import load_data
from pinakes.data.layouts import recognise
from pinakes.data.summary import describe


@pytest.mark.slow
def test_every_folder_of_real_data_loads(test_data: Path) -> None:
    for folder in sorted(test_data.iterdir()):
        assert recognise(folder)[0] in {"mvtec", "folder", "coco"}
        found = describe(load_data(folder, skip_bad=True))
        assert found["splits"]["train"]["count"] > 0
        assert 0 <= found["values"]["low"] < found["values"]["high"] <= 1
