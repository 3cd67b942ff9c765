import math
from typing import Any

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.mae_pre_pretraining import (
    MAEPrePretraining,
    drawn_by_content,
    weak_tag_loss,
    with_wrong_tags,
)
from pinakes.tasks.base import Batch

INFO = pinakes.DataInfo(3, (32, 32), ("a", "b", "c", "d"))


def batch_of(labels: list[int]) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(len(labels), 3, 32, 32), "label": torch.tensor(labels)}


class Watched(MAEPrePretraining):
    """Notes at each step whether tags, decoder and encoder have a gradient, and the learning rate."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.seen: list[list[bool]] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        parts = self.head, self.decoder.paint, self.encoder.network.blocks[0].mlp.fc1
        self.seen.append([each.weight.grad is not None for each in parts])
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_the_loss_is_the_mean_over_an_images_tags_of_their_cross_entropies() -> None:
    logits, tags = torch.randn(3, 4), torch.tensor([[0.0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    naive = [
        sum(-math.log(logits[row].softmax(0)[tag]) for tag in given) / len(given)
        for row, given in ((0, [1]), (1, [0, 2, 3]))
    ]
    torch.testing.assert_close(weak_tag_loss(logits, tags), torch.tensor(sum(naive) / 2))


def test_of_images_without_a_tag_nothing_is_learnt() -> None:
    method = MAEPrePretraining(pre_share=0.0, depth=1).prepare(INFO)
    loss = method.training_step(batch_of([-1, -1]), 0)
    loss.backward()
    assert loss == 0
    assert method.head.weight.grad is not None
    assert not method.head.weight.grad.any()
    mixed = batch_of([2, -1, 0])
    method.augmentation = "none"
    known = {name: value[[0, 2]] for name, value in mixed.items()}
    torch.testing.assert_close(method.training_step(mixed, 0), method.training_step(known, 0))


def test_tags_are_taken_where_the_data_have_them() -> None:
    method = MAEPrePretraining(depth=1).prepare(INFO)
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])
    assert torch.equal(method.tags_of(batch_of([0, 0]) | {"tags": tags}), tags)
    assert method.tags_of(batch_of([3, -1])).tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


def test_as_many_tags_are_wrong_as_asked_for_and_all_others_are_as_likely() -> None:
    image = torch.rand(6000, 1, 4, 4)
    label = torch.randint(4, (6000,))
    tags = functional.one_hot(label, 4).float()
    found = with_wrong_tags(tags, image, 0.3)
    assert torch.equal(found.sum(1), torch.ones(6000))
    further = (found.argmax(1) - label) % 4
    counts = torch.bincount(further, minlength=4) / 6000
    torch.testing.assert_close(counts, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=0.02, rtol=0)
    assert torch.equal(with_wrong_tags(tags, image, 0.0), tags)
    assert not (with_wrong_tags(tags, image, 1.0) * tags).any()


def test_the_same_image_always_has_the_same_wrong_tags() -> None:
    image = torch.rand(50, 3, 8, 8)
    order = torch.randperm(50)
    numbers = drawn_by_content(image, 6)
    assert torch.equal(numbers[order], drawn_by_content(image[order], 6))
    assert len(numbers.unique()) == 300
    # grey levels that differ by less than a file can hold are the same
    assert torch.equal(numbers, drawn_by_content(((image * 255).round() / 255), 6))


def test_the_numbers_are_those_of_splitmix() -> None:
    def splitmix(state: int) -> int:
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    black = torch.zeros(1, 3, 4, 4)  # whose hash is 0
    expected = [splitmix(number * 0x9E3779B97F4A7C15 % 2**64) >> 33 for number in range(1, 5)]
    assert drawn_by_content(black, 4).tolist() == [expected]


def test_the_first_stage_paints_and_the_second_trains_the_whole_encoder_on_tags() -> None:
    method = Watched(pre_share=0.6, depth=1).fit("digits?n=40", steps=5, batch_size=4)
    assert method.seen == [[False, True, True]] * 3 + [[True, False, True]] * 2
    assert method.rates[0] < method.rates[1] > method.rates[2]
    assert method.rates[3] < method.rates[4]


def test_with_a_share_of_one_it_is_a_masked_autoencoder() -> None:
    def trained(method: MAE) -> dict[str, torch.Tensor]:
        method.prepare(INFO)
        plain = MAE(depth=1).prepare(INFO, seed=3)
        method.load_state_dict(plain.state_dict(), strict=False)
        torch.manual_seed(0)
        loss = method.training_step(batch, 0)
        return {"loss": loss, "painted": method.painted(batch["image"])["reconstruction"]}

    batch: Batch = batch_of([0, 1])
    ours, theirs = trained(MAEPrePretraining(pre_share=1.0, depth=1)), trained(MAE(depth=1))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert MAEPrePretraining(depth=1).prepare(INFO).painted(batch["image"]) == {}


def test_a_time_limit_alone_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="trains in stages"):
        MAEPrePretraining(depth=1).fit("digits?n=40", steps=10**9, time_limit=1)


def test_data_without_tags_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="tags"):
        MAEPrePretraining().prepare(pinakes.DataInfo(3, (32, 32)))


@pytest.mark.parametrize("options", [{"pre_share": 1.5}, {"wrong_tags": -0.1}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        MAEPrePretraining(**options)
