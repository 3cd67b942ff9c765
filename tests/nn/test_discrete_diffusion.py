"""Closed forms against transition matrices that are written out, and multiplied step by step."""

from itertools import product

import pytest
import torch

from pinakes.nn.diffusion_sampling import spaced_steps
from pinakes.nn.discrete_diffusion import (
    CategoricalSchedule,
    ImportantSteps,
    bound_term,
    categorical_path,
    changed,
    cosine_kept,
    divergence,
    drawn,
    likelihood,
    mask_and_replace,
    mean_posterior,
    one_hot,
    posterior,
    prior_term,
    q_sample,
    start_of,
    uniform_like,
)

STEPS = 6
SCHEDULES = {
    "even": CategoricalSchedule(cosine_kept(STEPS)),
    "mask and replace": CategoricalSchedule(*mask_and_replace(STEPS)),
    "mask only": CategoricalSchedule(*mask_and_replace(STEPS, masked=1.0, replaced=0.0)),
    "replace only": CategoricalSchedule(*mask_and_replace(STEPS, masked=0.0, replaced=1.0)),
    "not all of it": CategoricalSchedule(*mask_and_replace(STEPS, masked=0.5, replaced=0.3)),
}
REAL = 4
"""K, without the mask."""


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> CategoricalSchedule:
    return SCHEDULES[request.param]


def count(schedule: CategoricalSchedule) -> int:
    return REAL + (schedule.unmasked is not None)


def one_step(schedule: CategoricalSchedule, t: int) -> torch.Tensor:
    """The chance to go, in step t, from the category of the row to that of the column."""
    kept = schedule.kept[t] / schedule.kept[t - 1]
    classes = count(schedule)
    if schedule.unmasked is None:
        return kept * torch.eye(classes, dtype=torch.float64) + (1 - kept) / classes
    unmasked = schedule.unmasked[t] / schedule.unmasked[t - 1]
    matrix = torch.zeros(classes, classes, dtype=torch.float64)
    matrix[:-1, :-1] = (unmasked - kept) / REAL
    matrix[:-1, :-1] += kept * torch.eye(REAL)
    matrix[:-1, -1] = 1 - unmasked
    matrix[-1, -1] = 1
    return matrix


def steps_of(schedule: CategoricalSchedule, s: int, t: int) -> torch.Tensor:
    """The product of the matrices of all steps behind s up to t."""
    matrix = torch.eye(count(schedule), dtype=torch.float64)
    for step in range(s + 1, t + 1):
        matrix = matrix @ one_step(schedule, step)
    return matrix


PAIRS = [(s, t) for s, t in product(range(STEPS), range(1, STEPS + 1)) if s < t]


