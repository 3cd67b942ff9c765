import math

import pytest
import torch
from torch import Tensor, nn

from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.nn.self_distillation import (
    Centre,
    PrototypeHead,
    ViewTransformer,
    blocks_of_patches,
    koleo_loss,
    patch_cross_entropy,
    random_patches,
    view_cross_entropy,
)
from tests.two_processes import Batch, expect_one_step

PROTOTYPES = 6


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, PROTOTYPES, generator=torch.Generator().manual_seed(seed))


# -- losses against loops --------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [1, 2])
def test_views_are_compared_with_all_others(known: int) -> None:
    student, targets = logits(5, 3), logits(known, 3, seed=1).softmax(-1)
    terms = []
    for one in range(known):
        for other in range(5):
            if one == other:
                continue
            for image in range(3):
                said = (student[other, image] / 0.2).softmax(-1)
                terms.append(-sum(targets[one, image, k] * said[k].log() for k in range(PROTOTYPES)))
    found = view_cross_entropy(student, targets, temperature=0.2)
    torch.testing.assert_close(found, torch.stack(terms).mean(), atol=1e-5, rtol=0)


def test_a_student_that_knows_the_target_has_its_entropy_as_loss() -> None:
    said = logits(1, 4).expand(3, -1, -1)
    targets = (said[:2] / 0.1).softmax(-1)
    entropy = torch.special.entr(targets[0]).sum(-1).mean()
    torch.testing.assert_close(view_cross_entropy(said, targets), entropy)


def test_one_view_alone_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="two views"):
        view_cross_entropy(logits(1, 4), logits(1, 4).softmax(-1))


