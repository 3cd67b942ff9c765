import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import pinakes
from pinakes.papers.self_supervised.pixpro import (
    PixContrast,
    PixelPropagation,
    PixPro,
    cell_centres,
    consistency_loss,
    pixcontrast_loss,
    positive_pairs,
)

INFO = pinakes.DataInfo(3, (32, 32))
GRID = (3, 4)


def boxes(batch: int) -> Tensor:
    """Of random crops in pixels, some of which are mirrored."""
    start, side = 20 * torch.rand(batch, 2), 5 + 20 * torch.rand(batch, 2)
    found = torch.cat([start, start + side], dim=1)
    found[::2] = found[::2, [2, 1, 0, 3]]
    return found


def naive_pairs(one: Tensor, other: Tensor, threshold: float) -> Tensor:
    """By a loop over cells."""
    rows, columns = GRID
    found = torch.zeros(len(one), rows * columns, rows * columns, dtype=torch.bool)
    for image in range(len(one)):
        centres, diagonals = [], []
        for x0, y0, x1, y1 in (one[image].tolist(), other[image].tolist()):
            wide, tall = (x1 - x0) / columns, (y1 - y0) / rows
            centres.append(
                [(x0 + (c + 0.5) * wide, y0 + (r + 0.5) * tall) for r in range(rows) for c in range(columns)]
            )
            diagonals.append(math.hypot(wide, tall))
        for i, here in enumerate(centres[0]):
            for j, there in enumerate(centres[1]):
                found[image, i, j] = math.dist(here, there) / max(diagonals) <= threshold
    return found


def cells(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of two crops and their pairs; the last image has none."""
    torch.manual_seed(seed)
    one, other = torch.randn(2, batch, 12, 5)
    positive = torch.rand(batch, 12, 12) < 0.1
    positive[-1] = False
    return one, other, positive


@pytest.mark.parametrize("threshold", [0.3, 0.7, 2.0])
def test_pairs_are_those_of_a_loop_over_cells(threshold: float) -> None:
    torch.manual_seed(0)
    one, other = boxes(8), boxes(8)
    found = positive_pairs(one, other, GRID, threshold)
    assert 0 < found.float().mean() < 1
    assert torch.equal(found, naive_pairs(one, other, threshold))


def test_pairs_are_mutual() -> None:
    torch.manual_seed(0)
    one, other = boxes(8), boxes(8)
    assert torch.equal(positive_pairs(one, other, GRID).mT, positive_pairs(other, one, GRID))


def test_the_same_crop_mirrored_pairs_mirrored_cells() -> None:
    box = torch.tensor([[2.0, 3.0, 10.0, 9.0]])
    pairs = positive_pairs(box, box[:, [2, 1, 0, 3]], GRID, 0.1)
    mirrored = torch.arange(12).view(GRID).flip(1).flatten()
    assert torch.equal(pairs[0].int().argmax(1), mirrored)
    assert pairs.sum() == 12


def test_views_lie_where_their_boxes_say() -> None:
    torch.manual_seed(0)
    height, width = 48, 64
    method = PixPro(colour=0.0, grey=0.0).prepare(pinakes.DataInfo(3, (height, width)))
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    image = torch.stack([x, y, torch.zeros_like(x)]).expand(16, -1, -1, -1)
    view, box = method.placed_view(image)
    mirrored = box[:, 0] > box[:, 2]
    assert 0 < mirrored.sum() < 16
    # a cell's mean place is its centre; the border of the image is repeated in half a pixel, which moves it a little
    seen = functional.adaptive_avg_pool2d(view[:, :2], (6, 8)).flatten(2).mT * torch.tensor([width, height])
    torch.testing.assert_close(seen, cell_centres(box, (6, 8)), atol=0.1, rtol=0)


def test_consistency_is_the_mean_over_pairs_and_then_over_images() -> None:
    one, other, positive = cells(4)
    naive = 0.0
    for image in range(4):
        found = [
            -float(functional.cosine_similarity(one[image, i], other[image, j], dim=0))
            for i in range(12)
            for j in range(12)
            if positive[image, i, j]
        ]
        naive += sum(found) / max(1, len(found)) / 4
    assert consistency_loss(one, other, positive).item() == pytest.approx(naive, abs=1e-6)


def test_pixcontrast_is_that_of_a_loop_over_cells() -> None:
    one, other, positive = cells(4)
    one.requires_grad_(True)
    naive = torch.zeros(())
    for image in range(4):
        losses = []
        for i in range(12):
            weights = [
                (functional.cosine_similarity(one[image, i], other[image, j], dim=0) / 0.3).exp()
                for j in range(12)
            ]
            partners = [weights[j] for j in range(12) if positive[image, i, j]]
            if partners:
                losses.append(-(torch.stack(partners).sum() / torch.stack(weights).sum()).log())
        if losses:
            naive = naive + torch.stack(losses).mean() / 4
    found = pixcontrast_loss(one, other, positive)
    torch.testing.assert_close(found, naive, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(loss, one)[0] for loss in (found, naive)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_propagation_is_that_of_a_loop_over_cells(gamma: float) -> None:
    torch.manual_seed(0)
    module = PixelPropagation(5, gamma)
    maps = torch.randn(2, 6, 5)
    found = module(maps)
    for image in range(2):
        for i in range(6):
            expected = torch.zeros(5)
            for j in range(6):
                likeness = functional.cosine_similarity(maps[image, i], maps[image, j], dim=0).clamp(min=0)
                told = module.transform(maps[image, j])
                expected = expected + likeness**gamma * told / told.norm()
            torch.testing.assert_close(found[image, i], expected, atol=1e-5, rtol=0)


def test_maps_that_say_the_same_everywhere_have_the_least_loss() -> None:
    method = PixPro(least_area=1.0, colour=0.0, grey=0.0).prepare(INFO)
    torch.nn.init.eye_(method.propagation.transform.weight)
    torch.nn.init.zeros_(method.propagation.transform.bias)
    flat = torch.full((2, 3, 32, 32), 0.5)
    method.head = torch.nn.Linear(64, 64)
    torch.nn.init.zeros_(method.head.weight)
    method.target.network.head = method.head
    # the whole image twice: every cell has a partner, and all say what the bias says
    assert method.loss(flat).item() == pytest.approx(-2, abs=1e-5)


@pytest.mark.parametrize("make", [PixPro, PixContrast])
def test_no_gradient_reaches_the_copy_and_all_else_learns(make: type[PixPro] | type[PixContrast]) -> None:
    torch.manual_seed(0)
    method = make().prepare(INFO).train()
    method.loss(torch.rand(4, 3, 32, 32)).backward()
    assert all(each.grad is None for each in method.target.parameters())
    trained = [name for name, each in method.named_parameters() if each.requires_grad]
    assert [name for name in trained if method.get_parameter(name).grad is None] == []


def test_the_copy_follows_after_every_step() -> None:
    copies = []
    for momentum in (0.0, 1.0):
        method = PixPro(momentum=momentum).fit("digits?n=40", steps=2, batch_size=8)
        copies.append((method.target.network.head[0].weight, method.head[0].weight))
    (following, trained), (staying, _) = copies
    # the second step's momentum is 1, so the copy is between the start and the first step
    assert not torch.equal(following, staying)
    assert not torch.equal(following, trained)


@pytest.mark.parametrize(
    "options", [{"threshold": 0.0}, {"gamma": 0.5}, {"projection": 0}, {"momentum": 1.5}, {"least_area": 0.0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        PixPro(**options)  # type: ignore[arg-type]
    with pytest.raises(pinakes.UserError, match="temperature"):
        PixContrast(temperature=0.0)
