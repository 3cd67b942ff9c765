"""Memory of predicting one large image tile by tile: the whole process, libraries included, at its peak.

Run with `python -m benchmarks tiling`; writes `results/bench/tiling.json`.
"""

import multiprocessing
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import pinakes
from benchmarks.harness import Finding, save
from pinakes.lab.memory import peak_of
from pinakes.report.predictions import write_predictions

SIZES = ((2000, 3000), (4000, 6000))
"""Heights and widths; the last is the one that is to stay below the limit."""
LIMIT_BYTES = 2e9
TILE, OVERLAP, BATCH = 512, 64, 16
METHOD = "patchcore"
DATA = "textures?size=128&n=16"


def picture(path: Path, size: tuple[int, int]) -> Path:
    """Writes spots of colour in a lossless file."""
    height, width = size
    spots = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC).save(path, compress_level=1)
    return path


def measured(run: Path, image: Path, out: Path) -> tuple[int, int]:
    """Bytes at the peak on top of the loaded method, and of the whole process; called in a process of its own."""
    method = pinakes.load(run)
    return peak_of(
        lambda: write_predictions(method, image, out, batch_size=BATCH, tile=TILE, overlap=OVERLAP)
    )


def peaks(folder: Path) -> dict[tuple[int, int], tuple[int, int]]:
    """The peaks by size of the image, each of a fresh process."""
    run = folder / "run"
    pinakes.create(METHOD).fit(DATA, out=run, device="cpu")
    found = {}
    for size in SIZES:
        image = picture(folder / f"{size[1]}x{size[0]}.png", size)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[size] = pool.submit(measured, run, image, folder / f"out-{size[0]}").result()
    return found


def bench() -> list[Finding]:
    """Measures, writes the result and returns it.

    Raises:
        AssertionError: If the largest image needs more than the limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = peaks(Path(folder))
    findings = [
        Finding(
            "tiling",
            f"peak memory of predicting {size[1]} x {size[0]} pixels in tiles of {TILE}, all the process",
            figure=f"{whole / 1e6:.4g} MB",
        )
        for size, (_, whole) in found.items()
    ]
    megapixels: Mapping[tuple[int, int], float] = {size: size[0] * size[1] / 1e6 for size in SIZES}
    small, large = SIZES
    growth = (found[large][1] - found[small][1]) / 1e6 / (megapixels[large] - megapixels[small])
    save(
        "tiling",
        findings,
        method=METHOD,
        data=DATA,
        tile=TILE,
        overlap=OVERLAP,
        batch_size=BATCH,
        peak_megabytes={f"{size[1]}x{size[0]}": round(whole / 1e6, 1) for size, (_, whole) in found.items()},
        added_megabytes={f"{size[1]}x{size[0]}": round(more / 1e6, 1) for size, (more, _) in found.items()},
        megabytes_a_megapixel=round(growth, 2),
        limit_megabytes=LIMIT_BYTES / 1e6,
    )
    assert found[large][1] < LIMIT_BYTES, (
        f"{found[large][1] / 1e6:.0f} MB is above {LIMIT_BYTES / 1e6:.0f} MB"
    )
    return findings
