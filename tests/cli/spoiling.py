"""Bad inputs: what is done to good ones, and what the command line must say of them."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One bad input.

    Args:
        name: What is bad.
        line: The command; RUN stands for a copy of a fitted run.
        words: What the error must hold: what is bad, and the remedy.
        spoil: Makes it bad, given the folder that holds `parts` and `run`.
    """

    name: str
    line: str
    words: tuple[str, ...]
    spoil: Callable[[Path], object] = lambda folder: None


def write_bytes(name: str, content: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def cut(folder: Path) -> None:
    path = folder / "parts/train/good/1.png"
    path.write_bytes(path.read_bytes()[:200])


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 3.6 thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def remove(*patterns: str) -> Callable[[Path], object]:
    def unlink(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return unlink


def change_run(**values: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "run/method.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def flip_a_weight(folder: Path) -> None:
    path = folder / "run/weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
