"""Proof of optimality: reduced-cost fixing and branch and bound, in stages of growing budget.

With feasible duals u of sum B, a partition scores ``B - cost`` where every group costs ``sum of u over G - value(G)``,
at least 0. A partition better than ``B - d`` therefore consists of groups that cost less than d each: reduced-cost
fixing leaves a few thousand of them. Stage by stage, all partitions of total cost below a budget d are searched; where
there is none, ``B - d`` is a proved bound and d grows; the first that is found, and beaten by no other, is optimal. The
search needs no incumbent, and a good one only cuts the last stage short.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels.cover import DEPTH, Tree, climb, make_tree, plant
from permsolve.partition import neighbourhood
from permsolve.partition.lp import SOLVED, Duals
from permsolve.partition.master import Master
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues
from permsolve.run import Run

Array = npt.NDArray[Any]

#: Groups that the first stage looks at, per column.
FIRST_STAGE = 6
#: Most groups a stage may hold.
MOST_GROUPS = 1 << 20
#: Nodes of one search before it is dealt out to several, and how many these are.
ALONE, PARTS = 20_000, 16
#: Depth at which the nodes are dealt out.
SPLIT = 3
#: Nodes of neighbourhood search for every node of a stage.
POLISH = 2
#: A stage aims at this many times the nodes of the one before.
GROWTH = 3.0


class Pool(NamedTuple):
    """Groups that a partition of less than some cost may use, by rising cost."""

    #: int16 (count, m).
    groups: Array
    #: Integer-valued float64 (count,): what a group lies below the sum of its duals.
    costs: Array


def pool_below(values: GroupValues, duals: Duals, cost: float) -> Pool | None:
    """Collect the groups that cost less than an amount.

    Parameters
    ----------
    values
        The values of all groups.
    duals
        Feasible duals.
    cost
        The amount.

    Returns
    -------
    Pool or None
        None where there are more than `MOST_GROUPS`.
    """
    found = values.price(duals.prices, -cost, min(MOST_GROUPS, values.count))
    return None if found.number > MOST_GROUPS else Pool(found.groups, 0.0 - found.costs)


def prove(built: Master, run: Run) -> bool:
    """Search for an optimal partition and prove it, offering what is found and proved on the way.

    Large neighbourhood search runs between the stages, for twice as many nodes as the last stage took: the better the
    incumbent, the smaller the last budget, and most problems of 128 columns end without a proof.

    Parameters
    ----------
    built
        The values of all groups and feasible duals.
    run
        Takes the offers; one iteration is one node.

    Returns
    -------
    bool
        Whether the optimum is proved; False if a limit came first, or too many groups survived the fixing.
    """
    quantised, values, duals = built.quantised, built.values, built.duals
    incumbent = float(duals.bound - quantised.score(run.best))
    budget = min(_first_budget(values, duals), incumbent)
    chain = None
    nodes = 0
    while incumbent > SOLVED * abs(duals.bound):  # otherwise the LP bound is reached, and offered already
        pool = pool_below(values, duals, budget)
        if pool is None:
            return False
        before, (cover, cost, nodes) = nodes, _search(pool, quantised, budget, run)
        if cover is not None:
            run.offer(pool.groups[cover].ravel().astype(np.int64))
        if nodes < 0:
            return False
        if cover is not None or budget >= incumbent:
            run.offer_bound(quantised.bound(duals.bound - int(cost)))
            return True
        run.offer_bound(quantised.bound(duals.bound - int(budget)))
        if nodes < ALONE:  # the stages are shorter than the neighbourhood search would be
            budget = _next_budget(budget, incumbent, before, nodes)
            continue
        if chain is None:
            candidates = neighbourhood.make_candidates(values, duals)
            chain = neighbourhood.Chain(quantised, duals, candidates, run.best, run.rng)
        if not _polish(chain, nodes, run):
            return False
        incumbent = min(incumbent, float(duals.bound - quantised.score(run.best)))
        budget = _next_budget(budget, incumbent, before, nodes)
    return True


def _polish(chain: neighbourhood.Chain, nodes: int, run: Run) -> bool:
    """Search the neighbourhood for some nodes; return whether to go on."""
    visited = 0
    while visited < POLISH * nodes:
        done = chain.step()
        visited += done
        run.offer(chain.perm)
        if not run.proceed(done):
            return False
    return True


def _first_budget(values: GroupValues, duals: Duals) -> float:
    """Return the cost below which there are a few groups per column."""
    found = values.best(duals.prices, FIRST_STAGE * values.quantised.cols)
    count = min(FIRST_STAGE * values.quantised.cols, len(found.costs))
    return max(float(-found.costs[count - 1]), 1.0)


def _next_budget(budget: float, incumbent: float, before: int, nodes: int) -> float:
    """Return the budget at which the search should take `GROWTH` times as long, at most the incumbent's cost."""
    step = 1.25
    if before and nodes > 1.1 * before and nodes > 1000:
        # The last step multiplied the budget by 1.25 or more; nodes grow exponentially with the budget.
        step = 1.0 + 0.25 * math.log(GROWTH) / max(math.log(nodes / before), 0.1)
    wanted = math.ceil(budget * min(max(step, 1.08), 1.6))
    # Where little is left, one stage less is worth more than a cautious step.
    return incumbent if wanted > 0.93 * incumbent else float(wanted)


