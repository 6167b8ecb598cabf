"""Assignments: one slot of each group of a block is freed, and the freed columns are dealt out anew."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.gain import adjacent
from permsolve.kernels.lap import Assignment, assign, make_assignment
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.vector import TILE, TILE_COLUMNS, add_tile, copy_stretch, second_of_three

#: Quantiles of the Gumbel distribution, to be drawn from by 12 random bits.
GUMBEL = (-np.log(-np.log((np.arange(4096) + 0.5) / 4096))).astype(np.float32)
#: Rows multiplied at a time, and slots: thresholds of so many then fill two thirds of a first-level cache.
STRETCH, SLOTS = 512, 16
#: Assignments that promise less than this share of what the freed columns are worth are rounding, not progress.
LEAST = np.float32(1e-6)

_BITS = np.uint64(4095)


class Stretch(NamedTuple):
    """Work space of one thread: a stretch of rows of a block's operands, and sums."""

    #: float32 (tiled groups, STRETCH): thresholds of free slots.
    thresholds: npt.NDArray[Any]
    #: float32 (tiled groups, STRETCH): the freed columns.
    freed: npt.NDArray[Any]
    #: float32 (n + 1, STRETCH): the largest entries of a group's other members.
    largest: npt.NDArray[Any]
    #: float32, flat: the tiles' sums.
    sums: npt.NDArray[Any]
    #: float32 (groups,): sums of the thresholds.
    bases: npt.NDArray[Any]


class Block(NamedTuple):
    """One block of groups at work."""

    #: float32 (groups, groups): what every freed column would bring to every free slot.
    gain: npt.NDArray[Any]
    #: float32 (groups, groups): the same with noise, negated.
    cost: npt.NDArray[Any]
    #: int64 (groups,): the slot that is free in each group.
    slots: npt.NDArray[Any]
    #: int64 (groups,): the column that was in it.
    names: npt.NDArray[Any]
    #: Work space of the assignment.
    assignment: Assignment


