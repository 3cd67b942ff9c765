"""Samplers of Gaussian diffusion: from noise back to images, by any network that foretells what is clean.

All take a function from x_t and t, one number for each sample, to an estimate of x_0, and go from the first to the last
of a falling list of steps:

    steps = spaced_steps(1000, count=50)
    path = ddim_path(denoise, torch.randn(8, 3, 32, 32), alpha_bar, steps)
    images = path[-1]

Noise is drawn by a function that is handed in, so that one generator, or one for each sample, can serve.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.nn.gaussian_diffusion import posterior

Denoise = Callable[[Float[Tensor, "batch *shape"], Int[Tensor, " batch"]], Float[Tensor, "batch *shape"]]
"""From x_t and t to an estimate of x_0."""
Draw = Callable[[], Float[Tensor, "batch *shape"]]
"""Gives noise like x_t, new every time."""
ROUNDS = 10
"""How often the network is asked for one step backwards."""


def spaced_steps(total: int, count: int) -> list[int]:
    """Steps from the last to 0, evenly spaced.

    Args:
        total: T, the steps of training.
        count: How many times the network is to be asked, 1 to T.

    Raises:
        ValueError: If the count is out of range.

    Example:
        >>> spaced_steps(1000, 4)
        [1000, 750, 500, 250, 0]
    """
    if not 1 <= count <= total:
        raise ValueError(f"count: expected 1 to {total}, got {count}")
    return [round(total * left / count) for left in range(count, -1, -1)]


def estimated_noise(
    noised: Float[Tensor, "batch *shape"], clean: Float[Tensor, "batch *shape"], alpha_bar: Float[Tensor, ""]
) -> Float[Tensor, "batch *shape"]:
    """The noise that x_t holds if x_0 is as estimated."""
    return (noised - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def ancestral_step(
    noised: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, ""],
    earlier: Float[Tensor, ""],
    noise: Float[Tensor, "batch *shape"],
    large_variance: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """A draw of x_s from q(x_s | x_t, x_0) with the estimate in the place of x_0.

    Args:
        noised: x_t.
        clean: The estimate of x_0.
        alpha_bar: alpha_bar_t, below 1.
        earlier: alpha_bar_s, of the step that is gone to.
        noise: A draw from a normal distribution.
        large_variance: Whether the variance is beta_t, the larger of the paper's two choices, rather than that of the
            posterior.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv:2006.11239), algorithm 2.
    """
    mean, variance = posterior(noised, clean, alpha_bar, earlier)
    if large_variance:
        variance = 1 - alpha_bar / earlier
    # the last step leads to the clean image, and adds nothing
    return mean + torch.where(earlier < 1, variance, torch.zeros_like(variance)).sqrt() * noise


def ddim_step(
    noised: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, ""],
    other: Float[Tensor, ""],
    eta: float = 0.0,
    noise: Float[Tensor, "batch *shape"] | None = None,
) -> Float[Tensor, "batch *shape"]:
    """From x_t to x_s along the same noise; s may lie before t, or after it to go from images to noise.

    Args:
        noised: x_t.
        clean: The estimate of x_0.
        alpha_bar: alpha_bar_t, below 1.
        other: alpha_bar_s.
        eta: How much of the noise is new, from 0 for none to 1 for as much as in ancestral sampling.
        noise: A draw from a normal distribution, where eta is above 0.

    Source: Song et al., Denoising Diffusion Implicit Models, ICLR 2021 (arXiv:2010.02502), equations 12 and 16.
    """
    direction = estimated_noise(noised, clean, alpha_bar)
    if not eta:
        return other.sqrt() * clean + (1 - other).sqrt() * direction
    assert noise is not None, "new noise is wanted, and none is given"
    deviation = eta * ((1 - other) / (1 - alpha_bar)).sqrt() * (1 - alpha_bar / other).sqrt()
    kept = (1 - other - deviation.square()).clamp(min=0).sqrt()
    return other.sqrt() * clean + kept * direction + deviation * noise


def ancestral_path(
    denoise: Denoise,
    start: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
    draw: Draw,
    large_variance: bool = False,
) -> list[Float[Tensor, "batch *shape"]]:
    """From noise to images by draws from the reverse process.

    Args:
        denoise: The network.
        start: x_t of the first step, for the last one of training noise alone.
        alpha_bar: Of all steps of training, as `alpha_bar_schedule` gives it.
        steps: Falling numbers, as `spaced_steps` gives them.
        draw: Noise of the form of `start`.
        large_variance: As in `ancestral_step`.

    Returns:
        x of all steps, the first `start` and the last the images.
    """
    path = [start]
    for t, s in pairwise(steps):
        clean = denoise(path[-1], torch.full((len(start),), t, device=start.device))
        path.append(ancestral_step(path[-1], clean, alpha_bar[t], alpha_bar[s], draw(), large_variance))
    return path


def ddim_path(
    denoise: Denoise,
    start: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
    eta: float = 0.0,
    draw: Draw | None = None,
) -> list[Float[Tensor, "batch *shape"]]:
    """From noise to images along the same noise.

    Args:
        denoise: The network.
        start: x_t of the first step.
        alpha_bar: Of all steps of training, as `alpha_bar_schedule` gives it.
        steps: Falling numbers.
        eta: How much of the noise is new, 0 to 1.
        draw: Noise of the form of `start`, where eta is above 0.

    Returns:
        x of all steps, the first `start` and the last the images.
    """
    path = [start]
    for t, s in pairwise(steps):
        clean = denoise(path[-1], torch.full((len(start),), t, device=start.device))
        noise = draw() if draw is not None and eta else None
        path.append(ddim_step(path[-1], clean, alpha_bar[t], alpha_bar[s], eta, noise))
    return path


def dpm_solver_path(
    denoise: Denoise,
    start: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    count: int,
) -> list[Float[Tensor, "batch *shape"]]:
    """From noise to images along the same noise by DPM-Solver++ of second order, which needs few steps; by diffusers.

    Args:
        denoise: The network.
        start: x_T.
        alpha_bar: Of all steps of training, as `alpha_bar_schedule` gives it.
        count: How many times the network is asked, 1 to T.

    Returns:
        x of all steps, the first `start` and the last the images.

    Raises:
        ModuleNotFoundError: If diffusers is not installed.

    Source: Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, 2022
        (arXiv:2211.01095), algorithm 2, with steps evenly spaced in the logarithm of the signal-to-noise ratio.
    """
    from diffusers import DPMSolverMultistepScheduler

    beta = (1 - alpha_bar[1:].double() / alpha_bar[:-1].double()).cpu().numpy()
    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=len(beta),
        trained_betas=beta,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        use_lu_lambdas=True,
    )
    scheduler.set_timesteps(count, device=start.device)
    path = [start]
    for t in scheduler.timesteps:
        # diffusers counts steps from 0
        clean = denoise(path[-1], torch.full((len(start),), int(t) + 1, device=start.device))
        path.append(scheduler.step(clean, t, path[-1]).prev_sample)
    return path


def inverted(
    denoise: Denoise,
    image: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
) -> Float[Tensor, "batch *shape"]:
    """The noise from which `ddim_path` makes an image again: its steps backwards, each solved by iteration.

    A step from s to t needs the network's answer at x_t, which is not known yet; it is found from a first guess by
    asking a few times, so that the way back leads to the image itself, and not just near it.

    Args:
        denoise: The network.
        image: x_0.
        alpha_bar: Of all steps of training.
        steps: Falling numbers that end with 0, as for `ddim_path`.
    """
    found = image
    for s, t in pairwise(steps[::-1]):
        guess = (alpha_bar[t] / alpha_bar[s]).sqrt() * found
        for _ in range(ROUNDS):
            clean = denoise(guess, torch.full((len(image),), t, device=image.device))
            if s:
                # the x_t from which a step with this estimate leads here
                guess = ddim_step(found, clean, alpha_bar[s], alpha_bar[t])
            else:
                # here is the estimate itself, whatever the noise; so that stays as it is foretold
                noise = estimated_noise(guess, clean, alpha_bar[t])
                guess = alpha_bar[t].sqrt() * found + (1 - alpha_bar[t]).sqrt() * noise
        found = guess
    return found
