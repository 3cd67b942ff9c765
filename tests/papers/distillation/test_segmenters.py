import inspect
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.cirkd import CIRKD
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.segmenters import (
    PixelKD,
    Segmenter,
    pixel_cross_entropy,
    pixel_divergence,
    rows_of,
)

DATA = "scenes:segmentation?size=32&n=16"
QUICK = {"steps": 2, "batch_size": 4}
INFO = pinakes.DataInfo(3, (32, 32), ("a", "b", "c"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights(method: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def test_rows_are_pixels_image_after_image() -> None:
    maps = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4).float()
    rows = rows_of(maps)
    assert torch.equal(rows[8 + 4 + 2], maps[1, :, 1, 2])


def test_divergence_is_the_formula_at_every_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 3, 4, generator=generator, dtype=torch.float64)
    expected = 0.0
    for image in range(2):
        for row in range(3):
            for column in range(4):
                told = (teacher[image, :, row, column] / 2).softmax(0)
                said = (student[image, :, row, column] / 2).softmax(0)
                expected += 4 * (told * (told / said).log()).sum() / 24
    torch.testing.assert_close(pixel_divergence(student, teacher, 2.0), expected)


def test_cross_entropy_counts_the_pixels_that_have_a_class() -> None:
    logits, semantic = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    semantic[0, :2] = -1
    expected = functional.cross_entropy(logits, semantic, ignore_index=-1)
    torch.testing.assert_close(pixel_cross_entropy(logits, semantic), expected)
    assert pixel_cross_entropy(logits, torch.full_like(semantic, -1)) == 0


@pytest.mark.parametrize("augmentation", ["shift", "flip"])
def test_an_image_and_its_classes_are_changed_alike(augmentation: str) -> None:
    semantic = torch.randint(-1, 12, (6, 32, 40))
    image = ((semantic + 1) / 12)[:, None].expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    seen, classes = Segmenter(augmentation=augmentation).augmented_pair(image, semantic)  # type: ignore[arg-type]
    assert classes.dtype == torch.int64
    assert not torch.equal(classes, semantic)
    torch.testing.assert_close(seen, ((classes + 1) / 12)[:, None].expand(-1, 3, -1, -1))


def test_a_segmenter_learns_and_predicts_at_every_pixel() -> None:
    segmenter = Segmenter().fit(DATA, steps=40, batch_size=8)
    found = segmenter.predict(pinakes.load_data(DATA, task="segmentation").train[0]["image"])
    torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(1, 32, 32))
    assert torch.equal(found["semantic"], found["probabilities"].argmax(1))
    untrained = Segmenter().fit(DATA, steps=1, batch_size=8)
    assert segmenter.evaluate(DATA)["miou"] > untrained.evaluate(DATA)["miou"]


def test_pixelwise_distillation_is_the_sum_of_its_terms() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8)
    semantic = torch.randint(-1, 3, (2, 8, 8))
    found = PixelKD(temperature=3.0, weight=0.5).loss(Answer([], student), Answer([], teacher), semantic)
    expected = pixel_cross_entropy(student, semantic) + 0.5 * pixel_divergence(student, teacher, 3.0)
    torch.testing.assert_close(found, expected)


def test_a_teacher_is_trained_once_for_all_methods_of_segmentation(own_cache: Path) -> None:
    first = PixelKD().fit(DATA, **QUICK).learnt_from()["teacher"]
    second = CIRKD().fit(DATA, **QUICK, seed=3).learnt_from()["teacher"]
    assert len(list((own_cache / "fitted").iterdir())) == 1
    assert isinstance(first, Segmenter)
    assert torch.equal(weights(first), weights(second))


def test_a_teacher_fitted_in_another_size_answers_in_the_size_of_the_images(tmp_path: Path) -> None:
    data = DATA.replace("size=32", "size=48")
    CIRKD(student="pinakes/resnet20s2", teacher_steps=1).fit(data, **QUICK).save(tmp_path)
    student = CIRKD(teacher=str(tmp_path)).fit(DATA, **QUICK)
    found = student.taught(torch.rand(2, 3, 32, 32))
    assert found.logits.shape == (2, 12, 32, 32)
    assert found.levels[0].shape == (2, 16, 24, 24)


def test_a_teacher_that_names_no_pixels_is_refused(tmp_path: Path) -> None:
    samples = [{"image": torch.rand(3, 32, 32), "label": torch.tensor(i % 3)} for i in range(4)]
    pinakes.create("cross-entropy").fit((samples, INFO), steps=1).save(tmp_path)
    dense = [{"image": s["image"], "semantic": torch.randint(3, (32, 32))} for s in samples]
    with pytest.raises(pinakes.UserError, match="of this shelf for segmentation"):
        PixelKD(teacher=str(tmp_path)).fit((dense, INFO), **QUICK)


def test_shared_options_are_options_of_every_segmentation_method() -> None:
    assert list(inspect.signature(PixelKD).parameters) == [
        "temperature",
        "weight",
        "teacher",
        "teacher_steps",
        "student",
        "learning_rate",
        "augmentation",
        "keep_answers",
    ]
    assert "teacher_steps:" in (PixelKD.__doc__ or "")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"weight": -1.0}, {"learning_rate": 0.0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        PixelKD(**options)
