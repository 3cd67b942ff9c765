"""The same classes in different styles, and two kinds of shift between training and test."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, draw_thing, pick
from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.label import Block, Label
from pinakes.scenes.sensor import Sensor
from pinakes.scenes.world import Scene, Triple


@dataclass(frozen=True)
class Style:
    """How the scenes of one domain look: what they are drawn from, which light and which sensor."""

    distribution: Distribution
    lamp: Triple = (1.0, 1.0, 1.0)
    sky: Triple = (0.38, 0.4, 0.44)
    sensor: Sensor = field(default_factory=Sensor)


STYLES = {
    "studio": Style(Distribution(textures=("plain", "gradient"), grounds=("plain",))),
    "patterns": Style(
        Distribution(textures=("striped", "checked", "dotted"), grounds=("checked", "brick", "striped"))
    ),
    "dusk": Style(
        Distribution(textures=("plain", "cloudy", "marble"), grounds=("plain", "cloudy")),
        (0.95, 0.55, 0.25),
        (0.12, 0.13, 0.24),
    ),
    "grain": Style(Distribution(), sensor=Sensor(noise=0.09, blur=0.012, colour=0.15, exposure=0.9)),
    "photos": Style(Distribution().textured_by("photo")),
}
"""The domains in the order of their numbers."""

Domain = Literal["studio", "patterns", "dusk", "grain", "photos"]
Shift = Literal["diversity", "correlation", "none"]


def _lit(scene: Scene, style: Style) -> Scene:
    lights = []
    for light in scene.lights:
        r, g, b = (x * y for x, y in zip(light.colour, style.lamp, strict=True))
        lights.append(replace(light, colour=(r, g, b)))
    dim = sum(style.sky) / 1.22
    r, g, b = (min(1.0, dim * x) for x in scene.background.colour)
    s, t, u = (min(1.0, dim * x) for x in scene.background.second)
    background = replace(scene.background, colour=(r, g, b), second=(s, t, u))
    return replace(scene, lights=tuple(lights), sky=style.sky, background=background)


def samples(
    block: Block, *, shift: Shift = "diversity", held_out: Domain = "photos", strength: float = 0.9
) -> list[Sample]:
    """One thing a picture: `label` is its class, `domain` the number of its style, `kind` the name of that.

    Diversity shift: the domain `held_out` is seen in the test only, and nothing else there. Correlation shift: in
    training and validation each class has a colour of its own with probability `strength`, in the test colours are
    drawn at random; `aligned` is 1 where the colour is that of the class. Without shift all domains are everywhere.

    Args:
        block: Which samples.
        shift: What differs between training and test.
        held_out: The domain that is new in the test, for diversity shift.
        strength: How far colour predicts class, from 0 to 1, for correlation shift.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"the option 'strength' must be from 0 to 1, got {strength:g}")
    domains = tuple(STYLES)
    if shift == "diversity":
        kept = tuple(name for name in domains if name != held_out)
        domains = (held_out,) if block.split == "test" else kept
    elif shift == "correlation":
        domains = ("studio",)
    scenes, kinds, generators = [], [], block.generators()
    for index, rng in zip(block.indices, generators, strict=True):
        kind = domains[index % len(domains)]
        style = STYLES[kind]
        name = str(pick(rng, CLASSES))
        colour = str(pick(rng, tuple(COLOURS)))
        if shift == "correlation" and block.split != "test" and rng.random() < strength:
            colour = tuple(COLOURS)[CLASSES.index(name)]
        main = draw_thing(rng, style.distribution, name=name, colour=colour, scale=1.0)
        scenes.append(_lit(draw_portrait(rng, style.distribution, main=main), style))
        kinds.append(kind)
    pictures = block.render(scenes, "image")["image"]
    found = []
    for image, scene, kind, rng in zip(pictures, scenes, kinds, generators, strict=True):
        thing = scene.things[0]
        found.append(
            {
                "image": STYLES[kind].sensor(image, rng),
                "label": thing.category,
                "domain": tuple(STYLES).index(kind),
                "kind": kind,
                "aligned": int(tuple(COLOURS)[thing.category] == thing.colour),
            }
        )
    return found


LABEL = Label("classes in several domains", samples, lambda **options: CLASSES)
