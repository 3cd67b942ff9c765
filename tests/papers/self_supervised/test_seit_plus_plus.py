import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch.nn import functional

import pinakes
from pinakes.data.stored_tokens import TokenStore
from pinakes.nn.image_tokenizer import Tokenizer, nearest_codes
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.seit_plus_plus import (
    SeiTPlusPlus,
    TokenAdapt,
    color_adapt,
    masked_token_loss,
    random_crop_and_mirror,
    random_mask_ratio,
    storage_report,
    token_adapt_loss,
    token_masking,
)
from pinakes.tasks.base import Batch

INFO = pinakes.DataInfo(3, (32, 48))


def small(**options: float) -> SeiTPlusPlus:
    return SeiTPlusPlus(depth=1, decoder_depth=1, embed_dim=32, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", [2, 5, 391, 65536])
def test_stored_tokens_come_back_and_take_as_many_bits_as_they_need(codes: int, tmp_path: Path) -> None:
    tokens = torch.randint(codes, (7, 3, 5), generator=torch.Generator().manual_seed(0))
    store = TokenStore.pack(tokens, codes, torch.arange(7))
    assert store.packed.shape == (7, math.ceil(15 * math.ceil(math.log2(codes)) / 8))
    assert torch.equal(store.tokens(), tokens)
    file = store.save(tmp_path / "deep" / "tokens.safetensors")
    assert file.stat().st_size == store.bytes_on_disk
    found = TokenStore.load(file)
    assert len(found) == 7
    assert torch.equal(found[3]["tokens"], tokens[3])
    assert found[3]["label"] == 3


def test_files_that_hold_no_tokens_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(pinakes.UserError, match=name):
            TokenStore.load(tmp_path / name)


def test_codes_out_of_range_are_not_packed() -> None:
    with pytest.raises(ValueError, match="from 0 to 3"):
        TokenStore.pack(torch.full((1, 2, 2), 4), codes=4)


def test_the_nearest_code_has_the_smallest_angle() -> None:
    torch.manual_seed(0)
    vectors, codebook = torch.randn(2, 6, 3, 4), torch.randn(9, 6)
    found = nearest_codes(vectors, codebook)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                cosines = functional.cosine_similarity(codebook, vectors[image, :, row, column][None])
                assert found[image, row, column] == cosines.argmax()


def test_painted_images_pass_their_gradient_by_the_codes() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(channels=3, codes=8, dim=4, patch=4)
    image = torch.rand(2, 3, 16, 16)
    tokenizer.loss(image).backward()
    assert all(each.grad is not None and each.grad.any() for each in tokenizer.parameters())
    assert torch.equal(
        tokenizer.eval().tokens(image),
        nearest_codes(tokenizer.vectors(tokenizer.tokens(image)), tokenizer.codebook),
    )


def test_color_adapt_gives_means_and_deviations_of_another_image() -> None:
    torch.manual_seed(0)
    content, style = torch.randn(2, 5, 4, 6), 3 * torch.randn(2, 5, 4, 6) + 2
    found = color_adapt(content, style)
    torch.testing.assert_close(found.mean((2, 3)), style.mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.std((2, 3)), style.std((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(color_adapt(found, content), content, rtol=1e-4, atol=1e-4)
    assert color_adapt(torch.ones_like(content), style).isfinite().all()


def test_token_adapt_learns_which_codes_a_changed_image_has() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(channels=3, codes=4, dim=8, patch=4).requires_grad_(False)
    adapt = TokenAdapt((4, 4), codes=4, dim=8, width=32)
    image = functional.interpolate(torch.rand(16, 3, 4, 4), scale_factor=4)
    vectors, change = tokenizer.vectors(tokenizer.tokens(image)), lambda maps: maps.flip(-1)
    assert torch.equal(change(change(image)), image)
    optimiser = torch.optim.Adam(adapt.parameters(), 3e-3)
    for _ in range(100):
        loss = token_adapt_loss(adapt, tokenizer, image, change)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    wanted = tokenizer.tokens(change(image))
    assert (adapt(vectors, change).argmax(1) == wanted).float().mean() > 0.9


def test_a_drawn_change_is_the_same_for_images_and_for_smaller_maps() -> None:
    torch.manual_seed(0)
    change = random_crop_and_mirror(6, (32, 32), torch.device("cpu"))
    ramp = torch.linspace(0, 1, 32).expand(6, 1, 32, 32)
    smaller = functional.avg_pool2d(ramp, 2)
    assert torch.equal(change(ramp), change(ramp))
    torch.testing.assert_close(functional.avg_pool2d(change(ramp), 2), change(smaller), atol=0.03, rtol=0)


def test_shares_of_hidden_patches_are_those_of_a_truncated_normal_distribution() -> None:
    torch.manual_seed(0)
    shares = [random_mask_ratio(0.4, 0.45, 0.25) for _ in range(1000)]
    expected = stats.truncnorm((0.4 - 0.45) / 0.25, (1 - 0.45) / 0.25, loc=0.45, scale=0.25)
    assert stats.kstest(shares, expected.cdf).pvalue > 0.01
    assert 0.4 <= min(shares) <= max(shares) <= 1


def test_the_encoder_computes_only_what_is_not_left_out() -> None:
    method = small().prepare(INFO)
    masking = token_masking(torch.rand(2, 24), ratio=0.7, left_out=0.4)
    assert masking.hidden.sum(1).tolist() == [17, 17]
    assert masking.visible.shape == (2, 14)
    # 14 are computed, of which 7 are mask tokens
    assert masking.hidden.gather(1, masking.visible).sum(1).tolist() == [7, 7]
    assert method.encoder(torch.zeros(2, 8, 12, dtype=torch.int64), masking).shape == (2, 15, 32)


def test_what_is_foretold_does_not_depend_on_hidden_codes() -> None:
    torch.manual_seed(0)
    method = small().prepare(INFO).eval()
    masking = token_masking(torch.rand(1, 24), ratio=0.7, left_out=0.4)
    tokens = torch.randint(128, (1, 8, 12))
    covered = masking.hidden.view(1, 4, 6).repeat_interleave(2, 1).repeat_interleave(2, 2)
    others = torch.where(covered, (tokens + 1) % 128, tokens)
    torch.testing.assert_close(method.foretold(tokens, masking), method.foretold(others, masking))
    seen = torch.where(covered, tokens, (tokens + 1) % 128)
    assert not torch.allclose(method.foretold(tokens, masking), method.foretold(seen, masking))


def test_the_loss_counts_the_codes_of_hidden_patches_alone() -> None:
    torch.manual_seed(0)
    logits, tokens = torch.randn(2, 5, 4, 6), torch.randint(5, (2, 4, 6))
    hidden = torch.rand(2, 6) < 0.5
    errors = [
        -logits[image, :, row, column].log_softmax(0)[tokens[image, row, column]]
        for image in range(2)
        for row in range(4)
        for column in range(6)
        if hidden[image, row // 2 * 3 + column // 2]
    ]
    torch.testing.assert_close(masked_token_loss(logits, tokens, hidden, 2), torch.stack(errors).mean())


def test_only_the_encoder_and_what_foretells_are_trained_and_from_stored_tokens() -> None:
    data = pinakes.load_data("digits?n=40&size=16", task="representation")
    method = small(tokenizer_steps=3)
    seen: list[set[str]] = []
    learn = method.training_step

    def training_step(batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.append(set(batch))
        return learn(batch, batch_idx)

    method.training_step = training_step  # type: ignore[method-assign]
    method.fit(data, steps=2, batch_size=8)
    assert seen == [{"tokens", "label"}] * 2
    trained = {name.partition(".")[0] for name, each in method.named_parameters() if each.requires_grad}
    assert trained == {"encoder", "decoder"}
    other = small(tokenizer_steps=3).prepare(method.info)
    assert not torch.equal(other.tokenizer.codebook, method.tokenizer.codebook)
    report = storage_report(method, data)
    assert report["share"] == report["token_bytes"] / report["png_bytes"]
    assert {"linear_probe", "knn"} <= set(report)


def test_changes_without_augmentation_leave_codes_as_they_are() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(128, (4, 8, 12))
    still = small(augmentation="none", color_adapt=0.0).prepare(INFO)
    assert torch.equal(still.changed(tokens), tokens)
    for share in (0.0, 0.3, 1.0):
        assert small(token_adapt=share).prepare(INFO).changed(tokens).shape == tokens.shape


def test_pictures_are_grey_where_codes_are_hidden() -> None:
    method = small().prepare(INFO).eval()
    painted = method.painted(torch.rand(2, 3, 32, 48))
    grey = (painted["shown"] == GREY).all(1)
    assert grey.sum((1, 2)).tolist() == [11 * 64, 11 * 64]
    assert painted["reconstruction"].shape == (2, 3, 32, 48)


@pytest.mark.parametrize(
    "options",
    [
        {"codes": 1},
        {"patch": 3},
        {"token_patch": 0},
        {"token_adapt": 1.5},
        {"color_adapt": -0.1},
        {"adapt_dim": 20},
        {"tokenizer_steps": 0},
        {"mask_ratio_min": 0.0},
        {"mask_ratio_mu": 2.0},
        {"mask_ratio_std": 0.0},
        {"embed_dim": 50},
        {"decoder_depth": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SeiTPlusPlus(**options)  # type: ignore[arg-type]


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="patch: images of 36x32 pixels cannot be cut"):
        SeiTPlusPlus().prepare(pinakes.DataInfo(3, (36, 32)))


def test_stored_tokens_are_painted_while_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.papers.self_supervised.base.PICTURE_EVERY", 0.0)
    small(tokenizer_steps=1).fit("digits?n=20&size=16", steps=1, batch_size=8, out=tmp_path)
    assert [each.name for each in (tmp_path / "pictures").iterdir()] == ["step-0000001.png"]
