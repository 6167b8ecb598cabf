"""The output error of pruned weights: an objective that does not add up entry by entry.

Pruning the entries D of a group G of a row w changes the row's output by ``x_D . w_D``, so the mean squared error is
``e = w_D^T H[D, D] w_D`` with the second moment H of the inputs. The covariance *between* groups is left out: that is
what makes the objective a sum over groups, and what makes it an approximation. `OutputError.measure` gives the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import channels_back, channels_last, to_array
from permsolve.errors import InputError

Array = npt.NDArray[Any]

#: Most ways to choose what a group keeps of a row: all of them are tried.
MOST_CHOICES = 70
#: How far a second moment may be from symmetric and from positive semidefinite, relative to the norms of its channels:
#: sums in float32 are.
_TOLERANCE = 1e-5
#: The largest norm of a channel whose squares float32 rounds to zero.
_VANISHED = 1e-18
#: Entries of products handled at a time by the reference.
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class OutputError:
    """The mean squared error of a layer's output, group by group, by the second moments of its inputs.

    Passed as ``saliency=`` it makes a solve minimise, over permutations and masks, the sum over rows r and groups G of
    ``w_D^T H[D, D] w_D``, D being the m - n entries that are pruned: the best such D is chosen for every row and group.
    The score is minus that error, so it is at most 0, and higher is better.

    The covariance of channels in different groups is ignored (`measure` does not ignore it), and for a convolution also
    that of different kernel positions.

    Parameters
    ----------
    channel_moments
        Second moments of the input channels, uncentred: the mean of ``x x^T``. Shape (channels, channels), used for all
        rows; or (positions, channels, channels) with one matrix for each kernel position in C order. For a grouped
        convolution (groups * positions, channels of a group, channels of a group), group by group.

    Raises
    ------
    InputError
        If they are no such array, or not finite, symmetric and positive semidefinite up to rounding.
    """

    channel_moments: Array

    def __post_init__(self) -> None:
        """Validate the moments."""
        needed = "OutputError needs second moments of shape (channels, channels) or (positions, channels, channels)"
        try:
            given = to_array(self.channel_moments)[1]
        except InputError as error:
            raise InputError(f"{needed}; {error}") from error
        if given.ndim not in (2, 3) or given.shape[-1] != given.shape[-2] or given.size == 0:
            raise InputError(f"{needed}, got {given.shape}")
        moments = given.reshape(-1, *given.shape[-2:]).astype(np.float64, order="C")
        for position, moment in enumerate(moments):
            moments[position] = _checked(moment, f"position {position}" if len(moments) > 1 else "they")
        moments.flags.writeable = False
        object.__setattr__(self, "channel_moments", moments)

    @property
    def name(self) -> str:
        """The name written into results and documents."""
        return "output_error"

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return int(self.channel_moments.shape[1])

    def part(self, channels: Array) -> OutputError:
        """Return the objective of some of the channels, in another order perhaps.

        Parameters
        ----------
        channels
            Their numbers, integers (count,).

        Returns
        -------
        OutputError
            With the moments of these.
        """
        part = object.__new__(OutputError)  # principal minors of valid moments are valid
        moments = np.ascontiguousarray(self.channel_moments[:, channels][:, :, channels])
        moments.flags.writeable = False
        object.__setattr__(part, "channel_moments", moments)
        return part

    def moment_of_rows(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return which of the moments belongs to each row of some weights.

        Parameters
        ----------
        shape
            Shape of the weights, (rows, channels) or (K, channels, kernel...).

        Returns
        -------
        numpy.ndarray
            int64 (rows,), rows being outputs times kernel positions, the positions next to each other.

        Raises
        ------
        InputError
            If they do not fit.
        """
        if len(shape) < 2 or shape[1] != self.channels:
            raise InputError(f"OutputError has moments of {self.channels} input channels, the weights are {shape}")
        count, positions = len(self.channel_moments), math.prod(shape[2:])
        rows = shape[0] * positions
        if count == 1:
            return np.zeros(rows, dtype=np.int64)
        if len(shape) == 2 and rows % count == 0:  # a convolution's rows, as `permsolve.sources` puts them
            return np.arange(rows) % count
        groups, rest = divmod(count, positions)
        if rest or shape[0] % groups:
            raise InputError(
                f"OutputError has {count} moments, one for each kernel position (and group of the convolution); "
                f"weights of shape {shape} need {positions}, or a multiple that divides their {rows} rows"
            )
        group = np.arange(shape[0]) // (shape[0] // groups)
        return np.asarray((group[:, None] * positions + np.arange(positions)).ravel(), dtype=np.int64)

    def mask(self, weights: object, nm: object, perm: Any = None) -> npt.NDArray[np.bool_]:
        """Return which weights to keep so that the error, group by group, is as small as can be.

        Parameters
        ----------
        weights
            (rows, channels) or (K, channels, kernel...): array or tensor.
        nm
            (n, m), ``"n:m"`` or `NM`.
        perm
            Permutation of the channels, by default the identity.

        Returns
        -------
        numpy.ndarray
            bool, of the weights' shape, in their own order: exactly n:m in permuted order.

        Raises
        ------
        InputError
            If anything does not fit.
        """
        from permsolve.problem import Problem

        problem = Problem.of(weights, nm, saliency=self)
        solution = problem.start if perm is None else problem.check_solution(perm)
        return channels_back(problem.mask(solution), problem.shape)

    def measure(self, weights: object, mask: object) -> float:
        """Return the error of pruned weights with the covariance of all channels, not only of those in one group.

        For a linear layer this is the mean squared norm of the change of its output, ``||X (W - W')^T||^2`` over the
        number of inputs. For a convolution the covariance of different kernel positions is still left out.

        Parameters
        ----------
        weights
            The weights before pruning.
        mask
            bool, of the same shape: what is kept.

        Returns
        -------
        float
            The sum over rows, >= 0.

        Raises
        ------
        InputError
            If the shapes do not fit.
        """
        values, kept = to_array(weights)[1], np.asarray(mask)
        if kept.shape != values.shape or kept.dtype != np.bool_:
            raise InputError(f"the mask must be bool of shape {values.shape}, got {kept.dtype} of shape {kept.shape}")
        which = self.moment_of_rows(values.shape)
        pruned = channels_last(np.where(kept, 0, values)).astype(np.float64)
        total = 0.0
        for number, moment in enumerate(self.channel_moments):
            rows = pruned[which == number]
            total += float(np.sum((rows @ moment) * rows))
        return max(total, 0.0)


