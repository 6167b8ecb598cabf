"""Tiles of rows that keep some columns each: Metropolis moves of columns and of rows.

A tile's saliency lies by column, ``(cols, width)`` float32, its V rows side by side (lanes) and padded with zeros to
whole registers. Its columns are listed in ``slots``: the first ``kept`` in groups of m, then those it does without.
With the threshold of each slot at hand (the n-th largest of the group's other members, see `permsolve.kernels.groups`)
any replacement or exchange of columns is two passes over a few registers.

Rows move between tiles. What a row brings to each tile, given the tiles' columns, is a table of ``rows x tiles``, and
exchanging rows does not change it: the work of a row move is four look-ups.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.anneal import LOG_UNIFORM
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.tile_vector import (
    add_stretch,
    add_two_of_four,
    insert_ranked,
    limit_slot,
    refresh_four,
    worth_exchanged,
    worth_in_slot,
)
from permsolve.kernels.vector import LANES

_LOW_27 = np.uint64(0x7FFFFFF)
_LOW_12, _LOW_15 = np.uint64(0xFFF), np.uint64(0x7FFF)
_1, _12, _15, _24, _27, _39, _54 = (np.uint64(bits) for bits in (1, 12, 15, 24, 27, 39, 54))
#: Proposals between two looks at the flag that ends a kernel.
HALT_EVERY = 8192
#: Lanes of a tile are a multiple of this.
_STEP = max(LANES, 16)


class Bench(NamedTuple):
    """Work space of one thread: the state of the tile's block of columns at hand."""

    #: float32 (slots * width,): thresholds, slot by slot.
    thresholds: npt.NDArray[Any]
    #: float32 (slots,): what the column of a slot is worth in it.
    bases: npt.NDArray[Any]
    #: int64 (slots,): the first slot of each slot's group.
    starts: npt.NDArray[Any]
    #: float32 ((n + 1) * width,): the largest entries of a group.
    largest: npt.NDArray[Any]
    #: bool (1,): set from another thread to end early.
    halt: npt.NDArray[Any]


@compiled
def place_width(vector):
    """Return the lanes of a tile: its rows, padded to whole registers.

    Parameters
    ----------
    vector
        Rows of a tile.

    Returns
    -------
    int
        Lanes.
    """
    return (vector + _STEP - 1) // _STEP * _STEP


def make_bench(kept: int, width: int, n: int, m: int, halt: npt.NDArray[np.bool_] | None = None) -> Bench:
    """Allocate the work space of a thread.

    Parameters
    ----------
    kept
        Most columns that a tile keeps of a block of columns.
    width
        Lanes of a tile, `place_width`.
    n, m
        Entries kept per row, group size.
    halt
        bool (1,), kept, or None for one that nobody sets.

    Returns
    -------
    Bench
        The work space.
    """
    return Bench(
        aligned((kept * width,)),
        np.zeros(kept, dtype=np.float32),
        np.arange(kept) // m * m,
        aligned(((n + 1) * width,)),
        np.zeros(1, dtype=np.bool_) if halt is None else halt,
    )


@compiled
def _rank(bench, flat, slots, first, m, depth, width):
    """Write the largest entries of each row of a group, ``depth`` of them, to ``bench.largest``."""
    largest = bench.largest
    for k in range(depth * width):
        largest[k] = np.float32(0)  # entries are >= 0, so zero never displaces one
    for x in range(first, first + m):
        column = slots[x] * width
        for r in range(0, width, LANES):
            insert_ranked(flat, column + r, largest, r, min(depth, x - first + 1), width)


@compiled
def refresh_slots(bench, flat, slots, first, n, m, width):
    """Recompute thresholds and worths of a group.

    Parameters
    ----------
    bench
        The `Bench`, changed.
    flat
        float32 (cols * width,): a tile's saliency.
    slots
        int64: the tile's columns.
    first
        First slot of the group.
    n, m
        Entries kept per row, group size.
    width
        Lanes of a column.
    """
    thresholds = bench.thresholds
    if n == 2 and m == 4:
        a, b, c, d = slots[first], slots[first + 1], slots[first + 2], slots[first + 3]
        members = (a * width, b * width, c * width, d * width)
        refresh_four(flat, members, width, thresholds, first * width, bench.bases, first)
        return
    _rank(bench, flat, slots, first, m, n + 1, width)
    for x in range(first, first + m):
        at = slots[x] * width
        bench.bases[x] = limit_slot(flat, at, bench.largest, (n - 1) * width, width, thresholds, x * width)