def _search(pool: Pool, quantised: Quantised, budget: float, run: Run) -> tuple[Array | None, float, int]:
    """Find the cheapest partition below a budget: its groups or None, its cost, and the nodes; -1 where cut short."""
    cols, m = quantised.cols, quantised.m
    slice_size = int(np.clip(6_000_000 // (len(pool.costs) + 100), 20, 4000))
    tree = _plant(pool, quantised, budget)
    nodes = 0
    while tree.at[DEPTH] >= 0 and nodes < ALONE:
        done = climb(tree, pool.groups, pool.costs, cols, m, slice_size, SPLIT, 0, 1, budget)
        nodes += done
        if not run.proceed(done):
            return _cover(tree, cols // m), tree.best[0], -1
    if tree.at[DEPTH] < 0:
        return _cover(tree, cols // m), tree.best[0], nodes
    return _search_together(pool, quantised, budget, run, slice_size, (tree, nodes))


def _plant(pool: Pool, quantised: Quantised, budget: float) -> Tree:
    tree = make_tree(len(pool.costs), quantised.cols, quantised.m)
    tree.twin[:] = quantised.twins
    plant(tree, len(pool.costs), budget)
    return tree


def _search_together(
    pool: Pool, quantised: Quantised, budget: float, run: Run, slice_size: int, alone: tuple[Tree, int]
) -> tuple[Array | None, float, int]:
    """Search in parts, side by side; they tell each other of better partitions between slices only.

    So the outcome does not depend on the number of threads.
    """
    tree, nodes = alone
    cols, m = quantised.cols, quantised.m
    best, cover = tree.best[0], _cover(tree, cols // m)
    trees = [_plant(pool, quantised, budget) for _ in range(PARTS)]
    for each in trees:
        each.best[0] = best
    active = list(range(PARTS))

    def work(part: int) -> int:
        return int(climb(trees[part], pool.groups, pool.costs, cols, m, slice_size, SPLIT, part, PARTS, budget))

    while active:
        done = sum(run.map(work, active))
        nodes += done
        for part in active:
            if trees[part].best[0] < best:
                best, cover = trees[part].best[0], _cover(trees[part], cols // m)
                run.offer(pool.groups[cover].ravel().astype(np.int64))
        for each in trees:
            each.best[0] = min(each.best[0], best)
        active = [part for part in active if trees[part].at[DEPTH] >= 0]
        if not run.proceed(done):
            return cover, best, nodes if not active else -1
    return cover, best, nodes


def _cover(tree: Tree, groups: int) -> Array | None:
    return tree.cover[:groups].copy() if tree.cover[0] >= 0 else None
