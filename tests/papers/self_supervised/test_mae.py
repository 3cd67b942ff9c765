from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.nn.masked_autoencoder import patchify
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.mae import MAE

INFO = pinakes.DataInfo(3, (32, 32))


def test_what_is_shown_is_grey_where_patches_are_hidden() -> None:
    method = MAE(depth=1, mask_ratio=0.75).prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    painted = method.painted(image)
    shown, true, found = (patchify(each, 4) for each in (painted["shown"], image, painted["reconstruction"]))
    hidden = (shown == GREY).all(2)
    assert hidden.sum(1).tolist() == [48, 48]
    assert torch.equal(hidden[0], hidden[1])
    assert torch.equal(shown[~hidden], true[~hidden])
    torch.testing.assert_close(found[~hidden], true[~hidden])
    assert (found[hidden] - true[hidden]).abs().max() > 1e-3


def test_the_same_images_are_painted_in_the_same_way() -> None:
    method = MAE(depth=1, norm_pix_loss=False).prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    first, second = method.painted(image), method.painted(image)
    assert torch.equal(first["reconstruction"], second["reconstruction"])


def test_a_perfect_decoder_paints_the_image_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(2, 3, 32, 32)
    for norm in (True, False):
        method = MAE(depth=1, norm_pix_loss=norm).prepare(INFO).eval()
        from pinakes.nn.masked_autoencoder import normalised

        target = patchify(normalised(image), 4)
        if norm:
            spread, centre = torch.var_mean(target, dim=2, keepdim=True)
            target = (target - centre) / (spread + 1e-6).sqrt()
        monkeypatch.setattr(method.decoder, "forward", lambda *_, found=target: found)
        assert method.loss(image) < 1e-12
        torch.testing.assert_close(method.painted(image)["reconstruction"], image, atol=1e-5, rtol=0)


def test_training_looks_at_a_quarter_of_the_patches_only() -> None:
    method = MAE(depth=1).prepare(INFO)
    seen = []
    block = method.encoder.network.blocks[0]
    block.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    method.loss(torch.rand(2, 3, 32, 32))
    method.encode(torch.rand(2, 3, 32, 32))
    assert seen == [17, 65]


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(
        pinakes.UserError, match=r"patch: images of 32x36 pixels cannot be cut into patches of 8"
    ):
        MAE(patch=8).prepare(pinakes.DataInfo(3, (32, 36)))


@pytest.mark.parametrize(
    "options",
    [{"mask_ratio": 1.0}, {"embed_dim": 50}, {"decoder_embed_dim": 0}, {"depth": 0}, {"learning_rate": 0.0}],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        MAE(**options)  # type: ignore[arg-type]


def test_pictures_are_painted_while_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.papers.self_supervised.base.PICTURE_EVERY", 0.0)
    MAE(depth=1).fit("digits?n=40&size=32", steps=2, batch_size=8, out=tmp_path)
    assert [each.name for each in sorted((tmp_path / "pictures").iterdir())] == [
        "step-0000001.png",
        "step-0000002.png",
    ]


@pytest.mark.slow
def test_two_processes_learn(tmp_path: Path) -> None:
    method = MAE(depth=1).fit("digits?n=40", steps=2, batch_size=8, devices=2, device="cpu")
    assert all(torch.isfinite(each).all() for each in method.parameters())
