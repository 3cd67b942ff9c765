r"""Saharia et al., Image Super-Resolution via Iterative Refinement, TPAMI 2022, arXiv:2104.07636.

A network that is asked once for the image behind a degraded one answers with the mean of all that it could have been,
which is blurred. Here a diffusion model is shown the degraded image at every step, beside the noisy one, and so draws
one of the images that it could have been: it starts from noise alone, and refines it step by step. The network is told
how strong the noise is, rather than the number of a step, so that any schedule serves when images are made, whatever
the one it has learnt with.

What the code follows:

- Equation 6, `SR3.training_step`: the noise is told from x beside sqrt(gamma) y_0 + sqrt(1 - gamma) eps, and gamma.
- Section 2.4, `drawn_levels`: a step is drawn evenly, and gamma evenly between those of the step and the one before.
- Algorithm 2, `SR3.restore`: from y_T down, with a schedule of its own.
- Section 4, `Regressor`: the same network, asked once, which learns the squared error; the baseline.

The network is told sqrt(gamma), as by github.com/Janspiry/Image-Super-Resolution-via-Iterative-Refinement, whose
strengths of noise, absolute error and variance are taken as well.

Differences from the paper: a small network without its changes to DDPM's; sqrt(gamma) is told in ten-thousandths; the
schedule for making images is linear, of the same total noise as that of training, where the paper searches for one;
steps add noise of the posterior's variance by default, where the paper adds more, 1 - alpha_t; estimates of y_0 are cut
to [-1, 1]. Besides fewer pixels, any degradation of the task is undone.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.engine.seeds import mix
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import ancestral_path
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean, q_sample
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, Denoiser, drawn_like, stages_of
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    (
        "Equation 6",
        r"\mathbb{E}_{(x, y)} \mathbb{E}_{\epsilon, \gamma} \left\lVert f_\theta \left( x, \sqrt{\gamma} \, y_0 + "
        r"\sqrt{1 - \gamma} \, \epsilon, \gamma \right) - \epsilon \right\rVert_p^p",
    ),
    ("Section 2.4", r"p(\gamma) = \sum_{t=1}^{T} \tfrac{1}{T} \, U(\gamma_{t-1}, \gamma_t)"),
    (
        "Algorithm 2",
        r"y_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left( y_t - \frac{1 - \alpha_t}{\sqrt{1 - \gamma_t}} "
        r"f_\theta(x, y_t, \gamma_t) \right) + \sqrt{1 - \alpha_t} \, z",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

TOLD = 10_000
"""Into how many parts sqrt(gamma) is divided for the network."""


def linear_schedule(steps: int) -> Float[Tensor, " steps_and_0"]:
    """gamma_t from t = 0, for any number of steps with about the same noise in all.

    Args:
        steps: T, 1 or more; with 2000, beta goes from 1e-6 to 1e-2.
    """
    scale = 2000 / steps
    return alpha_bar_schedule(steps, min(0.999, 1e-6 * scale), min(0.999, 1e-2 * scale))


def drawn_levels(gamma: Float[Tensor, " steps_and_0"], count: int) -> Float[Tensor, " count"]:
    """Levels of noise to learn from; drawn from torch's generator.

    Args:
        gamma: Of all steps, from 1 at step 0.
        count: How many.

    Source: section 2.4.
    """
    t = torch.randint(1, len(gamma), (count,), device=gamma.device)
    return torch.lerp(gamma[t - 1], gamma[t], torch.rand(count, device=gamma.device))


def told_level(gamma: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """What a network is told of the level of noise, 0 for nothing but noise to 10,000 for none.

    Args:
        gamma: What is left of the image's variance, 0 to 1.
    """
    return (TOLD * gamma.sqrt()).round().long()


class Restorer(Denoiser):
    """A network that restores degraded images."""

    task_name = "restoration"

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return self.loss(2 * batch["image"] - 1, 2 * batch["clean"] - 1)

    def loss(
        self,
        degraded: Float[Tensor, "batch channels height width"],
        clean: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, ""]:
        """What is minimised, of images in [-1, 1]."""
        raise NotImplementedError


class SR3(Restorer):
    """A diffusion model that is shown the degraded image beside the noisy one.

    Args:
        T: Steps between whose levels of noise training draws, 1 or more.
        p: 1 for the absolute error of the noise, 2 for the squared one.
        sampling_steps: How often the network is asked for one image, 1 or more; it has nothing to do with T.
        large_variance: Whether steps add noise of variance 1 - alpha_t, as in the paper, rather than that of the
            posterior. It leaves noise in images unless steps are many and small.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    export_obstacle = "it asks its network many times for one image, with new noise each time"
    gamma: Tensor
    inference_gamma: Tensor

    def __init__(
        self,
        T: int = 2000,
        p: int = 1,
        sampling_steps: int = 50,
        large_variance: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, count in (("T", T), ("sampling_steps", sampling_steps)):
            if count < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {count}")
        if p not in (1, 2):
            raise UserError(f"p: expected 1 or 2, got {p}")
        self.T, self.p = T, p
        self.sampling_steps, self.large_variance = sampling_steps, large_variance

    def build(self, info: DataInfo) -> None:
        """Makes the network, its average, and the schedules of the noise."""
        self.register_buffer("gamma", linear_schedule(self.T), persistent=False)
        self.register_buffer("inference_gamma", linear_schedule(self.sampling_steps), persistent=False)
        super().build(info)

    def make_network(self, info: DataInfo) -> nn.Module:
        """From the degraded and the noisy image to the noise."""
        return self.unet(2 * info.channels, outputs=info.channels)

    def loss(
        self,
        degraded: Float[Tensor, "batch channels height width"],
        clean: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, ""]:
        """The error of the noise, of images in [-1, 1]."""
        noise, gamma = torch.randn_like(clean), drawn_levels(self.gamma, len(clean))
        shown = torch.cat([degraded, q_sample(clean, noise, gamma)], dim=1)
        return (self.network(shown, told_level(gamma)) - noise).abs().pow(self.p).mean()

    def denoise(
        self,
        noised: Float[Tensor, "batch channels height width"],
        degraded: Float[Tensor, "batch channels height width"],
        gamma: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The estimate of the clean image by the averaged network; all in [-1, 1].

        Args:
            noised: y_t.
            degraded: x.
            gamma: The level of noise of each.

        Source: equation 10.
        """
        noise = self.averaged(torch.cat([degraded, noised], dim=1), told_level(gamma))
        return predicted_clean(noised, noise, gamma).clamp(-1, 1)

    @torch.no_grad()
    def restore(
        self, image: Float[Tensor, "batch channels height width"], *, seed: int = 0, first: int = 0
    ) -> Prediction:
        """Restored images, as the task states predictions; another seed gives others.

        Args:
            image: Degraded images in [0, 1] on the method's device.
            seed: Of the noise.
            first: The number of the first of them among all answers of the seed, 0 or more.

        Source: algorithm 2.
        """
        degraded = 2 * image - 1
        places = range(first, first + len(image))
        generators = [torch.Generator().manual_seed(mix(seed, place)) for place in places]
        gamma = self.inference_gamma
        path = ancestral_path(
            lambda noised, t: self.denoise(noised, degraded, gamma[t]),
            drawn_like(degraded, generators),
            gamma,
            range(self.sampling_steps, -1, -1),
            lambda: drawn_like(degraded, generators),
            self.large_variance,
        )
        stages = [(each / 2 + 0.5).clamp(0, 1) for each in stages_of(path)]
        return {"restored": stages[-1], "stages": torch.stack(stages, dim=1)}

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Restored images, the same ones every time."""
        return self.restore(batch["image"])


class Regressor(Restorer):
    """The same network, asked once: it learns the squared error of the clean image."""

    def loss(
        self,
        degraded: Float[Tensor, "batch channels height width"],
        clean: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, ""]:
        """The error of the image, of images in [-1, 1]."""
        return (self.network(degraded, self.without_noise(degraded)) - clean).square().mean()

    def without_noise(self, image: Float[Tensor, "batch *shape"]) -> Int[Tensor, " batch"]:
        """What the network is told where there is no noise."""
        return torch.full((len(image),), TOLD, device=image.device)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Restored images."""
        answer = self.averaged(2 * batch["image"] - 1, self.without_noise(batch["image"]))
        return {"restored": (answer / 2 + 0.5).clamp(0, 1)}


REGRESSED = {name: value for name, value in CLAIMED.items() if name != "sampling_steps"}
FEW_PIXELS = f"{CLAIM_DATA}&degradation=downsample4"
"""Digits of which so little is left that several could have been meant."""


@claim(
    text="Images that are refined from noise are distributed more like the true ones than those of the same network "
    "as a regressor.",
    where="section 4, table 2",
    higher_is_better=False,
)
def refinement_is_nearer_to_real_images(lab: Lab) -> Trial:
    """Digits of 8 pixels a side, of which 2 are left; FID of the restored to the true images by the features of the
    embedded network.
    """
    return lab.duel(
        ours=lambda: SR3(**CLAIMED),
        baseline=lambda: Regressor(**REGRESSED),
        data=FEW_PIXELS,
        metric="fid",
        **CLAIM_PLAN,
    )


@claim(
    text="The signal-to-noise ratio says the contrary: that of images refined from noise is below that of the "
    "regressor's.",
    where="section 4, tables 1 and 2",
    higher_is_better=False,
)
def the_regressor_has_the_higher_ratio(lab: Lab) -> Trial:
    """As above; PSNR."""
    return lab.duel(
        ours=lambda: SR3(**CLAIMED),
        baseline=lambda: Regressor(**REGRESSED),
        data=FEW_PIXELS,
        metric="psnr",
        **CLAIM_PLAN,
    )
