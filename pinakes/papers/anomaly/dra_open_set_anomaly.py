"""Ding, Pang and Shen, Catching Both Gray and Black Swans: Open-set Supervised Anomaly Detection, CVPR 2022,
arXiv:2203.14506.

A few labelled anomalies teach a detector much about anomalies of their kind, and little about kinds that they do not
show. DRA learns disentangled representations of abnormality: one network describes image patches, and separate heads
learn what labelled anomalies look like, what pseudo anomalies look like, how features differ from those of normal
reference images, and what normal images look like as a whole. All are trained together.

The equations and parts that the code follows, with M_x the feature map of image x, d_i its vectors, f the network:

- (3): g_s(M_x) = the mean of the K largest patch scores g_s(d_i): `top_mean`, K a share of 10 %. `PatchHead` gives the
  patch scores by a 1x1 convolution and their absolute value.
- (4): x~ = T(C(R x)) + (1 - T(R)) x: `cutmix` (module `pseudo`), a rectangle R of a normal image with its colours
  jittered (C) and moved (T) is a pseudo anomaly.
- (6): M_r = 1 / N_r sum_i f(x_r_i), the mean feature map of N_r normal reference images.
- (7): M_r-x = M_r - M_x: `ResidualHead`, a 3x3 convolution with batch normalisation and ReLU on the residual map, then
  as `PatchHead`.
- (9): g_n(mean_i d_i): `HolisticHead`, two fully connected layers on the mean vector.
- (10): dev = (g - mu_R) / sigma_R, with mu_R and sigma_R of 5000 draws from N(0, 1).
- (11): l = (1 - y) |dev| + y max(0, a - dev): `deviation_losses`, a = 5, for each head; the loss is the sum over heads.
- (2), (5), (8): who learns what, `targets_of`. The seen head (y = 1 for labelled anomalies) sees no pseudo anomalies,
  the pseudo head (y = 1 for pseudo anomalies) no labelled ones; the residual head has y = 1 for both, the normality
  head for normal images.
- Section 3.2, inference: S = g_s + g_p + g_r - g_n. Appendix B.1: each g is the mean over an image pyramid of two
  scales.

The authors' code (github.com/choubo/DRA), as its public derivatives show it, settles the absolute values, the
convolution of the residual head, the ranges of CutMix, that normal images become pseudo anomalies with probability
1/2, that half of a batch is labelled anomalies, and gradients clipped at norm 1. It draws new reference images for each
batch, some of them pseudo anomalies, also at test time; here they are N_r normal images fixed at the fit, as the text
below equation (7) says, so that predictions repeat. It also rotates training images at random, of which the paper
says nothing; not done here.

Without labelled anomalies in training the seen head has nothing to learn: its term is left out of loss and score, and a
warning says so. The map is the sum of the patch scores of the heads for seen, pseudo and residual abnormality, averaged
over scales; the normality head knows no places and is not in it.

Differences: the backbone is the embedded `pinakes/tiny_conv` at stride 8, whose grid on small images is close to the
paper's 14 x 14 of `timm/resnet18` layer 4 at 448 pixels. Labelled anomalies are repeated until they are half of the
data, so half of each batch in expectation. Learning rate and weight decay are the paper's; its code has 2e-4 and 1e-5,
and a schedule that is left out here. The paper trains 600 steps in batches of 48; the default is 200 in batches of 8,
for a first fit on a small CPU.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.data.views import labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.maps import smoothed_map
from pinakes.papers.anomaly.base import Detector
from pinakes.papers.anomaly.pseudo import balanced, cutmix
from pinakes.tasks.base import Batch, Prediction

log = logging.getLogger(__name__)

EQUATIONS = (
    (
        "(3)",
        r"g_s(M_x) = \max\limits_{\Psi_K(M_x) \subset \mathcal{D}} \frac{1}{K} "
        r"\sum_{d_i \in \Psi_K(M_x)} g_s(d_i)",
    ),
    ("(4)", r"\tilde{x} = T \circ C(R \odot x) + (\mathbf{1} - T(R)) \odot x"),
    ("(6)", r"M_r = \frac{1}{N_r} \sum_{i=1}^{N_r} f(x_{r_i})"),
    ("(7)", r"M_{r \ominus x} = M_r \ominus M_x"),
    ("(9)", r"g_n\Big(\frac{1}{h' \times w'} \sum_i d_i\Big)"),
    ("(10)", r"\mathrm{dev}(x) = \frac{g(f(x)) - \mu_R}{\sigma_R}"),
    ("(11)", r"\ell = (1 - y) \, |\mathrm{dev}(x)| + y \max(0, a - \mathrm{dev}(x))"),
    ("Section 3.2, inference", r"S = g_s + g_p + g_r - g_n"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

HEADS = ("normality", "seen", "pseudo", "residual")
NORMAL, SEEN, PSEUDO = 0, 1, 2
"""Where a training image comes from: it is normal, a labelled anomaly, or a pseudo anomaly."""
PRIOR_DRAWS = 5000

Features = Float[Tensor, "batch width rows columns"]


def deviation_losses(
    scores: Float[Tensor, " batch"],
    positive: Bool[Tensor, " batch"],
    prior: Float[Tensor, " draws"],
    margin: float = 5.0,
) -> Float[Tensor, " batch"]:
    """Pulls scores of negatives to the prior's mean, and those of positives `margin` deviations or more above it.

    Args:
        scores: What one head says.
        positive: y, what the head is to tell from the rest.
        prior: Reference scores, drawn from N(0, 1).
        margin: a, in standard deviations of the prior.

    Source: equations (10) and (11); Pang et al., Deep Anomaly Detection with Deviation Networks, KDD 2019.

    Example:
        >>> prior = torch.tensor([-1.0, 0.0, 1.0])
        >>> deviation_losses(torch.tensor([2.0, 2.0, 7.0]), torch.tensor([False, True, True]), prior)
        tensor([2., 3., 0.])
    """
    deviation = (scores - prior.mean()) / prior.std()
    return torch.where(positive, (margin - deviation).clamp(min=0), deviation.abs())


def targets_of(
    origin: Int[Tensor, " batch"],
) -> dict[str, tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]]:
    """For each head, y of training images and which of them it sees.

    Args:
        origin: 0 for normal images, 1 for labelled anomalies, 2 for pseudo anomalies.

    Source: equations (2), (5), (8) and (9).
    """
    everything = torch.ones_like(origin, dtype=torch.bool)
    return {
        "normality": (origin == NORMAL, everything),
        "seen": (origin == SEEN, origin != PSEUDO),
        "pseudo": (origin == PSEUDO, origin != SEEN),
        "residual": (origin != NORMAL, everything),
    }


def top_mean(patch_scores: Float[Tensor, "batch rows columns"], share: float) -> Float[Tensor, " batch"]:
    """The mean of the K largest patch scores of each image, K a share of their number, rounded down, and 1 or more.

    Source: equation (3).
    """
    flat = patch_scores.flatten(1)
    return flat.topk(max(1, int(share * flat.shape[1])), dim=1).values.mean(1)


class HolisticHead(nn.Module):
    """g_n: scores an image by its mean feature vector.

    Args:
        width: Channels of the feature map.

    Source: equation (9) and appendix B.1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))

    def forward(self, features: Features) -> Float[Tensor, " batch"]:
        """The absolute score of each image."""
        score: Tensor = self.layers(features.mean((2, 3)))
        return score[:, 0].abs()


