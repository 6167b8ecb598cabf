"""V:N:M: annealed exchanges of columns, each with the choices of four columns that follow from it.

A group of m columns is the same for all tiles, but every tile keeps four of them by itself. With ``t_k`` the n-th
largest, per row, of the other three columns that a tile keeps, a column j in place of the k-th brings
``sum_r max(S[r, j], t_k[r])`` up to a constant (`permsolve.kernels.groups`). All choices are kept *settled*: no tile
gains by exchanging one kept column for another of the group. When column j takes the place of a column of the group,

- a tile that keeps the column keeps j instead, or the best of the columns it had left out, whichever brings more;
- a tile that does not may exchange any of its four for j.

Four sums per tile thus tell what j is worth in every slot of the group, choices included. They are memoised until the
group changes: near the freezing point, where annealing spends its time, most proposals are look-ups.

Saliency lies by column, tile after tile, each tile's rows padded with zeros to whole registers (lanes).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.anneal import LOG_UNIFORM
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.vector import LANES
from permsolve.kernels.vnm_vector import (
    TILES,
    WIDTH,
    change_in_tile,
    change_in_tiles,
    refresh_1,
    refresh_2,
    refresh_3,
    worth_in_tile,
)

_LOW_27 = np.uint64(0x7FFFFFF)
_27, _54 = np.uint64(27), np.uint64(54)
#: An exchange of a kept column must bring this share of what the column is worth: less is rounding.
LEAST = np.float32(1e-6)
#: Exchanges after which the choice of a tile is left as it is: rounding must not keep it going for ever.
MOST = 32
#: Exchanges that change nothing are proposed again and again; this many of them, less one, are passed over.
_TIES = np.uint64(15)
#: What is left out where a tile keeps all columns of a group.
_NOTHING = np.float32(-3e38)


class Window(NamedTuple):
    """Work space for some groups of a problem, close together in memory. Positions are slots of its groups.

    All arrays but `place` and what follows `versions` are flat: views of rows would cost more than the arithmetic.
    """

    #: float32 (columns, tiles, lanes of a tile): the saliency.
    saliency: npt.NDArray[Any]
    #: float32 (groups, tiles, 4, lanes of a tile): thresholds of the columns kept.
    thresholds: npt.NDArray[Any]
    #: float32 (groups, tiles, 4), and some: what the columns kept are worth by their thresholds.
    worths: npt.NDArray[Any]
    #: float32 (groups, tiles, 4), and some: what the best column left out would be worth in each one's place.
    spares: npt.NDArray[Any]
    #: float32 (groups, tiles): what a tile keeps of a group.
    values: npt.NDArray[Any]
    #: int64 (groups, tiles, 4): the slots kept, counted within the group, in any order.
    kept: npt.NDArray[Any]
    #: int64 (columns,): the window's column in every slot.
    place: npt.NDArray[Any]
    #: float32 (columns, columns): memoised gains of a column in every slot.
    gains: npt.NDArray[Any]
    #: int32 (columns, groups): the version of the group at which they were computed.
    stamps: npt.NDArray[Any]
    #: int32 (groups,): how often a group has changed.
    versions: npt.NDArray[Any]
    #: float32 (tiles * 4 and some,): sums of one column.
    sums: npt.NDArray[Any]
    #: bool (1,): set from another thread to make a kernel return early, at the end of the time.
    halt: npt.NDArray[Any]


def lanes_of(vector: int) -> int:
    """Return the lanes of a tile: its rows in whole registers.

    Parameters
    ----------
    vector
        Rows of a tile.

    Returns
    -------
    int
        A multiple of `LANES`.
    """
    return -(-vector // LANES) * LANES


def make_window(groups: int, m: int, tiles: int, lanes: int, halt: npt.NDArray[np.bool_] | None = None) -> Window:
    """Allocate the work space of a window.

    Parameters
    ----------
    groups
        Number of groups.
    m
        Group size.
    tiles
        Number of tiles.
    lanes
        Lanes of a tile.
    halt
        bool (1,), kept, or None for one that nobody sets. It is read in kernels: several windows may share it.

    Returns
    -------
    Window
        The work space, about ``4 * cols * (cols + rows * (1 + 4 / m))`` bytes.
    """
    cols, cells = groups * m, groups * tiles
    return Window(
        aligned((cols * tiles * lanes,)),
        aligned((cells * WIDTH * lanes,)),
        np.zeros(cells * WIDTH + LANES, dtype=np.float32),
        np.zeros(cells * WIDTH + LANES, dtype=np.float32),
        np.zeros(cells, dtype=np.float32),
        np.zeros(cells * WIDTH, dtype=np.int64),
        np.zeros(cols, dtype=np.int64),
        np.zeros((cols, cols), dtype=np.float32),
        np.zeros((cols, groups), dtype=np.int32),
        np.zeros(groups, dtype=np.int32),
        aligned((tiles * WIDTH + LANES,)),
        np.zeros(1, dtype=np.bool_) if halt is None else halt,
    )


@compiled
def _settle(saliency, thresholds, worths, spares, values, kept, place, sums, group, tiles, n, m, lanes):
    """Do the work of `settle_group` on the arrays of a window."""
    first, length = group * m, tiles * lanes
    change = 0.0
    for tile in range(tiles):
        cell, shift = group * tiles + tile, tile * lanes
        at, slot = cell * WIDTH, cell * WIDTH * lanes
        change -= values[cell]
        for _ in range(MOST):
            one, two, three, four = kept[at], kept[at + 1], kept[at + 2], kept[at + 3]
            members = (
                place[first + one] * length + shift,
                place[first + two] * length + shift,
                place[first + three] * length + shift,
                place[first + four] * length + shift,
            )
            if n == 1:
                values[cell] = refresh_1(saliency, members, lanes, thresholds, slot, worths, at)
            elif n == 2:
                values[cell] = refresh_2(saliency, members, lanes, thresholds, slot, worths, at)
            else:
                values[cell] = refresh_3(saliency, members, lanes, thresholds, slot, worths, at)
            for k in range(WIDTH):
                spares[at + k] = _NOTHING
            best, leaves, comes = np.float32(0), -1, -1
            for x in range(m):
                if x in (one, two, three, four):
                    continue
                worth_in_tile(saliency, place[first + x] * length + shift, thresholds, slot, lanes, sums, 0)
                for k in range(WIDTH):
                    worth = sums[k]
                    spares[at + k] = max(spares[at + k], worth)
                    more = worth - worths[at + k]
                    if more > best and more > LEAST * worth:
                        best, leaves, comes = more, k, x
            if leaves < 0:
                break
            kept[at + leaves] = comes
        change += values[cell]
    return change


@compiled
def settle_group(window, group, n, m, lanes):
    """Exchange kept columns of every tile for others of the group until no exchange helps; note what others bring.

    Parameters
    ----------
    window
        A `Window`; ``place`` and ``kept`` say what there is. Everything else about the group is written.
    group
        The group.
    n
        Entries kept per row.
    m
        Group size.
    lanes
        Lanes of a tile.

    Returns
    -------
    float
        New value of the group minus the one noted before.
    """
    saliency, thresholds, worths, spares, values, kept, place, _, _, versions, sums, _ = window
    tiles = values.shape[0] // versions.shape[0]
    versions[group] += 1
    return _settle(saliency, thresholds, worths, spares, values, kept, place, sums, group, tiles, n, m, lanes)


@compiled
def _column_gains(saliency, thresholds, worths, spares, kept, sums, j, group, tiles, m, lanes, out, first):
    """Do the work of `column_gains` on the arrays of a window; the gains go to ``out[first:]``."""
    column, slot, cell = j * tiles * lanes, group * tiles * WIDTH * lanes, group * tiles * WIDTH
    base, whole = np.float32(0), tiles // TILES * TILES
    for tile in range(0, whole, TILES):
        start, at = column + tile * lanes, tile * WIDTH
        base += change_in_tiles(
            saliency, start, thresholds, slot + at * lanes, lanes, worths, spares, cell + at, sums, at
        )
    for tile in range(whole, tiles):
        start, at = column + tile * lanes, tile * WIDTH
        base += change_in_tile(
            saliency, start, thresholds, slot + at * lanes, lanes, worths, spares, cell + at, sums, at
        )
    for x in range(first, first + m):
        out[x] = base
    for at in range(tiles * WIDTH):
        out[first + kept[cell + at]] += sums[at]


@compiled
def column_gains(window, j, group, m, lanes, out):
    """Compute by how much a group's value changes when a column from outside takes the place of each of its columns.

    Parameters
    ----------
    window
        A `Window` whose group is settled.
    j
        The window's column.
    group, m, lanes
        As in `settle_group`.
    out
        float32 (m,): receives the change by slot; choices may differ from the present ones by one column per tile.
    """
    saliency, thresholds, worths, spares, values, kept, _, _, _, versions, sums, _ = window
    tiles = values.shape[0] // versions.shape[0]
    _column_gains(saliency, thresholds, worths, spares, kept, sums, j, group, tiles, m, lanes, out, 0)


@compiled
def load_window(window, data, groups, members, kept, n, m, lanes):
    """Fill a window with some groups of a problem, and settle them.

    Parameters
    ----------
    window
        A `Window` for as many groups.
    data
        float32 (cols, tiles * lanes): the saliency by column.
    groups
        int64 (k,): the groups.
    members
        int64 (all groups, m): columns of every group.
    kept
        int64 (all groups, tiles, 4): slots kept.
    n, m, lanes
        As in `settle_group`.

    Returns
    -------
    float
        The value of the groups.
    """
    length, tiles = data.shape[1], kept.shape[1]
    total = 0.0
    for k in range(groups.shape[0]):
        for x in range(m):
            column, at = data[members[groups[k], x]], (k * m + x) * length
            for r in range(length):
                window.saliency[at + r] = column[r]
            window.place[k * m + x] = k * m + x
        for tile in range(tiles):
            for x in range(WIDTH):
                window.kept[(k * tiles + tile) * WIDTH + x] = kept[groups[k], tile, x]
            window.values[k * tiles + tile] = 0.0
        window.versions[k] = 0
        total += settle_group(window, k, n, m, lanes)
    window.stamps[:, :] = -1
    return total


@compiled
def store_window(window, groups, members, kept, m):
    """Write columns and choices of a window's groups back.

    Parameters
    ----------
    window, groups, members, kept, m
        As in `load_window`; the rows of ``groups`` are written in the last two.
    """
    tiles = kept.shape[1]
    names = np.empty((groups.shape[0], m), dtype=np.int64)
    for k in range(groups.shape[0]):
        for x in range(m):
            names[k, x] = members[groups[k], x]
    flat = names.reshape(-1)
    for k in range(groups.shape[0]):
        for x in range(m):
            members[groups[k], x] = flat[window.place[k * m + x]]
        for tile in range(tiles):
            for x in range(WIDTH):
                kept[groups[k], tile, x] = window.kept[(k * tiles + tile) * WIDTH + x]


@compiled
def anneal_columns(window, n, m, lanes, temperature, proposals, seed, budget):
    """Metropolis exchanges of columns between the groups of a window at one temperature.

    Parameters
    ----------
    window
        A loaded `Window` of at least two groups.
    n, m, lanes
        As in `settle_group`.
    temperature
        In units of the saliency, positive.
    proposals
        Number of proposals.
    seed
        uint64 seed of the SplitMix64 stream.
    budget
        Work after which the kernel returns, in passes over a column's four slots: a gain that is not memoised is one,
        an exchange ``2 * m``.

    Returns
    -------
    tuple
        Change of the value, number of exchanges accepted, number of proposals made.
    """
    log_uniform = LOG_UNIFORM
    saliency, thresholds, worths, spares, values, kept, place, gains, stamps, versions, sums, halt = window
    tiles, cols, flat = values.shape[0] // versions.shape[0], place.shape[0], gains.reshape(-1)
    scale = np.float32(temperature)
    all_slots, others = np.uint64(cols), np.uint64(cols - m)
    change, accepted, made = 0.0, 0, 0
    while made < proposals and budget > 0 and not halt[0]:
        made += 1
        seed += GOLDEN
        z = mix(seed)
        p = np.int64(((z & _LOW_27) * all_slots) >> _27)
        q = np.int64((((z >> _27) & _LOW_27) * others) >> _27)
        group = p // m
        if q >= group * m:
            q += m
        other = q // m
        i, j = place[p], place[q]
        if stamps[j, group] != versions[group]:
            first = j * cols + group * m
            _column_gains(saliency, thresholds, worths, spares, kept, sums, j, group, tiles, m, lanes, flat, first)
            stamps[j, group] = versions[group]
            budget -= 1
        if stamps[i, other] != versions[other]:
            first = i * cols + other * m
            _column_gains(saliency, thresholds, worths, spares, kept, sums, i, other, tiles, m, lanes, flat, first)
            stamps[i, other] = versions[other]
            budget -= 1
        delta = flat[j * cols + p] + flat[i * cols + q]
        if delta == 0 and z >> _54 & _TIES:  # columns that no tile keeps: worth shuffling now and then, not always
            continue
        if delta >= scale * log_uniform[z >> _54]:
            place[p], place[q] = j, i
            for g in (group, other):
                versions[g] += 1
                change += _settle(
                    saliency, thresholds, worths, spares, values, kept, place, sums, g, tiles, n, m, lanes
                )
            accepted += 1
            budget -= 2 * m
    return change, accepted, made


@compiled
def mean_least_loss(window, m, lanes):
    """Average, over the columns of a window, what each one's best exchange costs: the scale of temperatures.

    Where it costs nothing, a column counts as 0: one that no tile keeps, for example. The mean loss of random
    exchanges would be no such scale, since few columns with large entries set it.

    Parameters
    ----------
    window
        A loaded `Window` of at least two groups, preferably near a local optimum; its memo is filled.
    m, lanes
        As in `settle_group`.

    Returns
    -------
    float
        The mean, in units of the saliency.
    """
    saliency, thresholds, worths, spares, values, kept, place, gains, stamps, versions, sums, halt = window
    tiles, cols, flat = values.shape[0] // versions.shape[0], place.shape[0], gains.reshape(-1)
    for j in range(cols):
        if halt[0]:
            return 0.0
        for g in range(versions.shape[0]):
            first = j * cols + g * m
            _column_gains(saliency, thresholds, worths, spares, kept, sums, j, g, tiles, m, lanes, flat, first)
            stamps[j, g] = versions[g]
    total = 0.0
    for p in range(cols):
        i, group, best = place[p], p // m, np.float32(-3e38)
        for q in range(cols):
            if q // m != group:
                best = max(best, gains[place[q], p] + gains[i, q])
        total += max(-best, np.float32(0))
    return total / cols
