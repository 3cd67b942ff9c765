r"""Wei et al., Diffusion Models as Masked Autoencoders, ICCV 2023, arXiv:2304.03283.

A masked autoencoder paints hidden patches at once, and blurs them. Here each hidden patch is there with noise, of any
strength up to nothing but noise, and a decoder takes the noise out with a look at what the encoder says of the visible
patches. After training the encoder serves as a masked autoencoder's does, and step by step the decoder fills holes with
one of the many things that could be there.

What the code follows, with x^v the visible and x^m the hidden patches, E the encoder and D the decoder:

- Noise, `q_sample`: x^m_t = sqrt(alpha_bar_t) x^m_0 + sqrt(1 - alpha_bar_t) eps, alpha_bar_t = prod of (1 - beta_s^rho)
  over s up to t, with beta_t from 0.0001 to 0.02 along a line (`alpha_bar_schedule`); t is drawn evenly.
- Loss: L = E |x^m_0 - D(x^m_t, t, E(x^v_0))|^2: the decoder paints the clean pixels, not the noise.
- Decoder, `NoiseDecoder`, in three forms. "cross-self": hidden patches attend to each other and to the encoder's
  answers; "cross": to the latter alone; "joint": all are put into one sequence and attend to all.
- Links from encoder to decoder: the first block of the decoder looks at the encoder's last answer, the next ones at
  answers from ever earlier blocks, as in a U-Net.
- Sampling, `inpainted`: from x^m_T, pure noise, to x^m_0 with the posterior q(x_s | x_t, x^_0).

Differences from the paper: networks and patches are small by default, as those of this shelf's masked autoencoder.
There is no public code of the authors, and some details could not be checked: that rho, which the paper varies, is an
exponent of each beta, and its value, 1 by default, which is the schedule of plain diffusion models; t is told by adding
an embedding of it to the noised patches; in a "cross-self" block self-attention comes before cross-attention; pixels
are shifted and scaled as for the masked autoencoder before noise is added; the links go to encoder blocks that are
evenly spaced. Images only, no clips.
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, posterior, q_sample, step_embedding
from pinakes.nn.masked_autoencoder import (
    CENTRE,
    HEAD_WIDTH,
    SPREAD,
    Masking,
    initialise,
    normalised,
    patchify,
    positions,
    random_masking,
    visible_only,
)
from pinakes.nn.painting import shown_and_painted
from pinakes.papers.self_supervised.base import no_loss
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.transformer import (
    PatchTransformer,
    check_counts,
    check_width,
    hidden_patches,
)

EQUATIONS = (
    ("Noise", r"x^m_t = \sqrt{\bar\alpha_t} \, x^m_0 + \sqrt{1 - \bar\alpha_t} \, \epsilon"),
    ("Noise", r"\bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s^\rho)"),
    ("Loss", r"L = \mathbb{E}_{t, x_0, \epsilon} \lVert x^m_0 - D(x^m_t, t, E(x^v_0)) \rVert^2"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Decoder = Literal["cross-self", "cross", "joint"]
LOWEST, HIGHEST = (0 - CENTRE) / SPREAD, (1 - CENTRE) / SPREAD
"""The range of pixels as the networks see and paint them."""
PICTURE_ROUNDS = 20
"""In how many rounds pictures are filled."""


def inpainted(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "rounds batch hidden values"],
    alpha_bar: Float[Tensor, " steps_and_0"],
) -> Float[Tensor, "batch hidden values"]:
    """Fills holes, from pure noise to pixels.

    Args:
        denoise: From x_t and t (batch) to what it takes for x_0.
        noise: From a normal distribution: the start, and what is added after each round but the last. As many rounds
            are made, at most T, evenly spaced from T to 0.
        alpha_bar: As `alpha_bar_schedule` gives it.

    Raises:
        ValueError: If there are more rounds than steps.

    Example:
        >>> target = torch.rand(2, 3, 4)
        >>> found = inpainted(lambda noised, t: target, torch.randn(5, 2, 3, 4), alpha_bar_schedule())
        >>> torch.equal(found, target)
        True
    """
    last = len(alpha_bar) - 1
    if not 1 <= len(noise) <= last:
        raise ValueError(f"noise: expected 1 to {last} rounds, got {len(noise)}")
    times = torch.linspace(last, 0, len(noise) + 1).round().long().tolist()
    patches = noise[0]
    for number, (t, s) in enumerate(itertools.pairwise(times), start=1):
        clean = denoise(patches, torch.full((len(patches),), t, device=patches.device))
        patches, variance = posterior(patches, clean, alpha_bar[t], alpha_bar[s])
        if s > 0:
            patches = patches + variance.sqrt() * noise[number]
    return patches


class CrossAttention(nn.Module):
    """Attention of hidden patches to what the encoder says of the visible ones.

    Args:
        width: Of the hidden patches, a multiple of 32; a head for each 32.
        inputs: Width of the encoder.
    """

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        # a bias of the keys would change no attention
        self.key = nn.Linear(inputs, width, bias=False)
        self.value = nn.Linear(inputs, width)
        self.project = nn.Linear(width, width)

    def forward(
        self, hidden: Float[Tensor, "batch hidden width"], visible: Float[Tensor, "batch tokens inputs"]
    ) -> Float[Tensor, "batch hidden width"]:
        """What is to be added to the hidden patches."""
        parts = (self.query(self.norm(hidden)), self.key(visible), self.value(visible))
        heads = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in parts)
        answered = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        added: Tensor = self.project(answered)
        return added


class CrossBlock(nn.Module):
    """A block of the decoder: self-attention of the hidden patches, if wanted, cross-attention, and a perceptron.

    Args:
        width: Of the hidden patches, a multiple of 32.
        inputs: Width of the encoder.
        selfish: Whether hidden patches attend to each other.
    """

    def __init__(self, width: int, inputs: int, selfish: bool) -> None:
        super().__init__()
        self.cross = CrossAttention(width, inputs)
        # the plain block is self-attention and a perceptron, each with its own normalisation
        plain = Block(width, width // HEAD_WIDTH, qkv_bias=True)
        self.own = nn.Sequential(plain.norm1, plain.attn) if selfish else None
        self.mlp = nn.Sequential(plain.norm2, plain.mlp)

    def forward(
        self, hidden: Float[Tensor, "batch hidden width"], visible: Float[Tensor, "batch tokens inputs"]
    ) -> Float[Tensor, "batch hidden width"]:
        """The hidden patches, with what they were answered."""
        if self.own is not None:
            hidden = hidden + self.own(hidden)
        hidden = hidden + self.cross(hidden, visible)
        told: Tensor = hidden + self.mlp(hidden)
        return told


class NoiseDecoder(nn.Module):
    """Paints hidden patches from noised ones and from what the encoder says of the visible ones.

    Args:
        grid: Rows and columns of patches.
        values: Numbers of a patch.
        inputs: Width of the encoder.
        width: Of its own, a multiple of 32.
        depth: Number of blocks.
        form: "cross-self", "cross" or "joint".
        links: How many answers of the encoder it is given; 1, or `depth` where each block looks at its own.
    """

    places: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        values: int,
        inputs: int = 64,
        width: int = 64,
        depth: int = 2,
        form: Decoder = "cross-self",
        links: int = 1,
    ) -> None:
        super().__init__()
        self.width, self.form = width, form
        self.norms = nn.ModuleList(nn.LayerNorm(inputs, eps=1e-6) for _ in range(links))
        self.enter = nn.Linear(values, width)
        self.step = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("places", positions(*grid, width), persistent=False)
        if form == "joint":
            self.embed = nn.Linear(inputs, width)
            self.blocks = nn.ModuleList(
                Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)
            )
        else:
            self.blocks = nn.ModuleList(CrossBlock(width, inputs, form == "cross-self") for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.paint = nn.Linear(width, values)
        initialise(self)

    def forward(
        self,
        noised: Float[Tensor, "batch hidden values"],
        t: Int[Tensor, " batch"],
        answers: list[Float[Tensor, "batch tokens inputs"]],
        masking: Masking,
    ) -> Float[Tensor, "batch hidden values"]:
        """The clean patches.

        Args:
            noised: x^m_t, in the order of `hidden_patches`.
            t: How many steps of noise each image has.
            answers: Of the encoder, the last first, with a class token in front.
            masking: Which patches are hidden.
        """
        places = self.places.expand(len(noised), -1, -1)
        hidden = self.enter(noised) + visible_only(places[:, 1:], hidden_patches(masking))
        hidden = hidden + self.step(step_embedding(t, self.width))[:, None]
        looked_at = [norm(answer) for norm, answer in zip(self.norms, answers, strict=True)]
        if self.form == "joint":
            place = torch.cat([places[:, :1], visible_only(places[:, 1:], masking.visible)], dim=1)
            both = torch.cat([self.embed(looked_at[0]) + place, hidden], dim=1)
            for block in self.blocks:
                both = block(both)
            hidden = both[:, -noised.shape[1] :]
        else:
            for number, block in enumerate(self.blocks):
                hidden = block(hidden, looked_at[min(number, len(looked_at) - 1)])
        clean: Tensor = self.paint(self.norm(hidden))
        return clean


class DiffMAE(PatchTransformer):
    """A vision transformer that learns to take noise out of hidden patches.

    Args:
        decoder: "cross-self", in which hidden patches attend to each other and to the encoder's answers, "cross", only
            to the latter, or "joint", in which all attend to all.
        skip: Whether later blocks of the decoder look at answers of earlier blocks of the encoder; not for "joint".
        rho: Exponent of the noise's variances, above 0; below 1 it makes more noise.
        diffusion_steps: Steps after which nothing but noise is left (T).
        decoder_embed_dim: Width of the decoder, a multiple of 32.
        decoder_depth: Blocks of the decoder; at most as many as `depth` where `skip` is on.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    alpha_bar: Tensor
    start: Tensor

    def __init__(
        self,
        decoder: Decoder = "cross-self",
        skip: bool = True,
        rho: float = 1.0,
        diffusion_steps: int = 1000,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if decoder not in get_args(Decoder):
            raise UserError(f"decoder: '{decoder}' is unknown{suggest(decoder, get_args(Decoder))}")
        if not rho > 0:
            raise UserError(f"rho: expected a number above 0, got {rho}")
        check_width("decoder_embed_dim", decoder_embed_dim)
        check_counts(diffusion_steps=diffusion_steps, decoder_depth=decoder_depth)
        if skip and decoder == "joint":
            raise UserError("skip: a joint decoder looks at the encoder's last answer alone; give skip=False")
        if skip and decoder_depth > self.depth:
            raise UserError(
                f"decoder_depth: each block looks at its own block of the encoder, which has {self.depth}, got "
                f"{decoder_depth}; give skip=False or fewer"
            )
        self.form, self.skip, self.rho = decoder, skip, rho
        self.diffusion_steps = diffusion_steps
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder, the schedule of the noise, and the noise of pictures.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        links = self.decoder_depth if self.skip else 1
        self.linked = [self.depth - number * self.depth // links for number in range(links)]
        values = self.patch**2 * info.channels
        self.decoder = NoiseDecoder(
            self.encoder.grid,
            values,
            self.embed_dim,
            self.decoder_embed_dim,
            self.decoder_depth,
            self.form,
            links,
        )
        self.register_buffer(
            "alpha_bar", alpha_bar_schedule(self.diffusion_steps, rho=self.rho), persistent=False
        )
        rounds = min(PICTURE_ROUNDS, self.diffusion_steps)
        hidden = int(self.same_masking(1).hidden.sum())
        start = torch.randn(rounds, 1, hidden, values, generator=torch.Generator().manual_seed(0))
        self.register_buffer("start", start, persistent=False)

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens, normalised as where the decoder first looks at them."""
        normal: Tensor = self.decoder.norms[0](tokens)
        return normal

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the painted patches are from the hidden ones, for random patches and strengths of noise."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        clean = visible_only(patchify(normalised(image), self.patch), hidden_patches(masking))
        t = torch.randint(1, len(self.alpha_bar), (len(image),), device=image.device)
        noised = q_sample(clean, torch.randn_like(clean), self.alpha_bar[t])
        answers = self.encoder.after(image, self.linked, masking.visible)
        return functional.mse_loss(self.decoder(noised, t, answers, masking), clean)

    def inpaint(
        self,
        image: Float[Tensor, "batch channels height width"],
        masking: Masking,
        noise: Float[Tensor, "rounds batch hidden values"],
    ) -> Float[Tensor, "batch patches values"]:
        """All patches, the hidden ones filled step by step; visible ones are as they were.

        Args:
            image: Images in [0, 1] of the method's size; what they hold at hidden patches does not matter.
            masking: Which patches are hidden.
            noise: As `inpainted` takes it; its first dimension says how many rounds are made.

        Returns:
            Pixels, shifted and scaled as by `pinakes.nn.masked_autoencoder.normalised`.
        """
        answers = self.encoder.after(image, self.linked, masking.visible)

        def denoise(noised: Tensor, t: Tensor) -> Tensor:
            clean: Tensor = self.decoder(noised, t, answers, masking).clamp(LOWEST, HIGHEST)
            return clean

        found = inpainted(denoise, noise, self.alpha_bar)
        patches = patchify(normalised(image), self.patch)
        places = hidden_patches(masking)[:, :, None].expand_as(found)
        return patches.scatter(1, places, found.to(patches.dtype))

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these filled from noise; the same ones in all images."""
        masking = self.same_masking(len(image))
        patches = self.inpaint(image, masking, self.start.expand(-1, len(image), -1, -1))
        return shown_and_painted(image, patches, masking.hidden, self.patch, norm_pix_loss=False)


CLAIMED: dict[str, Any] = {"patch": 8, "depth": 4}
"""The encoder of claims, small because all patches are looked at in fine-tuning."""
CLAIM_DATA = "scenes:classification?size=32&n=2000&finetune=100"
"""Made scenes with one main object each, whose labels are all used for fine-tuning."""
FEW_LABELS = "scenes:classification?size=32&n=2000&finetune=10"
"""The same, with a tenth of the labels."""
CLAIM_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 64}
"""How long an encoder learns without labels, 32 passes over the images."""


class _Untrained(DiffMAE):
    """The same encoder, which keeps the weights that it was initialised with until it is fine-tuned."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0, **CLAIMED)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="Fine-tuned, an encoder that learnt to take noise out of hidden patches classifies better than from scratch.",
    where="abstract: a strong initialisation for recognition",
    higher_is_better=True,
)
def a_better_start_than_none(lab: Lab) -> Trial:
    """Made scenes of single objects; the same encoder on both sides, and a tenth of the labels."""
    return lab.duel(
        ours=lambda: DiffMAE(**CLAIMED),
        baseline=_Untrained,
        data=FEW_LABELS,
        metric="finetune_10",
        **CLAIM_PLAN,
    )


@claim(
    text="Fine-tuned, DiffMAE's encoder is no worse than a masked autoencoder's, within 0.03 of the accuracy.",
    where="abstract and the comparison with other self-supervised methods: close to MAE on ImageNet",
    higher_is_better=True,
    margin=0.03,
)
def as_good_a_start_as_mae(lab: Lab) -> Trial:
    """Made scenes of single objects; the same encoder on both sides."""
    return lab.duel(
        ours=lambda: DiffMAE(**CLAIMED),
        baseline=lambda: MAE(**CLAIMED),
        data=CLAIM_DATA,
        metric="finetune_100",
        **CLAIM_PLAN,
    )
