"""The NumPy reference scorer: every kernel and every result is checked against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Entries gathered at a time, so that scoring a large matrix needs tens of megabytes and not a second copy.
_CHUNK = 1 << 22


def _row_chunks(rows: int, cols: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(cols, 1))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def group_values(saliency: Array, order: Array, n: int, m: int) -> npt.NDArray[np.float64]:
    """Return the value of every group of m: the sum over rows of its n largest entries.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    order
        Columns in groups of m, integers of shape (groups * m,); need not name every column.
    n
        Entries kept per row and group.
    m
        Group size.

    Returns
    -------
    numpy.ndarray
        float64 (groups,).
    """
    rows = saliency.shape[0]
    groups = order.shape[0] // m
    values = np.zeros(groups)
    for chunk in _row_chunks(rows, order.shape[0]):
        grouped = saliency[chunk][:, order].reshape(-1, groups, m)
        kept = np.partition(grouped, m - n, axis=2)[:, :, m - n :]
        values += kept.sum(axis=(0, 2), dtype=np.float64)
    return values


def largest_sum(saliency: Array, kept: int) -> float:
    """Return the sum over rows of some largest entries: an upper bound where so many are kept of each row.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    kept
        Entries of each row, from 1 to cols.

    Returns
    -------
    float
        The sum.
    """
    rows, cols = saliency.shape
    pruned = cols - kept
    if pruned == 0:
        return float(saliency.sum(dtype=np.float64))
    total = 0.0
    for chunk in _row_chunks(rows, cols):
        total += float(np.partition(saliency[chunk], pruned, axis=1)[:, pruned:].sum(dtype=np.float64))
    return total


def mask(saliency: Array, order: Array, n: int, m: int) -> npt.NDArray[np.bool_]:
    """Return the entries kept by n:m under a permutation, in the matrix's own order.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    order
        Permutation, integers of shape (cols,).
    n
        Entries kept per row and group.
    m
        Group size.

    Returns
    -------
    numpy.ndarray
        bool (rows, cols). Ties go to the entry that comes first in the permuted order.
    """
    rows, cols = saliency.shape
    kept = np.zeros((rows, cols), dtype=np.bool_)
    for chunk in _row_chunks(rows, cols):
        grouped = saliency[chunk][:, order].reshape(-1, cols // m, m)
        largest = np.argsort(-grouped, axis=2, kind="stable")[:, :, :n]
        permuted = np.zeros(grouped.shape, dtype=np.bool_)
        np.put_along_axis(permuted, largest, True, axis=2)
        kept[chunk, order] = permuted.reshape(-1, cols)
    return kept


def efficacy(score: float, baseline: float, bound: float) -> float:
    """Return the share of the way from the unpermuted score to the rows bound, in per cent.

    The field's usual metric (Pool and Yu, NeurIPS 2021).

    Parameters
    ----------
    score
        Score of the permutation.
    baseline
        Score of the identity.
    bound
        The rows bound.

    Returns
    -------
    float
        ``100 * (score - baseline) / (bound - baseline)``; 100 where there is nothing to gain (the denominator is below
        1e-12 of the bound).
    """
    room = bound - baseline
    if room <= 1e-12 * abs(bound):
        return 100.0
    return 100.0 * (score - baseline) / room
