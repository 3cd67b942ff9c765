"""Memory banks against brute force."""

import importlib.util
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pinakes import UserError
from pinakes.nn.memory import (
    BANK_BLOCK,
    FaissSearch,
    RandomProjection,
    StreamedCoreset,
    check_search,
    farthest_first,
    greedy_coreset,
    nearest_neighbours,
)

FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")


def clumps(count: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(12, width, generator=generator)
    which = torch.randint(12, (count,), generator=generator)
    return centres[which] + torch.randn(count, width, generator=generator)


def cover_radius(rows: torch.Tensor, chosen: torch.Tensor) -> float:
    return float(cdist(rows.double(), chosen.double()).min(axis=1).max())


def streamed(rows: torch.Tensor, limit: int, batch: int, seed: int = 0) -> StreamedCoreset:
    stream = StreamedCoreset(limit, generator=torch.Generator().manual_seed(seed))
    for part in rows.split(batch):
        stream.add(part)
        assert len(stream) <= limit
    return stream


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
    assert cover_radius(rows, rows[chosen]) < cover_radius(rows, rows[at_random])


@pytest.mark.parametrize("size", [0, 11])
def test_a_coreset_of_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        greedy_coreset(torch.rand(10, 3), size)


def test_a_projection_has_orthogonal_axes_and_keeps_squared_distances_on_average() -> None:
    rows = 5 + torch.randn(400, 96, generator=torch.Generator().manual_seed(0))
    project = RandomProjection(rows, 32, torch.Generator().manual_seed(1))
    torch.testing.assert_close(project.axes.T @ project.axes, 3 * torch.eye(32), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(project(rows).mean(0), torch.zeros(32), rtol=0, atol=1e-4)
    ratio = project(rows).square().sum(1).mean() / (rows - rows.mean(0)).square().sum(1).mean()
    assert abs(ratio.item() - 1) < 0.05


def test_rows_no_wider_than_the_projection_keep_their_distances() -> None:
    rows = clumps(50)
    torch.testing.assert_close(torch.pdist(RandomProjection(rows, 8)(rows)), torch.pdist(rows))


def test_farthest_first_stops_once_all_rows_are_near_and_goes_on_from_earlier_choices() -> None:
    rows = clumps(500)
    earlier = rows[:5]
    nearest = torch.from_numpy(cdist(rows, earlier).min(axis=1)).float()
    chosen, radius = farthest_first(rows, 500, nearest=nearest, until=3.0)
    everything = torch.cat([earlier, rows[chosen]])
    assert cover_radius(rows, everything) == pytest.approx(radius, rel=1e-3)
    assert radius <= 3.0
    apart = cdist(rows[chosen], everything)
    apart[apart < 1e-6] = np.inf
    assert apart.min() > 3.0 - 1e-3
    assert chosen[0] == nearest.argmax()


def test_a_stream_within_the_limit_is_one_greedy_choice_of_all_rows() -> None:
    rows = clumps(300, width=400)
    stream = streamed(rows, limit=300, batch=37)
    expected = rows[greedy_coreset(rows, 30, generator=torch.Generator().manual_seed(0))]
    assert stream.thinned == 0
    torch.testing.assert_close(stream.choose(30), expected)


@pytest.mark.parametrize("batch", [16, 100, 3000])
def test_a_stream_holds_no_more_than_its_limit_and_covers_all_rows_within_its_radius(batch: int) -> None:
    rows = clumps(3000)
    stream = streamed(rows, limit=200, batch=batch)
    assert stream.thinned >= 2
    assert stream.seen == 3000
    assert len(stream) <= 200
    assert stream._rows.shape[0] == 200
    assert cover_radius(rows, stream.rows) <= stream.radius * (1 + 1e-4)


def test_a_stream_covers_as_the_bound_says() -> None:
    """6 times the best cover, or 4 where rows were thinned once, 2 where never; the best by trying all."""
    thinnings = set()
    for seed in range(60):
        count = (6, 9, 20)[seed % 3]
        rows = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
        distances = cdist(rows, rows)
        best = min(distances[:, pair].min(axis=1).max() for pair in combinations(range(count), 2))
        stream = streamed(rows, limit=6, batch=3, seed=seed)
        thinnings.add(min(stream.thinned, 2))
        factor = {0: 2, 1: 4}.get(stream.thinned, 6)
        assert cover_radius(rows, stream.choose(2)) <= factor * best * (1 + 1e-5)
    assert thinnings == {0, 1, 2}


def test_a_streamed_cover_is_nearly_that_of_one_greedy_choice_of_all_rows() -> None:
    rows = clumps(6000)
    streams = [streamed(rows, 500, 250, seed).choose(60) for seed in range(3)]
    whole = [rows[greedy_coreset(rows, 60, generator=torch.Generator().manual_seed(s))] for s in range(3)]
    mean = [np.mean([cover_radius(rows, chosen) for chosen in each]) for each in (streams, whole)]
    assert mean[0] < 1.2 * mean[1]


def test_a_stream_of_copies_ends() -> None:
    stream = streamed(torch.ones(100, 3), limit=10, batch=7)
    assert stream.radius < 1e-3
    assert len(stream.choose(2)) == 2


def test_a_limit_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        StreamedCoreset(1)


@pytest.mark.parametrize("bank", [3, 40, BANK_BLOCK + 50])
@pytest.mark.parametrize("count", [1, 3])
def test_nearest_neighbours_equal_a_full_distance_matrix(bank: int, count: int) -> None:
    queries, rows = torch.rand(300, 5), torch.rand(bank, 5)
    values, indices = nearest_neighbours(queries, rows, count)
    distances = cdist(queries, rows)
    expected = np.sort(distances, axis=1)[:, :count]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(distances[np.arange(300)[:, None], indices], expected, atol=1e-5)


def test_small_distances_far_from_the_origin_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 1000 + torch.randn(500, 64, generator=generator)
    queries = rows[:100] + 1e-3 * torch.randn(100, 64, generator=generator)
    values, indices = nearest_neighbours(queries, rows)
    assert indices[:, 0].tolist() == list(range(100))
    expected = cdist(queries.double(), rows.double()).min(axis=1)
    np.testing.assert_allclose(values[:, 0].numpy(), expected, rtol=1e-5)


class Search(torch.nn.Module):
    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", bank)

    def forward(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nearest_neighbours(queries, self.bank, 2)


def test_an_exported_search_answers_more_rows_than_it_was_exported_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pinakes.nn.memory.BLOCK_ELEMENTS", {"cpu": 64})
    search, queries = Search(torch.rand(20, 3)), torch.rand(90, 3)
    rows = {0: torch.export.Dim("rows", min=2)}
    exported = torch.export.export(search, (queries[:2],), dynamic_shapes=(rows,)).module()
    torch.testing.assert_close(exported(queries), search(queries))


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        nearest_neighbours(torch.rand(2, 3), torch.rand(4, 3), 5)


def test_an_unknown_search_is_named() -> None:
    with pytest.raises(UserError, match=r"search: 'fais'.*faiss"):
        check_search("fais")


def test_faiss_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pinakes\[faiss\]"):
        FaissSearch(torch.rand(4, 3))


@FAISS
@pytest.mark.parametrize("count", [1, 4])
def test_faiss_finds_what_torch_finds(count: int) -> None:
    bank, queries = clumps(2000, width=32), clumps(300, width=32, seed=1)
    found, expected = FaissSearch(bank)(queries, count), nearest_neighbours(queries, bank, count)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