def both(s: int, t: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((batch,), s), torch.full((batch,), t)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_changes_are_products_of_the_steps(schedule: CategoricalSchedule, s: int, t: int) -> None:
    classes = count(schedule)
    change = schedule.between(*both(s, t, classes))
    every = torch.arange(classes)
    expected = steps_of(schedule, s, t)
    # a category a sample
    torch.testing.assert_close(changed(one_hot(every, classes), change).double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(likelihood(every, change, classes).double(), expected.T, atol=1e-6, rtol=0)
    total = change.kept + change.replaced + (0 if change.masked is None else change.masked)
    torch.testing.assert_close(total, torch.ones(classes))


def enumerated(schedule: CategoricalSchedule, s: int, t: int, clean: int, noised: int) -> torch.Tensor | None:
    """q(x_s | x_t, x_0) by Bayes' rule, of single categories; None where x_t cannot come of x_0."""
    joint = steps_of(schedule, 0, s)[clean] * steps_of(schedule, s, t)[:, noised]
    return None if joint.sum() == 0 else joint / joint.sum()


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_posteriors_are_those_of_enumeration(schedule: CategoricalSchedule, s: int, t: int) -> None:
    classes = count(schedule)
    for clean, noised in product(range(REAL), range(classes)):
        expected = enumerated(schedule, s, t, clean, noised)
        if expected is None:
            continue
        one, other = both(s, t, 1)
        known = one_hot(torch.tensor([[clean]]), classes)
        for rule in (posterior, mean_posterior):
            found = rule(torch.tensor([[noised]]), known, schedule.until(one), schedule.between(one, other))
            torch.testing.assert_close(found[0, :, 0].double(), expected, atol=1e-5, rtol=0)


def chances(schedule: CategoricalSchedule, *shape: int) -> torch.Tensor:
    """Chances of x_0 at random, of the mask 0."""
    found = torch.rand(shape[0], REAL, *shape[1:], generator=torch.Generator().manual_seed(0)) + 0.05
    found = found / found.sum(1, keepdim=True)
    return found if schedule.unmasked is None else torch.cat([found, torch.zeros_like(found[:, :1])], dim=1)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_with_chances_of_x_0_too(schedule: CategoricalSchedule, s: int, t: int) -> None:
    classes = count(schedule)
    one, other = both(s, t, 1)
    clean, noised = chances(schedule, 1, classes), torch.arange(classes)[None]
    until, between = schedule.until(one), schedule.between(one, other)
    mean, plugged = (rule(noised, clean, until, between)[0].double() for rule in (mean_posterior, posterior))
    for seen in range(classes):
        each = [enumerated(schedule, s, t, category, seen) for category in range(REAL)]
        share = clean[0, :REAL, seen].double()
        if all(one is not None for one in each):
            expected = sum(part * one for part, one in zip(share, each, strict=True))
            torch.testing.assert_close(mean[:, seen], expected, atol=1e-5, rtol=0)
        joint = (share @ steps_of(schedule, 0, s)[:REAL]) * steps_of(schedule, s, t)[:, seen]
        if joint.sum() > 0:
            torch.testing.assert_close(plugged[:, seen], joint / joint.sum(), atol=1e-5, rtol=0)


def test_the_mean_leads_to_the_chances_themselves_in_the_end() -> None:
    schedule = SCHEDULES["mask and replace"]
    clean, noised = chances(schedule, 2, 3), torch.tensor([[0, 2, 4], [1, 4, 4]])
    start, end = torch.zeros(2, dtype=torch.int64), torch.tensor([2, 5])
    found = mean_posterior(noised, clean, schedule.until(start), schedule.between(start, end))
    torch.testing.assert_close(found, clean)


def test_a_token_that_cannot_have_been_replaced_is_what_it_was() -> None:
    schedule = SCHEDULES["mask only"]
    noised = torch.tensor([[2, 1, REAL]])
    clean = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])[None, :, None].expand(1, REAL + 1, 3)
    s, t = torch.tensor([2]), torch.tensor([4])
    found = mean_posterior(noised, clean, schedule.until(s), schedule.between(s, t))
    # a mask of step 4 was one at step 2 already with a chance of a half
    torch.testing.assert_close(found[0, :, 0], one_hot(noised, REAL + 1)[0, :, 0])
    torch.testing.assert_close(found[0, :, 1], one_hot(noised, REAL + 1)[0, :, 1])
    torch.testing.assert_close(found[0, :, 2], torch.tensor([0.25, 0.25, 0.0, 0.0, 0.5]))


def test_steps_may_differ_between_samples_and_places_may_have_any_form(schedule: CategoricalSchedule) -> None:
    classes = count(schedule)
    s, t = torch.tensor([0, 1, 3]), torch.tensor([2, 4, 5])
    clean = chances(schedule, 3, 2, 5)
    noised = torch.randint(classes, (3, 2, 5), generator=torch.Generator().manual_seed(1))
    for rule in (posterior, mean_posterior):
        found = rule(noised, clean, schedule.until(s), schedule.between(s, t))
        for place in range(3):
            one = slice(place, place + 1)
            flat = rule(
                noised[one].flatten(1),
                clean[one].flatten(2),
                schedule.until(s[one]),
                schedule.between(s[one], t[one]),
            )
            torch.testing.assert_close(found[one].flatten(2), flat)


