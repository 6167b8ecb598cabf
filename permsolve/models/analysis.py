"""The analysis: walks a traced graph and collects what may be permuted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from permsolve.errors import ModelError
from permsolve.models.algebra import Algebra
from permsolve.models.gathers import GatherPoints, module_of
from permsolve.models.rules import Call, rule_of
from permsolve.models.rules.contractions import conv_axes
from permsolve.models.rules.pointwise import elementwise
from permsolve.models.rules.registry import Grouped, Use
from permsolve.models.spaces import Ints, Labels, Spaces
from permsolve.models.trace import Source, Traced
from permsolve.models.values import Factor, Leaf, Value

#: Operators that treat elements alike although torch does not tag them so.
_POINTWISE = tuple(
    f"aten.{name}"
    for name in (
        *("where", "masked_fill", "copy", "fill", "clamp", "threshold", "pow", "relu6", "hardswish", "hardsigmoid"),
        *("hardtanh", "selu", "celu", "mish", "softshrink", "hardshrink", "log_sigmoid", "rrelu", "silu", "gelu"),
        *("softsign", "tanhshrink", "nan_to_num", "isnan", "isinf", "isfinite", "square", "dropout"),
    )
)
#: Constants of more elements than this are not evaluated.
_LARGEST_CONSTANT = 1 << 22


@dataclass(frozen=True)
class Axis:
    """Labels of a parameter: what a permutation does to it.

    Parameters
    ----------
    name
        Full name of the parameter or buffer.
    view
        The shape it is looked at in.
    axes
        Axes of the view that the labels lie on.
    labels
        The labels.
    """

    name: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    labels: Labels


@dataclass(frozen=True)
class Gather:
    """A module whose output, or input if it is a linear layer, is put into another order by an index.

    Parameters
    ----------
    module
        Full name of the module.
    labels
        Labels of the channels that the index makes.
    values
        Whether these are the channels that the index points to, not those it makes.
    """

    module: str
    labels: Labels
    values: bool = False


@dataclass
class Findings:
    """Everything an analysis found out.

    Parameters
    ----------
    spaces
        The demands.
    axes
        Labels of parameters.
    uses
        Contractions and the parameters they read.
    shapes
        Shape of every parameter and saved buffer met.
    gathers
        Modules that are given an index.
    unknown
        Operators without a rule that stopped channels, and how often.
    aliases
        Other names of parameters that are tied.
    """

    spaces: Spaces = field(default_factory=Spaces)
    axes: list[Axis] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    gathers: list[Gather] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def investigate(traced: Traced, points: GatherPoints | None = None) -> Findings:
    """Walk a graph.

    Parameters
    ----------
    traced
        The graph.
    points
        Where an index may stand; by default nowhere.

    Returns
    -------
    Findings
        What was found.
    """
    return _Walk(traced, points or GatherPoints()).run()


class _Walk:
    """One pass over the nodes of a graph, in order."""

    def __init__(self, traced: Traced, points: GatherPoints) -> None:
        self.traced = traced
        self.found = Findings()
        self.algebra = Algebra(self.found.spaces)
        self.values: dict[torch.fx.Node, Any] = {}
        self.grouped: dict[str, Grouped] = {}
        self.names: dict[Any, str] = {}
        self.leaves: dict[str, Value] = {}
        self.constants: dict[torch.fx.Node, torch.Tensor | None] = {}
        self.points = points
        self.gathered: dict[torch.fx.Node, Value | None] = {}

    def run(self) -> Findings:
        self._name_tensors()
        for node in self.traced.module.graph.nodes:
            self.algebra.reason = _where(node)
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._after(node, self._call(node)) if node.users else None
            elif node.op == "get_attr":
                self.values[node] = None
            elif node.op == "output":
                for value in _flat(self._resolve(node.args)):
                    self.algebra.freeze(value, "an output of the model")
        return self.found

    # -- parameters ------------------------------------------------------------------------------------------------

    def _name_tensors(self) -> None:
        """Give tensors that are one the same name; those that overlap without being one are set aside.

        So are parameters that the model also holds as a plain attribute: there they would follow, unseen by the graph.
        """
        owners: dict[int, list[tuple[str, Any, tuple[int, int]]]] = {}
        self.shared: dict[str, str] = {}
        for source in self.traced.sources.values():
            tensor = source.tensor
            if tensor is None:
                continue
            storage = tensor.untyped_storage()
            memory = storage._cdata if tensor.is_meta else storage.data_ptr()
            geometry = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
            extent = _extent(tensor)
            others = owners.setdefault(memory, [])
            for name, known, (start, stop) in others:
                if known == geometry and tensor.numel() and source.kind != "constant":
                    self.found.aliases[source.name] = name
                    break
                if start < extent[1] and extent[0] < stop:
                    self.shared[source.name] = name
                    self.shared[name] = source.name
            else:
                others.append((source.name, geometry, extent))

    def _placeholder(self, node: torch.fx.Node) -> Any:
        source = self.traced.sources.get(node.name)
        example = node.meta.get("val")
        if not isinstance(example, torch.Tensor):
            return example
        shape = tuple(int(size) for size in example.shape)
        if source is None or source.kind == "input":
            return Value(shape)
        if source.kind == "constant" or not source.saved:
            return Value(shape, constant=True)
        name = self.found.aliases.get(source.name, source.name)
        if name not in self.leaves:
            self.leaves[name] = self._leaf(node, source, name, shape)
        return self.leaves[name]

    def _leaf(self, node: torch.fx.Node, source: Source, name: str, shape: tuple[int, ...]) -> Value:
        self.found.shapes[name] = shape
        leaf = Leaf(name, tuple(range(len(shape))), buffer=source.kind == "buffer")
        if name in self.shared:
            return Value(shape, constant=True, leaf=leaf)
        grouped = self._grouped_weights(node, name, shape)
        if grouped is not None:
            self.grouped[name] = grouped
            for labels, axis in ((grouped.inputs, grouped.axes[0]), (grouped.outputs, grouped.axes[1])):
                self._own(Axis(name, grouped.view, (0, axis), labels))
            return Value(shape, constant=True, leaf=leaf)
        factors = []
        for axis, size in enumerate(shape):
            if size > 1:
                labels = self.found.spaces.fresh((size,))
                self._own(Axis(name, shape, (axis,), labels))
                factors.append(Factor(labels, (axis,)))
        return Value(shape, tuple(factors), constant=True, leaf=leaf)

    def _own(self, axis: Axis) -> None:
        self.found.axes.append(axis)
        # A demand on the axis itself: channels of one axis are never exchanged with those of another.
        self.found.spaces.relate([(axis.labels, axis.labels.positions())], f"the axes of {axis.name}")

    def _grouped_weights(self, node: torch.fx.Node, name: str, shape: tuple[int, ...]) -> Grouped | None:
        """Return how the groups of a convolution divide its weights, if nothing else reads them."""
        kinds = set()
        nodes = [each for each in self.traced.module.graph.nodes if each.op == "placeholder"]
        for each in nodes:
            source = self.traced.sources.get(each.name)
            if source is None or self.found.aliases.get(source.name, source.name) != name:
                continue
            for user in each.users:
                args = _arguments(user) if user.op == "call_function" else {}
                plain = "conv" in str(user.target) and args.get("weight") is each and args.get("bias") is not each
                transposed = bool(args.get("transposed", "transpose" in str(user.target)))
                kinds.add((int(args.get("groups", 1)), transposed) if plain else (1, False))
        if len(kinds) != 1:
            return None
        groups, transposed = next(iter(kinds))
        inner, _ = conv_axes(transposed)
        if groups == 1 or shape[1 if not transposed else 0] == (1 if not transposed else groups):
            return None
        fresh = self.found.spaces.fresh
        if inner == 1:
            k, c, *kernel = shape
            return Grouped((groups, k // groups, c, *kernel), fresh((groups, c)), fresh((groups, k // groups)), (2, 1))
        c, k, *kernel = shape
        return Grouped((groups, c // groups, k, *kernel), fresh((groups, c // groups)), fresh((groups, k)), (1, 2))

    # -- operators -------------------------------------------------------------------------------------------------

    def _resolve(self, argument: Any) -> Any:
        return torch.fx.node.map_arg(argument, lambda node: self.values[node])

    def _call(self, node: torch.fx.Node) -> Any:
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem" and isinstance(node.args[0], torch.fx.Node):
            return self.values[node.args[0]][node.args[1]]
        shapes = _shapes(node.meta.get("val"))
        given = _arguments(node)
        args = {name: self._resolve(value) for name, value in given.items()}
        if node in self.points.before:
            args["input"] = self._before(node, args["input"])
        name = target.overloadpacket.__str__() if isinstance(target, torch._ops.OpOverload) else str(target)
        call = Call(
            name,
            args,
            shapes,
            self.algebra,
            self.algebra.reason,
            self.found.uses,
            self.grouped,
            lambda which: self._known(given, which),
            all(user.args[1:] == (0,) for user in node.users),
        )
        tensors = call.tensors()
        if any(0 in value.shape for value in tensors) and name != "aten.cat":
            return self._unknown(call, tensors)
        found = rule_of(name)
        if found is None and _is_pointwise(target, name):
            found = elementwise
        result = NotImplemented if found is None else found(call)
        if result is NotImplemented:
            return self._unknown(call, tensors)
        _check(call, result)
        constant = all(value.constant for value in tensors)
        if isinstance(result, list):
            return [None if each is None else replace(each, constant=constant) for each in result]
        return replace(result, constant=constant)

    def _unknown(self, call: Call, tensors: list[Value]) -> Any:
        if any(value.factors for value in tensors):
            self.found.unknown[call.name] = self.found.unknown.get(call.name, 0) + 1
        for value in tensors:
            self.algebra.freeze(value, f"{call.where}, an operator without a rule")
            if value.leaf is not None and value.leaf.name in self.grouped:
                grouped = self.grouped[value.leaf.name]
                self.found.spaces.freeze(grouped.inputs, call.where)
                self.found.spaces.freeze(grouped.outputs, call.where)
        constant = bool(tensors) and all(value.constant for value in tensors)
        if isinstance(call.shapes, list):
            return [None if shape is None else Value(shape, constant=constant) for shape in call.shapes]
        return None if call.shapes is None else Value(call.shapes, constant=constant)

    # -- constants -------------------------------------------------------------------------------------------------

    def _known(self, given: dict[str, Any], which: str) -> Ints | None:
        name, _, position = which.partition(".")
        node = given[name][int(position)] if position else given[name]
        value = self._evaluate(node) if isinstance(node, torch.fx.Node) else None
        if value is None or value.dtype not in (torch.int64, torch.int32):
            return None
        self._pin(node)
        return value.cpu().numpy().astype(np.int64)

    def _evaluate(self, node: torch.fx.Node) -> torch.Tensor | None:
        """Return the value of a node that depends on whole-numbered constants and buffers only."""
        if node not in self.constants:
            self.constants[node] = self._compute(node)
        return self.constants[node]

    def _compute(self, node: torch.fx.Node) -> torch.Tensor | None:
        example = node.meta.get("val")
        if not isinstance(example, torch.Tensor) or example.numel() > _LARGEST_CONSTANT:
            return None
        if node.op == "placeholder":
            source = self.traced.sources.get(node.name)
            usable = source is not None and source.kind in ("buffer", "constant") and not source.written
            usable = usable and not example.is_floating_point()
            tensor = source.tensor if source is not None and usable else None
            return None if tensor is None or tensor.is_meta else tensor
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return None
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            return None
        inputs = {each: self._evaluate(each) for each in node.all_input_nodes}
        if any(value is None for value in inputs.values()):
            return None
        args = torch.fx.node.map_arg(node.args, lambda each: inputs[each])
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda each: inputs[each])
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        return result if isinstance(result, torch.Tensor) else None

    def _pin(self, node: torch.fx.Node) -> None:
        """Keep the buffers that a known index was computed from as they are."""
        if node.op == "placeholder" and isinstance(self.values[node], Value):
            self.algebra.freeze(self.values[node], "use as an index")
        for each in node.all_input_nodes:
            self._pin(each)

    # -- gathers ---------------------------------------------------------------------------------------------------

    def _after(self, node: torch.fx.Node, value: Any) -> Any:
        """Give the output of a norm an order of its own, where it may be followed by an index."""
        name = self.points.after.get(node)
        if name is None or not isinstance(value, Value):
            return value
        return self._ordered(value, [name]) or value

    def _before(self, node: torch.fx.Node, value: Value) -> Value:
        """Give what a linear layer reads an order of its own, or the one of those that it shares one with."""
        if node not in self.points.before:
            return value
        shared = self.points.before[node][0]
        if shared not in self.gathered:
            siblings = [layer for other, layer in self.points.before.values() if other is shared]
            self.gathered[shared] = self._ordered(value, siblings)
        return self.gathered[shared] or value

    def _ordered(self, value: Value, names: list[str]) -> Value | None:
        """Return a tensor whose last axis an index puts in order; None where that cannot be."""
        axis = len(value.shape) - 1
        factors = [factor for factor in value.factors if axis in factor.axes]
        if any(factor.axes != (axis,) for factor in factors) or value.shape[axis] == 1:
            return None
        labels = self.found.spaces.fresh((value.shape[axis],))
        for name in names:
            self.found.gathers.append(Gather(name, labels))
            self.found.gathers += [Gather(name, factor.labels, values=True) for factor in factors]
        self.found.spaces.relate([(labels, labels.positions())], f"the index of {names[0]}")
        others = tuple(factor for factor in value.factors if axis not in factor.axes)
        return Value(value.shape, (*others, Factor(labels, (axis,))), value.uniform - {axis}, value.constant)


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the first byte of its storage that a tensor uses, and the first one after it."""
    start = tensor.storage_offset()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    stop = start + last + 1 if tensor.numel() else start
    return int(start) * tensor.element_size(), int(stop) * tensor.element_size()


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names of its operator's schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {f"arg{k}": value for k, value in enumerate(node.args)} | dict(node.kwargs)
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    for argument in schema.arguments:
        if argument.name not in given and argument.has_default_value():
            given[argument.name] = argument.default_value
    return given


