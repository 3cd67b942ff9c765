r"""Borup et al., Distilling from Similar Tasks for Transfer Learning on a Budget, ICCV 2023, arXiv:2304.12314.

There are many trained models, of any size and form, and a task with few labels, for which a small model is wanted. How
well a source model suits the task is told by a number: whether images of the same class lie together in its features.
The student learns the few labels and, through a head of its own for each source, what the sources say of all images:
the most similar source alone (DistillNearest), or all of them, weighted by their similarity (DistillWeighted). Of a
source only its features and outputs are needed, and neither its data nor its classes.

What the code follows, with sources s, similarities e_s, and all images x with few of them labelled:

- Similarity, `parc`, as its authors (Bolya et al., Scalable Diverse Model Selection for Accessible Transfer Learning,
  NeurIPS 2021, arXiv:2111.06977) compute it: features are standardised, and the Spearman correlation is taken, over all
  pairs of labelled images, between 1 - the Pearson correlation of their features and 1 - that of their labels, one-hot.
  CKA with the labels is the other choice.
- Weights, `weights_from_similarities`: a_s proportional to e_s^p, the e_s brought to 0 ... 1 before; p = 0 weighs all
  alike, and with growing p the nearest source alone is left, which is DistillNearest.
- Loss of a source, `soft_cross_entropy`: L_s = -sum_c softmax(source's logits)_c log softmax(logits of the student's
  head for s)_c, the mean over all images.
- Loss: lambda CE(labels) + (1 - lambda) sum_s a_s L_s. The heads are dropped after training.

Differences from the paper, of which we had the abstract alone: features are not reduced by a principal component
analysis before PARC. The authors have published no code; how the e_s are brought to 0 ... 1 and the defaults of p and
lambda are this implementation's. The sources of the paper are models of large public data sets; here they are run
folders of fitted methods, or built-in data on which a network is trained from scratch first."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

import pinakes
from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.data.sources import SOURCES
from pinakes.data.spec import Spec
from pinakes.data.views import labels_of
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.runs import DESCRIPTION
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.method import Method
from pinakes.nn.similarity import linear_cka
from pinakes.papers.distillation.base import CLAIM_PLAN, Distiller
from pinakes.papers.distillation.classifier import Augmentation, Classifier, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy
from pinakes.papers.distillation.teacher import answered
from pinakes.tasks.base import Batch
from pinakes.tasks.classification import UNLABELLED

log = logging.getLogger(__name__)

EQUATIONS = (
    (
        "Similarity",
        r"e_s = \rho_\mathrm{Spearman}\big(1 - \mathrm{corr}(f_s(x_i), f_s(x_j)), "
        r"1 - \mathrm{corr}(y_i, y_j)\big)_{i < j}",
    ),
    ("Weights", r"a_s = \underline{e}_s^p \big/ \sum_r \underline{e}_r^p"),
    ("Loss", r"L = \lambda \, \mathrm{CE} + (1 - \lambda) \sum_s a_s L_s"),
    ("Loss", r"L_s = -\frac{1}{n} \sum_x \sum_c h_s(x)_c \log h^s(x)_c"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

BUILT_IN = ("digits", "textures?labels=material&n=1000", "scenes:attributes?n=1000&unseen=5")
"""Data of the default sources: handwriting, photographed materials, and made scenes with half of their classes."""
CLAIM_LABELS = "scenes:classification?size=32&n=2000&labelled=10"
"""Ten labelled images of each class, the others without."""

Choice = Literal["weighted", "nearest", "random"]


def parc(features: Float[Tensor, "images features"], label: Int[Tensor, " images"]) -> Float[Tensor, ""]:
    """How well distances between features follow the labels, -1 to 1: pairwise annotation representation comparison.

    Args:
        features: Of labelled images.
        label: Their classes, from 0.

    Returns:
        The correlation; 0 where all images are of one class or have the same features.

    Source: Bolya et al., arXiv:2111.06977, section 4, and github.com/dbolya/parc, there times 100.

    Example:
        >>> parc(torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(1.)
    """
    features = features.double()
    spread = features.std(0, correction=0)
    rows = (features - features.mean(0)) / torch.where(spread > 0, spread, 1.0)
    rows = functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    one, other = torch.triu_indices(len(label), len(label), offset=1, device=label.device)
    # of one-hot labels only two correlations exist: 1 in a class, and another between classes
    differs = (label[one] != label[other]).double()
    return _correlation(_ranks(1 - (rows @ rows.T)[one, other]), _ranks(differs)).float()


def label_cka(features: Float[Tensor, "images features"], label: Int[Tensor, " images"]) -> Float[Tensor, ""]:
    """The linear centred kernel alignment of features and labels, 0 to 1.

    Args:
        features: Of labelled images.
        label: Their classes, from 0.
    """
    return linear_cka(features, functional.one_hot(label).to(features.dtype))


def weights_from_similarities(
    similarity: Float[Tensor, " sources"], power: float = 1.0
) -> Float[Tensor, " sources"]:
    """The share of each source in what is distilled; the shares sum to 1.

    Args:
        similarity: Of each source to the task. The least similar gets nothing, unless `power` is 0.
        power: p, 0 or more; 0 weighs all alike.

    Example:
        >>> weights_from_similarities(torch.tensor([0.1, 0.2, 0.3]))
        tensor([0.0000, 0.3333, 0.6667])
    """
    low, high = similarity.aminmax()
    span = high - low
    relative = (similarity - low) / span if span > 0 else torch.ones_like(similarity)
    raised = relative**power
    return raised / raised.sum()


def soft_cross_entropy(
    student: Float[Tensor, "batch classes"], source: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """The cross-entropy of a student's head with the probabilities that a source gives, the mean over the batch.

    Args:
        student: Logits of the head.
        source: Logits of the source.
    """
    return functional.cross_entropy(student, source.softmax(1))


def _ranks(values: Float[Tensor, " values"]) -> Float[Tensor, " values"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place].to(values.dtype)


def _correlation(one: Float[Tensor, " values"], other: Float[Tensor, " values"]) -> Float[Tensor, ""]:
    """Pearson's correlation; 0 where one of them does not vary."""
    one, other = (functional.normalize(each - each.mean(), dim=0) for each in (one, other))
    return (one * other).sum()


SIMILARITIES = {"parc": parc, "cka": label_cka}


class DistillWeighted(Distiller):
    """A student of few labels, and of those source models that suit its task.

    Args:
        sources: Run folders of fitted methods of this shelf, of any classes; or data specs, on which networks are
            trained at the size of the student's images. Data of the same name as the student's own is left out.
        choice: "weighted" for all sources by their similarity, "nearest" for the most similar one, or "random" for any.
        similarity: How similarity is measured: "parc" or "cka".
        power: p of the weights, 0 or more; 0 weighs all sources alike.
        label_weight: lambda, the share of the labels in the loss, 0 to 1; the sources have the rest.
        probe: Most labelled images by which similarity is measured, 2 or more.
        source: Name of the network of sources that are trained on a data spec.
        source_steps: How many steps of training each of these takes; None for twice as long as the student learns.
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them. Sources and student see the same.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        sources: Sequence[str] = BUILT_IN,
        choice: Choice = "weighted",
        similarity: Literal["parc", "cka"] = "parc",
        power: float = 1.0,
        label_weight: float = 0.8,
        probe: int = 500,
        source: str = "pinakes/resnet20s2",
        source_steps: int | None = None,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(source, source_steps, student, learning_rate, augmentation)
        if isinstance(sources, str) or not sources:
            raise UserError(f"sources: expected one or more run folders or data specs, got {sources!r}")
        if len(set(sources)) < len(sources):
            raise UserError(f"sources: expected different ones, got {', '.join(sources)}")
        if power < 0:
            raise UserError(f"power: expected 0 or more, got {power}")
        if not 0 <= label_weight <= 1:
            raise UserError(f"label_weight: expected a share from 0 to 1, got {label_weight}")
        if probe < 2:
            raise UserError(f"probe: expected 2 images or more, got {probe}")
        self.source_names = tuple(map(str, sources))
        self.choice = choice
        self.similarity = similarity
        self.power = power
        self.label_weight = label_weight
        self.probe = probe
        self.similarities: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self._sources: list[Classifier] = []

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """The student's heads, one for each source that has a weight."""
        return nn.ModuleList(nn.Linear(student[-1], len(source.info.classes)) for source in self._sources)

    def learnt_from(self) -> dict[str, Method]:
        """None: sources know other classes than the student, so that they cannot be judged on its task."""
        return {}

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Loads the sources, or trains those that have not been trained before, and weighs them.

        Raises:
            UserError: If a source cannot be had or does not fit the data, or if no training image has a label.
        """
        own = data.spec.partition("?")[0]
        names = [name for name in self.source_names if name.partition("?")[0] != own]
        if not names:
            raise UserError(f"sources: {own} is what the student learns; name another source")
        if len(names) < len(self.source_names):
            log.info("%s is no source here, because the student learns it", own)
        sources = {name: self._source(name, data.info, plan) for name in names}
        image, label = self._labelled(data, torch_device(plan.device))
        measure = SIMILARITIES[self.similarity]
        found = torch.stack(
            [measure(self._features(source, image), label).cpu() for source in sources.values()]
        )
        self._weigh(sources, found, plan.seed)

    def source_answers(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """The logits (batch, classes) of each source that has a weight, without gradients."""
        return [answered(source, image).logits for source in self._sources]

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy of the labels and, by weight, of what the sources say of all images."""
        self._begin()
        image = self.augmented(batch["image"])
        said = self.answers(image)
        features = said.levels[-1].mean((2, 3))
        told = [
            weight * soft_cross_entropy(head(features), logits)
            for weight, head, logits in zip(
                self.weights.values(), self._heads(), self.source_answers(image), strict=True
            )
        ]
        learnt = labelled_cross_entropy(said.logits, batch["label"])
        return self.label_weight * learnt + (1 - self.label_weight) * torch.stack(told).sum()

    def _heads(self) -> nn.ModuleList:
        assert isinstance(self.helping, nn.ModuleList)
        return self.helping

    def _weigh(self, sources: dict[str, Classifier], similarity: Tensor, seed: int) -> None:
        """Keeps the sources that get a weight, with it, and makes the student's heads for them."""
        self.similarities = dict(zip(sources, similarity.tolist(), strict=True))
        weights = weights_from_similarities(similarity, self.power)
        if self.choice == "nearest":
            weights = functional.one_hot(similarity.argmax(), len(sources)).float()
        elif self.choice == "random":
            drawn = torch.randint(len(sources), (), generator=torch.Generator().manual_seed(seed))
            weights = functional.one_hot(drawn, len(sources)).float()
        kept = {name: weight for name, weight in zip(sources, weights.tolist(), strict=True) if weight > 0}
        self.weights = kept
        self._sources = [sources[name] for name in kept]
        for name, value in self.similarities.items():
            log.info("%s: similarity %.3f, weight %.3f", name, value, kept.get(name, 0.0))
        with isolated(0):
            self.helping = self.helpers(self.network.backbone.widths, ())

    def _source(self, name: str, info: DataInfo, plan: TrainingPlan | None) -> Classifier:
        """The source of this name, loaded or trained; without a plan, one that was not trained."""
        if (Path(name) / DESCRIPTION).is_file():
            found = _loaded(name, info)
        else:
            fresh = Classifier(self.teacher_name, augmentation=self.augmentation)
            data = _built_in(name, info)
            found = (
                fresh.prepare(data.info)
                if plan is None
                else fitted_once(fresh, data, self._teachers_plan(plan))
            )
        return found.eval().requires_grad_(False)

    def _labelled(self, data: TaskData, device: torch.device) -> tuple[Tensor, Tensor]:
        """Labelled training images, at most `probe` of them, and their labels."""
        labels = [UNLABELLED if each is None else each for each in labels_of(data.train)]
        known = [row for row, label in enumerate(labels) if label != UNLABELLED]
        if len(known) < 2:
            raise UserError(f"{data.spec}: the similarity of sources needs two labelled images or more")
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
        rows = [known[place] for place in order[: self.probe]]
        image = torch.stack([data.train[row]["image"] for row in rows])
        return image.to(device), torch.tensor([labels[row] for row in rows], device=device)

    def _features(self, source: Classifier, image: Tensor) -> Tensor:
        return torch.cat([answered(source, part).levels[-1].mean((2, 3)) for part in image.split(64)])

    def _begin(self) -> None:
        if self._sources:
            return
        log.warning("the sources have not been trained or weighed; `fit` does that")
        sources = {name: self._source(name, self.info, None) for name in self.source_names}
        self._weigh(sources, torch.zeros(len(sources)), 0)
        assert self.helping is not None
        self.helping.to(self.device)


def _loaded(folder: str, info: DataInfo) -> Classifier:
    """The source in a run folder.

    Raises:
        UserError: If it is no classifier of this shelf, or one of other channels.
    """
    found = pinakes.load(folder)
    if not isinstance(found, Classifier):
        raise UserError(
            f"sources: {folder} holds a run of {type(found).__name__}, not of a method of this shelf"
        )
    if found.info.channels != info.channels:
        raise UserError(
            f"sources: {folder} takes {found.info.channels} channels, but the data has {info.channels}; add "
            f"?channels={found.info.channels} to the spec"
        )
    return found


def _built_in(name: str, info: DataInfo) -> TaskData:
    """The data of a source, with images like the student's.

    Raises:
        UserError: If it cannot be had, or has no classes.
    """
    spec = Spec.parse(name, SOURCES)
    options = {**spec.options, "channels": str(info.channels)}
    try:
        return load_data(str(Spec(spec.scheme, spec.path, options)), task="classification", size=info.size)
    except UserError as error:
        raise UserError(f"sources: {name} is neither a run folder nor data with classes: {error}") from error


@claim(
    text="A student of few labels that sources teach by their similarity to its task is more accurate than one that "
    "all sources teach alike.",
    where="abstract",
    higher_is_better=True,
)
def similarity_beats_equal_weights(lab: Lab) -> Trial:
    """Made scenes, ten labelled images of each class; sources of digits, photographed materials and other scenes."""
    return lab.duel(
        ours=DistillWeighted,
        baseline=lambda: DistillWeighted(power=0.0),
        data=CLAIM_LABELS,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="The most similar source alone teaches a student of few labels better than a source drawn at random.",
    where="abstract",
    higher_is_better=True,
)
def the_nearest_source_beats_a_random_one(lab: Lab) -> Trial:
    """As above; the random source is another with every seed, and may be the nearest."""
    return lab.duel(
        ours=lambda: DistillWeighted(choice="nearest"),
        baseline=lambda: DistillWeighted(choice="random"),
        data=CLAIM_LABELS,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="A student of few labels that similar sources teach is more accurate than one that learns the labels alone.",
    where="abstract",
    higher_is_better=True,
)
def weighted_sources_beat_labels_alone(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=DistillWeighted, baseline=CrossEntropy, data=CLAIM_LABELS, metric="accuracy", **CLAIM_PLAN
    )
