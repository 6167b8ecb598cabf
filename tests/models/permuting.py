"""Permuting a model at random by its plan, and telling whether that changed it; shares no code with `models.verify`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from zoo_parts import Inputs, Net, call, doubled

from permsolve.models import Group, Plan


def random_perm(group: Group, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return a random permutation of a group's channels that keeps its blocks."""
    starts = np.cumsum((0, *group.blocks))
    return np.concatenate([start + rng.permutation(size) for start, size in zip(starts, group.blocks, strict=False)])


def assign_all(plan: Plan, seed: int = 0) -> None:
    """Give every group a random permutation."""
    rng = np.random.default_rng(seed)
    for group in plan.groups:
        plan.assign(group.name, random_perm(group, rng))


def outputs(model: nn.Module, inputs: Inputs, *, double: bool = True) -> list[torch.Tensor]:
    """Return all output tensors, in float64 unless told otherwise; the model is not changed.

    Tensors are replaced, not copied with the model: pruned modules hold results that cannot be copied.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    if double:
        tensors = {name: each.double() if each.is_floating_point() else each for name, each in tensors.items()}
        inputs = doubled(nn.Identity(), inputs)[1]
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    twin = Net(lambda _, *given, **named: torch.func.functional_call(model, tensors, given, named))
    return [tensor.double() for tensor in call(twin, kwargs or args)]


def error(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest entry of its tensor."""
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape
        finite = torch.isfinite(one)
        assert torch.equal(one[~finite], other[~finite])
        if finite.any():
            worst = max(worst, float((one - other)[finite].abs().max() / one[finite].abs().max().clamp(min=1e-30)))
    return worst


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of everything a model holds."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def unequal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Return the names whose tensors differ in any bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
