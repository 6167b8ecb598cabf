"""Masks that training moves: computed on the weights' device, held by a torch parametrization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from permsolve.errors import InputError
from permsolve.models.prunable import PrunableWeight
from permsolve.models.pruning import NMMask
from permsolve.patterns import NM

#: Up to this m all pairs of a group are compared; sorting is quicker beyond.
PAIRS = 8


def n_largest(saliency: torch.Tensor, nm: NM, axis: int) -> torch.Tensor:
    """Return which entries are among the n largest of every m consecutive ones.

    Parameters
    ----------
    saliency
        Without NaN.
    nm
        The pattern; m divides the axis.
    axis
        The axis of input channels.

    Returns
    -------
    torch.Tensor
        bool, of the same shape. Of equal entries the first ones are taken.
    """
    shape = saliency.shape
    groups = saliency.reshape(*shape[:axis], shape[axis] // nm.m, nm.m, *shape[axis + 1 :])
    if nm.m > PAIRS:
        order = groups.argsort(dim=axis + 1, descending=True, stable=True)
        kept = torch.zeros_like(groups, dtype=torch.bool)
        return kept.scatter_(axis + 1, order.narrow(axis + 1, 0, nm.n), True).reshape(shape)
    members = groups.unbind(axis + 1)
    losses = [torch.zeros_like(member, dtype=torch.int8) for member in members]
    for j in range(1, nm.m):
        for i in range(j):
            wins = members[i] >= members[j]
            losses[j] += wins
            losses[i] += ~wins
    return torch.stack([lost < nm.n for lost in losses], dim=axis + 1).reshape(shape)


def is_sparse(mask: torch.Tensor, nm: NM, axis: int) -> bool:
    """Return whether a mask keeps at most n of every m.

    Parameters
    ----------
    mask
        bool.
    nm, axis
        As in `n_largest`.

    Returns
    -------
    bool
        True if so.
    """
    shape = mask.shape
    groups = mask.reshape(*shape[:axis], shape[axis] // nm.m, nm.m, *shape[axis + 1 :])
    return bool((groups.sum(dim=axis + 1) <= nm.n).all())


class _Straight(torch.autograd.Function):
    """The masked weight, with its gradient passed whole to the weight."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
        return _masked(weight, mask, beta)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


def _masked(weight: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    return torch.where(mask, weight, weight * beta if beta else 0)


class TrainingMask(NMMask):
    """A parametrization that multiplies pruned weights by beta.

    Parameters
    ----------
    mask
        bool, of the weight's shape: which entries are kept.
    nm
        The pattern.
    """

    #: One in dense steps: then the weight is used as it is.
    beta: float = 1.0
    #: Whether the gradient is passed whole.
    straight: bool = False

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight, with pruned entries multiplied by beta."""
        if self.beta == 1.0:
            return weight
        if self.straight:
            masked: torch.Tensor = _Straight.apply(weight, self.mask, self.beta)  # type: ignore[no-untyped-call]
            return masked
        return _masked(weight, self.mask, self.beta)


@dataclass(frozen=True, eq=False)
class Held:
    """A weight that a training holds, wherever it is read.

    Parameters
    ----------
    weight
        The weight.
    step
        The parametrization.
    """

    weight: PrunableWeight
    step: TrainingMask
    _orders: list[list[str]] = field(default_factory=list, repr=False)

    @property
    def dense(self) -> torch.Tensor:
        """The dense weight: the parameter that the optimiser moves."""
        stored: torch.Tensor = self.weight.owners[0].stored()
        return stored

    def refresh(self, nm: NM) -> None:
        """Compute the mask anew from the dense weight.

        Parameters
        ----------
        nm
            The pattern.
        """
        self.step.mask.copy_(n_largest(self.dense.detach().abs(), nm, self.weight.axis))
        self.step.nm = nm

    def hold(self) -> None:
        """Put the parametrization on the weight, everywhere; if that fails, nowhere."""
        try:
            for owner in self.weight.owners:
                order = list(owner.module._parameters)
                register_parametrization(owner.module, owner.attribute, self.step)
                self._orders.append(order)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Take the parametrization off and leave the dense weight, in its old place among the module's parameters.

        Optimisers load their state by the order of parameters, and averages of models walk along it.
        """
        for owner, order in zip(self.weight.owners[: len(self._orders)][::-1], self._orders[::-1], strict=True):
            remove_parametrizations(owner.module, owner.attribute, leave_parametrized=False)
            kept = owner.module._parameters
            for name in order:
                if name in kept:
                    kept[name] = kept.pop(name)
        self._orders.clear()


def check_holdable(weight: PrunableWeight, stages: Sequence[NM]) -> None:
    """Check that a weight can be held, and divides into the groups of all stages.

    Parameters
    ----------
    weight
        The weight.
    stages
        The patterns that its masks go through.

    Raises
    ------
    InputError
        If not.
    """
    if weight.parameter.is_meta:
        raise InputError(f"{weight.path} is on the meta device, without values; load the weights first")
    if not weight.parameter.is_floating_point():
        raise InputError(
            f"{weight.path} is of dtype {weight.parameter.dtype}, which is not trained; leave it out by layers="
        )
    owner = weight.owners[0]
    steps = owner.parametrizations
    if any(isinstance(step, TrainingMask) for step in steps or ()):
        raise InputError(
            f"{weight.path} is held by a training already; a model follows one recipe at a time (SR-STE cannot be "
            f"combined with a decay): finish() that one first"
        )
    if steps is not None or owner.mask is not None:
        raise InputError(f"{weight.path} is held by a mask or parametrization already: make it final, then attach")
    for stage in stages:
        if weight.cols % stage.m:
            raise InputError(
                f"{weight.path} has {weight.cols} input channels, which do not divide into the groups of {stage} that "
                f"the recipe goes through; use stages='stepwise', or leave it out by layers="
            )
