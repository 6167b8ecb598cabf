"""Exact transposable masks: n entries of every row and of every column of an m x m block, the best such choice.

The best mask is a transportation problem: rows and columns are the two sides of a bipartite graph, each with n units,
and every entry may be used once. Its dual has a price ``u_i`` for every row and ``v_j`` for every column; a mask is
best if every row and column keeps n entries, kept entries have ``s_ij >= u_i + v_j`` and the others
``s_ij <= u_i + v_j``.

`balance` starts where that holds but rows keep more or fewer than n entries, and moves one unit at a time from a row
with too many to a row with too few along a cheapest path (Dijkstra on reduced costs, which the prices keep
non-negative). What the dual objective falls by on the way tells how far the value is below what the given prices
promised. Good first prices leave few units to move; after one column of a solved block is replaced, about
``n * (m - n) / m``.

For m = 2 and m = 4 values alone need no search: they are read off closed forms, for many blocks at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled, exact

#: Blocks with an entry above are scaled down, so that no sum of prices overflows.
_HUGE = 1e300
_SCALE = 2.0**-64
#: Rounds of prices for columns and rows in turn, before a block is balanced.
PASSES = 1


class Block(NamedTuple):
    """An m x m block and its solution, twice: entry ``[0, j, i]`` and entry ``[1, i, j]`` are column j and row i.

    Columns are side 0 and rows side 1, so that ``[side, x]`` is contiguous for either. All types are 8 bytes wide,
    which lets the compiler use vector registers.
    """

    #: float64 (2, m, m): the entries.
    values: npt.NDArray[Any]
    #: int64 (2, m, m): 1 where an entry is kept.
    kept: npt.NDArray[Any]
    #: float64 (2, m): prices of the columns and of the rows.
    prices: npt.NDArray[Any]
    #: int64 (m,): entries kept of each row.
    taken: npt.NDArray[Any]
    #: float64 (2, m): lengths of paths to columns and to rows.
    lengths: npt.NDArray[Any]
    #: float64 (2, m): the same where they may still shrink, infinite where they are final.
    still: npt.NDArray[Any]
    #: int64 (2, m): the row before each column of a path, and the column before each row.
    before: npt.NDArray[Any]
    #: float64 (n + 1, m): work space of sorting.
    held: npt.NDArray[Any]


@compiled
def make_block(n, m):
    """Allocate the work space of blocks of one size; for kernels.

    Parameters
    ----------
    n
        Entries kept per row and column.
    m
        Rows and columns of a block.

    Returns
    -------
    Block
        The work space.
    """
    return Block(
        np.zeros((2, m, m), dtype=np.float64),
        np.zeros((2, m, m), dtype=np.int64),
        np.zeros((2, m), dtype=np.float64),
        np.zeros(m, dtype=np.int64),
        np.zeros((2, m), dtype=np.float64),
        np.zeros((2, m), dtype=np.float64),
        np.zeros((2, m), dtype=np.int64),
        np.zeros((n + 1, m), dtype=np.float64),
    )


@compiled
def set_kept(block, j, i, kept):
    """Keep an entry, or not.

    Parameters
    ----------
    block
        The block.
    j
        Column.
    i
        Row.
    kept
        1 or 0.
    """
    block.kept[0, j, i] = kept
    block.kept[1, i, j] = kept


@compiled
def choose_column(block, j, n):
    """Let a column keep the n rows that are worth most after their prices, and set its own price.

    Parameters
    ----------
    block
        The block; ``taken`` is raised and does not count what the column kept before.
    j
        The column.
    n
        Entries kept.
    """
    m = block.taken.shape[0]
    values, prices, chosen = block.values[0, j], block.prices[1], block.kept[0, j]
    worth, rank = block.lengths[1], block.before[1]
    for i in range(m):
        worth[i] = values[i] - prices[i]
        rank[i] = 0
    for k in range(m):
        rival = worth[k]
        for i in range(m):
            rank[i] += (rival > worth[i]) | ((rival == worth[i]) & (k < i))
    for i in range(m):
        chosen[i] = rank[i] < n
        block.taken[i] += chosen[i]
        block.kept[1, i, j] = chosen[i]
        if rank[i] == n - 1:
            block.prices[0, j] = worth[i]


@compiled
def _price(block, side, n):
    """Set prices to the middle between the last entry that each column or row would keep by itself and the next."""
    m = block.taken.shape[0]
    held, carry = block.held, block.still[0]
    held[:, :] = -np.inf
    for x in range(m):
        entries, price = block.values[1 - side, x], block.prices[1 - side, x]
        for y in range(m):
            carry[y] = entries[y] - price
        for k in range(n + 1):
            best = held[k]
            for y in range(m):
                worth, most = carry[y], best[y]
                best[y] = max(worth, most)
                carry[y] = min(worth, most)
    for y in range(m):
        block.prices[side, y] = 0.5 * held[n - 1, y] + 0.5 * held[n, y]


@compiled
def _least(numbers):
    """Return the smallest number and where it is first."""
    least = np.inf
    for x in range(numbers.shape[0]):
        least = min(least, numbers[x])
    for x in range(numbers.shape[0]):
        if numbers[x] == least:
            return least, x
    return least, 0


@compiled
def _relax(block, side, at, length):
    """Extend a path that ends at a row (side 1: it gives up a kept entry) or column (side 0: it takes a free one)."""
    m = block.taken.shape[0]
    values, kept, prices = block.values[side, at], block.kept[side, at], block.prices[1 - side]
    lengths, still, before = block.lengths[1 - side], block.still[1 - side], block.before[1 - side]
    own = block.prices[side, at]
    sign = 1.0 if side == 1 else -1.0
    for x in range(m):
        reduced = max(sign * (values[x] - own - prices[x]), 0.0)
        longer = length + reduced
        closer = (kept[x] == side) & (longer < lengths[x])
        lengths[x] = longer if closer else lengths[x]
        still[x] = longer if closer else still[x]
        before[x] = at if closer else before[x]


@compiled
def _nearest(block, n):
    """Find the nearest row with fewer than n entries; return it and how far it is."""
    m = block.taken.shape[0]
    for i in range(m):
        start = 0.0 if block.taken[i] > n else np.inf
        block.lengths[1, i] = block.still[1, i] = start
        block.lengths[0, i] = block.still[0, i] = np.inf
        block.before[1, i] = -1
    while True:
        row_length, row = _least(block.still[1])
        column_length, column = _least(block.still[0])
        if column_length < row_length:
            block.still[0, column] = np.inf
            _relax(block, 0, column, column_length)
        elif block.taken[row] < n:
            return row, row_length
        else:
            block.still[1, row] = np.inf
            _relax(block, 1, row, row_length)


@compiled
def balance(block, n):
    """Give every row n entries, best in all, where every column has n and prices and mask agree.

    Parameters
    ----------
    block
        The block; ``prices``, ``kept`` and ``taken`` are changed.
    n
        Entries kept per row and column.

    Returns
    -------
    float
        How far the value is below the dual objective of the prices given, >= 0.
    """
    m = block.taken.shape[0]
    surplus = 0
    for i in range(m):
        surplus += max(block.taken[i] - n, 0)
    total = 0.0
    for left in range(surplus, 0, -1):
        row, length = _nearest(block, n)
        total += left * length  # the prices of all rows with too many entries rise
        for i in range(m):
            block.prices[1, i] += max(length - block.lengths[1, i], 0.0)
            block.prices[0, i] -= max(length - block.lengths[0, i], 0.0)
        block.taken[row] += 1
        while block.before[1, row] >= 0:
            column = block.before[1, row]
            set_kept(block, column, row, 1)
            row = block.before[0, column]
            set_kept(block, column, row, 0)
        block.taken[row] -= 1
    return total


@compiled
def solve_block(block, n):
    """Find the best mask of a block from scratch.

    Parameters
    ----------
    block
        The block; reads ``values``, writes everything else.
    n
        Entries kept per row and column.
    """
    m = block.taken.shape[0]
    block.prices[:, :] = 0.0
    _price(block, 1, n)
    for _ in range(PASSES):
        _price(block, 0, n)
        _price(block, 1, n)
    block.taken[:] = 0
    for j in range(m):
        choose_column(block, j, n)
    balance(block, n)


@compiled
def best_2_of_4(a, b, c, d):
    """Return the value of the best 2:4 mask of a 4 x 4 block; elementwise code for vector registers.

    Two rows that take columns {i, x} and {i, y} leave {k, x} and {k, y} to the others; two that take the same columns
    or disjoint ones leave the rest. With the better crossing of two columns, ``M_xy = max(a_x + b_y, a_y + b_x)``, the
    90 masks come down to 92 sums and maxima.

    Parameters
    ----------
    a, b, c, d
        Tuples of four numbers: the rows.

    Returns
    -------
    float
        The largest sum of two entries from each row and column.
    """
    s0, s1, s2, s3 = a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
    t0, t1, t2, t3 = c[0] + d[0], c[1] + d[1], c[2] + d[2], c[3] + d[3]
    x01, y01, z01 = max(a[0] + b[1], a[1] + b[0]), max(c[0] + d[1], c[1] + d[0]), max(s0 + t1, s1 + t0)
    x02, y02, z02 = max(a[0] + b[2], a[2] + b[0]), max(c[0] + d[2], c[2] + d[0]), max(s0 + t2, s2 + t0)
    x03, y03, z03 = max(a[0] + b[3], a[3] + b[0]), max(c[0] + d[3], c[3] + d[0]), max(s0 + t3, s3 + t0)
    x12, y12, z12 = max(a[1] + b[2], a[2] + b[1]), max(c[1] + d[2], c[2] + d[1]), max(s1 + t2, s2 + t1)
    x13, y13, z13 = max(a[1] + b[3], a[3] + b[1]), max(c[1] + d[3], c[3] + d[1]), max(s1 + t3, s3 + t1)
    x23, y23, z23 = max(a[2] + b[3], a[3] + b[2]), max(c[2] + d[3], c[3] + d[2]), max(s2 + t3, s3 + t2)
    same = max(z01 + z23, z02 + z13)
    disjoint = max(x01 + x23, x02 + x13) + max(y01 + y23, y02 + y13)
    one = max(max(x01 + y01 + z23, x23 + y23 + z01), max(x02 + y02 + z13, x13 + y13 + z02))
    return max(max(same, disjoint), max(one, max(x03 + y03 + z12, x12 + y12 + z03)))


@compiled
def best_1_of_4(a, b, c, d):
    """Return the value of the best 1:4 mask of a 4 x 4 block: an assignment.

    Parameters
    ----------
    a, b, c, d
        Tuples of four numbers of any sign: the rows.

    Returns
    -------
    float
        The largest sum of one entry from each row and column.
    """
    x01, y23 = max(a[0] + b[1], a[1] + b[0]), max(c[2] + d[3], c[3] + d[2])
    x02, y13 = max(a[0] + b[2], a[2] + b[0]), max(c[1] + d[3], c[3] + d[1])
    x03, y12 = max(a[0] + b[3], a[3] + b[0]), max(c[1] + d[2], c[2] + d[1])
    x12, y03 = max(a[1] + b[2], a[2] + b[1]), max(c[0] + d[3], c[3] + d[0])
    x13, y02 = max(a[1] + b[3], a[3] + b[1]), max(c[0] + d[2], c[2] + d[0])
    x23, y01 = max(a[2] + b[3], a[3] + b[2]), max(c[0] + d[1], c[1] + d[0])
    return max(max(x01 + y23, max(x02 + y13, x03 + y12)), max(x12 + y03, max(x13 + y02, x23 + y01)))


@compiled
def _line(block, x, g, sign):
    return sign * block[0, x, g], sign * block[1, x, g], sign * block[2, x, g], sign * block[3, x, g]


@compiled
def narrow_values(blocks, n, out):
    """Write the values of many blocks of 2 x 2 or 4 x 4, in vector registers.

    Parameters
    ----------
    blocks
        float64 (m, m, blocks): entries by column, row and block; m is 2 or 4.
    n
        Entries kept per row and column.
    out
        float64 (blocks,), written.
    """
    m = blocks.shape[0]
    if m == 2:
        for g in range(out.shape[0]):
            out[g] = max(blocks[0, 0, g] + blocks[1, 1, g], blocks[0, 1, g] + blocks[1, 0, g])
    elif n == 2:
        for g in range(out.shape[0]):
            out[g] = best_2_of_4(
                _line(blocks, 0, g, 1.0), _line(blocks, 1, g, 1.0), _line(blocks, 2, g, 1.0), _line(blocks, 3, g, 1.0)
            )
    else:  # keeping three is leaving one out
        sign = 1.0 if n == 1 else -1.0
        for g in range(out.shape[0]):
            out[g] = best_1_of_4(
                _line(blocks, 0, g, sign),
                _line(blocks, 1, g, sign),
                _line(blocks, 2, g, sign),
                _line(blocks, 3, g, sign),
            )
        if n == 3:
            for j in range(m):
                for i in range(m):
                    for g in range(out.shape[0]):
                        out[g] += blocks[j, i, g]


@compiled
def _load(block, entries):
    """Copy a block's entries, (columns, rows), and return the factor that they are multiplied by."""
    m = block.taken.shape[0]
    largest = 0.0
    for j in range(m):
        for i in range(m):
            largest = max(largest, np.float64(entries[j, i]))
    factor = _SCALE if largest > _HUGE else 1.0
    for j in range(m):
        for i in range(m):
            block.values[0, j, i] = block.values[1, i, j] = entries[j, i] * factor
    return factor


