"""Plain n:m: one permutation of the columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve import scoring
from permsolve.errors import InputError
from permsolve.patterns import base
from permsolve.patterns.base import Array, Blocks, Pattern, Permutation, Shape

if TYPE_CHECKING:
    from permsolve.problem import Problem


@dataclass(frozen=True)
class NM(Pattern):
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

    kind: ClassVar[str] = "nm"
    moves_rows: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("perm",)

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
        if isinstance(spec, Pattern):
            raise InputError(f"{spec} is a pattern that permutes rows, too; this needs plain n:m, for example '2:4'")
        raise InputError(f"nm = {spec!r} is not a pattern; give a pair (2, 4), a string '2:4' or a pattern object")

    def validate(self, shape: Shape, blocks: Blocks = None) -> None:
        """Check that the columns divide into groups."""
        cols = shape[1]
        if cols % self.m:
            raise InputError(
                f"{cols} columns (input channels) do not divide into groups of m = {self.m}; "
                f"pad the matrix with zero columns to {-(-cols // self.m) * self.m} or choose an m that divides {cols}"
            )

    def sample(self, shape: Shape) -> Shape:
        """Return the shape of the first four groups."""
        return shape[0], min(shape[1], 4 * self.m)

    def start(self, problem: Problem) -> Permutation:
        """Return the identity."""
        return np.arange(problem.cols)

    def draw(self, problem: Problem, rng: np.random.Generator) -> Permutation:
        """Return a random permutation."""
        return base.random_columns(problem.cols, problem.blocks, rng)

    def check_solution(self, solution: npt.ArrayLike, shape: Shape, blocks: Blocks = None) -> Permutation:
        """Validate a permutation of the columns, and return it as a fresh int64 array of shape (cols,)."""
        if isinstance(solution, base.Solution):
            raise InputError(f"a solution of {self} is one permutation of the columns, got {type(solution).__name__}")
        perm = base.check_permutation(solution, shape[1], "columns")
        base.check_in_blocks(perm, blocks)
        return perm

    def score(self, saliency: Array, solution: Permutation) -> float:
        """Return the sum over rows and groups of the n largest entries."""
        return float(scoring.group_values(saliency, solution, self.n, self.m).sum())

    def mask(self, saliency: Array, solution: Permutation) -> npt.NDArray[np.bool_]:
        """Return which entries are kept: n of every permuted group of m; of equal ones the first in permuted order."""
        return scoring.mask(saliency, solution, self.n, self.m)

    def rows_bound(self, saliency: Array, blocks: Blocks = None) -> float:
        """Return the sum over rows of the ``cols * n / m`` largest entries."""
        return scoring.largest_sum(saliency, saliency.shape[1] // self.m * self.n)

    def changed(self, new: Permutation, old: Permutation) -> npt.NDArray[np.int64]:
        """Return the groups whose columns differ."""
        return np.flatnonzero((self._groups(new) != self._groups(old)).any(axis=1))

    def _groups(self, perm: Permutation) -> Permutation:
        return np.sort(perm.reshape(-1, self.m), axis=1)  # one sum per set of columns, whatever its order

    def piece_values(
        self, problem: Problem, solution: Permutation, which: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float64]:
        """Return the values of groups."""
        if which is None:
            return problem.group_values(solution)
        return problem.group_values(self._groups(solution)[which].ravel())

    def permute(self, array: Array, solution: Permutation) -> Array:
        """Return the columns in their order."""
        return np.take(array, solution, axis=1)

    def unpermute(self, array: Array, solution: Permutation) -> Array:
        """Undo `permute`."""
        whole = np.empty_like(array)
        whole[:, solution] = array
        return whole

    def freeze(self, solution: Permutation) -> Permutation:
        """Return a copy that cannot be written to."""
        solution = np.array(solution, dtype=np.int64)
        solution.flags.writeable = False
        return solution

    def to_lists(self, solution: Permutation) -> dict[str, Any]:
        """Return the permutation as a list."""
        return {"perm": solution.tolist()}

    def from_lists(self, lists: Mapping[str, Any]) -> Permutation:
        """Make an array of the list."""
        return np.asarray(lists["perm"])
