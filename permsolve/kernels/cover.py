"""Branch and bound for exact covers of least cost: disjoint groups of m columns that cover all columns.

Costs are what a group lies below its duals (minus its reduced cost), >= 0. Depth first: the column with the fewest
groups left is covered next, its cheapest group first. The bound of a node spreads, for every uncovered column, the cost
of its cheapest group evenly over the m columns of a group: a feasible dual solution that is recomputed from the groups
left, grows as they become fewer, and drops every group whose cost does not fit under it. Costs are integer-valued
float64 in proofs: all sums are then exact, and everything is compared times m so that nothing is divided.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled

Array = npt.NDArray[Any]

#: Where the scalars of `Tree.at` are.
DEPTH, ENTERING, TICKET = 0, 1, 2


class Tree(NamedTuple):
    """The state of a depth-first search, so that it can be interrupted after any number of nodes."""

    #: int32 (depths, groups): the groups left at each depth, by rising cost.
    left: Array
    #: int64 (depths,): how many.
    size: Array
    #: int32 (depths, groups): the groups that may cover the column chosen at each depth.
    options: Array
    #: int64 (depths,): how many.
    offered: Array
    #: int64 (depths,): how many of them were tried.
    tried: Array
    #: float64 (depths,): cost of the groups taken so far.
    spent: Array
    #: bool (depths, cols): columns covered so far.
    covered: Array
    #: int32 (depths,): the groups taken.
    taken: Array
    #: float64 (cols,): work space, cost of the cheapest group of a column.
    low: Array
    #: int64 (cols,): work space, number of groups of a column.
    degree: Array
    #: int64 (3,): depth, whether a node is being entered, running number of the nodes at the split.
    at: Array
    #: float64 (1,): cost to beat.
    best: Array
    #: int32 (depths,): the best cover found; -1 where there is none.
    cover: Array
    #: int16 (cols,): the next lower of the columns identical to a column, -1 where there is none.
    twin: Array


def make_tree(groups: int, cols: int, m: int) -> Tree:
    """Allocate the state of a search.

    Parameters
    ----------
    groups
        Most groups there will be.
    cols
        Number of columns.
    m
        Group size.

    Returns
    -------
    Tree
        To be set up by `plant`.
    """
    depths = cols // m + 1
    return Tree(
        np.empty((depths, groups), dtype=np.int32),
        np.zeros(depths, dtype=np.int64),
        np.empty((depths, groups), dtype=np.int32),
        np.zeros(depths, dtype=np.int64),
        np.zeros(depths, dtype=np.int64),
        np.zeros(depths),
        np.zeros((depths, cols), dtype=np.bool_),
        np.zeros(depths, dtype=np.int32),
        np.empty(cols),
        np.empty(cols, dtype=np.int64),
        np.zeros(3, dtype=np.int64),
        np.zeros(1),
        np.full(depths, -1, dtype=np.int32),
        np.full(cols, -1, dtype=np.int16),
    )


@compiled
def plant(tree, groups, budget):
    """Set a search up at its root.

    Parameters
    ----------
    tree
        A `Tree`.
    groups
        Number of groups, numbered by rising cost.
    budget
        Only covers that cost less are looked for.
    """
    for k in range(groups):
        tree.left[0, k] = k
    tree.size[0] = groups
    tree.spent[0] = 0.0
    tree.covered[0, :] = False
    tree.at[DEPTH] = 0
    tree.at[ENTERING] = 1
    tree.at[TICKET] = 0
    tree.best[0] = budget
    tree.cover[:] = -1


@compiled
def _tighten(tree, groups, cost, depth, room, m, cols):
    """Bound a node and drop groups that do not fit; return whether it lives on."""
    left = tree.left[depth]
    size = tree.size[depth]
    covered = tree.covered[depth]
    low, degree = tree.low, tree.degree
    for i in range(cols):
        low[i] = np.inf
        degree[i] = 0
    for q in range(size):
        k = left[q]
        c = cost[k]
        for x in range(m):
            i = groups[k, x]
            degree[i] += 1
            if c < low[i]:
                low[i] = c
    bound = 0.0  # times m
    for i in range(cols):
        if not covered[i]:
            if degree[i] == 0:
                return False
            bound += low[i]
    if bound >= room * m:
        return False
    kept = 0
    for q in range(size):
        k = left[q]
        without = bound
        for x in range(m):
            without -= low[groups[k, x]]
        if cost[k] * m + without < room * m:
            left[kept] = k
            kept += 1
        else:
            for x in range(m):
                degree[groups[k, x]] -= 1
    tree.size[depth] = kept
    return True


@compiled
def _takes_lowest(tree, groups, k, depth, m):
    """Return whether a group takes the lowest uncovered of identical columns: the others give the same partitions."""
    for x in range(m):
        lower = tree.twin[groups[k, x]]
        if lower >= 0 and not tree.covered[depth, lower]:
            inside = False
            for y in range(m):
                if groups[k, y] == lower:
                    inside = True
            if not inside:
                return False
    return True


@compiled
def _branch(tree, groups, depth, m, cols):
    """List the groups of the column with the fewest; return whether there are any."""
    covered, degree = tree.covered[depth], tree.degree
    column = -1
    fewest = np.iinfo(np.int64).max
    for i in range(cols):
        if not covered[i] and degree[i] < fewest:
            fewest = degree[i]
            column = i
    count = 0
    left = tree.left[depth]
    for q in range(tree.size[depth]):
        k = left[q]
        for x in range(m):
            if groups[k, x] == column:
                if _takes_lowest(tree, groups, k, depth, m):
                    tree.options[depth, count] = k
                    count += 1
                break
    tree.offered[depth] = count
    tree.tried[depth] = 0
    return count > 0


@compiled
def _take(tree, groups, cost, k, depth, m, cols):
    """Take a group: set the next depth up with the groups disjoint from it."""
    covered = tree.covered[depth + 1]
    for i in range(cols):
        covered[i] = tree.covered[depth, i]
    for x in range(m):
        covered[groups[k, x]] = True
    spent = tree.spent[depth] + cost[k]
    room = tree.best[0] - spent
    left, after = tree.left[depth], tree.left[depth + 1]
    size = 0
    for q in range(tree.size[depth]):
        other = left[q]
        if cost[other] >= room:
            break  # they are in order of cost
        free = True
        for x in range(m):
            if covered[groups[other, x]]:
                free = False
        if free:
            after[size] = other
            size += 1
    tree.size[depth + 1] = size
    tree.spent[depth + 1] = spent


@compiled
def climb(tree, groups, cost, cols, m, limit, split, part, parts, ceiling):
    """Search on until done or until a number of nodes is spent.

    Parameters
    ----------
    tree
        A `Tree`; goes on from where it is.
    groups
        Integer (groups, m), members of each group, by rising cost.
    cost
        float64 (groups,), >= 0.
    cols
        Number of columns.
    m
        Group size.
    limit
        Most nodes to visit.
    split
        Depth at which the nodes are dealt out to several searches.
    part, parts
        This search takes every ``parts``-th node of that depth, starting from ``part``.
    ceiling
        Budget of all those searches: above the split nothing else prunes, so that they see the same nodes.

    Returns
    -------
    int
        Nodes visited; the search is done where ``tree.at[DEPTH] < 0``.
    """
    nodes = 0
    full = cols // m
    while tree.at[DEPTH] >= 0:
        depth = tree.at[DEPTH]
        if tree.at[ENTERING] == 1:
            if nodes >= limit:
                return nodes
            nodes += 1
            mine = True
            if parts > 1 and depth == split:
                mine = tree.at[TICKET] % parts == part
                tree.at[TICKET] += 1
            goal = ceiling if parts > 1 and depth < split else tree.best[0]
            alive = mine and _tighten(tree, groups, cost, depth, goal - tree.spent[depth], m, cols)
            if not (alive and _branch(tree, groups, depth, m, cols)):
                tree.at[DEPTH] = depth - 1
                tree.at[ENTERING] = 0
                continue
            tree.at[ENTERING] = 0
        if tree.tried[depth] >= tree.offered[depth]:
            tree.at[DEPTH] = depth - 1
            continue
        k = tree.options[depth, tree.tried[depth]]
        tree.tried[depth] += 1
        goal = ceiling if parts > 1 and depth < split else tree.best[0]
        if tree.spent[depth] + cost[k] >= goal:
            tree.at[DEPTH] = depth - 1  # the other options cost more
            continue
        tree.taken[depth] = k
        if depth == full - 1:
            if tree.spent[depth] + cost[k] < tree.best[0]:
                tree.best[0] = tree.spent[depth] + cost[k]
                tree.cover[:full] = tree.taken[:full]
            continue
        if parts > 1 and depth < split:
            best = tree.best[0]
            tree.best[0] = ceiling
            _take(tree, groups, cost, k, depth, m, cols)
            tree.best[0] = best
        else:
            _take(tree, groups, cost, k, depth, m, cols)
        tree.at[DEPTH] = depth + 1
        tree.at[ENTERING] = 1
    return nodes
