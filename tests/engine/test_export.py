import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from pinakes.cli.app import app
from pinakes.data.base import DataInfo
from pinakes.engine import export as exporting
from pinakes.engine.export import difference_of, export
from pinakes.errors import UserError
from pinakes.method import Method

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
INFO = DataInfo(channels=3, size=(16, 12))
FORMATS = pytest.mark.parametrize("to", ["onnx", "torchscript"])


class Brightness(Method):
    """A map of brightness after a convolution, its largest value, and whether that is above a threshold."""

    task_name = "anomaly"
    threshold: Tensor

    def build(self, info: DataInfo) -> None:
        self.convolution = nn.Conv2d(info.channels, 1, 3, padding=1)
        self.register_buffer("threshold", torch.tensor(0.2))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        score_map = self.convolution(batch["image"])[:, 0]
        score = score_map.flatten(1).max(dim=1).values
        return {"score": score, "map": score_map, "anomalous": score > float(self.threshold)}


class CountsImages(Brightness):
    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        answers = [super(CountsImages, self).predict_step({"image": each[None]}) for each in batch["image"]]
        return {name: torch.cat([each[name] for each in answers]) for name in answers[0]}


class Rotates(Brightness):
    """Reads the number of images, and a flag that fitting found, without settling anything by them."""

    def build(self, info: DataInfo) -> None:
        super().build(info)
        self.register_buffer("upside_down", torch.tensor([True]))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        image = batch["image"].view(batch["image"].shape[0], -1, 16 * 12).unflatten(-1, (16, 12))
        return super().predict_step({"image": image.flip(-2) if self.upside_down else image})


class LooksAtValues(Brightness):
    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        answer = super().predict_step(batch)
        return answer if batch["image"].mean().item() > 0.4 else answer | {"score": -answer["score"]}


class Refuses(Brightness):
    export_obstacle = "it asks a person"


class AnswersInWords(Brightness):
    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return super().predict_step(batch) | {"score": ["high"] * len(batch["image"])}


class Drawn(Brightness):
    """Differs from run to run, as no graph may."""

    def finish(self, prediction: dict[str, Any]) -> dict[str, Any]:
        self.calls = getattr(self, "calls", 0) + 1
        return prediction | {"score": prediction["score"] + 0.001 * self.calls}


def needs(to: str) -> None:
    for package in exporting.NEEDS[to]:
        pytest.importorskip(package)


@FORMATS
@pytest.mark.parametrize("kind", [Brightness, Rotates, CountsImages])
def test_a_graph_answers_batches_of_any_size(kind: type[Method], to: str, tmp_path: Path) -> None:
    needs(to)
    method = kind().prepare(INFO)
    found = export(method, tmp_path / "graph", to=to)  # type: ignore[arg-type]  # a format
    assert found.one_by_one == (kind is CountsImages or (kind is Rotates and to == "torchscript"))
    images = torch.rand(5, 3, 16, 12, generator=torch.Generator().manual_seed(9))
    run = exporting.READERS[to](found.file, ["score", "map", "anomalous"])
    for count in (1, 5):
        for name, value in method.predict(images[:count]).items():
            torch.testing.assert_close(run(images[:count])[name], value, rtol=1e-5, atol=1e-6)


