import numpy as np
import pytest

from pinakes.report.pictures import GAP, SMALLEST, fitted, strip
from pinakes.tasks.base import Panel


def panel(height: int, width: int, value: int = 0, caption: str = "") -> Panel:
    return Panel(np.full((height, width, 3), value, dtype=np.uint8), caption)


def test_panels_stand_side_by_side_at_one_height() -> None:
    picture = np.asarray(strip([panel(200, 100, 10), panel(100, 100, 90)]))
    assert picture.shape[1] == 100 + 200 + 3 * GAP
    assert (picture[GAP : GAP + 200, GAP : GAP + 100] == 10).all()
    assert (picture[GAP : GAP + 200, 2 * GAP + 100 : 2 * GAP + 300] == 90).all()


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[:4] = 200
    picture = np.asarray(strip([Panel(image, "")]))
    assert set(np.unique(picture[GAP : GAP + SMALLEST, GAP : GAP + SMALLEST])) == {0, 200}


def test_caption_is_drawn_and_cut_to_its_picture() -> None:
    plain, drawn = (np.asarray(strip([panel(160, 160, caption=words)])) for words in ("", "score " * 99))
    assert plain.shape == drawn.shape
    assert (plain != drawn).any()
    assert fitted("score 0.5", 160) == "score 0.5"
    assert fitted("score " * 99, 160).endswith("…")


def test_no_panel_is_an_error() -> None:
    with pytest.raises(ValueError, match="panels: expected at least one"):
        strip([])
