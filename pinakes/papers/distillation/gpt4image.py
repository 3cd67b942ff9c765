r"""Ding et al., GPT4Image: Can Large Pre-trained Models Help Vision Models on Perception Tasks?, 2023,
arXiv:2306.00693.

A description of an image says more of it than its class. A large model of images and language describes every training
image once, and a frozen text encoder makes a vector of each description. A small network that learns the classes as
usual is, during training alone, also drawn to know from its features which description belongs to which image.

What the code follows, with image features f, a projection g, and embeddings t of descriptions, all of unit length:

- Alignment, `contrastive_alignment`: the mean of two cross-entropies over a batch, with logits g(f_i) . t_j / tau:
  which description belongs to an image, and which image to a description.
- `projection`: a linear layer, batch normalisation, ReLU and a linear layer, twice as wide inside as the embeddings; it
  is dropped after training.
- Loss: the cross-entropy of the classes plus lambda times the alignment, with lambda = 0.3 and tau = 0.2 (the
  authors' code, github.com/huawei-noah/Efficient-Computing, GPT4Image).

Differences from the paper: descriptions and embeddings are to be had elsewhere and come in a file. Where it holds
embeddings, such as those of CLIP's text encoder in the paper, they are used as they are. Where it holds words, or the
samples do, the words are embedded by `Texts`: counts of words, weighted by rarity and reduced by a singular value
decomposition, which know nothing of language beyond these texts and stand in for the encoder. In the claim the true
attributes of made scenes stand in for what a language model would write.
"""

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_PLAN
from pinakes.papers.distillation.classifier import Augmentation, Classifier, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy
from pinakes.scenes.labels.attributes import ATTRIBUTES
from pinakes.tasks.base import Batch

log = logging.getLogger(__name__)

