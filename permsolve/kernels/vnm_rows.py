"""V:N:M: what rows are worth in tiles, and how they get there."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.vnm_vector import add_1, add_2, add_3


@compiled
def row_worths(data, members, kept, n, lanes, tiles, table):
    """Compute what the rows of some tiles bring under the columns that each of these tiles keeps.

    Parameters
    ----------
    data
        float32 (cols, all tiles * lanes): the saliency by column.
    members
        int64 (groups, m): columns of every group.
    kept
        int64 (groups, all tiles, 4): slots that every tile keeps.
    n
        Entries kept per row.
    lanes
        Lanes of a tile.
    tiles
        int64 (k,): the tiles.
    table
        float32 (k, k * lanes): ``table[t, u * lanes + x]`` is what the row in lane x of the u-th tile brings to the
        t-th.
    """
    length, flat, count = data.shape[1], data.reshape(-1), tiles.shape[0]
    table[:, :] = np.float32(0)
    out = table.reshape(-1)
    for g in range(members.shape[0]):
        for t in range(count):
            a = members[g, kept[g, tiles[t], 0]] * length
            b = members[g, kept[g, tiles[t], 1]] * length
            c = members[g, kept[g, tiles[t], 2]] * length
            d = members[g, kept[g, tiles[t], 3]] * length
            for u in range(count):
                shift, at = tiles[u] * lanes, (t * count + u) * lanes
                columns = (a + shift, b + shift, c + shift, d + shift)
                if n == 1:
                    add_1(flat, columns, lanes, out, at)
                elif n == 2:
                    add_2(flat, columns, lanes, out, at)
                else:
                    add_3(flat, columns, lanes, out, at)


@compiled
def move_lanes(data, first, last, to, origin):
    """Bring entries of columns to other lanes.

    Parameters
    ----------
    data
        float32 (cols, lanes): changed.
    first, last
        Range of the columns.
    to, origin
        int64 (k,): lane ``to[x]`` gets what lane ``origin[x]`` had.
    """
    held = np.empty(to.shape[0], dtype=np.float32)
    for c in range(first, last):
        column = data[c]
        for x in range(to.shape[0]):
            held[x] = column[origin[x]]
        for x in range(to.shape[0]):
            column[to[x]] = held[x]


@compiled
def _refill(table, place, vector, tile, arcs, movers):
    """Note, for the tile's best row to move to every other tile, what that brings and which place the row has."""
    tiles = table.shape[0]
    for u in range(tiles):
        arcs[tile, u] = -np.inf
    for p in range(tile * vector, tile * vector + vector):
        row = place[p]
        own = np.float64(table[tile, row])
        for u in range(tiles):
            more = table[u, row] - own
            if more > arcs[tile, u]:
                arcs[tile, u] = more
                movers[tile, u] = p


@compiled
def _find_cycle(arcs, least, gain, origin):
    """Look for a cycle of tiles along which rows may move at a profit; return a tile on it, or -1.

    Bellman and Ford, every tile a source; a chain of origins that comes back to itself is a cycle of positive gain.
    """
    tiles = arcs.shape[0]
    gain[:] = 0.0
    origin[:] = -1
    for _ in range(tiles):
        changed = False
        for t in range(tiles):
            for u in range(tiles):
                if u != t and gain[t] + arcs[t, u] > gain[u] + least:
                    gain[u] = gain[t] + arcs[t, u]
                    origin[u] = t
                    changed = True
        if not changed:
            return -1
        for start in range(tiles):  # the graph of origins has a cycle as soon as there is one
            t = start
            for _ in range(tiles):
                t = origin[t]
                if t < 0:
                    break
            if t >= 0:
                return t
    return -1


@compiled
def transport_rows(table, place, vector, least, halt):
    """Distribute the rows over the tiles at best, given what each brings to each tile.

    This is a transportation problem. As long as rows can move along a cycle of tiles, one from each to the next, at a
    profit, they do; when there is no such cycle, the distribution is best (Klein, Management Science 14, 1967).

    Parameters
    ----------
    table
        float32 (tiles, tiles * lanes): what a row brings to each tile (`row_worths`).
    place
        int64 (tiles * vector,): which lane's row (its index in ``table[t]``) is at each place, tile by tile; changed.
    vector
        Rows of a tile.
    least
        Gains of an arc up to this are rounding; positive.
    halt
        bool (1,): set from another thread to end early; ``place`` is then better than it was, not best.

    Returns
    -------
    float
        The gain.
    """
    tiles = table.shape[0]
    arcs, movers = np.empty((tiles, tiles)), np.zeros((tiles, tiles), dtype=np.int64)
    gain, origin = np.empty(tiles), np.empty(tiles, dtype=np.int64)
    cycle = np.empty(tiles, dtype=np.int64)
    for t in range(tiles):
        _refill(table, place, vector, t, arcs, movers)
    total = 0.0
    while tiles > 1 and not halt[0]:
        start = _find_cycle(arcs, least, gain, origin)
        if start < 0:
            break
        size, t = 0, start
        while True:
            cycle[size] = t
            size += 1
            t = origin[t]
            if t == start:
                break
        # cycle[x + 1] -> cycle[x]: the row that leaves the last one goes round to where the first one's was.
        held = place[movers[cycle[0], cycle[size - 1]]]
        free = movers[cycle[0], cycle[size - 1]]
        total += arcs[cycle[0], cycle[size - 1]]
        for x in range(size - 1):
            mover = movers[cycle[x + 1], cycle[x]]
            total += arcs[cycle[x + 1], cycle[x]]
            place[free] = place[mover]
            free = mover
        place[free] = held
        for x in range(size):
            _refill(table, place, vector, cycle[x], arcs, movers)
    return total
