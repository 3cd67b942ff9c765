import pytest
import torch

import pinakes
from pinakes.nn.masked_autoencoder import patchify
from pinakes.papers.self_supervised.spark import SparK

INFO = pinakes.DataInfo(3, (32, 32))


def test_hidden_pixels_do_not_matter() -> None:
    method = SparK().prepare(INFO).eval()
    image, other = torch.rand(2, 2, 3, 32, 32)
    hidden = torch.rand(2, 16) < 0.6
    covered = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        found = method.paint(image, hidden)
        torch.testing.assert_close(method.paint(torch.where(covered, other, image), hidden), found)
        assert not torch.allclose(method.paint(torch.where(covered, image, other), hidden), found)
    assert method.sites.active is None


def test_the_decoder_fills_each_level_with_its_embedding() -> None:
    method = SparK().prepare(INFO).eval()
    densify = method.decoder.densify["1"]
    method.sites.active = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        found = densify(torch.rand(1, 32, 8, 8))
        embedded = densify.embedding.expand(1, -1, 8, 8)
        torch.testing.assert_close(found, densify.project(embedded))
    method.sites.active = None


def test_one_scale_is_the_coarsest() -> None:
    assert sorted(SparK().prepare(INFO).decoder.densify) == ["0", "1", "2"]
    assert sorted(SparK(hierarchical=False).prepare(INFO).decoder.densify) == ["0"]


def test_the_loss_is_that_of_hidden_patches_each_normalised() -> None:
    method = SparK().prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    torch.manual_seed(5)
    loss = method.loss(image)
    torch.manual_seed(5)
    order = torch.rand(2, 16).argsort(1)
    hidden = torch.ones(2, 16, dtype=torch.bool)
    hidden.scatter_(1, order[:, :6], False)
    true = patchify(image, 8)
    target = (true - true.mean(2, keepdim=True)) / true.std(2, keepdim=True)
    painted = method.paint(image, hidden)
    errors = [
        ((painted[i, j] - target[i, j]) ** 2).mean() for i in range(2) for j in range(16) if hidden[i, j]
    ]
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def test_a_pretrained_network_is_an_ordinary_one() -> None:
    method = SparK().fit("digits?n=40&size=32", steps=2, batch_size=8)
    image = torch.rand(2, 3, 32, 32)
    plain = SparK(sparse_convolution=False).prepare(method.info).eval()
    plain.load_state_dict(method.state_dict())
    torch.testing.assert_close(plain.predict(image)["embedding"], method.predict(image)["embedding"])


def test_other_networks_serve() -> None:
    method = SparK("timm/resnet18@random").prepare(pinakes.DataInfo(3, (64, 64)))
    assert method.loss(torch.rand(2, 3, 64, 64)).isfinite()


@pytest.mark.parametrize("options", [{"mask_ratio": 0.0}, {"width": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SparK(**options)  # type: ignore[arg-type]


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="cannot be cut into patches of 8, the stride"):
        SparK().prepare(pinakes.DataInfo(3, (36, 32)))
