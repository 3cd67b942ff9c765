import pytest
import torch
from torch import nn

from pinakes.nn.momentum import MomentumCopy, momentum_at


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_weights_are_the_moving_average_of_those_that_were_followed() -> None:
    online = network()
    target = MomentumCopy(online)
    expected = online[0].weight.detach().double()
    for _ in range(4):
        with torch.no_grad():
            online[0].weight += torch.randn(4, 3)
        target.follow(online, 0.7)
        expected = 0.7 * expected + 0.3 * online[0].weight.detach().double()
    torch.testing.assert_close(target.network[0].weight.double(), expected, atol=1e-6, rtol=0)


def test_what_is_no_weight_is_taken_over() -> None:
    online = network()
    target = MomentumCopy(online)
    online(torch.randn(8, 3) + 2)
    target.follow(online, 0.9)
    assert torch.equal(target.network[1].running_mean, online[1].running_mean)
    assert target.network[1].num_batches_tracked == 1


def test_with_a_momentum_of_1_it_stays_and_of_0_it_is_the_other() -> None:
    online, other = network(), network()
    target = MomentumCopy(online)
    target.follow(other, 1.0)
    assert torch.equal(target.network[0].weight, online[0].weight)
    target.follow(other, 0.0)
    assert torch.equal(target.network[0].weight, other[0].weight)


def test_it_is_a_copy_that_is_never_trained() -> None:
    online = network()
    target = MomentumCopy(online)
    assert not any(each.requires_grad for each in target.parameters())
    answer = target(torch.randn(8, 3, requires_grad=True))
    assert not answer.requires_grad
    assert all(each.requires_grad for each in online.parameters())


@pytest.mark.parametrize("base", [0.0, 0.9, 0.996])
def test_momentum_rises_from_its_base_to_1(base: float) -> None:
    course = [momentum_at(step / 20, base) for step in range(21)]
    assert course[0] == pytest.approx(base)
    assert course[-1] == pytest.approx(1.0)
    assert course == sorted(course)
    assert course[10] == pytest.approx((1 + base) / 2)
