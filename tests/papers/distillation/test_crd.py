import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.crd import (
    CRD,
    ContrastiveMemory,
    noise_contrastive_loss,
    same_image,
)

DATA = "digits?n=40"
QUICK = {"steps": 4, "batch_size": 8}
LABELS = torch.tensor([2, 0, 1, 0, -1, 2, 0, -1, 1, 0])


def embeddings(rows: int, seed: int) -> torch.Tensor:
    made = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made)


@pytest.fixture
def memory() -> ContrastiveMemory:
    torch.manual_seed(0)
    return ContrastiveMemory(LABELS, dimension=6, negatives=7, tau=0.2, momentum=0.3).double()


def test_the_loss_is_the_papers_formulas_written_out() -> None:
    similarity = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    odds = same_image(similarity, 0.0, negatives=4, images=10)
    found = noise_contrastive_loss(odds[:, 0], odds[:, 1:])
    expected = 0.0
    for row in similarity.tolist():
        h = [math.exp(value) / (math.exp(value) + 4 / 10) for value in row]
        expected -= (math.log(h[0]) + sum(math.log(1 - each) for each in h[1:])) / 3
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_finite_for_pairs_that_are_sure_beyond_rounding() -> None:
    odds = torch.tensor([[-300.0, 300.0]], requires_grad=True)
    loss = noise_contrastive_loss(odds[:, 0], odds[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(600)
    torch.testing.assert_close(odds.grad, torch.tensor([[-1.0, 1.0]]))


def test_negatives_are_all_images_of_other_classes_and_no_others(memory: ContrastiveMemory) -> None:
    memory.count = 500
    index = torch.arange(len(LABELS))
    found = memory.negatives(index)
    for place, label in enumerate(LABELS.tolist()):
        others = {
            other
            for other, theirs in enumerate(LABELS.tolist())
            if other != place and (theirs != label or label == -1)
        }
        assert set(found[place].tolist()) == others


def test_negatives_are_drawn_evenly(memory: ContrastiveMemory) -> None:
    memory.count = 30000
    torch.manual_seed(0)
    shares = memory.negatives(torch.tensor([3]))[0].bincount(minlength=len(LABELS)) / memory.count
    torch.testing.assert_close(shares, (LABELS != 0) / 6.0, atol=0.01, rtol=0)


def test_each_network_is_held_against_what_is_remembered_of_the_other(memory: ContrastiveMemory) -> None:
    student, teacher, index = embeddings(4, 0), embeddings(4, 1), torch.tensor([9, 2, 4, 0])
    torch.manual_seed(5)
    negatives = memory.negatives(index)
    torch.manual_seed(5)
    found = memory(student, teacher, index)
    expected = torch.tensor(0.0, dtype=torch.float64)
    for ours, theirs in ((student, memory.teacher), (teacher, memory.student)):
        powers = torch.stack(
            [
                torch.stack([(ours[row] @ theirs[place] / 0.2).exp() for place in places])
                for row, places in enumerate(torch.cat([index[:, None], negatives], 1).tolist())
            ]
        )
        powers = powers / (10 * powers.mean())
        h = powers / (powers + 7 / 10)
        expected -= (h[:, 0].log() + (1 - h[:, 1:]).log().sum(1)).mean()
    torch.testing.assert_close(found, expected)


def test_the_normaliser_is_that_of_the_first_batch(memory: ContrastiveMemory) -> None:
    memory(embeddings(4, 0), embeddings(4, 1), torch.arange(4))
    first = memory.get_buffer("log_normaliser_student").clone()
    memory(embeddings(4, 2), embeddings(4, 3), torch.arange(4))
    assert torch.equal(memory.get_buffer("log_normaliser_student"), first)
    assert torch.isfinite(first)


def test_an_image_seen_again_moves_what_is_remembered_of_it(memory: ContrastiveMemory) -> None:
    before = {name: memory.get_buffer(name).clone() for name in ("student", "teacher")}
    new = {"student": embeddings(2, 0), "teacher": embeddings(2, 1)}
    memory.remember(new["student"], new["teacher"], torch.tensor([7, 1]))
    for name, old in before.items():
        expected = old.clone()
        for row, place in enumerate((7, 1)):
            mixed = 0.3 * old[place] + 0.7 * new[name][row]
            expected[place] = mixed / mixed.norm()
        torch.testing.assert_close(memory.get_buffer(name), expected)


def test_gradients_survive_remembering(memory: ContrastiveMemory) -> None:
    student, teacher = embeddings(3, 0).requires_grad_(), embeddings(3, 1).requires_grad_()
    index = torch.tensor([0, 5, 8])
    loss = memory(student, teacher, index)
    memory.remember(student, teacher, index)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is not None


def test_it_is_what_torchdistill_computes(memory: ContrastiveMemory) -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is not here")
    theirs = losses.CRDLoss(
        "normalizer", "empty", "normalizer", 6, 10, 7, 10, temperature=0.2, momentum=0.3, eps=0.0
    ).double()
    theirs.memory_v1.copy_(memory.student)
    theirs.memory_v2.copy_(memory.teacher)
    for step, index in enumerate((torch.tensor([9, 2, 4, 0]), torch.tensor([2, 3, 9, 7]))):
        student, teacher = embeddings(4, 2 * step), embeddings(4, 2 * step + 1)
        torch.manual_seed(step)
        contrast = torch.cat([index[:, None], memory.negatives(index)], 1)
        expected = theirs(
            {
                "normalizer": {"output": student},
                "empty": {"input": {"pos_idx": index, "contrast_idx": contrast}},
            },
            {"normalizer": {"output": teacher}},
        )
        torch.manual_seed(step)
        found = memory(student, teacher, index)
        memory.remember(student, teacher, index)
        # theirs keeps Z in single precision
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(memory.student, theirs.memory_v1)
        torch.testing.assert_close(memory.teacher, theirs.memory_v2)


def test_the_rest_of_the_loss_is_labels_and_kd() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator)
    label = torch.tensor([0, -1, 2, 1])
    torch.testing.assert_close(
        CRD(alpha=0.5, temperature=3.0).loss(Answer([], student), Answer([], teacher), label),
        labelled_cross_entropy(student, label) + 0.5 * distillation_divergence(student, teacher, 3.0),
    )


class Watched(CRD):
    """Keeps which images each step saw, and the memory at its end."""

    def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        seen.append(batch["index"])
        loss = super().training_step(batch, batch_idx)
        kept[:] = [self.helping["memory"]]  # type: ignore[index]
        return loss


seen: list[torch.Tensor] = []
kept: list[ContrastiveMemory] = []


def test_training_remembers_every_image_under_its_place_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path))
    seen.clear()
    data = pinakes.load_data(f"{DATA}&labelled=2", task="classification")
    fitted = Watched().fit(data, **QUICK)
    found = torch.cat(seen)
    assert len(found.unique()) == len(found)
    lengths = kept[0].student.norm(dim=1)
    torch.testing.assert_close(lengths[found], torch.ones(len(found)))
    untouched = torch.ones(len(lengths), dtype=torch.bool)
    untouched[found] = False
    assert (lengths[untouched] - 1).abs().min() > 1e-4
    assert not any(name.startswith("helping") for name in fitted.state_dict())


def test_a_batch_that_does_not_say_its_places_is_refused_once_there_is_a_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path))
    method = CRD().fit(DATA, **QUICK)
    with pytest.raises(ValueError, match="index"):
        method.training_step({"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 1])}, 0)


def test_images_of_one_class_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="one class"):
        ContrastiveMemory(torch.zeros(5, dtype=torch.long))


def test_processes_remember_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path))
    fitted = CRD().fit(DATA, **QUICK, devices=2, device="cpu")
    assert all(torch.isfinite(parameter).all() for parameter in fitted.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 0},
        {"negatives": 0},
        {"tau": 0.0},
        {"momentum": 1.0},
        {"alpha": -1.0},
        {"beta": -1.0},
        {"temperature": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CRD(**options)
