"""All groups of m columns: their values, and passes over them.

Groups are visited in lexicographic order of their sorted members. The value of a group is the sum over rows of its n
largest entries; for the first m - 1 members the n largest are kept per row, so a last member d costs two operations a
row: ``value = sum_r kept_r + sum_r max(S[r, d] - t_r, 0)``, with t the n-th largest of the others.

The saliency here is integer-valued float64 (see `permsolve.partition.quantise`): sums below 2**53 are exact in any
order, so the loops may be vectorised and the values are still integers to the last digit.
"""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled


@compiled
def _insert(kept, depth, column, n):
    """Write the n largest of the first depth + 1 members into kept[depth], given those of the first depth."""
    rows = column.shape[0]
    for r in range(rows):
        carry = column[r]
        if depth == 0:
            kept[0, 0, r] = carry
            for k in range(1, n):
                kept[0, k, r] = 0.0
            continue
        for k in range(n):
            held = kept[depth - 1, k, r]
            kept[depth, k, r] = max(carry, held)
            carry = min(carry, held)


@compiled
def _insert_2(above, below, column):
    """Insert a column into the two largest of every row."""
    a0, a1, b0, b1 = above[0], above[1], below[0], below[1]
    for r in range(column.shape[0]):
        value = column[r]
        first, second = a0[r], a1[r]
        b0[r] = max(first, value)
        b1[r] = max(second, min(first, value))


@compiled
def prefix_base(kept, depth, column, n):
    """Extend the sums of n largest by a column at a depth; return their total."""
    if n == 2 and depth > 0:
        _insert_2(kept[depth - 1], kept[depth], column)
    else:
        _insert(kept, depth, column, n)
    total = 0.0
    for k in range(n):
        part = kept[depth, k]
        for r in range(column.shape[0]):
            total += part[r]
    return total


@compiled
def _last_members(columns, floor, base, first, out, at):
    """Write the values of a prefix with every last member from ``first`` on; return the next position."""
    rows = columns.shape[1]
    cols = columns.shape[0]
    d = first
    while d + 4 <= cols:  # four sums at a time hide the latency of the additions
        w, x, y, z = columns[d], columns[d + 1], columns[d + 2], columns[d + 3]
        sw = sx = sy = sz = 0.0
        for r in range(rows):
            t = floor[r]
            sw += max(w[r] - t, 0.0)
            sx += max(x[r] - t, 0.0)
            sy += max(y[r] - t, 0.0)
            sz += max(z[r] - t, 0.0)
        out[at] = base + sw
        out[at + 1] = base + sx
        out[at + 2] = base + sy
        out[at + 3] = base + sz
        at += 4
        d += 4
    while d < cols:
        w = columns[d]
        sw = 0.0
        for r in range(rows):
            sw += max(w[r] - floor[r], 0.0)
        out[at] = base + sw
        at += 1
        d += 1
    return at


@compiled
def values_from(columns, first, n, m, out):
    """Write the values of all groups whose smallest member is ``first``.

    Parameters
    ----------
    columns
        float64 (cols, rows), integer-valued, entries >= 0.
    first
        Smallest member.
    n, m
        Keep n of every m.
    out
        float64, one entry for each group with this smallest member, in lexicographic order; written.
    """
    cols, rows = columns.shape
    kept = np.zeros((m, n, rows))
    index = np.empty(m, dtype=np.int64)
    base = np.zeros(m)
    index[0] = first
    base[0] = prefix_base(kept, 0, columns[first], n)
    at = 0
    if m == 2:
        _last_members(columns, kept[0, n - 1], base[0], first + 1, out, at)
        return
    depth = 1
    index[1] = first  # advanced before use
    while depth > 0:
        index[depth] += 1
        if index[depth] > cols - m + depth:
            depth -= 1
            continue
        base[depth] = prefix_base(kept, depth, columns[index[depth]], n)
        if depth == m - 2:
            at = _last_members(columns, kept[depth, n - 1], base[depth], index[depth] + 1, out, at)
        else:
            index[depth + 1] = index[depth]
            depth += 1


@compiled
def price_from(values, duals, first, m, threshold, groups, costs, found):
    """Find the groups with smallest member ``first`` whose reduced cost exceeds a threshold.

    Parameters
    ----------
    values
        float64, the values written by `values_from`.
    duals
        float64 (cols,), integer-valued.
    first, m
        As in `values_from`.
    threshold
        Reduced costs above it are reported.
    groups
        Integer (capacity, m), the members of what is found; written from ``found`` on.
    costs
        float64 (capacity,), their reduced costs; written.
    found
        How many are there already.

    Returns
    -------
    tuple
        The largest reduced cost seen, and the number found in all, which may exceed the capacity: the surplus is
        counted and not stored.
    """
    cols = duals.shape[0]
    capacity = costs.shape[0]
    index = np.empty(m, dtype=np.int64)
    paid = np.zeros(m)
    index[0] = first
    paid[0] = duals[first]
    best = -np.inf
    at = 0
    depth = min(m - 2, 1)
    if m > 2:
        index[1] = first
    while depth >= 0:
        if m > 2:
            index[depth] += 1
            if index[depth] > cols - m + depth:
                depth -= 1
                if depth == 0:
                    break
                continue
            paid[depth] = paid[depth - 1] + duals[index[depth]]
            if depth < m - 2:
                index[depth + 1] = index[depth]
                depth += 1
                continue
        cost = paid[m - 2]
        start = index[m - 2] + 1
        count = cols - start
        row = values[at : at + count]
        prices = duals[start:]
        top = -np.inf
        for d in range(count):
            top = max(top, row[d] - prices[d])
        top -= cost
        best = max(best, top)
        if top > threshold:
            for d in range(count):
                reduced = row[d] - prices[d] - cost
                if reduced > threshold:
                    if found < capacity:
                        for k in range(m - 1):
                            groups[found, k] = index[k]
                        groups[found, m - 1] = start + d
                        costs[found] = reduced
                    found += 1
        at += count
        if m == 2:
            break
    return best, found


@compiled
def sums_from(values, first, m, sums):
    """Add the value of every group with smallest member ``first`` to the sums of its members.

    Parameters
    ----------
    values, first, m
        As in `price_from`.
    sums
        float64 (cols,), added to.
    """
    cols = sums.shape[0]
    index = np.empty(m, dtype=np.int64)
    index[0] = first
    at = 0
    depth = min(m - 2, 1)
    if m > 2:
        index[1] = first
    while depth >= 0:
        if m > 2:
            index[depth] += 1
            if index[depth] > cols - m + depth:
                depth -= 1
                if depth == 0:
                    break
                continue
            if depth < m - 2:
                index[depth + 1] = index[depth]
                depth += 1
                continue
        start = index[m - 2] + 1
        count = cols - start
        row = values[at : at + count]
        part = 0.0
        for d in range(count):
            part += row[d]
            sums[start + d] += row[d]
        for k in range(m - 1):
            sums[index[k]] += part
        at += count
        if m == 2:
            break
