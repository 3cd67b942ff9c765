import math

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.self_supervised.mocov3 import MoCoV3, moco_v3_loss

INFO = pinakes.DataInfo(3, (32, 32))


def test_the_loss_is_the_formula_written_out() -> None:
    temperature = 0.3
    query, key = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    queries, keys = (functional.normalize(each, dim=1).tolist() for each in (query, key))
    losses = []
    for i, asked in enumerate(queries):
        scores = [
            math.exp(sum(a * b for a, b in zip(asked, other, strict=True)) / temperature) for other in keys
        ]
        losses.append(-math.log(scores[i] / sum(scores)))
    expected = 2 * temperature * sum(losses) / 6
    assert moco_v3_loss(query, key, temperature).item() == pytest.approx(expected, abs=1e-10)


def test_no_gradient_flows_to_keys() -> None:
    query, key = torch.randn(2, 6, 4, requires_grad=True).unbind(0)
    query.retain_grad()
    key.retain_grad()
    moco_v3_loss(query, key).backward()
    assert query.grad is not None
    assert key.grad is None


def test_either_view_is_the_query_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    method = MoCoV3().prepare(INFO)
    image = torch.rand(6, 3, 32, 32)
    one, other = image, image.flip(-1).roll(3, -2)
    views = iter((one, other))
    monkeypatch.setattr(method, "view", lambda _: next(views))
    loss = method.loss(image)
    online = method.online()
    query = [method.predictor(online(each)) for each in (one, other)]
    key = [method.target(each) for each in (one, other)]
    expected = moco_v3_loss(query[0], key[1], 0.2) + moco_v3_loss(query[1], key[0], 0.2)
    torch.testing.assert_close(loss, expected)


def test_projections_are_normalised_over_the_batch() -> None:
    method = MoCoV3(projection=8).prepare(INFO)
    projected = method.online()(torch.rand(16, 3, 32, 32))
    torch.testing.assert_close(projected.mean(0), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"momentum": 1.1}, {"projection": 0}, {"hidden": 0}, {"colour": 2.0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        MoCoV3(**options)