def test_onnx_file_stands_alone_and_names_what_goes_in_and_out(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    needs("onnx")
    method = Brightness().prepare(INFO)
    found = method.export(tmp_path / "b.onnx", size=(24, 20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.onnx", "b.onnx.json"]
    session = onnxruntime.InferenceSession(str(found.file))
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("image", ["batch", 3, 24, 20])]
    assert {each.name: each.shape for each in session.get_outputs()} == {
        "score": ["batch"],
        "map": ["batch", 24, 20],
        "anomalous": ["batch"],
    }
    assert method.info.size == (16, 12)
    stated = json.loads(found.description.read_text())
    assert stated["input"]["shape"] == ["batch", 3, 24, 20]
    assert stated["input"]["range"] == [0.0, 1.0]
    assert [each["name"] for each in stated["outputs"]] == ["score", "map", "anomalous"]
    assert "higher is more anomalous" in stated["outputs"][0]["about"]
    answer = session.run(None, {"image": np.zeros((1, *stated["input"]["shape"][1:]), np.float32)})
    assert [list(each.shape) for each in answer] == [[1], [1, 24, 20], [1]]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_method_on_disk_is_exported_as_it_was_fitted(channels: int, tmp_path: Path) -> None:
    import pinakes

    fitted = pinakes.create("nl2-autoencoder-ood").fit(
        f"textures?size=32&n=12&channels={channels}", steps=1, batch_size=4, out=tmp_path / "run"
    )
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--to", "torchscript"])
    assert result.exit_code == 0, result.output
    assert "score" in result.output
    graph = torch.jit.load(str(tmp_path / "run" / "nl2-autoencoder-ood.pt"))
    image = torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(graph(image)["score"], fitted.predict(image)["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Refuses, "cannot be exported: it asks a person"),
        (AnswersInWords, "'score'.* is no tensor"),
        (LooksAtValues, "depends on the values of an image"),
        (Drawn, "'score' differs by"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_nothing(
    kind: type[Method], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        export(kind().prepare(INFO), tmp_path / "graph.pt", to="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_unfitted_unknown_and_too_small_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not fitted"):
        export(Brightness(), tmp_path / "graph.pt", to="torchscript")
    method = Brightness().prepare(INFO)
    with pytest.raises(UserError, match="to: 'tflite' is no format"):
        export(method, tmp_path / "graph", to="tflite")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(UserError, match="size: Brightness needs images of at least 8 pixels"):
        export(method, tmp_path / "graph.pt", to="torchscript", size=4)


def test_a_missing_package_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exporting.NEEDS, "onnx", ("no_such_package",))
    with pytest.raises(UserError, match=r"onnx needs no_such_package; pip install 'pinakes\[export\]'"):
        export(Brightness().prepare(INFO), tmp_path / "graph.onnx")


@FORMATS
def test_exporting_leaves_the_method_as_it_was(to: str, tmp_path: Path) -> None:
    needs(to)
    method = Brightness().prepare(INFO).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    export(method, tmp_path / "graph", to=to)  # type: ignore[arg-type]  # a format
    assert method.training
    assert all(each.requires_grad for each in method.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_differences_are_relative_for_numbers_and_shares_for_decisions() -> None:
    assert difference_of(torch.tensor([1.0, 4.5]), torch.tensor([1.0, -5.0]))[0] == pytest.approx(1.9)
    assert difference_of(torch.tensor([0.5]), torch.tensor([0.0])) == (0.5, 0.0)
    assert difference_of(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == (0.25, 5.0)


def test_searching_by_counting_is_searchsorted() -> None:
    ascending = torch.tensor([0.0, 1.0, 1.0, 2.0])
    values = torch.tensor([[-1.0, 0.0, 1.0], [1.5, 2.0, 3.0]])
    for right in (False, True):
        found: Tensor = exporting._searchsorted(ascending, values, right=right)
        assert torch.equal(found, torch.searchsorted(ascending, values, right=right))


class Wide(CountsImages):
    """Has weights enough to be kept beside the graph."""

    def build(self, info: DataInfo) -> None:
        super().build(info)
        self.wide = nn.Sequential(nn.Conv2d(info.channels, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return super().predict_step({"image": self.wide(batch["image"])})


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnx")
    monkeypatch.setattr(exporting, "LARGEST_IN_ONE_FILE", 0)
    method = Wide().prepare(INFO)
    found = export(method, tmp_path / "wide.onnx")
    assert found.one_by_one
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "wide.onnx",
        "wide.onnx.data",
        "wide.onnx.json",
    ]
    image = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(2))
    run = exporting.READERS["onnx"](found.file, ["map"])
    torch.testing.assert_close(run(image)["map"], method.predict(image)["map"], rtol=1e-4, atol=1e-5)
