r"""van Noord, Prototype-based Dataset Comparison, ICCV 2023, arXiv:2309.02401.

Two data sets are joined, and prototypes are learnt that stand for what is in their pictures. A frozen network makes
tokens of an image; each token is replaced by one of the prototypes, and a last block makes of them a description of the
image. It learns by self-distillation, as DINO does: views of an image are to get the same answer, so prototypes must
tell images apart. How much of each set a prototype takes then shows what only one of them has, and what both have.

What the code follows:

- `prototype_logits`, `replaced`: the reverse of attention. Each token looks at all prototypes, by the dot product, and
  becomes their mean, weighted by a softmax with Gumbel noise: almost one of them.
- `PrototypeEncoder`: a transformer block of a single head behind it, whose first token is the description.
- `pinakes.nn.self_distillation`: head, centring and loss of DINO.
- `ProtoSim.prototype_shares`, `pinakes.nn.prototype_usage`: how often images select each prototype, and
  its specificity to one of two sets of images.

Details are those of github.com/Nanne/ProtoSim: only prototypes, last block and head are trained, while the network in
front of them, trained before by DINO, stays as it is; dot products are taken of normalised tokens; the temperature is
1; prototypes are drawn evenly from 0 to 1; for the last quarter of training the student takes one prototype for each
token, with the gradients of the soft choice, while the teacher's choice stays soft; afterwards choices are hard and
without noise; tokens of all places are counted.

Differences from the paper: a small frozen network that was trained on made scenes, unless another is named; 256
prototypes in place of 8192; small views are brought to the size of images; the mean of the patches stands in for the
class token, which not all networks have; normalisations have no weights; the teacher follows faster; optimiser and
schedule are those of this shelf, without clipping.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.momentum import MomentumCopy, momentum_at
from pinakes.nn.prototype_usage import specificity, token_shares
from pinakes.nn.self_distillation import Centre, PrototypeHead, view_cross_entropy
from pinakes.papers.self_supervised.base import CLAIM_DATA, no_loss
from pinakes.papers.self_supervised.views import SHORT_PLAN, FromViews
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "`prototype_logits`",
        r"a_{ij} = \frac{\exp((x_i^\top p_j + g_j) / \tau)}{\sum_k \exp((x_i^\top p_k + g_k) / \tau)}, \quad "
        r"g_j = -\log(-\log u_j), \; u_j \sim \mathcal{U}(0, 1)",
    ),
    ("`prototype_logits`", r"x_i \leftarrow \sum_j a_{ij} \, p_j"),
    ("Specificity", r"s_j = \frac{u_j^A - u_j^B}{u_j^A + u_j^B}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list. Prototype j takes the shares
u_j^A and u_j^B of the two data sets."""


def prototype_logits(
    tokens: Float[Tensor, "batch tokens width"], prototypes: Float[Tensor, "prototypes width"]
) -> Float[Tensor, "batch tokens prototypes"]:
    """How well each token fits each prototype: their dot product."""
    return tokens @ prototypes.mT


def replaced(
    logits: Float[Tensor, "batch tokens prototypes"],
    prototypes: Float[Tensor, "prototypes width"],
    temperature: float = 1.0,
    hard: bool = False,
    noisy: bool = True,
) -> Float[Tensor, "batch tokens width"]:
    """Prototypes in the place of tokens.

    Args:
        logits: How well each token fits each prototype.
        prototypes: The prototypes.
        temperature: Tau, above 0; the lower, the nearer to a single prototype.
        hard: Whether each token becomes one prototype; gradients are those of the soft choice.
        noisy: Whether Gumbel noise is added, so that the choice is drawn from the softmax rather than its mean.
    """
    if noisy:
        return functional.gumbel_softmax(logits, tau=temperature, hard=hard, dim=-1) @ prototypes
    soft = (logits / temperature).softmax(-1)
    if not hard:
        return soft @ prototypes
    one = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return (one + soft - soft.detach()) @ prototypes


class PrototypeEncoder(nn.Module):
    """Replaces tokens by prototypes, and lets a transformer block of one head describe the image by these.

    It draws noise while it is trained; in evaluation there is none, and each token becomes one prototype.

    Args:
        width: Of the tokens.
        prototypes: How many there are.
        temperature: Of the softmax over prototypes, above 0.
    """

    def __init__(self, width: int, prototypes: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.prototypes = nn.Parameter(torch.rand(prototypes, width))
        self.block = Block(width, num_heads=1, qkv_bias=True)

    def assigned(self, tokens: Float[Tensor, "batch tokens width"]) -> Int[Tensor, "batch tokens"]:
        """The prototype that fits each token best."""
        return prototype_logits(tokens, self.prototypes).argmax(-1)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], hard: bool = False
    ) -> Float[Tensor, "batch tokens width"]:
        """What the block makes of the prototypes of tokens; the first one describes the image.

        Args:
            tokens: Normalised tokens, that of the whole image first.
            hard: Whether each token becomes one prototype during training.
        """
        logits = prototype_logits(tokens, self.prototypes)
        found = replaced(
            logits, self.prototypes, self.temperature, hard or not self.training, noisy=self.training
        )
        return _normal(self.block(found))


