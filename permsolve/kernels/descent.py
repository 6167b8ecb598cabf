"""Exchange sweeps on the full gain matrix."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.groups import refresh_group


@compiled
def exchange_sweep(state, gain, order, n, m, tolerance, touched):
    """Evaluate every exchange, then apply them best first, skipping those that touch a group changed in this sweep.

    The sweep rule of Pool and Yu (NeurIPS 2021).

    Parameters
    ----------
    state
        A `permsolve.kernels.groups.State`, up to date; it is kept so.
    gain
        float32 (cols, cols): the gain matrix, up to date; rows of changed groups are out of date afterwards.
    order
        int64 (cols,), columns in groups of m; changed in place.
    n
        Entries kept per row.
    m
        Group size.
    tolerance
        Smallest delta that counts as an improvement, in units of the packed saliency.
    touched
        bool (groups,), written: the groups that changed.

    Returns
    -------
    int
        Number of exchanges applied.
    """
    cols = order.shape[0]
    touched[:] = False
    count = 0
    for p in range(cols):
        i = order[p]
        for q in range(p - p % m + m, cols):
            j = order[q]
            if gain[i, j] + gain[j, i] - state.losses[i] - state.losses[j] > tolerance:
                count += 1
    if count == 0:
        return 0
    delta = np.empty(count, dtype=np.float32)
    first = np.empty(count, dtype=np.int64)
    second = np.empty(count, dtype=np.int64)
    at = 0
    for p in range(cols):
        i = order[p]
        for q in range(p - p % m + m, cols):
            j = order[q]
            change = gain[i, j] + gain[j, i] - state.losses[i] - state.losses[j]
            if change > tolerance:
                delta[at], first[at], second[at] = -change, p, q
                at += 1
    applied = 0
    for k in np.argsort(delta, kind="mergesort"):  # stable: of equal deltas the first pair goes first
        p, q = first[k], second[k]
        a, b = p // m, q // m
        if touched[a] or touched[b]:
            continue
        touched[a] = touched[b] = True
        order[p], order[q] = order[q], order[p]
        refresh_group(state, order[a * m : a * m + m], n)
        refresh_group(state, order[b * m : b * m + m], n)
        applied += 1
    return applied
