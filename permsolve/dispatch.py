"""Many solves side by side: joblib decides where, this module what leaves, what comes back and what is lost."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from permsolve._arrays import aligned
from permsolve._solve import solve
from permsolve.errors import InputError, SolverError, UnsupportedProblemError
from permsolve.problem import Problem
from permsolve.result import Result
from permsolve.stop import Criterion, Progress

#: Losses of a worker after which a problem in flight is tried alone, and after which it is given up.
SUSPECT, GIVEN_UP = 2, 3


@dataclass(frozen=True)
class Failure:
    """Why a problem has no result.

    Parameters
    ----------
    name
        Name of the problem.
    kind
        ``"input"``: it could not be made, or something about it does not fit; ``"unsupported"``: the method does not
        solve such problems; ``"solver"``: the method raised; ``"worker"``: its worker process died, again and again.
    error
        Name of the exception's class.
    message
        What the exception says.
    details
        The traceback, or an empty text.
    """

    name: str
    kind: str
    error: str
    message: str
    details: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.name!r}: {self.error}: {self.message}"

    def exception(self) -> InputError | SolverError:
        """Return it as an error of this package.

        Returns
        -------
        InputError or SolverError
            An `UnsupportedProblemError` where the method does not solve such problems.
        """
        kinds = {"input": InputError, "unsupported": UnsupportedProblemError}
        return kinds.get(self.kind, SolverError)(str(self))


Outcome = Result | Failure


@dataclass(frozen=True)
class Task:
    """A problem to solve.

    Parameters
    ----------
    name
        Its name, unlike any other's.
    make
        Makes it. Called when the problem is about to be solved, again if its worker is lost.
    cost
        How long it will take, in any unit.
    settings
        The arguments of its solve; asked for when it is about to be solved.
    """

    name: str
    make: Callable[[], Problem]
    cost: float
    settings: Callable[[], Mapping[str, Any]]


class Watch(Protocol):
    """What is told about the solves of this process."""

    def started(self, name: str) -> None:
        """Note that a solve has begun.

        Parameters
        ----------
        name
            Name of the problem.
        """

    def improved(self, progress: Progress) -> None:
        """Note that it has improved.

        Parameters
        ----------
        progress
            How far it is.
        """


def worker_count(n_jobs: int | None) -> int:
    """Return how many solves will run side by side.

    Parameters
    ----------
    n_jobs
        As in joblib: a number, -1 for all cores, or None for what ``joblib.parallel_config`` says, else all cores.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InputError
        If it is no such number.
    """
    from joblib import effective_n_jobs
    from joblib.parallel import get_active_backend

    if n_jobs is None:
        configured = get_active_backend()[1]
        n_jobs = -1 if configured is None else configured
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise InputError(f"n_jobs = {n_jobs!r} must be a number of workers, -1 for all cores, or None")
    return max(int(effective_n_jobs(int(n_jobs))), 1)


def dispatch(
    tasks: Sequence[Task], workers: int, *, catch: bool = True, watch: Watch | None = None
) -> Generator[tuple[str, Outcome], None, None]:
    """Solve problems on joblib's engine; yield each as it is finished.

    Closing the generator ends what is at work.

    Parameters
    ----------
    tasks
        The problems. Several workers take the costly ones first, so that none is left over at the end; one takes them
        as they stand.
    workers
        From `worker_count`.
    catch
        Whether an exception becomes a `Failure`. Otherwise it is raised; that goes with one worker only.
    watch
        Told what is at work; that goes with one worker only, too.

    Yields
    ------
    tuple
        Name, and result or failure.

    Raises
    ------
    SolverError
        If workers die whatever they are given.
    """
    pending = list(tasks) if workers == 1 else sorted(tasks, key=lambda task: -task.cost)
    losses: Counter[str] = Counter()
    done: set[str] = set()
    given_up: set[str] = set()
    idle = 0
    while pending:
        # Which problem killed the worker is not known when several were in flight: suspects are tried one by one.
        fresh = [task for task in pending if losses[task.name] < SUSPECT]
        stage = _Stage(fresh or pending[:1], catch, watch)
        try:
            with contextlib.closing(stage.run(workers)) as outcomes:
                for name, outcome in outcomes:
                    done.add(name)
                    yield name, outcome
        except BrokenProcessPool as error:
            lost = stage.sent - done
            losses.update(lost)
            idle += not lost
            if idle >= GIVEN_UP or (not done - given_up and len(given_up) >= GIVEN_UP):
                raise SolverError(
                    f"worker processes die whatever they are given ({error}); try n_jobs=1 to see why"
                ) from error
            for name in sorted(name for name in lost if losses[name] >= GIVEN_UP):
                given_up.add(name)
                done.add(name)
                yield name, _lost(name, "alone, " + _exit_codes(error))
        pending = [task for task in pending if task.name not in done]


def _lost(name: str, said: str) -> Failure:
    message = f"its worker process died {GIVEN_UP} times, the last time {said}; perhaps for lack of memory"
    return Failure(name, "worker", "BrokenProcessPool", message)


def _exit_codes(error: BrokenProcessPool) -> str:
    """Return the line of joblib's explanation that tells causes apart."""
    found = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
    return f"by {found[1]}" if found else "for an unknown reason"


