"""Simulated annealing on a window of columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.groups import State, exchange_delta, make_state, refresh_all, refresh_group
from permsolve.kernels.splitmix import GOLDEN, mix

#: Quantiles of the logarithm of a uniform variable: the Metropolis test needs no logarithm per proposal.
LOG_UNIFORM = np.log((np.arange(1024) + 0.5) / 1024).astype(np.float32)
#: Proposals between two temperatures.
STEP = 128
#: What an accepted proposal costs in proposals, for groups of up to 4.
ACCEPTANCE_COST = 8

#: A budget that is never spent.
UNLIMITED = 1 << 62

_LOW_27 = np.uint64(0x7FFFFFF)


class Memo(NamedTuple):
    """Exchange deltas already computed, and what tells whether they still hold."""

    #: float32 (width, width): deltas, in the upper triangle.
    deltas: npt.NDArray[Any]
    #: int32 (width, width): sum of the two columns' versions at which a delta was computed.
    stamps: npt.NDArray[Any]
    #: int32 (width,): how often a column's group has changed.
    versions: npt.NDArray[Any]
    #: int64 (width,): the first position of each position's group, ``p - p % m`` without the division.
    starts: npt.NDArray[Any]


class Window(NamedTuple):
    """Work space of one window: some columns of a problem, close together in memory."""

    #: Search state of the window's columns.
    state: State
    #: Memoised deltas.
    memo: Memo
    #: bool (1,): set from another thread to make a kernel return early, at the end of the time.
    halt: npt.NDArray[Any]


def make_window(width: int, rows: int, n: int, m: int, halt: npt.NDArray[np.bool_] | None = None) -> Window:
    """Allocate the work space of a window.

    Parameters
    ----------
    width
        Number of columns, a multiple of m.
    rows
        Padded rows.
    n
        Entries kept per row.
    m
        Group size.
    halt
        bool (1,), kept, or None for one that nobody sets. It is read in kernels: several windows may share it.

    Returns
    -------
    Window
        The work space.
    """
    state = make_state(aligned((width, rows)), n)
    return Window(state, make_memo(width, m), np.zeros(1, dtype=np.bool_) if halt is None else halt)


def make_memo(width: int, m: int) -> Memo:
    """Allocate the memory of deltas.

    Parameters
    ----------
    width
        Number of columns, a multiple of m.
    m
        Group size.

    Returns
    -------
    Memo
        With nothing in it.
    """
    return Memo(
        np.zeros((width, width), dtype=np.float32),
        np.zeros((width, width), dtype=np.int32),
        np.zeros(width, dtype=np.int32),
        np.arange(width) // m * m,
    )


@compiled
def anneal_window(window, packed, order, best, n, m, start, end, proposals, seed, budget=UNLIMITED):
    """Metropolis swaps of columns between the groups of a window, cooling geometrically.

    A proposal picks two columns of different groups and reads the exchange's delta off their thresholds. Deltas are
    memoised: each column carries a version that rises when its group changes, and a stored delta holds as long as the
    sum of the two versions is the one it was computed at. Near the freezing point, where annealing spends its time,
    most proposals then cost one look-up instead of a pass over the rows.

    Parameters
    ----------
    window
        Work space for as many columns as ``order`` has.
    packed
        float32 (cols, padded rows): the problem's saliency by column.
    order
        int64 (width,), columns in groups of m; changed in place to the last state.
    best
        int64 (width,), receives the best state seen.
    n
        Entries kept per row.
    m
        Group size.
    start, end
        First and last temperature, in units of ``packed``; ``start >= end > 0``.
    proposals
        Number of proposals, at least 1.
    seed
        uint64 seed of the SplitMix64 stream.
    budget
        Work after which the kernel returns, in proposals; an accepted one costs `ACCEPTANCE_COST` more (beyond m = 4,
        ``m * (n + 1)`` more), since two groups are recomputed. Hot or tied windows therefore end early.

    Returns
    -------
    tuple
        Change of score of the last and of the best state against the first, the number of accepted proposals, and the
        number of proposals made. They are true also where the window's ``halt`` ended the work early.
    """
    state, memo, halt = window
    log_uniform = LOG_UNIFORM
    width = order.shape[0]
    place = np.arange(width)  # positions hold the window's own numbers; the columns are named again at the end
    top_place = np.arange(width)
    for k in range(width):
        state.saliency[k, :] = packed[order[k], :]
    memo.stamps[:, :] = -1
    memo.versions[:] = 0
    refresh_all(state, place, m, n)
    current = top = 0.0
    accepted = made = 0
    price = ACCEPTANCE_COST if m <= 4 else m * (n + 1)
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
            if memo.stamps[low, high] == stamp:
                delta = memo.deltas[low, high]
            else:
                delta = exchange_delta(state, i, j)
                memo.deltas[low, high] = delta
                memo.stamps[low, high] = stamp
            if delta >= scale * log_uniform[z >> np.uint64(54)]:
                other = memo.starts[q]
                place[p], place[q] = j, i
                refresh_group(state, place[group : group + m], n)
                refresh_group(state, place[other : other + m], n)
                for x in range(m):
                    memo.versions[place[group + x]] += 1
                    memo.versions[place[other + x]] += 1
                current += delta
                accepted += 1
                if current > top:
                    top = current
                    top_place[:] = place
                if halt[0]:  # with tall wide groups a step that accepts much may take a tenth of a second
                    break
        temperature *= cooling
        if halt[0] or made + price * accepted >= budget:
            break
    best[:] = order[top_place]
    order[:] = order[place]
    return current, top, accepted, made


@compiled
def mean_loss(window, packed, order, n, m, samples, seed):
    """Average what a random exchange costs: the scale that temperatures are measured in.

    Parameters
    ----------
    window, packed, n, m, seed
        As in `anneal_window`.
    order
        int64 (width,), columns in groups of m, preferably near a local optimum.
    samples
        Number of random exchanges.

    Returns
    -------
    float
        Mean of ``max(-delta, 0)`` over the samples, in units of ``packed``.
    """
    state, memo, _ = window
    width = order.shape[0]
    place = np.arange(width)
    for k in range(width):
        state.saliency[k, :] = packed[order[k], :]
    refresh_all(state, place, m, n)
    columns, others = np.uint64(width), np.uint64(width - m)
    total = 0.0
    for _ in range(samples):
        seed += GOLDEN
        z = mix(seed)
        p = np.int64(((z & _LOW_27) * columns) >> np.uint64(27))
        q = np.int64((((z >> np.uint64(27)) & _LOW_27) * others) >> np.uint64(27))
        if q >= memo.starts[p]:
            q += m
        total += max(-exchange_delta(state, p, q), 0.0)
    return total / samples
