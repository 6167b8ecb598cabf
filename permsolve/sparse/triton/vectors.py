"""Compressed weights times one or two vectors: bound by the bytes of the weights, if nothing else gets in the way.

Three things would:

- *The gather.* 32 random reads take the first-level cache up to 32 cycles, and there are as many reads as values. So a
  program keeps what its slots read in registers, already gathered, as many channels to a 64-bit word as fit, and walks
  down its rows. The value at place p of a group is multiplied with the word shifted by p channels: one instruction.
- *Narrow loads.* A thread reads 16 bytes of values and the word of their positions at once, a warp 512 bytes of a row.
- *Few programs.* The slots are split among programs, too. Each leaves its sums in memory, and whoever comes last adds
  them up in a fixed order, so that results are the same in every run.

For sm_90, 32 values of 2:4 in half precision are 290 instructions: 9 a value, where the memory of an H200 leaves time
for about 14. ``tests/sparse/test_sparse_code.py`` counts them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gathered(
    x,
    index,
    x_stride,
    slots,
    first,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    VALUES: tl.constexpr,
    WORDS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Return the channels that some words of values may read: for each quarter of a group and vector, 64 bits."""
    PER: tl.constexpr = 64 // SIZE  # channels in 64 bits
    GROUPS: tl.constexpr = max(VALUES // N, 1)
    each = tl.arange(0, WORDS * GROUPS)
    group = ((first + each // GROUPS) * VALUES) // N + each % GROUPS
    place = tl.arange(0, PER)
    words = ()
    for quarter in tl.static_range((WIDTH + PER - 1) // PER):
        inside = quarter * PER + place
        slot = group[:, None] * WIDTH + inside[None, :]
        here = (inside < WIDTH)[None, :] & (slot < slots)
        channel = tl.load(index + slot, mask=here, other=0)
        for b in tl.static_range(BATCH):
            bits = tl.load(x + b * x_stride + channel, mask=here, other=0).to(tl.int64) & ((1 << SIZE) - 1)
            word = tl.sum(bits << (place * SIZE).to(tl.int64)[None, :], axis=1)
            words += (tl.reshape(word, (WORDS, GROUPS)),)
    return words


@triton.jit
def number(bits, KIND: tl.constexpr):
    """Return what bits stand for, in float32."""
    if KIND == "bf16":
        return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    if KIND == "fp16":
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def channel_at(words, place, step, b, WIDTH: tl.constexpr, SIZE: tl.constexpr, BATCH: tl.constexpr, KIND: tl.constexpr):
    """Return the channels at places of their groups, in float32."""
    PER: tl.constexpr = 64 // SIZE
    PARTS: tl.constexpr = (WIDTH + PER - 1) // PER
    WORDS: tl.constexpr = words[0].shape[0]
    GROUPS: tl.constexpr = words[0].shape[1]
    VALUES: tl.constexpr = place.shape[2]
    shift = ((place % PER) * SIZE).to(tl.int64)
    found = shift
    for part in tl.static_range(PARTS):
        word = words[(step * PARTS + part) * BATCH + b]
        word = tl.broadcast_to(word[:, :, None], (WORDS, GROUPS, VALUES // GROUPS))
        word = tl.reshape(word, (1, WORDS, VALUES)) >> shift
        found = word if part == 0 else tl.where(place >= part * PER, word, found)
    return number(found, KIND)


@triton.jit(do_not_specialize=["x_stride", "total"])
def vector_kernel(
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
    total,
    height,
    slots,
    words,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    VALUES: tl.constexpr,
    BATCH: tl.constexpr,
    WORDS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Multiply ROWS rows of a tile and some of its slots with BATCH vectors."""
    per_tile = tl.cdiv(height, ROWS)
    tile = tl.program_id(0) // per_tile
    start = (tl.program_id(0) % per_tile) * ROWS
    first = tile * height  # the tile's first stored row
    parts = tl.num_programs(1)
    EACH: tl.constexpr = ROWS // TOGETHER
    lane, each, run = tl.arange(0, WORDS), tl.arange(0, VALUES), tl.arange(0, WORDS * VALUES)
    ahead = start + tl.arange(0, TOGETHER) * EACH
    begin = tl.program_id(1) * (STEPS * WORDS)
    channels = ()
    for step in tl.static_range(STEPS):
        channels = channels + gathered(
            x, index + tile * slots, x_stride, slots, begin + step * WORDS, N, WIDTH, SIZE, VALUES, WORDS, BATCH
        )
    results = ()
    for _ in tl.static_range(BATCH):
        results += (tl.zeros((TOGETHER, WORDS), tl.float32),)
    for block in range(0, EACH, UNROLL):
        for u in tl.static_range(UNROLL):
            row = ahead + block + u
            at = (first + row).to(tl.int64)
            sums = ()
            for _ in tl.static_range(BATCH):
                sums += (tl.zeros((TOGETHER, WORDS, VALUES), tl.float32),)
            for step in tl.static_range(STEPS):
                word = begin + step * WORDS + lane
                here = (row < height)[:, None] & (word < words)[None, :]
                packed = tl.load(positions + at[:, None] * words + word[None, :], mask=here, other=0)
                # In two dimensions: in three, Triton 3.6 has neighbouring threads read different rows.
                column = (begin + step * WORDS) * VALUES + run
                source = values + at[:, None] * (words * VALUES) + column[None, :]
                there = (row < height)[:, None] & (column < words * VALUES)[None, :]
                weight = tl.reshape(tl.load(source, mask=there, other=0), (TOGETHER, WORDS, VALUES))
                weight = number(weight, KIND)
                if VALUES * BITS <= 32:
                    packed = packed.to(tl.int32)
                place = (packed[:, :, None] >> (each * BITS)[None, None, :].to(packed.dtype)).to(tl.int32)
                place = place & ((1 << BITS) - 1)
                longer = ()
                for b in tl.static_range(BATCH):
                    channel = channel_at(channels, place, step, b, WIDTH, SIZE, BATCH, KIND)
                    longer += (sums[b] + weight * channel,)
                sums = longer
            kept = ()
            for b in tl.static_range(BATCH):
                # The row's sum goes to one lane: what is stored at the end is a run of rows.
                result = tl.sum(tl.sum(sums[b], axis=2), axis=1)
                kept += (tl.where((lane == block + u)[None, :], result[:, None], results[b]),)
            results = kept
    row = ahead[:, None] + lane[None, :]
    here = (lane < EACH)[None, :] & (row < height)
    at = (first + row).to(tl.int64)
    if parts == 1:
        to = tl.load(rows + at, mask=here, other=0)
        for b in tl.static_range(BATCH):
            tl.store(out + b * out_stride + to, results[b].to(out.dtype.element_ty), mask=here)
    else:
        for b in tl.static_range(BATCH):
            aside = partial + (tl.program_id(1) * BATCH + b).to(tl.int64) * total + at
            tl.store(aside, results[b], mask=here)
        tl.debug_barrier()
        if tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel") == parts - 1:
            to = tl.load(rows + at, mask=here, other=0)
            for b in tl.static_range(BATCH):
                result = tl.zeros((TOGETHER, WORDS), tl.float32)
                aside = partial + b * total.to(tl.int64) + at
                for _part in range(parts):
                    result += tl.load(aside, mask=here, other=0.0, cache_modifier=".cg")
                    aside += BATCH * total.to(tl.int64)
                tl.store(out + b * out_stride + to, result.to(out.dtype.element_ty), mask=here)
            tl.store(arrived + tl.program_id(0), 0)
