"""The losses and the head of self-distillation against lightly's, with the same inputs and weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pinakes.nn.self_distillation import (
    Centre,
    PrototypeHead,
    koleo_loss,
    patch_cross_entropy,
    view_cross_entropy,
)

PROTOTYPES, TOLERANCE = 32, 1e-5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expect_same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """The same value, and the same gradient of all inputs."""
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
    mine = torch.autograd.grad(ours, inputs, retain_graph=True)
    for one, other in zip(mine, torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(("known", "views"), [(2, 2), (2, 6), (1, 3)])
def test_the_loss_of_views_and_the_centre_are_those_of_lightly(known: int, views: int) -> None:
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.DINOLoss(output_dim=PROTOTYPES, student_temp=0.2, center_momentum=0.8)
    centre = Centre(PROTOTYPES, momentum=0.8)
    for step in range(3):
        student = random(views, 7, PROTOTYPES, seed=step).requires_grad_(True)
        teacher = random(known, 7, PROTOTYPES, seed=10 + step)
        found = view_cross_entropy(student, centre(teacher, 0.07), temperature=0.2)
        centre.update(teacher)
        expect_same(found, theirs(list(teacher), list(student), teacher_temp=0.07), student)
        torch.testing.assert_close(centre.value, theirs.center[0, 0], atol=TOLERANCE, rtol=0)


def test_the_loss_of_patches_and_the_centre_are_those_of_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.IBOTPatchLoss(output_dim=PROTOTYPES, teacher_temp=0.06, student_temp=0.2)
    centre = Centre(PROTOTYPES)
    for step in range(3):
        hidden = random(5, 4, 3, seed=20 + step) > 0.3
        hidden[0] = False
        student = random(int(hidden.sum()), PROTOTYPES, seed=step).requires_grad_(True)
        teacher = random(int(hidden.sum()), PROTOTYPES, seed=10 + step)
        found = patch_cross_entropy(student, centre(teacher, 0.06), hidden.flatten(1), temperature=0.2)
        centre.update(teacher)
        expect_same(found, theirs(teacher, student, hidden), student)
        torch.testing.assert_close(centre.value, theirs.center.value[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_the_term_that_draws_features_apart_is_that_of_lightly(size: float) -> None:
    lightly = pytest.importorskip("lightly.loss")
    features = (size * random(20, 6)).requires_grad_(True)
    expect_same(koleo_loss(features), lightly.KoLeoLoss()(features), features)


def test_the_head_is_that_of_lightly() -> None:
    heads = pytest.importorskip("lightly.models.modules.heads")
    ours = PrototypeHead(12, hidden=24, bottleneck=8, prototypes=PROTOTYPES)
    theirs: Any = heads.DINOProjectionHead(12, 24, 8, PROTOTYPES, norm_last_layer=True)
    with torch.no_grad():
        linear = [layer for layer in theirs.layers if isinstance(layer, torch.nn.Linear)]
        for layer, other in zip(ours.layers[::2], linear, strict=True):
            other.load_state_dict(layer.state_dict())
        theirs.last_layer.weight_v.copy_(ours.prototypes)
    tokens = random(9, 12)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=TOLERANCE, rtol=0)
