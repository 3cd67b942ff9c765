from pathlib import Path

import pytest
import torch
from torch import nn

import pinakes
from pinakes.nn.similarity import linear_cka
from pinakes.papers.distillation.classifier import labelled_cross_entropy
from pinakes.papers.distillation.guidance import (
    FullyConnected,
    Guidance,
    layer_outputs,
    layer_pairs,
    representational_distance,
)

DATA = "digits?n=40"
QUICK = {"steps": 2, "batch_size": 8}
INFO = pinakes.DataInfo(3, (32, 32), ("a", "b", "c"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(6, 3, 32, 32, generator=generator),
        "label": torch.tensor([0, 1, 2, -1, 1, -1]),
    }


@pytest.mark.parametrize(("guiding", "guided"), [(3, 9), (9, 9), (9, 3), (1, 4), (5, 1), (16, 24)])
def test_layers_are_paired_by_depth(guiding: int, guided: int) -> None:
    step = (guided - 1) / (guiding - 1) if guiding > 1 else 1
    expected = {}
    for layer in range(guiding):
        expected[min(round(layer * step), guided - 1)] = layer
    pairs = layer_pairs(guiding, guided)
    assert {target: guide for guide, target in pairs} == expected
    assert len(pairs) == len(expected) == min(guiding, guided)


def test_distance_is_the_sum_over_the_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    target = [torch.randn(6, 4, generator=generator) for _ in range(5)]
    guide = [torch.randn(6, 2, 3, 3, generator=generator) for _ in range(3)]
    expected = sum(1 - linear_cka(target[t], guide[g]).item() for g, t in ((0, 0), (1, 2), (2, 4)))
    assert representational_distance(target, guide).item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="guide"):
        representational_distance(target, [])


def test_outputs_are_those_of_convolutions_and_linear_layers_in_order() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    image = torch.randn(2, 3, 4, 4)
    with layer_outputs(network) as found:
        answer = network(image)
    torch.testing.assert_close(found[0], network[0](image))
    assert found[1] is answer
    network(image)
    assert len(found) == 2


def test_the_loss_is_cross_entropy_and_distance_without_the_logits() -> None:
    method = Guidance(guide="untrained", depth=4, width=8, alpha=0.5, augmentation="none").prepare(INFO)
    batch = some_batch()
    method.eval()
    found = method.training_step(batch, 0)
    image = batch["image"]
    with layer_outputs(method.network) as target:
        logits = method.network(image)
    with layer_outputs(method._teacher[0].network) as guide:
        method._teacher[0].answers(image)
    assert target[-1].shape == guide[-1].shape == (6, 3)
    distance = representational_distance(target[:-1], guide[:-1])
    torch.testing.assert_close(found, labelled_cross_entropy(logits, batch["label"]) + 0.5 * distance)


def test_the_guide_gets_no_gradient_and_every_layer_of_the_target_does() -> None:
    method = Guidance(guide="untrained", depth=4, width=8).prepare(INFO)
    method.train()
    method.training_step(some_batch(), 0).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is None for p in method._teacher[0].parameters())


def test_an_untrained_guide_is_random_differs_with_the_seed_and_is_not_trained(own_cache: Path) -> None:
    guides = [
        Guidance(guide="untrained", depth=3, width=8).fit(DATA, **QUICK, seed=seed)._teacher[0]
        for seed in (0, 0, 1)
    ]
    first, again, other = (next(guide.parameters()) for guide in guides)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not (own_cache / "fitted").exists()
    fresh = pinakes.create("cross-entropy", student="pinakes/tiny_conv@random").prepare(guides[0].info)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), guides[0].parameters(), strict=True))


def test_a_trained_guide_is_asked_as_every_teacher_is() -> None:
    method = Guidance(depth=3, width=8, teacher="pinakes/resnet8s2", teacher_steps=1).fit(DATA, **QUICK)
    image = torch.rand(2, 3, 32, 32)
    found = method.guide_layers(image)
    assert len(found) == 1 + 2 * 3 + 2 + 1
    torch.testing.assert_close(found[-1], method.taught(image).logits)


def test_only_a_trained_guide_is_one_to_be_judged() -> None:
    small = {"depth": 3, "width": 8, "teacher_steps": 1}
    assert list(Guidance(**small).fit(DATA, **QUICK).learnt_from()) == ["teacher"]  # type: ignore[arg-type]
    assert Guidance(guide="untrained", **small).fit(DATA, **QUICK).learnt_from() == {}  # type: ignore[arg-type]


def test_without_alpha_there_is_no_guide(own_cache: Path) -> None:
    alone = Guidance(alpha=0.0, depth=3, width=8).fit(DATA, **QUICK)
    assert alone.learnt_from() == {}
    assert not (own_cache / "fitted").exists()


def test_the_guide_is_left_behind_after_its_share_of_training() -> None:
    seen = []

    class Watched(Guidance):
        def guide_layers(self, image):  # type: ignore[no-untyped-def]
            seen.append(self.global_step)
            return super().guide_layers(image)

    Watched(guide="untrained", guided=0.5, depth=3, width=8).fit(DATA, steps=6, batch_size=8)
    assert seen == [0, 1, 2]


def test_a_backbone_is_guided_as_well() -> None:
    method = Guidance(guide="untrained", student="pinakes/tiny_vit", teacher="pinakes/resnet8s2").fit(
        DATA, **QUICK
    )
    assert torch.isfinite(method.predict(torch.rand(2, 3, 32, 32))["probabilities"]).all()


def test_a_run_cannot_be_an_untrained_guide(tmp_path: Path) -> None:
    pinakes.create("cross-entropy").fit(DATA, **QUICK).save(tmp_path / "run")
    with pytest.raises(pinakes.UserError, match="untrained"):
        Guidance(guide="untrained", teacher=str(tmp_path / "run"), depth=3, width=8).fit(DATA, **QUICK)


def test_a_fully_connected_network_takes_one_channel_other_sizes_and_a_batch_of_one() -> None:
    network = FullyConnected(1, (16, 16), width=6, depth=7)
    assert [tuple(each.shape) for each in network(torch.rand(1, 1, 16, 16))] == [(1, 6, 1, 1)] * 3
    assert network(torch.rand(2, 1, 40, 30))[-1].shape == (2, 6, 1, 1)


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"guided": 0.0}, {"guided": 1.5}, {"depth": 2}, {"width": 0}],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        Guidance(**options)  # type: ignore[arg-type]
