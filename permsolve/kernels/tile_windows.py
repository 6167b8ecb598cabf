"""Windows of tiles: rounds of moves of columns within tiles and of rows between them."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled
from permsolve.kernels.splitmix import GOLDEN, mix
from permsolve.kernels.tile_deals import deal_columns
from permsolve.kernels.tile_vector import worth_exchanged, worth_in_slot
from permsolve.kernels.tiles import add_row_values, anneal_columns, anneal_rows, move_rows, place_width, refresh_slots

_LOW_27, _27 = np.uint64(0x7FFFFFF), np.uint64(27)


@compiled
def anneal_tiles(bench, table, data, rows, slots, prices, spans, tiles, n, m, heat, bias, counts, rounds, seed):
    """Anneal a window of tiles: rounds of column moves in each tile, then of row moves between them.

    Parameters
    ----------
    bench, table
        Work space of the thread: a `permsolve.kernels.tiles.Bench` and a `permsolve.kernels.tile_deals.Table`.
    data
        float32 (all tiles, cols * width): saliency of the tiles, changed where rows move.
    rows
        int64 (all tiles, vector): rows of the tiles, changed.
    slots
        int64 (all tiles, cols): columns of the tiles, changed.
    prices
        float32 (all tiles, cols): prices of the columns in assignments, changed.
    spans
        int64 (blocks, 5): of each block of columns the first one, how many there are and how many a tile keeps, the
        proposals of a round, and most groups of an assignment; 0 for no assignments.
    tiles
        int64 (window,): the tiles to work on; no other thread may touch them.
    n, m
        Entries kept per row, group size.
    heat
        Temperatures of the first and after the last round.
    bias
        As in `anneal_rows`.
    counts
        Row proposals of a round; 0 leaves the rows where they are.
    rounds
        Number of rounds.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    tuple
        Change of the score, column moves accepted that lost something, row moves accepted, and the
        number of rounds finished.
    """
    vector = rows.shape[1]
    width = place_width(vector)
    window = tiles.shape[0]
    values = np.zeros((window, window * width), dtype=np.float32)
    place = np.empty(window * vector, dtype=np.int64)
    for p in range(place.shape[0]):
        place[p] = p // vector * width + p % vector
    before = tile_values(bench, data, slots, spans, tiles, n, m, vector)
    losing = moved = done = 0
    finished = True
    cooling = (heat[1] / heat[0]) ** (1.0 / rounds) if heat[0] > 0 else 1.0
    temperature = heat[0]
    while done < rounds and finished:
        for t in range(window):
            seed += GOLDEN
            lost, finished = _anneal_tile(
                bench,
                table,
                data[tiles[t]],
                slots[tiles[t]],
                prices[tiles[t]],
                spans,
                n,
                m,
                width,
                temperature,
                mix(seed),
            )
            losing += lost
            if not finished:
                break
        if finished and counts > 0:
            fill_values(bench, data, slots, spans, tiles, n, m, width, values)
            seed += GOLDEN
            _, accepted = anneal_rows(values, place, vector, width, temperature, bias, counts, mix(seed))
            moved += accepted
            if accepted:
                move_rows(data, rows, tiles, place, vector)
        done += finished
        temperature *= cooling
    change = tile_values(bench, data, slots, spans, tiles, n, m, vector) - before
    return change, losing, moved, done


@compiled
def _anneal_tile(bench, table, flat, slots, prices, spans, n, m, width, temperature, seed):
    losing = 0
    for b in range(spans.shape[0]):
        first, size, kept, proposals, block = spans[b]
        part = slots[first : first + size]
        if block > 0 and temperature > 0:
            seed += GOLDEN
            deal_columns(table, bench, flat, part, kept, n, m, width, prices, temperature, block, mix(seed))
        seed += GOLDEN
        _, lost, finished = anneal_columns(bench, flat, part, kept, n, m, width, temperature, proposals, mix(seed))
        losing += lost
        if not finished:
            return losing, False
    return losing, True


@compiled
def fill_values(bench, data, slots, spans, tiles, n, m, width, values):
    """Compute what the rows of some tiles bring under the columns of each of them.

    Parameters
    ----------
    bench, data, slots, spans, tiles, n, m
        As in `anneal_tiles`.
    width
        Lanes of a tile.
    values
        float32 (tiles, tiles * width), written: ``values[t, u * width + lane]`` is what a row of tile u brings to t.
    """
    values[:, :] = np.float32(0)
    for u in range(tiles.shape[0]):
        flat = data[tiles[u]]
        for t in range(tiles.shape[0]):
            for b in range(spans.shape[0]):
                part = slots[tiles[t], spans[b, 0] : spans[b, 0] + spans[b, 1]]
                add_row_values(bench, flat, part, spans[b, 2], n, m, width, values[t], u * width)


@compiled
def tile_values(bench, data, slots, spans, tiles, n, m, vector):
    """Return the sum of the values of some tiles.

    Parameters
    ----------
    bench, data, slots, spans, tiles, n, m
        As in `anneal_tiles`.
    vector
        Rows of a tile.

    Returns
    -------
    float
        The sum, in units of ``data``.
    """
    width = place_width(vector)
    out = np.zeros(width, dtype=np.float32)
    total = 0.0
    for t in range(tiles.shape[0]):
        for b in range(spans.shape[0]):
            out[:] = np.float32(0)
            part = slots[tiles[t], spans[b, 0] : spans[b, 0] + spans[b, 1]]
            add_row_values(bench, data[tiles[t]], part, spans[b, 2], n, m, width, out, 0)
            for r in range(vector):
                total += out[r]
    return total


@compiled
def acceptance(bench, data, slots, spans, tiles, n, m, vector, temperature, seed):
    """Make a round of column moves in some tiles and return the share of proposals accepted at a loss.

    Parameters
    ----------
    bench, data, slots, spans, tiles, n, m, vector
        As in `tile_values`; the slots of the tiles are changed.
    temperature
        In units of ``data``.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    float
        The share.
    """
    width = place_width(vector)
    losing = proposals = 0
    for t in range(tiles.shape[0]):
        for b in range(spans.shape[0]):
            part = slots[tiles[t], spans[b, 0] : spans[b, 0] + spans[b, 1]]
            seed += GOLDEN
            _, lost, _ = anneal_columns(
                bench, data[tiles[t]], part, spans[b, 2], n, m, width, temperature, spans[b, 3], mix(seed)
            )
            losing += lost
            proposals += spans[b, 3]
    return losing / max(proposals, 1)


@compiled
def mean_losses(bench, data, slots, spans, tiles, n, m, vector, samples, seed):
    """Average what a random move of a column costs in some tiles: the scale at which temperatures begin.

    Parameters
    ----------
    bench, data, slots, spans, tiles, n, m, vector
        As in `tile_values`.
    samples
        Moves drawn in each block of columns of each tile.
    seed
        uint64 seed of the SplitMix64 stream.

    Returns
    -------
    float
        Mean of ``max(-delta, 0)``, in units of ``data``; 0 where there are no moves.
    """
    width = place_width(vector)
    total, count = 0.0, 0
    for t in range(tiles.shape[0]):
        flat = data[tiles[t]]
        for b in range(spans.shape[0]):
            first, size, kept, _, _ = spans[b]
            if size == m or kept == 0:
                continue
            part = slots[tiles[t], first : first + size]
            for x in range(0, kept, m):
                refresh_slots(bench, flat, part, x, n, m, width)
            for _ in range(samples):
                seed += GOLDEN
                z = mix(seed)
                p = np.int64(((z & _LOW_27) * np.uint64(kept)) >> _27)
                q = np.int64((((z >> _27) & _LOW_27) * np.uint64(size - m)) >> _27)
                if q >= bench.starts[p]:
                    q += m
                i, j = part[p] * width, part[q] * width
                if q >= kept:
                    delta = worth_in_slot(flat, j, bench.thresholds, p * width, width) - bench.bases[p]
                else:
                    worth = worth_exchanged(flat, i, j, bench.thresholds, p * width, q * width, width)
                    delta = worth - bench.bases[p] - bench.bases[q]
                total += max(-delta, 0.0)
                count += 1
    return total / count if count else 0.0
