"""Claims that are measured, and one that cannot be."""

from pinakes.lab.claims import Lab, NotTestable, Trial, claim, not_testable
from pinakes.method import Method

__all__ = ["Method"]


@claim(text="Ours has fewer numbers.", where="table 1", higher_is_better=False)
def fewer_numbers(lab: Lab) -> Trial:
    """The same with every seed."""
    return lab.measure(ours=lambda seed: 10, baseline=lambda seed: 20, metric="parameters")


@claim(text="It scales.", where="table 2", higher_is_better=True)
def scales(lab: Lab) -> NotTestable:
    """Not here."""
    return not_testable("needs a thousand GPUs")
