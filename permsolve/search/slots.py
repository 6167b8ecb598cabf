"""The assignment neighbourhood: free one slot in each of many groups and refill all of them at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from permsolve.kernels.gain import gain_block
from permsolve.kernels.groups import State, make_state, refresh_all
from permsolve.problem import Problem
from permsolve.search.exchange import RELATIVE_TOLERANCE

Array = npt.NDArray[Any]


class SlotAssignment:
    """A permutation that is improved by reassigning one column of each of many groups.

    Steps on disjoint sets of groups may run in different threads.

    Parameters
    ----------
    problem
        The problem.
    order
        Permutation to start from.
    """

    def __init__(self, problem: Problem, order: npt.NDArray[np.int64]) -> None:
        self.n, self.m = problem.pattern.n, problem.pattern.m
        self.state = make_state(problem.packed, self.n)
        #: int64 (groups, m): the columns of each group.
        self.members = order.copy().reshape(-1, self.m)
        refresh_all(self.state, order, self.m, self.n)

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """The permutation, a view."""
        return self.members.reshape(-1)

    @property
    def mean_loss(self) -> float:
        """What a group loses on average when a column leaves it, in units of the packed saliency."""
        return float(self.state.losses.mean(dtype=np.float64))

    def least_lost(self, groups: Array) -> Array:
        """Return the slot of each group whose column it would miss least.

        Parameters
        ----------
        groups
            int64 (k,), numbers of groups.

        Returns
        -------
        numpy.ndarray
            int64 (k,), slots.
        """
        least: Array = self.state.losses[self.members[groups]].argmin(axis=1)
        return least

    def step(self, groups: Array, slots: Array, noise: Array | None = None) -> bool:
        """Free a slot in each group and assign the freed columns to the slots anew.

        Parameters
        ----------
        groups
            int64 (k,), distinct groups.
        slots
            int64 (k,), the slot freed in each.
        noise
            float64 (k, k), added to the gains, or None. With noise the assignment is taken whatever it is worth,
            without only if it is an improvement.

        Returns
        -------
        bool
            Whether anything changed.
        """
        columns = self.members[groups, slots]
        gain = np.empty((len(columns), len(columns)), dtype=np.float32)
        gain_block(self.state, columns, columns, gain)
        cost = -gain if noise is None else -(gain + noise)
        receiver, chosen = linear_sum_assignment(cost)
        moved = np.flatnonzero(receiver != chosen)
        if not moved.size:
            return False
        if noise is None:
            lost = self.state.losses[columns].sum(dtype=np.float64)
            if gain[receiver, chosen].sum(dtype=np.float64) <= lost * (1 + RELATIVE_TOLERANCE):
                return False
        self.members[groups[moved], slots[moved]] = columns[chosen[moved]]
        # Steps run side by side: each needs scratch space of its own.
        own = State(*self.state[:3], np.empty_like(self.state.scratch))
        refresh_all(own, self.members[groups[moved]].ravel(), self.m, self.n)
        return True
