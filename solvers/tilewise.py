"""Set partitioning in every tile of HiNM: the columns kept are regrouped exactly, window by window."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve.partition.master import build_seconds, warm_up
from permsolve.partition.neighbourhood import Chain
from permsolve.partition.quantise import Quantised
from permsolve.partition.regroup import MOST_IN_WINDOW, Task, prepare, regroup, window_groups
from permsolve.partition.values import storable
from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.solver import Solver, Status

Array = npt.NDArray[Any]

#: Share of the limit, or of the default schedule, that `joint` gets where nothing is given to start from.
WARM_START = 0.5
#: Modelled seconds of a node of a search, for the schedule without limits.
NODE_SECONDS = 4e-6
#: Modelled seconds of a window of a wide tile.
WINDOW_SECONDS = 0.3
#: Batches of windows in a turn of a tile.
STEPS = 4
#: Columns of a window where a tile keeps too many to enumerate their groups.
COLUMNS = 64


@dataclass(frozen=True)
class Tilewise(Solver):
    """Large neighbourhood search in every tile by itself, for HiNM.

    With the rows of a tile and the columns that it keeps, what remains is a plain n:m problem. All groups of the kept
    columns are enumerated (up to 168 columns for m = 4), the linear program is solved, and windows of groups are
    regrouped by branch and bound, as in ``lns``. Where a tile keeps more, or the time would go into linear programs,
    its columns are dealt at random into windows of 64, each with a linear program of its own. Tiles are searched by
    turns, side by side with several threads.

    Neither rows nor the choice of columns change: it begins where ``joint`` ends, in half the time, unless something is
    given to start from.
    """

    source: ClassVar[str] = "ours: lns on the tiles of HiNM (Yu et al., 2024, arXiv 2407.20496)"
    unit: ClassVar[str] = "one node of a window's search, or one window"
    patterns: ClassVar[tuple[str, ...]] = ("hinm",)

    def supports(self, problem: Problem) -> str | None:
        """Refuse patterns of which not even two groups can be enumerated."""
        m = problem.pattern.m
        if math.comb(2 * m, m) <= MOST_IN_WINDOW:
            return None
        return f"two groups of {m} columns can be regrouped in too many ways to enumerate; use 'joint' or 'auto'"

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Anneal where nothing is given, then search the tiles by turns."""
        if run.initial is None:
            from permsolve.solvers.joint import Joint

            left = run.remaining() * WARM_START if run.timed else math.inf
            Joint()(problem, run.within(seconds=left, iterations=run.iterations_left() * WARM_START, effort=WARM_START))
            start = run.best
        else:
            start = run.initial
        if not run.proceed():
            return Status.STOPPED
        return _Search(problem, run, start).solve()

    def warm_up(self, problem: Problem) -> None:
        """Compile the annealing and the exact search."""
        from permsolve.solvers.joint import Joint

        Joint().warm_up(problem)
        warm_up()


def prepare_seconds(problem: Problem) -> float | None:
    """Return the modelled seconds on one core until all tiles are being searched.

    Parameters
    ----------
    problem
        The problem; its pattern is HiNM.

    Returns
    -------
    float or None
        None where a tile keeps too many columns to enumerate their groups.
    """
    pattern = problem.pattern
    assert isinstance(pattern, HiNM)
    kept = pattern.kept_of(problem.cols, problem.blocks)
    if not all(storable(columns, pattern.m) for columns in kept):
        return None
    tiles = problem.rows // pattern.vector
    return tiles * sum(build_seconds(pattern.vector, columns, pattern.m, 1) for columns in kept)


