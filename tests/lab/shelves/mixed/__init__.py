"""A shelf whose papers have two tasks; there is no code behind them."""

from pinakes.catalogue import Paper, Shelf


def _paper(slug: str, task: str) -> Paper:
    return Paper(
        slug, f"On {slug}", "Nobody et al.", "Nowhere 2020", "arXiv:2001.00001", task, "none:None", ""
    )


SHELF = Shelf(
    name="mixed",
    title="Mixed",
    papers=[_paper("odd-one", "anomaly"), _paper("first-ood", "ood"), _paper("second-ood", "ood")],
)
