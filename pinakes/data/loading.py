"""`load_data`: from a few words or a path to data that is checked and ready for a task."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pinakes.tasks
from pinakes.data import layouts
from pinakes.data.base import TaskData
from pinakes.data.sources import SOURCES, Loader, Request, loader
from pinakes.data.spec import Spec, check_size, read_options, to_int, to_size
from pinakes.data.tiles import Tiling, tiled
from pinakes.errors import UserError, suggest

if TYPE_CHECKING:
    from pinakes.tasks.base import Task


def load_data(
    spec: str | Path | TaskData,
    *,
    task: "Task | str | None" = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> TaskData:
    """Loads data, checks every file of it, and arranges it for a task.

    Images are stretched to one size, with antialiasing, and masks by the nearest pixel. The aspect ratio is not
    kept, because cropping would cut off parts in which a defect may lie, and padding would add borders that are not
    in the picture.

    Args:
        spec: `SCHEME:PATH?key=value&...` (schemes mvtec, folder, coco, masks, wds), a built-in set (`digits`,
            `textures`, `faces`) with options after a question mark, a path whose layout is recognised, or a `TaskData`,
            which is only arranged, whatever the other arguments. Every source takes the options size, seed and
            channels; those that read files take tile and overlap, in pixels, to cut large images; some tasks read
            options of their own, such as `seen` and `unknown`.
        task: The task to arrange the data for, or its name.
        size: Side, or height and width, in pixels; goes before the spec's own. By default the size of the images
            if all share one of at most 256 pixels a side, else 256 x 256.
        seed: Seed of random splits and of made images, unless the spec states one.
        skip_bad: Leave out files that cannot be used, and list them in `TaskData.skipped`.

    Returns:
        The data. `layout` says what was recognised.

    Raises:
        UserError: If the spec is not understood, there is nothing at the path, a file cannot be used, or the
            data cannot serve the task. The message names the file or option and says what to do.

    Example:
        >>> data = load_data("textures?size=32&n=8")
        >>> data.train[0]["image"].shape
        torch.Size([3, 32, 32])
    """
    if isinstance(task, str):
        task = pinakes.tasks.get(task)
    data = spec if isinstance(spec, TaskData) else _load(spec, size, seed, skip_bad)
    if task is None or data.task == task.name:
        return data
    if data.task:
        raise UserError(
            f"{data.spec}: has been arranged for the task '{data.task}'; load it anew for '{task.name}'"
        )
    for name in data.wishes:
        if name not in task.options:
            raise UserError(
                f"the task '{task.name}' has no data option '{name}'{suggest(name, task.options)}"
            )
    return replace(task.arrange(data), task=task.name)


def _load(text: str | Path, size: int | tuple[int, int] | None, seed: int, skip_bad: bool) -> TaskData:
    spec = Spec("", str(text)) if isinstance(text, Path) else Spec.parse(text, SOURCES)
    if not spec.scheme:
        spec = _recognised(spec)
    load = loader(spec.scheme)
    wishes = _wishes(spec, load)
    own = replace(spec, options={name: word for name, word in spec.options.items() if name not in wishes})
    options = read_options(load, own, SHARED)
    tile, overlap = options.pop("tile", None), options.pop("overlap", None)
    if tile is None and overlap is not None:
        raise UserError("the option 'overlap' is that of tiles; give tile as well")
    tiling = None if tile is None else Tiling(tile, overlap)
    words = dict(spec.options)
    if size is not None:
        options["size"] = check_size(size)
        words["size"] = "x".join(str(side) for side in dict.fromkeys(options["size"]))
    if seed and "seed" not in options:
        words["seed"] = str(seed)
    if options.get("seed", seed) < 0:
        raise UserError(f"the option 'seed' must not be negative, got {options.get('seed', seed)}")
    request = Request(
        spec=str(replace(spec, options=words)),
        path=spec.path,
        size=options.pop("size", None),
        seed=options.pop("seed", seed),
        channels=options.pop("channels", 3),
        skip_bad=skip_bad,
    )
    data = load(request, **options)
    if tiling is not None:
        data = tiled(data, tiling)
    return replace(data, wishes=wishes) if wishes else data


def _wishes(spec: Spec, load: Loader) -> dict[str, str]:
    """The options that are for a task: no option of the source or of all sources, but of some task."""
    own = {*inspect.signature(load).parameters, *SHARED}
    others = [name for name in spec.options if name not in own]
    known = (
        {name for task in pinakes.tasks.names() for name in pinakes.tasks.get(task).options} if others else ()
    )
    return {name: spec.options[name] for name in others if name in known}


def _recognised(spec: Spec) -> Spec:
    root = Path(spec.path).expanduser()
    if root.exists():
        scheme, root = layouts.recognise(root)
        return replace(spec, scheme=scheme, path=str(root))
    if spec.unknown_scheme:
        name = spec.unknown_scheme
        raise UserError(f"no kind of data is called '{name}'{suggest(name, SOURCES)}")
    if any(mark in spec.path for mark in "/\\."):
        raise UserError(f"{spec.path}: no such file or folder; check the path")
    raise UserError(
        f"'{spec.path}' is neither a file or folder nor a built-in set{suggest(spec.path, SOURCES)}"
    )


def _to_channels(name: str, word: str) -> int:
    if word not in {"1", "3"}:
        raise UserError(f"the option '{name}' must be 3 (colour) or 1 (grey), got '{word}'")
    return int(word)


SHARED = {"size": to_size, "seed": to_int, "channels": _to_channels, "tile": to_int, "overlap": to_int}
"""The options that every source takes, with what reads them."""