def test_small_changes_are_exact_among_many_steps() -> None:
    schedule = CategoricalSchedule(cosine_kept(4000))
    found = schedule.between(torch.tensor([1]), torch.tensor([2])).replaced
    expected = 1 - schedule.kept[2] / schedule.kept[1]
    torch.testing.assert_close(found.double(), expected[None], rtol=1e-6, atol=0)


def test_noise_has_the_chances_that_follow(schedule: CategoricalSchedule) -> None:
    classes = count(schedule)
    torch.manual_seed(0)
    clean = torch.full((1, 40_000), 2)
    change = schedule.until(torch.tensor([3]))
    share = q_sample(clean, change, classes).flatten().bincount(minlength=classes) / 40_000
    # four standard errors of a half
    torch.testing.assert_close(
        share, changed(one_hot(clean[:, :1], classes), change)[0, :, 0], atol=0.01, rtol=0
    )


def test_the_start_is_what_is_left_in_the_last_step(schedule: CategoricalSchedule) -> None:
    classes = count(schedule)
    uniform = (torch.arange(40_000) / 40_000)[None]
    share = start_of(schedule, classes, uniform).flatten().bincount(minlength=classes) / 40_000
    if schedule.unmasked is None:
        expected = torch.full((classes,), 1 / classes)
    else:
        left = schedule.unmasked[-1].float()
        expected = torch.cat([(left / REAL).expand(REAL), 1 - left[None]])
    torch.testing.assert_close(share, expected, atol=1e-3, rtol=0)


def test_divergence_is_that_of_torch() -> None:
    one, other = torch.rand(2, 3, 5, 4).softmax(2)
    expected = torch.nn.functional.kl_div(other.log(), one, reduction="none").sum(1)
    torch.testing.assert_close(divergence(one, other), expected)
    assert (divergence(one_hot(torch.tensor([[1]]), 3), one_hot(torch.tensor([[1]]), 3)) == 0).all()


def test_draws_have_their_chances_and_never_a_chance_of_0() -> None:
    chance = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])[None, :, None].expand(1, 5, 20_001)
    uniform = torch.linspace(0, 1, 20_001)[None].clamp(max=1 - 2**-24)
    share = drawn(chance, uniform).flatten().bincount(minlength=5) / 20_001
    torch.testing.assert_close(share, chance[0, :, 0], atol=1e-3, rtol=0)
    assert share[[0, 2, 4]].sum() == 0


