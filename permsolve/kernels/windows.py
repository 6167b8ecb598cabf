"""Large neighbourhood search over exact windows: some groups of a partition are regrouped at least cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled
from permsolve.kernels.cover import climb, plant
from permsolve.kernels.splitmix import GOLDEN, mix

Array = npt.NDArray[Any]

#: Groups that cost more than this many times the mean of a window's groups are left out of its search.
DEAREST = 3.0


class Pool(NamedTuple):
    """Groups that windows are regrouped with, by rising cost."""

    #: int16 (count, m): members, sorted.
    groups: Array
    #: float64 (count,): costs, >= 0.
    costs: Array
    #: int32 (count,): groups by their smallest member, then by cost.
    by_first: Array
    #: int64 (cols + 1,): where the groups of each smallest member begin.
    first_at: Array
    #: int32 (count * m,): groups by each of their members, then by cost.
    by_member: Array
    #: int64 (cols + 1,): where the groups of each member begin.
    member_at: Array


def make_pool(groups: Array, costs: Array, cols: int) -> Pool:
    """Index groups for `improve`.

    Parameters
    ----------
    groups
        Integers (count, m), members sorted, by rising cost.
    costs
        float64 (count,).
    cols
        Number of columns.

    Returns
    -------
    Pool
        The groups and where to find them.
    """
    m = groups.shape[1]
    columns = np.arange(cols + 1)
    by_first = np.argsort(groups[:, 0], kind="stable")
    by_member = np.argsort(groups.ravel(), kind="stable")
    return Pool(
        groups.astype(np.int16),
        np.ascontiguousarray(costs, dtype=np.float64),
        by_first.astype(np.int32),
        np.searchsorted(groups[by_first, 0], columns),
        (by_member // m).astype(np.int32),
        np.searchsorted(groups.ravel()[by_member], columns),
    )


class Work(NamedTuple):
    """Work space of `improve`."""

    #: int64 (slots,): the groups of the partition that are in the window.
    chosen: Array
    #: bool (slots,): whether a group is.
    inside: Array
    #: int64 (cols,): number of a column in the window, -1 outside.
    local: Array
    #: int32 (capacity,): groups of the pool that fit into the window, by rising cost.
    ids: Array
    #: float64 (capacity,): their costs, with noise where there is some.
    costs: Array
    #: int16 (capacity, m): their members, numbered within the window.
    groups: Array


def make_work(cols: int, m: int, capacity: int) -> Work:
    """Allocate the work space of `improve`.

    Parameters
    ----------
    cols
        Number of columns.
    m
        Group size.
    capacity
        Most groups of one window's search.

    Returns
    -------
    Work
        The arrays.
    """
    return Work(
        np.empty(cols // m, dtype=np.int64),
        np.zeros(cols // m, dtype=np.bool_),
        np.full(cols, -1, dtype=np.int64),
        np.empty(capacity, dtype=np.int32),
        np.empty(capacity),
        np.empty((capacity, m), dtype=np.int16),
    )


@compiled
def _uniform(stream):
    """Draw from (0, 1], by SplitMix64; ``stream`` is uint64 (1,), the state."""
    stream[0] += GOLDEN
    return ((mix(stream[0]) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53


@compiled
def _below(stream, limit):
    """Draw a whole number below a limit."""
    stream[0] += GOLDEN
    return np.int64((mix(stream[0]) >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


@compiled
def _choose(pool, members, costs, slots, work, where, count, m, stream):
    """Choose the groups of a window: one that is dear, and such as cheap groups of its columns touch."""
    mean = costs[:slots].mean() + 1e-30
    draw = _uniform(stream) * (costs[:slots].sum() + 0.5 * mean * slots)
    start = 0
    for s in range(slots):
        draw -= costs[s] + 0.5 * mean
        if draw <= 0:
            start = s
            break
    chosen, inside = work.chosen, work.inside
    inside[:slots] = False
    chosen[0] = start
    inside[start] = True
    size = 1
    for _ in range(20 * count):
        if size >= count:
            return size
        if _uniform(stream) < 0.1:
            s = _below(stream, slots)
            if not inside[s]:
                inside[s] = True
                chosen[size] = s
                size += 1
            continue
        column = members[chosen[_below(stream, size)], _below(stream, m)]
        begin, end = pool.member_at[column], pool.member_at[column + 1]
        if end == begin:
            continue
        draw = _uniform(stream)
        k = pool.by_member[min(begin + int((end - begin) * draw * draw * draw), end - 1)]
        for x in range(m):
            s = where[pool.groups[k, x]]
            if size < count and not inside[s]:
                inside[s] = True
                chosen[size] = s
                size += 1
    return size


@compiled
def _gather(pool, members, size, reach, work, m):
    """List the groups of the pool that fit into the window and cost less than ``reach``; return how many."""
    found = 0
    capacity = work.ids.shape[0]
    for a in range(size):
        for x in range(m):
            column = members[work.chosen[a], x]
            for q in range(pool.first_at[column], pool.first_at[column + 1]):
                k = pool.by_first[q]
                if pool.costs[k] >= reach or found >= capacity:
                    break
                fits = True
                for y in range(1, m):
                    if work.local[pool.groups[k, y]] < 0:
                        fits = False
                        break
                if fits:
                    work.ids[found] = k
                    found += 1
    return found


@compiled
def _sort(keys, ids, count):
    """Sort some ids by rising keys in place: Shell's method (Ciura's gaps), which compiles in no time."""
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, count):
            key, number = keys[i], ids[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j] = keys[j - gap]
                ids[j] = ids[j - gap]
                j -= gap
            keys[j] = key
            ids[j] = number


@compiled
def _arrange(pool, found, size, room, noise, work, m, stream):
    """Put what was gathered in order of cost, with noise if asked; return the cost that the search must beat."""
    budget = room * (1.0 - 1e-12)
    for q in range(found):
        work.costs[q] = pool.costs[work.ids[q]]
    if noise > 0.0:
        for q in range(found):
            work.costs[q] -= noise * np.log(_uniform(stream))
        for _ in range(size):
            budget -= noise * np.log(_uniform(stream))
    _sort(work.costs, work.ids, found)
    for q in range(found):
        for y in range(m):
            work.groups[q, y] = work.local[pool.groups[work.ids[q], y]]
    return budget


@compiled
def improve(pool, tree, members, costs, where, count, noise, windows, nodes, most, seed, work):
    """Regroup window after window.

    Parameters
    ----------
    pool
        A `Pool`.
    tree
        A `permsolve.kernels.cover.Tree` for the groups and columns of one window.
    members
        int64 (slots, m): the partition; changed in place.
    costs
        float64 (slots,): the costs of its groups; changed in place.
    where
        int64 (cols,): the group of each column; changed in place.
    count
        Groups in a window.
    noise
        Scale of the random costs that are added while a window is searched; 0 accepts improvements only.
    windows
        Number of windows.
    nodes
        Most nodes of a window's search.
    most
        Nodes after which no further window is begun.
    seed
        uint64 seed of the draws.
    work
        A `Work`.

    Returns
    -------
    tuple
        The nodes visited, and the numbers of windows searched and changed.
    """
    stream = np.empty(1, dtype=np.uint64)
    stream[0] = seed
    slots, m = members.shape
    visited = 0
    changed = 0
    done = 0
    while done < windows and visited < most:
        done += 1
        size = _choose(pool, members, costs, slots, work, where, min(count, slots), m, stream)
        room = 0.0
        for a in range(size):
            s = work.chosen[a]
            room += costs[s]
            for x in range(m):
                work.local[members[s, x]] = a * m + x
        found = _gather(pool, members, size, min(room, DEAREST * room / size) + 3.0 * noise, work, m)
        budget = _arrange(pool, found, size, room, noise, work, m, stream)
        for a in range(size):
            for x in range(m):
                work.local[members[work.chosen[a], x]] = -1
        visited += 1
        if found == 0:
            continue
        plant(tree, found, budget)
        visited += climb(tree, work.groups, work.costs, size * m, m, nodes, 0, 0, 1, budget)
        if tree.cover[0] >= 0:
            changed += 1
            for a in range(size):
                s = work.chosen[a]
                k = work.ids[tree.cover[a]]
                costs[s] = pool.costs[k]
                for x in range(m):
                    members[s, x] = pool.groups[k, x]
                    where[members[s, x]] = s
    return visited, done, changed
