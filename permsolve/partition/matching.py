"""Keep 1 of 2: a perfect matching of maximum weight is an optimal permutation (Edmonds 1965)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.objectives import OutputError
from permsolve.partition.master import Master
from permsolve.partition.values import Found
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Status

Array = npt.NDArray[Any]

#: Pairs per column that the first matching chooses from.
FIRST_PAIRS = 20


def solve(problem: Problem, run: Run) -> Status:
    """Offer an optimal matching of the columns and the bound that proves it.

    The matching is computed among the pairs of best reduced cost. A pair that lies further below its duals than the
    whole matching does is in no better one, so the matching is optimal if all nearer pairs took part; otherwise it is
    computed again among exactly those.

    Parameters
    ----------
    problem
        A problem with m = 2, without blocks, whose pairs can be stored.
    run
        Takes the offers; one iteration is the LP, or one matching.

    Returns
    -------
    Status
        OPTIMAL, or STOPPED where the time ran out.
    """
    built = Master.build(problem, run)
    if built is None or not run.proceed(1):
        return Status.STOPPED
    values, duals = built.values, built.duals
    pairs = values.best(duals.prices, FIRST_PAIRS * problem.cols)
    reach = np.inf if len(pairs.groups) == values.count else -float(pairs.costs[-1])
    while True:
        matched = _match(pairs, problem.cols)
        cost = np.inf if matched is None else float(duals.bound - built.quantised.score(matched))
        if matched is not None:
            run.offer(matched)
        if cost <= reach:
            run.offer_bound(built.quantised.bound(int(duals.bound - cost)))
            run.proceed(1)
            return Status.OPTIMAL
        if not run.proceed(1):
            return Status.STOPPED
        pairs = values.price(duals.prices, -cost - 1.0, values.count)
        reach = cost


def warm_up(objective: str) -> None:
    """Compile what a solve uses.

    Parameters
    ----------
    objective
        That of the problem about to be solved.
    """
    saliency = "magnitude" if objective == "retained" else OutputError(np.eye(18))
    problem = Problem.of(np.random.RandomState(0).rand(4, 18), (1, 2), saliency=saliency)
    run = Run(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    solve(problem, run)


def _match(pairs: Found, cols: int) -> Array | None:
    """Return a perfect matching of maximum weight among some pairs, int64 (cols,); None where there is none."""
    import rustworkx

    weights = (pairs.costs - pairs.costs.min()).astype(np.int64)  # integers: the matching is exact
    graph = rustworkx.PyGraph(multigraph=False)
    graph.add_nodes_from(range(cols))
    ends = pairs.groups.astype(np.int64)
    graph.add_edges_from(list(zip(ends[:, 0].tolist(), ends[:, 1].tolist(), weights.tolist(), strict=True)))
    matching = rustworkx.max_weight_matching(graph, max_cardinality=True, weight_fn=int)
    matched = np.array(sorted((min(pair), max(pair)) for pair in matching), dtype=np.int64).ravel()
    return matched if len(matched) == cols else None
