"""Diffusion of categories, such as grey levels, labels of pixels or tokens: to noise, and the way back.

In each step a category may be drawn anew, evenly from all K, and, where the schedule has a mask, be masked, which it
stays. With a mask there are K + 1 categories, of which the last is the mask; without one there are K. Categories are
int64, "batch *places"; chances are "batch classes *places". All transitions follow from three numbers, so no K x K
matrix is ever made.

    schedule = CategoricalSchedule(cosine_kept(100))  # or mask_and_replace(100)
    noised = q_sample(clean, schedule.until(t), classes)
    before = posterior(noised, chances_of_clean, schedule.until(t - 1), schedule.between(t - 1, t))

Source: Hoogeboom et al., Argmax Flows and Multinomial Diffusion, NeurIPS 2021 (arXiv:2102.05379), section 4, for even
noise; Gu et al., Vector Quantized Diffusion Model for Text-to-Image Synthesis, CVPR 2022 (arXiv:2111.14822), section 4,
with a mask.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

Foretell = Callable[
    [Int[Tensor, "batch *places"], Int[Tensor, " batch"]], Float[Tensor, "batch classes *places"]
]
"""From x_t and t to the chances of x_0."""
Uniform = Callable[[], Float[Tensor, "batch *places"]]
"""Gives numbers that lie evenly in [0, 1), one for each place, new every time."""
Back = Callable[
    [Int[Tensor, "batch *places"], Float[Tensor, "batch classes *places"], "Change", "Change"],
    Float[Tensor, "batch classes *places"],
]
"""`posterior` or `mean_posterior`."""
OFTEN = 10
"""How often each step must have been seen before losses tell which are drawn."""
FORGOTTEN = 0.9
"""What is left of the mean square of a step's losses when it is seen once more."""
LEAST = 1e-30
"""Chances are no smaller than this where their logarithm is taken."""


class Change(NamedTuple):
    """What happens to a category in one step, or in many: three chances for each sample, with sum 1.

    `replaced` is the chance to be drawn anew from the K categories, which may give the old one again, and `masked` is
    None where there is no mask.
    """

    kept: Float[Tensor, " batch"]
    replaced: Float[Tensor, " batch"]
    masked: Float[Tensor, " batch"] | None = None


class CategoricalSchedule(nn.Module):
    """What happens to categories between any two steps from 0 to T; it has no weights, and moves with its owner.

    Args:
        kept: The chance that a category is neither replaced nor masked up to step t, from 1 at t = 0, falling.
        masked: The chance that it is masked up to step t, from 0 at t = 0, rising, below 1 before T; None for no mask.

    Raises:
        ValueError: If these are no such numbers, or a step would have a chance below 0.

    Example:
        >>> CategoricalSchedule(torch.tensor([1.0, 0.9, 0.45])).between(torch.tensor([1]), torch.tensor([2]))
        Change(kept=tensor([0.5000]), replaced=tensor([0.5000]), masked=None)
    """

    kept: Tensor
    unmasked: Tensor | None

    def __init__(
        self,
        kept: Float[Tensor, " steps_and_0"],
        masked: Float[Tensor, " steps_and_0"] | None = None,
    ) -> None:
        super().__init__()
        kept = kept.double()
        unmasked = None if masked is None else 1 - masked.double()
        for name, share in (("kept", kept), ("masked", unmasked)):
            if share is None:
                continue
            if share[0] != 1 or (share.diff() > 0).any() or (share[:-1] <= 0).any() or share[-1] < 0:
                raise ValueError(f"{name}: expected chances that change one way over the steps, got {share}")
        if unmasked is not None and (kept[1:] * unmasked[:-1] > kept[:-1] * unmasked[1:] + 1e-12).any():
            raise ValueError("masked: so many are masked in a step that less than none would be replaced")
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("unmasked", unmasked, persistent=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.kept) - 1

    def between(self, s: Int[Tensor, " batch"], t: Int[Tensor, " batch"]) -> Change:
        """What happens from step s to step t, for each sample.

        Args:
            s: 0 or more, below T.
            t: Not below s.
        """
        # doubles, for 1 minus what is almost 1
        kept = self.kept[t] / self.kept[s]
        unmasked = torch.ones_like(kept) if self.unmasked is None else self.unmasked[t] / self.unmasked[s]
        replaced = (unmasked - kept).clamp(min=0)
        masked = None if self.unmasked is None else (1 - unmasked).float()
        return Change(kept.float(), replaced.float(), masked)

    def until(self, t: Int[Tensor, " batch"]) -> Change:
        """What happens from the start to step t, for each sample."""
        return self.between(torch.zeros_like(t), t)


