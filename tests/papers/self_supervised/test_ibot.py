from typing import Any

import pytest
import torch

import pinakes
from pinakes.papers.self_supervised.ibot import IBOT, hidden_shares

INFO = pinakes.DataInfo(3, (32, 32))
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 1,
    "out_dim": 16,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
}


def small(**options: Any) -> IBOT:
    return IBOT(**SMALL | options).prepare(INFO)


def test_the_loss_is_that_of_views_and_of_hidden_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(local_crops_number=1, patch_weight=2.0, teacher_patch_temp=0.07)
    image = torch.rand(3, 3, 32, 32)
    views = method.views(image)
    hidden = torch.rand(6, 64) < 0.3
    hidden[4] = False
    monkeypatch.setattr(method, "views", lambda _: views)
    monkeypatch.setattr(method, "hidden", lambda *_: hidden)
    with torch.no_grad():
        method.mask_token.normal_()
        seen, known = method.encoder(views[0], hidden, method.mask_token), method.teacher(views[0])
        small_ones = method.encoder(views[1])[:, 0]
        of_views = method.view_loss(torch.cat([seen[:, 0], small_ones]), known[:, 0])
        of_images = []
        for view in range(6):
            terms = [
                -(
                    (method.teacher_head(known[view, 1 + patch]) / 0.07).softmax(-1)
                    * (method.head(seen[view, 1 + patch]) / 0.1).log_softmax(-1)
                ).sum()
                for patch in range(64)
                if hidden[view, patch]
            ]
            of_images.append(torch.stack(terms).mean() if terms else torch.zeros(()))
        expected = of_views + 2 * torch.stack(of_images).mean()
        torch.testing.assert_close(method.loss(image), expected, atol=1e-5, rtol=1e-5)


def test_one_head_serves_views_and_patches_and_each_has_a_centre() -> None:
    method = small().fit("digits?n=40&size=32", steps=2, batch_size=8)
    assert method.patch_heads() == (method.head, method.teacher_head)
    assert method.centre.value.any()
    assert method.patch_centre.value.any()
    assert not torch.equal(method.centre.value, method.patch_centre.value)


def test_the_teacher_sees_what_is_hidden_from_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(local_crops_number=0)
    everything = torch.ones(2, 64, dtype=torch.bool)
    monkeypatch.setattr(method, "hidden", lambda *_: everything)
    answers: dict[str, torch.Tensor] = {}
    method.encoder.register_forward_hook(lambda *given: answers.update(student=given[2]))
    method.teacher.network.register_forward_hook(lambda *given: answers.update(teacher=given[2]))
    method.loss(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(answers["student"][0], answers["student"][1])
    assert not torch.allclose(answers["teacher"][0], answers["teacher"][1])


def test_half_of_the_views_have_hidden_patches_a_tenth_to_a_half_of_them() -> None:
    torch.manual_seed(0)
    shares = hidden_shares(4000, (0.1, 0.5))
    some = shares[shares > 0]
    assert len(some) / 4000 == pytest.approx(0.5, abs=0.03)
    assert 0.1 <= some.min() < 0.11
    assert 0.49 < some.max() <= 0.5
    assert some.mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("shape", ["block", "random"])
def test_both_ways_of_hiding_learn(shape: str) -> None:
    method = small(mask_shape=shape)
    torch.manual_seed(1)
    loss = method.loss(torch.rand(4, 3, 32, 32))
    loss.backward()
    assert method.mask_token.grad is not None
    assert method.mask_token.grad.any()


def test_nothing_hidden_leaves_the_loss_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small()
    monkeypatch.setattr(method, "shares", torch.zeros)
    loss = method.loss(torch.rand(2, 3, 32, 32))
    loss.backward()
    assert torch.isfinite(loss)
    assert method.mask_token.grad is not None


@pytest.mark.parametrize(
    "options",
    [
        {"patch_weight": 0.0},
        {"mask_ratio": (0.5, 0.1)},
        {"mask_ratio": (0.0, 0.5)},
        {"mask_ratio": (0.1, 1.0)},
        {"teacher_patch_temp": 0.0},
        {"warmup_teacher_patch_temp": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        IBOT(**options)
