"""Annealing for transposable masks of 2 x 2 and 4 x 4 blocks.

With the rows' groups fixed the score is a sum over groups of columns, and a group's value with one member replaced by a
column x is, block by block, ``max_T (x_T + rest_T)``: T runs over the rows that x may keep, and ``rest_T`` is the best
that the other members do then. So two columns of different groups are exchanged at the price of two independent
replacements, each a few vector operations per sixteen blocks, and what a replacement gives holds until that group
changes. The kernels call what moves "columns"; the search gives them the transpose to move rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.anneal import LOG_UNIFORM, STEP
from permsolve.kernels.splitmix import GOLDEN, mix

#: Blocks are padded with zeros to a multiple of this.
LANES = 16

_LOW_27 = np.uint64(0x7FFFFFF)


class Narrow(NamedTuple):
    """Work space of one window: some columns, and everything that is known about replacements among them."""

    #: float32 (width, m, padded row groups): saliency by column, position in the row group, and row group.
    saliency: npt.NDArray[Any]
    #: float32 (width, choices, padded row groups): ``rest`` of every slot, for every set of rows T.
    rest: npt.NDArray[Any]
    #: int64 (width,): the version of its group that a slot's ``rest`` belongs to.
    built: npt.NDArray[Any]
    #: float32 (width, width): value of a slot's group with a column in that slot.
    values: npt.NDArray[Any]
    #: int32 (width, width): the version of the slot's group that such a value belongs to.
    stamps: npt.NDArray[Any]
    #: int64 (groups,): how often a group has changed, from 1.
    versions: npt.NDArray[Any]
    #: float32 (groups,): values of the groups.
    held: npt.NDArray[Any]
    #: bool (1,): set from another thread to make a kernel return early, at the end of the time.
    halt: npt.NDArray[Any]


def make_narrow(width: int, rows: int, n: int, m: int, halt: npt.NDArray[np.bool_]) -> Narrow:
    """Allocate the work space of a window.

    Parameters
    ----------
    width
        Number of columns, a multiple of m.
    rows
        Number of rows, a multiple of m.
    n
        Entries kept per row and column of a block.
    m
        Rows and columns of a block: 2 or 4.
    halt
        bool (1,), kept: several windows may share it.

    Returns
    -------
    Narrow
        The work space.
    """
    padded = -(-(rows // m) // LANES) * LANES
    choices = 6 if (n, m) == (2, 4) else m
    return Narrow(
        aligned((width, m, padded)),
        aligned((width, choices, padded)),
        np.zeros(width, dtype=np.int64),
        np.zeros((width, width), dtype=np.float32),
        np.zeros((width, width), dtype=np.int32),
        np.zeros(width // m, dtype=np.int64),
        np.zeros(width // m, dtype=np.float32),
        halt,
    )


@compiled
def load(window, packed, rows, order, m):
    """Copy a window's columns and forget what was known about others.

    Parameters
    ----------
    window
        The work space.
    packed
        float32 (cols, rows): the saliency by column.
    rows
        int64 (rows,): rows in groups of m.
    order
        int64 (width,): the columns.
    m
        Group size.
    """
    for k in range(order.shape[0]):
        column = packed[order[k]]
        for i in range(m):
            target = window.saliency[k, i]
            for g in range(rows.shape[0] // m):
                target[g] = column[rows[g * m + i]]
    window.built[:] = 0
    window.stamps[:, :] = 0
    window.versions[:] = 1


@compiled
def _rest_2_of_4(x, y, z, rest):
    """Write the best completions of a column that keeps two rows; ``x``, ``y`` and ``z`` are the other columns.

    The two rows get one more entry each, the others two each. The columns of the former are those that the latter leave
    out: the same column twice, or two columns crossed one way or the other.
    """
    k = 0
    for i in range(3):
        for j in range(i + 1, 4):
            a = 1 if i == 0 else 0
            if a == j:
                a = 2
            b = 6 - i - j - a
            xi, xj, xa, xb = x[i], x[j], x[a], x[b]
            yi, yj, ya, yb = y[i], y[j], y[a], y[b]
            zi, zj, za, zb = z[i], z[j], z[a], z[b]
            out = rest[k]
            k += 1
            for g in range(out.shape[0]):
                same = max(
                    xi[g] + xj[g] - xa[g] - xb[g], max(yi[g] + yj[g] - ya[g] - yb[g], zi[g] + zj[g] - za[g] - zb[g])
                )
                xy = max(xi[g] + yj[g], xj[g] + yi[g]) - min(xa[g] + yb[g], xb[g] + ya[g])
                xz = max(xi[g] + zj[g], xj[g] + zi[g]) - min(xa[g] + zb[g], xb[g] + za[g])
                yz = max(yi[g] + zj[g], yj[g] + zi[g]) - min(ya[g] + zb[g], yb[g] + za[g])
                kept = xa[g] + xb[g] + ya[g] + yb[g] + za[g] + zb[g]
                out[g] = kept + max(max(same, xy), max(xz, yz))


@compiled
def _rest_1_of_4(x, y, z, sign, rest):
    """Write the best assignments of the other three rows to the other three columns, of signed entries."""
    for i in range(4):
        a, b, c = (i + 1) % 4, (i + 2) % 4, (i + 3) % 4
        xa, xb, xc, ya, yb, yc, za, zb, zc = x[a], x[b], x[c], y[a], y[b], y[c], z[a], z[b], z[c]
        out = rest[i]
        for g in range(out.shape[0]):
            first = sign * xa[g] + max(sign * (yb[g] + zc[g]), sign * (yc[g] + zb[g]))
            second = sign * xb[g] + max(sign * (ya[g] + zc[g]), sign * (yc[g] + za[g]))
            third = sign * xc[g] + max(sign * (ya[g] + zb[g]), sign * (yb[g] + za[g]))
            out[g] = max(first, max(second, third))


@compiled
def _build(window, place, p, n, m):
    """Bring a slot's completions up to date."""
    first = p // m * m
    rest = window.rest[p]
    if m == 2:
        other = window.saliency[place[first + 1 - (p - first)]]
        rest[0, :] = other[1, :]
        rest[1, :] = other[0, :]
        return
    k = p - first
    x = window.saliency[place[first + (k + 1) % 4]]
    y = window.saliency[place[first + (k + 2) % 4]]
    z = window.saliency[place[first + (k + 3) % 4]]
    if n == 2:
        _rest_2_of_4(x, y, z, rest)
        return
    sign = np.float32(1.0 if n == 1 else -1.0)
    _rest_1_of_4(x, y, z, sign, rest)
    if n == 3:  # what is left out was maximised with a minus; the rest is kept
        for i in range(4):
            out = rest[i]
            for k in range(4):
                for g in range(out.shape[0]):
                    out[g] += x[k, g] + y[k, g] + z[k, g]


