"""Output errors of all groups of m columns, in integers.

Squares and products are put into integers one by one, rounded *down*; errors made of them are too small by a few units
at most, and bounds on minus the error hold. They are integer-valued float64: sums are exact in any order, so the loops
over rows may be vectorised. Only the products themselves must be computed in the same order everywhere: `products` is
the one place where they are.
"""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled, exact

#: Rows handled at a time: the products of 64 columns then fit the second-level cache.
ROW_BLOCK = 64


@exact
def products(first, second, twice, out):
    """Write the products of two columns' entries with twice their moment, rounded down to integers.

    Parameters
    ----------
    first, second
        float64 (rows,): the columns.
    twice
        Twice the moment, in such units that no product reaches 2**49. Its rounding errors are then below 1/8: with 1/4
        taken away before rounding down no result exceeds the true product.
    out
        float64 (rows,), written.
    """
    for r in range(first.shape[0]):
        product = first[r] * second[r] * twice
        out[r] = np.floor(product - 0.25) if product != 0.0 else 0.0


@compiled
def _set_error(squares, table, members, chosen, size, out):
    """Write the error of a set of members; ``table[x, y]`` holds the products of members x < y."""
    for r in range(size):
        out[r] = 0.0
    for k in range(chosen.shape[0]):
        x = members[chosen[k]]
        square = squares[x]
        for r in range(size):
            out[r] += square[r]
        for j in range(k):
            product = table[members[chosen[j]], x]
            for r in range(size):
                out[r] += product[r]


@compiled
def worth(columns, moments, segments, squares, groups, sets, out):
    """Write minus the errors of some groups.

    Parameters
    ----------
    columns
        float64 (cols, rows): the weights.
    moments
        float64 (moments, cols, cols): twice the moments, see `products`.
    segments
        int64 (moments + 1,): rows ``segments[k]`` to ``segments[k + 1]`` go with moment k.
    squares
        Integer-valued float64 (cols, rows): weights squared times their moment, rounded down.
    groups
        int64 (count, m), members ascending.
    sets
        int64 (sets, pruned): members of a group that may be pruned together.
    out
        float64 (count,), written.
    """
    m = groups.shape[1]
    own = np.empty((m, ROW_BLOCK))
    table = np.zeros((m, m, ROW_BLOCK))
    error, least = np.empty(ROW_BLOCK), np.empty(ROW_BLOCK)
    everyone = np.arange(m)
    for g in range(groups.shape[0]):
        group = groups[g]
        total = 0.0
        for s in range(moments.shape[0]):
            for start in range(segments[s], segments[s + 1], ROW_BLOCK):
                stop = min(start + ROW_BLOCK, segments[s + 1])
                size = stop - start
                for x in range(m):
                    for r in range(size):
                        own[x, r] = squares[group[x], start + r]
                    for y in range(x):
                        i, j = group[y], group[x]
                        products(columns[i, start:stop], columns[j, start:stop], moments[s, i, j], table[y, x, :size])
                least[:] = np.inf
                for k in range(sets.shape[0]):
                    _set_error(own, table, everyone, sets[k], size, error)
                    for r in range(size):
                        least[r] = min(least[r], error[r])
                for r in range(size):
                    total += max(least[r], 0.0)
        out[g] = 0.0 - total


@compiled
def _last_2_4(pairs, base, a, b, c, size, out, at):
    """Subtract the errors of a prefix of three with every last member; ``pairs`` holds the errors of pairs."""
    from_a, from_b, from_c = pairs[a], pairs[b], pairs[c]
    for d in range(c + 1, pairs.shape[0]):
        ad, bd, cd = from_a[d], from_b[d], from_c[d]
        total = 0.0
        for r in range(size):
            total += max(min(min(base[r], ad[r]), min(bd[r], cd[r])), 0.0)
        out[at] -= total
        at += 1
    return at


@compiled
def _last_1_4(squares, table, base, two, a, b, c, size, out, at):
    """Subtract the errors of a prefix of three with every last member, where one of four is kept."""
    from_a, from_b, from_c = table[a], table[b], table[c]
    ab, ac, bc = two[0], two[1], two[2]
    for d in range(c + 1, table.shape[0]):
        ad, bd, cd, own = from_a[d], from_b[d], from_c[d], squares[d]
        total = 0.0
        for r in range(size):
            u, v, w = ad[r], bd[r], cd[r]
            with_last = min(min(ab[r] + (u + v), ac[r] + (u + w)), bc[r] + (v + w)) + own[r]
            total += max(min(base[r], with_last), 0.0)
        out[at] -= total
        at += 1
    return at


