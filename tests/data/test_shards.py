"""Shards: written by the webdataset library itself where it is there, else by tarfile in its layout."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pinakes
from pinakes.data import load_data


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, samples: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in samples.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(3):
        numbers = range(10 * shard, 10 * shard + 10)
        files = {}
        for number in numbers:
            files |= {f"{number:06d}.png": png(number), f"{number:06d}.cls": str(number % 2).encode()}
        write(tmp_path / f"all-{shard:03d}.tar", files)
    return tmp_path


def test_samples_come_in_any_order_with_their_classes(shards: Path) -> None:
    data = load_data(f"wds:{shards}")
    assert data.layout.startswith("3 shards of 30 images, 2 classes, of which 20% are held out")
    assert (len(data.train), len(data.test), data.classes, data.size) == (24, 6, ("0", "1"), (32, 48))
    for part in (data.train, data.test):
        for index in reversed(range(len(part))):
            sample = part[index]
            number = int(sample["path"].rpartition("/")[2])
            torch.testing.assert_close(sample["image"], torch.full((3, 32, 48), number / 255))
            assert int(sample["label"]) == part.labels[index] == number % 2
            assert sample["kind"] == part.kinds[index] == str(number % 2)


def test_a_pattern_names_shards(shards: Path) -> None:
    assert load_data(f"wds:{shards}/all-{{000..001}}.tar").layout.startswith("2 shards of 20")
    assert load_data(f"wds:{shards}/all-*.tar").layout.startswith("3 shards")
    with pytest.raises(pinakes.UserError, match=r"all-003.tar: no such file"):
        load_data(f"wds:{shards}/all-{{000..004}}.tar")


def test_parts_and_names_of_classes_are_found(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / f"{part}-0.tar", {"a.png": png(1), "a.cls": b"0", "b.png": png(2), "b.cls": b"1"})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = load_data(f"wds:{tmp_path}?size=16")
    assert data.classes == ("cat", "dog")
    assert [len(part) for _, part in data.splits()] == [2, 2]
    assert data.test[1]["image"].shape == (3, 16, 16)


def test_a_method_learns_from_shards_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {f"{number}.png": png(number) for number in range(20)})
    settings = {"batch_size": 8, "seed": 1}
    spec = f"wds:{tmp_path}?size=32"
    pinakes.create("mae", depth=1).fit(spec, steps=2, out=tmp_path / "run", **settings)
    assert pinakes.load(tmp_path / "run").predict(torch.rand(1, 3, 32, 32))["embedding"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"no tar", "no whole tar file"),
        ("a.tar", b"", "no whole tar file"),
    ],
)
def test_a_file_that_is_no_shard_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(pinakes.UserError, match=message):
        load_data(f"wds:{tmp_path}")


def test_a_shard_that_was_cut_is_named(shards: Path) -> None:
    file = shards / "all-001.tar"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(pinakes.UserError, match=r"all-001.tar: is no whole tar file"):
        load_data(f"wds:{shards}")


def test_a_damaged_image_is_named_or_left_out(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"a.png": png(1), "b.png": png(2), "c.png": png(3)[:60], "d.png": png(4)})
    data = load_data(f"wds:{tmp_path}")
    damaged = [
        part for _, part in data.splits() if any("c" in path.rpartition("/")[2] for path in part.paths)
    ]
    with pytest.raises(pinakes.UserError, match=r"0.tar: its image c is damaged"):
        _ = [damaged[0][index] for index in range(len(damaged[0]))]
    data = load_data(f"wds:{tmp_path}", skip_bad=True)
    assert [problem.path.name for problem in data.skipped] == ["c"]
    assert sum(len(part) for _, part in data.splits()) == 3


def test_a_class_that_is_no_number_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"a.png": png(1), "a.cls": b"cat"})
    with pytest.raises(pinakes.UserError, match="must hold the number of a class"):
        load_data(f"wds:{tmp_path}")


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(10):
            writer.write({"__key__": f"deep/{number}", "png": png(number), "cls": number % 3})
    data = load_data(f"wds:{tmp_path}")
    assert sorted(data.train.paths + data.test.paths) == [f"0.tar/deep/{number}" for number in range(10)]
    theirs = {
        each["__key__"]: int(each["cls"])
        for each in webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False)
    }
    ours = {
        path.partition("/")[2]: label
        for part in (data.train, data.test)
        for path, label in zip(part.paths, part.labels, strict=True)
    }
    assert ours == theirs