@compiled
def _value(rest, x, n, m):
    """Return the value of a slot's group with a column in that slot."""
    total = np.float32(0.0)
    size = x.shape[1]
    if m == 2:
        for g in range(size):
            total += max(x[0, g] + rest[0, g], x[1, g] + rest[1, g])
    elif n == 2:
        for g in range(size):
            x0, x1, x2, x3 = x[0, g], x[1, g], x[2, g], x[3, g]
            low = max(x0 + x1 + rest[0, g], max(x0 + x2 + rest[1, g], x0 + x3 + rest[2, g]))
            high = max(x1 + x2 + rest[3, g], max(x1 + x3 + rest[4, g], x2 + x3 + rest[5, g]))
            total += max(low, high)
    elif n == 1:
        for g in range(size):
            low = max(x[0, g] + rest[0, g], x[1, g] + rest[1, g])
            total += max(low, max(x[2, g] + rest[2, g], x[3, g] + rest[3, g]))
    else:
        for g in range(size):
            x0, x1, x2, x3 = x[0, g], x[1, g], x[2, g], x[3, g]
            left = max(max(rest[0, g] - x0, rest[1, g] - x1), max(rest[2, g] - x2, rest[3, g] - x3))
            total += x0 + x1 + x2 + x3 + left
    return total


