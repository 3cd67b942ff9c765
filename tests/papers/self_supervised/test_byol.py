from typing import Any

import pytest
import torch

import pinakes
from pinakes.nn.momentum import momentum_at
from pinakes.papers.self_supervised.byol import BYOL, byol_loss
from pinakes.papers.self_supervised.simclr import SimCLR

INFO = pinakes.DataInfo(3, (32, 32))


class Watched(BYOL):
    """Notes the first weights of the network and of its slow copy after each step."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        pair = self.head[0].weight, self.target.network.head[0].weight
        self.seen.append([each.detach().clone() for each in pair])

    def on_train_start(self) -> None:
        super().on_train_start()
        self.seen = [[self.head[0].weight.detach().clone()] * 2]


def test_the_loss_is_two_minus_twice_the_cosine() -> None:
    one, other = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosines = [
        sum(a * b for a, b in zip(x, y, strict=True)) / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5
        for x, y in zip(one.tolist(), other.tolist(), strict=True)
    ]
    expected = sum(2 - 2 * cosine for cosine in cosines) / 6
    assert byol_loss(one, other).item() == pytest.approx(expected, abs=1e-10)


def test_no_gradient_flows_to_targets() -> None:
    one, other = torch.randn(2, 6, 4, requires_grad=True).unbind(0)
    one.retain_grad()
    other.retain_grad()
    byol_loss(one, other).backward()
    assert one.grad is not None
    assert other.grad is None


def test_either_view_foretells_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    method = BYOL().prepare(INFO)
    image = torch.rand(6, 3, 32, 32)
    one, other = image, image.flip(-1).roll(3, -2)
    views = iter((one, other))
    monkeypatch.setattr(method, "view", lambda _: next(views))
    loss = method.loss(image)
    online = method.online()
    told = [method.predictor(online(each)) for each in (one, other)]
    known = [method.target(each) for each in (one, other)]
    torch.testing.assert_close(loss, byol_loss(told[0], known[1]) + byol_loss(told[1], known[0]))


def test_the_copy_follows_after_every_step_and_ever_more_slowly() -> None:
    method = Watched(momentum=0.5).fit("digits?n=40", steps=3, batch_size=8)
    (_, expected), *seen = method.seen
    for step, (online, target) in enumerate(seen, 1):
        expected = torch.lerp(expected, online, 1 - momentum_at(step / 3, 0.5))
        torch.testing.assert_close(target, expected, atol=1e-6, rtol=0)
    assert torch.equal(seen[-1][1], seen[-2][1])
    assert not torch.equal(seen[-1][0], seen[-1][1])


def test_the_copy_starts_as_the_network_wherever_that_has_its_weights_from() -> None:
    method = BYOL(momentum=1.0).prepare(INFO)
    trained = SimCLR().prepare(INFO, seed=5)
    method.encoder.load_state_dict(trained.encoder.state_dict())
    method.on_train_start()
    for mine, other in zip(
        method.target.network.encoder.parameters(), trained.encoder.parameters(), strict=True
    ):
        assert torch.equal(mine, other)


def test_the_copy_is_not_trained() -> None:
    method = BYOL().prepare(INFO)
    assert not any(each.requires_grad for each in method.target.parameters())
    optimiser = method.configure_optimizers()
    trained = {id(each) for group in optimiser.param_groups for each in group["params"]}
    assert not trained & {id(each) for each in method.target.parameters()}


@pytest.mark.parametrize("options", [{"momentum": -0.1}, {"projection": 0}, {"hidden": 0}, {"blur": 1.5}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        BYOL(**options)
