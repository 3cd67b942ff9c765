"""How fast scenes are drawn from their seeds and rendered: image, depth, normal and instance, with soft shadows.

    python -m benchmarks.scenes_rendering

Batches of 32 different scenes; the wall clock tells what this machine gives now, the processor's clock what one core
gives when nothing else runs. Growth with pixels and things is the ratio of times per scene.
"""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Finding
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.camera import Cameras
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution
from pinakes.scenes.renderer import render

RESULT = Path(__file__).parents[1] / "results" / "bench" / "scenes_rendering.json"
OUTPUTS = ("image", "depth", "normal", "instance")
BATCH = 32
SETTINGS = (
    {"size": 64, "things": 5, "antialias": False},
    {"size": 64, "things": 5, "antialias": True},
    {"size": 128, "things": 5, "antialias": False},
    {"size": 64, "things": 10, "antialias": False},
)


def measure(size: int, things: int, antialias: bool, device: str, rounds: int) -> dict[str, float]:
    """Median time of a scene, drawing and rendering, over batches of different scenes after one that warms up."""
    distribution = Distribution(things=(things, things), spread=max(1.75, 0.8 * things**0.5))
    walls, processors = [], []
    for number in range(rounds + 1):
        wall, processor = time.perf_counter(), time.process_time()
        drawn = [draw_scene(np.random.default_rng([number, i]), distribution) for i in range(BATCH)]
        cameras = Cameras.of([scene.camera for scene in drawn], size, size).to(device)
        out = render(batch_scenes(drawn).to(device), cameras, OUTPUTS, antialias=antialias)
        out["image"].sum().item()
        walls.append((time.perf_counter() - wall) / BATCH)
        processors.append((time.process_time() - processor) / BATCH)
    return {
        "scenes_a_second": round(1 / statistics.median(walls[1:]), 1),
        "scenes_a_second_of_a_core": round(1 / statistics.median(processors[1:]), 1),
        "milliseconds_of_a_core_a_scene": round(1000 * statistics.median(processors[1:]), 2),
    }


def main(
    rounds: int = 15, device: str | None = None, threads: int = 1, result: Path = RESULT
) -> dict[str, Any]:
    """Measures every setting and writes the figures.

    Args:
        rounds: Timed batches of each setting.
        device: Where to render; by default the GPU if there is one.
        threads: Threads of this process; a data loader gives each of its workers one.
        result: The file to write.
    """
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = [setting | measure(**setting, device=device, rounds=rounds) for setting in SETTINGS]
    cost = [row["milliseconds_of_a_core_a_scene"] for row in rows]
    figures: dict[str, Any] = {
        "what": "scenes drawn from their seeds and rendered; image, depth, normal, instance, soft shadows",
        "settings": rows,
        "growth_with_4_times_the_pixels": round(cost[2] / cost[0], 2),
        "growth_with_twice_the_things": round(cost[3] / cost[0], 2),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def bench() -> list[Finding]:
    """Measures, and returns the scenes a second of each setting."""
    figures = main()
    return [
        Finding(
            "scenes_rendering",
            ", ".join(f"{name} {row[name]}" for name in SETTINGS[0]),
            figure=f"{row['scenes_a_second']} scenes a second",
        )
        for row in figures["settings"]
    ]


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
