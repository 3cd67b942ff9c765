r"""Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020, arXiv:2006.11239.

Noise is added to images in many small steps until nothing else is left. A network learns to say which noise was added,
at every strength. Going the other way, from noise alone, it takes out a little in each step, and an image appears that
was never there. With DDIM (Song et al., ICLR 2021, arXiv:2010.02502) the same network needs few steps, and the same
noise gives the same image.

What the code follows:

- Equation 4, `q_sample`: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
- Equation 14, `Diffusion.loss`: L_simple = E |eps - eps_theta(x_t, t)|^2, with t drawn evenly.
- Algorithm 2, `ancestral_path`: from x_T down, each x_{t-1} drawn from the posterior with the estimate of x_0.
- Equation 5 with 8 and 12, `bound_weights`: the weights of the variational bound, to compare with.
- DDIM, equation 12, `ddim_path`.

Differences from the paper: a small network, and a faster average of its weights, for short training; estimates of x_0
are cut to [-1, 1], as in the authors' code (github.com/hojonathanho/diffusion); classes are told where there are any.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, Diffusion

EQUATIONS = (
    ("Equation 4", r"x_t = \sqrt{\bar\alpha_t} \, x_0 + \sqrt{1 - \bar\alpha_t} \, \epsilon"),
    (
        "Equation 14",
        r"L_{simple} = \mathbb{E}_{t, x_0, \epsilon} \lVert \epsilon - \epsilon_\theta(x_t, t) \rVert^2",
    ),
    (
        "Algorithm 2",
        r"x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left( x_t - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}} "
        r"\epsilon_\theta(x_t, t) \right) + \sigma_t z",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def bound_weights(alpha_bar: Float[Tensor, " steps_and_0"]) -> Float[Tensor, " steps"]:
    """What the squared error of the noise counts at each step in the variational bound, from step 1, with mean 1.

    Args:
        alpha_bar: As `alpha_bar_schedule` gives it.

    Source: equation 12, beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) with sigma_t^2 = beta_t.
    """
    alpha = alpha_bar[1:] / alpha_bar[:-1]
    weight = (1 - alpha) / (2 * alpha * (1 - alpha_bar[1:]))
    return weight / weight.mean()


class DDPM(Diffusion):
    """A network that learns to tell the noise in images, and makes images out of noise.

    Args:
        simple: Whether the noise at all steps counts the same; otherwise it counts as in the variational bound.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, simple: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        self.simple = simple

    def weight(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The same for all, or that of the variational bound."""
        return super().weight(t) if self.simple else bound_weights(self.alpha_bar)[t - 1]


@claim(
    text="With the noise at all steps counted alike, samples are nearer to real images than with the weights of the "
    "variational bound.",
    where="section 4.2, table 2",
    higher_is_better=False,
)
def counting_alike_beats_the_bound(lab: Lab) -> Trial:
    """Digits of 8 pixels; FID by the features of the embedded network."""
    return lab.duel(
        ours=lambda: DDPM(**CLAIMED),
        baseline=lambda: DDPM(simple=False, **CLAIMED),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )


@claim(
    text="With 10 questions to the network for each image, samples along the same noise are nearer to real ones than "
    "those with new noise in each step.",
    where="Song et al., section 5.1, table 1",
    higher_is_better=False,
)
def few_steps_go_better_along_the_same_noise(lab: Lab) -> Trial:
    """As above; both sides train the same network in the same way."""
    few = CLAIMED | {"sampling_steps": 10}
    return lab.duel(
        ours=lambda: DDPM(**few),
        baseline=lambda: DDPM(sampler="ddpm", **few),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )
