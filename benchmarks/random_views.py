"""Random views of images against kornia's and torchvision's, and a training step on them against lightly's.

The views are SimCLR's: crops, mirrored, with other brightness, contrast, saturation and hue, some grey, some smoothed.
kornia changes a batch at once, as ours does; torchvision changes one image at a time, on which lightly builds. The step
is SimCLR's with the same network and batch, on one thread: of given views, where only loss and head differ, of images,
with the views drawn in the step, and what would be left if our views cost nothing, which nobody's can be faster than.
The networks are the shelf's own and a ResNet-18, which spends nearly all of a step itself.

Run with `python -m benchmarks random_views`; writes `results/bench/random_views.json`.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor, nn

from benchmarks.harness import Finding, missing, race, save
from pinakes.data.base import DataInfo
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.papers.self_supervised.simclr import SimCLR

NAME = "random_views"
SIZES = ((256, 32), (64, 96), (32, 224))
"""Images of a batch, and their side."""
STEP_SIZES = ((64, 32), (64, 96))
OWN_BACKBONE = "pinakes/resnet20s2"
BACKBONES = (OWN_BACKBONE, "timm/resnet18@random")
FASTER = 1.3
"""How many times as fast as lightly's a step is to be that draws its views, where the shelf trains: its own network on
images of 32 pixels."""
NOISE = 1.02
"""Both sides run the same network; what a machine is busy with moves a ratio by a hundredth or two."""
TEMPERATURE, PROJECTION = 0.5, 128
CROP, JITTER = (0.2, 1.0), (0.8, 0.8, 0.8, 0.2)
SHARE_JITTERED, SHARE_GREY, SHARE_BLURRED = 0.8, 0.2, 0.5
SIGMA = (0.1, 2.0)
STEPS = 3
"""Steps in one timing."""
PEER = "lightly's SimCLR"
GIVEN, DRAWN, FREE = "a step on given views", "a step that draws its views", "a step whose views cost nothing"


def bench() -> list[Finding]:
    """Times views on growing images, then steps; what was found is written, also where it falls short.

    Raises:
        AssertionError: If a step is slower than lightly's, or one that draws views on the shelf's own ground is not
            1.3 times as fast.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = [each for batch, side in SIZES for each in views(batch, side)]
    for backbone in BACKBONES:
        for batch, side in STEP_SIZES:
            found += steps(backbone, batch, side)
    save(NAME, found, **({} if missing("lightly") else {"lightly": version("lightly")}))
    for each in found:
        if each.against == PEER and each.ratio is not None:
            own_ground = each.what == title(DRAWN, OWN_BACKBONE, *STEP_SIZES[0])
            limit = 1 / FASTER if own_ground else 1.0
            assert each.ratio <= limit * NOISE, (
                f"{each.what}: {each.ratio} of {PEER}'s time, {limit:.3f} wanted"
            )
    return found


def ours(backbone: str = OWN_BACKBONE) -> SimCLR:
    """The method, whose views are those of the others."""
    method = SimCLR(
        TEMPERATURE,
        PROJECTION,
        backbone=backbone,
        least_area=CROP[0],
        grey=SHARE_GREY,
        blur=SHARE_BLURRED,
    )
    return method.prepare(DataInfo(3, (32, 32)))


def blur_size(side: int) -> int:
    """Width of the Gaussian's kernel, odd: a tenth of the image, as in SimCLR."""
    return 2 * max(1, side // 20) + 1


def views(batch: int, side: int) -> list[Finding]:
    """Ours against both others."""
    image = torch.rand(batch, 3, side, side)
    what = f"views of {batch} images of {side} pixels"
    draw = partial(ours().view, image)
    found = []
    for peer, package, make in (
        ("kornia", "kornia", kornia_views),
        ("torchvision", "torchvision", torchvision_views),
    ):
        why = missing(package)
        if why:
            found.append(Finding(NAME, what, peer, skipped=why))
        else:
            found.append(
                race(NAME, what, ours=draw, peer=make(image), against=peer, check=expect_views, rounds=5)
            )
    return found


def kornia_views(image: Tensor) -> Callable[[], Tensor]:
    """Views of a batch by kornia."""
    from kornia import augmentation

    side = image.shape[-1]
    change = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop((side, side), scale=CROP),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(*JITTER, p=SHARE_JITTERED),
        augmentation.RandomGrayscale(p=SHARE_GREY),
        augmentation.RandomGaussianBlur((blur_size(side),) * 2, SIGMA, p=SHARE_BLURRED),
    )
    return partial(change, image)


