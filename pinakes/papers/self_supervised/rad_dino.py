r"""Pérez-García et al., RAD-DINO: Exploring Scalable Medical Image Encoders Beyond Text Supervision, Nature Machine
Intelligence 2025, arXiv:2401.10815.

Encoders of radiographs are often trained on the reports that come with them. They then know what reports say, and
reports leave out much: what is normal, what was known before, who the patient is. Here an encoder of everyday
photographs is trained further on radiographs alone, by the same recipe as before, and sees larger parts of them.

What the code follows:

- The recipe is that of `pinakes.papers.self_supervised.dinov2`: views, hidden patches, and a teacher that follows.
- `begin_with`: training goes on from the weights of an encoder that learnt from other images. Its heads are not among
  them, as those of DINOv2 were not published, and start anew. Positions are interpolated where images have another
  size, and of colours grey makes the sum.
- Views show larger parts of the images than those of DINOv2. Of grey images what changes colours changes brightness and
  contrast alone.

The text at hand does not state the shares of the area or the strength of the changes; those here are ours.

Differences from the paper: those of `dinov2`, on which this stands; made pictures in grey in place of radiographs in
the claims. The encoder is judged by linear probes; decoders and the writing of reports are not here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

import pinakes
from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.contrastive import info_nce_loss
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.dino import SMALL, ViTFromViews
from pinakes.papers.self_supervised.dinov2 import DINOv2
from pinakes.papers.self_supervised.views import SHORT_PLAN
from pinakes.scenes.labels.attributes import ATTRIBUTES, SHAPE_ATTRIBUTES
from pinakes.tasks.base import Batch

EQUATIONS = (
    ("The recipe", r"L = L_{\mathrm{DINO}} + L_{\mathrm{iBOT}} + 0.1 \, L_{\mathrm{koleo}}"),
    ("`begin_with`", r"\theta_s = \theta_t = \theta_{\mathrm{photographs}}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

ALIKE = ("patch", "embed_dim", "depth")
"""Options in which a start must agree."""


def adapted(weights: dict[str, Tensor], channels: int, grid: Sequence[int]) -> dict[str, Tensor]:
    """The weights of a `ViewTransformer`, made fit for images of other channels and another size.

    Args:
        weights: By name.
        channels: Of the images: grey gets the sum of what the weights had for colours, and colours a part each of what
            they had for grey.
        grid: Rows and columns of patches, for which positions are interpolated.

    Raises:
        ValueError: If channels cannot be adapted: neither there nor here are the images grey.
    """
    found = {name: value.clone() for name, value in weights.items()}
    patches, places = "network.patch_embed.proj.weight", "network.pos_embed"
    had = found[patches].shape[1]
    if had != channels:
        if min(had, channels) > 1:
            raise ValueError(f"channels: weights for {had} cannot be made fit for {channels}")
        found[patches] = found[patches].sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    if found[places].shape[1] != 1 + grid[0] * grid[1]:
        found[places] = resample_abs_pos_embed(found[places], list(grid), num_prefix_tokens=1)
    return found


class RadDINO(DINOv2):
    """A vision transformer, trained further by DINOv2's recipe on grey images such as radiographs.

    Args:
        start: The run folder of a method that learnt from views with a vision transformer, such as dinov2, on other
            images and with the same patch, width and depth. Empty for random weights.
        least_area: The smallest share of an image's area that a large view shows.
        least_local_area: The smallest share of an image's area that a small view shows.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        start: str = "",
        least_area: float = 0.5,
        least_local_area: float = 0.2,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, least_local_area=least_local_area, **shared)
        self.start = str(start)

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Takes the weights that training starts with.

        Raises:
            UserError: If the run holds no such encoder, or one of another form.
        """
        if not self.start:
            return
        found = pinakes.load(self.start)
        if not isinstance(found, ViTFromViews):
            raise UserError(
                f"start: {self.start} holds a run of {type(found).__name__}; give one of dino-ssl, ibot or dinov2"
            )
        self.begin_with(found)

    def begin_with(self, start: ViTFromViews) -> None:
        """Copies the weights of an encoder, the one that features are read from, to student and teacher.

        Args:
            start: A fitted method.

        Raises:
            UserError: If it has another form; names what differs.
        """
        for name in ALIKE:
            there, here = getattr(start, name), getattr(self, name)
            if there != here:
                raise UserError(f"start: has {name} {there}, but {here} is asked for; set {name}={there}")
        grid = [side // self.patch for side in self.info.size]
        try:
            weights = adapted(start.teacher.network.state_dict(), self.info.channels, grid)
        except ValueError as error:
            raise UserError(f"start: {error}") from error
        self.encoder.load_state_dict(weights)
        self.teacher.network.load_state_dict(weights)


GENERAL = "scenes:segmentation?n=2000"
"""Made scenes of several things in colour, in place of everyday photographs."""
GREY = "scenes:classification?size=32&n=500&channels=1"
"""Made scenes of single things in grey, and few of them, in place of radiographs."""
CAPTIONED = "scenes:attributes?size=32&n=2000&channels=1"
"""Made scenes of single things in grey, whose captions are a colour and a texture, not what the thing is."""
WORDS = ATTRIBUTES[len(SHAPE_ATTRIBUTES) :]
"""Of captions: colours and textures, which are the last attributes of these scenes."""


COARSE: dict[str, Any] = SMALL | {"patch": 8}
"""The networks of claims, with patches for images of 32 pixels."""


class _FromScenes(RadDINO):
    """One that starts with what DINOv2 learns of coloured scenes in as many steps."""

    def __init__(self) -> None:
        super().__init__(**COARSE)

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Fits the start, once for each seed."""
        scenes = load_data(GENERAL, task=self.task, seed=plan.seed, size=self.info.size)
        self.begin_with(fitted_once(DINOv2(**COARSE), scenes, replace(plan, out=None, resume=False)))


