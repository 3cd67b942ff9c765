"""The checks of `pinakes doctor`: each says what it found and, where that is not enough, the remedy."""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "broken"]
DISTRIBUTION = "pinakes"
REINSTALL = "install pinakes again: pip install --force-reinstall pinakes"


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: What was looked at.
        state: "ok", "missing" (optional, and not there) or "broken" (essential).
        found: What was found.
        remedy: What to do, or an empty string.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def check_everything() -> list[Check]:
    """Runs all checks; one that fails in a way not foreseen is itself a broken finding."""
    groups = (check_versions, check_extras, check_hardware, check_folders, check_weights, check_training)
    return [check for group in groups for check in _guarded(group)]


def _guarded(group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from group()
    except Exception as error:
        name = group.__name__.removeprefix("check_")
        yield Check(name, "broken", f"{type(error).__name__}: {error}", REINSTALL)


def check_versions() -> Iterator[Check]:
    """Pinakes, Python and what Pinakes needs."""
    import pinakes

    yield Check("pinakes", "ok", pinakes.__version__)
    yield Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name, minimum in _requirements(extra=None):
        yield _installed(name, minimum, essential=True, remedy=f"pip install '{name}>={minimum}'")


def check_extras() -> Iterator[Check]:
    """What the optional extras bring."""
    extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for extra in extras:
        if extra in {"test", "lint"}:
            continue
        for name, minimum in _requirements(extra):
            yield _installed(name, minimum, essential=False, remedy=f"pip install 'pinakes[{extra}]'")


def check_hardware() -> Iterator[Check]:
    """Cores, memory and CUDA devices."""
    import torch

    yield Check("CPU", "ok", f"{_cores()} cores, torch uses {torch.get_num_threads()} threads")
    if memory := _memory():
        low = memory < 2 * 2**30
        remedy = "close other programs, or use a smaller --size and --batch-size" if low else ""
        yield Check("memory", "missing" if low else "ok", f"{memory / 2**30:.1f} GiB", remedy)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            torch.zeros(1, device=f"cuda:{index}").add_(1).cpu()
            yield Check(f"cuda:{index}", "ok", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda:
        yield Check(
            "CUDA", "missing", "torch finds no device", "without a GPU all is well; else check its driver"
        )
    else:
        yield Check(
            "CUDA", "missing", "torch was built without it", "for a GPU, install torch from pytorch.org"
        )


def check_folders() -> Iterator[Check]:
    """Whether caches and temporary files can be written."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from torch.hub import get_dir

    from pinakes.data.inspection import cache_folder

    yield _writable("cache of Pinakes", cache_folder(), "set PINAKES_CACHE to a folder that you may write")
    yield _writable("cache of timm weights", Path(HF_HUB_CACHE), "set HF_HOME to a folder that you may write")
    yield _writable("cache of torch", Path(get_dir()), "set TORCH_HOME to a folder that you may write")
    yield _writable(
        "temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that you may write"
    )


def check_weights() -> Iterator[Check]:
    """Whether the embedded backbones load and answer."""
    import torch

    from pinakes.nn.backbones import EMBEDDED, FeatureExtractor

    for name in EMBEDDED:
        try:
            levels = FeatureExtractor(name, layers=(1,))(torch.rand(1, 3, 32, 32))
        except Exception as error:
            yield Check(name, "broken", f"{type(error).__name__}: {error}", REINSTALL)
        else:
            finite = all(bool(level.isfinite().all()) for level in levels)
            yield Check(name, "ok" if finite else "broken", "loads and answers" if finite else "answers NaN")


def check_training() -> Iterator[Check]:
    """Whether Lightning trains one step here."""
    import torch
    from lightning import LightningModule, Trainer
    from torch.utils.data import DataLoader

    class Line(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = self.layer(batch).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Line(), DataLoader(torch.rand(4, 2), batch_size=4))  # type: ignore[arg-type]  # a tensor is a map-style set
    yield Check("training", "ok", f"Lightning trains a step on {trainer.strategy.root_device}")


def _requirements(extra: str | None) -> Iterator[tuple[str, str]]:
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        found = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement)
        if found and (wanted[1] if wanted else None) == extra:
            yield found[1], found[2]


def _installed(name: str, minimum: str, *, essential: bool, remedy: str) -> Check:
    lacking: State = "broken" if essential else "missing"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, lacking, "not installed", remedy)
    if _numbers(version) < _numbers(minimum):
        return Check(name, lacking, f"{version}, older than {minimum}", remedy)
    return Check(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _writable(name: str, folder: Path, remedy: str) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check(name, "ok", str(folder))
    except OSError as error:
        return Check(name, "broken", f"{folder} cannot be written ({error.strerror})", remedy)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
