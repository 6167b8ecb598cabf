"""Vector code that the compiler does not find by itself: the register tile of the gain matrix, and what measures it.

The functions here are intrinsics: they are called from compiled kernels and write LLVM's vector operations themselves.
One tile adds up ``max(S[r, j], t_i[r])`` for `TILE` slots and `TILE_COLUMNS` columns over a stretch of rows: sums in
registers, each operand loaded once per row, two vector operations a term. The loop vectoriser reaches a third less (it
keeps fewer sums in registers), and its horizontal sums at the end cost more than they need.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

_FEATURES = binding.get_host_cpu_features()
#: float32 in a vector register of this machine.
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx") else 4
#: Slots of a tile, and columns: as many sums as registers hold beside the operands.
TILE = 4
TILE_COLUMNS = 2 if LANES == 8 else 4

_FLOAT, _INDEX, _SHORT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _load(builder: Any, base: Any, index: Any) -> Any:
    place = builder.bitcast(builder.gep(base, [index]), _VECTOR.as_pointer())
    return builder.load(place, align=4)


def _store(builder: Any, value: Any, base: Any, index: Any) -> None:
    builder.store(value, builder.bitcast(builder.gep(base, [index]), _VECTOR.as_pointer()), align=4)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _fold(builder: Any, sums: list[Any]) -> Any:
    """Return the vector of the lane sums of as many vectors as it has lanes."""
    part = LANES  # lanes that still hold parts of one sum
    while len(sums) > 1:
        part //= 2
        half = [start + k for start in range(0, 2 * LANES, 2 * part) for k in range(part)]
        masks = [ir.Constant(ir.VectorType(_SHORT, LANES), [k + shift for k in half]) for shift in (0, part)]
        sums = [
            builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks))
            for a, b in zip(sums[::2], sums[1::2], strict=True)
        ]
    return sums[0]


class _Loop:
    """A counted loop over vectors: from 0 to a length that is a positive multiple of the lanes."""

    def __init__(self, builder: Any, name: str) -> None:
        self.builder = builder
        before, function = builder.basic_block, builder.function
        self.body, self.after = (function.append_basic_block(f"{name}.{part}") for part in ("body", "after"))
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self._before = before
        self.index = self.carry(ir.Constant(_INDEX, 0))

    def carry(self, start: Any) -> Any:
        """Return a variable that has a value before the loop and gets the next one from `close`."""
        variable = self.builder.phi(start.type)
        variable.add_incoming(start, self._before)
        return variable

    def close(self, length: Any, following: list[tuple[Any, Any]], step: int = LANES) -> None:
        """End the body; variables take their next values."""
        at = self.builder.add(self.index, ir.Constant(_INDEX, step))
        for variable, value in [(self.index, at), *following]:
            variable.add_incoming(value, self.body)
        self.builder.cbranch(self.builder.icmp_signed("<", at, length), self.body, self.after)
        self.builder.position_at_end(self.after)


@intrinsic
def add_tile(typingctx, thresholds, saliency, slots, columns, length, out, at):
    """Add the sums of one tile to ``out[at:]``, slot by slot.

    ``thresholds`` and ``saliency`` are float32, flat; ``slots`` and ``columns`` are tuples of the offsets at which the
    rows of `TILE` slots and `TILE_COLUMNS` columns begin; ``length`` is a positive multiple of `LANES`; ``out`` is
    float32, flat, with room for ``TILE * TILE_COLUMNS`` sums.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base = [_data(context, builder, signature.args[k], args[k]) for k in (0, 1, 5)]
        slot = [builder.gep(base[0], [builder.extract_value(args[2], k)]) for k in range(TILE)]
        column = [builder.gep(base[1], [builder.extract_value(args[3], k)]) for k in range(TILE_COLUMNS)]
        loop = _Loop(builder, "tile")
        sums = [loop.carry(_constant(0.0)) for _ in range(TILE * TILE_COLUMNS)]
        limits = [_load(builder, pointer, loop.index) for pointer in slot]
        grown = list(sums)
        for c, pointer in enumerate(column):
            values = _load(builder, pointer, loop.index)
            for s, limit in enumerate(limits):
                k = s * TILE_COLUMNS + c
                grown[k] = builder.fadd(sums[k], _larger(builder, values, limit))
        loop.close(args[4], list(zip(sums, grown, strict=True)))
        for first in range(0, len(grown), LANES):
            place = builder.add(args[6], ir.Constant(_INDEX, first))
            total = builder.fadd(_load(builder, base[2], place), _fold(builder, grown[first : first + LANES]))
            _store(builder, total, base[2], place)
        return context.get_dummy_value()

    return types.void(thresholds, saliency, slots, columns, length, out, at), code


