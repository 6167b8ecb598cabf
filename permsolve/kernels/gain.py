"""The gain matrix: what every column would bring to every slot.

``gain[i, j] = sum_r max(S[r, j] - t_i[r], 0)`` is a matrix product with (max, -) in place of (*). It is computed as
``sum_r max(S[r, j], t_i[r]) - sum_r t_i[r]``: two vector operations a term instead of three. Tiles of 2 x 4 sums stay
in registers; rows go in blocks so that the operands stay in cache, and so that float32 sums stay short. A sum over rows
is never split between threads: threads split the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled

#: Rows multiplied at a time; not the scratch space's `permsolve.kernels.groups.ROW_BLOCK`.
GAIN_ROWS = 512


@compiled
def _tile(thresholds, saliency, slot_a, slot_b, columns, at, start, stop, base_a, base_b, out_a, out_b):
    """Add the terms of two slots, four columns and a block of rows."""
    t_a, t_b = thresholds[slot_a, start:stop], thresholds[slot_b, start:stop]
    s_0, s_1 = saliency[columns[at], start:stop], saliency[columns[at + 1], start:stop]
    s_2, s_3 = saliency[columns[at + 2], start:stop], saliency[columns[at + 3], start:stop]
    zero = np.float32(0)
    a_0 = a_1 = a_2 = a_3 = b_0 = b_1 = b_2 = b_3 = zero
    for r in range(stop - start):
        a, b = t_a[r], t_b[r]
        x_0, x_1, x_2, x_3 = s_0[r], s_1[r], s_2[r], s_3[r]
        a_0 += max(x_0, a)
        a_1 += max(x_1, a)
        a_2 += max(x_2, a)
        a_3 += max(x_3, a)
        b_0 += max(x_0, b)
        b_1 += max(x_1, b)
        b_2 += max(x_2, b)
        b_3 += max(x_3, b)
    out_a[at] += a_0 - base_a
    out_a[at + 1] += a_1 - base_a
    out_a[at + 2] += a_2 - base_a
    out_a[at + 3] += a_3 - base_a
    out_b[at] += b_0 - base_b
    out_b[at + 1] += b_1 - base_b
    out_b[at + 2] += b_2 - base_b
    out_b[at + 3] += b_3 - base_b


@compiled
def _row_sum(values, start, stop):
    total = np.float32(0)
    for r in range(start, stop):
        total += values[r]
    return total


@compiled
def _single(thresholds, saliency, slot, column, start, stop):
    """Add up one entry's terms for a block of rows: the fringe of the tiles."""
    t, s = thresholds[slot], saliency[column]
    total = np.float32(0)
    for r in range(start, stop):
        total += max(s[r] - t[r], np.float32(0))
    return total


@compiled
def gain_block(state, slots, columns, out):
    """Compute the gain of every column in every slot.

    Parameters
    ----------
    state
        A `permsolve.kernels.groups.State`, up to date for the slots.
    slots
        int64 (a,): columns whose places are offered.
    columns
        int64 (b,): columns that might take them.
    out
        float32 (a, b), written: ``sum_r max(S[r, columns[y]] - t_slots[x][r], 0)``.
    """
    thresholds, saliency = state.thresholds, state.saliency
    rows = saliency.shape[1]
    even, quads = slots.shape[0] // 2 * 2, columns.shape[0] // 4 * 4
    out[:, :] = np.float32(0)
    for start in range(0, rows, GAIN_ROWS):
        stop = min(start + GAIN_ROWS, rows)
        for x in range(0, even, 2):
            base_a = _row_sum(thresholds[slots[x]], start, stop)
            base_b = _row_sum(thresholds[slots[x + 1]], start, stop)
            for y in range(0, quads, 4):
                _tile(
                    thresholds,
                    saliency,
                    slots[x],
                    slots[x + 1],
                    columns,
                    y,
                    start,
                    stop,
                    base_a,
                    base_b,
                    out[x],
                    out[x + 1],
                )
            for y in range(quads, columns.shape[0]):
                out[x, y] += _single(thresholds, saliency, slots[x], columns[y], start, stop)
                out[x + 1, y] += _single(thresholds, saliency, slots[x + 1], columns[y], start, stop)
        for x in range(even, slots.shape[0]):
            for y in range(columns.shape[0]):
                out[x, y] += _single(thresholds, saliency, slots[x], columns[y], start, stop)


def gain_matrix(
    apply: Callable[[Callable[[slice], None], Iterable[slice]], Any],
    jobs: int,
    state: Any,
    slots: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
) -> None:
    """Run `gain_block` with the slots split between threads.

    Parameters
    ----------
    apply
        A map over threads, such as ``Run.map``.
    jobs
        Number of threads.
    state, slots, columns, out
        As in `gain_block`.
    """

    def part(span: slice) -> None:
        gain_block(state, slots[span], columns, out[span])

    step = max(-(-len(slots) // jobs) + 1 & ~1, 2)  # whole pairs of slots, the height of a tile
    apply(part, [slice(start, start + step) for start in range(0, len(slots), step)])
