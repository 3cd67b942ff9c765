"""`distill`: a small network that learns from a large one, chosen among the methods that can teach it, and exported."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pinakes
from pinakes import tasks
from pinakes.catalogue import Paper, find, papers
from pinakes.data import load_data
from pinakes.data.base import TaskData
from pinakes.data.splits import hold_out
from pinakes.data.views import chosen, labels_of
from pinakes.engine.checkpoints import SETTINGS
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.runs import DESCRIPTION, read_description, write_whole
from pinakes.errors import UserError, suggest
from pinakes.lab import notation
from pinakes.lab.compare import spread_options
from pinakes.lab.describing import data_name
from pinakes.lab.distilled import BATCHES, TASK, Candidate, Distilled, Figures
from pinakes.lab.judging import give_back, judged, milliseconds_an_image
from pinakes.lab.progress import WorkBar
from pinakes.lab.references import stretched
from pinakes.lab.stopping import remembered_stops

if TYPE_CHECKING:
    from pinakes.method import Method

log = logging.getLogger(__name__)

TEACHER, STUDENT = "teacher", "student"
"""The options by which a method is known as one that distils."""
FITS, RESULT, GRAPH = "fits", "distilled.json", "student.onnx"
HELD_OUT = 0.1
"""Share of the training images of each class on which the best of several methods is chosen."""
TIMED_RUNS = 15
SET_HERE = ("seed", "out", "resume", "devices", "nodes", "progress", "device")


def distillers() -> list[Paper]:
    """The papers that teach a student: those of classification whose method has a teacher and a student as options."""
    return [paper for paper in papers(task=TASK) if {TEACHER, STUDENT} <= set(paper.load().option_defaults())]


def default_distiller() -> Paper:
    """The method where none is named: the oldest baseline among them, on which the others build.

    Raises:
        UserError: If none of them is a baseline.
    """
    baselines = [paper for paper in distillers() if paper.baseline]
    if not baselines:
        slugs = ", ".join(paper.slug for paper in distillers())
        raise UserError(f"method: name one, or several with commas, or all; there are {slugs}")
    return min(baselines, key=lambda paper: paper.year)


def distill(
    teacher: str | Path,
    data: str | Path | TaskData,
    *,
    student: str,
    methods: str | Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    export: bool = True,
    progress: bool = False,
    **settings: Any,
) -> Distilled:
    """Teaches a student by one or more methods, keeps the best, measures it beside its teacher, and exports it.

    With several methods, the best is that with the best headline metric on the validation part of the data or, where
    it has none, on a tenth of the training images of each class, from which no student learns. Each method's run is
    kept in `out/fits/SLUG` as soon as it is fitted; one that fails does not stop the others, and the same call again
    continues from their checkpoints.

    Args:
        teacher: The run folder of a fitted classifier that methods accept as their teacher, or the name of a backbone,
            which is fine-tuned on the training images first.
        data: A spec, a path or loaded data, with classes and a test part.
        student: The backbone of the student.
        methods: Names in the catalogue, one string with commas or several; "all" are all that distil; None is the
            oldest baseline among them.
        size: Side, or height and width, of the images in pixels; by default that of the teacher, if it is a run.
        seed: Seed of everything random.
        options: Other hyper-parameters by method; those under "all" go to every method that has them.
        out: The student's run folder; by default runs/distilled-DATA.
        device: "auto", "cpu", "cuda" or "cuda:1".
        skip_bad: Leave out files that cannot be used.
        export: Whether to write the student as ONNX, checked against the method.
        progress: Whether to show what runs, on standard error.
        **settings: Training settings: epochs, steps, batch_size, precision, clip, workers, time_limit.

    Returns:
        The student, its figures and those of its teacher. They are in `out/distilled.json` as well.

    Raises:
        UserError: If a name, option, setting or the data cannot be used, the folder holds something else, or no
            method gave a result.

    Example:
        >>> made = distill("runs/large", "pets/", student="timm/resnet18", methods="all")  # doctest: +SKIP
        >>> made.student.metrics["accuracy"], made.exported.file  # doctest: +SKIP
        (0.93, PosixPath('runs/distilled-pets/student.onnx'))
    """
    chosen_papers = chosen_distillers(methods)
    options = _options(chosen_papers, options or {})
    given = {name: value for name, value in settings.items() if value is not None}
    _check_settings(given, device)
    loaded = load_data(data, task=TASK, size=size or teacher_size(teacher), skip_bad=skip_bad)
    if loaded.test is None or len(loaded.test) == 0:
        raise UserError(f"{loaded.spec}: has no test images to judge the student on; add a test folder")
    tasks.get(TASK).check_test(loaded.test)
    folder = Path(out) if out is not None else Path("runs") / f"distilled-{data_name(loaded.spec)}"
    if (folder / DESCRIPTION).exists() and not (folder / RESULT).exists():
        raise UserError(f"{folder}: already holds a run; choose another folder with out")
    work, choice = divided(loaded) if len(chosen_papers) > 1 else (loaded, "")
    roles = {TEACHER: str(teacher), STUDENT: student}
    plan = {**given, "seed": seed, "device": device}
    best, candidates = _fits(chosen_papers, work, roles, options, plan, folder, choice, progress)
    slug, method = best
    made = Distilled(
        slug,
        method,
        method.save(folder),
        _figures(_teacher_of(method), loaded),
        _figures(method, loaded),
        tuple(candidates),
        choice,
    )
    _write(made)
    if export:
        made = _exported(made)
        _write(made)
    return made


def _write(made: Distilled) -> None:
    write_whole(made.folder / RESULT, json.dumps(made.as_json(), indent=1, allow_nan=False).encode())


def chosen_distillers(methods: str | Sequence[str] | None) -> list[Paper]:
    """The methods that are named.

    Args:
        methods: As `distill` takes them.

    Raises:
        UserError: If a name is unknown, or a method teaches no student.
    """
    if methods is None:
        return [default_distiller()]
    able = {paper.slug: paper for paper in distillers()}
    if methods == "all":
        return list(able.values())
    slugs = methods.split(",") if isinstance(methods, str) else methods
    found = [find(slug) for slug in dict.fromkeys(slug.strip() for slug in slugs)]
    if not found:
        raise UserError("methods: none are given; name some, or give 'all'")
    for paper in found:
        if paper.slug not in able:
            raise UserError(f"{paper.slug} teaches no student{suggest(paper.slug, able)}")
    return found


def teacher_size(teacher: str | Path) -> tuple[int, int] | None:
    """Height and width of the images that a teacher was fitted on, if it is a run.

    Raises:
        UserError: If it is a folder that holds no run.
    """
    if not Path(teacher).is_dir():
        return None
    height, width = read_description(Path(teacher))["info"]["size"]
    return height, width


def _options(
    chosen_papers: Sequence[Paper], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The options of each method, checked by making it."""
    for slug, values in options.items():
        for name in {TEACHER, STUDENT} & set(values):
            raise UserError(f"options: {slug}.{name} is given already, as the {name}")
    by_slug = {slug: dict(values) for slug, values in spread_options(options, chosen_papers).items()}
    slugs = [paper.slug for paper in chosen_papers]
    for slug, values in by_slug.items():
        if slug not in slugs:
            raise UserError(f"options: '{slug}' is not among the methods{suggest(slug, slugs)}")
        pinakes.create(slug, **values)
    return by_slug


