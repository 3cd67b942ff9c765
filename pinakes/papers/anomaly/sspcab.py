"""SSPCAB: Ristea et al., Self-Supervised Predictive Convolutional Attentive Block for Anomaly Detection, CVPR 2022,
arXiv:2111.09099.

Many detectors hide a part of the image and predict it. Here a layer does so: a convolution whose receptive field has
its centre masked must predict each position of a feature map from what lies around it. What is normal can be
predicted. The block takes the place of one convolution of an existing detector, and its own loss is added to the
detector's.

What the code follows, with X the feature map (channels c) that enters the block:

- Z = ReLU(K_1 * X + K_2 * X + K_3 * X + K_4 * X): `MaskedConvolution`, four sub-kernels k' x k' in the corners of a
  receptive field of side k = 2 k' + 2 d + 1; the masked centre M is one position, and d positions lie between it and
  the nearest sub-kernel. Zero padding of k' + d keeps the size.
- s = sigmoid(W_2 ReLU(W_1 z)): `ChannelAttention`, squeeze and excitation, where z is the mean of Z over all positions
  and W_1 reduces the c channels by r.
- X~ = s Z: what leaves the block; each channel is scaled by its s.
- L_SSPCAB = mean (X~ - X)^2: `predictive_loss`, over all channels and positions.
- L = L_F + lambda L_SSPCAB: the detector's own loss, and the block's with lambda = 0.1.

Note that s depends on the whole map, so only Z is free of the centre, X~ is not.

Sources: idea and aim are the abstract's; the block, its border and its ReLU those of the authors' code for PyTorch
(github.com/ristea/sspcab), k', d and r under its names for the paper's symbols; lambda and the loss are stated there,
too, with no stop to the gradient into what entered; where the block stands is from the authors' answers to that code's
users (issues 3 and 7). We did not have the paper's own equations. The authors' version for TensorFlow differs: it
reflects at the border and applies ReLU to each sub-kernel's output before the sum.

The method: in the paper the block replaces, as a rule, the penultimate convolution of published detectors on images
and video, CutPaste and both networks of DRAEM among them. The host here is a plain convolutional autoencoder: it learns
to reconstruct normal images through a narrow code, and scores pixels by their squared error, smoothed by a Gaussian,
and an image by its worst pixel. Its penultimate convolution works at half the image's resolution. Architecture,
optimiser and number of steps are ours, small enough for a first fit on a CPU.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.maps import smoothed_map
from pinakes.papers.anomaly.base import Detector
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    (
        "Z =",
        r"Z = \operatorname{ReLU}\Big(\sum_{i=1}^{4} K_i * X\Big), \qquad "
        r"K_i \in \mathbb{R}^{k' \times k' \times c}, \qquad k = 2 k' + 2 d + 1",
    ),
    ("s =", r"s = \sigma\left(W_2 \operatorname{ReLU}(W_1 z)\right)"),
    ("X~ =", r"\tilde{X} = s \cdot Z"),
    ("L_SSPCAB =", r"\mathcal{L}_{\mathrm{SSPCAB}} = \frac{1}{h w c} \lVert \tilde{X} - X \rVert_2^2"),
    ("L =", r"\mathcal{L} = \mathcal{L}_F + \lambda \mathcal{L}_{\mathrm{SSPCAB}}"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

STRIDE = 8
"""Image pixels a side of one position of the autoencoder's code."""

FeatureMap = Float[Tensor, "batch channels height width"]


def predictive_loss(predicted: FeatureMap, entered: FeatureMap) -> Float[Tensor, ""]:
    """The block's own loss: the mean squared error of its prediction of what entered it.

    Args:
        predicted: X~, what left the block.
        entered: X, what entered it.

    Source: L_SSPCAB above.
    """
    return functional.mse_loss(predicted, entered)


