r"""Sehwag et al., Generating High Fidelity Data from Low-density Regions using Diffusion Models, CVPR 2022,
arXiv:2203.17260.

A diffusion model that is left to itself makes what is common: images that are rare among those of training are rare
among its samples. Here each of its steps is pushed two ways. A classifier of noisy images pushes away from what is
typical of the class; a second one, which tells real images from those of the model, keeps the rare ones faithful. Both
are trained after the diffusion model, which stays as it is.

What the code follows:

- Hardness score, `hardness_score`: how unlikely the features of an image are under a normal distribution of those of
  its class. It measures what is rare, and is not used to make it.
- Low density, `log_shares`: the similarity of an image's features to the centre of its class, against those to all
  centres; its logarithm is lowered.
- Fidelity: the same with two centres, of real and of made images; the logarithm for real is raised.
- Sampling, `guided_step`: the mean of each step is shifted along both gradients, each brought to a greatest value of 1
  (`unit_gradient`), with weights alpha and beta.

No code of the authors is public, and what could be read about the paper leaves some things open, which are settled here
as follows: similarity is the cosine over a temperature; centres are learnt together with the features, so that the
shares are those of a classifier; a shift is multiplied by the variance of the step, as in classifier guidance
(Dhariwal and Nichol, arXiv:2105.05233, algorithm 1), so that it stays in proportion to the noise; made images for the
second network are drawn evenly over classes, without guidance.

Differences from the paper: small networks, trained for a short time, and no learnt variances. Such a network holds a
sample in its class less firmly than the paper's, and the first push moves some into another; guidance without a
classifier (`guidance`) holds against that.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import mix
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.diffusion_sampling import spaced_steps
from pinakes.nn.gaussian_diffusion import posterior, q_sample, step_embedding
from pinakes.nn.probes import fitted_classifier
from pinakes.nn.unet import ResidualBlock
from pinakes.papers.diffusion.base import (
    CLAIM_PLAN,
    CLAIMED,
    LARGE_CLAIM_DATA,
    Diffusion,
    Sampler,
    drawn_like,
)
from pinakes.tasks.base import Batch
from pinakes.tasks.generation import FEATURES, Features

log = logging.getLogger(__name__)

EQUATIONS = (
    (
        "Hardness score",
        r"H(x, y) = \frac{1}{2} \left[ (f(x) - \mu_y)^\top \Sigma_y^{-1} (f(x) - \mu_y) + \log \det \Sigma_y + "
        r"k \log 2 \pi \right]",
    ),
    (
        "Low density",
        r"L_1(x_t, y) = -\log \frac{\exp(\mathrm{sim}(f(x_t), \mu_y) / \tau)}"
        r"{\sum_{y'} \exp(\mathrm{sim}(f(x_t), \mu_{y'}) / \tau)}",
    ),
    (
        "Fidelity",
        r"L_2(x_t) = \log \frac{\exp(\mathrm{sim}(g(x_t), \mu_{real}) / \tau)}{\exp(\mathrm{sim}(g(x_t), \mu_{real}) / "
        r"\tau) + \exp(\mathrm{sim}(g(x_t), \mu_{made}) / \tau)}",
    ),
    (
        "Sampling",
        r"x_{t-1} \sim \mathcal{N} \left( \mu_\theta + \sigma_t^2 \left( \alpha \frac{\nabla L_1}"
        r"{\lVert \nabla L_1 \rVert_\infty} + \beta \frac{\nabla L_2}{\lVert \nabla L_2 \rVert_\infty} \right), "
        r"\sigma_t^2 \right)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

MADE_AT_ONCE = 256
"""Images of the model that are made together."""
MADE_IN_HASTE = 16
"""The same where time is limited."""
PARTS_END = (0.5, 0.6, 0.85, 1.0)
"""The shares of a limit of time by which the diffusion model, the classifier of classes, the images of the model and
the classifier of real images are done."""
REAL = 1
"""The centre of real images."""
JUDGED = 500
"""Samples whose hardness is judged in claims."""
WIDTH = 16
"""Principal components of features by which hardness is judged in claims."""


def hardness_score(
    features: Float[Tensor, "samples width"],
    label: Int[Tensor, " samples"],
    means: Float[Tensor, "classes width"],
    covariances: Float[Tensor, "classes width width"],
) -> Float[Tensor, " samples"]:
    """How unlikely features are in their class: the negative logarithm of a normal density; high is rare.

    Args:
        features: f(x).
        label: The class of each, from 0.
        means: mu_y of each class.
        covariances: Sigma_y of each class, positive definite.

    Source: the hardness score.

    Example:
        >>> rows, means = torch.tensor([[0.0], [2.0]]), torch.zeros(1, 1)
        >>> hardness_score(rows, torch.tensor([0, 0]), means, torch.ones(1, 1, 1))
        tensor([0.9189, 2.9189])
    """
    root = torch.linalg.cholesky(covariances)
    apart = (features[None] - means[:, None]).mT
    lengths = torch.linalg.solve_triangular(root, apart, upper=False).square().sum(1)
    volumes = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    scores = (lengths + volumes[:, None] + features.shape[1] * np.log(2 * np.pi)) / 2
    return scores.gather(0, label[None])[0]


def class_gaussians(
    features: Float[Tensor, "samples width"], label: Int[Tensor, " samples"], classes: int
) -> tuple[Float[Tensor, "classes width"], Float[Tensor, "classes width width"]]:
    """Mean and covariance of the features of each class, the latter shrunk as Ledoit and Wolf do.

    Args:
        features: Of images whose class is known.
        label: The class of each, from 0; each has two or more.
        classes: How many there are.
    """
    parts = [features[label == each].double().cpu().numpy() for each in range(classes)]
    means = np.stack([part.mean(0) for part in parts])
    covariances = np.stack([ledoit_wolf(part)[0] for part in parts])
    return torch.from_numpy(means), torch.from_numpy(covariances)


def log_shares(
    features: Float[Tensor, "batch width"], centres: Float[Tensor, "centres width"], tau: float
) -> Float[Tensor, "batch centres"]:
    """The logarithm of how much of the similarity to all centres each one has.

    Args:
        features: Of images.
        centres: What features are compared with, by their cosine.
        tau: Temperature, above 0.
    """
    return (
        functional.normalize(features, dim=1) @ functional.normalize(centres, dim=1).mT / tau
    ).log_softmax(1)


def unit_gradient(gradient: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
    """A gradient of which each sample's greatest value is 1, whatever its sign; a gradient of 0 stays 0."""
    greatest = gradient.flatten(1).abs().amax(1).view(-1, *[1] * (gradient.ndim - 1))
    return torch.where(greatest > 0, gradient / greatest, gradient)


