"""One solve in progress: the incumbent, the limits, and everything a solver may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from permsolve.blocks import BlockBounds
from permsolve.certificates import Certificate
from permsolve.errors import InputError, SolverError
from permsolve.problem import Problem
from permsolve.scoring import efficacy
from permsolve.stop import AnyOf, Criterion, Progress

T = TypeVar("T")
R = TypeVar("R")

#: What a callback is: it gets the progress after every improvement and returns true to end the solve.
Callback = Callable[[Progress], object]
#: Seconds between two reports to a display.
REPORT_EVERY = 0.1
#: Gap up to which a solution counts as proved best.
OPTIMAL_GAP = 1e-9


class TracePoint(NamedTuple):
    """A point of the anytime curve."""

    #: Seconds since the solver was called.
    time: float
    #: Score of the incumbent.
    score: float
    #: Best proved upper bound.
    bound: float


class Run:
    """What a solver works with: it offers solutions and bounds, asks whether to go on, and finds its resources.

    Offers are rescored here; a solver never reports its own value. A run may be narrowed with `within` (less time, a
    share of the columns) for methods that chain others. A run is used from the thread that solves; work handed to
    `map` must not touch it.

    Parameters
    ----------
    problem
        The problem.
    stop
        When to stop, or None.
    rng
        The generator every random choice comes from.
    n_jobs
        Number of threads to use.
    initial
        Solution to start from, or None.
    callbacks
        Called with a `Progress` after every improvement; a true answer ends the solve.
    report
        Called with a `Progress` now and then, for displays.
    device
        Name of the device to search on, ``"cpu"`` or ``"cuda"`` with or without a number.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        stop: Criterion | None,
        rng: np.random.Generator,
        n_jobs: int = 1,
        initial: Any = None,
        callbacks: Sequence[Callback] = (),
        report: Callable[[Progress], None] | None = None,
        device: str = "cpu",
    ) -> None:
        self.rng = rng
        self.n_jobs = n_jobs
        self.device = device
        #: The solution to start from, or None where the user gave none.
        self.initial = initial
        self._core = _Core(problem, stop, tuple(callbacks), report, n_jobs)
        self._parent: Run | None = None
        #: The columns of this run where they are a share of the problem's, which only plain n:m has.
        self._span: slice | None = None
        self._limit = (float("inf"), float("inf"))  # seconds and iterations of this run alone
        self._started = 0.0  # on the core's clock
        self._start_share = 0.0
        self.iterations = 0
        self._counts = True
        #: Share of a method's own schedule that it should work through where nothing limits it.
        self.effort = 1.0

    def open(self) -> _Core:
        """Start the clock; called by whoever owns the solve, once, before the solver.

        Returns
        -------
        _Core
            The state shared by all runs within this one.
        """
        self._core.start_clock()
        return self._core

    def offer(self, solution: Any) -> bool:
        """Offer a solution; it becomes the incumbent if the core scores it higher.

        Parameters
        ----------
        solution
            A solution of the pattern; for plain n:m a permutation of this run's columns, integers.

        Returns
        -------
        bool
            Whether it is the new incumbent.

        Raises
        ------
        SolverError
            If it is none.
        """
        if self._span is None:
            return self._core.offer(solution)
        try:
            order = np.asarray(solution)
        except ValueError as error:  # ragged
            raise SolverError(f"the method offered no permutation: {error}") from error
        width = self._span.stop - self._span.start
        if order.shape != (width,):
            raise SolverError(f"offered an array of shape {order.shape} for {width} columns")
        whole = self._core.solution.copy()
        whole[self._span] = order + self._span.start
        return self._core.offer(whole)

    def offer_bound(self, value: float, certificate: Certificate | None = None) -> None:
        """Offer a proved upper bound on the score of any solution of this run's columns.

        Where they are one block of several, the core adds up the bounds of the blocks.

        Parameters
        ----------
        value
            The bound.
        certificate
            A dual solution that proves it to anybody: the bound is then of kind ``"lp"``. Without one it rests on the
            method's word and is of kind ``"exact"``.

        Raises
        ------
        SolverError
            If the incumbent scores more.
        """
        self._core.offer_bound(self._span, value, certificate)

    def proceed(self, iterations: int = 0) -> bool:
        """Count iterations and say whether to go on.

        Parameters
        ----------
        iterations
            How many were done since the last call.

        Returns
        -------
        bool
            False once any limit is reached, the optimum is proved or a callback asked to stop.
        """
        run: Run | None = self
        while run is not None:
            run.iterations += iterations
            run = run._parent if run._counts else None
        if self._counts:
            self._core.iterations += iterations
        return self._core.proceed() and not self._exhausted()

    def remaining(self) -> float:
        """Return the seconds left, infinite where there is no time limit.

        Returns
        -------
        float
            Seconds, never negative.
        """
        left = max(self._started + self._limit[0] - self._core.elapsed(), 0.0)
        parent = self._core.remaining() if self._parent is None else self._parent.remaining()
        return min(left, parent)

    def iterations_left(self) -> float:
        """Return the iterations left, infinite where they are not limited.

        Returns
        -------
        float
            Iterations, never negative.
        """
        parent = self._core.iterations_left() if self._parent is None else self._parent.iterations_left()
        return min(max(self._limit[1] - self.iterations, 0.0), parent)

    def progress(self) -> float | None:
        """Return the share of time or iterations that is used up, or None where neither is limited.

        Returns
        -------
        float or None
            Share in [0, 1] of the tightest limit; schedules follow it.
        """
        shares = []
        seconds, iterations = self._limit
        if seconds < float("inf"):
            shares.append((self._core.elapsed() - self._started) / max(seconds, 1e-9))
        if iterations < float("inf"):
            shares.append(self.iterations / max(iterations, 1))
        outer = self._core.share() if self._parent is None else self._parent.progress()
        if outer is not None:
            shares.append((outer - self._start_share) / max(1.0 - self._start_share, 1e-9))
        return min(max(shares), 1.0) if shares else None

    @property
    def best(self) -> Any:
        """The incumbent: for plain n:m the permutation of this run's columns, a copy."""
        return self._share(self._core.solution)

    @property
    def timed(self) -> bool:
        """Whether the solve is limited by time: only then may the course of a search depend on speed or threads."""
        return self._core.remaining() < float("inf")

    def within(
        self,
        *,
        seconds: float = float("inf"),
        iterations: float = float("inf"),
        columns: slice | None = None,
        effort: float = 1.0,
        counts: bool = True,
    ) -> Run:
        """Return a run inside this one: the same incumbent, with limits of its own.

        Parameters
        ----------
        seconds
            Time limit from now.
        iterations
            Iteration limit.
        columns
            Share of the columns, a slice in this run's numbering; its problem is the caller's to make.
        effort
            Share of its own schedule that a method should work through where nothing limits it.
        counts
            Whether iterations of the inner run are iterations of this one.

        Returns
        -------
        Run
            The inner run; all limits of the outer one hold as well.
        """
        inner = object.__new__(Run)
        inner._core = self._core
        inner._parent = self
        inner.rng = np.random.default_rng(self.rng.integers(2**63))
        inner.n_jobs = self.n_jobs
        inner.device = self.device
        offset = 0 if self._span is None else self._span.start
        inner._span = self._span if columns is None else slice(offset + columns.start, offset + columns.stop)
        inner.initial = inner.best
        inner._limit = (seconds, iterations)
        inner._started = self._core.elapsed()
        inner._start_share = self.progress() or 0.0
        inner.iterations = 0
        inner._counts = counts and self._counts
        inner.effort = self.effort * effort
        return inner

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Apply a function to items on this run's threads, in order of the items.

        Parameters
        ----------
        function
            Releases the GIL for most of its time, and does not touch the run.
        items
            Its arguments.

        Returns
        -------
        list
            Results in the order of the items.
        """
        if self.n_jobs == 1:
            return [function(item) for item in items]
        return list(self._core.pool().map(function, items))

    def _share(self, solution: Any) -> Any:
        if self._span is not None:
            return solution[self._span] - self._span.start
        return solution.copy() if isinstance(solution, np.ndarray) else solution  # others cannot be written to

    def _exhausted(self) -> bool:
        seconds, iterations = self._limit
        if self.iterations >= iterations or self._core.elapsed() - self._started >= seconds:
            return True
        return self._parent is not None and self._parent._exhausted()


class _Core:
    """The part of a run that all runs within it share: clock, incumbent, bound, stop criteria."""

    def __init__(
        self,
        problem: Problem,
        stop: Criterion | None,
        callbacks: tuple[Callback, ...],
        report: Callable[[Progress], None] | None,
        n_jobs: int,
    ) -> None:
        self.problem = problem
        self.stop = None if stop is None else AnyOf((stop,)) if not isinstance(stop, AnyOf) else stop
        self.callbacks = callbacks
        self.report = report
        self.n_jobs = n_jobs
        self.solution = problem.start
        self.values = problem.piece_values(self.solution)
        self.score = float(self.values.sum())
        self.baseline = self.score
        self.bounds = BlockBounds(problem)
        self.bound = problem.rows_bound
        self.bound_kind = "rows"
        self.iterations = 0
        self.stopped_by: str | None = None
        self.trace: list[TracePoint] = []
        self._improved_at = 0.0
        self._improved_iteration = 0
        self._reported_at = -REPORT_EVERY
        self._pool: ThreadPoolExecutor | None = None
        self._start = time.perf_counter()
        self.trace.append(TracePoint(0.0, self.score, self.bound))

    def start_clock(self) -> None:
        self._start = time.perf_counter()
        self.trace[:] = [TracePoint(0.0, self.score, self.bound)]

    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    def offer(self, offered: Any) -> bool:
        try:
            solution = self.problem.check_solution(offered)
        except InputError as error:
            raise SolverError(f"the method offered no valid solution: {error}") from error
        changed = self.problem.pattern.changed(solution, self.solution)
        if not changed.size:
            return False
        values = self.values.copy()
        values[changed] = self.problem.piece_values(solution, changed)
        score = float(values.sum())
        if score <= self.score + 1e-12 * abs(self.score):
            return False
        self.solution, self.values, self.score = solution, values, score
        self._improved_at, self._improved_iteration = self.elapsed(), self.iterations
        self.trace.append(TracePoint(self._improved_at, score, self.bound))
        progress = self.state()
        for callback in self.callbacks:
            if callback(progress) and self.stopped_by is None:
                self.stopped_by = "callback"
        return True

    def offer_bound(self, span: slice | None, value: float, certificate: Certificate | None) -> None:
        m = self.problem.pattern.m
        share = self.values if span is None else self.values[span.start // m : span.stop // m]
        score = float(share.sum())
        if value < score - OPTIMAL_GAP * abs(score) - self.problem.rounding:
            raise SolverError(f"the method offered a bound of {value!r}, the incumbent scores {score!r}")
        self.bounds.offer(0 if span is None else span.start, value, certificate)
        if self.bounds.total < self.bound:
            self.bound, self.bound_kind = self.bounds.total, self.bounds.kind
            self.trace.append(TracePoint(self.elapsed(), self.score, self.bound))

    def gap(self) -> float:
        return gap(self.score, self.bound)

    def state(self) -> Progress:
        elapsed = self.elapsed()
        return Progress(
            elapsed=elapsed,
            iterations=self.iterations,
            score=self.score,
            efficacy=efficacy(self.score, self.baseline, self.problem.rows_bound),
            bound=self.bound,
            gap=self.gap(),
            stalled_time=elapsed - self._improved_at,
            stalled_iterations=self.iterations - self._improved_iteration,
        )

    def proceed(self) -> bool:
        state = self.state()
        if self.report is not None and state.elapsed - self._reported_at >= REPORT_EVERY:
            self._reported_at = state.elapsed
            self.report(state)
        if self.stopped_by is None and self.stop is not None and self.stop(state):
            self.stopped_by = repr(self.stop.first(state))
        return self.stopped_by is None and state.gap > OPTIMAL_GAP

    def share(self) -> float | None:
        return None if self.stop is None else self.stop.fraction(self.state())

    def remaining(self) -> float:
        return float("inf") if self.stop is None else self.stop.seconds_left(self.elapsed())

    def iterations_left(self) -> float:
        return float("inf") if self.stop is None else self.stop.iterations_left(self.iterations)

    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n_jobs, thread_name_prefix="permsolve")
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def gap(score: float, bound: float) -> float:
    """Return the relative distance of a score to a bound.

    Parameters
    ----------
    score
        Score of the incumbent.
    bound
        Proved upper bound.

    Returns
    -------
    float
        ``(bound - score) / bound``. Where scores are minus an error, and so at most 0, ``(bound - score) / |score|``:
        the share of the error that is not proved necessary. 0 where both are 0, never negative.
    """
    larger = max(abs(score), abs(bound))
    return max((bound - score) / larger, 0.0) if larger > 0 else 0.0
