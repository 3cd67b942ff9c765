import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csc_array, csr_array

from pinakes import collections
from pinakes.collections.differ import Differences, deviation
from pinakes.collections.images import Images
from pinakes.collections.prototypes import Assigned
from pinakes.method import Method
from tests.collections.conftest import photographs, write_noise
from tests.report.test_page import Page


class Painted(Images):
    """Images of which only thumbnails are asked for."""

    def thumbnail(self, index: int, side: int) -> Image.Image:
        return Image.new("RGB", (side, side), (index % 256, 0, 0))


def assigned(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Assigned:
    """Two collections with the shares of prototypes of each image."""
    images = [
        Painted(name, [], [f"{name}{index}.png" for index in range(len(rows))], [""] * len(rows))
        for name, rows in (("one", first), ("other", second))
    ]
    shares = (csr_array(np.array(first)), csr_array(np.array(second)))
    return Assigned((images[0], images[1]), shares, shares, "method", "prototypes of the method")


def rows(counts: Sequence[int]) -> list[list[float]]:
    return np.eye(len(counts)).repeat(counts, axis=0).tolist()


def test_prototypes_are_parted_into_those_of_the_one_of_the_other_and_of_both(tmp_path: Path) -> None:
    given = assigned(rows([50, 300, 5, 145, 0]), rows([0, 310, 90, 100, 0]))
    found = collections.write_differences(given, tmp_path)
    assert [[each.number for each in part] for _, part in found.sections] == [[0], [2], [1, 3]]
    assert found.in_common == pytest.approx((300 + 5 + 100) / 500)
    (own,) = found.first
    assert [side.images for side in own.sides] == [50, 0]
    assert [side.share for side in own.sides] == pytest.approx([0.1, 0])
    assert own.specificity == pytest.approx((50.5 - 0.5) / (50.5 + 0.5))


def test_what_chance_may_do_is_not_specific(tmp_path: Path) -> None:
    found = collections.write_differences(assigned(rows([6, 94]), rows([2, 98])), tmp_path)
    assert [part for _, part in found.sections][:2] == [(), ()]


def test_what_tells_most_comes_first(tmp_path: Path) -> None:
    given = assigned(rows([400, 100, 40, 460]), rows([150, 2, 0, 848]))
    found = collections.write_differences(given, tmp_path)
    # 0.4 log2(0.4 / 0.15) = 0.57, 0.1 log2(0.1 / 0.002) = 0.54, 0.04 log2(0.04 / 0.0005) = 0.25
    assert [each.number for each in found.first] == [0, 1, 2]


def test_swapping_the_collections_swaps_what_is_found(tmp_path: Path) -> None:
    one, other = rows([50, 300, 5, 145]), rows([0, 310, 90, 100])
    forth = collections.write_differences(assigned(one, other), tmp_path / "forth")
    back = collections.write_differences(assigned(other, one), tmp_path / "back")
    assert [each.number for each in forth.first] == [each.number for each in back.second]
    assert forth.first[0].bits == pytest.approx(back.second[0].bits)
    assert forth.in_common == pytest.approx(back.in_common)


def test_what_halves_of_one_collection_have_in_common_is_as_expected_by_chance(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(30, 0.1), 4000)
    found = collections.write_differences(assigned(shares[:1500], shares[1500:]), tmp_path)
    assert abs(found.in_common - found.by_chance) < 0.01
    assert not found.first
    assert not found.second


def test_deviation_is_that_of_means_of_random_halves() -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(4, 0.5), 300)
    drawn = []
    for _ in range(3000):
        order = generator.permutation(300)
        drawn.append(shares[order[:100]].mean(0) - shares[order[100:]].mean(0))
    found = deviation(csc_array(shares[:100]), csc_array(shares[100:]))
    np.testing.assert_allclose(found, np.std(drawn, axis=0), rtol=0.05)


def test_pictures_are_those_with_the_largest_shares(tmp_path: Path) -> None:
    found = collections.write_differences(
        assigned([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]], [[0.0, 1.0], [0.3, 0.7]]), tmp_path
    )
    sides = {each.number: each.sides for _, part in found.sections for each in part}
    assert sides[0][0].places == (1, 2, 0)
    assert sides[0][1].places == (1,)


def written(folder: Path, encoder: Method) -> Differences:
    """The differences of photographs and noise, beside photographs that both have."""
    for index, image in enumerate(photographs(60)):
        side = "one" if index % 2 else "other"
        path = folder / side / f"photo/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    for index in range(30):
        write_noise(folder / "other" / f"noise/{index}.png", seed=index)
    found = collections.assign(encoder, (folder / "one", folder / "other"), prototypes=6)
    return collections.write_differences(found, folder / "out")


def test_noise_that_only_the_other_has_is_found_and_shown(encoder: Method, tmp_path: Path) -> None:
    found = written(tmp_path, encoder)
    best = found.second[0]
    assert best.sides[1].classes[0][0] == "noise"
    assert best.sides[0].share == 0
    values = json.loads(found.file.read_text())
    assert [each["title"] for each in values["collections"]] == ["one", "other"]
    (prototype,) = [each for each in values["prototypes"] if each["number"] == best.number]
    assert prototype["specific_to"] == "other"
    assert prototype["collections"][1]["most_alike"][0].startswith("noise/")
    page = Page(found.page.read_text())
    assert len(page.all("article")) == len(values["prototypes"])
    assert page.all("img")
    assert all((each["src"] or "").startswith("data:") for each in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")


def test_collections_of_the_same_name_are_told_apart(encoder: Method, tmp_path: Path) -> None:
    for side in "ab":
        for index in range(3):
            write_noise(tmp_path / side / "photos" / f"{index}.png", seed=index)
    sources = (tmp_path / "a/photos", tmp_path / "b/photos")
    found = collections.write_differences(
        collections.assign(encoder, sources, prototypes=2), tmp_path / "out"
    )
    assert found.titles == (str(sources[0]), str(sources[1]))
    assert found.in_common == 1


def test_names_cannot_break_the_page(encoder: Method, tmp_path: Path) -> None:
    name = "<script>alert(1)<&script>"
    for side in "ab":
        for index in range(2):
            write_noise(tmp_path / side / name / f"{index}{name}.png", seed=index)
    found = collections.write_differences(
        collections.assign(encoder, (tmp_path / "a", tmp_path / "b"), prototypes=2), tmp_path / "out"
    )
    assert not Page(found.page.read_text()).all("script")
