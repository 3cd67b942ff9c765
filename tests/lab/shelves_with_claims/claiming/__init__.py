"""A shelf of papers that make claims: true, false, empty, failing."""

from pinakes.catalogue import Paper, Shelf

TITLES = {
    "brighter": "Scores",
    "costs": "Costs",
    "failing": "Failures",
    "silent": "Silence",
    "absent": "Absence",
}

SHELF = Shelf(
    name="claiming",
    title="Claims",
    papers=[
        Paper(
            f"toy-{name}",
            f"On {title}",
            "Nobody et al.",
            "Nowhere 2020",
            "arXiv:2001.00001",
            "anomaly",
            f"{name}:Method",
            "A toy.",
        )
        for name, title in TITLES.items()
    ],
)
