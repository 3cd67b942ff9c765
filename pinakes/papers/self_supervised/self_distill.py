r"""Lee et al., Self-Distillation for Further Pre-training of Transformers, ICLR 2023, arXiv:2210.02871.

A transformer that was pretrained on many images is trained further, without labels, on the few of the task at hand. A
vision transformer then soon overfits. Here the one trained further is only a teacher: the same start is trained again,
as a student, to paint hidden patches and also to say of whole images what the teacher says of them. That keeps it
nearer to where it started.

What the code follows, with h the class token behind the last normalisation:

- Further pretraining: L_MAE, the mean squared error of hidden patches, on the images of the task; the result is the
  teacher.
- Self-distillation, `hidden_distance`: from the same initial weights, encoder and decoder, the student learns
  L = L_MAE + |h_student(x) - sg[h_teacher(x)]|^2, with nothing hidden of x in the second term.
- `rounds`: the student of one round is the teacher of the next, in which the student starts anew. With 0 rounds what
  remains is plain further pretraining.

Which representation is compared, the sum of squares over its values, and stages of equal length without a change of the
images are those of the authors' code (github.com/seanie12/self-distillation), which has one round.

Differences from the paper: networks and patches are small by default. All stages are parts of one fit, with fresh
statistics of the optimiser in each; the learning rate rises and falls in each, where that code lets it fall in a line.
If no `start` is given there is no earlier pretraining, and teacher and students begin with the same random weights.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import pinakes
from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.papers.self_supervised.base import CLAIM_DATA, Augmentation, no_loss
from pinakes.papers.self_supervised.mae import MAE
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Self-distillation", r"L = L_{MAE} + \lVert h_\theta(x) - \mathrm{sg}[h_{\theta_0}(x)] \rVert_2^2"),
    (
        "Further pretraining",
        r"L_{MAE} = \frac{1}{|M|} \sum_{i \in M} \lVert \hat x_i - x_i \rVert^2 \text{ over hidden patches } M",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

ALIKE = ("patch", "embed_dim", "depth", "decoder_embed_dim", "decoder_depth")
"""Options in which a start must agree."""

log = logging.getLogger(__name__)


def hidden_distance(
    student: Float[Tensor, "batch width"], teacher: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    """The squared distance of two representations of an image, the mean over the batch.

    Args:
        student: Its representations of whole images.
        teacher: The teacher's; no gradient flows to it.

    Source: section on self-distillation; the authors' code.

    Example:
        >>> hidden_distance(torch.ones(2, 3), torch.zeros(2, 3))
        tensor(3.)
    """
    return (student - teacher.detach()).square().sum(1).mean()


class SelfDistillation(MAE):
    """A masked autoencoder, trained further on new images beside one that was trained further on them before.

    The embedding is the class token behind the last normalisation, as that is what teacher and student share.

    Args:
        start: The run folder of a masked autoencoder, which is where training starts: made with pinakes fit mae or
            with this method, on other images of the same size and with the same options. Empty for random weights.
        rounds: How often a student starts anew beside a teacher; 0 for plain further pretraining. The steps of
            training are divided equally among these rounds and the training of the first teacher.
        augmentation: How training images are changed: "crop" takes a fifth to all of the area and mirrors half of them,
            "shift" moves them by up to an eighth, "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, start: str = "", rounds: int = 1, augmentation: Augmentation = "none", **shared: Any
    ) -> None:
        super().__init__(augmentation=augmentation, **shared)
        if rounds < 0:
            raise UserError(f"rounds: expected 0 or more, got {rounds}")
        self.start, self.rounds = str(start), rounds

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        # in a list, so that it is not a part of the student: not trained, not saved, not counted
        self._teacher: list[nn.Sequential] = []
        self._initial: dict[str, Tensor] = {}

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The class token, and the patches, of whole images."""
        tokens = self.normal(self.encoder(image))
        return {"embedding": tokens[:, 0], "features": self.encoder.maps(tokens)}

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """L_MAE, and where there is a teacher the distance from it; outside of a fit there is none."""
        painting = super().loss(image)
        if not self._teacher:
            return painting
        teacher = self._teacher[0].to(image.device)
        with torch.no_grad():
            told = teacher(image)[:, 0]
        return painting + hidden_distance(self.encode(image)["embedding"], told)

    # -- where it starts -------------------------------------------------------------------------------------

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Takes the weights that training starts with.

        Raises:
            UserError: If the run holds no masked autoencoder, or one of another form.
        """
        if not self.start:
            log.info("no start is given: teacher and students begin with random weights")
            return
        found = pinakes.load(self.start)
        if not isinstance(found, MAE):
            raise UserError(
                f"start: {self.start} holds a run of {type(found).__name__}, not of a masked autoencoder"
            )
        self.begin_with(found)

    def begin_with(self, start: MAE) -> None:
        """Copies the weights of a masked autoencoder.

        Args:
            start: A fitted one of the same form.

        Raises:
            UserError: If it has another form; names what differs.
        """
        for name in ALIKE:
            there, here = getattr(start, name), getattr(self, name)
            if there != here:
                raise UserError(f"start: has {name} {there}, but {here} is asked for; set {name}={there}")
        for name in ("size", "channels"):
            there, here = getattr(start.info, name), getattr(self.info, name)
            if there != here:
                raise UserError(
                    f"start: was fitted on images of {name} {there}, but the data have {here}; give data of that {name}"
                )
        self.encoder.load_state_dict(start.encoder.state_dict())
        self.decoder.load_state_dict(start.decoder.state_dict())

    # -- stages ----------------------------------------------------------------------------------------------

    def stage_shares(self) -> Sequence[float]:
        """Stages of the same length."""
        return (1 / (self.rounds + 1),) * (self.rounds + 1)

    def on_fit_start(self) -> None:
        """Keeps the initial weights."""
        super().on_fit_start()
        if self.rounds and not self._initial:  # else a run is resumed
            self._initial = _copied(self.state_dict())

    def begin_stage(self, stage: int) -> None:
        """What has been trained becomes the teacher, and the student starts anew."""
        self._set_teacher()
        self.load_state_dict(self._initial)

    def _set_teacher(self) -> None:
        teacher = copy.deepcopy(nn.Sequential(self.encoder, self.decoder.norm))
        self._teacher = [teacher.eval().requires_grad_(False)]

    def on_fit_end(self) -> None:
        """Drops what only training needs."""
        self._teacher, self._initial = [], {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds teacher and initial weights."""
        if self._initial:
            checkpoint["initial"] = _copied(self._initial)
        if self._teacher:
            checkpoint["teacher"] = _copied(self._teacher[0].state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up teacher and initial weights again."""
        self._initial = checkpoint.get("initial", {})
        if "teacher" in checkpoint:
            self._set_teacher()
            self._teacher[0].load_state_dict(checkpoint["teacher"])


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


FEW_DIGITS = "digits?n=300&finetune=100"
"""A small set, far from where training starts, all of whose labels are there for fine-tuning."""
CLAIM_PLAN: dict[str, Any] = {"steps": 600, "batch_size": 64}
"""128 passes over the images."""


class _FromScenes(SelfDistillation):
    """A small one that starts with what a masked autoencoder learns of made scenes in twice as many steps."""

    def __init__(self, rounds: int = 1) -> None:
        super().__init__(rounds=rounds, patch=8, embed_dim=64, depth=4)

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """The same start for all sides of a duel."""
        scenes = load_data(CLAIM_DATA, task=self.task, seed=plan.seed, size=self.info.size)
        start = MAE(patch=self.patch, embed_dim=self.embed_dim, depth=self.depth)
        longer = replace(plan, steps=2 * (plan.steps or 1), epochs=None, out=None, resume=False)
        self.begin_with(fitted_once(start, scenes, longer))


class _Start(_FromScenes):
    """It stays what it starts with until it is fine-tuned."""

    def __init__(self) -> None:
        super().__init__(rounds=0)
        self.weight_decay = 0.0

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="After self-distillation a transformer is more accurate when it is fine-tuned than without any further "
    "pretraining.",
    where="abstract",
    higher_is_better=True,
)
def self_distillation_beats_none(lab: Lab) -> Trial:
    """From made scenes to 300 digits; both start with the same weights."""
    return lab.duel(ours=_FromScenes, baseline=_Start, data=FEW_DIGITS, metric="finetune_100", **CLAIM_PLAN)


@claim(
    text="After self-distillation a transformer is more accurate when it is fine-tuned than after as many steps of "
    "plain further pretraining.",
    where="abstract",
    higher_is_better=True,
)
def self_distillation_beats_further_pretraining(lab: Lab) -> Trial:
    """As above; the teacher's steps count, and both start with the same weights."""
    return lab.duel(
        ours=_FromScenes,
        baseline=lambda: _FromScenes(rounds=0),
        data=FEW_DIGITS,
        metric="finetune_100",
        **CLAIM_PLAN,
    )
