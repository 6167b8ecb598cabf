"""The state of a search over tiles of rows, and its moves on threads."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels.tile_deals import make_table
from permsolve.kernels.tile_windows import acceptance, anneal_tiles, fill_values, mean_losses, tile_values
from permsolve.kernels.tiles import make_bench, place_width
from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm

Array = npt.NDArray[Any]

#: From so many groups of a block of columns on, they are assigned anew as well; most groups of an assignment.
DEAL_FROM, DEAL_GROUPS = 256, 512


#: Entries beyond so many times the mean count as that much in the search, which adds up in float32: beside larger ones
#: it could not tell the others apart.
HUGE = 1e4


class Effort(NamedTuple):
    """What a round consists of: where there are assignments, other moves are cheap beside them."""

    #: Tiles of a window, about: a table of all its rows by all its tiles is needed.
    window: int
    #: Column proposals of a tile for each kept column.
    columns: int
    #: Row proposals for each row.
    rows: int
    #: Row moves for each row and round at the beginning: after one, a wide tile takes longer to settle.
    rate: float
    #: Share of column proposals accepted at a loss that marks the last temperature.
    cold: float


NARROW, WIDE = Effort(4, 6, 4, 0.04, 1.5e-3), Effort(8, 24, 16, 0.004, 1e-4)


#: Tiles in which temperatures are looked for, steps of the search, and moves drawn to know scales by.
SCOUTED, SCOUT_STEPS, SAMPLES = 4, 40, 4096
#: Where the search for temperatures begins and how far down it goes, in mean losses of a random move.
HIGHEST, LOWEST = 1.0, 1e-4
#: The mean loss where no move that was drawn loses anything, in units of the largest entry.
SMALLEST = 1e-3
#: Share of column proposals accepted at a loss that marks the first temperature.
HOT = 0.07


class Scales(NamedTuple):
    """What a schedule is made of, in units of the search."""

    #: The mean loss of a random move of a column.
    unit: float
    #: First and last temperature.
    hot: float
    cold: float
    #: Standard deviation of what an exchange of rows changes.
    spread: float
    #: Bias of row moves at the beginning.
    bias: float


class Epoch(NamedTuple):
    """What happened in an epoch."""

    #: Change of the score, in units of the search.
    change: float
    #: Share of the column proposals that were accepted although they lost something.
    losing: float
    #: Row moves accepted, for each row and round.
    moved: float
    #: Rounds finished.
    rounds: int


class Tiles:
    """Rows in tiles and columns in slots, changed by annealing.

    Every epoch deals the tiles at random into windows of about four. Windows share nothing, neither rows nor columns:
    they are worked on side by side and put together exactly, and how many there are does not depend on the threads.

    Parameters
    ----------
    problem
        The problem; its pattern is `HiNM`.
    run
        The run: for its generator, its threads and its limits.
    rows
        Whether rows may leave their tiles.
    start
        Where to start from.
    """

    def __init__(self, problem: Problem, run: Run, rows: bool, start: HiNMSolution) -> None:
        assert isinstance(problem.pattern, HiNM)
        self.problem, self.run = problem, run
        self.pattern = problem.pattern
        self.n, self.m, self.vector = self.pattern.n, self.pattern.m, self.pattern.vector
        #: int64 (tiles, vector): the rows of every tile.
        self.rows = start.rows.reshape(-1, self.vector).copy()
        self.count = len(self.rows)
        self.effort = effort_of(problem)
        self.spans = self._blocks()
        #: int64 (tiles, cols): columns of every tile, in each block the kept ones first.
        self.slots = self._slots(start.columns)
        self.width = int(place_width(self.vector))
        #: float32 (tiles, cols * width): saliency of every tile by column, in units of the largest entry that counts.
        self.data = self._pack()
        #: Ends the kernels with the time.
        self.alarm = Alarm(run)
        most, block = int(self.spans[:, 2].max()), int(self.spans[:, 4].max())
        self._benches = [make_bench(most, self.width, self.n, self.m, self.alarm.halt) for _ in range(run.n_jobs)]
        self._tables = [make_table(max(block, 1), most // self.m) for _ in range(run.n_jobs)]
        #: float32 (tiles, cols): prices of the columns in assignments.
        self.prices = np.zeros(self.slots.shape if block else (self.count, 1), dtype=np.float32)
        self.row_proposals = self.effort.rows if rows and self.count > 1 else 0

    @property
    def solution(self) -> HiNMSolution:
        """The solution at hand."""
        return self.solution_of(self.rows, self.slots)

    @property
    def windows(self) -> int:
        """Number of windows of an epoch."""
        return max(1, round(self.count / self.effort.window))

    def solution_of(self, rows: Array, slots: Array) -> HiNMSolution:
        """Return the solution that rows and slots stand for.

        Parameters
        ----------
        rows
            int64 (tiles, vector).
        slots
            int64 (tiles, cols).

        Returns
        -------
        HiNMSolution
            The solution.
        """
        kept = [slots[:, first : first + kept] for first, _, kept, *_ in self.spans.tolist()]
        return HiNMSolution(rows.ravel(), np.hstack(kept))

    def epoch(self, heat: tuple[float, float], bias: float, rounds: int) -> Epoch:
        """Work on all tiles, in windows.

        Parameters
        ----------
        heat
            Temperatures before the first and after the last round.
        bias
            Added to the change of every exchange of rows before it is judged.
        rounds
            Number of rounds.

        Returns
        -------
        Epoch
            What happened; fewer rounds where the time ended before.
        """
        deal = self.run.rng.permutation(self.count)
        windows = np.array_split(deal, self.windows)
        seeds = self.run.rng.integers(2**63, size=len(windows), dtype=np.uint64)
        jobs = min(self.run.n_jobs, len(windows))

        def work(thread: int) -> list[tuple[float, int, int, int]]:
            return [
                anneal_tiles(
                    self._benches[thread],
                    self._tables[thread],
                    self.data,
                    self.rows,
                    self.slots,
                    self.prices,
                    self.spans,
                    windows[k],
                    self.n,
                    self.m,
                    heat,
                    bias,
                    self.row_proposals * self.vector * len(windows[k]),
                    rounds,
                    seeds[k],
                )
                for k in range(thread, len(windows), jobs)
            ]

        began = time.perf_counter()
        with self.alarm.watch():
            results = [result for part in self.run.map(work, range(jobs)) for result in part]
        self.alarm.took(time.perf_counter() - began)
        change, losing, moved, done = (sum(column) for column in zip(*results, strict=True))
        proposals = rounds * self.count * int(self.spans[:, 3].sum())
        rows = rounds * self.problem.rows
        return Epoch(float(change), losing / max(proposals, 1), moved / rows, int(done / len(windows)))

    def value(self) -> float:
        """Return the score, in units of the search."""
        return float(
            tile_values(
                self._benches[0], self.data, self.slots, self.spans, np.arange(self.count), self.n, self.m, self.vector
            )
        )

    def scout(self) -> Scales:
        """Cool the columns of a few tiles quickly, and look at what happens; the state stays what it is."""
        some = np.unique(np.linspace(0, self.count - 1, SCOUTED).astype(np.int64))
        bench, slots, rng = self._benches[0], self.slots.copy(), self.run.rng
        place = (bench, self.data, slots, self.spans, some, self.n, self.m)
        seeds = rng.integers(2**63, size=SCOUT_STEPS + 1, dtype=np.uint64)
        unit = float(mean_losses(*place, self.vector, SAMPLES, seeds[-1])) or SMALLEST
        steps = unit * np.geomspace(HIGHEST, LOWEST, SCOUT_STEPS)
        hot, cold = steps[0], steps[-1]
        values = np.zeros((len(some), len(some) * self.width), dtype=np.float32)
        with self.alarm.watch():
            for temperature, seed in zip(steps.tolist(), seeds, strict=False):
                losing = float(acceptance(*place, self.vector, temperature, seed))
                if losing > HOT:
                    hot = temperature
                    fill_values(*place, self.width, values)
                cold = temperature
                if losing <= self.effort.cold or self.alarm.halt[0]:
                    break
        return Scales(unit, float(hot), float(min(cold, hot)), *self._row_scales(values))

    def _row_scales(self, values: Array) -> tuple[float, float]:
        """Return how much an exchange of rows changes, and the bias that lets as many pass as at the beginning."""
        count, rng = len(values), self.run.rng
        if count < 2 or not self.row_proposals:
            return 0.0, 0.0
        table = values.reshape(count, count, self.width)[:, :, : self.vector]  # where to, where from, row
        a = rng.integers(count, size=SAMPLES)
        b = (a + rng.integers(1, count, size=SAMPLES)) % count
        x, y = rng.integers(self.vector, size=(2, SAMPLES))
        changes = table[b, a, x] - table[a, a, x] + table[a, b, y] - table[b, b, y]
        bias = -float(np.quantile(changes, 1.0 - min(self.effort.rate / self.row_proposals, 0.5)))
        return float(changes.std()), max(bias, 0.0)

    def _blocks(self) -> Array:
        cols, blocks = self.problem.cols, self.problem.blocks
        sizes = (cols,) if blocks is None else blocks
        kept = self.pattern.kept_of(cols, blocks)
        firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return np.array(
            [
                (first, size, keep, self.effort.columns * keep, DEAL_GROUPS if keep // self.m >= DEAL_FROM else 0)
                for first, size, keep in zip(firsts, sizes, kept, strict=True)
            ]
        )

    def _slots(self, columns: Array) -> Array:
        """Return the columns of every tile: block by block those it keeps, then the others."""
        slots = np.empty((self.count, self.problem.cols), dtype=np.int64)
        at = 0
        for first, size, kept, *_ in self.spans.tolist():
            own = np.arange(first, first + size)
            for tile, chosen in enumerate(columns[:, at : at + kept]):
                slots[tile, first : first + kept] = chosen
                slots[tile, first + kept : first + size] = np.setdiff1d(own, chosen, assume_unique=True)
            at += kept
        return slots

    def _pack(self) -> Array:
        columns = self.problem.columns
        kind = columns.dtype.type
        largest = float(columns.max()) or 1.0
        # Divided in the original precision: float64 entries of 1e300 or 1e-300 fit float32 only afterwards.
        mean = float(np.mean(columns / kind(largest), dtype=np.float64))
        ceiling = min(HUGE * mean, 1.0) or 1.0
        data = aligned((self.count, self.problem.cols * self.width))
        for tile, rows in enumerate(self.rows):
            part = data[tile].reshape(self.problem.cols, self.width)
            part[:, : self.vector] = np.minimum(columns[:, rows] / kind(largest), kind(ceiling))
        data /= np.float32(ceiling)
        return data


def effort_of(problem: Problem) -> Effort:
    """Return what a round of a problem consists of.

    Parameters
    ----------
    problem
        The problem; its pattern is `HiNM`.

    Returns
    -------
    Effort
        `WIDE` where there are assignments.
    """
    assert isinstance(problem.pattern, HiNM)
    kept = problem.pattern.kept_of(problem.cols, problem.blocks)
    return WIDE if max(kept) // problem.pattern.m >= DEAL_FROM else NARROW


def round_cost(problem: Problem) -> float:
    """Return the modelled nanoseconds of a round, on one core.

    Parameters
    ----------
    problem
        The problem; its pattern is HiNM.

    Returns
    -------
    float
        Nanoseconds.
    """
    assert isinstance(problem.pattern, HiNM)
    effort, pattern = effort_of(problem), problem.pattern
    width = float(-(-pattern.vector // 16) * 16)
    cost = effort.rows * pattern.vector * 15.0
    for kept in pattern.kept_of(problem.cols, problem.blocks):
        cost += effort.columns * kept * (10.0 + 0.2 * width) + effort.window * width * kept / 13.0
        groups = kept // pattern.m
        if groups >= DEAL_FROM:
            cost += groups * min(groups, DEAL_GROUPS) * (width / 20.0 + 15.0)
    return problem.rows // pattern.vector * cost + 1e3
