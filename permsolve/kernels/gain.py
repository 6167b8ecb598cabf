"""The gain matrix: what every column would bring to every slot.

``gain[i, j] = sum_r max(S[r, j] - t_i[r], 0)`` is a matrix product with (max, -) in place of (*). It is computed as
``sum_r max(S[r, j], t_i[r]) - sum_r t_i[r]``: two vector operations a term instead of three. As in a matrix product,
tiles of sums stay in registers (`permsolve.kernels.vector`), and blocks of both operands are copied next to each other
so that they stay in the second-level cache: rows of thousands of columns lie pages apart, and fetching them piecemeal
would take as long as the arithmetic. A sum over rows is never split between threads: threads split the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled
from permsolve.kernels.memory import scratch
from permsolve.kernels.vector import TILE, TILE_COLUMNS, add_tile, copy_stretch

#: Rows, slots and columns of a block: two operands and their sums, 256 KiB each.
GAIN_ROWS = GAIN_SLOTS = GAIN_COLUMNS = 256
#: Slots whose thresholds, for so many rows, fill two thirds of a first-level cache.
NEAR_SLOTS = 32
#: Below so many slots copying does not pay.
FEW_SLOTS = 32
#: Sums of a tile.
SUMS = TILE * TILE_COLUMNS

if TILE_COLUMNS == 4:

    @compiled
    def _tile_columns(columns, first, last, width, start):
        return (
            columns[first] * width + start,
            columns[min(first + 1, last)] * width + start,
            columns[min(first + 2, last)] * width + start,
            columns[min(first + 3, last)] * width + start,
        )

    @compiled
    def adjacent(at, distance):
        """Return where as many columns as a tile has begin, ``distance`` apart."""
        return at, at + distance, at + 2 * distance, at + 3 * distance

else:

    @compiled
    def _tile_columns(columns, first, last, width, start):
        return columns[first] * width + start, columns[min(first + 1, last)] * width + start

    @compiled
    def adjacent(at, distance):
        """Return where as many columns as a tile has begin, ``distance`` apart."""
        return at, at + distance


@compiled
def _tile_slots(slots, first, last, width, start):
    return (
        slots[first] * width + start,
        slots[min(first + 1, last)] * width + start,
        slots[min(first + 2, last)] * width + start,
        slots[min(first + 3, last)] * width + start,
    )


@compiled
def _write(sums, bases, slots, columns, out, first_slot, first_column):
    """Turn a block's tiles into gains."""
    wide = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
    for x in range(slots):
        row, base = out[first_slot + x], bases[x]
        first = x // TILE * wide * SUMS + x % TILE * TILE_COLUMNS
        for y in range(columns):
            row[first_column + y] = sums[first + y // TILE_COLUMNS * SUMS + y % TILE_COLUMNS] - base


@compiled
def _few(state, slots, columns, out):
    """Compute the gains of a few slots, from where the operands are."""
    thresholds, saliency = state.thresholds.reshape(-1), state.saliency.reshape(-1)
    width = state.saliency.shape[1]
    high, wide = slots.shape[0], (columns.shape[0] + TILE_COLUMNS - 1) // TILE_COLUMNS
    sums = scratch((high + TILE - 1) // TILE * wide * SUMS)
    sums[:] = np.float32(0)
    bases, unused = np.zeros(high, dtype=np.float32), scratch(GAIN_ROWS)
    for start in range(0, width, GAIN_ROWS):
        size = min(GAIN_ROWS, width - start)
        for x in range(high):  # summed as blocks are: gains must not depend on how many slots are asked for
            bases[x] += copy_stretch(thresholds, slots[x] * width + start, size, unused, 0)
        for y in range(wide):
            offered = _tile_columns(columns, y * TILE_COLUMNS, columns.shape[0] - 1, width, start)
            for x in range(0, high, TILE):
                offering = _tile_slots(slots, x, high - 1, width, start)
                add_tile(thresholds, saliency, offering, offered, size, sums, (x // TILE * wide + y) * SUMS)
    _write(sums, bases, high, columns.shape[0], out, 0, 0)


@compiled
def _stretch(source, width, chosen, first, count, padded, start, size, target, bases):
    """Copy a stretch of rows of a block's columns next to each other, and add up their sums."""
    for k in range(padded):
        at = chosen[first + min(k, count - 1)] * width + start
        total = copy_stretch(source, at, size, target, k * GAIN_ROWS)
        if k < count:
            bases[k] += total


@compiled
def _block(near, far, high, wide, size, sums):
    """Add a stretch of rows to all tiles of a block."""
    for part in range(0, high, NEAR_SLOTS):
        for y in range(wide):
            columns = adjacent(y * TILE_COLUMNS * GAIN_ROWS, GAIN_ROWS)
            for x in range(part, min(part + NEAR_SLOTS, high), TILE):
                s = x * GAIN_ROWS
                slots = (s, s + GAIN_ROWS, s + 2 * GAIN_ROWS, s + 3 * GAIN_ROWS)
                add_tile(near, far, slots, columns, size, sums, (x // TILE * wide + y) * SUMS)


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
    if slots.shape[0] == 0 or columns.shape[0] == 0:
        return
    if slots.shape[0] < FEW_SLOTS:
        _few(state, slots, columns, out)
        return
    thresholds, saliency = state.thresholds.reshape(-1), state.saliency.reshape(-1)
    width = state.saliency.shape[1]
    near, far, sums = (
        scratch(GAIN_SLOTS * GAIN_ROWS),
        scratch(GAIN_COLUMNS * GAIN_ROWS),
        scratch(GAIN_SLOTS * GAIN_COLUMNS),
    )
    bases, unused = np.empty(GAIN_SLOTS, dtype=np.float32), np.zeros(GAIN_COLUMNS, dtype=np.float32)
    for first in range(0, slots.shape[0], GAIN_SLOTS):
        high = min(GAIN_SLOTS, slots.shape[0] - first)
        for left in range(0, columns.shape[0], GAIN_COLUMNS):
            broad = min(GAIN_COLUMNS, columns.shape[0] - left)
            wide = (broad + TILE_COLUMNS - 1) // TILE_COLUMNS
            sums[:] = np.float32(0)
            bases[:] = np.float32(0)
            for start in range(0, width, GAIN_ROWS):
                size = min(GAIN_ROWS, width - start)
                tall = (high + TILE - 1) // TILE * TILE
                _stretch(thresholds, width, slots, first, high, tall, start, size, near, bases)
                _stretch(saliency, width, columns, left, broad, wide * TILE_COLUMNS, start, size, far, unused)
                _block(near, far, high, wide, size, sums)
            _write(sums, bases, high, broad, out, first, left)


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

    step = max(-(-len(slots) // jobs) + TILE - 1 & -TILE, TILE)  # whole tiles
    apply(part, [slice(start, start + step) for start in range(0, len(slots), step)])
