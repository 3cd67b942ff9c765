"""A small convolutional autoencoder of images, whose code is a map of fewer rows and columns, and its training.

Other networks can then work on codes, and not on pixels. The code is held in form in one of two ways: as Gaussians that
are drawn to the normal distribution (`KLAutoencoder`), or by the nearest entries of a codebook (`VQAutoencoder`):

    autoencoder = KLAutoencoder(channels=3, factor=4)
    train_autoencoder(autoencoder, samples, steps=1000)
    latent = autoencoder.encode(image)
    again = autoencoder.decode(latent, size=(64, 64))

It learns from the absolute error, from the difference of a fixed network's features, and, if wanted, from a
discriminator that looks at patches.

Source: Esser et al., Taming Transformers for High-Resolution Image Synthesis, CVPR 2021 (arXiv:2012.09841), section
    3.1; Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022 (arXiv:2112.10752),
    section 3.1 and appendix G.
"""

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import Sample, SampleSet
from pinakes.engine.loading import TrainingLoader
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.image_tokenizer import COMMITMENT, RARE, vector_quantisation_loss
from pinakes.nn.unet import GROUPS

log = logging.getLogger(__name__)

LEAST_LOG_VARIANCE, GREATEST_LOG_VARIANCE = -30.0, 20.0
KL_WEIGHT = 1e-2
"""Weak beside an error of about 0.02, and enough for a decoder that bears some noise."""
PERCEPTUAL_BACKBONE = "pinakes/tiny_conv"
PERCEPTUAL_LAYERS = (0, 1, 2)
PERCEPTUAL_SIDE = 32
"""Smaller images are enlarged to it before their features are compared."""
ADVERSARIAL_FROM = 0.3
"""Share of the steps after which the discriminator counts."""
MOST_ADVERSARIAL = 1e4
LOG_SECONDS = 20.0
"""Seconds between two lines in the log."""


# -- forms of the code -------------------------------------------------------------------------------------------


def kl_to_normal(
    mean: Float[Tensor, "batch *shape"], log_variance: Float[Tensor, "batch *shape"]
) -> Float[Tensor, " batch"]:
    """The Kullback-Leibler divergence of independent Gaussians from the standard normal distribution, in nats.

    Args:
        mean: Their means.
        log_variance: The logarithms of their variances.

    Returns:
        The sum over all values of each sample.

    Example:
        >>> kl_to_normal(torch.ones(1, 4), torch.zeros(1, 4))
        tensor([2.])
    """
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return divergence.flatten(1).sum(1)


def closest_codes(
    vectors: Float[Tensor, "batch dim rows columns"], codebook: Float[Tensor, "codes dim"]
) -> Int[Tensor, "batch rows columns"]:
    """The codes at the least Euclidean distance from vectors.

    Example:
        >>> closest_codes(torch.tensor([[[[0.9]], [[0.2]]]]), torch.eye(2))
        tensor([[[0]]])
    """
    # |v - c|^2 without |v|^2, which is the same for all codes
    alike = torch.einsum("b d h w, k d -> b k h w", vectors, codebook)
    return (codebook.square().sum(1)[:, None, None] - 2 * alike).argmin(1)


def code_vectors(
    tokens: Int[Tensor, "batch rows columns"], codebook: Float[Tensor, "codes dim"]
) -> Float[Tensor, "batch dim rows columns"]:
    """The entries of a codebook, by their numbers."""
    return rearrange(functional.embedding(tokens, codebook), "b h w d -> b d h w")


