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


@exact
def tile_values(columns, rows, kept, n, m, which, out):
    """Write the saliency that tiles of rows keep: per row and group of m kept columns its n largest entries.

    Parameters
    ----------
    columns
        float32 or float64 (cols, rows): the saliency by column, unscaled.
    rows
        int64 (tiles, vector): rows of each tile.
    kept
        int64 (tiles, kept): columns of each tile, in groups of m.
    n
        Entries kept per row and group.
    m
        Group size.
    which
        int64: tiles to evaluate.
    out
        float64, one value for each of them, written.
    """
    vector = rows.shape[1]
    best = np.empty((n, vector), dtype=columns.dtype)
    for t in range(which.shape[0]):
        tile = rows[which[t]]
        chosen = kept[which[t]]
        total = 0.0
        for first in range(0, chosen.shape[0], m):
            best[:, :] = 0
            for x in range(first, first + m):
                column = columns[chosen[x]]
                for v in range(vector):
                    carry = column[tile[v]]
                    for k in range(n):
                        held = best[k, v]
                        best[k, v] = max(carry, held)
                        carry = min(carry, held)
            for k in range(n):
                for v in range(vector):
                    total += best[k, v]
        out[t] = total