class _Piece:
    """What a tile keeps of a block of columns, a plain n:m problem, and its search."""

    def __init__(self, problem: Problem, rows: Array, columns: Array, whole: bool, seed: int) -> None:
        pattern, saliency = problem.pattern, problem.saliency[np.ix_(rows, columns)]
        self.quantised = Quantised.of(Problem.of(saliency, (pattern.n, pattern.m), saliency=saliency))
        self.m, self.whole = pattern.m, whole
        self.rng = np.random.default_rng(seed)
        #: Where the columns of the start are in the order of the best groups.
        self.perm = np.arange(len(columns))
        self.chain: Chain | None = None
        self.windows: list[Array] = []
        self.solved = False

    def turn(self, deadline: float) -> int:
        """Search for a while; return the iterations."""
        if self.whole:
            return self._search() if self.chain else self._prepare(deadline)
        return self._regroup(deadline)

    def _prepare(self, deadline: float) -> int:
        chain = prepare(self.quantised, self.perm, int(self.rng.integers(2**63)), deadline)
        if isinstance(chain, Chain):
            self.chain = chain
        elif chain is not None:
            self.perm, self.solved = chain, True
        return 1

    def _search(self) -> int:
        assert self.chain is not None
        visited = sum(self.chain.step() for _ in range(STEPS))
        self.perm, self.solved = self.chain.perm, self.chain.solved
        return visited

    def _regroup(self, deadline: float) -> int:
        groups = len(self.perm) // self.m
        if not self.windows:
            count = -(-groups // window_groups(COLUMNS, self.m))
            self.windows = np.array_split(self.rng.permutation(groups), count)
        window, members = self.windows.pop(), self.perm.reshape(-1, self.m)
        task = Task(members[window].ravel(), int(self.rng.integers(2**63)))
        members[window] = regroup(self.quantised, deadline, task).reshape(-1, self.m)
        return 1


class _Search:
    """One search: the pieces of a solution, and where they belong."""

    def __init__(self, problem: Problem, run: Run, start: HiNMSolution) -> None:
        assert isinstance(problem.pattern, HiNM)
        self.run, self.start, self.columns = run, start, start.columns.copy()
        self.places: list[tuple[int, slice]] = []
        self.pieces: list[_Piece] = []
        schedule = run.effort * default_seconds(problem) * (1 - WARM_START)
        seconds = prepare_seconds(problem)
        #: Windows are quicker where the linear programs of all tiles would take most of the time.
        whole = seconds is not None and seconds < (run.remaining() * run.n_jobs if run.timed else schedule)
        ends = np.cumsum([0, *problem.pattern.kept_of(problem.cols, problem.blocks)])
        for tile, rows in enumerate(start.rows.reshape(-1, problem.pattern.vector)):
            for span in (slice(int(a), int(b)) for a, b in pairwise(ends) if b - a > problem.pattern.m):
                self.places.append((tile, span))
                seed = int(run.rng.integers(2**63))
                self.pieces.append(_Piece(problem, rows, start.columns[tile, span], whole, seed))
        self.budget = schedule / (NODE_SECONDS if whole else WINDOW_SECONDS)

    def solve(self) -> Status:
        """Search the pieces by turns until all are solved, or the schedule or a limit ends."""
        done = 0
        while pieces := [at for at, piece in enumerate(self.pieces) if not piece.solved]:
            batch = self._batch(len(pieces))
            for start in range(0, len(pieces), batch):
                count = self._turns(pieces[start : start + batch])
                done += count
                if not self.run.proceed(count):
                    return Status.STOPPED
                if done >= self.budget and self.run.progress() is None:
                    return Status.COMPLETED
        return Status.COMPLETED

    def _batch(self, most: int) -> int:
        """Return how many pieces search between two looks at the limits."""
        if self.run.timed:
            return self.run.n_jobs
        return int(max(min(self.run.iterations_left(), self.budget, most), 1))  # threads must not matter

    def _turns(self, which: list[int]) -> int:
        """Let some pieces search side by side, offer what they found and return the iterations."""
        deadline = time.perf_counter() + self.run.remaining()
        counts = self.run.map(lambda at: self.pieces[at].turn(deadline), which)
        for at in which:
            tile, span = self.places[at]
            self.columns[tile, span] = self.start.columns[tile, span][self.pieces[at].perm]
        self.run.offer(HiNMSolution(self.start.rows, self.columns.copy()))
        return sum(counts)
