from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.cirkd import (
    CIRKD,
    ClassMemory,
    Relations,
    batch_divergence,
    memory_divergence,
    place_in_group,
    regions,
    some_pixels,
)
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.segmenters import Segmenter, pixel_cross_entropy, pixel_divergence, rows_of

DATA = "scenes:segmentation?size=32&n=16"
QUICK = {"steps": 3, "batch_size": 4}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return functional.normalize(rows, dim=1)


def divergence(told: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    return (told.softmax(0) * (told.softmax(0) / said.softmax(0)).log()).sum()


def weights(method: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def test_relations_in_the_batch_are_the_formula_over_all_pairs_of_images(generator: torch.Generator) -> None:
    student = torch.randn(3, 4, 2, 3, generator=generator, dtype=torch.float64)
    teacher = torch.randn(3, 7, 2, 3, generator=generator, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            said, told = (
                unit(maps[i].flatten(1).T) @ unit(maps[j].flatten(1).T).T / 0.2 for maps in (student, teacher)
            )
            expected += sum(divergence(told[a], said[a]) for a in range(6)) / 6 / 9
    torch.testing.assert_close(batch_divergence(student, teacher, 0.2), expected)


def test_relations_to_a_memory_are_the_formula(generator: torch.Generator) -> None:
    student, teacher = unit(torch.randn(10, 6, generator=generator, dtype=torch.float64)).split(5)
    memory = unit(torch.randn(8, 6, generator=generator, dtype=torch.float64))
    expected = torch.zeros((), dtype=torch.float64)
    for a in range(5):
        said, told = (
            torch.stack([pixels[a] @ memory[k] / 0.1 for k in range(8)]) for pixels in (student, teacher)
        )
        expected += 9 * divergence(told / 3, said / 3) / 5
    torch.testing.assert_close(memory_divergence(student, teacher, memory, 0.1, 3.0), expected)


def test_both_divergences_have_the_gradients_of_finite_differences(generator: torch.Generator) -> None:
    student = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: batch_divergence(s, teacher), student)
    pixels, memory = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: memory_divergence(rows_of(s)[:4], pixels, memory), student)


def test_places_count_the_members_before(generator: torch.Generator) -> None:
    group = torch.randint(5, (40,), generator=generator)
    expected = [int((group[:i] == group[i]).sum()) for i in range(40)]
    assert place_in_group(group).tolist() == expected
    assert place_in_group(group[:0]).tolist() == []


def test_a_region_is_the_mean_of_a_class_in_an_image(generator: torch.Generator) -> None:
    embedding = functional.normalize(torch.randn(3, 4, 5, 5, generator=generator), dim=1)
    semantic = torch.randint(-1, 3, (3, 5, 5), generator=generator)
    semantic[1][semantic[1] == 2] = -1
    found, label = regions(embedding, semantic, 4)
    expected = [
        (functional.normalize(embedding[i][:, semantic[i] == c].mean(1), dim=0), c)
        for i in range(3)
        for c in range(4)
        if (semantic[i] == c).any()
    ]
    assert label.tolist() == [c for _, c in expected]
    torch.testing.assert_close(found, torch.stack([mean for mean, _ in expected]))


def test_pixels_that_are_remembered_are_of_their_class_all_different_and_not_too_many() -> None:
    semantic = torch.randint(-1, 3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    semantic[0, 0, 0] = 3
    embedding = torch.arange(72.0).view(2, 1, 6, 6)
    found, label = some_pixels(embedding, semantic, 4, most=5)
    places = found[:, 0].long()
    assert torch.equal(semantic.flatten()[places], label)
    assert len(places.unique()) == len(places)
    for image in range(2):
        for c in range(4):
            there = int((semantic[image] == c).sum())
            assert int(((places // 36 == image) & (label == c)).sum()) == min(5, there)


def test_which_pixels_are_remembered_changes_from_draw_to_draw() -> None:
    semantic = torch.zeros(1, 6, 6, dtype=torch.int64)
    embedding = torch.arange(36.0).view(1, 1, 6, 6)
    drawn = torch.cat([some_pixels(embedding, semantic, 1, most=4)[0] for _ in range(100)])
    assert len(drawn.unique()) == 36


def test_a_memory_holds_the_latest_of_each_class(generator: torch.Generator) -> None:
    memory = ClassMemory(classes=3, size=4, features=1)
    rings: list[deque[float]] = [deque(maxlen=4) for _ in range(3)]
    for step in range(12):
        label = torch.randint(2, (step % 9,), generator=generator)
        values = torch.rand(len(label), 1, generator=generator)
        memory.add(values, label)
        for value, c in zip(values[:, 0].tolist(), label.tolist(), strict=True):
            rings[c].append(value)
        for c in range(3):
            held = memory.kept[c, : min(4, int(memory.seen[c])), 0]
            assert sorted(held.tolist()) == sorted(rings[c])


def test_draws_are_balanced_between_the_classes_and_never_empty_places() -> None:
    memory = ClassMemory(classes=4, size=10, features=1)
    label = torch.tensor([0] * 50 + [1] * 3 + [3] * 8)
    memory.add(1 + label[:, None] + torch.linspace(0.1, 0.9, len(label))[:, None], label)
    torch.manual_seed(0)
    drawn = torch.stack([memory.draw(5)[:, 0] for _ in range(50)])
    assert all((row.floor() == torch.tensor([1.0] * 5 + [2.0] * 3 + [4.0] * 5)).all() for row in drawn)
    assert all(len(row.unique()) == 13 for row in drawn)
    assert len(drawn[:, :5].unique()) == 10


def prepared(**options: Any) -> CIRKD:
    method = CIRKD(**options).prepare(pinakes.DataInfo(3, (32, 32), ("a", "b", "c")))
    method._begin()
    return method


def answers(features: int, side: int, generator: torch.Generator) -> Answer:
    return Answer(
        [torch.rand(4, features, side, side, generator=generator)],
        torch.randn(4, 3, 32, 32, generator=generator),
    )


def test_the_loss_is_the_weighted_sum_of_all_terms(generator: torch.Generator) -> None:
    method = prepared(alpha=0.7, beta=0.2, gamma=0.3, kd_temperature=2.0, contrast_kd_temperature=3.0)
    student, teacher = answers(16, 8, generator), answers(64, 8, generator)
    semantic = torch.randint(-1, 3, (4, 8, 8), generator=generator)
    label = semantic.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.manual_seed(5)
    found = method.loss(student, teacher, label)
    relations = method.helping
    assert isinstance(relations, Relations)
    said, told = unit(relations.project(student.levels[0])), unit(teacher.levels[0])
    known = semantic.flatten() >= 0
    torch.manual_seed(5)
    some_pixels(told, semantic, 3, 16)
    drawn = relations.pixels.draw(512 // 3 + 1), relations.regions.draw(128 // 3 + 1)
    to_pixels, to_regions = (
        memory_divergence(rows_of(said)[known], rows_of(told)[known], memory, 0.1, 3.0) for memory in drawn
    )
    pooled = [functional.avg_pool2d(maps, 2) for maps in (student.levels[0], teacher.levels[0])]
    expected = (
        pixel_cross_entropy(student.logits, label)
        + pixel_divergence(student.logits, teacher.logits, 2.0)
        + 0.7 * batch_divergence(pooled[0], pooled[1], 0.1)
        + 0.2 * to_pixels
        + 0.3 * to_regions
    )
    torch.testing.assert_close(found, expected)


def test_memories_are_the_teachers_and_earlier_batches_stay_in_them(generator: torch.Generator) -> None:
    method = prepared()
    label = torch.zeros(4, 32, 32, dtype=torch.int64)
    taught = [answers(64, 8, generator) for _ in range(2)]
    for teacher in taught:
        method.loss(answers(16, 8, generator), teacher, label)
    relations = method.helping
    assert isinstance(relations, Relations)
    assert relations.pixels.seen.tolist() == [2 * 4 * 16, 0, 0]
    assert relations.regions.seen.tolist() == [8, 0, 0]
    expected = torch.cat([unit(unit(teacher.levels[0]).mean((2, 3))) for teacher in taught])
    torch.testing.assert_close(relations.regions.kept[0, :8], expected)
    assert not relations.pixels.kept.requires_grad


@pytest.mark.parametrize(("ours", "theirs"), [(16, 8), (8, 16), (5, 8), (1, 1)])
def test_maps_of_unequal_size_are_compared_on_the_smaller(
    ours: int, theirs: int, generator: torch.Generator
) -> None:
    method = prepared()
    label = torch.randint(-1, 3, (4, 32, 32), generator=generator)
    loss = method.loss(answers(16, ours, generator), answers(64, theirs, generator), label)
    assert torch.isfinite(loss)


def test_a_batch_without_labels_teaches_relations_in_the_batch_and_probabilities(
    generator: torch.Generator,
) -> None:
    method = prepared()
    student, teacher = answers(16, 8, generator), answers(64, 8, generator)
    found = method.loss(student, teacher, torch.full((4, 32, 32), -1))
    pooled = [functional.avg_pool2d(maps, 2) for maps in (student.levels[0], teacher.levels[0])]
    expected = pixel_divergence(student.logits, teacher.logits) + batch_divergence(pooled[0], pooled[1])
    torch.testing.assert_close(found, expected)
    relations = method.helping
    assert isinstance(relations, Relations)
    assert not relations.pixels.seen.any()


def test_head_and_memories_are_gone_after_training() -> None:
    student = CIRKD().fit(DATA, **QUICK)
    alone = Segmenter().fit(DATA, **QUICK)
    assert student.helping is None
    assert set(student.state_dict()) == set(alone.state_dict())


def test_a_run_that_was_cut_short_finds_its_memories_again(tmp_path: Path) -> None:
    CIRKD(student="pinakes/resnet20s2", teacher_steps=1).fit(DATA, **QUICK).save(tmp_path / "teacher")

    class Watched(CIRKD):
        started_with = -1

        def on_train_start(self) -> None:
            assert isinstance(self.helping, Relations)
            self.started_with = int(self.helping.regions.seen.sum())

    def taught(**settings: object) -> Watched:
        return Watched(teacher=str(tmp_path / "teacher")).fit(DATA, steps=5, batch_size=4, **settings)

    whole = taught()
    assert taught(out=tmp_path / "run", time_limit=1e-6).started_with == 0
    resumed = taught(out=tmp_path / "run", resume=True)
    assert resumed.started_with > 0
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    "options", [{"teacher": "pinakes/tiny_vit"}, {"student": "pinakes/tiny_vit"}, {"pooling": 1}]
)
def test_any_backbones_and_one_channel_will_do(options: dict[str, Any]) -> None:
    student = CIRKD(teacher_steps=1, **options).fit(f"{DATA}&channels=1", **QUICK)
    assert torch.isfinite(weights(student)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -1.0},
        {"beta": -0.1},
        {"gamma": -0.1},
        {"kd_temperature": 0.0},
        {"contrast_temperature": 0.0},
        {"contrast_kd_temperature": -1.0},
        {"pixel_memory_size": 0},
        {"region_memory_size": 0},
        {"pixel_contrast_size": 0},
        {"region_contrast_size": 0},
        {"pooling": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CIRKD(**options)
