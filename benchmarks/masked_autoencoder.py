"""A training step of the masked autoencoder against one of its encoder on whole images, and against lightly's.

The networks stand to each other as in the paper, only smaller. There a decoder of 8 blocks of width 512 follows 24
blocks of width 1024; here, too, the decoder has a third of the blocks and half of the width, and the layers of a token
cost it a twelfth of what they cost the encoder. A step is forward, backward and AdamW, on one thread.

lightly's is the example of its documentation, with the same transformers of timm, the same share of hidden patches and
the same loss: the squared error of pixels that are not normalised patch by patch. Both sides bring images to mean 0 and
variance 1 within the step.

Run with `python -m benchmarks masked_autoencoder`; writes `results/bench/masked_autoencoder.json`.
"""

import contextlib
import ctypes
import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from benchmarks.harness import Finding, memory_ratio, missing, race, save
from pinakes.data.base import DataInfo
from pinakes.nn.masked_autoencoder import (
    HEAD_WIDTH,
    normalised,
    patchify,
    random_masking,
    reconstruction_loss,
)
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.transformer import PatchTransformer

NAME = "masked_autoencoder"
SIDE, PATCH, BATCH, MASK_RATIO = 64, 4, 8, 0.75
EMBED_DIM, DEPTH, DECODER_EMBED_DIM, DECODER_DEPTH = 192, 12, 96, 4
STEPS = 4
"""Steps in one timing."""
ROUNDS, ROUNDS_AGAINST_LIGHTLY = 8, 24
WHOLE, LIGHTLY = "the encoder on whole images", "lightly's MAE"
LIMIT, LIMIT_OF_LIGHTLY = 0.45, 1.0
"""The largest share of the time of a step on whole images, and of lightly's time and memory."""
M_MMAP_THRESHOLD = -3
"""The number by which glibc knows the size from which memory is taken from the system and given back to it."""
SETTINGS: dict[str, Any] = {"patch": PATCH, "embed_dim": EMBED_DIM, "depth": DEPTH, "augmentation": "none"}


class WholeImages(PatchTransformer):
    """The encoder on all patches; a linear layer says from the mean of its tokens what the mean patch is."""

    def build(self, info: DataInfo) -> None:
        """Makes encoder and layer."""
        super().build(info)
        self.head = nn.Linear(self.embed_dim, self.patch**2 * info.channels)

    def loss(self, image: Tensor) -> Tensor:
        """The mean squared error."""
        target = patchify(normalised(image), self.patch).mean(1)
        return functional.mse_loss(self.head(self.encoder(image).mean(1)), target)


class Lightly(nn.Module):
    """lightly's masked autoencoder, put together as its documentation does."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.models import modules, utils

        self.utils: Any = utils
        vit = VisionTransformer(
            img_size=SIDE,
            patch_size=PATCH,
            num_classes=0,
            global_pool="",
            embed_dim=EMBED_DIM,
            depth=DEPTH,
            num_heads=EMBED_DIM // HEAD_WIDTH,
        )
        self.backbone = modules.MaskedVisionTransformerTIMM(vit)
        self.length = self.backbone.sequence_length
        self.embed = nn.Linear(EMBED_DIM, DECODER_EMBED_DIM)
        self.decoder = modules.MaskedVisionTransformerDecoderTIMM(
            num_patches=self.length - 1,
            embed_dim=DECODER_EMBED_DIM,
            depth=DECODER_DEPTH,
            num_heads=DECODER_EMBED_DIM // HEAD_WIDTH,
        )
        self.paint = nn.Linear(DECODER_EMBED_DIM, PATCH**2 * 3)

    def loss(self, image: Tensor) -> Tensor:
        """The loss with patches hidden at random."""
        return self.loss_of(image, *self.utils.random_token_mask((len(image), self.length), MASK_RATIO))

    def loss_of(self, image: Tensor, kept: Tensor, hidden: Tensor) -> Tensor:
        """The loss of these visible and these hidden tokens; number 0 is the class token."""
        image = normalised(image)
        tokens = self.embed(self.backbone.encode(image, idx_keep=kept))
        placed = self.utils.set_at_index(
            tokens.new_zeros(len(image), self.length, tokens.shape[2]), kept, tokens
        )
        decoded = self.utils.get_at_index(self.decoder(placed, idx_mask=hidden), hidden)
        patches = self.utils.patchify(image, PATCH)
        return functional.mse_loss(self.paint(decoded), self.utils.get_at_index(patches, hidden - 1))


def ours(norm_pix_loss: bool) -> MAE:
    """The masked autoencoder."""
    method = MAE(norm_pix_loss, DECODER_EMBED_DIM, DECODER_DEPTH, mask_ratio=MASK_RATIO, **SETTINGS)
    return method.prepare(DataInfo(3, (SIDE, SIDE))).train()


def whole_images() -> WholeImages:
    """The same encoder on whole images."""
    return WholeImages(**SETTINGS).prepare(DataInfo(3, (SIDE, SIDE))).train()


def steps(loss: Callable[[Tensor], Tensor], optimiser: Optimizer) -> Callable[[], float]:
    """Steps on images of noise, ready to be taken."""
    image = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def run() -> float:
        for _ in range(STEPS):
            value = loss(image)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        return value.item()

    return run


def our_steps(norm_pix_loss: bool = False) -> Callable[[], float]:
    """Steps of ours, with the optimiser that its training takes."""
    torch.set_num_threads(1)
    method = ours(norm_pix_loss)
    return steps(method.loss, method.configure_optimizers())


def steps_of_whole_images() -> Callable[[], float]:
    """Steps of the encoder on whole images, with the same optimiser."""
    method = whole_images()
    return steps(method.loss, method.configure_optimizers())


def steps_of_lightly() -> Callable[[], float]:
    """Steps of lightly's."""
    torch.set_num_threads(1)
    network = Lightly()
    return steps(network.loss, AdamW(network.parameters(), lr=1.5e-4))


