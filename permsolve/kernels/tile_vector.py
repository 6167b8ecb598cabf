"""Vector code for tiles: a few registers of rows, looked at from millions of sides a second.

The loops of a tile are short (32 rows are two registers), so what surrounds them decides: the compiler's own
vectorisation adds checks, remainders and slow horizontal sums. These intrinsics have one loop over whole registers and
one fold at its end. All offsets are entries of flat float32 arrays, and lengths are positive multiples of `LANES`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from permsolve.kernels.vector import LANES, _constant, _data, _larger, _load, _Loop, _smaller, _store

_SHORT = ir.IntType(32)


def _swapped(builder: Any, value: Any, distance: int) -> Any:
    mask = ir.Constant(ir.VectorType(_SHORT, LANES), [k ^ distance for k in range(LANES)])
    return builder.shuffle_vector(value, value, mask)


def _total(builder: Any, value: Any) -> Any:
    """Return the sum of a vector's lanes."""
    distance = LANES // 2
    while distance:
        value = builder.fadd(value, _swapped(builder, value, distance))
        distance //= 2
    return builder.extract_element(value, ir.Constant(_SHORT, 0))


@intrinsic
def worth_in_slot(typingctx, saliency, j, thresholds, p, length):
    """Return ``sum_r max(saliency[j + r], thresholds[p + r])``: what column j and a slot's other members bring."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        column = builder.gep(_data(context, builder, signature.args[0], args[0]), [args[1]])
        limits = builder.gep(_data(context, builder, signature.args[2], args[2]), [args[3]])
        loop = _Loop(builder, "worth")
        total = loop.carry(_constant(0.0))
        value = _larger(builder, _load(builder, column, loop.index), _load(builder, limits, loop.index))
        grown = builder.fadd(total, value)
        loop.close(args[4], [(total, grown)])
        return _total(builder, grown)

    return types.float32(saliency, j, thresholds, p, length), code


@intrinsic
def worth_exchanged(typingctx, saliency, i, j, thresholds, p, q, length):
    """Return the worth of column j in slot p and of column i in slot q, as `worth_in_slot`, in one pass."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = _data(context, builder, signature.args[0], args[0])
        limit = _data(context, builder, signature.args[3], args[3])
        first, second = (builder.gep(base, [args[k]]) for k in (1, 2))
        at_first, at_second = (builder.gep(limit, [args[k]]) for k in (4, 5))
        loop = _Loop(builder, "exchange")
        sums = [loop.carry(_constant(0.0)) for _ in range(2)]
        there = _larger(builder, _load(builder, second, loop.index), _load(builder, at_first, loop.index))
        back = _larger(builder, _load(builder, first, loop.index), _load(builder, at_second, loop.index))
        grown = [builder.fadd(sums[0], there), builder.fadd(sums[1], back)]
        loop.close(args[6], list(zip(sums, grown, strict=True)))
        return _total(builder, builder.fadd(*grown))

    return types.float32(saliency, i, j, thresholds, p, q, length), code