@compiled
def anneal_columns(bench, flat, slots, kept, n, m, width, temperature, proposals, seed):
    """Metropolis moves of columns of one tile, at one temperature.

    A proposal takes a kept column and any column of another group, or of none, and exchanges the two.

    Parameters
    ----------
    bench
        A `Bench`; it need not know the tile.
    flat
        float32 (cols * width,): the tile's saliency.
    slots
        int64 (size,): columns, the first ``kept`` in groups of m; changed.
    kept
        Number of kept columns, a multiple of m.
    n, m
        Entries kept per row, group size.
    width
        Lanes of a column.
    temperature
        In units of ``flat``; 0 for improvements and ties only.
    proposals
        Number of proposals.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    tuple
        Change of the tile's value, the number of moves accepted that lost something, and whether all proposals were
        made (``bench.halt`` ends the work early).
    """
    log_uniform = LOG_UNIFORM
    thresholds, bases, starts = bench.thresholds, bench.bases, bench.starts
    size = slots.shape[0]
    change, losing = 0.0, 0
    if size == m or kept == 0:
        return change, losing, True
    for first in range(0, kept, m):
        refresh_slots(bench, flat, slots, first, n, m, width)
    scale = np.float32(temperature)
    inside, others = np.uint64(kept), np.uint64(size - m)
    for begin in range(0, proposals, HALT_EVERY):
        if bench.halt[0]:
            return change, losing, False
        for _ in range(min(HALT_EVERY, proposals - begin)):
            seed += GOLDEN
            z = mix(seed)
            p = np.int64(((z & _LOW_27) * inside) >> _27)
            q = np.int64((((z >> _27) & _LOW_27) * others) >> _27)
            group = starts[p]
            if q >= group:
                q += m
            i, j = slots[p], slots[q]
            limit = scale * log_uniform[z >> _54]
            if q >= kept:
                delta = worth_in_slot(flat, j * width, thresholds, p * width, width) - bases[p]
                if delta < limit:
                    continue
            else:
                worth = worth_exchanged(flat, i * width, j * width, thresholds, p * width, q * width, width)
                delta = worth - bases[p] - bases[q]
                if delta < limit:
                    continue
            slots[p], slots[q] = j, i
            refresh_slots(bench, flat, slots, group, n, m, width)
            if q < kept:
                refresh_slots(bench, flat, slots, starts[q], n, m, width)
            change += delta
            losing += delta < 0
    return change, losing, True


@compiled
def add_row_values(bench, flat, slots, kept, n, m, width, out, at):
    """Add what the rows of a tile bring under some tile's groups of columns.

    Parameters
    ----------
    bench
        A `Bench`.
    flat
        float32 (cols * width,): the saliency of the rows.
    slots
        int64: columns, the first ``kept`` in groups of m.
    kept, n, m, width
        As in `anneal_columns`.
    out
        float32: ``out[at : at + width]`` is added to.
    at
        Where the first row's value is.
    """
    if n == 2 and m == 4:
        for x in range(0, kept, 4):
            members = (slots[x] * width, slots[x + 1] * width, slots[x + 2] * width, slots[x + 3] * width)
            add_two_of_four(flat, members, width, out, at)
        return
    largest = bench.largest
    for x in range(0, kept, m):
        _rank(bench, flat, slots, x, m, n, width)
        for k in range(n):
            add_stretch(largest, k * width, width, out, at)


@compiled
def anneal_rows(table, place, vector, width, temperature, bias, proposals, seed):
    """Metropolis exchanges of rows between the tiles of a window.

    Parameters
    ----------
    table
        float32 (tiles, tiles * width): ``table[t, u * width + lane]`` is what a row brings to tile t that was in a lane
        of tile u at first.
    place
        int64 (tiles * vector,): which lane's row (its index in ``table[t]``) is at each place, tile by tile; changed.
    vector
        Rows of a tile.
    width
        Lanes of a tile.
    temperature
        In units of the table.
    bias
        Added to the change of every exchange before it is judged.
    proposals
        Number of proposals.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    tuple
        Change of the sum of the rows' values, and the number of exchanges accepted.
    """
    log_uniform = LOG_UNIFORM
    count = place.shape[0]
    change, accepted = 0.0, 0
    if count == vector:
        return change, accepted
    scale, bias = np.float32(temperature), np.float32(bias)
    tiles, lanes = np.uint64(count // vector), np.uint64(vector)
    for _ in range(proposals):
        seed += GOLDEN
        z = mix(seed)
        # Four fields of bits: two tiles that differ, and a lane of each.
        a = np.int64(((z & _LOW_12) * tiles) >> _12)
        b = np.int64((((z >> _12) & _LOW_12) * (tiles - _1)) >> _12)
        if b >= a:
            b += 1
        p = a * vector + np.int64((((z >> _24) & _LOW_15) * lanes) >> _15)
        q = b * vector + np.int64((((z >> _39) & _LOW_15) * lanes) >> _15)
        i, j = place[p], place[q]
        delta = table[b, i] - table[a, i] + table[a, j] - table[b, j]
        # Rows that are alike need not change places: it would cost time and gain nothing.
        if delta != 0 and delta + bias >= scale * log_uniform[z >> _54]:
            place[p], place[q] = j, i
            change += delta
            accepted += 1
    return change, accepted


@compiled
def move_rows(data, rows, tiles, place, vector):
    """Bring the rows of some tiles to their new places.

    Parameters
    ----------
    data
        float32 (all tiles, cols * width): saliency of the tiles, changed.
    rows
        int64 (all tiles, vector): names of the rows, changed.
    tiles
        int64: the tiles.
    place
        int64 (tiles * vector,): which lane's row (tile * width + lane, in the numbering of ``tiles``) comes to each
        place; afterwards every place holds its own.
    vector
        Rows of a tile.
    """
    size = data.shape[1]
    width = place_width(vector)
    for p in range(place.shape[0]):
        home = p // vector * width + p % vector
        at = p
        # Follow the cycle through p: every exchange brings one row home.
        while place[at] != home:
            lane = place[at]
            a, x, b, y = at // vector, at % vector, lane // width, lane % width
            one, two = data[tiles[a]], data[tiles[b]]
            for c in range(0, size, width):
                one[c + x], two[c + y] = two[c + y], one[c + x]
            rows[tiles[a], x], rows[tiles[b], y] = rows[tiles[b], y], rows[tiles[a], x]
            place[at] = a * width + x
            at = b * vector + y
        place[at] = at // vector * width + at % vector