def cosine_kept(steps: int, offset: float = 0.008) -> Float[Tensor, " steps_and_0"]:
    """Chances for `CategoricalSchedule` that fall as a cosine does, to almost 0 in the last step.

    Args:
        steps: T, 1 or more.
        offset: s, that keeps the first steps from being too small.

    Source: Hoogeboom et al., section 4; the cosine of Nichol and Dhariwal (arXiv:2102.09672), equation 17, of which
        they take the square root.
    """
    place = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((place + offset) / (1 + offset) * math.pi / 2).cos()
    return (kept / kept[0]).clamp(min=LEAST)


def mask_and_replace(
    steps: int, masked: float = 0.9, replaced: float = 0.1
) -> tuple[Float[Tensor, " steps_and_0"], Float[Tensor, " steps_and_0"]]:
    """Both arguments of `CategoricalSchedule`, each on a line over the steps.

    Args:
        steps: T, 1 or more.
        masked: The share that is masked in the end, 0 to 1.
        replaced: The share that is replaced in the end; 1 together with `masked`, or less.

    Raises:
        ValueError: If there are no such shares.

    Source: Gu et al., section 5, implementation details.
    """
    if masked < 0 or replaced < 0 or masked + replaced > 1 + 1e-9:
        raise ValueError(
            f"masked, replaced: expected shares with a sum of at most 1, got {masked}, {replaced}"
        )
    place = torch.arange(steps + 1, dtype=torch.float64) / steps
    return (1 - (masked + replaced) * place).clamp(min=0), masked * place


def one_hot(categories: Int[Tensor, "batch *places"], classes: int) -> Float[Tensor, "batch classes *places"]:
    """All the chance at one category.

    Example:
        >>> one_hot(torch.tensor([[2, 0]]), 3)
        tensor([[[0., 1.],
                 [0., 0.],
                 [1., 0.]]])
    """
    return functional.one_hot(categories, classes).movedim(-1, 1).float()


def changed(
    chances: Float[Tensor, "batch classes *places"], change: Change
) -> Float[Tensor, "batch classes *places"]:
    """The chances of categories after a change, given those before it.

    Args:
        chances: Of the categories, with sum 1 or any other.
        change: What happens; with a mask, the last category is the mask.

    Source: Hoogeboom et al., section 4; Gu et al., equations 7 and 8.

    Example:
        >>> changed(torch.tensor([[1.0, 0.0]]), Change(torch.tensor([0.5]), torch.tensor([0.5])))
        tensor([[0.7500, 0.2500]])
    """
    kept, replaced, masked = _beside(change, chances)
    if masked is None:
        return kept * chances + replaced * chances.sum(1, keepdim=True) / chances.shape[1]
    real, mask = chances[:, :-1], chances[:, -1:]
    total = real.sum(1, keepdim=True)
    return torch.cat([kept * real + replaced * total / real.shape[1], mask + masked * total], dim=1)


def likelihood(
    noised: Int[Tensor, "batch *places"], change: Change, classes: int
) -> Float[Tensor, "batch classes *places"]:
    """The chance to see what is seen after a change, for each category that may have been there before.

    Args:
        noised: What is seen.
        change: What happened.
        classes: How many categories there are, the mask included.
    """
    seen = one_hot(noised, classes)
    kept, replaced, masked = _beside(change, seen)
    if masked is None:
        return kept * seen + replaced / classes
    real, mask = seen[:, :-1], seen[:, -1:]
    from_real = kept * real + (1 - mask) * replaced / (classes - 1) + mask * masked
    return torch.cat([from_real, mask], dim=1)


def posterior(
    noised: Int[Tensor, "batch *places"],
    clean: Float[Tensor, "batch classes *places"],
    until: Change,
    between: Change,
) -> Float[Tensor, "batch classes *places"]:
    """q(x_s | x_t, x_0) for a step s before t, with chances in the place of x_0 in the formula.

    It is proportional to q(x_t | x_s) q(x_s | x_0), where the second is linear in x_0. With chances this is
    p(x_s | x_t), exactly, if they say what is known of x_0 but for its own x_t, which comes in by the first factor; for
    s = 0 too, where it is their product with q(x_t | x_0).

    Args:
        noised: x_t.
        clean: x_0 as `one_hot` gives it, or chances of it.
        until: What happens up to s.
        between: What happens from s to t.

    Source: Hoogeboom et al., section 4, theta_post.
    """
    joint = likelihood(noised, between, clean.shape[1]) * changed(clean, until)
    return joint / joint.sum(1, keepdim=True).clamp(min=LEAST)


