"""Rows and columns searched together, for patterns that permute both."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

from permsolve.errors import OptionError
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_number


@dataclass(frozen=True)
class Joint(Solver):
    """Simulated annealing over rows, columns and the columns kept, at one temperature.

    Without a limit it works through the default schedule, ``0.7 * min(cols / 64, 60)`` modelled seconds of one core.
    Beyond 512 columns it may overrun a limit by a round of all rows, tenths of a second.

    What all three patterns share: with everything else fixed, the best places of the rows are a transportation problem,
    the best columns are independent from tile to tile, and exchanges of either cost a few vector operations. The
    searches are in ``permsolve.search``: `hinm`, `vnm`, `transposable`.

    Parameters
    ----------
    rows
        Whether rows may move; without, only the columns are searched (HiNM, V:N:M).
    start
        Where on the way from the last temperature (0) to the first (1) it begins: below 1 it keeps much of the solution
        that it starts from (HiNM).
    """

    source: ClassVar[str] = "ours; annealing: Kirkpatrick, Gelatt and Vecchi, Science 220, 1983"
    unit: ClassVar[str] = "one round of proposals; the pattern's search says of how many"
    patterns: ClassVar[tuple[str, ...]] = ("hinm", "vnm", "transposable")

    rows: bool = True
    start: float = 1.0

    def __post_init__(self) -> None:
        """Validate the options."""
        if not isinstance(self.rows, bool):
            raise OptionError(f"option rows = {self.rows!r} must be True or False")
        check_number("start", self.start, least=0.0, most=1.0)

    def supports(self, problem: Problem) -> str | None:
        """Say why not: the rows of transposable patterns always move."""
        if not self.rows and problem.pattern.kind == "transposable":
            return f"rows = False is for HiNM and V:N:M; {problem.pattern} is searched with its rows"
        if self.start != 1.0 and problem.pattern.kind != "hinm":
            return f"start is for HiNM; the search of {problem.pattern} has one schedule"
        return None

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Search as the pattern wants it."""
        options: dict[str, Any] = {} if self.rows else {"rows": False}
        if self.start != 1.0:
            options["start"] = self.start
        status: Status = _search_of(problem).search(problem, run, **options)
        return status

    def warm_up(self, problem: Problem) -> None:
        """Compile the pattern's kernels."""
        own = getattr(_search_of(problem), "warm_up", None)
        if own is None:
            super().warm_up(problem)
        else:
            own(problem)


def _search_of(problem: Problem) -> Any:
    return importlib.import_module(f"permsolve.search.{problem.pattern.kind}")
