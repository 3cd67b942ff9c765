import pytest
import torch

import pinakes
from pinakes.papers.self_supervised.barlow_twins import BarlowTwins, barlow_twins_loss, standardised


def test_the_loss_is_the_formula_written_out() -> None:
    one, other = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    expected = 0.0
    for i in range(4):
        for j in range(4):
            x, y = one[:, i] - one[:, i].mean(), other[:, j] - other[:, j].mean()
            correlation = float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())
            expected += (1 - correlation) ** 2 if i == j else 0.1 * correlation**2
    assert barlow_twins_loss(one, other, 0.1).item() == pytest.approx(expected, abs=1e-4)


def test_numbers_that_go_along_with_themselves_alone_have_no_loss() -> None:
    views = torch.linalg.qr(torch.randn(50, 9).double() - torch.randn(9)).Q
    views = torch.linalg.qr(views - views.mean(0)).Q
    assert barlow_twins_loss(views, 7 * views + 2).item() == pytest.approx(0.0, abs=1e-4)


def test_without_its_second_term_copies_of_one_number_are_enough() -> None:
    copies = torch.randn(20, 1).expand(-1, 5)
    assert barlow_twins_loss(copies, copies, 0.0).item() == pytest.approx(0.0, abs=1e-6)
    assert barlow_twins_loss(copies, copies, 0.01).item() == pytest.approx(0.01 * 20, abs=1e-4)


def test_rows_are_normalised_as_by_batch_normalisation() -> None:
    rows = torch.randn(16, 6) * 3 - 1
    expected = torch.nn.BatchNorm1d(6, affine=False)(rows)
    torch.testing.assert_close(standardised(rows), expected, atol=1e-5, rtol=0)


def test_the_head_has_three_layers_and_no_last_bias() -> None:
    head = BarlowTwins(projection=32).prepare(pinakes.DataInfo(3, (32, 32))).head
    layers = [each for each in head if isinstance(each, torch.nn.Linear)]
    assert [each.out_features for each in layers] == [32, 32, 32]
    assert all(each.bias is None for each in layers)


@pytest.mark.parametrize("options", [{"trade_off": -1.0}, {"projection": 1}, {"least_area": 0.0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        BarlowTwins(**options)