def mean_posterior(
    noised: Int[Tensor, "batch *places"],
    clean: Float[Tensor, "batch classes *places"],
    until: Change,
    between: Change,
) -> Float[Tensor, "batch classes *places"]:
    """The mean of q(x_s | x_t, x_0) over chances of x_0: the sum, over all categories, of each one's posterior.

    It is the same as `posterior` where x_0 is known; where not, this is p(x_s | x_t) for the right chances of x_0 given
    x_t, and leads to these themselves for s = 0. Categories from which x_t cannot come, as all others where nothing is
    replaced and x_t is no mask, are left out of the chances.

    Args:
        noised: x_t.
        clean: Chances of x_0, of the mask 0.
        until: What happens up to s.
        between: What happens from s to t.

    Source: Gu et al., equation 11.
    """
    seen = likelihood(noised, _joined(until, between), clean.shape[1])
    possible = torch.where(seen > 0, clean, 0.0)
    total = possible.sum(1, keepdim=True)
    # where all that is held possible is not, all that is possible is as likely
    possible = torch.where(total > 0, possible / total.clamp(min=LEAST), (seen > 0).float())
    weighted = torch.where(seen > 0, possible / seen.clamp(min=LEAST), 0.0)
    return likelihood(noised, between, clean.shape[1]) * changed(weighted, until)


def divergence(
    true: Float[Tensor, "batch classes *places"], foretold: Float[Tensor, "batch classes *places"]
) -> Float[Tensor, "batch *places"]:
    """The Kullback-Leibler divergence of foretold chances from the true ones, in nats."""
    return (true * (true.clamp(min=LEAST).log() - foretold.clamp(min=LEAST).log())).sum(1)


def bound_term(
    noised: Int[Tensor, "batch *places"],
    clean: Int[Tensor, "batch *places"],
    chances: Float[Tensor, "batch classes *places"],
    schedule: CategoricalSchedule,
    t: Int[Tensor, " batch"],
    back: Back = posterior,
) -> Float[Tensor, "batch *places"]:
    """What step t adds to the variational bound, in nats, at each place.

    Args:
        noised: x_t.
        clean: x_0.
        chances: Of x_0, as they are foretold.
        schedule: Of the noise.
        t: 1 to T.
        back: `posterior` or `mean_posterior`.

    Returns:
        The divergence of the foretold posterior from the true one; for t = 1 this is what is left to say of x_0.

    Source: Hoogeboom et al., section 4.
    """
    known = one_hot(clean, chances.shape[1])
    until, between = schedule.until(t - 1), schedule.between(t - 1, t)
    true = posterior(noised, known, until, between)
    foretold = back(noised, chances, until, between)
    return divergence(true, foretold)


def prior_term(
    clean: Int[Tensor, "batch *places"], schedule: CategoricalSchedule, classes: int
) -> Float[Tensor, "batch *places"]:
    """What the bound holds for x_T, in nats: the divergence of what `start_of` draws from, given what x_0 was."""
    known = one_hot(clean, classes)
    end = schedule.until(torch.full((len(clean),), schedule.steps, device=clean.device))
    left = Change(torch.zeros_like(end.kept), end.kept + end.replaced, end.masked)
    return divergence(changed(known, end), changed(known, left))


class ImportantSteps(nn.Module):
    """Draws steps more often where the loss is larger, with weights that make up for it.

    Until each step was seen some times, all are as likely.

    Args:
        steps: T.

    Source: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021 (arXiv:2102.09672), equation
        18, with a moving average as in github.com/ehoogeboom/multinomial_diffusion.

    Example:
        >>> important = ImportantSteps(4)
        >>> t, weight = important.draw(3)
        >>> important.note(t, torch.ones(3))
    """

    squares: Tensor
    seen: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("squares", torch.zeros(steps), persistent=False)
        self.register_buffer("seen", torch.zeros(steps), persistent=False)

    def chances(self) -> Float[Tensor, " steps"]:
        """The chance of each step from 1, in proportion to the root of the mean square of its loss."""
        root = (self.squares + 1e-10).sqrt() + 1e-4
        root = root if (self.seen > OFTEN).all() else torch.ones_like(root)
        return root / root.sum()

    def draw(self, count: int) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Steps from 1 to T, from torch's generator, and how much the loss of each counts; 1 in the mean."""
        chances = self.chances()
        place = torch.multinomial(chances, count, replacement=True)
        return place + 1, 1 / (len(chances) * chances[place])

    @torch.no_grad()
    def note(self, t: Int[Tensor, " batch"], loss: Float[Tensor, " batch"]) -> None:
        """Takes in the losses, without weights, of steps that were drawn."""
        count = torch.zeros_like(self.seen).index_add(0, t - 1, torch.ones_like(loss))
        total = torch.zeros_like(self.seen).index_add(0, t - 1, loss.detach().square())
        kept = FORGOTTEN**count
        self.squares.copy_(kept * self.squares + (1 - kept) * total / count.clamp(min=1))
        self.seen.add_(count)


