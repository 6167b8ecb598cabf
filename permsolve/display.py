"""Progress of a solve: on a terminal while a person watches, through the ``permsolve`` logger otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from permsolve.errors import InputError
from permsolve.stop import AnyOf, Criterion, Progress

logger = logging.getLogger("permsolve")

#: Seconds between two log records of one solve.
_LOG_EVERY = 5.0


@contextmanager
def reporter(display: bool | None, method: str, stop: Criterion | None) -> Iterator[Callable[[Progress], None]]:
    """Provide the function that a run reports its progress to.

    Parameters
    ----------
    display
        True for a line on the terminal, False for none, None for one where standard error is a terminal.
    method
        Name of the method.
    stop
        The stop criterion: where it knows its end beforehand, a share is shown.

    Yields
    ------
    Callable
        The function.
    """
    if display not in (True, False, None):
        raise InputError(f"display = {display!r} must be True, False or None")
    if display is None:
        display = sys.stderr.isatty()
    if display:
        with _terminal(method, stop) as report:
            yield report
    else:
        yield _log(method)


def _log(method: str) -> Callable[[Progress], None]:
    last = [0.0]

    def report(progress: Progress) -> None:
        if progress.elapsed - last[0] >= _LOG_EVERY:
            last[0] = progress.elapsed
            logger.info("%s: %s", method, _line(progress))

    return report


@contextmanager
def _terminal(method: str, stop: Criterion | None) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    known = stop if isinstance(stop, AnyOf) else None if stop is None else AnyOf((stop,))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[at]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(method, total=None, at="")

        def report(progress: Progress) -> None:
            share = None if known is None else known.fraction(progress)
            bars.update(task, at=_line(progress), total=None if share is None else 1.0, completed=share or 0.0)

        yield report


def _line(progress: Progress) -> str:
    return (
        f"{progress.elapsed:6.1f} s  efficacy {progress.efficacy:7.3f} %  score {progress.score:.8g}  "
        f"gap {100 * progress.gap:.3g} %"
    )
