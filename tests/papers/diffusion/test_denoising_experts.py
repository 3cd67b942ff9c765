import pytest
import torch
from torch import nn

import pinakes
from pinakes.papers.diffusion.base import CLAIMED
from pinakes.papers.diffusion.ddpm import DDPM
from pinakes.papers.diffusion.denoising_experts import (
    DenoisingExperts,
    ExpertMixture,
    expert_of,
    key_region_error,
    region_of_boxes,
    spread_steps,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))


def small(**options: object) -> DenoisingExperts:
    return DenoisingExperts(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


class Constant(nn.Module):
    """Answers the same number everywhere, and counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))
        self.asked = 0

    def forward(self, image: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        self.asked += len(image)
        return self.value + 0 * image + (0 if label is None else label.view(-1, 1, 1, 1))


def constants(experts: int) -> ExpertMixture:
    mixture = ExpertMixture(Constant(), experts, 1000)
    for number, expert in enumerate(mixture.experts):
        nn.init.constant_(expert.value, 10.0 * number)
    return mixture


@pytest.mark.parametrize(("steps", "experts"), [(1000, 4), (10, 3), (7, 7), (5, 1)])
def test_each_expert_has_one_block_of_steps_of_about_the_same_length(steps: int, experts: int) -> None:
    found = expert_of(torch.arange(1, steps + 1), steps, experts)
    assert found.tolist() == sorted(found.tolist())
    counts = found.bincount(minlength=experts)
    assert counts.sum() == steps
    assert counts.max() - counts.min() <= 1


def test_every_image_is_answered_by_the_expert_for_its_step() -> None:
    mixture = constants(4)
    t = torch.tensor([900, 1, 600, 251, 250, 1000, 500])
    label = torch.arange(7)
    found = mixture(torch.rand(7, 2, 3, 3), t, label)
    expected = 10 * expert_of(t, 1000, 4) + label
    torch.testing.assert_close(found, expected.view(-1, 1, 1, 1).expand(7, 2, 3, 3).float())


def test_images_cost_what_they_cost_with_one_network() -> None:
    mixture = constants(4)
    mixture(torch.rand(7, 2, 3, 3), torch.tensor([900, 1, 600, 251, 250, 1000, 500]))
    assert sum(expert.asked for expert in mixture.experts) == 7
    counts = [
        sum(p.numel() for p in small(experts=experts).network.parameters()) / experts for experts in (1, 4)
    ]
    assert counts[0] == counts[1]


def test_one_step_lies_in_each_part_and_all_steps_are_as_likely() -> None:
    torch.manual_seed(0)
    for count in (1, 4, 64):
        drawn = torch.stack([spread_steps(count, 1000) for _ in range(2000)])
        assert drawn.min() >= 1
        assert drawn.max() <= 1000
        if count == 64:
            assert (expert_of(drawn.flatten(), 1000, 4).view(-1, 64) == torch.arange(64) // 16).all()
        # four standard errors of the mean of 2000 even draws
        assert drawn.double().mean().item() == pytest.approx(500.5, abs=4 * 289 / 2000**0.5)


def test_errors_in_key_regions_count_more_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    region = torch.rand(2, 4, 5, generator=generator) < 0.4
    found = key_region_error(error, region, 0.7)
    for sample in range(2):
        total = 0.0
        for channel, row, column in torch.cartesian_prod(*map(torch.arange, (3, 4, 5))).tolist():
            weight = 1.7 if region[sample, row, column] else 1.0
            total += weight * error[sample, channel, row, column].item() ** 2
        assert found[sample].item() == pytest.approx(total / 60)
    plain = error.square().flatten(1).mean(1)
    torch.testing.assert_close(key_region_error(error, region, 0.0), plain)


def test_boxes_cover_the_pixels_whose_middle_they_hold() -> None:
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [3.6, 2.4, 4.4, 3.0]])
    assert region_of_boxes(boxes, 3, 5).int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert not region_of_boxes(torch.zeros(0, 4), 3, 5).any()


def test_masks_of_the_data_say_where_errors_count_more() -> None:
    batch = {"image": torch.rand(4, 1, 8, 8), "label": torch.zeros(4, dtype=torch.int64)}
    everywhere = {"mask": torch.ones(4, 8, 8, dtype=torch.bool)}
    losses = []
    for method, more in (
        (small(region_weight=0.5), {}),
        (small(region_weight=0.5), everywhere),
        (small(region_weight=0.0), everywhere),
    ):
        torch.manual_seed(0)
        losses.append(method.training_step(batch | more, 0).item())
    assert losses[1] == pytest.approx(1.5 * losses[0])
    assert losses[2] == pytest.approx(losses[0])


def test_masks_are_mirrored_with_their_images() -> None:
    method, seen = small(mirror=True, classes=False), []

    def looked_at(clean: torch.Tensor, label: None, region: torch.Tensor) -> torch.Tensor:
        seen.append((clean, region))
        return clean.mean()

    method.loss = looked_at  # type: ignore[assignment, method-assign]
    mask = torch.rand(40, 8, 8) < 0.5
    method.training_step({"image": mask[:, None].float(), "mask": mask}, 0)
    clean, region = seen[0]
    assert torch.equal(clean[:, 0] > 0, region)
    assert not torch.equal(region, mask)


def test_experts_learn_as_one_at_first_and_apart_then() -> None:
    for together, alike in ((0.99, True), (0.5, False), (0.0, False)):
        method = DenoisingExperts(together=together, **SMALL)  # type: ignore[arg-type]
        method.fit("digits?n=40", steps=4, batch_size=8)
        first, *others = (nn.utils.parameters_to_vector(each.parameters()) for each in method.network.experts)
        assert all(torch.equal(first, other) == alike for other in others)


def test_as_long_as_they_learn_as_one_they_are_one_network() -> None:
    options = SMALL | {"together": 0.99}
    four, one = (
        DenoisingExperts(experts=experts, **options).fit("digits?n=40", steps=3, batch_size=8)  # type: ignore[arg-type]
        for experts in (4, 1)
    )
    torch.testing.assert_close(four.sample(2, seed=0), one.sample(2, seed=0))


def test_one_expert_is_ddpm_but_for_the_spread_of_its_steps() -> None:
    method, ddpm = small(experts=1), DDPM(**SMALL).prepare(INFO).eval()  # type: ignore[arg-type]
    ddpm.network.load_state_dict(method.network.experts[0].state_dict())
    ddpm.averaged.network.load_state_dict(method.averaged.network.experts[0].state_dict())
    torch.testing.assert_close(method.sample(2, seed=0), ddpm.sample(2, seed=0))
    assert DenoisingExperts(**CLAIMED).T == DDPM(**CLAIMED).T


@pytest.mark.parametrize(
    "options", [{"experts": 0}, {"experts": 5, "T": 4}, {"together": 1.0}, {"region_weight": -0.1}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    given = {"sampling_steps": 2} | options
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DenoisingExperts(**given)  # type: ignore[arg-type]
