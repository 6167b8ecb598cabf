"""V:N:M: which four columns of a group a tile keeps, by trying all of them."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled


@compiled
def _third(values, a, b, c, n, limit):
    """Write the n-th largest of three columns to ``limit`` and return the sum of the larger ones."""
    one, two, three = values[a], values[b], values[c]
    total = 0.0
    for r in range(limit.shape[0]):
        x, y, z = one[r], two[r], three[r]
        high, low = max(x, y), min(x, y)
        first, rest = max(high, z), min(high, z)
        second, third = max(rest, low), min(rest, low)
        if n == 1:
            limit[r] = first
        elif n == 2:
            limit[r] = second
            total += first
        else:
            limit[r] = third
            total += first + second
    return total


@compiled
def best_four(values, n, limit, out):
    """Find the four columns of which the n largest per row sum up to the most; of equal ones the first.

    Three columns leave, per row, the n-th largest of them as what a fourth has to exceed: with those thresholds every
    fourth is a maximum and an addition per row.

    Parameters
    ----------
    values
        float64 (m, rows): the columns of a group, ``m >= 4``.
    n
        Entries kept per row.
    limit
        float64 (rows,): work space.
    out
        int64 (4,): receives the positions, ascending.

    Returns
    -------
    float
        The value.
    """
    m, best = values.shape[0], -1.0
    for a in range(m - 3):
        for b in range(a + 1, m - 2):
            for c in range(b + 1, m - 1):
                base = _third(values, a, b, c, n, limit)
                for d in range(c + 1, m):
                    column, total = values[d], base
                    for r in range(limit.shape[0]):
                        total += max(column[r], limit[r])
                    if total > best:
                        best = total
                        out[0], out[1], out[2], out[3] = a, b, c, d
    return best


@compiled
def choose_columns(columns, rows, order, n, m, kept, halt):
    """Choose the columns that one tile keeps of every group.

    Parameters
    ----------
    columns
        float32 or float64 (cols, all rows): the saliency by column.
    rows
        int64 (vector,): the rows of the tile.
    order
        int64 (cols,): the columns in groups of m.
    n
        Entries kept per row.
    m
        Group size.
    kept
        int64 (groups, 4): receives positions in the group, ascending.
    halt
        bool (1,): set from another thread to end early; the groups left then keep what ``kept`` said.

    Returns
    -------
    float
        The saliency kept in the groups that were gone through.
    """
    size = rows.shape[0]
    values, limit = np.empty((m, size)), np.empty(size)
    total = 0.0
    for g in range(kept.shape[0]):
        if halt[0]:
            break
        for x in range(m):
            column = columns[order[g * m + x]]
            for r in range(size):
                values[x, r] = column[rows[r]]
        total += best_four(values, n, limit, kept[g])
    return total


@compiled
def _four_of_others(data, members, slot, start, lanes, n, sums, chosen):
    """Choose four columns of a group for a tile without the one in a slot: by sums, or by trying all (no sums)."""
    m = members.shape[0]
    others = np.empty(m - 1, dtype=np.int64)
    for x in range(m - 1):
        others[x] = members[x + (x >= slot)]
    if sums.shape[0] > 0:
        for k in range(4):
            best = -1
            for x in range(m - 1):
                free = True
                for y in range(k):
                    free = free and chosen[y] != others[x]
                if free and (best < 0 or sums[others[x]] > sums[best]):
                    best = others[x]
            chosen[k] = best
        return
    values = np.empty((m - 1, lanes))
    for x in range(m - 1):
        for r in range(lanes):
            values[x, r] = data[others[x], start + r]
    best_four(values, n, np.empty(lanes), chosen)
    for k in range(4):
        chosen[k] = others[chosen[k]]


@compiled
def _limits_of_tile(data, members, slot, start, lanes, n, sums, chosen, limits, bases):
    """Write what a column has to exceed in each of a tile's slots, and what the other three bring; return the value.

    With sums only the last of the four, the smallest, may be exchanged. Groups of four have one slot that is empty.
    """
    m = members.shape[0]
    if m == 4:
        a, b, c = members[(slot + 1) & 3], members[(slot + 2) & 3], members[(slot + 3) & 3]
        part = data[:, start : start + lanes]
        bases[0] = _third(part, a, b, c, n, limits[0])
        return bases[0] + limits[0].sum()
    _four_of_others(data, members, slot, start, lanes, n, sums, chosen)
    part, value = data[:, start : start + lanes], 0.0
    for k in range(4):
        a, b, c = chosen[(k + 1) & 3], chosen[(k + 2) & 3], chosen[(k + 3) & 3]
        bases[k] = _third(part, a, b, c, n, limits[k])
    own = part[chosen[3]]
    for r in range(lanes):
        value += max(own[r], limits[3, r])
    return bases[3] + value


@compiled
def freed_values(data, lanes, members, groups, slots, n, sums, first, last, out, halt):
    """Compute what groups keep when one slot of each is refilled with any of the columns freed.

    Choices are made again: by sums, where they are given, exactly; else the best four of the columns that stay, of
    which one may be exchanged for the new column.

    Parameters
    ----------
    data
        float32 (cols, tiles * lanes): the saliency by column, tile after tile.
    lanes
        Lanes of a tile.
    members
        int64 (all groups, m): columns of every group.
    groups
        int64 (k,): the groups.
    slots
        int64 (k,): the slot that each of them frees.
    n
        Entries kept per row.
    sums
        float64 (tiles, cols): sums of the columns in each tile; (tiles, 0) to choose by trying.
    first, last
        Range of the groups to do.
    out
        float64 (k, k): rows ``first`` to ``last`` are written: group x with the column of group y.
    halt
        bool (1,): set from another thread to end early; the values are then worthless.
    """
    count, m = groups.shape[0], members.shape[1]
    limits, bases, chosen = np.empty((4, lanes)), np.empty(4), np.empty(4, dtype=np.int64)
    for x in range(first, last):
        out[x, :] = 0.0
        for tile in range(sums.shape[0]):
            if halt[0]:
                return
            start = tile * lanes
            own, slot = members[groups[x]], slots[x]
            value = _limits_of_tile(data, own, slot, start, lanes, n, sums[tile], chosen, limits, bases)
            for y in range(count):
                j = members[groups[y], slots[y]]
                best = value
                for k in range(1 if m == 4 else 4):
                    by_sums = m > 4 and sums.shape[1] > 0
                    if by_sums and (k < 3 or sums[tile, j] <= sums[tile, chosen[3]]):
                        continue
                    column, total = data[j], bases[k]
                    for r in range(lanes):
                        total += max(np.float64(column[start + r]), limits[k, r])
                    best = total if by_sums else max(best, total)
                out[x, y] += best
