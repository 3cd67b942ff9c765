"""The k-th nearest neighbour against scikit-learn, and the bank that a fit keeps."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from pinakes import UserError, load_data
from pinakes.papers.anomaly.deep_knn_ood import DeepKNN, knn_score, unit_features

BACKBONE = "pinakes/tiny_conv@random"


@pytest.mark.parametrize("k", [1, 7, 300])
def test_score_equals_the_distance_by_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = unit_features(torch.rand(300, 12, generator=generator, dtype=torch.float64))
    queries = unit_features(torch.rand(20, 12, generator=generator, dtype=torch.float64))
    distances, _ = NearestNeighbors().fit(bank.numpy()).kneighbors(queries.numpy(), n_neighbors=k)
    expected = torch.from_numpy(distances[:, -1])
    torch.testing.assert_close(knn_score(queries, bank, k), expected, rtol=0, atol=1e-12)


def test_unit_features_have_length_one_whatever_the_norm_was_and_zeros_stay() -> None:
    features = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(unit_features(features), expected)


def test_a_row_of_the_bank_is_its_own_nearest_neighbour_exactly() -> None:
    bank = unit_features(torch.rand(50, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(knn_score(bank, bank, 1), torch.zeros(50))


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_that_the_bank_does_not_have_is_named(k: int) -> None:
    with pytest.raises(ValueError, match="k: expected 1 to 3"):
        knn_score(torch.rand(1, 2), torch.rand(3, 2), k)


@pytest.mark.parametrize(("alpha", "rows"), [(1.0, 28), (0.25, 7), (0.001, 1)])
def test_bank_keeps_that_share_of_the_training_images(alpha: float, rows: int) -> None:
    data = load_data("digits?n=40", task="ood")
    detector = DeepKNN(alpha=alpha, backbone=BACKBONE).fit(data, steps=1, batch_size=4, hold_out=0)
    images = torch.stack([data.train[i]["image"] for i in range(len(data.train))])
    with torch.no_grad():
        every = unit_features(detector.classifier.features(images))
    assert len(detector.bank) == rows
    distance, which = torch.cdist(detector.bank, every).min(1)
    assert (distance < 1e-3).all()
    assert len(set(which.tolist())) == rows


def test_detector_scores_the_distance_to_the_kth_training_image_or_the_farthest() -> None:
    data = load_data("digits?n=40", task="ood")
    image = torch.stack([data.test[i]["image"] for i in range(3)])  # type: ignore[index]  # digits have a test part
    for k, place in ((3, 2), (1000, -1)):
        detector = DeepKNN(k=k, backbone=BACKBONE).fit(data, steps=1, batch_size=4, hold_out=0)
        with torch.no_grad():
            features = detector.classifier.features(image)
            logits = detector.classifier(image)
        expected = torch.cdist(unit_features(features).double(), detector.bank.double()).sort(1).values
        found = detector.predict(image)
        torch.testing.assert_close(found["score"].double(), expected[:, place], rtol=0, atol=1e-5)
        assert torch.equal(found["label"], logits.argmax(1))


@pytest.mark.parametrize("option", [{"k": 0}, {"alpha": 0.0}, {"alpha": 1.1}, {"learning_rate": 0.0}])
def test_an_option_out_of_range_is_named(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        DeepKNN(**option)  # type: ignore[arg-type]
