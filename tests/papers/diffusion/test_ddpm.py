from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, q_sample
from pinakes.papers.diffusion.base import as_clean, to_foretell
from pinakes.papers.diffusion.ddpm import DDPM, bound_weights

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))


def small(**options: object) -> DDPM:
    return DDPM(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["noise", "clean", "velocity"])
def test_what_is_foretold_leads_back_to_the_clean_image(kind: str) -> None:
    clean, noise = torch.randn(2, 4, 1, 8, 8)
    kept = alpha_bar_schedule(1000)[torch.tensor([1, 10, 500, 900])]
    told = to_foretell(kind, clean, noise, kept)  # type: ignore[arg-type]
    found = as_clean(kind, told, q_sample(clean, noise, kept), kept)  # type: ignore[arg-type]
    torch.testing.assert_close(found, clean, atol=2e-2, rtol=0)


def test_the_weights_of_the_bound_are_those_of_equation_12() -> None:
    beta = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1), (1 - beta).cumprod(0)])
    expected = beta**2 / (2 * beta * (1 - beta) * (1 - alpha_bar[1:]))
    torch.testing.assert_close(bound_weights(alpha_bar), expected / expected.mean())


def test_the_same_seed_gives_the_same_images_however_many_are_made() -> None:
    method = small(sampler="ddpm")
    torch.testing.assert_close(method.sample(5, seed=3)[:2], method.sample(2, seed=3), atol=1e-5, rtol=0)
    assert not torch.equal(method.sample(2, seed=3), method.sample(2, seed=4))


def test_samples_depend_on_the_class_that_is_asked_for() -> None:
    method = small()
    torch.nn.init.normal_(method.averaged.network.tell_class.weight)
    one, other = (method.sample(2, labels=torch.full((2,), label), seed=0) for label in (0, 1))
    assert not torch.equal(one, other)
    with pytest.raises(pinakes.UserError, match="labels"):
        method.sample(2, labels=torch.tensor([0, 2]))
    with pytest.raises(pinakes.UserError, match="labels"):
        method.sample(2, labels=torch.tensor([0]))


def test_guidance_is_a_step_away_from_what_is_said_without_a_class() -> None:
    method, label = small(guidance=3.0, foretold="clean"), torch.tensor([0, 1])
    torch.nn.init.normal_(method.averaged.network.tell_class.weight)
    noised, t = 0.1 * torch.randn(2, 1, 8, 8), torch.tensor([500, 20])
    told, free = method.averaged(noised, t, label), method.averaged(noised, t, torch.tensor([-1, -1]))
    torch.testing.assert_close(method.denoise(noised, t, label), (free + 3 * (told - free)).clamp(-1, 1))


def test_some_classes_are_left_out_in_training_where_guidance_needs_it() -> None:
    batch = {"image": torch.rand(400, 1, 8, 8), "label": torch.ones(400, dtype=torch.int64)}
    torch.manual_seed(0)
    assert 20 < (small(guidance=2.0).told_in_training(batch) == -1).sum() < 60
    assert (small().told_in_training(batch) == 1).all()
    assert small(classes=False).told_in_training(batch) is None


def test_the_average_follows_the_network() -> None:
    method = DDPM(**SMALL).fit("digits?n=40", steps=3, batch_size=8)
    pairs = zip(method.network.parameters(), method.averaged.network.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    assert all(torch.isfinite(each).all() for each in method.parameters())


def test_a_picture_of_samples_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.papers.diffusion.base.PICTURE_EVERY", 0.0)
    DDPM(**SMALL).fit("digits?n=40", steps=1, batch_size=8, out=tmp_path)
    assert [each.name for each in (tmp_path / "pictures").iterdir()] == ["step-0000001.png"]


def test_judging_makes_other_images_in_every_batch() -> None:
    method = DDPM(**SMALL).fit("digits?n=80", steps=1, batch_size=8)
    seen = []
    found = method.evaluate_fully(
        "digits?n=80", batch_size=8, observe=lambda start, batch, prediction: seen.append(prediction)
    ).metrics
    assert list(found) == ["fid", "kid", "precision", "recall", "density", "coverage", "consistency"]
    samples = torch.cat([each["sample"] for each in seen])
    assert len(torch.unique(samples.flatten(1), dim=0)) == len(samples)
    panels = method.task.draw_prediction({}, {name: value[0] for name, value in seen[0].items()})
    assert [panel.caption for panel in panels] == ["sample", "nearest training image", "from noise"]


@pytest.mark.parametrize(
    "options",
    [
        {"T": 1},
        {"n_channels": 12},
        {"dropout": 1.0},
        {"guidance": -1.0},
        {"sampling_steps": 0},
        {"average": 1.0},
        {"learning_rate": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DDPM(**options)  # type: ignore[arg-type]
