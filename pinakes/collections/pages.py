"""Pages that need no other file and no network, in the look of the reports."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import pinakes.report
from pinakes.engine.runs import write_whole

QUALITY = 75


@dataclass(frozen=True)
class Picture:
    """A picture in a page: its content as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def picture(image: Image.Image, *, quality: int = QUALITY) -> Picture:
    """A picture as WebP."""
    content = io.BytesIO()
    image.convert("RGB").save(content, "WEBP", quality=quality, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Picture(uri, image.width, image.height)


def write(file: Path, template: str, /, **values: Any) -> None:
    """Writes a page whole.

    Args:
        file: The page.
        template: Of this package; it may include what the reports' folder holds.
        **values: What the template shows.

    Raises:
        UserError: If it cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(pinakes.report.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(file, environment.get_template(template).render(**values).encode())
