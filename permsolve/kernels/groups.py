"""Per-group state of the search: thresholds and losses, kept per column.

For a column i of group G, the *threshold* ``t_i[r]`` is the n-th largest of the other m - 1 entries of row r, and the
*loss* is what the group's value falls by when i leaves: ``sum_r max(S[r, i] - t_i[r], 0)``. Putting column j in i's
place then changes the group's value by ``gain(i, j) - loss(i)``, with ``gain(i, j) = sum_r max(S[r, j] - t_i[r], 0)``.

With ``s_k`` the k-th largest of the whole group, ``t_i`` is ``s_{n+1}`` where i is among the n largest and ``s_n``
elsewhere (ties give the same value either way), so two order statistics per row serve all m members.

Arrays are laid out for vector registers: saliency and thresholds are ``(columns, padded rows)`` float32 in C order, so
that the loops over rows are contiguous, and rows are padded with zeros, which add nothing to any sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled

#: Rows handled at a time where a group's order statistics need scratch space; 17 vectors of it stay in L1.
ROW_BLOCK = 128


class State(NamedTuple):
    """The arrays a search works on, allocated once."""

    #: float32 (columns, padded rows): saliency by column.
    saliency: npt.NDArray[Any]
    #: float32 (columns, padded rows): thresholds by column.
    thresholds: npt.NDArray[Any]
    #: float32 (columns,): what a group loses when the column leaves.
    losses: npt.NDArray[Any]
    #: float32 (n + 2, ROW_BLOCK): work space of `refresh_group`.
    scratch: npt.NDArray[Any]


def make_state(saliency: npt.NDArray[Any], n: int) -> State:
    """Allocate the state of a search.

    Parameters
    ----------
    saliency
        float32 (columns, padded rows), for example `Problem.packed`; kept, not copied.
    n
        Entries kept per row.

    Returns
    -------
    State
        With thresholds and losses still to be computed by `refresh_all`.
    """
    return State(
        saliency,
        aligned(saliency.shape),
        np.zeros(saliency.shape[0], dtype=np.float32),
        np.zeros((n + 2, ROW_BLOCK), dtype=np.float32),
    )


@compiled
def _refresh_2_4(saliency, thresholds, losses, members):
    """Refresh a 2:4 group: a sorting network of eight comparisons in registers."""
    i, j, k, q = members[0], members[1], members[2], members[3]
    col_a, col_b, col_c, col_d = saliency[i], saliency[j], saliency[k], saliency[q]
    out_a, out_b, out_c, out_d = thresholds[i], thresholds[j], thresholds[k], thresholds[q]
    zero = np.float32(0)
    loss_a = loss_b = loss_c = loss_d = zero
    for r in range(saliency.shape[1]):
        a, b, c, d = col_a[r], col_b[r], col_c[r], col_d[r]
        inner = min(max(a, b), max(c, d))
        outer = max(min(a, b), min(c, d))
        second, third = max(inner, outer), min(inner, outer)
        t_a = third if a >= second else second
        t_b = third if b >= second else second
        t_c = third if c >= second else second
        t_d = third if d >= second else second
        out_a[r], out_b[r], out_c[r], out_d[r] = t_a, t_b, t_c, t_d
        loss_a += max(a - t_a, zero)
        loss_b += max(b - t_b, zero)
        loss_c += max(c - t_c, zero)
        loss_d += max(d - t_d, zero)
    losses[i], losses[j], losses[k], losses[q] = loss_a, loss_b, loss_c, loss_d


@compiled
def _refresh_any(saliency, thresholds, losses, members, n, scratch):
    """Refresh any group: insertion into a list of the n + 1 largest, vectorised over rows."""
    rows = saliency.shape[1]
    m = members.shape[0]
    zero = np.float32(0)
    for x in range(m):
        losses[members[x]] = zero
    for start in range(0, rows, ROW_BLOCK):
        size = min(ROW_BLOCK, rows - start)
        for k in range(n + 1):
            for r in range(size):
                scratch[k, r] = zero  # entries are >= 0, so zero never displaces one
        for x in range(m):
            column = saliency[members[x], start : start + size]
            carry = scratch[n + 1]
            for r in range(size):
                carry[r] = column[r]
            for k in range(n + 1):
                best = scratch[k]
                for r in range(size):
                    value, held = carry[r], best[r]
                    best[r] = max(value, held)
                    carry[r] = min(value, held)
        last_kept, first_pruned = scratch[n - 1], scratch[n]
        for x in range(m):
            i = members[x]
            column = saliency[i, start : start + size]
            out = thresholds[i, start : start + size]
            loss = zero
            for r in range(size):
                value = column[r]
                t = first_pruned[r] if value >= last_kept[r] else last_kept[r]
                out[r] = t
                loss += max(value - t, zero)
            losses[i] += loss


@compiled
def refresh_group(state, members, n):
    """Recompute thresholds and losses of the members of one group.

    Parameters
    ----------
    state
        A `State`; thresholds and losses are written for the members.
    members
        int (m,), the columns of the group.
    n
        Entries kept per row.
    """
    if n == 2 and members.shape[0] == 4:
        _refresh_2_4(state.saliency, state.thresholds, state.losses, members)
    else:
        _refresh_any(state.saliency, state.thresholds, state.losses, members, n, state.scratch)


@compiled
def refresh_all(state, order, m, n):
    """Run `refresh_group` on every group of ``order``, a sequence of columns in groups of ``m``.

    Parameters
    ----------
    state, n
        As in `refresh_group`.
    order
        int (groups * m,), columns in groups of m.
    m
        Group size.
    """
    for start in range(0, order.shape[0], m):
        refresh_group(state, order[start : start + m], n)


@compiled
def exchange_delta(state, i, j):
    """Change of score when columns i and j of different groups trade places.

    Parameters
    ----------
    state
        A `State`, up to date for both columns.
    i, j
        The columns.

    Returns
    -------
    float32
        ``gain(i, j) - loss(i) + gain(j, i) - loss(j)``.
    """
    col_i, col_j = state.saliency[i], state.saliency[j]
    t_i, t_j = state.thresholds[i], state.thresholds[j]
    zero = np.float32(0)
    total = zero
    for r in range(col_i.shape[0]):
        total += max(col_j[r] - t_i[r], zero) + max(col_i[r] - t_j[r], zero)
    return total - state.losses[i] - state.losses[j]
