r"""Xiao et al., Tackling the Generative Learning Trilemma with Denoising Diffusion GANs, ICLR 2022, arXiv:2112.07804.

A diffusion model draws each of its steps from a normal distribution. That is right for small steps, so it needs many.
Where a step takes away much noise, many different images may have been there before, and a normal distribution blurs
them. Here each step is drawn by a generator that is told a random vector besides the noisy image, so that it can give
one of these images rather than their mean. A discriminator that sees a noisy image with the one before it teaches it.
Four steps are enough.

What the code follows:

- Equation 4, `adversarial_losses`: at each step the generator's distribution is brought near to the true one.
- Equation 5, `discriminator_loss`, with pairs of `diffused_pair`: x_{t-1} is drawn first, then x_t from it.
- Equation 6, `generator_loss`: the non-saturating one.
- Equation 7, `drawn_before`: the generator foretells x_0, and x_{t-1} is drawn from the posterior with it.
- Appendix C.1: z passes through a mapping network into every group normalisation, `AdaptiveGroupNorm`; t is added as
  in other diffusion models; the discriminator gets both images as channels, and sees how much samples differ.
- Appendix C.2, `variance_preserving_schedule`, and the penalty `r1_penalty` on real x_{t-1}.

Details are those of github.com/NVlabs/denoising-diffusion-gan: the first time is 0.001, and what is left of the image
there counts as all of it; the answer passes a tanh; the last layer sums over pixels; Adam has betas 0.5 and 0.9.

Differences from the paper: small networks with plain pooling, trained for a short time with a higher and constant
learning rate and a faster average; both networks take a step at once, from the same pairs, and not in turn; classes are
told where there are any, to the discriminator by the product of what it sees with a vector of the class (Miyato and
Koyama, cGANs with Projection Discriminator, arXiv:1802.05637, equation 5).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import q_sample, step_embedding
from pinakes.nn.unet import GROUPS, ResidualBlock, UNet
from pinakes.papers.diffusion.base import (
    CLAIM_DATA,
    CLAIM_PLAN,
    CLAIMED,
    WARM_UP,
    Diffusion,
    MakesImages,
    drawn_like,
)

EQUATIONS = (
    (
        "Equation 4",
        r"\min_\theta \sum_{t \geq 1} \mathbb{E}_{q(x_t)} \left[ D_{adv}(q(x_{t-1} | x_t) \, \| \, "
        r"p_\theta(x_{t-1} | x_t)) \right]",
    ),
    (
        "Equation 5",
        r"\min_\phi \sum_{t \geq 1} \mathbb{E}_{q(x_{t-1}, x_t)} [-\log D_\phi(x_{t-1}, x_t, t)] + "
        r"\mathbb{E}_{q(x_t) p_\theta(x_{t-1} | x_t)} [-\log(1 - D_\phi(x_{t-1}, x_t, t))]",
    ),
    (
        "Equation 6",
        r"\max_\theta \sum_{t \geq 1} \mathbb{E}_{q(x_t) p_\theta(x_{t-1} | x_t)} [\log D_\phi(x_{t-1}, x_t, t)]",
    ),
    (
        "Equation 7",
        r"p_\theta(x_{t-1} | x_t) = \int p(z) \, q(x_{t-1} | x_t, x_0 = G_\theta(x_t, z, t)) \, dz",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

FIRST = 1e-3
"""The time of the first step."""
BETAS = (0.5, 0.9)
"""Of Adam."""
TOGETHER = 4
"""Samples whose spread the discriminator sees."""
SLOPE = 0.2
"""Of what lies below 0 in the discriminator."""


def variance_preserving_schedule(
    steps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0
) -> Float[Tensor, " steps_and_0"]:
    """What is left of an image's variance after each of a few large steps, from 0, where all of it is.

    Args:
        steps: T.
        beta_min: Noise that is added in a unit of time at first.
        beta_max: At last.

    Source: appendix C.2.

    Example:
        >>> variance_preserving_schedule(4).round(decimals=3)
        tensor([1.0000, 0.5220, 0.0790, 0.0030, 0.0000])
    """
    time = torch.linspace(FIRST, 1, steps + 1, dtype=torch.float64)
    added = beta_min * time + (beta_max - beta_min) * time.square() / 2
    return (added[0] - added).exp().float()


def diffused_pair(
    clean: Float[Tensor, "batch *shape"], t: Int[Tensor, " batch"], alpha_bar: Float[Tensor, " steps_and_0"]
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
    """x_{t-1} and, drawn from it, x_t; the noise comes from torch's generator.

    Args:
        clean: x_0.
        t: The step of each sample, 1 to T.
        alpha_bar: What is left after each step.

    Source: equation 5.
    """
    before = q_sample(clean, torch.randn_like(clean), alpha_bar[t - 1])
    return before, q_sample(before, torch.randn_like(clean), alpha_bar[t] / alpha_bar[t - 1])


def drawn_before(
    noised: Float[Tensor, "batch *shape"],
    clean: Float[Tensor, "batch *shape"],
    t: Int[Tensor, " batch"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    noise: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """x_{t-1} from q(x_{t-1} | x_t, x_0), where each sample has a step of its own.

    Args:
        noised: x_t.
        clean: x_0, or what a generator takes for it.
        t: The step of each sample, 1 to T; at step 1, x_0 is the answer.
        alpha_bar: What is left after each step.
        noise: A draw from a normal distribution.

    Source: equation 7 with Ho et al. (arXiv:2006.11239), equations 6 and 7.
    """
    kept, earlier = (alpha_bar[each].view(-1, *[1] * (clean.ndim - 1)) for each in (t, t - 1))
    alpha = kept / earlier
    share = (1 - alpha) / (1 - kept)
    mean = earlier.sqrt() * share * clean + alpha.sqrt() * (1 - earlier) / (1 - kept) * noised
    return mean + (share * (1 - earlier)).sqrt() * noise


def discriminator_loss(real: Float[Tensor, " batch"], made: Float[Tensor, " others"]) -> Float[Tensor, ""]:
    """Equation 5, from logits of real pairs and of pairs whose first image is made."""
    return functional.softplus(-real).mean() + functional.softplus(made).mean()


def generator_loss(made: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Equation 6 as what is minimised, from logits of pairs whose first image is made."""
    return functional.softplus(-made).mean()


