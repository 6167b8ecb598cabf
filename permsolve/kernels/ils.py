"""Iterated local search on a window of columns."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.gain import gain_block
from permsolve.kernels.groups import refresh_all, refresh_group
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.stripes import group_value

#: Slots whose gains are computed between two looks at the window's ``halt``.
SLOTS = 32


@compiled
def _changed(state, gain, everything, rows, place, group, n, m):
    """Bring thresholds, losses and gains up to date after a group's members changed."""
    members = place[group * m : group * m + m]
    refresh_group(state, members, n)
    gain_block(state, members, everything, rows)
    for x in range(m):
        gain[members[x], :] = rows[x, :]


@compiled
def _descend(state, gain, everything, rows, place, n, m, tolerance, queue, queued, dirty, halt):
    """Apply the best exchange of every queued group until none improves or it is halted; return the change of score."""
    width = place.shape[0]
    total = 0.0
    head, count = 0, 0
    groups = queued.shape[0]
    for g in range(groups):
        if queued[g]:
            queue[count] = g
            count += 1
    while count > 0 and not halt[0]:
        group = queue[head]
        head = (head + 1) % groups
        count -= 1
        queued[group] = False
        best, p_best, q_best = np.float32(tolerance), -1, -1
        first = group * m
        for p in range(first, first + m):
            i = place[p]
            least = best + state.losses[i]
            for q in range(width):
                j = place[q]
                value = gain[i, j] + gain[j, i] - state.losses[j]
                if value > least and not first <= q < first + m:
                    least = value
                    best, p_best, q_best = least - state.losses[i], p, q
        if p_best >= 0:
            other = q_best // m
            place[p_best], place[q_best] = place[q_best], place[p_best]
            total += best
            for g in (group, other):
                _changed(state, gain, everything, rows, place, g, n, m)
                dirty[g] = True
                if not queued[g]:
                    queued[g] = True
                    queue[(head + count) % groups] = g
                    count += 1
    return total


@compiled
def iterate_window(window, packed, order, n, m, kicks, strength, tolerance, seed):
    """Alternate small random perturbations with exchange descent, keeping what is not worse.

    A perturbation exchanges columns along a cycle of ``strength`` random groups. The descent that follows looks at the
    groups it touched and at those that change in turn; if the outcome is worse, the window returns to where it was.

    Parameters
    ----------
    window, packed, n, m, seed
        As in `permsolve.kernels.anneal.anneal_window`.
    order
        int64 (width,), columns in groups of m; changed in place.
    kicks
        Number of perturbations.
    strength
        Groups a perturbation touches, at least 2.
    tolerance
        Smallest improvement, in units of ``packed``.

    Returns
    -------
    tuple
        Change of score, >= 0 up to rounding, and the number of perturbations made: fewer where the window's ``halt``
        ended the work early.
    """
    state, memo, halt = window
    width = order.shape[0]
    groups = width // m
    strength = min(strength, groups)
    place = np.arange(width)
    kept = np.arange(width)
    queue = np.empty(groups, dtype=np.int64)
    queued = np.ones(groups, dtype=np.bool_)
    dirty = np.zeros(groups, dtype=np.bool_)
    chosen = np.empty(strength, dtype=np.int64)
    for k in range(width):
        state.saliency[k, :] = packed[order[k], :]
    gain = memo.deltas
    everything = np.arange(width)
    rows = np.empty((m, width), dtype=np.float32)
    refresh_all(state, place, m, n)
    for start in range(0, width, SLOTS):
        if not halt[0]:
            gain_block(state, everything[start : start + SLOTS], everything, gain[start : start + SLOTS])
    total = _descend(state, gain, everything, rows, place, n, m, tolerance, queue, queued, dirty, halt)
    kept[:] = place
    made = 0
    while made < kicks and not halt[0]:
        made += 1
        dirty[:] = False
        picked = 0
        while picked < strength:
            seed += GOLDEN
            group = np.int64((mix(seed) >> np.uint64(33)) % np.uint64(groups))
            if not dirty[group]:
                dirty[group] = queued[group] = True
                chosen[picked] = group
                picked += 1
        change = 0.0
        seed += GOLDEN
        z = mix(seed)
        for k in range(strength - 1):
            p = chosen[k] * m + np.int64(z % np.uint64(m))
            q = chosen[k + 1] * m + np.int64((z >> np.uint64(20)) % np.uint64(m))
            z = mix(z)
            i, j = place[p], place[q]
            change += gain[i, j] + gain[j, i] - state.losses[i] - state.losses[j]
            place[p], place[q] = place[q], place[p]
            _changed(state, gain, everything, rows, place, chosen[k], n, m)
            _changed(state, gain, everything, rows, place, chosen[k + 1], n, m)
        change += _descend(state, gain, everything, rows, place, n, m, tolerance, queue, queued, dirty, halt)
        if change >= 0.0:
            total += change
            for g in range(groups):
                if dirty[g]:
                    kept[g * m : g * m + m] = place[g * m : g * m + m]
        else:
            for g in range(groups):
                if dirty[g]:
                    place[g * m : g * m + m] = kept[g * m : g * m + m]
            for g in range(groups):
                if dirty[g] and not halt[0]:
                    _changed(state, gain, everything, rows, place, g, n, m)
    order[:] = order[place]
    return total, made


@compiled
def union_values(packed, halves, n, scratch, out):
    """Compute the value of the union of every two half groups.

    Parameters
    ----------
    packed
        float32 (cols, padded rows).
    halves
        int64 (h, m / 2): columns of each half.
    n
        Entries kept per row.
    scratch
        float32 (at least n + 1, `permsolve.kernels.groups.ROW_BLOCK`).
    out
        float64 (h, h), written above the diagonal.
    """
    half = halves.shape[1]
    members = np.empty(2 * half, dtype=np.int64)
    for a in range(halves.shape[0]):
        members[:half] = halves[a]
        for b in range(a + 1, halves.shape[0]):
            members[half:] = halves[b]
            out[a, b] = group_value(packed, members, n, scratch)
