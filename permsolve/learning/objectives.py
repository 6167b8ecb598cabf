"""What is learned on one matrix: losses of relaxed and of hard permutations, by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch.nn.functional import one_hot

from permsolve.error_problem import ErrorProblem
from permsolve.learning.masks import in_groups, straight_through_mask, take, top_mask
from permsolve.learning.sites import Site
from permsolve.objectives import choices
from permsolve.patterns import NM
from permsolve.problem import Problem

Tensors = list[torch.Tensor]


class Objective(ABC):
    """A loss that is a sum over blocks: one tensor (k,) for each stack of a site."""

    @abstractmethod
    def values(self, hard: Sequence[torch.Tensor]) -> Tensors:
        """Return the losses of hard permutations.

        Parameters
        ----------
        hard
            int64 (k, b) for each stack.

        Returns
        -------
        list
            (k,) for each stack.
        """

    @abstractmethod
    def straight(self, soft: Sequence[torch.Tensor], hard: Sequence[torch.Tensor]) -> Tensors:
        """Return the losses of hard permutations, with gradients for the relaxed ones that they come from.

        Parameters
        ----------
        soft
            (k, b, b) for each stack.
        hard
            int64 (k, b) for each stack.

        Returns
        -------
        list
            (k,) for each stack.
        """

    @abstractmethod
    def relaxed(self, soft: Sequence[torch.Tensor]) -> Tensors:
        """Return the losses of relaxed permutations.

        Parameters
        ----------
        soft
            (k, b, b) for each stack.

        Returns
        -------
        list
            (k,) for each stack.
        """


class Retained(Objective):
    """Minus the retained saliency, in units of the mean entry.

    Parameters
    ----------
    problem
        The problem, plain n:m.
    site
        Its site.
    """

    def __init__(self, problem: Problem, site: Site) -> None:
        assert isinstance(problem.pattern, NM)
        self._n, self._m = problem.pattern.n, problem.pattern.m
        whole = torch.from_numpy(problem.packed)
        unit = float(problem.packed.mean(dtype="float64")) * problem.packed.shape[1] / problem.rows or 1.0
        self._scores = [whole[channels] / unit for channels in site.stacks]

    def values(self, hard: Sequence[torch.Tensor]) -> Tensors:
        """Return minus what is kept."""
        found = []
        for scores, order in zip(self._scores, hard, strict=True):
            permuted = take(scores, order)
            found.append(-(top_mask(permuted, self._n, self._m) * permuted).sum((1, 2)))
        return found

    def straight(self, soft: Sequence[torch.Tensor], hard: Sequence[torch.Tensor]) -> Tensors:
        """Return minus what is kept, the choice with the gradient of a softmax."""
        return [
            -(straight_through_mask(each, scores, order, self._n, self._m) * scores).sum((1, 2))
            for each, scores, order in zip(soft, self._scores, hard, strict=True)
        ]

    def relaxed(self, soft: Sequence[torch.Tensor]) -> Tensors:
        """Return minus the n largest of every m mixed channels."""
        found = []
        for each, scores in zip(soft, self._scores, strict=True):
            mixed = each @ scores
            found.append(-(top_mask(mixed.detach(), self._n, self._m) * mixed).sum((1, 2)))
        return found


class Errors(Objective):
    """The output error, in units of what pruning everything would cost, per entry.

    Weights and second moments are permuted together. What is pruned in a row and group is chosen anew for every
    permutation, and held fixed for the gradient, which is exact wherever the choice is unique.

    Parameters
    ----------
    problem
        The problem.
    site
        Its site.
    """

    def __init__(self, problem: ErrorProblem, site: Site) -> None:
        pattern = problem.pattern
        assert isinstance(pattern, NM)
        self._m = pattern.m
        self._segments = problem.segments
        self._pruned = torch.zeros(len(choices(pattern.n, pattern.m)), pattern.m, 1)
        self._pruned.scatter_(1, torch.tensor(choices(pattern.n, pattern.m))[..., None], 1.0)
        # float32 holds neither the squares of all weights nor all moments: each gets a unit of its own, in float64.
        weights, moments = torch.tensor(problem.columns), torch.tensor(problem.moments)
        largest = float(weights.abs().max()) or 1.0
        unit = problem.energy / (problem.rows * problem.cols) / largest / largest or 1.0
        self._weights = [(weights[channels] / largest).float() for channels in site.stacks]
        # (moments, k, b, b)
        self._moments = [(moments[:, each[:, :, None], each[:, None, :]] / unit).float() for each in site.stacks]

    def values(self, hard: Sequence[torch.Tensor]) -> Tensors:
        """Return the errors."""
        with torch.no_grad():
            return self.relaxed([one_hot(each, each.shape[1]).float() for each in hard])

    def straight(self, soft: Sequence[torch.Tensor], hard: Sequence[torch.Tensor]) -> Tensors:
        """Return the errors, with the gradients of the relaxed permutations."""
        exact = [one_hot(each, each.shape[1]).float() for each in hard]
        return self.relaxed([one + (other - other.detach()) for one, other in zip(exact, soft, strict=True)])

    def relaxed(self, soft: Sequence[torch.Tensor]) -> Tensors:
        """Return the errors of mixed weights by the moments of inputs that are mixed alike."""
        found = []
        for each, weights, moments in zip(soft, self._weights, self._moments, strict=True):
            mixed = in_groups(each @ weights, self._m)  # (k, groups, m, rows)
            slots = in_groups(each, self._m)
            total = each.new_zeros(len(each))
            for moment, first, last in zip(moments, self._segments, self._segments[1:], strict=False):
                within = in_groups(each @ moment, self._m) @ slots.mT  # (k, groups, m, m)
                rows = mixed[..., first:last]
                total = total + self._least(rows, within).sum((1, 2))
            found.append(total)
        return found

    def _least(self, rows: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
        """Return the error of every group and row, (k, groups, rows), where the least is pruned."""
        with torch.no_grad():
            errors = torch.stack([_error(rows * each, within) for each in self._pruned])
            chosen = self._pruned[errors.argmin(0), :, 0].movedim(-1, -2)
        return _error(rows * chosen, within)


def _error(dropped: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    return (dropped * (within @ dropped)).sum(-2)


def objective_of(problem: Problem, site: Site) -> Objective:
    """Return the objective of a problem.

    Parameters
    ----------
    problem
        The problem.
    site
        Its site.

    Returns
    -------
    Objective
        The objective.
    """
    return Errors(problem, site) if isinstance(problem, ErrorProblem) else Retained(problem, site)
