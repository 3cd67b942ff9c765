from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import pinakes
from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.method import Method
from pinakes.nn.finetuning import some_of_each_class
from pinakes.nn.patch_probes import PatchProbes, patch_classes
from pinakes.tasks.base import Batch, Prediction, to_pixels
from pinakes.tasks.representation import TASK, feature_colours


class Looks(Method):
    """Its embedding is the image, averaged to 4 x 4; its features are the image's channels."""

    task_name = "representation"

    def encode(self, image: Tensor) -> Prediction:
        small = torch.nn.functional.adaptive_avg_pool2d(image, 4)
        return {"embedding": small.flatten(1), "features": image}

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return self.encode(batch["image"])

    def learn(self, data: TaskData, plan: Any) -> None:
        self.seen = [set(data.train[0])]


def test_embeddings_are_judged_as_scikit_learn_judges_them() -> None:
    data = load_data("digits?n=300", task="representation")
    method = Looks().fit(data)
    found = method.evaluate(data)

    def seen(part: Any) -> tuple[np.ndarray, list[int]]:
        images = torch.stack([part[i]["image"] for i in range(len(part))])
        return method.encode(images)["embedding"].numpy(), [int(part[i]["label"]) for i in range(len(part))]

    (known, label), (asked, truth) = seen(data.train), seen(data.test)
    scaler = StandardScaler().fit(known)
    other = LogisticRegression(tol=1e-8, max_iter=5000).fit(scaler.transform(known), label)
    assert found["linear_probe"] == pytest.approx(other.score(scaler.transform(asked), truth), abs=1e-9)
    assert list(found) == ["linear_probe", "knn"]


def test_probes_are_fitted_on_training_images_with_a_label_only() -> None:
    data = load_data("digits?n=80", task="representation")
    pairs = [dict(data.train[i]) for i in range(len(data.train))]
    for sample in pairs[::2]:
        sample["label"] = torch.tensor(-1)
    test = [data.test[i] for i in range(len(data.test))]
    info = data.info
    half = TASK.arrange(TaskData("half", "made", train=pairs, test=test, info=info))
    less = TASK.arrange(TaskData("less", "made", train=pairs[1::2], test=test, info=info))
    method = Looks().fit(less)
    assert method.evaluate(half) == method.evaluate(less)


def test_data_without_truth_can_be_learnt_from_but_not_judged_on() -> None:
    plain = [{"image": torch.rand(3, 16, 16)} for _ in range(4)]
    method = Looks().fit((plain, DataInfo(3, (16, 16))))
    assert method.predict(torch.rand(2, 3, 16, 16))["embedding"].shape == (2, 48)
    with pytest.raises(pinakes.UserError, match="needs the class of each test image"):
        method.evaluate((plain, DataInfo(3, (16, 16))))


def test_the_training_part_cannot_be_judged_on() -> None:
    data = load_data("digits?n=40", task="representation")
    with pytest.raises(pinakes.UserError, match="judge on the test or validation part"):
        Looks().fit(data).evaluate(data, split="train")


def test_finetuning_is_done_where_the_spec_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.nn.finetuning.STEPS", 2)
    found = Looks().fit("digits?n=40").evaluate("digits?n=40&finetune=100,1")
    assert list(found) == ["linear_probe", "knn", "finetune_1", "finetune_100"]
    with pytest.raises(pinakes.UserError, match="finetune must be some of 1, 10, 100, got '5'"):
        load_data("digits?n=40&finetune=5", task="representation")


def test_finetuning_leaves_the_method_as_it_is_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.nn.finetuning.STEPS", 60)
    method = pinakes.create("random-weights").fit("digits?n=40")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    found = method.evaluate("digits?n=200&finetune=100")
    assert found["finetune_100"] > 0.3
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_some_of_each_class_are_the_same_ones_every_time() -> None:
    part = [{"label": torch.tensor(i % 3 - (i > 20))} for i in range(30)]
    labels = [int(part[i]["label"]) for i in some_of_each_class(part, 2, 0.5)]  # type: ignore[arg-type]
    counts = [sum(int(each["label"]) == c for each in part) for c in (0, 1)]
    assert [labels.count(0), labels.count(1)] == [round(count / 2) for count in counts]
    first, second = (some_of_each_class(part, 2, 0.001) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert len(first) == 2


def test_a_patch_has_the_share_of_each_class_among_its_pixels_that_have_one() -> None:
    semantic = torch.tensor([[[0, 0, 1, -1], [2, 0, -1, -1]]])
    found = patch_classes(semantic, 3, (1, 2))
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.75, 0.0, 0.25]))
    torch.testing.assert_close(found[0, :, 0, 1], torch.tensor([0.0, 1.0, 0.0]))
    assert patch_classes(torch.full((1, 2, 2), -1), 3, (1, 1)).sum() == 0