def test_hidden_patches_are_averaged_by_image_first() -> None:
    hidden = torch.zeros(3, 8, dtype=torch.bool)
    hidden[0, 2], hidden[1, :5] = True, True
    student, targets = logits(6), logits(6, seed=1).softmax(-1)
    each = [-(targets[i] * (student[i] / 0.2).softmax(-1).log()).sum() for i in range(6)]
    expected = (each[0] + sum(each[1:]) / 5 + 0) / 3
    found = patch_cross_entropy(student, targets, hidden, temperature=0.2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_no_hidden_patch_gives_no_loss_and_a_gradient_of_zero() -> None:
    student = torch.zeros(0, PROTOTYPES, requires_grad=True)
    loss = patch_cross_entropy(student, torch.zeros(0, PROTOTYPES), torch.zeros(2, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0


def test_features_are_drawn_from_the_nearest_other_one() -> None:
    features = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    unit = features / features.norm(dim=1, keepdim=True)
    terms = [min((unit[i] - unit[j]).norm() for j in range(9) if j != i).log() for i in range(9)]
    torch.testing.assert_close(koleo_loss(features), -torch.stack(terms).mean(), atol=1e-5, rtol=0)


def test_drawing_apart_makes_the_nearest_lie_further_away() -> None:
    features = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    before = koleo_loss(features).item()
    optimiser = torch.optim.SGD([features], lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        koleo_loss(features).backward()
        optimiser.step()
    # sixteen points on a circle cannot be further apart than when they are evenly spread
    assert -math.log(2 * math.sin(math.pi / 16)) - 1e-4 < koleo_loss(features).item() < before - 0.5


def test_one_feature_alone_has_no_nearest() -> None:
    with pytest.raises(ValueError, match="two images"):
        koleo_loss(torch.ones(1, 3))


# -- the centre and the head -----------------------------------------------------------------------------------


def test_the_centre_is_taken_off_before_sharpening_and_moves_towards_the_mean() -> None:
    centre = Centre(PROTOTYPES, momentum=0.75)
    first, second = logits(5), logits(2, 3, seed=1)
    torch.testing.assert_close(centre(first, 0.1), (first / 0.1).softmax(-1))
    centre.update(first)
    centre.update(second)
    expected = 0.75 * 0.25 * first.mean(0) + 0.25 * second.mean((0, 1))
    torch.testing.assert_close(centre.value, expected)
    torch.testing.assert_close(centre(second, 0.5), ((second - expected) / 0.5).softmax(-1))


def test_the_centre_of_nothing_stays() -> None:
    centre = Centre(PROTOTYPES)
    centre.update(logits(4))
    before = centre.value.clone()
    centre.update(torch.zeros(0, PROTOTYPES))
    assert torch.equal(centre.value, before)


def test_the_head_gives_cosines() -> None:
    head = PrototypeHead(8, hidden=16, bottleneck=5, prototypes=PROTOTYPES)
    tokens = torch.randn(3, 2, 8)
    short, prototypes = head.layers(tokens), head.prototypes
    expected = torch.nn.functional.cosine_similarity(short[:, :, None], prototypes[None, None], dim=-1)
    torch.testing.assert_close(head(tokens), expected)
    assert head(tokens[:0]).shape == (0, 2, PROTOTYPES)


# -- the transformer -------------------------------------------------------------------------------------------


def test_positions_are_those_that_were_learnt_at_the_learnt_size() -> None:
    encoder = ViewTransformer((16, 24), patch=4, width=32, depth=1).eval()
    image = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(encoder(image), encoder.network.forward_features((image - 0.45) / 0.225))
    assert encoder(torch.rand(1, 3, 32, 8)).shape == (1, 17, 32)


def test_what_is_hidden_is_not_seen() -> None:
    encoder = ViewTransformer((16, 16), patch=4, width=32, depth=2).eval()
    image = torch.rand(2, 3, 16, 16)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, 5] = True
    other = image.clone()
    other[0, :, 4:8, 4:8] = 0
    token = torch.randn(32)
    torch.testing.assert_close(encoder(image, hidden, token), encoder(other, hidden, token))
    assert not torch.allclose(encoder(image)[0], encoder(image, hidden, token)[0])
    torch.testing.assert_close(encoder(image)[1], encoder(image, hidden, token)[1])


def test_tokens_after_the_last_block_are_the_answer() -> None:
    encoder = ViewTransformer((16, 16), patch=4, width=32, depth=3).eval()
    image = torch.rand(1, 3, 16, 16)
    first, last = encoder.after(image, [1, 3])
    torch.testing.assert_close(last, encoder(image))
    assert not torch.allclose(first, last)
    maps = encoder.maps(last, 16)
    torch.testing.assert_close(maps[0, :, 1, 2], last[0, 1 + 4 + 2])


@pytest.mark.parametrize("options", [{"patch": 5}, {"width": 40}])
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"size|width"):
        ViewTransformer((16, 16), **options)


# -- which patches are hidden ----------------------------------------------------------------------------------


def test_scattered_patches_are_as_many_as_asked_for() -> None:
    counts = torch.tensor([0, 1, 7, 16])
    hidden = random_patches(counts, 16)
    assert torch.equal(hidden.sum(1), counts)
    assert not torch.equal(hidden, random_patches(counts, 16))


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (6, 14)])
def test_blocks_hide_nearly_as_many_patches_as_asked_for(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    patches = grid[0] * grid[1]
    counts = torch.randint(1, patches // 2 + 1, (500,))
    hidden = blocks_of_patches(counts, grid)
    found = hidden.sum(1)
    assert (found <= counts).all()
    assert (found / counts).mean() > 0.9
    # every place is hidden now and then
    assert (hidden.float().mean(0) > 0.02).all()
    assert blocks_of_patches(torch.zeros(3, dtype=torch.int64), grid).sum() == 0


def test_blocks_hang_together_where_scattered_patches_do_not() -> None:
    def pairs(hidden: Tensor) -> float:
        maps = hidden.unflatten(1, (8, 8))
        return float((maps[:, :, 1:] & maps[:, :, :-1]).sum() / hidden.sum())

    torch.manual_seed(0)
    counts = torch.full((200,), 20)
    assert pairs(blocks_of_patches(counts, (8, 8))) > 1.5 * pairs(random_patches(counts, 64))


# -- several processes -----------------------------------------------------------------------------------------


class Learner(nn.Module):
    """A projector, by what it says of a batch; targets come from the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Linear(8, PROTOTYPES)


class Centred(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.centre = Centre(PROTOTYPES, momentum=0.5)

    def forward(self, batch: Batch) -> Tensor:
        self.centre.update(batch["teacher"])
        targets = self.centre(batch["teacher"], 0.1).transpose(0, 1)
        return view_cross_entropy(self.projector(batch["views"]).transpose(0, 1), targets)


class Balanced(Learner):
    def forward(self, batch: Batch) -> Tensor:
        targets = sinkhorn_knopp(batch["teacher"].flatten(0, 1) / 0.1).unflatten(0, (-1, 2)).transpose(0, 1)
        return view_cross_entropy(self.projector(batch["views"]).transpose(0, 1), targets)


class OfPatches(Learner):
    """Images have unequally many hidden patches."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = Centre(PROTOTYPES, momentum=0.5)

    def forward(self, batch: Batch) -> Tensor:
        hidden = batch["hidden"]
        seen = batch["patch_teacher"][hidden]
        self.centre.update(seen)
        student = self.projector(batch["patches"][hidden])
        of_centred = patch_cross_entropy(student, self.centre(seen, 0.1), hidden)
        return of_centred + patch_cross_entropy(student, sinkhorn_knopp(seen / 0.1), hidden)


class Apart(Learner):
    def forward(self, batch: Batch) -> Tensor:
        return koleo_loss(self.projector(batch["views"][:, 0]))


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    torch.manual_seed(1)
    batch = {
        "views": torch.randn(12, 4, 8),
        "teacher": torch.randn(12, 2, PROTOTYPES),
        "patches": torch.randn(12, 5, 8),
        "patch_teacher": torch.randn(12, 5, PROTOTYPES),
        "hidden": torch.rand(12, 5) < 0.5,
    }
    assert batch["hidden"][:6].sum() != batch["hidden"][6:].sum()
    expect_one_step(Centred, Balanced, OfPatches, Apart, batch=batch)
