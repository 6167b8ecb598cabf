"""Finding and permuting a model's tensors by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from permsolve.errors import ModelError
from permsolve.models.grouping import Movement
from permsolve.models.spaces import Ints
from permsolve.patterns import Permutation

#: Name of the buffer that holds an index after a norm.
INDEX = "channel_order"


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by all their names.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    dict
        Tied tensors appear under each name.
    """
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def lookup(model: nn.Module, name: str, view: tuple[int, ...]) -> torch.Tensor:
    """Return a parameter or buffer, checked against what a plan knows of it.

    Parameters
    ----------
    model
        The model.
    name
        Its full name.
    view
        A shape of as many elements.

    Returns
    -------
    torch.Tensor
        The tensor itself.

    Raises
    ------
    ModelError
        If it is not there or does not fit.
    """
    path, _, last = name.rpartition(".")
    try:
        tensor = getattr(model.get_submodule(path), last)
    except AttributeError:
        tensor = None
    if not isinstance(tensor, torch.Tensor):
        close = difflib.get_close_matches(name, tensors_of(model), n=1)
        hint = f"; the closest name is {close[0]!r}" if close else ""
        raise ModelError(f"the plan is for another model: {type(model).__name__} has no {name!r}{hint}")
    if tensor.layout is not torch.strided:
        raise ModelError(f"{name} is stored as {tensor.layout}; permute the dense weights, then convert them")
    shape = tuple(tensor.shape)
    if math.prod(shape) != math.prod(view) or (len(shape) == len(view) and shape != view):
        raise ModelError(f"the plan is for another model: {name} has shape {shape}, the plan says {view}")
    return tensor


def check_movable(model: nn.Module, movements: Iterable[Movement]) -> None:
    """Check that what is to be moved is stored in the model, and not computed from something else.

    Parameters
    ----------
    model
        The model.
    movements
        What is to be moved.

    Raises
    ------
    ModelError
        If a mask or parametrization was added after the analysis: what is moved would be lost at the next call.
    """
    known = tensors_of(model)
    for move in movements:
        if move.role not in ("index", "pointed") and move.name not in known:
            raise ModelError(
                f"{move.name} is computed by a parametrization or mask that was added after the analysis; "
                f"make it final by torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
            )


def index_of(move: Movement, perm: Permutation) -> Ints:
    """Return where each entry of an axis comes from.

    Parameters
    ----------
    move
        What moves.
    perm
        The group's permutation.

    Returns
    -------
    numpy.ndarray
        Positions, one for each position of the flattened axes.
    """
    index = np.arange(math.prod(move.view[axis] for axis in move.axes))
    index[move.positions] = move.positions[:, perm]
    return index


def permute_(model: nn.Module, move: Movement, perm: Permutation) -> None:
    """Permute a parameter, buffer or index in place.

    Parameters
    ----------
    model
        The model.
    move
        What moves.
    perm
        The group's permutation.

    Raises
    ------
    ModelError
        If the model does not fit.
    """
    index = index_of(move, perm)
    if move.role in ("index", "pointed"):
        _permute_index(model, move.name, index, pointed=move.role == "pointed")
        return
    tensor = lookup(model, move.name, move.view)
    for whole in (tensor, tensor.grad):  # a gradient that is there belongs to the order of its parameter
        if whole is not None:
            reorder_(whole, move, perm)


def reorder_(tensor: torch.Tensor, move: Movement, perm: Permutation) -> None:
    """Permute a tensor that is laid out like a parameter in place.

    Parameters
    ----------
    tensor
        The parameter, or a gradient, mask or moment of it.
    move
        What moves; not an index.
    perm
        The group's permutation.
    """
    index = index_of(move, perm)
    order = [*move.axes, *(axis for axis in range(len(move.view)) if axis not in move.axes)]
    data = tensor.detach().reshape(move.view).permute(order)
    moved = data.reshape(index.size, -1).index_select(0, torch.as_tensor(index, device=tensor.device))
    tensor.detach().copy_(moved.reshape(data.shape).permute(*np.argsort(order).tolist()).reshape(tensor.shape))


def _permute_index(model: nn.Module, name: str, index: Ints, *, pointed: bool) -> None:
    module = _attach_index(model, name, index.size)
    order: torch.Tensor = getattr(module, INDEX)
    if pointed:  # what stood at a place stands elsewhere now
        order.copy_(torch.as_tensor(np.argsort(index), device=order.device)[order])
    else:
        order.copy_(order[torch.as_tensor(index, device=order.device)])
    if torch.equal(order, torch.arange(index.size, device=order.device)):
        _detach_index(module)


def _attach_index(model: nn.Module, name: str, size: int) -> nn.Module:
    """Give a module an index that changes nothing yet, unless it has one: for its output, or a linear layer's input.

    Parameters
    ----------
    model
        The model.
    name
        Name of the module.
    size
        Number of channels.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    ModelError
        If there is no such module, or its index has another size.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"the plan is for another model: it has no module {name!r}") from None
    order = getattr(module, INDEX, None)
    if order is None:
        anchor = next(iter(module.parameters()), next(iter(model.parameters()), torch.empty(0)))
        module.register_buffer(INDEX, torch.arange(size, device=anchor.device))
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(read_in_order, with_kwargs=True)
        else:
            module.register_forward_hook(put_in_order)
    elif order.shape != (size,):
        raise ModelError(f"the index of {name!r} has shape {tuple(order.shape)}, the plan says {size}")
    return module


def _detach_index(module: nn.Module) -> None:
    delattr(module, INDEX)
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if hook in (put_in_order, read_in_order)]:
            del hooks[key]


def put_in_order(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    """Forward hook: the output's channels in the order of the module's index.

    Parameters
    ----------
    module
        The module.
    args
        Its inputs, not used.
    output
        Its output.

    Returns
    -------
    torch.Tensor
        The output, last axis gathered.
    """
    order: torch.Tensor = getattr(module, INDEX)
    return output.index_select(-1, order)


def read_in_order(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook of a linear layer: its input's channels in the order of the module's index.

    Parameters
    ----------
    module
        The module.
    args, kwargs
        Its input.

    Returns
    -------
    tuple
        The input, last axis gathered, as it was given.
    """
    order: torch.Tensor = getattr(module, INDEX)
    if args:
        return (args[0].index_select(-1, order), *args[1:]), kwargs
    return args, {**kwargs, "input": kwargs["input"].index_select(-1, order)}
