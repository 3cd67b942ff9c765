"""PatchCore's parts against naive loops."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pinakes import UserError, load_data
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


def test_a_stream_of_more_patches_than_the_limit_fills_the_bank_from_all_images() -> None:
    data = load_data("textures?size=32&n=8", task="anomaly")
    whole, bounded = (
        PatchCore(coreset_ratio=1.0).fit(data),
        PatchCore(coreset_ratio=1.0, bank_limit=40).fit(data),
    )
    assert len(whole.bank) > 2 * 40 >= len(bounded.bank) >= 20
    assert nearest_neighbours(bounded.bank, whole.bank)[0].max() == 0
    farthest = torch.cdist(whole.bank, whole.bank).max()
    assert nearest_neighbours(whole.bank, bounded.bank)[0].max() < farthest / 2


def test_a_bank_within_the_limit_is_the_greedy_coreset_of_all_patches() -> None:
    data = load_data("textures?size=32&n=8", task="anomaly")
    patches = PatchCore(coreset_ratio=1.0).fit(data).bank
    found = PatchCore(coreset_ratio=0.25).fit(data, seed=3).bank
    chosen = greedy_coreset(patches, len(found), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, patches[chosen])


def test_the_score_is_that_of_the_worst_patch_as_the_equations_say() -> None:
    data = load_data("textures?size=32&n=8", task="anomaly")
    detector = PatchCore(neighbours=3).fit(data)
    image = torch.stack([data.test[index]["image"] for index in range(4)])
    bank, described = detector.bank.double().numpy(), detector.describe(image).double()
    for features, score in zip(described, detector.predict(image)["score"], strict=True):
        patches = features.flatten(1).T.numpy()
        distances = cdist(patches, bank)
        worst = distances.min(axis=1).argmax()
        nearest = distances[worst].argmin()
        around = np.argsort(cdist(bank[[nearest]], bank)[0])[:3]
        weight = 1 - np.exp(distances[worst, nearest]) / np.exp(distances[worst, around]).sum()
        assert score.item() == pytest.approx(weight * distances[worst, nearest], rel=1e-3)


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
        ({"bank_limit": 1}, "bank_limit"),
        ({"search": "annoy"}, "search"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        PatchCore(**options)  # type: ignore[arg-type]
