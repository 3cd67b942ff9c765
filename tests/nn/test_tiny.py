"""The embedded backbones: small, whole, of any size, and better than random weights."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from pinakes.nn.tiny import TINY_CONV_WEIGHTS, TINY_VIT_WEIGHTS

FILES = {"pinakes_tiny_conv": TINY_CONV_WEIGHTS, "pinakes_tiny_vit": TINY_VIT_WEIGHTS}
each_network = pytest.mark.parametrize("name", sorted(FILES))


def features(network: nn.Module, grey: np.ndarray, size: int = 32) -> np.ndarray:
    images = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return network((F.interpolate(images, (size, size), mode="bilinear") - mean) / std).numpy()


@each_network
def test_about_a_million_parameters_in_at_most_four_megabytes(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    assert 900_000 < parameters < 1_150_000
    assert FILES[name].stat().st_size <= 4_000_000


@each_network
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (64, 40), (97, 128)])
def test_any_size_from_32_pixels_on(name: str, size: tuple[int, int]) -> None:
    network = timm.create_model(name, pretrained=True, num_classes=5).eval()
    logits = network(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "widths", "strides"),
    [
        ("pinakes_tiny_conv", [32, 64, 112, 384], [2, 4, 8, 16]),
        ("pinakes_tiny_vit", [128, 128, 128], [8, 8, 8]),
    ],
)
def test_feature_maps_are_as_announced(name: str, widths: list[int], strides: list[int]) -> None:
    network = timm.create_model(name, pretrained=True, features_only=True).eval()
    assert network.feature_info.channels() == widths
    assert network.feature_info.reduction() == strides
    maps = network(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(widths, strides, strict=True)
    ]


@each_network
def test_grey_images_go_through_the_summed_first_convolution(name: str) -> None:
    grey = torch.rand(2, 1, 32, 32)
    one = timm.create_model(name, pretrained=True, in_chans=1).eval()(grey)
    three = timm.create_model(name, pretrained=True).eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-4)


@each_network
def test_pooled_features_are_whitened_and_maps_are_not(name: str) -> None:
    network = timm.create_model(name, pretrained=True).eval()
    maps = network.forward_features(torch.rand(2, 3, 32, 32))
    features = network.forward_head(maps)
    assert torch.equal(features, network.forward_head(maps, pre_logits=True))
    network.whitening = nn.Identity()
    assert not torch.allclose(features, network.forward_head(maps))


@each_network
def test_every_load_gives_the_same_features(name: str) -> None:
    image = torch.rand(1, 3, 40, 40)
    first, second = (timm.create_model(name, pretrained=True).eval()(image) for _ in range(2))
    assert torch.equal(first, second)


@each_network
def test_the_file_holds_exactly_the_tensors_of_the_network(name: str) -> None:
    stored = load_file(FILES[name])
    assert {key: value.shape for key, value in stored.items()} == {
        key: value.shape for key, value in timm.create_model(name).state_dict().items()
    }
    assert all(value.isfinite().all() for value in stored.values())


@each_network
def test_a_missing_tensor_is_refused(name: str, tmp_path) -> None:
    stored = load_file(FILES[name])
    stored.pop(sorted(stored)[0])
    save_file(stored, tmp_path / "part.safetensors")
    overlay = {"file": str(tmp_path / "part.safetensors")}
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(name, pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay)


@each_network
def test_nearest_neighbours_among_digits_are_better_than_with_random_weights(name: str) -> None:
    digits = load_digits()
    accuracy = {}
    for pretrained in (True, False):
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=pretrained).eval()
        found = features(network, digits.images / 16)
        neighbours = KNeighborsClassifier(5, metric="cosine").fit(found[:1000], digits.target[:1000])
        accuracy[pretrained] = neighbours.score(found[1000:], digits.target[1000:])
    assert accuracy[True] > accuracy[False] + 0.02, accuracy
