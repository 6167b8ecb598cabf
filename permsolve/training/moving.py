"""What moves along when a plan permutes a model in the midst of its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from permsolve.errors import InputError
from permsolve.models.grouping import Movement
from permsolve.models.owner import memory
from permsolve.models.plan import Plan
from permsolve.models.tensors import lookup, reorder_
from permsolve.patterns import Permutation

Move = tuple[Movement, Permutation]


def moves_of(plan: Plan, model: nn.Module) -> dict[object, list[Move]]:
    """Return how a plan moves the entries of a model's tensors.

    Parameters
    ----------
    plan
        The plan.
    model
        The model, its weights not parametrized.

    Returns
    -------
    dict
        For the memory of every tensor (`permsolve.models.owner.memory`) the moves, in order.

    Raises
    ------
    ModelError
        If the plan is for another model.
    """
    found: dict[object, list[Move]] = {}
    for group in plan.groups:
        for move in group.movements if group.perm is not None else ():
            if move.role not in ("index", "pointed"):
                assert group.perm is not None
                found.setdefault(memory(lookup(model, move.name, move.view)), []).append((move, group.perm))
    return found


def moved(tensor: torch.Tensor, moves: Sequence[Move]) -> torch.Tensor:
    """Return a tensor as it is after some moves.

    Parameters
    ----------
    tensor
        A tensor that is laid out like the parameter.
    moves
        The parameter's moves.

    Returns
    -------
    torch.Tensor
        A copy.
    """
    copy = tensor.clone()
    for move, perm in moves:
        reorder_(copy, move, perm)
    return copy


def states_of(optimizer: Optimizer, moves: dict[object, list[Move]]) -> list[tuple[torch.Tensor, list[Move]]]:
    """Return what an optimiser remembers of parameters that are going to move.

    Parameters
    ----------
    optimizer
        The optimiser.
    moves
        What moves.

    Returns
    -------
    list
        Tensors of parameters' shapes (moments, say) and their moves.

    Raises
    ------
    InputError
        If it remembers something of another shape, or a history, which nobody knows how to move.
    """
    found = []
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if moves and isinstance(value, (list, tuple)) and any(isinstance(each, torch.Tensor) for each in value):
                raise InputError(
                    f"{type(optimizer).__name__} keeps a history, {name!r}, which cannot be permuted; permute before "
                    f"the first step"
                )
            steps = moves.get(memory(parameter))
            if steps is None or not isinstance(value, torch.Tensor) or value.numel() == 1:
                continue
            if value.shape != parameter.shape:
                raise InputError(
                    f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}, which cannot be permuted; permute before the first step"
                )
            found.append((value, steps))
    return found
