from typing import Any

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.nn.self_distillation import koleo_loss
from pinakes.papers.self_supervised.dinov2 import (
    DINOv2,
    deduplicated,
    evenly_hidden_shares,
    retrieved,
    retrieved_from_clusters,
    without_copies_of,
)
from pinakes.papers.self_supervised.ibot import IBOT

INFO = pinakes.DataInfo(3, (32, 32))
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 1,
    "out_dim": 16,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
}


def small(**options: Any) -> DINOv2:
    return DINOv2(**SMALL | options).prepare(INFO)


# -- the recipe ------------------------------------------------------------------------------------------------


def test_targets_are_balanced_over_all_large_views_and_over_all_hidden_patches() -> None:
    method = small(teacher_temp=0.07, teacher_patch_temp=0.05)
    logits, known = torch.randn(8, 16), torch.randn(4, 64, 32)
    hidden = torch.rand(4, 64) < 0.3
    torch.testing.assert_close(method.view_targets(logits), sinkhorn_knopp(logits / 0.07, 3))
    of_patches = sinkhorn_knopp(method.teacher_patch_head(known[hidden]) / 0.05, 3)
    torch.testing.assert_close(method.patch_targets(known, hidden), of_patches)


def test_the_term_that_draws_features_apart_looks_at_each_large_view_by_itself() -> None:
    tokens, known = torch.randn(4 * 5, 32), torch.randn(2 * 5, 32)
    with_it, without = small(koleo_weight=0.3), small(koleo_weight=0.0)
    without.load_state_dict(with_it.state_dict())
    found = with_it.view_loss(tokens, known) - without.view_loss(tokens, known)
    torch.testing.assert_close(found, 0.3 * (koleo_loss(tokens[:5]) + koleo_loss(tokens[5:10])))


def test_patches_have_a_head_of_their_own_that_is_followed() -> None:
    method = small().fit("digits?n=40&size=32", steps=2, batch_size=8)
    assert method.patch_heads() == (method.patch_head, method.teacher_patch_head)
    copies = [copy for copy, _ in method.followed()]
    assert copies == [method.teacher, method.teacher_head, method.teacher_patch_head]
    assert not method.centre.value.any()
    assert not method.patch_centre.value.any()


def test_centring_takes_the_place_of_balancing() -> None:
    ours, theirs = small(centring=True), IBOT(**SMALL).prepare(INFO)
    logits = torch.randn(8, 16)
    torch.testing.assert_close(ours.view_targets(logits), theirs.view_targets(logits))


def test_views_are_half_as_large_until_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    method, image = small(tail=0.25), torch.rand(2, 3, 32, 32)
    for done, side in ((0.0, 16), (0.74, 16), (0.75, 32), (1.0, 32)):
        monkeypatch.setattr(DINOv2, "done", done)
        large, little = method.views(image)
        assert large.shape[-2:] == (side, side)
        assert little.shape[-2:] == (side // 2, side // 2)
        assert torch.isfinite(method.loss(image))
    monkeypatch.setattr(DINOv2, "done", 0.0)
    assert small().views(image)[0].shape[-2:] == (32, 32)


def test_exactly_half_of_the_views_have_hidden_patches_spread_over_the_range() -> None:
    torch.manual_seed(0)
    shares = evenly_hidden_shares(40, (0.1, 0.5)).sort().values
    assert torch.equal(shares[:20], torch.zeros(20))
    parts = ((shares[20:] - 0.1) / 0.4 * 20).floor()
    assert torch.equal(parts, torch.arange(20.0))
    assert (evenly_hidden_shares(5, (0.1, 0.5)) > 0).sum() == 3


def test_one_image_alone_can_be_learnt_from() -> None:
    assert torch.isfinite(small().loss(torch.rand(1, 3, 32, 32)))


@pytest.mark.parametrize("options", [{"koleo_weight": -1.0}, {"tail": 1.5}, {"teacher_temp": 0.0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DINOv2(**options)


# -- the data --------------------------------------------------------------------------------------------------


def clusters(seed: int, sizes: tuple[int, ...], spread: float = 0.05) -> torch.Tensor:
    """Images near some of the axes, one axis after the other."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(8).repeat_interleave(torch.tensor([*sizes, *[0] * (8 - len(sizes))]), 0)
    return axes + spread * torch.randn(len(axes), 8, generator=generator)


def test_of_near_duplicates_the_first_is_kept() -> None:
    images = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    copies = images[:50] * 3 + 1e-3
    kept = deduplicated(torch.cat([images, copies, copies[:10]]), 0.99)
    assert kept.tolist() == list(range(200))


def test_near_duplicates_are_those_that_a_chain_of_pairs_connects() -> None:
    angle = torch.tensor([0.0, 0.2, 0.4, 0.6, 2.0])
    kept = deduplicated(torch.stack([angle.cos(), angle.sin()], dim=1), 0.97)
    assert kept.tolist() == [0, 4]


def test_images_that_are_judged_on_are_left_out() -> None:
    pool, judged = clusters(0, (5, 5, 5)), torch.eye(8)[[1]]
    assert without_copies_of(pool, judged, 0.5).tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_the_nearest_of_each_curated_image_are_found() -> None:
    curated, pool = clusters(0, (2, 0, 3)), clusters(1, (9, 9, 9))
    found = retrieved(curated, pool, k=3)
    likeness = functional.normalize(curated, dim=1) @ functional.normalize(pool, dim=1).T
    expected = {place for row in likeness for place in row.argsort(descending=True)[:3].tolist()}
    assert found.tolist() == sorted(expected)
    assert all(place < 9 or place >= 18 for place in expected)
    assert retrieved(curated, pool, k=100).tolist() == list(range(27))


def test_clusters_with_enough_curated_images_are_drawn_from() -> None:
    curated, pool = clusters(0, (3, 2, 4)), clusters(1, (6, 9, 20, 7))
    torch.manual_seed(0)
    draws = [retrieved_from_clusters(curated, pool, torch.eye(8)[:4], count=8, least=3) for _ in range(2)]
    for found in draws:
        assert found.tolist() == sorted(set(found.tolist()))
        assert found[:6].tolist() == list(range(6))
        assert len(found) == 6 + 8
        assert ((found[6:] >= 15) & (found[6:] < 35)).all()
    assert draws[0].tolist() != draws[1].tolist()
