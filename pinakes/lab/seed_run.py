"""One claim with one seed: run in this process or in others, and kept until the whole claim is done."""

import hashlib
import json
import multiprocessing
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pinakes.catalogue import find
from pinakes.data.inspection import cache_folder
from pinakes.engine.plan import torch_device
from pinakes.engine.runs import write_whole
from pinakes.lab import comparison
from pinakes.lab.claims import Lab, find_claim
from pinakes.lab.dependencies import code_hash
from pinakes.lab.fairness import NeedsNoData
from pinakes.lab.trial import NotTestable, Trial

TRACEBACK = "error.txt"
REASON_LENGTH = 500


@dataclass(frozen=True)
class SeedRun:
    """A piece of work: one claim with one seed.

    Args:
        slug: The paper.
        claim: The claim's name.
        seed: The seed.
        data: What stands in for the claim's data, or None.
        quick: Whether training is cut short.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    slug: str
    claim: str
    seed: int
    data: str | None = None
    quick: bool = False
    device: str = "auto"

    @property
    def folder(self) -> Path:
        """Where its result is kept until the claim is whole."""
        terms = json.dumps([self.data, self.quick, torch_device(self.device).type, comparison.versions()])
        key = hashlib.sha256(terms.encode()).hexdigest()[:16]
        return cache_folder() / "claims" / self.slug / self.claim / key

    @property
    def file(self) -> Path:
        """The file of its result."""
        return self.folder / f"seed-{self.seed}.json"


@dataclass(frozen=True)
class SeedResult:
    """What came of it.

    Args:
        outcome: The figures, or why there are none; a text says how it failed.
        seconds: How long it took.
        trace: Where it failed, or empty.
    """

    outcome: Trial | NotTestable | str
    seconds: float = 0.0
    trace: str = ""

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return isinstance(self.outcome, str)


def run(work: SeedRun) -> SeedResult:
    """Puts the claim to the test with its seed, on one thread, so that nothing depends on how many run at once."""
    started = time.perf_counter()
    try:
        with _repeatable(torch_device(work.device)):
            lab = Lab([work.seed], data=work.data, quick=work.quick, device=work.device)
            outcome = find_claim(find(work.slug), work.claim)(lab)
        if not isinstance(outcome, Trial | NotTestable):
            raise TypeError(f"the claim {work.claim} returned {type(outcome).__name__}, not a Trial")
        return SeedResult(outcome, time.perf_counter() - started)
    except NeedsNoData as error:
        return SeedResult(NotTestable(str(error)))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return SeedResult(in_one_line(error), time.perf_counter() - started, trace)


def run_all(works: Sequence[SeedRun], jobs: int) -> Iterator[tuple[SeedRun, SeedResult]]:
    """Runs pieces of work and yields each with its result, in the order in which they finish.

    Once a claim has failed with a seed, those of its seeds that have not begun are left out.

    Args:
        works: What to run.
        jobs: How many at a time; each has a process of its own if there are more than one.
    """
    failed: set[tuple[str, str]] = set()
    waiting = list(works)
    alone = False
    while waiting:
        finished: Iterator[tuple[SeedRun, SeedResult | None]]
        if jobs == 1:
            finished = iter([(waiting[0], run(waiting[0]))])
        else:
            finished = _in_processes(waiting[:1] if alone else waiting, 1 if alone else jobs)
        for work, result in finished:
            if result is None and not alone:
                alone = True  # one of those that ran has taken the others' processes with it
                break
            ended = "its process ended without a result; it may have run out of memory"
            done = result or SeedResult(ended)
            if done.failed:
                failed.add((work.slug, work.claim))
            waiting.remove(work)
            yield work, done
        waiting = [work for work in waiting if (work.slug, work.claim) not in failed]


def recall(work: SeedRun) -> SeedResult | None:
    """The kept result, or None if there is none that fits the code as it is now."""
    try:
        kept = json.loads(work.file.read_text())
        trial = Trial.from_json(kept["trial"])
        if kept["code"] != code_hash(find(work.slug), filter(None, [trial.data])):
            return None
        return SeedResult(trial, kept["seconds"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        work.file.unlink()
        return None


def keep(work: SeedRun, result: SeedResult) -> None:
    """Keeps a result, or the traceback of a failure, until the claim is whole."""
    if isinstance(result.outcome, Trial):
        code = code_hash(find(work.slug), filter(None, [result.outcome.data]))
        kept = {"trial": result.outcome.as_json(), "code": code, "seconds": result.seconds}
        write_whole(work.file, json.dumps(kept).encode())
    elif result.trace:
        write_whole(error_file(work.slug, work.claim), result.trace.encode())


def forget(work: SeedRun) -> None:
    """Removes what was kept of a claim that is whole."""
    shutil.rmtree(work.folder, ignore_errors=True)
    error_file(work.slug, work.claim).unlink(missing_ok=True)


def error_file(slug: str, claim: str) -> Path:
    """Where the traceback of a claim that failed is kept."""
    return cache_folder() / "claims" / slug / claim / TRACEBACK


def in_one_line(error: Exception) -> str:
    """An error in one line, with the error that it stems from where it says nothing itself."""
    words = " ".join(str(error).split())
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return text if len(text) <= REASON_LENGTH else f"{text[:REASON_LENGTH]}..."


def _in_processes(works: Sequence[SeedRun], jobs: int) -> Iterator[tuple[SeedRun, SeedResult | None]]:
    """Results as they come, and None for a piece whose process ended without one."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run, work): work for work in works}
        try:
            for future in as_completed(futures):
                work = futures[future]
                if future.cancelled():
                    continue
                if isinstance(future.exception(), BrokenProcessPool):
                    yield work, None
                    continue
                result = future.result()
                if result.failed:
                    for other, its in futures.items():
                        if (its.slug, its.claim) == (work.slug, work.claim):
                            other.cancel()
                yield work, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """One thread, and on CUDA kernels that give the same result every time, as far as there are such."""
    threads = torch.get_num_threads()
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
