"""The instances of the library: what they are, the best solution known of each, and what bounds it.

`library` reads the index, ``library.json``; no matrix is made before it is asked for. The index is described in
``README.md`` beside this file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from permsolve.errors import FileError, InputError
from permsolve.patterns import Pattern

from .solutions import canonical
from .sources import checksum, draw

if TYPE_CHECKING:
    from permsolve.certificates import Certificate
    from permsolve.problem import Problem

#: Name of the index, in the package and in a checkout's ``instances`` folder.
INDEX = "library.json"


@dataclass(frozen=True, eq=False)
class Best:
    """The best solution known of an instance.

    Attributes
    ----------
    score
        Its score, by the reference scorer.
    solution
        The pattern's solution in canonical form (see `permsolve.instances.solutions.canonical`), not writable: for
        plain n:m the permutation, int64 (cols,).
    method
        Name of the method that found it; ``"planted"`` for what the generator has hidden.
    version
        Version of permsolve that found it.
    """

    score: float
    solution: Any
    method: str
    version: str

    @classmethod
    def of(cls, problem: Problem, solution: Any, method: str, version: str) -> Best:
        """Check, score and bring to canonical form what was found.

        Parameters
        ----------
        problem
            The instance's problem.
        solution
            A solution of its pattern.
        method, version
            As the attributes.

        Returns
        -------
        Best
            The same solution as far as its score goes.

        Raises
        ------
        InputError
            If it is no solution of the problem.
        """
        form = canonical(problem.pattern, problem.check_solution(solution))
        return cls(problem.score(form), form, method, version)


@dataclass(frozen=True, eq=False)
class Entry:
    """One instance: a matrix, a pattern, and what is known of them.

    Attributes
    ----------
    name
        What `entry` takes.
    family
        The kind of instance: the generator's name, ``"real"``, or ``"hierarchical"`` where the pattern permutes rows.
    shape
        Rows and columns of the matrix.
    pattern
        The pattern.
    saliency
        ``"magnitude"`` or ``"energy"``.
    source
        ``{"generator": name, "seed": seed, ...}`` with the generator's other arguments, or ``{"stored": name}``.
    licence
        SPDX identifier of the licence of the matrix.
    sha256
        Checksum of the matrix: its little-endian bytes in C order.
    baseline
        Score of the solution that permutes nothing.
    rows_bound
        Sum over rows of as many largest entries as a row keeps.
    best
        The best solution known, or None.
    bound
        The best upper bound known on the score of any solution.
    bound_kind
        What proves it: ``"rows"``; ``"lp"``, with a certificate; ``"exact"``, a finished search that found it attained.
    certificate
        A proof of the LP bound, kept beside a better exact one, or None. Only plain n:m has such bounds.
    """

    name: str
    family: str
    shape: tuple[int, int]
    pattern: Pattern
    saliency: str
    source: Mapping[str, int | float | str]
    licence: str
    sha256: str
    baseline: float
    rows_bound: float
    best: Best | None
    bound: float
    bound_kind: str
    certificate: Certificate | None

    @property
    def gap(self) -> float:
        """Relative distance of the best score to the bound; of the baseline where no solution is known."""
        from permsolve.run import gap

        return gap(self.baseline if self.best is None else self.best.score, self.bound)

    @property
    def proved(self) -> bool:
        """Whether the best solution is proved to be optimal: a gap of at most 1e-9."""
        from permsolve.run import OPTIMAL_GAP

        return self.best is not None and self.gap <= OPTIMAL_GAP

    def efficacy(self, score: float) -> float:
        """Return the share of the way from baseline to rows bound, per cent.

        Parameters
        ----------
        score
            A score, or a bound.

        Returns
        -------
        float
            The efficacy.
        """
        from permsolve.scoring import efficacy

        return efficacy(score, self.baseline, self.rows_bound)

    def matrix(self) -> npt.NDArray[Any]:
        """Make the matrix and verify that it is the published one.

        Returns
        -------
        numpy.ndarray
            Weights, float32 or float64, C order; the caller's own to modify.

        Raises
        ------
        FileError
            If the source cannot be used, or gives another matrix than the index says.
        """
        try:
            matrix = draw(self.source, self.shape)
        except FileError:
            raise
        except (InputError, TypeError) as error:
            raise self._fault(f"its source {dict(self.source)} cannot be used: {error}") from error
        if matrix.shape != self.shape:
            raise self._fault(f"its source gives a matrix of shape {matrix.shape}, the index says {self.shape}")
        digest = checksum(matrix)
        if digest != self.sha256:
            raise self._fault(f"the sha256 of its matrix is {digest}, the index says {self.sha256}")
        return matrix

    def problem(self) -> Problem:
        """Make the problem.

        Returns
        -------
        Problem
            Matrix, pattern and saliency.

        Raises
        ------
        FileError
            As `matrix`.
        """
        from permsolve.problem import Problem

        return Problem.of(self.matrix(), self.pattern, saliency=self.saliency)

    def _fault(self, why: str) -> FileError:
        return FileError(f"{__package__}/{INDEX}", f"instance {self.name}: {why}")


def library() -> tuple[Entry, ...]:
    """Read all instances.

    Returns
    -------
    tuple of Entry
        In the order of the index.

    Raises
    ------
    FileError
        If the index is missing or damaged; the message names the instance.
    """
    from . import _read
    from .records import parse

    return parse(_read(INDEX), f"{__package__}/{INDEX}")


def entry(name: str) -> Entry:
    """Find an instance.

    Parameters
    ----------
    name
        Its name.

    Returns
    -------
    Entry
        The instance.

    Raises
    ------
    InputError
        If there is none of this name; the message names similar ones.
    FileError
        If the index is missing or damaged.
    """
    return select(library(), [name])[0]


def select(entries: Iterable[Entry], names: Iterable[str] = (), family: str | None = None) -> tuple[Entry, ...]:
    """Choose instances by name and family.

    Parameters
    ----------
    entries
        The instances to choose from.
    names
        Names, in the order wanted; none means all.
    family
        Only those of this family.

    Returns
    -------
    tuple of Entry
        The chosen ones.

    Raises
    ------
    InputError
        If a name or the family does not exist, or nothing is left.
    """
    known = {each.name: each for each in entries}
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else "none is called anything like it;"
            raise InputError(
                f"no instance is called {name!r}; {hint} `permsolve instances list` shows all {len(known)}"
            )
        chosen.append(known[name])
    chosen = chosen or list(known.values())
    if family is not None:
        families = list(dict.fromkeys(each.family for each in known.values()))
        if family not in families:
            raise InputError(f"no family is called {family!r}; there are: {', '.join(families)}")
        chosen = [each for each in chosen if each.family == family]
        if not chosen:
            raise InputError(f"none of the instances named is of family {family!r}")
    return tuple(chosen)


def read_index(path: Path) -> tuple[Entry, ...]:
    """Read an index that is not the package's own, a checkout's for example.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tuple of Entry
        Its instances.

    Raises
    ------
    FileError
        If it cannot be read or is not valid.
    """
    from .records import parse

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error
    return parse(raw, str(path))


def write_index(path: Path, entries: Iterable[Entry]) -> None:
    """Write an index, atomically: the file is either the old one or the whole new one.

    Parameters
    ----------
    path
        The file.
    entries
        Its instances.

    Raises
    ------
    FileError
        If it cannot be written, or what would be written could not be read again; the old file stays.
    """
    from permsolve.io import write_atomically

    from .records import dump, parse

    raw = dump(entries)
    parse(raw, str(path))
    write_atomically(path, raw)
