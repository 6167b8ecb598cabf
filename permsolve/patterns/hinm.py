"""HiNM: vector sparsity outside, n:m inside (Yu et al., 2024, arXiv 2407.20496)."""

from __future__ import annotations

import math
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
class HiNMSolution(Solution):
    """Rows in tiles, and the columns that each tile keeps.

    Parameters
    ----------
    rows
        int64 (rows,): tile t holds ``rows[t * vector : (t + 1) * vector]`` of the matrix.
    columns
        int64 (tiles, kept): the columns of the matrix that a tile keeps; consecutive m of them are a group. Where the
        problem has blocks of columns, those of the first block come first, and so on.
    """

    rows: Permutation
    columns: Permutation


@dataclass(frozen=True)
class HiNM(Hierarchical):
    """Per tile of ``vector`` rows keep some columns, and n of every m consecutive kept columns in each row.

    The density is ``(1 - vector_sparsity) * n / m``: 25 % by default. Which columns a tile keeps is free to the solver.

    Parameters
    ----------
    vector
        Rows of a tile.
    vector_sparsity
        Share of the columns that a tile drops, from 0 to below 1; the number kept is rounded down to a multiple of m.
    nm
        The pattern inside: `NM`, ``(n, m)`` or ``"n:m"``.

    Raises
    ------
    InputError
        If a parameter is none of these.
    """

    kind: ClassVar[str] = "hinm"
    parts: ClassVar[tuple[str, ...]] = ("rows", "columns")
    solution_type: ClassVar[type[Solution]] = HiNMSolution

    vector: int = 32
    vector_sparsity: float = 0.5
    nm: NM | tuple[int, int] | str = "2:4"

    def __post_init__(self) -> None:
        """Validate the parameters."""
        [vector] = base.whole_numbers("HiNM", [("vector", self.vector)], "HiNM(32, 0.5, '2:4')")
        share = self.vector_sparsity
        if isinstance(share, bool) or not isinstance(share, (int, float, np.floating)) or not 0 <= share < 1:
            raise InputError(
                f"HiNM: vector_sparsity = {share!r} must be a number from 0 to below 1: the share of columns dropped"
            )
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "vector_sparsity", float(share))
        object.__setattr__(self, "nm", NM.parse(self.nm))

    @property
    def _inner(self) -> NM:
        return NM.parse(self.nm)

    @property
    def n(self) -> int:  # type: ignore[override]
        """Entries kept of each group of m kept columns."""
        return self._inner.n

    @property
    def m(self) -> int:  # type: ignore[override]
        """Group size."""
        return self._inner.m

    def __str__(self) -> str:
        """Return, for example, ``hinm(32, 0.5, 2:4)``."""
        return f"hinm({self.vector}, {self.vector_sparsity!r}, {self.nm})"  # every digit: it is read back

    def kept(self, size: int) -> int:
        """Return how many of a block of columns a tile keeps.

        Parameters
        ----------
        size
            Columns of the block.

        Returns
        -------
        int
            ``size * (1 - vector_sparsity)``, rounded down to a multiple of m.
        """
        exact = size * (1 - self.vector_sparsity)
        return math.floor(exact * (1 + 1e-12)) // self.m * self.m  # 0.9 of 10 is 1, not 0.99...

    def kept_of(self, cols: int, blocks: Blocks) -> list[int]:
        """Return how many columns a tile keeps of every block.

        Parameters
        ----------
        cols
            Number of columns.
        blocks
            Sizes of consecutive blocks, or None.

        Returns
        -------
        list
            One number per block.
        """
        return [self.kept(size) for size in ((cols,) if blocks is None else blocks)]

    def validate(self, shape: Shape, blocks: Blocks = None) -> None:
        """Check that rows divide into tiles and a tile keeps at least one group."""
        rows, cols = shape
        base.check_tiles(rows, self.vector)
        self._inner.validate(shape)
        if not any(self.kept_of(cols, blocks)):
            share = f"{1 - self.vector_sparsity:g} of {cols} columns" + (f" in blocks of {blocks}" if blocks else "")
            raise InputError(
                f"a tile of {self} keeps less than one group of m = {self.m} ({share}); "
                f"choose a smaller vector_sparsity"
            )

    def sample(self, shape: Shape) -> Shape:
        """Return the shape of two tiles that keep four groups."""
        groups = math.ceil(4 / (1 - self.vector_sparsity)) + 1
        return min(shape[0], 2 * self.vector), min(shape[1], groups * self.m)

    def start(self, problem: Problem) -> HiNMSolution:
        """Return the rows as they are, and per tile the columns of largest sums in their own order."""
        return self.choose(problem, np.arange(problem.rows))

    def draw(self, problem: Problem, rng: np.random.Generator) -> HiNMSolution:
        """Return random tiles, each with its columns of largest sums in random order."""
        drawn = self.choose(problem, rng.permutation(problem.rows))
        columns, at = drawn.columns.copy(), 0
        for size in self.kept_of(problem.cols, problem.blocks):
            columns[:, at : at + size] = rng.permuted(columns[:, at : at + size], axis=1)
            at += size
        return HiNMSolution(drawn.rows, columns)

    def choose(self, problem: Problem, rows: Permutation) -> HiNMSolution:
        """Keep the columns of largest sums of every tile, in ascending order; of equal ones the first.

        Parameters
        ----------
        problem
            The problem.
        rows
            Permutation of the rows.

        Returns
        -------
        HiNMSolution
            The solution.
        """
        saliency, cols, blocks = problem.saliency, problem.cols, problem.blocks
        sums = np.array([saliency[tile].sum(axis=0, dtype=np.float64) for tile in rows.reshape(-1, self.vector)])
        columns, at = [], 0
        for size, kept in zip((cols,) if blocks is None else blocks, self.kept_of(cols, blocks), strict=True):
            best = np.argsort(-sums[:, at : at + size], axis=1, kind="stable")[:, :kept]
            columns.append(np.sort(best, axis=1) + at)
            at += size
        return HiNMSolution(rows, np.hstack(columns))

    def check_solution(self, solution: Any, shape: Shape, blocks: Blocks = None) -> HiNMSolution:
        """Validate tiles and their columns."""
        self._own(solution)
        rows, cols = shape
        base.check_permutation(solution.rows, rows, "rows")
        tiles, kept = rows // self.vector, self.kept_of(cols, blocks)
        if solution.columns.shape != (tiles, sum(kept)):
            raise InputError(
                f"columns of a solution of {self} for {rows} x {cols} has shape ({tiles}, {sum(kept)}), "
                f"got {solution.columns.shape}"
            )
        ordered = np.sort(solution.columns, axis=1)
        good = ordered.size == 0 or (ordered[:, 0].min() >= 0 and ordered[:, -1].max() < cols)
        if not good or (ordered[:, 1:] == ordered[:, :-1]).any():
            raise InputError(f"a tile's columns must differ and lie in 0 .. {cols - 1}")
        if blocks is not None:
            block = np.repeat(np.arange(len(blocks)), blocks)
            wrong = block[solution.columns] != np.repeat(np.arange(len(blocks)), kept)
            if wrong.any():
                raise InputError(f"column {int(solution.columns[wrong][0])} is not in the block that it is kept for")
        return HiNMSolution(solution.rows, solution.columns)

    def score(self, saliency: Array, solution: HiNMSolution) -> float:
        """Return the saliency kept: per tile, row and group the n largest entries."""
        return sum(
            float(scoring.group_values(saliency[tile], columns, self.n, self.m).sum())
            for tile, columns in self._tiles(solution)
        )

    def mask(self, saliency: Array, solution: HiNMSolution) -> npt.NDArray[np.bool_]:
        """Return which entries are kept; of equal ones the first in the tile's order."""
        mask = np.zeros(saliency.shape, dtype=np.bool_)
        everything = np.arange(solution.columns.shape[1])
        for tile, columns in self._tiles(solution):
            mask[np.ix_(tile, columns)] = scoring.mask(saliency[np.ix_(tile, columns)], everything, self.n, self.m)
        return mask

    def _tiles(self, solution: HiNMSolution) -> list[tuple[Permutation, Permutation]]:
        return list(zip(solution.rows.reshape(-1, self.vector), solution.columns, strict=True))

    def rows_bound(self, saliency: Array, blocks: Blocks = None) -> float:
        """Return the sum over rows of the ``kept * n / m`` largest entries."""
        return scoring.largest_sum(saliency, sum(self.kept_of(saliency.shape[1], blocks)) // self.m * self.n)

    def changed(self, new: HiNMSolution, old: HiNMSolution) -> npt.NDArray[np.int64]:
        """Return the tiles whose rows or groups differ."""
        pairs = zip(self._sorted(new), self._sorted(old), strict=True)
        return np.flatnonzero(np.any([(a != b).any(axis=1) for a, b in pairs], axis=0))

    def _sorted(self, solution: HiNMSolution) -> tuple[Array, Array]:
        tiles = solution.columns.shape[0]
        groups = np.sort(solution.columns.reshape(tiles, -1, self.m), axis=2).reshape(tiles, -1)
        return np.sort(solution.rows.reshape(tiles, -1), axis=1), groups

    def piece_values(
        self, problem: Problem, solution: HiNMSolution, which: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float64]:
        """Return the values of tiles."""
        return tile_values(problem, *self._sorted(solution), self.n, self.m, which)

    def permute(self, array: Array, solution: HiNMSolution) -> Array:
        """Return the rows in tiles, and in each tile its kept columns first, in their order, then the others."""
        order = self.orders(solution, array.shape[1])
        return np.concatenate([array[tile][:, order[t]] for t, (tile, _) in enumerate(self._tiles(solution))])

    def unpermute(self, array: Array, solution: HiNMSolution) -> Array:
        """Undo `permute`."""
        whole = np.empty_like(array)
        order = self.orders(solution, array.shape[1])
        for t, (tile, _) in enumerate(self._tiles(solution)):
            whole[np.ix_(tile, order[t])] = array[t * self.vector : (t + 1) * self.vector]
        return whole

    def orders(self, solution: HiNMSolution, cols: int) -> Permutation:
        """Return a permutation of all columns for every tile: those it keeps, then the others, ascending.

        Parameters
        ----------
        solution
            A checked solution.
        cols
            Number of columns.

        Returns
        -------
        numpy.ndarray
            int64 (tiles, cols).
        """
        tiles = solution.columns.shape[0]
        dropped = np.ones((tiles, cols), dtype=np.bool_)
        np.put_along_axis(dropped, solution.columns, False, axis=1)
        rest = np.nonzero(dropped)[1].reshape(tiles, -1)
        return np.hstack([solution.columns, rest]).astype(np.int64)


def tile_values(
    problem: Problem, rows: Array, kept: Array, n: int, m: int, which: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64]:
    """Return the saliency that tiles keep, in compiled float64 arithmetic.

    Parameters
    ----------
    problem
        The problem.
    rows
        int64 (tiles, vector): the rows of each tile.
    kept
        int64 (tiles, kept): the columns of each tile in groups of m.
    n
        Entries kept per row and group.
    m
        Group size.
    which
        Numbers of tiles, or None for all.

    Returns
    -------
    numpy.ndarray
        float64, one value for each tile.
    """
    from permsolve.kernels.score import tile_values as kernel

    which = np.arange(rows.shape[0]) if which is None else which
    values = np.empty(which.size)
    kernel(problem.columns, rows, kept, n, m, which, values)
    return values
