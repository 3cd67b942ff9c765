r"""Bai et al., Masked Autoencoders Enable Efficient Knowledge Distillers, CVPR 2023, arXiv:2208.12256.

A teacher that was pretrained as a masked autoencoder passes on what it knows before any label is seen. The student is
pretrained in the same way, to paint the hidden patches of an image, and its features half-way are drawn towards those
of the teacher, which looks at the same visible patches. Both compute only these, and the teacher only its first
blocks. Then the decoder, the projection and the teacher are dropped and the student is fine-tuned on labels.

What the code follows, with tokens z of the visible patches and of the class, behind three quarters of the blocks:

- Section 3, `pinakes.nn.masked_autoencoder.reconstruction_loss`: L_MAE, the mean squared error of hidden patches.
- Section 3, `feature_alignment`: the mean of |h(z^S) - z^T|, with a linear projection h of the student's tokens, after
  both are brought to length 1 (the last as in the authors' code, github.com/UCSC-VLAA/DMAE).
- L = L_MAE + alpha times the alignment; alpha is 1 in that code, and blocks 9 of 12 and 18 of 24 are compared.
- Fine-tuning: the mean over the patches behind the last block, a fresh normalisation and a linear layer.

Differences from the paper: networks of a few blocks for small images; the teacher is pretrained on the spot, on the
same images. Both stages are parts of one fit, the first a set share of its steps; each has its own rise and fall of
the learning rate and fresh statistics of the optimiser. The decoder has one block. Fine-tuning has the shelf's
augmentation, without mixup, stochastic depth and rates that differ from block to block.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import pinakes
from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.method import Method
from pinakes.nn.masked_autoencoder import (
    HEAD_WIDTH,
    MaskedDecoder,
    MaskedEncoder,
    random_masking,
    reconstruction_loss,
)
from pinakes.papers.distillation.base import CLAIM_DATA, Distiller
from pinakes.papers.distillation.classifier import Augmentation, rise_and_fall
from pinakes.tasks.base import Batch

EQUATIONS = (
    ("Section 3", r"L = L_{MAE} + \alpha \, \lVert h(z^S) - z^T \rVert_1"),
    (
        "Section 3",
        r"L_{MAE} = \frac{1}{|M|} \sum_{i \in M} (\hat x_i - x_i)^2 \text{ over hidden patches } M",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

DECODER_WIDTH, DECODER_DEPTH = 64, 1
TWO_STAGES = 800
"""Steps of a claim: 400 of pretraining, 400 of fine-tuning."""

Distance = Literal["L1", "L2"]


def feature_alignment(
    student: Float[Tensor, "batch tokens width"],
    teacher: Float[Tensor, "batch tokens width"],
    distance: Distance = "L1",
) -> Float[Tensor, ""]:
    """The mean distance of two networks' tokens, each brought to length 1.

    Args:
        student: Its tokens, projected to the teacher's width.
        teacher: The teacher's, of the same patches in the same order.
        distance: "L1" for absolute, "L2" for squared differences.

    Source: section 3 and the authors' code.

    Example:
        >>> feature_alignment(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
        tensor(1.)
    """
    said, told = functional.normalize(student, dim=2), functional.normalize(teacher, dim=2)
    return functional.l1_loss(said, told) if distance == "L1" else functional.mse_loss(said, told)


class PatchClassifier(nn.Module):
    """A masked encoder, now of whole images, and a linear layer on the mean over its patches.

    Args:
        backbone: The encoder.
        classes: Number of classes.
    """

    def __init__(self, backbone: MaskedEncoder, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.width, eps=1e-6)
        self.head = nn.Linear(backbone.width, classes)

    def levels(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _features _rows _columns"]]:
        """Feature maps behind each third of the blocks, of images in [0, 1]."""
        return self.backbone.levels(image)

    def read(self, last: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "batch classes"]:
        """The logits of a last feature map."""
        logits: Tensor = self.head(self.norm(last.mean((2, 3))))
        return logits


class DMAE(Distiller):
    """A student pretrained as a masked autoencoder beside a masked teacher, then fine-tuned on labels.

    Args:
        alpha: Weight of the alignment with the teacher; with 0 there is no teacher, which leaves a plain masked
            autoencoder.
        mask_ratio: Share of the patches that are hidden in pretraining, above 0 and below 1.
        distance: "L1" or "L2", between the features of student and teacher.
        align_at: Share of the blocks behind which they are compared, above 0 to 1.
        norm_pix_loss: Whether each patch to be painted is first brought to mean 0 and variance 1.
        pretraining: Share of the steps that are pretraining, 0 to 1; the others fine-tune.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the student, a multiple of 32.
        depth: Blocks of the student.
        teacher: The run folder of a fitted method of this kind, made with pinakes fit dmae --set alpha=0 --set
            pretraining=1; None to pretrain one on the same images.
        teacher_dim: Width of a teacher pretrained here, a multiple of 32.
        teacher_depth: Its blocks.
        teacher_steps: How many steps of pretraining it gets; None for twice as many as the student has in all.
        learning_rate: Of AdamW, after a rise over the first tenth of each stage and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    training_defaults = {"steps": TWO_STAGES, "batch_size": 64}
    network: Any

    def __init__(
        self,
        alpha: float = 1.0,
        mask_ratio: float = 0.75,
        distance: Distance = "L1",
        align_at: float = 0.75,
        norm_pix_loss: bool = False,
        pretraining: float = 0.5,
        patch: int = 8,
        embed_dim: int = 64,
        depth: int = 4,
        teacher: str | None = None,
        teacher_dim: int = 96,
        teacher_depth: int = 8,
        teacher_steps: int | None = None,
        learning_rate: float = 1e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(
            teacher="" if teacher is None else teacher,
            teacher_steps=teacher_steps,
            learning_rate=learning_rate,
            augmentation=augmentation,
        )
        if alpha < 0:
            raise UserError(f"alpha: expected 0 or more, got {alpha}")
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        if distance not in get_args(Distance):
            raise UserError(f"distance: '{distance}' is unknown{suggest(distance, get_args(Distance))}")
        if not 0 < align_at <= 1:
            raise UserError(f"align_at: expected a share above 0, up to 1, got {align_at}")
        if not 0 <= pretraining <= 1:
            raise UserError(f"pretraining: expected a share from 0 to 1, got {pretraining}")
        for name, value in (("embed_dim", embed_dim), ("teacher_dim", teacher_dim)):
            if value < HEAD_WIDTH or value % HEAD_WIDTH:
                raise UserError(f"{name}: expected a multiple of {HEAD_WIDTH}, got {value}")
        for name, value in (("patch", patch), ("depth", depth), ("teacher_depth", teacher_depth)):
            if value < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
        self.alpha, self.mask_ratio, self.distance, self.align_at = alpha, mask_ratio, distance, align_at
        self.norm_pix_loss, self.pretraining = norm_pix_loss, pretraining
        self.patch, self.embed_dim, self.depth = patch, embed_dim, depth
        self.teacher_dim, self.teacher_depth = teacher_dim, teacher_depth

    def new_network(self, info: DataInfo) -> Any:
        """The student, not yet trained.

        Raises:
            UserError: If images cannot be cut into patches.
        """
        height, width = info.size
        if height % self.patch or width % self.patch or height * width < 2 * self.patch**2:
            raise UserError(
                f"patch: images of {height}x{width} pixels cannot be cut into patches of {self.patch}; give another "
                "patch or size"
            )
        backbone = MaskedEncoder((height, width), self.patch, info.channels, self.embed_dim, self.depth)
        return PatchClassifier(backbone, len(info.classes))

    # -- the teacher -----------------------------------------------------------------------------------------

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Loads the teacher, or pretrains it if that has not been done before, and makes decoder and projection.

        Raises:
            UserError: If the teacher's run does not fit the data.
        """
        if not self.pretraining:
            return
        if not self.alpha:
            self._set_helping([])
        elif self.teacher_name:
            self._set_teacher(_loaded(self.teacher_name, self.network.backbone, data.info))
        else:
            self._set_teacher(fitted_once(self._fresh_teacher(), data, self._teachers_plan(plan)))

    def learnt_from(self) -> dict[str, Method]:
        """Nothing to compare with: the teacher knows no classes."""
        return {}

    def _fresh_teacher(self) -> "DMAE":
        return DMAE(
            alpha=0.0,
            mask_ratio=self.mask_ratio,
            norm_pix_loss=self.norm_pix_loss,
            pretraining=1.0,
            patch=self.patch,
            embed_dim=self.teacher_dim,
            depth=self.teacher_depth,
            augmentation=self.augmentation,
        )

    def _set_teacher(self, teacher: Any) -> None:
        self._teacher = [teacher.eval().requires_grad_(False)]
        self._set_helping([teacher.network.backbone.width])

    def _set_helping(self, widths: Sequence[int]) -> None:
        with isolated(0):
            self.helping = self.helpers([self.embed_dim], widths)

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """The decoder, and the projection to the teacher's width where there is one."""
        backbone = self.network.backbone
        modules: dict[str, nn.Module] = {
            "decoder": MaskedDecoder(
                backbone.grid, self.patch, self.info.channels, student[-1], DECODER_WIDTH, DECODER_DEPTH
            )
        }
        if teacher:
            modules["projection"] = nn.Linear(student[-1], teacher[-1])
        return nn.ModuleDict(modules)

    # -- training --------------------------------------------------------------------------------------------

    @property
    def pretrains(self) -> bool:
        """Whether the step in progress belongs to pretraining; outside of a fit it does not."""
        return self.helping is not None and self.done < self.pretraining

    def pretraining_loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Reconstruction of hidden patches plus alpha times the alignment with the teacher.

        Args:
            image: Images in [0, 1] of the method's size, already changed at random.
        """
        encoder, helping = self.network.backbone, self.helping
        assert isinstance(helping, nn.ModuleDict)
        masking = random_masking(len(image), encoder.patches, self.mask_ratio, image.device)
        midway, last = encoder.after(image, [self._block(encoder), encoder.depth], masking.visible)
        painted = helping["decoder"](last, masking.restore)
        painting = reconstruction_loss(painted, image, masking.hidden, self.patch, self.norm_pix_loss)
        if not self._teacher:
            return painting
        told = self._tokens_told(image, masking.visible)
        return painting + self.alpha * feature_alignment(helping["projection"](midway), told, self.distance)

    def _block(self, encoder: MaskedEncoder) -> int:
        """The number of the block behind which features are compared."""
        return max(1, round(self.align_at * encoder.depth))

    def _tokens_told(self, image: Tensor, visible: Tensor) -> Tensor:
        """The teacher's tokens, with no block run behind these; in half precision on a GPU."""
        teacher: Any = self._teacher[0]
        if teacher.device != image.device:
            teacher.to(image.device)
        encoder = teacher.network.backbone
        half = image.device.type == "cuda"
        with torch.no_grad(), torch.autocast(image.device.type, torch.float16, enabled=half):
            (told,) = encoder.after(image, [self._block(encoder)], visible)
        return told.float()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of pretraining in the first stage, the cross-entropy in the second."""
        if self.pretrains:
            return self.pretraining_loss(self.augmented(batch["image"]))
        return super(Distiller, self).training_step(batch, batch_idx)

    def on_fit_start(self) -> None:
        """Makes sure that the length of training is known, as pretraining is a share of it.

        Raises:
            UserError: If it is not.
        """
        if self.pretraining:
            self.needs_a_length("pretraining")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fine-tuning starts with fresh statistics of the optimiser."""
        if self.global_step and self.global_step == self._first_of_fine_tuning():
            for optimiser in self.trainer.optimizers:
                optimiser.state.clear()

    def configure_optimizers(self) -> Any:
        """AdamW on everything that is trained; the learning rate rises and falls once in each stage."""
        found = super(Distiller, self).configure_optimizers()
        total = self.total_steps()
        if not total:
            return found
        change = self._first_of_fine_tuning()

        def height(step: int) -> float:
            if step < change:
                return rise_and_fall(step / change)
            return rise_and_fall((step - change) / max(1, total - change))

        schedule = LambdaLR(found["optimizer"], height)
        return {"optimizer": found["optimizer"], "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _first_of_fine_tuning(self) -> int:
        return math.ceil(self.pretraining * self.total_steps())


def _loaded(folder: str, student: MaskedEncoder, info: DataInfo) -> DMAE:
    """The teacher in a run folder.

    Raises:
        UserError: If it is none of this method, or does not see the same patches.
    """
    found = pinakes.load(folder)
    if not isinstance(found, DMAE):
        raise UserError(f"teacher: {folder} holds a run of {type(found).__name__}, not of DMAE")
    theirs = found.network.backbone
    for name, there, here in (
        ("size", theirs.size, student.size),
        ("patch", theirs.patch, student.patch),
        ("channels", found.info.channels, info.channels),
    ):
        if there != here:
            raise UserError(f"teacher: {folder} has {name} {there}, but the student has {here}")
    return found


@claim(
    text="A student pretrained beside a masked teacher is more accurate after fine-tuning than one pretrained as a "
    "masked autoencoder alone.",
    where="abstract and section 4",
    higher_is_better=True,
)
def dmae_beats_a_masked_autoencoder_alone(lab: Lab) -> Trial:
    """Made scenes of single objects, a quarter as many parameters in the student as in the teacher."""
    return lab.duel(
        ours=DMAE,
        baseline=lambda: DMAE(alpha=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        steps=TWO_STAGES,
    )


@claim(
    text="Features aligned by their absolute differences teach more than by their squared ones.",
    where="section 1",
    higher_is_better=True,
)
def absolute_differences_beat_squared_ones(lab: Lab) -> Trial:
    """As above, with the same teacher on both sides."""
    return lab.duel(
        ours=DMAE,
        baseline=lambda: DMAE(distance="L2"),
        data=CLAIM_DATA,
        metric="accuracy",
        steps=TWO_STAGES,
    )
