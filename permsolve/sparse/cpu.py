"""Products with compressed weights on a CPU.

A few vectors go to a compiled kernel (`permsolve.kernels.sparse_cpu`) that reads the weights once, in the order in
which it needs them: a layout that is made at the first product and kept as long as the weights are. Many vectors go to
torch's dense product, a panel of rows at a time, so that the dense weights are never all there at once.
"""

from __future__ import annotations

import functools
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from permsolve._arrays import aligned
from permsolve.kernels._jit import Kernel
from permsolve.kernels.sparse_cpu import BATCHES, LANES, Shape, expand, product_kernel
from permsolve.sparse.compressed import Compressed

#: Vectors up to which the kernel is used. With one tile it stays ahead of panels beyond that, with many tiles, whose
#: activations have to be gathered, about so far.
MOST_VECTORS = 256
#: Bytes of weights, times passes over them, that a thread of its own pays for.
BYTES_PER_THREAD = 1 << 19
#: Entries of a dense panel.
PANEL = 1 << 18
#: Bytes of activations that are used together: half of a second-level cache.
NEAR = 1 << 19
#: Rows of a block where there is no vector code.
PLAIN_LANES = 8

_LINE = 16
_KINDS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True, eq=False)
class Layout:
    """Compressed weights as the kernel reads them.

    Parameters
    ----------
    shape
        What the kernel is compiled for.
    height
        Rows of a tile.
    values
        float32 or uint16 (the bits of a half type), flat: by block of ``shape.lanes`` rows, value, lane.
    words
        uint32, flat: packed positions, by block, word and lane.
    index
        uint16 or uint32 (tiles, padded slots): the input channels, every group padded to ``shape.period``.
    rows
        int32 (rows,): the output channel of each stored row.
    """

    shape: Shape
    height: int
    values: npt.NDArray[Any]
    words: npt.NDArray[np.uint32]
    index: npt.NDArray[Any]
    rows: npt.NDArray[np.int32]

    @functools.cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.index.shape[0]) * -(-self.height // self.shape.lanes)

    @functools.cached_property
    def together(self) -> int:
        """Vectors whose activations stay in the second-level cache."""
        return max(NEAR // (4 * int(self.index.shape[1])) // BATCHES[-1], 1) * BATCHES[-1]

    @functools.cached_property
    def kernels(self) -> list[Kernel]:
        """The compiled kernels, by the place of their number of vectors in `BATCHES`."""
        return [product_kernel(self.shape, batch) for batch in BATCHES]

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return sum(each.nbytes for each in (self.values, self.words, self.index, self.rows))


_known: weakref.WeakKeyDictionary[Compressed, tuple[int, Layout]] = weakref.WeakKeyDictionary()


def matmul(x: torch.Tensor, weights: Compressed) -> torch.Tensor:
    """Multiply activations with compressed weights.

    Half types are multiplied and added up in float32 and rounded once. The result does not depend on the number of
    threads, which is torch's (`torch.set_num_threads`). Where gradients are asked for, and in float64, the product is
    dense.

    Parameters
    ----------
    x
        (..., cols), of the weights' type, on the CPU.
    weights
        The weights.

    Returns
    -------
    torch.Tensor
        (..., rows), of the same type.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weights.values.requires_grad):
        return x @ weights.to_dense().T
    if weights.dtype not in _KINDS or not x.numel():
        return x @ weights.to_dense().T
    rows = weights.shape[0]
    vectors = _vectors(x)
    out = np.empty((len(vectors), rows), dtype=np.float32)
    layout = layout_of(weights)
    if len(vectors) <= MOST_VECTORS:
        times_vectors(vectors, layout, out, torch.get_num_threads())
    else:
        times_panels(vectors, layout, out)
    product = torch.from_numpy(out)
    if x.dtype != torch.float32:
        product = product.to(x.dtype)
    return product if x.ndim == 2 else product.reshape(*x.shape[:-1], rows)


def _vectors(x: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return activations as a matrix in float32. Small layers take microseconds: nothing is called without need."""
    if x.requires_grad:
        x = x.detach()
    if x.ndim != 2:
        x = x.reshape(-1, x.shape[-1])
    if x.dtype != torch.float32:
        x = x.to(torch.float32)
    return np.ascontiguousarray(x.resolve_neg().numpy())


def times_vectors(x: npt.NDArray[np.float32], layout: Layout, out: npt.NDArray[np.float32], threads: int) -> None:
    """Multiply vectors by the kernel.

    Parameters
    ----------
    x
        float32 (vectors, cols), contiguous.
    layout
        The weights.
    out
        float32 (vectors, rows), written.
    threads
        How many threads may share the work: they split the rows.
    """
    if len(x) <= layout.together:
        _times_some(x, layout, out, threads)
        return
    for first in range(0, len(x), layout.together):
        _times_some(x[first : first + layout.together], layout, out[first : first + layout.together], threads)


def _times_some(x: npt.NDArray[np.float32], layout: Layout, out: npt.NDArray[np.float32], threads: int) -> None:
    vectors, blocks = len(x), layout.blocks
    place = min((vectors - 1).bit_length(), len(BATCHES) - 1)
    kernel = layout.kernels[place]
    given = (x, layout.values, layout.words, layout.index, layout.rows, layout.height, out)
    share = layout.nbytes * -(-vectors // BATCHES[place]) // BYTES_PER_THREAD
    parts = min(threads, share, blocks)
    if parts < 2:
        kernel(*given, 0, blocks)
        return
    bounds = [blocks * part // parts for part in range(parts + 1)]
    pool = _pool(os.getpid())
    others = [pool.submit(kernel, *given, first, last) for first, last in pairwise(bounds[1:])]
    kernel(*given, bounds[0], bounds[1])
    for other in others:
        other.result()


def times_panels(x: npt.NDArray[np.float32], layout: Layout, out: npt.NDArray[np.float32]) -> None:
    """Multiply many vectors by torch's dense product, panel by panel.

    Parameters
    ----------
    x
        float32 (vectors, cols), contiguous.
    layout
        The weights.
    out
        float32 (vectors, rows), written.
    """
    lanes, bits, n, period, kind = layout.shape
    cols, blocks = x.shape[1], layout.blocks
    above = -(-layout.height // lanes)
    stored = len(layout.values) // blocks
    step = max(PANEL // (cols * lanes), 1)
    # Rows a cache line more than a power of two apart would all fall into the same lines of the cache.
    panel = torch.empty((min(step, blocks) * lanes, cols + _LINE))[:, :cols]
    outputs = torch.from_numpy(layout.rows).long()
    vectors, products = torch.from_numpy(x), torch.from_numpy(out)

    def row(block: int) -> int:
        return block // above * layout.height + block % above * lanes

    for first in range(0, blocks, step):
        last = min(first + step, blocks)
        values = _floats(layout.values[first * stored : last * stored], kind)
        dense = panel[: row(last) - row(first)]
        expand(values, layout.words, layout.index, layout.height, lanes, bits, n, period, first, last, dense.numpy())
        products[:, outputs[row(first) : row(last)]] = vectors @ dense.T


def layout_of(weights: Compressed) -> Layout:
    """Return the layout of compressed weights; made when it is first asked for, and anew when values change in place.

    Parameters
    ----------
    weights
        The weights: float16, bfloat16 or float32.

    Returns
    -------
    Layout
        The layout.

    Raises
    ------
    InputError
        If the tensors are not those of compressed weights.
    """
    version = 0 if weights.values.is_inference() else weights.values._version
    found = _known.get(weights)
    if found is None or found[0] != version:
        if found is None:
            weights.check_structure()
        found = (version, make_layout(weights))
        _known[weights] = found
    return found[1]


def make_layout(weights: Compressed, lanes: int | None = None) -> Layout:
    """Rearrange compressed weights for the kernel.

    Parameters
    ----------
    weights
        The weights: float16, bfloat16 or float32.
    lanes
        Rows of a block. By default a register's, or fewer where tiles would have to be padded.

    Returns
    -------
    Layout
        The layout; it shares nothing with the weights.
    """
    rows, n, width, bits, height = weights.shape[0], weights.n, weights.width, weights.bits, weights.height
    if lanes is None:
        lanes = min(LANES or (PLAIN_LANES,), key=lambda lanes: (-(-height // lanes) * lanes, -lanes))
    # Groups of more values than a word has positions become several, which read the same slots.
    copies = -(-n // (32 // bits))
    part = -(-n // copies)
    period = 1 << (width - 1).bit_length()
    shape = Shape(lanes, bits, part, period, _KINDS[weights.dtype])
    values = weights.values.detach()
    if not shape.vector:
        shape, values = shape._replace(kind="fp32"), values.to(torch.float32)
    groups = values.shape[1] // n
    words = -(-groups * copies // shape.groups)

    def split(each: torch.Tensor) -> torch.Tensor:
        """Return (blocks, words, values of a word, lanes)."""
        parts = each.new_zeros((rows, groups, copies * part))
        parts[:, :, :n] = each.view(rows, groups, n)
        tiles = -(-height // lanes) * lanes
        whole = each.new_zeros((rows // height, tiles, words * shape.groups * part))
        whole[:, :height, : groups * copies * part] = parts.view(rows // height, height, -1)
        return whole.view(-1, lanes, words, shape.groups * part).permute(0, 2, 3, 1)

    shifts = torch.arange(shape.groups * part)[:, None] * bits
    packed = (split(weights.places()).int() << shifts.int()).sum(dim=2, dtype=torch.int32)
    index = weights.index.view(len(weights.index), groups, width)
    index = torch.cat([index, index[:, :, :1].expand(-1, -1, period - width)], dim=2)
    index = index.repeat_interleave(copies, dim=1).flatten(1)
    narrow = weights.shape[1] <= 1 << 16
    half = values.dtype != torch.float32
    return Layout(
        shape=shape,
        height=height,
        values=_aligned(split(values.view(torch.int16) if half else values), np.uint16 if half else np.float32),
        words=_aligned(packed, np.uint32),
        index=index.numpy().astype(np.uint16 if narrow else np.uint32),
        rows=weights.rows.numpy().copy(),
    )


def _aligned(tensor: torch.Tensor, dtype: Any) -> npt.NDArray[Any]:
    """Copy a tensor's bits to a flat array that begins at a cache line."""
    array = aligned((tensor.numel(),), dtype)
    array.reshape(tensor.shape)[...] = tensor.numpy().view(dtype)
    return array


def _floats(values: npt.NDArray[Any], kind: str) -> npt.NDArray[np.float32]:
    """Return values in float32."""
    if kind == "fp32":
        return values
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    return torch.from_numpy(values.view(np.int16)).view(dtype).to(torch.float32).numpy()


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process: those of a parent are gone after a fork. They are started when needed."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="permsolve-sparse")
