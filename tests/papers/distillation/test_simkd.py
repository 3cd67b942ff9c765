import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import pinakes
from pinakes.papers.distillation.classifier import Answer, Classifier
from pinakes.papers.distillation.kd import KD
from pinakes.papers.distillation.simkd import Projector, SimKD, feature_alignment

DATA = "digits?n=40"
QUICK = {"steps": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def info() -> pinakes.DataInfo:
    return pinakes.load_data(DATA, task="classification").info


def learnt(**options: object) -> SimKD:
    return SimKD(**{"teacher_steps": 2, **options}).fit(DATA, **QUICK)  # type: ignore[arg-type]


def same_predictions(one: pinakes.Method, other: pinakes.Method) -> bool:
    image = torch.rand(3, one.info.channels, 32, 32, generator=torch.Generator().manual_seed(0))
    return torch.equal(one.predict(image)["probabilities"], other.predict(image)["probabilities"])


def test_alignment_is_the_mean_of_squares_with_the_larger_map_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    total = 0.0
    for image in range(2):
        for channel in range(3):
            for row in range(2):
                for column in range(2):
                    places = [
                        student[image, channel, 2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1)
                    ]
                    total += (sum(places) / 4 - teacher[image, channel, row, column]).item() ** 2
    assert feature_alignment(student, teacher).item() == pytest.approx(total / 24, abs=1e-12)
    assert feature_alignment(teacher, student).item() == pytest.approx(total / 24, abs=1e-12)


def test_gradients_of_the_alignment_are_those_of_finite_differences() -> None:
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: feature_alignment(s, teacher), student)


