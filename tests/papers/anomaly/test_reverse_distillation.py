"""Reverse distillation's loss, maps and networks against naive loops, and what a short fit does."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pinakes import UserError
from pinakes.data.base import DataInfo
from pinakes.papers.anomaly.reverse_distillation import (
    OneClassBottleneck,
    ReverseDecoder,
    ReverseDistillation,
    accumulated_map,
    anomaly_map,
    distillation_loss,
    flattened_loss,
)

RANDOM = "pinakes/tiny_conv@random"


def levels(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 8, 6), (3, 8, 4, 3), (3, 16, 2, 2)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def naive_map(teacher: Tensor, student: Tensor) -> Tensor:
    batch, _, rows, columns = teacher.shape
    found = torch.zeros(batch, rows, columns, dtype=torch.float64)
    for b in range(batch):
        for h in range(rows):
            for w in range(columns):
                e, d = teacher[b, :, h, w].tolist(), student[b, :, h, w].tolist()
                dot = sum(x * y for x, y in zip(e, d, strict=True))
                found[b, h, w] = 1 - dot / math.sqrt(sum(x * x for x in e) * sum(y * y for y in d))
    return found


def prepared(size: tuple[int, int] = (64, 64), **options: object) -> ReverseDistillation:
    return ReverseDistillation(**{"backbone": RANDOM, **options}).prepare(DataInfo(3, size))  # type: ignore[arg-type]


def test_the_map_is_equation_one_at_every_position() -> None:
    for teacher, student in zip(levels(0), levels(1), strict=True):
        torch.testing.assert_close(
            anomaly_map(teacher, student), naive_map(teacher, student), rtol=0, atol=1e-10
        )


def test_the_loss_is_equation_two() -> None:
    expected = sum(naive_map(t, s).mean().item() for t, s in zip(levels(0), levels(1), strict=True))
    assert distillation_loss(levels(0), levels(1)).item() == pytest.approx(expected, abs=1e-10)


def test_the_flattened_loss_takes_one_cosine_for_each_image_and_scale() -> None:
    expected = 0.0
    for teacher, student in zip(levels(0), levels(1), strict=True):
        for e, d in zip(teacher, student, strict=True):
            expected += (1 - (e * d).sum().item() / math.sqrt((e * e).sum() * (d * d).sum())) / len(teacher)
    assert flattened_loss(levels(0), levels(1)).item() == pytest.approx(expected, abs=1e-10)


def test_only_equation_two_counts_weak_positions_as_much_as_strong_ones() -> None:
    teacher, student = torch.ones(1, 4, 1, 2), torch.ones(1, 4, 1, 2)
    teacher[..., 0], student[:, :2, :, 0] = 0.01, -1
    assert distillation_loss([teacher], [student]).item() == pytest.approx(0.5, abs=1e-6)
    assert flattened_loss([teacher], [student]).item() < 0.35


def test_both_losses_and_the_map_are_zero_where_the_student_points_as_the_teacher() -> None:
    student = [2.5 * level for level in levels(0)]
    assert distillation_loss(levels(0), student).item() == pytest.approx(0, abs=1e-10)
    assert flattened_loss(levels(0), student).item() == pytest.approx(0, abs=1e-10)
    assert accumulated_map(levels(0), student, (16, 12)).abs().max().item() < 1e-10


def test_the_accumulated_map_sums_over_scales() -> None:
    teacher, student = levels(0), levels(1)
    expected = sum(accumulated_map([t], [s], (16, 12)) for t, s in zip(teacher, student, strict=True))
    torch.testing.assert_close(accumulated_map(teacher, student, (16, 12)), expected, rtol=0, atol=1e-10)
    one = accumulated_map(teacher[:1], student[:1], (8, 6))
    torch.testing.assert_close(one, naive_map(teacher[0], student[0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_bottleneck_is_twice_as_wide_and_half_as_fine_as_the_deepest_level(blocks: int) -> None:
    bottleneck = OneClassBottleneck([4, 8, 16], blocks)
    assert bottleneck([level.float() for level in levels(0)]).shape == (3, 32, 1, 1)
    fused = []
    bottleneck.fuse.register_forward_hook(lambda module, inputs, output: fused.append((inputs[0], output)))
    bottleneck([torch.rand(2, 4, 20, 12), torch.rand(2, 8, 10, 6), torch.rand(2, 16, 5, 3)])
    assert fused[0][0].shape == (2, 48, 5, 3)
    assert fused[0][1].shape == (2, 16, 5, 3)


def test_the_deepest_level_enters_the_fusion_as_it_is() -> None:
    bottleneck, inputs = OneClassBottleneck([4, 8, 16]), [level.float() for level in levels(0)]
    fused = []
    bottleneck.fuse.register_forward_pre_hook(lambda module, values: fused.append(values[0]))
    bottleneck(inputs)
    assert torch.equal(fused[0][:, 32:], inputs[2])


@pytest.mark.parametrize(
    "grids", [[(8, 6), (4, 3), (2, 2)], [(25, 19), (13, 10), (7, 5)], [(9, 6), (4, 3), (2, 1)]]
)
def test_the_decoder_answers_on_the_grids_of_the_teacher(grids: list[tuple[int, int]]) -> None:
    deepest = grids[-1]
    embedding = torch.rand(2, 32, (deepest[0] + 1) // 2, (deepest[1] + 1) // 2)
    found = ReverseDecoder([4, 8, 16], blocks=2)(embedding, grids)
    assert [tuple(level.shape) for level in found] == [
        (2, width, *grid) for width, grid in zip([4, 8, 16], grids, strict=True)
    ]


def test_the_decoder_upsamples_each_cell_to_its_own_two_by_two_cells() -> None:
    first = ReverseDecoder([4, 8], blocks=1).stages[0][0]  # type: ignore[index]  # a Sequential
    cell = torch.zeros(1, 16, 3, 3)
    cell[0, :, 1, 2] = 1.0
    for branch in (first.conv1, first.downsample[0]):
        where = branch(cell).abs().sum(1)[0].nonzero()
        assert where.min(0).values.tolist() == [2, 4]
        assert where.max(0).values.tolist() == [3, 5]


def test_the_student_sees_the_image_through_the_embedding_only() -> None:
    method = prepared()
    teacher, student = method(torch.rand(2, 3, 64, 64))
    assert [s.shape for s in student] == [t.shape for t in teacher]
    embedding = method.bottleneck(teacher)
    again = method.decoder(embedding, [tuple(t.shape[-2:]) for t in teacher])
    assert not any(t.requires_grad for t in teacher)
    torch.testing.assert_close(student, again)


@pytest.mark.parametrize("flattened", [False, True])
def test_gradients_reach_every_parameter_of_bottleneck_and_decoder_and_no_other(flattened: bool) -> None:
    method = prepared(flattened=flattened, blocks=2).train()
    method.training_step({"image": torch.rand(3, 3, 64, 64)}, 0).backward()
    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (not name.startswith("teacher")), name
    trained = {id(p) for group in method.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(p) for p in method.parameters() if p.requires_grad}


def test_a_short_fit_lowers_the_loss_and_leaves_the_teacher_as_it_was() -> None:
    spec = "textures?size=32&n=16"
    before, after = prepared((32, 32)), ReverseDistillation(backbone=RANDOM)
    after.fit(spec, steps=12, batch_size=8)
    images = torch.stack([sample["image"] for sample in after._load(spec).train])
    with torch.no_grad():
        losses = [distillation_loss(*method(images)).item() for method in (before.train(), after.train())]
    assert losses[1] < 0.7 * losses[0]
    untouched = before.teacher.state_dict()
    for name, value in after.teacher.state_dict().items():
        assert torch.equal(value, untouched[name]), name
    assert not any(module.training for module in after.train().teacher.modules())


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 100, 75), (1, 3, 33, 50)])
def test_predictions_are_as_the_task_says(shape: tuple[int, ...]) -> None:
    method, image = prepared(), torch.rand(shape)
    prediction = method.predict(image)
    method.task.check_prediction({"image": image}, prediction, method.info)
    assert torch.equal(prediction["score"], prediction["map"].amax(dim=(1, 2)))


def test_the_map_is_smoothed_by_a_gaussian() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 48)
    smooth, rough = prepared(sigma=4.0), prepared(sigma=0.0)
    expected = gaussian_filter(rough.predict(image)["map"][0].numpy(), 4.0, mode="mirror", radius=16)
    torch.testing.assert_close(smooth.predict(image)["map"][0], torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_levels_that_do_not_halve_the_resolution_are_refused() -> None:
    with pytest.raises(UserError, match="half the resolution"):
        prepared(backbone="pinakes/tiny_vit@random", layers=(0, 2, 4))
    with pytest.raises(UserError, match="half the resolution"):
        prepared(layers=(0, 2))


def test_a_lone_image_with_a_one_cell_embedding_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="batch_size"):
        ReverseDistillation(backbone=RANDOM).fit("textures?size=32&n=16", batch_size=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layers": (3,)}, "layers"),
        ({"blocks": 0}, "blocks"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"betas": (0.5, 1.0)}, "betas"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ReverseDistillation(**options)  # type: ignore[arg-type]
