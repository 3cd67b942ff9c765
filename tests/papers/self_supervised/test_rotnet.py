import math

import pytest
import torch

import pinakes
from pinakes.papers.self_supervised.rotnet import RotNet, rotation_loss, turned

INFO = pinakes.DataInfo(3, (32, 32))


def test_each_turn_is_exact_and_counter_clockwise() -> None:
    image = torch.rand(2, 3, 8, 8)
    turns = turned(image).chunk(4)
    assert torch.equal(turns[0], image)
    for before, after in zip(turns, (*turns[1:], turns[0]), strict=True):
        # what was in the last column, from the top, is in the first row, from the left
        assert torch.equal(after[:, :, 0], before[:, :, :, -1])
        assert torch.equal(after, before.transpose(2, 3).flip(2))


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image: only square images .* 8x12"):
        turned(torch.rand(1, 3, 8, 12))
    with pytest.raises(pinakes.UserError, match=r"size: .* square, .* 32x48; .* \?size=32"):
        RotNet().prepare(pinakes.DataInfo(3, (32, 48)))


def test_loss_is_the_mean_over_images_of_the_mean_over_their_turns() -> None:
    torch.manual_seed(0)
    logits = torch.randn(12, 4)  # three images
    naive = 0.0
    for image in range(3):
        for turn in range(4):
            row = logits[turn * 3 + image].tolist()
            naive -= math.log(math.exp(row[turn]) / sum(math.exp(each) for each in row)) / 4 / 3
    assert rotation_loss(logits).item() == pytest.approx(naive, abs=1e-6)


def test_all_four_turns_of_an_image_are_in_one_batch() -> None:
    method = RotNet().prepare(INFO)
    seen = []
    method.encoder.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    image = torch.rand(2, 3, 32, 32)
    method.loss(image)
    assert torch.equal(seen[0], turned(image))


@pytest.mark.parametrize(("level", "width", "side"), [(-1, 64, 4), (-2, 32, 8), (-3, 16, 16)])
def test_features_are_those_of_the_chosen_level(level: int, width: int, side: int) -> None:
    method = RotNet(level=level).prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    found = method.encode(image)
    assert found["features"].shape == (2, width, side, side)
    torch.testing.assert_close(found["embedding"], found["features"].mean((2, 3)))
    torch.testing.assert_close(found["features"], method.as_backbone((3 + level,)).eval()(image)[0])


def test_the_loss_is_the_same_whichever_level_is_read() -> None:
    image, losses = torch.rand(2, 3, 32, 32), []
    for level in (-1, -2):
        torch.manual_seed(0)
        losses.append(RotNet(level=level).prepare(INFO).eval().loss(image))
    assert losses[0] == losses[1]


def test_levels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="level: expected a number below 0"):
        RotNet(level=1)
    with pytest.raises(pinakes.UserError, match="backbone"):
        RotNet(level=-9).prepare(INFO)
