"""Methods held against each other: `compare` on your data, claims and duels on a paper's own terms."""
