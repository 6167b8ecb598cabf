"""Rounds of assignments: all groups are dealt into blocks, and each block refills one slot of each of its groups."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels.gain import gain_block
from permsolve.kernels.groups import State
from permsolve.kernels.slots import Block, Stretch, fill_slots, free_slots, make_block, make_stretch, slot_gains
from permsolve.kernels.vector import TILE
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm

Array = npt.NDArray[Any]

#: Slots whose mean gains are the first prices of all columns.
SAMPLE = 16


class Deals:
    """A permutation that is changed by assignments in blocks of groups.

    Blocks are worked on side by side. Where there are fewer than threads, the threads share the gains of each: every
    gain is the same sum either way, so the outcome does not depend on the number of threads.

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
        self.packed, self.run = problem.packed, run
        self.n, self.m = problem.pattern.n, problem.pattern.m
        #: int64 (groups, m): the columns of each group.
        self.members = order.copy().reshape(-1, self.m)
        #: Ends the kernels with the time.
        self.alarm = Alarm(run)
        #: Number of blocks.
        self.count = max(1, round(problem.groups / block))
        most = -(-problem.groups // self.count)
        self._side_by_side = self.count >= run.n_jobs
        self._blocks = [make_block(most) for _ in range(run.n_jobs if self._side_by_side else 1)]
        self._stretches = [make_stretch(most, self.n) for _ in range(run.n_jobs)]
        thresholds = self._sample()
        gains = np.empty((len(thresholds), problem.cols), dtype=np.float32)
        state = State(self.packed, thresholds, np.empty(0, dtype=np.float32), np.empty((0, 0), dtype=np.float32))
        gain_block(state, np.arange(len(thresholds)), np.arange(problem.cols), gains)
        #: float32 (cols,): prices of the columns in the assignments so far; at first, what they bring on average.
        self.prices = -gains.mean(axis=0)

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """The permutation, a view."""
        return self.members.reshape(-1)

    @property
    def mean_loss(self) -> float:
        """What a group loses on average when a column leaves it, by a sample, in units of the packed saliency."""
        chosen = self._sampled_groups()
        values = self.packed[self.members[chosen]]  # (sample, m, rows)
        kept = np.partition(values, self.m - self.n - 1, axis=1)
        pruned, last = kept[:, self.m - self.n - 1], kept[:, self.m - self.n :].min(axis=1)
        limits = np.where(values >= last[:, None], pruned[:, None], last[:, None])
        return float(np.maximum(values - limits, 0).sum(dtype=np.float64)) / (len(chosen) * self.m)

    def round(self, temperature: float) -> int | None:
        """Deal the groups into blocks and work on each once.

        Parameters
        ----------
        temperature
            Scale of the noise, in units of the packed saliency.

        Returns
        -------
        int or None
            Number of columns moved; None where the time ended before the round did.
        """
        rng = self.run.rng
        blocks = np.array_split(rng.permutation(len(self.members)), self.count)
        seeds = rng.integers(2**63, size=(self.count, 2), dtype=np.uint64)
        began = time.perf_counter()
        with self.alarm.watch():
            if self._side_by_side:
                jobs = self.run.n_jobs

                def share(thread: int) -> int:
                    space, stretch = self._blocks[thread], self._stretches[thread : thread + 1]
                    mine = range(thread, self.count, jobs)
                    return sum(self._work(space, stretch, blocks[k], temperature, seeds[k]) for k in mine)

                moved = sum(self.run.map(share, range(jobs)))
            else:
                tasks = zip(blocks, seeds, strict=True)
                moved = sum(
                    self._work(self._blocks[0], self._stretches, groups, temperature, pair) for groups, pair in tasks
                )
        self.alarm.took(time.perf_counter() - began)
        return None if self.alarm.halt[0] else moved

    def _work(self, block: Block, stretches: Sequence[Stretch], groups: Array, temperature: float, seeds: Array) -> int:
        """Refill a random slot of each group of a block; the gains are shared between as many threads as stretches."""
        free_slots(block, self.members, groups, self.m, seeds[0])
        step = max(-(-len(groups) // len(stretches)) + TILE - 1 & -TILE, TILE)  # whole tiles
        spans = [(first, min(first + step, len(groups))) for first in range(0, len(groups), step)]

        def part(task: tuple[Stretch, tuple[int, int]]) -> None:
            stretch, span = task
            slot_gains(stretch, block, self.packed, self.members, groups, *span, self.n, self.m, self.alarm.halt)

        tasks = list(zip(stretches, spans, strict=False))
        if len(tasks) == 1:
            part(tasks[0])
        else:
            self.run.map(part, tasks)
        if self.alarm.halt[0]:
            return 0
        return int(fill_slots(block, self.members, groups, self.prices, temperature, seeds[1]))

    def _sampled_groups(self) -> Array:
        return np.linspace(0, len(self.members) - 1, min(SAMPLE, len(self.members))).astype(np.int64)

    def _sample(self) -> Array:
        """Return the thresholds of a slot of each of a few groups, (sample, padded rows)."""
        chosen = self._sampled_groups()
        others = self.packed[self.members[chosen, 1:]]
        rank = self.m - 1 - self.n
        thresholds = aligned((len(chosen), self.packed.shape[1]))
        thresholds[:] = np.partition(others, rank, axis=1)[:, rank]
        return thresholds
