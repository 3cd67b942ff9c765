import math
from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.nn.masked_autoencoder import masking_from, patchify, unpatchify
from pinakes.papers.distillation.dmae import DMAE, feature_alignment

DATA = "digits?n=40"
SMALL = {"embed_dim": 32, "depth": 4, "teacher_dim": 64, "teacher_depth": 4, "teacher_steps": 2}
QUICK = {"steps": 4, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def ready(**options: object) -> DMAE:
    """A method about to be trained, with a teacher that was never trained."""
    method = DMAE(**{**SMALL, **options})  # type: ignore[arg-type]
    data = pinakes.load_data(DATA, task="classification")
    method.prepare(data.info)
    if method.alpha:
        method._set_teacher(method._fresh_teacher().prepare(data.info, seed=1))
    else:
        method._set_helping([])
    return method


@pytest.mark.parametrize("distance", ["L1", "L2"])
def test_alignment_is_the_formula_written_out(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for sample in range(3):
        for token in range(5):
            said, told = student[sample, token].tolist(), teacher[sample, token].tolist()
            for each in (said, told):
                length = math.sqrt(sum(value**2 for value in each))
                each[:] = [value / length for value in each]
            gaps = [abs(a - b) for a, b in zip(said, told, strict=True)]
            total += sum(gap if distance == "L1" else gap**2 for gap in gaps)
    found = feature_alignment(student, teacher, distance)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(total / (3 * 5 * 7), abs=1e-12)


def test_pretraining_is_reconstruction_plus_alpha_times_alignment() -> None:
    losses = []
    for alpha in (0.0, 1.0, 3.0):
        method = ready(alpha=alpha)
        torch.manual_seed(0)
        losses.append(method.pretraining_loss(images()).item())
    alone, once, thrice = losses
    assert once > alone
    assert thrice - alone == pytest.approx(3 * (once - alone), rel=1e-4)


def test_teacher_and_student_see_the_same_few_patches_and_no_others() -> None:
    method, image = ready(), images()
    seen: list[torch.Tensor] = []
    for network in (method.network.backbone, method._teacher[0].network.backbone):
        network.network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(3)
    expected = masking_from(torch.rand(4, 16), 0.75)
    torch.manual_seed(3)
    method.pretraining_loss(image)
    assert [tuple(tokens.shape) for tokens in seen] == [(4, 5, 32), (4, 5, 64)]
    changed = patchify(image, 8).masked_fill(expected.hidden[:, :, None], 0.0)
    before = list(seen)
    torch.manual_seed(3)
    method.pretraining_loss(unpatchify(changed, 8, (32, 32)))
    for first, second in zip(before, seen[2:], strict=True):
        assert torch.equal(first, second)


def test_the_teacher_runs_only_its_first_blocks() -> None:
    method, run = ready(), []
    for count, block in enumerate(method._teacher[0].network.backbone.network.blocks, start=1):
        block.register_forward_hook(lambda *_, count=count: run.append(count))
    method.pretraining_loss(images())
    assert run == [1, 2, 3]


def test_gradients_of_pretraining_reach_all_but_the_classifier_and_not_the_teacher() -> None:
    method = ready()
    torch.manual_seed(0)
    method.pretraining_loss(images()).backward()
    untouched = {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert untouched == {
        "network.norm.weight",
        "network.norm.bias",
        "network.head.weight",
        "network.head.bias",
    }
    assert all(p.grad is None for p in method._teacher[0].parameters())


def test_pretraining_falls_when_one_batch_is_repeated() -> None:
    method = ready()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(15):
        torch.manual_seed(0)
        loss = method.pretraining_loss(images())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


class Watched(DMAE):
    """Notes what happens in each step."""

    def __init__(self, pretraining: float = 0.5) -> None:
        super().__init__(pretraining=pretraining, embed_dim=32, depth=1, alpha=0.0)
        self.seen: list[tuple[bool, float, int]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        optimiser = self.trainer.optimizers[0]
        self.seen.append((self.pretrains, optimiser.param_groups[0]["lr"], len(optimiser.state)))
        return super().training_step(batch, batch_idx)


def test_the_first_share_of_the_steps_is_pretraining_each_stage_with_its_own_start() -> None:
    method = Watched(0.5)
    method.fit(DATA, steps=20, batch_size=8)
    assert [pretrains for pretrains, _, _ in method.seen] == [True] * 10 + [False] * 10
    rates = [rate for _, rate, _ in method.seen]
    assert rates[0] == rates[10] < 0.02 * 1e-3
    assert max(rates[:10]) == max(rates[10:]) == pytest.approx(1e-3, rel=0.1)
    assert [step for step, (_, _, kept) in enumerate(method.seen) if kept == 0] == [0, 10]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (1.0, 5)])
def test_any_share_may_be_pretraining(share: float, count: int) -> None:
    method = Watched(share)
    method.fit(DATA, steps=5, batch_size=8)
    assert sum(pretrains for pretrains, _, _ in method.seen) == count


def test_what_only_pretraining_needs_is_gone_after_it() -> None:
    method = DMAE(**SMALL).fit(DATA, **QUICK)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in method.state_dict()} == {"network"}


def test_one_teacher_is_pretrained_for_all_students(own_cache: Path) -> None:
    DMAE(**SMALL).fit(DATA, **QUICK)  # type: ignore[arg-type]
    DMAE(**SMALL, distance="L2").fit(DATA, **QUICK, seed=2)  # type: ignore[arg-type]
    assert len(list((own_cache / "fitted").iterdir())) == 1


def test_without_alignment_there_is_no_teacher(own_cache: Path) -> None:
    DMAE(**SMALL, alpha=0.0).fit(DATA, **QUICK)  # type: ignore[arg-type]
    assert not own_cache.exists() or not (own_cache / "fitted").exists()


def test_a_run_folder_is_a_teacher(tmp_path: Path) -> None:
    teacher = DMAE(alpha=0.0, pretraining=1.0, embed_dim=64).fit(DATA, **QUICK)
    teacher.save(tmp_path)
    student = DMAE(teacher=str(tmp_path), embed_dim=32).fit(DATA, **QUICK)
    found = student._teacher[0].network.backbone.state_dict()
    for name, value in teacher.network.backbone.state_dict().items():
        assert torch.equal(value, found[name]), name


def test_a_teacher_of_other_patches_or_methods_is_refused(tmp_path: Path) -> None:
    DMAE(alpha=0.0, patch=4, embed_dim=32, depth=1).fit(DATA, **QUICK).save(tmp_path / "four")
    with pytest.raises(pinakes.UserError, match="patch 4, but the student has 8"):
        DMAE(teacher=str(tmp_path / "four")).fit(DATA, **QUICK)
    pinakes.create("cross-entropy").fit(DATA, **QUICK).save(tmp_path / "other")
    with pytest.raises(pinakes.UserError, match="not of DMAE"):
        DMAE(teacher=str(tmp_path / "other")).fit(DATA, **QUICK)
    with pytest.raises(pinakes.UserError):
        DMAE(teacher=str(tmp_path / "none")).fit(DATA, **QUICK)


def test_images_that_cannot_be_cut_into_patches_are_refused_and_other_shapes_are_resized() -> None:
    with pytest.raises(pinakes.UserError, match="patch"):
        DMAE(patch=5).prepare(pinakes.DataInfo(1, (32, 32), ("a", "b")))
    method = DMAE(**SMALL).prepare(pinakes.DataInfo(1, (32, 48), ("a", "b")))  # type: ignore[arg-type]
    assert method.predict(torch.rand(2, 1, 40, 36))["probabilities"].shape == (2, 2)


def test_a_fit_of_unknown_length_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="steps"):
        DMAE(alpha=0.0, embed_dim=32, depth=1).fit(DATA, steps=10**9, batch_size=8, time_limit=5.0)


def test_a_pretrained_student_serves_as_a_teacher_of_the_shelf(tmp_path: Path) -> None:
    DMAE(alpha=0.0, embed_dim=32).fit(DATA, **QUICK).save(tmp_path)
    student = pinakes.create("kd", teacher=str(tmp_path)).fit(DATA, **QUICK)
    levels = student.taught(images()).levels  # type: ignore[attr-defined]
    assert [tuple(level.shape) for level in levels] == [(4, 32, 4, 4)] * 3


def test_images_without_a_label_are_used_for_pretraining() -> None:
    method = DMAE(**SMALL).fit(f"{DATA}&labelled=1", **QUICK)  # type: ignore[arg-type]
    assert all(torch.isfinite(parameter).all() for parameter in method.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -1.0},
        {"mask_ratio": 1.0},
        {"align_at": 0.0},
        {"pretraining": 1.5},
        {"embed_dim": 40},
        {"teacher_dim": 0},
        {"depth": 0},
        {"patch": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DMAE(**options)  # type: ignore[arg-type]
