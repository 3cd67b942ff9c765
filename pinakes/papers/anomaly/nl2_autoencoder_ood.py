"""Zhou, Rethinking Reconstruction Autoencoder-Based Out-of-Distribution Detection, CVPR 2022, arXiv:2203.02194.

An autoencoder betrays strange images only if its latent space is as small as reconstructing the familiar ones allows.
So the paper reconstructs not pixels but what a classifier makes of them, and the classifier itself is the encoder:
features f, logits z, class probabilities p, each step narrower than the one before. One decoder a step goes back, and
only images like those of training can be followed back well.

What the code follows, with T a temperature, D_1 and D_2 the decoders, y the class:

- z = W f + b, p = softmax(z / T): the latent space is the simplex of class probabilities.
- f~ = D_1(z), z~ = D_2(p): layer-wise semantic reconstruction.
- L = ||f - f~||^2 + ||z / T - z~||^2 + CE(z, y): `semantic_loss`; cross-entropy keeps the latent space restricted.
- d = || f / ||f|| - f~ / ||f~|| ||: `normalised_l2`; strange images have short features, whose plain errors are small
  however bad the reconstruction.
- certainty = Phi(max p) (1 - Phi(d_z^2)) (1 - Phi(d_f^2)): `log_certainty`; that of p, times that of z given p, times
  that of f given z. Phi is the normal distribution function about the term's mean on familiar images, epsilon times as
  wide as its deviation there.

Sources: idea and names are the abstract's; architecture, loss and score follow the author's released code
(github.com/SDret/Pytorch-implementation-for-Rethinking-Reconstruction-Autoencoder-Based-Out-of-Distribution-Detection),
a later port with other training settings. We did not have the paper's own equations. That d brings both vectors to
length one is our reading: the released code divides both by the length of f alone, which is `relative_l2`.

Differences: the task has no classes, so the classifier is a frozen pretrained backbone with a linear layer in place of
the logits, learned by reconstruction alone; CE and Phi(max p) need labels and are left to the functions. The Gaussians
are fitted on the training images, not on held-out ones. Features are pooled over the image, so there is no map, and
small defects weigh little.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.base import Detector
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    ("z =", r"z = W f + b, \qquad p = \operatorname{softmax}(z / T)"),
    ("f~ =", r"\tilde{f} = D_1(z), \qquad \tilde{z} = D_2(p)"),
    (
        "L =",
        r"\mathcal{L} = \lVert f - \tilde{f} \rVert^2 + \lVert z / T - \tilde{z} \rVert^2 + \mathrm{CE}(z, y)",
    ),
    (
        "d =",
        r"d = \left\lVert \frac{f}{\lVert f \rVert} - \frac{\tilde{f}}{\lVert \tilde{f} \rVert} \right\rVert",
    ),
    ("certainty =", r"c = \Phi(\max p) \, \left(1 - \Phi(d_z^2)\right) \left(1 - \Phi(d_f^2)\right)"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

Rows = Float[Tensor, "batch features"]


def normalised_l2(features: Rows, reconstruction: Rows) -> Float[Tensor, " batch"]:
    """The distance of two vectors after both are brought to length one: sqrt(2 - 2 cos), from 0 to 2.

    Args:
        features: What was to be reconstructed.
        reconstruction: What came out.

    Source: the paper's normalised L2 distance, in our reading (see above).

    Example:
        >>> normalised_l2(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.1]]))
        tensor([1.4142])
    """
    difference = functional.normalize(features, dim=1) - functional.normalize(reconstruction, dim=1)
    return torch.linalg.vector_norm(difference, dim=1)


def relative_l2(features: Rows, reconstruction: Rows) -> Float[Tensor, " batch"]:
    """The distance of two vectors in units of the first one's length: the author's released code (see above)."""
    length = torch.linalg.vector_norm(features, dim=1).clamp(min=torch.finfo(features.dtype).tiny)
    return plain_l2(features, reconstruction) / length


def plain_l2(features: Rows, reconstruction: Rows) -> Float[Tensor, " batch"]:
    """The Euclidean distance of two vectors, which the paper improves on."""
    return torch.linalg.vector_norm(features - reconstruction, dim=1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normalised": normalised_l2,
    "relative": relative_l2,
    "plain": plain_l2,
}


class Reconstruction(NamedTuple):
    """What `SemanticAutoencoder` makes of features f: z, z / T, p, f~ and z~."""

    logits: Float[Tensor, "batch latent"]
    scaled_logits: Float[Tensor, "batch latent"]
    latent: Float[Tensor, "batch latent"]
    features: Rows
    decoded_logits: Float[Tensor, "batch latent"]


class SemanticAutoencoder(nn.Module):
    """A classifier's last layer as encoder, and a decoder for each of its two steps: probabilities, logits, features.

    Args:
        features: Width of f.
        latent: Width of z and p; the number of classes where there are classes.
        temperature: T; 100 keeps familiar images away from the corners of the simplex.

    Source: the released code for wide residual networks: two hidden layers with Swish a decoder, both as wide as f
        from logits to features, and as wide as f, then 256, from probabilities to logits.

    Example:
        >>> autoencoder = SemanticAutoencoder(features=64, latent=10)
        >>> autoencoder(torch.rand(2, 64)).latent.shape
        torch.Size([2, 10])
    """

    def __init__(self, features: int, latent: int, temperature: float = 100.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.logits = nn.Linear(features, latent)
        self.features_decoder = _perceptron(latent, features, features, features)
        self.logits_decoder = _perceptron(latent, features, 256, latent)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Rows) -> Reconstruction:
        """Follows features down to the latent space and each step back."""
        logits = self.logits(features)
        scaled = logits / self.temperature
        latent = scaled.softmax(dim=1)
        return Reconstruction(
            logits, scaled, latent, self.features_decoder(logits), self.logits_decoder(latent)
        )


def semantic_loss(
    features: Rows,
    reconstruction: Reconstruction,
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """The squared errors of both steps, and cross-entropy where there are labels.

    Args:
        features: What the autoencoder was given.
        reconstruction: What it made of them.
        labels: Classes, if there are any; each column of the logits is then a class.

    Source: the released code; cross-entropy has weight 1 there.
    """
    of_features = plain_l2(features, reconstruction.features).square()
    of_logits = plain_l2(reconstruction.scaled_logits, reconstruction.decoded_logits).square()
    loss = (of_features + of_logits).mean()
    return loss if labels is None else loss + functional.cross_entropy(reconstruction.logits, labels)


def class_evidence(
    logits: Float[Tensor, "batch classes"], temperature: float = 1000.0
) -> Float[Tensor, " batch"]:
    """The largest class probability at a high temperature: the term of `log_certainty` that needs a classifier.

    Args:
        logits: z of a classifier trained with labels.
        temperature: By which logits are divided first; 1000 in the released code.
    """
    return (logits / temperature).softmax(dim=1).amax(dim=1)


def log_certainty(
    evidence: Float[Tensor, "batch terms"],
    location: Float[Tensor, " terms"],
    scale: Float[Tensor, " terms"],
    epsilon: float = 10.0,
) -> Float[Tensor, " batch"]:
    """The logarithm of the product over the terms of Phi((evidence - location) / (epsilon scale)); at most 0.

    Args:
        evidence: One column a term, higher where more certain: squared errors enter with a minus sign.
        location: Mean of each column over familiar images.
        scale: Standard deviation of each column over familiar images.
        epsilon: How much wider the Gaussians are taken; 10 in the released code.

    Source: the paper's data certainty decomposition, as in the released code; the logarithm keeps the order.
    """
    width = epsilon * scale.clamp(min=torch.finfo(scale.dtype).eps)
    return torch.special.log_ndtr((evidence - location) / width).sum(dim=1)


class NL2Autoencoder(Detector):
    """Scores images by how badly their pooled features survive the way through a restricted latent space.

    Args:
        backbone: Name of the network whose features are reconstructed; it stays as it is.
        layer: Its feature level, in timm's `out_indices`; -1 is the last.
        latent: Width of the latent space; in the paper the number of classes.
        temperature: T of the softmax that bounds the latent space.
        distance: "normalised", or for comparison "relative" (the released code's) or "plain" L2.
        epsilon: How much wider the Gaussians of the score are than the training images make them.
        learning_rate: Of Adam; the released code has 1e-4, for a hundred times as many steps.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    location: Tensor
    scale: Tensor
    min_images = 2
    training_defaults = {"batch_size": 32, "epochs": 100}

    def __init__(
        self,
        backbone: str = "pinakes/tiny_conv",
        layer: int = -1,
        latent: int = 32,
        temperature: float = 100.0,
        distance: str = "normalised",
        epsilon: float = 10.0,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        if latent < 2:
            raise UserError(f"latent: expected 2 or more dimensions, got {latent}")
        positive = {"temperature": temperature, "epsilon": epsilon, "learning_rate": learning_rate}
        for name, value in positive.items():
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        if distance not in DISTANCES:
            raise UserError(f"distance: '{distance}' is unknown{suggest(distance, DISTANCES)}")
        self.backbone_name = backbone
        self.layer = layer
        self.latent = latent
        self.temperature = temperature
        self.distance = DISTANCES[distance]
        self.epsilon = epsilon
        self.learning_rate = learning_rate

    def build(self, info: DataInfo) -> None:
        """Makes the backbone, the autoencoder and Gaussians that await fitting."""
        self.backbone = FeatureExtractor(self.backbone_name, (self.layer,), info.channels).freeze()
        self.autoencoder = SemanticAutoencoder(self.backbone.widths[0], self.latent, self.temperature)
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))

    def describe(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """f: the features of images in [0, 1], averaged over the positions."""
        return self.backbone(image)[0].mean(dim=(2, 3))

    def evidence(self, features: Rows) -> Float[Tensor, "batch 2"]:
        """Minus the squared distances of the features and of the logits from their reconstructions."""
        made = self.autoencoder(features)
        of_features = self.distance(features, made.features)
        of_logits = self.distance(made.scaled_logits, made.decoded_logits)
        return -torch.stack([of_features, of_logits], dim=1).square()

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Describes the training images once, trains the autoencoder on that, and fits the Gaussians."""
        features = torch.cat([self.describe(b["image"]) for b in self.batches(data.train, plan, "features")])
        super().learn(replace(data, train=[{"features": row} for row in features.cpu()]), plan)
        with torch.no_grad():
            evidence = self.evidence(features)
        self.location, self.scale = evidence.mean(dim=0), evidence.std(dim=0, correction=0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch of images, or of features where they are known already."""
        features = batch["features"] if "features" in batch else self.describe(batch["image"])
        return semantic_loss(features, self.autoencoder(features))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the autoencoder."""
        return torch.optim.Adam(self.autoencoder.parameters(), lr=self.learning_rate)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores images by minus the logarithm of their certainty."""
        evidence = self.evidence(self.describe(batch["image"]))
        return {"score": -log_certainty(evidence, self.location, self.scale, self.epsilon)}


def _perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


@claim(
    text="The same autoencoder detects better by the normalised than by the plain L2 distance of what it reconstructs.",
    where="abstract",
    higher_is_better=True,
)
def normalised_beats_plain_distance(lab: Lab) -> Trial:
    """Both sides train the same weights on the same crops of one material, anew with each seed; only scores differ."""
    return lab.duel(
        ours=lambda: NL2Autoencoder(distance="normalised"),
        baseline=lambda: NL2Autoencoder(distance="plain"),
        data="textures?size=64",
        metric="auroc",
        epochs=100,
        batch_size=32,
    )
