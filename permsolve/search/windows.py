"""Windows: a search over all columns as searches over a few hundred at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from permsolve.kernels.anneal import make_window
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm
from permsolve.search.start import starting_order

Array = npt.NDArray[Any]
T = TypeVar("T")

#: A window's saliency and thresholds should stay in a core's second-level cache.
WINDOW_BYTES = 1 << 20
NARROWEST, WIDEST = 128, 512


class _Job(NamedTuple):
    window: Any
    order: Array
    seed: np.uint64


class Windows:
    """One or several permutations (chains), each dealt into windows of 128 to 512 columns anew in every epoch.

    The groups are dealt at random, so that in time every two columns meet. Windows share no groups: they are worked on
    side by side and put together exactly. Problems of up to 128 columns are one window. How long the work on a window
    takes is not known beforehand, so an alarm ends it with the time.

    Parameters
    ----------
    problem
        The problem.
    run
        The run: for its generator, its threads and the start.
    make
        Makes the work space of a window from its width and the flag that ends kernels; by default that of exchanges
        read off thresholds.
    """

    def __init__(self, problem: Problem, run: Run, make: Callable[[int, Array], Any] | None = None) -> None:
        self.packed, self.run = problem.packed, run
        self.n, self.m = problem.pattern.n, problem.pattern.m
        rows = self.packed.shape[1]
        width = min(max(WINDOW_BYTES // (8 * rows), NARROWEST), WIDEST)
        count = max(1, round(problem.cols / width))
        count = min(count, max(problem.groups // 2, 1))  # a window needs two groups to exchange between
        # A single window cannot be shared between threads; where the outcome may depend on their number, they get
        # chains of their own.
        chains = run.n_jobs if count == 1 and run.timed else 1
        self.splits = np.array_split(np.arange(problem.groups), count)
        #: The permutations of the chains.
        self.orders = [starting_order(run) for _ in range(chains)]
        #: Ends the kernels that work on a window with the time.
        self.alarm = Alarm(run)

        def usual(width: int, halt: Array) -> Any:
            return make_window(width, rows, self.n, self.m, halt)

        self._space = [
            (make or usual)(len(split) * self.m, self.alarm.halt) for _ in range(chains) for split in self.splits
        ]

    @property
    def count(self) -> int:
        """Number of windows of all chains."""
        return len(self._space)

    def seed(self) -> np.uint64:
        """Return a fresh seed for a kernel."""
        return np.uint64(self.run.rng.integers(2**63))

    def epoch(self, work: Callable[[Any, Array, np.uint64], T], idle: Callable[[Array], T]) -> list[list[T]]:
        """Work on every window once.

        Parameters
        ----------
        work
            Called with a window's work space, its columns in groups (int64 (width,), to be changed in place) and a
            seed; it runs in threads.
        idle
            Called with the columns instead, where the time is over.

        Returns
        -------
        list
            For each chain the list of what ``work`` returned for its windows, in the order of `orders`.
        """
        jobs: list[_Job] = []
        for order in self.orders:
            groups = order.reshape(-1, self.m)
            deal = self.run.rng.permutation(len(groups)) if len(self.splits) > 1 else np.arange(len(groups))
            jobs += [
                _Job(self._space[len(jobs) + k], groups[deal[split]].ravel(), self.seed())
                for k, split in enumerate(self.splits)
            ]
        began = time.perf_counter()
        deadline = began + self.run.remaining()

        def task(job: _Job) -> T:
            if time.perf_counter() >= deadline:
                return idle(job.order)
            return work(job.window, job.order, job.seed)

        with self.alarm.watch():
            results = self.run.map(task, jobs)
        self.alarm.took(time.perf_counter() - began)
        size = len(self.splits)
        chains = [slice(k * size, (k + 1) * size) for k in range(len(self.orders))]
        self.orders = [np.concatenate([job.order for job in jobs[chain]]) for chain in chains]
        return [results[chain] for chain in chains]
