import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pinakes
from pinakes import tasks
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.report import predictions
from pinakes.report.predictions import write_predictions


@pytest.fixture(scope="module")
def detector() -> Method:
    return pinakes.create("patchcore").fit("textures?size=32&n=8")


def write_images(folder: Path, names: list[str]) -> list[Path]:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    return [folder / name for name in names]


def lines_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_image_gets_a_line_and_files_of_its_own(detector: Method, tmp_path: Path) -> None:
    images = write_images(tmp_path, ["in/x.png", "in/x.bmp", "in/deep/x.png", "x.png"])
    written = write_predictions(detector, images, tmp_path / "out")
    lines = lines_of(written.file)
    assert [line["path"] for line in lines] == [str(path) for path in images]
    for name in ("picture", "map"):
        assert len({line[name] for line in lines}) == written.count == 4
        assert all((written.folder / str(line[name])).is_file() for line in lines)


def test_what_is_written_does_not_depend_on_batch_size_or_on_what_is_held(
    detector: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path, [f"{index}.png" for index in range(5)])
    one = write_predictions(detector, images, tmp_path / "one", batch_size=5)
    monkeypatch.setattr(predictions, "SCALE_IMAGES", 2)
    two = write_predictions(detector, images, tmp_path / "two", batch_size=2)
    scores = [[line["score"] for line in lines_of(each.file)] for each in (one, two)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert scores[0] == pytest.approx(detector.predict(images)["score"].tolist(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_restored_images_are_pictures(channels: int, tmp_path: Path) -> None:
    method = pinakes.create("sr3", n_channels=8, ch_mults=(1,), sampling_steps=2)
    method.fit(f"digits?n=40&size=8&channels={channels}", steps=1, batch_size=8)
    written = write_predictions(method, write_images(tmp_path, ["x.png"]), tmp_path / "out")
    (line,) = lines_of(written.file)
    assert line["restored"] == "restored/x.png"
    assert Image.open(written.folder / "restored" / "x.png").size == (8, 8)


def test_bad_file_stops_it_before_anything_is_written(detector: Method, tmp_path: Path) -> None:
    images = write_images(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.png"):
        write_predictions(detector, [*images, tmp_path / "b.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = write_predictions(detector, [*images, tmp_path / "b.png"], tmp_path / "out", skip_bad=True)
    assert (written.count, [each.path.name for each in written.skipped]) == (1, ["b.png"])


def test_interruption_leaves_no_half_file(
    detector: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path, ["a.png"])
    monkeypatch.setattr(Image.Image, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_predictions(detector, images, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == []


def test_folder_that_cannot_be_written_is_named(detector: Method, tmp_path: Path) -> None:
    images = write_images(tmp_path, ["a.png"])
    with pytest.raises(UserError, match=r"a\.png/out: cannot be written"):
        write_predictions(detector, images, images[0] / "out")


def write_large(path: Path, size: tuple[int, int]) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_tiled_images_keep_their_resolution_and_get_small_pictures(
    detector: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [write_large(tmp_path / "a.png", (90, 150)), write_large(tmp_path / "b.png", (40, 64))]
    monkeypatch.setattr(predictions, "SHOWN_SIDE", 60)
    written = write_predictions(detector, images, tmp_path / "out", tile=48, overlap=8, batch_size=5)
    lines = lines_of(written.file)
    expected = detector.predict(images, tile=48, overlap=8)
    assert [line["score"] for line in lines] == pytest.approx(expected["score"].tolist(), rel=1e-4)
    for line, whole, size in zip(lines, expected["map"], [(90, 150), (40, 64)], strict=True):
        stored = np.load(written.folder / str(line["map"]))
        assert (stored.dtype, stored.shape) == (np.float16, size)
        np.testing.assert_allclose(stored, whole.numpy(), rtol=2e-3)
        with Image.open(written.folder / str(line["picture"])) as picture:
            assert picture.height < 250
    assert not list((tmp_path / "out").rglob("*.part"))


def test_overlap_without_tile_is_named(detector: Method, tmp_path: Path) -> None:
    images = write_images(tmp_path, ["a.png"])
    with pytest.raises(UserError, match="overlap"):
        write_predictions(detector, images, tmp_path / "out", overlap=4)


def test_an_image_that_fails_between_tiles_leaves_no_half_map(
    detector: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_large(tmp_path / "a.png", (90, 150))
    calls = iter(range(100))
    predict = detector.predict

    def interrupted(*args: object, **settings: object) -> object:
        if next(calls) == 12:
            raise KeyboardInterrupt
        return predict(*args, **settings)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(detector, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(detector, image, tmp_path / "out", tile=32, overlap=0, batch_size=1)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_no_prediction_has_the_name_of_what_a_line_says_besides() -> None:
    for name in tasks.names():
        assert not {"path", "picture"} & set(tasks.get(name).prediction)
