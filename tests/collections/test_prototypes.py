from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pinakes import collections
from pinakes.collections.embeddings import Embedded
from pinakes.collections.images import Images
from pinakes.collections.prototypes import clustered, evened
from pinakes.errors import UserError
from pinakes.method import Method
from tests.collections.conftest import write_noise


def collection(rows: Tensor, name: str = "x") -> Embedded:
    """A collection whose images are never looked at."""
    count = len(rows)
    images = Images(name, [], [f"{index:04d}" for index in range(count)], [""] * count)
    return Embedded(images, rows, "method", torch.device("cpu"))


def groups(counts: list[int], seed: int) -> Tensor:
    """Rows around as many centres as there are counts."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return 5 * torch.eye(len(counts), 12)[kinds] + 0.2 * torch.randn(len(kinds), 12, generator=generator)


def test_groups_that_lie_apart_become_prototypes() -> None:
    found = clustered(collection(groups([30, 50, 0, 20], 0)), collection(groups([0, 40, 10, 10], 1)), 4)
    used = [np.sort(shares.sum(axis=0)).tolist() for shares in found.shares]
    assert used == [[0, 20, 30, 50], [0, 10, 10, 40]]
    together = np.stack([shares.sum(axis=0) for shares in found.shares])
    assert sorted(map(tuple, together.T.tolist())) == [(0, 10), (20, 10), (30, 0), (50, 40)]
    for shares, likeness in zip(found.shares, found.likeness, strict=True):
        assert (shares.sum(axis=1) == 1).all()
        assert ((likeness.toarray() > 0) == (shares.toarray() > 0)).all()


def test_a_small_collection_counts_as_much_as_a_large_one() -> None:
    large, small = groups([3000, 0, 0], 0), groups([0, 6, 6], 1)
    found = clustered(collection(large), collection(small), 3)
    assert np.sort(found.shares[1].sum(axis=0)).tolist() == [0, 6, 6]


def test_evened_rows_are_unit_vectors_whose_directions_are_evened_by_half() -> None:
    rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([16.0, 4.0, 1.0])
    turned, _ = evened(rows[:3000], rows[3000:])
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(3000))
    ratios = turned[:, :-1].abs().median(0).values / turned[:, 1:].abs().median(0).values
    assert ((ratios > 1.5) & (ratios < 2.5)).all()


def test_as_many_clusters_as_suit_the_number_of_images() -> None:
    found = clustered(collection(groups([100], 0)), collection(groups([100], 1)))
    assert found.shares[0].shape == (100, 10)


def test_images_that_are_all_the_same_are_one_prototype() -> None:
    found = clustered(collection(torch.ones(6, 4)), collection(torch.ones(3, 4)), 2)
    assert np.sort(found.shares[0].sum(axis=0)).tolist() == [0, 6]


def test_fewer_images_than_prototypes_are_refused() -> None:
    with pytest.raises(UserError, match="prototypes: 9 are asked for, and there are 4 images"):
        clustered(collection(torch.randn(2, 4)), collection(torch.randn(2, 4)), 9)


def test_a_method_is_asked_for_prototypes_of_its_own(
    encoder: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6):
        write_noise(tmp_path / f"{'ab'[index % 2]}/{index}.png", seed=index)

    def brightness(image: Tensor) -> Tensor:
        share = image.mean((1, 2, 3))
        return torch.stack([share, 1 - share, torch.zeros_like(share)], dim=1)

    monkeypatch.setattr(type(encoder), "prototype_shares", staticmethod(brightness), raising=False)
    sources: Any = (tmp_path / "a", tmp_path / "b")
    found = collections.assign(encoder, sources, batch_size=2)
    for images, shares in zip(found.images, found.shares, strict=True):
        expected = brightness(torch.stack([images[index]["image"] for index in range(3)]))
        np.testing.assert_allclose(shares.toarray(), expected.numpy(), rtol=1e-5)
    with pytest.raises(UserError, match="prototypes: the method has its own"):
        collections.assign(encoder, sources, prototypes=3)


def test_fewer_than_two_prototypes_are_refused_before_images_are_read(encoder: Method) -> None:
    with pytest.raises(UserError, match="prototypes: expected a whole number of 2 or more, got 1"):
        collections.assign(encoder, ("nowhere", "nowhere"), prototypes=1)
