r"""Chung et al., Come-Closer-Diffuse-Faster: Accelerating Conditional Diffusion Models for Inverse Problems through
Stochastic Contraction, CVPR 2022, arXiv:2112.05146.

A diffusion model of whole images can restore others of which something was measured, such as fewer pixels: after each
step from noise to an image, what the measurement says is put in its place. This needs many steps. But there is a first
estimate of the image, such as the few pixels enlarged. Noise that is added to it all at once makes it, part of the way
down, much like the true image with as much noise, and each step backwards brings the two nearer to each other. So the
way may start there, and most of its steps are left out.

What the code follows:

- Equation 12, `come_closer_path`: the first estimate with the noise of step N' = t_0 N; `late_steps` from there.
- Equation 13: steps of DDPM, or of DDIM.
- Equation 14, `consistent`: each is followed by x <- A x + b, with A = I - P.
- Equation 15: A must bring no two images farther apart. `FewerPixels`, `KnownPixels` and `KnownColumns` each give P, an
  orthogonal projection, for super-resolution, inpainting and magnetic resonance.

The measurement in b gets noise too, as the same authors add it in github.com/HJ-harry/MCG_diffusion; here it is that of
the step that is gone to.

Differences from the paper: a small network that is trained here; the first estimate is the degraded image itself, not
what another network made of it (`come_closer_path` takes any); the projection of super-resolution is the exact one for
bicubic shrinking; the method restores enlarged images, while the other projections are for loops of your own: of the
lines of magnetic resonance it would have to be told the complex values, not an image.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import Denoise, Draw, ddim_step, spaced_steps
from pinakes.papers.diffusion.base import CLAIM_DATA, CLAIM_PLAN, CLAIMED, drawn_like
from pinakes.papers.diffusion.prior import Prior
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Equation 12",
        r"x_{N'} = \sqrt{\bar\alpha_{N'}} \, x_0 + \sqrt{1 - \bar\alpha_{N'}} \, z, \quad N' = t_0 N",
    ),
    ("Equation 13", r"x'_{i-1} = f(x_i, i) + g(x_i, i) \, z_i"),
    ("Equation 14", r"x_{i-1} = A x'_{i-1} + b, \quad A = I - P, \quad b = P \hat{x}_{i-1}"),
    ("Equation 15", r"\lVert A x - A x' \rVert \leq \lVert x - x' \rVert"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Measured = Literal["downsample4", "downsample2"]
FACTORS = {"downsample4": 4, "downsample2": 2}
"""By how much each measurement shrinks the sides of images."""
UNLIKE = 0.005
"""By how much a degraded image in [0, 1] may be off from what the measurement makes of the true one, on average; so
much is left to rounding in files."""

Project = Callable[
    [Float[Tensor, "batch channels height width"]], Float[Tensor, "batch channels height width"]
]
"""P, from images to what a measurement would tell of them."""


class FewerPixels:
    """The measurement of super-resolution: images shrunk bicubically, with antialiasing.

    P x is the smallest image that shrinks to the same as x, which makes it an orthogonal projection.

    Args:
        size: Height and width of the large images.
        factor: By how much each side shrinks, 1 or more.

    Example:
        >>> measurement, image = FewerPixels((8, 8), factor=2), torch.rand(1, 3, 8, 8)
        >>> known = measurement.project(image)
        >>> bool(torch.dist(measurement.project(known), known) < 1e-4)
        True
    """

    def __init__(self, size: tuple[int, int], factor: int) -> None:
        # both ways of resizing treat rows and columns alike, one after the other
        self._shrinks = [_resizes(side, max(1, side // factor), antialias=True) for side in size]
        self._enlarges = [_resizes(max(1, side // factor), side) for side in size]

    def project(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """P x: all of an image that the measurement tells."""
        return _on_both_sides([torch.linalg.pinv(each) @ each for each in self._shrinks], image)

    def enlarged(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """What is measured of an image, enlarged bicubically to its size."""
        ways = zip(self._enlarges, self._shrinks, strict=True)
        return _on_both_sides([enlarges @ shrinks for enlarges, shrinks in ways], image)

    def given(
        self, enlarged: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """P x of an image from what `enlarged` gives of it."""
        ways = zip(self._shrinks, self._enlarges, strict=True)
        pinv = torch.linalg.pinv
        return _on_both_sides([pinv(shrinks) @ pinv(enlarges) for shrinks, enlarges in ways], enlarged)


class KnownPixels:
    """The measurement of inpainting: the pixels outside a hole.

    Args:
        hole: Where pixels are missing.
    """

    def __init__(self, hole: Bool[Tensor, "batch height width"]) -> None:
        self.hole = hole

    def project(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """P x: 0 in the hole."""
        return image.masked_fill(self.hole[:, None], 0)


class KnownColumns:
    """The measurement of magnetic resonance: some columns of the Fourier transform of images, real or complex.

    Of a real image a column tells the one of the opposite frequency as well.

    Args:
        kept: Which columns of each image were measured; the one of the lowest frequency is in the middle, width // 2.
    """

    def __init__(self, kept: Bool[Tensor, "batch width"]) -> None:
        self.kept = torch.fft.ifftshift(kept, dim=-1)[:, None, None]

    def project(self, image: Tensor) -> Tensor:
        """P x: with 0 for the columns that were not measured.

        Args:
            image: (batch, channels, height, width), real or complex.
        """
        if image.is_complex():
            return torch.fft.ifft2(torch.fft.fft2(image) * self.kept)
        opposite = self.kept.flip(-1).roll(1, dims=-1)
        return torch.fft.ifft2(torch.fft.fft2(image) * (self.kept | opposite)).real


def _resizes(side: int, wanted: int, antialias: bool = False) -> Float[Tensor, "_wanted _side"]:
    """The matrix by which bicubic resizing multiplies the rows of an image."""
    identity = torch.eye(side, dtype=torch.float64)[None, None]
    return functional.interpolate(identity, (wanted, side), mode="bicubic", antialias=antialias)[0, 0]


def _on_both_sides(
    matrices: Sequence[Float[Tensor, "_side _side"]], image: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch channels height width"]:
    """The first matrix times the rows of an image, and the second times its columns."""
    rows, columns = (each.to(image) for each in matrices)
    return rows @ image @ columns.T


def consistent(
    image: Float[Tensor, "batch channels height width"],
    given: Float[Tensor, "batch channels height width"],
    project: Project,
    alpha_bar: Float[Tensor, ""],
    noise: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """An image with noise, made to agree with what was measured, which is given as much noise.

    Args:
        image: x'_s.
        given: P x_0.
        project: P, a projection.
        alpha_bar: alpha_bar_s.
        noise: A draw from a normal distribution.

    Source: equation 14.
    """
    return image - project(image) + project(alpha_bar.sqrt() * given + (1 - alpha_bar).sqrt() * noise)


def late_steps(total: int, count: int, t0: float) -> list[int]:
    """The last of `count` even steps from `total` to 0, that share of them which `t0` says; one at least.

    Args:
        total: T, the steps of training.
        count: N, into how many steps the whole way is divided, 1 to T.
        t0: Where to start, above 0, to 1 for the whole way.

    Source: section 4.1, N' = t_0 N.

    Example:
        >>> late_steps(1000, 10, t0=0.3)
        [300, 200, 100, 0]
    """
    return spaced_steps(total, count)[-1 - max(1, round(t0 * count)) :]


def come_closer_path(
    denoise: Denoise,
    estimate: Float[Tensor, "batch channels height width"],
    given: Float[Tensor, "batch channels height width"],
    project: Project,
    alpha_bar: Float[Tensor, " steps_and_0"],
    steps: Sequence[int],
    draw: Draw,
    eta: float = 1.0,
) -> list[Float[Tensor, "batch channels height width"]]:
    """From a first estimate with noise to images that agree with what was measured.

    Args:
        denoise: From x_t and t to an estimate of x_0.
        estimate: The first estimate of the images.
        given: P x_0, what was measured, in the form of images.
        project: P.
        alpha_bar: Of all steps of training, as `alpha_bar_schedule` gives it.
        steps: Falling numbers from N' to 0, as `late_steps` gives them.
        draw: Noise of the form of the images.
        eta: How much of the noise is new in each step, as in `ddim_step`; 1 for DDPM.

    Returns:
        x of all steps, the last the images.

    Source: equations 12 to 14.
    """
    first = alpha_bar[steps[0]]
    path = [first.sqrt() * estimate + (1 - first).sqrt() * draw()]
    for t, s in pairwise(steps):
        clean = denoise(path[-1], torch.full((len(estimate),), t, device=estimate.device))
        freely = ddim_step(path[-1], clean, alpha_bar[t], alpha_bar[s], eta, draw())
        path.append(consistent(freely, given, project, alpha_bar[s], draw()))
    return path


class CCDF(Prior):
    """Restores images of fewer pixels by the last part of the way from noise to images.

    Args:
        measurement: How images were degraded: "downsample4" or "downsample2", as the task restoration names it.
        t0: Where the way starts, above 0, to 1 for noise in which next to nothing is left of the first estimate; so
            much less is the network asked.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "restoration"

    def __init__(self, measurement: Measured = "downsample4", t0: float = 0.2, **shared: Any) -> None:
        super().__init__(**shared)
        if measurement not in get_args(Measured):
            raise UserError(f"measurement: '{measurement}' is unknown{suggest(measurement, FACTORS)}")
        if not 0 < t0 <= 1:
            raise UserError(f"t0: expected a share above 0, of 1 at most, got {t0}")
        self.measurement, self.t0 = measurement, t0

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the network on the true images, once it is clear that the others are what the measurement makes.

        Raises:
            UserError: If they are not.
        """
        batch = self.task.collate([data.train[0]])
        expected = self._measurement(batch).enlarged(batch["clean"]).clamp(0, 1)
        if (batch["image"] - expected).abs().mean() > UNLIKE:
            raise UserError(
                f"measurement: the images of {data.spec} are not what '{self.measurement}' makes of the true ones; "
                f"choose another measurement, or data with ?degradation={self.measurement}"
            )
        super().learn(data, plan)

    def restoring_path(
        self, batch: Batch, label: Int[Tensor, " batch"] | None, generators: Sequence[torch.Generator]
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From degraded images with noise to images in [-1, 1] that shrink to what was measured."""
        estimate = self.encode(batch["image"])
        measured = self._measurement(batch)
        return come_closer_path(
            lambda noised, t: self.denoise(noised, t, label),
            estimate,
            measured.given(estimate),
            measured.project,
            self.alpha_bar,
            late_steps(self.T, self.sampling_steps, self.t0),
            lambda: drawn_like(estimate, generators),
            self.eta,
        )

    def _measurement(self, batch: Batch) -> FewerPixels:
        height, width = batch["image"].shape[-2:]
        return FewerPixels((height, width), FACTORS[self.measurement])


