"""A shelf of toys: methods that take no time, and one that fails."""

from pinakes.catalogue import Paper, Shelf


def _toy(slug: str, method: str) -> Paper:
    return Paper(
        slug, f"On {slug}", "Nobody et al.", "Nowhere 2020", "arXiv:2001.00001", "anomaly", method, "A toy."
    )


SHELF = Shelf(
    name="toys",
    title="Toys",
    papers=[
        _toy("toy-contrast", "toys:Contrast"),
        _toy("toy-noise", "toys:Noise"),
        _toy("toy-broken", "toys:Broken"),
        _toy("toy-taught", "toys:Taught"),
    ],
)
