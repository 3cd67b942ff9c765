"""Three tasks at a time: tags, hidden patches and views."""

import math

import pytest
import torch
from torch import Tensor

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.papers.self_supervised.heuristic import HeuristicPreTraining, multi_label_loss, present

INFO = DataInfo(3, (16, 16), ("a", "b", "c"))
TINY = {"embed_dim": 32, "depth": 1, "decoder_embed_dim": 32, "decoder_depth": 1}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def batch() -> dict[str, Tensor]:
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"image": image, "tags": torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])}


def test_loss_of_tags_is_that_of_a_loop() -> None:
    logits, tags = random(3, 4), (random(3, 4) > 0).float()
    expected = 0.0
    for row, truth in zip(logits.tolist(), tags.tolist(), strict=True):
        for logit, tag in zip(row, truth, strict=True):
            chance = 1 / (1 + math.exp(-logit))
            expected -= (tag * math.log(chance) + (1 - tag) * math.log(1 - chance)) / 12
    assert float(multi_label_loss(logits, tags)) == pytest.approx(expected, rel=1e-5)


def test_images_without_known_tags_do_not_count() -> None:
    logits, tags = random(4, 3).requires_grad_(), torch.ones(4, 3)
    multi_label_loss(logits, tags, torch.tensor([True, False, True, False])).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).bool().tolist() == [True, False, True, False]


def test_tags_are_the_classes_that_have_a_pixel() -> None:
    data = load_data("scenes:segmentation?size=32&n=8", task="representation")
    semantic = torch.stack([data.train[i]["semantic"] for i in range(8)])
    semantic[:, :3] = -1
    found = present(semantic, len(data.classes))
    for row, picture in zip(found, semantic, strict=True):
        assert row.nonzero()[:, 0].tolist() == [c for c in picture.unique().tolist() if c >= 0]


def test_tags_are_taken_from_what_there_is() -> None:
    method = HeuristicPreTraining(**TINY).prepare(INFO)
    label = torch.tensor([2, -1])
    tags, known = method.tags_of({"label": label})
    assert tags[0].tolist() == [0, 0, 1]
    assert known.tolist() == [True, False]
    semantic = torch.tensor([[[0, 2]], [[-1, -1]]])
    tags, known = method.tags_of({"semantic": semantic, "label": label})
    assert tags.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert known.tolist() == [True, False]
    tags, known = method.tags_of({"tags": torch.eye(3)[:2], "label": label})
    assert tags.tolist() == torch.eye(3)[:2].tolist()
    assert known.all()


def test_each_task_counts_by_its_weight() -> None:
    options = {"tags_weight": 1.0, "masked_weight": 1.0, "contrast_weight": 0.2}

    def loss(**weights: float) -> float:
        method = HeuristicPreTraining(**TINY, **options).prepare(INFO)
        for name, value in weights.items():
            setattr(method, name, value)
        torch.manual_seed(0)
        return method.training_step(batch(), 0).item()

    nothing = {f"{name}_weight": 0.0 for name in ("tags", "masked", "contrast")}
    alone = {name: loss(**(nothing | {name: 1.0})) for name in nothing}
    assert all(value > 0 for value in alone.values())
    assert loss() == pytest.approx(sum(options[name] * alone[name] for name in nothing), rel=1e-5)
    assert loss(tags_weight=3.0) - loss() == pytest.approx(2 * alone["tags_weight"], rel=1e-4)


def test_views_are_those_of_the_contrastive_loss() -> None:
    method = HeuristicPreTraining(tags_weight=0.0, masked_weight=0.0, contrast_weight=1.0, **TINY).prepare(
        INFO
    )
    image = batch()["image"]
    torch.manual_seed(0)
    found = method.training_step({"image": image}, 0)
    torch.manual_seed(0)
    views = torch.cat([method.view(image), method.view(image)])
    one, other = method.views_head(method.encode(views)["embedding"]).chunk(2)
    torch.testing.assert_close(found, nt_xent_loss(one, other, method.temperature))


def test_a_task_that_is_left_out_has_no_head() -> None:
    names = dict(HeuristicPreTraining(masked_weight=0.0, **TINY).prepare(INFO).named_children())
    assert "decoder" not in names
    assert {"tags_head", "views_head"} <= set(names)


def test_without_tags_the_data_need_none() -> None:
    depth = "scenes:depth?size=32&n=8"
    with pytest.raises(UserError, match="two or more, got 0"):
        HeuristicPreTraining(**TINY).fit(depth, steps=1)
    HeuristicPreTraining(tags_weight=0.0, **TINY).fit(depth, steps=1, batch_size=4)


@pytest.mark.parametrize(
    "option",
    [
        {"tags_weight": -1.0},
        {"masked_weight": -1.0},
        {"contrast_weight": -1.0},
        {"mask_ratio": 1.0},
        {"temperature": 0.0},
        {"projection": 0},
        {"patch": 0},
        {"embed_dim": 33},
        {"depth": 0},
        {"decoder_embed_dim": 31},
        {"decoder_depth": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        HeuristicPreTraining(**option)


def test_at_least_one_task_is_needed() -> None:
    with pytest.raises(UserError, match="all are 0"):
        HeuristicPreTraining(tags_weight=0.0, masked_weight=0.0, contrast_weight=0.0)
