"""Samples as pictures: the image, and every label that has a place in it."""

from collections.abc import Callable

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from pinakes.data.base import DataInfo, Sample
from pinakes.scenes.relations import RELATIONS
from pinakes.scenes.world import GAMMA
from pinakes.tasks.base import Panel, to_pixels

_STUFF = ((0.15, 0.15, 0.15), (0.82, 0.82, 0.8))
"""Colours of background and ground, which are no things."""
_VIVID = (0, 2, 4, 6, 8, 10, 12, 16, 18, 5)
"""Colours of the palette "tab20" that are neither grey nor much alike."""


def _painted(values: Float[Tensor, "height width"], colours: str) -> np.ndarray:
    low, high = torch.quantile(
        values.flatten()[:: max(1, values.numel() // 10000)], torch.tensor([0.02, 0.98])
    )
    scaled = ((values - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return (matplotlib.colormaps[colours](scaled.numpy())[..., :3] * 255).astype(np.uint8)


def _numbered(ids: Int[Tensor, "height width"], stuff: int = 1) -> np.ndarray:
    """Ids in colours of their own; the first are grey."""
    palette = np.array([*_STUFF[:stuff], *(matplotlib.colormaps["tab20"](i)[:3] for i in _VIVID)])
    places = torch.where(ids < stuff, ids, stuff + (ids - stuff) % len(_VIVID))
    return (palette[places.numpy()] * 255).astype(np.uint8)


def _moving(flow: Float[Tensor, "2 height width"]) -> np.ndarray:
    """Direction as hue, length as strength of colour, which all but the largest movements of the picture share out."""
    hue = torch.atan2(flow[1], flow[0]) / (2 * np.pi) + 0.5
    length = flow.square().sum(0).sqrt()
    strength = length / torch.quantile(length.flatten()[:: max(1, length.numel() // 10000)], 0.98).clamp_min(
        0.5
    )
    colours = np.stack([hue.numpy(), strength.clamp(0, 1).numpy(), np.ones(hue.shape)], axis=-1)
    return (hsv_to_rgb(colours) * 255).astype(np.uint8)


def _gamma(light: Float[Tensor, "3 height width"]) -> np.ndarray:
    return to_pixels(light.clamp(0, 1).pow(1 / GAMMA))


_MAPS: dict[str, tuple[str, Callable[[Tensor], np.ndarray]]] = {
    "image_right": ("right picture", to_pixels),
    "image_2": ("second picture", to_pixels),
    "semantic": ("classes", lambda ids: _numbered(ids, stuff=2)),
    "instance": ("things", lambda ids: _numbered(ids if ids.ndim == 2 else ids[0])),
    "depth": ("depth", lambda depth: _painted(-depth.log(), "viridis")),
    "depth_2": ("second depth", lambda depth: _painted(-depth.log(), "viridis")),
    "normal": (
        "normals",
        lambda normal: to_pixels(normal * normal.new_tensor([1, -1, -1])[:, None, None] / 2 + 0.5),
    ),
    "albedo": ("albedo", _gamma),
    "shading": ("shading", lambda shading: _gamma(shading * 0.8)),
    "disparity": ("disparity", lambda disparity: _painted(disparity, "magma")),
    "flow": ("flow", _moving),
    "mask": ("mask", lambda mask: to_pixels(mask[None].float())),
}
"""Labels that are maps, with their captions and how they are painted."""


def _words(sample: Sample, info: DataInfo) -> str:
    if "question" in sample:
        return f"{sample['question']} {sample['answer']}"
    if "caption" in sample:
        return str(sample["caption"])
    if len(sample.get("triplets", ())):
        subject, relation, target = sample["triplets"][0].tolist()
        first, second = (info.classes[int(sample["labels"][i])] for i in (subject, target))
        return f"{first} {RELATIONS[relation]} {second}"
    if "table" in sample:
        row = zip(info.columns, sample["table"].tolist(), strict=True)
        return ", ".join(column.say(value) for column, value in row)
    named = [info.classes[int(sample["label"])]] if "label" in sample and info.classes else []
    named += [str(sample["kind"])] if "kind" in sample else []
    named += [f"group {int(sample['group'])}"] if "group" in sample else []
    return ", ".join(dict.fromkeys(named))


def _with_boxes(sample: Sample) -> np.ndarray:
    pixels = to_pixels(sample["image"])
    colours = [tuple(int(255 * x) for x in matplotlib.colormaps["tab10"](i)[:3]) for i in range(10)]
    for i, (left, top, right, bottom) in enumerate(sample["boxes"].long().tolist()):
        colour = colours[i % 10]
        pixels[[top, bottom - 1], left:right] = colour
        pixels[top:bottom, [left, right - 1]] = colour
    return pixels


def _film(sample: Sample, shown: int = 4) -> list[Panel]:
    frames, tracks, visible = sample["frames"], sample["tracks"], sample["visible"]
    count, _, height, width = frames.shape
    colours = (
        np.array([matplotlib.colormaps["hsv"](i / len(tracks))[:3] for i in range(len(tracks))]) * 255
    ).astype(np.uint8)
    panels = []
    for time in np.linspace(0, count - 1, min(shown, count)).round().astype(int).tolist():
        pixels = to_pixels(frames[time])
        places = tracks[:, time].round().long()
        inside = visible[:, time] & (places >= 0).all(1) & (places < torch.tensor([width, height])).all(1)
        for dv, du in ((0, 0), (0, 1), (1, 0), (1, 1)):
            u = (places[inside, 0] + du).clamp_max(width - 1)
            v = (places[inside, 1] + dv).clamp_max(height - 1)
            pixels[v.numpy(), u.numpy()] = colours[inside.numpy()]
        panels.append(Panel(pixels, f"frame {time}"))
    return panels


def panels(sample: Sample, info: DataInfo) -> list[Panel]:
    """The image of a sample, with boxes if it has any, and each of its labels that is a map.

    Pixels that are not seen in the second of two pictures are dark in flow and disparity.

    Args:
        sample: A sample of any label.
        info: Names of the classes, and the columns of the table.
    """
    if "frames" in sample:
        return _film(sample)
    drawn = _with_boxes(sample) if "boxes" in sample else to_pixels(sample["image"])
    found = [Panel(drawn, _words(sample, info))]
    for name, (caption, paint) in _MAPS.items():
        if name not in sample:
            continue
        pixels = paint(sample[name])
        if name == "flow":
            pixels[~sample["visible"].numpy()] //= 4
        if name == "disparity":
            pixels[sample["occluded"].numpy()] //= 4
        found.append(Panel(pixels, caption))
    return found
