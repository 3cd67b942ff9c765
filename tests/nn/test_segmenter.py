"""The segmenter's shapes, levels and gradients."""

import pytest
import torch
from torch.nn import functional

from pinakes.nn.segmenter import ImageSegmenter, resized


@pytest.mark.parametrize(
    ("backbone", "width", "map_size"),
    [
        ("pinakes/tiny_conv", 64, (8, 12)),
        ("pinakes/resnet8s2", 16, (16, 24)),
        ("pinakes/tiny_vit", 128, (4, 6)),
        ("timm/resnet18@random", 128, (4, 6)),
    ],
)
def test_embeds_on_the_finest_level_and_answers_at_every_pixel(
    backbone: str, width: int, map_size: tuple[int, int]
) -> None:
    segmenter = ImageSegmenter(backbone, classes=5, channels=1).eval()
    image = torch.rand(2, 1, 32, 48)
    assert segmenter.width == width
    assert segmenter.embed(image).shape == (2, width, *map_size)
    assert segmenter(image).shape == (2, 5, 32, 48)


def test_every_level_counts_and_gets_gradients() -> None:
    torch.manual_seed(0)
    segmenter = ImageSegmenter("pinakes/resnet8s2", classes=3, width=24)
    assert segmenter.width == 24
    functional.cross_entropy(segmenter(torch.rand(2, 3, 32, 32)), torch.randint(3, (2, 32, 32))).backward()
    for name, parameter in segmenter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_embedding_is_a_sum_over_levels() -> None:
    segmenter = ImageSegmenter("pinakes/resnet8s2", classes=3).eval()
    image = torch.rand(1, 3, 32, 32)
    total = torch.zeros(1, 16, 16, 16)
    for lateral, level in zip(segmenter.laterals, segmenter.backbone(image), strict=True):
        total += functional.interpolate(lateral(level), (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmenter.embed(image), segmenter.mix(total))


def test_maps_of_the_right_size_are_returned_as_they_are() -> None:
    maps = torch.rand(1, 2, 4, 4)
    assert resized(maps, (4, 4)) is maps
    assert resized(maps, (8, 6)).shape == (1, 2, 8, 6)