@claim(
    text="A linear classifier reads more of grey images after training that started from an encoder of coloured ones "
    "than after as many steps from random weights.",
    where="section on ablations: the start of training",
    higher_is_better=True,
)
def starting_from_other_images_helps(lab: Lab) -> Trial:
    """Few made scenes of single things in grey; the start learnt from other scenes in colour, whose steps are extra."""
    return lab.duel(
        ours=_FromScenes,
        baseline=lambda: RadDINO(**COARSE),
        data=GREY,
        metric="linear_probe",
        **SHORT_PLAN,
    )


class _FromCaptions(ViTFromViews):
    """The same transformer, which learns to find the caption of a view, as CLIP does; its words are added up."""

    needs = {"attributes": "colour and texture, of which captions are made"}

    def __init__(self) -> None:
        super().__init__(
            patch=COARSE["patch"],
            embed_dim=COARSE["embed_dim"],
            depth=COARSE["depth"],
            least_area=0.5,
            least_local_area=0.2,
        )

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, the words and both heads."""
        super().build(info)
        self.words = nn.Linear(len(WORDS), self.embed_dim, bias=False)
        self.image_head = projection_head([self.embed_dim, self.embed_dim, 64])
        self.caption_head = projection_head([self.embed_dim, self.embed_dim, 64])

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """How badly views and captions find each other."""
        large = self.views(self.sized(batch["image"]))[0]
        caption = self.caption_head(self.words(batch["attributes"][:, -len(WORDS) :]))
        found = [
            info_nce_loss(view, caption, 0.1) + info_nce_loss(caption, view, 0.1)
            for view in self.image_head(self.encoder(large)[:, 0]).chunk(2)
        ]
        return torch.stack(found).mean() / 2


@claim(
    text="A linear classifier reads more of what captions leave out from an encoder that learnt from images alone than "
    "from one that learnt from the captions.",
    where="abstract: other records, such as sex and age, that reports do not mention",
    higher_is_better=True,
)
def images_tell_what_captions_leave_out(lab: Lab) -> Trial:
    """Made scenes in grey, captioned with a colour and a texture, and judged by what the thing is; equal steps."""
    return lab.duel(
        ours=lambda: RadDINO(**COARSE),
        baseline=_FromCaptions,
        data=CAPTIONED,
        metric="linear_probe",
        **SHORT_PLAN,
    )
