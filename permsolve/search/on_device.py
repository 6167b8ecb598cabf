"""Methods on a GPU: what `channel_swap` and `annealing` do where ``run.device`` is one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from permsolve._devices import interpreting
from permsolve.errors import UnsupportedProblemError
from permsolve.patterns import NM
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.device import DeviceExchange
from permsolve.search.schedule import default_seconds
from permsolve.search.start import starting_order
from permsolve.solver import Status

#: Share of a limit after which annealing gives way to the last descent.
ANNEALED = 0.9
#: Permutations of one narrow problem that are annealed side by side.
MOST_CHAINS = 16
#: Modelled cost of a sweep: launches, and terms of the gain matrix a second when a quarter of it changes.
SWEEP_SECONDS, TERMS, CHANGED = 1e-3, 5e12, 0.25
#: Sweeps in a row without a better score by the device's own account after which a descent has ended: what is left are
#: changes below float32's resolution.
PATIENCE = 3


class _Reports:
    """Offers the state's permutations now and then: the core's rescoring on the CPU must not hold up the device."""

    def __init__(self, run: Run) -> None:
        self._run, self._next = run, 0.0

    def __call__(self, permutations: Callable[[], npt.NDArray[np.int64]], due: bool = False) -> None:
        now = time.perf_counter()
        if not due and now < self._next:
            return
        for order in permutations():
            self._run.offer(order)
        after = time.perf_counter()
        self._next = after + 10.0 * (after - now)


def swap(problem: Problem, run: Run, escapes: int) -> Status:
    """Descend to a permutation that no exchange improves; escape by a random exchange and descend again.

    Parameters
    ----------
    problem, run
        As a method gets them.
    escapes
        Random exchanges after the first descent.

    Returns
    -------
    Status
        ``LOCAL_OPTIMUM`` or ``STOPPED``.
    """
    m, reports = problem.pattern.m, _Reports(run)
    state = make_state(problem, run, 1)
    for escape in range(escapes + 1):
        if escape:
            groups = run.rng.choice(problem.groups, size=2, replace=False)
            places = groups * m + run.rng.integers(m, size=2)
            state.exchange(state.orders()[:, places])
        if not descend(state, run, reports):
            return Status.STOPPED
    return Status.LOCAL_OPTIMUM


def anneal(problem: Problem, run: Run, temperature: Callable[[float], float]) -> Status:
    """Sweep with falling noise, then descend from the best permutation seen.

    Narrow problems are annealed from several permutations side by side: ``2048 / cols`` of them, at most 16.

    Parameters
    ----------
    problem, run
        As a method gets them.
    temperature
        Temperature at a share of the schedule in [0, 1], in mean losses of a random exchange at a local optimum.

    Returns
    -------
    Status
        ``COMPLETED`` or ``STOPPED``.
    """
    reports = _Reports(run)
    state = make_state(problem, run, min(max(2048 // problem.cols, 1), MOST_CHAINS))
    if not descend(state, run, reports):
        return Status.STOPPED
    unit = np.maximum(state.mean_loss(), 1e-6 * problem.largest)
    state.keep()
    terms = CHANGED * state.batch * problem.rows * float(problem.cols) ** 2
    budget = max(run.effort * default_seconds(problem) / (SWEEP_SECONDS + terms / TERMS), 1.0)
    done, start = 0, run.progress() or 0.0
    while True:
        limit = run.progress()
        share = done / budget if limit is None else (limit - start) / max(ANNEALED - start, 1e-9)
        if share >= 1.0:
            break
        state.sweep(unit * temperature(share))
        state.keep()
        done += 1
        if not run.proceed(1):
            reports(state.best, due=True)
            return Status.STOPPED
        reports(state.best)
    reports(state.best, due=True)
    state.restart(state.best())
    return Status.COMPLETED if descend(state, run, reports) else Status.STOPPED


def descend(state: DeviceExchange, run: Run, reports: _Reports) -> bool:
    """Sweep until no exchange improves, an iteration each.

    Parameters
    ----------
    state
        The state.
    run
        The run.
    reports
        What offers the permutations.

    Returns
    -------
    bool
        False where the run ended first.
    """
    best, idle = -1.0, 0
    while idle < PATIENCE:
        moved = state.sweep().any()
        idle = 0 if (score := float(state.seen.sum())) > best else idle + 1
        best = max(best, score)
        going = run.proceed(1)
        reports(state.orders, due=not going or not moved or idle == PATIENCE)
        if not going:
            return False
        if not moved:
            break
    return run.proceed()


def make_state(problem: Problem, run: Run, chains: int) -> DeviceExchange:
    """Put a problem on the run's device.

    Parameters
    ----------
    problem, run
        As a method gets them.
    chains
        Permutations to work on, all from the same start.

    Returns
    -------
    DeviceExchange
        The state.
    """
    orders = np.repeat(starting_order(run)[None], chains, axis=0)
    pattern = (problem.pattern.n, problem.pattern.m)
    return DeviceExchange(problem.packed[None], pattern, orders, device=run.device, seed=int(run.rng.integers(2**31)))


def warm_up(problem: Problem, device: str) -> None:
    """Compile the kernels that a problem needs, or load them from Triton's cache, so that no limit pays for it.

    Parameters
    ----------
    problem
        The problem; a few of its rows do.
    device
        The device.
    """
    if not isinstance(problem.pattern, NM):
        raise UnsupportedProblemError(f"on a GPU only plain n:m is searched, not {problem.pattern}: use device='cpu'")
    if interpreting():
        return
    few = np.ascontiguousarray(problem.packed[None, :, :16])
    pattern = (problem.pattern.n, problem.pattern.m)
    for chains in sorted({1, min(max(2048 // problem.cols, 1), MOST_CHAINS)}):
        state = DeviceExchange(few, pattern, np.repeat(np.arange(problem.cols)[None], chains, axis=0), device=device)
        state.sweep()
        state.sweep(1.0)
        state.exchange(np.repeat([[0, problem.pattern.m]], chains, axis=0))
