import math
from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.data.views import labels_of
from pinakes.engine.checkpoints import latest
from pinakes.papers.distillation.cross_entropy import CrossEntropy
from pinakes.papers.distillation.dlb import (
    DLB,
    LAST,
    _NoisyLabels,
    last_mini_batch_loss,
    with_symmetric_noise,
)
from pinakes.tasks.base import Batch

DATA = "digits?n=40"
INFO = pinakes.DataInfo(3, (32, 32), ("a", "b", "c"))


def weights(method: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def batch(seed: int, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, 32, 32, generator=generator)
    return {"image": image, "label": torch.randint(3, (count,), generator=generator)}


def softened(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def test_the_loss_is_the_papers_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 4, generator=generator, dtype=torch.float64)
    last = 3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    label = torch.tensor([0, 3, 2, 2, 1, 0, 3])
    cross_entropy = consistency = 0.0
    for i, row in enumerate(logits.tolist()):
        cross_entropy -= math.log(softened(row, 1.0)[label[i]]) / 7
        if i < 3:
            told, said = softened(last[i].tolist(), 2.5), softened(row, 2.5)
            consistency += sum(p * math.log(p / q) for p, q in zip(told, said, strict=True)) / 3
    found = last_mini_batch_loss(logits, label, last, alpha=0.7, temperature=2.5)
    assert found.item() == pytest.approx(cross_entropy + 0.7 * 2.5**2 * consistency, rel=1e-12)


def test_no_gradient_flows_to_the_earlier_answer_and_the_others_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    last = torch.randn(2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, -1, 2, -1, 1])
    last_mini_batch_loss(logits, label, last).backward()
    assert last.grad is None
    fixed = last.detach()
    assert torch.autograd.gradcheck(lambda z: last_mini_batch_loss(z, label, fixed), logits)


def test_each_step_sees_the_images_of_the_last_one_again() -> None:
    method = DLB(augmentation="none", alpha=0.5, temperature=2.0).prepare(INFO)
    method.train()
    one, two, three = batch(1), batch(2, 3), batch(3)
    answers = [method.answers(one["image"]).logits]
    found = [method.training_step(one, 0)]
    expected = [torch.nn.functional.cross_entropy(answers[0], one["label"])]
    for old, new in ((one, two), (two, three)):
        logits = method.answers(torch.cat([old["image"], new["image"]])).logits
        label = torch.cat([old["label"], new["label"]])
        expected.append(last_mini_batch_loss(logits, label, answers[-1], 0.5, 2.0))
        answers.append(logits[len(old["label"]) :])
        found.append(method.training_step(new, 0))
    for loss, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(loss, wanted)


def test_images_are_changed_anew_when_they_are_seen_again() -> None:
    method = DLB().prepare(INFO)
    seen = []
    method.network.backbone.register_forward_pre_hook(lambda _, images: seen.append(images[0].clone()))
    torch.manual_seed(0)
    method.training_step(batch(1), 0)
    method.training_step(batch(2), 1)
    assert [len(each) for each in seen] == [4, 8]
    assert not torch.equal(seen[0], seen[1][:4])


def test_without_consistency_it_is_cross_entropy_on_both_halves() -> None:
    method = DLB(alpha=0.0, augmentation="none").prepare(INFO)
    plain = CrossEntropy(augmentation="none").prepare(INFO)
    one, two = batch(1), batch(2)
    method.training_step(one, 0)
    both = {name: torch.cat([one[name], two[name]]) for name in one}
    torch.testing.assert_close(method.training_step(two, 1), plain.training_step(both, 0))


def test_nothing_of_a_fit_is_left_for_the_next_or_for_the_saved_method(tmp_path: Path) -> None:
    method = DLB()
    first = weights(method.fit(DATA, steps=3, batch_size=8)).clone()
    assert method.last is None
    assert not any("last" in name for name in method.state_dict())
    method.prepare(method.info)
    method.training_step(batch(5), 0)
    assert torch.equal(weights(method.fit(DATA, steps=3, batch_size=8)), first)


def test_a_failed_fit_leaves_nothing_either() -> None:
    class Failing(DLB):
        def on_train_batch_end(self, *_: object) -> None:
            raise RuntimeError("stop")

    method = Failing()
    with pytest.raises(RuntimeError, match="stop"):
        method.fit(DATA, steps=3, batch_size=8)
    assert method.last is None


def test_a_resumed_run_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    class Constant(DLB):
        """A learning rate that does not depend on how long training is, so that a short run is the start of a long
        one."""

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    whole = Constant().fit(DATA, steps=6, batch_size=8)
    Constant().fit(DATA, steps=3, batch_size=8, out=tmp_path)
    assert LAST in latest(tmp_path).state  # type: ignore[union-attr]
    resumed = Constant().fit(DATA, steps=6, batch_size=8, out=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_symmetric_noise_makes_the_asked_share_of_labels_wrong_and_no_other_change() -> None:
    samples = [
        {"image": torch.rand(3, 8, 8), "label": torch.tensor(i % 5 if i % 10 else -1)} for i in range(1000)
    ]
    noisy = with_symmetric_noise(samples, 5, 0.4, seed=1)
    before, after = labels_of(samples), labels_of(noisy)
    assert all((one == -1) == (other == -1) for one, other in zip(before, after, strict=True))
    moves = [(other - one) % 5 for one, other in zip(before, after, strict=True) if one != other]  # type: ignore[operator]
    assert len(moves) == 360
    assert all(60 < moves.count(step) < 120 for step in range(1, 5))
    assert set(after) == {-1, 0, 1, 2, 3, 4}
    assert torch.equal(noisy[7]["image"], samples[7]["image"])
    assert int(noisy[7]["label"]) == after[7]
    assert labels_of(with_symmetric_noise(samples, 5, 0.4, seed=1)) == after
    assert labels_of(with_symmetric_noise(samples, 5, 0.4, seed=2)) != after


def test_the_claims_sides_learn_from_the_same_wrong_labels() -> None:
    seen: dict[float, list[int]] = {0.0: [], 1.0: []}

    class Watched(_NoisyLabels):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            seen[self.alpha] += batch["label"].tolist()
            return super().training_step(batch, batch_idx)

    for alpha in seen:
        Watched(alpha=alpha).fit(DATA, epochs=1, batch_size=8, seed=4)
    clean = labels_of(pinakes.load_data(DATA, task="classification").train)
    assert seen[0.0] == seen[1.0]
    assert sorted(seen[0.0]) != sorted(clean)  # type: ignore[type-var]


@pytest.mark.parametrize("option", [{"alpha": -1.0}, {"temperature": 0.0}, {"learning_rate": 0.0}])
def test_options_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(option))):
        DLB(**option)  # type: ignore[arg-type]
