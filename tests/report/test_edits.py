"""Images of which a part is made anew, at sizes other than the method's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pinakes
from pinakes.method import Method
from pinakes.report.edits import fitted, write_edits
from pinakes.tasks.base import Batch, Prediction


class GreyFiller(Method):
    """Fills holes with grey, and has one answer only."""

    task_name = "inpainting"

    def learn(self, data: Any, plan: Any) -> None:
        """Learns nothing."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Grey in the holes."""
        return {"restored": torch.where(batch["hole"][:, None], 0.5, batch["image"])}


@pytest.fixture
def filler() -> GreyFiller:
    return GreyFiller().fit("digits?n=20&size=16")


def photo(folder: Path, size: tuple[int, int] = (40, 24)) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """An image with red in its hole and other colours around it, and the mask."""
    pixels = np.random.default_rng(0).integers(0, 200, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[7:23, 9:18] = 255
    pixels[mask > 0] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / "photo.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "photo.png", folder / "mask.png", pixels, mask > 0


def test_an_image_of_another_size_keeps_every_pixel_outside_the_hole(
    filler: GreyFiller, tmp_path: Path
) -> None:
    image, mask, pixels, marked = photo(tmp_path)
    written = write_edits(filler, image, mask, tmp_path / "new" / "edited.png")
    assert written.files == (tmp_path / "new" / "edited.png",)
    assert (written.size, written.filled_at) == ((40, 24), (16, 16))
    found = np.asarray(Image.open(written.files[0]))
    assert np.array_equal(found[~marked], pixels[~marked])
    # where only what was filled in counts
    assert np.abs(found[12:18, 12:15].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (10, 7), (64, 50)])
def test_nothing_of_what_is_marked_is_seen(size: tuple[int, int]) -> None:
    image = torch.rand(3, 40, 24, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(40, 24, dtype=torch.bool)
    hole[7:23, 9:18] = True
    one, missing = fitted(image.masked_fill(hole, 0.0), hole, size)
    other, _ = fitted(image.masked_fill(hole, 1.0), hole, size)
    assert torch.equal(one, other)
    assert one.shape == (3, *size)
    assert 0 < missing.sum() < missing.numel()
    assert not one[:, missing].any()


def test_an_even_image_stays_even_around_its_hole() -> None:
    hole = torch.zeros(40, 24, dtype=torch.bool)
    hole[7:23, 9:18] = True
    found, missing = fitted(torch.full((1, 40, 24), 0.3), hole, (16, 16))
    torch.testing.assert_close(found[:, ~missing], torch.full_like(found[:, ~missing], 0.3))


def test_a_hole_of_one_pixel_does_not_get_lost() -> None:
    hole = torch.zeros(200, 200, dtype=torch.bool)
    hole[77, 33] = True
    assert fitted(torch.rand(1, 200, 200), hole, (16, 16))[1].sum() == 1


def test_a_method_with_one_answer_says_so(filler: GreyFiller, tmp_path: Path) -> None:
    image, mask, _, _ = photo(tmp_path)
    with pytest.raises(pinakes.UserError, match="n: GreyFiller has one answer"):
        write_edits(filler, image, mask, tmp_path / "edited.png", n=2)


def test_a_mask_that_leaves_nothing_is_refused(filler: GreyFiller, tmp_path: Path) -> None:
    image, mask, _, _ = photo(tmp_path)
    Image.fromarray(np.full((40, 24), 255, dtype=np.uint8)).save(mask)
    with pytest.raises(pinakes.UserError, match="leaves nothing of the image"):
        write_edits(filler, image, mask, tmp_path / "edited.png")
