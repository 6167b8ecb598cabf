"""The output error of groups: the float64 scorer, and annealing by exchanges.

With the weights w of a row, the second moments H of its inputs and the set D that a group prunes there, the error is
``w_D^T H[D, D] w_D``; of all D the least one counts (`permsolve.objectives`). Rows that share H are next to each other,
so that its entries are constants of the inner loops over rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled, exact
from permsolve.kernels.anneal import ACCEPTANCE_COST, LOG_UNIFORM, STEP, UNLIMITED, Memo, make_memo
from permsolve.kernels.splitmix import GOLDEN, mix

#: Rows handled at a time where the choices of a group need scratch space.
ROW_BLOCK = 128

_LOW_27 = np.uint64(0x7FFFFFF)


@exact
def group_errors(columns, moments, segments, order, sets, m, out):
    """Write the error of every group: per row the least over the sets that may be pruned, at least 0.

    Parameters
    ----------
    columns
        float32 or float64 (cols, rows): the weights by column.
    moments
        float64 (moments, cols, cols).
    segments
        int64 (moments + 1,): rows ``segments[k]`` to ``segments[k + 1]`` go with moment k.
    order
        int64 (groups * m,), columns in groups of m.
    sets
        int64 (sets, pruned): members of a group that may be pruned together, ascending; sets that begin alike are best
        next to each other.
    m
        Group size.
    out
        float64 (groups,), written.
    """
    depth = sets.shape[1]
    values = np.empty((m, ROW_BLOCK))
    products = np.empty((m, m, ROW_BLOCK))
    # partial[k]: the error of the first k members of the set at hand.
    partial = np.zeros((depth + 1, ROW_BLOCK))
    least = np.empty(ROW_BLOCK)
    for group in range(out.shape[0]):
        total = 0.0
        for segment in range(moments.shape[0]):
            moment = moments[segment]
            for start in range(segments[segment], segments[segment + 1], ROW_BLOCK):
                size = min(ROW_BLOCK, segments[segment + 1] - start)
                for x in range(m):
                    i = order[group * m + x]
                    for r in range(size):
                        values[x, r] = columns[i, start + r]
                for x in range(m):
                    i = order[group * m + x]
                    square = moment[i, i]
                    for r in range(size):
                        products[x, x, r] = values[x, r] * values[x, r] * square
                    for y in range(x):
                        twice = 2.0 * moment[i, order[group * m + y]]
                        for r in range(size):
                            products[x, y, r] = values[x, r] * values[y, r] * twice
                for r in range(size):
                    least[r] = np.inf
                for k in range(sets.shape[0]):
                    level = 0
                    while k > 0 and level < depth and sets[k, level] == sets[k - 1, level]:
                        level += 1
                    while level < depth:
                        x = sets[k, level]
                        for r in range(size):
                            partial[level + 1, r] = partial[level, r] + products[x, x, r]
                        for other in range(level):
                            y = sets[k, other]
                            for r in range(size):
                                partial[level + 1, r] += products[x, y, r]
                        level += 1
                    for r in range(size):
                        least[r] = min(least[r], partial[depth, r])
                for r in range(size):
                    total += max(least[r], 0.0)
        out[group] = total


class ErrorWindow(NamedTuple):
    """Work space of one window: some columns of a problem, close together in memory."""

    #: float32 (width, padded rows): `ErrorProblem.packed` of the window's columns.
    columns: npt.NDArray[Any]
    #: float32 (moments, width, width): `ErrorProblem.correlations` of these.
    twice: npt.NDArray[Any]
    #: int64 (moments + 1,): `ErrorProblem.packed_segments`.
    segments: npt.NDArray[Any]
    #: int64 (sets, pruned): members of a group that may be pruned together.
    sets: npt.NDArray[Any]
    #: float32 (width,): error of the group that begins at a position.
    errors: npt.NDArray[Any]
    #: float32 (m * m + pruned + 1, ROW_BLOCK): work space of `_error_any`.
    scratch: npt.NDArray[Any]
    #: Memoised deltas.
    memo: Memo
    #: bool (1,): set from another thread to make a kernel return early, at the end of the time.
    halt: npt.NDArray[Any]


class Given(NamedTuple):
    """What annealing reads of a problem."""

    #: float32 (cols, padded rows): `ErrorProblem.packed`.
    packed: npt.NDArray[Any]
    #: float32 (moments, cols, cols): `ErrorProblem.correlations`.
    twice: npt.NDArray[Any]


def make_error_window(
    width: int, segments: npt.NDArray[Any], sets: npt.NDArray[Any], m: int, halt: npt.NDArray[np.bool_]
) -> ErrorWindow:
    """Allocate the work space of a window.

    Parameters
    ----------
    width
        Number of columns, a multiple of m.
    segments
        Where the rows of each moment begin, int64, and the padded rows.
    sets
        Members of a group that may be pruned together, int64 (sets, pruned).
    m
        Group size.
    halt
        bool (1,), kept.

    Returns
    -------
    ErrorWindow
        The work space.
    """
    return ErrorWindow(
        aligned((width, int(segments[-1]))),
        np.zeros((len(segments) - 1, width, width), dtype=np.float32),
        segments,
        sets,
        np.zeros(width, dtype=np.float32),
        aligned((m * m + sets.shape[1] + 1, ROW_BLOCK)),
        make_memo(width, m),
        halt,
    )


@compiled
def _error_2_4(columns, twice, segments, place, group):
    """Return the error of a 2:4 group: the least of six pairs."""
    a, b, c, d = place[group], place[group + 1], place[group + 2], place[group + 3]
    zero = np.float32(0)
    total = zero
    for k in range(twice.shape[0]):
        ab, ac, ad = twice[k, a, b], twice[k, a, c], twice[k, a, d]
        bc, bd, cd = twice[k, b, c], twice[k, b, d], twice[k, c, d]
        first, last = segments[k], segments[k + 1]
        # Slices, for the compiler does not vectorise over indices that it cannot prove to be positive.
        col_a, col_b = columns[a, first:last], columns[b, first:last]
        col_c, col_d = columns[c, first:last], columns[d, first:last]
        for r in range(last - first):
            u, v, w, x = col_a[r], col_b[r], col_c[r], col_d[r]
            uu, vv, ww, xx = u * u, v * v, w * w, x * x
            least = min(min(uu + vv + ab * (u * v), uu + ww + ac * (u * w)), uu + xx + ad * (u * x))
            other = min(min(vv + ww + bc * (v * w), vv + xx + bd * (v * x)), ww + xx + cd * (w * x))
            total += max(min(least, other), zero)
    return total


@compiled
def _error_1_4(columns, twice, segments, place, group):
    """Return the error of a 1:4 group: all four without the one that takes most away."""
    a, b, c, d = place[group], place[group + 1], place[group + 2], place[group + 3]
    zero = np.float32(0)
    total = zero
    for k in range(twice.shape[0]):
        ab, ac, ad = twice[k, a, b], twice[k, a, c], twice[k, a, d]
        bc, bd, cd = twice[k, b, c], twice[k, b, d], twice[k, c, d]
        first, last = segments[k], segments[k + 1]
        col_a, col_b = columns[a, first:last], columns[b, first:last]
        col_c, col_d = columns[c, first:last], columns[d, first:last]
        for r in range(last - first):
            u, v, w, x = col_a[r], col_b[r], col_c[r], col_d[r]
            uu, vv, ww, xx = u * u, v * v, w * w, x * x
            uv, uw, ux, vw, vx, wx = ab * (u * v), ac * (u * w), ad * (u * x), bc * (v * w), bd * (v * x), cd * (w * x)
            least = min(vv + ww + xx + vw + vx + wx, uu + ww + xx + uw + ux + wx)
            other = min(uu + vv + xx + uv + ux + vx, uu + vv + ww + uv + uw + vw)
            total += max(min(least, other), zero)
    return total


@compiled
def _products(columns, twice, members, k, first, size, scratch):
    """Write squares and products of a group's members in some rows: member x times y at ``scratch[x * m + y]``."""
    m = members.shape[0]
    for x in range(m):
        own, product = columns[members[x], first : first + size], scratch[x * m + x]
        for r in range(size):
            product[r] = own[r] * own[r]
        for y in range(x):
            factor = twice[k, members[x], members[y]]
            other, product = columns[members[y], first : first + size], scratch[x * m + y]
            for r in range(size):
                product[r] = own[r] * other[r] * factor


