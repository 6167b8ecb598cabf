"""Gyro-permutation (HiNM): what tiles drop with rows added, and assignments of kept columns to groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled
from permsolve.kernels.score import group_values
from permsolve.kernels.slots import Block, Stretch, fill_slots, free_slots, slot_gains
from permsolve.kernels.splitmix import GOLDEN, mix

#: Passes after which a threshold is found by sorting instead.
PASSES = 40
#: First step from a guess, as a share of the mean of the values above it.
FIRST_SPAN = 0.002


class Tiles(NamedTuple):
    """The state of the input phase: what every tile keeps, and how its columns are grouped."""

    #: float32 (tiles, kept, padded rows): the saliency of the columns that a tile keeps.
    data: npt.NDArray[Any]
    #: int64 (tiles, groups, m): the columns of each group, numbers among those kept.
    members: npt.NDArray[Any]
    #: float32 (tiles, kept): prices of the columns in the assignments so far, infinite where there are none.
    prices: npt.NDArray[Any]
    #: int64 (parts, 3): tile, first group, end of the groups: a tile's groups in one block of columns.
    parts: npt.NDArray[Any]
    #: float64 (parts,): the saliency that parts keep.
    values: npt.NDArray[Any]
    #: int64 (parts,): assignments in a row that brought a part nothing.
    misses: npt.NDArray[Any]


class Bench(NamedTuple):
    """Work space of one thread in the input phase."""

    stretch: Stretch
    block: Block


@compiled
def _beyond(values, limit):
    """Return how many values exceed a limit, how many equal it, and the sum of those that exceed it."""
    count = same = total = 0.0  # counts as floats, so that all three share registers of one width
    for k in range(values.shape[0]):
        value = values[k]
        count += 1.0 if value > limit else 0.0
        same += 1.0 if value == limit else 0.0
        total += value if value > limit else 0.0
    return count, same, total


@compiled
def largest_sum(values, kept, guess):
    """Return the sum of the largest values, and a threshold between them and the others.

    A threshold is right where no more than the wanted number exceed it and no fewer reach it; passes over the values
    close in on one. Near guesses, such as the threshold of similar values, take a few.

    Parameters
    ----------
    values
        float64 (size,).
    kept
        How many, from 1 to size.
    guess
        Where to begin.

    Returns
    -------
    tuple
        The sum and the threshold.
    """
    limit, span = guess, 0.0
    low, high, below, above = 0.0, 0.0, -1.0, -1.0
    for step in range(PASSES):
        count, same, total = _beyond(values, limit)
        if count <= kept <= count + same:
            return total + (kept - count) * limit, limit
        if step == 0:
            span = FIRST_SPAN * (total / count if count > 0 else limit)
        if count > kept:
            low, below = limit, count
        else:
            high, above = limit, count
        if above < 0 or below < 0:  # one side is unknown: go there in growing steps
            limit += span if above < 0 else -span
            span *= 2.0
        else:  # interpolation is quick where values lie evenly, halves wherever they lie
            limit = low + (high - low) * (0.5 if step % 4 == 3 else (below - kept) / (below - above))
    ordered = np.sort(values)[values.shape[0] - kept :]
    return ordered.sum(), ordered[0]


@compiled
def _add(own, more, out):
    """Write the sum of two vectors and return its total."""
    whole = 0.0
    for k in range(out.shape[0]):
        value = own[k] + more[k]
        out[k] = value
        whole += value
    return whole


@compiled
def dropped(rest, added, ends, kept, guesses, first, last, halt, out):
    """Compute what the vector step prunes of each tile with each cluster of rows added.

    Parameters
    ----------
    rest
        float64 (tiles, cols): sums of the columns of every tile without the rows that were taken out.
    added
        float64 (clusters, cols): sums of the columns of every cluster.
    ends
        int64 (blocks,): the end of each block of columns.
    kept
        int64 (blocks,): how many columns a tile keeps of it.
    guesses
        float64 (tiles, blocks): about the smallest sums kept; updated.
    first, last
        Range of the tiles.
    halt
        bool (1,): set from another thread to end early; what is written is then worthless.
    out
        float64 (tiles, clusters): these tiles' rows are written.
    """
    sums = np.empty(rest.shape[1])
    for t in range(first, last):
        if halt[0]:
            return
        own = rest[t]
        for c in range(added.shape[0]):
            more = added[c]
            whole, held, start = 0.0, 0.0, 0
            for k in range(ends.shape[0]):
                end = ends[k]
                stretch = sums[start:end]
                total = _add(own[start:end], more[start:end], stretch)
                whole += total
                if kept[k] == end - start:
                    held += total
                elif kept[k] > 0:
                    total, guesses[t, k] = largest_sum(stretch, kept[k], guesses[t, k])
                    held += total
                start = end
            out[t, c] = whole - held


@compiled
def _first_prices(block, prices, count):
    """Price columns that were never assigned by what they bring on average."""
    for y in range(count):
        name = block.names[y]
        if np.isinf(prices[name]):
            total = np.float32(0)
            for x in range(count):
                total += block.gain[x, y]
            prices[name] = -total / np.float32(count)


@compiled
def _value(data, members, n, m):
    values = np.empty(members.shape[0])
    group_values(data, members.reshape(-1), n, m, values)
    return values.sum()


@compiled
def measure_parts(tiles, n, m):
    """Compute the saliency that parts keep.

    Parameters
    ----------
    tiles
        The `Tiles`; their values are written.
    n, m
        Entries kept per row, group size.
    """
    for p in range(tiles.parts.shape[0]):
        tile, first, last = tiles.parts[p]
        tiles.values[p] = _value(tiles.data[tile], tiles.members[tile, first:last], n, m)


@compiled
def reassign_columns(tiles, bench, which, n, m, seed, halt):
    """Take a random column out of each group of some parts and assign the columns of each part anew.

    What an assignment brings is judged in float64, as the core would; where that is nothing it is undone and counted
    as a miss.

    Parameters
    ----------
    tiles
        The `Tiles`, changed.
    bench
        The thread's `Bench`.
    which
        int64: numbers of parts.
    n, m
        Entries kept per row, group size.
    seed
        uint64; what is drawn depends on it and on the number of the part.
    halt
        bool (1,): set from another thread to end early.
    """
    stretch, block = bench.stretch, bench.block
    for p in which:
        tile, first, last = tiles.parts[p]
        data, members, prices = tiles.data[tile], tiles.members[tile], tiles.prices[tile]
        groups = np.arange(first, last)
        count = last - first
        free_slots(block, members, groups, m, mix(seed + np.uint64(p + 1) * GOLDEN))
        slot_gains(stretch, block, data, members, groups, 0, count, n, m, False, halt)
        if halt[0]:
            return
        _first_prices(block, prices, count)
        better = False
        if fill_slots(block, members, groups, prices, np.float32(0), seed) > 0:
            value = _value(data, members[first:last], n, m)
            if value > tiles.values[p]:
                tiles.values[p] = value
                better = True
            else:
                for x in range(count):
                    members[groups[x], block.slots[x]] = block.names[x]
        tiles.misses[p] = 0 if better else tiles.misses[p] + 1
