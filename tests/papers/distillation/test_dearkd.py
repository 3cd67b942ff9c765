import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.dearkd import (
    Aligner,
    ConvolutionalAttention,
    DearKD,
    EarlyAnswer,
    EarlyTransformer,
    first_stage_loss,
    hard_distillation,
    kernel_offsets,
    relative_places,
)

DATA = "digits?n=40"
SMALL = {"embed_dim": 16, "depth": 2, "early_blocks": 1, "patch": 8, "teacher": "pinakes/resnet8s2"}
QUICK = {"steps": 2, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def ready(**options: object) -> DearKD:
    """A method about to be trained, with a teacher that was never trained."""
    method = DearKD(**{**SMALL, **options})  # type: ignore[arg-type]
    info = pinakes.load_data(DATA, task="classification").info
    method.prepare(info)
    method._set_teacher(method._fresh_teacher().prepare(info, seed=1))
    return method


def first_stage(method: DearKD, label: torch.Tensor) -> torch.Tensor:
    return method.loss(method.answers(images()), method.taught(images()), label)


def test_places_are_relative_to_the_patch_that_looks() -> None:
    found = relative_places(2, 3)
    for i in range(6):
        for j in range(6):
            down, right = j // 3 - i // 3, j % 3 - i % 3
            assert found[i, j].tolist() == [down**2 + right**2, down, right]


def test_nine_heads_start_as_the_places_of_a_three_by_three_kernel() -> None:
    expected = [[down, right] for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert kernel_offsets(9).tolist() == expected
    with pytest.raises(ValueError, match="heads"):
        kernel_offsets(6)


def test_attention_is_the_formula_written_out() -> None:
    torch.manual_seed(0)
    layer = ConvolutionalAttention(8, (2, 2), heads=4, others=2).double()
    layer.direction.data = random(4, 3)
    tokens = random(1, 6, 8)
    q, k, v = layer.qkv(tokens)[0].split(8, dim=1)
    expected = torch.zeros(6, 8, dtype=torch.float64)
    for head in range(4):
        own = slice(2 * head, 2 * head + 2)
        for i in range(6):
            scores = []
            for j in range(6):
                score = (q[i, own] @ k[j, own]).item() / math.sqrt(2)
                if i >= 2 and j >= 2:
                    down, right = (j - 2) // 2 - (i - 2) // 2, (j - 2) % 2 - (i - 2) % 2
                    place = torch.tensor([down**2 + right**2, down, right], dtype=torch.float64)
                    score += (layer.direction[head] @ place).item()
                scores.append(score)
            powers = [math.exp(score) for score in scores]
            for j in range(6):
                expected[i, own] += powers[j] / sum(powers) * v[j, own]
    torch.testing.assert_close(layer(tokens)[0], layer.proj(expected), rtol=1e-10, atol=1e-12)


def test_strict_heads_without_content_are_a_convolution() -> None:
    width, heads = 18, 9
    layer = ConvolutionalAttention(width, (6, 5), heads, others=0, strictness=200.0).double()
    with torch.no_grad():
        layer.qkv.weight[: 2 * width] = 0
        layer.qkv.bias.zero_()
        layer.proj.bias.zero_()
    features = random(2, width, 6, 5)
    found = layer(features.flatten(2).transpose(1, 2)).transpose(1, 2).view(2, width, 6, 5)
    values, mix = layer.qkv.weight[2 * width :], layer.proj.weight
    kernel = torch.stack(
        [mix[:, 2 * head : 2 * head + 2] @ values[2 * head : 2 * head + 2] for head in range(heads)], dim=2
    ).view(width, width, 3, 3)
    expected = functional.conv2d(features, kernel)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected, rtol=0, atol=1e-10)


def test_only_the_first_blocks_are_convolutional() -> None:
    network = EarlyTransformer((32, 32), 8, 3, 16, depth=3, early=2)
    kinds = [isinstance(block.attn, ConvolutionalAttention) for block in network.network.blocks]
    assert kinds == [True, True, False]


def test_the_transformer_gives_two_tokens_and_maps_behind_the_blocks_asked_for() -> None:
    network = EarlyTransformer((32, 48), 8, 1, 16, depth=3, early=1).eval()
    seen = {}
    for count, block in enumerate(network.network.blocks, start=1):
        block.register_forward_hook(lambda _, __, out, count=count: seen.__setitem__(count, out))
    image = torch.rand(2, 1, 32, 48)
    tokens, maps = network(image, [1, 3, 1])
    assert tokens.shape == (2, 2 + 24, 16)
    torch.testing.assert_close(tokens, network.network.norm(seen[3]))
    for found, count in zip(maps, (1, 3, 1), strict=True):
        assert found.shape == (2, 16, 4, 6)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), seen[count][:, 2:])


def test_hard_distillation_is_the_formula_written_out() -> None:
    labelled, distilled, teacher = random(3, 4, 5)
    label = torch.tensor([2, -1, 0, -1])
    own = [-math.log(labelled[i].exp()[label[i]].item() / labelled[i].exp().sum().item()) for i in (0, 2)]
    told = []
    for i in range(4):
        best = max(range(5), key=lambda c: teacher[i, c].item())
        told.append(-math.log(distilled[i].exp()[best].item() / distilled[i].exp().sum().item()))
    found = hard_distillation(labelled, distilled, teacher, label, alpha=0.3)
    assert found.item() == pytest.approx(0.3 * sum(own) / 2 + 0.7 * sum(told) / 4, abs=1e-12)


