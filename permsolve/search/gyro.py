"""Gyro-permutation (Yu et al., 2024): rows into tiles by what tiles drop, then columns into groups in every tile."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from permsolve._arrays import aligned
from permsolve.kernels.gyro import Bench, Tiles, dropped, measure_parts, reassign_columns
from permsolve.kernels.slots import make_block, make_stretch
from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm
from permsolve.search.clusters import balanced_clusters
from permsolve.sources import LANES

Array = npt.NDArray[Any]

#: Share of all saliency by which a cost must fall: less is rounding, not progress.
LEAST = 1e-12
#: Rows converted at a time.
_CHUNK = 256


def scaled_rows(problem: Problem) -> Array:
    """Return the saliency by row, its largest entry 1.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    numpy.ndarray
        float32 (rows, cols), a copy.
    """
    largest = problem.columns.max()
    rows = np.zeros((problem.rows, problem.cols), dtype=np.float32)
    if largest > 0:
        for start in range(0, problem.rows, _CHUNK):
            part = problem.columns[:, start : start + _CHUNK].T
            # Divide in the original precision: a float64 of 1e300 or 1e-300 fits float32 only afterwards.
            np.divide(part, largest, out=rows[start : start + _CHUNK], casting="same_kind")
    return rows


class OutputPhase:
    """Which rows share a tile, judged by what the vector step drops.

    Parameters
    ----------
    problem
        A problem of pattern HiNM.
    run
        The run: for its generator, its threads and its limits.
    data
        `scaled_rows`.
    rows
        Permutation to start from.
    """

    def __init__(self, problem: Problem, run: Run, data: Array, rows: npt.NDArray[np.int64]) -> None:
        pattern = problem.pattern
        assert isinstance(pattern, HiNM)
        self.run, self._data = run, data
        sizes = (problem.cols,) if problem.blocks is None else problem.blocks
        self._ends = np.cumsum(sizes)
        self._kept = np.array(pattern.kept_of(problem.cols, problem.blocks))
        #: int64 (tiles, vector): the rows of every tile.
        self.rows = rows.reshape(-1, pattern.vector).copy()
        #: float64 (tiles, cols): the sum of every column of every tile.
        self.sums = np.array([data[tile].sum(axis=0, dtype=np.float64) for tile in self.rows])
        self._guesses = np.zeros((len(self.rows), len(sizes)))
        self.alarm = Alarm(run)
        nothing = np.zeros((1, problem.cols))
        #: What all tiles drop, in units of the scaled saliency.
        self.cost = float(self._dropped(self.sums, nothing).sum())
        self._least = LEAST * float(self.sums.sum())

    @property
    def possible(self) -> bool:
        """Whether anything could be gained: there are tiles to exchange rows, and they drop something."""
        return len(self.rows) > 1 and self.cost > self._least

    def attempt(self, size: int) -> bool:
        """Take some rows out of every tile, cluster them and assign the clusters to the tiles at best.

        Parameters
        ----------
        size
            Rows taken out of a tile, and of a cluster.

        Returns
        -------
        bool
            Whether tiles drop less; otherwise nothing changed.
        """
        began = time.perf_counter()
        with self.alarm.watch():
            better = self._attempt(size)
        self.alarm.took(time.perf_counter() - began)
        return better

    def _attempt(self, size: int) -> bool:
        tiles, vector = self.rows.shape
        taken = self.run.rng.random((tiles, vector)).argsort(axis=1, kind="stable")[:, :size]
        names = np.take_along_axis(self.rows, taken, axis=1)
        rest = self.sums - self._data[names].sum(axis=1, dtype=np.float64)
        chosen = self._clusters(names)
        if self.alarm.halt[0]:
            return False
        clusters = names.reshape(-1)[chosen]
        added = self._data[clusters].sum(axis=1, dtype=np.float64)
        costs = self._dropped(rest, added)
        if self.alarm.halt[0]:
            return False
        chosen = linear_sum_assignment(costs)[1]
        cost = float(costs[np.arange(tiles), chosen].sum())
        if not cost < self.cost - self._least:
            return False
        np.put_along_axis(self.rows, taken, clusters[chosen], axis=1)
        self.sums = rest + added[chosen]
        self.cost = cost
        return True

    def columns(self) -> npt.NDArray[np.int64]:
        """Return the columns of largest sums of every tile in ascending order, block by block.

        Returns
        -------
        numpy.ndarray
            int64 (tiles, kept).
        """
        kept, start = [], 0
        for end, count in zip(self._ends, self._kept, strict=True):
            best = np.argsort(-self.sums[:, start:end], axis=1, kind="stable")[:, :count]
            kept.append(np.sort(best, axis=1) + start)
            start = end
        return np.hstack(kept)

    def _clusters(self, names: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        tiles, size = names.shape
        if size == 1:
            return np.arange(tiles)[:, None]
        points = self._data[names.reshape(-1)]
        return balanced_clusters(points, size, self.run.rng, halt=self.alarm.halt)

    def _dropped(self, rest: Array, added: Array) -> npt.NDArray[np.float64]:
        tiles = len(rest)
        costs = np.empty((tiles, len(added)))
        step = -(-tiles // self.run.n_jobs)

        def part(first: int) -> None:
            last = min(first + step, tiles)
            dropped(rest, added, self._ends, self._kept, self._guesses, first, last, self.alarm.halt, costs)

        self.run.map(part, range(0, tiles, step))
        return costs


class InputPhase:
    """How the columns that a tile keeps are grouped, judged by what n:m keeps.

    Parameters
    ----------
    problem
        A problem of pattern HiNM.
    run
        The run: for its generator, its threads and its limits.
    data
        `scaled_rows`.
    solution
        Solution to start from; its rows and the choice of its columns stay.
    failures
        Assignments in a row without success after which a tile is left as it is.
    """

    def __init__(self, problem: Problem, run: Run, data: Array, solution: HiNMSolution, failures: int) -> None:
        pattern = problem.pattern
        assert isinstance(pattern, HiNM)
        self.run, self._n, self._m, self._failures = run, pattern.n, pattern.m, failures
        self._rows, self._columns = solution.rows, solution.columns
        tiles, kept = solution.columns.shape
        groups = kept // self._m
        parts = _parts(tiles, [size // self._m for size in pattern.kept_of(problem.cols, problem.blocks)])
        members = np.tile(np.arange(kept).reshape(groups, self._m), (tiles, 1, 1))
        prices = np.full((tiles, kept), np.inf, dtype=np.float32)
        values, misses = np.empty(len(parts)), np.zeros(len(parts), dtype=np.int64)
        self.tiles = Tiles(self._gather(data), members, prices, parts, values, misses)
        measure_parts(self.tiles, self._n, self._m)
        widths = parts[:, 2] - parts[:, 1]
        misses[widths == 1] = failures  # a single group has nothing to exchange with
        most = int(widths.max(initial=1))
        self._benches = [Bench(make_stretch(most, self._n), make_block(most)) for _ in range(run.n_jobs)]
        self.alarm = Alarm(run)

    @property
    def active(self) -> npt.NDArray[np.int64]:
        """Numbers of the parts that have not failed often enough."""
        return np.flatnonzero(self.tiles.misses < self._failures)

    @property
    def solution(self) -> HiNMSolution:
        """The solution reached."""
        order = self.tiles.members.reshape(len(self._columns), -1)
        return HiNMSolution(self._rows, np.take_along_axis(self._columns, order, axis=1))

    def sweep(self) -> None:
        """Make one assignment in each active part; the end of the time may come before the last of them."""
        which, jobs = self.active, self.run.n_jobs
        seed = self.run.rng.integers(2**63, dtype=np.uint64)

        def share(thread: int) -> None:
            own = np.ascontiguousarray(which[thread::jobs])  # strided arrays would be compiled for anew
            reassign_columns(self.tiles, self._benches[thread], own, self._n, self._m, seed, self.alarm.halt)

        began = time.perf_counter()
        with self.alarm.watch():
            self.run.map(share, range(jobs))
        self.alarm.took(time.perf_counter() - began)

    def _gather(self, data: Array) -> Array:
        tiles, kept = self._columns.shape
        rows = self._rows.reshape(tiles, -1)
        vector = rows.shape[1]
        gathered = aligned((tiles, kept, -(-vector // LANES) * LANES))
        for tile in range(tiles):
            gathered[tile, :, :vector] = data[np.ix_(rows[tile], self._columns[tile])].T
        return gathered


def _parts(tiles: int, groups: list[int]) -> npt.NDArray[np.int64]:
    """Return tile, first group and end of groups of every tile's share of every block of columns."""
    ends = np.cumsum(groups)
    spans = [(int(end) - count, int(end)) for end, count in zip(ends, groups, strict=True) if count]
    return np.array([(tile, *span) for tile in range(tiles) for span in spans], dtype=np.int64).reshape(-1, 3)
