from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import pinakes
from pinakes.nn.discrete_diffusion import CategoricalSchedule, cosine_kept, one_hot
from pinakes.papers.diffusion.ccdm import (
    CCDM,
    CLASSES,
    READERS,
    IndependentPixels,
    Readings,
    generalised_energy_distance,
    hungarian_iou,
    map_distances,
    posterior_loss,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3, "evaluations": 2}
INFO = pinakes.DataInfo(1, (8, 8), ("ground", "tree", "house"))
K = len(INFO.classes)


def small(**options: object) -> CCDM:
    return CCDM(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_maps(count: int, seed: int = 0, classes: int = K) -> Tensor:
    maps = torch.randint(classes, (2, count, 4, 5), generator=noise(seed))
    # one that lacks a class
    maps[0, 0] = maps[0, 0].clamp(max=1)
    return maps


def overlap(one: Tensor, other: Tensor, classes: int) -> float:
    """Mean IoU of the classes but the first, by sets of pixels."""
    found = []
    for number in range(1, classes):
        here, there = ({tuple(p.tolist()) for p in (each == number).nonzero()} for each in (one, other))
        found.append(len(here & there) / len(here | there) if here | there else 1.0)
    return sum(found) / len(found)


@pytest.mark.parametrize("t", [1, 2, 7, 20])
def test_the_loss_is_the_divergence_of_steps_back_by_whole_matrices(t: int) -> None:
    schedule = CategoricalSchedule(cosine_kept(20).square())
    clean, noised = torch.randint(K, (2, 4, 6), generator=noise())
    foretold = torch.randn(4, K, 6, generator=noise(1)).softmax(1)
    found = posterior_loss(clean, noised, foretold, torch.full((4,), t), schedule)

    def matrix(kept: float) -> Tensor:
        return kept * torch.eye(K, dtype=torch.float64) + (1 - kept) / K

    kept = schedule.kept
    until, step = matrix(float(kept[t - 1])), matrix(float(kept[t] / kept[t - 1]))
    for batch in range(4):
        for place in range(6):
            now = noised[batch, place]
            # of x_{t-1} (column), for each x_0 (row)
            joint = until * step[:, now]
            back = joint / joint.sum(1, keepdim=True)
            true, told = back[clean[batch, place]], foretold[batch, :, place].double() @ back
            expected = sum(p * (p / q).log() for p, q in zip(true, told, strict=True) if p > 0)
            torch.testing.assert_close(found[batch, place].double(), expected, rtol=1e-4, atol=1e-6)


def test_the_loss_of_the_last_step_is_the_cross_entropy() -> None:
    schedule = CategoricalSchedule(cosine_kept(250).square())
    clean, noised = torch.randint(K, (2, 4, 3, 5), generator=noise())
    logits = torch.randn(4, K, 3, 5, generator=noise(1))
    found = posterior_loss(clean, noised, logits.softmax(1), torch.ones(4, dtype=torch.int64), schedule)
    torch.testing.assert_close(found, functional.cross_entropy(logits, clean, reduction="none"))


def test_distances_are_those_of_sets_of_pixels() -> None:
    maps, others = some_maps(3), some_maps(2, seed=1)
    found = map_distances(maps, others, K)
    for batch in range(2):
        for i in range(3):
            for j in range(2):
                expected = 1 - overlap(maps[batch, i], others[batch, j], K)
                assert found[batch, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_the_energy_distance_is_that_of_all_pairs() -> None:
    samples, annotations = some_maps(3), some_maps(2, seed=1)
    found = generalised_energy_distance(samples, annotations, K)
    for batch in range(2):

        def mean(one: Tensor, other: Tensor) -> float:
            return sum(1 - overlap(a, b, K) for a in one for b in other) / (len(one) * len(other))

        drawn, known = samples[batch], annotations[batch]
        expected = 2 * mean(drawn, known) - mean(drawn, drawn) - mean(known, known)
        assert found[batch].item() == pytest.approx(expected, abs=1e-5)


def test_maps_are_paired_as_the_best_of_all_permutations() -> None:
    samples, annotations = some_maps(2), some_maps(3, seed=1)
    found = hungarian_iou(samples, annotations, K)
    for batch in range(2):
        drawn = [each for each in samples[batch] for _ in range(3)]
        known = [each for each in annotations[batch] for _ in range(2)]
        ious = [[overlap(a, b, K) for b in known] for a in drawn]
        best = max(sum(ious[i][j] for i, j in enumerate(order)) / 6 for order in permutations(range(6)))
        assert found[batch].item() == pytest.approx(best, abs=1e-6)


def test_a_network_that_knows_the_map_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    method, known = small(), torch.randint(K, (1, 8, 8), generator=noise())
    monkeypatch.setattr(
        method.averaged, "forward", lambda shown, t: 100 * one_hot(known.expand(len(shown), -1, -1), K)
    )
    found = method.samples(torch.rand(1, 1, 8, 8), 3)
    assert torch.equal(found, known[None].expand(1, 3, 8, 8))


def test_the_network_sees_the_image_and_the_classes_of_the_noised_map() -> None:
    image, noised = torch.rand(2, 1, 8, 8), torch.randint(K, (2, 8, 8))
    shown = small().shown(image, noised)
    assert shown.shape == (2, 1 + K, 8, 8)
    torch.testing.assert_close(shown[:, :1], 2 * image - 1)
    assert torch.equal(shown[:, 1:].argmax(1), noised)


def test_maps_follow_from_the_seed_however_many_are_drawn() -> None:
    method, image = small(), torch.rand(2, 1, 8, 8)
    found = method.samples(image, 4, seed=3)
    assert found.shape == (2, 4, 8, 8)
    assert torch.equal(found[:, :2], method.samples(image, 2, seed=3))
    assert not torch.equal(found, method.samples(image, 4, seed=4))
    assert len(torch.unique(found[0].flatten(1), dim=0)) == 4


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    method, image = small(), torch.rand(3, 1, 8, 8)
    together = method.predict({"image": image})["probabilities"]
    turned = method.predict({"image": image.flip(0)})["probabilities"]
    torch.testing.assert_close(together, turned.flip(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.sum(1), torch.ones(3, 8, 8))


def test_pixels_without_a_class_do_not_count() -> None:
    method = small(dropout=0.0)
    semantic = torch.randint(K, (4, 8, 8), generator=noise())
    batch = {"image": torch.rand(4, 1, 8, 8, generator=noise()), "semantic": semantic}
    torch.manual_seed(0)
    whole = method.training_step(batch, 0)
    torch.manual_seed(0)
    half = method.training_step(batch | {"semantic": torch.where(torch.arange(8) < 4, semantic, -1)}, 0)
    assert half.isfinite()
    assert half != whole
    assert method.training_step(batch | {"semantic": torch.full_like(semantic, -1)}, 0) == 0


def test_what_cannot_be_drawn_is_refused() -> None:
    method = small()
    with pytest.raises(pinakes.UserError, match="n:"):
        method.samples(torch.rand(1, 1, 8, 8), 0)
    with pytest.raises(ValueError, match="image"):
        method.samples(torch.rand(1, 2, 8, 8), 1)


def test_independent_pixels_are_drawn_as_often_as_they_are_foretold() -> None:
    method = IndependentPixels(**SMALL).prepare(INFO).eval()  # type: ignore[arg-type]
    image = torch.rand(1, 1, 8, 8)
    shares = one_hot(method.samples(image, 2000)[0], K).mean(0)
    chances = method.predict({"image": image})["probabilities"][0]
    torch.testing.assert_close(shares, chances, rtol=0, atol=0.06)


def test_readings_hold_what_ten_people_mark_and_what_one_of_them_did() -> None:
    readings = Readings(300, seed=0)
    assert readings.annotations.shape[1] == sum(READERS)
    core, rim, spot = (readings.annotations[:, place] for place in (0, READERS[0], sum(READERS) - 1))
    sizes = [each.flatten(1).sum(1) for each in (core, rim, spot)]
    assert (core <= rim).all()
    assert (rim <= spot).all()
    assert (sizes[0] > 8).all()
    assert (sizes[0] + 8 < sizes[1]).all()
    assert (sizes[1] + 4 < sizes[2]).all()
    asked = torch.stack([readings[index]["semantic"] for index in range(300)])
    alone = (asked == core).flatten(1).all(1).float().mean()
    assert abs(alone - READERS[0] / sum(READERS)) < 0.1
    assert torch.equal(readings.image, Readings(300, seed=0).image)
    assert asked.max() < len(CLASSES)


@pytest.mark.parametrize(
    "options", [{"T": 1}, {"sampling_steps": 0}, {"sampling_steps": 300}, {"evaluations": 0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CCDM(**options)  # type: ignore[arg-type]
