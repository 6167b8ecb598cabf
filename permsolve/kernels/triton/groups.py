"""Thresholds, losses and values of groups on the device; `permsolve.kernels.groups` is the CPU's version.

Any n:m takes the same path. The rank of every entry in its group follows from m comparisons with each of the m members
(ties by position, so ranks are unique); the entries of rank n - 1 and n are the order statistics that give all
thresholds. A sorting network would take fewer operations, but the gain matrix takes cols times as many as either.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Rows whose terms the gain kernel adds up in one float32 sum; `refresh` gives it the thresholds' sums by such blocks.
ROW_BLOCK = 64


@triton.jit(do_not_specialize=["listed"])
def refresh_kernel(
    saliency,
    order,
    groups,
    counts,
    thresholds,
    base,
    losses,
    values,
    saliency_stride,
    threshold_stride,
    rows,
    cols,
    listed,
    slots,
    N: tl.constexpr,
    M: tl.constexpr,
    PADDED_M: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOT_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Refresh some groups of one problem: a program takes GROUPS of them through all rows."""
    batch = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    count = tl.load(counts + batch)
    if tl.program_id(0) * GROUPS >= count:
        return
    member = tl.arange(0, PADDED_M)
    listed_here = place < count
    group = tl.load(groups + batch * listed + place, mask=listed_here, other=0)
    here = listed_here[:, None] & (member < M)[None, :]
    first = order + batch * cols + group * M
    column = tl.load(first[:, None] + member[None, :], mask=here, other=0)
    slot = place[:, None] * M + member[None, :]
    height = rows.to(tl.int64)
    saliency += batch * saliency_stride
    source = saliency + (column // WIDTH) * (height * WIDTH) + column % WIDTH
    target = thresholds + batch * threshold_stride + (slot // SLOT_WIDTH) * (height * SLOT_WIDTH) + slot % SLOT_WIDTH
    base += batch * tl.cdiv(rows, BLOCK) * slots
    loss = tl.zeros((GROUPS, PADDED_M), tl.float32)
    value = tl.zeros((GROUPS,), tl.float32)
    for start in range(0, rows, BLOCK):
        row = (start + tl.arange(0, BLOCK)).to(tl.int64)
        inside = (row < rows)[:, None, None] & here[None, :, :]
        entry = tl.load(source[None, :, :] + row[:, None, None] * WIDTH, mask=inside, other=0.0).to(tl.float32)
        rank = tl.zeros((BLOCK, GROUPS, PADDED_M), tl.int32)
        for other in range(M):
            column_2 = tl.load(first + other, mask=listed_here, other=0)
            source_2 = saliency + (column_2 // WIDTH) * (height * WIDTH) + column_2 % WIDTH
            inside_2 = (row < rows)[:, None] & listed_here[None, :]
            entry_2 = tl.load(source_2[None, :] + row[:, None] * WIDTH, mask=inside_2, other=0.0).to(tl.float32)
            rival = entry_2[:, :, None]
            before = (rival > entry) | ((rival == entry) & (other < member)[None, None, :])
            rank += before.to(tl.int32)
        rank = tl.where((member < M)[None, None, :], rank, 2 * M)
        last_kept = tl.sum(tl.where(rank == N - 1, entry, 0.0), axis=2)
        first_pruned = tl.sum(tl.where(rank == N, entry, 0.0), axis=2)
        kept = rank < N
        threshold = tl.where(kept, first_pruned[:, :, None], last_kept[:, :, None])
        tl.store(target[None, :, :] + row[:, None, None] * SLOT_WIDTH, threshold, inside)
        threshold = tl.where(inside, threshold, 0.0)
        tl.store(base + (start // BLOCK) * slots + slot, tl.sum(threshold, axis=0), mask=here)
        loss += tl.sum(tl.maximum(entry - threshold, 0.0), axis=0)
        value += tl.sum(tl.sum(tl.where(kept, entry, 0.0), axis=0), axis=1)
    tl.store(losses + batch * cols + column, loss, mask=here)
    tl.store(values + batch * (cols // M) + group, value, mask=listed_here)


def refresh(
    panels: torch.Tensor,
    order: torch.Tensor,
    groups: torch.Tensor,
    counts: torch.Tensor,
    pattern: tuple[int, int],
    slot_width: int,
    losses: torch.Tensor,
    values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute thresholds, losses and values of some groups of every problem.

    Parameters
    ----------
    panels
        Saliency as `panels.pack` lays it out; of batch 1 where all problems share it.
    order
        int32 (batch, cols): columns in groups of m.
    groups
        int32 (batch, listed): numbers of groups; the first ``counts`` of each problem are refreshed.
    counts
        int32 (batch,).
    pattern
        n and m.
    slot_width
        Slots of a panel of the result, a power of two.
    losses
        float32 (batch, cols), written for the groups' members.
    values
        float32 (batch, groups), written for the groups: sums over rows of the n largest entries.

    Returns
    -------
    tuple
        Thresholds of the listed groups' slots, in order, in float32 panels, undefined beyond the listed slots; and
        their sums by blocks of `ROW_BLOCK` rows, float32 (batch, blocks, padded slots).
    """
    (n, m), (batch, cols) = pattern, order.shape
    listed = groups.shape[1]
    _, _, rows, width = panels.shape
    padded = triton.cdiv(listed * m, slot_width)
    thresholds = torch.empty((batch, padded, rows, slot_width), dtype=torch.float32, device=panels.device)
    blocks = triton.cdiv(rows, ROW_BLOCK)
    base = torch.empty((batch, blocks, padded * slot_width), dtype=torch.float32, device=panels.device)
    padded_m = triton.next_power_of_2(m)
    together = max(1, 16 // padded_m)
    refresh_kernel[(triton.cdiv(listed, together), batch)](
        panels,
        order,
        groups,
        counts,
        thresholds,
        base,
        losses,
        values,
        0 if panels.shape[0] == 1 else panels.stride(0),
        thresholds.stride(0),
        rows,
        cols,
        listed,
        padded * slot_width,
        N=n,
        M=m,
        PADDED_M=padded_m,
        GROUPS=together,
        WIDTH=width,
        SLOT_WIDTH=slot_width,
        BLOCK=ROW_BLOCK,
        num_warps=4,
    )
    return thresholds, base
