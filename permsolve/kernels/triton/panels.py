"""The layout of saliency and thresholds on the device: panels of columns, row by row.

A panel holds WIDTH consecutive columns (or slots) as (rows, WIDTH), and panels follow each other: (batch, panels, rows,
WIDTH). The gain kernel walks down the rows of one panel of thresholds and one of saliency and needs, per row, WIDTH
neighbouring numbers of each: loads of 16 bytes a thread, at addresses that are constants plus one pointer, because the
distance from row to row is WIDTH whatever the problem. Columns and rows are padded with zeros, so no load is masked.
"""

from __future__ import annotations

import torch
import triton

#: Rows are padded to a multiple of this, as in `Problem.packed`.
ROWS = 16


def pack(saliency: torch.Tensor, width: int) -> torch.Tensor:
    """Lay out saliency in panels.

    Parameters
    ----------
    saliency
        (batch, cols, rows), any floating dtype; it is kept.
    width
        Columns of a panel, a power of two.

    Returns
    -------
    torch.Tensor
        (batch, panels, padded rows, width), contiguous, zeros beyond the columns and rows.
    """
    batch, cols, rows = saliency.shape
    count, height = triton.cdiv(cols, width), triton.cdiv(rows, ROWS) * ROWS
    panels = saliency.new_zeros((batch, count, height, width))
    whole = cols // width
    panels[:, :whole, :rows] = saliency[:, : whole * width].unflatten(1, (whole, width)).transpose(2, 3)
    if whole < count:
        panels[:, whole, :rows, : cols - whole * width] = saliency[:, whole * width :].transpose(1, 2)
    return panels