def _checked(moment: Array, where: str) -> Array:
    """Return a second moment, exactly symmetric, or raise."""
    if not np.isfinite(moment).all():
        raise InputError(f"the second moments are not finite ({where} hold NaN or infinite entries)")
    norms = np.sqrt(np.maximum(np.diag(moment), 0.0))
    if (np.diag(moment) < 0).any():
        raise InputError(f"the second moments are not positive semidefinite ({where} have negative diagonal entries)")
    alive = norms > 0
    # In float32 the squares of a channel may vanish where its products do not: that of a gate that is all but closed.
    beside = np.where(alive[:, None] & alive, 0.0, np.abs(moment))
    if (beside > _VANISHED * norms.max()).any():
        raise InputError(
            f"the second moments are not positive semidefinite ({where} have a channel of norm 0 with other entries)"
        )
    moment = np.where(alive[:, None] & alive, moment, 0.0)
    scale = np.where(alive, norms, 1.0)
    correlation = moment / scale / scale[:, None]
    if (np.abs(correlation - correlation.T) > _TOLERANCE).any():
        raise InputError(f"the second moments are not symmetric ({where}); they are the mean of x x^T over the inputs")
    slack = _TOLERANCE * math.sqrt(len(moment))
    correlation = (correlation + correlation.T) / 2 + slack * np.eye(len(moment))
    try:
        np.linalg.cholesky(correlation)
    except np.linalg.LinAlgError:
        raise InputError(
            f"the second moments are not positive semidefinite ({where}); they are the mean of x x^T over the inputs, "
            f"which always is"
        ) from None
    return np.asarray((moment + moment.T) / 2)


