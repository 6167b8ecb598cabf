"""What a bench consists of, as validated documents: its settings, its instances, and one record per run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from permsolve.errors import InputError
from permsolve.patterns import parse
from permsolve.problem import Problem

SETTINGS_SCHEMA = "permsolve.bench-settings/2"
#: Widest matrix of each size class; wider ones form the last class.
CLASSES = (16, 32, 64, 128, 256)
#: What kinds of patterns are called, in the order of reports.
KINDS = {"nm": "n:m", "hinm": "HiNM", "vnm": "V:N:M", "transposable": "transposable n:m"}

_Numbers = list[int] | list[list[int]] | list[list[list[int]]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Task(_Strict):
    """One run: a method on an instance with a seed and a time limit in seconds."""

    method: str
    instance: str
    seed: Annotated[int, Field(ge=0)]
    limit: Annotated[float, Field(gt=0)]


class Source(_Strict):
    """An instance: an entry of the library, or a matrix in a file."""

    name: str
    family: str
    shape: tuple[int, int]
    pattern: str
    saliency: str
    #: Fingerprint of the weights.
    sha256: str
    #: Where the matrix is, or None for an entry of the library.
    file: str | None

    @property
    def size(self) -> str:
        """The size class, by columns."""
        return size_class(self.shape[1])

    @property
    def kind(self) -> str:
        """The kind of its pattern."""
        return parse(self.pattern).kind

    def problem(self) -> Problem:
        """Make the problem, from the library or from the file.

        Returns
        -------
        Problem
            The problem.

        Raises
        ------
        InputError
            If the matrix is no longer the one that the bench was begun with.
        """
        if self.file is None:
            from permsolve import instances

            entry = instances.entry(self.name)
            problem, found = entry.problem(), entry.sha256
        else:
            from permsolve.io import read_matrix

            problem = Problem.of(read_matrix(self.file), self.pattern, saliency=self.saliency)
            found = problem.fingerprint
        if found != self.sha256:
            raise InputError(
                f"instance {self.name!r} is another matrix now (fingerprint {found[:16]}...) than the one "
                f"the bench was begun with ({self.sha256[:16]}...); begin a new bench in another folder"
            )
        return problem


class Machine(_Strict):
    """Where a bench runs."""

    cpu: str
    cores: int
    memory_gib: float
    system: str


class Settings(_Strict):
    """Everything that decides what the runs of a bench are."""

    schema_: Annotated[Literal["permsolve.bench-settings/2"], Field(alias="schema")]
    methods: tuple[str, ...]
    instances: tuple[Source, ...]
    seeds: tuple[int, ...]
    limits: tuple[float, ...]
    jobs: int
    machine: Machine
    versions: dict[str, str]
    #: Digest of the sources that a run executes: permsolve's and the methods' own.
    code: str
    begun: str

    def tasks(self) -> Iterator[Task]:
        """List the runs, so that a bench cut short has treated everything alike: seeds outermost, methods innermost.

        Yields
        ------
        Task
            A run.
        """
        for seed in self.seeds:
            for limit in self.limits:
                for source in self.instances:
                    for method in self.methods:
                        yield Task(method=method, instance=source.name, seed=seed, limit=limit)

    def count(self) -> int:
        """Return the number of runs.

        Returns
        -------
        int
            Methods x instances x seeds x limits.
        """
        return len(self.methods) * len(self.instances) * len(self.seeds) * len(self.limits)

    def seconds(self) -> float:
        """Return how long the bench takes at most if no run exceeds its limit: every run uses all of it.

        Returns
        -------
        float
            Seconds, without start-up and compilation.
        """
        return len(self.methods) * len(self.instances) * len(self.seeds) * sum(self.limits) / self.jobs

    def differences(self, other: Settings) -> list[str]:
        """Say in what another bench differs, as far as it matters for the runs.

        Parameters
        ----------
        other
            The settings to compare with.

        Returns
        -------
        list
            One phrase per difference: what, here and there.
        """
        found = []
        mine, theirs = _compared(self), _compared(other)
        for name in mine:
            if mine[name] != theirs[name]:
                found.append(
                    f"{name}: {_shown(mine[name], theirs[name])} there, {_shown(theirs[name], mine[name])} now"
                )
        return found


class Answer(_Strict):
    """What a method found."""

    #: The arrays of the pattern's solution by name, as `Pattern.to_lists` writes them.
    solution: dict[str, _Numbers]
    score: float
    bound: float
    bound_kind: str
    status: str
    iterations: int
    setup_time: float
    runtime: float
    #: Time and score of each improvement; the first is what permutes nothing at time 0.
    trace: tuple[tuple[float, float], ...]


class Record(_Strict):
    """One finished run."""

    task: Task
    outcome: Literal["ok", "failed", "unsupported"]
    reason: str | None
    answer: Answer | None


def solution_of(problem: Problem, lists: Mapping[str, Any]) -> Any:
    """Read a solution that is written as lists.

    Parameters
    ----------
    problem
        The problem.
    lists
        The arrays of the solution by name.

    Returns
    -------
    object
        The pattern's solution, checked.

    Raises
    ------
    InputError
        If it is none of this problem.
    """
    pattern = problem.pattern
    if set(lists) != set(pattern.parts):
        raise InputError(
            f"it consists of {', '.join(lists) or 'nothing'}, one of {pattern} of {', '.join(pattern.parts)}"
        )
    return problem.check_solution(pattern.from_lists(lists))


def size_class(cols: int) -> str:
    """Return the size class of a number of columns.

    Parameters
    ----------
    cols
        Number of columns.

    Returns
    -------
    str
        Such as ``"33-64"``.
    """
    low = 1
    for high in CLASSES:
        if cols <= high:
            return f"{low}-{high}"
        low = high + 1
    return f"over {CLASSES[-1]}"


def size_classes() -> tuple[str, ...]:
    """Return all size classes, the smallest first.

    Returns
    -------
    tuple
        Their names.
    """
    return tuple(size_class(cols) for cols in (*CLASSES, CLASSES[-1] + 1))


def _compared(settings: Settings) -> dict[str, Any]:
    return {
        "methods": list(settings.methods),
        "instances": [source.name for source in settings.instances],
        "the matrix or problem of": [
            (source.name, source.sha256, source.pattern, source.saliency) for source in settings.instances
        ],
        "seeds": list(settings.seeds),
        "time limits": list(settings.limits),
        "jobs": settings.jobs,
        "processor": settings.machine.cpu,
        "versions": sorted(settings.versions.items()),
        "source code": settings.code[:16],
    }


def _shown(value: Any, other: Any) -> str:
    """Show a setting; of lists, what the other one lacks."""
    if not isinstance(value, list):
        return repr(value)
    extra = [item for item in value if item not in other]
    names = [str(item[0]) if isinstance(item, tuple) and len(item) > 2 else _plain(item) for item in extra]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    if shown:
        return shown
    return "nothing more" if len(value) < len(other) else "another order"


def _plain(item: Any) -> str:
    return " ".join(map(str, item)) if isinstance(item, tuple) else str(item)
