"""Diffusion with Gaussian noise: the schedule, adding noise, what was there before, and the step back.

Source: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv:2006.11239).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def alpha_bar_schedule(
    steps: int = 1000, first: float = 1e-4, last: float = 0.02, rho: float = 1.0
) -> Float[Tensor, " steps_and_0"]:
    """What is left of an image's variance after t steps of noise, for t from 0, where all of it is, to `steps`.

    Args:
        steps: T.
        first: beta_1.
        last: beta_T; those between lie on a line.
        rho: Exponent of every beta, above 0; below 1 it makes more noise.

    Raises:
        ValueError: If there is no step, a beta is not above 0 and below 1, or rho is not above 0.

    Source: section 2 and 4; rho: Wei et al., Diffusion Models as Masked Autoencoders (arXiv:2304.03283).

    Example:
        >>> alpha_bar_schedule(2, 0.1, 0.5)
        tensor([1.0000, 0.9000, 0.4500])
    """
    if steps < 1 or not 0 < first < 1 or not 0 < last < 1 or not rho > 0:
        raise ValueError(
            f"steps, first, last, rho: expected 1 or more, betas between 0 and 1 and a number above 0, got {steps}, "
            f"{first}, {last}, {rho}"
        )
    beta = torch.linspace(first, last, steps, dtype=torch.float64) ** rho
    # far below 1, but above 0, so that ratios of it are defined
    return functional.pad((1 - beta).cumprod(0).clamp(min=1e-30), (1, 0), value=1.0).float()


def q_sample(
    clean: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "#batch *shape"],
    alpha_bar: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """Adds noise to each sample.

    Args:
        clean: x_0.
        noise: eps, from a normal distribution.
        alpha_bar: alpha_bar_t of each sample, 0 to 1.

    Source: equation 4.
    """
    kept = alpha_bar.view(-1, *[1] * (clean.ndim - 1))
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def predicted_clean(
    noised: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *shape"]:
    """What was there before a noise was added: the inverse of `q_sample`.

    Args:
        noised: x_t.
        noise: eps, or what a network takes for it.
        alpha_bar: alpha_bar_t of each sample, above 0.
    """
    kept = alpha_bar.view(-1, *[1] * (noised.ndim - 1))
    return (noised - (1 - kept).sqrt() * noise) / kept.sqrt()


def posterior(
    noised: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, ""],
    earlier: Float[Tensor, ""],
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, ""]]:
    """Mean and variance of q(x_s | x_t, x_0) for a step s before t.

    Args:
        noised: x_t.
        clean: x_0.
        alpha_bar: alpha_bar_t, below 1.
        earlier: alpha_bar_s, above alpha_bar_t.

    Source: equations 6 and 7; with steps left out, the beta of the steps from s to t is
        1 - alpha_bar_t / alpha_bar_s.
    """
    alpha = alpha_bar / earlier
    share = (1 - alpha) / (1 - alpha_bar)
    mean = earlier.sqrt() * share * clean + alpha.sqrt() * (1 - earlier) / (1 - alpha_bar) * noised
    return mean, share * (1 - earlier)


def epsilon_loss(
    network: nn.Module, clean: Float[Tensor, "batch *shape"], alpha_bar: Float[Tensor, " steps_and_0"]
) -> Float[Tensor, ""]:
    """The mean squared error of foretold noise; draws noise and its strengths from torch's generator.

    Args:
        network: From x_t and t to noise.
        clean: x_0.
        alpha_bar: As `alpha_bar_schedule` gives it.

    Source: equation 14.
    """
    t = torch.randint(1, len(alpha_bar), (len(clean),), device=clean.device)
    noise = torch.randn_like(clean)
    return functional.mse_loss(network(q_sample(clean, noise, alpha_bar[t]), t), noise)


def step_embedding(t: Int[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines and cosines of numbers of steps.

    Args:
        t: Numbers of steps.
        width: An even number.
    """
    frequency = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