@cache
def choices(n: int, m: int) -> npt.NDArray[np.int64]:
    """Return the sets of entries of a group that may be pruned: those that keep the first entries come first.

    Parameters
    ----------
    n, m
        Keep n of every m.

    Returns
    -------
    numpy.ndarray
        int64 (C(m, n), m - n), members ascending; not to be written to.

    Raises
    ------
    InputError
        If there are more than `MOST_CHOICES`.
    """
    count = math.comb(m, n)
    if count > MOST_CHOICES:
        raise InputError(
            f"the output error of {n}:{m} would need all {count:,} ways to keep {n} of {m} entries, and at most "
            f"{MOST_CHOICES} are tried: use an n:m such as 2:4, 1:4, 4:8 or 1:16, or a saliency"
        )
    sets = [[k for k in range(m) if k not in kept] for kept in combinations(range(m), n)]
    table = np.array(sets, dtype=np.int64)
    table.flags.writeable = False
    return table


def group_errors(
    columns: Array, moments: Array, segments: tuple[int, ...], order: Array, n: int, m: int
) -> npt.NDArray[np.float64]:
    """Return the error of every group of m: the reference.

    Parameters
    ----------
    columns
        Weights by column, (cols, rows).
    moments
        float64 (moments, cols, cols).
    segments
        Rows ``segments[k]`` to ``segments[k + 1]`` go with moment k.
    order
        Columns in groups of m, integers (groups * m,).
    n, m
        Keep n of every m.

    Returns
    -------
    numpy.ndarray
        float64 (groups,), >= 0.
    """
    errors = np.zeros(len(order) // m)
    for group, members in enumerate(order.reshape(-1, m)):
        for _, each in _errors(columns, moments, segments, members, n):
            errors[group] += np.maximum(each.min(axis=1), 0.0).sum()
    return errors


def kept(
    columns: Array, moments: Array, segments: tuple[int, ...], order: Array, n: int, m: int
) -> npt.NDArray[np.bool_]:
    """Return what is kept where every row and group prunes the entries of least error.

    Parameters
    ----------
    columns, moments, segments, n, m
        As in `group_errors`.
    order
        Permutation of the columns, integers (cols,).

    Returns
    -------
    numpy.ndarray
        bool (cols, rows). Of equal errors the one that keeps the first columns in permuted order is taken.
    """
    pruned = choices(n, m)
    mask = np.ones(columns.shape, dtype=np.bool_)
    for members in order.reshape(-1, m):
        for rows, each in _errors(columns, moments, segments, members, n):
            dropped = members[pruned[each.argmin(axis=1)]]
            mask[dropped, np.arange(rows.start, rows.stop)[:, None]] = False
    return mask


def _errors(
    columns: Array, moments: Array, segments: tuple[int, ...], members: Array, n: int
) -> Iterator[tuple[slice, Array]]:
    """Yield rows, and the error of each choice in each of them, (rows, choices)."""
    m = len(members)
    chosen = np.zeros((len(choices(n, m)), m))
    np.put_along_axis(chosen, choices(n, m), 1.0, axis=1)
    pairs = (chosen[:, :, None] * chosen[:, None, :]).reshape(len(chosen), m * m).T
    step = max(1, _CHUNK // (m * m))
    for moment, first, last in zip(moments, segments, segments[1:], strict=False):
        block = moment[np.ix_(members, members)]
        for start in range(first, last, step):
            rows = slice(start, min(start + step, last))
            weights = columns[members, rows].T.astype(np.float64)
            products = weights[:, :, None] * weights[:, None, :] * block
            yield rows, products.reshape(-1, m * m) @ pairs
