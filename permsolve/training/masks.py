"""Masks that training moves: computed on the weights' device, held by a torch parametrization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

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
        done = []
        try:
            for owner in self.weight.owners:
                register_parametrization(owner.module, owner.attribute, self.step)
                done.append(owner)
        except BaseException:
            for owner in done:
                remove_parametrizations(owner.module, owner.attribute, leave_parametrized=False)
            raise

    def release(self) -> None:
        """Take the parametrization off and leave the dense weight."""
        for owner in self.weight.owners:
            remove_parametrizations(owner.module, owner.attribute, leave_parametrized=False)
