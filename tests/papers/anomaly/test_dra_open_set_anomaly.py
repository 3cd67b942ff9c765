"""DRA's pseudo anomalies, losses, heads and scores against naive loops and torchvision, and what a short fit does."""

import logging
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_saturation

import pinakes
from pinakes import UserError
from pinakes.data.base import DataInfo
from pinakes.data.views import labels_of
from pinakes.papers.anomaly import pseudo
from pinakes.papers.anomaly.dra_open_set_anomaly import DRA, deviation_losses, targets_of, top_mean
from pinakes.papers.anomaly.pseudo import balanced, cutmix

RANDOM = "pinakes/tiny_conv@random"
SHOWN = "textures?size=32&n=24&seen=scratch&shots=1"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(channels: int = 3, **options: object) -> DRA:
    method = DRA(**{"backbone": RANDOM, **options}).prepare(DataInfo(channels, (64, 64)))  # type: ignore[arg-type]
    method.references = torch.rand(method.references.shape, generator=seeded(7))
    return method


@pytest.mark.parametrize("shape", [(12, 3, 40, 48), (12, 1, 33, 50)])
def test_cutmix_moves_one_rectangle_of_an_image_and_leaves_the_rest(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=seeded(0))
    pasted, mask = cutmix(image, jitter=0.0, generator=seeded(1))
    rows, columns = shape[-2:]
    for one, new, where in zip(image, pasted, mask, strict=True):
        inside = where.nonzero()
        (top, left), (bottom, right) = inside.min(0).values.tolist(), inside.max(0).values.tolist()
        height, width = bottom - top + 1, right - left + 1
        assert len(inside) == height * width
        assert 0.015 < len(inside) / (rows * columns) < 0.165
        assert torch.equal(new[:, ~where], one[:, ~where])
        patch = new[:, top : bottom + 1, left : right + 1]
        found = [
            torch.allclose(one[:, y : y + height, x : x + width], patch, atol=1e-5)
            for y in range(rows - height + 1)
            for x in range(columns - width + 1)
        ]
        assert any(found)


def test_cutmix_repeats_with_its_generator_and_jitters_colours_within_range() -> None:
    image = torch.rand(16, 3, 32, 32, generator=seeded(0))
    one, mask = cutmix(image, generator=seeded(1))
    again, _ = cutmix(image, generator=seeded(1))
    plain, same_mask = cutmix(image, jitter=0.0, generator=seeded(1))
    assert torch.equal(one, again)
    assert torch.equal(mask, same_mask)
    assert one.min() >= 0
    assert one.max() <= 1
    assert 0.005 < (one - plain).abs().mean(1)[mask].mean() < 0.2


@pytest.mark.parametrize(
    ("place", "adjust"), [(0, adjust_brightness), (1, adjust_contrast), (2, adjust_saturation)]
)
def test_colours_change_as_in_torchvision(place: int, adjust: object) -> None:
    image = torch.rand(3, 3, 20, 24, generator=seeded(0))
    everywhere = torch.ones(3, 20, 24, dtype=torch.bool)
    change = torch.zeros(4, 3)
    change[place] = torch.tensor([-0.1, 0.05, 0.1])
    found = pseudo._jittered(image, everywhere, change)
    expected = torch.stack([adjust(x, 1 + float(f)) for x, f in zip(image, change[place], strict=True)])  # type: ignore[operator]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_hue_turns_chrominance_and_leaves_luminance() -> None:
    turn = pseudo._hue_rotation(torch.tensor([0.3, 2 * math.pi], dtype=torch.float64))
    colour = torch.tensor([0.7, 0.2, 0.4], dtype=torch.float64)
    luminance = torch.tensor(pseudo.LUMINANCE, dtype=torch.float64)
    chrominance = torch.tensor(pseudo.CHROMINANCE, dtype=torch.float64)
    torch.testing.assert_close(turn[1] @ colour, colour)
    assert float(luminance @ turn[0] @ colour) == pytest.approx(float(luminance @ colour))
    (i, q), (new_i, new_q) = (chrominance @ colour).tolist(), (chrominance @ turn[0] @ colour).tolist()
    assert math.atan2(new_q, new_i) - math.atan2(q, i) == pytest.approx(0.3)
    assert math.hypot(new_i, new_q) == pytest.approx(math.hypot(i, q))


