"""The assignment neighbourhood: free one slot in each of many groups and refill all of them at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from permsolve.kernels.gain import gain_block
from permsolve.kernels.groups import make_state, refresh_all
from permsolve.problem import Problem
from permsolve.search.exchange import RELATIVE_TOLERANCE

Array = npt.NDArray[Any]


class SlotAssignment:
    """A permutation that is improved by reassigning one column of each of many groups.

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

    def step(self, groups: Array, slots: Array) -> bool:
        """Free a slot in each group and assign the freed columns to the slots anew.

        Parameters
        ----------
        groups
            int64 (k,), distinct groups.
        slots
            int64 (k,), the slot freed in each.

        Returns
        -------
        bool
            Whether anything changed; only improvements are taken.
        """
        columns = self.members[groups, slots]
        gain = np.empty((len(columns), len(columns)), dtype=np.float32)
        gain_block(self.state, columns, columns, gain)
        receiver, chosen = linear_sum_assignment(-gain)
        moved = np.flatnonzero(receiver != chosen)
        if not moved.size:
            return False
        lost = self.state.losses[columns].sum(dtype=np.float64)
        if gain[receiver, chosen].sum(dtype=np.float64) <= lost * (1 + RELATIVE_TOLERANCE):
            return False
        self.members[groups[moved], slots[moved]] = columns[chosen[moved]]
        refresh_all(self.state, self.members[groups[moved]].ravel(), self.m, self.n)
        return True
