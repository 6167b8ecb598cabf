"""Where an index may give channels an order of their own: after norms, or before linear layers."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import torch

from permsolve.models.trace import Traced

_COPIES = ("clone", "_to_copy", "detach", "dropout", "contiguous", "alias")
_VIEWS = ("view", "reshape", "slice", "select", "unsqueeze", "squeeze", "flatten", "_unsafe_view")
_PRODUCTS = {"linear": 0, "addmm": 1, "mm": 0, "matmul": 0}

Node = torch.fx.Node


@dataclass(frozen=True)
class GatherPoints:
    """Nodes of a graph that an index may stand at.

    Parameters
    ----------
    after
        Last nodes of norms that only matrix products read, and the norm's name: one index serves all its readers.
    before
        Linear layers: a node that those with the same order share, and the layer's name. Where only norms are followed
        by indices, these are layers that read a norm which others read, too (a residual connection, say), and the
        norm's last node, as they share one order.
    """

    after: dict[Node, str] = field(default_factory=dict)
    before: dict[Node, tuple[Node, str]] = field(default_factory=dict)


#: What `gather_points` may be asked for: an order for what each norm puts out, or for what each linear layer reads.
GATHERS = ("norm", "layer")


def layer_points(traced: Traced, free: Container[str]) -> GatherPoints:
    """Find the linear layers of a graph that may have an index of their own before them.

    Parameters
    ----------
    traced
        The graph.
    free
        Names of weights whose channels are free without one.

    Returns
    -------
    GatherPoints
        Layers that are called more than once are left out.
    """
    points = GatherPoints()
    for node in traced.module.graph.nodes:
        if node.op != "call_function" or _packet(node) != "linear":
            continue
        layer = module_of(node)
        if layer in traced.linears and f"{layer}.weight" not in free and _reads(node, node.args[0]):
            points.before[node] = (node, layer)
    return points


def norm_points(traced: Traced) -> GatherPoints:
    """Find the norms of a graph and who reads them.

    Parameters
    ----------
    traced
        The graph.

    Returns
    -------
    GatherPoints
        Norms and layers that are called more than once are left out.
    """
    points = GatherPoints()
    last = {module_of(node): node for node in traced.module.graph.nodes if node.op == "call_function"}
    for name in sorted(traced.norms & last.keys()):
        node = last[name]
        if _left(traced.module.graph, name) != [node]:  # what the module returns is not its last node
            continue
        ends = _readers(node)
        if ends and all(_reads(user, source) for user, source in ends):
            points.after[node] = name
            continue
        for user, source in ends:
            layer = module_of(user)
            plain = layer in traced.linears and _packet(user) == "linear"
            if plain and _reads(user, source) and source in _copies(node):
                points.before[user] = (node, layer)
    return points


def module_of(node: Node) -> str:
    """Return the full name of the module whose forward made a node.

    Parameters
    ----------
    node
        A node.

    Returns
    -------
    str
        The name; empty for the model itself.
    """
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).split("@")[0] if stack else ""  # torch numbers repeated calls: "norm@1"


def _left(graph: torch.fx.Graph, name: str) -> list[Node]:
    """Return the nodes of a module that are used outside it."""
    own = [node for node in graph.nodes if node.op == "call_function" and module_of(node) == name]
    return [node for node in own if any(user not in own for user in node.users)]


def _readers(node: Node) -> list[tuple[Node, Node]]:
    """Return who reads a tensor in the end, through copies and views, and what exactly is read."""
    ends = []
    for user in node.users:
        if _packet(user) in _COPIES + _VIEWS:
            ends += _readers(user)
        else:
            ends.append((user, node))
    return ends


def _copies(node: Node) -> list[Node]:
    found = [node]
    for user in node.users:
        if _packet(user) in _COPIES:
            found += _copies(user)
    return found


def _reads(user: Node, source: Node) -> bool:
    """Whether a node is a matrix product of a tensor with something else on its right."""
    position = _PRODUCTS.get(_packet(user))
    if position is None or len(user.args) <= position:
        return False
    return user.args[position] is source and source not in user.args[position + 1 :]


def _packet(node: Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")
