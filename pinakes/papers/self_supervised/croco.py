r"""Weinzaepfel et al., CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion, NeurIPS 2022,
arXiv:2210.10716.

What is hidden of a single image must often be guessed. With a second picture of the same scene, taken from elsewhere,
it can be found out, by one who knows how the two views lie to each other. So nine tenths of the first view are hidden
and the second is shown whole; to paint the first, the network must see in three dimensions.

What the code follows, with x the tokens of the first view and y those of the second:

- Encoder, `MaskedEncoder` of `pinakes.nn.masked_autoencoder`: one transformer, with the same weights for both views,
  sees the visible patches of the first and all of the second.
- Decoder, `CrossViewDecoder`: a mask token stands for every hidden patch of the first view; positions are added to both
  views; then come blocks, and a last normalisation.
- Block of the decoder, `CrossBlock`: x <- x + SA(LN(x)), x <- x + CA(LN(x), LN(y)), x <- x + MLP(LN(x)); SA is
  self-attention, CA cross-attention, with keys and values of y, which never changes.
- Objective, `pinakes.nn.masked_autoencoder.reconstruction_loss`: L = mean over hidden patches of the first view of
  |x^ - x|^2, with each patch brought to mean 0 and variance 1 unless `norm_pix_loss` is off.
- Downstream, in `pinakes.nn.view_pairs`: `Monocular` is the encoder and a head, `Binocular` the encoder, the decoder,
  now without mask tokens, and a head; `fine_tune` trains all of it.

Order of normalisations and residuals, the normalisation behind the encoder, the normalised targets and the strength of
the change of colours are those of the authors' code (github.com/naver/croco).

Differences from the paper: networks and patches are small by default (a patch of 4 pixels, 6 blocks of width 96, a
decoder of 4 blocks of width 64), for images of 32 pixels. A class token joins the patches in the encoder, and the
decoder does not see it. Colours of each view are changed, but views are neither rotated nor warped, and each is cropped
by itself only with the augmentation "shift". The variant of the decoder that joins the tokens of both views in one
self-attention is left out. The heads are ours: a linear layer for dense answers, and one on the mean token for the
pose. Nothing is painted for pictures of single images, which lack the second view.
"""

from functools import lru_cache
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes import tasks
from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.masked_autoencoder import (
    HEAD_WIDTH,
    MaskedEncoder,
    Masking,
    filled_in,
    initialise,
    masking_from,
    positions,
    random_masking,
    reconstruction_loss,
)
from pinakes.nn.photometric import jittered
from pinakes.nn.view_pairs import Binocular, PoseHead, fine_tune, pose_loss, turn_error
from pinakes.papers.self_supervised.base import Augmentation
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.transformer import PatchTransformer, check_counts, check_width
from pinakes.tasks.base import Batch