def r1_penalty(logits: Float[Tensor, " batch"], real: Float[Tensor, "batch *shape"]) -> Float[Tensor, ""]:
    """Half the mean squared length of the gradients of logits, by which a discriminator stays flat at real images.

    Args:
        logits: Of real pairs.
        real: x_{t-1} of these pairs, from which the logits were computed and which asks for gradients.

    Source: appendix C.2, without gamma; Mescheder et al. (arXiv:1801.04406), equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


Generate = Callable[[Tensor, Tensor], Tensor]
"""From x_t and t to an estimate of x_0, another one every time."""


def adversarial_losses(
    generate: Generate,
    discriminator: nn.Module,
    clean: Float[Tensor, "batch *shape"],
    alpha_bar: Float[Tensor, " steps_and_0"],
    gamma: float,
    *told: Tensor | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What the generator and what the discriminator minimise; gradients of each reach only its own weights.

    Args:
        generate: The generator with its random vector.
        discriminator: From x_{t-1}, x_t, t and what else is told to logits (batch).
        clean: x_0.
        alpha_bar: What is left after each step.
        gamma: Weight of the penalty, 0 or more.
        *told: What else the discriminator is told, such as classes.

    Source: equations 4 to 7, for steps drawn evenly.
    """
    t = torch.randint(1, len(alpha_bar), (len(clean),), device=clean.device)
    before, noised = diffused_pair(clean, t, alpha_bar)
    made = drawn_before(noised, generate(noised, t), t, alpha_bar, torch.randn_like(clean))
    before.requires_grad_()
    real = discriminator(before, noised, t, *told)
    apart = discriminator_loss(real, discriminator(made.detach(), noised, t, *told))
    if gamma:
        apart = apart + gamma * r1_penalty(real, before)
    fixed = {name: each.detach() for name, each in discriminator.named_parameters()}
    return generator_loss(functional_call(discriminator, fixed, (made, noised, t, *told))), apart


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift a style says.

    Args:
        channels: Of the maps, a multiple of 8.
        style: Width of the style.

    Source: appendix C.1.
    """

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
        self.say = nn.Linear(style, 2 * channels)
        with torch.no_grad():
            self.say.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(
        self, maps: Float[Tensor, "batch channels height width"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Maps of the same size."""
        scale, shift = self.say(style)[:, :, None, None].chunk(2, dim=1)
        changed: Tensor = scale * self.norm(maps) + shift
        return changed


