"""PatchCore's parts against naive loops."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from pinakes import UserError, load_data
from pinakes.papers.anomaly.base import smoothed_map
from pinakes.papers.anomaly.patchcore import (
    PatchCore,
    greedy_coreset,
    nearest_neighbours,
    patch_features,
    reweighted_score,
)


def test_patch_features_average_the_neighbourhood_and_join_the_layers() -> None:
    fine, coarse = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)
    found = patch_features([fine, coarse])
    assert found.shape == (2, 10, 8, 8)
    torch.testing.assert_close(found[:, :4, 3, 5], fine[:, :, 2:5, 4:7].mean(dim=(2, 3)))
    wide = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(coarse, 3, 1, 1), size=(8, 8), mode="bilinear"
    )
    torch.testing.assert_close(found[:, 4:], wide)


@pytest.mark.parametrize(("count", "size"), [(200, 20), (200, 200), (2000, 400)])
def test_greedy_coreset_equals_the_naive_farthest_point_choice(count: int, size: int) -> None:
    rows = torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = greedy_coreset(rows, size, generator=torch.Generator().manual_seed(0)).tolist()
    distances = cdist(rows, rows)
    naive = [chosen[0]]
    while len(naive) < size - (size == count):
        naive.append(int(distances[:, naive].min(axis=1).argmax()))
    assert chosen[: len(naive)] == naive
    assert len(set(chosen)) == size


def test_greedy_coreset_never_chooses_a_row_twice_even_among_copies() -> None:
    rows = torch.ones(6, 3).repeat_interleave(2, 0)
    assert sorted(greedy_coreset(rows, 12).tolist()) == list(range(12))


def test_the_random_projection_still_covers_well() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 8, generator=generator) @ torch.randn(8, 300, generator=generator)
    chosen = greedy_coreset(rows, 60, projection=64, generator=generator)
    at_random = torch.randperm(600, generator=generator)[:60]

    def radius(indices: torch.Tensor) -> float:
        return float(torch.cdist(rows, rows[indices]).min(dim=1).values.max())

    assert radius(chosen) < radius(at_random)


@pytest.mark.parametrize("size", [0, 11])
def test_a_coreset_of_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        greedy_coreset(torch.rand(10, 3), size)


def test_nearest_neighbours_equal_a_full_distance_matrix() -> None:
    queries, bank = torch.rand(70, 5), torch.rand(40, 5)
    values, indices = nearest_neighbours(queries, bank, 3)
    full = np.sort(cdist(queries, bank), axis=1)[:, :3]
    np.testing.assert_allclose(values.numpy(), full, atol=1e-5)
    np.testing.assert_allclose(cdist(queries, bank)[np.arange(70)[:, None], indices], full, atol=1e-6)


def test_reweighted_score_is_equation_seven() -> None:
    distance = torch.tensor([1.5, 0.2], dtype=torch.float64)
    around = torch.tensor([[1.5, 1.7, 2.0], [0.2, 0.3, 0.9]], dtype=torch.float64)
    naive = [
        (1 - np.exp(a[0].item()) / np.exp(a.numpy()).sum()) * d.item()
        for d, a in zip(distance, around, strict=True)
    ]
    np.testing.assert_allclose(reweighted_score(distance, around).numpy(), naive, rtol=1e-12)


def test_reweighted_score_survives_large_distances() -> None:
    assert torch.isfinite(reweighted_score(torch.tensor([5e3]), torch.tensor([[5e3, 6e3]]))).all()


def test_the_map_is_upsampled_and_smoothed_by_a_gaussian() -> None:
    patches = torch.rand(1, 8, 8)
    found = smoothed_map(patches, (64, 64), sigma=3.0)[0]
    upsampled = torch.nn.functional.interpolate(patches[None], size=(64, 64), mode="bilinear")[0, 0]
    expected = gaussian_filter(upsampled.numpy(), 3.0, mode="mirror", radius=12)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_an_image_seen_in_training_scores_zero_with_the_whole_bank() -> None:
    data = load_data("textures?size=32&n=8", task="anomaly")
    detector = PatchCore(coreset_ratio=1.0, sigma=0.0).fit(data)
    seen = data.train[0]["image"]
    prediction = detector.predict(seen)
    assert prediction["score"].item() < 1e-2
    assert detector.predict(1 - seen)["score"] > 10 * prediction["score"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"coreset_ratio": 0.0}, "coreset_ratio"),
        ({"coreset_ratio": 1.5}, "coreset_ratio"),
        ({"neighbourhood": 2}, "neighbourhood"),
        ({"neighbours": 0}, "neighbours"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        PatchCore(**options)  # type: ignore[arg-type]
