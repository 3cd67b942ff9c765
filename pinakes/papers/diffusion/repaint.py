r"""Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models, CVPR 2022, arXiv:2201.09865.

A diffusion model that has learnt to make whole images fills holes in others, of any form, without learning anything
new. On the way from noise to an image, what is known is put in its place after each step, with as much noise as belongs
there. What the network adds in the hole fits the rest badly at first, as the two were drawn apart. So noise is added
again to the whole, some steps back, and taken out anew, several times: each time the network sees both parts together,
and brings them into harmony.

What the code follows:

- Equation 8, `repaint_step`: the known part from the forward process, the hole from the reverse one, joined by a mask.
- Algorithm 1, `repaint_path`, with `resampling_schedule` for the jumps of section 4.2: every j steps the
  way goes j steps back to more noise, r - 1 times.

The order of jumps is that of github.com/andreas128/RePaint; several steps forward at once are one draw from
q(x_{t+j} | x_t), which has the distribution of j single ones.

Differences from the paper: a small network that is trained here; the known part is drawn after each step backwards, as
in algorithm 1, where the authors' code draws it before the next one; 50 steps with j = 5 and r = 5 by default in place
of 250 with j = 10 and r = 10; variances are those of the posterior, where the authors' network learns them; with
`sampler="ddim"` steps go along the same noise, as diffusers offers it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import Denoise, Draw, ddim_step, spaced_steps
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, drawn_like
from pinakes.papers.diffusion.prior import Prior
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Equation 8",
        r"x_{t-1} = m \odot x_{t-1}^{known} + (1 - m) \odot x_{t-1}^{unknown}, \quad "
        r"x_{t-1}^{known} \sim \mathcal{N}(\sqrt{\bar\alpha_{t-1}} \, x_0, (1 - \bar\alpha_{t-1}) I), \quad "
        r"x_{t-1}^{unknown} \sim \mathcal{N}(\mu_\theta(x_t, t), \Sigma_\theta(x_t, t))",
    ),
    ("Algorithm 1", r"x_t \sim \mathcal{N}(\sqrt{1 - \beta_{t-1}} \, x_{t-1}, \beta_{t-1} I)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list. m is 1 where pixels are
known."""


def resampling_schedule(count: int, jump_length: int, resamplings: int) -> list[int]:
    """The steps of the whole way, from `count` to 0, with jumps back to more noise.

    Args:
        count: Into how many steps the way is divided, 1 or more.
        jump_length: j, how many steps a jump goes back; above 0.
        resamplings: r, how often each stretch is walked, 1 or more; 1 for no jumps.

    Returns:
        Numbers of which each is 1 below the last, or j above it.

    Source: figure 9; the last stretch below `count`, of up to j steps, is walked once.

    Example:
        >>> resampling_schedule(6, jump_length=2, resamplings=2)
        [6, 5, 4, 3, 2, 4, 3, 2, 1, 0, 2, 1, 0]
    """
    left = dict.fromkeys(range(0, count - jump_length, jump_length), resamplings - 1)
    way = [count]
    while way[-1] > 0:
        way.append(way[-1] - 1)
        if left.get(way[-1], 0):
            left[way[-1]] -= 1
            way.append(way[-1] + jump_length)
    return way


def repaint_step(
    noised: Float[Tensor, "batch channels height width"],
    clean: Float[Tensor, "batch channels height width"],
    known: Float[Tensor, "batch channels height width"],
    hole: Bool[Tensor, "batch height width"],
    alpha_bar: Float[Tensor, ""],
    earlier: Float[Tensor, ""],
    noise: Float[Tensor, "batch channels height width"],
    known_noise: Float[Tensor, "batch channels height width"],
    eta: float = 1.0,
) -> Float[Tensor, "batch channels height width"]:
    """One step backwards, with the known part put in its place.

    Args:
        noised: x_t.
        clean: The estimate of x_0.
        known: The image, of which only what is outside the hole counts.
        hole: Where it is missing, 1 - m.
        alpha_bar: alpha_bar_t, below 1.
        earlier: alpha_bar_s, of the step that is gone to.
        noise: A draw from a normal distribution, for the hole.
        known_noise: Another, for the known part.
        eta: How much of the noise in the hole is new, as in `ddim_step`; 1 for the reverse process of the paper.

    Source: equation 8.
    """
    unknown = ddim_step(noised, clean, alpha_bar, earlier, eta, noise)
    given = earlier.sqrt() * known + (1 - earlier).sqrt() * known_noise
    return torch.where(hole[:, None], unknown, given)


