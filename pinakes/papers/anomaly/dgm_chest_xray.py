"""Tang et al., A disentangled generative model for disease decomposition in chest X-rays via normal image synthesis,
Medical Image Analysis 67, 2021, doi:10.1016/j.media.2020.101839.

Radiologists read a chest X-ray by comparing it with how the patient would look in health. The disentangled generative
model (DGM) makes that picture: it decomposes an image into a normal one and a residue map of what is abnormal, knowing
of its training images only whether they are normal. Three branches of encoders and decoders share the work.

The equations that the code follows, z an image, X the abnormal ones, Y the normal ones:

- Branch 1: y' = D_G(E_G(z)), the normal image.
- Branch 2: a = D_F(E_F(z)), the residue map.
- Branch 3: z'' = D_J(E_G(z), E_F(z)), the image restored from both codes.
- (1): l_A = 1/2 E (D(y') - 1)^2, `adversarial_loss`: D cannot tell y' from real normal images.
- (2): l_R1 = ||y' + a - z||_1: normal image and residue add up to the image.
- (3): l_R2 = ||z'' - z||_1: the two codes together hold the image.
- (4): l_R3 = ||a||_1 where z is in Y, else 0: a normal image leaves no residue.
- (5): l_TV = sum |y'(i+1, j) - y'(i, j)| + |y'(i, j+1) - y'(i, j)|, `total_variation`: y' is smooth.
- (6): l = lambda_A l_A + lambda_R (l_R1 + l_R2 + l_R3) + lambda_TV l_TV, `decomposition_losses`.
- (7): l_D = 1/2 E D(y')^2 + 1/2 E (D(y) - 1)^2, y in Y, `discriminator_loss`.

Sources: the abstract, and the page of the paper with equations (1) to (7), which a public implementation for digits
(github.com/YeongHyeon/DGM-TF) shows; from it also lambda = 10, 10, 1, which it calls the paper's. We did not have the
rest of the paper. Not established, and ours here: the form and width of the networks (plain convolutions to an eighth
of the resolution and back, no connections that skip the codes, group normalisation; a discriminator of patches), the
range of a (-1 to 1, so that what is abnormal may be brighter or darker), the size of images (here any), optimiser,
batch and length of training, how images are scored (here by the largest value of the smoothed residue map), and whether
norms are sums or means: here means over pixels, which keeps the weights' meaning whatever the size. The abstract says
that the third branch also makes the model robust on noisy data; we do not know how, and no noise is added.

Discriminator and decomposition are trained in the same step: each gets the gradient of its own loss only, both from the
networks as they stand. The adversarial game is usually played in alternation.

The default of 300 steps is for a first fit on a small CPU. The game takes longer to settle: until then the residue map
shows edges more than anomalies. For maps that count, give 1500 steps or more.

Where training has no labelled anomalies, pseudo anomalies (`cutmix` in the module `pseudo`) stand in for them: each
normal image becomes one with probability 1/2. That is not the paper's method any more, and a warning says so. Few
labelled anomalies are repeated until they are half of the data.
"""

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.data.views import labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.maps import smoothed_map
from pinakes.papers.anomaly.base import Detector
from pinakes.papers.anomaly.pseudo import balanced, cutmix
from pinakes.tasks.base import Batch, Prediction

log = logging.getLogger(__name__)

