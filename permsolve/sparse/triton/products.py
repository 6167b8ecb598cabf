"""Compressed weights times many vectors: groups are made dense in registers, and tensor cores multiply.

A program multiplies a block of a tile's rows with some columns of the activations, the tokens of a channel next to each
other (`transposed.transposed` brings them there), so that what a slot reads is one run of memory wherever the index
points.

The two values of a group of 2:4 in half precision are one word, and its four slots are made by choosing bytes: two
instructions. Other groups of up to four such slots are a word of 64 bits, the sum of its values shifted to their
places; all others are made dense slot by slot, with n comparisons each.

Two things matter to the compiler. Activations must go from their load into ``tl.dot`` as they are, so that they stay in
the shared memory that they are loaded to; a change of their type in between, even of the name of the type, copies them.
And packed positions must be loaded in words of 32 bits, as narrower loads are not asynchronous.

For few columns, the slots are split among programs as in `vectors`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def member(values, k: tl.constexpr, N: tl.constexpr):
    """Return value k of every group, (rows, groups), out of (rows, groups, N)."""
    if N == 1:
        found = tl.reshape(values, (values.shape[0], values.shape[1]))
    elif N == 2:
        even, odd = tl.split(values)
        found = even if k == 0 else odd
    else:
        which = (tl.arange(0, N) == k)[None, None, :]
        found = tl.sum(tl.where(which, values.to(tl.int32), 0), axis=2)
    return found


@triton.jit
def places(packed, here, left, GROUPS: tl.constexpr, WIDE: tl.constexpr):
    """Return the places of each group's values in one number, WIDE bits of which count, (rows, GROUPS)."""
    if WIDE > 32:
        group, part = tl.arange(0, GROUPS), tl.arange(0, WIDE // 32)
        at = group[:, None] * (WIDE // 32) + part[None, :]
        live = here[:, None, None] & (group < left)[None, :, None]
        read = tl.load(packed[:, None, None] + at[None, :, :], mask=live, other=0).to(tl.int64) & 0xFFFFFFFF
        found = tl.sum(read << (part * 32).to(tl.int64)[None, None, :], axis=2)
    else:
        word = tl.arange(0, GROUPS * WIDE // 32)
        live = here[:, None] & (word * (32 // WIDE) < left)[None, :]
        found = tl.load(packed[:, None] + word[None, :], mask=live, other=0)
        # In two steps: the second, within a thread, has constant distances, which merge with the shifts that follow.
        NEAR: tl.constexpr = max(16, WIDE)
        if NEAR < 32:
            part = tl.arange(0, 32 // NEAR) * NEAR
            found = tl.reshape(found[:, :, None] >> part[None, None, :], (packed.shape[0], GROUPS * WIDE // NEAR))
        part = tl.arange(0, NEAR // WIDE) * WIDE
        found = tl.reshape(found[:, :, None] >> part[None, None, :], (packed.shape[0], GROUPS))
    return found


@triton.jit
def chosen_bytes(pair, selector, NATIVE: tl.constexpr):
    """Return four bytes: each four bits of the selector name one of the pair's, or from 4 on a zero."""
    if NATIVE:
        result = libdevice.byte_perm(pair, 0, selector)
    else:
        result = pair * 0
        for k in tl.static_range(4):
            which = (selector >> (4 * k)) & 7
            byte = tl.where(which < 4, (pair >> (8 * (which & 3))) & 0xFF, 0)
            result |= byte << (8 * k)
    return result


@triton.jit
def dense_pairs(values, packed, here, left, GROUPS: tl.constexpr, NATIVE: tl.constexpr):
    """Return `dense` of groups of 2:4 in 16 bits, whose two values are one word.

    A selector has four bits for each byte of the four slots: 4 for a zero, which the bytes of a slot with a value are
    turned from into 0 and 1 or 2 and 3.
    """
    each = tl.arange(0, GROUPS)
    pair = tl.load(values[:, None] + each[None, :], mask=here[:, None] & (each < left)[None, :], other=0)
    at = places(packed, here, left, GROUPS, 4)
    first, second = (at << 3) & 0x18, (at << 1) & 0x18
    selector = 0x44444444 ^ (0x54 << first) ^ (0x76 << second)
    low, high = chosen_bytes(pair, selector, NATIVE), chosen_bytes(pair, selector >> 16, NATIVE)
    pairs = tl.join(low, high)
    result = tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16))
    return tl.reshape(result, (values.shape[0], GROUPS * 4))


@triton.jit
def dense(
    values,
    packed,
    here,
    left,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    SIDE: tl.constexpr,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Return GROUPS groups of some rows with their zeros, as bits: (rows, GROUPS * SIDE)."""
    each = tl.arange(0, GROUPS * N)
    kept = tl.load(values[:, None] + each[None, :], mask=here[:, None] & (each < left * N)[None, :], other=0)
    kept = tl.reshape(kept, (values.shape[0], GROUPS, N))
    at = places(packed, here, left, GROUPS, N * BITS)
    if SIZE == 16 and SIDE == 4:
        word = tl.zeros((values.shape[0], GROUPS), tl.int64)
        for k in tl.static_range(N):
            shift = ((at >> (k * BITS)) & 3) * 16
            word |= (member(kept, k, N).to(tl.int64) & 0xFFFF) << shift.to(tl.int64)
        pairs = tl.join(word.to(tl.int32), (word >> 32).to(tl.int32))
        result = tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16))
    else:
        side = tl.arange(0, SIDE)[None, None, :]
        result = tl.zeros((values.shape[0], GROUPS, SIDE), tl.int32)
        for k in tl.static_range(N):
            place = (at >> (k * BITS)).to(tl.int32) & ((1 << BITS) - 1)
            result += tl.where(place[:, :, None] == side, member(kept, k, N).to(tl.int32)[:, :, None], 0)
    return tl.reshape(result, (values.shape[0], GROUPS * SIDE))


@triton.jit
def typed(bits, KIND: tl.constexpr):
    """Return the numbers that bits stand for."""
    if KIND == "fp16":
        result = bits.to(tl.int16).to(tl.float16, bitcast=True)
    elif KIND == "bf16":
        result = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif KIND == "wide":  # bfloat16 in the interpreter, whose products of bfloat16 are wrong
        result = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        result = bits.to(tl.int32).to(tl.float32, bitcast=True)
    return result


@triton.jit(do_not_specialize=["bucket", "total", "PARTS"])
def product_kernel(
    x,
    values,
    positions,
    index,
    rows,
    out,
    partial,
    arrived,
    x_stride,
    out_stride,
    row_stride,
    total,
    columns,
    height,
    slots,
    stored,
    words,
    bucket,
    PARTS,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    SPLIT: tl.constexpr,
    ORDERED: tl.constexpr,
    PAIRS: tl.constexpr,
    NATIVE: tl.constexpr,
):
    """Multiply ROWS rows of a tile and some of its slots with COLUMNS columns of the activations."""
    per_tile = tl.cdiv(height, ROWS)
    across = tl.cdiv(columns, COLUMNS)
    chunk = tl.program_id(0) // across
    tile = chunk // per_tile
    row = (chunk % per_tile) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    here, inside = row < height, column < columns
    at = (tile * height + row).to(tl.int64)
    each = tl.arange(0, GROUPS * SIDE)
    group, place = each // SIDE, each % SIDE
    index += tile * slots
    source, packed = values + at * stored, positions + at * words
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    end = tl.cdiv(slots, GROUPS * WIDTH)
    share = tl.cdiv(end, PARTS)
    begin = tl.program_id(1) * share
    for block in range(begin, tl.minimum(begin + share, end)):
        first = block * GROUPS
        slot = (first + group) * WIDTH + place
        live = (slot < slots) & (place < WIDTH)
        channel = tl.load(index + slot, mask=live, other=0).to(tl.int64)
        reads = x + channel[:, None] * x_stride + column[None, :]
        activations = tl.load(reads, mask=live[:, None] & (column < x_stride)[None, :], other=0.0)
        packed_at, left = packed + (first * N * BITS) // 32, slots // WIDTH - first
        if PAIRS:
            weights = dense_pairs(source + first, packed_at, here, left, GROUPS, NATIVE)
        else:
            weights = dense(source + first * N, packed_at, here, left, GROUPS, N, SIDE, BITS, SIZE)
        if KIND == "wide":
            activations = activations.to(tl.float32)
        sums = tl.dot(typed(weights, KIND), activations, sums, input_precision=PRECISION)
    there = here[:, None] & inside[None, :]
    if not SPLIT:
        to = at if ORDERED else tl.load(rows + at, mask=here, other=0).to(tl.int64)
        to = to[:, None] * row_stride + column[None, :].to(tl.int64) * out_stride
        tl.store(out + to, sums.to(out.dtype.element_ty), mask=there)
    else:
        aside = partial + at[:, None] * columns + column[None, :]
        size = total.to(tl.int64) * columns
        tl.store(aside + tl.program_id(1) * size, sums, mask=there)
        tl.debug_barrier()
        if tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel") == PARTS - 1:
            result = tl.zeros((ROWS, COLUMNS), tl.float32)
            for part in range(PARTS):
                result += tl.load(aside + part * size, mask=there, other=0.0, cache_modifier=".cg")
            to = at if ORDERED else tl.load(rows + at, mask=here, other=0).to(tl.int64)
            to = to[:, None] * row_stride + column[None, :].to(tl.int64) * out_stride
            tl.store(out + to, result.to(out.dtype.element_ty), mask=there)
            tl.store(arrived + tl.program_id(0), 0)
