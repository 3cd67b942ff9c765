import pytest
import torch
from torch import Tensor, nn

import pinakes
from pinakes.papers.self_supervised.projection_head import (
    FixedReweighting,
    ProjectionHead,
    feature_strengths,
    layer_weights,
    spectral_contrastive_loss,
)
from tests.two_processes import Batch, expect_one_step

INFO = pinakes.DataInfo(3, (32, 32))
VARIANCE = torch.tensor([2.0, 1.0, 1.5, 1.0], dtype=torch.float64)
SHARED = torch.tensor([2.0, 0.9, 0.6, 0.2], dtype=torch.float64)


def population_loss(whole: Tensor) -> Tensor:
    """The spectral loss of x -> W x over all views of independent features."""
    gram = whole.T @ whole
    agreement = (gram.diagonal() * SHARED).sum()
    return -2 * agreement + (gram @ VARIANCE.diag() @ gram @ VARIANCE.diag()).trace()


def test_spectral_loss_is_that_of_a_loop() -> None:
    one, other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    same = sum(one[i] @ other[i] for i in range(5)) / 5
    different = [(one[i] @ other[j]) ** 2 for i in range(5) for j in range(5) if i != j]
    expected = -2 * same + sum(different) / len(different)
    torch.testing.assert_close(spectral_contrastive_loss(one, other), expected, rtol=1e-5, atol=1e-5)


def test_spectral_loss_of_many_views_is_that_of_the_population() -> None:
    generator = torch.Generator().manual_seed(0)
    of_image, own, own_too = torch.randn(3, 4000, 4, generator=generator, dtype=torch.float64)
    one = SHARED.sqrt() * of_image + (VARIANCE - SHARED).sqrt() * own
    other = SHARED.sqrt() * of_image + (VARIANCE - SHARED).sqrt() * own_too
    whole = torch.randn(6, 4, generator=generator, dtype=torch.float64) / 3
    found = spectral_contrastive_loss(one @ whole.T, other @ whole.T)
    torch.testing.assert_close(found, population_loss(whole), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layers", [2, 3])
def test_gradient_descent_weights_features_as_the_closed_form_says(layers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(layers))).double()
    for layer in network:
        nn.init.orthogonal_(layer.weight, gain=0.5, generator=generator)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02)
    for _ in range(6000):
        optimiser.zero_grad()
        population_loss(network(torch.eye(4, dtype=torch.float64)).T).backward()
        optimiser.step()
    feature = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    # made independent, so that there is nothing to be had from chance
    feature = torch.linalg.qr(feature - feature.mean(0)).Q
    expected = layer_weights(VARIANCE, SHARED, layers)
    below = feature
    for layer, weights in zip(network, expected, strict=True):
        below = layer(below).detach()
        torch.testing.assert_close(feature_strengths(below, feature), weights, rtol=0.01, atol=0)


def test_weights_are_less_equal_the_further_up() -> None:
    weights = layer_weights(VARIANCE, SHARED, 4)
    spread = weights.amax(1) / weights.amin(1)
    assert (spread.diff() > 0).all()


def test_fixed_head_is_a_diagonal_of_falling_powers() -> None:
    method = ProjectionHead(head="fixed", kappa=1.1).prepare(INFO).eval()
    assert [name for name, _ in method.named_parameters() if name.startswith("head")] == []
    expected = torch.tensor([1.1**-i for i in range(method.width)]).diag()
    torch.testing.assert_close(method.head(torch.eye(method.width)), expected)
    assert torch.equal(FixedReweighting(5, 1.0).weight, torch.ones(5))


@pytest.mark.parametrize(("head", "same"), [("mlp", False), ("fixed", False), ("none", True)])
def test_features_are_read_on_either_side_of_the_head(head: str, same: bool) -> None:
    before = ProjectionHead(head=head).prepare(INFO, seed=0).eval()  # type: ignore[arg-type]
    after = ProjectionHead(head=head, read="after").prepare(INFO, seed=0).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 3, 32, 32)
    low, high = before.encode(image)["embedding"], after.encode(image)["embedding"]
    torch.testing.assert_close(after.head(low), high)
    assert (low.shape == high.shape and torch.equal(low, high)) is same


@pytest.mark.parametrize("options", [{"kappa": 0.9}, {"temperature": 0.0}, {"projection": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        ProjectionHead(**options)  # type: ignore[arg-type]


class SpectralLossOfLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: Batch) -> Tensor:
        return spectral_contrastive_loss(self.layer(batch["one"]), self.layer(batch["other"]))


def spectral() -> nn.Module:
    torch.manual_seed(0)
    return SpectralLossOfLayer()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    one, other = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    expect_one_step(spectral, batch={"one": one, "other": other})