EQUATIONS = (
    ("Branch 1", r"y' = D_G(E_G(z))"),
    ("Branch 2", r"a = D_F(E_F(z))"),
    ("Branch 3", r"z'' = D_J(E_G(z), E_F(z))"),
    ("(1)", r"\ell_A = \tfrac{1}{2} \mathbb{E}\big[(D(y') - 1)^2\big]"),
    ("(2)", r"\ell_R^1 = \lVert y' + a - z \rVert_1"),
    ("(3)", r"\ell_R^2 = \lVert z'' - z \rVert_1"),
    ("(4)", r"\ell_R^3 = \begin{cases} 0 & z \in X \\ \lVert a \rVert_1 & z \in Y \end{cases}"),
    ("(5)", r"\ell_{TV} = \sum_{i,j} |y'_{i+1,j} - y'_{i,j}| + |y'_{i,j+1} - y'_{i,j}|"),
    (
        "(6)",
        r"\ell = \lambda_A \ell_A + \lambda_R (\ell_R^1 + \ell_R^2 + \ell_R^3) + \lambda_{TV} \ell_{TV}",
    ),
    (
        "(7)",
        r"\ell_D = \tfrac{1}{2} \mathbb{E}\big[D(y')^2\big] + \tfrac{1}{2} \mathbb{E}\big[(D(y) - 1)^2\big]",
    ),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

STRIDE = 8
"""Image pixels a side of one position of a code."""
GROUPS = 4
"""Groups of channels that are normalised together."""

Images = Float[Tensor, "batch channels height width"]
Verdicts = Float[Tensor, "batch rows columns"]
"""What a discriminator says of each patch: 1 for real."""


class Decomposition(NamedTuple):
    """What the three branches make of images: y', a and z''."""

    normal: Images
    residue: Images
    joint: Images


def adversarial_loss(made: Verdicts) -> Float[Tensor, ""]:
    """Half the mean squared distance from 1 of what the discriminator says of made images.

    Source: equation (1).
    """
    return 0.5 * (made - 1).square().mean()


def discriminator_loss(made: Verdicts, real: Verdicts, is_real: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Half the mean squared distance from 0 on made images, and from 1 on real ones.

    Args:
        made: Verdicts on normal images that were made.
        real: Verdicts on training images.
        is_real: Which of these are normal; the others do not count.

    Source: equation (7).

    Example:
        >>> made, real = torch.full((2, 1, 1), 0.5), torch.tensor([[[0.0]], [[7.0]]])
        >>> discriminator_loss(made, real, torch.tensor([True, False]))
        tensor(0.6250)
    """
    distance = (real - 1).square().mean((1, 2))
    return 0.5 * made.square().mean() + 0.5 * (distance * is_real).sum() / is_real.sum().clamp(min=1)


def total_variation(image: Images) -> Float[Tensor, " batch"]:
    """The absolute differences of neighbouring pixels, summed and divided by the number of values of an image.

    Source: equation (5).
    """
    down = (image[..., 1:, :] - image[..., :-1, :]).abs().sum((1, 2, 3))
    across = (image[..., 1:] - image[..., :-1]).abs().sum((1, 2, 3))
    return (down + across) / image[0].numel()


def decomposition_losses(
    image: Images, found: Decomposition, abnormal: Bool[Tensor, " batch"]
) -> dict[str, Float[Tensor, ""]]:
    """The terms of equation (6) that need no discriminator, each a mean over pixels and images.

    Args:
        image: z, in [0, 1].
        found: What was made of it.
        abnormal: Which images are abnormal.

    Returns:
        `sum` (2), `joint` (3), `residue` (4) and `total_variation` (5).
    """
    residue = found.residue.abs().mean((1, 2, 3))
    return {
        "sum": (found.normal + found.residue - image).abs().mean(),
        "joint": (found.joint - image).abs().mean(),
        "residue": torch.where(abnormal, 0.0, residue).mean(),
        "total_variation": total_variation(found.normal).mean(),
    }


def encoder(channels: int, width: int, code: int) -> nn.Sequential:
    """E_G or E_F: three halvings of the resolution, to a code.

    Args:
        channels: Of the image.
        width: Channels at half the resolution; twice as many below.
        code: Channels of the code.
    """
    convolutions = [
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 2 * width))
    ]
    return nn.Sequential(*(_activated(each) for each in convolutions), nn.Conv2d(2 * width, code, 1))


def decoder(code: int, width: int, channels: int, output: nn.Module) -> nn.Sequential:
    """D_G, D_F or D_J: from a code back to the resolution of the image.

    Args:
        code: Channels of the code, or of two codes together.
        width: Channels at half the resolution and above; twice as many below.
        channels: Of the image.
        output: What brings the values into range.
    """
    convolutions = [
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        for inputs, outputs in ((code, 2 * width), (2 * width, width), (width, width))
    ]
    last = nn.Conv2d(width, channels, 3, padding=1)
    return nn.Sequential(*(_activated(each) for each in convolutions), last, output)


def _activated(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, convolution.out_channels), nn.ReLU())


def patch_discriminator(channels: int, width: int) -> nn.Sequential:
    """D: a verdict on each patch of an image, by three strided convolutions and a last one.

    Args:
        channels: Of the image.
        width: Channels of the first layer; the next two have twice and four times as many, and are normalised.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, appendix 6.1.2,
        with fewer layers.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for inputs in (width, 2 * width):
        convolution = nn.Conv2d(inputs, 2 * inputs, 4, stride=2, padding=1)
        layers += [convolution, nn.GroupNorm(GROUPS, 2 * inputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1), nn.Flatten(1, 2))


def padded(image: Images) -> Float[Tensor, "batch channels _rows _columns"]:
    """Continues images by their last row and column until both sides are multiples of 8."""
    rows, columns = image.shape[-2:]
    return functional.pad(image, (0, -columns % STRIDE, 0, -rows % STRIDE), mode="replicate")


class DGM(Detector):
    """The model of the paper as a detector: the residue map locates what is abnormal.

    Args:
        lambda_a: Weight of the adversarial loss.
        lambda_r: Weight of the three reconstruction losses.
        lambda_tv: Weight of the total variation.
        width: Channels at half the image's resolution, a multiple of 4.
        code: Channels of each code, which has an eighth of the resolution.
        learning_rate: Of Adam, for decomposition and discriminator.
        betas: Decay rates of Adam's two moments.
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    uses_anomalies = True
    training_defaults = {"steps": 300, "batch_size": 8}

    def __init__(
        self,
        lambda_a: float = 10.0,
        lambda_r: float = 10.0,
        lambda_tv: float = 1.0,
        width: int = 16,
        code: int = 32,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        for name, weight in {"lambda_a": lambda_a, "lambda_r": lambda_r, "lambda_tv": lambda_tv}.items():
            if not weight >= 0:
                raise UserError(f"{name}: expected 0 or more, got {weight}")
        _check_networks(width, code, learning_rate, sigma)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas: expected two numbers from 0 to below 1, got {betas}")
        self.lambda_a = lambda_a
        self.lambda_r = lambda_r
        self.lambda_tv = lambda_tv
        self.width = width
        self.code = code
        self.learning_rate = learning_rate
        self.betas = betas
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the three branches and the discriminator."""
        channels, width, code = info.channels, self.width, self.code
        self.normal_encoder = encoder(channels, width, code)
        self.normal_decoder = decoder(code, width, channels, nn.Sigmoid())
        self.residue_encoder = encoder(channels, width, code)
        self.residue_decoder = decoder(code, width, channels, nn.Tanh())
        self.joint_decoder = decoder(2 * code, width, channels, nn.Sigmoid())
        self.discriminator = patch_discriminator(channels, width)
        self.stands_in = True

    def forward(self, image: Images) -> Decomposition:
        """The normal image in [0, 1], the residue map in [-1, 1] and the restored image of images in [0, 1]."""
        rows, columns = image.shape[-2:]
        whole = padded(image)
        normal, residue = self.normal_encoder(whole), self.residue_encoder(whole)
        made = (
            self.normal_decoder(normal),
            self.residue_decoder(residue),
            self.joint_decoder(torch.cat([normal, residue], dim=1)),
        )
        return Decomposition(*(each[..., :rows, :columns] for each in made))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains decomposition and discriminator on normal and labelled anomalous images, or on stand-ins for these."""
        self.stands_in = not any(labels_of(data.train))
        if self.stands_in:
            log.warning("%s: has no labelled anomalies; pseudo anomalies stand in for them", data.spec)
        super().learn(replace(data, train=balanced(data.train)), plan)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The sum of equations (6) and (7), each of which reaches its own networks only."""
        image, abnormal = batch["image"], batch["label"] != 0
        if self.stands_in:
            made = torch.rand(len(image), device=image.device) < 0.5
            image = torch.where(made[:, None, None, None], cutmix(image)[0], image)
            abnormal = abnormal | made
        found = self(image)
        terms = decomposition_losses(image, found, abnormal)
        as_it_stands = {name: each.detach() for name, each in self.discriminator.named_parameters()}
        fooled = adversarial_loss(functional_call(self.discriminator, as_it_stands, (found.normal,)))
        reconstruction = terms["sum"] + terms["joint"] + terms["residue"]
        decomposition = self.lambda_a * fooled + self.lambda_r * reconstruction
        decomposition = decomposition + self.lambda_tv * terms["total_variation"]
        verdicts = self.discriminator(torch.cat([found.normal.detach(), image]))
        return decomposition + discriminator_loss(verdicts[: len(image)], verdicts[len(image) :], ~abnormal)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on all networks; it treats every weight by itself, so one serves both sides of the game."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, betas=self.betas)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores pixels by their absolute residue, averaged over channels and smoothed, and images by the worst one."""
        return _scored(self(batch["image"]).residue, self.sigma)


class NormalAutoencoder(Detector):
    """What DGM is held against: its first branch alone, trained to reconstruct normal images.

    Args:
        width: Channels at half the image's resolution, a multiple of 4.
        code: Channels of the code.
        learning_rate: Of Adam.
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    training_defaults = DGM.training_defaults

    def __init__(
        self, width: int = 16, code: int = 32, learning_rate: float = 1e-3, sigma: float = 4.0
    ) -> None:
        super().__init__()
        _check_networks(width, code, learning_rate, sigma)
        self.width = width
        self.code = code
        self.learning_rate = learning_rate
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder."""
        self.normal_encoder = encoder(info.channels, self.width, self.code)
        self.normal_decoder = decoder(self.code, self.width, info.channels, nn.Sigmoid())

    def forward(self, image: Images) -> Images:
        """The reconstruction of images in [0, 1]."""
        rows, columns = image.shape[-2:]
        restored: Tensor = self.normal_decoder(self.normal_encoder(padded(image)))
        return restored[..., :rows, :columns]

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean absolute error of the reconstruction."""
        return (self(batch["image"]) - batch["image"]).abs().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on all weights."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores pixels by their absolute error, averaged over channels and smoothed, and images by the worst one."""
        return _scored(batch["image"] - self(batch["image"]), self.sigma)


def _check_networks(width: int, code: int, learning_rate: float, sigma: float) -> None:
    if width < GROUPS or width % GROUPS:
        raise UserError(f"width: expected a multiple of {GROUPS}, got {width}")
    if code < 1:
        raise UserError(f"code: expected 1 or more, got {code}")
    if not learning_rate > 0:
        raise UserError(f"learning_rate: expected above 0, got {learning_rate}")
    if not sigma >= 0:
        raise UserError(f"sigma: expected 0 or more, got {sigma}")


def _scored(difference: Images, sigma: float) -> Prediction:
    """The smoothed map of absolute differences, and its largest value as the score of the image."""
    rows, columns = difference.shape[-2:]
    smoothed = smoothed_map(difference.abs().mean(dim=1), (rows, columns), sigma)
    return {"score": smoothed.flatten(1).max(dim=1).values, "map": smoothed}


@claim(
    text="With image-level labels alone, the residue map locates anomalies better than an autoencoder's error does.",
    where="abstract, and the application to lung opacity detection",
    higher_is_better=True,
)
def residue_beats_reconstruction_error(lab: Lab) -> Trial:
    """Half of the anomalous images of every kind are labelled; the baseline learns from the normal ones alone."""
    return lab.duel(
        ours=DGM,
        baseline=NormalAutoencoder,
        data="textures?size=64&n=400&seen=scratch,stain,hole,patch,worn,crack&shots=17",
        metric="pixel_auroc",
        steps=550,
        batch_size=8,
    )
