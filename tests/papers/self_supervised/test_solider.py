"""Parts of people from clustered features, and the controller of what is in the features."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pinakes
from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.papers.self_supervised.solider import (
    SOLIDER,
    ControlledTransformer,
    SemanticController,
    part_loss,
    parts_from_top,
    two_means,
)
from tests.two_processes import Batch, expect_one_step

INFO = DataInfo(3, (32, 16))
TINY = {
    "embed_dim": 32,
    "depth": 2,
    "out_dim": 16,
    "hidden_dim": 32,
    "bottleneck_dim": 8,
    "local_crops_number": 1,
}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def within(values: Tensor, upper: Tensor) -> float:
    """The squares within two groups."""
    groups = values[upper], values[~upper]
    return sum(float((each - each.mean()).square().sum()) for each in groups if len(each))


def test_two_means_are_the_best_of_all_cuts() -> None:
    for row in random(6, 9):
        found = two_means(row[None])[0]
        cuts = [within(row, row > cut) for cut in row.sort().values[:-1]]
        assert within(row, found) == pytest.approx(min(cuts), rel=1e-5)
        assert row[found].min() > row[~found].max()


def test_equal_numbers_have_no_upper_group() -> None:
    assert not two_means(torch.full((2, 5), 3.0)).any()


def test_parts_are_named_from_the_top_whatever_their_features() -> None:
    rows, columns = 6, 4
    person = torch.zeros(2, rows, columns, dtype=torch.bool)
    person[:, :, 1:3] = True
    looks = random(3, 5) * 9
    orders = torch.tensor([[0, 1, 2], [2, 0, 1]])
    features = torch.stack([looks[order].repeat_interleave(2, 0) for order in orders])
    features = features[:, :, None].expand(2, rows, columns, 5) + 0.01 * random(2, rows, columns, 5)
    found = parts_from_top(features.flatten(1, 2), person.flatten(1), columns, 3).view(2, rows, columns)
    expected = torch.tensor([1, 1, 2, 2, 3, 3])[None, :, None] * person
    assert torch.equal(found, expected)


def test_parts_follow_features_where_their_heights_differ() -> None:
    looks = torch.tensor([[9.0, 0.0], [0.0, 9.0], [-9.0, -9.0]])
    features = looks[[0, 0, 0, 0, 0, 0, 1, 1, 2]][None]
    found = parts_from_top(features, torch.ones(1, 9, dtype=torch.bool), 1, 3)
    assert found[0].tolist() == [1] * 6 + [2] * 2 + [3]


def test_fewer_patches_than_parts_do_no_harm() -> None:
    person = torch.tensor([[True, False, False], [False, False, False]])
    found = parts_from_top(random(2, 3, 4), person, 1, 3)
    assert found[1].tolist() == [0, 0, 0]
    assert found[0].tolist() == [1, 0, 0]


def test_loss_of_parts_is_that_of_a_loop() -> None:
    logits, labels = random(3, 4, 5), torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(1))
    weight, usable = torch.tensor([1.0, 0.5, 1.0]), torch.tensor([True, True, False])
    expected = 0.0
    for image in range(2):
        for patch in range(4):
            chances = logits[image, patch].softmax(0)
            expected -= float(weight[image]) * math.log(chances[labels[image, patch]]) / (4 * 2)
    assert float(part_loss(logits, labels, weight, usable)) == pytest.approx(expected, rel=1e-5)
    assert part_loss(logits, labels, weight, torch.zeros(3, dtype=torch.bool)) == 0


class Projected(nn.Module):
    """The loss of parts of a linear projection of patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 4)

    def forward(self, batch: Batch) -> Tensor:
        return part_loss(self.head(batch["patches"]), batch["labels"], batch["weight"], batch["usable"])


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    labels = torch.randint(4, (8, 5), generator=torch.Generator().manual_seed(1))
    usable = torch.tensor([True, False, True, True, False, False, True, False])
    batch = {"patches": random(8, 5, 6), "labels": labels, "weight": torch.ones(8), "usable": usable}
    expect_one_step(Projected, batch=batch)


def test_controller_scales_and_shifts_channels() -> None:
    controller, tokens = SemanticController(6), random(2, 3, 6)
    for semantic in (0.0, 0.3, 1.0):
        asked = torch.tensor([semantic, 1 - semantic])
        scale = functional.softplus(controller.scale.weight @ asked)
        shift = controller.shift.weight @ asked
        torch.testing.assert_close(controller(tokens, torch.full((2,), semantic)), tokens * scale + shift)


def test_controllers_stand_behind_three_quarters_of_the_blocks() -> None:
    for depth, places in ((6, ["2", "3", "5"]), (4, ["1", "2", "3"]), (1, ["1"])):
        assert list(ControlledTransformer((8, 8), 4, 3, 32, depth).controllers) == places


def test_each_image_is_controlled_by_its_own_number() -> None:
    torch.manual_seed(0)
    encoder = ControlledTransformer((16, 8), 4, 3, 32, 2).eval()
    image = torch.rand(2, 3, 16, 8)
    together = encoder(image, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(together[0], encoder(image, torch.zeros(2))[0])
    torch.testing.assert_close(together[1], encoder(image)[1])


def test_the_number_may_be_set_on_a_fitted_method() -> None:
    method = SOLIDER(**TINY).fit("scenes:people?size=32x16&n=8", steps=2, batch_size=4)
    image = torch.rand(2, 3, 32, 16)
    high = method.predict(image)
    levels = method.as_backbone([-1])(image)[0]
    torch.testing.assert_close(levels, high["features"])
    method.semantic_weight = 0.0
    low = method.predict(image)
    assert not torch.allclose(high["embedding"], low["embedding"])
    torch.testing.assert_close(method.as_backbone([-1])(image)[0], low["features"])


class AtTheStart(SOLIDER):
    """A method that has not begun."""

    done = 0.0


def test_training_starts_as_dino_alone() -> None:
    for make, learns in ((AtTheStart, False), (SOLIDER, True)):
        torch.manual_seed(0)
        method = make(least_person=0.0, **TINY).prepare(INFO)
        method.loss(torch.rand(4, 3, 32, 16)).backward()
        assert all((value.grad is not None) == learns for value in method.part_head.parameters())


@pytest.mark.parametrize(
    "option",
    [
        {"semantic_weight": 1.5},
        {"parts": 0},
        {"part_weight": 0.0},
        {"least_person": -0.1},
        {"start": 2.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        SOLIDER(**option)


def test_made_people_have_parts_from_top_to_bottom_or_names() -> None:
    data = load_data("scenes:people?size=64x32&n=6", task="representation")
    for sample in data.train:
        rows = torch.arange(64.0)[:, None].expand(64, 32)
        heights = [float(rows[sample["semantic"] == part].mean()) for part in range(1, 5)]
        assert heights == sorted(heights)
    named = load_data("scenes:people?size=64x32&n=6&truth=person&people=3", task="representation")
    assert named.classes == ("person 1", "person 2", "person 3")
    with pytest.raises(pinakes.UserError, match="people"):
        load_data("scenes:people?people=1")
