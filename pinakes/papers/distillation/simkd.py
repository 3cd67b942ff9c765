r"""Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, arXiv:2203.14001.

Much of what a teacher knows lies in its last layer. So the student keeps that layer as it is, and learns one thing
only: to give the features that enter it. A small projector brings the student's last feature map to the teacher's
width, and it stays in the student. Where the two maps agree the student answers as the teacher does.

What the code follows, with f_s and f_t the last feature maps of student and teacher, and (W_t, b_t) the teacher's
classifier:

- Section 3.2, `feature_alignment`: L = ||P(f_s) - f_t||^2 is the whole loss; neither labels nor logits enter it, and
  there is no weight to choose. The larger of two maps is averaged to the size of the smaller.
- Section 3.2, `Projector`: P is a bottleneck of 1x1, 3x3 and 1x1 convolutions, each with batch normalisation and ReLU;
  its middle is r times narrower than the teacher's last map.
- Answer of the student: softmax(W_t mean(P(f_s)) + b_t).

As in the authors' code (github.com/DefangChen/SimKD), the loss is the mean over the elements of the map.

Differences from that code: r is 8 if not given, the most that the paper tries, where the code has 2; with teachers many
times as wide as their small students, the projector would otherwise be larger than the student. A student's map that
is larger than the teacher's is averaged behind P instead of before it, so that a fitted student need not know the size
of the teacher's maps. P ends without ReLU where the teacher's features can be negative, as those of vision transformers
are; no output of P could be like them otherwise.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.engine.runs import DESCRIPTION
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor, without_weights
from pinakes.nn.classifier import ImageClassifier
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, in_smaller_size
from pinakes.papers.distillation.classifier import (
    LAYERS,
    Answer,
    Classifier,
    OwnLayersClassifier,
    labelled_cross_entropy,
)
from pinakes.papers.distillation.kd import KD
from pinakes.papers.distillation.teacher import loaded_teacher

EQUATIONS = (
    ("Section 3.2", r"L = \lVert P(f_s) - f_t \rVert_2^2"),
    ("Answer of the student", r"p = \mathrm{softmax}(W_t \, \mathrm{mean}(P(f_s)) + b_t)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def feature_alignment(
    projected: Float[Tensor, "batch width rows columns"], teacher: Float[Tensor, "batch width _rows _columns"]
) -> Float[Tensor, ""]:
    """The mean squared difference of two feature maps; the larger is averaged to the size of the smaller.

    Args:
        projected: P(f_s), the student's.
        teacher: f_t.

    Source: section 3.2.

    Example:
        >>> feature_alignment(torch.ones(1, 8, 4, 4), 3 * torch.ones(1, 8, 2, 2))
        tensor(4.)
    """
    return functional.mse_loss(*in_smaller_size(projected, teacher))


class Projector(nn.Sequential):
    """P, which brings the student's last feature map to the teacher's width.

    Args:
        student: Width of the student's map.
        teacher: Width of the teacher's.
        reduction: r, how many times narrower the middle is than the teacher's map.
        rectify: Whether it ends in a ReLU.

    Source: section 3.2; github.com/DefangChen/SimKD for the layers.

    Example:
        >>> Projector(16, 64)(torch.rand(2, 16, 4, 4)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(self, student: int, teacher: int, reduction: int = 2, rectify: bool = True) -> None:
        narrow = teacher // reduction
        layers: list[nn.Module] = []
        for inputs, outputs, size in ((student, narrow, 1), (narrow, narrow, 3), (narrow, teacher, 1)):
            convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*(layers if rectify else layers[:-1]))