def test_projector_has_the_layers_of_the_authors_code() -> None:
    def block(inputs: int, outputs: int, size: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, size, padding="same", bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    expected = nn.Sequential(*block(6, 5, 1), *block(5, 5, 3), *block(5, 10, 1))
    projector = Projector(6, 10, reduction=2)
    projector.load_state_dict(expected.state_dict())
    features = torch.randn(4, 6, 3, 3)
    torch.testing.assert_close(projector(features), expected(features))
    assert (Projector(6, 10, rectify=False)(features) < 0).any()


def test_the_answer_is_the_teachers_classifier_on_the_pooled_projection() -> None:
    student = learnt()
    teacher = student.learnt_from()["teacher"]
    assert isinstance(teacher, Classifier)
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        features = student.network.backbone.backbone(image)[-1]  # type: ignore[operator]
        projected = student.network.backbone.projector(features)  # type: ignore[operator]
        head = teacher.network.head
        logits = projected.flatten(2).mean(2) @ head.weight.T + head.bias
    torch.testing.assert_close(student.predict(image)["probabilities"], logits.softmax(1))


def test_where_the_features_agree_the_student_answers_as_the_teacher() -> None:
    student = learnt()
    teacher = student.learnt_from()["teacher"]
    told = student.taught(torch.rand(3, 3, 32, 32))
    assert isinstance(teacher, Classifier)
    torch.testing.assert_close(student.network.read(told.levels[-1]), told.logits)
    assert student.loss(told, told, torch.zeros(3, dtype=torch.long)) == 0


def test_labels_and_logits_play_no_part(info: pinakes.DataInfo) -> None:
    method = SimKD().prepare(info)
    levels = [torch.rand(2, 384, 4, 4)]
    told = Answer([torch.rand(2, 384, 2, 2)], torch.rand(2, 10))
    first = method.loss(Answer(levels, torch.rand(2, 10)), told, torch.tensor([0, 1]))
    second = method.loss(Answer(levels, torch.rand(2, 10)), told, torch.tensor([-1, -1]))
    assert first == second


def test_training_changes_the_projector_and_leaves_the_classifier() -> None:
    student = learnt()
    start = SimKD().prepare(student.info, seed=0)
    teacher = student.learnt_from()["teacher"]
    assert isinstance(teacher, Classifier)
    assert torch.equal(student.network.head.weight, teacher.network.head.weight)
    assert not student.network.head.weight.requires_grad
    changed = dict(student.network.backbone.named_parameters())
    for name, before in start.network.backbone.named_parameters():
        assert not torch.equal(before, changed[name]), name


def test_joint_training_has_a_classifier_of_its_own_and_learns_labels() -> None:
    student = learnt(reuse=False)
    teacher = student.learnt_from()["teacher"]
    assert isinstance(teacher, Classifier)
    assert not torch.equal(student.network.head.weight, teacher.network.head.weight)
    features = [torch.rand(2, 384, 2, 2)]
    said = Answer(features, torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    found = student.loss(said, Answer(features, said.logits), torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor(2.0).log())


def test_parameters_are_those_of_student_projector_and_classifier() -> None:
    student = learnt()
    counted = sum(each.numel() for each in student.parameters())
    alone = sum(each.numel() for each in Classifier().prepare(student.info).network.backbone.parameters())
    projector = 64 * 48 + 48 * 48 * 9 + 48 * 384 + 2 * (48 + 48 + 384)
    assert counted == alone + projector + 384 * 10 + 10


def test_the_run_of_a_named_teacher_is_loaded_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = learnt()
    student.save(tmp_path / "student")
    assert student.options["teacher_width"] == 384
    assert student.options["rectify"] is True

    def refuse(*_: object) -> None:
        raise AssertionError("the teacher was asked for")

    monkeypatch.setattr(SimKD, "_fresh_teacher", refuse)
    assert same_predictions(student, pinakes.load(tmp_path / "student"))


def test_the_run_of_a_teacher_in_a_folder_is_loaded_where_the_folder_is_gone(tmp_path: Path) -> None:
    teacher = pinakes.create("cross-entropy", student="pinakes/resnet20s2").fit(DATA, **QUICK)
    teacher.save(tmp_path / "teacher")
    student = learnt(teacher=str(tmp_path / "teacher"))
    assert student.options["teacher_width"] == 64
    assert isinstance(teacher, Classifier)
    assert torch.equal(student.network.head.weight, teacher.network.head.weight)
    student.save(tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher")
    assert same_predictions(student, pinakes.load(tmp_path / "student"))


def test_a_student_of_this_kind_teaches_others_of_any_kind(tmp_path: Path) -> None:
    teacher = learnt(teacher="pinakes/resnet8s2")
    teacher.save(tmp_path)
    student = learnt(teacher=str(tmp_path))
    assert torch.equal(student.network.head.weight, teacher.network.head.weight)
    told = student.taught(torch.rand(2, 3, 32, 32))
    assert [level.shape[1] for level in told.levels] == teacher.network.backbone.widths
    assert KD(teacher=str(tmp_path)).fit(DATA, **QUICK).is_built


def test_a_vision_transformer_can_be_teacher_and_student() -> None:
    taught = learnt(teacher="pinakes/tiny_vit")
    assert taught.options["rectify"] is False
    assert learnt(student="pinakes/tiny_vit", teacher="pinakes/resnet8s2").options["rectify"] is True


def test_settling_options_does_not_change_what_comes_out() -> None:
    first = learnt()
    again = SimKD(**first.options).fit(DATA, **QUICK)
    assert same_predictions(first, again)


@pytest.mark.slow
def test_a_student_learns_in_two_processes() -> None:
    student = SimKD(teacher_steps=2).fit(DATA, **QUICK, devices=2, device="cpu")
    teacher = student.learnt_from()["teacher"]
    assert isinstance(teacher, Classifier)
    assert torch.equal(student.network.head.weight, teacher.network.head.weight)
    assert all(torch.isfinite(each).all() for each in student.parameters())


def test_a_run_that_was_cut_short_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    SimKD(teacher_steps=2).fit(DATA, steps=2, batch_size=8, out=tmp_path)
    resumed = SimKD(teacher_steps=2).fit(DATA, steps=4, batch_size=8, out=tmp_path, resume=True)
    assert same_predictions(resumed, pinakes.load(tmp_path))


def test_grey_images_will_do() -> None:
    student = SimKD(teacher_steps=1).fit(f"{DATA}&channels=1", **QUICK)
    assert student.predict(torch.rand(2, 1, 32, 32))["label"].shape == (2,)


def test_a_width_that_is_not_the_teachers_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="teacher_width: is 32, but the teacher's is 384"):
        learnt(teacher_width=32)


def test_a_teacher_with_another_way_to_its_answer_is_refused(info: pinakes.DataInfo) -> None:
    class Doubled(Classifier):
        def answers(self, image: torch.Tensor) -> Answer:
            found = super().answers(image)
            return Answer(found.levels, 2 * found.logits)

    method = SimKD().prepare(info)
    with pytest.raises(pinakes.UserError, match="teacher: Doubled"):
        method._set_teacher(Doubled().prepare(info))


@pytest.mark.parametrize("options", [{"reduction": 0}, {"teacher_width": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, int]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SimKD(**options)  # type: ignore[arg-type]


def test_a_reduction_that_leaves_nothing_is_refused(info: pinakes.DataInfo) -> None:
    with pytest.raises(pinakes.UserError, match="reduction: expected at most the teacher's width of 384"):
        SimKD(reduction=385).prepare(info)