@exact
def _kept_sum(block):
    total = 0.0
    m = block.taken.shape[0]
    for j in range(m):
        for i in range(m):
            if block.kept[0, j, i] == 1:
                total += block.values[0, j, i]
    return total


@compiled
def block_values(columns, rows, order, n, which, out):
    """Write the values of blocks: the largest sum of a mask with n entries in every row and column.

    Blocks are numbered row by row: block ``a * len(order) + b`` consists of ``rows[a]`` and ``order[b]``. Blocks of one
    group of columns are computed together, so that each column is fetched once.

    Parameters
    ----------
    columns
        float32 or float64 (cols, rows), C order: the saliency by column, finite, >= 0.
    rows
        int64 (row groups, m): members of the groups of rows.
    order
        int64 (column groups, m): members of the groups of columns.
    n
        Entries kept per row and column of a block.
    which
        int64: blocks to evaluate, without repetition.
    out
        float64, one value for each of them, written.
    """
    tall, m = rows.shape
    wide = order.shape[0]
    place = np.full((wide, tall), -1, dtype=np.int64)
    for k in range(which.shape[0]):
        place[which[k] % wide, which[k] // wide] = k
    block = make_block(n, m)
    narrow = m == 2 or m == 4
    gathered = np.empty((m, m, tall if narrow else 1))
    values = np.empty(tall if narrow else 0)
    entries = np.empty((m, m))
    for b in range(wide):
        if place[b].max() < 0:
            continue
        if narrow:
            for j in range(m):
                column = columns[order[b, j]]
                for i in range(m):
                    for a in range(tall):
                        gathered[j, i, a] = column[rows[a, i]]
            narrow_values(gathered, n, values)
        for a in range(tall):
            if place[b, a] < 0:
                continue
            if narrow:
                out[place[b, a]] = values[a]
                continue
            for j in range(m):
                column = columns[order[b, j]]
                for i in range(m):
                    entries[j, i] = column[rows[a, i]]
            factor = _load(block, entries)
            solve_block(block, n)
            out[place[b, a]] = _kept_sum(block) / factor


@compiled
def block_masks(permuted, n, m, out):
    """Write the best mask of every m x m block of a matrix.

    Of several best masks the choice is deterministic: it depends on the block's entries alone.

    Parameters
    ----------
    permuted
        float32 or float64 (rows, cols): saliency, finite, >= 0, in permuted order.
    n
        Entries kept per row and column of a block.
    m
        Rows and columns of a block.
    out
        bool (rows, cols), written: whether an entry is kept.
    """
    block = make_block(n, m)
    for top in range(0, permuted.shape[0], m):
        for left in range(0, permuted.shape[1], m):
            _load(block, permuted[top : top + m, left : left + m].T)
            solve_block(block, n)
            for i in range(m):
                for j in range(m):
                    out[top + i, left + j] = block.kept[0, j, i] == 1
