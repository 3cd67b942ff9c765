"""`compare`: methods and seeds on one data set, cell by cell, each kept as it finishes."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pinakes
from pinakes import tasks
from pinakes.catalogue import Paper
from pinakes.data import load_data
from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.runs import DESCRIPTION, read_description
from pinakes.errors import UserError, suggest
from pinakes.lab import notation
from pinakes.lab.cells import TELLING_SETTINGS, Cell, CellResult, cell_key, read_cell, write_cell
from pinakes.lab.describing import data_name, describe
from pinakes.lab.leaderboard import Leaderboard
from pinakes.lab.progress import WorkBar
from pinakes.lab.ranking import rank
from pinakes.lab.references import are_whole, read_references
from pinakes.lab.running import run_cell
from pinakes.lab.stopping import remembered_stops
from pinakes.lab.subject import subject as find_subject
from pinakes.lab.untrained import JUDGED_UNTRAINED, judge_untrained
from pinakes.report import write_report
from pinakes.tasks.base import Metric

_log = logging.getLogger(__name__)

ALL = "all"
"""In place of a method's name: every compared method that has the option."""

SET_HERE = ("seed", "out", "resume", "devices", "nodes", "progress", "checkpoint_every")
"""Settings of a fit that `compare` sets itself or has no use for."""


