import csv
from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.nn.collapse import effective_rank, spread, uniformity
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.simclr import SimCLR

INFO = pinakes.DataInfo(3, (32, 32))


class InStages(MAE):
    """Three stages, of which the second is empty."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        super().__init__(depth=1)
        self.shares = shares
        self.begun: list[tuple[int, int]] = []

    def stage_shares(self) -> tuple[float, ...]:
        return self.shares

    def begin_stage(self, stage: int) -> None:
        self.begun.append((stage, self.global_step))


def course(shares: tuple[float, ...], total: int) -> tuple[list[int], list[float]]:
    """The stage and the learning rate of every step."""
    method = InStages(shares).prepare(INFO)
    method.total_steps = lambda: total  # type: ignore[method-assign]  # as a trainer would say
    found = method.configure_optimizers()
    schedule = found["lr_scheduler"]["scheduler"]
    heights = []
    for _ in range(total):
        heights.append(schedule.get_last_lr()[0] / method.learning_rate)
        found["optimizer"].step()
        schedule.step()
    return method.first_steps(), heights


@pytest.mark.parametrize(
    ("shares", "total", "firsts"),
    [
        ((1 / 3, 1 / 3, 1 / 3), 9, [0, 3, 6, 9]),
        ((1 / 3, 1 / 3, 1 / 3), 7, [0, 3, 5, 7]),
        ((0.1, 0.2, 0.7), 10, [0, 1, 3, 10]),
        ((0.0, 1.0), 10, [0, 0, 10]),
        ((1.0, 0.0), 10, [0, 10, 10]),
    ],
)
def test_stages_follow_one_another(shares: tuple[float, ...], total: int, firsts: list[int]) -> None:
    assert course(shares, total)[0] == firsts


def test_the_learning_rate_rises_and_falls_in_each_stage() -> None:
    _, heights = course((0.5, 0.5), 40)
    assert heights[:20] == heights[20:]
    assert max(heights) == pytest.approx(1)
    assert heights[0] < 0.1
    assert heights[19] < 0.1


def test_a_stage_is_begun_once_and_with_fresh_statistics() -> None:
    method = InStages((0.5, 0.25, 0.25)).fit("digits?n=40", steps=8, batch_size=8)
    assert method.begun == [(1, 4), (2, 6)]


def test_stages_of_a_length_that_nobody_knows_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="trains in stages"):
        InStages((0.5, 0.5)).fit("digits?n=40", steps=10**9, time_limit=1)


def test_the_log_tells_how_embeddings_spread(tmp_path: Path) -> None:
    method = SimCLR().fit("digits?n=40&size=32", steps=3, batch_size=8, out=tmp_path)
    with (tmp_path / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["step"] == "3"
    data = pinakes.load_data("digits?n=40&size=32", task="representation")
    images = torch.stack([data.train[place]["image"] for place in range(40)])
    embedding = method.predict(images)["embedding"]
    for name, function in (("rank", effective_rank), ("spread", spread), ("uniformity", uniformity)):
        assert float(last[name]) == pytest.approx(float(function(embedding)), rel=1e-3), name
    assert 0 <= float(last["knn"]) <= 1
    assert 0 <= float(last["alignment"]) <= 4


def test_embeddings_of_images_without_labels_are_not_asked_for_neighbours() -> None:
    method = SimCLR().prepare(INFO)
    image = torch.rand(4, 3, 32, 32)
    assert "knn" not in method.spread_of_embeddings({"image": image, "label": torch.tensor([0, 1, -1, 1])})
    assert "knn" in method.spread_of_embeddings({"image": image, "label": torch.tensor([0, 1, 0, 1])})
    assert method.training


def test_views_are_drawn_in_the_same_way_every_time() -> None:
    method = SimCLR().prepare(INFO)
    image = torch.rand(2, 3, 32, 32)
    state = torch.get_rng_state()
    first, second = method.painted(image), method.painted(image)
    assert torch.equal(first["view"], second["view"])
    assert not torch.equal(first["view"], first["view_2"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"least_area": 0.0}, {"colour": 2.0}, {"grey": -0.1}, {"blur": 1.1}])
def test_view_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SimCLR(**options)  # type: ignore[arg-type]
