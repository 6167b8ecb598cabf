"""The problem: a non-negative saliency matrix, a pattern, and what a permutation may move."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import saliency as saliencies
from permsolve._arrays import Weights, as_weights, channels_last, to_array
from permsolve.errors import InputError
from permsolve.patterns import NM, Permutation

Array = npt.NDArray[Any]

#: The search kernels' row padding: one 512-bit register of float32, a multiple of every vector register in use.
_LANES = 16
#: Entries handled at a time where `Problem.packed` is made, so that it needs little memory beyond itself.
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Problem:
    """Partition the columns of a saliency matrix into groups of m so that pruning to n:m keeps the most.

    Make one with `Problem.of` (one weight matrix) or `Problem.stack` (several that must share a permutation).

    Parameters
    ----------
    columns
        The saliency by column: (cols, rows), C order, float32 or float64, finite, entries >= 0.
    pattern
        The sparsity pattern.
    blocks
        Sizes of consecutive blocks of columns, or None: a column stays inside its block.
    shape
        Shape of the weights; of the stacked matrix (rows, cols) where there are several.
    dtype
        Name of the weights' dtype.
    fingerprint
        sha256 of the weights' C-order little-endian bytes; where there are several, sha256 of their sha256 digests in
        order.
    saliency_name
        Name of the saliency.
    """

    columns: Array
    pattern: NM
    blocks: tuple[int, ...] | None
    shape: tuple[int, ...]
    dtype: str
    fingerprint: str
    saliency_name: str

    @classmethod
    def of(
        cls,
        matrix: object,
        nm: object = (2, 4),
        *,
        saliency: object = "magnitude",
        blocks: Sequence[int] | None = None,
    ) -> Problem:
        """Make the problem of one weight matrix.

        Parameters
        ----------
        matrix
            (rows, cols), or convolution weights (K, C, R[, S[, T]]): NumPy array, torch tensor or array-like.
        nm
            Pattern: (n, m), ``"n:m"`` or a pattern object; n entries of every m are kept.
        saliency
            ``"magnitude"``, ``"energy"``, an array of the matrix's shape with entries >= 0, or a saliency object.
        blocks
            Sizes of consecutive blocks of columns, each a multiple of m, that no column may leave.

        Returns
        -------
        Problem
            The problem; the matrix is not modified.

        Raises
        ------
        InputError
            If anything does not fit; the message says what is allowed.
        """
        pattern = NM.parse(nm)
        weights = as_weights(matrix)
        name, rule = saliencies.resolve(saliency)
        return cls._make(
            channels_last(_saliency_of(weights, rule)),
            pattern,
            blocks,
            weights.values.shape,
            weights.dtype,
            weights.fingerprint,
            name,
        )

    @classmethod
    def stack(
        cls,
        matrices: Sequence[object],
        nm: object = (2, 4),
        *,
        saliency: object = "magnitude",
        blocks: Sequence[int] | None = None,
    ) -> Problem:
        """Make the problem of several matrices that must share one permutation, such as the readers of one activation.

        Parameters
        ----------
        matrices
            Weights with equal numbers of input channels; each 2-D or convolution weights.
        nm
            Pattern, as in `Problem.of`.
        saliency
            A name or object that is applied to each matrix, or a sequence with one saliency for each.
        blocks
            As in `Problem.of`.

        Returns
        -------
        Problem
            The problem of the matrices stacked by rows.

        Raises
        ------
        InputError
            If there is no matrix, or their channels differ, or anything else does not fit.
        """
        pattern = NM.parse(nm)
        if isinstance(matrices, np.ndarray) or not isinstance(matrices, Sequence) or not matrices:
            raise InputError("Problem.stack needs a non-empty list of matrices; for one matrix use Problem.of")
        rules = list(saliency) if isinstance(saliency, (list, tuple)) else [saliency] * len(matrices)
        if len(rules) != len(matrices):
            raise InputError(f"got {len(rules)} saliencies for {len(matrices)} matrices")
        digest = hashlib.sha256()
        pieces, names, dtypes = [], [], []
        for matrix, spec in zip(matrices, rules, strict=True):
            weights = as_weights(matrix)
            name, rule = saliencies.resolve(spec)
            pieces.append(channels_last(_saliency_of(weights, rule)))
            names.append(name)
            dtypes.append(weights.dtype)
            digest.update(bytes.fromhex(weights.fingerprint))
        widths = sorted({piece.shape[1] for piece in pieces})
        if len(widths) > 1:
            raise InputError(f"stacked matrices must have equal numbers of input channels, got {widths}")
        stacked = np.concatenate(pieces, axis=0)
        return cls._make(
            stacked,
            pattern,
            blocks,
            stacked.shape,
            "+".join(dict.fromkeys(dtypes)),
            digest.hexdigest(),
            "+".join(dict.fromkeys(names)),
        )

    @classmethod
    def _make(
        cls,
        saliency: Array,
        pattern: NM,
        blocks: Sequence[int] | None,
        shape: tuple[int, ...],
        dtype: str,
        fingerprint: str,
        saliency_name: str,
    ) -> Problem:
        cols = saliency.shape[1]
        pattern.validate(cols)
        checked = None if blocks is None else _check_blocks(blocks, cols, pattern.m)
        with np.errstate(over="ignore"):
            if not np.isfinite(saliency.sum(dtype=np.float64)):
                raise InputError("the saliency's sum overflows float64; divide the matrix by its largest entry first")
        columns = np.array(saliency.T, order="C")  # a copy always: the caller's array may change later
        return cls(columns, pattern, checked, shape, dtype, fingerprint, saliency_name)

    @property
    def cols(self) -> int:
        """Number of columns (input channels)."""
        return int(self.columns.shape[0])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.columns.shape[1])

    @property
    def groups(self) -> int:
        """Number of groups of m columns."""
        return self.cols // self.pattern.m

    @property
    def saliency(self) -> Array:
        """The saliency matrix, (rows, cols): a view."""
        return self.columns.T

    @cached_property
    def baseline(self) -> float:
        """Score of the identity."""
        return self.score(np.arange(self.cols))

    @cached_property
    def rows_bound(self) -> float:
        """Sum over rows of the cols * n / m largest entries: no permutation scores more."""
        return self.pattern.rows_bound(self.saliency)

    @cached_property
    def scale(self) -> float:
        """The largest entry of the clipped saliency, or 1 where all are zero: `packed` is in this unit."""
        return float(self._ceilings.max()) or 1.0

    @cached_property
    def packed(self) -> Array:
        """The saliency for the search kernels: float32 (cols, rows padded with zeros to 16), clipped, largest entry 1.

        Every row is clipped at its (n + 1)-th largest entry. The at most n entries above it are kept whatever the
        grouping, so all scores fall by the same constant and every difference of scores stays what it is; but a few
        outliers no longer set the scale, beside which float32 could not tell the rest apart.
        """
        from permsolve.kernels.memory import aligned  # kernels need numba, which scoring does not

        width = -(-self.rows // _LANES) * _LANES
        packed = aligned((self.cols, width))
        step = max(1, _CHUNK // self.rows)
        for start in range(0, self.cols, step):
            part = slice(start, start + step)
            clipped = np.minimum(self.columns[part], self._ceilings)
            # Divide in the original precision: a float64 of 1e300 or 1e-300 fits float32 only afterwards.
            np.divide(clipped, clipped.dtype.type(self.scale), out=packed[part, : self.rows], casting="same_kind")
        return packed

    @cached_property
    def _ceilings(self) -> Array:
        """The (n + 1)-th largest entry of every row, (rows,)."""
        ceilings = np.empty(self.rows, dtype=self.columns.dtype)
        rank = self.cols - self.pattern.n - 1
        step = max(1, _CHUNK // self.cols)
        for start in range(0, self.rows, step):
            part = slice(start, start + step)
            rows = np.array(self.columns[:, part].T, order="C")  # a copy always: it is reordered
            rows.partition(rank, axis=1)
            ceilings[part] = rows[:, rank]
        return ceilings

    def score(self, perm: npt.ArrayLike) -> float:
        """Return the score of a permutation by the NumPy reference scorer.

        Parameters
        ----------
        perm
            Permutation, integers of shape (cols,).

        Returns
        -------
        float
            Sum over rows and groups of the n largest entries.

        Raises
        ------
        InputError
            If it is not a permutation of the columns.
        """
        return self.pattern.score(self.saliency, self.pattern.check_solution(perm, self.cols))

    def check_perm(self, perm: npt.ArrayLike) -> Permutation:
        """Validate a permutation against the columns and the blocks.

        Parameters
        ----------
        perm
            Permutation, integers of shape (cols,).

        Returns
        -------
        numpy.ndarray
            int64 (cols,), a copy.

        Raises
        ------
        InputError
            If it is no permutation, or moves a column out of its block.
        """
        checked = self.pattern.check_solution(perm, self.cols)
        if self.blocks is not None:
            block = np.repeat(np.arange(len(self.blocks)), self.blocks)
            if not np.array_equal(block[checked], block):
                where = int(np.flatnonzero(block[checked] != block)[0])
                raise InputError(f"the permutation moves column {int(checked[where])} out of its block")
        return checked

    def parts(self) -> list[tuple[slice, Problem]]:
        """Return the independent problems this one falls into: one per block, or itself.

        Returns
        -------
        list
            Pairs of the columns a part covers and its problem, which has no blocks.
        """
        if self.blocks is None:
            return [(slice(0, self.cols), self)]
        ends = np.cumsum(self.blocks)
        spans = [slice(int(end) - size, int(end)) for end, size in zip(ends, self.blocks, strict=True)]
        return [(span, self.part(span)) for span in spans]

    def part(self, span: slice) -> Problem:
        """Return the problem of a range of columns, without blocks.

        Parameters
        ----------
        span
            The columns, a multiple of m.

        Returns
        -------
        Problem
            Its saliency is a view.
        """
        columns = self.columns[span]
        return replace(self, columns=columns, blocks=None, shape=(self.rows, columns.shape[0]))


def _saliency_of(weights: Weights, rule: object) -> Array:
    values = weights.values
    if isinstance(rule, saliencies.Saliency):
        origin = f"saliency {rule.name!r}"
        with np.errstate(over="ignore", invalid="ignore"):
            given: object = rule(values)
    else:
        origin, given = "the saliency array", rule
    try:
        result = to_array(given)[1]
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    if result.shape != values.shape:
        raise InputError(f"{origin} has shape {result.shape}, the matrix {values.shape}; they must be equal")
    if not np.isfinite(result).all():
        raise InputError(
            f"{origin} is not finite everywhere: it holds NaN or infinite entries; "
            f"where weights are very large, divide the matrix by its largest entry first"
        )
    if (result < 0).any():
        raise InputError(f"{origin} has negative entries; a saliency is >= 0, for example abs(weights)")
    return result


def _check_blocks(blocks: Sequence[int], cols: int, m: int) -> tuple[int, ...]:
    try:
        sizes = tuple(blocks)
    except TypeError:
        raise InputError(f"blocks = {blocks!r} is not a list of block sizes, for example [64, 64]") from None
    if not sizes or any(isinstance(size, bool) or not isinstance(size, (int, np.integer)) for size in sizes):
        raise InputError(f"blocks = {sizes!r} must be a non-empty list of integers, the sizes of consecutive blocks")
    bad = [int(size) for size in sizes if size < 1 or size % m]
    if bad:
        raise InputError(f"block size {bad[0]} is not a positive multiple of m = {m}")
    if sum(sizes) != cols:
        raise InputError(f"the blocks' sizes sum to {sum(sizes)}, the matrix has {cols} columns; they must be equal")
    return tuple(int(size) for size in sizes)
