"""Element-wise operators, copies and constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from permsolve.models.rules.registry import Call, rule
from permsolve.models.values import Value


@rule("clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy", "_to_copy", "to", "type_as")
def same(call: Call) -> Value:
    """Copies and casts: the same channels."""
    value: Value = call["self"] if "self" in call.args else call["input"]
    return value


@rule("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def dropout(call: Call) -> Any:
    """Nothing, as the model is traced in evaluation mode."""
    if call.get("train"):
        return NotImplemented
    return call.rest(call["input"])


def elementwise(call: Call) -> Any:
    """Any operator that treats every element alike, with broadcasting."""
    tensors = call.tensors()
    if isinstance(call.shapes, list):
        return [call.algebra.pointwise(tensors, shape) for shape in call.shapes]
    result = call.algebra.pointwise(tensors, call.shape)
    if call.name == "aten.mul" and len(tensors) == 2:
        return replace(result, leaf=_masked(tensors[0], tensors[1]) or _masked(tensors[1], tensors[0]))
    if call.name == "aten.where" and call.get("other") == 0 and isinstance(call["self"], Value):
        return replace(result, leaf=_masked(call["self"], call["condition"]))
    if call.name in ("aten.mul", "aten.div") and len(tensors) == 1 and call["self"].shape == call.shape:
        return replace(result, leaf=call["self"].leaf)  # scaled by a number: the same choice of weights
    return result


def _masked(weights: Value, mask: Value) -> Any:
    """Return the leaf of weights times a mask, where that is what a product is."""
    if weights.leaf is None or mask.leaf is None or weights.shape != mask.shape:
        return None
    if weights.leaf.axes != mask.leaf.axes or not mask.leaf.buffer or weights.leaf.buffer:
        return None
    return replace(weights.leaf, masks=(*weights.leaf.masks, mask.leaf.name))


@rule("prelu", "_prelu_kernel")
def prelu(call: Call) -> Value:
    """One slope, or one for each channel on axis 1."""
    x, slope = call["self"], call["weight"]
    if len(slope.shape) == len(x.shape) and len(x.shape) > 1:
        return call.algebra.pointwise([x, slope], call.shape)
    axes = range(len(x.shape))
    letters = [1 if len(x.shape) > 1 else 0] * len(slope.shape)
    return call.algebra.join([(x, axes), (slope, letters)], axes, call.shape)


@rule("zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def constant(call: Call) -> Value:
    """Equal entries everywhere."""
    return Value(call.shape, uniform=frozenset(range(len(call.shape))), constant=True)


@rule("rand", "randn", "bernoulli", "rand_like", "randn_like", "randint", "empty_like", "new_empty")
def noise(call: Call) -> Any:
    """Values that nothing is known about; shapes of tensors only are read."""
    return Value(call.shape) if call.name != "aten.bernoulli" else NotImplemented


@rule("glu")
def glu(call: Call) -> Value:
    """The first half of an axis times the sigmoid of the second."""
    from permsolve.models.rules.registry import span

    x = call["self"]
    axis = call.axis("dim", len(x.shape))
    half = x.shape[axis] // 2
    halves = [call.algebra.move(x, axis, span(0, half)), call.algebra.move(x, axis, span(half, 2 * half))]
    return call.algebra.pointwise(halves, call.shape)
