"""When a solve stops: small frozen criteria, joined by ``|``.

A criterion holds no state of a run, so one object can serve any number of solves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from permsolve.errors import InputError


class Progress(NamedTuple):
    """Where a solve stands: what criteria decide on and callbacks receive."""

    #: Seconds since the solver was called.
    elapsed: float
    #: Iterations so far, in the method's own unit.
    iterations: int
    #: Score of the incumbent.
    score: float
    #: Efficacy of the incumbent, per cent.
    efficacy: float
    #: Best proved upper bound.
    bound: float
    #: (bound - score) / bound; where scores are minus an error, (bound - score) / |score|.
    gap: float
    #: Seconds since the last improvement.
    stalled_time: float
    #: Iterations since the last improvement.
    stalled_iterations: int


class Criterion(ABC):
    """Base of the stop criteria."""

    @abstractmethod
    def __call__(self, progress: Progress) -> bool:
        """Return whether the solve should stop.

        Parameters
        ----------
        progress
            Where the solve stands.

        Returns
        -------
        bool
            True to stop.
        """

    def fraction(self, progress: Progress) -> float | None:
        """Return the share of the allowance that is used up, in [0, 1], or None where none is known beforehand.

        Parameters
        ----------
        progress
            Where the solve stands.

        Returns
        -------
        float or None
            Share of the time or the iterations; cooling schedules follow it.
        """
        return None

    def __or__(self, other: Criterion) -> AnyOf:
        """Join two criteria: the solve stops when either says so."""
        if not isinstance(other, Criterion):
            return NotImplemented
        return AnyOf((*_parts(self), *_parts(other)))


def _parts(criterion: Criterion) -> tuple[Criterion, ...]:
    return criterion.criteria if isinstance(criterion, AnyOf) else (criterion,)


def _check(name: str, value: object, *, least: float, whole: bool = False, above: bool = False) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not isinstance(value, kinds) or value < least or (above and value == least):
        kind = "a whole number" if whole else "a finite number"
        bound = "" if least == -math.inf else f" above {least:g}" if above else f" of at least {least:g}"
        raise InputError(f"{name} = {value!r} must be {kind}{bound}")


@dataclass(frozen=True)
class AnyOf(Criterion):
    """Stop when any of several criteria says so; made by ``|``.

    Parameters
    ----------
    criteria
        The criteria, at least one.

    Raises
    ------
    InputError
        If there are none, or one is no criterion.
    """

    criteria: tuple[Criterion, ...]

    def __post_init__(self) -> None:
        """Validate the criteria and flatten nested ones."""
        if not isinstance(self.criteria, (tuple, list)) or not self.criteria:
            raise InputError(f"AnyOf takes a non-empty tuple of criteria, got {self.criteria!r}")
        for criterion in self.criteria:
            if not isinstance(criterion, Criterion):
                raise InputError(
                    f"AnyOf holds {criterion!r}, which is no criterion; for example MaxIterations(1000) is"
                )
        flat = tuple(part for criterion in self.criteria for part in _parts(criterion))
        object.__setattr__(self, "criteria", flat)

    def __call__(self, progress: Progress) -> bool:
        """Return whether any criterion stops."""
        return any(criterion(progress) for criterion in self.criteria)

    def fraction(self, progress: Progress) -> float | None:
        """Return the largest share used up."""
        shares = [share for criterion in self.criteria if (share := criterion.fraction(progress)) is not None]
        return max(shares, default=None)

    def seconds_left(self, elapsed: float) -> float:
        """Return the seconds until a time limit among the criteria, infinite where there is none.

        Parameters
        ----------
        elapsed
            Seconds since the solver was called.

        Returns
        -------
        float
            Seconds, never negative.
        """
        limits = [criterion.seconds for criterion in self.criteria if isinstance(criterion, MaxRuntime)]
        return max(min(limits, default=math.inf) - elapsed, 0.0)

    def iterations_left(self, iterations: int) -> float:
        """Return the iterations until an iteration limit among the criteria, infinite where there is none.

        Parameters
        ----------
        iterations
            Iterations so far.

        Returns
        -------
        float
            Iterations, never negative.
        """
        limits = [criterion.iterations for criterion in self.criteria if isinstance(criterion, MaxIterations)]
        return max(min(limits, default=math.inf) - iterations, 0.0)

    def first(self, progress: Progress) -> Criterion:
        """Return the criterion that stopped the solve."""
        return next(criterion for criterion in self.criteria if criterion(progress))


@dataclass(frozen=True)
class MaxRuntime(Criterion):
    """Stop after a time, counted from the call of the solver; compilation and preparation come before it.

    Parameters
    ----------
    seconds
        The limit, >= 0.

    Raises
    ------
    InputError
        If it is negative, infinite or no number.
    """

    seconds: float

    def __post_init__(self) -> None:
        """Validate the limit."""
        _check("time limit (seconds)", self.seconds, least=0)
        if not isinstance(self.seconds, (int, float)):  # a timer takes no NumPy scalar
            object.__setattr__(self, "seconds", float(self.seconds))

    def __call__(self, progress: Progress) -> bool:
        """Return whether the time is over."""
        return progress.elapsed >= self.seconds

    def fraction(self, progress: Progress) -> float | None:
        """Return the share of the time that is over."""
        return min(progress.elapsed / self.seconds, 1.0) if self.seconds > 0 else 1.0


@dataclass(frozen=True)
class MaxIterations(Criterion):
    """Stop after a number of iterations, in the method's own unit (see its docstring).

    Parameters
    ----------
    iterations
        The limit, >= 0.

    Raises
    ------
    InputError
        If it is negative or no whole number.
    """

    iterations: int

    def __post_init__(self) -> None:
        """Validate the limit."""
        _check("iterations", self.iterations, least=0, whole=True)

    def __call__(self, progress: Progress) -> bool:
        """Return whether the iterations are done."""
        return progress.iterations >= self.iterations

    def fraction(self, progress: Progress) -> float | None:
        """Return the share of the iterations that is done."""
        return min(progress.iterations / self.iterations, 1.0) if self.iterations > 0 else 1.0


@dataclass(frozen=True)
class NoImprovement(Criterion):
    """Stop when the incumbent has not improved for a while.

    Parameters
    ----------
    seconds
        Longest time without improvement.
    iterations
        Most iterations without improvement. Exactly one of the two is given.

    Raises
    ------
    InputError
        If both or none are given, or the one given is not positive.
    """

    seconds: float | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        """Validate the limits."""
        if (self.seconds is None) == (self.iterations is None):
            raise InputError("NoImprovement needs either seconds=... or iterations=...")
        if self.seconds is not None:
            _check("NoImprovement seconds", self.seconds, least=0, above=True)
        else:
            _check("NoImprovement iterations", self.iterations, least=1, whole=True)

    def __call__(self, progress: Progress) -> bool:
        """Return whether the solve has stalled."""
        if self.seconds is not None:
            return progress.stalled_time >= self.seconds
        return self.iterations is not None and progress.stalled_iterations >= self.iterations


@dataclass(frozen=True)
class TargetScore(Criterion):
    """Stop when the incumbent's score reaches a target.

    Parameters
    ----------
    score
        The target, in units of the saliency.

    Raises
    ------
    InputError
        If it is no finite number.
    """

    score: float

    def __post_init__(self) -> None:
        """Validate the target."""
        _check("target score", self.score, least=-math.inf)

    def __call__(self, progress: Progress) -> bool:
        """Return whether the target is reached."""
        return progress.score >= self.score


@dataclass(frozen=True)
class GapReached(Criterion):
    """Stop when the proved gap, (bound - score) / bound (of errors over abs(score)), is small enough.

    Parameters
    ----------
    gap
        The gap, >= 0.

    Raises
    ------
    InputError
        If it is negative or no number.
    """

    gap: float

    def __post_init__(self) -> None:
        """Validate the gap."""
        _check("gap", self.gap, least=0)

    def __call__(self, progress: Progress) -> bool:
        """Return whether the gap is reached."""
        return progress.gap <= self.gap
