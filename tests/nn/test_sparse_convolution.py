import copy

import pytest
import torch
from torch import Tensor, nn

import pinakes
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.sparse_convolution import Sites, SparseBatchNorm2d, sparse


def convolved_site_by_site(layer: nn.Conv2d, features: Tensor, active: Tensor) -> Tensor:
    """The convolution at active places alone, of active neighbours alone, as a sparse library computes it."""
    stride, (reach, _) = layer.stride[0], layer.padding
    batch, _, rows, columns = features.shape
    found = torch.zeros(batch, layer.out_channels, rows // stride, columns // stride, dtype=features.dtype)
    fine = (
        active[:, 0]
        .repeat_interleave(rows // active.shape[2], 1)
        .repeat_interleave(columns // active.shape[3], 2)
    )
    coarse = fine[:, ::stride, ::stride]
    for image, row, column in coarse.nonzero().tolist():
        for down in range(layer.kernel_size[0]):
            for across in range(layer.kernel_size[1]):
                i, j = row * stride + down - reach, column * stride + across - reach
                if 0 <= i < rows and 0 <= j < columns and fine[image, i, j]:
                    found[image, :, row, column] += (
                        layer.weight[:, :, down, across] @ features[image, :, i, j]
                    )
    return found


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sparse_convolution_is_one_of_visible_sites(stride: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride, 1, bias=False), nn.Conv2d(4, 5, 3, 1, 1, bias=False)
    ).double()
    sites = sparse(network)
    sites.active = torch.rand(2, 1, 2, 3) < 0.5
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    image = image * sites.at(image)
    first, second = network
    with torch.no_grad():
        expected = convolved_site_by_site(first, image, sites.active)
        expected = convolved_site_by_site(second, expected, sites.active)
        torch.testing.assert_close(network(image), expected)


def test_batch_statistics_are_those_of_visible_sites() -> None:
    torch.manual_seed(0)
    layer = SparseBatchNorm2d(4).double()
    layer.sites = Sites()
    layer.sites.active = torch.tensor([[[[True, False], [False, True]]], [[[False, False], [True, True]]]])
    features = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    seen = layer.sites.at(features)[:, 0]
    rows = features.movedim(1, -1)[seen]
    expected = torch.zeros_like(features).movedim(1, -1)
    plain = nn.BatchNorm1d(4).double()
    expected[seen] = plain(rows)
    torch.testing.assert_close(layer(features), expected.movedim(-1, 1))
    torch.testing.assert_close(layer.running_var, plain.running_var)
    expected[seen] = plain.eval()(rows)
    torch.testing.assert_close(layer.eval()(features), expected.movedim(-1, 1))


@pytest.mark.parametrize("name", ["pinakes/resnet20s2", "timm/resnet18@random"])
def test_what_is_hidden_changes_nothing_and_nothing_leaks(name: str) -> None:
    torch.manual_seed(0)
    network = FeatureExtractor(name, (-3, -2, -1)).network.eval()
    sites = sparse(network)
    image = torch.rand(2, 3, 64, 64)
    sites.active = torch.tensor([[True, False], [False, True]]).expand(2, 1, 2, 2)
    seen = sites.at(image)
    with torch.no_grad():
        levels = network(image * seen)
    assert all((level[~sites.at(level).expand_as(level)] == 0).all() for level in levels)
    assert all((level[sites.at(level).expand_as(level)] != 0).any() for level in levels)


def test_without_a_mask_it_is_the_network_that_it_was() -> None:
    network = FeatureExtractor("timm/resnet18@random", (-1,)).network.eval()
    plain = copy.deepcopy(network)
    sparse(network)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(image)[0], plain(image)[0])
    assert list(network.state_dict()) == list(plain.state_dict())


def test_a_copy_looks_at_sites_of_its_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    sites = sparse(network)
    other = copy.deepcopy(network)
    sites.active = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    assert network(torch.rand(1, 3, 4, 4)).abs().sum() == 0
    assert other(torch.rand(1, 3, 4, 4)).abs().sum() > 0


def test_normalisations_over_places_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="a GroupNorm, cannot be computed at some places only"):
        sparse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)))


def test_maps_that_are_no_multiple_of_the_mask_are_refused() -> None:
    sites = Sites()
    sites.active = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="does not fit a mask"):
        sites.at(torch.rand(1, 2, 8, 8))
