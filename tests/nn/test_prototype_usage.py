import torch

from pinakes.nn.prototype_usage import information, specificity, token_shares


def test_shares_are_counts_over_the_number_of_tokens() -> None:
    prototype = torch.randint(0, 7, (5, 12), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torch.bincount(row, minlength=7) / 12 for row in prototype])
    torch.testing.assert_close(token_shares(prototype, 7), expected)


def test_specificity_changes_its_sign_with_the_order_and_trusts_few_images_less() -> None:
    first, second = torch.tensor([0.3, 0.0, 0.02, 0.0]), torch.tensor([0.1, 0.4, 0.0, 0.0])
    found = specificity(first, second, (50, 50))
    torch.testing.assert_close(specificity(second, first, (50, 50)), -found)
    assert found.abs().max() < 1
    assert found[3] == 0
    assert found[2] < specificity(first, second, (5000, 5000))[2]


def test_information_sums_to_the_divergence_of_the_first_from_the_second() -> None:
    first, second = torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    expected = (first * (first / second).log2()).sum()
    torch.testing.assert_close(information(first, second, (10**7, 10**7)).sum(), expected, rtol=1e-4, atol=0)