class ProjectedFeatures(nn.Module):
    """A backbone with a projector behind its last feature level.

    Args:
        backbone: Gives the levels.
        width: Of the last level behind the projector.
        reduction: r of the projector.
        rectify: Whether the projector ends in a ReLU.
    """

    def __init__(self, backbone: FeatureExtractor, width: int, reduction: int, rectify: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.widths[-1], width, reduction, rectify)
        self.widths = [*backbone.widths[:-1], width]
        self.strides = backbone.strides

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The feature maps, of which the last is P(f_s)."""
        *earlier, last = self.backbone(image)
        return [*earlier, self.projector(last)]


class SimKD(Distiller):
    """A student that learns the teacher's last features, and reads the classes from them with the teacher's classifier.

    Args:
        reduction: r, how many times narrower the projector is than the teacher's last feature map; the paper takes 2,
            4 and 8.
        reuse: Whether the classifier is the teacher's. Otherwise the student trains one of its own on the same
            projected features, by the cross-entropy of the labels added to the loss: joint training, to compare with.
        teacher_width: Channels of the teacher's last feature map; None for what they are. It is settled when the
            networks are made, and kept with the run, which then needs no teacher to be loaded.
        rectify: Whether the projector ends in a ReLU; None for yes where the teacher's features are never negative.
            It is settled and kept in the same way.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        reduction: int = 8,
        reuse: bool = True,
        teacher_width: int | None = None,
        rectify: bool | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value in (("reduction", reduction), ("teacher_width", teacher_width)):
            if value is not None and value < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
        self.reduction = reduction
        self.reuse = reuse
        self.teacher_width = teacher_width
        self.rectify = rectify

    def new_network(self, info: DataInfo) -> ImageClassifier:
        """The student's backbone, the projector, and room for the teacher's classifier.

        Raises:
            UserError: If the teacher cannot be had, or `reduction` leaves it nothing.
        """
        width, rectify = self._settled(info)
        if self.reduction > width:
            raise UserError(
                f"reduction: expected at most the teacher's width of {width}, got {self.reduction}"
            )
        student = FeatureExtractor(self.student_name, LAYERS, info.channels)
        features = ProjectedFeatures(student, width, self.reduction, rectify)
        network = OwnLayersClassifier(features, len(info.classes))
        network.head.requires_grad_(not self.reuse)
        return network

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The alignment of the last features; for joint training, with the cross-entropy of the labels."""
        aligned = feature_alignment(student.levels[-1], teacher.levels[-1])
        return aligned if self.reuse else labelled_cross_entropy(student.logits, label) + aligned

    def _set_teacher(self, teacher: Classifier) -> None:
        if type(teacher).answers is not Classifier.answers:
            raise UserError(
                f"teacher: {type(teacher).__name__} does not read the classes from its last feature map with a "
                "linear layer, which could be reused; give another teacher"
            )
        width = teacher.network.backbone.widths[-1]
        if width != self.teacher_width:
            raise UserError(
                f"teacher_width: is {self.teacher_width}, but the teacher's is {width}; leave it out"
            )
        super()._set_teacher(teacher)
        if self.reuse:
            self.network.head.load_state_dict(teacher.network.head.state_dict())

    def _settled(self, info: DataInfo) -> tuple[int, bool]:
        """`teacher_width` and `rectify`, found out from the teacher where they are not known yet."""
        if self.teacher_width is None or self.rectify is None:
            with isolated(0):
                last = self._last_features(info)
            if self.teacher_width is None:
                self.teacher_width = last.shape[1]
            if self.rectify is None:
                self.rectify = not (last < 0).any().item()
            self.options |= {"teacher_width": self.teacher_width, "rectify": self.rectify}
        return self.teacher_width, self.rectify

    def _last_features(self, info: DataInfo) -> Float[Tensor, "batch width rows columns"]:
        """What a teacher like this method's gives for noise; its weights need not be the trained ones."""
        if (Path(self.teacher_name) / DESCRIPTION).is_file():
            teacher = loaded_teacher(self.teacher_name, info)
        else:
            with without_weights():
                teacher = self._fresh_teacher().prepare(info)
        with torch.no_grad():
            return teacher.eval().answers(torch.rand(2, info.channels, *teacher.info.size)).levels[-1]


@claim(
    text="A student that learns the teacher's features for the teacher's own classifier is more accurate than one "
    "taught by KD.",
    where="section 4, tables of CIFAR-100",
    higher_is_better=True,
)
def simkd_beats_kd(lab: Lab) -> Trial:
    """Made scenes of single objects; the projector adds three fifths to the parameters that the baseline has."""
    return lab.duel(ours=SimKD, baseline=KD, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)


@claim(
    text="Reusing the teacher's classifier makes a student more accurate than training one jointly with the alignment.",
    where="section 4, ablation of the classifier",
    higher_is_better=True,
)
def reusing_beats_joint_training(lab: Lab) -> Trial:
    """As above; both sides have the same network and projector, and the baseline learns the labels too."""
    return lab.duel(
        ours=SimKD,
        baseline=lambda: SimKD(reuse=False),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
