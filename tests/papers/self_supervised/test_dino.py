from typing import Any

import pytest
import torch

import pinakes
from pinakes.papers.self_supervised.dino import DINO, told_of_images

INFO = pinakes.DataInfo(3, (32, 32))
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 1,
    "out_dim": 16,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
}


def small(**options: Any) -> DINO:
    return DINO(**SMALL | options).prepare(INFO)


def test_the_loss_is_that_of_every_pair_of_different_views(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(local_crops_number=3, teacher_temp=0.05)
    image = torch.rand(4, 3, 32, 32)
    views = method.views(image)
    monkeypatch.setattr(method, "views", lambda _: views)
    large = list(views[0].chunk(2))
    student = [method.head(method.encoder(each)[:, 0]) for each in (*large, *views[1].chunk(3))]
    teacher = [method.teacher_head(method.teacher(each)[:, 0]) for each in large]
    terms = [
        -((said / 0.05).softmax(-1) * (heard / 0.1).log_softmax(-1)).sum(-1).mean()
        for known, said in enumerate(teacher)
        for view, heard in enumerate(student)
        if view != known
    ]
    torch.testing.assert_close(method.loss(image), torch.stack(terms).mean(), atol=1e-5, rtol=0)


def test_views_are_large_and_small_and_the_small_ones_go_to_the_student_alone() -> None:
    method = small(local_crops_number=3, local_side=0.4)
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    method.encoder.register_forward_pre_hook(lambda _, args: seen["student"].append(tuple(args[0].shape)))
    method.teacher.network.register_forward_pre_hook(
        lambda _, args: seen["teacher"].append(tuple(args[0].shape))
    )
    method.loss(torch.rand(4, 3, 32, 32))
    assert seen == {"student": [(8, 3, 32, 32), (12, 3, 12, 12)], "teacher": [(8, 3, 32, 32)]}


def test_small_views_may_be_left_out() -> None:
    method = small(local_crops_number=0)
    assert len(method.views(torch.rand(4, 3, 32, 32))) == 1
    assert torch.isfinite(method.loss(torch.rand(4, 3, 32, 32)))


def test_teacher_and_centre_follow_after_a_step() -> None:
    method = small().fit("digits?n=40&size=32", steps=2, batch_size=8)
    assert method.centre.value.any()
    assert not any(each.requires_grad for each in method.teacher.parameters())
    pairs = [
        (mine, other)
        for copy, network in method.followed()
        for mine, other in zip(copy.parameters(), network.parameters(), strict=True)
    ]
    assert not all(torch.equal(mine, other) for mine, other in pairs)
    assert small(centring=False).fit("digits?n=40&size=32", steps=2, batch_size=8).centre.value.any() == 0


def test_prototypes_rest_at_first() -> None:
    start = DINO(**SMALL).prepare(pinakes.DataInfo(1, (32, 32)))
    fixed = DINO(freeze_last_layer=1.0, **SMALL).fit("digits?n=40&size=32&channels=1", steps=2, batch_size=8)
    free = DINO(freeze_last_layer=0.0, **SMALL).fit("digits?n=40&size=32&channels=1", steps=2, batch_size=8)
    assert torch.equal(fixed.head.prototypes, start.head.prototypes)
    assert not torch.equal(free.head.prototypes, start.head.prototypes)


def test_the_gradient_of_each_tensor_is_clipped() -> None:
    method = small(clip_grad=0.5)
    for number, each in enumerate(method.encoder.parameters()):
        each.grad = torch.full_like(each, 10.0 if number % 2 else 1e-6)
    before = [each.grad.clone() for each in method.encoder.parameters() if each.grad is not None]
    method.on_before_optimizer_step(None)
    for grad, each in zip(before, method.encoder.parameters(), strict=True):
        assert each.grad is not None
        expected = grad * min(1.0, 0.5 / (grad.norm().item() + 1e-6))
        torch.testing.assert_close(each.grad, expected)


def test_the_temperature_rises_along_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher=0.2)
    for done, expected in ((0.0, 0.04), (0.1, 0.055), (0.2, 0.07), (1.0, 0.07)):
        monkeypatch.setattr(DINO, "done", done)
        assert method.warmed(method.teacher_temp) == pytest.approx(expected)


def test_features_are_those_of_the_teacher_with_gradients() -> None:
    method = small().eval()
    with torch.no_grad():
        for each in method.encoder.parameters():
            each.zero_()
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    found = method.encode(image)
    tokens = method.teacher(image)
    assert torch.equal(found["embedding"], tokens[:, 0])
    assert torch.equal(found["features"][1, :, 2, 3], tokens[1, 1 + 2 * 8 + 3])
    found["embedding"][:, 0].sum().backward()
    assert image.grad is not None
    assert image.grad.any()


def test_as_a_backbone_it_takes_images_of_any_size() -> None:
    method = small(depth=2).eval()
    levels = method.as_backbone([0, -1])
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(levels(image)[1], method.encode(image)["features"])
    assert [tuple(each.shape) for each in levels(torch.rand(1, 3, 50, 30))] == [(1, 32, 12, 8)] * 2
    with pytest.raises(pinakes.UserError, match="layers"):
        method.as_backbone([2])


def test_equal_answers_tell_nothing_and_different_ones_all() -> None:
    assert told_of_images(torch.full((5, 4), 0.25)).abs() < 1e-6
    assert told_of_images(torch.eye(4)[[0, 0, 1, 1]]).exp().item() == pytest.approx(2)


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match=r"patch: images of 32x36 pixels cannot be cut"):
        DINO(patch=8).prepare(pinakes.DataInfo(3, (32, 36)))


@pytest.mark.parametrize(
    "options",
    [
        {"student_temp": 0.0},
        {"teacher_temp": -1.0},
        {"warmup_teacher_temp": 0.0},
        {"warmup_teacher": 1.5},
        {"out_dim": 1},
        {"hidden_dim": 0},
        {"bottleneck_dim": 0},
        {"center_momentum": 2.0},
        {"freeze_last_layer": -0.1},
        {"patch": 0},
        {"embed_dim": 50},
        {"depth": 0},
        {"momentum": 1.5},
        {"local_crops_number": -1},
        {"local_side": 0.0},
        {"least_local_area": 0.5},
        {"clip_grad": 0.0},
        {"least_area": 0.0, "least_local_area": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DINO(**options)
