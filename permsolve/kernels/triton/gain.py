"""The gain matrix on the device: a product with (max, -) in place of (*), in registers.

No tensor core takes the larger of two numbers, so this is vector code with two instructions a term, max and add. An
SM of an H200 issues 4 x 32 of them a cycle and does 64 maxima a cycle: at most 64 terms a cycle, 16.7 T terms/s at
132 SMs and 1.98 GHz. Every other instruction in the loop comes off that, and what follows exists to have few of them.

What Triton makes of ``acc += maximum(t[:, None], s[None, :])`` depends on which thread owns which part of ``acc``.
Left to itself it gives a thread of 256 one column and 64 rows of a tile of 128 x 128: 65 loads for 64 terms, and 255
registers. Wanted is a square made of runs of four: 16 x 4 of the 64, where 5 loads of 16 bytes serve 64 terms. Triton
has no way to ask for a layout, but a ``tl.dot`` in full float32 gets just that one and everything joined to it
follows; so the sums start as the product of two matrices of zeros, which the compiler folds away. A vector of fewer
elements than there are threads is loaded by every thread that needs it, from the first-level cache, without a detour
through shared memory and its barriers: hence a tile's sides are below 32 * warps. Compiled for sm_90, eight
rows of a tile of 64 x 128 are 547 instructions, 512 of which are terms. ``tests/kernels/test_triton_code.py`` counts.

The sums of `ROW_BLOCK` rows stay short before they are added to the total, less the thresholds' own sum over the block:
``sum_r max(S, t) - sum_r t`` has no subtraction inside the loop.

Half precision halves the saliency's memory, not the time: two maxima fit one instruction (exactly: a maximum is one
of its operands), but unpacking them for float32 sums takes two more, 2.5 instructions a term. So entries are unpacked
when they are loaded, and thresholds are float32 always, which keeps the compiler from undoing that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from permsolve.kernels.triton.groups import ROW_BLOCK


class Tile(NamedTuple):
    """The shape of a program's work."""

    #: Slots: the width of the thresholds' panels.
    slots: int
    #: Columns: the width of the saliency's panels.
    columns: int
    #: Warps; more than slots / 32 and columns / 32.
    warps: int
    #: Rows written out in the loop, a divisor of 16.
    unroll: int = 8


#: What the gain kernel runs with, by columns of a panel; few slots take a flatter tile. A tile keeps its sums twice
#: (of the block and of all rows): 128 registers at 64 x 128, so that two programs share an SM.
TILES = {128: Tile(64, 128, 8), 64: Tile(64, 64, 4), 32: Tile(32, 32, 2)}
FLAT = {128: Tile(32, 128, 8), 64: Tile(32, 64, 4), 32: Tile(32, 32, 2)}


@triton.jit(do_not_specialize=["listed"])
def gain_kernel(
    saliency,
    thresholds,
    base,
    order,
    groups,
    counts,
    out,
    saliency_stride,
    threshold_stride,
    rows,
    cols,
    listed,
    slots,
    out_stride,
    M: tl.constexpr,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Compute the gains of COLUMNS columns in SLOTS slots of one problem."""
    batch = tl.program_id(2).to(tl.int64)
    live = tl.load(counts + batch) * M
    if tl.program_id(1) * SLOTS >= live:
        return
    x, y = tl.arange(0, SLOTS), tl.arange(0, COLUMNS)
    height = rows.to(tl.int64)
    t_row = thresholds + batch * threshold_stride + tl.program_id(1) * (height * SLOTS)
    s_row = saliency + batch * saliency_stride + tl.program_id(0) * (height * COLUMNS)
    slot = tl.program_id(1) * SLOTS + x
    base += batch * tl.cdiv(rows, BLOCK) * slots
    left, right = tl.zeros((SLOTS, 16), tl.float32), tl.zeros((16, COLUMNS), tl.float32)
    total = tl.dot(left, right, input_precision="ieee")  # zeros, in the layout that the loop needs
    for start in range(0, rows, BLOCK):
        block = tl.dot(left, right, input_precision="ieee")
        for _ in range(start, tl.minimum(start + BLOCK, rows), UNROLL):
            for u in tl.static_range(UNROLL):
                t = tl.load(t_row + u * SLOTS + x)
                s = tl.load(s_row + u * COLUMNS + y).to(tl.float32)
                block += tl.maximum(t[:, None], s[None, :])
            t_row += UNROLL * SLOTS  # scalars: a vector of pointers carried by two loops would fix its layout too early
            s_row += UNROLL * COLUMNS
        total += block - tl.load(base + slot)[:, None]
        base += slots
    here = slot < live
    group = tl.load(groups + batch * listed + slot // M, mask=here, other=0)
    column = tl.load(order + batch * cols + group * M + slot % M, mask=here, other=0).to(tl.int64)
    to = out + (batch * cols + column)[:, None] * out_stride + (tl.program_id(0) * COLUMNS + y)[None, :]
    tl.store(to, total, mask=here[:, None])


def gain(
    panels: torch.Tensor,
    thresholds: torch.Tensor,
    base: torch.Tensor,
    order: torch.Tensor,
    groups: torch.Tensor,
    counts: torch.Tensor,
    m: int,
    tile: Tile,
    out: torch.Tensor,
) -> None:
    """Compute what every column would bring to the slots of some groups.

    Parameters
    ----------
    panels
        Saliency as `panels.pack` lays it out, of the tile's width; of batch 1 where all problems share it.
    thresholds, base
        What `groups.refresh` returned for these groups.
    order, groups, counts
        As in `groups.refresh`.
    m
        Group size.
    tile
        The shape of a program's work.
    out
        float32 (batch, cols, padded cols): ``out[b, i, j]`` is written for the members i of the groups.
    """
    batch, count, rows, _ = panels.shape[0], panels.shape[1], panels.shape[2], panels.shape[3]
    gain_kernel[(count, thresholds.shape[1], order.shape[0])](
        panels,
        thresholds,
        base,
        order,
        groups,
        counts,
        out,
        0 if batch == 1 else panels.stride(0),
        thresholds.stride(0),
        rows,
        order.shape[1],
        groups.shape[1],
        base.shape[2],
        out.stride(1),
        M=m,
        SLOTS=tile.slots,
        COLUMNS=tile.columns,
        BLOCK=ROW_BLOCK,
        UNROLL=tile.unroll,
        num_warps=tile.warps,
    )
