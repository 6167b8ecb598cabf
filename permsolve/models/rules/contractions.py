"""Matrix products and convolutions: where input channels are read."""

from __future__ import annotations

import math
from typing import Any

from permsolve.models.rules.registry import Call, Grouped, Use, rule
from permsolve.models.values import Factor, Value


def record(call: Call, weight: Value, axis: int, output: int | None) -> None:
    """Note that a contraction reads a parameter along an axis.

    Parameters
    ----------
    call
        The contraction.
    weight
        The operand.
    axis, output
        Its axes of input and output channels.
    """
    if weight.leaf is not None and not weight.leaf.buffer:
        axes = weight.leaf.axes
        outer = None if output is None else axes[output]
        call.uses.append(Use(weight.leaf.name, axes[axis], outer, weight.leaf.masks, call.where))


@rule("linear")
def linear(call: Call) -> Value:
    """X @ weight.T + bias."""
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    lead = list(range(len(x.shape) - 1))
    record(call, weight, len(weight.shape) - 1, 0 if len(weight.shape) > 1 else None)
    rows = ["out"] if len(weight.shape) > 1 else []
    operands: list[tuple[Value, list[Any]]] = [(x, [*lead, "in"]), (weight, [*rows, "in"])]
    out = [*lead, *rows]
    if bias is not None:
        operands.append((bias, out[len(out) - len(bias.shape) :]))
    return call.algebra.join(operands, out, call.shape)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner_product")
def matmul(call: Call) -> Value:
    """Products of matrices with broadcasting over leading axes."""
    names = list(call.args)
    return _product(call, call[names[0]], call[names[1]], [])


@rule("addmm", "baddbmm", "addmv")
def addmm(call: Call) -> Value:
    """A product of matrices and a term that is added with broadcasting."""
    left, right = ("mat", "vec") if call.name == "aten.addmv" else ("mat1", "mat2")
    if call.name == "aten.baddbmm":
        left, right = "batch1", "batch2"
    return _product(call, call[left], call[right], [call["self"]])


def _product(call: Call, a: Value, b: Value, terms: list[Value]) -> Value:
    rank = len(call.shape)
    rows = len(a.shape) > 1
    cols = len(b.shape) > 1
    lead = rank - rows - cols
    batch = list(range(lead))
    left: list[Any] = [*batch[lead - max(0, len(a.shape) - 2) :], *(["row"] if rows else []), "in"]
    right: list[Any] = [*batch[lead - max(0, len(b.shape) - 2) :], "in", *(["col"] if cols else [])]
    out: list[Any] = [*batch, *(["row"] if rows else []), *(["col"] if cols else [])]
    if b.constant and not a.constant:
        record(call, b, right.index("in"), right.index("col") if cols else None)
    elif a.constant and not b.constant:
        record(call, a, left.index("in"), left.index("row") if rows else None)
    added = [(term, out[rank - len(term.shape) :]) for term in terms]
    return call.algebra.join([(a, left), (b, right), *added], out, call.shape)


@rule("einsum")
def einsum(call: Call) -> Any:
    """Sums over letters that the result lacks."""
    equation = str(call["equation"]).replace(" ", "")
    tensors = list(call["tensors"])
    inputs, arrow, output = equation.partition("->")
    parts = inputs.split(",")
    dotted = max((len(value.shape) - len(part.replace("...", "")) for part, value in zip(parts, tensors, strict=True)))
    letters = [_expand(part, len(value.shape), dotted) for part, value in zip(parts, tensors, strict=True)]
    if not arrow:
        names = [letter for letter in inputs.replace("...", "").replace(",", "")]
        output = "..." * ("..." in inputs) + "".join(sorted(name for name in names if names.count(name) == 1))
    if any(len(set(each)) < len(each) for each in letters):  # a diagonal
        return NotImplemented
    out = _expand(output, len(call.shape), dotted)
    constants = [k for k, value in enumerate(tensors) if value.constant]
    if len(tensors) == 2 and len(constants) == 1:
        weight = constants[0]
        shared = [k for k, letter in enumerate(letters[weight]) if letter in letters[1 - weight] and letter not in out]
        free = [k for k, letter in enumerate(letters[weight]) if letter not in letters[1 - weight] and letter in out]
        if len(shared) == 1:
            record(call, tensors[weight], shared[0], free[0] if len(free) == 1 else None)
    return call.algebra.join(list(zip(tensors, letters, strict=True)), out, call.shape)


def _expand(part: str, rank: int, dotted: int) -> list[Any]:
    names: list[Any] = list(part.replace("...", "."))
    if "." in names:
        at = names.index(".")
        count = rank - (len(names) - 1)
        names[at : at + 1] = [("dots", k) for k in range(dotted - count, dotted)]
    return names