@intrinsic
def copy_stretch(typingctx, source, at, length, target, to):
    """Copy ``source[at : at + length]`` to ``target[to:]`` and return its sum.

    Both are float32, flat, and do not overlap; ``length`` is a positive multiple of `LANES`.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, out = (_data(context, builder, signature.args[k], args[k]) for k in (0, 3))
        base, out = builder.gep(base, [args[1]]), builder.gep(out, [args[4]])
        loop = _Loop(builder, "copy")
        total = loop.carry(_constant(0.0))
        values = _load(builder, base, loop.index)
        _store(builder, values, out, loop.index)
        grown = builder.fadd(total, values)
        loop.close(args[2], [(total, grown)])
        return builder.extract_element(_fold(builder, [grown] * LANES), ir.Constant(_SHORT, 0))

    return types.float32(source, at, length, target, to), code


@intrinsic
def second_of_three(typingctx, saliency, a, b, c, length, out, at):
    """Write the middle one of three columns, row by row, to ``out[at:]`` and return the sum.

    It is the threshold of the fourth member of a 2:4 group. ``saliency`` is float32, flat; ``a``, ``b`` and ``c`` are
    the offsets of the columns; ``length`` is a positive multiple of `LANES`.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature.args[k], args[k]) for k in (0, 5))
        members = [builder.gep(base, [args[k]]) for k in (1, 2, 3)]
        target = builder.gep(target, [args[6]])
        loop = _Loop(builder, "middle")
        total = loop.carry(_constant(0.0))
        x, y, z = (_load(builder, pointer, loop.index) for pointer in members)
        upper = _smaller(builder, _larger(builder, x, y), z)
        middle = _larger(builder, _smaller(builder, x, y), upper)
        _store(builder, middle, target, loop.index)
        grown = builder.fadd(total, middle)
        loop.close(args[4], [(total, grown)])
        return builder.extract_element(_fold(builder, [grown] * LANES), ir.Constant(_SHORT, 0))

    return types.float32(saliency, a, b, c, length, out, at), code


@intrinsic
def peak_chains(typingctx, length):
    """Run 16 independent chains of max and add in registers, ``length`` times, and return one of the results.

    It is the yardstick of the gain kernel: `LANES` * 16 terms a round, no memory. Each operation waits for the one
    before in its chain only, and 16 chains hide that.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.uitofp(args[0], _FLOAT)
        seeds = []
        for k in range(8):  # unknown to the compiler, so that it cannot fold them
            value = builder.fmul(number, ir.Constant(_FLOAT, 1.0 + k))
            lane = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_SHORT, 0))
            everywhere = ir.Constant(ir.VectorType(_SHORT, LANES), [0] * LANES)
            seeds.append(builder.shuffle_vector(lane, lane, everywhere))
        loop = _Loop(builder, "peak")
        chains = [loop.carry(_constant(0.0)) for _ in range(16)]
        grown = [
            builder.fadd(_larger(builder, chain, seeds[k % 4]), seeds[4 + k // 4]) for k, chain in enumerate(chains)
        ]
        loop.close(args[0], list(zip(chains, grown, strict=True)), step=1)
        total = grown[0]
        for chain in grown[1:]:
            total = builder.fadd(total, chain)
        return builder.extract_element(total, ir.Constant(_SHORT, 0))

    return types.float32(length), code