Push = Callable[[Float[Tensor, "batch *shape"], Int[Tensor, " batch"]], Float[Tensor, "batch *shape"]]
"""From x_t and t to the direction in which the mean is shifted."""


def guided_step(
    noised: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, ""],
    earlier: Float[Tensor, ""],
    push: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """A draw of x_s from q(x_s | x_t, x_0) whose mean is shifted by the variance times a push.

    Args:
        noised: x_t.
        clean: The estimate of x_0.
        alpha_bar: alpha_bar_t, below 1.
        earlier: alpha_bar_s, of the step that is gone to; at 1, nothing is added or pushed.
        push: The weighted sum of the gradients.
        noise: A draw from a normal distribution.

    Source: sampling.
    """
    mean, variance = posterior(noised, clean, alpha_bar, earlier)
    return mean + variance * push + variance.sqrt() * noise


class NoisyClassifier(nn.Module):
    """Features of noisy images, told how strong the noise is, and centres with which they are compared.

    Args:
        channels: Of the images.
        centres: How many there are.
        n_channels: Channels at the finest level, a multiple of 8.
        tau: Temperature of the similarity, above 0.

    Example:
        >>> network = NoisyClassifier(1, centres=3)
        >>> network(torch.rand(2, 1, 8, 8), torch.tensor([3, 500])).exp().sum(1).round(decimals=4)
        tensor([1., 1.], grad_fn=<RoundBackward1>)
    """

    def __init__(self, channels: int, centres: int, n_channels: int = 16, tau: float = 0.1) -> None:
        super().__init__()
        told, widths = 4 * n_channels, [n_channels, n_channels, 2 * n_channels, 4 * n_channels]
        self.n_channels, self.tau = n_channels, tau
        self.tell = nn.Sequential(nn.Linear(n_channels, told), nn.SiLU(), nn.Linear(told, told))
        self.enter = nn.Conv2d(channels, n_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(*each, told, attentive=False, dropout=0.0) for each in pairwise(widths)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(each, each, 3, stride=2, padding=1) for each in widths[1:-1])
        self.centres = nn.Parameter(torch.randn(centres, widths[-1]))

    def features(
        self, noised: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch features"]:
        """f(x_t): the mean over the last maps."""
        told = self.tell(step_embedding(t, self.n_channels))
        maps = self.blocks[0](self.enter(noised), told)
        for shrink, block in zip(self.shrink, self.blocks[1:], strict=True):
            maps = block(shrink(maps), told)
        return maps.mean((2, 3))

    def forward(
        self, noised: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch centres"]:
        """The logarithms of the shares of all centres."""
        return log_shares(self.features(noised, t), self.centres, self.tau)


def shares_gradient(
    network: nn.Module,
    noised: Float[Tensor, "batch channels height width"],
    t: Int[Tensor, " batch"],
    centre: Int[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """The gradient of the logarithm of a centre's share with respect to x_t.

    Args:
        network: From x_t and t to logarithms of shares.
        noised: x_t.
        t: The step of each.
        centre: Which centre, for each sample.
    """
    with torch.enable_grad():
        asked = noised.detach().requires_grad_()
        shares = network(asked, t).gather(1, centre[:, None])
        gradient: Tensor = torch.autograd.grad(shares.sum(), asked)[0]
    return gradient


class LowDensitySampling(Diffusion):
    """A diffusion model with classes whose samples are pushed to what is rare in a class, and real.

    The two networks that push learn after the diffusion model, from its training images and from images that it makes.

    Args:
        alpha: How far samples are pushed away from the centre of their class, 0 or more.
        beta: How far they are pushed towards real images, 0 or more.
        tau: Temperature of the similarity to centres, above 0.
        guide_share: How long each of the two networks learns: a share of the steps of the diffusion model, above 0.
        made: How many images of the model are told from real ones, 1 or more; fewer where training is short.
        guidance: How far samples are drawn towards their class, 0 or more, which keeps them in it while they are pushed
            away from its centre; 1 for as the network says.
        sampler: "ddpm", whose steps draw noise; there is no other.
        classes: True; samples are pushed away from what is typical of their class.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"label": "the class of images"}
    trained: Tensor

    def __init__(
        self,
        alpha: float = 0.25,
        beta: float = 0.25,
        tau: float = 0.1,
        guide_share: float = 0.5,
        made: int = 1000,
        guidance: float = 3.0,
        sampler: Sampler = "ddpm",
        classes: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(guidance=guidance, sampler=sampler, classes=classes, **shared)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if weight < 0:
                raise UserError(f"{name}: expected 0 or more, got {weight}")
        for name, value in (("tau", tau), ("guide_share", guide_share)):
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        if made < 1:
            raise UserError(f"made: expected 1 or more, got {made}")
        if sampler != "ddpm":
            raise UserError(f"sampler: this method draws noise in each step, as 'ddpm' does, got '{sampler}'")
        if not classes:
            raise UserError("classes: this method must know the class of images; leave it at True")
        self.alpha, self.beta, self.tau = alpha, beta, tau
        self.guide_share, self.made = guide_share, made

    @classmethod
    def check_info(cls, info: DataInfo) -> None:
        """Makes sure that there are classes.

        Raises:
            UserError: If there are fewer than two.
        """
        super().check_info(info)
        if len(info.classes) < 2:
            raise UserError(f"classes: {cls.__name__} needs two or more, the data have {len(info.classes)}")

    def build(self, info: DataInfo) -> None:
        """Makes the diffusion model and both networks that push."""
        super().build(info)
        self.typical, self.real = (
            NoisyClassifier(info.channels, centres, self.n_channels, self.tau).requires_grad_(False)
            for centres in (len(info.classes), 2)
        )
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the diffusion model, then what pushes; with a limit of time, the model takes half of it."""
        limit, started = plan.time_limit, time.monotonic()
        super().learn(data, plan if limit is None else replace(plan, time_limit=limit * PARTS_END[0]))
        steps = max(1, round(self.guide_share * int(self.trained)))
        typical, made, real = (None if limit is None else started + part * limit for part in PARTS_END[1:])
        self._learn_typical(data, plan, steps, typical)
        self._learn_real(data, plan, steps, made, real)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """As in other methods; counts steps."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.trained.fill_(self.global_step)

    def uniform(
        self, label: Int[Tensor, " batch"], seed: int
    ) -> Float[Tensor, "batch channels height width"]:
        """Samples that nothing pushes, in [-1, 1].

        Args:
            label: The class of each.
            seed: Of the noise.
        """
        generators = [torch.Generator().manual_seed(mix(seed, place)) for place in range(len(label))]
        like = torch.empty(len(label), *self.shape(self.info), device=self.device)
        with torch.no_grad():
            return super().path(drawn_like(like, generators), label, generators)[-1]

    def push(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Where each sample is pushed: away from what is typical of its class, and towards real images."""
        pushed = torch.zeros_like(noised)
        if self.alpha:
            pushed = pushed - self.alpha * unit_gradient(shares_gradient(self.typical, noised, t, label))
        if self.beta:
            real = torch.full_like(label, REAL)
            pushed = pushed + self.beta * unit_gradient(shares_gradient(self.real, noised, t, real))
        return pushed

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to images in [-1, 1]; where no class is asked for, each is of a class that is drawn."""
        assert label is not None, "this method always knows classes"
        drawn = [torch.randint(len(self.info.classes), (), generator=each) for each in generators]
        label = torch.where(label < 0, torch.stack(drawn).to(label), label)
        path = [start]
        for step, earlier in pairwise(spaced_steps(self.T, self.sampling_steps)):
            t = torch.full((len(start),), step, device=start.device)
            clean = self.denoise(path[-1], t, label)
            push, noise = self.push(path[-1], t, label), drawn_like(start, generators)
            path.append(
                guided_step(path[-1], clean, self.alpha_bar[step], self.alpha_bar[earlier], push, noise)
            )
        return path

    def _learn_typical(self, data: TaskData, plan: TrainingPlan, steps: int, until: float | None) -> None:
        def known() -> tuple[Tensor, Tensor]:
            batch = self._some(data, plan.batch_size)
            return self.encode(batch["image"]), batch["label"]

        self._learn_shares(self.typical, known, steps, until)

    def _learn_real(
        self, data: TaskData, plan: TrainingPlan, steps: int, made_by: float | None, until: float | None
    ) -> None:
        count = min(self.made, steps * plan.batch_size)
        label = torch.arange(count, device=self.device) % len(self.info.classes)
        parts = []
        for place, part in enumerate(label.split(MADE_AT_ONCE if made_by is None else MADE_IN_HASTE)):
            parts.append(self.uniform(part, mix(plan.seed, place)))
            if made_by is not None and time.monotonic() > made_by:
                break
        made = torch.cat(parts)
        if len(made) < count:
            log.warning("time is over after %d of %d images of the model's", len(made), count)

        def both() -> tuple[Tensor, Tensor]:
            real = self.encode(self._some(data, plan.batch_size)["image"])
            some = made[torch.randint(len(made), (len(real),)).to(made.device)]
            centre = torch.arange(2, device=self.device).repeat_interleave(len(real))
            return torch.cat([some, real]), centre

        self._learn_shares(self.real, both, steps, until)

    def _some(self, data: TaskData, count: int) -> Batch:
        """Training images drawn at random."""
        places = torch.randint(len(data.train), (count,)).tolist()
        batch = self.task.collate([data.train[place] for place in places])
        return {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}

    def _learn_shares(
        self,
        network: NoisyClassifier,
        some: Callable[[], tuple[Tensor, Tensor]],
        steps: int,
        until: float | None = None,
    ) -> None:
        """Teaches a network to which centre images belong, whatever noise there is on them."""
        network.requires_grad_(True)
        adam = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for step in range(steps):
            if until is not None and step and time.monotonic() > until:
                log.warning("time is over after step %d of %d of a network that pushes", step, steps)
                break
            clean, centre = some()
            t = torch.randint(1, self.T + 1, (len(clean),), device=clean.device)
            shares = network(q_sample(clean, torch.randn_like(clean), self.alpha_bar[t]), t)
            adam.zero_grad()
            known = (centre >= 0).sum().clamp(min=1)
            (functional.nll_loss(shares, centre, ignore_index=-1, reduction="sum") / known).backward()
            adam.step()
        network.requires_grad_(False)
        network.zero_grad(set_to_none=True)


@lru_cache(maxsize=1)
def _data(seed: int) -> TaskData:
    """The digits of a seed."""
    return load_data(LARGE_CLAIM_DATA, task=LowDensitySampling.task_name, seed=seed)


def _fitted(lab: Lab, seed: int, alpha: float, beta: float) -> LowDensitySampling:
    """The same fitted networks whatever the weights."""
    plan: dict[str, Any] = CLAIM_PLAN | ({"steps": 2} if lab.quick else {})
    settled = TrainingPlan(seed=seed, device=str(lab.device), **plan)
    method = fitted_once(LowDensitySampling(**CLAIMED), _data(seed), settled)
    method.alpha, method.beta = alpha, beta
    return method


def _hardness_in_class(lab: Lab, seed: int, alpha: float) -> float:
    """The mean hardness of samples that a probe finds in the class that was asked for."""
    method, network = _fitted(lab, seed, alpha, beta=0.25), Features(FEATURES, lab.device)
    train, classes = _data(seed).train, len(method.info.classes)
    known = method.task.collate([train[place] for place in range(len(train))])
    features = network(known["image"])
    probe = fitted_classifier(features, known["label"], classes)
    components = PCA(WIDTH, svd_solver="full").fit(features.double().numpy())

    def reduced(rows: Tensor) -> Tensor:
        return torch.from_numpy(components.transform(rows.double().numpy()))

    label = torch.arange(JUDGED) % classes
    made = network(method.sample(JUDGED, labels=label, seed=seed))
    scores = hardness_score(
        reduced(made), label, *class_gaussians(reduced(features), known["label"], classes)
    )
    return float(scores[probe(made).argmax(1) == label].mean())


@claim(
    text="Of the samples that a classifier finds in their class, those that are pushed to low density have a higher "
    "mean hardness score than those of the same networks without that push.",
    where="abstract and section 4, hardness score",
    higher_is_better=True,
)
def the_push_makes_harder_samples(lab: Lab) -> Trial:
    """Digits of 16 pixels; normal distributions of 16 principal components of the embedded network's features. Samples
    that went over to another class do not count, as they are far from the centre of theirs in any case. Both sides have
    the push towards real images, without which the hardest samples of a small network are those that look like no
    digit."""
    return lab.measure(
        ours=lambda seed: _hardness_in_class(lab, seed, alpha=0.25),
        baseline=lambda seed: _hardness_in_class(lab, seed, alpha=0.0),
        metric="mean hardness score",
    )


@claim(
    text="With the push towards real images, more of the samples that are pushed to low density lie among real images "
    "than without it.",
    where="section 3 and figures 2 and 3",
    higher_is_better=True,
)
def the_second_push_keeps_samples_real(lab: Lab) -> Trial:
    """Digits of 16 pixels; precision by the features of the embedded network, both sides with the same push to low
    density."""

    def precision(seed: int, beta: float) -> float:
        return _fitted(lab, seed, 0.25, beta).evaluate(_data(seed))["precision"]

    return lab.measure(
        ours=lambda seed: precision(seed, 0.25),
        baseline=lambda seed: precision(seed, 0.0),
        metric="precision",
    )
