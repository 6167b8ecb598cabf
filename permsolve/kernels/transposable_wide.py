"""Annealing for transposable masks of any m: blocks are solved by transport, most proposals are rejected without.

With the rows' groups fixed the score is a sum over groups of columns, and exchanging two columns of different groups
changes it by what two independent replacements do. For a replacement the prices of a block's rows, ``u``, give an upper
bound at once: the new column is worth at most the n largest of ``s - u``, and the old one is worth exactly that. Only
where the bounds of both replacements pass the Metropolis test are blocks solved anew, from the prices and the mask they
have, and each solved block lowers the bound by what it fell short of it; work ends when the test fails. So the course
of the search is that of exact evaluation. Bounds and exact changes of replacements hold until the group changes.

The kernels call what moves "columns"; the search gives them the transpose to move rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.anneal import LOG_UNIFORM, STEP
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.transposable import balance, choose_column, make_block, solve_block

#: Blocks are padded with zeros to a multiple of this.
LANES = 16

_LOW_27 = np.uint64(0x7FFFFFF)


class Wide(NamedTuple):
    """Work space of one window: some columns, the solutions of their blocks, and what is known about replacements."""

    #: float32 (width, rows): saliency by column, rows in order.
    saliency: npt.NDArray[Any]
    #: float32 (width, m, padded row groups): the same, by position in the row group and row group.
    lanes: npt.NDArray[Any]
    #: float64 (groups, rows): prices of the rows in every group of columns.
    u: npt.NDArray[Any]
    #: float32 (groups, m, padded row groups): the same.
    u_lanes: npt.NDArray[Any]
    #: float64 (width, row groups): price of every slot's column in every block.
    v: npt.NDArray[Any]
    #: uint8 (width, rows): whether the column in a slot keeps a row.
    kept: npt.NDArray[Any]
    #: float32 (groups, width): what a column is worth at most in a group.
    worth: npt.NDArray[Any]
    #: int32 (groups, width): the version of the group that such a number belongs to.
    worth_stamps: npt.NDArray[Any]
    #: float32 (width, width): tighter bounds on what a slot's group gains by a column in that slot.
    changes: npt.NDArray[Any]
    #: int32 (width, width): twice the version of the group that such a number belongs to, one more where it is exact.
    stamps: npt.NDArray[Any]
    #: int32 (groups,): how often a group has changed, from 1.
    versions: npt.NDArray[Any]
    #: int64 (comparators, 2): a network that brings the n largest of m numbers to the first n places.
    network: npt.NDArray[Any]
    #: bool (1,): set from another thread to make a kernel return early, at the end of the time.
    halt: npt.NDArray[Any]


def selection_network(n: int, m: int) -> npt.NDArray[np.int64]:
    """Return comparators that bring the n largest of m numbers to the first n places, in any order.

    It is Batcher's odd-even merge sort (1968) without the comparators that matter only for the order among the
    n largest or among the others.

    Parameters
    ----------
    n
        How many are wanted, at most m.
    m
        How many there are.

    Returns
    -------
    numpy.ndarray
        int64 (comparators, 2): pairs of places; the larger number goes to the first.
    """
    pairs = []
    p = 1
    while p < m:
        k = p
        while k >= 1:
            for j in range(k % p, m - k, 2 * k):
                pairs += [
                    (i + j, i + j + k) for i in range(min(k, m - j - k)) if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    # Backwards: places whose numbers end up on the same side whatever they are need no comparator any more.
    side = ["first"] * n + ["last"] * (m - n)
    needed = []
    for a, b in reversed(pairs):
        if side[a] == side[b] and side[a] != "mixed":
            continue
        needed.append((a, b))
        side[a] = side[b] = "mixed"
    return np.array(needed[::-1], dtype=np.int64).reshape(-1, 2)


def make_wide(width: int, rows: int, n: int, m: int, halt: npt.NDArray[np.bool_]) -> Wide:
    """Allocate the work space of a window.

    Parameters
    ----------
    width
        Number of columns, a multiple of m.
    rows
        Number of rows, a multiple of m.
    n
        Entries kept per row and column of a block.
    m
        Rows and columns of a block.
    halt
        bool (1,), kept: several windows may share it.

    Returns
    -------
    Wide
        The work space.
    """
    groups, tall = width // m, rows // m
    padded = -(-tall // LANES) * LANES
    return Wide(
        aligned((width, rows)),
        aligned((width, m, padded)),
        np.zeros((groups, rows)),
        aligned((groups, m, padded)),
        np.zeros((width, tall)),
        np.zeros((width, rows), dtype=np.uint8),
        np.zeros((groups, width), dtype=np.float32),
        np.zeros((groups, width), dtype=np.int32),
        np.zeros((width, width), dtype=np.float32),
        np.zeros((width, width), dtype=np.int32),
        np.zeros(groups, dtype=np.int32),
        selection_network(n, m),
        halt,
    )


@compiled
def _fill(window, block, place, group, g):
    """Copy the entries of a group's block."""
    m = block.taken.shape[0]
    for j in range(m):
        column = window.saliency[place[group * m + j]]
        for i in range(m):
            block.values[0, j, i] = block.values[1, i, j] = column[g * m + i]


