r"""Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv:1412.6550.

A thin and deep student is hard to train from its outputs alone. So its first half learns to predict what the middle of
the teacher holds, the hint, and only then the whole student is trained by distillation from there.

What the code follows, with u_h the teacher's hint, v_g the student's guided layer, r a regressor and tau a
temperature:

- Equation 3, `hint_loss`, the first stage: L_HT = 1/2 ||u_h - r(v_g)||^2. Only the layers up to the guided one, and r,
  learn from it.
- Equation 2, `knowledge_distillation`, the second stage: L_KD = H(y, P_S) + lambda H(P_T^tau, P_S^tau), with tau = 3.
- Section 2.4 and appendix A.1: lambda falls in a line from 4 to 1 over the second stage.
- Section 2.2: r is convolutional, with a kernel of N_g - N_h + 1 places, and has the non-linearity of the hint.

Differences from the paper: the first stage takes a share of training that is set before, not as long as a validation
error falls, and both stages have one course of the learning rate, with AdamW. Of two maps of different sizes the
larger is averaged to the size of the smaller first, so that the regressor's kernel is 1x1 by the rule above. It ends in
a ReLU where the hint is never negative; the non-linearity of other hints is left out. Much later work adds the hint
loss to the cross-entropy from beginning to end instead (github.com/HobbitLong/RepDistiller); with the paper's networks
that failed (section 3.1).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, in_smaller_size
from pinakes.papers.distillation.classifier import LAYERS, Answer, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy

EQUATIONS = (
    ("Equation 3", r"L_{HT} = \tfrac12 \lVert u_h - r(v_g) \rVert^2"),
    ("Equation 2", r"L_{KD} = H(y, P_S) + \lambda \, H(P_T^\tau, P_S^\tau)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def hint_loss(
    regressed: Float[Tensor, "batch width rows columns"], hint: Float[Tensor, "batch width rows columns"]
) -> Float[Tensor, ""]:
    """Half the squared distance of the regressor's output from the hint, the mean over the batch.

    Args:
        regressed: r(v_g), of the student.
        hint: u_h, of the teacher.

    Source: equation 3.

    Example:
        >>> hint_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(2.)
    """
    return 0.5 * (regressed - hint).square().flatten(1).sum(1).mean()


def softened_cross_entropy(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float = 3.0
) -> Float[Tensor, ""]:
    """H(P_T^tau, P_S^tau), the mean over the batch.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperature: tau, above 0.

    Source: equations 1 and 2.
    """
    told = (teacher / temperature).softmax(1)
    return -(told * (student / temperature).log_softmax(1)).sum(1).mean()


class Regressor(nn.Module):
    """r, which predicts the hint from the guided layer.

    Args:
        student: Width of the guided layer.
        teacher: Width of the hint.
        rectify: Whether it ends in a ReLU.

    Source: section 2.2.
    """

    def __init__(self, student: int, teacher: int, rectify: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(student, teacher, 1)
        self.activation = nn.ReLU() if rectify else nn.Identity()

    def forward(
        self,
        guided: Float[Tensor, "batch _width _rows _columns"],
        hint: Float[Tensor, "batch width rows columns"],
    ) -> tuple[Float[Tensor, "batch width r c"], Float[Tensor, "batch width r c"]]:
        """What is predicted and what the hint is, both in the smaller of the two sizes."""
        smaller, target = in_smaller_size(guided, hint)
        return self.activation(self.convolution(smaller)), target


class FitNets(Distiller):
    """A student whose first layers learn the teacher's middle, and which then learns labels and softened probabilities.

    Args:
        hint_share: Share of training that the first stage takes, 0 to below 1; with 0 there are no hints.
        layer: Feature level of student and teacher that is guided and gives the hint: -3, -2 or -1 from the deepest.
        temperature: tau of the softened probabilities.
        weight: lambda, the weight of the teacher's probabilities, at the beginning and the end of the second stage.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    helping: Regressor | None

    def __init__(
        self,
        hint_share: float = 0.3,
        layer: int = -2,
        temperature: float = 3.0,
        weight: tuple[float, float] = (4.0, 1.0),
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 <= hint_share < 1:
            raise UserError(f"hint_share: expected a share from 0 to below 1, got {hint_share}")
        if layer not in LAYERS:
            raise UserError(f"layer: expected {', '.join(map(str, LAYERS))}, got {layer}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if len(weight) != 2 or min(weight) < 0:
            raise UserError(f"weight: expected two numbers of 0 or more, got {weight}")
        self.hint_share = hint_share
        self.layer = layer
        self.temperature = temperature
        self.weight = weight

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> Regressor:
        """The regressor."""
        guide = self._teacher[0]
        noise = torch.rand(2, guide.info.channels, *guide.info.size, device=guide.device)
        with torch.no_grad():
            never_negative = not (guide.answers(noise).levels[self.layer] < 0).any().item()
        return Regressor(student[self.layer], teacher[self.layer], never_negative)

    def on_fit_start(self) -> None:
        """Makes sure that the length of training is known, as the hints have a share of it.

        Raises:
            UserError: If it is not.
        """
        if self.hint_share:
            self.needs_a_length("hint_share")

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of the stage that training is in."""
        if self.done < self.hint_share and self.helping is not None:
            return hint_loss(*self.helping(student.levels[self.layer], teacher.levels[self.layer]))
        if self.helping is not None:
            self.helping.requires_grad_(False)
        told = softened_cross_entropy(student.logits, teacher.logits, self.temperature)
        return labelled_cross_entropy(student.logits, label) + self.teachers_weight() * told

    def teachers_weight(self) -> float:
        """lambda at this point of the second stage."""
        first, last = self.weight
        return first + (last - first) * (self.done - self.hint_share) / (1 - self.hint_share)


@claim(
    text="A student that learns from hints and probabilities of a teacher is more accurate than one that learns the "
    "labels alone.",
    where="section 3.3, table 4, and section 4.1, figure 2",
    higher_is_better=True,
)
def fitnets_beat_labels_alone(lab: Lab) -> Trial:
    """Made scenes of single objects, a twelfth as many parameters in the student as in the teacher."""
    return lab.duel(ours=FitNets, baseline=CrossEntropy, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)


@claim(
    text="Hints before distillation make a student more accurate than distillation alone.",
    where="section 3.3, table 4, and section 4.1, figure 2",
    higher_is_better=True,
)
def hints_beat_distillation_alone(lab: Lab) -> Trial:
    """As above; the baseline spends the steps of the first stage on the second, whose loss is the same."""
    return lab.duel(
        ours=FitNets,
        baseline=lambda: FitNets(hint_share=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
