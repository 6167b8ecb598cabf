"""Output errors in integers: rounded down term by term, so that minus the error is rounded up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.error_problem import ErrorProblem
from permsolve.objectives import choices
from permsolve.partition.quantise import Quantised

Array = npt.NDArray[Any]

#: Single products stay below 2**_PRODUCT_BITS, errors of groups below 2**_VALUE_BITS.
_PRODUCT_BITS, _VALUE_BITS = 48, 49


@dataclass(frozen=True, eq=False)
class QuantisedErrors(Quantised):
    """Weights and moments in units in which errors are integers; values of groups are minus errors, at most 0.

    ``columns`` holds the weights, scaled by a power of two.

    Parameters
    ----------
    moments
        float64 (moments, cols, cols): twice the moments, scaled by a power of two.
    segments
        int64 (moments + 1,): where their rows begin.
    squares
        Integer-valued float64 (cols, rows): errors of pruning one entry, rounded down.
    """

    moments: Array = field(kw_only=True)
    segments: Array = field(kw_only=True)
    squares: Array = field(kw_only=True)

    @classmethod
    def of_errors(cls, problem: ErrorProblem) -> QuantisedErrors:
        """Quantise a problem without blocks.

        Parameters
        ----------
        problem
            The problem.

        Returns
        -------
        QuantisedErrors
            In integers.
        """
        n, m = problem.pattern.n, problem.pattern.m
        exponent = exponent_of(problem.energies, n, m)
        weights, scale = scaled_weights(problem.columns)
        moments = np.ldexp(problem.moments, exponent - 2 * scale)
        squares = np.square(weights)
        segments = np.array(problem.segments)
        for moment, (_, rows) in zip(moments, problem.spans(), strict=True):
            squares[:, rows] *= np.diag(moment)[:, None]
        squares = np.where(squares > 0, np.maximum(np.floor(squares - 0.25), 0.0), 0.0)
        return cls(weights, exponent, Fraction(0), n, m, moments=2 * moments, segments=segments, squares=squares)

    @cached_property
    def twins(self) -> Array:
        """The next lower of the columns identical to a column, -1 where there is none; int16 (cols,)."""
        twins = np.full(self.cols, -1, dtype=np.int16)
        last: dict[bytes, int] = {}
        for column in range(self.cols):
            key = self.columns[column].tobytes()
            lower = last.get(key, -1)
            if lower >= 0 and self._alike(lower, column):
                twins[column] = lower
            last[key] = column
        return twins

    def _alike(self, a: int, b: int) -> bool:
        """Return whether two columns of equal weights can trade places and change nothing."""
        if not self.columns[a].any():
            return True
        swapped = np.arange(self.cols)
        swapped[[a, b]] = b, a
        return bool((self.moments[:, a] == self.moments[:, b][:, swapped]).all())

    def part(self, columns: Array) -> QuantisedErrors:
        """Return the problem of some columns, in the same unit."""
        moments = np.ascontiguousarray(self.moments[:, columns][:, :, columns])
        return replace(self, columns=self.columns[columns], moments=moments, squares=self.squares[columns])

    def worth(self, groups: Array) -> Array:
        """Return minus the errors of some groups, integer-valued float64."""
        from permsolve.kernels.error_groups import worth

        values = np.empty(len(groups))
        members = np.sort(groups.astype(np.int64), axis=1)
        sets = choices(self.n, self.m).copy()
        worth(self.columns, self.moments, self.segments, self.squares, members, sets, values)
        return values

    def values_from(self, first: int, out: Array) -> None:
        """Write minus the errors of all groups whose smallest member is ``first``."""
        from permsolve.kernels.error_groups import values_from

        whole, starts = (_subsets(self.m - 1, size) for size in (self.m - self.n, self.m - self.n - 1))
        values_from(self.columns, self.moments, self.segments, self.squares, first, whole, starts, self.m, out)


def exponent_of(energies: Array, n: int, m: int) -> int:
    """Return the exponent of the unit: errors are put into multiples of ``2**-exponent``.

    An error of a group is at most (m - n) times the sum of the energies pruned, for moments are positive semidefinite,
    and of the sets that may be pruned one is of energies up to the (n + 1)-th largest of the row.

    Parameters
    ----------
    energies
        Errors of pruning single entries, float64 (cols, rows).
    n, m
        Keep n of every m.

    Returns
    -------
    int
        The exponent.
    """
    pruned = m - n
    largest = float(energies.max())
    if largest == 0.0:
        return 0
    rank = len(energies) - n - 1
    level = np.partition(energies, rank, axis=0)[rank]
    most = max(float(level.sum()), largest / len(level))
    single = _PRODUCT_BITS - 1 - int(np.frexp(largest * pruned**2)[1])
    return min(single, _VALUE_BITS - 1 - int(np.frexp(most * pruned**2)[1]))


def scaled_weights(columns: Array) -> tuple[Array, int]:
    """Return weights as float64 below 1, and the exponent of the power of two that they were multiplied by.

    Parameters
    ----------
    columns
        The weights.

    Returns
    -------
    tuple
        The array, exact but for entries below 2**-1000 of the largest, and the exponent.
    """
    scale = -int(np.frexp(float(np.abs(columns).max()))[1])
    return np.ldexp(columns.astype(np.float64), scale), scale


def _subsets(of: int, size: int) -> Array:
    sets = list(combinations(range(of), size))
    return np.array(sets, dtype=np.int64).reshape(len(sets), size)
