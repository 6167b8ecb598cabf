"""From what a user asks for to the settings of a bench."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from permsolve.bench import machine
from permsolve.bench.records import SETTINGS_SCHEMA, Settings, Source
from permsolve.errors import InputError, MissingDependencyError
from permsolve.patterns import NM
from permsolve.problem import Problem

#: Methods compared on plain n:m unless others are named: all but the trivial ones and those that a single descent ends.
METHODS = ("auto", "annealing", "lns", "exact", "assignment", "local_search", "stripe_groups", "channel_swap", "ria")
#: Methods that no bench makes unless they are named.
_TRIVIAL = ("identity", "random", "greedy")
#: Time limits unless others are given, seconds.
LIMITS = (0.1, 1.0)
#: Seeds per method, instance and limit unless another number is given.
SEEDS = 2


def library_sources(names: Sequence[str] | None = None, family: str | None = None) -> tuple[Source, ...]:
    """Return instances of the library.

    Parameters
    ----------
    names
        Their names; all by default.
    family
        Only those of this family.

    Returns
    -------
    tuple
        The instances, in the order of the library or of the names.

    Raises
    ------
    InputError
        If a name or the family is unknown.
    """
    from permsolve import instances

    entries = instances.library() if names is None else tuple(instances.entry(name) for name in names)
    if family is not None:
        known = sorted({entry.family for entry in entries})
        entries = tuple(entry for entry in entries if entry.family == family)
        if not entries:
            raise InputError(f"no chosen instance is of the family {family!r}; there are: {', '.join(known)}")
    return tuple(
        Source(
            name=entry.name,
            family=entry.family,
            shape=entry.shape,
            pattern=str(entry.pattern),
            saliency=entry.saliency,
            sha256=entry.sha256,
            file=None,
        )
        for entry in entries
    )


def file_sources(files: Sequence[Path], nm: str, saliency: str) -> tuple[Source, ...]:
    """Return instances of matrices in files.

    Parameters
    ----------
    files
        Files with one matrix each; an instance is called as its file, without the suffix.
    nm
        Pattern of all of them, as `permsolve.patterns.parse` reads it.
    saliency
        Saliency of all of them.

    Returns
    -------
    tuple
        The instances.

    Raises
    ------
    InputError
        If a file cannot be read or its matrix cannot be used.
    """
    from permsolve.io import read_matrix

    found = []
    for file in files:
        problem = Problem.of(read_matrix(file), nm, saliency=saliency)
        found.append(
            Source(
                name=file.stem,
                family="files",
                shape=(problem.rows, problem.cols),
                pattern=str(problem.pattern),
                saliency=saliency,
                sha256=problem.fingerprint,
                file=str(file.resolve()),
            )
        )
    return tuple(found)


def make_settings(
    sources: Sequence[Source],
    *,
    methods: Sequence[str] | None = None,
    limits: Sequence[float] = LIMITS,
    seeds: int = SEEDS,
    jobs: int | None = None,
) -> Settings:
    """Make the settings of a bench on this machine, with the code as it is now.

    Parameters
    ----------
    sources
        The instances.
    methods
        Names of the methods, or None for `default_methods`.
    limits
        Time limits in seconds; each is a set of runs of its own.
    seeds
        How many seeds, from 0 on.
    jobs
        Runs at a time, each on a core of its own; as many as there are cores by default.

    Returns
    -------
    Settings
        The settings.

    Raises
    ------
    InputError
        If there is nothing to run, something is named twice, a method is unknown or a number cannot be used.
    """
    from permsolve.registry import get_solver

    _check_names("instance", [source.name for source in sources])
    methods = default_methods(sources) if methods is None else methods
    _check_names("method", methods)
    for name in methods:
        try:
            get_solver(name)
        except MissingDependencyError:  # its runs are recorded as not supported, with the reason
            continue
    _check_names("time limit", [f"{limit:g} s" for limit in limits])
    bad = [limit for limit in limits if not (math.isfinite(limit) and limit > 0)]
    if bad:
        raise InputError(f"a time limit of {bad[0]:g} s cannot be used; give seconds above 0")
    if seeds < 1:
        raise InputError(f"{seeds} seeds are too few; give at least 1")
    return Settings.model_validate(
        {
            "schema": SETTINGS_SCHEMA,
            "methods": tuple(methods),
            "instances": tuple(sources),
            "seeds": tuple(range(seeds)),
            "limits": tuple(sorted(float(limit) for limit in limits)),
            "jobs": len(machine.cores()) if jobs is None else jobs,
            "machine": machine.machine(),
            "versions": machine.versions(),
            "code": machine.code(methods),
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def default_methods(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the methods to compare on some instances where none are named.

    Parameters
    ----------
    sources
        The instances.

    Returns
    -------
    tuple
        `METHODS`, and after them all others that are not trivial and search a pattern here that permutes rows; none of
        those that search no pattern here.
    """
    from permsolve.registry import methods

    kinds = {source.kind for source in sources}
    others = [name for name in methods() if name not in (*METHODS, *_TRIVIAL)]
    return (
        *(name for name in METHODS if kinds & _searched(name)),
        *(name for name in others if (kinds - {NM.kind}) & _searched(name)),
    )


def _searched(name: str) -> set[str]:
    """Return the kinds of patterns that a method searches: none, where it cannot be loaded here."""
    from permsolve.registry import get_solver

    try:
        return set(get_solver(name).patterns)
    except MissingDependencyError:
        return set()


def _check_names(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"a bench needs at least one {kind}, none is given")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{kind} {twice[0]!r} is given twice; give each once (files are called by their names)")