def _shapes(example: Any) -> Any:
    if isinstance(example, torch.Tensor):
        if not all(isinstance(size, int) for size in example.shape):
            raise ModelError(
                "the model makes a tensor whose shape depends on data (by a boolean index, say): "
                "analyse the submodules before and after it on their own"
            )
        return tuple(example.shape)
    if isinstance(example, (tuple, list)):
        return [_shapes(each) for each in example]
    return None


def _is_pointwise(target: Any, name: str) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return torch.Tag.pointwise in target.tags or name in _POINTWISE


def _check(call: Call, result: Any) -> None:
    """Stop a rule that gets a shape wrong."""
    results = result if isinstance(result, list) else [result]
    shapes = call.shapes if isinstance(call.shapes, list) else [call.shapes]
    for value, shape in zip(results, shapes, strict=True):
        if value is not None and value.shape != shape:
            raise AssertionError(f"the rule of {call.name} gives shape {value.shape}, the operator {shape}")
        for factor in () if value is None else value.factors:
            if tuple(value.shape[axis] for axis in factor.axes) != factor.labels.shape:
                raise AssertionError(f"the rule of {call.name} gives labels of a wrong shape")


def _flat(values: Any) -> list[Value]:
    if isinstance(values, (list, tuple)):
        return [each for value in values for each in _flat(value)]
    if isinstance(values, dict):
        return _flat(list(values.values()))
    return [values] if isinstance(values, Value) else []


def _where(node: torch.fx.Node) -> str:
    if node.op != "call_function":
        return str(node.name)
    target: Any = node.target
    name = str(getattr(target, "overloadpacket", target)).removeprefix("aten.")
    module = module_of(node)
    return f"{name} in {module}" if module else name