def test_the_loss_is_equations_ten_and_eleven() -> None:
    generator = seeded(0)
    prior = torch.randn(5000, generator=generator, dtype=torch.float64)
    scores = 4 * torch.randn(20, generator=generator, dtype=torch.float64)
    positive = torch.rand(20, generator=generator) < 0.5
    mean = sum(prior.tolist()) / 5000
    deviation = math.sqrt(sum((x - mean) ** 2 for x in prior.tolist()) / 4999)
    expected = []
    for score, y in zip(scores.tolist(), positive.tolist(), strict=True):
        z = (score - mean) / deviation
        expected.append(max(0.0, 5 - z) if y else abs(z))
    torch.testing.assert_close(
        deviation_losses(scores, positive, prior), torch.tensor(expected, dtype=torch.float64)
    )


def test_each_head_learns_from_the_images_that_the_paper_gives_it() -> None:
    found = {
        name: [y if used else None for y, used in zip(*(each.tolist() for each in pair), strict=True)]
        for name, pair in targets_of(torch.tensor([0, 1, 2])).items()
    }
    assert found == {
        "normality": [True, False, False],
        "seen": [False, True, None],
        "pseudo": [False, None, True],
        "residual": [False, True, True],
    }


@pytest.mark.parametrize(("share", "count"), [(0.1, 3), (0.01, 1), (1.0, 30)])
def test_the_image_score_is_the_mean_of_the_largest_patch_scores(share: float, count: int) -> None:
    patches = torch.rand(4, 5, 6, generator=seeded(0), dtype=torch.float64)
    expected = [sum(sorted(image.flatten().tolist())[-count:]) / count for image in patches]
    assert top_mean(patches, share).tolist() == pytest.approx(expected)


