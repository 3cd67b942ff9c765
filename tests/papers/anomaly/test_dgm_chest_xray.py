"""DGM's losses against naive loops, whose gradients reach which networks, its maps, and what a short fit does."""

import logging
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

import pinakes
from pinakes import UserError
from pinakes.data.base import DataInfo
from pinakes.engine.plan import TrainingPlan
from pinakes.papers.anomaly.dgm_chest_xray import (
    DGM,
    Decomposition,
    NormalAutoencoder,
    adversarial_loss,
    decomposition_losses,
    discriminator_loss,
    padded,
    total_variation,
)

SHOWN = "textures?size=32&n=24&seen=scratch&shots=1"
NETWORKS = ("normal_encoder", "normal_decoder", "residue_encoder", "residue_decoder", "joint_decoder")


def images(seed: int, shape: tuple[int, ...] = (3, 2, 5, 4)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(channels: int = 3, **options: Any) -> DGM:
    return DGM(**options).prepare(DataInfo(channels, (32, 32)))


def labelled(count: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(count, 3, 32, 32, generator=generator),
        "label": torch.tensor([0, 1] * (count // 2)),
    }


def test_total_variation_is_equation_five_over_the_number_of_values() -> None:
    image = images(0)
    expected = []
    for one in image.tolist():
        total = 0.0
        for channel in one:
            for i in range(5):
                for j in range(4):
                    total += abs(channel[i + 1][j] - channel[i][j]) if i + 1 < 5 else 0
                    total += abs(channel[i][j + 1] - channel[i][j]) if j + 1 < 4 else 0
        expected.append(total / 40)
    assert total_variation(image).tolist() == pytest.approx(expected)


def test_reconstruction_losses_are_equations_two_to_four() -> None:
    z, normal, residue, joint = images(0), images(1), images(2) - 0.5, images(3)
    abnormal = torch.tensor([False, True, False])
    found = decomposition_losses(z, Decomposition(normal, residue, joint), abnormal)
    pairs = zip(
        *(each.flatten().tolist() for each in (z, normal, residue, joint, abnormal.repeat_interleave(40))),
        strict=True,
    )
    first = second = third = 0.0
    for pixel, made, left, restored, is_abnormal in pairs:
        first += abs(made + left - pixel) / 120
        second += abs(restored - pixel) / 120
        third += 0 if is_abnormal else abs(left) / 120
    assert found["sum"].item() == pytest.approx(first)
    assert found["joint"].item() == pytest.approx(second)
    assert found["residue"].item() == pytest.approx(third)
    assert found["total_variation"].item() == pytest.approx(total_variation(normal).mean().item())


def test_adversarial_losses_are_equations_one_and_seven() -> None:
    made, real = images(0, (3, 2, 2)), images(1, (3, 2, 2))
    is_real = torch.tensor([True, False, True])
    fooled = sum((v - 1) ** 2 for v in made.flatten().tolist()) / 24
    told = sum(v**2 for v in made.flatten().tolist()) / 24
    told += sum((v - 1) ** 2 for v in real[is_real].flatten().tolist()) / 16
    assert adversarial_loss(made).item() == pytest.approx(fooled)
    assert discriminator_loss(made, real, is_real).item() == pytest.approx(told)
    without_real = discriminator_loss(made, real, torch.zeros(3, dtype=torch.bool))
    assert without_real.item() == pytest.approx(made.square().mean().item() / 2)


def test_each_loss_reaches_its_own_networks_with_the_papers_weights() -> None:
    method, batch = prepared(lambda_a=3.0, lambda_r=7.0, lambda_tv=0.5), labelled()
    method.stands_in = False
    method.training_step(batch, 0).backward()
    given = {name: each.grad for name, each in method.named_parameters()}
    abnormal = batch["label"] == 1
    found = method(batch["image"])
    terms = decomposition_losses(batch["image"], found, abnormal)
    decomposition = (
        3.0 * adversarial_loss(method.discriminator(found.normal))
        + 7.0 * (terms["sum"] + terms["joint"] + terms["residue"])
        + 0.5 * terms["total_variation"]
    )
    told = discriminator_loss(
        method.discriminator(found.normal), method.discriminator(batch["image"]), ~abnormal
    )
    parameters = dict(method.named_parameters())
    branches = [name for name in parameters if name.startswith(NETWORKS)]
    judges = [name for name in parameters if name.startswith("discriminator")]
    assert sorted(branches + judges) == sorted(parameters)
    for names, loss in ((branches, decomposition), (judges, told)):
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names], retain_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            torch.testing.assert_close(given[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
            assert gradient.any(), name


def test_without_labels_pseudo_anomalies_stand_in_and_with_labels_they_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="pinakes.papers.anomaly.dgm_chest_xray"):
        method = DGM().fit(SHOWN, steps=1, batch_size=4)
        assert not method.stands_in
        assert "pseudo" not in caplog.text
        method = DGM().fit("textures?size=32&n=8", steps=1, batch_size=4)
        assert method.stands_in
        assert "pseudo anomalies stand in" in caplog.text
    losses = {}
    for stands_in in (False, True):
        method.stands_in = stands_in
        for seed in (0, 1):
            torch.manual_seed(seed)
            losses[stands_in, seed] = method.training_step(labelled(), 0).item()
    assert losses[False, 0] == losses[False, 1]
    assert losses[True, 0] != losses[True, 1]


@pytest.mark.parametrize("size", [(32, 40), (33, 50), (47, 32)])
def test_images_of_any_size_are_continued_to_multiples_of_eight(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    whole = padded(image)
    rows, columns = size
    assert whole.shape[-2:] == (-(-rows // 8) * 8, -(-columns // 8) * 8)
    assert torch.equal(whole[..., :rows, :columns], image)
    assert torch.equal(whole[..., rows:, :columns], image[..., -1:, :].expand(-1, -1, -rows % 8, -1))
    found = prepared()(image)
    assert {each.shape for each in found} == {image.shape}
    assert found.normal.min() >= 0
    assert found.normal.max() <= 1
    assert found.residue.abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_is_the_smoothed_absolute_residue_and_the_score_its_maximum(channels: int) -> None:
    method, image = prepared(channels, sigma=2.0).eval(), torch.rand(2, channels, 40, 36)
    with torch.no_grad():
        residue = method(image).residue.abs().mean(1)
    expected = [gaussian_filter(one.numpy(), 2.0, mode="mirror", radius=8) for one in residue]
    prediction = method.predict(image)
    for found, one in zip(prediction["map"], expected, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(one), rtol=0, atol=1e-5)
    assert torch.equal(prediction["score"], prediction["map"].amax((1, 2)))


def test_a_short_fit_restores_images_better_and_leaves_little_residue_of_normal_ones() -> None:
    data = pinakes.load_data(SHOWN, task="anomaly")
    normal = torch.stack([data.train[index]["image"] for index in range(16)])
    before, after = prepared(), DGM().fit(SHOWN, steps=60, batch_size=8)
    none = torch.zeros(16, dtype=torch.bool)
    with torch.no_grad():
        terms = [decomposition_losses(normal, method(normal), none) for method in (before, after)]
    for name in ("sum", "joint", "residue"):
        assert terms[1][name] < 0.75 * terms[0][name], name


def test_the_baseline_has_the_form_of_the_first_branch_and_sees_normal_images_only() -> None:
    plain, mixed = (pinakes.load_data(spec, task="anomaly") for spec in ("textures?size=32&n=24", SHOWN))
    fitted = []
    for data in (plain, mixed):
        method = NormalAutoencoder().prepare(data.info)
        plan = TrainingPlan(steps=2, batch_size=8, hold_out=0)
        method.learn(method.divide(data, plan)[0], plan)
        fitted.append(method.state_dict())
    for name, value in fitted[0].items():
        assert torch.equal(value, fitted[1][name]), name
    branch = {
        name: value.shape for name, value in prepared().state_dict().items() if name.startswith("normal")
    }
    assert branch == {name: value.shape for name, value in fitted[0].items() if name.startswith("normal")}
    image = torch.rand(2, 3, 33, 40)
    prediction = method.predict(image)
    method.task.check_prediction({"image": image}, prediction, method.info)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lambda_a": -1.0}, "lambda_a"),
        ({"lambda_r": -1.0}, "lambda_r"),
        ({"lambda_tv": float("nan")}, "lambda_tv"),
        ({"width": 6}, "width"),
        ({"code": 0}, "code"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"betas": (0.5, 1.0)}, "betas"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        DGM(**options)
