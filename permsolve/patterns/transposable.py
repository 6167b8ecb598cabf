"""Transposable n:m: the matrix and its transpose are both n:m."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve import scoring
from permsolve.errors import InputError
from permsolve.patterns import base
from permsolve.patterns.base import Array, Blocks, Hierarchical, Permutation, Shape, Solution
from permsolve.patterns.nm import NM

if TYPE_CHECKING:
    from permsolve.problem import Problem


@dataclass(frozen=True, eq=False)
class TransposableSolution(Solution):
    """Both permutations: ``matrix[rows][:, columns]`` is cut into blocks of m x m.

    Parameters
    ----------
    rows
        int64 (rows,): a permutation of the rows.
    columns
        int64 (cols,): a permutation of the columns.
    """

    rows: Permutation
    columns: Permutation


@dataclass(frozen=True)
class Transposable(Hierarchical):
    """Keep n entries of every row and of every column of each m x m block.

    The mask is the best such mask of every block, exactly (a transportation problem). The sparse kernels of the forward
    pass then serve the backward pass, too (Hubara et al., NeurIPS 2021, arXiv 2102.08124).

    Parameters
    ----------
    n
        Entries kept of each row and column of a block, ``1 <= n < m``.
    m
        Rows and columns of a block.

    Raises
    ------
    InputError
        If n and m are not integers with ``1 <= n < m``.
    """

    kind: ClassVar[str] = "transposable"
    parts: ClassVar[tuple[str, ...]] = ("rows", "columns")
    solution_type: ClassVar[type[Solution]] = TransposableSolution

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Validate n and m."""
        plain = NM(self.n, self.m)
        object.__setattr__(self, "n", plain.n)
        object.__setattr__(self, "m", plain.m)

    def __str__(self) -> str:
        """Return, for example, ``transposable(2:4)``."""
        return f"transposable({self.n}:{self.m})"

    def validate(self, shape: Shape, blocks: Blocks = None) -> None:
        """Check that rows and columns divide into blocks."""
        for size, what in zip(shape, ("rows (output channels)", "columns (input channels)"), strict=True):
            if size % self.m:
                raise InputError(
                    f"{size} {what} do not divide into blocks of m = {self.m}; "
                    f"pad the matrix with zeros to {-(-size // self.m) * self.m} or choose an m that divides {size}"
                )

    def sample(self, shape: Shape) -> Shape:
        """Return the shape of four by four blocks."""
        return min(shape[0], 4 * self.m), min(shape[1], 4 * self.m)

    def start(self, problem: Problem) -> TransposableSolution:
        """Return rows and columns as they are."""
        return TransposableSolution(np.arange(problem.rows), np.arange(problem.cols))

    def draw(self, problem: Problem, rng: np.random.Generator) -> TransposableSolution:
        """Return random rows and columns."""
        rows = rng.permutation(problem.rows)
        return TransposableSolution(rows, base.random_columns(problem.cols, problem.blocks, rng))

    def check_solution(self, solution: Any, shape: Shape, blocks: Blocks = None) -> TransposableSolution:
        """Validate both permutations."""
        self._own(solution)
        base.check_permutation(solution.rows, shape[0], "rows")
        base.check_in_blocks(base.check_permutation(solution.columns, shape[1], "columns"), blocks)
        return TransposableSolution(solution.rows, solution.columns)

    def score(self, saliency: Array, solution: TransposableSolution) -> float:
        """Return the saliency that the best masks of all blocks keep."""
        return float(saliency[self.mask(saliency, solution)].sum(dtype=np.float64))

    def mask(self, saliency: Array, solution: TransposableSolution) -> npt.NDArray[np.bool_]:
        """Return the best mask of every block."""
        from permsolve.kernels.transposable import block_masks

        # Sorted, so that of several best masks the same one is taken whatever the order inside the groups.
        groups = TransposableSolution(self._groups(solution.rows).ravel(), self._groups(solution.columns).ravel())
        permuted = np.ascontiguousarray(self.permute(saliency, groups))
        mask = np.zeros(saliency.shape, dtype=np.bool_)
        block_masks(permuted, self.n, self.m, mask)
        return self.unpermute(mask, groups)

    def rows_bound(self, saliency: Array, blocks: Blocks = None) -> float:
        """Return the sum over rows of the ``cols * n / m`` largest entries, or that over columns where it is less."""
        by_row = scoring.largest_sum(saliency, saliency.shape[1] // self.m * self.n)
        return min(by_row, scoring.largest_sum(saliency.T, saliency.shape[0] // self.m * self.n))

    def changed(self, new: TransposableSolution, old: TransposableSolution) -> npt.NDArray[np.int64]:
        """Return the blocks whose rows or columns differ; blocks are numbered row by row."""
        rows, columns = (
            (self._groups(getattr(new, name)) != self._groups(getattr(old, name))).any(axis=1) for name in self.parts
        )
        return np.flatnonzero(rows[:, None] | columns[None, :])

    def _groups(self, perm: Permutation) -> Permutation:
        return np.sort(perm.reshape(-1, self.m), axis=1)

    def piece_values(
        self, problem: Problem, solution: TransposableSolution, which: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float64]:
        """Return the values of blocks."""
        from permsolve.kernels.transposable import block_values

        rows, columns = self._groups(solution.rows), self._groups(solution.columns)
        which = np.arange(len(rows) * len(columns)) if which is None else which
        values = np.empty(which.size)
        block_values(problem.columns, rows, columns, self.n, which, values)
        return values