def q_sample(
    clean: Int[Tensor, "batch *places"], change: Change, classes: int
) -> Int[Tensor, "batch *places"]:
    """A draw of x_t given x_0, from torch's generator.

    Args:
        clean: x_0, without masks.
        change: What happens up to t.
        classes: How many categories there are, the mask included.
    """
    kept, replaced, masked = _beside(change, clean)
    chance = torch.rand(clean.shape, device=clean.device)
    others = torch.randint(classes - (masked is not None), clean.shape, device=clean.device)
    noised = torch.where(chance < kept, clean, others)
    return noised if masked is None else torch.where(chance >= kept + replaced, classes - 1, noised)


def drawn(
    chances: Float[Tensor, "batch classes *places"], uniform: Float[Tensor, "batch *places"]
) -> Int[Tensor, "batch *places"]:
    """A category for each place, by the inverse of the summed chances; never one whose chance is 0.

    Args:
        chances: With sum 1, or any other above 0.
        uniform: Even in [0, 1).

    Example:
        >>> drawn(torch.tensor([[[0.25], [0.75]]]).expand(1, 2, 2), torch.tensor([[0.2, 0.3]]))
        tensor([[0, 1]])
    """
    summed = chances.cumsum(1)
    return (summed <= uniform[:, None] * summed[:, -1:]).sum(1)


def uniform_like(
    like: Shaped[Tensor, "batch *places"], generators: Sequence[torch.Generator]
) -> Float[Tensor, "batch *places"]:
    """Numbers that lie evenly in [0, 1), each sample's from its own generator."""
    return torch.stack([torch.rand(like.shape[1:], generator=each) for each in generators]).to(like.device)


def start_of(
    schedule: CategoricalSchedule, classes: int, uniform: Float[Tensor, "batch *places"]
) -> Int[Tensor, "batch *places"]:
    """A draw of x_T, where nothing is left of x_0: even over the K categories, or a mask.

    Args:
        schedule: Says how many masks there are.
        classes: How many categories there are, the mask included.
        uniform: Even in [0, 1).
    """
    unmasked = 1.0 if schedule.unmasked is None else float(schedule.unmasked[-1])
    real = classes - (schedule.unmasked is not None)
    # doubles: a share of [0, 1) that is stretched to K categories
    category = (uniform.double() / max(unmasked, LEAST) * real).long().clamp(max=real - 1)
    return torch.where(uniform < unmasked, category, classes - 1)


def categorical_path(
    foretell: Foretell,
    start: Int[Tensor, "batch *places"],
    schedule: CategoricalSchedule,
    steps: Sequence[int],
    uniform: Uniform,
    back: Back = posterior,
) -> tuple[list[Int[Tensor, "batch *places"]], Float[Tensor, "batch classes *places"]]:
    """From noise to categories by draws from the reverse process.

    Args:
        foretell: The network.
        start: x_t of the first step.
        schedule: Of training.
        steps: Falling numbers that end with 0, as `diffusion_sampling.spaced_steps` gives them.
        uniform: A number for each place, new every time.
        back: `posterior` or `mean_posterior`.

    Returns:
        x of all steps, the first `start` and the last x_0; and the chances from which this was drawn.

    Raises:
        ValueError: If there are less than two steps.
    """
    path, before = [start], None
    for t, s in pairwise(steps):
        now, then = (torch.full((len(start),), step, device=start.device) for step in (t, s))
        before = back(path[-1], foretell(path[-1], now), schedule.until(then), schedule.between(then, now))
        path.append(drawn(before, uniform()))
    if before is None:
        raise ValueError(f"steps: expected two or more, got {list(steps)}")
    return path, before


def _beside(change: Change, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The chances in a form that multiplies with values of a batch."""
    shape = (-1, *[1] * (values.ndim - 1))
    masked = None if change.masked is None else change.masked.view(shape)
    return change.kept.view(shape), change.replaced.view(shape), masked


def _joined(first: Change, second: Change) -> Change:
    """Two changes, one after the other."""
    replaced = first.replaced * (second.kept + second.replaced) + first.kept * second.replaced
    if first.masked is None or second.masked is None:
        return Change(first.kept * second.kept, replaced)
    masked = first.masked + (1 - first.masked) * second.masked
    return Change(first.kept * second.kept, replaced, masked)