class ProtoSim(FromViews):
    """Prototypes of images, learnt by self-distillation on the tokens of a frozen network.

    Args:
        num_prototypes: How many there are, 2 or more.
        backbone: The frozen network, as `pinakes.nn.backbones` reads it; its last feature map gives the tokens.
        temperature: Of the softmax over prototypes, above 0.
        hard_from: The share of training after which the student's tokens become one prototype each, 0 to 1.
        momentum: The share of its own weights that the teacher keeps at first, 0 to 1; it rises to 1.
        local_crops_number: How many views there are that show little, beside two that show much.
        least_local_area: The smallest share of an image's area that they show, above 0 and at most `least_area`, which
            is the largest one.
        student_temp: What the student's logits are divided by, above 0.
        teacher_temp: What the teacher's are divided by, above 0.
        out_dim: Prototypes of the head, which is dropped in the end, 2 or more.
        least_area: The smallest share of an image's area that the other two views show.
        colour: How strongly colours are changed: 0 for not at all, 1 as in SimCLR.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    min_size = 32

    def __init__(
        self,
        num_prototypes: int = 256,
        backbone: str = "pinakes/tiny_vit",
        temperature: float = 1.0,
        hard_from: float = 0.75,
        momentum: float = 0.99,
        local_crops_number: int = 4,
        least_local_area: float = 0.1,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        out_dim: int = 1024,
        least_area: float = 0.4,
        colour: float = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, colour=colour, **shared)
        for name, count in (("num_prototypes", num_prototypes), ("out_dim", out_dim)):
            if count < 2:
                raise UserError(f"{name}: expected a whole number of 2 or more, got {count}")
        for name, value in (
            ("temperature", temperature),
            ("student_temp", student_temp),
            ("teacher_temp", teacher_temp),
        ):
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        for name, share in (("hard_from", hard_from), ("momentum", momentum)):
            if not 0 <= share <= 1:
                raise UserError(f"{name}: expected 0 to 1, got {share}")
        if local_crops_number < 0:
            raise UserError(
                f"local_crops_number: expected a whole number of 0 or more, got {local_crops_number}"
            )
        if not 0 < least_local_area <= least_area:
            raise UserError(
                f"least_local_area: expected a share above 0 and at most least_area, {least_area}, got "
                f"{least_local_area}"
            )
        self.num_prototypes, self.backbone_name, self.out_dim = num_prototypes, backbone, out_dim
        self.temperature, self.hard_from, self.momentum = temperature, hard_from, momentum
        self.local_crops_number, self.least_local_area = local_crops_number, least_local_area
        self.student_temp, self.teacher_temp = student_temp, teacher_temp
        self._answer: Tensor | None = None

    def build(self, info: DataInfo) -> None:
        """Makes the frozen network, prototypes with their block, a head, copies of these and the centre."""
        self.backbone = FeatureExtractor(self.backbone_name, (-1,), info.channels).freeze()
        width = self.backbone.widths[-1]
        self.encoder = PrototypeEncoder(width, self.num_prototypes, self.temperature)
        self.head = PrototypeHead(width, prototypes=self.out_dim)
        self.teacher, self.teacher_head = MomentumCopy(self.encoder), MomentumCopy(self.head)
        self.centre = Centre(self.out_dim)

    @torch.no_grad()
    def tokens(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens _width"]:
        """The frozen network's patches, normalised, behind one for the whole image."""
        patches: Tensor = self.backbone(image)[-1].flatten(2).mT
        return _normal(torch.cat([patches.mean(1, keepdim=True), patches], dim=1))

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The description of the image by prototypes, and that of its patches."""
        rows = -(-image.shape[2] // self.backbone.strides[-1])
        found = self.encoder(self.tokens(image))
        return {"embedding": found[:, 0], "features": found[:, 1:].mT.unflatten(2, (rows, -1))}

    @torch.no_grad()
    def prototype_shares(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch prototypes"]:
        """The share of the tokens of each image that select each prototype; sums to 1."""
        return token_shares(self.encoder.assigned(self.tokens(self.sized(image))), self.num_prototypes)

    def views(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "all_views channels height width"]:
        """Random views of all images, view by view: two that show much, then those that show little."""
        large = self.view(image.repeat(2, 1, 1, 1), (self.least_area, 1.0))
        if not self.local_crops_number:
            return large
        several = image.repeat(self.local_crops_number, 1, 1, 1)
        return torch.cat([large, self.view(several, (self.least_local_area, self.least_area))])

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the student is from what the teacher says of other views."""
        tokens = self.tokens(self.views(image))
        known = self.teacher_head(self.teacher(tokens[: 2 * len(image)])[:, 0])
        self._answer = known.detach()
        found = self.head(self.encoder(tokens, hard=self.done >= self.hard_from)[:, 0])
        targets = self.centre(known, self.teacher_temp).unflatten(0, (2, -1))
        return view_cross_entropy(found.unflatten(0, (-1, len(image))), targets, self.student_temp)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the centre, and lets the copies follow."""
        if self._answer is not None:
            self.centre.update(self._answer)
            self._answer = None
        momentum = momentum_at(self.done, self.momentum)
        self.teacher.follow(self.encoder, momentum)
        self.teacher_head.follow(self.head, momentum)
        super().on_train_batch_end(outputs, batch, batch_idx)


def _normal(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:])


class _Untrained(ProtoSim):
    """The same, with the prototypes and the block that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