def straight_through(
    vectors: Float[Tensor, "batch *shape"], codes: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *shape"]:
    """The codes, with a gradient that goes to the vectors as if these had been passed on as they are.

    Source: van den Oord et al., Neural Discrete Representation Learning (arXiv:1711.00937), section 3.2.
    """
    return vectors + (codes - vectors).detach()


# -- networks ----------------------------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """Two convolutions around which the input is led past.

    Args:
        inputs: Channels of the input, a multiple of 8.
        width: Channels of the output, a multiple of 8.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.past = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(
        self, maps: Float[Tensor, "batch inputs rows columns"]
    ) -> Float[Tensor, "batch width rows columns"]:
        """Maps of the same size."""
        answer: Tensor = self.inner(maps) + self.past(maps)
        return answer


class ImageAutoencoder(nn.Module):
    """What both forms share: an encoder that halves rows and columns some times, and a decoder that doubles them.

    Sides that the factor does not divide are rounded up in the code, and what is over is cut off when it is decoded.

    Args:
        channels: Of the images.
        factor: How many pixels stand side by side for one place of the code: a power of 2, 2 or more.
        latent_channels: Channels of the code.
        width: Channels at the finest level, a multiple of 8; all others have twice as many.
        blocks: Residual blocks at each level.
        told: Channels of what the encoder says, where this is more than the code.

    Raises:
        ValueError: If the factor or the width is not of this kind.
    """

    def __init__(
        self,
        channels: int = 3,
        factor: int = 4,
        latent_channels: int = 4,
        width: int = 16,
        blocks: int = 1,
        told: int | None = None,
    ) -> None:
        super().__init__()
        if factor < 2 or factor & (factor - 1):
            raise ValueError(f"factor: expected a power of 2, 2 or more, got {factor}")
        if width < GROUPS or width % GROUPS:
            raise ValueError(f"width: expected a multiple of {GROUPS}, got {width}")
        self.factor, self.latent_channels = factor, latent_channels
        wide = [width] + [2 * width] * (factor.bit_length() - 1)
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        up: list[nn.Module] = []
        for level, own in enumerate(wide):
            if level:
                down.append(nn.Conv2d(wide[level - 1], own, 3, stride=2, padding=1))
                up += [nn.Conv2d(own, wide[level - 1], 3, padding=1), nn.Upsample(scale_factor=2)]
            down += [PlainBlock(own, own) for _ in range(blocks)]
            up += [PlainBlock(own, own) for _ in range(blocks)]
        last = wide[-1]
        self.encoder = nn.Sequential(
            *down,
            nn.GroupNorm(GROUPS, last),
            nn.SiLU(),
            nn.Conv2d(last, told or latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, last, 3, padding=1),
            *reversed(up),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
        )
        self.paint = nn.Conv2d(width, channels, 3, padding=1)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the code of images of a size."""
        return -(-size[0] // self.factor), -(-size[1] // self.factor)

    def painted(
        self, latent: Float[Tensor, "batch latent rows columns"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images from codes as they are, about in [0, 1]; cut to a size, if one is given."""
        image: Tensor = 0.5 * self.paint(self.decoder(latent)) + 0.5
        return image if size is None else image[..., : size[0], : size[1]]

    def said(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _said rows columns"]:
        """What the encoder says of images in [0, 1], from which codes follow."""
        answer: Tensor = self.encoder(2 * image - 1)
        return answer

    def drawn(
        self, said: Float[Tensor, "batch _said rows columns"]
    ) -> Float[Tensor, "batch latent rows columns"]:
        """A code by what the encoder said, drawn anew where the form of the code is a distribution."""
        return said

    def encode(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latent rows columns"]:
        """The code of images in [0, 1], the same every time."""
        return self.said(image)

    def decode(
        self, latent: Float[Tensor, "batch latent rows columns"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images from codes, about in [0, 1].

        Args:
            latent: Codes.
            size: Rows and columns of the images, where the factor does not divide them.
        """
        return self.painted(latent, size)

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, ""]]:
        """Images painted from the codes of images in [0, 1], as in training, and what the form of the code costs."""


class KLAutoencoder(ImageAutoencoder):
    """Each value of the code is drawn from a Gaussian, which is held near the normal distribution.

    Args:
        channels: Of the images.
        factor: How many pixels stand side by side for one place of the code: a power of 2, 2 or more.
        latent_channels: Channels of the code.
        width: Channels at the finest level, a multiple of 8; all others have twice as many.
        blocks: Residual blocks at each level.
        kl_weight: What the divergence from the normal distribution counts, for each value of an image.

    Example:
        >>> autoencoder = KLAutoencoder(channels=1, factor=4)
        >>> latent = autoencoder.encode(torch.rand(2, 1, 30, 32))
        >>> latent.shape, autoencoder.decode(latent, (30, 32)).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 1, 30, 32]))
    """

    def __init__(
        self,
        channels: int = 3,
        factor: int = 4,
        latent_channels: int = 4,
        width: int = 16,
        blocks: int = 1,
        kl_weight: float = KL_WEIGHT,
    ) -> None:
        super().__init__(channels, factor, latent_channels, width, blocks, told=2 * latent_channels)
        self.kl_weight = kl_weight

    def gaussian(
        self, said: Float[Tensor, "batch _said rows columns"]
    ) -> tuple[Float[Tensor, "batch latent rows columns"], Float[Tensor, "batch latent rows columns"]]:
        """The mean of the code by what the encoder said, and the logarithm of its variance."""
        mean, log_variance = said.chunk(2, dim=1)
        return mean, log_variance.clamp(LEAST_LOG_VARIANCE, GREATEST_LOG_VARIANCE)

    def drawn(
        self, said: Float[Tensor, "batch _said rows columns"]
    ) -> Float[Tensor, "batch latent rows columns"]:
        """A draw from the Gaussian."""
        mean, log_variance = self.gaussian(said)
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)

    def encode(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latent rows columns"]:
        """The mean of the code of images in [0, 1]."""
        return self.gaussian(self.said(image))[0]

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, ""]]:
        """Images painted from codes that are drawn, and the weighted divergence for each value of an image."""
        said = self.said(image)
        divergence = kl_to_normal(*self.gaussian(said)).sum() / image.numel()
        return self.painted(self.drawn(said), image.shape[-2:]), self.kl_weight * divergence


class VQAutoencoder(ImageAutoencoder):
    """Each place of the code is replaced by the nearest entry of a codebook.

    In training, entries that are hardly used are put to where the encoder's vectors are, all of them at first. `encode`
    gives vectors before they are replaced; `decode` replaces them.

    Args:
        channels: Of the images.
        factor: How many pixels stand side by side for one place of the code: a power of 2, 2 or more.
        latent_channels: Channels of the code.
        width: Channels at the finest level, a multiple of 8; all others have twice as many.
        blocks: Residual blocks at each level.
        codes: Entries of the codebook.
        commitment: beta, the weight of what holds the encoder's vectors to their entries.

    Example:
        >>> autoencoder = VQAutoencoder(channels=1, factor=4, codes=16)
        >>> tokens = autoencoder.tokens(torch.rand(2, 1, 32, 32))
        >>> tokens.shape, autoencoder.decode_tokens(tokens).shape
        (torch.Size([2, 8, 8]), torch.Size([2, 1, 32, 32]))
    """

    use: Tensor

    def __init__(
        self,
        channels: int = 3,
        factor: int = 4,
        latent_channels: int = 4,
        width: int = 16,
        blocks: int = 1,
        codes: int = 128,
        commitment: float = COMMITMENT,
    ) -> None:
        super().__init__(channels, factor, latent_channels, width, blocks)
        self.commitment = commitment
        self.codebook = nn.Parameter(torch.randn(codes, latent_channels))
        self.register_buffer("use", torch.zeros(codes))

    def decode(
        self, latent: Float[Tensor, "batch latent rows columns"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images from the entries nearest to vectors, about in [0, 1]."""
        return self.decode_tokens(closest_codes(latent, self.codebook), size)

    @torch.no_grad()
    def tokens(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Int[Tensor, "batch rows columns"]:
        """The numbers of the entries for images in [0, 1]."""
        return closest_codes(self.encode(image), self.codebook)

    def decode_tokens(
        self, tokens: Int[Tensor, "batch rows columns"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images from the numbers of entries, about in [0, 1]."""
        return self.painted(code_vectors(tokens, self.codebook), size)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, ""]]:
        """Images painted from entries of the codebook, and how far these are from the encoder's vectors.

        Source: Esser et al., equation 4.
        """
        vectors = self.encode(image)
        if self.training:
            self._revive(vectors.detach())
        codes = code_vectors(closest_codes(vectors.detach(), self.codebook.detach()), self.codebook)
        painted = self.painted(straight_through(vectors, codes), image.shape[-2:])
        return painted, vector_quantisation_loss(vectors, codes, self.commitment)

    @torch.no_grad()
    def _revive(self, found: Tensor) -> None:
        vectors = rearrange(found, "b d h w -> (b h w) d")
        rare = self.use < RARE / len(self.use)
        chosen = torch.randint(len(vectors), (len(self.use),), device=found.device)
        self.codebook.copy_(torch.where(rare[:, None], vectors[chosen], self.codebook))
        used = closest_codes(found, self.codebook).flatten().bincount(minlength=len(self.use)) / len(vectors)
        # what was just put somewhere counts as used as much as others, until it shows whether it is
        self.use.copy_(torch.where(rare, used.clamp(min=1 / len(used)), 0.95 * self.use + 0.05 * used))


# -- what they learn from ----------------------------------------------------------------------------------------


class PerceptualLoss(nn.Module):
    """How far the features of two images lie apart, by a fixed network.

    At each place of some of its maps the features are brought to length 1, and compared; there are no learnt weights of
    channels.

    Args:
        backbone: The network, by name.
        layers: Its maps.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018
        (arXiv:1801.03924), equation 1, with all weights 1.
    """

    def __init__(
        self, backbone: str = PERCEPTUAL_BACKBONE, layers: Sequence[int] = PERCEPTUAL_LAYERS
    ) -> None:
        super().__init__()
        self.features = FeatureExtractor(backbone, layers, 3).freeze()

    def _looked_at(self, image: Tensor) -> list[Tensor]:
        image = image[:, :3] if image.shape[1] >= 3 else image[:, :1].expand(-1, 3, -1, -1)
        side = min(image.shape[-2:])
        if side < PERCEPTUAL_SIDE:
            larger = [math.ceil(each * PERCEPTUAL_SIDE / side) for each in image.shape[-2:]]
            image = functional.interpolate(image, larger, mode="bilinear", align_corners=False)
        return [functional.normalize(maps, dim=1) for maps in self.features(image)]

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        other: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, ""]:
        """The mean squared distance, over images, maps and places, of images in [0, 1].

        One channel is repeated, and of more than three the first three count.
        """
        pairs = zip(self._looked_at(image), self._looked_at(other), strict=True)
        return torch.stack([(one - two).square().sum(1).mean() for one, two in pairs]).mean()


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image whether it is real: higher for yes.

    Args:
        channels: Of the images.
        width: Channels of its first map, a multiple of 8.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017
        (arXiv:1611.07004), section 3.2.2; smaller, and with groups of channels normalised in place of batches.
    """

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 1 _rows _columns"]:
        """A logit for each patch of images in [0, 1]."""
        logits: Tensor = self.layers(2 * image - 1)
        return logits


def hinge_loss(real: Float[Tensor, "*shape"], made: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """What a discriminator minimises, by its logits for real and for made images.

    Example:
        >>> hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0]))
        tensor(0.7500)
    """
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + made).mean())


def adaptive_weight(
    error: Float[Tensor, ""], adversarial: Float[Tensor, ""], last: Tensor
) -> Float[Tensor, ""]:
    """The weight with which an adversarial loss pulls at the last layer as strongly as the error does.

    Args:
        error: Of reconstruction.
        adversarial: The loss by a discriminator.
        last: The weights of the decoder's last layer.

    Source: Esser et al., equation 7; the bounds are those of their code (github.com/CompVis/taming-transformers).
    """
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (error, adversarial)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, MOST_ADVERSARIAL).detach()


def train_autoencoder(
    autoencoder: ImageAutoencoder,
    samples: SampleSet,
    *,
    steps: int,
    batch_size: int = 32,
    seed: int = 0,
    learning_rate: float = 2e-3,
    perceptual: float = 1.0,
    adversarial: float = 0.0,
    seconds: float | None = None,
) -> None:
    """Trains an autoencoder where it is, and leaves it frozen, in evaluation mode.

    It says in the log how far it is. Global generators stay as they are.

    Args:
        autoencoder: Its weights change.
        samples: Images in [0, 1], each as "image".
        steps: Steps of training, 1 or more.
        batch_size: Images a step.
        seed: Of the order and the noise.
        learning_rate: Of Adam; it falls to 0 as a cosine, and stays where it is for the discriminator.
        perceptual: What the difference of features counts beside the absolute error; 0 for nothing.
        adversarial: What the discriminator counts, as a share of the pull of the error; 0 for no discriminator. It
            counts from 30 % of the steps on.
        seconds: After how many it stops, done or not.

    Raises:
        UserError: If the loss is no longer finite.
    """
    device, started = next(autoencoder.parameters()).device, time.monotonic()
    with isolated(seed):
        autoencoder.requires_grad_(True).train()
        compare = PerceptualLoss().to(device) if perceptual else None
        channels = autoencoder.paint.out_channels
        judge = PatchDiscriminator(channels).to(device) if adversarial else None
        optimisers = [
            torch.optim.Adam(each.parameters(), lr=learning_rate, betas=(0.5, 0.9))
            for each in (autoencoder, judge)
            if each is not None
        ]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimisers[0], steps)
        said = started
        try:
            for step, image in enumerate(_images(samples, batch_size, seed, steps)):
                image = image.to(device)
                painted, penalty = autoencoder(image)
                error = functional.l1_loss(painted, image)
                if compare is not None:
                    error = error + perceptual * compare(painted, image)
                loss = error + penalty
                judged = judge is not None and step >= ADVERSARIAL_FROM * steps
                if judge is not None and judged:
                    fooled = -judge(painted).mean()
                    pull = adaptive_weight(error, fooled, autoencoder.paint.weight)
                    loss = loss + adversarial * pull * fooled
                _step(optimisers[0], loss)
                if judge is not None and judged:
                    _step(optimisers[1], hinge_loss(judge(image), judge(painted.detach())))
                schedule.step()
                now = time.monotonic()
                if step == 0 or step == steps - 1 or now - said > LOG_SECONDS:
                    said, value = now, loss.item()
                    if not math.isfinite(value):
                        raise UserError("autoencoder: its loss is no longer finite; lower its learning rate")
                    log.info("autoencoder: step %d of %d, error %.4f", step + 1, steps, error.item())
                if seconds is not None and now - started > seconds:
                    log.warning("autoencoder: %g s are over after step %d of %d", seconds, step + 1, steps)
                    break
        finally:
            autoencoder.zero_grad(set_to_none=True)
            autoencoder.requires_grad_(False).eval()


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _images(samples: SampleSet, batch_size: int, seed: int, steps: int) -> Iterator[Tensor]:
    """So many batches of images, epoch after epoch."""

    def collate(some: list[Sample]) -> dict[str, Tensor]:
        return {"image": torch.stack([each["image"] for each in some])}

    loader = TrainingLoader(samples, collate, batch_size=batch_size, seed=seed)
    done = 0
    while True:
        for batch in loader:
            if done == steps:
                return
            yield batch["image"]
            done += 1
