"""Deals: one slot of each group of a tile is freed, and the freed columns are assigned anew.

As `permsolve.kernels.slots`, on the short columns of a tile, whose thresholds are all at hand. Dropped columns take no
part: slots in which nothing is worth anything are all alike, and assignments among them take several times as long. The
Metropolis moves between two deals replace columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.lap import Assignment, assign, make_assignment
from permsolve.kernels.slots import GUMBEL
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.tiles import refresh_slots
from permsolve.kernels.vector import TILE, TILE_COLUMNS, add_tile

_BITS, _12, _32 = np.uint64(4095), np.uint64(12), np.uint64(32)
#: Slots of a tile of sums at a time: their thresholds stay in a first-level cache while the columns pass by.
_NEAR = 64


class Table(NamedTuple):
    """Work space of one thread."""

    #: float32, flat: sums of the register tiles.
    sums: npt.NDArray[Any]
    #: float32 (size, size): costs of the assignment.
    cost: npt.NDArray[Any]
    #: int64 (size,): the slot that each row of the assignment stands for.
    places: npt.NDArray[Any]
    #: int64 (size,): the column in it.
    names: npt.NDArray[Any]
    #: int64 (groups,): the groups in the order in which they are dealt.
    deck: npt.NDArray[Any]
    #: Work space of the assignment.
    assignment: Assignment


def make_table(block: int, groups: int) -> Table:
    """Allocate the work space of `deal_columns`.

    Parameters
    ----------
    block
        Most groups of an assignment.
    groups
        Most groups of a tile's block of columns.

    Returns
    -------
    Table
        About ``8 * block**2`` bytes, where there are so many groups.
    """
    size = min(block, groups)
    high, wide = -(-size // TILE) * TILE, -(-size // TILE_COLUMNS) * TILE_COLUMNS
    places, names, deck = (np.zeros(length, dtype=np.int64) for length in (size, size, groups))
    return Table(
        aligned((high * wide,)), np.zeros((size, size), dtype=np.float32), places, names, deck, make_assignment(size)
    )


if TILE_COLUMNS == 4:

    @compiled
    def _columns(names, first, last, width):
        return (
            names[first] * width,
            names[min(first + 1, last)] * width,
            names[min(first + 2, last)] * width,
            names[min(first + 3, last)] * width,
        )

else:

    @compiled
    def _columns(names, first, last, width):
        return names[first] * width, names[min(first + 1, last)] * width


@compiled
def _costs(table, bench, flat, count, width, temperature, seed):
    """Write what each column loses in each free slot against the one that was there, less Gumbel noise."""
    sums, places, names, bases, gumbel = table.sums, table.places, table.names, bench.bases, GUMBEL
    wide, tile = (count + TILE_COLUMNS - 1) // TILE_COLUMNS, TILE * TILE_COLUMNS
    sums[: (count + TILE - 1) // TILE * wide * tile] = np.float32(0)
    for near in range(0, count, _NEAR):
        for y in range(wide):
            columns = _columns(names, y * TILE_COLUMNS, count - 1, width)
            for x in range(near, min(near + _NEAR, count), TILE):
                slots = (
                    places[x] * width,
                    places[min(x + 1, count - 1)] * width,
                    places[min(x + 2, count - 1)] * width,
                    places[min(x + 3, count - 1)] * width,
                )
                add_tile(bench.thresholds, flat, slots, columns, width, sums, (x // TILE * wide + y) * tile)
    draw, left = np.uint64(0), 0
    for x in range(count):
        row, base = table.cost[x], bases[places[x]]
        at = x // TILE * wide * tile + x % TILE * TILE_COLUMNS
        for y in range(count):
            if left == 0:
                seed += GOLDEN
                draw, left = mix(seed), 5
            loss = base - sums[at + y // TILE_COLUMNS * tile + y % TILE_COLUMNS]
            row[y] = loss - temperature * gumbel[draw & _BITS]
            draw >>= _12
            left -= 1


@compiled
def _shuffle(values, seed):
    for k in range(values.shape[0] - 1):
        seed += GOLDEN
        other = k + np.int64(((mix(seed) >> _32) * np.uint64(values.shape[0] - k)) >> _32)
        values[k], values[other] = values[other], values[k]
    return seed


@compiled
def _assign(table, count, prices):
    """Assign the columns, from the prices that they had and to those they get."""
    names, own = table.names, table.assignment.prices
    before = after = 0.0
    for y in range(count):
        own[y] = prices[names[y]]
        before += own[y]
    assign(table.cost, count, table.assignment, True)
    for y in range(count):
        after += own[y]
    # Prices hold up to a constant: keep their mean, so that those of different assignments can be compared.
    shift = np.float32((before - after) / count)
    for y in range(count):
        prices[names[y]] = own[y] + shift


@compiled
def deal_columns(table, bench, flat, slots, kept, n, m, width, prices, temperature, block, seed):
    """Free a random slot of every group of a tile and assign the freed columns anew.

    Parameters
    ----------
    table, bench
        Work space of the thread: a `Table` and a `permsolve.kernels.tiles.Bench`.
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
    prices
        float32 (cols,): prices of the columns in earlier assignments, updated.
    temperature
        Scale of the Gumbel noise, in units of ``flat``. Without any, assignments of near-ties may take seconds.
    block
        Most groups of an assignment.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    int
        Number of columns that changed their place.
    """
    groups, moved = kept // m, 0
    if groups < 2:
        return moved
    for first in range(0, kept, m):
        refresh_slots(bench, flat, slots, first, n, m, width)
    deck = table.deck[:groups]
    for g in range(groups):
        deck[g] = g
    parts = (groups + block - 1) // block
    if parts > 1:
        seed = _shuffle(deck, seed)
    places, names, chosen = table.places, table.names, table.assignment.column
    for part in range(parts):
        if bench.halt[0]:
            break
        begin, end = groups * part // parts, groups * (part + 1) // parts
        count = end - begin
        for x in range(count):
            seed += GOLDEN
            places[x] = deck[begin + x] * m + np.int64(((mix(seed) >> _32) * np.uint64(m)) >> _32)
            names[x] = slots[places[x]]
        seed += GOLDEN
        _costs(table, bench, flat, count, width, np.float32(temperature), mix(seed))
        _assign(table, count, prices)
        for x in range(count):
            slots[places[x]] = names[chosen[x]]
            moved += chosen[x] != x
    return moved
