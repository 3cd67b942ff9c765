"""Backbones by name, with weights from wherever the name says."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import pinakes
from pinakes import UserError
from pinakes.nn.backbones import FeatureExtractor, without_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "resnet18.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model("resnet18").state_dict(), path)
    return path


def test_levels_have_the_stated_widths_and_strides() -> None:
    extract = FeatureExtractor("timm/resnet18@random", layers=(1, 3))
    assert (extract.widths, extract.strides) == ([64, 256], [4, 16])
    shapes = [tuple(level.shape) for level in extract(torch.rand(2, 3, 64, 96))]
    assert shapes == [(2, 64, 16, 24), (2, 256, 4, 6)]


def test_images_are_normalised_as_the_weights_expect() -> None:
    extract = FeatureExtractor("timm/resnet18@random")
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert torch.equal(extract(grey)[0], extract.network(torch.zeros(1, 3, 32, 32))[0])


def test_weights_come_from_the_file_that_the_name_gives(weights: Path) -> None:
    image = torch.rand(1, 3, 32, 32)
    first, second = (FeatureExtractor(f"timm/resnet18@{weights}").freeze()(image) for _ in range(2))
    assert torch.equal(first[1], second[1])
    expected = timm.create_model("resnet18", features_only=True, out_indices=(2, 3))
    assert not torch.equal(FeatureExtractor("timm/resnet18@random").freeze()(image)[1], first[1])
    assert len(expected.feature_info.channels()) == 2


def test_weights_of_colour_networks_serve_one_channel(weights: Path) -> None:
    assert (
        FeatureExtractor(f"timm/resnet18@{weights}", channels=1)(torch.rand(1, 1, 32, 32))[0].shape[1] == 128
    )


def test_the_embedded_backbones_need_no_download() -> None:
    image = torch.rand(1, 3, 32, 32)
    for name in ("pinakes/tiny_conv", "pinakes/tiny_vit"):
        with_weights, without = FeatureExtractor(name), FeatureExtractor(f"{name}@random")
        assert not torch.equal(with_weights.freeze()(image)[0], without.freeze()(image)[0])


def test_inside_without_weights_none_are_loaded(tmp_path: Path) -> None:
    with without_weights():
        FeatureExtractor("timm/resnet18")


def test_a_frozen_network_stays_in_evaluation() -> None:
    extract = FeatureExtractor("timm/resnet18@random").freeze()
    torch.nn.Sequential(extract).train()
    assert not any(module.training for module in extract.modules())
    assert not any(module.training for module in copy.deepcopy(extract).train().modules())
    assert not any(parameter.requires_grad for parameter in extract.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pinakes/tinyconv", "did you mean 'pinakes/tiny_conv'"),
        ("timm/resnet81", "did you mean 'resnet18"),
        ("timm/resnet18@nowhere.safetensors", "nowhere.safetensors"),
        ("resnet18", "is unknown"),
    ],
)
def test_a_name_that_cannot_be_had_says_why(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureExtractor(name)


def test_a_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="backbone"):
        FeatureExtractor("timm/resnet18@random", layers=(2, 9))


def test_a_damaged_weights_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        FeatureExtractor(f"timm/resnet18@{path}")


def test_weights_that_cannot_be_downloaded_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"run once to cache them in .* pinakes/tiny_conv"):
        FeatureExtractor("timm/resnet10t")


@pytest.mark.parametrize(("slug", "layers"), [("mae", (2, -1)), ("spark-sparse-masked", (1, -1))])
def test_a_run_is_a_backbone(slug: str, layers: tuple[int, int], tmp_path: Path) -> None:
    method = pinakes.create(slug).fit("digits?n=40&size=32", steps=1, batch_size=8, out=tmp_path)
    extract = FeatureExtractor(str(tmp_path), layers).freeze()
    image = torch.rand(2, 3, 32, 32)
    levels = extract(image)
    assert [level.shape[1] for level in levels] == extract.widths
    assert [32 // level.shape[2] for level in levels] == extract.strides
    last = method.encoder.after(image, [6])[0][:, 1:].mT.reshape(levels[1].shape) if slug == "mae" else None
    torch.testing.assert_close(levels[1], method.predict(image)["features"] if last is None else last)


def test_a_detector_on_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    pinakes.create("mae", depth=2).fit("digits?n=40&size=32", steps=1, batch_size=8, out=tmp_path / "mae")
    detector = pinakes.create("patchcore", backbone=str(tmp_path / "mae"), layers=(0, 1))
    detector.fit("textures?size=48&n=8", out=tmp_path / "pc")
    image = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(
        pinakes.load(tmp_path / "pc").predict(image)["score"], detector.predict(image)["score"]
    )


def test_a_run_that_cannot_be_a_backbone_says_why(tmp_path: Path) -> None:
    pinakes.create("patchcore").fit("textures?size=32&n=8", out=tmp_path / "pc")
    with pytest.raises(UserError, match="is no encoder"):
        FeatureExtractor(str(tmp_path / "pc"))
    pinakes.create("mae", depth=1).fit("digits?n=40&size=32", steps=1, batch_size=8, out=tmp_path / "mae")
    with pytest.raises(UserError, match="channels"):
        FeatureExtractor(str(tmp_path / "mae"), (0,), channels=1)
    with pytest.raises(UserError, match="has 1 blocks"):
        FeatureExtractor(str(tmp_path / "mae"), (2,))
