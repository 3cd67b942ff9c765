r"""Hager et al., Best of Both Worlds: Multimodal Contrastive Learning with Tabular and Imaging Data, CVPR 2023,
arXiv:2303.14080.

Where each image comes with a row of a table, the two know of each other what neither augmentation nor label says. An
image encoder and a network for rows are trained together: each image is to find its own row among those of the batch,
and each row its image, as CLIP does with texts. Images are changed as in SimCLR; of a row some values are replaced by
those of other rows, as in SCARF. Afterwards the image alone is enough. If the class is known it may simply be one more
column.

What the code follows:

- Equations 2 and 3, `cross_modal_loss`: L = lambda l(image, table) + (1 - lambda) l(table, image).
- Section 3.1, `corrupted`: a share of a row's values is replaced by values of the same column, drawn from the whole
  training set; `MMCL.views`: crops, mirrored, with their colours changed.
- Section 3.1, `TabularEncoder`, with one number for each choice of a column.
- Section 3.2, `column_importance`: integrated gradients of the embedding from a row of zeros, their absolute values
  averaged over its dimensions, and summed over the choices of a column.
- Section 3.3, label as a feature: `label_as_feature` adds the class to the row.

Equation 2 as printed leaves the pair itself out of the denominator, and sums; the authors' code
(github.com/paulhager/MMCL-Tabular-Imaging) keeps it in, as CLIP does, and averages, and so does this. The temperature,
lambda, the share of corrupted values, the share of images that are changed and the two layers of the network for rows
are from there too.

Differences from the paper: a small network and batch, AdamW in place of Adam, no rotations of images. Quantities are
brought to mean 0 and variance 1 over the training images, and empty cells of a table filled with the mean, where the
authors impute them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pinakes.data.base import Column, DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.contrastive import info_nce_loss
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.simclr import SimCLR
from pinakes.papers.self_supervised.views import SHORT_PLAN, ConvolutionalFromViews
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Equation 2",
        r"\ell_{i,t} = -\frac{1}{N} \sum_{j} \log \frac{\exp(\cos(z_{j_i}, z_{j_t}) / \tau)}"
        r"{\sum_{k} \exp(\cos(z_{j_i}, z_{k_t}) / \tau)}",
    ),
    ("Equation 3", r"L = \lambda \ell_{i,t} + (1 - \lambda) \ell_{t,i}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LABEL = "label"
"""Name of the column that holds the class."""


def cross_modal_loss(
    image: Float[Tensor, "batch width"],
    table: Float[Tensor, "batch width"],
    temperature: float = 0.1,
    balance: float = 0.5,
) -> Float[Tensor, ""]:
    """How badly images find their rows and rows their images, among those of all processes.

    Args:
        image: Projections of images.
        table: Those of their rows, in the same order.
        temperature: What cosines are divided by, above 0.
        balance: lambda, 0 to 1: the share of the first.

    Source: equations 2 and 3, with the pair itself in the denominator.

    Example:
        >>> pairs = torch.eye(4)
        >>> cross_modal_loss(pairs, pairs) < cross_modal_loss(pairs, pairs.flip(0))
        tensor(True)
    """
    found_rows, found_images = (
        info_nce_loss(image, table, temperature),
        info_nce_loss(table, image, temperature),
    )
    return balance * found_rows + (1 - balance) * found_images


def corrupted(
    table: Float[Tensor, "batch columns"], seen: Float[Tensor, "rows columns"], rate: float = 0.3
) -> Float[Tensor, "batch columns"]:
    """Rows of which as many values as `rate` says, rounded down, are replaced by values of the same column.

    Args:
        table: Rows.
        seen: Rows from which values are drawn with replacement, each on its own.
        rate: Share of the columns, 0 to 1; which, is drawn for every row.

    Source: section 3.1, after Bahri et al., SCARF, ICLR 2022 (arXiv:2106.15147), algorithm 1.
    """
    columns = table.shape[1]
    # the small number keeps 10 x 0.3 from being rounded down to 2
    count = int(rate * columns + 1e-6)
    chosen = torch.rand_like(table).argsort(1).argsort(1) < count
    places = torch.randint(len(seen), table.shape, device=table.device)
    return torch.where(chosen, seen.gather(0, places), table)


class TabularEncoder(nn.Module):
    """A perceptron on rows: quantities are scaled, and each choice of a column has a number of its own, 0 or 1.

    Args:
        columns: Of the table.
        width: Of its layers.
        depth: Linear layers, with batch normalisation and ReLU between them.

    Example:
        >>> encoder = TabularEncoder([Column("width"), Column("colour", ("red", "blue"))], width=8).eval()
        >>> encoder.spelt_out(torch.tensor([[0.5, 1.0]]))
        tensor([[0.5000, 0.0000, 1.0000]])
    """

    mean: Tensor
    deviation: Tensor
    quantities: Tensor
    chosen: Tensor
    starts: Tensor

    def __init__(self, columns: Sequence[Column], width: int = 64, depth: int = 2) -> None:
        super().__init__()
        quantities = [place for place, column in enumerate(columns) if not column.choices]
        chosen = [place for place, column in enumerate(columns) if column.choices]
        counts = torch.tensor([len(columns[place].choices) for place in chosen], dtype=torch.int64)
        self.choices = int(counts.sum())
        for name, value in (
            ("quantities", torch.tensor(quantities, dtype=torch.int64)),
            ("chosen", torch.tensor(chosen, dtype=torch.int64)),
            ("starts", counts.cumsum(0) - counts),
        ):
            self.register_buffer(name, value, persistent=False)
        self.column_of = [*quantities, *(place for place in chosen for _ in columns[place].choices)]
        self.register_buffer("mean", torch.zeros(len(quantities)))
        self.register_buffer("deviation", torch.ones(len(quantities)))
        self.layers = projection_head([len(self.column_of), *[width] * depth])
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def scale(self, seen: Float[Tensor, "rows columns"]) -> None:
        """Takes mean and deviation of quantities from rows."""
        deviation, mean = torch.std_mean(seen[:, self.quantities].double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def spelt_out(self, table: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch inputs"]:
        """Rows as the layers take them: scaled quantities, then the choices."""
        quantities = (table[:, self.quantities] - self.mean) / self.deviation
        places = self.starts + table[:, self.chosen].long()
        choices = table.new_zeros(len(table), self.choices).scatter(1, places, 1.0)
        return torch.cat([quantities, choices], dim=1)

    def forward(self, table: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch width"]:
        """The embeddings of rows."""
        embedding: Tensor = self.layers(self.spelt_out(table))
        return embedding


def column_importance(
    encoder: TabularEncoder, table: Float[Tensor, "batch columns"], steps: int = 32
) -> Float[Tensor, " columns"]:
    """How much each column has to do with the embedding: integrated gradients, averaged over its dimensions and rows.

    Args:
        encoder: In evaluation mode.
        table: Rows of the test.
        steps: Points between a row of zeros and a row at which gradients are taken.

    Source: section 3.2; Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365),
        equation 3, by the midpoint rule.
    """
    inputs = encoder.spelt_out(table).detach()
    total = torch.zeros_like(inputs)

    def summed_over_rows(points: Tensor) -> Tensor:
        # rows do not look at each other in evaluation mode, so that this has the gradient of each
        embedding: Tensor = encoder.layers(points).sum(0)
        return embedding

    for step in range(steps):
        # (width, rows, inputs)
        total = total + torch.func.jacrev(summed_over_rows)((step + 0.5) / steps * inputs).detach()
    importance = (total / steps * inputs).abs().mean((0, 1))
    place = torch.tensor(encoder.column_of, device=inputs.device)
    return inputs.new_zeros(table.shape[1]).index_add(0, place, importance)


class MMCL(ConvolutionalFromViews):
    """A convolutional network that learns to find the row of a table that belongs to an image.

    Args:
        temperature: What cosines are divided by, above 0.
        balance: lambda, the share of the loss by which images find rows, 0 to 1; by the rest rows find images.
        corruption_rate: Share of a row's values that are replaced, 0 to 1.
        augmentation_rate: Share of the images that are changed, 0 to 1; others are seen as they are.
        columns: Names of the columns to learn from; all by default.
        label_as_feature: Whether the class of the image is one more column.
        projection: Width of the heads' outputs.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"table": "a row of a table for each image"}
    example_data = "scenes:table?size=32&n=40"
    seen: Tensor

    def __init__(
        self,
        temperature: float = 0.1,
        balance: float = 0.5,
        corruption_rate: float = 0.3,
        augmentation_rate: float = 0.95,
        columns: Sequence[str] = (),
        label_as_feature: bool = False,
        projection: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        rates = {
            "balance": balance,
            "corruption_rate": corruption_rate,
            "augmentation_rate": augmentation_rate,
        }
        for name, value in rates.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {value}")
        if projection < 1:
            raise UserError(f"projection: expected a whole number of 1 or more, got {projection}")
        self.temperature, self.balance, self.projection = temperature, balance, projection
        self.corruption_rate, self.augmentation_rate = corruption_rate, augmentation_rate
        self.column_names, self.label_as_feature = tuple(columns), label_as_feature
        if label_as_feature:
            self.needs = {**type(self).needs, "label": "the class of each image"}  # type: ignore[misc]  # of one method

    def build(self, info: DataInfo) -> None:
        """Makes both encoders and their heads.

        Raises:
            UserError: If the data have no table, or it has no such column.
        """
        super().build(info)
        if not info.columns:
            raise UserError(
                f"data: {type(self).__name__} learns from a table with a row for each image; put table.csv beside the "
                f"images, or use data such as {self.example_data}"
            )
        names = [column.name for column in info.columns]
        for name in self.column_names:
            if name not in names:
                raise UserError(f"columns: the table has none called '{name}'{suggest(name, names)}")
        self.places = [names.index(name) for name in self.column_names or names]
        used = [info.columns[place] for place in self.places]
        if self.label_as_feature:
            # one choice more for images whose class is not known
            used.append(Column(LABEL, (*info.classes, "")))
        self.rows = TabularEncoder(used, self.width)
        self.register_buffer("seen", torch.zeros(0, len(used)), persistent=False)
        self.image_head = projection_head([self.width, self.width, self.projection])
        self.row_head = projection_head([self.width, self.width, self.projection])

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Reads all rows of the training set, from which values are drawn and by which quantities are scaled."""
        batches: list[Batch] = [
            {name: torch.as_tensor(sample[name])[None] for name in ("table", "label") if name in sample}
            for sample in (data.train[place] for place in range(len(data.train)))
        ]
        self.seen = torch.cat([self.row(batch) for batch in batches]).to(self.device)
        self.rows.scale(self.seen)

    def row(self, batch: Batch) -> Float[Tensor, "batch _columns"]:
        """The values to learn from, of each image of a batch."""
        row = batch["table"][:, self.places].float()
        if not self.label_as_feature:
            return row
        label = batch["label"] % (len(self.info.classes) + 1)
        return torch.cat([row, label[:, None].to(row.dtype)], dim=1)

    def views(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images of which most are changed at random."""
        changed = torch.rand(len(image), 1, 1, 1, device=image.device) < self.augmentation_rate
        return torch.where(changed, self.view(image), image)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """How badly images and rows find each other."""
        row = self.row(batch)
        row = corrupted(row, self.seen if len(self.seen) else row, self.corruption_rate)
        image = self.image_head(self.pooled(self.views(self.sized(batch["image"]))))
        return cross_modal_loss(image, self.row_head(self.rows(row)), self.temperature, self.balance)


CLAIM_DATA = "scenes:table?size=32&n=2000"
"""Made scenes with one main object each, and a table of what can be measured of it."""
SIZE_AND_SHAPE = ("area", "width", "height", "fill", "elongation", "uprightness")
NEITHER = ("x", "y", "brightness", "colour", "texture", "noise 1")


@claim(
    text="A linear classifier reads more from an image encoder that learnt to find the row of a table than from one "
    "that learnt from images alone, by SimCLR.",
    where="section 4, the frozen encoders beside contrastive learning from images alone",
    higher_is_better=True,
)
def tables_teach_images(lab: Lab) -> Trial:
    """Made scenes of single objects; a table of measurements, colour, texture and noise; equal steps."""
    return lab.duel(ours=MMCL, baseline=SimCLR, data=CLAIM_DATA, metric="linear_probe", **SHORT_PLAN)


@claim(
    text="Columns of size and shape teach an image encoder more than as many other columns.",
    where="abstract and section 4, the ablation of morphometric features",
    higher_is_better=True,
)
def size_and_shape_matter_most(lab: Lab) -> Trial:
    """As above, with six columns on each side; the others are place, brightness, colour, texture and one of noise."""
    return lab.duel(
        ours=lambda: MMCL(columns=SIZE_AND_SHAPE),
        baseline=lambda: MMCL(columns=NEITHER),
        data=CLAIM_DATA,
        metric="linear_probe",
        **SHORT_PLAN,
    )
