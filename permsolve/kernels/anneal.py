"""Simulated annealing on a window of columns."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.groups import exchange_delta, refresh_all, refresh_group

#: Quantiles of the logarithm of a uniform variable: the Metropolis test needs no logarithm per proposal.
LOG_UNIFORM = np.log((np.arange(1024) + 0.5) / 1024).astype(np.float32)
#: Proposals between two temperatures.
STEP = 128

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW_27 = np.uint64(0x7FFFFFF)


@compiled
def anneal_window(saliency, thresholds, losses, order, best, m, n, start, end, proposals, seed, memo, stamps, versions,
                  scratch):
    """Metropolis swaps of columns between the groups of a window, cooling geometrically.

    A proposal picks two columns of different groups and reads the exchange's delta off their thresholds. Deltas are
    memoised: each column carries a version that rises when its group changes, and a stored delta is valid as long as
    the sum of the two versions is the one it was computed at. Near the freezing point, where annealing spends its time,
    most proposals then cost one look-up instead of a pass over the rows.

    Parameters
    ----------
    saliency
        float32 (width, padded rows): the window's columns.
    thresholds, losses, versions
        Work space: float32 (width, padded rows), float32 (width,), int32 (width,).
    order
        int64 (width,), columns in groups of m, changed in place to the last state.
    best
        int64 (width,), receives the best order seen.
    m, n
        Group size, entries kept.
    start, end
        First and last temperature, in units of the saliency; ``start >= end > 0``.
    proposals
        Number of proposals; rounded up to a multiple of `STEP`.
    seed
        uint64 seed of a SplitMix64 stream (Steele, Lea and Flood, 2014).
    memo, stamps
        Work space: float32 and int32 (width, width).
    scratch
        As in `refresh_group`.

    Returns
    -------
    tuple
        Change of score of the last state and of the best state against the first (float64), and the number of accepted
        proposals.
    """
    width = order.shape[0]
    log_uniform = LOG_UNIFORM
    stamps[:, :] = -1
    versions[:] = 0
    best[:] = order
    refresh_all(saliency, thresholds, losses, order, m, n, scratch)
    current = 0.0
    top = 0.0
    accepted = 0
    steps = max((proposals + STEP - 1) // STEP, 1)
    cooling = (end / start) ** (1.0 / steps)
    temperature = start
    columns = np.uint64(width)
    others = np.uint64(width - m)
    for _ in range(steps):
        scale = np.float32(temperature)
        for _ in range(STEP):
            seed += _GOLDEN
            z = seed
            z = (z ^ (z >> np.uint64(30))) * _MIX_1
            z = (z ^ (z >> np.uint64(27))) * _MIX_2
            z = z ^ (z >> np.uint64(31))
            p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
            q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
            group = p - p % m
            if q >= group:
                q += m
            i, j = order[p], order[q]
            low, high = min(i, j), max(i, j)
            stamp = versions[i] + versions[j]
            if stamps[low, high] == stamp:
                delta = memo[low, high]
            else:
                delta = exchange_delta(saliency, thresholds, losses, i, j)
                memo[low, high] = delta
                stamps[low, high] = stamp
            if delta >= scale * log_uniform[z >> np.uint64(54)]:
                other = q - q % m
                order[p], order[q] = j, i
                refresh_group(saliency, thresholds, losses, order[group : group + m], n, scratch)
                refresh_group(saliency, thresholds, losses, order[other : other + m], n, scratch)
                for x in range(m):
                    versions[order[group + x]] += 1
                    versions[order[other + x]] += 1
                current += delta
                accepted += 1
                if current > top:
                    top = current
                    best[:] = order
        temperature *= cooling
    return current, top, accepted