def two_sets(label: Int[Tensor, " images"], classes: int) -> tuple[Tensor, Tensor]:
    """Makes two sets of one: a third of the classes only the first has, a third only the second, and the rest both.

    Args:
        label: The class of each image.
        classes: How many there are.

    Returns:
        Whether each image is of the second set, and whether its class is of one set alone.
    """
    part = label * 3 // classes
    seen = functional.one_hot(label, classes).cumsum(0).gather(1, label[:, None])[:, 0]
    every_other = seen % 2 == 0
    return torch.where(part == 2, every_other, part == 1), part != 2


def separation(known: Tensor, asked: Tensor, known_label: Tensor, asked_label: Tensor, classes: int) -> float:
    """How well the specificity of prototypes tells images of classes that one of two sets has alone from others.

    Args:
        known: Shares of prototypes (images, prototypes), by whose usage in both sets specificity is found.
        asked: Those of other images.
        known_label: The classes of the former, which say of which set they are.
        asked_label: The classes of the latter, which say what is right.
        classes: How many there are.

    Returns:
        The area under the ROC curve.
    """
    second, _ = two_sets(known_label, classes)
    _, own = two_sets(asked_label, classes)
    sides = known[~second], known[second]
    specific = specificity(sides[0].mean(0), sides[1].mean(0), (len(sides[0]), len(sides[1])))
    return float(roc_auc_score(own.numpy(), (asked @ specific.abs()).numpy()))


def clusters_of_tokens(known: Tensor, asked: Tensor, clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """The shares that clusters take of images, by k-means on the tokens of the first ones.

    Args:
        known: Tokens (images, tokens, width), of which clusters are made.
        asked: Those of other images.
        clusters: How many.
        seed: Of the start.
    """
    model = KMeans(clusters, n_init=1, random_state=seed).fit(known.flatten(0, 1).numpy())
    one, other = (
        torch.from_numpy(model.predict(each.flatten(0, 1).numpy())).long().unflatten(0, each.shape[:2])
        for each in (known, asked)
    )
    return token_shares(one, clusters), token_shares(other, clusters)


@claim(
    text="By the usage of learnt prototypes one tells images of what only one of two sets has from images of what both "
    "have, better than by that of clusters of the same frozen tokens.",
    where="implied by the abstract: prototypes learnt across data sets enable their comparison",
    higher_is_better=True,
)
def learnt_prototypes_tell_what_is_shared(lab: Lab) -> Trial:
    """Made scenes of single objects, parted into two sets that have a third of the classes in common; as many clusters
    as prototypes, by k-means; unseen scenes are told apart by how specific their prototypes are.
    """

    def figure(seed: int, learnt: bool) -> float:
        method = ProtoSim()
        data = load_data(CLAIM_DATA, task=method.task, seed=seed)
        assert data.test is not None
        known, asked = (
            method.task.collate([part[index] for index in range(len(part))])
            for part in (data.train, data.test)
        )
        if learnt:
            steps = 2 if lab.quick else SHORT_PLAN["steps"]
            method.fit(
                data,
                **SHORT_PLAN | {"steps": steps, "seed": seed, "device": str(lab.device), "hold_out": 0.0},
            )
        else:
            method.prepare(data.info, seed=seed).to(lab.device).eval()
        ask = method.prototype_shares if learnt else method.tokens
        found = [
            torch.cat([ask(part.to(lab.device)).cpu() for part in each["image"].split(256)])
            for each in (known, asked)
        ]
        if not learnt:
            found = list(clusters_of_tokens(found[0], found[1], method.num_prototypes, seed))
        return separation(found[0], found[1], known["label"], asked["label"], len(data.classes))

    return lab.measure(
        ours=lambda seed: figure(seed, True),
        baseline=lambda seed: figure(seed, False),
        metric="AUROC of images of what one set has alone",
    )


@claim(
    text="A linear classifier reads more from images described by learnt prototypes than by random ones.",
    where="implied by the linear evaluation of the authors' code",
    higher_is_better=True,
)
def learning_prototypes_teaches(lab: Lab) -> Trial:
    """The same frozen network in front on both sides."""
    return lab.duel(ours=ProtoSim, baseline=_Untrained, data=CLAIM_DATA, metric="linear_probe", **SHORT_PLAN)