def compare(
    subject: str,
    data: str | Path | TaskData,
    methods: str | Sequence[str] = "all",
    *,
    seeds: int = 3,
    size: int | tuple[int, int] | None = None,
    time_limit: float | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Leaderboard:
    """Fits and judges methods with several seeds on one data set; writes a leaderboard and a report with pictures.

    Each pair of method and seed is a cell. Cells run one after the other, and each is on disk as soon as it is
    done: after an interruption the same call goes on where it stopped, and runs again what failed or what no
    longer fits (other options, settings, data or source code). A cell that fails does not stop the others; Ctrl-C and
    a request to end (SIGTERM) do. Methods that learn features are also judged as they were before they learnt; the gain
    is in the leaderboard.

    Args:
        subject: Name of a task, such as "anomaly", or of a shelf where no task has that name: then the methods are the
            shelf's papers of the task that most of them have.
        data: A spec, a path or loaded data, with a test part.
        methods: Names in the catalogue, one string with commas or several; "all" are those of the subject.
        seeds: How many seeds a method is run with: 0, 1, ...
        size: Side, or height and width, of the images in pixels.
        time_limit: Seconds of training after which a cell goes on with the weights it has.
        options: Hyper-parameters by method: {"patchcore": {"coreset_ratio": 0.05}}; those under "all" go to every
            compared method that has them and is not given its own.
        out: Folder of the comparison; by default runs/SUBJECT-DATA.
        device: "auto", "cpu", "cuda" or "cuda:1".
        skip_bad: Leave out files that cannot be used, and list them in the report.
        progress: Whether to show what runs, on standard error.
        **settings: Training settings for every method: epochs, steps, batch_size, precision, clip, workers.

    Returns:
        The leaderboard; its `report` is the page with the pictures.

    Raises:
        UserError: If a name, option, setting or the data cannot be used, or the folder holds another comparison;
            nothing has been run then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as out:
        ...     board = compare("anomaly", "textures?size=32&n=8", "patchcore", seeds=1, out=out)
        >>> board.rows[0].slug
        'patchcore'
    """
    about = find_subject(subject, methods)
    chosen, stated = about.papers, tasks.get(about.task)
    given = {
        name: value for name, value in {"time_limit": time_limit, **settings}.items() if value is not None
    }
    given_options = {slug: dict(values) for slug, values in (options or {}).items()}
    options = spread_options(given_options, chosen)
    plans = _check(chosen, seeds, options, {**given, "device": device})
    loaded = load_data(data, task=stated, size=size, skip_bad=skip_bad)
    if loaded.test is None or len(loaded.test) == 0:
        raise UserError(f"{loaded.spec}: has no test images to judge methods on; add a test folder")
    stated.check_test(loaded.test)
    _check_form(chosen, loaded)
    folder = Path(out) if out is not None else Path("runs") / f"{subject}-{data_name(loaded.spec)}"
    spoken = {
        "methods": methods if isinstance(methods, str) else list(methods),
        "seeds": seeds,
        "size": None if isinstance(data, TaskData) else size,
        **given,
        "options": given_options,
        "out": str(folder),
        "device": None if device == "auto" else device,
        "skip_bad": skip_bad,
    }
    description = describe(
        folder,
        stated,
        loaded,
        subject=about,
        methods=[paper.slug for paper in chosen],
        seeds=seeds,
        device=torch_device(device),
        spec=loaded.spec if isinstance(data, TaskData) else str(data),
        arguments={name: value for name, value in spoken.items() if value},
        workers=given.get("workers", 0),
    )
    cells = [
        Cell(
            paper,
            seed,
            options.get(paper.slug, {}),
            {**given, "device": device},
            _key(paper, seed, plan, loaded, options),
        )
        for seed in range(seeds)
        for paper, plan in zip(chosen, plans, strict=True)
    ]
    results: list[CellResult] = []
    untrained: dict[tuple[str, int], Mapping[str, float]] = {}
    with (
        remembered_stops() as check_stop,
        WorkBar("comparing", len(cells), shown=progress) as bar,
    ):
        for cell in cells:
            result = read_cell(cell.folder(folder))
            whole = are_whole(folder, cell.folder(folder))
            if result is None or result.key != cell.key or result.error or not whole:
                shown = [sample.index for sample in description.shown]
                result, files = run_cell(cell, stated, loaded, shown, folder)
                if result.error:
                    check_stop()
                write_cell(cell.folder(folder), result, files)
            if about.task in JUDGED_UNTRAINED and not result.error:
                untrained[result.slug, result.seed] = judge_untrained(cell, loaded, folder)
                check_stop()
            results.append(result)
            bar.say(_line(result, stated.metrics), done=len(results))
            check_stop()
    references = read_references(folder, results)
    board = rank(stated.name, loaded.spec, stated.metrics, chosen, results, folder, references, untrained)
    board.save(folder)
    write_report(folder)
    return board


def _line(result: CellResult, metrics: Sequence[Metric]) -> str:
    if result.error:
        return f"{result.slug}, seed {result.seed}: failed: {result.error}"
    headline = next((each for each in metrics if each.name in result.metrics), metrics[0])
    value = notation.number(result.metrics.get(headline.name, math.nan))
    took = notation.seconds(result.fit_seconds)
    return f"{result.slug}, seed {result.seed}: {headline.label} {value}, fitted in {took}"


def spread_options(
    options: Mapping[str, Mapping[str, Any]], chosen: Sequence[Paper]
) -> dict[str, Mapping[str, Any]]:
    """The options by method, those for all given to every method that has them and is not given its own.

    Args:
        options: Options by method, or under "all".
        chosen: The methods.

    Raises:
        UserError: If no method has an option that is for all.
    """
    spread: dict[str, Mapping[str, Any]] = {slug: values for slug, values in options.items() if slug != ALL}
    if ALL not in options:
        return spread
    known = {paper.slug: _option_names(paper) for paper in chosen}
    for name, value in options[ALL].items():
        having = [slug for slug, names in known.items() if name in names]
        if not having:
            everything = {each for names in known.values() for each in names}
            raise UserError(f"options: no compared method has an option '{name}'{suggest(name, everything)}")
        for slug in having:
            spread[slug] = {name: value, **spread.get(slug, {})}
    return spread


def _option_names(paper: Paper) -> list[str]:
    try:
        return list(paper.load().option_defaults())
    except Exception as error:
        _log.info("%s cannot be imported, so its cells will fail: %s", paper.slug, error)
        return []


def _check(
    chosen: Sequence[Paper], seeds: int, options: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[TrainingPlan]:
    """Finds what is wrong with the arguments before anything runs, and settles the plan of each method."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"seeds: expected a whole number of 1 or more, got {seeds!r}")
    known = {each.name for each in fields(TrainingPlan)} - set(SET_HERE)
    for name in settings:
        if name not in known:
            raise UserError(f"compare has no setting '{name}'{suggest(name, known)}")
    slugs = [paper.slug for paper in chosen]
    for slug in options:
        if slug not in slugs:
            raise UserError(f"options: '{slug}' is not among the compared methods{suggest(slug, slugs)}")
    plans = []
    for paper in chosen:
        defaults: Mapping[str, Any] = {}
        try:
            defaults = pinakes.create(paper.slug, **options.get(paper.slug, {})).training_defaults
        except UserError as error:
            raise error if paper.slug in str(error) else UserError(f"{paper.slug}: {error}") from error
        except Exception as error:
            _log.info("%s cannot be made, so its cells will fail: %s", paper.slug, error)
        plans.append(TrainingPlan().settled(defaults, settings))
    return plans


def _check_form(chosen: Sequence[Paper], data: TaskData) -> None:
    """Refuses data whose form no method takes; where only some refuse it, theirs are failed cells."""
    refusals = []
    for paper in chosen:
        try:
            paper.load().check_info(data.info)
        except UserError as error:
            refusals.append(error)
        except Exception as error:
            _log.info("%s cannot be imported, so its cells will fail: %s", paper.slug, error)
    if len(refusals) == len(chosen):
        raise refusals[0]


def _key(
    paper: Paper, seed: int, plan: TrainingPlan, data: TaskData, options: Mapping[str, Mapping[str, Any]]
) -> str:
    given = sorted(options.get(paper.slug, {}).items())
    runs = {name: found for name, value in given if (found := _weights(value))}
    return cell_key(
        paper,
        seed=seed,
        options=given,
        data=data.fingerprint(),
        size=data.size,
        settings={name: getattr(plan, name) for name in TELLING_SETTINGS},
        device=torch_device(plan.device).type,
        version=pinakes.__version__,
        **({"runs": runs} if runs else {}),
    )


def _weights(option: Any) -> str:
    """The checksum of the weights where an option names a run folder, so that another run is not taken for it."""
    if not isinstance(option, str | Path) or not (Path(option) / DESCRIPTION).is_file():
        return ""
    return str(read_description(Path(option))["weights_sha256"])