@compiled
def _error_any(columns, twice, segments, sets, scratch, members):
    """Return the error of any group; sets that begin alike share the sums of what they begin with."""
    m, depth = members.shape[0], sets.shape[1]
    zero = np.float32(0)
    total = zero
    least = scratch[m * m]
    for k in range(twice.shape[0]):
        for first in range(segments[k], segments[k + 1], ROW_BLOCK):
            size = min(ROW_BLOCK, segments[k + 1] - first)
            _products(columns, twice, members, k, first, size, scratch)
            for r in range(size):
                least[r] = np.float32(np.inf)
            for s in range(sets.shape[0]):
                level = 0
                while s > 0 and level < depth and sets[s, level] == sets[s - 1, level]:
                    level += 1
                while level < depth:
                    x = sets[s, level]
                    above, product = scratch[m * m + 1 + level], scratch[x * m + x]
                    if level == 0:
                        for r in range(size):
                            above[r] = product[r]
                    else:
                        below, other = scratch[m * m + level], scratch[x * m + sets[s, 0]]
                        for r in range(size):
                            above[r] = below[r] + product[r] + other[r]
                    for y in range(1, level):
                        product = scratch[x * m + sets[s, y]]
                        for r in range(size):
                            above[r] += product[r]
                    level += 1
                above = scratch[m * m + depth]
                for r in range(size):
                    least[r] = min(least[r], above[r])
            for r in range(size):
                total += max(least[r], zero)
    return total


