"""Large neighbourhood search: windows of groups regrouped exactly by set partitioning."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from permsolve.partition import neighbourhood
from permsolve.partition.master import Master, build_seconds, warm_up
from permsolve.partition.neighbourhood import Chain
from permsolve.partition.quantise import Quantised
from permsolve.partition.regroup import MOST_IN_WINDOW, Task, regroup, window_groups
from permsolve.partition.values import storable
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.solver import Solver, Status, check_whole

#: Share of the time, or of its default schedule, that annealing gets to start with.
WARM_START, WARM_START_WIDE = 0.05, 0.35
#: Modelled seconds of a node of a window's search, for the schedule without limits.
NODE_SECONDS = 4e-6


@dataclass(frozen=True)
class LNS(Solver):
    """Exact windows: some groups of the partition are regrouped optimally, over and over.

    Where all groups can be enumerated (168 columns for m = 4), the linear program is solved once; its reduced costs
    leave a few dozen candidates for a window of 8 groups, which branch and bound regroups in microseconds. Windows grow
    to 24 groups where nothing improves, then random costs kick the partition. With several threads and a time limit
    there are as many independent searches.

    Wider problems are dealt at random into windows of ``columns`` columns; each is enumerated, gets its own linear
    program, and is searched as above before the next deal. Threads take windows side by side.

    It starts from a short annealing, and is annealing alone where the time would not do for the linear program.

    Parameters
    ----------
    columns
        Columns of a window of a wide problem: fewer where m is large.
    """

    source: ClassVar[str] = (
        "ours; large neighbourhood search: Shaw, CP 1998; set partitioning windows: Mahajan, Hwu and Nagi 2024"
    )
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    unit: ClassVar[str] = "one node of a window's search, or one window"

    columns: int = 64

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("columns", self.columns, least=8, most=168)

    def supports(self, problem: Problem) -> str | None:
        """Refuse patterns of which not even two groups can be enumerated."""
        m = problem.pattern.m
        if storable(problem.cols, m) or math.comb(2 * m, m) <= MOST_IN_WINDOW:
            return None
        return f"two groups of {m} columns can be regrouped in too many ways to enumerate; use 'annealing' or 'auto'"

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Anneal, then search windows until the schedule or a limit ends."""
        narrow = storable(problem.cols, problem.pattern.m)
        if run.timed and self._step_seconds(problem, run.n_jobs) > 0.4 * run.remaining():
            self._anneal(problem, run, 1.0)
        elif run.initial is None:
            self._anneal(problem, run, WARM_START if narrow else WARM_START_WIDE)
        if not run.proceed():
            return Status.STOPPED
        return self._search_whole(problem, run) if narrow else self._search_windows(problem, run)

    def warm_up(self, problem: Problem) -> None:
        """Compile the annealing and the exact search."""
        from permsolve.solvers.annealing import Annealing

        Annealing().warm_up(problem)
        warm_up(problem.objective)

    def _step_seconds(self, problem: Problem, n_jobs: int) -> float:
        """Estimate what passes before the first window is regrouped."""
        m = problem.pattern.m
        rows = problem.rows * problem.row_cost
        if storable(problem.cols, m):
            return build_seconds(rows, problem.cols, m, n_jobs)
        return build_seconds(rows, window_groups(self.columns, m) * m, m, 1)

    def _anneal(self, problem: Problem, run: Run, share: float) -> None:
        from permsolve.solvers.annealing import Annealing

        seconds = run.remaining() * share if run.timed else float("inf")
        iterations = run.iterations_left() * share  # a float: annealing makes that many proposals, rounded down
        inner = run.within(seconds=seconds, iterations=iterations, effort=share)
        Annealing(reheats=0).__call__(problem, inner)

    def _search_whole(self, problem: Problem, run: Run) -> Status:
        built = Master.build(problem, run)
        if built is not None and built.duals.perm is not None:
            run.offer(built.duals.perm)
        if built is None or not run.proceed(1):
            return Status.STOPPED
        pool = neighbourhood.make_candidates(built.values, built.duals)
        count = run.n_jobs if run.timed else 1
        chains = [
            Chain(built.quantised, built.duals, pool, run.best, np.random.default_rng(run.rng.integers(2**63)))
            for _ in range(count)
        ]
        budget = run.effort * default_seconds(problem) / NODE_SECONDS
        visited = 0
        while visited < budget or run.progress() is not None:
            done = sum(run.map(Chain.step, chains))
            visited += done
            run.offer(min(chains, key=lambda chain: chain.cost).perm)
            if not run.proceed(done):
                return Status.STOPPED
            if any(chain.solved for chain in chains):
                return Status.OPTIMAL  # the LP bound is reached
        return Status.COMPLETED

    def _search_windows(self, problem: Problem, run: Run) -> Status:
        quantised = Quantised.of(problem)
        m = problem.pattern.m
        size = window_groups(self.columns, m)
        members = run.best.reshape(-1, m)
        budget = max(int(run.effort * 20 * problem.groups / size), 1)
        windows = 0
        while windows < budget or run.progress() is not None:
            deals = np.array_split(run.rng.permutation(problem.groups), -(-problem.groups // size))
            batch = run.n_jobs if run.timed else len(deals)  # without a clock the number of threads must not matter
            for start in range(0, len(deals), batch):
                some = deals[start : start + batch]
                tasks = [Task(members[deal].ravel(), int(run.rng.integers(2**63))) for deal in some]
                until = time.perf_counter() + run.remaining()
                answers = run.map(partial(regroup, quantised, until), tasks)
                for deal, answer in zip(some, answers, strict=True):
                    members[deal] = answer.reshape(-1, m)
                windows += len(some)
                run.offer(members.ravel())
                if not run.proceed(len(some)):
                    return Status.STOPPED
        return Status.COMPLETED
