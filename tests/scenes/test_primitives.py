"""Intersections and normals of single primitives against closed forms."""

import pytest
import torch

from pinakes.scenes.primitives import KINDS, PRIMITIVES
from pinakes.scenes.surfaces import SURFACES
from tests.scenes.shapes import DISTANCE, SIZES

COUNT = 4000


def _rays(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from a shell of radius 4 towards points near the solid."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.nn.functional.normalize(torch.randn(3, COUNT, generator=generator), dim=0) * 4
    target = (torch.rand(3, COUNT, generator=generator) - 0.5) * 1.6
    return origin, torch.nn.functional.normalize(target - origin, dim=0)


def _hit(kind: str, origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = torch.tensor(SIZES[kind])[:, None].expand(3, origin.shape[1])
    nearest = -(origin * direction).sum(0)
    t = PRIMITIVES[kind].hit(origin + nearest * direction, direction, size, -nearest)
    return t + nearest, size


def _distance(kind: str, points: torch.Tensor) -> torch.Tensor:
    return DISTANCE[kind](points, torch.tensor(SIZES[kind], dtype=torch.float64)[:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_hits_lie_on_the_surface(kind: str) -> None:
    origin, direction = _rays()
    t, _ = _hit(kind, origin, direction)
    met = t.isfinite()
    assert met.float().mean() > 0.1
    points = (origin + t * direction)[:, met].double()
    assert _distance(kind, points).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_met_before_the_hit_and_misses_stay_outside(kind: str) -> None:
    origin, direction = _rays(1)
    t, _ = _hit(kind, origin, direction)
    reach = torch.where(t.isfinite(), t - 1e-3, 8.0)
    for share in torch.linspace(0, 1, 200):
        points = (origin + share * reach * direction).double()
        assert _distance(kind, points).min() > -1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_normals_are_gradients_of_the_distance(kind: str) -> None:
    origin, direction = _rays(2)
    t, size = _hit(kind, origin, direction)
    met = t.isfinite()
    points = (origin + t * direction)[:, met]
    normal = SURFACES[kind].normal(points, size[:, met])
    exact = points.double().requires_grad_()
    _distance(kind, exact).sum().backward()
    assert exact.grad is not None
    gradient = torch.nn.functional.normalize(exact.grad, dim=0)
    outside = _distance(kind, points.double() + 0.02 * gradient)
    smooth = (outside - 0.02).abs() < 1e-3
    difference = (normal - gradient).abs().amax(0)[smooth & ~_near_crease(kind, points)]
    assert len(difference) > 300
    assert difference.max() < 1e-4


def _near_crease(kind: str, points: torch.Tensor) -> torch.Tensor:
    size = torch.tensor(SIZES[kind])[:, None]
    if kind == "box":
        return ((points.abs() - size).abs() < 2e-3).sum(0) > 1
    if kind == "cylinder":
        return ((points[:2].norm(dim=0) - size[0]).abs() < 2e-3) & ((points[2].abs() - size[2]).abs() < 2e-3)
    if kind == "cone":
        return (points[2] < -size[2] + 4e-3) | (points[2] > size[2] - 1e-2)
    return torch.zeros_like(points[0], dtype=torch.bool)


@pytest.mark.parametrize(
    ("kind", "origin", "direction", "expected"),
    [
        ("sphere", (0, 0, 3), (0, 0, -1), 2.4),
        ("box", (3, 0.1, 0.1), (-1, 0, 0), 2.5),
        ("cylinder", (0.1, 0.1, 3), (0, 0, -1), 2.4),
        ("cylinder", (3, 0, 0.1), (-1, 0, 0), 2.6),
        ("cone", (0, 0, 3), (0, 0, -1), 2.4),
        ("cone", (3, 0, 0), (-1, 0, 0), 2.75),
        ("torus", (0.5, 0, 3), (0, 0, -1), 2.8),
        ("torus", (3, 0, 0), (-1, 0, 0), 2.3),
        ("torus", (0, 0, 3), (0, 0, -1), float("inf")),
        ("capsule", (0, 0, 3), (0, 0, -1), 2.2),
        ("capsule", (0, 3, 0.2), (0, -1, 0), 2.7),
    ],
)
def test_axis_aligned_rays_meet_at_the_known_distance(
    kind: str, origin: tuple, direction: tuple, expected: float
) -> None:
    o, d = torch.tensor(origin).float()[:, None], torch.tensor(direction).float()[:, None]
    t, _ = _hit(kind, o, d)
    assert t.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rays_from_inside_meet_the_far_side(kind: str) -> None:
    start = {"torus": (0.5, 0.0, 0.0)}.get(kind, (0.0, 0.0, 0.0))
    direction = torch.nn.functional.normalize(
        torch.randn(3, 500, generator=torch.Generator().manual_seed(3)), dim=0
    )
    origin = torch.tensor(start)[:, None].expand(3, 500)
    t, _ = _hit(kind, origin, direction)
    assert t.isfinite().all()
    assert (t > 0.1).all()
    assert _distance(kind, (origin + t * direction).double()).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_bounding_ball_holds_the_solid(kind: str) -> None:
    origin, direction = _rays(4)
    t, _ = _hit(kind, origin, direction)
    points = (origin + t * direction)[:, t.isfinite()]
    bound = PRIMITIVES[kind].bound(torch.tensor([SIZES[kind]]))
    assert (points.norm(dim=0) <= bound + 1e-5).all()
