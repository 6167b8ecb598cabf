"""The saliency in integers, so that bounds are proved and not only computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.error_problem import ErrorProblem
from permsolve.patterns import Permutation
from permsolve.problem import Problem

Array = npt.NDArray[Any]

#: Values of groups stay below 2**49, so sums of a few of them are exact in float64.
_BITS = 49


@dataclass(frozen=True, eq=False)
class Quantised:
    """A saliency matrix rounded up to multiples of a power of two, as integer-valued float64.

    What exceeds the (n + 1)-th largest entry of its row is kept whatever the grouping: it is cut off and counted once,
    as the excess. Scores of the rounded matrix plus the excess are upper bounds on scores of the true one, closer than
    about 1e-12 of them.

    Parameters
    ----------
    columns
        Integer-valued float64 (cols, rows).
    exponent
        The unit is ``2**-exponent``.
    excess
        What was cut off, summed exactly and rounded up.
    n, m
        Keep n of every m.
    """

    columns: Array
    exponent: int
    excess: Fraction
    n: int
    m: int

    @classmethod
    def of(cls, problem: Problem) -> Quantised:
        """Quantise a problem without blocks.

        Parameters
        ----------
        problem
            The problem.

        Returns
        -------
        Quantised
            Its saliency in integers; of the output error, `QuantisedErrors`.
        """
        if isinstance(problem, ErrorProblem):
            from permsolve.partition.quantise_errors import QuantisedErrors

            return QuantisedErrors.of_errors(problem)
        n, m = problem.pattern.n, problem.pattern.m
        cols, rows = problem.columns.shape
        level = np.partition(problem.columns, cols - n - 1, axis=0)[cols - n - 1]
        over = problem.columns > level
        taken = problem.columns[over].astype(np.float64)
        given = np.broadcast_to(level, over.shape)[over].astype(np.float64)
        excess = math.fsum((*taken.tolist(), *(-given).tolist()))
        clipped = np.minimum(problem.columns, level).astype(np.float64)
        exponent = _exponent(float(clipped.max()), n * rows)
        rounded = np.ceil(np.ldexp(clipped, exponent))
        return cls(
            np.where((rounded == 0) & (clipped > 0), 1.0, rounded),  # ldexp may round to zero: never count less
            exponent,
            Fraction(math.nextafter(excess, math.inf) if excess > 0 else 0.0),
            n,
            m,
        )

    @property
    def cols(self) -> int:
        """Number of columns."""
        return int(self.columns.shape[0])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.columns.shape[1])

    @cached_property
    def twins(self) -> Array:
        """The next lower of the columns identical to a column, -1 where there is none; int16 (cols,)."""
        twins = np.full(self.cols, -1, dtype=np.int16)
        last: dict[bytes, int] = {}
        for column in range(self.cols):
            key = self.columns[column].tobytes()
            twins[column] = last.get(key, -1)
            last[key] = column
        return twins

    def part(self, columns: Array) -> Quantised:
        """Return the problem of some columns, in the same unit; its excess does not count.

        Parameters
        ----------
        columns
            Integers (count,).

        Returns
        -------
        Quantised
            A copy of their entries.
        """
        return Quantised(self.columns[columns], self.exponent, Fraction(0), self.n, self.m)

    def worth(self, groups: Array) -> Array:
        """Return the values of some groups, integer-valued float64.

        Parameters
        ----------
        groups
            Integers (count, m).

        Returns
        -------
        numpy.ndarray
            (count,).
        """
        from permsolve.kernels.score import group_values

        values = np.empty(len(groups))
        group_values(self.columns, groups.astype(np.int64).ravel(), self.n, self.m, values)
        return values

    def values_from(self, first: int, out: Array) -> None:
        """Write the values of all groups with a smallest member.

        Parameters
        ----------
        first
            The member.
        out
            float64, in lexicographic order of the groups; written.
        """
        from permsolve.kernels.enumerate import values_from

        values_from(self.columns, first, self.n, self.m, out)

    def score(self, perm: Permutation) -> int:
        """Return the score of a permutation in units of ``2**-exponent``, without the excess.

        Parameters
        ----------
        perm
            Permutation, int64 (cols,).

        Returns
        -------
        int
            The score, exact.
        """
        return sum(int(value) for value in self.worth(perm.reshape(-1, self.m)))

    def bound(self, units: int) -> float:
        """Return an upper bound in units of the saliency, rounded up.

        Parameters
        ----------
        units
            The bound on the rounded matrix, in units of ``2**-exponent``.

        Returns
        -------
        float
            The smallest float64 that is proved.
        """
        exact = Fraction(units) * Fraction(2) ** -self.exponent + self.excess
        nearest = float(exact)
        return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def total(values: Iterable[float]) -> int:
    """Return the sum of integer-valued floats, exact whatever its size.

    Parameters
    ----------
    values
        The numbers.

    Returns
    -------
    int
        Their sum.
    """
    return sum(int(value) for value in values)


def _exponent(largest: float, entries: int) -> int:
    """Return the exponent at which ``entries`` of the largest entry stay below 2**_BITS."""
    if largest == 0.0:
        return 0
    return _BITS - math.frexp(largest)[1] - (entries - 1).bit_length()
