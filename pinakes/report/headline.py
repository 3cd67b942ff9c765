"""The outcome of a comparison in two sentences."""

from pinakes.lab import notation
from pinakes.lab.leaderboard import Leaderboard


def sentences(board: Leaderboard) -> tuple[str, str]:
    """Which method leads and by how much, and whether the seeds bear that out.

    Returns:
        Two sentences; the second is empty where there is nothing to compare.
    """
    if board.all_failed:
        return "No method gave a result.", "The reasons are listed below."
    first, metric = board.ranked[0], board.headline
    reached = f"{metric.label} {notation.estimate(first.metric(metric.name))}".replace(" ± ", "\u00a0±\u00a0")
    if len(board.ranked) == 1:
        return f"{first.slug} reaches {reached}.", "No other method gave a result to compare it with."
    second, lead = board.ranked[1], board.lead()
    if lead is None:
        return (
            f"{first.slug} leads with {reached}.",
            f"{second.slug} has no seed in common with it to compare.",
        )
    gap = notation.number(abs(lead.mean))
    if lead.mean == 0:
        return f"{first.slug} and {second.slug} are level: {reached}.", ""
    opening = f"{first.slug} leads with {reached}, {gap} ahead of {second.slug}."
    if lead.interval is None:
        return opening, "This is one seed: whether the order would hold with another is not known."
    low, high = (notation.number(end) for end in lead.interval)
    between = f"The 95\u00a0% interval of the difference, seed by seed, runs from {low} to {high}"
    if lead.interval[0] > 0:
        return opening, f"{between}: the lead is more than chance between seeds."
    return opening, f"{between} and includes zero: these seeds do not separate the two."