def _check_settings(given: Mapping[str, Any], device: str) -> None:
    known = {each.name for each in fields(TrainingPlan)} - set(SET_HERE)
    for name in given:
        if name not in known:
            raise UserError(f"distill has no setting '{name}'{suggest(name, known)}")
    TrainingPlan().settled({}, {**given, "device": device})


def divided(data: TaskData) -> tuple[TaskData, str]:
    """The data with the images that the choice is made on as its test part, and in words what they are.

    Args:
        data: Data of classes; where it has no validation part, a share of the training images is held out.

    Raises:
        UserError: If there are too few images.
    """
    if data.val is not None and len(data.val):
        return replace(data, test=data.val), f"the {len(data.val)} validation images"
    labels = labels_of(data.train)
    known = [index for index, label in enumerate(labels) if label is not None and label >= 0]
    names = [str(index) for index in known]
    held = {known[place] for place in hold_out(names, [str(labels[i]) for i in known], HELD_OUT, seed=0)}
    if not held:
        raise UserError(
            f"{data.spec}: has one training image of each class, too few to choose between methods; name one method"
        )
    rest = [index for index in range(len(labels)) if index not in held]
    words = f"{len(held)} of the {len(labels)} training images, from which no student learns"
    return replace(data, train=chosen(data.train, rest), test=chosen(data.train, sorted(held))), words


