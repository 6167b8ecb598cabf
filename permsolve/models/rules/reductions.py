"""Reductions, and operators along an axis."""

from __future__ import annotations

import functools
from typing import Any

from permsolve.models.rules.registry import Call, rule
from permsolve.models.values import Value, axis_of


def _axes(call: Call, rank: int) -> set[int]:
    dims = call.get("dim", call.get("dims"))
    if dims is None or dims == []:
        return set(range(rank))
    return {axis_of(int(dim), rank) for dim in (dims if isinstance(dims, (list, tuple)) else [dims])}


def _reduced(call: Call, x: Value, reduced: set[int], shape: tuple[int, ...], hold: set[int]) -> Value:
    letters = list(range(len(x.shape)))
    kept = len(shape) == len(letters)
    out = [("gone", k) if k in reduced else k for k in letters if kept or k not in reduced]
    return call.algebra.join([(x, letters)], out, shape, hold=hold)


@rule(
    *("sum", "mean", "amax", "amin", "prod", "logsumexp", "nansum", "any", "all"),
    *("var", "std", "linalg_vector_norm", "norm", "count_nonzero", "var_mean", "std_mean"),
)
def reduce(call: Call) -> Any:
    """A symmetric function of what lies along some axes."""
    x = call["self"]
    axes = _axes(call, len(x.shape))
    if call.name in ("aten.any", "aten.all") and call.get("dim") == []:  # here an empty list means no axis
        return call.algebra.pointwise([x], call.shape)
    if isinstance(call.shapes, list):
        return [_reduced(call, x, axes, shape, set()) for shape in call.shapes]
    return _reduced(call, x, axes, call.shape, set())


@rule("max", "min", "argmax", "argmin", "median", "mode")
def extreme(call: Call) -> Any:
    """The largest or smallest; where it is found must not change."""
    x = call["self"]
    if call.get("other") is not None:
        return call.algebra.pointwise([x, call["other"]], call.shape)
    axes = _axes(call, len(x.shape))
    symmetric = call.get("dim") is None and call.name in ("aten.max", "aten.min")
    hold = set() if symmetric else axes
    if isinstance(call.shapes, list):
        return [_reduced(call, x, axes, shape, hold) for shape in call.shapes]
    return _reduced(call, x, axes, call.shape, hold)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Value:
    """Every entry against all along an axis: channels may move along it."""
    x = call["self"]
    letters = list(range(len(x.shape)))
    return call.algebra.join([(x, letters)], letters, call.shape, within={call.axis("dim", len(letters))})


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort", "topk", "diff", "triu", "tril")
def ordered(call: Call) -> Any:
    """What depends on the order along an axis."""
    x = call["self"]
    rank = len(x.shape)
    if call.get("prepend") is not None or call.get("append") is not None:
        return NotImplemented
    if call.name in ("aten.triu", "aten.tril"):
        held = {rank - 2, rank - 1}
    else:
        held = {axis_of(int(call.get("dim", -1)), rank)}
    letters = list(range(rank))
    shapes = call.shapes if isinstance(call.shapes, list) else [call.shapes]
    results = [
        call.algebra.join([(x, letters)], [("new", k) if k in held else k for k in letters], shape, hold=held)
        for shape in shapes
    ]
    return results if isinstance(call.shapes, list) else results[0]


def _pooling(call: Call, rank: int) -> Any:
    """Windows over the last axes: their positions stay, everything else passes through."""
    x = call["self"] if "self" in call.args else call["input"]
    letters = list(range(len(x.shape)))
    held = set(letters[-rank:])
    out = [("new", k) if k in held else k for k in letters]
    results = [
        call.algebra.join([(x, letters)], out, shape, hold=held)
        for shape in (call.shapes if isinstance(call.shapes, list) else [call.shapes])
    ]
    return results if isinstance(call.shapes, list) else results[0]


def _register_pooling() -> None:
    for rank in (1, 2, 3):
        names = [
            f"{kind}_pool{rank}d{ending}"
            for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
            for ending in ("", "_with_indices")
            if not (ending and "avg" in kind)
        ]
        names += [f"_adaptive_avg_pool{rank}d", f"upsample_nearest{rank}d", f"_upsample_nearest_exact{rank}d"]
        names += {
            1: ["upsample_linear1d"],
            2: ["upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"],
        }.get(rank, ["upsample_trilinear3d"])
        rule(*names)(functools.partial(_pooling, rank=rank))


_register_pooling()
