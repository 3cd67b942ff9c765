"""The documentation site: pages made from the catalogue, the papers' own files, verdicts and pictures."""
