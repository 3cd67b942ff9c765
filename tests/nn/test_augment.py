import torch

from pinakes.nn.augment import flipped, mixed, shifted


def test_each_image_is_moved_by_its_own_whole_number_of_pixels() -> None:
    torch.manual_seed(0)
    height, width = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    image = torch.stack([height, width])[None].expand(64, -1, -1, -1)
    moved = shifted(image)
    down, right = (moved - image)[:, 0, 8, 12], (moved - image)[:, 1, 8, 12]
    assert set(down.tolist()) == set(right.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    inside = (moved - image)[:, :, 4:-4, 4:-4]
    expected = torch.stack([down, right], dim=1)[:, :, None, None].expand_as(inside)
    assert torch.equal(inside, expected)
    assert (moved[:, 0].amax((1, 2)) <= 15).all()


def test_an_image_too_small_to_move_stays() -> None:
    image = torch.rand(2, 3, 7, 7)
    assert torch.equal(shifted(image), image)


def test_about_half_the_images_are_mirrored_and_the_others_left_alone() -> None:
    torch.manual_seed(0)
    image = torch.rand(200, 1, 4, 6)
    found = flipped(image)
    same = (found == image).flatten(1).all(1)
    mirrored = (found == image.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


def test_mixing_keeps_the_stated_share_of_each_image() -> None:
    image = torch.rand(3, 1, 2, 2)
    share = torch.tensor([1.0, 0.25, 0.0])
    found = mixed(image, share)
    torch.testing.assert_close(found[0], image[0])
    torch.testing.assert_close(found[1], 0.25 * image[1] + 0.75 * image[0])
    torch.testing.assert_close(found[2], image[1])