class StyledBlock(nn.Module):
    """A residual block of a U-Net with both of its normalisations made adaptive.

    Args:
        block: The block, which is taken over.
        style: Width of the style.
    """

    def __init__(self, block: ResidualBlock, style: int) -> None:
        super().__init__()
        parts = [list(block.first), list(block.second)]
        norms = [each for part in parts for each in part if isinstance(each, nn.GroupNorm)]
        self.norms = nn.ModuleList(AdaptiveGroupNorm(each.num_channels, style) for each in norms)
        self.first, self.second = (nn.Sequential(*part[1:]) for part in parts)
        self.step, self.past, self.attention = block.step, block.past, block.attention

    def forward(
        self,
        maps: Float[Tensor, "batch inputs height width"],
        told: Float[Tensor, "batch told"],
        style: Float[Tensor, "batch style"],
    ) -> Float[Tensor, "batch outputs height width"]:
        """Maps of the same size."""
        inner = self.first(self.norms[0](maps, style)) + self.step(told)[:, :, None, None]
        inner = self.second(self.norms[1](inner, style))
        answer: Tensor = self.attention(inner + self.past(maps))
        return answer


class Generator(UNet):
    """A U-Net that makes of a noisy image and a random vector one of the clean images that may have been there.

    Args:
        nz: Width of the random vector.
        **shape: What `UNet` takes.

    Example:
        >>> network = Generator(nz=4, channels=1, n_channels=8, ch_mults=(1, 2))
        >>> network(torch.rand(2, 1, 12, 9), torch.tensor([1, 4]), torch.randn(2, 4)).shape
        torch.Size([2, 1, 12, 9])
    """

    def __init__(self, nz: int, **shape: Any) -> None:
        super().__init__(**shape)
        style = 4 * self.n_channels
        layers: list[nn.Module] = [nn.Linear(nz, style), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(style, style), nn.SiLU()]
        self.mapping = nn.Sequential(*layers)
        for blocks in (self.down, self.middle, self.up):
            for place, block in enumerate(blocks):
                assert isinstance(block, ResidualBlock)
                blocks[place] = StyledBlock(block, style)

    def forward(  # type: ignore[override]  # it is told more than its base
        self,
        image: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        z: Float[Tensor, "batch nz"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """G(x_t, z, t), in [-1, 1].

        Args:
            image: x_t.
            t: The step of each, 1 to T.
            z: From a normal distribution; it is brought to a mean square of 1.
            label: The class of each, -1 where it is not told; None for none.
        """
        told = self.tell(step_embedding(t, self.n_channels))
        if self.tell_class is not None:
            unknown = self.tell_class.num_embeddings - 1
            label = torch.full_like(t, -1) if label is None else label
            told = told + self.tell_class(torch.where(label < 0, unknown, label))
        style = self.mapping(z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt())
        maps = self.enter(image)
        links = [maps]
        for number, block in enumerate(self.down, start=1):
            links.append(block(links[-1], told, style))
            if number % self.n_blocks == 0 and number < len(self.down):
                links.append(self.shrink[number // self.n_blocks - 1](links[-1]))
        maps = links[-1]
        for block in self.middle:
            maps = block(maps, told, style)
        for number, block in enumerate(self.up):
            link = links.pop()
            if number and number % (self.n_blocks + 1) == 0:
                larger = functional.interpolate(maps, link.shape[2:], mode="nearest")
                maps = self.grow[number // (self.n_blocks + 1) - 1](larger)
            maps = block(torch.cat([maps, link], dim=1), told, style)
        answer: Tensor = self.leave(maps).tanh()
        return answer


class JudgingBlock(nn.Module):
    """Two convolutions around which the input is led past; between them t is added.

    Args:
        inputs: Channels of the input.
        width: Channels of the output.
        told: Width of what tells t.
        halved: Whether height and width are halved.
    """

    def __init__(self, inputs: int, width: int, told: int, halved: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.step = nn.Linear(told, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.past = nn.Conv2d(inputs, width, 1, bias=False)
        self.halve = nn.AvgPool2d(2) if halved else nn.Identity()

    def forward(
        self, maps: Float[Tensor, "batch inputs height width"], told: Float[Tensor, "batch told"]
    ) -> Float[Tensor, "batch outputs _height _width"]:
        """Maps of the same size or half of it."""
        inner = self.first(functional.leaky_relu(maps, SLOPE)) + self.step(told)[:, :, None, None]
        inner = self.second(self.halve(functional.leaky_relu(inner, SLOPE)))
        return (inner + self.past(self.halve(maps))) / 2**0.5


class Discriminator(nn.Module):
    """Tells, at every step, real pairs of noisy images from those whose first image is made.

    Args:
        channels: Of the images.
        n_channels: Channels of its first layer.
        classes: How many classes it can be told of; 0 for none.
    """

    def __init__(self, channels: int, n_channels: int, classes: int = 0) -> None:
        super().__init__()
        told = 4 * n_channels
        self.n_channels = n_channels
        act = nn.LeakyReLU(SLOPE)
        self.tell = nn.Sequential(nn.Linear(n_channels, told), act, nn.Linear(told, told))
        widths = [n_channels * each for each in (1, 1, 2, 4, 4)]
        self.enter = nn.Conv2d(2 * channels, n_channels, 1)
        self.blocks = nn.ModuleList(
            JudgingBlock(inputs, width, told, place > 0)
            for place, (inputs, width) in enumerate(pairwise(widths))
        )
        self.last = nn.Sequential(nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1), act)
        self.judge = nn.Linear(widths[-1], 1)
        # one more, for images whose class is not told
        self.tell_class = nn.Embedding(classes + 1, widths[-1]) if classes else None

    def forward(
        self,
        before: Float[Tensor, "batch channels height width"],
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Logits, high for real pairs.

        Args:
            before: x_{t-1}.
            noised: x_t.
            t: The step of each, 1 to T.
            label: The class of each, -1 where it is not told; None for none.
        """
        told = functional.leaky_relu(self.tell(step_embedding(t, self.n_channels)), SLOPE)
        maps = self.enter(torch.cat([before, noised], dim=1))
        for block in self.blocks:
            maps = block(maps, told)
        summed = self.last(torch.cat([maps, spread(maps)], dim=1)).sum((2, 3))
        logits: Tensor = self.judge(summed)[:, 0]
        if self.tell_class is None:
            return logits
        unknown = self.tell_class.num_embeddings - 1
        label = torch.full_like(t, -1) if label is None else label
        return logits + (self.tell_class(torch.where(label < 0, unknown, label)) * summed).sum(1)


def spread(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """How much samples differ on average, as one more channel: all that a collapsed generator's have in common shows.

    Samples are compared in fours, or all with all where their number is no multiple of four.

    Args:
        maps: Of all samples.

    Source: appendix C.1; Karras et al., Progressive Growing of GANs (arXiv:1710.10196), section 3.
    """
    size = TOGETHER if len(maps) % TOGETHER == 0 else len(maps)
    variance = maps.unflatten(0, (size, -1)).var(0, unbiased=False)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat(size)[:, None, None, None].expand(-1, 1, *maps.shape[2:])


class DenoisingDiffusionGAN(MakesImages):
    """A diffusion model of few large steps, each drawn by a generator that was taught by a discriminator.

    Args:
        T: Steps after which nothing but noise is left, 1 or more; so often is the generator asked for an image.
        nz: Width of the random vector that the generator is told, 1 or more.
        gamma: Weight of the penalty on the discriminator's gradients, 0 or more.
        lr_d: Learning rate of the discriminator; `learning_rate` is that of the generator.
        learning_rate: Of the generator.
        dropout: Share of the values that the generator leaves out inside blocks while it learns.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    generator: type[Generator] = Generator
    alpha_bar: Tensor

    def __init__(
        self,
        T: int = 4,
        nz: int = 64,
        gamma: float = 0.05,
        lr_d: float = 5e-4,
        learning_rate: float = 5e-4,
        dropout: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, dropout=dropout, **shared)
        for name, count in (("T", T), ("nz", nz)):
            if count < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {count}")
        if gamma < 0:
            raise UserError(f"gamma: expected 0 or more, got {gamma}")
        if not lr_d > 0:
            raise UserError(f"lr_d: expected a number above 0, got {lr_d}")
        self.T, self.nz, self.gamma, self.lr_d = T, nz, gamma, lr_d

    def build(self, info: DataInfo) -> None:
        """Makes both networks, the generator's average, and the schedule of the noise."""
        self.register_buffer("alpha_bar", variance_preserving_schedule(self.T), persistent=False)
        super().build(info)
        classes = len(info.classes) if self.is_told_classes(info) else 0
        self.discriminator = Discriminator(info.channels, self.n_channels, classes)

    def make_network(self, info: DataInfo) -> nn.Module:
        """The generator."""
        return self.generator(
            self.nz,
            channels=info.channels,
            n_channels=self.n_channels,
            ch_mults=self.ch_mults,
            n_blocks=self.n_blocks,
            dropout=self.dropout,
            classes=len(info.classes) if self.is_told_classes(info) else 0,
        )

    def configure_optimizers(self) -> Any:
        """Adam with a short rise of both learning rates."""
        adam = torch.optim.Adam(
            [
                {"params": self.network.parameters(), "lr": self.learning_rate},
                {"params": self.discriminator.parameters(), "lr": self.lr_d},
            ],
            betas=BETAS,
        )
        schedule = LambdaLR(adam, lambda step: min(1.0, (step + 1) / WARM_UP))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(
        self,
        clean: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, ""]:
        """What both networks minimise, of images in [-1, 1] and what they are told to be, -1 for nothing."""

        def generate(noised: Tensor, t: Tensor) -> Tensor:
            z = torch.randn(len(noised), self.nz, device=noised.device)
            answer: Tensor = self.network(noised, t, z, label)
            return answer

        near, apart = adversarial_losses(
            generate, self.discriminator, clean, self.alpha_bar, self.gamma, label
        )
        return near + apart

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to images in [-1, 1], with a generator of noise for each image."""
        path = [start]
        for step in range(self.T, 0, -1):
            t = torch.full((len(start),), step, device=start.device)
            z = drawn_like(start.new_empty(len(start), self.nz), generators)
            clean = self.averaged(path[-1], t, z, label)
            path.append(drawn_before(path[-1], clean, t, self.alpha_bar, drawn_like(start, generators)))
        return path


class _Unimodal(Generator):
    """The same network, which is never told a random vector."""

    def forward(  # type: ignore[override]  # it is told more than the U-Net
        self, image: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        return super().forward(image, t, torch.zeros_like(z), label)


class _WithoutLatent(DenoisingDiffusionGAN):
    """The same method with a generator that always gives the same clean image for a noisy one."""

    generator = _Unimodal


@claim(
    text="A generator that is told a random vector makes samples that are nearer to real images than those of one that "
    "is not.",
    where="section 5.2, table 2",
    higher_is_better=False,
)
def random_vectors_help(lab: Lab) -> Trial:
    """Digits of 8 pixels, of no class; FID by the features of the embedded network."""
    shape = {name: CLAIMED[name] for name in ("n_channels", "ch_mults")} | {"classes": False}
    return lab.duel(
        ours=lambda: DenoisingDiffusionGAN(**shape),
        baseline=lambda: _WithoutLatent(**shape),
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )


MODES = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 5)])
"""Where the 25 modes are."""
DEVIATION = 0.03
"""Of points from their mode."""
NEAR = 3 * DEVIATION
"""How near a point must be to a mode to count."""
POINTS_PLAN = {"steps": 15000, "batch_size": 256, "hidden": 128, "nz": 2, "gamma": 1e-3}
JUDGED = 5000
"""Points that are judged."""


class _Layers(nn.Module):
    """Three hidden layers between numbers and t on the one side and numbers on the other."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for one, other in pairwise([inputs + 8, hidden, hidden, hidden]):
            layers += [nn.Linear(one, other), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, *told: Tensor) -> Tensor:
        """What follows from rows of numbers; the last of them is t."""
        *rows, t = told
        answer: Tensor = self.layers(torch.cat([*rows, step_embedding(t, 8)], dim=1))
        return answer


class _Judge(_Layers):
    """The same with one logit."""

    def forward(self, *told: Tensor) -> Tensor:
        return super().forward(*told)[:, 0]


def share_covered(points: Float[Tensor, "points 2"]) -> float:
    """The share of points that are near one of the 25 modes, of which none counts for more than a 25th."""
    distance, mode = torch.cdist(points, MODES.to(points)).min(1)
    shares = torch.bincount(mode[distance < NEAR], minlength=len(MODES)) / len(points)
    return float(shares.clamp(max=1 / len(MODES)).sum())


def _points(lab: Lab, seed: int, adversarial: bool) -> float:
    """How well points that were drawn in four steps cover the modes, with a discriminator or without."""
    plan: dict[str, Any] = POINTS_PLAN | ({"steps": 2} if lab.quick else {})
    torch.manual_seed(seed)
    alpha_bar = variance_preserving_schedule().to(lab.device)
    network = _Layers(2 + plan["nz"], 2, plan["hidden"]).to(lab.device)
    judge = _Judge(4, 1, plan["hidden"]).to(lab.device)

    def generate(noised: Tensor, t: Tensor) -> Tensor:
        z = torch.randn(len(noised), plan["nz"], device=noised.device)
        answer: Tensor = network(noised, z if adversarial else 0 * z, t)
        return answer

    adam = torch.optim.Adam([*network.parameters(), *judge.parameters()], lr=1e-3, betas=BETAS)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(adam, plan["steps"])
    for _ in range(plan["steps"]):
        modes = MODES[torch.randint(len(MODES), (plan["batch_size"],))]
        clean = (modes + DEVIATION * torch.randn_like(modes)).to(lab.device)
        if adversarial:
            near, apart = adversarial_losses(generate, judge, clean, alpha_bar, plan["gamma"])
            loss = near + apart
        else:
            t = torch.randint(1, len(alpha_bar), (len(clean),), device=clean.device)
            noised = diffused_pair(clean, t, alpha_bar)[1]
            loss = functional.mse_loss(generate(noised, t), clean)
        adam.zero_grad()
        loss.backward()
        adam.step()
        course.step()
    points = torch.randn(JUDGED, 2, device=lab.device)
    with torch.no_grad():
        for step in range(len(alpha_bar) - 1, 0, -1):
            t = torch.full((JUDGED,), step, device=lab.device)
            points = drawn_before(points, generate(points, t), t, alpha_bar, torch.randn_like(points))
    return share_covered(points)


@claim(
    text="Of points that are drawn in four steps, more lie near the 25 modes of a mixture, evenly, than of those of a "
    "diffusion model that draws each of the same steps from a normal distribution.",
    where="section 5.3, mode coverage; appendix C.5",
    higher_is_better=True,
)
def generators_cover_25_modes_in_four_steps(lab: Lab) -> Trial:
    """Both sides have the same network of three hidden layers and see as many points; that of the diffusion model is
    told no random vector, and learns the mean of what may have been there."""
    return lab.measure(
        ours=lambda seed: _points(lab, seed, adversarial=True),
        baseline=lambda seed: _points(lab, seed, adversarial=False),
        metric="share of points near modes, evenly",
    )


class _Gaussian(Diffusion):
    """A diffusion model of the same steps, each drawn from a normal distribution, with about as many weights."""

    def __init__(self) -> None:
        few = {"T": 4, "sampling_steps": 4, "foretold": "clean", "sampler": "ddpm"}
        super().__init__(**CLAIMED | few | {"n_blocks": 2})

    def schedule(self) -> Float[Tensor, " steps_and_0"]:
        return variance_preserving_schedule(self.T)


@claim(
    text="With four steps, samples are nearer to real images than those of a diffusion model that draws each of the "
    "same steps from a normal distribution.",
    where="section 3.1, and section 5.2 with table 2, where steps without a random vector do worse",
    higher_is_better=False,
)
def generators_beat_normal_distributions_in_large_steps(lab: Lab) -> Trial:
    """Digits of 8 pixels; FID by the features of the embedded network. The diffusion model foretells clean images, the
    safest answer in large steps, and has two blocks at each level, so that it is about as large as the generator."""
    shape = {name: CLAIMED[name] for name in ("n_channels", "ch_mults")}
    return lab.duel(
        ours=lambda: DenoisingDiffusionGAN(**shape),
        baseline=_Gaussian,
        data=CLAIM_DATA,
        metric="fid",
        **CLAIM_PLAN,
    )