def test_early_features_are_compared_behind_the_aligner_in_the_teachers_size() -> None:
    aligner = Aligner(8, 5).double()
    early, target, logits = random(2, 8, 4, 4), random(2, 5, 8, 6), random(2, 3)
    student = EarlyAnswer([], logits, early, logits, logits + 1)
    teacher, label = Answer([target, random(2, 7, 4, 3)], -logits), torch.tensor([0, 1])
    losses = [
        first_stage_loss(student, teacher, label, aligner, alpha=0.5, beta=beta).item() for beta in (0.0, 2.0)
    ]
    assert losses[0] == first_stage_loss(student, teacher, label, None).item()
    larger = functional.interpolate(early, (8, 6), mode="bilinear", align_corners=False)
    normal = (larger - larger.mean((1, 2, 3), keepdim=True)) / (
        larger.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    _, spatial, _, across = aligner.layers
    aligned = across(functional.gelu(functional.conv2d(normal, spatial.weight, spatial.bias, 1, 1, 1, 8)))
    error = (
        sum((a - b) ** 2 for a, b in zip(aligned.flatten(), target.flatten(), strict=True)) / target.numel()
    )
    assert losses[1] - losses[0] == pytest.approx(2 * error.item(), rel=1e-9)


def test_gradients_of_the_first_stage_reach_everything_and_not_the_teacher() -> None:
    method = ready()
    torch.manual_seed(0)
    first_stage(method, torch.tensor([0, 1, 2, -1])).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert any(name.startswith("helping.") for name, _ in method.named_parameters())
    assert all(p.grad is None for p in method._teacher[0].parameters())


def test_the_first_stage_falls_when_one_batch_is_repeated() -> None:
    method = ready()
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = first_stage(method, torch.tensor([0, 1, 2, 3]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


class Watched(DearKD):
    """Notes in which steps the teacher is asked."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(**SMALL, first_stage=share, teacher_steps=1)  # type: ignore[arg-type]
        self.asked: list[int] = []

    def taught(self, image: torch.Tensor) -> Answer:
        self.asked.append(self.global_step)
        return super().taught(image)


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_the_teacher_is_asked_in_the_first_stage_only(share: float, steps: int) -> None:
    method = Watched(share)
    method.fit(DATA, steps=8, batch_size=8)
    assert method.asked == list(range(steps))


def test_the_second_stage_is_the_cross_entropy_of_the_answer() -> None:
    method = ready(augmentation="none")
    batch = {"image": images(), "label": torch.tensor([3, 1, -1, 0])}
    probabilities = method.eval().predict_step(batch)["probabilities"]
    known = [0, 1, 3]
    expected = -probabilities[known, batch["label"][known]].log().mean()
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_without_early_features_there_is_nothing_to_drop_and_after_training_no_aligner() -> None:
    assert ready(beta=0.0).helping is None
    method = DearKD(**SMALL).fit(DATA, **QUICK)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in method.state_dict()} == {"network"}


@pytest.mark.parametrize("teacher", ["pinakes/tiny_vit", "pinakes/resnet8"])
def test_teachers_of_other_widths_and_strides_serve(teacher: str) -> None:
    method = ready(teacher=teacher)
    assert torch.isfinite(first_stage(method, torch.tensor([0, 1, 2, 3])))


def test_a_fitted_student_serves_as_a_teacher_and_takes_images_of_other_shapes(tmp_path: Path) -> None:
    DearKD(**SMALL).fit(DATA, **QUICK).save(tmp_path)  # type: ignore[arg-type]
    student = pinakes.create("kd", teacher=str(tmp_path)).fit(DATA, **QUICK)
    assert [tuple(level.shape) for level in student.taught(images()).levels] == [(4, 16, 4, 4)] * 3  # type: ignore[attr-defined]
    method = DearKD(**SMALL).prepare(pinakes.DataInfo(1, (32, 48), ("a", "b")))  # type: ignore[arg-type]
    assert method.predict(torch.rand(2, 1, 40, 36))["probabilities"].shape == (2, 2)


def test_images_that_cannot_be_cut_into_patches_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="patch"):
        DearKD(patch=5).prepare(pinakes.DataInfo(3, (32, 32), ("a", "b")))


def test_a_fit_of_unknown_length_is_refused() -> None:
    method = DearKD(**SMALL, teacher_steps=1)  # type: ignore[arg-type]
    with pytest.raises(pinakes.UserError, match="steps"):
        method.fit(DATA, steps=10**9, batch_size=8, time_limit=5.0)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1.5},
        {"beta": -1.0},
        {"first_stage": -0.1},
        {"early_blocks": 5},
        {"early_blocks": 0},
        {"patch": 0},
        {"embed_dim": 30},
        {"depth": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DearKD(**options)  # type: ignore[arg-type]
