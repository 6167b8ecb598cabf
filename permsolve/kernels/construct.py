"""Placing columns one by one."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled


@compiled
def place_columns(packed, columns, kept, members, sizes, n, m):
    """Put each column into the group where it adds most, of those with the fewest columns.

    Parameters
    ----------
    packed
        float32 (cols, padded rows).
    columns
        int64 (k,): the columns to place, in this order.
    kept
        float32 (groups, n, padded rows): the n largest entries of each row so far, falling; updated.
    members
        int64 (groups, m): columns placed so far; updated.
    sizes
        int64 (groups,): how many; updated.
    n
        Entries kept per row.
    m
        Group size.
    """
    rows = packed.shape[1]
    carry = np.empty(rows, dtype=np.float32)
    for column in columns:
        level = sizes.min()  # rounds: no group gets its next column before all have as many
        values = packed[column]
        best, chosen = np.float32(-1), -1
        for group in range(sizes.shape[0]):
            size = sizes[group]
            if size != level:
                continue
            # The group's fair share of kept entries: a newcomer displaces the last of them.
            floor = kept[group, min(size * n // m, n - 1)]
            gain = np.float32(0)
            for r in range(rows):
                gain += max(values[r] - floor[r], np.float32(0))
            if gain > best:
                best, chosen = gain, group
        for r in range(rows):
            carry[r] = values[r]
        for k in range(n):
            row = kept[chosen, k]
            for r in range(rows):
                value, held = carry[r], row[r]
                row[r] = max(value, held)
                carry[r] = min(value, held)
        members[chosen, sizes[chosen]] = column
        sizes[chosen] += 1
