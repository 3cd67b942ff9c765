import pytest
import torch
from torchvision.transforms.functional import resize

from pinakes.nn.crops import cropped, random_boxes, randomly_cropped


def test_boxes_have_the_area_and_proportions_that_are_asked_for() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(4000, (30, 60), (0.1, 0.4))
    wide, tall = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    assert (boxes >= 0).all()
    assert (boxes <= 1 + 1e-6).all()
    inside = (tall < 1) & (wide < 1)
    area, proportion = (wide * tall)[inside], (2 * wide / tall)[inside]
    assert area.min() > 0.1 - 1e-4
    assert area.max() < 0.4 + 1e-4
    assert area.mean() == pytest.approx(0.25, abs=0.02)
    assert proportion.min() > 0.75 - 1e-3
    assert proportion.max() < 4 / 3 + 1e-3
    assert (boxes[:, 0] / (1 - wide)).mean() == pytest.approx(0.5, abs=0.03)


def test_a_crop_is_what_slicing_and_resizing_give() -> None:
    image = torch.rand(1, 3, 16, 16)
    found = cropped(image, torch.tensor([[0.25, 0.5, 0.75, 1.0]]), (16, 16))
    expected = resize(image[..., 8:, 4:12], [16, 16], antialias=False)
    # at the border the neighbouring pixels of the whole image are seen
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_random_crops_follow_the_seed_and_keep_the_range() -> None:
    image = torch.rand(4, 1, 20, 12)
    torch.manual_seed(3)
    first = randomly_cropped(image)
    torch.manual_seed(3)
    assert torch.equal(first, randomly_cropped(image))
    assert first.shape == image.shape
    assert randomly_cropped(image, size=(8, 9)).shape == (4, 1, 8, 9)
    assert first.min() >= 0
    assert first.max() <= 1
