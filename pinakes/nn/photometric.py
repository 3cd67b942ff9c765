"""Random changes of the colours and the sharpness of a batch of images, each its own, on its device.

Everything is drawn from torch's generator. Written out here because kornia is slower, most of it for its way through
hue, saturation and value, and torchvision changes all images of a batch alike; `python -m benchmarks random_views`
measures both.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)
"""How bright red, green and blue are."""


def jittered(
    image: Float[Tensor, "batch channels height width"],
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    share: float = 0.8,
) -> Float[Tensor, "batch channels height width"]:
    """Changes brightness, contrast, saturation and hue of most images, in this order.

    Brightness, contrast and saturation are changed as torchvision's functions of these names do; the hue is turned in
    the plane of the colours I and Q, so that all of it is one linear map of each image's colours. Images of other than
    three channels keep their saturation and hue.

    Args:
        image: Images in [0, 1].
        brightness: Factors lie between 1 less and 1 more than this, at most 1; likewise `contrast` and `saturation`.
        contrast: As above.
        saturation: As above.
        hue: The largest turn, as a share of the circle, at most 0.5.
        share: Of the images that are changed.

    Example:
        >>> jittered(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    batch, channels = image.shape[:2]
    draws = 2 * torch.rand(batch, 4, device=image.device) - 1
    changed = (torch.rand(batch, 1, device=image.device) < share).to(draws.dtype)
    reach = draws.new_tensor([brightness, contrast, saturation, hue])
    bright, sharp, vivid, turn = (draws * reach * changed + draws.new_tensor([1, 1, 1, 0])).unbind(1)
    return recoloured(image, bright, sharp, vivid, turn) if channels == 3 else relit(image, bright, sharp)


def relit(
    image: Float[Tensor, "batch channels height width"],
    brightness: Float[Tensor, " batch"],
    contrast: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Images times their brightness, then drawn away from their mean by their contrast.

    Args:
        image: Images in [0, 1].
        brightness: A factor for each.
        contrast: A factor for each.
    """
    lit = (image * brightness.view(-1, 1, 1, 1)).clamp(0, 1)
    middle = lit.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, lit, contrast.view(-1, 1, 1, 1)).clamp(0, 1)


def recoloured(
    image: Float[Tensor, "batch 3 height width"],
    brightness: Float[Tensor, " batch"],
    contrast: Float[Tensor, " batch"],
    saturation: Float[Tensor, " batch"],
    hue: Float[Tensor, " batch"],
) -> Float[Tensor, "batch 3 height width"]:
    """Images with their brightness, contrast, saturation and hue changed, in this order.

    Args:
        image: Images in [0, 1].
        brightness: A factor for each.
        contrast: A factor for each: how far colours are from the mean brightness of the image.
        saturation: A factor for each: how far colours are from grey.
        hue: A turn for each, as a share of the circle.
    """
    lit = (image * brightness.view(-1, 1, 1, 1)).clamp(0, 1)
    to_grey = lit.new_tensor(GREY)
    middle = torch.einsum("bchw,c->b", lit, to_grey) / (lit.shape[2] * lit.shape[3])
    # as one map of colours: x -> turn (vivid (sharp x + (1 - sharp) middle)); grey stays what it is under both
    vivid = _blended_with_grey(saturation, to_grey)
    colours = _turned(hue, lit) @ vivid
    weight = colours * contrast.view(-1, 1, 1)
    offset = (1 - contrast) * middle
    changed = torch.baddbmm(offset.view(-1, 1, 1), weight, lit.flatten(2))
    return changed.view_as(lit).clamp(0, 1)


def _blended_with_grey(saturation: Float[Tensor, " batch"], to_grey: Tensor) -> Float[Tensor, "batch 3 3"]:
    """x -> s x + (1 - s) grey(x)."""
    same = torch.eye(3, dtype=to_grey.dtype, device=to_grey.device)
    share = saturation.to(to_grey.dtype).view(-1, 1, 1)
    return share * same + (1 - share) * to_grey.expand(3, 3)


def _turned(hue: Float[Tensor, " batch"], like: Tensor) -> Float[Tensor, "batch 3 3"]:
    """The turn of I and Q in colours of red, green and blue; brightness stays."""
    to_yiq = like.new_tensor([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    angle = 2 * math.pi * hue.to(like.dtype)
    sine, cosine, nothing = angle.sin(), angle.cos(), torch.zeros_like(angle)
    turn = torch.stack(
        [nothing + 1, nothing, nothing, nothing, cosine, -sine, nothing, sine, cosine], dim=1
    ).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def greyed(
    image: Float[Tensor, "batch channels height width"], share: float = 0.2
) -> Float[Tensor, "batch channels height width"]:
    """Takes the colour out of some images of three channels; others are left alone.

    Args:
        image: Images.
        share: Of the images that become grey.
    """
    if image.shape[1] != 3:
        return image
    heads = torch.rand(len(image), 1, 1, 1, device=image.device) < share
    grey = torch.einsum("bchw,c->bhw", image, image.new_tensor(GREY))[:, None]
    return torch.where(heads, grey, image)


def solarised(
    image: Float[Tensor, "batch channels height width"], share: float = 0.2
) -> Float[Tensor, "batch channels height width"]:
    """Inverts the values of 0.5 and more of some images.

    Args:
        image: Images in [0, 1].
        share: Of the images that are changed.
    """
    heads = torch.rand(len(image), 1, 1, 1, device=image.device) < share
    return torch.where(heads & (image >= 0.5), 1 - image, image)


def blurred(
    image: Float[Tensor, "batch channels height width"],
    share: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
) -> Float[Tensor, "batch channels height width"]:
    """Some images, each smoothed by a Gaussian of its own; borders are mirrored.

    Args:
        image: Images.
        share: Of the images that are changed.
        sigma: Least and greatest deviation of the Gaussian, in pixels. It reaches as far as a tenth of the shorter
            side, and at least one pixel.
    """
    batch, channels, height, width = image.shape
    heads = torch.rand(batch, device=image.device) < share
    deviation = sigma[0] + (sigma[1] - sigma[0]) * torch.rand(batch, device=image.device)
    reach = max(1, min(height, width) // 20)
    places = torch.arange(-reach, reach + 1, device=image.device)
    weight = (-(places**2) / (2 * deviation[:, None] ** 2)).exp()
    weight = torch.where(heads[:, None], weight, (places == 0).to(weight.dtype))
    weight = (weight / weight.sum(1, keepdim=True)).to(image.dtype)
    # one group a channel of an image, so that each is smoothed by its own
    kernel = weight.repeat_interleave(channels, 0)
    planes = image.reshape(1, batch * channels, height, width)
    padded = functional.pad(planes, (reach,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=batch * channels)
    both = functional.conv2d(rows, kernel[:, None, None, :], groups=batch * channels)
    return both.view_as(image)
