"""Sparsity patterns: what is kept, and what a solution of the problem consists of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import scoring
from permsolve.errors import InputError

Array = npt.NDArray[Any]
Permutation = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NM:
    """Keep the n largest of every m consecutive entries of a row.

    A solution is one permutation ``perm`` of the columns, int64 of shape (cols,): ``matrix[:, perm]`` is the permuted
    matrix, whose consecutive groups of m columns are pruned.

    Parameters
    ----------
    n
        Entries kept of each group, ``1 <= n < m``.
    m
        Group size.

    Raises
    ------
    InputError
        If n and m are not integers with ``1 <= n < m``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Validate n and m."""
        for value in (self.n, self.m):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InputError(f"nm needs two integers, got {self.n!r} and {self.m!r}; write (2, 4) or '2:4'")
        object.__setattr__(self, "n", int(self.n))
        object.__setattr__(self, "m", int(self.m))
        if not 1 <= self.n < self.m:
            raise InputError(f"nm = {self.n}:{self.m} keeps {self.n} of every {self.m}; it must hold that 1 <= n < m")

    def __str__(self) -> str:
        """Return the usual notation, for example ``2:4``."""
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, spec: object) -> NM:
        """Make a pattern of what a user writes.

        Parameters
        ----------
        spec
            An `NM`, a pair ``(n, m)``, or a string ``"n:m"``.

        Returns
        -------
        NM
            The pattern.

        Raises
        ------
        InputError
            If the specification is none of these.
        """
        if isinstance(spec, NM):
            return spec
        if isinstance(spec, str):
            match = re.fullmatch(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*", spec)
            if match is None:
                raise InputError(f"nm = {spec!r} is not of the form 'n:m', for example '2:4' (keep 2 of every 4)")
            return cls(int(match[1]), int(match[2]))
        if isinstance(spec, (tuple, list)) and len(spec) == 2:
            return cls(spec[0], spec[1])
        raise InputError(f"nm = {spec!r} is not a pattern; give a pair (2, 4), a string '2:4' or a pattern object")

    def validate(self, cols: int) -> None:
        """Check that the columns divide into groups.

        Parameters
        ----------
        cols
            Number of columns.

        Raises
        ------
        InputError
            If they do not.
        """
        if cols % self.m:
            raise InputError(
                f"{cols} columns (input channels) do not divide into groups of m = {self.m}; "
                f"pad the matrix with zero columns to {-(-cols // self.m) * self.m} or choose an m that divides {cols}"
            )

    def check_solution(self, solution: npt.ArrayLike, cols: int) -> Permutation:
        """Validate a solution and return it as a fresh int64 array.

        Parameters
        ----------
        solution
            The permutation, shape (cols,).
        cols
            Number of columns.

        Returns
        -------
        numpy.ndarray
            int64 (cols,).

        Raises
        ------
        InputError
            If it is not a permutation of ``0 .. cols - 1``.
        """
        try:
            perm = np.asarray(solution)
        except ValueError as error:
            raise InputError(f"not a permutation of {cols} columns: {error}") from error
        if perm.shape != (cols,) or perm.dtype.kind not in "iu":
            raise InputError(
                f"a permutation of {cols} columns is an integer array of shape ({cols},), "
                f"got {perm.dtype} of shape {perm.shape}"
            )
        perm = perm.astype(np.int64)
        if not np.array_equal(np.sort(perm), np.arange(cols)):
            raise InputError(f"not a permutation: each of 0 .. {cols - 1} must occur exactly once")
        return perm

    def score(self, saliency: Array, solution: Permutation) -> float:
        """Return the saliency kept under a solution: the NumPy reference.

        Parameters
        ----------
        saliency
            (rows, cols), entries >= 0.
        solution
            Permutation, int64 (cols,).

        Returns
        -------
        float
            Sum over rows and groups of the n largest entries.
        """
        return float(scoring.group_values(saliency, solution, self.n, self.m).sum())

    def mask(self, saliency: Array, solution: Permutation) -> npt.NDArray[np.bool_]:
        """Return which entries are kept, in the matrix's own column order.

        Parameters
        ----------
        saliency
            (rows, cols), entries >= 0.
        solution
            Permutation, int64 (cols,).

        Returns
        -------
        numpy.ndarray
            bool (rows, cols); every permuted group of m holds exactly n true entries in each row. Of equal entries the
            one that comes first in the permuted order is kept.
        """
        return scoring.mask(saliency, solution, self.n, self.m)

    def rows_bound(self, saliency: Array) -> float:
        """Return the sum over rows of the ``cols * n / m`` largest entries, which no permutation exceeds.

        Parameters
        ----------
        saliency
            (rows, cols), entries >= 0.

        Returns
        -------
        float
            The bound.
        """
        return scoring.rows_bound(saliency, self.n, self.m)
