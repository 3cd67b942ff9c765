r"""Preechakul et al., Diffusion Autoencoders: Toward a Meaningful and Decodable Representation, CVPR 2022,
arXiv:2111.15640.

The noise from which a diffusion model makes an image says little about what is in the image. Here an encoder says that
in a short vector, the semantic code, and a diffusion model that is told the code makes the image. What the code leaves
open is held by the noise, the stochastic code, which is found by going the way from noise to image backwards. From both
the image comes back almost as it was. Between two images one can walk, and along a direction in the space of semantic
codes an image gets an attribute. A second, small diffusion model makes new codes, and so new images.

What the code follows:

- Section 3.1, `GuidedUNet`: eps_theta(x_t, t, z_sem), trained together with the encoder by L_simple; t and z_sem change
  the channels in every block behind its second normalisation, `adaptive_group_norm`.
- Section 3.2, `SemanticEncoder`: the first half of such a U-Net, then the mean over all places and a linear map.
- Section 3.3, `DiffAE.codes`: x_T by the deterministic steps of DDIM backwards.
- Section 4, `LatentNetwork` and `DiffAE.learn_codes`: with the encoder fixed, a multilayer perceptron with skip
  connections learns by L_latent to take noise out of codes that are brought to mean 0 and variance 1.
- Section 5, `DiffAE.interpolate`: a straight line between semantic codes, and an arc, `spherical`, between stochastic
  ones; `DiffAE.manipulate`: a step along the weights of a linear classifier of codes.

The authors' code (github.com/phizaz/diffae) settles that a scale is added to 1, that the second model has betas of
0.008 and AdamW with a weight decay of 0.01, and that amounts of an attribute are counted in lengths of sqrt(d).

Differences from the paper: small networks and codes, trained for a short time. Therefore the velocity is foretold, and
not the noise: under strong noise, where an image depends on its code most, the noise is nearly what is seen, and it
takes long until its small errors have taught the encoder anything. Each step backwards is solved by iteration, so that
the way from the stochastic code leads to the image itself. The second network is given as many steps as the first.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from pinakes.data import load_data
from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.diffusion_sampling import Denoise, ddim_path, inverted, spaced_steps
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean, q_sample, step_embedding
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.probes import fitted_classifier
from pinakes.nn.unet import ATTENTIVE, GROUPS, SelfAttention
from pinakes.papers.diffusion.base import (
    CLAIM_PLAN,
    CLAIMED,
    LARGE_CLAIM_DATA,
    Diffusion,
    Foretold,
    as_clean,
    drawn_like,
    to_foretell,
)
from pinakes.papers.diffusion.ddpm import DDPM
from pinakes.tasks.base import Batch

log = logging.getLogger(__name__)

EQUATIONS = (
    (
        "Section 3.1",
        r"L_{simple} = \mathbb{E}_{t, x_0, \epsilon} \lVert \epsilon_\theta(x_t, t, z_{sem}) - \epsilon \rVert_2^2, "
        r"\quad z_{sem} = \mathrm{Enc}_\phi(x_0)",
    ),
    ("Section 3.1", r"\mathrm{AdaGN}(h, t, z_{sem}) = z_s (t_s \, \mathrm{GroupNorm}(h) + t_b)"),
    (
        "Section 3.3",
        r"x_{t+1} = \sqrt{\alpha_{t+1}} \, f_\theta(x_t, t, z_{sem}) + \sqrt{1 - \alpha_{t+1}} \, "
        r"\epsilon_\theta(x_t, t, z_{sem})",
    ),
    (
        "Section 4",
        r"L_{latent} = \mathbb{E}_{t, z_{sem}, \epsilon} \lVert \epsilon_\omega(z_{sem, t}, t) - \epsilon \rVert_1",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LATENT_BETA = 0.008
LATENT_BATCH = 128
LATENT_DECAY = 0.01
TIME_WIDTH = 64
TRACKED = 0.05
"""Share of a batch in the running mean of codes, which serves until the second network has learnt."""
AT_A_TIME = 64
"""Images that are encoded together in claims."""
ASKED = 10
"""Steps of claims, in which an inversion asks a network ten times each."""
SHORT = CLAIMED | {"d": 32, "sampling_steps": ASKED}
"""The network of claims."""


def adaptive_group_norm(
    normal: Float[Tensor, "batch channels height width"],
    step: Float[Tensor, "batch _twice"],
    meaning: Float[Tensor, "batch channels"],
) -> Float[Tensor, "batch channels height width"]:
    """Scales and shifts normalised maps as the step says, and scales them as the code says.

    Args:
        normal: Maps behind their normalisation.
        step: t_s - 1 and t_b.
        meaning: z_s - 1.

    Source: section 3.1, AdaGN.
    """
    scale, shift = step[:, :, None, None].chunk(2, dim=1)
    return (1 + meaning[:, :, None, None]) * ((1 + scale) * normal + shift)


class AdaptiveBlock(nn.Module):
    """Two convolutions around which the input is led past; then, if wanted, self-attention.

    Args:
        inputs: Channels of the input.
        width: Channels of the output.
        attentive: Whether pixels attend to each other behind it.
        dropout: Share of the values that are left out before the second convolution.
        told: Width of what tells the step; 0 where nothing is told.
        d: Numbers of a semantic code; 0 where none is told.
    """

    def __init__(
        self, inputs: int, width: int, attentive: bool, dropout: float, told: int = 0, d: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, width, 3, padding=1)
        )
        self.norm = nn.GroupNorm(GROUPS, width)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, padding=1))
        self.past = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.attention = SelfAttention(width) if attentive else nn.Identity()
        if d:
            self.step = nn.Sequential(nn.SiLU(), nn.Linear(told, 2 * width))
            self.meaning = nn.Linear(d, width)

    def forward(
        self,
        maps: Float[Tensor, "batch inputs height width"],
        told: Float[Tensor, "batch told"] | None = None,
        code: Float[Tensor, "batch d"] | None = None,
    ) -> Float[Tensor, "batch outputs height width"]:
        """Maps of the same size."""
        normal = self.norm(self.first(maps))
        if told is not None and code is not None:
            normal = adaptive_group_norm(normal, self.step(told), self.meaning(code))
        answer: Tensor = self.attention(self.second(normal) + self.past(maps))
        return answer


class SemanticEncoder(nn.Module):
    """What is in an image, as a vector: z_sem.

    Args:
        channels: Of the images.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest; the last level comes twice.
        n_blocks: Blocks at each level.
        dropout: Share of the values that are left out inside blocks.
        d: Numbers of the code.

    Source: section 3.2; the pooling is that of the authors' code.
    """

    def __init__(
        self, channels: int, n_channels: int, ch_mults: Sequence[int], n_blocks: int, dropout: float, d: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, n_channels, 3, padding=1)]
        width = n_channels
        for level, times in enumerate((*ch_mults, ch_mults[-1])):
            if level:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            for _ in range(n_blocks):
                layers.append(AdaptiveBlock(width, n_channels * times, level == ATTENTIVE, dropout))
                width = n_channels * times
        self.look = nn.Sequential(*layers, nn.GroupNorm(GROUPS, width), nn.SiLU())
        self.say = nn.Linear(width, d)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d"]:
        """The codes of images in [-1, 1]."""
        code: Tensor = self.say(self.look(image).mean((2, 3)))
        return code


class GuidedUNet(nn.Module):
    """A U-Net that is told, besides how strong the noise is, what is in the image.

    Args:
        channels: Of the images.
        n_channels: Channels at the finest level, a multiple of 8.
        ch_mults: How many times as many each level has, from the finest.
        n_blocks: Blocks at each level of the encoder; the decoder has one more.
        dropout: Share of the values that are left out inside blocks.
        d: Numbers of a semantic code.

    Source: section 3.1.
    """

    def __init__(
        self, channels: int, n_channels: int, ch_mults: Sequence[int], n_blocks: int, dropout: float, d: int
    ) -> None:
        super().__init__()
        self.n_channels, told = n_channels, 4 * n_channels
        self.tell = nn.Sequential(nn.Linear(n_channels, told), nn.SiLU(), nn.Linear(told, told))
        self.enter = nn.Conv2d(channels, n_channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, linked = n_channels, [n_channels]
        for level, times in enumerate(ch_mults):
            if level:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                linked.append(width)
            for _ in range(n_blocks):
                wide = n_channels * times
                self.down.append(AdaptiveBlock(width, wide, level == ATTENTIVE, dropout, told, d))
                width = wide
                linked.append(width)
        self.middle = nn.ModuleList(
            AdaptiveBlock(width, width, attentive, dropout, told, d) for attentive in (True, False)
        )
        for level, times in reversed(list(enumerate(ch_mults))):
            for _ in range(n_blocks + 1):
                wide = n_channels * times
                self.up.append(
                    AdaptiveBlock(width + linked.pop(), wide, level == ATTENTIVE, dropout, told, d)
                )
                width = wide
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        code: Float[Tensor, "batch d"],
    ) -> Float[Tensor, "batch channels height width"]:
        """What is foretold of x_t, such as its noise."""
        told = self.tell(step_embedding(t, self.n_channels))
        maps = self.enter(noised)
        links = [maps]
        for layer in self.down:
            maps = layer(maps, told, code) if isinstance(layer, AdaptiveBlock) else layer(maps)
            links.append(maps)
        for block in self.middle:
            maps = block(maps, told, code)
        for layer in self.up:
            if isinstance(layer, AdaptiveBlock):
                maps = layer(torch.cat([maps, links.pop()], dim=1), told, code)
            else:
                maps = layer(functional.interpolate(maps, links[-1].shape[2:], mode="nearest"))
        answer: Tensor = self.leave(maps)
        return answer


class DiffusionAutoencoder(nn.Module):
    """An encoder, and a U-Net that is told what it says.

    Args:
        encoder: From images in [-1, 1] to codes.
        decoder: From x_t, t and codes to what is foretold.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, noised: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """What the U-Net foretells."""
        answer: Tensor = self.decoder(noised, t, code)
        return answer


