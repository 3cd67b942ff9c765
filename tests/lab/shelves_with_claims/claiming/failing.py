"""A claim whose baseline fails with the second seed, and one that is fine."""

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.method import Method

__all__ = ["Method"]


def _breaking(seed: int) -> float:
    if seed == 1:
        raise RuntimeError("the wheel\n   came off")
    return 0.0


@claim(text="Ours is more.", where="table 1", higher_is_better=True)
def more_than_a_broken_one(lab: Lab) -> Trial:
    """It would win by far."""
    return lab.measure(ours=lambda seed: 100.0, baseline=_breaking, metric="points")


@claim(text="Ours is no less than one less.", where="table 2", higher_is_better=True, margin=2.0)
def no_less(lab: Lab) -> Trial:
    """Within the margin."""
    return lab.measure(ours=lambda seed: 9.0 + 0.1 * seed, baseline=lambda seed: 10.0, metric="points")
