"""Greedy channel swaps with bounded regressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.exchange import ExchangeDescent
from permsolve.search.start import starting_order
from permsolve.solver import Solver, Status, check_whole


@dataclass(frozen=True)
class ChannelSwap(Solver):
    """Exchange descent by sweeps, with escapes from local optima.

    A sweep evaluates all pairs of columns in different groups, ranks them once and applies the improving ones best
    first, skipping any that touches a group already changed in the sweep. When none improves, an escape exchanges two
    random columns and the descent goes on from there; the best permutation is kept.

    On a GPU a sweep picks its exchanges differently: every group names its best exchange, those that both groups name
    are taken, and the groups left over name again, eight times in all. It ends at the same kind of local optimum.

    Parameters
    ----------
    escapes
        How many random exchanges may follow the first descent (the paper's bounded regressions).
    """

    source: ClassVar[str] = "Pool and Yu, NeurIPS 2021, after TETRIS (Ji et al., NeurIPS 2018)"
    unit: ClassVar[str] = "one sweep over all pairs of columns"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    escapes: int = 100

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("escapes", self.escapes, least=0)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Descend, escape, repeat."""
        if run.device != "cpu":
            from permsolve.search import on_device

            return on_device.swap(problem, run, self.escapes)
        m = problem.pattern.m
        descent = ExchangeDescent(problem, run, starting_order(run))
        for escape in range(self.escapes + 1):
            if escape:
                groups = run.rng.choice(problem.groups, size=2, replace=False)
                members = descent.order.reshape(-1, m)[groups]
                a, b = run.rng.integers(m, size=2)
                members[0, a], members[1, b] = members[1, b], members[0, a]
                descent.move(groups, members)
            while True:
                moved = descent.sweep()
                if moved is None:
                    return Status.STOPPED
                run.offer(descent.order)
                if not run.proceed(1):
                    return Status.STOPPED
                if not moved:
                    break
        return Status.LOCAL_OPTIMUM
