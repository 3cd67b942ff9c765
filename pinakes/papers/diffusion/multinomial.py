r"""Hoogeboom et al., Argmax Flows and Multinomial Diffusion: Learning Categorical Distributions, NeurIPS 2021,
arXiv:2102.05379.

Diffusion for what has no order: classes of pixels, letters, palettes. In each step some categories are drawn anew,
evenly from all there are, until nothing else is left. A network looks at the result and says, for each place, how
likely each category was there at first. From that follow the chances of the step before, and so the way back. As all
are chances of finitely many things, the bound on the likelihood of data is exact to compute, in bits per dimension.

What the code follows:

- Section 4, `discrete_diffusion.changed`: categories after one step and after t steps; `posterior`: the step before,
  given the first, theta_post, and with the network's chances in the place of the first; `bound_term`: the divergence of
  the two.
- `cosine_kept`: the schedule, and steps that are drawn by how much they add to the bound.

Differences from the paper: Argmax Flows, its other half, are left out: they are a family of normalising flows, and
share nothing with this but the data. Images are quantised to a few levels, so that any images will do; the channels of
a pixel are places of their own. Samples may leave steps out. The network is the small U-Net of this shelf, which may be
told classes. At t = 1 the network's chances enter the posterior as in all other steps, as in the authors' code
(github.com/ehoogeboom/multinomial_diffusion), where the paper takes them as they are; the schedule and the drawing of
steps come from there too.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from pinakes.data import load_data
from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import spaced_steps
from pinakes.nn.discrete_diffusion import (
    CategoricalSchedule,
    Foretell,
    ImportantSteps,
    bound_term,
    categorical_path,
    cosine_kept,
    one_hot,
    prior_term,
    q_sample,
    start_of,
    uniform_like,
)
from pinakes.nn.gaussian_diffusion import q_sample as gaussian_q_sample
from pinakes.papers.diffusion.base import MakesImages
from pinakes.papers.diffusion.ddpm import DDPM

EQUATIONS = (
    (
        "Section 4",
        r"q(x_t | x_0) = \mathcal{C}\left( x_t \,|\, \bar\alpha_t x_0 + (1 - \bar\alpha_t) / K \right)",
    ),
    (
        "Section 4",
        r"q(x_{t-1} | x_t, x_0) \propto \left[ \alpha_t x_t + (1 - \alpha_t) / K \right] \odot "
        r"\left[ \bar\alpha_{t-1} x_0 + (1 - \bar\alpha_{t-1}) / K \right]",
    ),
    (
        "Section 4",
        r"L_{t-1} = KL\left( \mathcal{C}(\theta_{post}(x_t, x_0)) \,\|\, "
        r"\mathcal{C}(\theta_{post}(x_t, \hat{x}_0)) \right)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""
DRAWS = 32
"""Steps at which the bound is looked at for each sample."""


class CategoricalUNet(nn.Module):
    """A U-Net that sees categories, and says how likely each was there at first.

    Args:
        network: From maps with a channel for each category of each channel to as many.
        categories: K.
    """

    def __init__(self, network: nn.Module, categories: int) -> None:
        super().__init__()
        self.network, self.categories = network, categories

    def forward(
        self,
        noised: Int[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch categories channels height width"]:
        """Logits of x_0, given x_t."""
        seen = rearrange(one_hot(noised, self.categories), "b k c h w -> b (k c) h w")
        told = self.network(seen, t, label)
        return rearrange(told, "b (k c) h w -> b k c h w", k=self.categories)


def spread_steps(
    draws: int, batch: int, total: int, first: int = 1
) -> tuple[Int[Tensor, "draws batch"], Float[Tensor, "draws batch"]]:
    """Steps at which a bound is looked at, from torch's generator, for each sample spread over all its draws.

    Early steps are drawn more often, as what they add is larger and differs more.

    Args:
        draws: How many for each sample.
        batch: How many samples.
        total: T.
        first: The step to begin with.

    Returns:
        Steps, and what each counts, so that the sum over a sample's draws is, in the mean, the sum over all its steps.
    """
    edges = torch.linspace(0, 1, total - first + 2, dtype=torch.float64).sqrt()
    place = (torch.arange(draws)[:, None] + torch.rand(draws, batch)) / draws
    # the chance of a step is the stretch between its edges
    index = torch.searchsorted(edges, place.double(), right=True).clamp(1, len(edges) - 1)
    return index - 1 + first, 1 / (draws * edges.diff()[index - 1]).float()


@torch.no_grad()
def bits_per_dimension(
    foretell: Foretell,
    clean: Int[Tensor, "batch *places"],
    schedule: CategoricalSchedule,
    classes: int,
    draws: int = DRAWS,
) -> Float[Tensor, " batch"]:
    """An estimate, without bias, of the bound on the negative logarithm of the likelihood, in bits for each place.

    Args:
        foretell: From x_t and t to the chances of x_0.
        clean: Categories.
        schedule: Of the noise.
        classes: How many categories there are.
        draws: How many steps are looked at for each sample, spread over all.
    """
    bound = prior_term(clean, schedule, classes).flatten(1).mean(1)
    for t, weight in zip(*spread_steps(draws, len(clean), schedule.steps), strict=True):
        now = t.to(clean.device)
        noised = q_sample(clean, schedule.until(now), classes)
        term = bound_term(noised, clean, foretell(noised, now), schedule, now)
        bound = bound + weight.to(bound) * term.flatten(1).mean(1)
    return bound / math.log(2)


class MultinomialDiffusion(MakesImages):
    """A network that learns which pixels of an image were drawn anew, and what was there before.

    Args:
        levels: K, to how many levels each channel of an image is rounded, 2 to 256.
        T: Steps after which nothing of an image is left, 2 or more.
        sampling_steps: How often the network is asked for one image, 1 to T.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, levels: int = 8, T: int = 1000, sampling_steps: int = 100, **shared: Any) -> None:
        super().__init__(**shared)
        if not 2 <= levels <= 256:
            raise UserError(f"levels: expected 2 to 256, got {levels}")
        if T < 2:
            raise UserError(f"T: expected a whole number of 2 or more, got {T}")
        if not 1 <= sampling_steps <= T:
            raise UserError(f"sampling_steps: expected 1 to T, {T}, got {sampling_steps}")
        self.levels, self.T, self.sampling_steps = levels, T, sampling_steps

    def build(self, info: DataInfo) -> None:
        """Makes the network, its average, the schedule, and what draws steps."""
        self.schedule = CategoricalSchedule(cosine_kept(self.T))
        self.important = ImportantSteps(self.T)
        super().build(info)

    def make_network(self, info: DataInfo) -> CategoricalUNet:
        """A U-Net for levels as categories."""
        classes = len(info.classes) if self.is_told_classes(info) else 0
        return CategoricalUNet(self.unet(info.channels * self.levels, classes), self.levels)

    def encode(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Int[Tensor, "batch channels height width"]:
        """The nearest levels, from 0 to K - 1."""
        return (image * (self.levels - 1)).round().long()

    def decode(
        self, found: Int[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images of levels."""
        return found.float() / (self.levels - 1)

    def loss(
        self, clean: Int[Tensor, "batch channels height width"], label: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, ""]:
        """An estimate of the bound in nats for each place, but for what the network has no part in."""
        t, weight = self.important.draw(len(clean))
        noised = q_sample(clean, self.schedule.until(t), self.levels)
        chances = self.network(noised, t, label).softmax(1)
        term = bound_term(noised, clean, chances, self.schedule, t).flatten(1).mean(1)
        self.important.note(t, term)
        return self.T * (weight * term).mean()

    def foretold(
        self, label: Int[Tensor, " batch"] | None
    ) -> Callable[[Tensor, Tensor], Float[Tensor, "batch categories channels height width"]]:
        """The averaged network as a function from x_t and t to the chances of x_0."""
        return lambda noised, t: self.averaged(noised, t, label).softmax(1)

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Int[Tensor, "batch channels height width"]]:
        """From levels by chance to those of images, with a generator for each image."""
        begin = start_of(self.schedule, self.levels, uniform_like(start, generators))
        return categorical_path(
            self.foretold(label),
            begin,
            self.schedule,
            spaced_steps(self.T, self.sampling_steps),
            lambda: uniform_like(begin, generators),
        )[0]

    def bound(
        self,
        image: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None = None,
        draws: int = DRAWS,
    ) -> Float[Tensor, " batch"]:
        """`bits_per_dimension` of images, with draws from torch's generator.

        Args:
            image: In [0, 1].
            label: The class of each, where classes are told; None for any.
            draws: How many steps are looked at for each.
        """
        foretell = self.foretold(self._told(len(image), label))
        return bits_per_dimension(foretell, self.encode(image), self.schedule, self.levels, draws)


# -- the claim: classes of pixels, and what is not made for them -------------------------------------------------

MAPS = "scenes:segmentation?size=16&n=1000"
"""Scenes, of which only the maps of the classes count."""
MAPS_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 64}
MAPS_MODEL: dict[str, Any] = {"n_channels": 16, "ch_mults": (1, 2), "T": 100}
"""So few steps suit Gaussian noise better here: its first step is then no smaller than levels are told apart by."""


class MapsAsImages(Dataset[Sample]):
    """Maps of classes as images of one channel, where a class is a level of grey.

    Args:
        samples: With a map, "semantic", each.
        classes: How many classes there are.
    """

    def __init__(self, samples: SampleSet, classes: int) -> None:
        self.samples, self.classes = samples, classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.samples[index]["semantic"][None].float() / (self.classes - 1)}


@torch.no_grad()
def gaussian_bits_per_dimension(
    denoise: Callable[[Tensor, Tensor], Tensor],
    clean: Float[Tensor, "batch channels height width"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    levels: int,
    draws: int = DRAWS,
) -> Float[Tensor, " batch"]:
    """The same bound where levels are taken for numbers, to which Gaussian noise is added.

    Args:
        denoise: From x_t and t to an estimate of x_0.
        clean: Levels, evenly from -1 to 1.
        alpha_bar: As `alpha_bar_schedule` gives it.
        levels: How many there are.
        draws: How many steps are looked at for each sample besides the first.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv:2006.11239), equations 5 and 13,
        with the variance of the posterior; a step of equation 5 is half the fall of the signal-to-noise ratio, times
        the squared error: Kingma et al., Variational Diffusion Models, 2021 (arXiv:2107.00630), equation 13.
    """
    kept, snr = alpha_bar[-1], (alpha_bar.double() / (1 - alpha_bar.double())).float()
    bound = 0.5 * (kept * clean.square() - kept - (1 - kept).log()).flatten(1).mean(1)

    def foretold(now: Tensor) -> Tensor:
        return denoise(gaussian_q_sample(clean, torch.randn_like(clean), alpha_bar[now]), now)

    for t, weight in zip(*spread_steps(draws, len(clean), len(alpha_bar) - 1, first=2), strict=True):
        now = t.to(clean.device)
        error = (foretold(now) - clean).square().flatten(1).mean(1)
        bound = bound + weight.to(bound) * 0.5 * (snr[now - 1] - snr[now]) * error
    # in doubles, for the tails; the outermost levels reach to infinity
    mean = foretold(torch.ones(len(clean), dtype=torch.int64, device=clean.device)).double()
    deviation = (1 - alpha_bar[1].double()).sqrt()
    edges = (torch.arange(1, levels, device=clean.device) - 0.5) * 2 / (levels - 1) - 1
    edges = torch.cat([edges.new_tensor([-math.inf]), edges, edges.new_tensor([math.inf])]).double()
    place = ((clean + 1) / 2 * (levels - 1)).round().long()
    low, high = ((edges[place + up] - mean) / deviation for up in (0, 1))
    # on the side of the nearer tail, where a difference of small numbers is exact
    mirrored = low > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    bound = bound - mass.clamp(min=1e-300).log().flatten(1).mean(1).float()
    return bound / math.log(2)


@cache
def _maps(spec: str, seed: int) -> TaskData:
    scenes = load_data(spec, task="segmentation", seed=seed)
    count = len(scenes.classes)
    assert scenes.test is not None
    train, test = (MapsAsImages(part, count) for part in (scenes.train, scenes.test))
    info = DataInfo(1, scenes.size)
    return TaskData(spec=spec, layout=f"maps of {count} classes", train=train, test=test, info=info)


def _bits(seed: int, categorical: bool, lab: Lab) -> float:
    data = _maps(MAPS, seed)
    assert isinstance(data.test, MapsAsImages)
    levels = data.test.classes
    method = MultinomialDiffusion(levels, **MAPS_MODEL) if categorical else DDPM(simple=False, **MAPS_MODEL)
    steps = 2 if lab.quick else MAPS_PLAN["steps"]
    method.fit(data, **MAPS_PLAN | {"steps": steps, "seed": seed, "device": str(lab.device), "hold_out": 0.0})
    image = torch.stack([data.test[place]["image"] for place in range(len(data.test))]).to(lab.device)
    found = []
    for part in image.split(MAPS_PLAN["batch_size"]):
        if isinstance(method, MultinomialDiffusion):
            found.append(method.bound(part))
        else:
            found.append(
                gaussian_bits_per_dimension(method.denoise, method.encode(part), method.alpha_bar, levels)
            )
    return float(torch.cat(found).mean())


@claim(
    text="On maps of classes, diffusion of categories has a lower bound on the bits per dimension than diffusion "
    "that takes the numbers of classes for quantities.",
    where="abstract and section 6, on segmentation maps; there against normalising flows with dequantisation",
    higher_is_better=False,
)
def categories_beat_quantities(lab: Lab) -> Trial:
    """Maps of 12 classes, 16 pixels each way; the same U-Net on Gaussian noise, trained by its own bound, which counts
    the mass of each level and so needs no dequantisation.
    """
    return lab.measure(
        ours=lambda seed: _bits(seed, True, lab),
        baseline=lambda seed: _bits(seed, False, lab),
        metric="bits per dimension",
    )
