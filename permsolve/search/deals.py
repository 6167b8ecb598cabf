"""Rounds of assignments: all groups are dealt into blocks, and each block refills one slot of each of its groups."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels.gain import gain_block
from permsolve.kernels.groups import State
from permsolve.kernels.slots import fill_slots, free_slots, make_block, make_stretch, slot_gains
from permsolve.kernels.vector import TILE
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm
from permsolve.sources import LANES

Array = npt.NDArray[Any]

#: Slots whose mean gains are the first prices of all columns.
SAMPLE = 16
#: Entries of the rows by which mean loss and first prices are judged.
SAMPLE_ENTRIES = 1 << 22


class Deals:
    """A permutation that is changed by assignments in blocks of groups.

    Blocks are worked on side by side. Where there are fewer than threads, the threads share the gains of each: every
    gain is the same sum either way, so the outcome does not depend on the number of threads. A streamed problem is
    read once in every round.

    Parameters
    ----------
    problem
        The problem.
    run
        The run: for its generator, its threads and its limits.
    order
        Permutation to start from.
    block
        About how many groups a block has.
    """

    def __init__(self, problem: Problem, run: Run, order: npt.NDArray[np.int64], block: int) -> None:
        self.problem, self.run = problem, run
        self.n, self.m = problem.pattern.n, problem.pattern.m
        #: int64 (groups, m): the columns of each group.
        self.members = order.copy().reshape(-1, self.m)
        #: Ends the kernels with the time.
        self.alarm = Alarm(run)
        #: Number of blocks.
        self.count = max(1, round(problem.groups / block))
        most = -(-problem.groups // self.count)
        self._blocks = [make_block(most) for _ in range(self.count)]
        self._stretches = [make_stretch(most, self.n) for _ in range(run.n_jobs)]
        rows = _some_rows(problem)
        share = max(problem.rows / rows.shape[1], 1.0)
        #: What a group loses on average when a column leaves it, by a sample, in units of the packed saliency.
        self.mean_loss = share * self._mean_loss(rows)
        #: float32 (cols,): prices of the columns in the assignments so far; at first, what they bring on average.
        self.prices = np.float32(-share) * self._mean_gains(rows)

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """The permutation, a view."""
        return self.members.reshape(-1)

    def round(self, temperature: float) -> int | None:
        """Deal the groups into blocks and refill a random slot of each group once.

        Parameters
        ----------
        temperature
            Scale of the noise, in units of the packed saliency.

        Returns
        -------
        int or None
            Number of columns moved; None where the time ended before the round did, which then changes nothing.
        """
        rng = self.run.rng
        groups = np.array_split(rng.permutation(len(self.members)), self.count)
        seeds = rng.integers(2**63, size=(self.count, 2), dtype=np.uint64)
        for k, block in enumerate(self._blocks):
            free_slots(block, self.members, groups[k], self.m, seeds[k, 0])
        began = time.perf_counter()
        with self.alarm.watch():
            for chunk, rows in enumerate(self.problem.chunks()):
                self._gains(groups, rows, chunk > 0)
                if self.alarm.halt[0]:
                    return None
        self.alarm.took(time.perf_counter() - began)

        def fill(k: int) -> int:
            return int(fill_slots(self._blocks[k], self.members, groups[k], self.prices, temperature, seeds[k, 1]))

        return sum(self.run.map(fill, range(self.count)))

    def _gains(self, groups: list[Array], rows: Array, more: bool) -> None:
        """Compute the gains of some rows, every block cut into pieces for the threads."""
        jobs = self.run.n_jobs
        cuts = -(-jobs // self.count)  # pieces of a block, so that there is one for each thread at least
        pieces = []
        for k, block in enumerate(groups):
            step = max(-(-len(block) // cuts) + TILE - 1 & -TILE, TILE)  # whole tiles
            pieces += [(k, first, min(first + step, len(block))) for first in range(0, len(block), step)]

        def share(thread: int) -> None:
            for k, first, last in pieces[thread::jobs]:
                slot_gains(
                    self._stretches[thread],
                    self._blocks[k],
                    rows,
                    self.members,
                    groups[k],
                    first,
                    last,
                    self.n,
                    self.m,
                    more,
                    self.alarm.halt,
                )

        self.run.map(share, range(jobs))

    def _sampled_groups(self) -> Array:
        return np.linspace(0, len(self.members) - 1, min(SAMPLE, len(self.members))).astype(np.int64)

    def _mean_gains(self, rows: Array) -> Array:
        """Return what each column would bring on average to a slot of a few groups, (cols,)."""
        chosen = self._sampled_groups()
        rank = self.m - 1 - self.n
        thresholds = aligned((len(chosen), rows.shape[1]))
        thresholds[:] = np.partition(rows[self.members[chosen, 1:]], rank, axis=1)[:, rank]
        gains = np.empty((len(chosen), len(rows)), dtype=np.float32)
        unused = np.empty(0, dtype=np.float32), np.empty((0, 0), dtype=np.float32)
        gain_block(State(rows, thresholds, *unused), np.arange(len(chosen)), np.arange(len(rows)), gains)
        mean: Array = gains.mean(axis=0)
        return mean

    def _mean_loss(self, rows: Array) -> float:
        chosen = self._sampled_groups()
        values = rows[self.members[chosen]]  # (sample, m, rows)
        ranked = np.partition(values, (self.m - self.n - 1, self.m - self.n), axis=1)
        pruned, last = ranked[:, self.m - self.n - 1], ranked[:, self.m - self.n]
        limits = np.where(values >= last[:, None], pruned[:, None], last[:, None])
        return float(np.maximum(values - limits, 0).sum(dtype=np.float64)) / (len(chosen) * self.m)


def _some_rows(problem: Problem) -> Array:
    """Return rows of the first chunk, evenly spread, that stand for all: (cols, some rows)."""
    chunk = next(problem.chunks())
    most = max(SAMPLE_ENTRIES // len(chunk) // LANES * LANES, LANES)
    step = -(-chunk.shape[1] // most)
    if step == 1:
        return chunk.copy() if problem.streamed else chunk  # a streamed chunk is overwritten by the next one
    few = chunk[:, ::step]
    rows = aligned((len(chunk), -(-few.shape[1] // LANES) * LANES))
    rows[:, : few.shape[1]] = few
    return rows
