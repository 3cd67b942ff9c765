"""Images restored from what was measured of them: projections, and a way that starts late."""

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes import tasks
from pinakes.nn.degradations import downsampled, kept_columns, zero_filled
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.papers.diffusion.ccdf import (
    CCDF,
    FewerPixels,
    KnownColumns,
    KnownPixels,
    Project,
    come_closer_path,
    consistent,
    late_steps,
)
from pinakes.tasks.base import Batch

SMALL = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 10}
ALPHA_BAR = alpha_bar_schedule(1000).double()


def images(count: int = 2, size: tuple[int, int] = (12, 10), seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(width: int, count: int = 2) -> torch.Tensor:
    return torch.stack([kept_columns(width, torch.Generator().manual_seed(seed)) for seed in range(count)])


PROJECTIONS = {
    "four times fewer pixels": FewerPixels((12, 10), 4).project,
    "half the pixels": FewerPixels((12, 10), 2).project,
    "known pixels": KnownPixels(images()[:, 0] < 0.5).project,
    "known columns": KnownColumns(columns(10)).project,
}


@pytest.mark.parametrize("project", PROJECTIONS.values(), ids=PROJECTIONS)
def test_a_measurement_is_an_orthogonal_projection_and_so_is_what_it_leaves(project: Project) -> None:
    one, other = images(seed=1), images(seed=2)
    known = project(one)
    torch.testing.assert_close(project(known), known, rtol=0, atol=1e-12)
    # symmetric, so what is left is at right angles to it
    assert float((known * other).sum()) == pytest.approx(float((one * project(other)).sum()), abs=1e-10)
    apart = one - other
    left = apart - project(apart)
    assert 0 < left.norm() < apart.norm()
    assert float(left.square().sum() + project(apart).square().sum()) == pytest.approx(
        float(apart.square().sum())
    )


@pytest.mark.parametrize(("size", "factor"), [((12, 10), 2), ((16, 16), 4), ((17, 30), 4)])
def test_images_that_agree_in_the_projection_shrink_to_the_same(size: tuple[int, int], factor: int) -> None:
    image = images(size=size)
    small = [side // factor for side in size]
    shrunk = functional.interpolate(image, small, mode="bicubic", antialias=True)
    found = FewerPixels(size, factor).project(image)
    again = functional.interpolate(found, small, mode="bicubic", antialias=True)
    torch.testing.assert_close(again, shrunk, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "factor"), [((12, 10), 2), ((16, 16), 4), ((17, 30), 4)])
def test_what_was_measured_is_found_again_in_an_enlarged_image(size: tuple[int, int], factor: int) -> None:
    image, measurement = images(size=size), FewerPixels(size, factor)
    enlarged = torch.stack([downsampled(each, factor) for each in image])
    torch.testing.assert_close(measurement.enlarged(image), enlarged, rtol=0, atol=1e-10)
    torch.testing.assert_close(measurement.given(enlarged), measurement.project(image), rtol=0, atol=1e-8)


def test_known_columns_of_complex_images_are_those_that_were_measured() -> None:
    image, kept = images()[:1] + 1j * images(seed=1)[:1], columns(10, 1)
    found = KnownColumns(kept).project(image)
    spectrum = torch.fft.fftshift(torch.fft.fft2(found), dim=-1)
    true = torch.fft.fftshift(torch.fft.fft2(image), dim=-1)
    torch.testing.assert_close(spectrum, torch.where(kept[0], true, torch.zeros(())))
    torch.testing.assert_close(
        zero_filled(image[0].real, kept[0]), KnownColumns(kept).project(image.real + 0j)[0].abs()
    )


def test_of_a_real_image_a_column_tells_the_opposite_one() -> None:
    image = images()[:1]
    kept = torch.zeros(1, 10, dtype=torch.bool)
    kept[0, 7] = True
    spectrum = torch.fft.fftshift(torch.fft.fft2(KnownColumns(kept).project(image)), dim=-1)
    assert (spectrum.abs().amax((0, 1, 2)) > 1e-9).nonzero().flatten().tolist() == [3, 7]


def test_consistency_leaves_no_more_than_the_distance_and_puts_the_measurement_in_its_place() -> None:
    measurement = FewerPixels((12, 10), 2)
    one, other, clean, noise = (images(seed=seed) for seed in range(4))
    given = measurement.project(clean)
    for alpha_bar in (torch.tensor(1.0, dtype=torch.float64), ALPHA_BAR[300]):
        first, second = (
            consistent(each, given, measurement.project, alpha_bar, noise) for each in (one, other)
        )
        assert (first - second).norm() <= (one - other).norm()
        expected = measurement.project(alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise)
        torch.testing.assert_close(measurement.project(first), expected)


def best(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean of x_0 given x_t, where pixels are normal and independent."""
    kept = ALPHA_BAR[t[0]]
    return 0.5 + kept.sqrt() * 0.09 / (kept * 0.09 + 1 - kept) * (noised - kept.sqrt() * 0.5)


def restored(estimate: torch.Tensor, clean: torch.Tensor, t0: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    project = FewerPixels((12, 10), 2).project

    def draw() -> torch.Tensor:
        return torch.randn(estimate.shape, generator=generator, dtype=torch.float64)

    steps = late_steps(1000, 100, t0)
    path = come_closer_path(best, estimate, project(clean), project, ALPHA_BAR, steps, draw)
    assert len(path) == len(steps) == round(100 * t0) + 1
    torch.testing.assert_close(project(path[-1]), project(clean))
    return path[-1]


def test_two_first_estimates_come_nearer_the_later_steps_begin_to_differ() -> None:
    clean = images(seed=3)
    apart = [
        float((restored(images(seed=4), clean, t0) - restored(clean, clean, t0)).norm())
        for t0 in (0.05, 0.2, 0.5)
    ]
    assert float((images(seed=4) - clean).norm()) > apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.05 * apart[0]


def test_the_last_steps_of_the_way_are_taken() -> None:
    assert late_steps(1000, 5, 1.0) == [1000, 800, 600, 400, 200, 0]
    assert late_steps(1000, 5, 0.4) == [400, 200, 0]
    assert late_steps(1000, 5, 0.01) == [200, 0]


def some(spec: str = "digits?n=40&size=16", count: int = 3) -> Batch:
    data = pinakes.load_data(spec, task="restoration")
    return tasks.get("restoration").collate([data.test[place] for place in range(count)])


@pytest.fixture(scope="module")
def method() -> CCDF:
    return CCDF(**SMALL).fit("digits?n=40&size=16", steps=2, batch_size=8)


def test_restored_images_shrink_to_what_was_measured(method: CCDF) -> None:
    batch = some()
    estimate = method.encode(batch["image"])
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    with torch.no_grad():
        found = method.restoring_path(batch, None, generators)[-1]
    measurement = FewerPixels((16, 16), 4)
    torch.testing.assert_close(measurement.project(found), measurement.given(estimate), rtol=0, atol=1e-4)


def test_the_network_is_asked_for_the_last_steps_alone(method: CCDF) -> None:
    asked: list[int] = []
    handle = method.averaged.network.register_forward_pre_hook(
        lambda _, inputs: asked.append(int(inputs[1][0]))
    )
    method.predict(some())
    handle.remove()
    assert asked == [200, 100]


def test_images_that_were_degraded_otherwise_are_refused() -> None:
    for options, degradation in (
        ({}, "blur"),
        ({}, "downsample2"),
        ({"measurement": "downsample2"}, "downsample4"),
    ):
        with pytest.raises(pinakes.UserError, match=r"measurement: .*degradation=downsample"):
            CCDF(**SMALL, **options).fit(
                f"digits?n=40&size=16&degradation={degradation}", steps=1, batch_size=8
            )


@pytest.mark.parametrize("options", [{"t0": 0.0}, {"t0": 1.5}, {"sampling_steps": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CCDF(**options)  # type: ignore[arg-type]
