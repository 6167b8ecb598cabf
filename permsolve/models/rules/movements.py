"""Operators that move elements: views, slices, joins, index maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from permsolve.models.rules.registry import Call, rule, span
from permsolve.models.values import Value, axis_of


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "_reshape_copy", "view_copy")
def reshape(call: Call) -> Any:
    """Another shape in C order."""
    if call.args.get("dtype") is not None:  # view as another type
        return NotImplemented
    return call.algebra.reshape(call["self"], call.shape)


@rule("permute", "permute_copy")
def permute(call: Call) -> Value:
    """Reordered axes."""
    rank = len(call.shape)
    return call.algebra.relabel(call["self"], [axis_of(int(axis), rank) for axis in call["dims"]], call.shape)


@rule("transpose", "transpose_copy", "swapaxes", "swapdims")
def transpose(call: Call) -> Value:
    """Two axes change places."""
    x = call["self"]
    axes = list(range(len(x.shape)))
    if axes:
        names = [name for name in call.args if name != "self"]
        a, b = (call.axis(name, len(axes)) for name in names)
        axes[a], axes[b] = axes[b], axes[a]
    return call.algebra.relabel(x, axes, call.shape)


@rule("t", "numpy_T", "mT", "t_copy")
def t(call: Call) -> Value:
    """The last two axes change places."""
    x = call["self"]
    axes = list(range(len(x.shape)))
    if len(axes) >= 2:
        axes[-2], axes[-1] = axes[-1], axes[-2]
    return call.algebra.relabel(x, axes, call.shape)


@rule("movedim", "moveaxis")
def movedim(call: Call) -> Value:
    """Axes move elsewhere."""
    x = call["self"]
    rank = len(x.shape)
    pairs = [[value] if isinstance(value, int) else list(value) for value in (call["source"], call["destination"])]
    to = {axis_of(new, rank): axis_of(old, rank) for old, new in zip(*pairs, strict=True)}
    others = iter([axis for axis in range(rank) if axis not in to.values()])
    return call.algebra.relabel(x, [to[k] if k in to else next(others) for k in range(rank)], call.shape)


@rule("unsqueeze", "unsqueeze_copy")
def unsqueeze(call: Call) -> Value:
    """A new axis of length 1."""
    axis = call.axis("dim", len(call.shape))
    axes: list[int | None] = list(range(len(call["self"].shape)))
    axes.insert(axis, None)
    return call.algebra.relabel(call["self"], axes, call.shape)


@rule("squeeze", "squeeze_copy")
def squeeze(call: Call) -> Value:
    """Axes of length 1 disappear."""
    x = call["self"]
    rank = len(x.shape)
    dims = call.get("dim")
    if dims is None:
        chosen = set(range(rank))
    else:
        chosen = {axis_of(int(dim), rank) for dim in (dims if isinstance(dims, (list, tuple)) else [dims])}
    axes = [axis for axis in range(rank) if axis not in chosen or x.shape[axis] != 1]
    return call.algebra.relabel(x, axes, call.shape)


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(call: Call) -> Value:
    """Axes of length 1 are repeated."""
    x = call["self"]
    new = len(call.shape) - len(x.shape)
    return call.algebra.relabel(x, [None] * new + list(range(len(x.shape))), call.shape)


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    """Copies one after the other along each axis."""
    x: Value = call["self"]
    new = len(call.shape) - len(x.shape)
    shape = (1,) * new + x.shape
    x = call.algebra.relabel(x, [None] * new + list(range(len(x.shape))), shape)
    for axis, size in enumerate(call.shape):
        if size != shape[axis]:
            x = call.algebra.move(x, axis, span(0, size) % shape[axis])
    return x


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Any:
    """Every position is repeated."""
    repeats, dim = call.get("repeats"), call.get("dim")
    if not isinstance(repeats, int) or dim is None:
        return NotImplemented
    x = call["self"]
    axis = axis_of(dim, len(x.shape))
    return call.algebra.move(x, axis, np.repeat(span(0, x.shape[axis]), repeats))


@rule("slice", "slice_copy")
def slice_(call: Call) -> Value:
    """Positions from start to end by steps."""
    x = call["self"]
    axis = call.axis("dim", len(x.shape))
    start, stop, step = slice(call.get("start"), call.get("end"), call.get("step", 1)).indices(x.shape[axis])
    source = span(start, stop, step)
    return x if source.size == x.shape[axis] else call.algebra.move(x, axis, source)


@rule("narrow", "narrow_copy")
def narrow(call: Call) -> Value:
    """Some positions in a row."""
    x = call["self"]
    axis = call.axis("dim", len(x.shape))
    start = axis_of(int(call["start"]), x.shape[axis])
    return call.algebra.move(x, axis, span(start, start + int(call["length"])))


@rule("select", "select_copy")
def select(call: Call) -> Value:
    """One position; its axis disappears."""
    return _one(call, call["self"], call.axis("dim", len(call["self"].shape)), int(call["index"]), call.shape)


def _one(call: Call, x: Value, axis: int, index: int, shape: Sequence[int]) -> Value:
    index = axis_of(index, x.shape[axis])
    picked = call.algebra.move(x, axis, span(index, index + 1))
    return call.algebra.relabel(picked, [k for k in range(len(x.shape)) if k != axis], shape)


@rule("unbind", "unbind_copy")
def unbind(call: Call) -> list[Value]:
    """Every position of an axis on its own."""
    x = call["self"]
    axis = call.axis("dim", len(x.shape))
    return [_one(call, x, axis, index, shape) for index, shape in enumerate(call.shapes)]


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")
def split(call: Call) -> list[Value]:
    """Pieces in a row."""
    x = call["self"]
    axis = call.axis("dim", len(x.shape))
    pieces, start = [], 0
    for shape in call.shapes:
        pieces.append(call.algebra.move(x, axis, span(start, start + shape[axis])))
        start += shape[axis]
    return pieces


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Any:
    """Tensors one after the other."""
    rank = len(call.shape)
    # Empty tensors add nothing; torch skips those of shape (0,) whatever the other shapes.
    values = [value for value in call["tensors"] if 0 not in value.shape]
    if not values:
        return NotImplemented
    return call.algebra.cat(values, call.axis("dim", rank), call.shape)


@rule("stack")
def stack(call: Call) -> Value:
    """Tensors side by side on a new axis."""
    rank = len(call.shape)
    axis = call.axis("dim", rank)
    values = []
    for value in call["tensors"]:
        axes: list[int | None] = list(range(len(value.shape)))
        axes.insert(axis, None)
        values.append(call.algebra.relabel(value, axes, (*value.shape[:axis], 1, *value.shape[axis:])))
    return call.algebra.cat(values, axis, call.shape)


@rule("flip")
def flip(call: Call) -> Value:
    """Reversed axes."""
    x = call["self"]
    for dim in call["dims"]:
        axis = axis_of(int(dim), len(call.shape))
        x = call.algebra.move(x, axis, span(0, call.shape[axis])[::-1])
    return x  # type: ignore[no-any-return]


@rule("roll")
def roll(call: Call) -> Any:
    """Positions go round."""
    x, dims = call["self"], list(call.get("dims") or [])
    if not dims:
        return NotImplemented
    for shift, dim in zip(call["shifts"], dims, strict=True):
        axis = axis_of(int(dim), len(call.shape))
        x = call.algebra.move(x, axis, np.roll(span(0, call.shape[axis]), int(shift)))
    return x


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Value:
    """Constants before and after; or copies of what is near, which tell positions apart."""
    x, sizes = call["self"], list(call["pad"])
    rank = len(x.shape)
    mode = call.get("mode", "constant")
    for k in range(len(sizes) // 2):
        axis = rank - 1 - k
        before, after = sizes[2 * k], sizes[2 * k + 1]
        if not before and not after:
            continue
        if mode != "constant":
            source = np.pad(span(0, x.shape[axis]), (before, after), mode=_PADDING[mode])  # type: ignore[call-overload]
        else:
            kept = span(max(0, -before), x.shape[axis] + min(0, after))
            source = np.pad(kept, (max(0, before), max(0, after)), constant_values=-1)
        x = call.algebra.move(x, axis, source)
    return x  # type: ignore[no-any-return]


_PADDING = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Value:
    """Channels in blocks of r * r become pixels."""
    x, r = call["self"], int(call["upscale_factor"])
    *lead, c, h, w = x.shape
    n = len(lead)
    x = call.algebra.reshape(x, (*lead, c // (r * r), r, r, h, w))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    x = call.algebra.relabel(x, order, [x.shape[axis] for axis in order])
    return call.algebra.reshape(x, call.shape)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Value:
    """Pixels become channels in blocks of r * r."""
    x, r = call["self"], int(call["downscale_factor"])
    *lead, c, h, w = x.shape
    n = len(lead)
    x = call.algebra.reshape(x, (*lead, c, h // r, r, w // r, r))
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    x = call.algebra.relabel(x, order, [x.shape[axis] for axis in order])
    return call.algebra.reshape(x, call.shape)


@rule("channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    """Groups of channels are interleaved."""
    x, groups = call["self"], int(call["groups"])
    source = span(0, x.shape[1]).reshape(groups, -1).T.reshape(-1)
    return call.algebra.move(x, 1, source)


@rule("select_scatter", "slice_scatter")
def scatter(call: Call) -> Any:
    """Some positions of an axis are replaced."""
    x, src = call["self"], call["src"]
    axis = call.axis("dim", len(x.shape))
    size = x.shape[axis]
    if call.name == "aten.select_scatter":
        start = axis_of(int(call["index"]), size)
        stop, step = start + 1, 1
        axes: list[int | None] = list(range(len(src.shape)))
        axes.insert(axis, None)
        src = call.algebra.relabel(src, axes, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    else:
        start, stop, step = slice(call.get("start"), call.get("end"), call.get("step", 1)).indices(size)
    if step != 1:
        return NotImplemented
    pieces = [call.algebra.move(x, axis, span(0, start)), src, call.algebra.move(x, axis, span(stop, size))]
    return call.algebra.cat([piece for piece in pieces if piece.shape[axis]], axis, call.shape)


@rule("index_select")
def index_select(call: Call) -> Value:
    """Positions of an axis by an index: followed where the index is a constant."""
    x = call["self"]
    call.algebra.freeze(call["index"])
    return _by_index(call, x, call.axis("dim", len(x.shape)), "index")


def _by_index(call: Call, x: Value, axis: int, name: str) -> Value:
    index = call.known(name)
    if index is not None and index.ndim == 1:
        size = x.shape[axis]
        return call.algebra.move(x, axis, np.where(index < 0, index + size, index))
    letters: list[Any] = list(range(len(x.shape)))
    out = [("new", axis) if k == axis else k for k in letters]
    return call.algebra.join([(x, letters)], out, call.shape, hold={axis})


@rule("index")
def index(call: Call) -> Any:
    """Indexing by tensors: the indexed axes stay as they are, unless there is one index and it is constant."""
    x, indices = call["self"], list(call["indices"])
    rank = len(x.shape)
    used = [axis for axis, value in enumerate(indices) if value is not None]
    for axis in used:
        call.algebra.freeze(indices[axis])
    if len(used) == 1 and len(indices[used[0]].shape) == 1:
        return _by_index(call, x, used[0], f"indices.{used[0]}")
    if used != list(range(used[0], used[-1] + 1)):
        return NotImplemented
    inserted = len(call.shape) - (rank - len(used))
    letters: list[Any] = list(range(rank))
    out = [*letters[: used[0]], *(("new", k) for k in range(inserted)), *letters[used[-1] + 1 :]]
    return call.algebra.join([(x, letters)], out, call.shape, hold=set(used))


@rule("embedding")
def embedding(call: Call) -> Value:
    """Rows of a table by token; the rows are known by their numbers."""
    weight, tokens = call["weight"], call["indices"]
    call.algebra.freeze(tokens)
    out = [("token", k) for k in range(len(tokens.shape))]
    return call.algebra.join([(weight, ["row", "channel"])], [*out, "channel"], call.shape, hold={"row"})
