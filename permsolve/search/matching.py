"""Pair re-matching: split groups into halves and match the halves anew, optimally."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from permsolve.kernels.groups import ROW_BLOCK
from permsolve.kernels.ils import union_values
from permsolve.problem import Problem

#: Most groups in one matching: 96 halves are matched in about 3 ms.
MOST_GROUPS = 48
#: Modelled nanoseconds that the values of all unions may take: with many rows, fewer groups are matched.
UNIONS = 1e7
#: Matching takes whole numbers: values are rounded to this share of the largest.
_UNITS = 1e9


def rematch(problem: Problem, order: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Split some groups into halves at random and match the halves so that their unions keep the most.

    The value of every union is exact, so for the split drawn no pairing of the halves is better than the one found (up
    to rounding to whole numbers); for m = 2 that is the optimum over the columns concerned.

    Parameters
    ----------
    problem
        The problem.
    order
        int64 (cols,), columns in groups of m.
    rng
        Draws the groups and the split.

    Returns
    -------
    numpy.ndarray
        An order that is not worse; ``order`` itself where nothing improves or m is odd.
    """
    n, m = problem.pattern.n, problem.pattern.m
    if m % 2:
        return order
    import rustworkx

    groups = rng.permutation(problem.groups)[: _most_groups(problem)]
    halves = rng.permuted(order.reshape(-1, m)[groups], axis=1).reshape(-1, m // 2)
    count = len(halves)
    values = np.zeros((count, count))
    scratch = np.empty((n + 1, ROW_BLOCK), dtype=np.float32)
    union_values(problem.packed, halves, n, scratch, values)
    if values.max() == 0.0:
        return order
    whole = np.rint(values * (_UNITS / values.max())).astype(np.int64)
    rows, cols = np.triu_indices(count, 1)
    graph = rustworkx.PyGraph(multigraph=False)
    graph.add_nodes_from(range(count))
    graph.add_edges_from(list(zip(rows.tolist(), cols.tolist(), whole[rows, cols].tolist(), strict=True)))
    matching = rustworkx.max_weight_matching(graph, max_cardinality=True, weight_fn=int)
    pairs = np.array(sorted((min(a, b), max(a, b)) for a, b in matching))
    now = np.arange(count).reshape(-1, 2)
    gained = values[pairs[:, 0], pairs[:, 1]].sum() - values[now[:, 0], now[:, 1]].sum()
    if gained <= 1e-7 * values.max() * len(groups):
        return order
    members = order.copy().reshape(-1, m)
    members[groups] = halves[pairs].reshape(-1, m)
    return members.ravel()


def _most_groups(problem: Problem) -> int:
    """Return how many groups can be matched in little time: k of them have 2 k (2 k - 1) / 2 unions of halves."""
    n, m = problem.pattern.n, problem.pattern.m
    union = problem.packed.shape[1] * m * n / 8.0  # nanoseconds
    return max(2, min(MOST_GROUPS, int((UNIONS / (2.0 * union)) ** 0.5)))
