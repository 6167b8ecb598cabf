"""The values of all groups of m columns, stored: what makes pricing a matter of milliseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.partition.quantise import Quantised

Array = npt.NDArray[Any]

#: Most groups whose values are stored: 256 MiB of them.
MOST_STORED = 1 << 25

#: How work is spread over threads: `Run.map`, or a plain loop.
Map = Callable[[Callable[[int], Any], Any], list[Any]]


class Found(NamedTuple):
    """What a pricing pass found."""

    #: The largest reduced cost of all groups.
    largest: float
    #: int16 (count, m): groups whose reduced cost exceeds the threshold, largest first.
    groups: Array
    #: float64 (count,): their reduced costs.
    costs: Array
    #: How many there are, more than were returned where the capacity did not do.
    number: int


def storable(cols: int, m: int) -> bool:
    """Return whether the values of all groups can be stored.

    Parameters
    ----------
    cols
        Number of columns.
    m
        Group size.

    Returns
    -------
    bool
        Whether there are at most `MOST_STORED` groups.
    """
    return cols < 2**15 and math.comb(cols, m) <= MOST_STORED


class GroupValues:
    """The value of every group, in lexicographic order of its sorted members.

    Parameters
    ----------
    quantised
        The saliency in integers.
    spread
        Maps a function over items, on threads where there are several.
    deadline
        When to give up, on the clock of `time.perf_counter`; `complete` is then false and nothing else is of use.
    """

    def __init__(self, quantised: Quantised, spread: Map, deadline: float = np.inf) -> None:
        self.quantised = quantised
        self.spread = spread
        cols, m = quantised.cols, quantised.m
        self.firsts = range(cols - m + 1)
        self.values = [np.empty(math.comb(cols - 1 - first, m - 1)) for first in self.firsts]
        self.count = math.comb(cols, m)

        def work(first: int) -> bool:
            if time.perf_counter() >= deadline:
                return False
            quantised.values_from(first, self.values[first])
            return True

        #: Whether all values are there.
        self.complete = all(spread(work, self.firsts))

    def price(self, duals: Array, threshold: float = np.inf, capacity: int = 20_000) -> Found:
        """Find the groups whose reduced cost exceeds a threshold.

        Parameters
        ----------
        duals
            Integer-valued float64 (cols,).
        threshold
            In units of the quantised saliency.
        capacity
            Most groups to return; of those with one smallest member the surplus is dropped where there are more.

        Returns
        -------
        Found
            Exact reduced costs.
        """
        from permsolve.kernels.enumerate import price_from

        m = self.quantised.m

        def work(first: int) -> Found:
            size = min(capacity, len(self.values[first])) if threshold < np.inf else 0
            groups, costs = np.empty((size, m), dtype=np.int16), np.empty(size)
            largest, count = price_from(self.values[first], duals, first, m, threshold, groups, costs, 0)
            kept = min(count, size)
            return Found(largest, groups[:kept].copy(), costs[:kept].copy(), count)

        parts = self.spread(work, self.firsts)
        groups, costs = np.concatenate([p.groups for p in parts]), np.concatenate([p.costs for p in parts])
        order = np.argsort(-costs, kind="stable")[:capacity]
        return Found(max(p.largest for p in parts), groups[order], costs[order], sum(p.number for p in parts))

    def best(self, duals: Array, count: int) -> Found:
        """Find about the ``count`` groups of largest reduced cost.

        Parameters
        ----------
        duals
            Integer-valued float64 (cols,).
        count
            How many; fewer where not so many exist.

        Returns
        -------
        Found
            At least ``min(count, all)`` groups, unless more than four times as many tie at the threshold.
        """
        if self.count <= 4 * count:
            return self.price(duals, -np.inf, self.count)
        largest = self.price(duals).largest
        # The threshold is read off a sample; reduced costs are spread like a bell, so it is good enough.
        sample = self._sample(duals)
        share = count / self.count
        threshold = np.partition(sample, -max(int(share * len(sample)), 1))[-max(int(share * len(sample)), 1)]
        width = max(largest - threshold, abs(largest) * 1e-9, 1.0)
        for step in range(40):
            found = self.price(duals, largest - width, 4 * count)
            if found.number >= count or step == 39:
                return found
            width *= 1.3
        raise AssertionError("unreachable")

    def _sample(self, duals: Array) -> Array:
        """Return the reduced costs of a fixed random sample of groups."""
        rng = np.random.default_rng(0)
        cols, m = self.quantised.cols, self.quantised.m
        draws = np.sort(rng.integers(cols, size=(20_000, m)), axis=1)
        draws = draws[(np.diff(draws, axis=1) > 0).all(axis=1)]
        return np.asarray(self.quantised.worth(draws) - duals[draws].sum(axis=1))

    def fit(self) -> Array:
        """Return the duals that fit the values of all groups best, by least squares.

        Returns
        -------
        numpy.ndarray
            float64 (cols,), integer-valued.
        """
        from permsolve.kernels.enumerate import sums_from

        cols, m = self.quantised.cols, self.quantised.m

        def work(first: int) -> Any:
            sums = np.zeros(cols)
            sums_from(self.values[first], first, m, sums)
            return sums

        sums = np.sum(self.spread(work, self.firsts), axis=0)
        # The normal equations: a column is in C(cols-1, m-1) groups, a pair of columns in C(cols-2, m-2).
        own, shared = math.comb(cols - 1, m - 1), math.comb(cols - 2, m - 2)
        together = sums.sum() / (own + shared * (cols - 1))  # sum of all duals
        return np.asarray(np.floor((sums - shared * together) / (own - shared)))