def expect_losses(ours: float, peer: float) -> None:
    """Both sides learn; that ours computes what lightly's does, `expect_same_gradients` checks."""
    assert math.isfinite(ours)
    assert math.isfinite(peer)


def expect_same_gradients() -> None:
    """With the same weights and the same patches hidden, ours and lightly's have one loss and one gradient.

    The normalisations in the blocks of the decoder add 1e-5 in ours and 1e-6 in theirs, hence the tolerance.

    Raises:
        AssertionError: If they differ.
    """
    method, peer = ours(norm_pix_loss=False), Lightly()
    encoder, decoder = method.encoder.network, method.decoder
    same: list[tuple[Any, Any]] = [
        (encoder, peer.backbone.vit),
        (decoder.norm, peer.backbone.vit.norm),
        (decoder.embed, peer.embed),
        (decoder.blocks[:-1], peer.decoder.blocks),
        (decoder.blocks[-1], peer.decoder.norm),
        (decoder.paint, peer.paint),
    ]
    pairs = [(decoder.mask_token, peer.decoder.mask_token)] + [
        (parameter, theirs.get_parameter(name))
        for mine, theirs in same
        for name, parameter in mine.named_parameters()
    ]
    with torch.no_grad():
        for mine, theirs in pairs:
            theirs.copy_(mine)
        peer.decoder.pos_embed.copy_(decoder.places)
    image = torch.rand(BATCH, 3, SIDE, SIDE)
    masking = random_masking(BATCH, method.encoder.patches, MASK_RATIO)
    kept = functional.pad(masking.visible + 1, (1, 0))
    hidden = masking.hidden.nonzero()[:, 1].view(BATCH, -1) + 1
    loss = reconstruction_loss(method.paint(image, masking), image, masking.hidden, PATCH)
    expected = peer.loss_of(image, kept, hidden)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    loss.backward()
    expected.backward()
    for mine, theirs in pairs:
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-2, atol=1e-5)


def in_exact_memory(prepare: Callable[[], Callable[[], float]]) -> Callable[[], float]:
    """Steps in a process that gives memory back as soon as a tensor is gone, so that its peak is that of the tensors.

    Otherwise the gaps that the allocator keeps decide, which differ by several hundredths from one run to the next.
    """
    with contextlib.suppress(OSError):
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 2**16)
    return prepare()


def bench() -> list[Finding]:
    """Measures, writes the result and returns it.

    Raises:
        AssertionError: If a step costs more than a limit allows, or lightly's computes something else. As both run the
            same blocks of timm, their times differ by less than the rounds scatter: the lower quartile counts.
    """
    what = f"{STEPS} steps of MAE, {BATCH} images of {SIDE} pixels, {MASK_RATIO:.0%} hidden"
    why = missing("lightly")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        findings = [
            race(
                NAME,
                f"{what}: time",
                ours=our_steps(norm_pix_loss=True),
                peer=steps_of_whole_images(),
                against=WHOLE,
                check=expect_losses,
                rounds=ROUNDS,
            ),
            *([Finding(NAME, what, LIGHTLY, skipped=why)] if why else against_lightly(what)),
        ]
    finally:
        torch.set_num_threads(threads)
    save(
        NAME,
        findings,
        paper="mae",
        limits={WHOLE: LIMIT, LIGHTLY: LIMIT_OF_LIGHTLY},
        lightly=None if why else version("lightly"),
        **{
            f"{finding.what}, divided by that of {finding.against}": {
                "median": finding.ratio,
                "spread": [finding.low, finding.high],
            }
            for finding in findings
        },
    )
    whole, *others = findings
    assert whole.ratio is not None
    assert whole.ratio <= LIMIT, f"{whole.ratio} of {WHOLE}"
    for finding in others:
        assert finding.low is None or finding.low <= LIMIT_OF_LIGHTLY, (
            f"{finding.what}: {finding.ratio} of {LIGHTLY}"
        )
    return findings


def against_lightly(what: str) -> list[Finding]:
    """Time and memory of ours against lightly's, once it is certain that both compute the same."""
    expect_same_gradients()
    return [
        race(
            NAME,
            f"{what}: time",
            ours=our_steps(),
            peer=steps_of_lightly(),
            against=LIGHTLY,
            check=expect_losses,
            rounds=ROUNDS_AGAINST_LIGHTLY,
        ),
        memory_ratio(
            NAME,
            f"{what}: memory",
            ours=partial(in_exact_memory, our_steps),
            peer=partial(in_exact_memory, steps_of_lightly),
            against=LIGHTLY,
        ),
    ]