class MaskedConvolution(nn.Module):
    """A convolution that cannot see the position it is for: four sub-kernels in the corners of its receptive field.

    Args:
        channels: c, of input and output.
        kernel_size: k', side of each sub-kernel.
        dilation: d, positions between the centre and the nearest row or column of a sub-kernel.

    Raises:
        UserError: If a value is out of range; the message names it.

    Example:
        >>> masked = MaskedConvolution(channels=16, kernel_size=2, dilation=1)
        >>> masked(torch.rand(1, 16, 8, 12)).shape
        torch.Size([1, 16, 8, 12])
    """

    def __init__(self, channels: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        if channels < 1 or kernel_size < 1:
            raise UserError(f"channels, kernel_size: expected 1 or more, got {channels}, {kernel_size}")
        if dilation < 0:
            raise UserError(f"dilation: expected 0 or more positions, got {dilation}")
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.corners = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size) for _ in range(4))

    def forward(self, features: FeatureMap) -> FeatureMap:
        """The sum of the sub-kernels' outputs, before ReLU: top left, top right, bottom left, bottom right."""
        height, width = features.shape[-2:]
        reach = self.kernel_size + self.dilation
        padded = functional.pad(features, [reach] * 4)
        rows, columns = height + self.kernel_size - 1, width + self.kernel_size - 1
        far = reach + self.dilation + 1
        starts = [(0, 0), (0, far), (far, 0), (far, far)]
        seen = [padded[..., top : top + rows, left : left + columns] for top, left in starts]
        return torch.stack([corner(part) for corner, part in zip(self.corners, seen, strict=True)]).sum(0)


