"""Large neighbourhood search: windows of groups, regrouped exactly under the LP's reduced costs.

The duals tell how far every group lies from the LP bound, so a window of eight groups has a few dozen candidates
instead of 36,000, and branch and bound regroups it in microseconds. Windows grow where nothing improves any more; then
random costs kick the partition and the search starts anew from there, the harder the longer nothing better was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.kernels.cover import make_tree
from permsolve.kernels.windows import Pool, improve, make_pool, make_work
from permsolve.partition.lp import SOLVED, Duals
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues
from permsolve.patterns import Permutation

Array = npt.NDArray[Any]

#: Groups in the pool.
POOL = 30_000
#: Groups of a window: at first, what is added where nothing improves, at most.
SMALLEST, STEP, LARGEST = 8, 4, 24
#: Windows of a batch at most; nodes after which it ends; windows without a change after which they grow.
BATCH, BATCH_NODES, PATIENCE = 50, 4000, 200
#: Nodes of a window's search, per group of the window.
NODES = 100
#: Most groups of the pool in one window's search.
CAPACITY = 2000
#: A kick: its windows, their groups and nodes, and its noise in units of the mean cost of a group of the incumbent.
KICK_WINDOWS, KICK_GROUPS, KICK_NODES, KICK_NOISE = 10, 10, 300, 1.5


def make_candidates(values: GroupValues, duals: Duals, count: int = POOL) -> Pool:
    """Collect and index the groups nearest to their duals.

    Parameters
    ----------
    values
        The values of all groups.
    duals
        Feasible duals.
    count
        About how many.

    Returns
    -------
    Pool
        The groups by rising cost.
    """
    found = values.best(duals.prices, count)
    return make_pool(found.groups, 0.0 - found.costs, values.quantised.cols)


class Chain:
    """One search: a partition, the best one seen, and the size of its windows.

    Parameters
    ----------
    quantised
        The saliency in integers.
    duals
        The duals that the pool's costs were made with.
    pool
        The candidates.
    perm
        Where to start, int64 (cols,).
    rng
        Draws the seeds of the batches.
    """

    def __init__(
        self, quantised: Quantised, duals: Duals, pool: Pool, perm: Permutation, rng: np.random.Generator
    ) -> None:
        self.quantised, self.duals, self.pool, self.rng = quantised, duals, pool, rng
        cols, m = quantised.cols, quantised.m
        self._work = make_work(cols, m, CAPACITY)
        self._tree = make_tree(CAPACITY, min(cols, LARGEST * m), m)
        self._where = np.empty(cols, dtype=np.int64)
        self._count = SMALLEST
        self._stalled = 0
        self.kicks = 0
        self.restart(perm)

    @property
    def perm(self) -> Permutation:
        """The best partition seen, int64 (cols,)."""
        return self._best.ravel().copy()

    @property
    def cost(self) -> float:
        """What the best partition lies below the LP bound."""
        return self._best_cost

    @property
    def solved(self) -> bool:
        """Whether the best partition reaches the LP bound, up to rounding."""
        return self._best_cost <= SOLVED * abs(self.duals.bound)

    def restart(self, perm: Permutation) -> None:
        """Go on from a partition.

        Parameters
        ----------
        perm
            The partition, int64 (cols,).
        """
        members = np.sort(perm.reshape(-1, self.quantised.m), axis=1)
        costs = self.duals.prices[members].sum(axis=1) - self.quantised.worth(members)
        self._best, self._best_costs, self._best_cost = members, costs, float(costs.sum())
        self._kicked_from = self._best_cost
        self._go_back()

    def _go_back(self) -> None:
        self._members, self._costs = self._best.copy(), self._best_costs.copy()
        self._where[self._members] = np.arange(len(self._members))[:, None]

    def step(self, batch: int = BATCH) -> int:
        """Search a batch of windows, or kick.

        Parameters
        ----------
        batch
            Number of windows.

        Returns
        -------
        int
            The nodes visited.
        """
        if self.solved:
            return 1
        nodes, done, changed = self._improve(self._count, 0.0, batch, NODES * self._count)
        cost = float(self._costs.sum())
        if cost < self._best_cost:
            self._best, self._best_costs, self._best_cost = self._members.copy(), self._costs.copy(), cost
        self._stalled = 0 if changed else self._stalled + done
        if self._stalled >= PATIENCE:
            self._stalled = 0
            if self._count < min(LARGEST, len(self._members)):
                self._count = min(self._count + STEP, LARGEST, len(self._members))
            else:
                nodes += self._kick()
        return nodes

    def _kick(self) -> int:
        self.kicks = 0 if self._best_cost < self._kicked_from else self.kicks + 1
        self._kicked_from = self._best_cost
        self._go_back()
        self._count = SMALLEST
        force = self.kicks % 10
        noise = KICK_NOISE * (1 + 0.2 * force) * self._best_cost / len(self._members)
        return self._improve(KICK_GROUPS, noise, KICK_WINDOWS + 5 * force, KICK_NODES)[0]

    def _improve(self, count: int, noise: float, windows: int, nodes: int) -> tuple[int, int, int]:
        seed = np.uint64(self.rng.integers(2**63))
        state = (self._members, self._costs, self._where)
        sizes = (min(count, LARGEST), noise, windows, nodes, BATCH_NODES)
        visited, done, changed = improve(self.pool, self._tree, *state, *sizes, seed, self._work)
        return int(visited), int(done), int(changed)
