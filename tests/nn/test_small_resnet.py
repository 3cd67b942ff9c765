import pytest
import timm
import torch

from pinakes.nn.backbones import FeatureExtractor, without_weights
from pinakes.nn.small_resnet import SHAPES, SmallResNet


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("resnet56", 56)])
def test_a_network_has_as_many_layers_as_its_name_says(name: str, layers: int) -> None:
    network = SmallResNet(**SHAPES[name], num_classes=10)
    kernels = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(kernels) + 1 == layers


def test_resnet20_has_the_papers_number_of_parameters() -> None:
    # 0.27 million, table 6 of He et al.; ours has two projections more
    parameters = sum(p.numel() for p in SmallResNet(**SHAPES["resnet20"], num_classes=10).parameters())
    assert round(parameters / 1e6, 2) == 0.27


@pytest.mark.parametrize("name", SHAPES)
def test_levels_have_the_widths_and_strides_that_are_stated(name: str) -> None:
    extract = FeatureExtractor(f"pinakes/{name}", layers=(0, 1, 2), channels=1)
    levels = extract(torch.rand(1, 1, 16, 24))
    stated = [
        (width, 16 // stride, 24 // stride)
        for width, stride in zip(extract.widths, extract.strides, strict=True)
    ]
    assert [tuple(level.shape[1:]) for level in levels] == stated


def test_an_untrained_network_is_made_from_the_seed_whether_weights_are_wanted_or_not() -> None:
    torch.manual_seed(0)
    wanted = FeatureExtractor("pinakes/resnet8", layers=(-1,)).state_dict()
    torch.manual_seed(0)
    with without_weights():
        unwanted = FeatureExtractor("pinakes/resnet8", layers=(-1,)).state_dict()
    assert all(torch.equal(value, unwanted[name]) for name, value in wanted.items())


def test_timm_makes_them_too() -> None:
    network = timm.create_model("pinakes_resnet8", num_classes=5, in_chans=1)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 5)
