"""The problem of the objective `OutputError`: signed weights, second moments, a value of groups of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve import objectives
from permsolve._arrays import aligned, channels_last
from permsolve.errors import InputError
from permsolve.objectives import OutputError, choices
from permsolve.patterns import NM, Pattern, Permutation
from permsolve.problem import Problem, check_blocks
from permsolve.sources import LANES, Source, finite_values

Array = npt.NDArray[Any]

#: Differences of scores below this share of the energy are rounding.
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class ErrorProblem(Problem):
    """Partition the columns into groups of m so that pruning each to n:m costs the least output error.

    Scores are minus the error of `OutputError`. ``columns`` holds the weights themselves, signed, rows of equal moments
    next to each other. `Problem.of` and `Problem.stack` make one where the saliency is an `OutputError`.

    Parameters
    ----------
    moments
        Second moments, float64 (moments, cols, cols).
    segments
        Rows ``segments[k]`` to ``segments[k + 1]`` go with moment k.
    row_numbers
        The row of the (stacked) matrix that each row here is, int64 (rows,).
    """

    objective: ClassVar[str] = "output_error"

    moments: Array = field(kw_only=True, repr=False)
    segments: tuple[int, ...] = field(kw_only=True)
    row_numbers: npt.NDArray[np.int64] = field(kw_only=True, repr=False)

    @classmethod
    def join(
        cls,
        matrices: Sequence[object],
        errors: Sequence[OutputError],
        pattern: Pattern,
        blocks: Sequence[int] | None,
        *,
        stacked: bool,
    ) -> ErrorProblem:
        """Make the problem of one or several matrices.

        Parameters
        ----------
        matrices
            The weights, with equal numbers of input channels.
        errors
            The objective of each.
        pattern
            Plain n:m.
        blocks
            As in `Problem.of`.
        stacked
            Whether it is the problem of a stack, be it of one matrix.

        Returns
        -------
        ErrorProblem
            The problem.

        Raises
        ------
        InputError
            If anything does not fit.
        """
        if not isinstance(pattern, NM):
            raise InputError(f"the objective 'output_error' is for plain n:m such as '2:4', not for {pattern}")
        choices(pattern.n, pattern.m)
        sources = [Source(matrix) for matrix in matrices]
        moments, numbers = _distinct(errors)
        which = np.concatenate(
            [
                number[error.moment_of_rows(source.shape)]
                for source, error, number in zip(sources, errors, numbers, strict=True)
            ]
        )
        rows, cols = len(which), sources[0].shape[1]
        checked = None if blocks is None else check_blocks(blocks, cols, pattern.m)
        pattern.validate((rows, cols), checked)
        order = np.argsort(which, kind="stable")
        values = [channels_last(finite_values(matrix)) for matrix in matrices]
        columns = np.ascontiguousarray(np.concatenate(values)[order].T)
        problem = cls(
            columns,
            pattern,
            checked,
            (rows, cols) if stacked else sources[0].shape,
            "+".join(dict.fromkeys(source.dtype for source in sources)),
            _fingerprint(sources) if stacked else sources[0].fingerprint(),
            cls.objective,
            moments=moments,
            segments=tuple(int(end) for end in np.searchsorted(which[order], np.arange(len(moments) + 1))),
            row_numbers=order,
        )
        if not math.isfinite(problem.energy):
            raise InputError("the error overflows float64; divide the weights or the moments by their largest entry")
        return problem

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the fields; kernels are compiled for arrays that can be written to."""
        self.__dict__.update({name: _writable(value) for name, value in state.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def saliency(self) -> Array:
        """Refused: the error is no sum over entries.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("a problem with the objective 'output_error' has no saliency of single entries")

    @cached_property
    def rows_bound(self) -> float:
        """No error: 0."""
        return 0.0

    @cached_property
    def energies(self) -> Array:
        """The error of pruning a single entry, ``w^2 H_cc``: float64 (cols, rows)."""
        energies = np.square(self.columns, dtype=np.float64)
        for moment, rows in self.spans():
            energies[:, rows] *= np.diag(moment)[:, None]
        return energies

    @cached_property
    def energy(self) -> float:
        """The sum of `energies`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.energies.sum())

    @property
    def row_cost(self) -> float:
        """How much longer the error of a group takes than a sum of largest entries, per row (measured)."""
        n, m = self.pattern.n, self.pattern.m
        return 4.0 if m <= 4 else 0.5 * math.comb(m, n) * (m - n) ** 2

    @property
    def rounding(self) -> float:
        """How far two computations of one score may differ: sums of terms of either sign cancel."""
        return _ROUNDING * self.energy

    @property
    def terms(self) -> int:
        """Terms of a row's share of a group's value that are rounded where it is put into integers."""
        pruned = self.pattern.m - self.pattern.n
        return pruned * (pruned + 1)  # squares and products, by up to two units each

    @cached_property
    def column_sums(self) -> npt.NDArray[np.float64]:
        """The energy of each column, (cols,)."""
        return np.asarray(self.energies.sum(axis=1))

    @property
    def scale(self) -> float:
        """The unit of errors of `packed`: the largest of `energies`."""
        return float(self.energies.max()) or 1.0

    @property
    def largest(self) -> float:
        """The largest entry of `packed`."""
        return 1.0

    @cached_property
    def packed(self) -> Array:
        """The roots of `energies` with the weights' signs, for the search: float32 (cols, rows padded), largest 1.

        Every segment is padded with zeros to a multiple of 16 rows of its own: see `packed_segments`. With them the
        moments become correlations, so that neither weights nor channels of very different size upset float32.
        """
        width = self.packed_segments[-1]
        packed = aligned((self.cols, width))
        roots = np.sqrt(self.energies / self.scale)
        np.copysign(roots, self.columns, out=roots)
        ends = zip(self.segments, self.segments[1:], self.packed_segments, strict=False)
        for first, last, start in ends:
            packed[:, start : start + last - first] = roots[:, first:last]
        return packed

    @cached_property
    def packed_segments(self) -> tuple[int, ...]:
        """Where the segments of `packed` begin, and its width."""
        ends = zip(self.segments, self.segments[1:], strict=False)
        sizes = [-(-(last - first) // LANES) * LANES for first, last in ends]
        return tuple(int(start) for start in np.cumsum([0, *sizes]))

    @cached_property
    def correlations(self) -> Array:
        """Twice the correlations of the inputs, which go with `packed`: float32 (moments, cols, cols)."""
        norms = np.sqrt(np.diagonal(self.moments, axis1=1, axis2=2))
        norms = np.where(norms > 0, norms, 1.0)
        return np.asarray(2 * self.moments / norms[:, :, None] / norms[:, None, :], dtype=np.float32)

    def spans(self) -> list[tuple[Array, slice]]:
        """Return every moment with its rows.

        Returns
        -------
        list
            Pairs of a (cols, cols) array and a slice.
        """
        ends = zip(self.moments, self.segments, self.segments[1:], strict=False)
        return [(moment, slice(first, last)) for moment, first, last in ends]

    def group_values(self, order: Permutation) -> npt.NDArray[np.float64]:
        """Return minus the errors of groups, in compiled float64 arithmetic."""
        from permsolve.kernels.output_error import group_errors

        n, m = self.pattern.n, self.pattern.m
        errors = np.empty(len(order) // m)
        segments = np.array(self.segments)
        group_errors(self.columns, self.moments, segments, order, choices(n, m)[::-1].copy(), m, errors)
        return 0.0 - errors

    def score(self, solution: Any) -> float:
        """Return minus the error of a solution by the reference."""
        perm = self.check_solution(solution)
        n, m = self.pattern.n, self.pattern.m
        return 0.0 - float(objectives.group_errors(self.columns, self.moments, self.segments, perm, n, m).sum())

    def mask(self, solution: Any) -> npt.NDArray[np.bool_]:
        """Return the mask of least error, group by group, in the matrix's own order of rows and columns."""
        perm = self.check_solution(solution)
        kept = objectives.kept(self.columns, self.moments, self.segments, perm, self.pattern.n, self.pattern.m)
        mask = np.empty((self.rows, self.cols), dtype=np.bool_)
        mask[self.row_numbers] = kept.T
        return mask

    def part(self, span: slice) -> ErrorProblem:
        """Return the problem of a range of columns, without blocks."""
        columns = self.columns[span]
        moments = np.ascontiguousarray(self.moments[:, span, span])
        return replace(self, columns=columns, moments=moments, blocks=None, shape=(self.rows, columns.shape[0]))


def _distinct(errors: Sequence[OutputError]) -> tuple[Array, list[npt.NDArray[np.int64]]]:
    """Return the moments without repetitions, and for each objective their numbers among these."""
    found: list[Array] = []
    known: dict[bytes, int] = {}
    numbers = []
    for error in errors:
        own = []
        for moment in error.channel_moments:
            key = hashlib.sha256(moment.data).digest()
            if key not in known:
                known[key] = len(found)
                found.append(moment)
            own.append(known[key])
        numbers.append(np.array(own, dtype=np.int64))
    return np.stack(found), numbers


def _fingerprint(sources: Sequence[Source]) -> str:
    return hashlib.sha256(bytes.fromhex("".join(source.fingerprint() for source in sources))).hexdigest()


def _writable(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value
