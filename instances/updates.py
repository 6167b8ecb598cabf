"""Better solutions and bounds for the index of a checkout.

Only what is better is written, one instance at a time and atomically: an update that is killed loses at most what it
was working on. The installed package is touched only if it is the checkout.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from permsolve._version import __version__
from permsolve.errors import FileError, InputError, SolverError, UnsupportedProblemError
from permsolve.solver import Status

from .entries import INDEX, Best, Entry, read_index, select, write_index

if TYPE_CHECKING:
    from permsolve.certificates import Certificate
    from permsolve.problem import Problem
    from permsolve.result import Result

#: Relative difference from which a score or bound counts as better.
BETTER = 1e-12
#: A score above a bound by more than this, relatively, disproves the bound.
SLACK = 1e-9


class Outcome(NamedTuple):
    """What an update did to one instance."""

    name: str
    #: One sentence for each value that got better.
    changes: tuple[str, ...] = ()
    #: Why nothing was tried, or None.
    skipped: str | None = None
    #: Whether Ctrl-C ended the search; what it had found by then is in the index.
    interrupted: bool = False


@dataclass(frozen=True)
class Found:
    """What a search or a contributor offers; a bound only where it is proved."""

    best: Best | None = None
    bound: float | None = None
    kind: str = "rows"
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Effort:
    """How to search.

    Attributes
    ----------
    method
        Name of the method.
    time_limit
        Seconds of each solve, or None for the method's own schedule.
    seed
        The first seed.
    seeds
        Number of solves, with consecutive seeds.
    bound
        ``"lp"`` to compute an LP bound with its certificate as well; ``"rows"`` for none.
    n_jobs
        Threads; None for all cores.
    display
        Show progress, as in `permsolve.solve`.
    """

    method: str = "auto"
    time_limit: float | None = None
    seed: int = 0
    seeds: int = 1
    bound: str = "rows"
    n_jobs: int | None = None
    display: bool | None = None


def locate(checkout: Path, *, new: bool = False) -> Path:
    """Find the index of a checkout of this project.

    Parameters
    ----------
    checkout
        The folder that holds ``pyproject.toml`` and ``instances``.
    new
        Whether the index itself may be missing.

    Returns
    -------
    pathlib.Path
        The index.

    Raises
    ------
    InputError
        If the folder is no checkout of permsolve.
    """
    index = checkout / "instances" / INDEX
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text()).get("project", {}).get("name")
    except (OSError, ValueError):
        project = None
    if project != "permsolve" or not (index.parent.is_dir() if new else index.is_file()):
        raise InputError(
            f"{checkout} is no checkout of permsolve: it needs a pyproject.toml that names the project and "
            f"instances/{INDEX}; give the folder that `git clone` made"
        )
    return index


def improve(index: Path, entries: Iterable[Entry], effort: Effort) -> Iterator[Outcome]:
    """Search for better solutions and bounds and write those found to an index.

    Parameters
    ----------
    index
        The file.
    entries
        The instances of it to work on.
    effort
        How.

    Yields
    ------
    Outcome
        After each instance, when the index holds what was found. Instances that are proved are left alone, but for the
        certificate of an LP bound that is asked for and missing.

    Raises
    ------
    InputError
        If an option does not fit; before anything is done.
    FileError
        If the index cannot be read or written.
    SolverError
        If a solution scores more than the bound in the index allows: the bound is wrong.
    """
    from permsolve.registry import get_solver

    get_solver(effort.method)
    if effort.bound not in ("rows", "lp"):
        raise InputError(f"bound = {effort.bound!r} must be 'rows' or 'lp'")
    if effort.seeds < 1:
        raise InputError(f"seeds = {effort.seeds} must be at least 1")
    for entry in entries:
        wants_proof = effort.bound == "lp" and entry.certificate is None and entry.bound_kind != "rows"
        if entry.proved and not wants_proof:
            yield Outcome(entry.name, skipped="proved optimal already")
            continue
        outcome = _improve(index, entry, effort)
        yield outcome
        if outcome.interrupted:
            return


def contribute(index: Path, document: Path) -> tuple[Outcome, ...]:
    """Take the solution of a document for the instances with its matrix, pattern and saliency.

    The solution is scored anew, a certificate is proved anew; other claims of the document are not believed.

    Parameters
    ----------
    index
        The file to write to.
    document
        A document of schema ``permsolve.permutation/1``.

    Returns
    -------
    tuple of Outcome
        One for each instance it belongs to.

    Raises
    ------
    FileError, DocumentError
        If a file cannot be read or is not valid.
    InputError
        If the document belongs to no instance.
    SolverError
        As `improve`.
    """
    from permsolve.io import load

    result = load(document)
    version = str(json.loads(document.read_bytes())["version"])
    # The shape as well: matrices of other shapes may have the same bytes.
    theirs = (result.fingerprint, result.shape, result.pattern, result.saliency, result.blocks)
    entries = [
        entry
        for entry in read_index(index)
        if (entry.sha256, entry.shape, entry.pattern, entry.saliency, None) == theirs
    ]
    if not entries:
        raise InputError(
            f"{document}: no instance has its matrix ({' x '.join(map(str, result.shape))}, fingerprint "
            f"{result.fingerprint[:16]}...), pattern {result.pattern} and saliency {result.saliency!r}, without blocks"
        )
    outcomes = []
    for entry in entries:
        problem = entry.problem()
        found = [Found(best=Best.of(problem, result.solution, result.method, version))]
        if result.certificate is not None:
            from permsolve.certificates import prove

            found.append(Found(bound=prove(problem, result.certificate), kind="lp", certificate=result.certificate))
        outcomes.append(Outcome(entry.name, _store(index, entry.name, found)))
    return tuple(outcomes)


def merge(entry: Entry, found: Found) -> tuple[Entry, tuple[str, ...]]:
    """Replace what is known of an instance by what is better.

    Parameters
    ----------
    entry
        The instance.
    found
        A solution, a bound, or both.

    Returns
    -------
    tuple
        The instance, and one sentence for each change.

    Raises
    ------
    SolverError
        If a score exceeds a bound.
    """
    changes = []
    best, known = found.best, entry.best
    if best is not None and (known is None or best.score > known.score * (1 + BETTER)):
        entry = replace(entry, best=best)
        before = "none" if known is None else f"{known.score:.10g} ({entry.efficacy(known.score):.4f} %)"
        changes.append(f"score {before} -> {best.score:.10g} ({entry.efficacy(best.score):.4f} %) by {best.method}")
    if found.bound is not None and found.kind != "rows":
        before = f"{entry.bound:.10g} ({entry.bound_kind})"
        if found.bound < entry.bound * (1 - BETTER):
            # An exact bound says nothing of the LP's certificate, which still proves what it proved.
            certificate = found.certificate if found.kind == "lp" else entry.certificate or found.certificate
            entry = replace(entry, bound=found.bound, bound_kind=found.kind, certificate=certificate)
            changes.append(f"bound {before} -> {found.bound:.10g} ({found.kind})")
        elif found.certificate is not None and entry.certificate is None and entry.bound_kind == "exact":
            entry = replace(entry, certificate=found.certificate)
            changes.append(f"certificate of the LP bound {found.bound:.10g}")
    if entry.best is not None and entry.best.score > entry.bound * (1 + SLACK):
        raise SolverError(
            f"instance {entry.name}: a solution scores {entry.best.score!r}, above the {entry.bound_kind} bound "
            f"{entry.bound!r}: the bound is wrong; nothing was written"
        )
    return entry, tuple(changes)


def _improve(index: Path, entry: Entry, effort: Effort) -> Outcome:
    """Search for one instance and store what was found."""
    import permsolve

    problem = entry.problem()
    changes: list[str] = []
    interrupted = False
    initial = None if entry.best is None else entry.best.solution
    try:
        for seed in range(effort.seed, effort.seed + effort.seeds):
            if entry.proved or interrupted:
                break
            result = permsolve.solve(
                problem,
                method=effort.method,
                time_limit=effort.time_limit,
                seed=seed,
                initial=initial,
                n_jobs=effort.n_jobs,
                display=effort.display,
            )
            changes += _store(index, entry.name, _found(problem, result))
            interrupted = result.stopped_by == "interrupt"
            entry = _current(index, entry.name)
        if effort.bound == "lp" and not interrupted:
            bound = permsolve.bound(problem, kind="lp", n_jobs=effort.n_jobs)
            found = Found(bound=bound.value, kind=bound.kind, certificate=bound.certificate)
            changes += _store(index, entry.name, [found])
    except UnsupportedProblemError as error:
        return Outcome(entry.name, tuple(changes), skipped=str(error))
    return Outcome(entry.name, tuple(changes), interrupted=interrupted)


def _found(problem: Problem, result: Result) -> list[Found]:
    """Say what a solve of this package offers: its solution, and what it proved."""
    found = [Found(best=Best.of(problem, result.solution, result.method, __version__))]
    if result.bound_kind == "lp" and result.certificate is not None:
        found.append(Found(bound=result.bound, kind="lp", certificate=result.certificate))
    # An exact bound that is not attained is the state of an unfinished search: nothing that could be checked again.
    if result.bound_kind == "exact" and result.status is Status.OPTIMAL:
        found.append(Found(bound=result.bound, kind="exact", certificate=result.certificate))
    return found


def _store(index: Path, name: str, found: Iterable[Found]) -> tuple[str, ...]:
    """Merge into the index as it is now, which others may have changed meanwhile; write it if anything got better."""
    entries = list(read_index(index))
    where = next((k for k, entry in enumerate(entries) if entry.name == name), None)
    if where is None:
        raise FileError(index, f"instance {name} is gone; another process changed the index")
    changes: list[str] = []
    for each in found:
        entries[where], new = merge(entries[where], each)
        changes += new
    if changes:
        write_index(index, entries)
    return tuple(changes)


def _current(index: Path, name: str) -> Entry:
    return select(read_index(index), [name])[0]
