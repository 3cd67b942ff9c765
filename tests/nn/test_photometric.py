import math
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as theirs

from pinakes.nn.photometric import GREY, blurred, greyed, jittered, recoloured, relit, solarised

ONE, NOTHING = torch.ones(4), torch.zeros(4)
FACTORS = torch.tensor([0.3, 0.8, 1.0, 1.7])
LUMA = 2e-4
"""By how much a grey may differ, as theirs weighs red by 0.2989."""


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, 12, 20, generator=torch.Generator().manual_seed(0))


def changed_by_torchvision(name: str, image: torch.Tensor) -> torch.Tensor:
    change = getattr(theirs, f"adjust_{name}")
    return torch.stack([change(one, float(by)) for one, by in zip(image, FACTORS, strict=True)])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_one_change_is_that_of_torchvision(name: str) -> None:
    factors = {each: FACTORS if each == name else ONE for each in ("brightness", "contrast", "saturation")}
    found = recoloured(images(), **factors, hue=NOTHING)
    torch.testing.assert_close(found, changed_by_torchvision(name, images()), atol=LUMA, rtol=0)


def test_changes_one_after_the_other_are_those_of_torchvision() -> None:
    mild = 0.4 + 0.1 * images()  # nothing is cut off in between
    expected = mild
    for name in ("brightness", "contrast", "saturation"):
        expected = changed_by_torchvision(name, expected)
    found = recoloured(mild, FACTORS, FACTORS, FACTORS, NOTHING)
    torch.testing.assert_close(found, expected, atol=2 * LUMA, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_images_without_colours_change_as_in_torchvision(name: str) -> None:
    factors = {each: FACTORS if each == name else ONE for each in ("brightness", "contrast")}
    found = relit(images(1), **factors)
    torch.testing.assert_close(found, changed_by_torchvision(name, images(1)), atol=1e-6, rtol=0)


def test_hue_keeps_luma_and_distance_from_grey() -> None:
    mild = 0.4 + 0.2 * images()
    found = recoloured(mild, ONE, ONE, ONE, torch.tensor([-0.4, -0.1, 0.2, 0.5]))
    weights = torch.tensor(GREY).view(3, 1, 1)
    torch.testing.assert_close((found * weights).sum(1), (mild * weights).sum(1), atol=1e-5, rtol=0)
    assert (found - mild).abs().amax((1, 2, 3)).min() > 0.01
    grey = torch.full((4, 3, 12, 20), 0.37)
    torch.testing.assert_close(recoloured(grey, ONE, ONE, ONE, FACTORS / 4), grey, atol=1e-5, rtol=0)


def test_a_turn_of_the_hue_is_taken_back_by_its_opposite() -> None:
    mild = 0.4 + 0.2 * images()
    turned = recoloured(mild, ONE, ONE, ONE, FACTORS / 4)
    torch.testing.assert_close(recoloured(turned, ONE, ONE, ONE, -FACTORS / 4), mild, atol=1e-5, rtol=0)


def test_jitter_changes_the_share_that_is_asked_for_each_in_its_own_way() -> None:
    torch.manual_seed(0)
    same = images()[:1].expand(400, -1, -1, -1)
    found = jittered(same, share=0.8)
    changed = (found - same).abs().amax((1, 2, 3)) > 1e-4
    assert changed.float().mean() == pytest.approx(0.8, abs=0.06)
    assert len(found[changed].flatten(1).unique(dim=0)) == changed.sum()
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(jittered(same, share=0.0), recoloured(same, *torch.ones(3, 400), torch.zeros(400)))


def test_jitter_of_no_strength_changes_nothing() -> None:
    for channels in (1, 3, 4):
        found = jittered(images(channels), 0.0, 0.0, 0.0, 0.0, share=1.0)
        torch.testing.assert_close(found, images(channels), atol=1e-6, rtol=0)


def test_grey_images_are_those_of_torchvision() -> None:
    expected = theirs.rgb_to_grayscale(images(), 3)
    torch.testing.assert_close(greyed(images(), 1.0), expected, atol=LUMA, rtol=0)
    assert torch.equal(greyed(images(), 0.0), images())
    assert torch.equal(greyed(images(2), 1.0), images(2))


def test_solarised_images_are_those_of_torchvision() -> None:
    torch.testing.assert_close(solarised(images(), 1.0), theirs.solarize(images(), 0.5))
    assert torch.equal(solarised(images(), 0.0), images())


@pytest.mark.parametrize("size", [(12, 20), (64, 48)])
def test_blurred_images_are_those_of_torchvision(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    side = 2 * max(1, min(size) // 20) + 1
    expected = theirs.gaussian_blur(image, [side, side], [1.3, 1.3])
    torch.testing.assert_close(blurred(image, 1.0, (1.3, 1.3)), expected, atol=1e-6, rtol=0)
    assert torch.equal(blurred(image, 0.0), image)


@pytest.mark.parametrize("change", [greyed, solarised, blurred])
def test_the_share_of_changed_images_is_the_one_asked_for(change: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    image = torch.rand(1000, 3, 8, 8)
    share = (change(image, 0.3) != image).flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(0.3, abs=3 * math.sqrt(0.3 * 0.7 / 1000))


@pytest.mark.parametrize("change", [jittered, greyed, solarised, blurred])
def test_the_seed_decides_and_the_input_stays(change: Callable[..., torch.Tensor]) -> None:
    given = images()
    torch.manual_seed(3)
    first = change(given)
    torch.manual_seed(3)
    assert torch.equal(first, change(given))
    assert torch.equal(given, images())
