"""`permsolve.solve`: one solve, from call to result."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from permsolve import bounds
from permsolve._devices import check_device
from permsolve.display import reporter
from permsolve.errors import InputError, MissingDependencyError, SolverError, UnsupportedProblemError
from permsolve.patterns import NM, parse
from permsolve.problem import Problem
from permsolve.registry import get_solver, make_solver, methods
from permsolve.result import Result
from permsolve.run import OPTIMAL_GAP, Callback, Run, gap
from permsolve.solver import Solver, Status
from permsolve.stop import Criterion, MaxRuntime
from permsolve.streamed import open_problem


def solve(
    matrix: object,
    nm: object = (2, 4),
    *,
    method: str | Solver = "auto",
    saliency: object = "magnitude",
    blocks: Sequence[int] | None = None,
    bound: str = "rows",
    stop: Criterion | None = None,
    time_limit: float | None = None,
    seed: int | np.random.Generator = 0,
    initial: Any = None,
    options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    display: bool | None = None,
    device: object = "cpu",
    n_jobs: int | None = None,
    memory_limit: int | str | None = None,
) -> Result:
    """Find a permutation of the channels that keeps more saliency under a sparsity pattern.

    Parameters
    ----------
    matrix
        Weights of shape (rows, cols), or of a convolution (K, C, R[, S[, T]]): NumPy array, torch tensor or array-like;
        float16, bfloat16, float32, float64 or integers. Or a `Problem`, for example of stacked matrices; then ``nm``,
        ``saliency`` and ``blocks`` are the problem's own. The input is not modified.
    nm
        Pattern: (n, m) or ``"n:m"`` keeps n of every m consecutive columns; or a pattern that permutes rows, too:
        `HiNM`, `VNM`, `Transposable`, or what `permsolve.patterns.parse` reads, such as ``"hinm(32, 0.5, 2:4)"``.
    method
        Name of a method (see `permsolve.methods`) or a solver instance.
    saliency
        ``"magnitude"``, ``"energy"``, an array of the matrix's shape with entries >= 0, or a saliency object such as
        ``permsolve.saliency.Wanda(input_norms)``; or `permsolve.saliency.OutputError`, the error of the layer's output
        group by group: scores are then minus an error.
    blocks
        Sizes of consecutive blocks of columns, each a multiple of m, that no column may leave.
    bound
        Which upper bound to prove first: ``"rows"``, at no cost, or ``"lp"``, the linear programming bound of
        `permsolve.bound`, which may take up to half of a time limit. Methods may prove better ones.
    stop
        Criteria of `permsolve.stop`, joined by ``|``.
    time_limit
        Seconds the solver may run; shorthand for ``MaxRuntime(seconds)``. Compilation comes before and is reported as
        ``setup_time``.
    seed
        Seed or generator of every random choice. Unless a criterion reads the clock, the same seed gives the same
        permutation, whatever ``n_jobs``.
    initial
        Solution to start from: for plain n:m a permutation of shape (cols,), for other patterns a solution of theirs.
    options
        The method's options by name.
    callbacks
        Functions called with a `permsolve.stop.Progress` after every improvement; a true answer ends the solve.
    display
        Show progress: True, False, or None for where a person is watching.
    device
        Where to search: ``"cpu"``, or ``"cuda"``, ``"cuda:1"``, a ``torch.device`` for methods that run on a GPU
        (``solver.devices`` says so). Scores are computed on the CPU, in float64, wherever the search runs.
    n_jobs
        Number of threads, by default all cores this process may use.
    memory_limit
        Bytes, or a string such as ``"2 GB"``, that the problem may take; 70 % of the machine's memory by default. A
        matrix is held once, as float32 (float64 weights as float64, and once more for the search); one that would take
        more is streamed: read anew, from its file or array, whenever all of it is needed. Methods that support it:
        ``assignment`` and ``auto``, and ``identity`` and ``random``.

    Returns
    -------
    Result
        The best permutation found, its scores and how it was found.

    Raises
    ------
    InputError
        If an argument does not fit; subclasses say which: `UnknownMethodError`, `OptionError`,
        `UnsupportedProblemError`.
    MissingDependencyError
        If the method or the device needs a package that is not installed.
    DeviceError
        If torch does not see the device, or it has too little memory.
    """
    called = time.perf_counter()
    name, solver = make_solver(method, options)
    limit = _stop(stop, time_limit)
    observers = _callbacks(callbacks)
    jobs = threads(n_jobs)
    place = check_device(device)
    _check_runs_on(name, solver, place)
    rng, known_seed = generator(seed)
    bounds.check_kind(bound)
    problem = as_problem(matrix, nm, saliency, blocks, memory_limit)
    _check_streams(name, solver, problem)
    _check_objective(name, solver, problem, place)
    start = None if initial is None else problem.check_solution(initial)
    parts = problem.parts()
    for _, part in parts:
        reason = solver.refusal(part)
        if reason is not None:
            raise UnsupportedProblemError(f"method {name!r} does not support this problem: {reason}")
    if bound == "lp" and problem.streamed:
        raise UnsupportedProblemError("bound = 'lp' needs the matrix in memory: raise memory_limit, or use 'rows'")
    if bound == "lp":
        bounds.check_supported(problem)
        bounds.warm_up(problem)
    for part in {part.cols: part for _, part in parts}.values():
        _warm_up(solver, part, place)

    with reporter(display, name, limit) as report:
        run = Run(
            problem, stop=limit, rng=rng, n_jobs=jobs, initial=start, callbacks=observers, report=report, device=place
        )
        core = run.open()
        setup_time = time.perf_counter() - called
        try:
            if start is not None:
                run.offer(start)
            if bound == "lp":
                bounds.prove_lp(problem, run.within(seconds=run.remaining() / 2))
            status = _search(solver, parts, run)
        except KeyboardInterrupt:
            core.stopped_by, status = "interrupt", Status.STOPPED
        finally:
            core.close()
        runtime = core.elapsed()

    score = problem.score(core.solution)
    if gap(score, core.bound) <= OPTIMAL_GAP:
        status = Status.OPTIMAL
    elif core.stopped_by is not None:
        status = Status.STOPPED
    elif status in (Status.OPTIMAL, Status.STOPPED):  # unproved, or cut off by the share of one block
        status = Status.COMPLETED
    return Result(
        solution=core.solution,
        pattern=problem.pattern,
        score=score,
        baseline=problem.baseline,
        rows_bound=problem.rows_bound,
        bound=core.bound,
        bound_kind=core.bound_kind,
        certificate=core.bounds.certificate,
        status=status,
        stopped_by=core.stopped_by,
        method=name,
        options=solver.options,
        seed=known_seed,
        iterations=core.iterations,
        setup_time=setup_time,
        runtime=runtime,
        trace=tuple(core.trace),
        saliency=problem.saliency_name,
        blocks=problem.blocks,
        shape=problem.shape,
        dtype=problem.dtype,
        fingerprint=problem.fingerprint,
    )


def _search(solver: Solver, parts: list[tuple[slice, Problem]], run: Run) -> Status:
    """Run a solver on every block; the blocks are independent problems."""
    if len(parts) == 1:
        return _search_part(solver, parts[0][1], run)
    statuses = []
    weights = [part.cols**2 for _, part in parts]  # the number of exchanges: a fair share of the limits
    for k, (span, part) in enumerate(parts):
        if not run.proceed():
            return Status.STOPPED
        share = weights[k] / sum(weights[k:])
        seconds = run.remaining() * share
        iterations = run.iterations_left() * share
        whole = iterations if math.isinf(iterations) else math.ceil(iterations)
        inner = run.within(seconds=seconds, iterations=whole, columns=span)
        statuses.append(_search_part(solver, part, inner))
    worst = (Status.STOPPED, Status.COMPLETED, Status.LOCAL_OPTIMUM, Status.OPTIMAL)
    return next(status for status in worst if status in statuses)


def _search_part(solver: Solver, problem: Problem, run: Run) -> Status:
    if problem.trivial:
        run.offer_bound(problem.baseline)
        return Status.OPTIMAL
    if not run.proceed():  # nothing to gain, or no time at all
        return Status.COMPLETED
    status = solver(problem, run)
    if not isinstance(status, Status):
        raise SolverError(f"the method must return a Status, it returned {status!r}")
    return status


_warmed: set[tuple[object, ...]] = set()


def _check_runs_on(name: str, solver: Solver, device: str) -> None:
    kind = device.partition(":")[0]
    if kind in solver.devices:
        return
    able = []
    for other in methods():
        try:
            able += [other] if kind in get_solver(other).devices else []
        except MissingDependencyError:  # it would not run here anyway
            continue
    raise UnsupportedProblemError(
        f"method {name!r} does not run on device {device!r}; those that do: {', '.join(able) or 'none'}"
    )


def _check_streams(name: str, solver: Solver, problem: Problem) -> None:
    if problem.streamed and not solver.streams:
        able = [other for other in methods() if _streams(other)]
        raise UnsupportedProblemError(
            f"method {name!r} needs the matrix in memory, where it would take more than memory_limit allows: "
            f"raise the limit, or use one of {', '.join(able)}"
        )


def _streams(name: str) -> bool:
    try:
        return get_solver(name).streams
    except MissingDependencyError:  # it would not run here anyway
        return False


def _check_objective(name: str, solver: Solver, problem: Problem, device: str) -> None:
    objective = problem.objective
    if objective not in solver.objectives:
        able = [other for other in methods() if objective in _objectives(other)]
        raise UnsupportedProblemError(
            f"method {name!r} needs a saliency that adds up entry by entry, and {objective!r} does not; "
            f"use one of {', '.join(able)}"
        )
    if device != "cpu" and objective != "retained":
        raise UnsupportedProblemError(f"the objective {objective!r} is searched on the CPU only: use device='cpu'")


def _objectives(name: str) -> tuple[str, ...]:
    try:
        return get_solver(name).objectives
    except MissingDependencyError:  # it would not run here anyway
        return ()


def _warm_up(solver: Solver, problem: Problem, device: str) -> None:
    """Compile, or load from disk, the kernels a solver is going to use, so that no limit pays for it.

    A solver may know better and define ``warm_up(problem)``; by default it solves a corner of the problem once.
    """
    key = (type(solver), problem.pattern, problem.objective, problem.columns.dtype, problem.cols, device)
    if key in _warmed or problem.trivial:
        return
    if device == "cpu":
        solver.warm_up(problem.standin)
    else:
        from permsolve.search.on_device import warm_up

        warm_up(problem, device)
    _warmed.add(key)


def as_problem(
    matrix: object, nm: object, saliency: object, blocks: Sequence[int] | None, memory_limit: object = None
) -> Problem:
    """Return the problem that is meant: a `Problem` itself, or that of a matrix.

    Parameters
    ----------
    matrix, nm, saliency, blocks, memory_limit
        As in `solve`.

    Returns
    -------
    Problem
        The problem.

    Raises
    ------
    InputError
        If an argument does not fit, or a `Problem` comes with arguments that it carries itself.
    """
    if isinstance(matrix, Problem):
        if memory_limit is not None:
            raise InputError("memory_limit comes too late for a Problem, which is in memory: pass the matrix itself")
        _check_unset(matrix, nm, saliency, blocks)
        return matrix
    return open_problem(matrix, nm, saliency, blocks, memory_limit)


def _check_unset(problem: Problem, nm: object, saliency: object, blocks: object) -> None:
    """Refuse arguments that a `Problem` carries itself and that would otherwise be ignored."""
    unset = {
        "nm": parse(nm) in (NM(2, 4), problem.pattern),
        "saliency": isinstance(saliency, str) and saliency == "magnitude",
        "blocks": blocks is None,
    }
    named = " and ".join(name for name, good in unset.items() if not good)
    if named:
        raise InputError(f"a Problem already carries its {named}; pass that to Problem.of or Problem.stack instead")


def _stop(stop: Criterion | None, time_limit: float | None) -> Criterion | None:
    if stop is not None and not isinstance(stop, Criterion):
        raise InputError(f"stop = {stop!r} is no criterion; see permsolve.stop, for example MaxIterations(1000)")
    if time_limit is None:
        return stop
    limit = MaxRuntime(time_limit)
    return limit if stop is None else stop | limit


def _callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    listed = tuple(callbacks) if isinstance(callbacks, (list, tuple)) else ()
    if not isinstance(callbacks, (list, tuple)) or not all(callable(callback) for callback in listed):
        raise InputError(f"callbacks = {callbacks!r} must be a list of functions that take a Progress")
    return listed


def threads(n_jobs: int | None) -> int:
    """Return the number of threads that is meant, by default all cores this process may use.

    Parameters
    ----------
    n_jobs
        What the user passed.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InputError
        If it is no positive number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_jobs is None:
        allowed = os.environ.get("NUMBA_NUM_THREADS", "")
        return min(cores, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else cores
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs < 1:
        raise InputError(f"n_jobs = {n_jobs!r} must be a positive number of threads, or None for all cores")
    return int(n_jobs)


def generator(seed: object) -> tuple[np.random.Generator, int | None]:
    """Return a generator for a seed, and the seed where it is known.

    Parameters
    ----------
    seed
        What the user passed.

    Returns
    -------
    tuple
        The generator, and the seed or None.

    Raises
    ------
    InputError
        If it is neither a whole number nor a generator.
    """
    if isinstance(seed, np.random.Generator):
        return seed, None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed = {seed!r} must be a whole number >= 0 or a numpy.random.Generator")
    return np.random.default_rng(int(seed)), int(seed)