def make_stretch(groups: int, n: int) -> Stretch:
    """Allocate the work space of a thread.

    Parameters
    ----------
    groups
        Most groups of a block.
    n
        Entries kept per row.

    Returns
    -------
    Stretch
        About ``groups * (4096 + 4 * groups)`` bytes.
    """
    high, wide = -(-groups // TILE), -(-groups // TILE_COLUMNS)
    return Stretch(
        aligned((high * TILE, STRETCH)),
        aligned((wide * TILE_COLUMNS, STRETCH)),
        aligned((n + 1, STRETCH)),
        aligned((high * wide * TILE * TILE_COLUMNS,)),
        np.zeros(groups, dtype=np.float32),
    )


def make_block(groups: int) -> Block:
    """Allocate the work space of a block.

    Parameters
    ----------
    groups
        Most groups of a block.

    Returns
    -------
    Block
        About ``8 * groups**2`` bytes.
    """
    gain, cost = (np.zeros((groups, groups), dtype=np.float32) for _ in range(2))
    slots, names = (np.zeros(groups, dtype=np.int64) for _ in range(2))
    return Block(gain, cost, slots, names, make_assignment(groups))


@compiled
def _nth_of_others(packed, members, slot, n, largest, start, size, out):
    """Write the n-th largest entries of a group's other members for a stretch of rows and return their sum."""
    carry = largest[n]
    largest[:n, :size] = np.float32(0)  # entries are >= 0, so zero never displaces one
    for x in range(members.shape[0]):
        if x == slot:
            continue
        column = packed[members[x], start : start + size]
        for r in range(size):
            carry[r] = column[r]
        for k in range(n):
            best = largest[k]
            for r in range(size):
                value, held = carry[r], best[r]
                best[r] = max(value, held)
                carry[r] = min(value, held)
    total = np.float32(0)
    last = largest[n - 1]
    for r in range(size):
        out[r] = last[r]
        total += last[r]
    return total


@compiled
def _load_thresholds(stretch, block, packed, members, groups, first, n, m, start, size):
    """Compute the thresholds of some free slots for a stretch of rows, and add up their sums."""
    width = packed.shape[1]
    source, slots, bases = packed.reshape(-1), block.slots, stretch.bases
    thresholds = stretch.thresholds.reshape(-1)
    for x in range(groups.shape[0]):
        slot, at, group = slots[first + x], x * STRETCH, groups[x]
        if m == 4 and n == 2:
            a = members[group, (slot + 1) & 3] * width + start
            b = members[group, (slot + 2) & 3] * width + start
            c = members[group, (slot + 3) & 3] * width + start
            bases[x] += second_of_three(source, a, b, c, size, thresholds, at)
        elif m == 2:
            bases[x] += copy_stretch(source, members[group, 1 - slot] * width + start, size, thresholds, at)
        else:
            out = stretch.thresholds[x]
            bases[x] += _nth_of_others(packed, members[group], slot, n, stretch.largest, start, size, out)


@compiled
def slot_gains(stretch, block, packed, members, groups, first, last, n, m, more, halt):
    """Compute what every freed column would bring to some of the free slots.

    Parameters
    ----------
    stretch
        The thread's `Stretch`.
    block
        A `Block` in which slots are free; rows ``first`` to ``last`` of its ``gain`` are written.
    packed
        float32 (cols, padded rows): the problem's saliency by column, or some rows of it.
    members
        int64 (all groups, m): columns of every group.
    groups
        int64 (k,): the groups of the block.
    first, last
        Range of the groups whose slots are meant.
    n
        Entries kept per row.
    m
        Group size.
    more
        Whether ``packed`` holds further rows, whose gains are added to those of the rows before.
    halt
        bool (1,): set from another thread to end early; the gains are then worthless.
    """
    count, width = groups.shape[0], packed.shape[1]
    source, freed, thresholds = packed.reshape(-1), stretch.freed.reshape(-1), stretch.thresholds.reshape(-1)
    sums, bases, gain, names = stretch.sums, stretch.bases, block.gain, block.names
    wide, tile = (count + TILE_COLUMNS - 1) // TILE_COLUMNS, TILE * TILE_COLUMNS
    high = last - first
    sums[: (high + TILE - 1) // TILE * wide * tile] = np.float32(0)
    bases[:high] = np.float32(0)
    for start in range(0, width, STRETCH):
        if halt[0]:
            return
        size = min(STRETCH, width - start)
        _load_thresholds(stretch, block, packed, members, groups[first:last], first, n, m, start, size)
        for y in range(count):
            copy_stretch(source, names[y] * width + start, size, freed, y * STRETCH)
        for near in range(0, high, SLOTS):
            for y in range(wide):
                columns = adjacent(y * TILE_COLUMNS * STRETCH, STRETCH)
                for x in range(near, min(near + SLOTS, high), TILE):
                    at = x * STRETCH
                    slots = (at, at + STRETCH, at + 2 * STRETCH, at + 3 * STRETCH)
                    add_tile(thresholds, freed, slots, columns, size, sums, (x // TILE * wide + y) * tile)
    for x in range(high):
        row, base = gain[first + x], bases[x]
        at = x // TILE * wide * tile + x % TILE * TILE_COLUMNS
        for y in range(count):
            value = sums[at + y // TILE_COLUMNS * tile + y % TILE_COLUMNS] - base
            row[y] = row[y] + value if more else value


@compiled
def free_slots(block, members, groups, m, seed):
    """Free a random slot of each group.

    Parameters
    ----------
    block
        The `Block`; its slots and names are written.
    members, groups, m
        As in `slot_gains`.
    seed
        uint64 seed of the SplitMix64 stream.
    """
    for x in range(groups.shape[0]):
        seed += GOLDEN
        slot = np.int64(((mix(seed) >> np.uint64(32)) * np.uint64(m)) >> np.uint64(32))
        block.slots[x] = slot
        block.names[x] = members[groups[x], slot]


@compiled
def _perturb(block, count, temperature, seed):
    """Write the costs of the assignment: gains with Gumbel noise, negated."""
    gumbel = GUMBEL
    draw, left = np.uint64(0), 0
    for x in range(count):
        gain, cost = block.gain[x], block.cost[x]
        if temperature == 0:
            for y in range(count):
                cost[y] = -gain[y]
            continue
        for y in range(count):
            if left == 0:
                seed += GOLDEN
                draw, left = mix(seed), 5
            cost[y] = -gain[y] - temperature * gumbel[draw & _BITS]
            draw >>= np.uint64(12)
            left -= 1


@compiled
def _assign(block, prices, count):
    """Assign the freed columns to the free slots, from the prices that the columns had and to those they get."""
    names, own = block.names, block.assignment.prices
    before = after = 0.0
    for y in range(count):
        own[y] = prices[names[y]]
        before += own[y]
    assign(block.cost, count, block.assignment, True)
    for y in range(count):
        after += own[y]
    # Prices hold up to a constant: keep their mean, so that those of different blocks can be compared.
    shift = np.float32((before - after) / count)
    for y in range(count):
        prices[names[y]] = own[y] + shift


@compiled
def fill_slots(block, members, groups, prices, temperature, seed):
    """Assign the freed columns to the free slots anew.

    Gumbel noise times the temperature is added to the gains, and the best assignment is taken: a sample of all ways to
    deal the columns out, better ones more likely (perturb and maximise). Without noise only improvements are taken.

    Parameters
    ----------
    block
        A `Block` in which slots are free and the gains are known.
    members
        int64 (all groups, m): columns of every group; the rows of ``groups`` are changed.
    groups
        int64 (k,): the groups of the block.
    prices
        float32 (cols,): prices of the columns in earlier assignments, updated.
    temperature
        Scale of the noise, in units of the gains.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    int
        Number of columns moved.
    """
    count = groups.shape[0]
    _perturb(block, count, np.float32(temperature), seed)
    _assign(block, prices, count)
    chosen, gain = block.assignment.column, block.gain
    change = worth = 0.0
    for x in range(count):
        change += gain[x, chosen[x]] - gain[x, x]
        worth += gain[x, x]
    moved = 0
    if temperature > 0 or change > LEAST * worth:
        for x in range(count):
            moved += chosen[x] != x
            members[groups[x], block.slots[x]] = block.names[chosen[x]]
    return moved