EQUATIONS = (
    (
        "Block of the decoder",
        r"x \leftarrow x + \mathrm{SA}(\mathrm{LN}(x)), \quad "
        r"x \leftarrow x + \mathrm{CA}(\mathrm{LN}(x), \mathrm{LN}(y)), \quad "
        r"x \leftarrow x + \mathrm{MLP}(\mathrm{LN}(x))",
    ),
    ("Objective", r"L = \frac{1}{|M|} \sum_{i \in M} \lVert \hat x_i - \tilde x_i \rVert^2"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


class CrossBlock(nn.Module):
    """A block in which tokens of one view look at each other, and then at those of another view.

    Args:
        width: Of all tokens, a multiple of 32; a head of attention for each 32.

    Source: the authors' code.

    Example:
        >>> CrossBlock(32)(torch.rand(2, 16, 32), torch.rand(2, 9, 32)).shape
        torch.Size([2, 16, 32])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_other = nn.LayerNorm(width, eps=1e-6)
        self.layer = nn.TransformerDecoderLayer(
            width,
            width // HEAD_WIDTH,
            4 * width,
            dropout=0.0,
            activation=functional.gelu,
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], other: Float[Tensor, "batch others width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens of the view, with what they found in the other."""
        found: Tensor = self.layer(tokens, self.norm_other(other))
        return found


class CrossViewDecoder(nn.Module):
    """Tells what is at every patch of a view from what an encoder says of it and of another view.

    Args:
        grid: Rows and columns of patches.
        inputs: Width of the encoder's tokens.
        width: Of its own, a multiple of 32.
        depth: Number of blocks.

    Example:
        >>> decoder = CrossViewDecoder((4, 4), inputs=32, width=32, depth=1)
        >>> decoder(torch.rand(2, 17, 32), torch.rand(2, 17, 32)).shape
        torch.Size([2, 16, 32])
    """

    places: Tensor

    def __init__(self, grid: tuple[int, int], inputs: int = 64, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, eps=1e-6)
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("places", positions(*grid, width)[:, 1:])
        self.blocks = nn.ModuleList(CrossBlock(width) for _ in range(depth))
        self.norm_told = nn.LayerNorm(width, eps=1e-6)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        first: Float[Tensor, "batch kept inputs"],
        second: Float[Tensor, "batch all inputs"],
        restore: Int[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch patches width"]:
        """The tokens of the first view's patches.

        Args:
            first: What the encoder says of the first view's visible patches, the class token first.
            second: What it says of all patches of the second view, the class token first.
            restore: As in `Masking`; None where the first view is whole.
        """
        tokens, other = (self.embed(self.norm(each[:, 1:])) for each in (first, second))
        if restore is not None:
            tokens = filled_in(tokens, self.mask_token, restore)
        tokens, other = tokens + self.places, other + self.places
        for block in self.blocks:
            tokens = block(tokens, other)
        told: Tensor = self.norm_told(tokens)
        return told


def _jittered(
    image: Float[Tensor, "batch channels height width"], jitter: float
) -> Float[Tensor, "batch channels height width"]:
    return jittered(image, jitter, jitter, jitter, hue=0.0, share=1.0) if jitter else image


# -- the method ----------------------------------------------------------------------------------------------


class CroCo(PatchTransformer):
    """A vision transformer that learns to paint what is hidden of a view with a look at another view of the scene.

    Args:
        mask_ratio: Share of the first view's patches that are hidden, above 0 and below 1.
        augmentation: "none" leaves views where they are, "shift" moves each of them by up to an eighth, by itself;
            "crop" would mirror one and not the other.
        jitter: How far brightness, contrast and saturation of each view are changed at random, 0 to 1.
        norm_pix_loss: Whether each patch to be painted is first brought to mean 0 and variance 1.
        decoder_embed_dim: Width of the decoder, a multiple of 32.
        decoder_depth: Blocks of the decoder.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"image_2": "a second view of each scene"}
    example_data = "scenes:pairs?size=32&n=40"

    def __init__(
        self,
        mask_ratio: float = 0.9,
        augmentation: Augmentation = "none",
        jitter: float = 0.4,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 4,
        **shared: Any,
    ) -> None:
        super().__init__(mask_ratio, augmentation=augmentation, **shared)
        if augmentation == "crop":
            raise UserError(
                "augmentation: 'crop' would mirror one view and not the other; give 'shift' or 'none'"
            )
        if not 0 <= jitter <= 1:
            raise UserError(f"jitter: expected 0 to 1, got {jitter}")
        check_width("decoder_embed_dim", decoder_embed_dim)
        check_counts(decoder_depth=decoder_depth)
        self.jitter, self.norm_pix_loss = jitter, norm_pix_loss
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes encoder, decoder and the layer that paints.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        self.decoder = CrossViewDecoder(
            self.encoder.grid, self.embed_dim, self.decoder_embed_dim, self.decoder_depth
        )
        self.to_pixels = nn.Linear(self.decoder_embed_dim, self.patch**2 * info.channels)
        initialise(self.to_pixels)

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens, normalised as at the entrance of the decoder."""
        normal: Tensor = self.decoder.norm(tokens)
        return normal

    def paint(
        self,
        image: Float[Tensor, "batch channels height width"],
        image_2: Float[Tensor, "batch channels height width"],
        masking: Masking,
    ) -> Float[Tensor, "batch patches values"]:
        """All patches of the first views, as they are painted from their visible ones and the second views."""
        told = self.decoder(self.encoder(image, masking.visible), self.encoder(image_2), masking.restore)
        patches: Tensor = self.to_pixels(told)
        return patches

    def completion_loss(
        self,
        image: Float[Tensor, "batch channels height width"],
        image_2: Float[Tensor, "batch channels height width"],
        masking: Masking,
    ) -> Float[Tensor, ""]:
        """How far the painted patches of the first views are from the hidden ones."""
        painted = self.paint(image, image_2, masking)
        return reconstruction_loss(painted, image, masking.hidden, self.patch, self.norm_pix_loss)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The objective of a batch of pairs, for random patches."""
        image, image_2 = (
            _jittered(self.augmented(self.sized(batch[name])), self.jitter) for name in ("image", "image_2")
        )
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        return self.completion_loss(image, image_2, masking)


# -- claims --------------------------------------------------------------------------------------------------

PAIRS = "scenes:pairs?size=32&n=1000"
"""Two views of each of a thousand made scenes: the data of the claims."""
PAIRS_PLAN: dict[str, Any] = {"steps": 1000, "batch_size": 24}
"""How long encoders are pre-trained, 24 passes over the pairs."""
POSE_PLAN: dict[str, Any] = {"steps": 400, "batch_size": 32}
"""How long whole networks are then trained on poses."""
SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 4, "decoder_depth": 2}
"""The networks of the claims, small because whole second views are costly."""


class _SingleViews(MAE):
    """A masked autoencoder that sees both views, each by itself, with colours changed as for pairs."""

    needs = CroCo.needs

    def __init__(self) -> None:
        super().__init__(augmentation="none", **SMALL)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of both views."""
        return self.loss(_jittered(self.sized(torch.cat([batch["image"], batch["image_2"]])), 0.4))


class _Small(CroCo):
    """The method with the networks of the claims."""

    def __init__(self) -> None:
        super().__init__(**SMALL)


class _Unrelated(_Small):
    """The same networks, which are shown views of another scene beside the first."""

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The objective with the second views of the pairs before."""
        return super().training_step({**batch, "image_2": batch["image_2"].roll(1, 0)}, batch_idx)


Pretrained = TypeVar("Pretrained", CroCo, MAE)


@lru_cache(maxsize=1)
def _pairs(seed: int) -> tuple[Any, Batch]:
    """The data of a seed, and its test samples as one batch."""
    task = tasks.get(CroCo.task_name)
    data = load_data(PAIRS, task=task, seed=seed)
    assert data.test is not None
    return data, task.collate([data.test[index] for index in range(len(data.test))])


def _pretrained(lab: Lab, method: Pretrained, seed: int) -> Pretrained:
    plan = {**PAIRS_PLAN, "steps": 2} if lab.quick else PAIRS_PLAN
    return fitted_once(method, _pairs(seed)[0], TrainingPlan(seed=seed, device=str(lab.device), **plan))


@claim(
    text="A linear model reads depth with a smaller error from an encoder that learnt by cross-view completion than "
    "from that of a masked autoencoder.",
    where="abstract and experiments on monocular depth",
    higher_is_better=False,
)
def pairs_teach_depth(lab: Lab) -> Trial:
    """Made scenes, each from two sides; the masked autoencoder learns from the same pictures, one by one. The linear
    model reads from frozen patches, where the paper trains all layers."""
    return lab.duel(ours=_Small, baseline=_SingleViews, data=PAIRS, metric="depth_error", **PAIRS_PLAN)


@claim(
    text="The turn from one camera to the other is found with a smaller error by a network that learnt by cross-view "
    "completion than by one whose encoder is that of a masked autoencoder.",
    where="abstract: relative pose estimation",
    higher_is_better=False,
)
def pairs_teach_pose(lab: Lab) -> Trial:
    """Encoder, decoder and a head for poses are trained together afterwards; the baseline's decoder begins with random
    weights, as that of a masked autoencoder has never seen two views."""
    samples = ("image", "image_2", "relative_pose")

    def error(seed: int, encoder: MaskedEncoder, decoder: nn.Module) -> float:
        data, test = _pairs(seed)
        batch = CroCo().task.collate([data.train[index] for index in range(len(data.train))])
        known, asked = ({name: each[name].to(lab.device) for name in samples} for each in (batch, test))
        torch.manual_seed(seed)
        network = Binocular(encoder, decoder, PoseHead(decoder_width)).to(lab.device)
        plan = {**POSE_PLAN, "steps": 2} if lab.quick else POSE_PLAN
        fine_tune(
            network,
            lambda some: pose_loss(network(some["image"], some["image_2"]), some["relative_pose"]),
            known,
            seed=seed,
            **plan,
        )
        with torch.no_grad():
            found = network(asked["image"], asked["image_2"])
        return float(turn_error(found, asked["relative_pose"]).mean())

    decoder_width = _Small().decoder_embed_dim

    def ours(seed: int) -> float:
        method = _pretrained(lab, _Small(), seed)
        return error(seed, method.encoder, method.decoder)

    def baseline(seed: int) -> float:
        method = _pretrained(lab, _SingleViews(), seed)
        return error(seed, method.encoder, _Small().prepare(method.info, seed=seed).decoder)

    return lab.measure(ours=ours, baseline=baseline, metric="error of the turn", unit="degrees")


@claim(
    text="Hidden patches are painted with a smaller error with a look at a second view of the scene than without.",
    where="abstract and introduction",
    higher_is_better=False,
)
def second_view_tells_what_is_hidden(lab: Lab) -> Trial:
    """Error of nine tenths of the patches of unseen scenes; the other network was trained, and is judged, with views of
    other scenes in the place of the second ones."""

    def error(method: CroCo, seed: int, shift: int) -> float:
        method = _pretrained(lab, method, seed)
        test = _pairs(seed)[1]
        noise = torch.rand(
            len(test["image"]), method.encoder.patches, generator=torch.Generator().manual_seed(seed)
        )
        masking = masking_from(noise.to(method.device), method.mask_ratio)
        image, image_2 = (test[name].to(method.device) for name in ("image", "image_2"))
        with torch.no_grad():
            return float(method.completion_loss(image, image_2.roll(shift, 0), masking))

    return lab.measure(
        ours=lambda seed: error(_Small(), seed, 0),
        baseline=lambda seed: error(_Unrelated(), seed, 1),
        metric="squared error of hidden patches, normalised",
    )
