"""Activations with the tokens of a channel next to each other, as `products` reads them, and back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Side of a program's square.
SIDE = 64


@triton.jit
def transpose_kernel(source, to, height, width, source_stride, to_stride, SIDE: tl.constexpr):
    """Transpose a square; beyond the source's rows, up to `to_stride`, write zeros."""
    row = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    column = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    at = row[:, None].to(tl.int64) * source_stride + column[None, :]
    square = tl.load(source + at, mask=(row < height)[:, None] & (column < width)[None, :], other=0)
    at = column[:, None].to(tl.int64) * to_stride + row[None, :]
    tl.store(to + at, tl.trans(square), mask=(column < width)[:, None] & (row < to_stride)[None, :])


def transposed(matrix: torch.Tensor, padded: int | None = None) -> torch.Tensor:
    """Transpose a matrix into memory of its own.

    Parameters
    ----------
    matrix
        (rows, columns), entries of 2 or 4 bytes, a row contiguous.
    padded
        Width of the result, at least the matrix's rows; zeros fill the rest.

    Returns
    -------
    torch.Tensor
        (columns, padded), contiguous.
    """
    rows, columns = matrix.shape
    width = rows if padded is None else padded
    result = torch.empty((columns, width), dtype=matrix.dtype, device=matrix.device)
    kind = torch.int16 if matrix.element_size() == 2 else torch.int32
    grid = (triton.cdiv(width, SIDE), triton.cdiv(columns, SIDE))
    transpose_kernel[grid](
        matrix.view(kind), result.view(kind), rows, columns, matrix.stride(0), width, SIDE=SIDE, num_warps=4
    )
    return result
