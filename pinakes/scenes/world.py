"""A scene as plain data: things made of parts, the ground, the background, lights and a camera.

The world has z upwards, the ground at z = 0, and lengths in scene units (a thing is about one unit across).
Rotations are rotation vectors: the axis times the angle in radians. Colours are sRGB in [0, 1].
"""

from dataclasses import dataclass, field, replace

Triple = tuple[float, float, float]

BACKGROUND, GROUND = 0, 1
"""Semantic ids that are no thing's; the class of a thing with category c is c + 2."""

GAMMA = 2.2
"""Linear light is a colour to this power, colours lying between 0 and 1."""

DOME_RADIUS = 20.0
"""Radius of the sphere around the world's origin on which the background is painted."""


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Args:
        texture: A name of `pinakes.scenes.textures.TEXTURES`.
        colour: Main colour.
        second: Second colour of the pattern.
        period: Length of one period of the pattern, in scene units.
        phase: Shifts the pattern, and chooses the noise and the place in the photograph; any number from 0 to 1.
        photo: Which photograph, for the texture "photo".
        specular: Strength of the highlight, 0 for a matt surface.
        gloss: Exponent of the highlight; higher is smaller and sharper.
    """

    texture: str = "plain"
    colour: Triple = (0.8, 0.8, 0.8)
    second: Triple = (0.3, 0.3, 0.3)
    period: float = 0.3
    phase: float = 0.0
    photo: int = 0
    specular: float = 0.0
    gloss: float = 30.0


@dataclass(frozen=True)
class Part:
    """A primitive in the frame of its thing; `size` as `pinakes.scenes.primitives` states it."""

    kind: str
    size: Triple
    offset: Triple = (0.0, 0.0, 0.0)
    turn: Triple = (0.0, 0.0, 0.0)
    material: Material = Material()


@dataclass(frozen=True)
class Thing:
    """An object: its parts, its pose, how it moves, and what can be said of it.

    Args:
        name: Name of its class.
        category: Integer class.
        parts: Its primitives, in its own frame, which has its origin where it stands on the ground.
        position: Where its origin is.
        turn: Its rotation.
        velocity: Movement in scene units a frame.
        spin: Rotation about the vertical, in radians a frame.
        radius: Radius of the upright cylinder that encloses it.
        height: Height of that cylinder.
        top: Radius of a disc that fits on its flat top, 0 if it has none.
        colour: Name of its colour.
        texture: Name of its texture.
        scale: "small" or "large".
        stands_on: Index of the thing that carries it, or -1 for the ground.
    """

    name: str
    category: int
    parts: tuple[Part, ...]
    position: Triple = (0.0, 0.0, 0.0)
    turn: Triple = (0.0, 0.0, 0.0)
    velocity: Triple = (0.0, 0.0, 0.0)
    spin: float = 0.0
    radius: float = 0.5
    height: float = 1.0
    top: float = 0.0
    colour: str = "grey"
    texture: str = "plain"
    scale: str = "large"
    stands_on: int = -1


@dataclass(frozen=True)
class Light:
    """A luminous ball; its radius makes the edges of shadows soft."""

    position: Triple
    radius: float = 0.6
    colour: Triple = (0.9, 0.87, 0.8)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, upright; `fov` is the vertical field of view in degrees."""

    position: Triple = (0.0, -7.0, 3.0)
    target: Triple = (0.0, 0.0, 0.4)
    fov: float = 32.0


@dataclass(frozen=True)
class Mark:
    """A blemish on the surface of a thing.

    Args:
        kind: "scratch", "dent" or "stain".
        thing: Index of the thing.
        start: Its centre, or one end of a scratch, in the frame of the thing.
        end: The other end of a scratch; otherwise the same as `start`.
        radius: Half the width of a scratch, otherwise the radius, in scene units.
        colour: Its colour, for scratches and stains.
        phase: Chooses the raggedness of its outline; from 0 to 1.
    """

    kind: str
    thing: int
    start: Triple
    end: Triple
    radius: float
    colour: Triple = (0.1, 0.1, 0.1)
    phase: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything there is to render and to say of one picture.

    Args:
        things: The objects; their index plus one is their instance id.
        ground: Material of the ground plane.
        background: Material of the dome around the world, which glows by itself.
        lights: The lamps.
        sky: Light that comes from everywhere above; a third of it comes back from below.
        camera: The first or only camera.
        marks: Blemishes on things.
    """

    things: tuple[Thing, ...]
    ground: Material = Material(colour=(0.6, 0.6, 0.58))
    background: Material = Material(colour=(0.75, 0.8, 0.86))
    lights: tuple[Light, ...] = (Light((-4.0, -5.0, 8.0)),)
    sky: Triple = (0.38, 0.4, 0.44)
    camera: Camera = field(default_factory=Camera)
    marks: tuple[Mark, ...] = ()

    def with_things(self, *things: Thing) -> "Scene":
        """The same scene with other things."""
        return replace(self, things=things)
