"""The problem: a non-negative saliency matrix, a pattern, and what a permutation may move."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve import saliency as saliencies
from permsolve._arrays import aligned
from permsolve.errors import InputError
from permsolve.objectives import OutputError
from permsolve.patterns import Pattern, Permutation, parse
from permsolve.sources import LANES, Source, gather, given, rowwise

Array = npt.NDArray[Any]

#: Entries from which the search kernels work on the saliency itself, where that is safe, and how far its largest entry
#: may then lie above the largest that is not kept anyway.
_LARGE, _OUTLIER = 1 << 24, 64.0
#: Rows by which that is judged.
_SAMPLE = 64
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
    padded
        The array that ``columns`` is a view of, its rows padded with zeros to a multiple of 16, or None.
    """

    #: What a score is: ``"retained"``, the saliency kept, or ``"output_error"``, see `ErrorProblem`.
    objective: ClassVar[str] = "retained"

    columns: Array
    pattern: Pattern
    blocks: tuple[int, ...] | None
    shape: tuple[int, ...]
    dtype: str
    fingerprint: str
    saliency_name: str
    padded: Array | None = field(default=None, repr=False)

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
            ``"magnitude"``, ``"energy"``, an array of the matrix's shape with entries >= 0, a saliency object, or the
            objective `permsolve.saliency.OutputError`.
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
        pattern = parse(nm)
        source = Source(matrix)
        if isinstance(saliency, OutputError):
            from permsolve.error_problem import ErrorProblem

            return ErrorProblem.join([matrix], [saliency], pattern, blocks, stacked=False)
        name, rule = rule_of(source, saliency)
        if pattern.moves_rows and len(source.shape) > 2:
            raise InputError(
                f"{pattern} permutes rows, which of convolution weights of shape {source.shape} are output channels at "
                f"every kernel position; reshape them to (output channels, input channels * kernel positions) first"
            )
        pattern.validate((source.rows, source.shape[1]))
        padded, [fingerprint] = gather([(source, rule)], _origin(name))
        return cls._make(padded, source.rows, pattern, blocks, source.shape, source.dtype, fingerprint, name)

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
        pattern = parse(nm)
        if isinstance(matrices, np.ndarray) or not isinstance(matrices, Sequence) or not matrices:
            raise InputError("Problem.stack needs a non-empty list of matrices; for one matrix use Problem.of")
        if pattern.moves_rows:
            raise InputError(
                f"{pattern} permutes rows, so matrices cannot be stacked by rows; solve them one by one, or put those "
                f"that share a row permutation side by side, each a block: blocks=(cols, cols)"
            )
        rules = list(saliency) if isinstance(saliency, (list, tuple)) else [saliency] * len(matrices)
        if len(rules) != len(matrices):
            raise InputError(f"got {len(rules)} saliencies for {len(matrices)} matrices")
        sources = [Source(matrix) for matrix in matrices]
        widths = sorted({source.shape[1] for source in sources})
        if len(widths) > 1:
            raise InputError(f"stacked matrices must have equal numbers of input channels, got {widths}")
        pattern.validate((sum(source.rows for source in sources), widths[0]))
        errors = [rule for rule in rules if isinstance(rule, OutputError)]
        if errors and len(errors) < len(rules):
            raise InputError("an OutputError cannot be added to saliencies: give all stacked matrices one, or none")
        if errors:
            from permsolve.error_problem import ErrorProblem

            return ErrorProblem.join(matrices, errors, pattern, blocks, stacked=True)
        named = [rule_of(source, rule) for source, rule in zip(sources, rules, strict=True)]
        names = "+".join(dict.fromkeys(name for name, _ in named))
        pairs = [(source, rule) for source, (_, rule) in zip(sources, named, strict=True)]
        padded, digests = gather(pairs, _origin(names))
        rows = sum(source.rows for source in sources)
        return cls._make(
            padded,
            rows,
            pattern,
            blocks,
            (rows, widths[0]),
            "+".join(dict.fromkeys(source.dtype for source in sources)),
            hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest(),
            names,
        )

    @classmethod
    def _make(
        cls,
        padded: Array,
        rows: int,
        pattern: Pattern,
        blocks: Sequence[int] | None,
        shape: tuple[int, ...],
        dtype: str,
        fingerprint: str,
        saliency_name: str,
    ) -> Problem:
        checked = None if blocks is None else check_blocks(blocks, padded.shape[0], pattern.m)
        pattern.validate((rows, padded.shape[0]), checked)
        with np.errstate(over="ignore"):
            if not np.isfinite(padded.sum(dtype=np.float64)):
                raise InputError("the saliency's sum overflows float64; divide the matrix by its largest entry first")
        if padded.shape[1] > rows and padded.size < _LARGE:
            return cls(padded[:, :rows].copy(), pattern, checked, shape, dtype, fingerprint, saliency_name)
        return cls(padded[:, :rows], pattern, checked, shape, dtype, fingerprint, saliency_name, padded)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again; padded columns go once."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return state if self.padded is None else state | {"columns": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the columns a view of the padded array again."""
        if state["padded"] is not None:
            state = state | {"columns": state["padded"][:, : state["columns"]]}
        self.__dict__.update(state)

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
    def trivial(self) -> bool:
        """Whether there is nothing to search: one group has one value, whatever its order."""
        return self.groups == 1 and not self.pattern.moves_rows

    @property
    def streamed(self) -> bool:
        """Whether the matrix is not in memory."""
        return False

    @property
    def standin(self) -> Problem:
        """The problem that kernels are compiled with."""
        return self

    @property
    def saliency(self) -> Array:
        """The saliency matrix, (rows, cols): a view."""
        return self.columns.T

    @cached_property
    def start(self) -> Any:
        """The solution that permutes nothing: for plain n:m the identity."""
        return self.pattern.start(self)

    @cached_property
    def baseline(self) -> float:
        """Score of `start`."""
        return self.score(self.start)

    @cached_property
    def rows_bound(self) -> float:
        """Sum over rows of as many largest entries as a row keeps: no solution scores more."""
        return self.pattern.rows_bound(self.saliency, self.blocks)

    @cached_property
    def column_sums(self) -> npt.NDArray[np.float64]:
        """The sum of each column, (cols,)."""
        return np.asarray(self.columns.sum(axis=1, dtype=np.float64))

    @cached_property
    def scale(self) -> float:
        """The unit of `packed`: the largest entry of the clipped saliency; 1 where `packed` is the saliency itself."""
        return 1.0 if self._large else float(self._ceilings.max()) or 1.0

    @cached_property
    def largest(self) -> float:
        """The largest entry of `packed`, or 1 where all are zero."""
        return float(self.columns.max()) if self._large else 1.0

    @cached_property
    def packed(self) -> Array:
        """The saliency for the search kernels: float32 (cols, rows padded with zeros to 16), clipped, largest entry 1.

        Every row is clipped at its (n + 1)-th largest entry. The at most n entries above it are kept whatever the
        grouping, so all scores fall by the same constant and every difference of scores stays what it is; but a few
        outliers no longer set the scale, beside which float32 could not tell the rest apart.

        A large float32 saliency that needs none of this is used as it is, so that memory holds it once.
        """
        if self._large and self.padded is not None:
            return self.padded
        width = -(-self.rows // LANES) * LANES
        packed = aligned((self.cols, width))
        step = max(1, _CHUNK // self.rows)
        for start in range(0, self.cols, step):
            part = slice(start, start + step)
            clipped = np.minimum(self.columns[part], self._ceilings)
            # Divide in the original precision: a float64 of 1e300 or 1e-300 fits float32 only afterwards.
            np.divide(clipped, clipped.dtype.type(self.scale), out=packed[part, : self.rows], casting="same_kind")
        return packed

    @cached_property
    def _large(self) -> bool:
        """Whether `packed` may be the saliency itself: large, padded, float32, in the range of safe sums."""
        if self.padded is None or self.columns.dtype != np.float32 or self.columns.size < _LARGE:
            return False
        largest = float(self.columns.max())
        few = np.array(self.columns[:, :: max(1, self.rows // _SAMPLE)].T)
        rank = self.cols - self.pattern.n - 1
        clipped = float(np.partition(few, rank, axis=1)[:, rank].max())  # of all rows it can only be larger
        return 1e-20 < largest < 1e20 and largest < _OUTLIER * clipped

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

    @property
    def row_cost(self) -> float:
        """How much longer the value of a group takes than that of a sum of largest entries, per row."""
        return 1.0

    @property
    def rounding(self) -> float:
        """How far two computations of one score may differ beyond a relative 1e-9."""
        return 0.0

    @property
    def terms(self) -> int:
        """How many units a row's share of a group's value may round up by where it is put into integers."""
        return self.pattern.n

    def chunks(self) -> Iterator[Array]:
        """Go through the saliency by blocks of rows; here there is one.

        Yields
        ------
        numpy.ndarray
            float32 (cols, some rows padded with zeros to 16): `packed`.
        """
        yield self.packed

    def group_values(self, order: Permutation) -> npt.NDArray[np.float64]:
        """Return the values of groups, in compiled float64 arithmetic.

        Parameters
        ----------
        order
            int64 (groups * m,), columns in groups of m; need not name every column.

        Returns
        -------
        numpy.ndarray
            float64 (groups,).
        """
        from permsolve.kernels.score import group_values

        values = np.empty(len(order) // self.pattern.m)
        # Zero rows add nothing to a sum, and without them the columns of a large problem may not be contiguous.
        columns = self.columns if self.padded is None else self.padded
        group_values(columns, order, self.pattern.n, self.pattern.m, values)
        return values

    def score(self, solution: Any) -> float:
        """Return the score of a solution by the reference scorer.

        Parameters
        ----------
        solution
            A solution of the pattern; for plain n:m a permutation, integers of shape (cols,).

        Returns
        -------
        float
            The saliency kept.

        Raises
        ------
        InputError
            If it is no solution of this problem.
        """
        return self.pattern.score(self.saliency, self.check_solution(solution))

    def mask(self, solution: Any) -> npt.NDArray[np.bool_]:
        """Return which entries are kept under a solution, in the matrix's own order.

        Parameters
        ----------
        solution
            A solution of the pattern.

        Returns
        -------
        numpy.ndarray
            bool (rows, cols).

        Raises
        ------
        InputError
            If it is no solution of this problem.
        """
        return self.pattern.mask(self.saliency, self.check_solution(solution))

    def piece_values(self, solution: Any, which: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return the values of the pieces that a score is a sum of (`Pattern.changed`), compiled.

        Parameters
        ----------
        solution
            A checked solution.
        which
            Numbers of pieces, or None for all.

        Returns
        -------
        numpy.ndarray
            float64, one value for each piece.
        """
        return self.pattern.piece_values(self, solution, which)

    def check_solution(self, solution: Any) -> Any:
        """Validate a solution against the matrix and the blocks.

        Parameters
        ----------
        solution
            A solution of the pattern; for plain n:m a permutation, integers of shape (cols,).

        Returns
        -------
        object
            The solution, a copy.

        Raises
        ------
        InputError
            If it is none, or moves a column out of its block.
        """
        return self.pattern.check_solution(solution, (self.rows, self.cols), self.blocks)

    def parts(self) -> list[tuple[slice, Problem]]:
        """Return the independent problems this one falls into: one per block, or itself.

        Returns
        -------
        list
            Pairs of the columns a part covers and its problem, which has no blocks.
        """
        if self.blocks is None or self.pattern.moves_rows:  # rows of all blocks move together
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
        columns, padded = self.columns[span], None if self.padded is None else self.padded[span]
        return replace(self, columns=columns, padded=padded, blocks=None, shape=(self.rows, columns.shape[0]))

    def sample(self) -> Problem:
        """Return a corner of the problem, without blocks: kernels are compiled with it.

        Returns
        -------
        Problem
            Its saliency is a view.
        """
        rows, cols = self.pattern.sample((self.rows, self.cols))
        if rows == self.rows:
            return self.part(slice(0, cols))
        columns = np.ascontiguousarray(self.columns[:cols, :rows])
        return replace(self, columns=columns, padded=None, blocks=None, shape=(rows, cols))


def rule_of(source: Source, saliency: object, *, whole: bool = True) -> tuple[str, Any]:
    """Return the name of a saliency, and what gives it block by block.

    Parameters
    ----------
    source
        The weights.
    saliency
        What the user gave.
    whole
        Whether the whole matrix may be read for a saliency that wants to see it.

    Returns
    -------
    tuple
        The name and the rule; None for a rule that would need the whole matrix where that may not be read.

    Raises
    ------
    InputError
        If it is no saliency of these weights.
    """
    name, rule = saliencies.resolve(saliency)
    if not isinstance(rule, saliencies.Saliency):
        return name, given(rule, _origin(name), source.shape)
    if getattr(rule, "rowwise", False):
        return name, rowwise(rule, name)
    if not whole:
        return name, None
    values = source.read()[1]
    if not np.isfinite(values).all():
        return name, rowwise(np.abs, name)  # refused in a moment, with a better message
    with np.errstate(over="ignore", invalid="ignore"):
        return name, given(rule(values), _origin(name), source.shape)


def _origin(name: str) -> str:
    return "the saliency array" if name == "array" else f"saliency {name!r}"


def check_blocks(blocks: Sequence[int], cols: int, m: int) -> tuple[int, ...]:
    """Validate the sizes of blocks.

    Parameters
    ----------
    blocks
        Sizes of consecutive blocks of columns.
    cols
        Number of columns.
    m
        Group size.

    Returns
    -------
    tuple
        The sizes.

    Raises
    ------
    InputError
        If they are no multiples of m, or do not add up to the columns.
    """
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
