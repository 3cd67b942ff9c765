"""Folders of images with a table beside them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.data import load_data
from pinakes.data.base import Column, DataInfo
from pinakes.data.summary import describe
from pinakes.errors import UserError

Writer = Callable[..., Path]
HEADS = "file,weight,colour\n"


@pytest.fixture
def cars(write: Writer, tmp_path: Path) -> Path:
    """A folder per class, and a table with empty cells."""
    lines = []
    for kind in ("bus", "van"):
        for i in range(5):
            write(f"cars/{kind}/{i}.png", (16, 16))
            lines.append(f"{kind}/{i}.png,{i if i else ''},{('red', 'blue', '')[i % 3]}\n")
    table(tmp_path / "cars", HEADS + "".join(lines))
    return tmp_path / "cars"


def table(folder: Path, text: str) -> None:
    (folder / "table.csv").write_text(text, encoding="utf-8")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(folder)


def test_samples_have_their_row(cars: Path) -> None:
    data = load_data(cars)
    assert data.spec == f"table:{cars}"
    assert data.layout.endswith("; a table of 2 columns (weight, colour)")
    assert data.info.columns == (Column("weight"), Column("colour", ("", "blue", "red")))
    assert data.classes == ("bus", "van")
    for _, part in data.splits():
        for sample in part:
            number = int(sample["path"][-5])
            assert sample["table"][1] == (2, 1, 0)[number % 3]
            assert number == 0 or sample["table"][0] == number


def test_an_empty_cell_gets_the_mean_over_the_training_images(cars: Path) -> None:
    data = load_data(cars)
    known = [float(s["table"][0]) for s in data.train if not s["path"].endswith("0.png")]
    filled = [s["table"][0] for _, part in data.splits() for s in part if s["path"].endswith("0.png")]
    torch.testing.assert_close(torch.stack(filled), torch.full((2,), sum(known) / len(known)))


def test_a_flat_folder_and_train_and_test_have_tables_too(write: Writer, tmp_path: Path) -> None:
    write("flat/a.png")
    table(tmp_path / "flat", "file,size\na.png,3\n")
    assert load_data(tmp_path / "flat").train[0]["table"].tolist() == [3]
    for part in ("train", "test"):
        write(f"split/{part}/a/0.png")
        write(f"split/{part}/b/0.png")
    names = [f"{part}/{kind}/0.png" for part in ("train", "test") for kind in "ab"]
    table(tmp_path / "split", "file,size\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    data = load_data(tmp_path / "split")
    assert [float(sample["table"][0]) for _, part in data.splits() for sample in part] == [0, 1, 2, 3]


def test_the_fingerprint_changes_with_the_table(cars: Path) -> None:
    before = load_data(cars).fingerprint()
    text = (cars / "table.csv").read_text(encoding="utf-8")
    table(cars, text.replace("bus/1.png,1", "bus/1.png,7"))
    assert load_data(cars).fingerprint() != before
    assert describe(load_data(cars))["classes"] == ["bus", "van"]


def test_a_method_learns_from_it(cars: Path) -> None:
    method = pinakes.create("mmcl-tabular-imaging").fit(cars, steps=1, batch_size=4)
    assert method.evaluate(cars)["linear_probe"] >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,size\nbus/0.png,1\n", "no column 'file', but name, size"),
        ("", "no column 'file', but nothing"),
        ("file\nbus/0.png\n", "needs a column or more beside 'file'"),
        ("file,size,size\nbus/0.png,1,2\n", "a heading of its own"),
        ("file,size\nbus/0.png,1,2\n", "row 1 has 3 cells, and there are 2 headings"),
        ("file,size\nbus/0.png,1\nbus/0.png,2\n", "two rows for bus/0.png"),
        ("file,size\nbus/0.png,1\n", "has no row for .* and 7 others; .* images relative to"),
        ("file,size\n", "has no row for"),
        ("file,id\n" + "".join(f"{i}.png,x{i}\n" for i in range(257)), "'id' holds 257 different words"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(cars: Path, text: str, message: str) -> None:
    table(cars, text)
    refused(cars, message)


def test_a_table_must_be_there_and_be_text(cars: Path) -> None:
    (cars / "table.csv").write_bytes(b"\xff\xfe\x00")
    refused(cars, "save it in UTF-8")
    (cars / "table.csv").unlink()
    with pytest.raises(UserError, match=r"table\.csv: cannot be read"):
        load_data(f"table:{cars}")


def test_columns_survive_as_json() -> None:
    info = DataInfo(1, (8, 9), ("a",), (Column("x"), Column("y", ("p", "q"))))
    assert DataInfo.from_json(info.as_json()) == info
    assert "columns" not in DataInfo().as_json()
