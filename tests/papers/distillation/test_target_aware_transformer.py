import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.target_aware_transformer import (
    OneToOneMatching,
    TargetAwareMatching,
    TargetAwareTransformer,
    anchor_points,
    one_to_all_loss,
    patch_groups,
    reconfigured,
)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gathered_one_by_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One-to-all matching, position by position."""
    batch, _, rows, columns = query.shape
    found = torch.empty(batch, value.shape[1], rows, columns, dtype=query.dtype)
    places = [(r, c) for r in range(key.shape[2]) for c in range(key.shape[3])]
    for image in range(batch):
        for row in range(rows):
            for column in range(columns):
                similarity = torch.stack(
                    [query[image, :, row, column].dot(key[image, :, r, c]) for r, c in places]
                )
                weights = similarity.exp() / similarity.exp().sum()
                found[image, :, row, column] = sum(
                    weight * value[image, :, r, c] for weight, (r, c) in zip(weights, places, strict=True)
                )
    return found


def test_every_position_of_the_teacher_gathers_from_all_of_the_student() -> None:
    query, key, value = some(2, 3, 2, 3), some(2, 3, 4, 2, seed=1), some(2, 5, 4, 2, seed=2)
    torch.testing.assert_close(reconfigured(query, key, value), gathered_one_by_one(query, key, value))


def test_it_does_not_matter_where_the_student_holds_its_features() -> None:
    query, key, value = some(2, 3, 4, 4), some(2, 3, 4, 4, seed=1), some(2, 5, 4, 4, seed=2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    moved = [each.flatten(2)[..., order].unflatten(2, (4, 4)) for each in (key, value)]
    torch.testing.assert_close(reconfigured(query, *moved), reconfigured(query, key, value))


def test_the_loss_is_the_mean_squared_distance_from_the_teacher() -> None:
    query, key, value, teacher = (some(2, 4, 3, 3, seed=seed) for seed in range(4))
    expected = (gathered_one_by_one(query, key, value) - teacher).pow(2).sum() / (2 * 4 * 9)
    torch.testing.assert_close(one_to_all_loss(query, key, value, teacher), expected)


def test_gradients_are_those_of_finite_differences() -> None:
    maps = [some(1, 2, 2, 2, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *each: one_to_all_loss(*each, some(1, 2, 2, 2, seed=4)), maps)


def test_patches_of_a_group_are_laid_on_each_other() -> None:
    features = some(2, 3, 7, 8)  # the seventh row is left over
    patches, groups = 2, 2
    found = patch_groups(features, patches, groups)
    assert found.shape == (4, 6, 3, 4)
    for image in range(2):
        for group in range(groups):
            for member in range(2):
                number = 2 * group + member
                top, left = 3 * (number // 2), 4 * (number % 2)
                torch.testing.assert_close(
                    found[2 * image + group, 3 * member : 3 * member + 3],
                    features[image, :, top : top + 3, left : left + 4],
                )


def test_one_patch_is_the_whole_map() -> None:
    features = some(2, 3, 5, 6)
    torch.testing.assert_close(patch_groups(features, 1, 1), features)


def test_anchor_points_are_averages_of_areas() -> None:
    features = some(2, 3, 4, 6)
    torch.testing.assert_close(anchor_points(features, 2), functional.avg_pool2d(features, (2, 3)))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("patches", lambda features: patch_groups(features, 5, 1)),
        ("groups", lambda features: patch_groups(features, 2, 3)),
        ("anchors", lambda features: anchor_points(features, 5)),
    ],
)
def test_what_does_not_fit_the_map_is_refused_by_name(name: str, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=name):
        make(some(1, 2, 4, 4))


def test_the_hierarchy_is_the_loss_of_groups_and_of_anchors() -> None:
    matching = TargetAwareMatching(3, 5, patches=2, groups=2, anchors=1, zeta=0.3).double().eval()
    student, teacher = some(2, 3, 4, 4), some(2, 5, 6, 6, seed=1)
    maps = matching.theta(teacher), matching.gamma(student), matching.phi(student), teacher
    local = one_to_all_loss(*(patch_groups(each, 2, 2) for each in maps))
    anchors = one_to_all_loss(*(each.mean((2, 3), keepdim=True) for each in maps))
    torch.testing.assert_close(matching(student, teacher), local + 0.3 * anchors)


def test_one_to_one_matching_compares_places_on_the_smaller_grid() -> None:
    matching = OneToOneMatching(3, 5).double().eval()
    student, teacher = some(2, 3, 4, 4), some(2, 5, 2, 2, seed=1)
    expected = (functional.avg_pool2d(matching.phi(student), 2) - teacher).pow(2).mean()
    torch.testing.assert_close(matching(student, teacher), expected)


def test_the_loss_is_the_weighted_sum_of_three() -> None:
    method = TargetAwareTransformer(alpha=0.2, beta=0.3, epsilon=0.7, temperature=3.0)
    method.helping = TargetAwareMatching(3, 5).double().eval()
    student, teacher = (
        Answer([some(2, width, 4, 4, seed=seed)], some(2, 6, seed=seed)) for seed, width in enumerate((3, 5))
    )
    label = torch.tensor([4, -1])
    expected = (
        0.2 * labelled_cross_entropy(student.logits, label)
        + 0.3 * distillation_divergence(student.logits, teacher.logits, 3.0)
        + 0.7 * method.helping(student.levels[-1], teacher.levels[-1])
    )
    torch.testing.assert_close(method.loss(student, teacher, label), expected)


def test_large_maps_are_matched_by_groups_and_anchors_and_leave_no_trace(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path))
    method = TargetAwareTransformer(level=-3, patches=4, groups=8, anchors=4, teacher="pinakes/tiny_vit")
    fitted = method.fit("digits?n=40&size=64", steps=2, batch_size=8)
    assert not any(name.startswith("helping") for name in fitted.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -1.0},
        {"beta": -1.0},
        {"epsilon": -1.0},
        {"zeta": -1.0},
        {"temperature": 0.0},
        {"level": 0},
        {"patches": 0},
        {"groups": 2},
        {"anchors": -1},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        TargetAwareTransformer(**options)
