"""Makes a leaderboard of the results of cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pinakes.catalogue import Paper
from pinakes.lab.cells import TRACEBACK, CellResult
from pinakes.lab.intervals import Estimate
from pinakes.lab.leaderboard import Column, Failure, Leaderboard, Reference, Row
from pinakes.tasks.base import Metric


def rank(
    task: str,
    data: str,
    metrics: Sequence[Metric],
    papers: Sequence[Paper],
    results: Sequence[CellResult],
    folder: Path | None = None,
    references: Sequence[Reference] = (),
    untrained: Mapping[tuple[str, int], Mapping[str, float]] | None = None,
) -> Leaderboard:
    """Gathers the results of every method over its seeds.

    Args:
        task: Name of the task.
        data: The spec of the data.
        metrics: The metrics of the task, the headline first; those without a value in any result are left out, and the
            first with one is the headline where the data does not allow the task's own.
        papers: The compared methods.
        results: Their cells.
        folder: The comparison's folder.
        references: What the methods learnt from; they are kept beside the rows and not ranked.
        untrained: The metrics by method and seed before it learnt, where that was judged.
    """
    found = {name for result in results for name in result.metrics}
    measured = [metric for metric in metrics if metric.name in found] or metrics[:1]
    columns = tuple(
        Column(metric.name, metric.label, metric.about, metric.higher_is_better) for metric in measured
    )
    return Leaderboard(
        task=task,
        data=data,
        columns=columns,
        rows=tuple(
            _row(paper, [r for r in results if r.slug == paper.slug], untrained or {}) for paper in papers
        ),
        failures=tuple(
            Failure(r.slug, r.seed, r.error, f"cells/{r.slug}/seed-{r.seed}/{TRACEBACK}")
            for r in results
            if r.error
        ),
        folder=folder,
        references=tuple(references),
    )


def _row(
    paper: Paper,
    results: Sequence[CellResult],
    untrained: Mapping[tuple[str, int], Mapping[str, float]],
) -> Row:
    good = [result for result in results if not result.error]
    names = list(dict.fromkeys(name for result in good for name in result.metrics))
    groups = {
        group: list(dict.fromkeys(name for result in good for name in result.groups.get(group, {})))
        for group in dict.fromkeys(group for result in good for group in result.groups)
    }
    nan = float("nan")
    before = [untrained.get((result.slug, result.seed), {}) for result in good]
    return Row(
        slug=paper.slug,
        title=paper.title,
        citation=f"{paper.authors}, {paper.venue}{' · baseline' if paper.baseline else ''}",
        url=paper.url,
        seeds=tuple(result.seed for result in good),
        metrics={name: Estimate(tuple(r.metrics.get(name, nan) for r in good)) for name in names},
        groups={
            group: {
                name: Estimate(tuple(r.groups.get(group, {}).get(name, nan) for r in good)) for name in each
            }
            for group, each in groups.items()
        },
        untrained={
            name: Estimate(tuple(each.get(name, nan) for each in before)) for name in names if any(before)
        },
        fit_seconds=Estimate(tuple(r.fit_seconds for r in good)),
        predict_milliseconds=Estimate(tuple(r.predict_milliseconds for r in good)),
        parameters=max((r.parameters for r in good), default=0),
        state_bytes=max((r.state_bytes for r in good), default=0),
        failures=len(results) - len(good),
    )
