"""`permsolve.solve_many`: many problems, on the cores of a machine or of a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from permsolve import bounds
from permsolve import saliency as saliencies
from permsolve._solve import as_problem, generator, solve
from permsolve._solve import threads as thread_count
from permsolve.dispatch import Failure, Outcome, Task, dispatch, failure_of, worker_count
from permsolve.display_many import Tally, over_many
from permsolve.errors import InputError, OptionError
from permsolve.many_journal import JournalError, ManyJournal, plain
from permsolve.patterns import parse
from permsolve.problem import Problem
from permsolve.registry import make_solver
from permsolve.result import Result
from permsolve.solved import SolvedMany
from permsolve.solver import Solver
from permsolve.stop import Criterion, MaxRuntime

#: Called with a problem's name and its result or failure; a true answer ends the call.
ManyCallback = Callable[[str, Outcome], object]


@dataclass(frozen=True)
class Job:
    """A problem that is made when it is needed, and how large it will be.

    Parameters
    ----------
    make
        Takes no argument and returns the matrix or `Problem`. It is called in this process, perhaps from another
        thread, and more than once if a worker is lost.
    rows, cols
        Shape of the problem: several workers begin with the largest ones.

    Raises
    ------
    InputError
        If ``make`` cannot be called, or a size is no positive number.
    """

    make: Callable[[], object]
    rows: int
    cols: int

    def __post_init__(self) -> None:
        """Validate."""
        if not callable(self.make):
            raise InputError(f"make = {self.make!r} must be a function without arguments that returns the matrix")
        for name in ("rows", "cols"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise InputError(f"{name} = {size!r} must be a positive number")


def solve_many(
    problems: Mapping[str, object] | Sequence[object],
    nm: object = (2, 4),
    *,
    method: str | Solver = "auto",
    saliency: object = "magnitude",
    bound: str = "rows",
    stop: Criterion | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    callbacks: Sequence[ManyCallback] = (),
    display: bool | None = None,
    n_jobs: int | None = None,
    threads: int | None = 1,
    journal: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> SolvedMany:
    """Find permutations for many matrices, side by side.

    The work is given to joblib, so ``joblib.parallel_config`` decides where it is done: in processes of this machine
    (``"loky"``, the default), in threads (``"threading"``), on a Dask cluster (``"dask"``), or on any engine that is
    registered there. Each problem has a seed of its own, which depends on ``seed`` and its name only, so results are
    the same on every engine, for any number of workers and in any order, unless a criterion reads the clock.

    A problem that fails does not stop the others. If a worker process dies, what it was at is solved again; a problem
    whose worker dies three times, the last time alone, fails. Ctrl-C ends the call and returns what is finished; with
    one worker the problem at work keeps its best so far.

    Parameters
    ----------
    problems
        A mapping from names to problems, or a list of them with the names "0", "1" and so on. Each is a matrix as in
        `permsolve.solve`; a `Problem`, which brings its own pattern, saliency and blocks; or a function without
        arguments, or `Job`, that returns one of these. A function is called in this process when its problem is about
        to be solved and what it returns is not kept: about as many problems as there are workers are in memory.
    nm, saliency
        As in `permsolve.solve`, for what is no `Problem`.
    method, bound, stop, time_limit, options
        As in `permsolve.solve`, for each problem.
    seed
        Seed of all random choices, a whole number.
    callbacks
        Functions called in this process with a problem's name and its `Result` or `Failure` as soon as it is finished;
        a true answer ends the call.
    display
        Show progress: True, False, or None for where a person is watching.
    n_jobs
        Number of workers, as in joblib: -1 is one per core; None is what ``joblib.parallel_config`` says, or else one
        per core. One worker is this process itself.
    threads
        Threads of each solve, or None for all cores.
    journal
        A file that each result is appended to as soon as it is finished. The same call goes on where one was stopped
        or killed; failed problems are tried again. Criteria and other objects count as equal if their ``repr`` is.
    **settings
        Any other argument of `permsolve.solve` that fits many problems.

    Returns
    -------
    SolvedMany
        A mapping from names to results, with ``failures``.

    Raises
    ------
    InputError
        If an argument does not fit, or the journal is of other settings or problems.
    JournalError
        If the journal cannot be written any more; its ``solved`` is what this call would have returned by then.
    SolverError
        If worker processes die whatever they are given.
    """
    called = time.perf_counter()
    named = _named(problems)
    shared = _Shared(nm, saliency, seed)
    name, solver = make_solver(method, options)
    given = {"bound": bound, "stop": stop, "time_limit": time_limit} | _further(settings)
    _check(given, callbacks, threads)
    workers = worker_count(n_jobs)
    fixed = {"method": method, "options": options, "n_jobs": threads} | given
    about = {"nm": str(parse(nm)), "saliency": saliencies.resolve(saliency)[0], "seed": int(seed)}
    about |= {"method": name, "options": solver.options} | {key: plain(value) for key, value in given.items()}
    call = _Call(called, tuple(named))
    with _opened(journal, about) as book:
        if book is not None:
            call.resume(book, named, shared)
        todo = [shared.task(each, named[each], fixed) for each in named if each not in call.results | call.failures]
        with over_many(len(named), display, len(call.results)) as tally:
            call.run(todo, workers, book, callbacks, tally)
    return call.solved()


class _Call:
    """The state of one call: what is finished."""

    def __init__(self, called: float, names: tuple[str, ...]) -> None:
        self._called = called
        self._names = names
        self._stopped_by: str | None = None
        self.results: dict[str, Result] = {}
        self.failures: dict[str, Failure] = {}

    def resume(self, book: ManyJournal, problems: Mapping[str, object], shared: _Shared) -> None:
        """Take over what the journal holds, if it is of these problems."""
        unknown = [name for name in book.results if name not in problems]
        if unknown:
            raise InputError(
                f"{book.path} holds the result of a problem {unknown[0]!r} that is not among the problems "
                f"({len(unknown)} such); give the same problems to go on with it, or name another file"
            )
        for name, result in book.results.items():
            try:
                problem = shared.make(problems[name])
            except Exception as error:  # as in a worker: it costs this problem alone
                self.failures[name] = failure_of(name, error, made=False)
                continue
            book.check(name, problem)
            self.results[name] = result

    def run(
        self,
        tasks: Sequence[Task],
        workers: int,
        book: ManyJournal | None,
        callbacks: Sequence[ManyCallback],
        tally: Tally,
    ) -> None:
        """Solve what is left."""
        with contextlib.closing(dispatch(tasks, workers, watch=tally if workers == 1 else None)) as outcomes:
            try:
                for name, outcome in outcomes:
                    self._take(name, outcome, book)
                    tally.finished(name, outcome)
                    if any([callback(name, outcome) for callback in callbacks]):  # each of them is called
                        self._stopped_by = "callback"
                    if self._stopped_by is not None:
                        return
            except KeyboardInterrupt:
                self._stopped_by = "interrupt"

    def _take(self, name: str, outcome: Outcome, book: ManyJournal | None) -> None:
        if isinstance(outcome, Failure):
            self.failures[name] = outcome
            return
        self.results[name] = outcome
        if outcome.stopped_by == "interrupt":  # only the best so far: the next call solves it anew
            self._stopped_by = "interrupt"
        elif book is not None:
            try:
                book.append(name, outcome)
            except JournalError as error:
                error.solved = self.solved()
                raise

    def solved(self) -> SolvedMany:
        """Return what is finished, in the order of the problems."""
        return SolvedMany(
            results={name: self.results[name] for name in self._names if name in self.results},
            failures={name: self.failures[name] for name in self._names if name in self.failures},
            unfinished=tuple(name for name in self._names if name not in self.results and name not in self.failures),
            stopped_by=self._stopped_by,
            runtime=time.perf_counter() - self._called,
        )


class _Shared:
    """What makes a problem and its seed."""

    def __init__(self, nm: object, saliency: object, seed: object) -> None:
        parse(nm)
        saliencies.resolve(saliency)
        if isinstance(seed, np.random.Generator):
            raise InputError("seed must be a whole number: each problem's seed is made of it and the problem's name")
        generator(seed)
        self._nm, self._saliency, self._seed = nm, saliency, seed

    def make(self, given: object) -> Problem:
        """Return the problem that is meant."""
        function = given.make if isinstance(given, Job) else given if callable(given) else None
        return as_problem(given if function is None else function(), self._nm, self._saliency, None)

    def task(self, name: str, given: object, fixed: Mapping[str, Any]) -> Task:
        """Return what is to be done for one problem."""
        settings = {**fixed, "seed": self.seed(name)}
        return Task(name, lambda: self.make(given), _cost(given), lambda: settings)

    def seed(self, name: str) -> int:
        """Return the seed of a problem: it depends on no other problem."""
        words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
        mixed = np.random.SeedSequence([int(self._seed), *words.tolist()])  # type: ignore[call-overload]
        return int(mixed.generate_state(1)[0])


def _cost(given: object) -> float:
    """Model the time of a solve; of what has no shape yet nothing is known, so it comes first."""
    if isinstance(given, (Job, Problem)):
        return float(given.rows) * given.cols**2
    shape = getattr(given, "shape", None)
    if shape is None or len(shape) < 2:
        return math.inf
    return float(math.prod(shape) * shape[1])


def _named(problems: object) -> dict[str, object]:
    if isinstance(problems, Mapping):
        wrong = [name for name in problems if not isinstance(name, str)]
        if wrong:
            raise InputError(f"names of problems are strings, got {wrong[0]!r}")
        return dict(problems)
    if isinstance(problems, (list, tuple)):
        return {str(number): problem for number, problem in enumerate(problems)}
    raise InputError(
        f"problems is a {type(problems).__name__}; it must be a mapping from names to matrices, or a list of matrices"
    )


def _further(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that are only passed on."""
    own = set(inspect.signature(solve_many).parameters) | {"matrix", "blocks", "initial", "memory_limit"}
    known = [name for name in inspect.signature(solve).parameters if name not in own]
    for name in settings:
        if name not in known:
            also = f"; only {', '.join(known)} are passed on to solve" if known else ""
            raise InputError(f"solve_many has no argument {name!r}{also}; blocks go with Problem.of")
    return dict(settings)


def _check(given: Mapping[str, Any], callbacks: object, threads: int | None) -> None:
    """Find out before the work what would fail in every solve."""
    bounds.check_kind(given["bound"])
    if given["stop"] is not None and not isinstance(given["stop"], Criterion):
        raise InputError(f"stop = {given['stop']!r} is no criterion; see permsolve.stop")
    if given["time_limit"] is not None:
        MaxRuntime(given["time_limit"])
    if threads is not None:
        thread_count(threads)
    if not isinstance(callbacks, (list, tuple)) or not all(callable(each) for each in callbacks):
        raise InputError(f"callbacks = {callbacks!r} must be a list of functions of a name and a result or failure")


@contextlib.contextmanager
def _opened(journal: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> Iterator[ManyJournal | None]:
    if journal is None:
        yield None
        return
    for name, value in about["options"].items():
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise OptionError(f"option {name} = {value!r} is no plain value and cannot be written to a journal")
    book = ManyJournal(journal, about)
    try:
        yield book
    finally:
        book.close()
