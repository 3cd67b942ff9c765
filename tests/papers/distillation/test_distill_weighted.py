import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from sklearn.preprocessing import StandardScaler

import pinakes
from pinakes.papers.distillation.classifier import labelled_cross_entropy
from pinakes.papers.distillation.distill_weighted import (
    DistillWeighted,
    _ranks,
    label_cka,
    parc,
    soft_cross_entropy,
    weights_from_similarities,
)

DATA = "faces?n=40&labelled=5"
QUICK = {"steps": 2, "batch_size": 8}
TWO = ("digits?n=40", "textures?labels=material&n=20")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reference_parc(features: np.ndarray, labels: np.ndarray) -> float:
    standard = StandardScaler().fit_transform(features)
    upper = np.triu_indices(len(labels), 1)
    far = 1 - np.corrcoef(standard)
    unlike = 1 - np.round(np.corrcoef(np.eye(labels.max() + 1)[labels]), 9)
    return float(spearmanr(far[upper], unlike[upper])[0])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_parc_is_that_of_scipy_and_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 23)])
    features = rng.normal(size=(len(labels), 6)) + np.eye(classes, 6)[labels]
    features[:, 5] = 4.0
    found = parc(torch.tensor(features), torch.tensor(labels))
    assert found.item() == pytest.approx(reference_parc(features, labels), abs=1e-6)


def test_ranks_are_those_of_scipy_where_values_repeat() -> None:
    values = np.random.default_rng(0).integers(0, 5, 40).astype(float)
    torch.testing.assert_close(_ranks(torch.tensor(values)), torch.tensor(rankdata(values)))


def test_similarities_know_no_width() -> None:
    generator = torch.Generator().manual_seed(0)
    features, label = torch.randn(12, 5, generator=generator), torch.arange(12) % 3
    twice = torch.cat([features, features], dim=1)
    for similarity in (parc, label_cka):
        torch.testing.assert_close(similarity(features, label), similarity(twice, label))


@pytest.mark.parametrize("similarity", [parc, label_cka])
def test_features_by_class_are_more_similar_than_random_ones(similarity) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(30) % 3
    noise = torch.randn(30, 8, generator=generator)
    apart = torch.eye(3, 8)[label] * 5 + 0.1 * noise
    assert similarity(apart, label) > 0.7
    assert abs(similarity(noise, label)) < 0.4


def test_similarity_of_nothing_that_varies_is_0() -> None:
    assert parc(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])) == 0
    assert parc(torch.rand(4, 3), torch.tensor([1, 1, 1, 1])) == 0


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5, 40.0])
def test_weights_are_the_formula(power: float) -> None:
    similarity = [0.2, -0.1, 0.5, 0.45]
    relative = [(each + 0.1) / 0.6 for each in similarity]
    expected = [each**power / sum(other**power for other in relative) for each in relative]
    found = weights_from_similarities(torch.tensor(similarity, dtype=torch.float64), power)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_weights_of_equal_similarities_are_equal() -> None:
    torch.testing.assert_close(weights_from_similarities(torch.full((4,), 0.3), 12.0), torch.full((4,), 0.25))


