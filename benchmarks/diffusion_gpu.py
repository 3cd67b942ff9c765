"""Training steps and samples of DDPM on a GPU: in half precision, and translated by `torch.compile`, against neither.

Every way is timed in turn with the plain one, on the wall, until the GPU is done. All take the same images; that a way
learns the same is made certain by its loss on one batch, with the same noise, before it is timed.

Run with `python -m benchmarks diffusion_gpu`; writes `results/bench/diffusion_gpu.json`, but not without a GPU.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Clocks, Finding, race, save
from pinakes.data.base import DataInfo
from pinakes.engine.compiling import compiled
from pinakes.papers.diffusion.ddpm import DDPM

NAME = "diffusion_gpu"
OPTIONS: dict[str, Any] = {
    "n_channels": 64,
    "ch_mults": (1, 2, 2),
    "sampling_steps": 25,
    "dropout": 0.0,
    "classes": False,
}
DEVICE, SIDE, CHANNELS = "cuda", 32, 3
BATCH, SAMPLES = 128, 64
STEPS, ROUNDS = 20, 9
"""Steps in one timing, and pairs of timings, after one that is not counted, in which networks are translated."""
CLOSE = 0.02
"""By how much, in proportion, a loss may differ: half precision keeps 8 bits of a number."""


class Way(NamedTuple):
    """How the network is run."""

    half: bool
    translated: bool

    def described(self) -> str:
        """In words."""
        return " and ".join(["bf16"] * self.half + ["torch.compile"] * self.translated) or "fp32"


PLAIN = Way(half=False, translated=False)
WAYS = (Way(True, False), Way(False, True), Way(True, True))


class Side:
    """A method on the GPU that takes training steps and makes samples in one way."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.method = DDPM(**OPTIONS).prepare(DataInfo(CHANNELS, (SIDE, SIDE)), seed=0).to(DEVICE)
        if way.translated:
            compiled(self.method)
        self.optimiser = torch.optim.Adam(self.method.network.parameters(), lr=1e-4)
        self.clean = torch.rand(BATCH, CHANNELS, SIDE, SIDE, device=DEVICE) * 2 - 1

    def precision(self) -> Any:
        """The context of the way."""
        return torch.autocast(DEVICE, torch.bfloat16) if self.way.half else nullcontext()

    def loss(self) -> Tensor:
        """Of the same images and noise every time, if the generator of numbers is at the same place."""
        with self.precision():
            return self.method.loss(self.clean, None)

    def steps(self) -> None:
        """Takes training steps."""
        self.method.train()
        for _ in range(STEPS):
            loss = self.loss()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        torch.cuda.synchronize()

    def samples(self) -> None:
        """Makes images."""
        self.method.eval()
        with torch.no_grad(), self.precision():
            self.method.sample(SAMPLES, seed=0)
        torch.cuda.synchronize()


def check(side: Side, plain: Side) -> None:
    """Makes sure that both have the same loss with the same weights.

    Raises:
        AssertionError: If they have not.
    """
    side.method.load_state_dict(plain.method.state_dict())
    losses = []
    for each in (side, plain):
        torch.manual_seed(1)
        each.clean = plain.clean
        losses.append(float(each.loss().detach()))
    assert abs(losses[0] - losses[1]) <= CLOSE * losses[1], f"the losses of one batch differ: {losses}"


def walled(run: Callable[[], None]) -> Clocks:
    """How long a call takes on the wall, which is what a GPU's time is here."""
    started = time.perf_counter()
    run()
    wall = time.perf_counter() - started
    return Clocks(wall, wall)


def bench() -> list[Finding]:
    """Measures each way against the plain one."""
    if not torch.cuda.is_available():
        return [Finding(NAME, "training steps and samples", skipped="this machine has no CUDA device")]
    plain = Side(PLAIN)
    findings = []
    for way in WAYS:
        side = Side(way)
        for what, ours, theirs in (
            (f"{STEPS} training steps of {BATCH} images", side.steps, plain.steps),
            (f"{SAMPLES} samples", side.samples, plain.samples),
        ):
            findings.append(
                race(
                    NAME,
                    f"{what}, {way.described()}",
                    ours=ours,
                    peer=theirs,
                    against=PLAIN.described(),
                    check=lambda *_, side=side: check(side, plain),
                    rounds=ROUNDS,
                    clock=walled,
                )
            )
    save(NAME, findings, device=torch.cuda.get_device_name())
    return findings