def repaint_path(
    denoise: Denoise,
    start: Float[Tensor, "batch channels height width"],
    known: Float[Tensor, "batch channels height width"],
    hole: Bool[Tensor, "batch height width"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
    draw: Draw,
    jump_length: int = 10,
    resamplings: int = 10,
    eta: float = 1.0,
) -> list[Float[Tensor, "batch channels height width"]]:
    """From noise to images with filled holes.

    Args:
        denoise: From x_t and t to an estimate of x_0, in the range of the images.
        start: x_T, noise alone.
        known: The images, of which only what is outside the holes counts.
        hole: Where pixels are missing.
        alpha_bar: Of all steps of training, as `alpha_bar_schedule` gives it.
        steps: Falling numbers that end with 0, as `spaced_steps` gives them.
        draw: Noise of the form of `start`.
        jump_length: j, in steps of this list.
        resamplings: r.
        eta: As in `repaint_step`.

    Returns:
        x of all steps as each was left for the last time, the first `start` and the last the images.

    Source: algorithm 1.
    """
    found, last = start, len(steps) - 1
    path = [start] * len(steps)
    for place, following in pairwise(resampling_schedule(last, jump_length, resamplings)):
        t, s = steps[last - place], steps[last - following]
        if t < s:
            kept = alpha_bar[s] / alpha_bar[t]
            found = kept.sqrt() * found + (1 - kept).sqrt() * draw()
        else:
            clean = denoise(found, torch.full((len(start),), t, device=start.device))
            found = repaint_step(found, clean, known, hole, alpha_bar[t], alpha_bar[s], draw(), draw(), eta)
        path[last - following] = found
    return path


class RePaint(Prior):
    """Fills holes of any form by a diffusion model of whole images.

    The network is asked once for each step backwards: `sampling_steps` times, and about r - 1 times as often again for
    resampling.

    Args:
        jump_length: j, how many of the sampling steps a jump goes back; below their number.
        resamplings: r, how often each stretch of the way is walked, 1 or more; 1 puts the known part in its place and
            nothing else.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "inpainting"

    def __init__(self, jump_length: int = 5, resamplings: int = 5, **shared: Any) -> None:
        super().__init__(**shared)
        if resamplings < 1:
            raise UserError(f"resamplings: expected 1 or more, got {resamplings}")
        if jump_length < 1 or (resamplings > 1 and jump_length >= self.sampling_steps):
            raise UserError(
                f"jump_length: expected 1 or more and below sampling_steps, {self.sampling_steps}, got {jump_length}"
            )
        self.jump_length, self.resamplings = jump_length, resamplings

    def restoring_path(
        self, batch: Batch, label: Int[Tensor, " batch"] | None, generators: Sequence[torch.Generator]
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to images in [-1, 1] that are the given ones outside their holes."""
        known = self.encode(batch["image"])
        return repaint_path(
            lambda noised, t: self.denoise(noised, t, label),
            drawn_like(known, generators),
            known,
            batch["hole"],
            self.alpha_bar,
            spaced_steps(self.T, self.sampling_steps),
            lambda: drawn_like(known, generators),
            self.jump_length,
            self.resamplings,
            self.eta,
        )


HALVES = f"{CLAIM_DATA}&holes=half"
"""Half of each image is missing: above, below, left or right."""


@claim(
    text="Filled with resampling, halves of images are nearer to the true ones than where the known part is only put "
    "in its place.",
    where="section 4.2, the need for resampling",
    higher_is_better=False,
)
def resampling_beats_putting_the_known_part_in_place(lab: Lab) -> Trial:
    """Digits of 8 pixels of which half is missing; both sides train the same network in the same way."""
    return lab.duel(
        ours=lambda: RePaint(**CLAIMED),
        baseline=lambda: RePaint(resamplings=1, **CLAIMED),
        data=HALVES,
        metric="perceptual",
        **CLAIM_PLAN,
    )


@claim(
    text="With the same number of questions to the network, resampling fills halves of images nearer to the true ones "
    "than smaller steps do.",
    where="section 5, ablation: slowing down against resampling",
    higher_is_better=False,
)
def resampling_beats_slowing_down(lab: Lab) -> Trial:
    """As above; the baseline takes 105 steps, as many as ours walks in all."""
    slow = CLAIMED | {"sampling_steps": 105}
    return lab.duel(
        ours=lambda: RePaint(**CLAIMED),
        baseline=lambda: RePaint(resamplings=1, **slow),
        data=HALVES,
        metric="perceptual",
        **CLAIM_PLAN,
    )