@compiled
def replaced(window, place, p, x, n, m):
    """Compute the value of a slot's group with another column in that slot, and remember it.

    Parameters
    ----------
    window
        The work space, loaded.
    place
        int64 (width,): the window's column in every slot, groups of m.
    p
        The slot.
    x
        The column, by its number in the window; not one of the group's other members.
    n
        Entries kept per row and column of a block.
    m
        Group size.

    Returns
    -------
    float32
        The value.
    """
    version = window.versions[p // m]
    if window.built[p] != version:
        _build(window, place, p, n, m)
        window.built[p] = version
    value = _value(window.rest[p], window.saliency[x], n, m)
    window.values[p, x] = value
    window.stamps[p, x] = version
    return value


@compiled
def anneal_narrow(window, packed, rows, order, best, n, m, start, end, proposals, seed):
    """Metropolis swaps of columns between the groups of a window, cooling geometrically.

    Parameters
    ----------
    window
        Work space for as many columns as ``order`` has.
    packed
        float32 (cols, rows): the saliency by column.
    rows
        int64 (rows,): rows in groups of m.
    order
        int64 (width,), columns in groups of m; changed in place to the last state.
    best
        int64 (width,), receives the best state seen.
    n
        Entries kept per row and column of a block.
    m
        Group size, 2 or 4.
    start, end
        First and last temperature, in units of ``packed``; ``start >= end > 0``.
    proposals
        Number of proposals, at least 1.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    tuple
        Change of score of the last and of the best state against the first, the number of accepted proposals, and the
        number of proposals made. They are true also where the window's ``halt`` ended the work early.
    """
    log_uniform = LOG_UNIFORM
    values, stamps, versions, held = window.values, window.stamps, window.versions, window.held
    width = order.shape[0]
    load(window, packed, rows, order, m)
    place = np.arange(width)  # slots hold the window's own numbers; the columns are named again at the end
    top_place = np.arange(width)
    for group in range(width // m):
        held[group] = replaced(window, place, group * m, group * m, n, m)
    current = top = 0.0
    accepted = made = 0
    steps = max((proposals + STEP - 1) // STEP, 1)
    cooling = (end / start) ** (1.0 / steps)
    temperature = start
    columns, others = np.uint64(width), np.uint64(width - m)
    for _ in range(steps):
        scale = np.float32(temperature)
        for _ in range(min(STEP, max(proposals, 1) - made)):
            made += 1
            seed += GOLDEN
            z = mix(seed)
            p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
            q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
            group = p // m
            if q >= group * m:
                q += m
            other = q // m
            i, j = place[p], place[q]
            # A call costs more than the look-up that nearly always does.
            here = values[p, j] if stamps[p, j] == versions[group] else replaced(window, place, p, j, n, m)
            there = values[q, i] if stamps[q, i] == versions[other] else replaced(window, place, q, i, n, m)
            delta = (here - held[group]) + (there - held[other])
            if delta >= scale * log_uniform[z >> np.uint64(54)]:
                place[p], place[q] = j, i
                held[group], held[other] = here, there
                versions[group] += 1
                versions[other] += 1
                current += delta
                accepted += 1
                if current > top:
                    top = current
                    top_place[:] = place
        temperature *= cooling
        if window.halt[0]:
            break
    best[:] = order[top_place]
    order[:] = order[place]
    return current, top, accepted, made


@compiled
def narrow_loss(window, packed, rows, order, n, m, samples, seed):
    """Average what a random exchange costs: the scale that temperatures are measured in.

    Parameters
    ----------
    window, packed, rows, n, m, seed
        As in `anneal_narrow`.
    order
        int64 (width,), columns in groups of m, preferably near a local optimum.
    samples
        Number of random exchanges.

    Returns
    -------
    float
        Mean of ``max(-delta, 0)`` over the samples, in units of ``packed``.
    """
    width = order.shape[0]
    load(window, packed, rows, order, m)
    place = np.arange(width)
    columns, others = np.uint64(width), np.uint64(width - m)
    total = 0.0
    for _ in range(samples):
        seed += GOLDEN
        z = mix(seed)
        p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
        q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
        if q >= p // m * m:
            q += m
        here = replaced(window, place, p, q, n, m) - replaced(window, place, p, p, n, m)
        there = replaced(window, place, q, p, n, m) - replaced(window, place, q, q, n, m)
        total += max(-(here + there), 0.0)
    return total / samples
