"""Progress over the groups of a plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from permsolve.errors import InputError
from permsolve.models.group import Group
from permsolve.stop import Progress

Report = Callable[[int], Callable[[Progress], object]]


@contextmanager
def over_groups(groups: Sequence[Group], display: bool | None) -> Iterator[Report]:
    """Show how far the solve of many groups is.

    Parameters
    ----------
    groups
        The groups to be solved.
    display
        True, False, or None for where standard error is a terminal.

    Yields
    ------
    Callable
        Given the number of the group at work, the callback for its solve.
    """
    if display not in (True, False, None):
        raise InputError(f"display = {display!r} must be True, False or None")
    if not (sys.stderr.isatty() if display is None else display):
        yield lambda _: _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        *(MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn()),
        *(TextColumn("{task.description}"), TextColumn("{task.fields[at]}")),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=len(groups), at="")

        def report(k: int) -> Callable[[Progress], object]:
            bars.update(task, completed=k, description=groups[k].name, at="")

            def update(progress: Progress) -> None:
                bars.update(task, at=f"efficacy {progress.efficacy:7.3f} %")

            return update

        yield report


def _nothing(progress: Progress) -> None:
    """Nobody is watching."""