WHOLE = CLAIMED | {"measurement": "downsample2", "sampling_steps": 100, "t0": 1.0}
"""The whole way from noise, with as many questions to the network as steps."""
ENLARGED = f"{CLAIM_DATA}&degradation=downsample2"


@claim(
    text="With a fifth of the steps, from the enlarged image on, restored images are nearer to the true ones than "
    "after the whole way from noise.",
    where="section 4.2, theorem 1, and section 5",
    higher_is_better=True,
)
def starting_late_beats_the_whole_way(lab: Lab) -> Trial:
    """Digits of 4 pixels brought to 8, with 20 steps against 100; both sides train the same network in the same way,
    and every step is followed by the same projection."""
    return lab.duel(
        ours=lambda: CCDF(**WHOLE | {"t0": 0.2}),
        baseline=lambda: CCDF(**WHOLE),
        data=ENLARGED,
        metric="psnr",
        **CLAIM_PLAN,
    )


@claim(
    text="With the same number of questions to the network, steps from the enlarged image on come nearer to what is "
    "seen in the true one than larger ones from noise.",
    where="section 1: starting from noise is unnecessary",
    higher_is_better=False,
)
def starting_late_beats_larger_steps(lab: Lab) -> Trial:
    """As above, but 20 steps on both sides; perceptual distance to the true images."""
    return lab.duel(
        ours=lambda: CCDF(**WHOLE | {"t0": 0.2}),
        baseline=lambda: CCDF(**WHOLE | {"sampling_steps": 20}),
        data=ENLARGED,
        metric="perceptual",
        **CLAIM_PLAN,
    )
