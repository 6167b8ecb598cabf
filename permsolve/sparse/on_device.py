"""Products with compressed weights on a GPU: which kernel, in what shape, on what layout of the activations.

One or two vectors go to `triton.vectors`, which reads activations as they are. More go to `triton.products`, which
reads the tokens of a channel from consecutive memory: activations are transposed first, unless they are stored that
way, and outputs afterwards where stored rows are not in the outputs' order.

The first product with weights of some shape times a handful of kernel shapes and keeps the fastest (Triton's
autotuner); what comes after that launches kernels only and can be captured in a CUDA graph. The same weights must not
be multiplied on two streams at once: the programs of a launch count each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from triton.testing import do_bench

from permsolve._devices import interpreting
from permsolve.errors import DeviceError, InputError
from permsolve.sparse.compressed import Compressed
from permsolve.sparse.triton import layouts, products, vectors
from permsolve.sparse.triton.layouts import Layout, layout_of
from permsolve.sparse.triton.transposed import transposed

#: Vectors up to which `vectors` is used: with each more it takes three instructions a value.
MOST_VECTORS = 2
#: Columns up to which `products` is launched for little arithmetic and many bytes of weights, split among programs.
FEW_COLUMNS = 64
#: Slots that a product makes dense at a time, at most.
WIDEST_BLOCK = 256

Settings = dict[str, int]


def matmul(x: torch.Tensor, weights: Compressed) -> torch.Tensor:
    """Multiply activations with compressed weights.

    Sums are float32. float32 products of more than two vectors take the tensor cores in three passes (errors of about
    1e-6), or in one where ``torch.backends.cuda.matmul.allow_tf32`` is set. Groups whose positions or slots are too
    many for the kernels (beyond 64 bits, or 256 slots) are multiplied dense.

    Parameters
    ----------
    x
        (tokens, cols): float16, bfloat16 or float32, of the weights' type and on their device, any strides. Activations
        stored channel by channel (the transpose of a contiguous matrix) need no copy where there are more than two.
    weights
        The weights.

    Returns
    -------
    torch.Tensor
        (tokens, rows), contiguous, of the same type.

    Raises
    ------
    InputError
        If type, device or shape do not fit.
    DeviceError
        If a CUDA graph is being captured and these weights were never multiplied before.
    """
    _check(x, weights)
    tokens, rows = x.shape[0], weights.shape[0]
    if not tokens or not weights.values.numel():
        return x.new_zeros((tokens, rows))
    with _context(x.device):
        layout = layout_of(weights)
        if tokens <= MOST_VECTORS and layout.fits_vectors:
            return times_vectors(x, layout)
        if not fits_products(layout):
            return x @ weights.to_dense().T
        return times_columns(x, layout)


def times_vectors(x: torch.Tensor, layout: Layout, settings: Settings | None = None) -> torch.Tensor:
    """Multiply a few vectors.

    Parameters
    ----------
    x
        (tokens, cols).
    layout
        The weights.
    settings
        The kernel's shape, of `vector_settings`; by default the fastest.

    Returns
    -------
    torch.Tensor
        (tokens, rows).
    """
    x = x.contiguous()
    tokens, total = x.shape[0], layout.rows.shape[0]
    words = layout.words(layout.together * layout.bits)
    out = torch.empty((tokens, total), dtype=x.dtype, device=x.device)

    def parts(meta: Settings) -> int:
        return triton.cdiv(words.shape[1], meta["STEPS"] * meta["WORDS"])  # type: ignore[no-any-return]

    def grid(meta: Settings) -> tuple[int, int]:
        return total // layout.height * triton.cdiv(layout.height, meta["ROWS"]), parts(meta)

    choices = vector_settings(layout)
    most = max(map(parts, [settings] if settings else choices))
    partial = torch.empty((most, tokens, total), dtype=torch.float32, device=x.device)
    arguments = (
        *(_bits(x), layout.values, words, layout.index, layout.rows, out, partial, layout.arrived),
        *(x.stride(0), out.stride(0), total, layout.height, layout.index.shape[1], words.shape[1]),
    )
    constants: dict[str, Any] = {"N": layout.n, "WIDTH": layout.width, "BITS": layout.bits, "SIZE": layout.size}
    constants |= {"KIND": layout.kind, "VALUES": layout.together, "BATCH": tokens}
    key = ["total", "height", "slots", "words", "N", "WIDTH", "BITS", "BATCH", "KIND"]
    _launch(vectors.vector_kernel, key, grid, arguments, constants, choices, settings)
    return out


def vector_settings(layout: Layout) -> list[Settings]:
    """Return shapes of the vector kernel that suit some weights.

    Parameters
    ----------
    layout
        The weights.

    Returns
    -------
    list
        Constants of the kernel: the rows of a program, the steps of 32 words that it keeps channels for, the rows that
        a warp works on side by side, warps.
    """
    shapes = [(128, 4, 2, 4), (128, 4, 1, 4), (64, 4, 2, 4), (128, 2, 4, 4), (64, 2, 2, 4), (256, 4, 2, 8)]
    shapes += [(32, 4, 2, 4), (32, 2, 2, 4), (32, 1, 2, 4)]
    words = layout.values.shape[1] // layout.together
    parts = triton.cdiv(layout.width, 64 // layout.size)
    suitable = [
        {"ROWS": rows, "STEPS": steps, "UNROLL": unroll, "TOGETHER": warps, "WORDS": 32, "num_warps": warps}
        for rows, steps, unroll, warps in shapes
        if rows <= max(32, triton.next_power_of_2(layout.height))
        and steps <= triton.next_power_of_2(triton.cdiv(words, 32))
        and steps * parts <= 8
    ]
    return suitable or [{"ROWS": 32, "STEPS": 1, "UNROLL": 2, "TOGETHER": 4, "WORDS": 32, "num_warps": 4}]


def fits_products(layout: Layout) -> bool:
    """Return whether the product kernel can multiply some weights.

    Parameters
    ----------
    layout
        The weights.

    Returns
    -------
    bool
        Not if a group's positions take more than 64 bits, or a block more than 256 slots.
    """
    return layout.n * layout.bits <= 64 and _groups(layout, 1) * _side(layout) <= WIDEST_BLOCK


def times_columns(x: torch.Tensor, layout: Layout, settings: Settings | None = None) -> torch.Tensor:
    """Multiply many vectors at once.

    Parameters
    ----------
    x
        (tokens, cols).
    layout
        The weights.
    settings
        The kernel's shape, of `product_settings`; by default the fastest.

    Returns
    -------
    torch.Tensor
        (tokens, rows).
    """
    tokens, total = x.shape[0], layout.rows.shape[0]
    few = tokens <= FEW_COLUMNS
    across = x.t()
    if not (across.is_contiguous() and tokens % 16 == 0):
        across = transposed(x.contiguous(), triton.cdiv(tokens, 16) * 16)
    # Scattered rows of many tokens are stored as they come, a run of tokens each, and transposed.
    direct = few or layout.ordered
    out = torch.empty((tokens, total) if direct else (total, across.shape[1]), dtype=x.dtype, device=x.device)
    choices = product_settings(layout, tokens)
    most = max(each["PARTS"] for each in ([settings] if settings else choices))
    partial = torch.empty((most, total, tokens) if choices[0]["SPLIT"] else 1, dtype=torch.float32, device=x.device)

    def grid(meta: Settings) -> tuple[int, int]:
        chunks = total // layout.height * triton.cdiv(layout.height, meta["ROWS"])
        return chunks * triton.cdiv(tokens, meta["COLUMNS"]), meta["PARTS"]

    words = layout.words(32)
    pairs = (layout.n, layout.width, layout.size) == (2, 4, 16)  # both values of a group in one word
    values = layout.values.view(torch.int32) if pairs else layout.values
    arguments = (
        *(across, values, words, layout.index, layout.rows, out, partial, layout.arrived),
        *(across.shape[1], *((out.stride(0), 1) if direct else (1, out.stride(0)))),
        *(total, tokens, layout.height, layout.index.shape[1], values.shape[1], words.shape[1]),
        min(triton.next_power_of_2(tokens), 4096),
    )
    kind = "wide" if interpreting() and layout.kind == "bf16" else layout.kind
    precise = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    constants: dict[str, Any] = {
        "N": layout.n,
        "WIDTH": layout.width,
        "SIDE": _side(layout),
        "BITS": layout.bits,
        "SIZE": layout.size,
    }
    constants |= {"KIND": kind, "PRECISION": precise if layout.kind == "fp32" else "tf32"}
    constants |= {"ORDERED": layout.ordered, "PAIRS": pairs, "NATIVE": not interpreting()}
    key = ["total", "height", "slots", "stored", "N", "WIDTH", "BITS", "KIND", "bucket"]
    _launch(products.product_kernel, key, grid, arguments, constants, choices, settings)
    return out if direct else transposed(out[:, :tokens])


def product_settings(layout: Layout, tokens: int) -> list[Settings]:
    """Return shapes of the product kernel that suit some weights and activations.

    Parameters
    ----------
    layout
        The weights.
    tokens
        Vectors to multiply.

    Returns
    -------
    list
        Constants of the kernel: rows and columns of a program, groups of a step, parts that slots are split into.
    """
    parts: tuple[int, ...] = (1,)
    if tokens <= FEW_COLUMNS:
        columns, parts = max(16, triton.next_power_of_2(tokens)), (1, 2, 4, 8, 16)
        shapes = [
            (64, columns, 128, 4, 4),
            (64, columns, 128, 4, 5),
            (64, columns, 64, 4, 5),
            (128, columns, 128, 8, 5),
        ]
    else:
        shapes = [(128, 256, 64, 8, 5), (128, 256, 64, 8, 4), (128, 128, 64, 8, 5), (128, 128, 64, 4, 5)]
        shapes += [(64, 256, 64, 4, 5), (64, 128, 64, 4, 5)]
        if tokens <= 4 * FEW_COLUMNS:  # few programs
            parts, shapes = (1, 2, 4), shapes[-3:]
    tallest = max(16, triton.next_power_of_2(layout.height))
    if tallest < 64:  # shorter than all shapes above
        shapes = [(tallest, *rest) for _, *rest in shapes]
    shapes = [shape for shape in dict.fromkeys(shapes) if shape[0] <= tallest]
    if layout.size == 32:
        shapes = [(rows, min(columns, 64), slots // 2, warps, stages) for rows, columns, slots, warps, stages in shapes]
    return [
        {"ROWS": rows, "COLUMNS": columns, "GROUPS": _groups(layout, slots), "PARTS": count, "SPLIT": len(parts) > 1}
        | {"num_warps": warps, "num_stages": stages}
        for rows, columns, slots, warps, stages in dict.fromkeys(shapes)
        for count in parts
    ]


def _side(layout: Layout) -> int:
    """Return the slots of a group, rounded up to a power of two."""
    return int(triton.next_power_of_2(layout.width))


def _groups(layout: Layout, slots: int) -> int:
    """Return the groups of about so many slots, whole words of positions."""
    return max(slots // _side(layout), 32 // (layout.n * layout.bits), 16 // _side(layout), 1)


def _launch(
    kernel: Any,
    key: list[str],
    grid: Callable[[Settings], tuple[int, int]],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    choices: list[Settings],
    settings: Settings | None,
) -> None:
    """Launch a kernel in the given shape, or in the fastest; the interpreter takes the first."""
    if settings is not None or interpreting():
        chosen = settings or choices[0]
        kernel[grid(chosen)](*arguments, **constants, **chosen)
        return
    shapes = tuple(tuple(each.items()) for each in choices)
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
    about = (kernel, shapes, arguments[0].dtype, arguments[0].device, *(given[name] for name in key))
    if about not in _seen and torch.cuda.is_current_stream_capturing():
        raise DeviceError(
            "the kernel for these weights is not tuned yet, which a CUDA graph's capture does not allow: multiply once "
            "before capturing"
        )
    _tuned(kernel, tuple(key), shapes)[grid](*arguments, **constants)
    _seen.add(about)


#: What kernels were tuned for.
_seen: set[tuple[Any, ...]] = set()


@functools.cache
def _tuned(kernel: Any, key: tuple[str, ...], choices: tuple[tuple[tuple[str, int], ...], ...]) -> Any:
    """Return a kernel that finds the fastest of some shapes for each key: cold caches, a few milliseconds each."""
    configurations = []
    for choice in choices:
        constants = dict(choice)
        launch = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
        configurations.append(triton.Config(constants, **launch))
    bench = functools.partial(do_bench, warmup=2, rep=10)
    return triton.autotune(configs=configurations, key=list(key), do_bench=bench)(kernel)


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


def _check(x: torch.Tensor, weights: Compressed) -> None:
    rows, cols = weights.shape
    if x.ndim != 2 or x.shape[1] != cols:
        raise InputError(
            f"weights of {rows} x {cols} multiply a matrix of shape (tokens, {cols}), got {tuple(x.shape)}"
        )
    if x.dtype != weights.dtype or x.dtype not in layouts.KINDS:
        raise InputError(
            f"the GPU's kernels multiply float16, bfloat16 or float32 with weights of the same type, got {x.dtype} and "
            f"{weights.dtype}: convert them"
        )
    if x.device != weights.device:
        raise InputError(f"activations are on {x.device}, the compressed weights on {weights.device}: move one of them")
    if x.device.type != "cuda" and not interpreting():
        raise DeviceError(
            f"Triton's kernels need tensors on a CUDA device, got {x.device}: use permsolve.sparse.matmul"
        )


def _context(device: torch.device) -> AbstractContextManager[object]:
    """Make the device the current one: Triton launches on that."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