def test_heads_and_score_are_the_papers_at_each_scale() -> None:
    method = prepared(scales=2).eval()
    image = torch.rand(3, 3, 64, 64, generator=seeded(1))
    expected, maps = torch.zeros(3), torch.zeros(3, 64, 64)
    with torch.no_grad():
        for size in (64, 32):
            small, references = (
                functional.avg_pool2d(each, 64 // size) for each in (image, method.references)
            )
            normal = torch.stack([method.backbone(r[None])[0][0] for r in references]).mean(0)
            for index, one in enumerate(small):
                features = method.backbone(one[None])[0][0]
                seen, fake, residual, whole = (
                    cast(Any, method.heads[name]) for name in ("seen", "pseudo", "residual", "normality")
                )
                hidden = residual.mix((normal - features)[None])[0]
                scores = [
                    abs(torch.einsum("c,chw->hw", head.scoring.weight[0, :, 0, 0], x) + head.scoring.bias)
                    for head, x in ((seen, features), (fake, features), (residual, hidden))
                ]
                top = max(1, int(0.1 * scores[0].numel()))
                local = sum(s.flatten().sort().values[-top:].mean() for s in scores)
                holistic = abs(whole.layers(features.flatten(1).mean(1)))[0]
                expected[index] += (local - holistic) / 2
                summed = torch.stack(scores).sum(0)[None, None]
                maps[index] += functional.interpolate(summed, (64, 64), mode="bilinear")[0, 0] / 2
    method.sigma = 0.0
    prediction = method.predict(image)
    torch.testing.assert_close(prediction["score"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction["map"], maps, rtol=1e-4, atol=1e-5)


def test_the_training_loss_is_the_sum_over_heads_of_what_each_sees() -> None:
    method = prepared().eval()
    image = torch.rand(12, 3, 64, 64, generator=seeded(2))
    label = torch.tensor([0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
    torch.manual_seed(5)
    found = method.training_step({"image": image, "label": label}, 0)
    torch.manual_seed(5)
    made = ((torch.rand(12) < 0.5) & (label == 0)).tolist()
    pasted = cutmix(image)[0]
    prior = torch.randn(5000)
    assert 0 < sum(made) < 9
    mixed = torch.stack([p if m else x for p, x, m in zip(pasted, image, made, strict=True)])
    scores = method(mixed)[0]
    expected = 0.0
    for name, positives, left_out in (
        ("normality", "normal", ""),
        ("seen", "seen", "pseudo"),
        ("pseudo", "pseudo", "seen"),
        ("residual", "seen pseudo", ""),
    ):
        losses = []
        for score, pasted_here, shown in zip(scores[name].tolist(), made, label.tolist(), strict=True):
            origin = "pseudo" if pasted_here else "seen" if shown else "normal"
            z = (score - prior.mean().item()) / prior.std().item()
            if origin != left_out:
                losses.append(max(0.0, 5 - z) if origin in positives else abs(z))
        expected += sum(losses) / len(losses)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("heads", [("seen",), ("normality", "seen", "pseudo", "residual")])
def test_gradients_reach_backbone_and_every_head(heads: tuple[str, ...]) -> None:
    method = prepared(heads=heads, backbone="pinakes/tiny_conv").train()
    torch.manual_seed(0)
    image = torch.rand(8, 3, 64, 64)
    method.training_step({"image": image, "label": torch.tensor([0, 1] * 4)}, 0).backward()
    assert sorted(method.heads) == sorted(heads)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_labelled_anomalies_are_repeated_until_they_balance() -> None:
    data = pinakes.load_data(SHOWN, task="anomaly")
    labels = list(labels_of(data.train))
    assert labels.count(1) == 1
    even = balanced(data.train)
    assert labels_of(even).count(1) == labels_of(even).count(0) == labels.count(0)
    plain = pinakes.load_data("textures?size=32&n=8", task="anomaly").train
    assert balanced(plain) is plain


def test_reference_images_are_normal_training_images_and_predictions_repeat() -> None:
    method = DRA(backbone=RANDOM, references=3).fit(SHOWN, steps=2, batch_size=4)
    train = pinakes.load_data(SHOWN, task="anomaly").train
    normal = [train[index]["image"] for index in range(len(train)) if not train[index]["label"]]
    assert len(method.references) == 3
    assert all(any(torch.equal(reference, image) for image in normal) for reference in method.references)
    image = torch.rand(2, 3, 45, 60, generator=seeded(0))
    first, second = method.predict(image), method.predict(image)
    assert torch.equal(first["score"], second["score"])
    assert first["map"].shape == (2, 45, 60)


def test_a_short_fit_tells_pseudo_anomalies_from_normal_images_more_often_than_by_chance() -> None:
    method = DRA().fit("textures?size=32&n=60", steps=120, batch_size=8)
    samples = pinakes.load_data("textures?size=32&n=60").train
    images = torch.stack([samples[index]["image"] for index in range(60)])
    scores, strange = method.predict(images)["score"], method.predict(cutmix(images, generator=seeded(0))[0])
    higher = (strange["score"][:, None] > scores[None]).float().mean()
    assert higher > 0.75


def test_without_labelled_anomalies_the_seen_head_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = DRA(backbone=RANDOM).prepare(DataInfo(3, (32, 32)))
    with caplog.at_level(logging.WARNING):
        method = DRA(backbone=RANDOM).fit("textures?size=32&n=8", steps=2, batch_size=4)
    assert "no labelled anomalies" in caplog.text
    image = torch.rand(2, 3, 32, 32, generator=seeded(0))
    with torch.no_grad():
        assert not method.eval()(image)[0]["seen"].any()
    for untouched, now in zip(
        start.heads["seen"].parameters(), method.heads["seen"].parameters(), strict=True
    ):
        assert torch.equal(untouched, now)
    method.save(tmp_path)
    assert not DRA.load(tmp_path).shown


def test_the_seen_head_alone_needs_labelled_anomalies() -> None:
    with pytest.raises(UserError, match="labelled anomalies"):
        DRA(backbone=RANDOM, heads=("seen",)).fit("textures?size=32&n=8", steps=1)
    method = DRA(backbone=RANDOM, heads=("seen",)).fit(SHOWN, steps=2, batch_size=4)
    assert method.shown
    assert method.predict(torch.rand(1, 3, 32, 32))["map"].shape == (1, 32, 32)


def test_one_channel_is_taken() -> None:
    method = DRA(backbone=RANDOM).fit("textures?size=32&n=8&channels=1", steps=1, batch_size=4)
    assert method.predict(torch.rand(2, 1, 40, 32))["map"].shape == (2, 40, 32)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"heads": ("sean",)}, "heads"),
        ({"heads": ("normality",)}, "heads"),
        ({"references": 0}, "references"),
        ({"scales": 0}, "scales"),
        ({"top_share": 0.0}, "top_share"),
        ({"margin": 0.0}, "margin"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        DRA(**options)  # type: ignore[arg-type]