@compiled
def group_error(columns, twice, segments, sets, scratch, place, group, m):
    """Return the error of a group, in units of ``packed``.

    Parameters
    ----------
    columns, twice, segments, sets, scratch
        Those of an `ErrorWindow`.
    place
        int64 (width,): the window's own numbers of the columns, in groups of m.
    group
        Where the group begins in it.
    m
        Group size.

    Returns
    -------
    float32
        The error.
    """
    if m == 4 and sets.shape[1] == 2:
        return _error_2_4(columns, twice, segments, place, group)
    if m == 4 and sets.shape[1] == 3:
        return _error_1_4(columns, twice, segments, place, group)
    return _error_any(columns, twice, segments, sets, scratch, place[group : group + m])


@compiled
def _copy(source, target):
    """Copy a vector: an assignment to a slice compiles ten times as long, for what it says where lengths differ."""
    for k in range(source.shape[0]):
        target[k] = source[k]


@compiled
def _load(window, given, order, m):
    """Copy the columns of a window, and compute the errors of its groups."""
    width = order.shape[0]
    for k in range(width):
        _copy(given.packed[order[k]], window.columns[k])
        for s in range(window.twice.shape[0]):
            for j in range(width):
                window.twice[s, k, j] = given.twice[s, order[k], order[j]]
    place = np.arange(width)
    for start in range(0, width, m):
        window.errors[start] = group_error(
            window.columns, window.twice, window.segments, window.sets, window.scratch, place, start, m
        )
    return place


@compiled
def _exchanged(window, place, p, q, m):
    """Return the change of score when the columns at two positions trade places, and the two groups' new errors."""
    group, other = window.memo.starts[p], window.memo.starts[q]
    columns, twice, segments = window.columns, window.twice, window.segments
    sets, scratch, errors = window.sets, window.scratch, window.errors
    place[p], place[q] = place[q], place[p]
    one = group_error(columns, twice, segments, sets, scratch, place, group, m)
    two = group_error(columns, twice, segments, sets, scratch, place, other, m)
    place[p], place[q] = place[q], place[p]
    return errors[group] + errors[other] - one - two, one, two


@compiled
def anneal_errors(window, given, order, best, m, start, end, proposals, seed, budget=UNLIMITED):
    """Metropolis swaps of columns between the groups of a window, cooling geometrically.

    As `permsolve.kernels.anneal.anneal_window`, memoised deltas and all; but a delta takes the errors of two new
    groups, for there are no thresholds to read it off.

    Parameters
    ----------
    window
        Work space for as many columns as ``order`` has.
    given
        The problem.
    order
        int64 (width,), columns in groups of m; changed in place to the last state.
    best
        int64 (width,), receives the best state seen.
    m
        Group size.
    start, end
        First and last temperature, in units of ``packed``; ``start >= end > 0``.
    proposals
        Number of proposals, at least 1.
    seed
        uint64 seed of the SplitMix64 stream.
    budget
        Work after which the kernel returns, in proposals; an accepted one costs `ACCEPTANCE_COST` more.

    Returns
    -------
    tuple
        Change of score of the last and of the best state against the first, the number of accepted proposals, and the
        number of proposals made. They are true also where the window's ``halt`` ended the work early.
    """
    memo, halt = window.memo, window.halt
    log_uniform = LOG_UNIFORM
    width = order.shape[0]
    place = _load(window, given, order, m)
    top_place = place.copy()
    memo.stamps[:, :] = -1
    memo.versions[:] = 0
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
            group = memo.starts[p]
            if q >= group:
                q += m
            i, j = place[p], place[q]
            low, high = min(i, j), max(i, j)
            stamp = memo.versions[i] + memo.versions[j]
            known = memo.stamps[low, high] == stamp
            one = two = np.float32(0)
            if known:
                delta = memo.deltas[low, high]
            else:
                delta, one, two = _exchanged(window, place, p, q, m)
                memo.deltas[low, high] = delta
                memo.stamps[low, high] = stamp
            if delta >= scale * log_uniform[z >> np.uint64(54)]:
                other = memo.starts[q]
                if known:
                    delta, one, two = _exchanged(window, place, p, q, m)
                place[p], place[q] = j, i
                window.errors[group], window.errors[other] = one, two
                for x in range(m):
                    memo.versions[place[group + x]] += 1
                    memo.versions[place[other + x]] += 1
                current += delta
                accepted += 1
                if current > top:
                    top = current
                    _copy(place, top_place)
            if halt[0]:  # with tall wide groups a step may take a tenth of a second
                break
        temperature *= cooling
        if halt[0] or made + ACCEPTANCE_COST * accepted >= budget:
            break
    first = order.copy()
    for k in range(width):
        best[k] = first[top_place[k]]
        order[k] = first[place[k]]
    return current, top, accepted, made


@compiled
def mean_error_loss(window, given, order, m, samples, seed):
    """Average what a random exchange costs: the scale that temperatures are measured in.

    Parameters
    ----------
    window, given, m, seed
        As in `anneal_errors`.
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
    place = _load(window, given, order, m)
    columns, others = np.uint64(width), np.uint64(width - m)
    total = 0.0
    for _ in range(samples):
        seed += GOLDEN
        z = mix(seed)
        p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
        q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
        if q >= window.memo.starts[p]:
            q += m
        total += max(-_exchanged(window, place, p, q, m)[0], 0.0)
    return total / samples
