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


@exact
def first_error_violation(weights, moments, segments, duals, first, sets, m, group):
    """Look for a group with smallest member ``first`` whose error is less than minus the sum of its duals.

    Parameters
    ----------
    weights
        float64 (cols, rows).
    moments
        float64 (moments, cols, cols), in units of the certificate.
    segments
        int64 (moments + 1,): rows ``segments[k]`` to ``segments[k + 1]`` go with moment k.
    duals
        int64 (cols,).
    first
        Smallest member.
    sets
        int64 (sets, pruned): members of a group that may be pruned together.
    m
        Group size.
    group
        int64 (m,): the members of the first group found; left alone where there is none.
    """
    cols = weights.shape[0]
    members = np.arange(m) + first
    block = 256
    # terms[x, y]: products of members x > y, and squares, in integers; kept while the members stay.
    terms = np.zeros((m, m, weights.shape[1]), dtype=np.int64)
    error, least = np.zeros(block, dtype=np.int64), np.zeros(block, dtype=np.int64)
    changed = 0
    while True:
        for x in range(changed, m):
            for s in range(moments.shape[0]):
                for y in range(x + 1):
                    moment = moments[s, members[x], members[y]] * (1.0 if x == y else 2.0)
                    for r in range(segments[s], segments[s + 1]):
                        term = weights[members[y], r] * weights[members[x], r] * moment
                        whole = np.int64(np.floor(term - 0.25))
                        # Squares are not negative, and a product of zero is exact.
                        terms[x, y, r] = max(whole, np.int64(0)) if x == y else np.int64(0) if term == 0.0 else whole
        total = np.int64(0)
        for start in range(0, weights.shape[1], block):
            size = min(block, weights.shape[1] - start)
            for k in range(sets.shape[0]):
                error[:] = 0
                for i in range(sets.shape[1]):
                    for j in range(i + 1):
                        part = terms[sets[k, i], sets[k, j], start : start + size]
                        for r in range(size):
                            error[r] += part[r]
                for r in range(size):
                    least[r] = error[r] if k == 0 else min(least[r], error[r])
            for r in range(size):
                total += max(least[r], np.int64(0))
        paid = np.int64(0)
        for x in range(m):
            paid += duals[members[x]]
        if paid < -total:
            for x in range(m):
                group[x] = members[x]
            return
        # The next group in lexicographic order.
        changed = m - 1
        while changed > 0 and members[changed] == cols - m + changed:
            changed -= 1
        if changed == 0:
            return
        members[changed] += 1
        for x in range(changed + 1, m):
            members[x] = members[x - 1] + 1
