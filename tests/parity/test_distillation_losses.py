"""Losses of the shelf distillation against torchdistill's and MMRazor's.

MMRazor's file of losses is read alone: the rest of the package asks for versions of other libraries that no longer
install.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.dkd import decoupled_distillation


def some(rows: int, width: int, seed: int) -> Tensor:
    return 3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def razor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads one file of MMRazor's losses by name, with a registry that registers nothing."""
    found = importlib.util.find_spec("mmrazor")
    if found is None or found.origin is None:
        pytest.skip("mmrazor is not here")
    losses = Path(found.origin).parent / "models" / "losses"

    class Registry:
        def register_module(self) -> Any:
            return lambda cls: cls

    registry = ModuleType("mmrazor.registry")
    registry.MODELS = Registry()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmrazor", ModuleType("mmrazor"))
    monkeypatch.setitem(sys.modules, "mmrazor.registry", registry)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"razor_{name}", losses / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize(
    ("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (1.0, 0.0, 1.0), (0.0, 2.0, 2.0)]
)
def test_dkd(razor: Any, alpha: float, beta: float, temperature: float) -> None:
    student, teacher = some(12, 7, 0), some(12, 7, 1)
    label = torch.arange(12) % 7
    theirs = razor("decoupled_kd").DKDLoss(tau=temperature, alpha=alpha, beta=beta)
    expected = theirs(student, teacher, label)
    found = decoupled_distillation(student, teacher, label, alpha, beta, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_kd() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is not here")
    student, teacher = some(12, 7, 0), some(12, 7, 1)
    label = torch.arange(12) % 7
    theirs = losses.KDLoss("logits", "output", "logits", "output", temperature=4.0, alpha=0.1)
    expected = theirs({"logits": {"output": student}}, {"logits": {"output": teacher}}, label)
    found = 0.1 * functional.cross_entropy(student, label) + 0.9 * distillation_divergence(
        student, teacher, 4.0
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
