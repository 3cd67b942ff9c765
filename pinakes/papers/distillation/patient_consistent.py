r"""Beyer et al., Knowledge distillation: A good teacher is patient and consistent, CVPR 2022, arXiv:2106.05237.

Distillation is the matching of two functions: the student shall say what the teacher says, on as many inputs as can be
had, and labels have no part in it. So teacher and student see the very same view of an image, crop, flip and all; the
views are made as many as possible by crops of any size and by blending images; and the schedule is long, because a
student that is shown ever new views does not overfit. A teacher whose answers to the whole images were written down
once, or one that sees a crop of its own, teaches something else than what it knows.

What the code follows, with the teacher's probabilities p^t and the student's p^s, both softened by a temperature T:

- Section 3, the only loss: KL(p^t || p^s) = sum_i p_i^t (log p_i^t - log p_i^s), times T^2 as in the authors' code
  (github.com/google-research/big_vision, `evaluators/proj/distill/distance.py`).
- `inception_crop`: a crop of an area from `area_min` to all of the image, with sides in proportions from 3:4 to 4:3.
- Mixup in `matching_view`, after crop and flip: a coefficient from the full range, one for a batch, of which the image
  itself keeps the larger part (`utils.mixup` of the authors' code with p = 1).
- Figure 3: function matching, and the three other ways to show images to teacher and student, `views`.

Differences from the paper: the temperature is 1 as in its setting for ImageNet; it takes 1 to 10 on smaller data. The
answer to the whole image, "fixed", is not kept but asked for again, which gives the same numbers. Optimiser and
schedule are those of the shelf: AdamW instead of Adam or a second-order one. How long a student learns is a setting of
the fit, and this method wants many steps; the paper's students see an image up to a million times.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.trial import Pair
from pinakes.nn.augment import flipped, mixed
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, distillation_divergence
from pinakes.papers.distillation.classifier import Answer
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Section 3",
        r"\mathrm{KL}(p^t \,\|\, p^s) = \sum_i p_i^t (\log p_i^t - \log p_i^s), \quad "
        r"p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}",
    ),
    (
        "Mixup",
        r"\tilde x_i = \lambda x_i + (1 - \lambda) x_{i - 1}, \quad \lambda = \max(u, 1 - u), u \sim U(0, 1)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

PROPORTIONS = (3 / 4, 4 / 3)
"""The least and the greatest width of a crop as a share of its height."""
SHORT, LONG = 120, 720
"""Steps of the two schedules that the claim about patience compares."""

VIEWS = ("matching", "consistent", "independent", "fixed")
"""The ways to show images to teacher and student."""


def inception_crop(
    image: Float[Tensor, "batch channels height width"], area_min: float = 0.05
) -> Float[Tensor, "batch channels height width"]:
    """A crop of each image, of random place, size and proportions, brought to the size of the image.

    Proportions are drawn first, and then a height between those that give the least and the greatest area.

    Args:
        image: Images.
        area_min: The least area of a crop as a share of the image, above 0 and up to 1.

    Raises:
        ValueError: If `area_min` is out of range.

    Source: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6; in the form of TensorFlow's
        `sample_distorted_bounding_box`, which the authors' code calls.

    Example:
        >>> inception_crop(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """
    if not 0 < area_min <= 1:
        raise ValueError(f"area_min: expected a share above 0 and up to 1, got {area_min}")
    batch, _, height, width = image.shape
    draw = torch.rand(4, batch, device=image.device, dtype=image.dtype)
    least, greatest = PROPORTIONS
    # sides as shares of the image's, so that the area of a crop is their product
    proportion = (least + (greatest - least) * draw[0]) * height / width
    tallest = (1 / proportion).clamp(max=1)
    shortest = (area_min / proportion).sqrt().minimum(tallest)
    tall = shortest + (tallest - shortest) * draw[1]
    wide = tall * proportion
    nothing = torch.zeros_like(tall)
    right, down = (1 - wide) * (2 * draw[2] - 1), (1 - tall) * (2 * draw[3] - 1)
    rows = torch.stack([wide, nothing, right, nothing, tall, down], dim=1).view(batch, 2, 3)
    grid = functional.affine_grid(rows, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def matching_view(
    image: Float[Tensor, "batch channels height width"], area_min: float = 0.05
) -> Float[Tensor, "batch channels height width"]:
    """What teacher and student are both shown in function matching: images cropped, flipped and blended.

    Args:
        image: Images.
        area_min: The least area of a crop as a share of the image, above 0 and up to 1.

    Source: section 3.
    """
    share = torch.rand(1, device=image.device, dtype=image.dtype)
    share = share.maximum(1 - share).expand(len(image))
    return mixed(flipped(inception_crop(image, area_min)), share)


class PatientConsistent(Distiller):
    """A student that learns to say what the teacher says of the same view, without labels.

    The shared option `augmentation` is that of the teacher's own training; what the student is shown follows from
    `views`.

    Args:
        temperature: T of the softened probabilities.
        views: "matching" shows both the same crop, flipped and blended with others; "consistent" the same crop;
            "independent" a crop to each; "fixed" a crop to the student and the whole image to the teacher.
        area_min: The least area of a crop as a share of the image, above 0 and up to 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, temperature: float = 1.0, views: str = "matching", area_min: float = 0.05, **shared: Any
    ) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if views not in VIEWS:
            raise UserError(f"views: '{views}' is unknown{suggest(views, VIEWS)}")
        if not 0 < area_min <= 1:
            raise UserError(f"area_min: expected a share above 0 and up to 1, got {area_min}")
        if self.keep_answers and views != "fixed":
            raise UserError(
                f"keep_answers: with views '{views}' the teacher sees each image in another way each time"
            )
        self.temperature = temperature
        self.views = views
        self.area_min = area_min

    def shown(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """What the student and what the teacher is shown of images in [0, 1]."""
        if self.views == "matching":
            view = matching_view(image, self.area_min)
            return view, view
        view = flipped(inception_crop(image, self.area_min))
        if self.views == "independent":
            return view, flipped(inception_crop(image, self.area_min))
        return view, image if self.views == "fixed" else view

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The divergence of the two answers; labels are not looked at."""
        return distillation_divergence(student.logits, teacher.logits, self.temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch."""
        students, teachers = self.shown(batch["image"])
        return self.loss(self.answers(students), self.heard(teachers, batch), batch["label"])


def _with(views: str, **options: Any) -> Callable[[], PatientConsistent]:
    return lambda: PatientConsistent(views=views, **options)


@claim(
    text="A student that is shown the same crop as its teacher becomes more accurate than one that is shown another.",
    where="section 3, figure 3",
    higher_is_better=True,
)
def same_crop_beats_independent_crops(lab: Lab) -> Trial:
    """Made scenes of single objects, crops of 5 to 100 % of the area on both sides, no mixup."""
    return lab.duel(
        ours=_with("consistent"),
        baseline=_with("independent"),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="A student that is shown the same crop as its teacher becomes more accurate than one that learns the "
    "teacher's fixed answers to whole images.",
    where="section 3, figure 3",
    higher_is_better=True,
)
def same_crop_beats_a_fixed_teacher(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=_with("consistent"),
        baseline=_with("fixed"),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="The longer the schedule, the further function matching is ahead of learning a teacher's fixed answers.",
    where="section 3, figures 3 and 4",
    higher_is_better=True,
)
def patience_widens_the_lead(lab: Lab) -> Trial:
    """The lead in accuracy of function matching over a fixed teacher after 720 steps, held against that after 120; made
    scenes of single objects, one teacher for all."""
    # one teacher for both schedules
    teacher_steps = None if lab.quick else 2 * CLAIM_PLAN["steps"]
    short, long = (
        lab.duel(
            ours=_with("matching", teacher_steps=teacher_steps),
            baseline=_with("fixed", teacher_steps=teacher_steps),
            data=CLAIM_DATA,
            metric="accuracy",
            **{**CLAIM_PLAN, "steps": steps},
        )
        for steps in (SHORT, LONG)
    )
    leads = tuple(
        Pair(late.seed, late.difference, early.difference)
        for late, early in zip(long.pairs, short.pairs, strict=True)
    )
    return replace(long, metric=f"{long.metric}, lead over a fixed teacher", pairs=leads)
