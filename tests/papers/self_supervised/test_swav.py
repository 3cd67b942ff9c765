from typing import Any

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.papers.self_supervised.swav import SwAV, swav_loss

INFO = pinakes.DataInfo(3, (32, 32))


class Watched(SwAV):
    """Notes the prototypes after each step."""

    def on_train_start(self) -> None:
        self.seen = [self.prototypes.weight.detach().clone()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.seen.append(self.prototypes.weight.detach().clone())


def cosines(views: int) -> torch.Tensor:
    scores = torch.randn(views, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return functional.normalize(scores, dim=2)


def test_the_loss_is_the_formula_written_out() -> None:
    scores = cosines(4)
    losses = []
    for giver in range(2):
        code = sinkhorn_knopp(scores[giver] / 0.07, 3)
        for view in range(4):
            if view != giver:
                told = (scores[view] / 0.2).softmax(1)
                losses += [
                    -sum(q * p.log() for q, p in zip(*rows, strict=True))
                    for rows in zip(code, told, strict=True)
                ]
    expected = float(torch.stack(losses).mean())
    assert swav_loss(scores, 2, 0.2, 0.07, 3).item() == pytest.approx(expected, abs=1e-10)


def test_no_gradient_flows_through_codes() -> None:
    one, other = (each.clone().requires_grad_() for each in cosines(2))
    code = sinkhorn_knopp(other.detach() / 0.05)
    swav_loss(torch.stack([one, other])).backward()
    assert one.grad is not None
    # the half of the loss in which the first view foretells the code of the second
    expected = (one.detach() / 0.1).softmax(1) - code
    torch.testing.assert_close(one.grad, expected / 0.1 / 8 / 2)


def test_scores_are_cosines_of_normalised_projections_and_prototypes() -> None:
    method = SwAV(prototypes=6).prepare(INFO).eval()
    image = torch.rand(3, 3, 32, 32)
    found = method.scores(image)
    expected = functional.cosine_similarity(
        method.head(method.pooled(image))[:, None], method.prototypes.weight[None], dim=2
    )
    torch.testing.assert_close(found, expected)


def test_small_crops_are_half_as_large_and_only_foretell(monkeypatch: pytest.MonkeyPatch) -> None:
    method = SwAV(crops=3, small_area=0.05).prepare(INFO)
    asked: list[tuple[Any, ...]] = []
    view = method.view

    def noted(image: torch.Tensor, *given: Any) -> torch.Tensor:
        asked.append(given)
        return view(image, *given)

    monkeypatch.setattr(method, "view", noted)
    method.loss(torch.rand(4, 3, 32, 32))
    assert asked == [()] * 2 + [((0.05, 0.2), (16, 16))] * 3


def test_without_small_crops_there_are_two_views() -> None:
    method = SwAV(crops=0).prepare(INFO)
    assert torch.isfinite(method.loss(torch.rand(4, 3, 32, 32)))


def test_prototypes_rest_at_first() -> None:
    method = Watched(frozen=0.5, crops=0).fit("digits?n=40", steps=4, batch_size=8)
    assert [torch.equal(method.seen[0], later) for later in method.seen[1:]] == [True, True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"prototypes": 1},
        {"crops": -1},
        {"small_area": 0.5},
        {"temperature": 0.0},
        {"epsilon": 0.0},
        {"frozen": 1.0},
        {"projection": 0},
        {"hidden": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SwAV(**options)  # type: ignore[arg-type]
