"""Dynamic programming over subsets of columns."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled


@compiled
def best_partition(masks, values, starts, cols, best, choice):
    """Find the most valuable partition of all columns into groups.

    ``best[s]`` is the value of the best partition of the columns in the bit set s. The group that covers the lowest
    uncovered column is chosen first, so every partition is met once.

    Parameters
    ----------
    masks
        int64 (groups,): the groups as bit sets, in lexicographic order of their members.
    values
        float64 (groups,): their values, integer-valued.
    starts
        int64 (cols + 1,): where the groups of each smallest member begin.
    cols
        Number of columns.
    best
        float64 (2**cols,): written; minus infinity where there is no partition.
    choice
        int32 (2**cols,): the last group of the best partition; written.
    """
    full = (1 << cols) - 1
    best[:] = -np.inf
    best[0] = 0.0
    for covered in range(full):
        value = best[covered]
        if value == -np.inf:
            continue
        lowest = 0
        while (covered >> lowest) & 1:
            lowest += 1
        for k in range(starts[lowest], starts[lowest + 1]):
            if masks[k] & covered == 0:
                joined = covered | masks[k]
                total = value + values[k]
                if total > best[joined]:
                    best[joined] = total
                    choice[joined] = k


@compiled
def trace_back(masks, choice, cols, groups):
    """Write the groups of the partition that `best_partition` found.

    Parameters
    ----------
    masks, choice, cols
        As in `best_partition`.
    groups
        int64 (cols / m,): written.
    """
    left = (1 << cols) - 1
    for slot in range(groups.shape[0]):
        groups[slot] = choice[left]
        left &= ~masks[choice[left]]
    return np.int64(left)
