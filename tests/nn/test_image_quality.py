"""Distances of features and of pixels against closed forms."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from pinakes.nn.image_quality import PerceptualFeatures, perceptual_distance, region_psnr


def maps(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, width, 4, 5, generator=generator) for width in (2, 6)]


def test_the_perceptual_distance_is_twice_one_minus_the_cosine() -> None:
    one, other = maps(0), maps(1)
    expected = sum(
        (2 - 2 * torch.cosine_similarity(a, b, dim=1)).mean((1, 2)) for a, b in zip(one, other, strict=True)
    )
    assert torch.allclose(perceptual_distance(one, other), expected, atol=1e-5)


def test_the_perceptual_distance_of_opposite_features_is_4_for_each_level() -> None:
    one = maps(0)
    assert torch.allclose(perceptual_distance(one, [-each for each in one]), torch.tensor(8.0))
    assert torch.equal(perceptual_distance(one, one), torch.zeros(3))


def test_the_length_of_features_counts_for_nothing() -> None:
    one = maps(0)
    assert perceptual_distance(one, [7 * each for each in one]).max() < 1e-6


def test_blurred_images_are_further_than_slightly_brighter_ones_of_the_same_error() -> None:
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    brighter = image + (blurred - image).square().mean((1, 2, 3), keepdim=True).sqrt()
    network = PerceptualFeatures()
    true = network(image)
    assert (
        perceptual_distance(network(blurred), true) > 2 * perceptual_distance(network(brighter), true)
    ).all()


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (17, 40)), (5, (64, 48))])
def test_images_of_any_form_have_features_at_four_levels(channels: int, size: tuple[int, int]) -> None:
    found = PerceptualFeatures()(torch.rand(2, channels, *size))
    assert [each.shape[1] for each in found] == [32, 64, 112, 384]
    assert min(found[0].shape[2:]) >= 16


def test_gradients_reach_the_image_and_the_network_stays_as_it_is() -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    network = PerceptualFeatures().train()
    perceptual_distance(network(image), network(image.detach() * 0.5)).sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    assert not any(each.requires_grad for each in network.parameters())
    assert not network.network.training


def test_the_ratio_in_a_region_is_that_of_its_pixels_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, image = (torch.rand(3, 2, 6, 7, generator=generator) for _ in range(2))
    region = torch.rand(3, 6, 7, generator=generator) < 0.4
    found = region_psnr(image, clean, region)
    for place in range(3):
        error = (image[place][:, region[place]] - clean[place][:, region[place]]).square().mean().item()
        assert found[place].item() == pytest.approx(-10 * math.log10(error), abs=1e-4)


def test_the_ratio_of_the_whole_image_is_that_of_torchmetrics() -> None:
    clean, image = torch.rand(2, 3, 6, 7), torch.rand(2, 3, 6, 7)
    expected = peak_signal_noise_ratio(image, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(region_psnr(image, clean, torch.ones(2, 6, 7, dtype=torch.bool)), expected)


def test_perfect_pixels_have_100_decibels_and_an_empty_region_has_none() -> None:
    clean = torch.rand(2, 1, 4, 4)
    region = torch.zeros(2, 4, 4, dtype=torch.bool)
    region[0] = True
    found = region_psnr(clean, clean, region)
    assert found[0] == 100
    assert found[1].isnan()
