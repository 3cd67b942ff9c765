"""What a distillation step costs above a forward pass of the teacher and a step of the student, written bare.

Run with `python -m benchmarks distillation_step`; writes `results/bench/distillation_step.json`.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

import pinakes
from benchmarks.harness import Finding, race, save
from pinakes.nn.classifier import ImageClassifier
from pinakes.papers.distillation.base import Distiller
from pinakes.papers.distillation.classifier import LAYERS
from pinakes.tasks.base import Batch

TEACHER, STUDENT = "pinakes/tiny_conv", "pinakes/resnet8s2"
BATCH, SIDE, CLASSES = 64, 32, 10
STEPS = 20
"""Steps in one timing: enough for the clock of processor time, which counts in hundredths of a second."""
METHODS = ("dkd", "kd")
LIMIT = 1.05


def batch_of_noise() -> Batch:
    """Images and labels that follow from a seed."""
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(BATCH, 3, SIDE, SIDE, generator=generator),
        "label": torch.randint(0, CLASSES, (BATCH,), generator=generator),
    }


def distilling(slug: str, batch: Batch) -> Callable[[], float]:
    """Steps of the method as its training takes them, without the trainer."""
    info = pinakes.DataInfo(3, (SIDE, SIDE), tuple(str(i) for i in range(CLASSES)))
    method = pinakes.create(slug, teacher=TEACHER, student=STUDENT, augmentation="none").prepare(info)
    assert isinstance(method, Distiller)
    method.train()
    optimiser = method.configure_optimizers()

    def run() -> float:
        for _ in range(STEPS):
            loss = method.training_step(batch, 0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    return run


def bare(batch: Batch) -> Callable[[], float]:
    """The teacher's forward pass, and steps of the student by cross-entropy."""
    torch.manual_seed(0)
    teacher = ImageClassifier(TEACHER, CLASSES, 3, LAYERS).eval().requires_grad_(False)
    student = ImageClassifier(STUDENT, CLASSES, 3, LAYERS).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.05)

    def run() -> float:
        for _ in range(STEPS):
            with torch.no_grad():
                teacher(batch["image"])
            loss = functional.cross_entropy(student(batch["image"]), batch["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    return run


def both_learn(ours: float, peer: float) -> None:
    """Both sides train the same student; their losses differ, as they are meant to."""
    for loss in (ours, peer):
        assert 0 < loss < 100


def bench() -> list[Finding]:
    """Measures, writes the result and returns it.

    Raises:
        AssertionError: If a step costs more than the limit.
    """
    batch = batch_of_noise()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        findings = [
            race(
                "distillation_step",
                f"{STEPS} steps of {slug}, {BATCH} images of {SIDE} pixels",
                ours=distilling(slug, batch),
                peer=bare(batch),
                against="teacher's forward and student's step, bare",
                check=both_learn,
                rounds=24,
            )
            for slug in METHODS
        ]
    finally:
        torch.set_num_threads(threads)
    save("distillation_step", findings, teacher=TEACHER, student=STUDENT, limit=LIMIT)
    for finding in findings:
        assert finding.ratio is not None
        assert finding.ratio <= LIMIT, f"{finding.what}: {finding.ratio} of the bare steps"
    return findings