def test_soft_cross_entropy_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, source = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    expected = 0.0
    for said, told in zip(student.tolist(), source.tolist(), strict=True):
        whole, sums = sum(map(math.exp, told)), math.log(sum(map(math.exp, said)))
        expected -= sum(math.exp(t) / whole * (s - sums) for s, t in zip(said, told, strict=True)) / 4
    assert soft_cross_entropy(student, source).item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_the_weighted_sum_over_the_sources() -> None:
    method = DistillWeighted(TWO, power=0.0, label_weight=0.3, augmentation="none")
    data = pinakes.load_data(DATA, task="classification")
    method.prepare(data.info)
    method._begin()
    method.weights = dict(zip(TWO, (0.25, 0.75), strict=True))
    method.eval()
    batch = method.task.collate([data.train[i] for i in range(8)])
    said = method.answers(batch["image"])
    expected = 0.3 * labelled_cross_entropy(said.logits, batch["label"])
    for weight, head, source in zip((0.25, 0.75), method._heads(), method._sources, strict=True):
        told = source.answers(batch["image"]).logits
        expected = expected + 0.7 * weight * soft_cross_entropy(head(said.levels[-1].mean((2, 3))), told)
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_similarity_is_measured_on_labelled_images_alone() -> None:
    method = DistillWeighted(TWO, probe=7)
    data = pinakes.load_data(DATA, task="classification")
    image, label = method._labelled(data, torch.device("cpu"))
    assert len(image) == len(label) == 7
    assert set(label.tolist()) == {0, 1}
    assert DistillWeighted(TWO)._labelled(data, torch.device("cpu"))[1].bincount().tolist() == [5, 5]


def test_sources_are_trained_once_and_only_the_student_is_kept(own_cache: Path) -> None:
    first = DistillWeighted(TWO, power=0.0).fit(DATA, **QUICK)
    again = DistillWeighted(TWO, power=0.0).fit(DATA, **QUICK)
    assert len(list((own_cache / "fitted").iterdir())) == 2
    alone = pinakes.create("cross-entropy").fit(DATA, **QUICK)
    assert set(first.state_dict()) == set(alone.state_dict())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert first.weights == dict.fromkeys(TWO, 0.5)
    assert all(-1 <= value <= 1 for value in first.similarities.values())


def test_nearest_takes_the_most_similar_source_and_random_any() -> None:
    nearest = DistillWeighted(TWO, choice="nearest").fit(DATA, **QUICK)
    assert nearest.weights == {max(nearest.similarities, key=nearest.similarities.__getitem__): 1.0}
    drawn = {
        next(iter(DistillWeighted(TWO, choice="random").fit(DATA, **QUICK, seed=s).weights)) for s in range(6)
    }
    assert drawn == set(TWO)


def test_a_run_folder_of_other_classes_size_and_width_is_a_source(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    pinakes.create("cross-entropy", student="pinakes/tiny_vit").fit("digits?n=40&size=48", **QUICK).save(run)
    method = DistillWeighted((run, TWO[1]), power=0.0, similarity="cka").fit(DATA, **QUICK)
    (source, other) = method._sources
    assert (source.info.size, len(source.info.classes), len(other.info.classes)) == ((48, 48), 10, 5)
    assert [tuple(each.shape) for each in method.source_answers(torch.rand(2, 3, 32, 32))] == [
        (2, 10),
        (2, 5),
    ]


def test_a_source_of_other_channels_is_refused(tmp_path: Path) -> None:
    pinakes.create("cross-entropy").fit("digits?n=40&channels=1", **QUICK).save(tmp_path / "run")
    with pytest.raises(pinakes.UserError, match="channels"):
        DistillWeighted((str(tmp_path / "run"),)).fit(DATA, **QUICK)


def test_grey_images_have_grey_sources() -> None:
    method = DistillWeighted(TWO).fit("faces?n=40&channels=1", **QUICK)
    assert all(source.info.channels == 1 for source in method._sources)


def test_what_the_student_learns_is_no_source() -> None:
    method = DistillWeighted(TWO).fit("digits?n=40", **QUICK)
    assert list(method.similarities) == [TWO[1]]
    with pytest.raises(pinakes.UserError, match="name another source"):
        DistillWeighted(TWO[:1]).fit("digits?n=40", **QUICK)


def test_a_source_that_is_neither_run_nor_data_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="sources: no-such-thing"):
        DistillWeighted(("no-such-thing",)).fit(DATA, **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"sources": ()},
        {"sources": "digits"},
        {"sources": ("digits", "digits")},
        {"power": -1.0},
        {"label_weight": 1.5},
        {"probe": 1},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DistillWeighted(**options)  # type: ignore[arg-type]
