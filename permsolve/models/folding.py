"""Indices that a plan put into a model are taken into those of compressed layers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from permsolve.models.grouping import Movement
from permsolve.models.plan import Plan
from permsolve.models.prunable import PrunableWeight
from permsolve.models.tensors import INDEX, permute_, put_in_order, read_in_order
from permsolve.sparse.linear import SparseLinear

#: The layers that are made of a weight, one for each of its owners, by the weight's path.
Made = Mapping[str, Sequence[SparseLinear]]


def fold_own(chosen: Sequence[PrunableWeight], found: Made) -> list[str]:
    """Take the index before a linear layer into that of the compressed one.

    Parameters
    ----------
    chosen
        Weights.
    found
        Compressed layers.

    Returns
    -------
    list
        Names of the layers that had an index.
    """
    folded = []
    for weight in chosen:
        for owner, layer in zip(weight.owners, found.get(weight.path, ()), strict=False):
            order = owner.module._buffers.get(INDEX)
            if order is not None and read_in_order in owner.module._forward_pre_hooks.values():
                _read_through(layer, order)
                folded.append(owner.name)
    return folded


def fold_norms(model: nn.Module, plan: Plan | None, chosen: Sequence[PrunableWeight], found: Made) -> list[str]:
    """Take the index after a norm into those of its readers, where all of them are compressed.

    Parameters
    ----------
    model
        The model, whose norms lose their indices.
    plan
        The plan that was applied to it, or None; it knows who reads what.
    chosen
        Weights.
    found
        Compressed layers.

    Returns
    -------
    list
        Names of the norms.
    """
    layers: dict[str, Sequence[SparseLinear]] = {}
    axes: dict[str, int] = {}
    for weight in chosen:
        for name in (weight.name, *weight.names):
            layers[name], axes[name] = found.get(weight.path, ()), weight.axis
    groups = () if plan is None else plan.groups
    known = Counter(name for group in groups for name in group.indices)
    folded: list[str] = []
    for group in groups:
        if len(group.indices) != 1 or known[group.indices[0]] > 1:
            continue
        [index] = [move for move in group.movements if move.role == "index"]
        order = _order_after(model.get_submodule(index.name))
        readers = [move for move in group.movements if move.role not in ("index", "pointed")]
        if order is None or not all(layers.get(move.name) and _reads(move, index, axes) for move in readers):
            continue
        for layer in {id(layer): layer for move in readers for layer in layers[move.name]}.values():
            _read_through(layer, order)
        # The norm's index becomes the identity, which takes it away.
        back = dataclasses.replace(index, positions=np.arange(order.numel())[None])
        permute_(model, back, np.argsort(order.cpu().numpy()))
        folded.append(index.name)
    return folded


def _order_after(module: nn.Module) -> torch.Tensor | None:
    return module._buffers.get(INDEX) if put_in_order in module._forward_hooks.values() else None


def _reads(move: Movement, index: Movement, axes: Mapping[str, int]) -> bool:
    """Whether the input channels of a weight are those of an index, one by one."""
    return (
        move.axes == (axes[move.name],)
        and move.view[move.axes[0]] == index.view[0]
        and np.array_equal(move.positions, index.positions)
    )


def _read_through(layer: SparseLinear, order: torch.Tensor) -> None:
    """Have a layer read the channels that an index before it would have handed over."""
    layer.index = order.to(layer.index.device)[layer.index.long()].to(torch.int32)
