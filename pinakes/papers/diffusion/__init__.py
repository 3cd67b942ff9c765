"""The shelf's index: plain data, no heavy import."""

from pinakes.catalogue import Paper, Shelf

SHELF = Shelf(
    name="diffusion",
    title="Diffusion models",
    papers=[
        Paper(
            slug="ddpm",
            title="Denoising Diffusion Probabilistic Models",
            authors="Ho et al.",
            venue="NeurIPS 2020",
            link="arXiv:2006.11239",
            task="generation",
            method="ddpm:DDPM",
            idea="Learns to tell the noise in images, and takes it out step by step where there was nothing else.",
        ),
    ],
)
