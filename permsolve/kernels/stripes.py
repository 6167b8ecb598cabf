"""Exhaustive regrouping of a few groups at a time."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.groups import ROW_BLOCK


@compiled
def _value_2_4(packed, a, b, c, d):
    """Sum over rows of the two largest of four columns: the best of three pair sums."""
    col_a, col_b, col_c, col_d = packed[a], packed[b], packed[c], packed[d]
    total = np.float32(0)
    for r in range(packed.shape[1]):
        x, y, z, w = col_a[r], col_b[r], col_c[r], col_d[r]
        total += max(max(x, y) + max(z, w), max(x + y, z + w))
    return total


@compiled
def group_value(packed, members, n, scratch):
    """Return the value of one group: the sum over rows of its n largest entries.

    Parameters
    ----------
    packed
        float32 (cols, padded rows), entries >= 0.
    members
        int64 (m,), the columns.
    n
        Entries kept per row.
    scratch
        float32 (at least n + 1, ROW_BLOCK).

    Returns
    -------
    float
        The value, in units of ``packed``.
    """
    m = members.shape[0]
    if n == 2 and m == 4:
        return float(_value_2_4(packed, members[0], members[1], members[2], members[3]))
    total = 0.0
    for start in range(0, packed.shape[1], ROW_BLOCK):
        size = min(ROW_BLOCK, packed.shape[1] - start)
        for k in range(n):
            for r in range(size):
                scratch[k, r] = np.float32(0)
        carry = scratch[n]
        for x in range(m):
            column = packed[members[x], start : start + size]
            for r in range(size):
                carry[r] = column[r]
            for k in range(n):
                best = scratch[k]
                for r in range(size):
                    value, held = carry[r], best[r]
                    best[r] = max(value, held)
                    carry[r] = min(value, held)
        part = np.float32(0)
        for k in range(n):
            for r in range(size):
                part += scratch[k, r]
        total += part
    return total


@compiled
def best_regroupings(packed, order, stripes, subsets, partitions, n, m, gains, choices):
    """Find the best regrouping of every stripe, a set of k groups.

    Parameters
    ----------
    packed
        float32 (cols, padded rows).
    order
        int64 (cols,), columns in groups of m.
    stripes
        int64 (count, k): the groups of each stripe.
    subsets
        int64 (s, m): the subsets of ``0 .. k * m - 1`` that the partitions use.
    partitions
        int64 (p, k): each partition of the stripe's columns, as k subsets; partition 0 changes nothing.
    n
        Entries kept per row.
    m
        Group size.
    gains
        float64 (count,), written: value of the best partition less the value now.
    choices
        int64 (count,), written: the best partition.
    """
    k = stripes.shape[1]
    members = np.empty(k * m, dtype=np.int64)
    chosen = np.empty(m, dtype=np.int64)
    values = np.empty(subsets.shape[0])
    scratch = np.empty((n + 1, ROW_BLOCK), dtype=np.float32)
    for stripe in range(stripes.shape[0]):
        for g in range(k):
            start = stripes[stripe, g] * m
            members[g * m : g * m + m] = order[start : start + m]
        for s in range(subsets.shape[0]):
            for x in range(m):
                chosen[x] = members[subsets[s, x]]
            values[s] = group_value(packed, chosen, n, scratch)
        now = 0.0
        for g in range(k):
            now += values[partitions[0, g]]
        best, choice = now, 0
        for p in range(1, partitions.shape[0]):
            value = 0.0
            for g in range(k):
                value += values[partitions[p, g]]
            if value > best:
                best, choice = value, p
        gains[stripe], choices[stripe] = best - now, choice
