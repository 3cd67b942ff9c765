import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pinakes
from pinakes.data.views import labels_of
from pinakes.engine import export
from pinakes.errors import UserError
from pinakes.lab.distilled import Distilled
from pinakes.lab.distilling import (
    default_distiller,
    distill,
    distillers,
    divided,
)
from pinakes.method import Method

DATA = "digits?n=40"
TEACHER, STUDENT = "pinakes/resnet8", "pinakes/resnet8s2"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINAKES_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def distilled(out: Path, **changes: Any) -> Distilled:
    given = {"student": STUDENT, "steps": 2, "out": out, "device": "cpu", "export": False, **changes}
    return distill(given.pop("teacher", TEACHER), given.pop("data", DATA), **given)


def test_the_student_is_a_run_beside_its_figures(tmp_path: Path) -> None:
    made = distilled(tmp_path)
    student = pinakes.load(tmp_path)
    assert student.options["student"] == STUDENT
    assert made.student.metrics == pytest.approx(student.evaluate(DATA))
    teacher = made.method.learnt_from()["teacher"]
    assert made.teacher.metrics == pytest.approx(teacher.evaluate(DATA))
    assert made.teacher.parameters == sum(each.numel() for each in teacher.parameters())
    assert made.student.state_bytes == sum(each.nbytes for each in student.state_dict().values())
    assert set(made.student.milliseconds) == {1, 16}
    assert all(value > 0 for value in made.student.milliseconds.values())
    assert json.loads((tmp_path / "distilled.json").read_text())["method"] == made.slug
    assert made.choice == ""


def test_the_ratios_are_student_over_teacher(tmp_path: Path) -> None:
    rows = {about: (teacher, student) for about, teacher, student in distilled(tmp_path).rows()}
    assert {"Accuracy", "size (MB)", "parameters", "ms an image, batch of 1"} <= set(rows)
    assert rows["size (MB)"][0] > 1e-3


def test_the_graph_names_its_classes(tmp_path: Path) -> None:
    for package in export.NEEDS["onnx"]:
        pytest.importorskip(package)
    made = distilled(tmp_path, export=True)
    assert made.exported is not None
    assert made.exported.file == tmp_path / "student.onnx"
    assert all(each.difference <= export.TOLERANCE for each in made.exported.outputs)
    stated = json.loads((tmp_path / "student.onnx.json").read_text())
    assert stated["classes"] == [str(digit) for digit in range(10)]


def test_without_the_extra_the_run_is_kept_and_the_reason_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.NEEDS, "onnx", ("no_such_package",))
    made = distilled(tmp_path, export=True)
    assert made.exported is None
    assert "pip install 'pinakes[export]'" in made.obstacle
    assert pinakes.load(tmp_path).is_built
    assert json.loads((tmp_path / "distilled.json").read_text())["obstacle"] == made.obstacle


def test_of_several_the_best_on_images_that_none_learnt_from_is_kept(tmp_path: Path) -> None:
    made = distilled(tmp_path, methods="kd,dkd")
    assert made.choice == "the 40 validation images"
    best = max(made.candidates, key=lambda each: each.value)
    assert made.slug == best.slug
    assert [each.slug for each in made.candidates] == ["kd", "dkd"]
    kept = pinakes.load(best.folder)
    assert kept.evaluate(DATA, split="val")["accuracy"] == pytest.approx(best.value)
    assert kept.evaluate(DATA) == pytest.approx(made.student.metrics)


def test_a_method_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Method, *args: Any) -> None:
        raise RuntimeError("the wheel\ncame off")

    monkeypatch.setattr(pinakes.find("kd").load(), "loss", fail)
    made = distilled(tmp_path / "some", methods="kd,dkd")
    assert made.slug == "dkd"
    assert made.candidates[0].error == "RuntimeError: the wheel came off"
    monkeypatch.setattr(pinakes.find("dkd").load(), "loss", fail)
    with pytest.raises(UserError, match="no method gave a student; the first, kd, failed: RuntimeError"):
        distilled(tmp_path / "none", methods="kd,dkd")


def test_a_request_to_end_is_not_taken_for_a_method_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_with_its_workers(self: Method, *args: Any, **settings: Any) -> None:
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("a worker was killed")

    for slug in ("kd", "dkd"):
        monkeypatch.setattr(pinakes.find(slug).load(), "fit", killed_with_its_workers)
    with pytest.raises(SystemExit):
        distilled(tmp_path, methods="kd,dkd")


def test_the_same_call_continues_and_gives_the_same(tmp_path: Path) -> None:
    first, second = distilled(tmp_path), distilled(tmp_path)
    assert first.student.metrics == second.student.metrics
    with pytest.raises(UserError, match="options: the run in"):
        distilled(tmp_path, options={"all": {"temperature": 2.0}})


def test_training_images_are_held_out_where_there_is_no_validation_part() -> None:
    data = pinakes.load_data("digits?n=100", task="classification")
    part, words = divided(replace(data, val=None))
    assert part.test is not None
    assert len(part.train) + len(part.test) == len(data.train)
    assert set(labels_of(part.test)) == set(range(10))
    assert words.startswith(f"{len(part.test)} of the 100 training images")


def test_a_run_is_a_teacher_and_gives_the_size(tmp_path: Path) -> None:
    pinakes.create("cross-entropy", student=TEACHER).fit(f"{DATA}&size=40", steps=2, out=tmp_path / "teacher")
    made = distilled(tmp_path / "out", teacher=tmp_path / "teacher")
    assert made.method.info.size == (40, 40)
    teacher = pinakes.load(tmp_path / "teacher")
    assert made.teacher.metrics == pytest.approx(teacher.evaluate(DATA))


def test_methods_that_distil_are_known_by_their_options() -> None:
    slugs = [paper.slug for paper in distillers()]
    assert {"kd", "dkd"} <= set(slugs)
    assert "cross-entropy" not in slugs
    assert default_distiller().baseline


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "kdd"}, "did you mean 'kd'"),
        ({"methods": "cross-entropy"}, "cross-entropy teaches no student"),
        ({"methods": []}, "none are given"),
        ({"student": "pinakes/resnet8s3"}, "backbone: 'pinakes/resnet8s3' is unknown"),
        ({"step": 2}, "distill has no setting 'step'"),
        ({"options": {"kd": {"teacher": "x"}}}, "kd.teacher is given already"),
        ({"options": {"kd": {"temprature": 1}}}, "did you mean 'temperature'"),
        ({"options": {"dkd": {"alpha": 1}}}, "'dkd' is not among the methods"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distilled(tmp_path / "out", **{"methods": "kd", **changes})


def test_a_folder_without_a_run_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        distilled(tmp_path / "out", teacher=tmp_path)


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    pinakes.create("cross-entropy", student=TEACHER).fit(DATA, steps=2, out=tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        distilled(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("slug", [paper.slug for paper in distillers()])
def test_every_method_that_distils_takes_a_run_as_its_teacher(slug: str, tmp_path: Path) -> None:
    pinakes.create("cross-entropy", student=TEACHER).fit(DATA, steps=1, batch_size=8).save(tmp_path)
    method = pinakes.create(slug, teacher=str(tmp_path), student=STUDENT).fit(DATA, steps=2, batch_size=8)
    assert method.learnt_from()["teacher"].options["student"] == TEACHER