class ChannelAttention(nn.Module):
    """Squeeze and excitation: scales each channel by a weight in (0, 1) that depends on the means of all channels.

    Args:
        channels: c.
        reduction: r, by how much the hidden layer is narrower.

    Raises:
        UserError: If the hidden layer would be empty.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise UserError(f"reduction: expected 1 to {channels} (the number of channels), got {reduction}")
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, features: FeatureMap) -> FeatureMap:
        """The scaled map."""
        scale = self.excite(self.squeeze(features.mean(dim=(2, 3))).relu()).sigmoid()
        return features * scale[:, :, None, None]


class SSPCAB(nn.Module):
    """The block: masked convolution, ReLU, channel attention. Input and output have the same shape.

    Train it with `predictive_loss(block(x), x)`, weighted, added to the loss of the network that it is part of.

    Args:
        channels: c, of input and output.
        kernel_size: k', side of each sub-kernel.
        dilation: d, positions between the centre and the nearest row or column of a sub-kernel.
        reduction: r, of the channel attention.

    Raises:
        UserError: If a value is out of range; the message names it.

    Example:
        >>> block, features = SSPCAB(channels=16), torch.rand(2, 16, 8, 8)
        >>> loss = predictive_loss(block(features), features)
    """

    def __init__(self, channels: int, kernel_size: int = 1, dilation: int = 1, reduction: int = 8) -> None:
        super().__init__()
        self.masked = MaskedConvolution(channels, kernel_size, dilation)
        self.attention = ChannelAttention(channels, reduction)

    def forward(self, features: FeatureMap) -> FeatureMap:
        """X~, the prediction of each position from its surroundings."""
        predicted: Tensor = self.attention(self.masked(features).relu())
        return predicted


class ReconstructionAutoencoder(nn.Module):
    """A plain convolutional autoencoder: three halvings to a narrow code, and back with a given penultimate layer.

    Args:
        channels: Of the image.
        width: Channels at half the resolution; twice as many at a quarter and an eighth.
        latent: Channels of the code, which has an eighth of the resolution.
        penultimate: The layer before the last, from and to `width` channels at half the resolution.
    """

    def __init__(self, channels: int, width: int, latent: int, penultimate: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _convolution(channels, width, stride=2),
            _convolution(width, 2 * width, stride=2),
            _convolution(2 * width, 2 * width, stride=2),
            nn.Conv2d(2 * width, latent, 1),
        )
        self.decoder = nn.Sequential(
            _convolution(latent, 2 * width), _doubled(2 * width, 2 * width), _doubled(2 * width, width)
        )
        self.penultimate = penultimate
        self.last = nn.Sequential(nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Sigmoid())

    def forward(
        self, image: Float[Tensor, "batch colours rows columns"]
    ) -> tuple[
        Float[Tensor, "batch colours rows columns"],
        Float[Tensor, "batch channels height width"],
        Float[Tensor, "batch channels height width"],
    ]:
        """The reconstruction in [0, 1], and what entered and what left the penultimate layer.

        Images whose sides are no multiple of 8 are continued by their last row and column; the reconstruction is cut
        to their size.
        """
        rows, columns = image.shape[-2:]
        padded = functional.pad(image, (0, -columns % STRIDE, 0, -rows % STRIDE), mode="replicate")
        entered = self.decoder(self.encoder(padded))
        left = self.penultimate(entered)
        return self.last(left)[..., :rows, :columns], entered, left


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _doubled(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SSPCABAutoencoder(Detector):
    """A reconstruction detector whose penultimate convolution is the paper's block.

    Args:
        block: Whether to use the block; False is the plain autoencoder, with a 3 x 3 convolution and ReLU there.
        kernel_size: k', side of the block's sub-kernels.
        dilation: d, positions between the hidden centre and the sub-kernels.
        reduction: r, of the block's channel attention; at most `width`.
        lambda_: Weight of the block's loss.
        width: Channels at half the image's resolution, where the block works.
        latent: Channels of the autoencoder's code.
        learning_rate: Of Adam.
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    training_defaults = {"steps": 300, "batch_size": 8}

    def __init__(
        self,
        block: bool = True,
        kernel_size: int = 1,
        dilation: int = 1,
        reduction: int = 8,
        lambda_: float = 0.1,
        width: int = 32,
        latent: int = 16,
        learning_rate: float = 1e-3,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        for name, count in {"kernel_size": kernel_size, "width": width, "latent": latent}.items():
            if count < 1:
                raise UserError(f"{name}: expected 1 or more, got {count}")
        for name, value in {"dilation": dilation, "lambda_": lambda_, "sigma": sigma}.items():
            if not value >= 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        if not 1 <= reduction <= width:
            raise UserError(f"reduction: expected 1 to {width} (the width), got {reduction}")
        if not learning_rate > 0:
            raise UserError(f"learning_rate: expected above 0, got {learning_rate}")
        self.block = block
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.reduction = reduction
        self.lambda_ = lambda_
        self.width = width
        self.latent = latent
        self.learning_rate = learning_rate
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the autoencoder, with the block or with a plain convolution in its place."""
        penultimate: nn.Module
        if self.block:
            penultimate = SSPCAB(self.width, self.kernel_size, self.dilation, self.reduction)
        else:
            penultimate = nn.Sequential(nn.Conv2d(self.width, self.width, 3, padding=1), nn.ReLU())
        self.autoencoder = ReconstructionAutoencoder(info.channels, self.width, self.latent, penultimate)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The mean squared error of the reconstruction, and the block's loss times lambda where there is one."""
        reconstruction, entered, left = self.autoencoder(batch["image"])
        loss = functional.mse_loss(reconstruction, batch["image"])
        return loss + self.lambda_ * predictive_loss(left, entered) if self.block else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on all weights."""
        return torch.optim.Adam(self.autoencoder.parameters(), lr=self.learning_rate)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores pixels by their squared error, averaged over channels and smoothed, and images by the worst one."""
        image = batch["image"]
        error = (self.autoencoder(image)[0] - image).square().mean(dim=1)
        smoothed = smoothed_map(error, image.shape[-2:], self.sigma)
        return {"score": smoothed.flatten(1).max(dim=1).values, "map": smoothed}


@claim(
    text="An autoencoder locates defects better with the block than with a plain convolution in its place.",
    where="abstract",
    higher_is_better=True,
)
def block_beats_convolution_for_pixels(lab: Lab) -> Trial:
    """Same autoencoder, data, start and steps; each seed draws crops of one material and weights anew."""
    return lab.duel(
        ours=SSPCABAutoencoder,
        baseline=lambda: SSPCABAutoencoder(block=False),
        data="textures?size=64",
        metric="pixel_auroc",
        steps=300,
        batch_size=8,
    )


@claim(
    text="An autoencoder detects anomalous images better with the block than with a plain convolution in its place.",
    where="abstract",
    higher_is_better=True,
)
def block_beats_convolution_for_images(lab: Lab) -> Trial:
    """Same autoencoder, data, start and steps; each seed renders scenes and draws weights anew."""
    return lab.duel(
        ours=SSPCABAutoencoder,
        baseline=lambda: SSPCABAutoencoder(block=False),
        data="scenes:anomaly?size=64&n=200",
        metric="auroc",
        steps=300,
        batch_size=8,
    )
