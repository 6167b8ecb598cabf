"""Tables of results for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.table import Table

from permsolve.result import Result


def comparison(results: Mapping[str, Sequence[Result]], title: str) -> Table:
    """Make the table that compares methods on one matrix.

    Parameters
    ----------
    results
        For each method its results, one per seed.
    title
        Heading.

    Returns
    -------
    rich.table.Table
        One row per method, the best median efficacy first.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("efficacy %", "best", "score", "gap %", "time s", "iterations"):
        table.add_column(heading, justify="right")
    table.add_column("status")
    for name, runs in sorted(results.items(), key=lambda item: -median(run.efficacy for run in item[1])):
        best = max(runs, key=lambda run: run.score)
        table.add_row(
            name,
            f"{median(run.efficacy for run in runs):.3f}",
            f"{best.efficacy:.3f}",
            f"{best.score:.7g}",
            f"{100 * best.gap:.3g}",
            f"{median(run.runtime for run in runs):.2f}",
            f"{int(median(run.iterations for run in runs)):,}",
            best.status.value,
        )
    return table
