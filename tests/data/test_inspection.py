import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pinakes.data import inspection
from pinakes.data.inspection import cache_folder, inspect_files

Writer = Callable[..., Path]


def test_facts_are_those_of_the_image_as_it_is_shown(write: Writer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for ending in ("jpg", "png", "tiff", "webp"):
        write(f"x.{ending}", (20, 30), exif=exif)
    facts = inspect_files(tmp_path, [f"x.{ending}" for ending in ("jpg", "png", "tiff", "webp")])
    assert {fact.size for fact in facts.values()} == {(30, 20)}
    assert {fact.mode for fact in facts.values()} == {"RGB"}


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.98])
def test_a_cut_jpeg_is_found_without_decoding_it_in_full(
    write: Writer, tmp_path: Path, share: float, progressive: bool
) -> None:
    path = write("x.jpg", (300, 200), quality=90, progressive=progressive)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut short" in inspect_files(tmp_path, ["x.jpg"])["x.jpg"].problem


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be opened" in inspect_files(tmp_path, ["none.png"])["none.png"].problem


def test_a_file_that_has_not_changed_is_not_decoded_again(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png")
    write("b.png")
    first = inspect_files(tmp_path, ["a.png", "b.png"])
    decoded: list[str] = []
    look = inspection._look
    monkeypatch.setattr(inspection, "_look", lambda path, fact: decoded.append(path.name) or look(path, fact))
    assert inspect_files(tmp_path, ["a.png", "b.png"]) == first
    assert decoded == []
    write("b.png", (5, 5))
    assert inspect_files(tmp_path, ["a.png", "b.png"])["b.png"].size == (5, 5)
    assert decoded == ["b.png"]


def test_a_problem_is_looked_at_again(write: Writer, tmp_path: Path) -> None:
    path = write("a.png")
    good, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(good)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert inspect_files(tmp_path, ["a.png"])["a.png"].problem
    path.write_bytes(good)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not inspect_files(tmp_path, ["a.png"])["a.png"].problem


def test_a_cache_that_cannot_be_written_does_no_harm(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "file" / "below"))
    assert inspect_files(tmp_path, ["a.png"])["a.png"].size == (12, 16)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "files": {"a.png": [1]}}', '{"version": 0}'])
def test_a_cache_that_cannot_be_used_is_made_again(
    write: Writer, tmp_path: Path, cache: Path, text: str
) -> None:
    write("a.png")
    before = inspect_files(tmp_path, ["a.png"])
    (memory,) = cache.rglob("*.json")
    whole = memory.read_text()
    memory.write_text(text)
    assert inspect_files(tmp_path, ["a.png"]) == before
    assert memory.read_text() == whole


def test_warnings_of_the_decoder_are_not_passed_on_and_filters_stay_as_they_were(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        assert "cut it into tiles" in inspect_files(tmp_path, ["a.png"])["a.png"].problem
    assert not caught
    assert warnings.filters == filters


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ".cache/pinakes"),
        ("darwin", "Library/Caches/pinakes"),
        ("win32", "AppData/Local/pinakes/Cache"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_such_things(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, expected: str
) -> None:
    for name in ("PINAKES_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / expected
