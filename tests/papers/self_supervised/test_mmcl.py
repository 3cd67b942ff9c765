"""Images and rows of a table: loss, corruption, the network for rows, importance of columns, labels as a feature."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pinakes
from pinakes.data.base import Column, DataInfo
from pinakes.errors import UserError
from pinakes.papers.self_supervised.mmcl import (
    MMCL,
    TabularEncoder,
    column_importance,
    corrupted,
    cross_modal_loss,
)
from tests.two_processes import Batch, expect_one_step

COLUMNS = (Column("width"), Column("colour", ("red", "blue", "green")), Column("height"))
INFO = DataInfo(3, (16, 16), ("cat", "dog"), COLUMNS)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def rows(count: int) -> Tensor:
    table = random(count, 3)
    table[:, 1] = torch.arange(count) % 3
    return table


def test_loss_is_that_of_a_loop_over_pairs() -> None:
    image, table = random(2, 5, 8).unbind()
    expected = 0.0
    for j in range(5):
        cosines = [
            [float(torch.cosine_similarity(image[a], table[b], dim=0)) for b in range(5)] for a in range(5)
        ]
        to_rows = sum(math.exp(cosines[j][k] / 0.1) for k in range(5))
        to_images = sum(math.exp(cosines[k][j] / 0.1) for k in range(5))
        own = math.exp(cosines[j][j] / 0.1)
        expected -= (0.3 * math.log(own / to_rows) + 0.7 * math.log(own / to_images)) / 5
    assert float(cross_modal_loss(image, table, 0.1, 0.3)) == pytest.approx(expected, rel=1e-5)


def test_all_pairs_alike_cost_the_logarithm_of_the_batch() -> None:
    alike = torch.ones(8, 4)
    assert float(cross_modal_loss(alike, alike)) == pytest.approx(math.log(8), abs=1e-6)


def test_corruption_takes_values_of_the_same_column_from_rows_that_were_seen() -> None:
    table, seen = random(50, 10), 100 + torch.arange(70.0)[:, None] + 1000 * torch.arange(10)
    found = corrupted(table, seen, 0.3)
    changed = found != table
    assert (changed.sum(1) == 3).all()
    assert torch.equal(((found - 100) // 1000)[changed], changed.nonzero()[:, 1].float())
    assert torch.equal(corrupted(table, seen, 0.0), table)
    assert (corrupted(table, seen, 1.0) >= 100).all()


def test_every_column_is_corrupted_as_often() -> None:
    torch.manual_seed(0)
    changed = corrupted(torch.zeros(4000, 4), torch.ones(9, 4), 0.5).mean(0)
    torch.testing.assert_close(changed, torch.full((4,), 0.5), atol=0.03, rtol=0)


def test_rows_are_spelt_out_as_scaled_quantities_and_choices() -> None:
    encoder, table = TabularEncoder(COLUMNS, 8), rows(40)
    encoder.scale(table)
    found = encoder.spelt_out(table)
    quantities = table[:, [0, 2]]
    scaled = (quantities - quantities.mean(0)) / quantities.std(0, correction=0)
    torch.testing.assert_close(found[:, :2], scaled, atol=1e-5, rtol=0)
    assert torch.equal(found[:, 2:], nn.functional.one_hot(table[:, 1].long(), 3).float())


def test_importance_of_a_linear_network_is_its_weight_times_the_value() -> None:
    encoder, table = TabularEncoder(COLUMNS, 8, depth=1).eval(), rows(7)
    weight, inputs = encoder.layers[-1].weight.detach(), encoder.spelt_out(table)
    each = (weight[:, None] * inputs).abs().mean((0, 1))
    expected = torch.stack([each[0], each[2:].sum(), each[1]])
    torch.testing.assert_close(column_importance(encoder, table, 4), expected)


def test_gradients_along_the_path_add_up_to_the_change_of_a_network_of_one_dimension() -> None:
    torch.manual_seed(0)
    encoder = TabularEncoder([Column("width")], 1, depth=1).eval()
    encoder.layers = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1))
    table = torch.tensor([[1.7]])
    change = (encoder(table) - encoder(torch.zeros(1, 1))).abs()
    torch.testing.assert_close(column_importance(encoder, table, 256), change[0], atol=1e-4, rtol=0)


def test_a_constant_column_has_no_importance_and_does_no_harm() -> None:
    encoder = TabularEncoder([Column("width"), Column("same")], 8).eval()
    table = torch.cat([random(20, 1), torch.full((20, 1), 3.0)], dim=1)
    encoder.scale(table)
    width, same = column_importance(encoder, table)
    assert width > 0
    assert same == 0


def test_rows_of_the_whole_training_set_are_drawn_from() -> None:
    data = pinakes.load_data(MMCL.example_data, task="representation")
    method = MMCL().fit(data, steps=1, batch_size=4)
    expected = torch.stack([data.train[place]["table"] for place in range(len(data.train))])
    torch.testing.assert_close(method.seen, expected)


def test_the_label_is_one_more_choice_and_may_be_unknown() -> None:
    method = MMCL(columns=("height", "colour"), label_as_feature=True).prepare(INFO)
    row = method.row({"table": rows(3), "label": torch.tensor([1, 0, -1])})
    assert torch.equal(row[:, :2], rows(3)[:, [2, 1]])
    assert row[:, 2].tolist() == [1, 0, 2]
    assert method.rows.spelt_out(row).shape == (3, 1 + 3 + 3)


def test_data_without_a_table_are_refused() -> None:
    with pytest.raises(UserError, match=r"table\.csv"):
        MMCL().fit("digits?n=40", steps=1)


def test_a_run_remembers_its_columns(tmp_path: pytest.TempPathFactory) -> None:
    method = MMCL().prepare(INFO).eval()
    method.save(tmp_path)
    loaded = pinakes.load(tmp_path)
    assert loaded.info == INFO
    assert torch.equal(loaded.rows(rows(3)), method.rows(rows(3)))


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.0},
        {"balance": 1.5},
        {"corruption_rate": -0.1},
        {"augmentation_rate": 2.0},
        {"projection": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        MMCL(**option)


def test_unknown_columns_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"columns: the table has none called 'hight'.*height"):
        MMCL(columns=("hight",)).prepare(INFO)


class Projected(nn.Module):
    """The loss of linear projections of images and rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.table = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, batch: Batch) -> Tensor:
        return cross_modal_loss(self.image(batch["image"]), self.table(batch["table"]), balance=0.3)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    make: Callable[[], nn.Module] = Projected
    expect_one_step(make, batch={"image": random(8, 6), "table": random(8, 5) + 1})