def test_each_sample_is_drawn_from_its_own_generator() -> None:
    def numbers(*seeds: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return uniform_like(torch.zeros(len(seeds), 4, 3, dtype=torch.int64), generators)

    assert torch.equal(numbers(5, 6, 7)[1], numbers(6)[0])


RULES = {"posterior": posterior, "mean_posterior": mean_posterior}


def best(
    schedule: CategoricalSchedule, prior: torch.Tensor, noised: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    joint = likelihood(noised, schedule.until(t), len(prior)) * prior[None, :, None]
    return joint / joint.sum(1, keepdim=True).clamp(min=1e-30)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [spaced_steps(STEPS, STEPS), spaced_steps(STEPS, 3)])
def test_with_the_right_chances_samples_are_as_the_data(
    schedule: CategoricalSchedule, steps: list[int], rule: str
) -> None:
    """For single places both are exact, with steps left out too: the mean with the chances of x_0 given x_t, the other
    with those that do not know x_t.
    """
    data = torch.tensor([0.5, 0.1, 0.15, 0.25])
    classes = count(schedule)
    prior = torch.cat([data, torch.zeros(classes - REAL)])

    def foretell(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        even = prior[None, :, None].expand(len(noised), classes, *noised.shape[1:])
        return even if rule == "posterior" else best(schedule, prior, noised, t)

    generator = torch.Generator().manual_seed(0)

    def uniform() -> torch.Tensor:
        return torch.rand(1, 40_000, generator=generator)

    # what is left of x_0 in the last step belongs to where the way begins
    torch.manual_seed(1)
    clean = drawn(prior[None, :, None].expand(1, classes, 40_000), uniform())
    begin = q_sample(clean, schedule.until(torch.tensor([STEPS])), classes)
    path, last = categorical_path(foretell, begin, schedule, steps, uniform, RULES[rule])
    share = path[-1].flatten().bincount(minlength=classes) / 40_000
    torch.testing.assert_close(share, prior, atol=0.01, rtol=0)
    assert len(path) == len(steps)
    assert last.shape == (1, classes, 40_000)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["even", "mask and replace"])
def test_the_bound_of_the_right_network_is_the_entropy(name: str, rule: str) -> None:
    """Its sum over all steps, all x_0 and all x_t, by their chances, is what one place costs at the least."""
    schedule = SCHEDULES[name]
    classes = count(schedule)
    data = torch.tensor([0.5, 0.1, 0.15, 0.25])
    prior = torch.cat([data, torch.zeros(classes - REAL)])
    total = 0.0
    for clean in range(REAL):
        x_0 = torch.full((classes, 1), clean)
        noised = torch.arange(classes)[:, None]
        for step in range(1, STEPS + 1):
            t = torch.full((classes,), step)
            share = changed(one_hot(x_0, classes), schedule.until(t))[0, :, 0]
            known = best(schedule, prior, noised, t) if rule == "mean_posterior" else prior[None, :, None]
            chance = known.expand(classes, classes, 1)
            term = bound_term(noised, x_0, chance, schedule, t, RULES[rule])[:, 0]
            total += float(data[clean] * (share * term).sum())
        total += float(data[clean] * prior_term(x_0[:1], schedule, classes))
    assert total == pytest.approx(float(-(data * data.log()).sum()), abs=1e-4)


def test_with_nothing_left_of_x_0_the_start_costs_nothing() -> None:
    clean = torch.arange(REAL)[None]
    assert prior_term(clean, SCHEDULES["mask and replace"], REAL + 1).abs().max() < 1e-6
    # a fifth is kept: 0.2 + 0.3 / 4 on the true one of four, 0.5 is masked
    own, other = 0.2 + 0.075, 0.075
    expected = own * torch.tensor(own / 0.125).log() + 3 * other * torch.tensor(other / 0.125).log()
    torch.testing.assert_close(
        prior_term(clean, SCHEDULES["not all of it"], REAL + 1), expected.expand(1, REAL)
    )


def test_steps_are_drawn_by_their_losses_and_weighted_back() -> None:
    torch.manual_seed(0)
    important = ImportantSteps(4)
    torch.testing.assert_close(important.chances(), torch.full((4,), 0.25))
    loss = torch.tensor([4.0, 1.0, 1.0, 2.0])
    for _ in range(3):
        t = torch.arange(1, 5).repeat(20)
        important.note(t, loss[t - 1])
    torch.testing.assert_close(important.chances(), loss / 8, atol=1e-3, rtol=0)
    t, weight = important.draw(20_000)
    torch.testing.assert_close(t.bincount(minlength=5)[1:] / 20_000, important.chances(), atol=0.015, rtol=0)
    # what is drawn by the losses varies little when it is weighted
    torch.testing.assert_close(weight * loss[t - 1], torch.full((20_000,), 2.0), atol=1e-2, rtol=0)


def test_schedules_that_go_back_are_refused() -> None:
    with pytest.raises(ValueError, match="kept"):
        CategoricalSchedule(torch.tensor([1.0, 0.5, 0.6]))
    with pytest.raises(ValueError, match="masked"):
        CategoricalSchedule(torch.tensor([1.0, 0.5, 0.2]), torch.tensor([0.0, 0.3, 0.2]))
    with pytest.raises(ValueError, match="less than none"):
        CategoricalSchedule(torch.tensor([1.0, 0.5, 0.45]), torch.tensor([0.0, 0.1, 0.4]))
    with pytest.raises(ValueError, match="masked, replaced"):
        mask_and_replace(10, masked=0.9, replaced=0.2)
