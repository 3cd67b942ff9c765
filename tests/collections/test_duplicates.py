import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pinakes import collections
from pinakes.collections.duplicates import (
    USUAL,
    Duplicates,
    choose_threshold,
    connected,
    find_groups,
)
from pinakes.collections.similarity import Pairs, whitened
from pinakes.errors import UserError
from pinakes.lab.memory import peak_of
from pinakes.method import Method
from tests.collections.conftest import write_noise
from tests.report.test_page import Page


def found_in(found: Duplicates) -> set[frozenset[str]]:
    return {frozenset(member.path for member in group.members) for group in found.groups}


def test_copies_among_photographs_are_found_without_a_threshold(
    encoder: Method, planted: tuple[Path, set[frozenset[str]]], tmp_path: Path
) -> None:
    root, together = planted
    found = collections.write_duplicates(collections.embed(encoder, root), tmp_path / "out")
    right = found_in(found) & together
    assert len(right) / len(together) >= 0.95
    assert len(right) / len(found.groups) >= 0.9
    assert found.choice is not None
    assert found.choice.asked == 224


def test_the_image_with_most_pixels_is_kept_then_the_largest_file_then_the_first(
    encoder: Method, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    large = Image.open(write_noise(folder / "y.png", (64, 64)))
    large.resize((48, 48)).save(folder / "a.bmp")
    large.save(folder / "x.jpg")
    large.save(folder / "z.png")
    write_noise(folder / "other.png", seed=1)
    found = collections.write_duplicates(collections.embed(encoder, folder), tmp_path / "out", threshold=0.9)
    (group,) = [group for group in found.groups if len(group.members) > 2]
    assert (folder / "y.png").stat().st_size == (folder / "z.png").stat().st_size
    assert group.members[0].path == "y.png"
    assert group.members[0].bytes > (folder / "x.jpg").stat().st_size


def test_what_is_written_says_what_was_found(
    encoder: Method, planted: tuple[Path, set[frozenset[str]]], tmp_path: Path
) -> None:
    root, _ = planted
    embedded = collections.embed(encoder, root)
    found = collections.write_duplicates(embedded, tmp_path / "out", threshold=0.95)
    written = json.loads(found.file.read_text())
    assert (written["images"], written["threshold"], written["threshold_chosen_from"]) == (224, 0.95, None)
    assert [[each["path"] for each in group["images"]] for group in written["groups"]] == [
        [each.path for each in group.members] for group in found.groups
    ]
    similarities = [group["similarity"] for group in written["groups"]]
    assert similarities == sorted(similarities, reverse=True)
    assert written["superfluous"] == found.superfluous == len(found.groups)
    page = Page(found.page.read_text())
    assert len(page.all("article")) == len(found.groups)
    assert len(page.all("img")) == 2 * len(found.groups)
    assert all((each["src"] or "").startswith("data:") for each in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")
    assert any("more than one class (copies and right" in each for each in found.sentences())


def test_nothing_found_is_said_and_leaves_a_page(encoder: Method, tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (32, 32), ("red", "green", "blue")[index]).save(tmp_path / f"{index}.png")
    found = collections.write_duplicates(
        collections.embed(encoder, tmp_path), tmp_path / "out", threshold=1.0
    )
    assert found.groups == ()
    assert found.sentences()[0] == "No near-duplicates among 3 images."
    assert "No near-duplicates" in found.page.read_text()


def test_images_of_no_file_are_grouped_too(encoder: Method, tmp_path: Path) -> None:
    embedded = collections.embed(encoder, "digits?n=100")
    found = collections.write_duplicates(embedded, tmp_path, threshold=0.8)
    assert found.count == 300
    assert all(each.bytes == 0 and each.width == 32 for group in found.groups for each in group.members)


def test_names_cannot_break_the_page(encoder: Method, tmp_path: Path) -> None:
    name = "<script>alert(1)<&script>.png"
    for folder in "ab":
        write_noise(tmp_path / "in" / folder / name)
    found = collections.write_duplicates(collections.embed(encoder, tmp_path / "in"), tmp_path / "out")
    assert len(found.groups) == 1
    assert not Page(found.page.read_text()).all("script")


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_is_no_similarity_is_refused(
    threshold: float, encoder: Method, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="threshold: expected a cosine similarity above 0"):
        collections.write_duplicates(
            collections.embed(encoder, "digits?n=10"), tmp_path / "out", threshold=threshold
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_the_chosen_threshold_parts_copies_from_others(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1500, 12, generator=generator)
    copies = int(share * 1500)
    latent = torch.cat([latent, latent[:copies]])
    latent = latent + 0.03 * torch.randn(len(latent), 12, generator=generator)
    unit = whitened(latent @ torch.randn(12, 64, generator=generator))
    groups = {tuple(group.tolist()) for group in find_groups(unit, choose_threshold(unit).threshold)}
    together = {(index, 1500 + index) for index in range(copies)}
    assert len(groups & together) >= 0.95 * copies
    assert len(groups - together) <= 1 + 0.02 * copies


def test_too_few_images_to_tell_take_the_usual_threshold() -> None:
    choice = choose_threshold(torch.eye(30))
    assert (choice.threshold, choice.asked) == (USUAL, 0)


def test_groups_are_what_pairs_connect_however_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinakes.collections.duplicates.BUFFER", 2)
    links = [(0, 5), (5, 9), (2, 3), (7, 8), (3, 9), (1, 1)]
    blocks = [
        Pairs(torch.tensor([first]), torch.tensor([second]), torch.tensor([1.0])) for first, second in links
    ]
    label = connected(iter(blocks), 10)
    groups = sorted(np.flatnonzero(label == each).tolist() for each in np.unique(label))
    assert groups == [[0, 2, 3, 5, 9], [1], [4], [6], [7, 8]]


def peak(count: int) -> int:
    torch.set_num_threads(1)
    rows = torch.randn(count, 64, generator=torch.Generator().manual_seed(0))
    rows[: count // 4] = 1 + 0.01 * rows[: count // 4]  # a quarter makes millions of pairs
    return peak_of(lambda: find_groups(rows, 0.9))[0]


def test_memory_is_bounded_where_many_pairs_are_alike() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(peak, 12_000).result()
    whole_matrix = 4 * 12_000**2
    assert found < whole_matrix / 3
