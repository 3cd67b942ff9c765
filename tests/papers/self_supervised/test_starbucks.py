import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pinakes
from pinakes.nn.contrastive import info_nce_loss
from pinakes.nn.masked_autoencoder import random_masking, reconstruction_loss
from pinakes.papers.self_supervised.starbucks import RandomSizes, Starbucks, ladder_loss
from tests.two_processes import Batch, expect_one_step

INFO = pinakes.DataInfo(3, (32, 32))
SMALL = {"depths": (1, 2), "widths": (8, 32), "embed_dim": 32}


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    one, other = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(seed))
    return one, other


def test_loss_is_that_of_a_loop_over_sizes() -> None:
    query, key = ([each[:, :4], each[:, 3:12], each] for each in views())
    expected = torch.zeros(())
    scores = [
        torch.tensor([[functional.cosine_similarity(q, k, dim=0) / 0.3 for k in keys] for q in queries])
        for queries, keys in zip(query, key, strict=True)
    ]
    for each in scores:
        expected -= torch.stack([each[i].softmax(0)[i].log() for i in range(6)]).mean()
    full = scores[-1].softmax(1)
    for each in scores[:-1]:
        small = each.softmax(1)
        expected += 0.7 * (full * (full / small).log()).sum(1).mean()
    torch.testing.assert_close(ladder_loss(query, key, 0.3, 0.7), expected, rtol=1e-5, atol=1e-5)


def test_with_one_size_it_is_infonce() -> None:
    one, other = views()
    torch.testing.assert_close(ladder_loss([one], [other], 0.2), info_nce_loss(one, other, 0.2))


def test_the_largest_size_does_not_follow_the_small_ones() -> None:
    small, full = views(0)[0], views(1)[0].requires_grad_()
    with_kl, without = (ladder_loss([small, full], [small, full], 0.2, weight) for weight in (1.0, 0.0))
    assert with_kl > without
    torch.testing.assert_close(*(torch.autograd.grad(each, full)[0] for each in (with_kl, without)))


def test_sizes_are_the_first_numbers_behind_their_blocks() -> None:
    method = Starbucks(rung=1).prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    behind = method.encoder.after(image, [1, 2])
    every = method.embeddings(image, method.sizes)
    assert [each.shape[1] for each in every] == [4, 8, 16, 32, 64, 96]
    for found, tokens, width in zip(every, behind, (4, 8), strict=False):
        torch.testing.assert_close(found, method.norm(tokens)[:, 1:].mean(1)[:, :width])
    answer = method.encode(image)
    torch.testing.assert_close(answer["embedding"], every[1])
    torch.testing.assert_close(answer["features"].mean((2, 3)), every[1])


def test_a_small_size_runs_its_own_blocks_only() -> None:
    method = Starbucks(rung=0).prepare(INFO).eval()
    ran = []
    for block in method.encoder.network.blocks:
        block.register_forward_hook(lambda *_: ran.append(None))
    method.encode(torch.rand(1, 3, 32, 32))
    assert len(ran) == 1


def test_random_sizes_meet_with_the_largest() -> None:
    method = RandomSizes().prepare(INFO)
    torch.manual_seed(0)
    drawn = [method.trained_sizes() for _ in range(200)]
    for sizes in drawn:
        (depth, width), (same, whole), (last, same_width), largest = sizes
        assert (same, same_width, last, whole) == (depth, width, *largest)
        assert largest == (6, 96)
    assert {sizes[0] for sizes in drawn} == {(n, d) for n in (1, 2, 3, 4, 5) for d in (4, 8, 16, 32, 64)}


def test_cut_tokens_are_painted_as_by_a_decoder_without_the_other_weights() -> None:
    method = Starbucks(pretraining=0.5, **SMALL).prepare(INFO).eval()  # type: ignore[arg-type]
    image, kept = torch.rand(2, 3, 32, 32), 8
    masking = random_masking(2, method.encoder.patches, 0.75)
    tokens = method.norm(method.encoder(image, masking.visible))
    found = method.painter(tokens, kept, image, masking)
    decoder = method.painter.decoder
    narrow = nn.Linear(kept, decoder.embed.out_features)
    narrow.weight.data, narrow.bias.data = decoder.embed.weight.data[:, :kept], decoder.embed.bias.data
    decoder.embed = narrow
    cut = tokens[:, :, :kept]
    painted = [decoder(each, masking.restore) for each in (cut, cut[:, 1:].mean(1, keepdim=True))]
    losses = [reconstruction_loss(each, image, masking.hidden, 4, True) for each in painted]
    torch.testing.assert_close(found, (losses[0] + losses[1]) / 2)


def test_painting_comes_first_and_is_learnt_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Starbucks(pretraining=0.5, **SMALL).prepare(INFO)  # type: ignore[arg-type]
    image = torch.rand(4, 3, 32, 32)
    monkeypatch.setattr(type(method), "done", 0.0)
    method.loss(image).backward()
    assert all(
        each.grad is not None and each.grad.any() for each in method.parameters() if each.requires_grad
    )
    method.zero_grad()
    monkeypatch.setattr(type(method), "done", 0.5)
    method.loss(image).backward()
    assert all(each.grad is None for each in method.painter.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"depths": (2, 1, 3, 4, 5, 6)},
        {"widths": (0, 8, 16, 32, 64, 96)},
        {"widths": (4, 8)},
        {"widths": (4, 8, 16, 32, 64, 128)},
        {"rung": 6},
        {"kl_weight": -1.0},
        {"temperature": 0.0},
        {"pretraining": 1.0},
        {"mask_ratio": 1.0},
        {"patch": 0},
        {"embed_dim": 48},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        Starbucks(**options)  # type: ignore[arg-type]
    with pytest.raises(pinakes.UserError, match="depths"):
        RandomSizes(depths=(3,), widths=(16,))


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match=r"patch: images of 32x36 pixels"):
        Starbucks(patch=8).prepare(pinakes.DataInfo(3, (32, 36)))


class LadderOfLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, batch: Batch) -> Tensor:
        one, other = self.layer(batch["one"]), self.layer(batch["other"])
        return ladder_loss([one[:, :3], one], [other[:, :3], other])


def ladder() -> nn.Module:
    torch.manual_seed(0)
    return LadderOfLayer()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    one, other = views()
    expect_one_step(ladder, batch={"one": one, "other": other})