@compiled
def _store(window, block, group, g):
    """Write back the solution of a group's block."""
    m = block.taken.shape[0]
    for x in range(m):
        window.u[group, g * m + x] = block.prices[1, x]
        window.u_lanes[group, x, g] = block.prices[1, x]
        window.v[group * m + x, g] = block.prices[0, x]
    for j in range(m):
        kept = window.kept[group * m + j]
        for i in range(m):
            kept[g * m + i] = block.kept[0, j, i]


@compiled
def load(window, block, packed, rows, order, n):
    """Copy a window's columns, solve their blocks, and forget what was known about others.

    Parameters
    ----------
    window
        The work space.
    block
        Work space of a block.
    packed
        float32 (cols, rows): the saliency by column.
    rows
        int64 (rows,): rows in groups of m.
    order
        int64 (width,): the columns, in groups of m.
    n
        Entries kept per row and column of a block.
    """
    m = block.taken.shape[0]
    for k in range(order.shape[0]):
        column, target = packed[order[k]], window.saliency[k]
        for r in range(rows.shape[0]):
            target[r] = column[rows[r]]
            window.lanes[k, r % m, r // m] = target[r]
    window.worth_stamps[:, :] = 0
    window.stamps[:, :] = 0
    window.versions[:] = 1
    place = np.arange(order.shape[0])
    for group in range(order.shape[0] // m):
        for g in range(rows.shape[0] // m):
            if window.halt[0]:  # the outcome is thrown away
                return
            _fill(window, block, place, group, g)
            solve_block(block, n)
            _store(window, block, group, g)


@compiled
def _worth(window, scratch, group, x, n):
    """Return what a column is worth at most in a group, and remember it."""
    column, u, network = window.lanes[x], window.u_lanes[group], window.network
    m = column.shape[0]
    total = np.float32(0.0)
    for first in range(0, column.shape[1], LANES):
        for i in range(m):
            for lane in range(LANES):
                scratch[i, lane] = column[i, first + lane] - u[i, first + lane]
        for k in range(network.shape[0]):
            high, low = scratch[network[k, 0]], scratch[network[k, 1]]
            for lane in range(LANES):
                a, b = high[lane], low[lane]
                high[lane] = max(a, b)
                low[lane] = min(a, b)
        for i in range(n):
            for lane in range(LANES):
                total += scratch[i, lane]
    window.worth[group, x] = total
    window.worth_stamps[group, x] = window.versions[group]
    return total


@compiled
def _bound(window, scratch, place, p, x, n):
    """Return the best known bound on what a slot's group gains by a column, and whether it is exact."""
    m = scratch.shape[0]
    group = p // m
    version = window.versions[group]
    stamp = window.stamps[p, x]
    if stamp // 2 == version:
        return window.changes[p, x], stamp % 2 == 1
    own = place[p]
    stamps = window.worth_stamps[group]
    new = window.worth[group, x] if stamps[x] == version else _worth(window, scratch, group, x, n)
    old = window.worth[group, own] if stamps[own] == version else _worth(window, scratch, group, own, n)
    return new - old, False


@compiled
def _replace(window, block, place, p, x, g, n):
    """Solve a block with another column in a slot; return how far it falls short of the bound."""
    m = block.taken.shape[0]
    group, slot = p // m, p % m
    own = place[p]
    place[p] = x
    _fill(window, block, place, group, g)
    place[p] = own
    for j in range(m):
        block.prices[0, j] = window.v[group * m + j, g]
        block.prices[1, j] = window.u[group, g * m + j]
        block.taken[j] = n - window.kept[p, g * m + j]
        kept = window.kept[group * m + j]
        for i in range(m):
            block.kept[0, j, i] = block.kept[1, i, j] = kept[g * m + i]
    choose_column(block, slot, n)
    return balance(block, n)


@compiled
def _tighten(window, block, scratch, place, p, x, n, least):
    """Lower the bound of a replacement block by block, until it is exact or below ``least``; return it."""
    m = block.taken.shape[0]
    bound, known = _bound(window, scratch, place, p, x, n)
    if known or bound < least:
        return bound
    stamp = 2 * window.versions[p // m]
    own = place[p]
    bound = window.worth[p // m, x] - window.worth[p // m, own]
    tall = window.v.shape[1]
    done = 0
    while done < tall and bound >= least and not window.halt[0]:
        bound -= np.float32(_replace(window, block, place, p, x, done, n))
        done += 1
    window.changes[p, x] = bound
    window.stamps[p, x] = stamp + (1 if done == tall else 0)
    return bound


@compiled
def _put(window, block, place, p, x, n):
    """Put a column into a slot and solve its group's blocks."""
    m = block.taken.shape[0]
    for g in range(window.v.shape[1]):
        _replace(window, block, place, p, x, g, n)
        _store(window, block, p // m, g)
    place[p] = x
    window.versions[p // m] += 1


@compiled
def anneal_wide(window, packed, rows, order, best, n, m, start, end, proposals, seed):
    """Metropolis swaps of columns between the groups of a window, cooling geometrically.

    Parameters
    ----------
    window
        Work space for as many columns as ``order`` has.
    packed
        float32 (cols, rows): the saliency by column.
    rows
        int64 (rows,): rows in groups of m.
    order
        int64 (width,), columns in groups of m; changed in place to the last state.
    best
        int64 (width,), receives the best state seen.
    n
        Entries kept per row and column of a block.
    m
        Group size.
    start, end
        First and last temperature, in units of ``packed``; ``start >= end > 0``.
    proposals
        Number of proposals, at least 1.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    tuple
        Change of score of the last and of the best state against the first, the number of accepted proposals, and the
        number of proposals made. They are true also where the window's ``halt`` ended the work early.
    """
    log_uniform = LOG_UNIFORM
    block = make_block(n, m)
    scratch = np.zeros((m, LANES), dtype=np.float32)
    width = order.shape[0]
    best[:] = order
    load(window, block, packed, rows, order, n)
    place = np.arange(width)  # slots hold the window's own numbers; the columns are named again at the end
    top_place = np.arange(width)
    changes, stamps, versions = window.changes, window.stamps, window.versions
    current = top = 0.0
    accepted = made = 0
    steps = max((proposals + STEP - 1) // STEP, 1)
    cooling = (end / start) ** (1.0 / steps)
    temperature = start
    columns, others = np.uint64(width), np.uint64(width - m)
    for _ in range(steps):
        scale = np.float32(temperature)
        for _ in range(min(STEP, max(proposals, 1) - made)):
            if window.halt[0]:
                break
            made += 1
            seed += GOLDEN
            z = mix(seed)
            p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
            q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
            group = p // m
            if q >= group * m:
                q += m
            i, j = place[p], place[q]
            least = scale * log_uniform[z >> np.uint64(54)]
            # A call costs more than the look-up that nearly always does.
            fresh = stamps[p, j] // 2 == versions[group] and stamps[q, i] // 2 == versions[q // m]
            if fresh and changes[p, j] + changes[q, i] < least:
                continue
            here, _ = _bound(window, scratch, place, p, j, n)
            there, _ = _bound(window, scratch, place, q, i, n)
            if here + there < least:
                continue
            here = _tighten(window, block, scratch, place, p, j, n, least - there)
            if here + there < least:
                continue
            there = _tighten(window, block, scratch, place, q, i, n, least - here)
            if here + there < least or window.halt[0]:
                continue
            _put(window, block, place, p, j, n)
            _put(window, block, place, q, i, n)
            current += here + there
            accepted += 1
            if current > top:
                top = current
                top_place[:] = place
        temperature *= cooling
        if window.halt[0]:
            break
    best[:] = order[top_place]
    order[:] = order[place]
    return current, top, accepted, made


@compiled
def wide_loss(window, packed, rows, order, n, m, samples, seed):
    """Average what a random exchange costs: the scale that temperatures are measured in.

    Parameters
    ----------
    window, packed, rows, n, m, seed
        As in `anneal_wide`.
    order
        int64 (width,), columns in groups of m, preferably near a local optimum.
    samples
        Number of random exchanges.

    Returns
    -------
    float
        Mean of ``max(-delta, 0)`` over the samples, in units of ``packed``; 0 where ``halt`` ended the work.
    """
    block = make_block(n, m)
    scratch = np.zeros((m, LANES), dtype=np.float32)
    width = order.shape[0]
    load(window, block, packed, rows, order, n)
    place = np.arange(width)
    columns, others = np.uint64(width), np.uint64(width - m)
    total = 0.0
    for _ in range(samples):
        if window.halt[0]:
            return 0.0
        seed += GOLDEN
        z = mix(seed)
        p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
        q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
        if q >= p // m * m:
            q += m
        here = _tighten(window, block, scratch, place, p, q, n, -np.inf)
        there = _tighten(window, block, scratch, place, q, p, n, -np.inf)
        total += max(-(here + there), 0.0)
    return total / samples
