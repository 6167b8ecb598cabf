"""Branch and bound for exact covers, against dynamic programming and against CP-SAT."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import cheapest_cover, groups_of

from permsolve.kernels.cover import DEPTH, Tree, climb, make_tree, plant

ALL = 1 << 40


def pool(cols: int, m: int, size: int, seed: int, most: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Draw some groups with costs, by rising cost."""
    stream = np.random.RandomState(seed)
    groups = groups_of(cols, m)
    groups = groups[stream.permutation(len(groups))[:size]]
    costs = np.sort(stream.randint(0, most + 1, size=len(groups))).astype(np.float64)
    return groups.astype(np.int16), costs


def planted(groups: np.ndarray, cols: int, budget: float, twins: np.ndarray | None = None) -> Tree:
    tree = make_tree(len(groups), cols, groups.shape[1])
    if twins is not None:
        tree.twin[:] = twins
    plant(tree, len(groups), budget)
    return tree


def check(tree: Tree, groups: np.ndarray, costs: np.ndarray, cols: int, budget: float, optimum: float) -> None:
    """The search is done and has the optimum, if that is below the budget."""
    assert tree.at[DEPTH] < 0
    if optimum >= budget:
        assert tree.best[0] == budget
        assert tree.cover[0] == -1
        return
    chosen = tree.cover[: cols // groups.shape[1]]
    assert tree.best[0] == optimum == costs[chosen].sum()
    assert sorted(groups[chosen].ravel().tolist()) == list(range(cols))


@pytest.mark.parametrize(
    ("cols", "m", "size"), [(8, 2, 14), (12, 4, 60), (16, 4, 300), (12, 3, 50), (16, 8, 400), (4, 4, 1)]
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [0, 3, 1000])
def test_the_least_cost_below_a_budget(cols: int, m: int, size: int, seed: int, most: int) -> None:
    groups, costs = pool(cols, m, size, seed, most)
    optimum = cheapest_cover(groups, costs, cols)
    near = [] if optimum == np.inf else [optimum, optimum + 1, optimum + 100]
    for budget in (1.0, 1e6, *near):
        tree = planted(groups, cols, budget)
        climb(tree, groups, costs, cols, m, ALL, 0, 0, 1, budget)
        check(tree, groups, costs, cols, budget, optimum)


@pytest.mark.parametrize("seed", range(4))
def test_cp_sat_finds_nothing_cheaper(seed: int) -> None:
    from ortools.sat.python import cp_model

    cols, m = 20, 4
    groups, costs = pool(cols, m, 500, seed)
    model = cp_model.CpModel()
    taken = [model.new_bool_var("") for _ in groups]
    for column in range(cols):
        model.add_exactly_one(taken[k] for k in np.flatnonzero((groups == column).any(axis=1)))
    model.minimize(sum(int(cost) * one for cost, one in zip(costs, taken, strict=True)))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    tree = planted(groups, cols, 1e6)
    climb(tree, groups, costs, cols, m, ALL, 0, 0, 1, 1e6)
    check(tree, groups, costs, cols, 1e6, solver.objective_value)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_interrupted_and_resumed_it_is_the_same_search(limit: int) -> None:
    for seed in range(4):
        groups, costs = pool(16, 4, 250, seed)
        whole, pieces = planted(groups, 16, 1e6), planted(groups, 16, 1e6)
        nodes = climb(whole, groups, costs, 16, 4, ALL, 0, 0, 1, 1e6)
        visited = []
        while pieces.at[DEPTH] >= 0:
            visited.append(climb(pieces, groups, costs, 16, 4, limit, 0, 0, 1, 1e6))
            assert visited[-1] <= limit
        assert sum(visited) == nodes
        assert pieces.best[0] == whole.best[0]
        assert pieces.cover.tolist() == whole.cover.tolist()


@pytest.mark.parametrize("split", [1, 2, 3, 9])
@pytest.mark.parametrize("parts", [2, 5])
def test_dealt_out_to_parts_the_best_of_them_is_the_optimum(split: int, parts: int) -> None:
    for seed in range(4):
        groups, costs = pool(16, 4, 300, seed)
        optimum = cheapest_cover(groups, costs, 16)
        budget = 1e6
        for known in (budget, optimum + 1):  # what another part has found prunes below the split only
            trees = [planted(groups, 16, budget) for _ in range(parts)]
            for part, tree in enumerate(trees):
                tree.best[0] = known
                while tree.at[DEPTH] >= 0:
                    climb(tree, groups, costs, 16, 4, 5, split, part, parts, budget)
            winner = min(trees, key=lambda tree: tree.best[0])
            check(winner, groups, costs, 16, known, optimum)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cols", [12, 16])
def test_identical_columns_in_order_lose_no_optimum(seed: int, cols: int) -> None:
    stream = np.random.RandomState(seed)
    kinds = stream.randint(0, 2 + seed, size=cols)
    groups = groups_of(cols, 4)
    price: dict[tuple[int, ...], float] = {}
    for group in groups:
        price.setdefault(tuple(sorted(kinds[group].tolist())), float(stream.randint(0, 25)))
    costs = np.array([price[tuple(sorted(kinds[group].tolist()))] for group in groups])
    order = np.argsort(costs, kind="stable")[: int((costs < 20).sum())]  # all of one cost or none of it
    groups, costs = groups[order].astype(np.int16), costs[order]
    twins = np.array(
        [max((c for c in range(column) if kinds[c] == kinds[column]), default=-1) for column in range(cols)]
    )
    optimum = cheapest_cover(groups, costs, cols)
    for budget in (1e6, 3.0, optimum + 1 if optimum < np.inf else 5.0):
        tree, other = planted(groups, cols, budget, twins), planted(groups, cols, budget)
        nodes = climb(tree, groups, costs, cols, 4, ALL, 0, 0, 1, budget)
        check(tree, groups, costs, cols, budget, optimum)
        assert nodes <= climb(other, groups, costs, cols, 4, ALL, 0, 0, 1, budget)


def test_nothing_to_cover_with() -> None:
    groups, costs = pool(12, 4, 40, 1)
    groups = groups[(groups != 5).all(axis=1)]
    costs = costs[: len(groups)]
    tree = planted(groups, 12, 1e6)
    assert climb(tree, groups, costs, 12, 4, ALL, 0, 0, 1, 1e6) == 1
    check(tree, groups, costs, 12, 1e6, np.inf)