def _fits(
    chosen_papers: Sequence[Paper],
    data: TaskData,
    roles: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    plan: Mapping[str, Any],
    folder: Path,
    choice: str,
    progress: bool,
) -> tuple[tuple[str, "Method"], list[Candidate]]:
    """Fits every method, and gives the best with its name, and what came of each."""
    headline = tasks.get(TASK).headline
    sign = 1 if headline.higher_is_better else -1
    best: tuple[str, Method] | None = None
    reached, candidates = -math.inf, []
    alone = len(chosen_papers) == 1
    with (
        remembered_stops() as check_stop,
        WorkBar("distilling", len(chosen_papers), shown=progress and not alone) as bar,
    ):
        if choice:
            bar.say(f"the best is chosen on {choice}", done=0)
        for paper in chosen_papers:
            place = folder / FITS / paper.slug
            started = time.perf_counter()
            try:
                method = pinakes.create(paper.slug, **options.get(paper.slug, {}), **roles)
                resume = (place / SETTINGS).exists()
                method.fit(data, **plan, out=place, resume=resume, progress=progress and alone)
                took = time.perf_counter() - started
                value = math.nan if alone else method.evaluate(data)[headline.name]
            except Exception as error:
                check_stop()
                if alone:
                    raise
                log.info("%s failed", paper.slug, exc_info=error)
                words = " ".join(str(error).split())
                reason = words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
                took = time.perf_counter() - started
                candidates.append(Candidate(paper.slug, math.nan, took, place, reason))
                bar.say(f"{paper.slug}: failed: {reason}", done=len(candidates))
                continue
            candidates.append(Candidate(paper.slug, value, took, place))
            said = f"{headline.label} {notation.number(value)}, fitted in {notation.seconds(took)}"
            bar.say(f"{paper.slug}: {said}", done=len(candidates))
            if best is None or sign * value > reached:
                best, reached = (paper.slug, method), sign * value
            del method
            give_back()
            check_stop()
    if best is None:
        raise UserError(
            f"no method gave a student; the first, {candidates[0].slug}, failed: {candidates[0].error}"
        )
    return best, candidates


def _teacher_of(method: "Method") -> "Method":
    found = method.learnt_from()
    if TEACHER not in found:
        raise UserError(f"{type(method).__name__} does not say which teacher it learnt from")
    return found[TEACHER]


def _figures(method: "Method", data: TaskData) -> Figures:
    seen = stretched(data, method.info.size)
    found = judged(method, seen)
    return Figures(
        found.metrics,
        found.parameters,
        found.state_bytes,
        {
            batch: milliseconds_an_image(method, method.task, seen, images=batch, runs=TIMED_RUNS)
            for batch in BATCHES
        },
    )


def _exported(made: Distilled) -> Distilled:
    """The same with the student as a graph, or with what stands against it."""
    try:
        return replace(made, exported=made.method.export(made.folder / GRAPH))
    except UserError as error:
        return replace(made, obstacle=str(error))
