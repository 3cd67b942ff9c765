"""What the shelf's methods share: thresholds that keep their promise, and what is held out to find them."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import pinakes
from pinakes.data import load_data
from pinakes.data.views import chosen
from pinakes.engine.plan import TrainingPlan
from pinakes.papers.anomaly.base import Detector, exceeds, normal_quantile
from pinakes.tasks.base import Batch, Prediction


class Brightness(Detector):
    """Scores images by their mean, and remembers what it was fitted on."""

    def learn(self, data, plan):  # type: ignore[no-untyped-def]
        self.seen = [str(data.train[i]["path"]) for i in range(len(data.train))]

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": batch["image"].mean((1, 2, 3))}


class OpenSetBrightness(Brightness):
    uses_anomalies = True


def test_quantile_equals_the_naive_count() -> None:
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randint(0, 20, (30,), generator=generator).float().sort().values
    scores = torch.randint(-2, 24, (50,), generator=generator).float()
    naive = torch.stack([(held_out < score).float().sum() / 31 for score in scores])
    torch.testing.assert_close(normal_quantile(scores, held_out), naive)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_false_alarms_are_no_more_frequent_than_promised(rate: float) -> None:
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(2000):
        scores = torch.tensor(rng.normal(size=40), dtype=torch.float32)
        held_out, fresh = scores[:39].sort().values, scores[39:]
        alarms.append(bool(exceeds(normal_quantile(fresh, held_out), 39, rate)))
    expected = np.floor(rate * 40) / 40
    assert np.mean(alarms) == pytest.approx(expected, abs=3 * np.sqrt(rate * (1 - rate) / 2000))


def test_with_too_few_images_only_what_exceeds_them_all_raises_an_alarm() -> None:
    quantile = normal_quantile(torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0]))
    assert exceeds(quantile, 2, 0.01).tolist() == [False, True]


def test_held_out_images_are_not_fitted_on_and_set_the_threshold() -> None:
    data = load_data("textures?size=32&n=40", task="anomaly")
    method = Brightness().fit(data, hold_out=0.25, false_alarms=0.3, seed=3)
    every = {str(data.train[i]["path"]) for i in range(40)}
    held_out = sorted(every - set(method.seen))
    assert len(held_out) == 10
    means = {str(s["path"]): float(s["image"].mean()) for s in (data.train[i] for i in range(40))}
    expected = torch.tensor(sorted(means[path] for path in held_out))
    torch.testing.assert_close(method.held_out_scores, expected)
    found = method.predict(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]))
    assert found["anomalous"].tolist() == [False, True]
    torch.testing.assert_close(found["probability"], torch.tensor([0.0, 10 / 11]))


def test_a_validation_part_sets_the_threshold_in_place_of_training_images() -> None:
    data = load_data("digits?normal=3", task="anomaly")
    method = Brightness().fit(data)
    assert len(method.seen) == len(data.train)
    assert data.val is not None
    assert len(method.held_out_scores) == len(data.val)


def test_without_images_held_out_there_is_no_decision() -> None:
    method = Brightness().fit("textures?size=32&n=40", hold_out=0)
    assert list(method.predict(torch.rand(1, 3, 32, 32))) == ["score"]


def test_few_held_out_images_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Brightness().fit("textures?size=32&n=20")
    assert "2 held-out images are too few for a false-alarm rate of 0.05; it is 0.33" in caplog.text


def test_labelled_anomalies_are_left_out_unless_the_method_learns_from_them() -> None:
    data = load_data("textures?size=32&n=120&seen=scratch&shots=3", task="anomaly")
    without, uses = (kind().fit(data, hold_out=0.1) for kind in (Brightness, OpenSetBrightness))
    assert len(without.seen) == 108
    assert len(uses.seen) == 111
    anomalous = {p for p, label in zip(data.train.paths, data.train.labels, strict=True) if label}
    assert anomalous <= set(uses.seen)


def test_thresholds_are_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    method = pinakes.create("patchcore").fit("textures?size=32&n=40", hold_out=0.5, false_alarms=0.2)
    method.save(tmp_path)
    loaded, batch = pinakes.load(tmp_path), torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.held_out_scores, method.held_out_scores)
    for name, value in method.predict(batch).items():
        assert torch.equal(loaded.predict(batch)[name], value)


def test_evaluating_on_other_classes_is_refused() -> None:
    method = pinakes.create("max-softmax").fit("digits?n=40&far=none", steps=1)
    with pytest.raises(pinakes.UserError, match="was fitted on"):
        method.evaluate("digits?n=40&unknown=0&far=none")


def test_the_classifier_is_the_same_for_the_same_seed_and_never_sees_the_unknown() -> None:
    data = load_data("digits?n=40", task="ood")
    plan = TrainingPlan(hold_out=0.2)
    method = pinakes.create("max-softmax")
    fitted, held_out = method.divide(replace(data, val=None), plan)
    assert held_out is not None
    assert len(fitted.train) + len(held_out) == len(data.train)
    assert method.divide(replace(data, val=chosen(data.train, [0])), plan)[0].train is data.train
