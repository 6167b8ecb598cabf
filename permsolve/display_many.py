"""Progress over many solves: a bar while a person watches, and a log record for each that is finished."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from permsolve.errors import InputError
from permsolve.stop import Progress

if TYPE_CHECKING:
    from permsolve.dispatch import Outcome

logger = logging.getLogger("permsolve")


class Tally:
    """How many of many solves are finished, for the log; `over_many` makes the one for the terminal."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.done = done
        #: Name of the problem that this process is at.
        self.name = ""

    def started(self, name: str) -> None:
        """Note that a solve has begun in this process.

        Parameters
        ----------
        name
            Name of the problem.
        """
        self.name = name

    def improved(self, progress: Progress) -> None:
        """Note that a solve in this process has improved; it returns nothing, so that it can be a callback.

        Parameters
        ----------
        progress
            How far it is.
        """

    def finished(self, name: str, outcome: Outcome) -> None:
        """Note that a solve has ended.

        Parameters
        ----------
        name
            Name of the problem.
        outcome
            Its result, or its failure.
        """
        from permsolve.dispatch import Failure

        self.done += 1
        if isinstance(outcome, Failure):
            logger.warning("failed (%d of %d): %s", self.done, self.total, outcome)
        else:
            said = "%s: efficacy %.2f %% in %.1f s (%d of %d)"
            logger.info(said, name, outcome.efficacy, outcome.runtime, self.done, self.total)


class _Bar(Tally):
    """The same, on a terminal: ``show`` takes the number done, a name, and how good it is."""

    def __init__(self, total: int, done: int, show: Callable[[int, str, str], None]) -> None:
        super().__init__(total, done)
        self._show = show

    def started(self, name: str) -> None:
        super().started(name)
        self._show(self.done, name, "")

    def improved(self, progress: Progress) -> None:
        self._show(self.done, self.name, f"efficacy {progress.efficacy:7.3f} %")

    def finished(self, name: str, outcome: Outcome) -> None:
        from permsolve.dispatch import Failure

        super().finished(name, outcome)
        said = "failed" if isinstance(outcome, Failure) else f"efficacy {outcome.efficacy:7.3f} %"
        self._show(self.done, name, said)


@contextmanager
def over_many(total: int, display: bool | None, done: int = 0) -> Iterator[Tally]:
    """Show how far many solves are.

    Parameters
    ----------
    total
        Number of problems.
    display
        True, False, or None for where standard error is a terminal.
    done
        Number of problems that were finished before.

    Yields
    ------
    Tally
        What is told about them.

    Raises
    ------
    InputError
        If ``display`` is something else.
    """
    if display not in (True, False, None):
        raise InputError(f"display = {display!r} must be True, False or None")
    if not (sys.stderr.isatty() if display is None else display):
        yield Tally(total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        *(MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn()),
        *(TextColumn("{task.description}"), TextColumn("{task.fields[at]}")),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=total, completed=done, at="")

        def show(count: int, name: str, at: str) -> None:
            bars.update(task, completed=count, description=name, at=at)

        yield _Bar(total, done, show)
