"""Progress through batches or layers: a bar while a person watches, and log records otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from permsolve.errors import InputError

logger = logging.getLogger("permsolve")

#: Seconds between two log records.
_LOG_EVERY = 5.0


@contextmanager
def counted(what: str, total: int | None, display: bool | None, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Show how many of many steps are done.

    Parameters
    ----------
    what
        What is done, for example "calibration".
    total
        Number of steps, or None where nobody knows.
    display
        True for a bar on the terminal, False for none, None for one where standard error is a terminal.
    done
        Steps that were done before.

    Yields
    ------
    Callable
        To be called after every step with what to say of it.

    Raises
    ------
    InputError
        If ``display`` is something else.
    """
    if display not in (True, False, None):
        raise InputError(f"display = {display!r} must be True, False or None")
    if not (sys.stderr.isatty() if display is None else display):
        yield _log(what, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        *(TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn()),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total, completed=done, at="")
        yield lambda said: bars.update(task, advance=1, at=said)


def _log(what: str, total: int | None, done: int) -> Callable[[str], None]:
    count, last = done, time.perf_counter()

    def step(said: str) -> None:
        nonlocal count, last
        count += 1
        now = time.perf_counter()
        if now - last >= _LOG_EVERY or count == total:
            last = now
            logger.info("%s: %d of %s%s", what, count, "?" if total is None else total, said and f", {said}")

    return step
