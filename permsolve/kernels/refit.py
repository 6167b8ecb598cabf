"""Exchanges of a kept and a pruned weight inside a group, on the loss of a least-squares refit.

One row: kept set S, moment A, right-hand side b, weights w = A_SS^-1 b_S, loss = const - b_S w. Everything an exchange
changes is read off the *swept tableau* of A on S (Goodnight, "A tutorial on the SWEEP operator", 1979):

    T_SS = -A_SS^-1     T_SD = A_SS^-1 A_SD     T_DD = A_DD - A_DS A_SS^-1 A_SD
    h_S  = w            h_D  = b_D - A_DS w

Moving k into S or out of it is a pivot at p = T_kk: the loss changes by -h_k^2 / p (T_kk > 0 for pruned k, < 0 for
kept k), and T, h change by a rank-one term, apart from row and column k. With c = T[:, k], but c_k = p - 1 (into S) or
p + 1 (out of it), T changes by -c c^T / p and, at (k, k), by -2 or +2. So the tableau is never rewritten: h and the
blocks of the groups are kept up to date, and a column is made of the first tableau and the pivots since when needed.
"""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled

#: What ``state`` holds: which sweep, which group, exchanges in this sweep, all exchanges.
SWEEP, GROUP, FOUND, TOTAL = 0, 1, 2, 3


@compiled
def _column(table, history, pivots, count, shifts, k, out):
    """Write column k of the tableau after ``count`` pivots."""
    size = len(out)
    for f in range(size):
        out[f] = table[k, f]
    for s in range(count):
        factor = history[s, k] / pivots[s]
        if factor != 0.0:
            for f in range(size):
                out[f] -= factor * history[s, f]
    out[k] += shifts[k]


@compiled
def _pivot(table, linear, blocks, members, history, pivots, count, shifts, k, sign):
    """Pivot at k, into the kept set (sign 1) or out of it (sign -1); return what the loss falls by."""
    column = history[count]
    _column(table, history, pivots, count, shifts, k, column)
    p = column[k]
    fall = linear[k] * linear[k] / p
    column[k] = p - sign
    pivots[count] = p
    shifts[k] -= 2.0 * sign
    slope = linear[k] / p
    for f in range(len(column)):
        linear[f] -= column[f] * slope
    groups, m = members.shape
    for g in range(groups):
        for a in range(m):
            factor = column[members[g, a]] / p
            if members[g, a] == k:
                blocks[g, a, a] -= 2.0 * sign
            for b in range(m):
                blocks[g, a, b] -= factor * column[members[g, b]]
    return fall


@compiled
def _best_exchange(linear, status, block, group, least):
    """Return the fall of a group's best exchange, and the places of its kept and its pruned member."""
    best, leaves, enters = 0.0, -1, -1
    m = len(group)
    for a in range(m):
        if status[group[a]] != 1:
            continue
        p = block[a, a]
        loss = linear[group[a]] * linear[group[a]] / p  # p < 0: what removing a costs, as a negative fall
        for b in range(m):
            if status[group[b]] != 0:
                continue
            slope = linear[group[b]] - block[a, b] * linear[group[a]] / p
            schur = block[b, b] - block[a, b] * block[a, b] / p
            fall = loss + slope * slope / schur
            if schur > least[group[b]] and fall > best:
                best, leaves, enters = fall, group[a], group[b]
    return best, leaves, enters


@compiled
def exchange(table, linear, status, members, least, history, pivots, floor, sweeps, state):
    """Sweep over the groups of a row, making each group's best exchange where it lowers the loss by more than a floor.

    Parameters
    ----------
    table
        float64 (features, features): the tableau swept on the kept set; symmetric.
    linear
        float64 (features,): h; on return, that of the new kept set.
    status
        int8 (features,): 1 kept, 0 pruned, 2 pruned for good; changed in place.
    members
        int64 (groups, m): the features of each group.
    least
        float64 (features,): a feature comes back only if those kept leave more than this of its second moment
        unexplained.
    history
        float64 (2 * exchanges, features): space for as many exchanges as may be made in one call.
    pivots
        float64 (2 * exchanges,).
    floor
        An exchange must lower the loss by more.
    sweeps
        How many sweeps in all.
    state
        int64 (4,): where the sweeps stand, zeros at first; changed in place.

    Returns
    -------
    tuple
        What the loss fell by, and whether the space is used up: then make the tableau anew and call again.
    """
    groups, m = members.shape
    shifts = np.zeros(len(linear))
    count = 0
    blocks = np.empty((groups, m, m))
    for g in range(groups):
        for a in range(m):
            for b in range(m):
                blocks[g, a, b] = table[members[g, a], members[g, b]]
    total = 0.0
    while state[SWEEP] < sweeps:
        while state[GROUP] < groups:
            g = state[GROUP]
            fall, leaves, enters = _best_exchange(linear, status, blocks[g], members[g], least)
            if fall > floor:
                if count + 2 > len(history):
                    return total, True
                total += _pivot(table, linear, blocks, members, history, pivots, count, shifts, leaves, -1.0)
                total += _pivot(table, linear, blocks, members, history, pivots, count + 1, shifts, enters, 1.0)
                count += 2
                status[leaves], status[enters] = 0, 1
                state[FOUND] += 1
                state[TOTAL] += 1
            state[GROUP] += 1
        state[GROUP] = 0
        state[SWEEP] = sweeps if state[FOUND] == 0 else state[SWEEP] + 1
        state[FOUND] = 0
    return total, False
