from pathlib import Path

import pytest
import torch
from torch import Tensor

import pinakes
from pinakes.papers.distillation import teacher as teachers
from pinakes.papers.distillation.classifier import Answer, Classifier
from pinakes.papers.distillation.crd import CRD
from pinakes.papers.distillation.kd import KD
from pinakes.papers.distillation.patient_consistent import PatientConsistent
from pinakes.papers.distillation.segmenters import PixelKD
from pinakes.papers.distillation.ssld import SSLD

DATA = "digits?n=40"
LONG = {"steps": 9, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teacher was asked of, call by call."""
    counts = []

    def counted(teacher: Classifier, image: Tensor) -> Answer:
        counts.append(len(image))
        return teachers.answered(teacher, image)

    monkeypatch.setattr("pinakes.papers.distillation.base.answered", counted)
    return counts


@pytest.mark.parametrize("method", [KD, CRD, SSLD])
def test_a_teacher_whose_answers_are_kept_teaches_the_same_and_is_asked_once(
    method: type[KD], asked: list[int]
) -> None:
    options = {"augmentation": "none", "teacher_steps": 2}
    plain = method(**options).fit(DATA, **LONG)
    without = sum(asked)
    asked.clear()
    keeping = method(**options, keep_answers=True).fit(DATA, **LONG)
    images = len(pinakes.load_data(DATA, task="classification").train)
    assert sum(asked) <= images < without
    for ours, theirs in zip(keeping.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_answers_of_pixels_are_kept_too(asked: list[int]) -> None:
    data = "scenes:segmentation?size=32&n=20"
    PixelKD(augmentation="none", teacher_steps=1, keep_answers=True).fit(data, steps=6, batch_size=8)
    assert 0 < sum(asked) <= 20


@pytest.mark.parametrize("method", [KD, PatientConsistent])
def test_answers_are_not_kept_of_images_that_change(method: type[KD]) -> None:
    with pytest.raises(pinakes.UserError, match=r"keep_answers: .*in another way each time"):
        method(keep_answers=True)


def test_fixed_views_of_function_matching_can_be_kept(asked: list[int]) -> None:
    matching = PatientConsistent(views="fixed", augmentation="none", teacher_steps=1, keep_answers=True)
    matching.fit(DATA, **LONG)
    assert 0 < sum(asked) <= 40
