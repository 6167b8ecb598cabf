"""The compiled float64 scorer that the core rescores every offer with."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import exact


@exact
def group_values(columns, order, n, m, out):
    """Write the value of every group: the sum over rows of its n largest entries.

    Parameters
    ----------
    columns
        float32 or float64 (cols, rows): the saliency by column, unscaled.
    order
        int64 (groups * m,), columns in groups of m.
    n
        Entries kept per row and group.
    m
        Group size.
    out
        float64 (groups,), written.
    """
    rows = columns.shape[1]
    kept = np.empty((n, rows), dtype=columns.dtype)
    carry = np.empty(rows, dtype=columns.dtype)
    for group in range(out.shape[0]):
        kept[:, :] = 0
        for x in range(m):
            column = columns[order[group * m + x]]
            for r in range(rows):
                carry[r] = column[r]
            # Insert the column into the n largest so far, row by row; entries are >= 0, so zeros give way.
            for k in range(n):
                best = kept[k]
                for r in range(rows):
                    value, held = carry[r], best[r]
                    best[r] = max(value, held)
                    carry[r] = min(value, held)
        total = 0.0
        for k in range(n):
            for r in range(rows):
                total += kept[k, r]
        out[group] = total
