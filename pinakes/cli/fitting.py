"""`pinakes fit`: fits one method and keeps it in a run folder."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from pinakes import catalogue
from pinakes.cli import completion
from pinakes.cli.console import is_main_process, kept_clear, note, note_data, shows_progress
from pinakes.cli.parameters import (
    LOADERS,
    Backbone,
    Clip,
    Data,
    Device,
    Epochs,
    FitBatchSize,
    FitPrecision,
    Size,
    SkipBad,
    Slug,
    Steps,
    TimeLimit,
    Workers,
    pixels,
)
from pinakes.cli.usage import use_of


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fit", epilog="Example: pinakes fit patchcore --data parts/ --size 128 --out runs/parts")(fit)


def fit(
    slug: Slug,
    data: Data,
    size: Size = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: FitBatchSize = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the method, as pinakes show lists them; may be repeated.",
            autocompletion=completion.settings,
        ),
    ] = None,
    backbone: Backbone = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(metavar="N", help="Processes on this machine, one a device.")] = 1,
    nodes: Annotated[int, typer.Option(metavar="N", help="Machines, under torchrun or Slurm.")] = 1,
    precision: FitPrecision = "32",
    compile_networks: Annotated[
        bool,
        typer.Option("--compile", help="Translate networks by torch.compile first; for a GPU, long runs."),
    ] = False,
    clip: Clip = None,
    workers: Workers = LOADERS,
    hold_out: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the images that is held out to find a threshold; 0.1."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of normal images that the threshold may let through; 0.05."
        ),
    ] = None,
    time_limit: TimeLimit = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; runs/SLUG-DATA by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in the run folder.")
    ] = False,
    skip_bad: SkipBad = False,
) -> None:
    """Fit a method on images and keep it in a run folder."""
    paper = catalogue.find(slug)
    shape = pixels(size)

    from pinakes.cli.options import read_settings
    from pinakes.cli.output import check_run_folder, run_name
    from pinakes.data import load_data
    from pinakes.engine.compiling import compiled
    from pinakes.engine.plan import TrainingPlan

    folder = Path("runs", run_name(slug, data)) if out is None else out
    with kept_clear():
        kind = paper.load()
        named = [f"backbone={backbone}"] if backbone else []
        method = kind(**read_settings([*named, *(settings or [])], kind, slug))
        plan = {
            "epochs": epochs,
            "steps": steps,
            "batch_size": batch_size,
            "seed": seed,
            "device": device,
            "devices": devices,
            "nodes": nodes,
            "precision": precision,
            "clip": clip,
            "workers": workers,
            "hold_out": hold_out,
            "false_alarms": false_alarms,
            "time_limit": time_limit,
            "out": folder,
            "resume": resume,
            "progress": shows_progress(),
        }
        TrainingPlan().settled(kind.training_defaults, plan)
        if compile_networks:
            method = compiled(method)
        if is_main_process():
            check_run_folder(folder, slug, resume=resume)
        loaded = load_data(data, task=method.task, size=shape, seed=seed, skip_bad=skip_bad)
    note_data(loaded)
    started = time.monotonic()
    with kept_clear():
        method.fit(loaded, **plan)
    note(f"fitted {slug} in {time.monotonic() - started:.1f} s; the run is in {folder}")
    run, words = shlex.quote(str(folder)), shlex.quote(data)
    if loaded.test is not None:
        note(f"judge it:  pinakes evaluate {run} --data {words}")
    note(f"use it:    {use_of(kind.task_name, folder)}")
