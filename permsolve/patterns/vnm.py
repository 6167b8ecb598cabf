"""V:N:M: four columns of every m per tile, n of these four per row (VENOM, SC 2023, arXiv 2310.02065)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve import scoring
from permsolve.errors import InputError
from permsolve.patterns import base
from permsolve.patterns.base import Array, Blocks, Hierarchical, Permutation, Shape, Solution
from permsolve.patterns.hinm import tile_values
from permsolve.patterns.nm import NM

if TYPE_CHECKING:
    from permsolve.problem import Problem

#: Columns that a tile keeps of each group of m: those among which sparse tensor cores choose.
WIDTH = 4


@dataclass(frozen=True, eq=False)
class VNMSolution(Solution):
    """Rows in tiles, columns in groups, and the columns that each tile keeps of every group.

    Parameters
    ----------
    rows
        int64 (rows,): tile t holds ``rows[t * vector : (t + 1) * vector]`` of the matrix.
    columns
        int64 (cols,): a permutation; consecutive m columns are a group, the same one for all tiles.
    kept
        int64 (tiles, cols / m, 4): positions, ascending, in the group: ``columns[g * m + kept[t, g]]`` are the columns
        of the matrix that tile t keeps of group g.
    """

    rows: Permutation
    columns: Permutation
    kept: Permutation

    def absolute(self) -> Permutation:
        """Return the columns of the matrix that each tile keeps.

        Returns
        -------
        numpy.ndarray
            int64 (tiles, cols / m * 4).
        """
        tiles, groups, width = self.kept.shape
        first = np.arange(groups)[:, None] * (self.columns.size // groups)
        absolute: Permutation = self.columns[(self.kept + first).reshape(tiles, groups * width)]
        return absolute


@dataclass(frozen=True)
class VNM(Hierarchical):
    """Per tile of ``vector`` rows keep 4 of every m consecutive columns, and n of these 4 in each row.

    With n = 2 each row keeps 2 of every m: ``64:2:8`` in the papers' notation. m = 4 is plain n:4.

    Parameters
    ----------
    vector
        Rows of a tile.
    n
        Entries kept of the four columns in each row, 1 to 3; published kernels use 2.
    m
        Group size, at least 4.

    Raises
    ------
    InputError
        If a parameter is none of these.
    """

    kind: ClassVar[str] = "vnm"
    parts: ClassVar[tuple[str, ...]] = ("rows", "columns", "kept")
    solution_type: ClassVar[type[Solution]] = VNMSolution

    vector: int = 64
    n: int = 2
    m: int = 8

    def __post_init__(self) -> None:
        """Validate the parameters."""
        named = [("vector", self.vector), ("n", self.n), ("m", self.m)]
        for (name, _), value in zip(named, base.whole_numbers("VNM", named, "VNM(64, 2, 8)"), strict=True):
            object.__setattr__(self, name, value)
        if self.n >= WIDTH or self.m < WIDTH:
            raise InputError(
                f"VNM({self.vector}, {self.n}, {self.m}): of every m columns {WIDTH} are kept, and n of those per row; "
                f"it must hold that 1 <= n < {WIDTH} and m >= {WIDTH}"
            )

    def __str__(self) -> str:
        """Return the papers' notation, for example ``64:2:8``."""
        return f"{self.vector}:{self.n}:{self.m}"

    def validate(self, shape: Shape, blocks: Blocks = None) -> None:
        """Check that rows divide into tiles and columns into groups."""
        base.check_tiles(shape[0], self.vector)
        NM(self.n, self.m).validate(shape)

    def sample(self, shape: Shape) -> Shape:
        """Return the shape of two tiles of four groups."""
        return min(shape[0], 2 * self.vector), min(shape[1], 4 * self.m)

    def choose(self, saliency: Array, rows: Permutation, columns: Permutation) -> VNMSolution:
        """Keep the four columns of largest sums of every tile and group, as VENOM does (of equal ones the first).

        Parameters
        ----------
        saliency
            (rows, cols), entries >= 0.
        rows
            Permutation of the rows.
        columns
            Permutation of the columns.

        Returns
        -------
        VNMSolution
            The solution.
        """
        tiles = rows.reshape(-1, self.vector)
        sums = np.array([saliency[tile].sum(axis=0, dtype=np.float64)[columns] for tile in tiles])
        sums = sums.reshape(len(tiles), -1, self.m)
        return VNMSolution(rows, columns, np.sort(np.argsort(-sums, axis=2, kind="stable")[:, :, :WIDTH], axis=2))

    def start(self, problem: Problem) -> VNMSolution:
        """Return rows and columns as they are, with the four columns of largest sums of every tile and group."""
        return self.choose(problem.saliency, np.arange(problem.rows), np.arange(problem.cols))

    def draw(self, problem: Problem, rng: np.random.Generator) -> VNMSolution:
        """Return random rows and columns, with the four columns of largest sums of every tile and group."""
        rows = rng.permutation(problem.rows)
        return self.choose(problem.saliency, rows, base.random_columns(problem.cols, problem.blocks, rng))

    def check_solution(self, solution: Any, shape: Shape, blocks: Blocks = None) -> VNMSolution:
        """Validate both permutations and the columns kept."""
        self._own(solution)
        rows, cols = shape
        base.check_permutation(solution.rows, rows, "rows")
        base.check_in_blocks(base.check_permutation(solution.columns, cols, "columns"), blocks)
        wanted = (rows // self.vector, cols // self.m, WIDTH)
        if solution.kept.shape != wanted:
            raise InputError(
                f"kept of a solution of {self} for {rows} x {cols} has shape {wanted}, got {solution.kept.shape}"
            )
        kept = solution.kept
        if kept.min() < 0 or kept.max() >= self.m or (kept[:, :, 1:] <= kept[:, :, :-1]).any():
            raise InputError(f"kept must hold four different positions from 0 to {self.m - 1} per group, ascending")
        return VNMSolution(solution.rows, solution.columns, kept)

    def score(self, saliency: Array, solution: VNMSolution) -> float:
        """Return the saliency kept: per tile, row and group the n largest entries of four columns."""
        return sum(
            float(scoring.group_values(saliency[tile], kept, self.n, WIDTH).sum())
            for tile, kept in self._tiles(solution)
        )

    def mask(self, saliency: Array, solution: VNMSolution) -> npt.NDArray[np.bool_]:
        """Return which entries are kept; of equal ones the first in permuted order."""
        mask = np.zeros(saliency.shape, dtype=np.bool_)
        everything = np.arange(saliency.shape[1] // self.m * WIDTH)
        for tile, kept in self._tiles(solution):
            mask[np.ix_(tile, kept)] = scoring.mask(saliency[np.ix_(tile, kept)], everything, self.n, WIDTH)
        return mask

    def _tiles(self, solution: VNMSolution) -> list[tuple[Permutation, Permutation]]:
        return list(zip(solution.rows.reshape(-1, self.vector), solution.absolute(), strict=True))

    def rows_bound(self, saliency: Array, blocks: Blocks = None) -> float:
        """Return the sum over rows of the ``cols * n / m`` largest entries."""
        return NM(self.n, self.m).rows_bound(saliency)

    def changed(self, new: VNMSolution, old: VNMSolution) -> npt.NDArray[np.int64]:
        """Return the tiles whose rows or kept columns differ."""
        pairs = zip(self._sorted(new), self._sorted(old), strict=True)
        return np.flatnonzero(np.any([(a != b).any(axis=1) for a, b in pairs], axis=0))

    def _sorted(self, solution: VNMSolution) -> tuple[Array, Array]:
        kept = solution.absolute().reshape(len(solution.kept), -1, WIDTH)
        rows = np.sort(solution.rows.reshape(-1, self.vector), axis=1)
        return rows, np.sort(kept, axis=2).reshape(len(solution.kept), -1)

    def piece_values(
        self, problem: Problem, solution: VNMSolution, which: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float64]:
        """Return the values of tiles."""
        return tile_values(problem, *self._sorted(solution), self.n, WIDTH, which)
