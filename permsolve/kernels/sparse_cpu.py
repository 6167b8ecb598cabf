"""Products of compressed weights with few vectors: y = W x, the weights read once.

Rows are handled a vector register at a time: `Shape.lanes` rows of a tile are a *block*, and their k-th values lie side
by side. The positions of a lane's next values are packed into one word of 32 bits, so a shift brings the positions of
the next values into the low bits of all lanes, and a permutation *inside a register* picks the activations: those of a
group fill a register periodically, so whatever the higher bits hold does no harm and nothing has to be masked. That is
three operations for as many values as a register has lanes; a load from memory for each value takes several times as
long. Half types are widened in registers.

Vector code is LLVM's for AVX-512 and AVX2; other machines, and groups too wide for four registers, run the same data
through plain loops.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from permsolve.kernels._jit import Kernel, exact
from permsolve.kernels.memory import scratch
from permsolve.kernels.vector import _Loop

#: Vectors that one pass over a block can multiply: powers of two from 1 on.
BATCHES = (1, 2, 4, 8)
#: Registers that the activations of a group may take.
_REGISTERS = 4

#: Bytes of a cache line, and how far ahead values are asked for: the processor alone does not keep a core's share of
#: the memory busy (a tenth of the time).
_LINE, _AHEAD = 64, 4096
#: Types of values.
KINDS = ("fp32", "fp16", "bf16")

_HALF, _FLOAT, _WORD, _INDEX = ir.HalfType(), ir.FloatType(), ir.IntType(32), ir.IntType(64)
_HALF_BITS = ir.IntType(16)
_PERMUTATIONS = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}


def _lane_counts() -> tuple[int, ...]:
    """Return the register widths that code is generated for, in float32."""
    told: Any = numba.config
    if told.CPU_NAME or told.CPU_FEATURES:  # Numba was told to compile for another machine.
        return ()
    features = binding.get_host_cpu_features()
    if not (features.get("avx2") and features.get("fma") and features.get("f16c")):
        return ()
    return (16, 8) if features.get("avx512f") else (8,)


#: float32 in the vector registers of this machine that have permutations, widest first; none: plain loops.
LANES = _lane_counts()


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    #: Rows of a block.
    lanes: int
    #: Bits of a position: 1, 2, 4 or 8.
    bits: int
    #: Values of a group.
    n: int
    #: Activations of a group, padded to a power of two.
    period: int
    #: Type of the values: "fp32", "fp16" or "bf16".
    kind: str

    @property
    def groups(self) -> int:
        """Groups of a word."""
        return 32 // self.bits // self.n

    @property
    def vector(self) -> bool:
        """Whether there is vector code."""
        return self.lanes in LANES and self.period <= _REGISTERS * self.lanes


def _vector(kind: Any, lanes: int) -> Any:
    return ir.VectorType(kind, lanes)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _load(builder: Any, base: Any, index: Any, kind: Any, lanes: int) -> Any:
    place = builder.bitcast(builder.gep(base, [index]), _vector(kind, lanes).as_pointer())
    return builder.load(place, align=2 if kind == _HALF_BITS else 4)


def _values(builder: Any, base: Any, index: Any, kind: str, lanes: int) -> Any:
    """Load values as float32."""
    if kind == "fp32":
        return _load(builder, base, index, _FLOAT, lanes)
    raw = _load(builder, base, index, _HALF_BITS, lanes)
    wide = _vector(_FLOAT, lanes)
    if kind == "fp16":
        return builder.fpext(builder.bitcast(raw, _vector(_HALF, lanes)), wide)
    words = _vector(_WORD, lanes)
    return builder.bitcast(builder.shl(builder.zext(raw, words), ir.Constant(words, [16] * lanes)), wide)


def _prefetch(builder: Any, base: Any, index: Any) -> None:
    """Ask for a cache line that will be needed soon; one beyond the end of an array does no harm."""
    byte, name = ir.IntType(8).as_pointer(), "llvm.prefetch.p0i8"
    if name not in builder.module.globals:
        ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD]), name=name)
    flags = [ir.Constant(_WORD, flag) for flag in (0, 3, 1)]  # to be read, into the nearest cache, data
    builder.call(builder.module.globals[name], [builder.bitcast(builder.gep(base, [index]), byte), *flags])


def _activations(builder: Any, base: Any, index: Any, period: int, lanes: int) -> list[Any]:
    """Load the activations of a group into registers, periodically."""
    if period >= lanes:
        return [
            _load(builder, base, builder.add(index, ir.Constant(_INDEX, first)), _FLOAT, lanes)
            for first in range(0, period, lanes)
        ]
    part = _load(builder, base, index, _FLOAT, period)
    mask = ir.Constant(_vector(_WORD, lanes), [lane % period for lane in range(lanes)])
    return [builder.shuffle_vector(part, part, mask)]


def _call(builder: Any, name: str, args: list[Any]) -> Any:
    """Call a function of LLVM that returns what its first argument is."""
    functions = builder.module.globals
    if name not in functions:
        ir.Function(builder.module, ir.FunctionType(args[0].type, [each.type for each in args]), name=name)
    return builder.call(functions[name], args)


def _pick(builder: Any, registers: list[Any], positions: Any, lanes: int) -> Any:
    """Return what positions point to, lane by lane; bits beyond the registers' are ignored."""
    if len(registers) == 1:
        return _call(builder, _PERMUTATIONS[lanes], [registers[0], positions])
    half = len(registers) // 2
    low, high = (_pick(builder, part, positions, lanes) for part in (registers[:half], registers[half:]))
    bit = builder.and_(positions, ir.Constant(positions.type, [half * lanes] * lanes))
    return builder.select(builder.icmp_unsigned("==", bit, ir.Constant(positions.type, [0] * lanes)), low, high)


