"""Vector code for V:N:M: what columns are worth among the four that a tile keeps of a group.

As in `permsolve.kernels.tile_vector`, loops are a few registers long, so what surrounds them decides. All offsets are
entries of flat float32 arrays, and lengths are positive multiples of `LANES`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from permsolve.kernels.tile_vector import _swapped, _total
from permsolve.kernels.vector import LANES, _constant, _data, _fold, _larger, _load, _Loop, _smaller, _store

#: Columns that are kept of a group.
WIDTH = 4
#: Tiles that `change_in_tiles` handles at a time: their sums fill one register.
TILES = LANES // WIDTH

_INDEX, _SHORT = ir.IntType(64), ir.IntType(32)


def _worths(builder: Any, column: Any, slot: Any, length: Any, tiles: int) -> Any:
    """Return ``sum_r max(column[r], slot k[r])`` of the four slots of each of some tiles as lanes of one vector."""
    sums = []
    for _ in range(tiles):
        slots = [slot]
        for _ in range(WIDTH - 1):
            slots.append(builder.gep(slots[-1], [length]))
        loop = _Loop(builder, "worth")
        totals = [loop.carry(_constant(0.0)) for _ in slots]
        values = _load(builder, column, loop.index)
        grown = [
            builder.fadd(total, _larger(builder, values, _load(builder, pointer, loop.index)))
            for total, pointer in zip(totals, slots, strict=True)
        ]
        loop.close(length, list(zip(totals, grown, strict=True)))
        sums += grown
        column, slot = builder.gep(column, [length]), builder.gep(slots[-1], [length])
    return _fold(builder, sums * (LANES // len(sums)))


@intrinsic
def worth_in_tile(typingctx, saliency, column, thresholds, slot, length, out, at):
    """Write ``sum_r max(saliency[column + r], thresholds[slot + k * length + r])`` for k = 0 .. 3 to ``out[at:]``.

    That is what a column brings in each of the four slots, up to a constant of the slot. ``out`` needs room for `LANES`
    entries from ``at`` on: what follows the four sums is overwritten.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, limits, out = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2, 5))
        column, slot = builder.gep(base, [args[1]]), builder.gep(limits, [args[3]])
        _store(builder, _worths(builder, column, slot, args[4], 1), out, args[6])
        return context.get_dummy_value()

    return types.void(saliency, column, thresholds, slot, length, out, at), code


