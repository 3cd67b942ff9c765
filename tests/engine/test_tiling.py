from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.data.tiles import Tiling
from pinakes.engine.tiling import Mosaic, predict_tiles, window
from pinakes.errors import UserError
from pinakes.method import Method


class Red(Method):
    """A map of the first channel, its largest value as the score, and whether that is above a half."""

    task_name = "anomaly"
    min_size = 4
    largest_batch = 0

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        self.largest_batch = max(self.largest_batch, len(batch["image"]))
        score_map = batch["image"][:, 0]
        score = score_map.flatten(1).amax(1)
        return {"score": score, "map": score_map, "anomalous": score > 0.5}


class Labels(Red):
    task_name = "ood"

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        count = len(batch["image"])
        return {"score": torch.zeros(count), "label": torch.zeros(count, dtype=torch.int64)}


def red(size: int = 8, channels: int = 3, kind: type[Method] = Red) -> Method:
    return kind().prepare(DataInfo(channels=channels, size=(size, size))).eval()


def image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(4))


def saved(path: Path, pixels: Tensor) -> Path:
    array = (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
    return path


@pytest.mark.parametrize("length", [1, 7, 8, 9, 13, 64, 65])
@pytest.mark.parametrize("overlap", [0, 3, 5, 7])
def test_tiles_cover_a_side_and_share_at_least_the_overlap(length: int, overlap: int) -> None:
    starts = Tiling(8, overlap).starts(length)
    covered = sorted({place for start in starts for place in range(start, start + 8)})
    assert covered[: max(length, 8)] == list(range(max(length, 8)))
    assert covered[-1] == max(length, 8) - 1
    assert all(0 < b - a <= 8 - overlap for a, b in pairwise(starts))


def naive(maps: dict[tuple[int, int], Tensor], tiling: Tiling, size: tuple[int, int]) -> Tensor:
    """The weighted mean of all tiles at every pixel, one by one."""
    total, weights = np.zeros(size), np.zeros(size)
    weight_of = window(tiling).double().numpy()
    for (top, left), tile_map in maps.items():
        for row in range(tiling.tile):
            for column in range(tiling.tile):
                if top + row < size[0] and left + column < size[1]:
                    weight = weight_of[row] * weight_of[column]
                    total[top + row, left + column] += weight * float(tile_map[row, column])
                    weights[top + row, left + column] += weight
    return torch.from_numpy(total / weights).float()


@pytest.mark.parametrize("size", [(20, 31), (8, 8), (5, 19), (3, 2), (40, 8)])
@pytest.mark.parametrize("overlap", [0, 2, 6])
def test_mosaic_is_the_weighted_mean_of_a_naive_loop(size: tuple[int, int], overlap: int) -> None:
    tiling = Tiling(8, overlap)
    generator = torch.Generator().manual_seed(0)
    mosaic = Mosaic(tiling, size)
    places = [(top, left) for top in tiling.starts(size[0]) for left in tiling.starts(size[1])]
    maps = {place: torch.rand(8, 8, generator=generator) for place in places}
    bands = [band for place, tile_map in maps.items() for band in mosaic.add(*place, tile_map)]
    bands.append(mosaic.rest())
    assert [first for first, _ in bands] == list(
        np.cumsum([0, *(len(finished) for _, finished in bands[:-1])])
    )
    torch.testing.assert_close(
        torch.cat([finished for _, finished in bands]), naive(maps, tiling, size), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("overlap", [0, 1, 5, 7, 15])
def test_constant_maps_stay_constant(overlap: int) -> None:
    answer = red(8).predict(torch.full((3, 37, 50), 0.3), tile=16, overlap=overlap)
    torch.testing.assert_close(answer["map"], torch.full((1, 37, 50), 0.3))


@pytest.mark.parametrize("size", [(50, 70), (16, 16), (10, 40), (3, 5)])
def test_tiles_of_the_methods_own_size_give_the_image_back(size: tuple[int, int]) -> None:
    pixels = image(*size)
    answer = red(16).predict(pixels, tile=16, overlap=4)
    torch.testing.assert_close(answer["map"], pixels[None, 0])
    torch.testing.assert_close(answer["score"], pixels[0].amax()[None])
    assert answer["anomalous"].tolist() == [True]


def test_score_is_that_of_the_worst_tile() -> None:
    method, pixels = red(8), image(40, 56)
    tiles = [pixels[:, y : y + 16, x : x + 16] for y in (0, 12, 24) for x in (0, 12, 24, 36, 40)]
    shrunk = [
        torch.nn.functional.interpolate(each[None], (8, 8), mode="bilinear", antialias=True) for each in tiles
    ]
    expected = method.predict(torch.cat(shrunk))["score"].max()
    torch.testing.assert_close(method.predict(pixels, tile=16, overlap=4)["score"], expected[None])


def test_batches_of_tiles_are_bounded_and_do_not_change_the_answer() -> None:
    method, pixels = red(8), image(40, 56)
    one = method.predict(pixels, tile=16, overlap=4, batch_size=1)
    assert method.largest_batch == 1
    seven = method.predict(pixels, tile=16, overlap=4, batch_size=7)
    assert method.largest_batch == 7
    for name, value in one.items():
        torch.testing.assert_close(seven[name], value)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_answered_each_at_its_own_resolution(channels: int, tmp_path: Path) -> None:
    method = red(16, channels)
    sizes = [(30, 44), (16, 9)]
    images = [image(*size, channels) for size in sizes]
    paths = [saved(tmp_path / f"{index}.png", each) for index, each in enumerate(images)]
    answer = method.predict(paths, tile=16, overlap=4)
    assert answer["score"].shape == (2,)
    for found, pixels in zip(answer["map"], images, strict=True):
        torch.testing.assert_close(found, pixels[0], rtol=0, atol=0.5 / 255 + 1e-6)


def test_grey_file_serves_a_method_for_colour(tmp_path: Path) -> None:
    path = saved(tmp_path / "grey.png", image(20, 24, 1))
    assert red(8).predict(str(path), tile=8)["map"][0].shape == (20, 24)


def test_batches_and_dicts_of_images_are_answered_one_by_one() -> None:
    method, pixels = red(8), torch.stack([image(20, 24), 0.5 * image(20, 24)])
    together = method.predict({"image": pixels}, tile=8, overlap=2)
    alone = method.predict(pixels[1], tile=8, overlap=2)
    assert together["map"].shape == (2, 20, 24)
    torch.testing.assert_close(together["map"][1], alone["map"][0])


@pytest.mark.parametrize(
    ("tile", "overlap", "named"),
    [(0, None, "tile"), (8, 8, "overlap"), (8, 9, "overlap"), (8, -1, "overlap")],
)
def test_sides_that_make_no_tiles_are_named(tile: int, overlap: int | None, named: str) -> None:
    with pytest.raises(UserError, match=f"^{named}: "):
        red().predict(image(20, 20), tile=tile, overlap=overlap)


def test_overlap_without_tile_and_data_sets_are_refused() -> None:
    with pytest.raises(UserError, match="overlap: is that of tiles"):
        red().predict(image(20, 20), overlap=4)
    with pytest.raises(UserError, match="tile: give images or image files"):
        red().predict([{"image": image(20, 20)}][0] | {"label": 0}, tile=8)


def test_answers_that_cannot_be_put_together_are_refused_before_any_row() -> None:
    def never(name: str, first: int, finished: Tensor) -> None:
        raise AssertionError

    with pytest.raises(UserError, match="tile: Labels answers 'label'"):
        predict_tiles(red(kind=Labels), image(20, 20), Tiling(8), rows=never)


@pytest.mark.parametrize("pixels", [image(20, 20, 1), torch.full((3, 20, 20), torch.nan), 2 + image(20, 20)])
def test_bad_images_are_named(pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="image"):
        red().predict(pixels, tile=8)