@intrinsic
def refresh_four(typingctx, saliency, members, length, thresholds, at, bases, first):
    """Write the thresholds of the four slots of a 2:4 group and what their columns are worth in them.

    ``members`` is a tuple of the offsets of the columns; the slots' thresholds begin at ``at``, ``length`` apart, and
    ``bases[first : first + 4]`` receives the worths.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target, worth = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3, 5))
        column = [builder.gep(base, [builder.extract_value(args[1], k)]) for k in range(4)]
        slot = [builder.gep(target, [args[4]])]
        for _ in range(3):
            slot.append(builder.gep(slot[-1], [args[2]]))
        loop = _Loop(builder, "four")
        sums = [loop.carry(_constant(0.0)) for _ in range(4)]
        values = [_load(builder, pointer, loop.index) for pointer in column]
        a, b, c, d = values
        highs = _larger(builder, a, b), _larger(builder, c, d)
        lows = _smaller(builder, a, b), _smaller(builder, c, d)
        inner, outer = _smaller(builder, *highs), _larger(builder, *lows)
        second, third = _larger(builder, inner, outer), _smaller(builder, inner, outer)
        grown = []
        for k, value in enumerate(values):
            kept = builder.fcmp_ordered(">=", value, second)
            limit = builder.select(kept, third, second)
            _store(builder, limit, slot[k], loop.index)
            # Where the value is kept it exceeds its threshold; elsewhere the threshold is the second largest.
            grown.append(builder.fadd(sums[k], builder.select(kept, value, second)))
        loop.close(args[2], list(zip(sums, grown, strict=True)))
        for k in range(4):
            place = builder.gep(worth, [builder.add(args[6], ir.Constant(ir.IntType(64), k))])
            builder.store(_total(builder, grown[k]), place)
        return context.get_dummy_value()

    return types.void(saliency, members, length, thresholds, at, bases, first), code


@intrinsic
def add_two_of_four(typingctx, saliency, members, length, out, at):
    """Add the two largest of four columns, row by row, to ``out[at:]``; ``members`` is a tuple of offsets."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3))
        column = [builder.gep(base, [builder.extract_value(args[1], k)]) for k in range(4)]
        target = builder.gep(target, [args[4]])
        loop = _Loop(builder, "two")
        a, b, c, d = (_load(builder, pointer, loop.index) for pointer in column)
        high, other = _larger(builder, a, b), _larger(builder, c, d)
        low = _larger(builder, _smaller(builder, a, b), _smaller(builder, c, d))
        second = _larger(builder, _smaller(builder, high, other), low)
        value = builder.fadd(_larger(builder, high, other), second)
        _store(builder, builder.fadd(_load(builder, target, loop.index), value), target, loop.index)
        loop.close(args[2], [])
        return context.get_dummy_value()

    return types.void(saliency, members, length, out, at), code


@intrinsic
def insert_ranked(typingctx, saliency, at, largest, to, depth, distance):
    """Insert a register of a column into the ``depth`` largest of each row.

    The k-th largest of the register's rows are at ``largest[to + k * distance :]``; what drops out is lost.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, ranks = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2))
        start = _load(builder, base, args[1])
        loop = _Loop(builder, "insert")
        carried = loop.carry(start)
        place = builder.add(args[3], builder.mul(loop.index, args[5]))
        held = _load(builder, ranks, place)
        _store(builder, _larger(builder, carried, held), ranks, place)
        loop.close(args[4], [(carried, _smaller(builder, carried, held))], step=1)
        return context.get_dummy_value()

    return types.void(saliency, at, largest, to, depth, distance), code


@intrinsic
def limit_slot(typingctx, saliency, at, largest, last, length, thresholds, to):
    """Write the thresholds of a slot and return what its column is worth in it.

    ``largest[last:]`` holds the n-th largest of the group by row, and the ``length`` entries behind it the next ones.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, ranks, target = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2, 5))
        column, target = builder.gep(base, [args[1]]), builder.gep(target, [args[6]])
        kept = builder.gep(ranks, [args[3]])
        pruned = builder.gep(kept, [args[4]])
        loop = _Loop(builder, "limit")
        total = loop.carry(_constant(0.0))
        value, lowest = _load(builder, column, loop.index), _load(builder, kept, loop.index)
        inside = builder.fcmp_ordered(">=", value, lowest)
        limit = builder.select(inside, _load(builder, pruned, loop.index), lowest)
        _store(builder, limit, target, loop.index)
        grown = builder.fadd(total, _larger(builder, value, limit))
        loop.close(args[4], [(total, grown)])
        return _total(builder, grown)

    return types.float32(saliency, at, largest, last, length, thresholds, to), code


@intrinsic
def add_stretch(typingctx, source, at, length, out, to):
    """Add ``source[at : at + length]`` to ``out[to:]``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3))
        base, target = builder.gep(base, [args[1]]), builder.gep(target, [args[4]])
        loop = _Loop(builder, "add")
        value = builder.fadd(_load(builder, target, loop.index), _load(builder, base, loop.index))
        _store(builder, value, target, loop.index)
        loop.close(args[2], [])
        return context.get_dummy_value()

    return types.void(source, at, length, out, to), code
