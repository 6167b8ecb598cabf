"""V:N:M: a solution at work, and what is done to it at best: rows, choices, columns."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from permsolve._arrays import aligned
from permsolve.kernels import vnm as kernel
from permsolve.kernels.tiles import anneal_rows
from permsolve.kernels.vnm_choice import choose_columns, freed_values
from permsolve.kernels.vnm_rows import move_lanes, row_worths, transport_rows
from permsolve.patterns.vnm import VNM, WIDTH, VNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm

Array = npt.NDArray[Any]

#: Proposed exchanges of rows at a time, for each row.
ROW_MOVES = 20
#: Tiles between which rows move at a time: by random exchanges, and at best.
ROW_WINDOW, TRANSPORT_WINDOW = 16, 64
#: Share of the largest entry of a table of rows up to which a gain is rounding.
LEAST = 1e-6


class Layout:
    """A solution at work: float32 saliency in the order of the tiles, columns in groups, and what is kept.

    Parameters
    ----------
    problem
        A problem of pattern `VNM`.
    run
        The run: for its generator, its threads, its limits and the start.
    rows
        Whether rows may leave their tiles.
    """

    def __init__(self, problem: Problem, run: Run, rows: bool = True) -> None:
        assert isinstance(problem.pattern, VNM)
        self.problem, self.run, self.pattern = problem, run, problem.pattern
        self.vector, self.n, self.m = self.pattern.vector, self.pattern.n, self.pattern.m
        self.tiles, self.lanes = problem.rows // self.vector, kernel.lanes_of(self.vector)
        #: int64 (rows,): the lane of every place of a row.
        self.at = (np.arange(self.tiles)[:, None] * self.lanes + np.arange(self.vector)).ravel()
        #: int64: the row in every lane; of lanes that pad a tile, none.
        self.rows = np.zeros(self.tiles * self.lanes, dtype=np.int64)
        #: float32 (cols, lanes): the saliency by column, largest entry 1.
        self.data = aligned((problem.cols, self.tiles * self.lanes))
        #: What an entry of 1 stands for.
        self.scale = float(problem.columns.max()) or 1.0
        self.load(run.best if run.initial is None else run.initial)
        #: Ends annealing with the time; the other ends what is rare and may be long, and always watches.
        self.alarm, self.last = Alarm(run), Alarm(run)
        #: Whether rows move: with groups of four it does not matter which tile a row is in.
        self.movable = rows and self.tiles > 1 and self.m > WIDTH
        #: The groups of every block.
        self.spans = _spans(problem)

    def load(self, solution: VNMSolution) -> None:
        """Start from a solution.

        Parameters
        ----------
        solution
            A checked one.
        """
        #: int64 (groups, m): the columns of each group; (groups, tiles, 4): the slots that every tile keeps of it.
        self.members = solution.columns.reshape(-1, self.m).copy()
        self.kept = solution.kept.transpose(1, 0, 2).copy()
        if np.array_equal(self.rows[self.at], solution.rows) and self.data.any():
            return
        self.rows[self.at] = solution.rows
        for column, out in zip(self.problem.columns, self.data, strict=True):
            # Divided in the original precision: a float64 of 1e300 or 1e-300 fits float32 only afterwards.
            out[self.at] = column[solution.rows] / column.dtype.type(self.scale)

    def solution(self) -> VNMSolution:
        """Return the solution."""
        kept = np.sort(self.kept.transpose(1, 0, 2), axis=2)
        return VNMSolution(self.rows[self.at], self.members.reshape(-1), kept)

    def seed(self) -> np.uint64:
        """Return a fresh seed for a kernel."""
        return np.uint64(self.run.rng.integers(2**63))

    def move_rows(self, temperature: float | None, bias: float = 0.0) -> tuple[float, int]:
        """Move rows between tiles, with columns and choices as they are.

        Parameters
        ----------
        temperature
            Of random exchanges; None to distribute the rows at best.
        bias
            Added to the change of every exchange before it is judged.

        Returns
        -------
        tuple
            Change of the value, and the number of exchanges accepted, or of rows moved.
        """
        if not self.movable:
            return 0.0, 0
        most = TRANSPORT_WINDOW if temperature is None else ROW_WINDOW
        windows = np.array_split(self.run.rng.permutation(self.tiles), -(-self.tiles // most))
        seeds = [self.seed() for _ in windows]

        def work(k: int) -> tuple[float, int]:
            tiles, lanes = windows[k], self.lanes
            table = aligned((len(tiles), len(tiles) * lanes))
            row_worths(self.data, self.members, self.kept, self.n, lanes, tiles, table)
            start = (np.arange(len(tiles))[:, None] * lanes + np.arange(self.vector)).ravel()
            place = start.copy()
            if temperature is None:
                least = max(LEAST * float(table.max()), 1e-30)
                change = transport_rows(table, place, self.vector, least, self.last.halt)
                return float(change), self._bring(tiles, place, start)
            proposals = ROW_MOVES * len(place)
            change, accepted = anneal_rows(table, place, self.vector, lanes, temperature, bias, proposals, seeds[k])
            self._bring(tiles, place, start)
            return float(change), int(accepted)

        with self.last.watch() if temperature is None else nullcontext():
            results = self.run.map(work, range(len(windows)))
        return sum(change for change, _ in results), sum(count for _, count in results)

    def _bring(self, tiles: Array, place: Array, start: Array) -> int:
        """Bring the rows of some tiles to their places; return how many move."""
        moved = np.flatnonzero(place != start)
        lane = (tiles[:, None] * self.lanes + np.arange(self.lanes)).ravel()
        to, origin = lane[start[moved]], lane[place[moved]]
        if moved.size:
            self.rows[to] = self.rows[origin]
            move_lanes(self.data, 0, len(self.data), to, origin)
        return moved.size

    def choose(self, by_sums: bool = False) -> None:
        """Choose the columns that every tile keeps of each group.

        Parameters
        ----------
        by_sums
            Whether to keep those of largest sums instead of the best.
        """
        solution = self.solution()
        if by_sums:
            chosen = self.pattern.choose(self.problem.saliency, solution.rows, solution.columns)
            self.kept = chosen.kept.transpose(1, 0, 2).copy()
            return
        kept, tiles = solution.kept.copy(), solution.rows.reshape(self.tiles, -1)
        # Contiguous either way: numba would compile the kernel anew for columns that are not.
        columns = self.problem.columns if self.problem.padded is None else self.problem.padded

        def one(t: int) -> None:
            choose_columns(columns, tiles[t], solution.columns, self.n, self.m, kept[t], self.last.halt)

        with self.last.watch():
            self.run.map(one, range(self.tiles))
        self.kept = kept.transpose(1, 0, 2).copy()

    def refill(self, groups: Array, slots: Array, by_sums: bool) -> None:
        """Free a slot of each group and assign the freed columns to them anew, at best given the other columns.

        Parameters
        ----------
        groups
            int64 (k,), distinct groups of one block.
        slots
            int64 (k,), the slot to free in each.
        by_sums
            How columns will be chosen.
        """
        values = np.empty((len(groups), len(groups)))
        width = self.problem.cols if by_sums else 0
        sums = self.data.reshape(-1, self.tiles, self.lanes).sum(axis=2, dtype=np.float64).T[:, :width].copy()
        cuts = np.linspace(0, len(groups), self.run.n_jobs + 1).astype(int)

        def part(k: int) -> None:
            freed_values(
                self.data,
                self.lanes,
                self.members,
                groups,
                slots,
                self.n,
                sums,
                cuts[k],
                cuts[k + 1],
                values,
                self.last.halt,
            )

        with self.last.watch():
            self.run.map(part, range(self.run.n_jobs))
        if not self.last.halt[0]:
            self.members[groups, slots] = self.members[groups, slots][linear_sum_assignment(values, maximize=True)[1]]


def _spans(problem: Problem) -> list[Array]:
    """Return the groups of every block."""
    sizes = np.array([problem.cols] if problem.blocks is None else problem.blocks) // problem.pattern.m
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
