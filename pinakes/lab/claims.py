"""Claims: what a paper says of itself, written where its code is, as a duel that anyone can run again.

    @claim(
        text="At equal bank size a greedy coreset detects better than a random subset.",
        where="section 4.4, figure 5",
        higher_is_better=True,
    )
    def coreset_beats_random_subset(lab: Lab) -> Trial:
        return lab.duel(ours=PatchCore, baseline=RandomBank, data="textures", metric="auroc")

The decorated function becomes a `Claim`; it is found through the paper's module, and nothing else lists it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from pinakes.catalogue import Paper
from pinakes.errors import UserError
from pinakes.lab.duel import Lab
from pinakes.lab.trial import NotTestable, Trial

__all__ = ["Claim", "Lab", "NotTestable", "Trial", "claim", "claims_of", "not_testable"]

Test = Callable[[Lab], Trial | NotTestable]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how to put it to the test: call it with a `Lab`.

    Args:
        name: Name of the function.
        module: The module that holds it.
        text: The claim in words.
        where: Where the paper makes it.
        higher_is_better: Whether it says that ours is higher than the baseline.
        margin: How much worse ours may be where it says 'no worse than'; 0 where it says 'better'.
        about: What the function's docstring says of the test.
        test: The function.
    """

    name: str
    module: str
    text: str
    where: str
    higher_is_better: bool
    margin: float
    about: str
    test: Test

    def __call__(self, lab: Lab) -> Trial | NotTestable:
        """Puts the claim to the test."""
        return self.test(lab)


def claim(*, text: str, where: str, higher_is_better: bool, margin: float = 0.0) -> Callable[[Test], Claim]:
    """Makes a claim of a function that takes a `Lab` and returns a `Trial`, or says why it is `not_testable`.

    Args:
        text: The claim in words, as one sentence.
        where: Where the paper makes it: section, table, figure.
        higher_is_better: Whether the claim is that ours is higher than the baseline; else that it is lower.
        margin: For 'no worse than': how much worse ours may be, in the unit of the figures; 0 claims 'better'.

    Raises:
        ValueError: If the margin is negative, or the claim has no words or no place.
    """
    if margin < 0:
        raise ValueError(f"margin: expected 0 or more, got {margin}")
    if not text.strip() or not where.strip():
        raise ValueError("text, where: say what the paper claims and where")

    def made(test: Test) -> Claim:
        about = " ".join((test.__doc__ or "").split())
        return Claim(test.__name__, test.__module__, text, where, higher_is_better, margin, about, test)

    return made


def not_testable(reason: str) -> NotTestable:
    """What a claim returns that cannot be put to the test on a small scale.

    Args:
        reason: What it would need, such as "needs the 300 million images of JFT".

    Raises:
        ValueError: If no reason is given.
    """
    if not reason.strip():
        raise ValueError("reason: say why the claim cannot be put to the test here")
    return NotTestable(reason)


def claims_of(paper: Paper) -> list[Claim]:
    """The claims in a paper's module, in the order in which it states them. Imports the module."""
    module = importlib.import_module(paper.module)
    return [
        value for value in vars(module).values() if isinstance(value, Claim) and value.module == paper.module
    ]


def find_claim(paper: Paper, name: str) -> Claim:
    """The claim of a paper that has this name.

    Raises:
        UserError: If it has none of that name.
    """
    for each in claims_of(paper):
        if each.name == name:
            return each
    raise UserError(f"{paper.slug} makes no claim called '{name}'")