@compiled
def _last_any(squares, table, base, begun, starts, members, size, work, out, at):
    """Subtract the errors of a prefix with every last member: it is pruned with one of the sets begun, or kept."""
    least = work[0]
    error = work[1]
    for d in range(members[-1] + 1, table.shape[0]):
        own = squares[d]
        for r in range(size):
            least[r] = base[r] - own[r]
        for k in range(starts.shape[0]):
            before = begun[k]
            for r in range(size):
                error[r] = before[r]
            for j in range(starts.shape[1]):
                product = table[members[starts[k, j]], d]
                for r in range(size):
                    error[r] += product[r]
            for r in range(size):
                least[r] = min(least[r], error[r])
        total = 0.0
        for r in range(size):
            total += max(least[r] + own[r], 0.0)
        out[at] -= total
        at += 1
    return at


@compiled
def _prefix(squares, table, members, whole, starts, size, base, begun, work):
    """Compute what the groups of a prefix have in common: the least error within it, and those of the sets begun."""
    error = work[0]
    for r in range(size):
        base[r] = np.inf
    for k in range(whole.shape[0]):
        _set_error(squares, table, members, whole[k], size, error)
        for r in range(size):
            base[r] = min(base[r], error[r])
    for k in range(starts.shape[0]):
        _set_error(squares, table, members, starts[k], size, begun[k])


@compiled
def _block_from(squares, table, whole, starts, m, size, space, out):
    """Subtract the errors in a block of rows from the values of all groups that begin with column 0."""
    base, begun, work = space
    cols, depth_of_sets = squares.shape[0], whole.shape[1]
    index = np.zeros(m - 1, dtype=np.int64)
    at = 0
    depth = min(1, m - 2)
    while depth >= 0:
        if m > 2:
            index[depth] += 1
            if index[depth] > cols - m + depth:
                depth -= 1
                if depth == 0:
                    break
                continue
            if depth < m - 2:
                index[depth + 1] = index[depth]
                depth += 1
                continue
        _prefix(squares, table, index, whole, starts, size, base, begun, work)
        if m == 4 and depth_of_sets == 2:
            at = _last_2_4(table, base, index[0], index[1], index[2], size, out, at)
        elif m == 4 and depth_of_sets == 3:
            at = _last_1_4(squares, table, base, begun, index[0], index[1], index[2], size, out, at)
        else:
            at = _last_any(squares, table, base, begun, starts, index, size, work, out, at)
        if m == 2:
            break


@compiled
def values_from(columns, moments, segments, squares, first, whole, starts, m, out):
    """Write minus the errors of all groups whose smallest member is ``first``.

    Parameters
    ----------
    columns, moments, segments, squares
        As in `worth`.
    first
        Smallest member.
    whole
        int64 (sets, pruned): which of a group's first m - 1 members may be pruned together, the last being kept.
    starts
        int64 (sets, pruned - 1): which of them may be pruned with the last.
    m
        Group size.
    out
        float64, one entry for each group with this smallest member, in lexicographic order; written.
    """
    count = columns.shape[0] - first
    own = np.empty((count, ROW_BLOCK))
    table = np.empty((count, count, ROW_BLOCK))
    space = (np.empty(ROW_BLOCK), np.empty((starts.shape[0], ROW_BLOCK)), np.empty((2, ROW_BLOCK)))
    pairs = m == 4 and whole.shape[1] == 2
    out[:] = 0.0
    for s in range(moments.shape[0]):
        for start in range(segments[s], segments[s + 1], ROW_BLOCK):
            stop = min(start + ROW_BLOCK, segments[s + 1])
            size = stop - start
            for y in range(count):
                j = first + y
                for r in range(size):
                    own[y, r] = squares[j, start + r]
                for x in range(y):
                    i = first + x
                    products(columns[i, start:stop], columns[j, start:stop], moments[s, i, j], table[x, y, :size])
                    if pairs:  # of 2:4 nothing but the errors of pairs is needed
                        for r in range(size):
                            table[x, y, r] += squares[i, start + r] + squares[j, start + r]
            if pairs:
                own[:, :] = 0.0
            _block_from(own, table, whole, starts, m, size, space, out)
