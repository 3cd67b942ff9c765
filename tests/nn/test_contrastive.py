import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from pinakes.nn.contrastive import info_nce_loss, nt_xent_loss


def views() -> tuple[torch.Tensor, torch.Tensor]:
    one, other = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return one, other


def test_nt_xent_is_the_formula_written_out() -> None:
    temperature = 0.3
    one, other = views()
    every = functional.normalize(torch.cat([one, other]), dim=1).tolist()
    losses = []
    for i, asked in enumerate(every):
        scores = [math.exp(sum(a * b for a, b in zip(asked, z, strict=True)) / temperature) for z in every]
        partner = (i + 5) % 10
        losses.append(-math.log(scores[partner] / (sum(scores) - scores[i])))
    assert nt_xent_loss(one, other, temperature).item() == pytest.approx(sum(losses) / 10, abs=1e-10)


def test_info_nce_is_the_formula_written_out() -> None:
    temperature = 0.3
    one, other = views()
    queries, keys = (functional.normalize(each, dim=1).tolist() for each in (one, other))
    losses = []
    for i, query in enumerate(queries):
        scores = [math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / temperature) for key in keys]
        losses.append(-math.log(scores[i] / sum(scores)))
    assert info_nce_loss(one, other, temperature).item() == pytest.approx(sum(losses) / 5, abs=1e-10)


def test_nt_xent_does_not_tell_the_views_apart() -> None:
    one, other = views()
    torch.testing.assert_close(nt_xent_loss(one, other), nt_xent_loss(other, one))


@pytest.mark.parametrize("loss", [nt_xent_loss, info_nce_loss])
def test_lengths_of_projections_do_not_matter(loss: Callable[..., torch.Tensor]) -> None:
    one, other = views()
    torch.testing.assert_close(loss(one, other), loss(3 * one, 0.1 * other))


def test_views_that_are_all_alike_give_the_logarithm_of_the_candidates() -> None:
    same = torch.ones(6, 3)
    assert nt_xent_loss(same, same).item() == pytest.approx(math.log(11), abs=1e-6)
    assert info_nce_loss(same, same).item() == pytest.approx(math.log(6), abs=1e-6)