def test_pixels_are_read_from_features_that_show_them() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        semantic = torch.randint(3, (4, 4, 4), generator=generator)
        depth = torch.rand(4, 4, 4, generator=generator) + 0.5
        features = torch.cat(
            [torch.nn.functional.one_hot(semantic, 3).movedim(-1, 1), depth.log()[:, None]], 1
        )
        batches.append(
            ({"image": torch.rand(4, 3, 4, 4), "semantic": semantic, "depth": depth}, {"features": features})
        )
    probes = PatchProbes(3)
    for batch, prediction in batches[:3]:
        probes.learn(batch, prediction)
    probes.fit()
    probes.judge(*batches[3])
    found = probes.metrics()
    assert found["linear_miou"] == 1
    assert found["depth_error"] < 0.02


def test_made_scenes_are_judged_by_pixels() -> None:
    semantic = Looks().fit("scenes:segmentation?size=32&n=8")
    assert list(semantic.evaluate("scenes:segmentation?size=32&n=8")) == ["linear_miou"]
    assert 0 < semantic.evaluate("scenes:segmentation?size=32&n=8")["linear_miou"] <= 1
    assert list(Looks().fit("scenes:depth?size=32&n=8").evaluate("scenes:depth?size=32&n=8")) == [
        "depth_error"
    ]


def test_colours_are_the_first_three_components() -> None:
    generator = torch.Generator().manual_seed(0)
    features = (
        torch.randn(8, 20, 20, generator=generator) * torch.tensor([9.0, 5, 3, 1, 1, 1, 1, 1])[:, None, None]
    )
    _, components, low, high = feature_colours([features[:, :10], features[:, 10:]])
    assert components.abs().argmax(0).tolist() == [0, 1, 2]
    assert (components.gather(0, components.abs().argmax(0)[None]) > 0).all()
    assert (low < high).all()


def test_features_are_drawn_on_one_scale_and_embeddings_without_them_as_bars() -> None:
    sample = {"image": torch.rand(3, 16, 16), "label": torch.tensor(0)}
    predictions = [{"embedding": torch.rand(6), "features": torch.rand(6, 4, 4)} for _ in range(2)]
    (panel,) = TASK.draw_prediction(sample, predictions[0], TASK.scale(predictions))
    assert panel.image.shape == (16, 16, 3)
    (bars,) = TASK.draw_prediction(sample, {"embedding": torch.rand(40)}, TASK.scale([]))
    assert bars.image.shape == (10, 40, 3)
    painted = predictions[0] | {"shown": torch.rand(3, 16, 16), "reconstruction": torch.rand(3, 16, 16)}
    assert [each.caption for each in TASK.draw_prediction(sample, painted)][1:] == ["shown", "painted"]


def test_the_nearest_training_images_are_drawn() -> None:
    data = load_data("digits?n=40&size=16", task="representation")
    seen = {}

    def observe(start: int, batch: dict[str, Any], prediction: dict[str, Any]) -> None:
        for row, found in enumerate(prediction["neighbours"]):
            seen[start + row] = found

    method = Looks().fit(data)
    TASK.evaluate(method, data.test, observe=observe)
    assert sorted(seen) == list(range(len(data.test)))
    known, asked = (
        method.predict(torch.stack([part[index]["image"] for index in range(len(part))]))["embedding"]
        for part in (data.train, data.test)
    )
    similar = torch.nn.functional.cosine_similarity(asked[:, None], known[None], dim=2)
    assert [found.places for found in seen.values()] == [
        tuple(row) for row in similar.topk(4).indices.tolist()
    ]
    panel = seen[0].panel()
    assert panel.image.shape == (32, 32, 3)
    corner = data.train[seen[0].places[0]]["image"]
    np.testing.assert_array_equal(panel.image[:16, :16], to_pixels(corner))