EQUATIONS = (
    ("Alignment", r"s_{ij} = \frac{g(f_i)^\top t_j}{\tau \, \|g(f_i)\| \, \|t_j\|}"),
    (
        "Alignment",
        r"L_a = -\frac{1}{2n} \sum_i \left(\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}} + "
        r"\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}\right)",
    ),
    ("Loss", r"L = \mathrm{CE} + \lambda L_a"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

DESCRIBED_SCENES = "scenes:attributes?size=32&n=4000&shots=50"
"""Made scenes of one thing each, with its class, and its colour, texture and form as attributes."""

Description = str | Sequence[float]


def contrastive_alignment(
    image: Float[Tensor, "batch dimensions"], text: Float[Tensor, "batch dimensions"], tau: float = 0.2
) -> Float[Tensor, ""]:
    """How badly images and descriptions find each other in a batch.

    Args:
        image: Projected features of the images.
        text: Embeddings of their descriptions, in the same order.
        tau: Temperature, above 0.

    Example:
        >>> contrastive_alignment(torch.eye(2), torch.eye(2), tau=0.01)
        tensor(0.)
    """
    logits = functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T / tau
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def projection(features: int, dimensions: int) -> nn.Sequential:
    """What brings image features to the size of the embeddings.

    Args:
        features: Width of the image features.
        dimensions: That of the embeddings.
    """
    first, last = nn.Linear(features, 2 * dimensions, bias=False), nn.Linear(2 * dimensions, dimensions)
    for layer in (first, last):
        nn.init.trunc_normal_(layer.weight, std=dimensions**-0.5)
    return nn.Sequential(first, nn.BatchNorm1d(2 * dimensions), nn.ReLU(), last)


class Texts:
    """Embeddings of texts from nothing but these texts: latent semantic analysis.

    Args:
        texts: The texts.
        dimensions: Size of the embeddings, at most; less where the texts or their words are fewer.

    Raises:
        UserError: If they hold no word.

    Source: Deerwester et al., Indexing by Latent Semantic Analysis, JASIS 1990, with the weights of scikit-learn's
        TfidfVectorizer.
    """

    def __init__(self, texts: Sequence[str], dimensions: int) -> None:
        try:
            counts = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
        except ValueError as error:
            raise UserError(f"descriptions: hold no word ({error})") from error
        reduced = TruncatedSVD(min(dimensions, *counts.shape), random_state=0).fit_transform(counts)
        self.embeddings = functional.normalize(torch.from_numpy(reduced).float(), dim=1)


def read_descriptions(path: Path) -> dict[str, Description]:
    """The descriptions in a file, or their embeddings, by the path of the image.

    Args:
        path: A CSV file with the columns `path` and `description`, or JSON lines (.jsonl) with the field `path` and
            either `description` or `embedding`, a list of numbers. Paths are those of the samples: relative to the
            folder of the data.

    Raises:
        UserError: If the file cannot be read or a line is not as stated; the message names file and line.
    """
    try:
        if path.suffix == ".jsonl":
            rows = [
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        else:
            raise UserError(f"descriptions: {path}: expected a file that ends in .csv or .jsonl")
    except (OSError, ValueError) as error:
        raise UserError(f"descriptions: {path}: cannot be read ({error})") from error
    found: dict[str, Description] = {}
    for number, row in enumerate(rows, 1):
        name, what = _entry(row)
        if not name or not what:
            raise UserError(
                f"descriptions: {path}: entry {number} has no path, or no description or embedding"
            )
        if name in found:
            raise UserError(f"descriptions: {path}: entry {number} describes {name} a second time")
        found[name] = what
    if len({type(what) if isinstance(what, str) else len(what) for what in found.values()}) != 1:
        raise UserError(
            f"descriptions: {path}: expected all texts, or all embeddings of one size, and at least one"
        )
    return found


def attributes_in_words(attributes: Float[Tensor, " attributes"]) -> str:
    """What the attributes of a made scene say of its main thing.

    Args:
        attributes: 1 for each of `pinakes.scenes.labels.attributes.ATTRIBUTES` that it has.
    """
    return ", ".join(name for name, has in zip(ATTRIBUTES, attributes.tolist(), strict=True) if has)


def _entry(row: Any) -> tuple[str, Description]:
    """Path and description of a row; an empty one for what is not as it should be."""
    if not isinstance(row, dict):
        return "", ""
    name, text, embedding = (row.get(key) for key in ("path", "description", "embedding"))
    if isinstance(embedding, list) and all(
        isinstance(each, int | float) and math.isfinite(each) for each in embedding
    ):
        return str(name or ""), tuple(map(float, embedding))
    return str(name or ""), text.strip() if isinstance(text, str) else ""


class GPT4Image(Classifier):
    """A network that learns classes and, beside them, which description belongs to which image.

    Args:
        descriptions: A file of descriptions or their embeddings, as `read_descriptions` reads it. Without one, the
            samples' own: the text in their field `description`, or the attributes of made scenes in words; where they
            have neither, the names of the classes.
        lamb: lambda, the weight of the alignment.
        tau: Temperature of the alignment.
        dimensions: Size of embeddings made of texts, at most.
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        descriptions: str = "",
        lamb: float = 0.3,
        tau: float = 0.2,
        dimensions: int = 64,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(student, learning_rate, augmentation)
        if lamb < 0:
            raise UserError(f"lamb: expected 0 or more, got {lamb}")
        if not tau > 0:
            raise UserError(f"tau: expected a number above 0, got {tau}")
        if dimensions < 1:
            raise UserError(f"dimensions: expected 1 or more, got {dimensions}")
        self.descriptions = str(descriptions)
        self.lamb = lamb
        self.tau = tau
        self.dimensions = dimensions
        self.helping: nn.Module | None = None

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Reads the descriptions and embeds them.

        Raises:
            UserError: If the file cannot be used, or describes no training image.
        """
        if self.descriptions:
            found = read_descriptions(Path(self.descriptions))
            _check_described(found, data)
            self._describe("path", list(found), list(found.values()))
            return
        field = next((each for each in ("description", "attributes") if each in data.train[0]), "label")
        if field == "label":
            log.warning("%s: no image has a description; the names of the classes stand in", data.spec)
            self._describe("label", data.classes, data.classes)
            return
        texts = [self._words(field, data.train[row][field]) for row in range(len(data.train))]
        self._describe(field, texts, texts)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the network, and then drops the projection."""
        self.to(self.device)
        super().learn(data, plan)
        self.helping = None

    def configure_optimizers(self) -> Any:
        """As any classifier's, for network and projection."""
        self._begin()
        return super().configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy, and the alignment of the images that have a description."""
        helping = self._begin()
        said = self.answers(self.augmented(batch["image"]))
        learnt = labelled_cross_entropy(said.logits, batch["label"])
        words = [self._words(self._field, each) for each in batch[self._field]]
        known = [image for image, each in enumerate(words) if each in self._rows]
        if len(known) < 2:
            return learnt
        text = self._embeddings[[self._rows[words[image]] for image in known]].to(self.device)
        projected = helping(said.levels[-1].mean((2, 3))[known])
        return learnt + self.lamb * contrastive_alignment(projected, text, self.tau)

    def _words(self, field: str, value: Any) -> str:
        """What a field of one sample says, as the descriptions are known by."""
        if field == "attributes":
            return attributes_in_words(value)
        if field == "label":
            return self.classes[int(value)] if value >= 0 else ""
        return str(value)

    def _describe(self, field: str, words: Sequence[str], descriptions: Sequence[Description]) -> None:
        """Keeps an embedding of every description, and makes the projection."""
        unique = dict(zip(words, descriptions, strict=True))
        self._field = field
        self._rows = {each: row for row, each in enumerate(unique)}
        if isinstance(descriptions[0], str):
            every = Texts([str(each) for each in descriptions], self.dimensions).embeddings
            last = {each: row for row, each in enumerate(words)}
            self._embeddings = every[[last[each] for each in unique]]
        else:
            self._embeddings = torch.tensor(list(unique.values()))
        with isolated(0):
            self.helping = projection(self.network.backbone.widths[-1], self._embeddings.shape[1])

    def _begin(self) -> nn.Module:
        """Makes sure that there are descriptions; the names of the classes are only good for trying things out."""
        if self.helping is None:
            log.warning("no description has been read; `fit` does that")
            self._describe("label", self.classes, self.classes)
            assert self.helping is not None
            self.helping.to(self.device)
        return self.helping


def _check_described(found: dict[str, Description], data: TaskData) -> None:
    """Says how many training images have no description.

    Raises:
        UserError: If none has one.
    """
    paths = _paths(data.train)
    missing = [each for each in paths if each not in found]
    if len(missing) == len(paths):
        raise UserError(
            f"descriptions: describe no training image of {data.spec}; they name {next(iter(found))}, and the images "
            f"are called {', '.join(paths[:2]) or 'nothing'}"
        )
    if missing:
        log.warning(
            "%d of %d training images have no description, such as %s", len(missing), len(paths), missing[0]
        )


def _paths(samples: SampleSet) -> list[str]:
    stated = getattr(samples, "paths", ())
    if stated and all(isinstance(each, str) for each in stated):
        return list(stated)
    return [str(samples[row]["path"]) for row in range(len(samples)) if "path" in samples[row]]


@claim(
    text="A network that is aligned with descriptions of its training images is more accurate than one that learns the "
    "labels alone.",
    where="abstract",
    higher_is_better=True,
)
def descriptions_help(lab: Lab) -> Trial:
    """Made scenes of one thing each; the true attributes in words, embedded by word counts, stand in for what a
    language model would write and a text encoder make of it.
    """
    return lab.duel(
        ours=GPT4Image, baseline=CrossEntropy, data=DESCRIBED_SCENES, metric="accuracy", **CLAIM_PLAN
    )
