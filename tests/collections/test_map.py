import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pinakes import collections
from pinakes.collections import map as maps
from pinakes.collections.map import principal_plane, umap_plane
from pinakes.errors import UserError
from pinakes.method import Method
from tests.collections.conftest import write_noise
from tests.report.test_page import Page


def points_of(page: Path) -> dict[str, list]:
    found = re.search(
        r'<script type="application/json" id="points">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    points: dict[str, list] = json.loads(found[1])
    return points


def test_the_plane_is_that_of_the_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 8, generator=generator) @ torch.randn(8, 30, generator=generator) + 3
    places, share = principal_plane(rows)
    expected = PCA(2).fit(rows.double().numpy())
    np.testing.assert_allclose(
        np.abs(places.numpy()), np.abs(expected.transform(rows.double().numpy())), rtol=1e-3, atol=1e-3
    )
    assert share == pytest.approx(expected.explained_variance_ratio_.sum(), abs=1e-4)


def test_images_that_are_all_the_same_lie_at_one_place() -> None:
    places, share = principal_plane(torch.ones(4, 6))
    assert share == 0
    torch.testing.assert_close(places, torch.zeros(4, 2))


def test_a_map_holds_every_image_with_its_place_class_and_thumbnail(encoder: Method, tmp_path: Path) -> None:
    for index, name in enumerate(
        ["cat/</script>.png".replace("/s", "∕s"), "cat/2.png", "dog/1.png", "dog/2.png"]
    ):
        write_noise(tmp_path / "in" / name, (60, 30), seed=index)
    drawn = collections.write_map(collections.embed(encoder, tmp_path / "in"), tmp_path / "out/map.html")
    points = points_of(drawn.file)
    assert len(points["x"]) == len(points["y"]) == len(points["names"]) == drawn.count == drawn.pictured == 4
    assert drawn.classes == ("cat", "dog")
    assert [points["classes"][kind] for kind in points["kinds"]] == ["cat", "cat", "dog", "dog"]
    assert points["sizes"][:2] == [30, 60]
    assert max(points["x"] + points["y"]) == maps.SCALE
    page = Page(drawn.file.read_text())
    assert len(page.all("script")) == 2
    assert not page.all("link")
    assert all(each.startswith("data:image/webp") for each in points["sheets"])


def test_a_flat_folder_has_no_legend(encoder: Method, tmp_path: Path) -> None:
    for index in range(3):
        write_noise(tmp_path / f"in/{index}.png", seed=index)
    drawn = collections.write_map(collections.embed(encoder, tmp_path / "in"), tmp_path / "map.html")
    assert points_of(drawn.file)["kinds"] == []
    assert not Page(drawn.file.read_text()).all("ul")


def test_of_very_many_images_evenly_spaced_ones_have_thumbnails(
    encoder: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "THUMBNAILS", ((2, 32), (10, 16)))
    monkeypatch.setattr(maps, "SHEET", 40)
    drawn = collections.write_map(collections.embed(encoder, "digits?n=10"), tmp_path / "map.html")
    points = points_of(drawn.file)
    assert (drawn.count, drawn.pictured) == (30, 10)
    assert points["pictured"][0] == 0
    assert points["pictured"][-1] == 29
    assert len(points["sheets"]) == 3
    assert "pictures of 10" in drawn.file.read_text()


def test_bad_requests_say_what_to_do(
    encoder: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = collections.embed(encoder, "digits?n=10")
    with pytest.raises(UserError, match="did you mean 'pca'"):
        collections.write_map(embedded, tmp_path / "map.html", by="pcaa")
    with pytest.raises(UserError, match=r"ends in \.html"):
        collections.write_map(embedded, tmp_path / "map.png")
    write_noise(tmp_path / "one/1.png")
    with pytest.raises(UserError, match="two or more"):
        collections.write_map(collections.embed(encoder, tmp_path / "one"), tmp_path / "map.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pinakes\[collections\]'"):
        collections.write_map(embedded, tmp_path / "map.html", by="umap")
    assert not (tmp_path / "map.html").exists()


def test_umap_gives_the_same_places_again() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(umap_plane(rows), umap_plane(rows))
    with pytest.raises(UserError, match="at least 4"):
        umap_plane(rows[:3])