class PatchHead(nn.Module):
    """g_s and g_p: scores each position of a feature map.

    Args:
        width: Channels of the feature map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scoring = nn.Conv2d(width, 1, 1)

    def forward(self, features: Features) -> Float[Tensor, "batch rows columns"]:
        """The absolute score of each position."""
        score: Tensor = self.scoring(features)
        return score[:, 0].abs()


class ResidualHead(PatchHead):
    """g_r: scores each position of a residual map, M_r - M_x.

    Args:
        width: Channels of the feature map.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.mix = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, residual: Features) -> Float[Tensor, "batch rows columns"]:
        """The absolute score of each position."""
        return super().forward(self.mix(residual))


class DRA(Detector):
    """The detector of the paper: one backbone, and four heads that learn normality and three abnormalities.

    Args:
        backbone: Name of the network that describes patches; the paper's is "timm/resnet18".
        layer: Its feature level; 4 is the last of a ResNet, the paper's.
        heads: Which heads to use, of "normality", "seen", "pseudo" and "residual". ("seen",) alone is the deviation
            network that the paper builds on.
        references: N_r, how many normal images the residual head compares with.
        top_share: Share of the patches whose scores make the score of an image, above 0 to 1.
        margin: a, how many deviations above the prior's mean positives are to score.
        scales: Levels of the image pyramid, each half the size of the one before.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    uses_anomalies = True
    training_defaults = {"steps": 200, "batch_size": 8, "clip": 1.0}
    references: Tensor
    """The normal images that the residual head compares with."""
    shown: Tensor
    """1 where training showed labelled anomalies, else 0."""

    def __init__(
        self,
        backbone: str = "pinakes/tiny_conv",
        layer: int = 2,
        heads: Sequence[str] = HEADS,
        references: int = 5,
        top_share: float = 0.1,
        margin: float = 5.0,
        scales: int = 2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        for head in heads:
            if head not in HEADS:
                raise UserError(f"heads: '{head}' is unknown{suggest(head, HEADS)}")
        if not set(heads) - {"normality"}:
            raise UserError(f"heads: expected at least one of {', '.join(HEADS[1:])}, got {tuple(heads)}")
        if references < 1 or scales < 1:
            raise UserError(f"references, scales: expected 1 or more, got {references}, {scales}")
        if not 0 < top_share <= 1:
            raise UserError(f"top_share: expected above 0 to 1, got {top_share}")
        if not margin > 0 or not learning_rate > 0:
            raise UserError(f"margin, learning_rate: expected above 0, got {margin}, {learning_rate}")
        if not weight_decay >= 0 or not sigma >= 0:
            raise UserError(f"weight_decay, sigma: expected 0 or more, got {weight_decay}, {sigma}")
        self.backbone_name = backbone
        self.layer = layer
        self.head_names = tuple(head for head in HEADS if head in heads)
        self.reference_count = references
        self.top_share = top_share
        self.margin = margin
        self.scales = scales
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the backbone, the heads, and room for the reference images."""
        self.backbone = FeatureExtractor(self.backbone_name, (self.layer,), info.channels)
        kinds = {"normality": HolisticHead, "residual": ResidualHead}
        width = self.backbone.widths[0]
        self.heads = nn.ModuleDict({name: kinds.get(name, PatchHead)(width) for name in self.head_names})
        self.register_buffer("references", torch.zeros(self.reference_count, info.channels, *info.size))
        self.register_buffer("shown", torch.tensor(1.0))

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[dict[str, Float[Tensor, " batch"]], list[Float[Tensor, "batch _rows _columns"]]]:
        """Each head's score of images in [0, 1], and for each scale the abnormality heads' summed patch scores.

        The seen head says 0 where training showed no labelled anomalies.
        """
        count = 0
        if "residual" in self.head_names:
            count = len(self.references)
            image = torch.cat([_resized(self.references, tuple(image.shape[-2:])), image])
        scores: dict[str, list[Tensor]] = {name: [] for name in self.head_names}
        patch_scores = []
        for scale in range(self.scales):
            if scale > 0:
                image = _resized(image, tuple(max(1, side // 2) for side in image.shape[-2:]))
            features = self.backbone(image)[0]
            normal, features = features[:count].mean(0), features[count:]
            patches = []
            for name in self.head_names:
                answer = self.heads[name](normal - features if name == "residual" else features)
                if name == "seen":
                    answer = answer * self.shown
                if name != "normality":
                    patches.append(answer)
                    answer = top_mean(answer, self.top_share)
                scores[name].append(answer)
            patch_scores.append(torch.stack(patches).sum(0))
        return {name: torch.stack(each).mean(0) for name, each in scores.items()}, patch_scores

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Chooses the reference images, and trains backbone and heads on normal, pseudo and labelled anomalous images.

        Raises:
            UserError: If there is no normal image, or if nothing is left to learn without labelled anomalies.
        """
        labels = labels_of(data.train)
        normal = [index for index, label in enumerate(labels) if not label]
        if not normal:
            raise UserError(f"{data.spec}: has no normal training images")
        shows = len(normal) < len(labels)
        self.shown = torch.tensor(float(shows), device=self.device)
        if "seen" in self.head_names and not shows:
            if not set(self.head_names) - {"normality", "seen"}:
                raise UserError(
                    f"{data.spec}: has no labelled anomalies, from which alone the heads "
                    f"{', '.join(self.head_names)} can learn; add ?seen=KIND to the spec"
                )
            log.warning("%s: has no labelled anomalies; the head for seen ones is left out", data.spec)
            self.heads["seen"].requires_grad_(False)
        generator = torch.Generator().manual_seed(plan.seed)
        order = torch.randperm(len(normal), generator=generator)[: self.reference_count]
        images = [data.train[normal[place]]["image"] for place in order.tolist()]
        self.references = torch.stack(images).to(self.device)
        super().learn(replace(data, train=balanced(data.train)), plan)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The sum over heads of the mean deviation loss of the images that each sees."""
        image, origin = batch["image"], batch["label"]
        if self.head_names != ("seen",):
            made = (torch.rand(len(image), device=image.device) < 0.5) & (origin == NORMAL)
            image = torch.where(made[:, None, None, None], cutmix(image)[0], image)
            origin = torch.where(made, PSEUDO, origin)
        prior = torch.randn(PRIOR_DRAWS, device=image.device)
        targets = targets_of(origin)
        losses = []
        for name, scores in self(image)[0].items():
            positive, used = targets[name]
            each = deviation_losses(scores, positive, prior, self.margin) * used
            losses.append(each.sum() / used.sum().clamp(min=1) * (self.shown if name == "seen" else 1))
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on backbone and heads."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores images by the abnormality heads' sum minus normality, and pixels by the former's patch scores."""
        scores, patch_scores = self(batch["image"])
        signed = [-score if name == "normality" else score for name, score in scores.items()]
        size = batch["image"].shape[-2:]
        maps = [smoothed_map(patches, size, self.sigma) for patches in patch_scores]
        return {"score": torch.stack(signed).sum(0), "map": torch.stack(maps).mean(0)}


def _resized(
    image: Float[Tensor, "batch channels _h _w"], size: tuple[int, ...]
) -> Float[Tensor, "batch channels _rows _columns"]:
    if tuple(image.shape[-2:]) == size:
        return image
    return functional.interpolate(image, size=size, mode="bilinear", align_corners=False)


@claim(
    text="Four disentangled heads detect unseen kinds of anomaly better than one deviation network (DevNet).",
    where="section 4.4, hard setting, table 2",
    higher_is_better=True,
)
def four_heads_beat_one(lab: Lab) -> Trial:
    """Ten scratches at most are labelled, half of those there are; both sides have one backbone, start and budget."""
    return lab.duel(
        ours=DRA,
        baseline=lambda: DRA(heads=("seen",)),
        data="textures?size=64&seen=scratch&shots=10",
        metric="auroc_unseen",
        steps=200,
        batch_size=8,
    )


@claim(
    text="The residual and the normality head help to detect unseen kinds of anomaly.",
    where="section 4.5, ablation of the heads",
    higher_is_better=True,
)
def residual_and_normality_heads_help(lab: Lab) -> Trial:
    """All heads against those for seen and pseudo abnormality alone; data and budget as above."""
    return lab.duel(
        ours=DRA,
        baseline=lambda: DRA(heads=("seen", "pseudo")),
        data="textures?size=64&seen=scratch&shots=10",
        metric="auroc_unseen",
        steps=200,
        batch_size=8,
    )