@intrinsic(prefer_literal=True)
def _multiply_block(
    typingctx, values, first, words, word, near, at, length, out, lanes, bits, n, period, widen, batch, chains
):
    """Multiply a block with some vectors, and write the sums to ``out``, vector by vector.

    All arrays are flat; ``first``, ``word`` and ``at`` say where the block's values, its words and the activations
    begin, ``length`` is ``lanes`` times the number of words. What follows ``out`` is constant: ``widen`` is the values'
    type in `KINDS`, ``chains`` the number of sums that a vector's products are dealt to.
    """
    lanes_, bits_, n_, period_, widen_, batch_, chains_ = (
        each.literal_value for each in (lanes, bits, n, period, widen, batch, chains)
    )
    kind = KINDS[widen_]
    together, size = 32 // bits_ // n_, 4 if kind == "fp32" else 2

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, packed, near_, out_ = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2, 4, 7))
        base, packed, near_ = (builder.gep(pointer, [args[k]]) for pointer, k in ((base, 1), (packed, 3), (near_, 5)))
        zero = ir.Constant(_vector(_FLOAT, lanes_), [0.0] * lanes_)
        loop = _Loop(builder, "block")
        sums = [loop.carry(zero) for _ in range(batch_ * chains_)]
        grown = list(sums)
        positions = _load(builder, packed, loop.index, _WORD, lanes_)
        shift = ir.Constant(positions.type, [bits_] * lanes_)
        step = builder.udiv(loop.index, ir.Constant(_INDEX, lanes_))
        value_at = builder.mul(loop.index, ir.Constant(_INDEX, together * n_))
        near_at = builder.mul(step, ir.Constant(_INDEX, together * batch_ * period_))
        for group in range(together):
            registers = []
            for b in range(batch_):
                place = builder.add(near_at, ir.Constant(_INDEX, (group * batch_ + b) * period_))
                registers.append(_activations(builder, near_, place, period_, lanes_))
            for k in range(group * n_, group * n_ + n_):
                place = builder.add(value_at, ir.Constant(_INDEX, k * lanes_))
                weights = _values(builder, base, place, kind, lanes_)
                if k * lanes_ * size % _LINE == 0:
                    _prefetch(builder, base, builder.add(place, ir.Constant(_INDEX, _AHEAD // size)))
                for b in range(batch_):
                    c = b * chains_ + k % chains_
                    picked = _pick(builder, registers[b], positions, lanes_)
                    grown[c] = _call(builder, f"llvm.fma.v{lanes_}f32", [weights, picked, grown[c]])
                positions = builder.lshr(positions, shift)
        loop.close(args[6], list(zip(sums, grown, strict=True)), step=lanes_)
        for b in range(batch_):
            total = grown[b * chains_]
            for other in grown[b * chains_ + 1 : (b + 1) * chains_]:
                total = builder.fadd(total, other)
            place = builder.gep(out_, [ir.Constant(_INDEX, b * lanes_)])
            builder.store(total, builder.bitcast(place, total.type.as_pointer()), align=4)
        return context.get_dummy_value()

    given = (values, first, words, word, near, at, length, out, lanes, bits, n, period, widen, batch, chains)
    return types.void(*given), code


@exact
def _plain_block(values, first, words, word, near, at, length, out, lanes, bits, n, period, batch):
    """Multiply a block by loops; arguments are those of `_multiply_block`."""
    together = 32 // bits // n
    mask = np.uint32((1 << bits) - 1)
    out[: batch * lanes] = np.float32(0)
    for start in range(0, length, lanes):
        for k in range(together * n):
            shift = np.uint32(k * bits)
            row = first + start * together * n + k * lanes
            group = at + (start // lanes * together + k // n) * batch * period
            for b in range(batch):
                for lane in range(lanes):
                    place = np.int64((words[word + start + lane] >> shift) & mask)
                    out[b * lanes + lane] += values[row + lane] * near[group + b * period + place]


@exact
def _gather(x, token, index, period, batch, near, at):
    """Copy the activations of a tile's slots for one vector; groups of the vectors of a pass lie side by side."""
    row = x[token]
    for group in range(index.shape[0] // period):
        to, source = at + group * batch * period, group * period
        for k in range(period):
            near[to + k] = row[index[source + k]]


@exact
def _turn(x, batch, turned):
    """Put the channels of a pass's vectors side by side: ``turned`` is flat, by pass, channel and vector."""
    cols = x.shape[1]
    turned[:] = np.float32(0)  # also for vectors that fill up passes
    for token in range(x.shape[0]):
        row, at = x[token], token // batch * cols * batch + token % batch
        for channel in range(cols):
            turned[at + channel * batch] = row[channel]


@intrinsic(prefer_literal=True)
def _gather_group(typingctx, turned, first, index, source, near, to, period, batch):
    """Copy the activations of one group's slots for a whole pass, a register a slot, as `_gather` lays them out.

    Vector by vector, a slot takes a load and a store for each vector, and reads lie far apart.
    """
    period_, batch_ = period.literal_value, batch.literal_value
    together = min(period_, 4)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, slots, near_ = (_data(context, builder, signature.args[k], args[k]) for k in (0, 2, 4))
        base, slots, near_ = (builder.gep(p, [args[k]]) for p, k in ((base, 1), (slots, 3), (near_, 5)))
        for start in range(0, period_, together):
            parts = []
            for k in range(start, start + together):
                channel = builder.zext(builder.load(builder.gep(slots, [ir.Constant(_INDEX, k)])), _INDEX)
                place = builder.mul(channel, ir.Constant(_INDEX, batch_))
                parts.append(_load(builder, base, place, _FLOAT, batch_))
            while len(parts) > 1:
                count = parts[0].type.count
                both = ir.Constant(_vector(_WORD, 2 * count), list(range(2 * count)))
                parts = [builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            turns = [[k * batch_ + b for k in range(together)] for b in range(batch_)]
            if together == period_:  # one run of memory
                turns = [[place for turn in turns for place in turn]]
            for b, turn in enumerate(turns):
                mask = ir.Constant(_vector(_WORD, len(turn)), turn)
                chosen = builder.shuffle_vector(parts[0], parts[0], mask)
                place = builder.gep(near_, [ir.Constant(_INDEX, b * period_ + start)])
                builder.store(chosen, builder.bitcast(place, chosen.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(turned, first, index, source, near, to, period, batch), code


@functools.cache
def product_kernel(shape: Shape, batch: int) -> Kernel:
    """Return the kernel that multiplies weights of some shape with vectors.

    Parameters
    ----------
    shape
        Of the weights. Where `Shape.vector` is false, values are float32.
    batch
        Vectors of a pass, of `BATCHES`. Any number of vectors can be multiplied: the weights of a block stay in the
        cache from one pass to the next.

    Returns
    -------
    Callable
        ``kernel(x, values, words, index, rows, height, out, first, last)`` multiplies blocks ``first`` to ``last - 1``:
        ``x`` is float32 (vectors, cols), ``values`` float32 or the bits of half types in uint16, flat, by block, value
        and lane, ``words`` uint32, flat, by block, word and lane, ``index`` uint16 or uint32 (tiles, padded slots),
        ``rows`` int32, the outputs of stored rows, ``height`` the rows of a tile, ``out`` float32 (vectors, rows),
        written.
    """
    lanes, bits, n, period, _ = shape
    together, vector = shape.groups, shape.vector
    widen = KINDS.index(shape.kind)
    # A sum waits four cycles for the one before, and two can start in each: few vectors need several sums each.
    chains = max(4 // batch, 1)
    spread = vector and batch == BATCHES[-1]

    def kernel(x, values, words, index, rows, height, out, first, last):
        above = (height + lanes - 1) // lanes
        length = words.shape[0] // (index.shape[0] * above)
        stored, slots = length * together * n, length // lanes * together * batch * period
        passes = (x.shape[0] + batch - 1) // batch
        near, sums = scratch(passes * slots), scratch(batch * lanes)
        near[:] = np.float32(0)  # also for groups and vectors that fill up words and passes
        # Where many tiles read the same vectors, turning these first pays.
        turns = passes if spread and index.shape[0] > 1 else 0
        across = x.shape[1] * batch
        turned = scratch(turns * across)
        if turns > 0:
            _turn(x, batch, turned)
        tile = -1
        for block in range(first, last):
            if block // above != tile:
                tile = block // above
                channels = index[tile]
                if spread:
                    for k in range(turns):
                        for group in range(channels.shape[0] // period):
                            to = k * slots + group * batch * period
                            _gather_group(turned, k * across, channels, group * period, near, to, period, batch)
                if turns == 0:
                    for token in range(x.shape[0]):
                        at = token // batch * slots + token % batch * period
                        _gather(x, token, channels, period, batch, near, at)
            v, w = block * stored, block * length
            begin = tile * height + block % above * lanes
            here = min(lanes, (tile + 1) * height - begin)
            for k in range(passes):
                at = k * slots
                if vector:
                    _multiply_block(
                        values, v, words, w, near, at, length, sums, lanes, bits, n, period, widen, batch, chains
                    )
                else:
                    _plain_block(values, v, words, w, near, at, length, sums, lanes, bits, n, period, batch)
                for b in range(min(batch, x.shape[0] - k * batch)):
                    for lane in range(here):
                        out[k * batch + b, rows[begin + lane]] = sums[b * lanes + lane]

    return exact(kernel)


@exact
def expand(values, words, index, height, lanes, bits, n, period, first, last, out):
    """Make blocks dense.

    Parameters
    ----------
    values
        float32, flat: of the blocks from ``first`` on.
    words, index, height
        As in `product_kernel`.
    lanes, bits, n, period
        As in `Shape`.
    first, last
        The blocks.
    out
        float32 (rows of the blocks, cols), written: rows in stored order, a block's lanes beyond its tile left out.
    """
    out[:] = np.float32(0)
    above = (height + lanes - 1) // lanes
    length = words.shape[0] // (index.shape[0] * above)
    together = 32 // bits // n
    mask = np.uint32((1 << bits) - 1)
    at = row = 0
    for block in range(first, last):
        slots = index[block // above]
        here = min(lanes, height - block % above * lanes)
        for start in range(0, length, lanes):
            for k in range(together * n):
                group = (start // lanes * together + k // n) * period
                for lane in range(here):
                    value = values[at + lane]
                    if value != 0:
                        place = (words[block * length + start + lane] >> np.uint32(k * bits)) & mask
                        out[row + lane, slots[group + np.int64(place)]] = value
                at += lanes
        row += here
