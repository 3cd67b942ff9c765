"""Holes filled by a diffusion model of whole images: on normal data, what belongs in them is known in closed form."""

import inspect
from itertools import pairwise

import pytest
import torch

import pinakes
from pinakes import tasks
from pinakes.nn.diffusion_sampling import ancestral_step, spaced_steps
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.papers.diffusion.repaint import RePaint, repaint_path, repaint_step, resampling_schedule
from pinakes.tasks.base import Batch

SMALL = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 4, "jump_length": 2, "resamplings": 2}
ALPHA_BAR = alpha_bar_schedule(1000).double()
COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)


def best(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean of x_0 given x_t for pairs of pixels from a normal distribution."""
    kept = ALPHA_BAR[t[0]]
    gain = kept.sqrt() * COVARIANCE @ torch.linalg.inv(kept * COVARIANCE + (1 - kept) * torch.eye(2))
    return (noised.flatten(1) @ gain.T).view_as(noised)


def filled(known: torch.Tensor, resamplings: int) -> torch.Tensor:
    """What is put into the second of two pixels."""
    generator = torch.Generator().manual_seed(0)
    pair = torch.stack([known, torch.full_like(known, 99.0)], dim=1).view(-1, 1, 1, 2)
    hole = torch.tensor([[False, True]]).expand(len(pair), 1, 2)

    def draw() -> torch.Tensor:
        return torch.randn(pair.shape, generator=generator, dtype=pair.dtype)

    steps = spaced_steps(1000, 50)
    path = repaint_path(
        best, draw(), pair, hole, ALPHA_BAR, steps, draw, jump_length=5, resamplings=resamplings
    )
    assert len(path) == 51
    assert torch.equal(path[-1][:, 0, 0, 0], known)
    return path[-1][:, 0, 0, 1]


def test_resampling_brings_what_is_filled_in_nearer_to_what_follows_from_the_known_part() -> None:
    known = torch.randn(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # given the known pixel the other is 0.9 times that, give or take a variance of 0.19
    slopes = [float((known * filled(known, r)).mean() / known.square().mean()) for r in (1, 2, 10)]
    errors = [float((filled(known, r) - 0.9 * known).square().mean()) for r in (1, 2, 10)]
    assert slopes[0] < 0.65
    assert slopes[0] < slopes[1] < slopes[2]
    assert errors[0] > errors[1] > errors[2]
    # steps of a fiftieth make the distribution a little too narrow
    assert slopes[2] == pytest.approx(0.9, abs=0.06)
    assert errors[2] == pytest.approx(0.19, abs=0.03)


def test_the_way_is_walked_as_often_as_it_says() -> None:
    # r times for each stretch of j steps but the first of the way, and once for that
    way = resampling_schedule(250, jump_length=10, resamplings=10)
    assert way[0] == 250
    assert way[-1] == 0
    moves = [earlier - later for earlier, later in pairwise(way)]
    assert set(moves) == {1, -10}
    assert moves.count(1) == 10 + 10 * 240
    assert moves.count(-10) == 9 * 24
    assert resampling_schedule(250, jump_length=10, resamplings=1) == list(range(250, -1, -1))


def test_a_step_is_that_of_ddpm_in_the_hole_and_noise_added_to_the_image_outside() -> None:
    noised, clean, known, noise, other = torch.randn(
        5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)
    )
    hole = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    t, s = ALPHA_BAR[300].float(), ALPHA_BAR[200].float()
    found = repaint_step(noised, clean, known, hole, t, s, noise, other)
    inside = ancestral_step(noised, clean, t, s, noise)
    where = hole[:, None].expand_as(found)
    torch.testing.assert_close(found[where], inside[where])
    torch.testing.assert_close(found[~where], (s.sqrt() * known + (1 - s).sqrt() * other)[~where])


@pytest.fixture(scope="module")
def method() -> RePaint:
    return RePaint(**SMALL).fit("digits?n=40&size=8", steps=2, batch_size=8)


def some(count: int = 3) -> Batch:
    data = pinakes.load_data("digits?n=40&size=8&holes=box", task="inpainting")
    return tasks.get("inpainting").collate([data.test[place] for place in range(count)])


def test_what_is_known_stays_as_it_is(method: RePaint) -> None:
    batch = some()
    found = method.predict(batch)["restored"]
    outside = ~batch["hole"][:, None].expand_as(found)
    torch.testing.assert_close(found[outside], batch["image"][outside])


def test_another_seed_gives_another_answer_and_the_same_one_the_same(method: RePaint) -> None:
    batch = {name: value for name, value in some().items() if name in ("image", "hole")}
    first, again, other = (method.restore(batch, seed=seed)["restored"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # answers are numbered, however many are asked for at a time
    last = {name: value[2:] for name, value in batch.items()}
    torch.testing.assert_close(method.restore(last, first=2)["restored"], first[2:], rtol=1e-4, atol=1e-5)


def test_it_learns_from_whole_images() -> None:
    method = RePaint(**SMALL).prepare(pinakes.load_data("digits?n=40&size=8").info)
    batch = some()
    losses = []
    for image in (batch["image"], torch.zeros_like(batch["image"])):
        torch.manual_seed(0)
        losses.append(method.training_step(batch | {"image": image}, 0))
    assert torch.equal(*losses)


def test_a_class_is_told_where_it_is_known_and_wanted() -> None:
    method = RePaint(**SMALL, classes=True).fit("digits?n=40&size=8", steps=2, batch_size=8)
    batch = some()
    unknown = {name: value for name, value in batch.items() if name != "label"}
    assert not torch.equal(method.predict(batch)["restored"], method.predict(unknown)["restored"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resamplings": 0}, "resamplings"),
        ({"jump_length": 0}, "jump_length"),
        ({"jump_length": 50}, "jump_length"),
        ({"sampler": "dpm"}, "sampler"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(pinakes.UserError, match=said):
        RePaint(**options)  # type: ignore[arg-type]


def test_options_are_spelled_out() -> None:
    names = list(inspect.signature(RePaint).parameters)
    assert names[:5] == ["jump_length", "resamplings", "classes", "sampler", "sampling_steps"]
    assert "T" in names
