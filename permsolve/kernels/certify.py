"""Verification of certificates: every group of m columns, in integers. Shares nothing with the search for bounds."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import exact


@exact
def first_violation(quantised, duals, first, n, m, group):
    """Look for a group with smallest member ``first`` that is worth more than the sum of its duals.

    Parameters
    ----------
    quantised
        int64 (cols, rows): the saliency in integers, >= 0.
    duals
        int64 (cols,).
    first
        Smallest member.
    n, m
        Keep n of every m.
    group
        int64 (m,): the members of the first group found; left alone where there is none.
    """
    cols, rows = quantised.shape
    # largest[p, k, r]: the k-th largest of row r among the first p members of the prefix.
    largest = np.zeros((m, n, rows), dtype=np.int64)
    prefix = np.zeros(m, dtype=np.int64)
    worth = np.zeros(m, dtype=np.int64)
    paid = np.zeros(m, dtype=np.int64)
    size = 0
    candidate = first
    while True:
        # Extend the prefix by the candidate, or step back where too few columns are left.
        if candidate > cols - (m - size) or (size == 0 and candidate > first):
            if size <= 1:
                return
            size -= 1
            candidate = prefix[size] + 1
            continue
        prefix[size] = candidate
        paid[size + 1 - 1] = duals[candidate] + (paid[size - 1] if size > 0 else 0)
        total = np.int64(0)
        for r in range(rows):
            entry = quantised[candidate, r]
            for k in range(n):
                held = largest[size, k, r]
                larger = max(entry, held)
                entry = min(entry, held)
                largest[size + 1, k, r] = larger
                total += larger
        worth[size] = total
        size += 1
        candidate += 1
        if size < m - 1:
            continue
        # All but one member are chosen: try every last one.
        threshold = largest[size, n - 1]
        allowed = paid[size - 1] - worth[size - 1]
        for last in range(candidate, cols):
            column = quantised[last]
            extra = np.int64(0)
            for r in range(rows):
                extra += max(column[r] - threshold[r], np.int64(0))
            if extra > allowed + duals[last]:
                for k in range(m - 1):
                    group[k] = prefix[k]
                group[m - 1] = last
                return
        size -= 1
        candidate = prefix[size] + 1