def conv_axes(transposed: bool) -> tuple[int, int]:
    """Return the axes of a convolution's weights that hold input and output channels.

    Parameters
    ----------
    transposed
        Whether it is a transposed convolution.

    Returns
    -------
    tuple
        Axis of inputs, axis of outputs.
    """
    return (0, 1) if transposed else (1, 0)


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: Call) -> Any:
    """Convolutions of every kind; positions in the image and in the kernel stay."""
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    transposed = bool(call.get("transposed", "transpose" in call.name))
    groups = int(call.get("groups", 1))
    batch = ["n"] * (len(x.shape) - len(weight.shape) + 1)
    space = [("x", k) for k in range(len(weight.shape) - 2)]
    kernel = [("k", k) for k in range(len(space))]
    image = [("y", k) for k in range(len(space))]
    inner, outer = conv_axes(transposed)
    if weight.leaf is not None and weight.leaf.name in call.grouped:
        return _grouped(call, x, bias, call.grouped[weight.leaf.name], weight.leaf.name, transposed)
    if groups == 1:
        record(call, weight, inner, outer)
        names: list[Any] = ["", "", *kernel]
        names[inner], names[outer] = "in", "out"
        operands = [(x, [*batch, "in", *space]), (weight, names)]
        operands += [] if bias is None else [(bias, ["out"])]
        return call.algebra.join(operands, [*batch, "out", *image], call.shape, hold={*space, *kernel})
    if weight.shape[inner] != 1 and not transposed:
        # Every group reads its channels with its own rows; here all groups must move alike.
        return _tied_groups(call, x, weight, bias, groups)
    if transposed and (weight.shape[0] != groups or weight.shape[1] != 1):
        return NotImplemented
    return _depthwise(call, x, weight, bias, groups)


def _depthwise(call: Call, x: Value, weight: Value, bias: Value | None, groups: int) -> Value:
    """One input channel a group: it passes through to the outputs of its group."""
    algebra = call.algebra
    space = len(weight.shape) - 2
    batch = len(x.shape) - space - 1
    kernel = [("k", k) for k in range(space)]
    channels = call.shape[batch]
    multiple = channels // groups
    split = algebra.reshape(weight, (groups, multiple, *weight.shape[2:]))
    operands = [(x, [*range(batch), "g", *(("x", k) for k in range(space))]), (split, ["g", "j", *kernel])]
    if bias is not None:
        operands.append((algebra.reshape(bias, (groups, multiple)), ["g", "j"]))
    held = {*kernel, *(("x", k) for k in range(space))}
    shape = (*call.shape[:batch], groups, multiple, *call.shape[batch + 1 :])
    out = algebra.join(operands, [*range(batch), "g", "j", *(("y", k) for k in range(space))], shape, hold=held)
    return algebra.reshape(out, call.shape)


def _tied_groups(call: Call, x: Value, weight: Value, bias: Value | None, groups: int) -> Value:
    """Grouped convolution whose weights are no plain parameter: all groups move alike inside."""
    algebra = call.algebra
    space = len(weight.shape) - 2
    batch = len(x.shape) - space - 1
    spatial = [("x", k) for k in range(space)]
    kernel = [("k", k) for k in range(space)]
    record(call, weight, 1, 0)
    parts = algebra.reshape(x, (*x.shape[:batch], groups, weight.shape[1], *x.shape[batch + 1 :]))
    rows = algebra.reshape(weight, (groups, weight.shape[0] // groups, *weight.shape[1:]))
    operands = [(parts, [*range(batch), "g", "in", *spatial]), (rows, ["g", "out", "in", *kernel])]
    if bias is not None:
        operands.append((algebra.reshape(bias, (groups, weight.shape[0] // groups)), ["g", "out"]))
    shape = (*call.shape[:batch], groups, call.shape[batch] // groups, *call.shape[batch + 1 :])
    out = [*range(batch), "g", "out", *(("y", k) for k in range(space))]
    return algebra.reshape(algebra.join(operands, out, shape, hold={"g", *spatial, *kernel}), call.shape)


def _grouped(call: Call, x: Value, bias: Value | None, weights: Grouped, name: str, transposed: bool) -> Value:
    """Grouped convolution with a plain parameter: channels move within each group on their own."""
    algebra = call.algebra
    space = len(weights.view) - 3
    batch = len(x.shape) - space - 1
    spatial = [("x", k) for k in range(space)]
    groups, inputs = weights.inputs.shape
    outputs = weights.outputs.shape[1]
    call.uses.append(Use(name, *conv_axes(transposed), (), call.where))
    parts = algebra.reshape(x, (*x.shape[:batch], groups, inputs, *x.shape[batch + 1 :]))
    read = Value((groups, inputs), (Factor(weights.inputs, (0, 1)),))
    lettered = [(parts, [*range(batch), "g", "in", *spatial]), (read, ["g", "in"])]
    # The result below is made from the weights alone: channels that lie on the batch axis are kept where they are.
    algebra.join(lettered, ["g"], (groups,), hold={"g", *spatial, *range(batch)})
    written = [(Value((groups, outputs), (Factor(weights.outputs, (0, 1)),)), ["g", "out"])]
    if bias is not None:
        written.append((algebra.reshape(bias, (groups, outputs)), ["g", "out"]))
    result = algebra.join(written, ["g", "out"], (groups, outputs), hold={"g"})
    factors = tuple(Factor(f.labels, tuple(axis + batch for axis in f.axes)) for f in result.factors)
    shape = (*call.shape[:batch], groups, outputs, *call.shape[batch + 1 :])
    assert math.prod(shape) == math.prod(call.shape)
    return algebra.reshape(Value(shape, factors), call.shape)