def torchvision_views(image: Tensor) -> Callable[[], Tensor]:
    """Views of a batch by torchvision, one image after the other, as it would change all alike."""
    from torchvision.transforms import v2

    side = image.shape[-1]
    change = v2.Compose(
        [
            v2.RandomResizedCrop((side, side), scale=CROP, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=SHARE_JITTERED),
            v2.RandomGrayscale(SHARE_GREY),
            v2.RandomApply([v2.GaussianBlur(blur_size(side), SIGMA)], p=SHARE_BLURRED),
        ]
    )
    return lambda: torch.stack([change(each) for each in image])


def expect_views(found: Tensor, others: Tensor) -> None:
    """Both are images of the same form and about the same brightness and spread; they are drawn at random."""
    assert found.shape == others.shape
    assert found.min() >= -1e-5
    assert found.max() <= 1 + 1e-5
    torch.testing.assert_close(found.mean(), others.mean(), atol=0.08, rtol=0)
    torch.testing.assert_close(found.std(), others.std(), atol=0.08, rtol=0)


class Lightly(nn.Module):
    """lightly's SimCLR, put together as its documentation does, with a network of Pinakes.

    Args:
        encoder: The network.
    """

    def __init__(self, encoder: FeatureExtractor) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        width = encoder.widths[-1]
        self.encoder = encoder
        self.head = SimCLRProjectionHead(width, width, PROJECTION)
        self.criterion = NTXentLoss(TEMPERATURE)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """The loss of two views."""
        first, second = (self.head(self.encoder(each)[-1].mean((2, 3))) for each in (one, other))
        loss: Tensor = self.criterion(first, second)
        return loss


def title(what: str, backbone: str, batch: int, side: int) -> str:
    """What is timed, in words."""
    network = backbone.partition("/")[2].partition("@")[0]
    return f"{what}, {network}, {batch} images of {side} pixels"


def steps(backbone: str, batch: int, side: int) -> list[Finding]:
    """Steps of both; lightly's views are drawn image by image from pixels of 8 bits, as its data sets do."""
    titles = [title(what, backbone, batch, side) for what in (GIVEN, DRAWN, FREE)]
    if why := missing("lightly"):
        return [Finding(NAME, each, PEER, skipped=why) for each in titles[:2]]
    method = ours(backbone).train()
    theirs = Lightly(FeatureExtractor(backbone, (-1,))).train()
    image = torch.rand(batch, 3, side, side)
    one, other = torch.rand(2, batch, 3, side, side)

    def stepped(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
        optimiser = torch.optim.AdamW(network.parameters(), 1e-3)

        def run() -> float:
            for _ in range(STEPS):
                optimiser.zero_grad()
                value = loss()
                value.backward()
                optimiser.step()
            return float(value.detach())

        return run

    given = stepped(method, lambda: given_loss(method, one, other))
    drawing = stepped(method, lambda: method.loss(image))
    their_drawing = stepped(theirs, lightly_loss(theirs, image))
    timed = partial(race, NAME, rounds=9)
    alike, drawn = stepped(theirs, lambda: theirs(one, other)), f"{PEER}, which draws its views"
    return [
        timed(titles[0], ours=given, peer=alike, against=PEER, check=expect_losses),
        timed(titles[1], ours=drawing, peer=their_drawing, against=PEER, check=expect_losses),
        timed(titles[2], ours=given, peer=their_drawing, against=drawn, check=expect_numbers),
    ]


def given_loss(method: SimCLR, one: Tensor, other: Tensor) -> Tensor:
    """The loss of views that are drawn already."""
    return nt_xent_loss(method.project(one), method.project(other), method.temperature)


def lightly_loss(network: Lightly, image: Tensor) -> Callable[[], Tensor]:
    """The loss with views drawn by lightly's transform."""
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.functional import to_pil_image

    change = SimCLRTransform(
        input_size=image.shape[-1],
        min_scale=CROP[0],
        cj_prob=SHARE_JITTERED,
        random_gray_scale=SHARE_GREY,
        gaussian_blur=SHARE_BLURRED,
        sigmas=SIGMA,
    )
    pictures = [to_pil_image(each) for each in image]

    def loss() -> Tensor:
        one, other = zip(*(change(each) for each in pictures), strict=True)
        value: Tensor = network(torch.stack(one), torch.stack(other))
        return value

    return loss


def expect_losses(found: float, others: float) -> None:
    """Both learn: the losses are near each other after as many steps. Equality of the losses themselves is tested."""
    assert abs(found - others) < 0.5, f"losses {found} and {others}"


def expect_numbers(found: float, others: float) -> None:
    """Losses of different images are not to be compared."""
    assert math.isfinite(found)
    assert math.isfinite(others)