class _Stage:
    """One call of joblib: what was sent, and a flag that ends what is solved in this process."""

    def __init__(self, tasks: Sequence[Task], catch: bool, watch: Watch | None) -> None:
        self.tasks = tasks
        self.catch = catch
        self.watch = watch
        #: Names of the problems that went to a worker.
        self.sent: set[str] = set()
        self.over = threading.Event()
        self.topic = f"permsolve-{uuid.uuid4().hex}"

    def run(self, workers: int) -> Generator[tuple[str, Outcome], None, None]:
        from joblib import Parallel, delayed

        # max_nbytes: memory maps would fill a small /dev/shm, and cannot be written to.
        parallel = Parallel(
            n_jobs=workers,
            backend="sequential" if workers == 1 else None,  # some engines take no notice of n_jobs
            return_as="generator_unordered",
            pre_dispatch="n_jobs",
            batch_size=1,
            max_nbytes=None,
        )
        outcomes = parallel(delayed(_work)(_Order(task, self)) for task in self.tasks)
        try:
            for each in outcomes:  # noqa: UP028 ("yield from" would close it before the warnings are off)
                yield each
        finally:
            self.over.set()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # joblib's, about the solves that are ended on purpose
                outcomes.close()


class _Order:
    """What a worker gets. The problem is made when the order is pickled, or when it is worked at in this process.

    joblib fetches more orders than it sends, so a problem made with its order would wait in memory, and shares of a
    time limit would be dealt out before their time.
    """

    def __init__(self, task: Task, stage: _Stage) -> None:
        self._task = task
        self._stage = stage

    def open(self) -> _Parcel:
        """Return what is to be solved in this process."""
        parcel = self._pack()
        settings = dict(parcel.settings)
        flag = _Flag(self._stage.over)
        settings["stop"] = flag if settings.get("stop") is None else settings["stop"] | flag
        if self._stage.watch is not None:
            self._stage.watch.started(parcel.name)
            settings["callbacks"] = [*settings.get("callbacks", ()), self._stage.watch.improved]
        return replace(parcel, settings=settings)

    def _pack(self) -> _Parcel:
        name = self._task.name
        self._stage.sent.add(name)
        try:
            # A copy without what the caller's own problem may have computed and kept.
            problem = replace(self._task.make())
            return _Parcel(name, problem, self._task.settings(), self._stage.catch, self._stage.topic)
        except Exception as error:
            if not self._stage.catch:
                raise
            return _Parcel(name, failure_of(name, error, made=False), {}, True, self._stage.topic)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Sent, (self._pack(),)


@dataclass(frozen=True)
class _Parcel:
    """A problem, or why there is none, and the arguments of its solve."""

    name: str
    problem: Problem | Failure
    settings: Mapping[str, Any]
    catch: bool
    topic: str


@dataclass
class _Sent:
    """An order that arrived in another process."""

    parcel: _Parcel

    def open(self) -> _Parcel:
        """Return what is to be solved."""
        if _starts(self.parcel) > GIVEN_UP:
            return replace(self.parcel, problem=_lost(self.parcel.name, "on a Dask cluster"))
        problem = self.parcel.problem
        if isinstance(problem, Failure):
            return self.parcel
        return replace(self.parcel, problem=_restored(problem))


def _restored(problem: Problem) -> Problem:
    """Return a problem in memory of its own: joblib's is read-only, and begins at no cache line."""
    if problem.padded is not None:
        padded = aligned(problem.padded.shape, problem.padded.dtype)
        padded[:] = problem.padded
        return replace(problem, columns=padded[:, : problem.rows], padded=padded)
    if not problem.columns.flags.writeable:  # kernels are compiled for arrays that can be written to
        return replace(problem, columns=problem.columns.copy())
    return problem


def _starts(parcel: _Parcel) -> int:
    """Count how often a problem has begun on a Dask cluster, this time included.

    The scheduler runs again what died with its worker, by default three times. If that fails, too, joblib waits for
    ever, so a problem gives itself up before.
    """
    distributed = sys.modules.get("distributed")  # always there in a process of Dask
    if distributed is None:
        return 1
    try:
        distributed.get_worker()
    except ValueError:  # another engine, in a process that has imported Dask
        return 1
    client = distributed.get_client()
    client.log_event(parcel.topic, parcel.name)
    return sum(message == parcel.name for _, message in client.get_events(parcel.topic))


def _work(order: _Order | _Sent) -> tuple[str, Outcome]:
    """Solve; whatever a method raises becomes a failure."""
    with _deaf() if isinstance(order, _Sent) else contextlib.nullcontext():
        parcel = order.open()
        problem = parcel.problem
        if isinstance(problem, Failure):
            return parcel.name, problem
        try:
            return parcel.name, solve(problem, display=False, **parcel.settings)
        except (Exception, SystemExit) as error:
            if not parcel.catch:
                raise
            return parcel.name, failure_of(parcel.name, error, made=True)


def failure_of(name: str, error: BaseException, *, made: bool) -> Failure:
    """Return the failure that an exception is.

    Parameters
    ----------
    name
        Name of the problem.
    error
        The exception.
    made
        Whether the problem had been made by then.

    Returns
    -------
    Failure
        The failure.
    """
    if isinstance(error, UnsupportedProblemError):
        kind = "unsupported"
    else:
        kind = "solver" if made and not isinstance(error, InputError) else "input"
    details = "".join(traceback.format_exception(error))
    return Failure(name, kind, type(error).__name__, str(error) or type(error).__name__, details)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C in a worker process: the terminal sends it to all, and the calling process decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class _Flag(Criterion):
    """Stop when the call that the solve is part of is over."""

    over: threading.Event

    def __call__(self, progress: Progress) -> bool:
        """Return whether it is."""
        return self.over.is_set()