def _change_code(tiles: int) -> Any:
    """Return the code of `change_in_tile` for some tiles that lie side by side."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, limits, worths, spares, out = (
            _data(context, builder, signature.args[k], args[k]) for k in (0, 2, 5, 6, 8)
        )
        column, slot = builder.gep(base, [args[1]]), builder.gep(limits, [args[3]])
        comes = _worths(builder, column, slot, args[4], tiles)
        leaves = _load(builder, worths, args[7])
        most = builder.fsub(comes, leaves)
        for distance in (1, 2):
            most = _larger(builder, most, _swapped(builder, most, distance))
        most = _larger(builder, most, _constant(0.0))
        change = builder.fsub(_larger(builder, comes, _load(builder, spares, args[7])), leaves)
        _store(builder, builder.fsub(change, most), out, args[9])
        total = builder.extract_element(most, ir.Constant(_SHORT, 0))
        for tile in range(1, tiles):
            more = builder.extract_element(most, ir.Constant(_SHORT, tile * WIDTH))
            total = builder.fadd(total, more)
        return total

    return code


@intrinsic
def change_in_tile(typingctx, saliency, column, thresholds, slot, length, worths, spares, at, out, to):
    """Compute what a tile gains when a column takes the place of one column of the group.

    What it gains where the column replaced is one that the tile does not keep is returned: 0, or what the best exchange
    with one of the four brings. For each of the four kept ones, what it gains *more* than that (less, as a rule) is
    written to ``out[to:]``. ``worths[at:]`` and ``spares[at:]`` are those of the four; all three arrays need room for
    `LANES` entries from there on.
    """
    signature = types.float32(saliency, column, thresholds, slot, length, worths, spares, at, out, to)
    return signature, _change_code(1)


@intrinsic
def change_in_tiles(typingctx, saliency, column, thresholds, slot, length, worths, spares, at, out, to):
    """Do as `change_in_tile` for `TILES` tiles side by side; the sum over them is returned."""
    signature = types.float32(saliency, column, thresholds, slot, length, worths, spares, at, out, to)
    return signature, _change_code(TILES)


def _ranked(builder: Any, values: list[Any]) -> list[Any]:
    """Return four vectors in descending order."""
    a, b, c, d = values
    highs = _larger(builder, a, b), _larger(builder, c, d)
    lows = _smaller(builder, a, b), _smaller(builder, c, d)
    inner, outer = _smaller(builder, *highs), _larger(builder, *lows)
    first, last = _larger(builder, *highs), _smaller(builder, *lows)
    return [first, _larger(builder, inner, outer), _smaller(builder, inner, outer), last]


def _refresh_code(n: int) -> Any:
    """Return the code of `refresh_tile` for n entries kept per row."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target, worth = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3, 5))
        columns = [builder.gep(base, [builder.extract_value(args[1], k)]) for k in range(WIDTH)]
        slots = [builder.gep(target, [args[4]])]
        for _ in range(WIDTH - 1):
            slots.append(builder.gep(slots[-1], [args[2]]))
        loop = _Loop(builder, "refresh")
        sums = [loop.carry(_constant(0.0)) for _ in range(WIDTH + 1)]
        values = [_load(builder, pointer, loop.index) for pointer in columns]
        ranked = _ranked(builder, values)
        kept, pruned = ranked[n - 1], ranked[n]
        grown = []
        for k, value in enumerate(values):
            among = builder.fcmp_ordered(">=", value, kept)
            _store(builder, builder.select(among, pruned, kept), slots[k], loop.index)
            grown.append(builder.fadd(sums[k], _larger(builder, value, kept)))
        whole = sums[WIDTH]
        for value in ranked[:n]:
            whole = builder.fadd(whole, value)
        loop.close(args[2], list(zip(sums, [*grown, whole], strict=True)))
        for k in range(WIDTH):
            place = builder.gep(worth, [builder.add(args[6], ir.Constant(_INDEX, k))])
            builder.store(_total(builder, grown[k]), place)
        return _total(builder, whole)

    return code


@intrinsic
def refresh_1(typingctx, saliency, members, length, thresholds, slot, worths, at):
    """Compute the slots of a tile and group that keeps 1 of 4 per row, and return its value.

    ``members`` is a tuple of the offsets of the four columns. The threshold of a slot (the n-th largest of the other
    three) is written to ``thresholds[slot + k * length:]``, and what its own column is worth there, by the measure of
    `worth_in_tile`, to ``worths[at + k]``.
    """
    return types.float32(saliency, members, length, thresholds, slot, worths, at), _refresh_code(1)


@intrinsic
def refresh_2(typingctx, saliency, members, length, thresholds, slot, worths, at):
    """Do as `refresh_1` where 2 of 4 are kept."""
    return types.float32(saliency, members, length, thresholds, slot, worths, at), _refresh_code(2)


@intrinsic
def refresh_3(typingctx, saliency, members, length, thresholds, slot, worths, at):
    """Do as `refresh_1` where 3 of 4 are kept."""
    return types.float32(saliency, members, length, thresholds, slot, worths, at), _refresh_code(3)


def _add_code(n: int) -> Any:
    """Return the code of `add_1` for n entries kept per row."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3))
        target = builder.gep(target, [args[4]])
        columns = [builder.gep(base, [builder.extract_value(args[1], k)]) for k in range(WIDTH)]
        loop = _Loop(builder, "add")
        total = _load(builder, target, loop.index)
        for value in _ranked(builder, [_load(builder, pointer, loop.index) for pointer in columns])[:n]:
            total = builder.fadd(total, value)
        _store(builder, total, target, loop.index)
        loop.close(args[2], [])
        return context.get_dummy_value()

    return code


@intrinsic
def add_1(typingctx, saliency, members, length, out, at):
    """Add the largest of four columns, row by row, to ``out[at:]``; ``members`` is a tuple of offsets."""
    return types.void(saliency, members, length, out, at), _add_code(1)


@intrinsic
def add_2(typingctx, saliency, members, length, out, at):
    """Do as `add_1` with the two largest."""
    return types.void(saliency, members, length, out, at), _add_code(2)


@intrinsic
def add_3(typingctx, saliency, members, length, out, at):
    """Do as `add_1` with the three largest."""
    return types.void(saliency, members, length, out, at), _add_code(3)