class LatentNetwork(nn.Module):
    """Tells the noise in vectors: a multilayer perceptron that is shown the vector again in front of each layer.

    Args:
        d: Numbers of a vector.
        width: Of the layers.
        layers: How many there are, 2 or more.

    Source: section 4; the layers are those of the authors' code.
    """

    def __init__(self, d: int, width: int, layers: int) -> None:
        super().__init__()
        self.tell = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.layers = nn.ModuleList(
            nn.Linear(d + (width if place else 0), width) for place in range(layers - 1)
        )
        self.scales = nn.ModuleList(nn.Linear(width, width) for _ in self.layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.leave = nn.Linear(d + width, d)

    def forward(self, noised: Float[Tensor, "batch d"], t: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """The noise in each vector."""
        told, hidden = self.tell(step_embedding(t, TIME_WIDTH)), noised[:, :0]
        for layer, scale, norm in zip(self.layers, self.scales, self.norms, strict=True):
            inner = layer(torch.cat([hidden, noised], dim=1)) * (1 + scale(told))
            hidden = functional.silu(norm(inner))
        noise: Tensor = self.leave(torch.cat([hidden, noised], dim=1))
        return noise


def spherical(
    one: Float[Tensor, "batch *shape"], other: Float[Tensor, "batch *shape"], share: Float[Tensor, " batch"]
) -> Float[Tensor, "batch *shape"]:
    """A place on the arc between two tensors, which keeps the length that noise has.

    Args:
        one: Where the arc starts.
        other: Where it ends.
        share: How far along it, 0 to 1.

    Source: section 5, "Semantically meaningful latent interpolation": spherical linear interpolation.
    """
    start, end = one.flatten(1), other.flatten(1)
    angle = functional.cosine_similarity(start, end).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
    weights = ((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin()
    return (weights[0][:, None] * start + weights[1][:, None] * end).view_as(one)


class Codes(NamedTuple):
    """The two parts of an image's code.

    Args:
        semantic: z_sem (batch, d).
        stochastic: x_T, of the form of the images.
    """

    semantic: Tensor
    stochastic: Tensor


class DiffAE(Diffusion):
    """An autoencoder of images whose decoder is a diffusion model, and a second one that makes codes.

    Args:
        d: Numbers of a semantic code, 1 or more (512 in the paper).
        latent_width: Width of the network that makes codes, 1 or more (2048 in the paper).
        latent_layers: How many layers it has, 2 or more (10 to 20 in the paper).
        foretold: What the U-Net foretells: "noise" as in the paper, "clean" images or "velocity".
        sampler: "ddim": only along the same noise does a stochastic code lead back to its image.
        classes: False: the semantic code says what is in an image.

    Raises:
        UserError: If a value is out of range; the message names it.

    Example:
        >>> method = DiffAE(n_channels=8, ch_mults=(1, 2), d=4, sampling_steps=2)
        >>> method = method.fit("digits?size=8&n=20&channels=1", steps=1, batch_size=4)
        >>> image = torch.rand(2, 1, 8, 8)
        >>> codes = method.codes(image)
        >>> codes.semantic.shape, method.images(codes).shape
        (torch.Size([2, 4]), torch.Size([2, 1, 8, 8]))
        >>> method.interpolate(image[:1], image[1:], count=5).shape
        torch.Size([1, 5, 1, 8, 8])
        >>> direction = method.direction(image, torch.tensor([True, False]))
        >>> method.manipulate(image, direction).shape
        torch.Size([2, 1, 8, 8])
    """

    network: DiffusionAutoencoder
    code_mean: Tensor
    code_deviation: Tensor
    latent_alpha_bar: Tensor
    makes_codes: Tensor
    steps_taken: Tensor

    def __init__(
        self,
        d: int = 64,
        latent_width: int = 256,
        latent_layers: int = 6,
        foretold: Foretold = "velocity",
        sampler: str = "ddim",
        classes: bool = False,
        **shared: Any,
    ) -> None:
        if sampler != "ddim":
            raise UserError(
                f"sampler: this method goes along the same noise, 'ddim', both ways, got '{sampler}'"
            )
        if classes:
            raise UserError("classes: this method is told codes of what is in images, and no classes")
        super().__init__(classes=False, foretold=foretold, **shared)
        for name, count, least in (
            ("d", d, 1),
            ("latent_width", latent_width, 1),
            ("latent_layers", latent_layers, 2),
        ):
            if count < least:
                raise UserError(f"{name}: expected a whole number of {least} or more, got {count}")
        self.d, self.latent_width, self.latent_layers = d, latent_width, latent_layers

    def build(self, info: DataInfo) -> None:
        """Makes the networks and their averages; the one for codes learns later than the others."""
        super().build(info)
        self.latent = LatentNetwork(self.d, self.latent_width, self.latent_layers).requires_grad_(False)
        self.averaged_latent = MomentumCopy(self.latent)
        beta = min(0.999, LATENT_BETA * 1000 / self.T)
        self.register_buffer("latent_alpha_bar", alpha_bar_schedule(self.T, beta, beta), persistent=False)
        self.register_buffer("code_mean", torch.zeros(self.d))
        self.register_buffer("code_deviation", torch.ones(self.d))
        self.register_buffer("makes_codes", torch.tensor(False))
        self.register_buffer("steps_taken", torch.tensor(0))

    def make_network(self, info: DataInfo) -> DiffusionAutoencoder:
        """The encoder and the U-Net."""
        form = (info.channels, self.n_channels, self.ch_mults, self.n_blocks, self.dropout, self.d)
        return DiffusionAutoencoder(SemanticEncoder(*form), GuidedUNet(*form))

    # -- learning ------------------------------------------------------------------------------------------------

    def loss(
        self, clean: Float[Tensor, "batch channels height width"], label: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, ""]:
        """What is minimised, of images in [-1, 1]."""
        t = torch.randint(1, self.T + 1, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        kept = self.alpha_bar[t]
        code = self.network.encoder(clean)
        told = self.network(q_sample(clean, noise, kept), t, code)
        error = (told - to_foretell(self.foretold, clean, noise, kept)).square().flatten(1).mean(1)
        self._track(code.detach())
        return (self.weight(t) * error).mean()

    @torch.no_grad()
    def _track(self, code: Float[Tensor, "batch d"]) -> None:
        deviation, mean = torch.std_mean(code, dim=0, correction=0)
        self.code_mean.lerp_(mean, TRACKED)
        self.code_deviation.lerp_(deviation, TRACKED)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains encoder and U-Net, and then, with the encoder fixed, the network that makes codes."""
        super().learn(data, plan)
        self.eval()
        self.learn_codes(self.codes_of(data.train, plan.batch_size), max(1, int(self.steps_taken)))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Lets the average follow, and counts."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.steps_taken.fill_(self.global_step)

    def codes_of(self, samples: SampleSet, batch_size: int) -> Float[Tensor, "samples d"]:
        """The semantic codes of all images of a set, and of mirrored ones where these are learnt from."""
        loader: DataLoader[Batch] = DataLoader(
            samples,  # type: ignore[arg-type]  # torch asks for its Dataset class, any map-style set serves
            batch_size=batch_size,
            collate_fn=self.task.collate,
        )
        found = []
        for batch in loader:
            found.append(self.semantic(batch["image"]))
            if self.mirror:
                found.append(self.semantic(batch["image"].flip(3)))
        return torch.cat(found)

    def learn_codes(self, code: Float[Tensor, "samples d"], steps: int) -> None:
        """Trains the network that makes codes.

        Args:
            code: Codes of images.
            steps: Of the optimiser.

        Source: section 4, L_latent.
        """
        deviation, mean = torch.std_mean(code, dim=0, correction=0)
        self.code_mean.copy_(mean)
        self.code_deviation.copy_(deviation.clamp(min=1e-6))
        normal = self.normalised(code)
        self.latent.requires_grad_(True)
        optimiser = torch.optim.AdamW(
            self.latent.parameters(), lr=self.learning_rate, weight_decay=LATENT_DECAY
        )
        with torch.enable_grad():
            for step in range(1, steps + 1):
                clean = normal[torch.randint(len(normal), (LATENT_BATCH,), device=normal.device)]
                t = torch.randint(1, self.T + 1, (len(clean),), device=clean.device)
                noise = torch.randn_like(clean)
                told = self.latent(q_sample(clean, noise, self.latent_alpha_bar[t]), t)
                loss = (told - noise).abs().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self.averaged_latent.follow(self.latent, min(self.average, step / (9 + step)))
        self.latent.requires_grad_(False)
        self.makes_codes.fill_(True)
        log.info("codes: the mean absolute error of foretold noise was %.3f in the last step", loss.item())

    # -- codes and images ----------------------------------------------------------------------------------------

    def normalised(self, code: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Semantic codes brought to mean 0 and variance 1, as over the training images."""
        return (code - self.code_mean) / self.code_deviation

    def unnormalised(self, code: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """The inverse of `normalised`."""
        return code * self.code_deviation + self.code_mean

    @torch.no_grad()
    def semantic(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d"]:
        """The semantic codes of images in [0, 1].

        Raises:
            ValueError: If the images are not as the task states.
        """
        self.task.check_batch({"image": image}, self.info)
        code: Tensor = self.averaged.network.get_submodule("encoder")(self.encode(image.to(self.device)))
        return code

    @torch.no_grad()
    def codes(self, image: Float[Tensor, "batch channels height width"]) -> Codes:
        """Both codes of images in [0, 1].

        Raises:
            ValueError: If the images are not as the task states.

        Source: section 3.3.
        """
        code = self.semantic(image)
        clean = self.encode(image.to(self.device))
        return Codes(code, inverted(self.told(code), clean, self.alpha_bar, self.steps))

    @torch.no_grad()
    def images(self, codes: Codes) -> Float[Tensor, "batch channels height width"]:
        """The images in [0, 1] of codes.

        Args:
            codes: As `codes` gives them; other noise in the place of x_T gives other images of the same meaning.
        """
        path = ddim_path(self.told(codes.semantic), codes.stochastic, self.alpha_bar, self.steps)
        return self.decode(path[-1]).clamp(0, 1)

    def interpolate(
        self,
        one: Float[Tensor, "batch channels height width"],
        other: Float[Tensor, "batch channels height width"],
        count: int = 8,
    ) -> Float[Tensor, "batch count channels height width"]:
        """The way from images to others, which both belong to it.

        Args:
            one: Where it starts, in [0, 1].
            other: Where it ends.
            count: How many images it has, 2 or more.

        Raises:
            UserError: If the count is out of range.
            ValueError: If the images are not as the task states.

        Source: section 5, "Semantically meaningful latent interpolation".
        """
        if count < 2:
            raise UserError(f"count: expected 2 or more, got {count}")
        start, end = (
            [part.repeat_interleave(count, dim=0) for part in self.codes(image)] for image in (one, other)
        )
        share = torch.linspace(0, 1, count, device=self.device).repeat(len(one))
        semantic = start[0].lerp(end[0], share[:, None])
        return self.images(Codes(semantic, spherical(start[1], end[1], share))).unflatten(0, (-1, count))

    def direction(
        self, image: Float[Tensor, "batch channels height width"], has: Bool[Tensor, " batch"]
    ) -> Float[Tensor, " d"]:
        """Where normalised semantic codes lead to an attribute: the weights of a linear classifier, with length 1.

        Args:
            image: Images in [0, 1], some with the attribute.
            has: Which of them have it.

        Raises:
            UserError: If all have it, or none.
            ValueError: If the images are not as the task states.

        Source: section 5, "Attribute manipulation on real images".
        """
        if has.all() or not has.any():
            raise UserError("has: expected some images with the attribute, and some without")
        code = self.normalised(self.semantic(image))
        probe = fitted_classifier(code, has.long().to(code.device), 2)
        weight = (probe.weight[:, 1] - probe.weight[:, 0]) / probe.scaling.deviation
        return functional.normalize(weight, dim=0).to(code)

    def manipulate(
        self,
        image: Float[Tensor, "batch channels height width"],
        direction: Float[Tensor, " d"],
        amount: float = 0.3,
    ) -> Float[Tensor, "batch channels height width"]:
        """Images with more of an attribute, and with the same stochastic codes.

        Args:
            image: Images in [0, 1].
            direction: As `direction` gives it.
            amount: How far normalised codes are moved, in lengths of sqrt(d), which is about that of a code; below 0
                for less of the attribute.

        Raises:
            ValueError: If the images are not as the task states.

        Source: section 5, "Attribute manipulation on real images"; the unit is that of the authors' code.
        """
        semantic, stochastic = self.codes(image)
        moved = self.normalised(semantic) + amount * self.d**0.5 * direction.to(semantic)
        return self.images(Codes(self.unnormalised(moved), stochastic))

    # -- new images ----------------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """From the last step to 0."""
        return spaced_steps(self.T, self.sampling_steps)

    def denoise(
        self,
        noised: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
        code: Float[Tensor, "batch d"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The estimate of the clean image by the averaged network, which is told the mean code by default."""
        code = self.code_mean.expand(len(noised), -1) if code is None else code
        clean = as_clean(self.foretold, self.averaged(noised, t, code), noised, self.alpha_bar[t])
        return clean.clamp(-1, 1) if self.within_bounds else clean

    def told(self, code: Float[Tensor, "batch d"]) -> Denoise:
        """The denoiser that is told these codes."""
        return lambda noised, t: self.denoise(noised, t, None, code)

    def new_codes(self, noise: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Semantic codes of images that do not exist.

        Args:
            noise: From a normal distribution. Until the second network has learnt, it stands for codes itself.

        Source: section 4.
        """
        if not self.makes_codes:
            return self.unnormalised(noise)

        def denoise(noised: Tensor, t: Tensor) -> Tensor:
            return predicted_clean(noised, self.averaged_latent(noised, t), self.latent_alpha_bar[t])

        return self.unnormalised(ddim_path(denoise, noise, self.latent_alpha_bar, self.steps)[-1])

    def path(
        self,
        start: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
        generators: Sequence[torch.Generator],
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """From noise to images in [-1, 1] of new codes, with a generator of noise for each image."""
        code = self.new_codes(drawn_like(start.new_empty(len(start), self.d), generators))
        return ddim_path(self.told(code), start, self.alpha_bar, self.steps)


class _PlainDecoder(nn.Module):
    """From a code to an image in one go, by the blocks of the U-Net's decoder."""

    def __init__(
        self,
        channels: int,
        n_channels: int,
        ch_mults: Sequence[int],
        n_blocks: int,
        dropout: float,
        d: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        factor, width = 2 ** (len(ch_mults) - 1), n_channels * ch_mults[-1]
        self.size, self.coarse = size, (-(-size[0] // factor), -(-size[1] // factor))
        self.enter = nn.Linear(d, width * self.coarse[0] * self.coarse[1])
        layers: list[nn.Module] = [AdaptiveBlock(width, width, each, dropout) for each in (True, False)]
        for level, times in reversed(list(enumerate(ch_mults))):
            for _ in range(n_blocks + 1):
                layers.append(AdaptiveBlock(width, n_channels * times, level == ATTENTIVE, dropout))
                width = n_channels * times
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
        self.paint = nn.Sequential(*layers, nn.GroupNorm(GROUPS, width), nn.SiLU())
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, code: Float[Tensor, "batch d"]) -> Float[Tensor, "batch channels height width"]:
        """Images in about [-1, 1]."""
        maps = self.paint(self.enter(code).unflatten(1, (-1, *self.coarse)))
        image: Tensor = self.leave(maps[:, :, : self.size[0], : self.size[1]])
        return image


class _PlainAutoencoder(DiffAE):
    """The same encoder, with a decoder that learns to give the image itself."""

    def make_network(self, info: DataInfo) -> DiffusionAutoencoder:
        """The encoder and the decoder."""
        form = (info.channels, self.n_channels, self.ch_mults, self.n_blocks, self.dropout, self.d)
        return DiffusionAutoencoder(SemanticEncoder(*form), _PlainDecoder(*form, info.size))

    def loss(self, clean: Tensor, label: Tensor | None) -> Float[Tensor, ""]:
        """The squared error of images."""
        return functional.mse_loss(self.network.decoder(self.network.encoder(clean)), clean)

    def again(self, image: Tensor) -> Tensor:
        """Images in [0, 1] out of their codes."""
        with torch.no_grad():
            decoder = self.averaged.network.get_submodule("decoder")
            return self.decode(decoder(self.semantic(image))).clamp(0, 1)


def _fitted(lab: Lab, method: Diffusion, seed: int) -> tuple[Batch, Batch]:
    """Fits a method for a claim, and gives the samples that it learnt from and others, on its device."""
    data = load_data(LARGE_CLAIM_DATA, task=method.task, seed=seed)
    assert data.test is not None
    steps = 2 if lab.quick else CLAIM_PLAN["steps"]
    method.fit(data, **CLAIM_PLAN | {"steps": steps, "seed": seed, "device": str(lab.device)})
    parts = [[part[place] for place in range(len(part))] for part in (data.train, data.test)]
    if lab.quick:
        parts = [part[:: len(part) // 20] for part in parts]
    known, asked = (
        {name: method.task.collate(part)[name].to(lab.device) for name in ("image", "label")}
        for part in parts
    )
    return known, asked


def _accuracy(known: Tensor, asked: Tensor, known_label: Tensor, asked_label: Tensor) -> float:
    probe = fitted_classifier(known, known_label, int(known_label.max()) + 1)
    return float((probe(asked).argmax(1) == asked_label).double().mean())


@claim(
    text="A linear classifier reads more from the semantic codes of images than from the noise to which a diffusion "
    "model without them leads images back.",
    where="abstract: the latent variables of diffusion models lack semantic meaning",
    higher_is_better=True,
)
def semantic_codes_say_more_than_noise(lab: Lab) -> Trial:
    """Digits of 16 pixels in three channels; 32 numbers against the 768 of the noise. The other model is a DDPM that is
    told no classes, foretells the velocity too, and is trained as long; its noise is found in the same way. Classifiers
    learn from the training images.
    """

    def ours(seed: int) -> float:
        method = DiffAE(**SHORT)
        known, asked = _fitted(lab, method, seed)
        one, other = (method.semantic(each["image"]) for each in (known, asked))
        return _accuracy(one, other, known["label"], asked["label"])

    def baseline(seed: int) -> float:
        method = DDPM(classes=False, foretold="velocity", **CLAIMED | {"sampling_steps": ASKED})
        known, asked = _fitted(lab, method, seed)
        steps = spaced_steps(method.T, method.sampling_steps)

        def noise(image: Tensor) -> Tensor:
            parts = [method.encode(part) for part in image.split(AT_A_TIME)]
            return torch.cat([inverted(method.denoise, each, method.alpha_bar, steps) for each in parts])

        one, other = (noise(each["image"]).flatten(1) for each in (known, asked))
        return _accuracy(one, other, known["label"], asked["label"])

    return lab.measure(ours=ours, baseline=baseline, metric="accuracy of a linear classifier")


@claim(
    text="From both codes together images come back with a lower squared error than through a plain autoencoder with a "
    "code as long as the semantic one.",
    where="section 5, table 1",
    higher_is_better=False,
)
def both_codes_give_the_image_back(lab: Lab) -> Trial:
    """Test digits of 16 pixels. The stochastic code is as large as the image, as in the paper; the plain autoencoder
    has the same encoder, and the blocks of the same decoder without noise, trained as long.
    """

    def ours(seed: int) -> float:
        method = DiffAE(**SHORT)
        image = _fitted(lab, method, seed)[1]["image"]
        again = [method.images(method.codes(part)) for part in image.split(AT_A_TIME)]
        return float(functional.mse_loss(torch.cat(again), image))

    def baseline(seed: int) -> float:
        method = _PlainAutoencoder(**SHORT)
        image = _fitted(lab, method, seed)[1]["image"]
        return float(functional.mse_loss(method.again(image), image))

    return lab.measure(ours=ours, baseline=baseline, metric="squared error of test images")
