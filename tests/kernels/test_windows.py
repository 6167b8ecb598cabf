"""Exact windows: the partition stays one, its costs stay right."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import cheapest_cover, groups_of

from permsolve.kernels.cover import make_tree
from permsolve.kernels.windows import Pool, improve, make_pool, make_work

COLS, M, CAPACITY = 20, 4, 400


def start(seed: int, share: float = 1.0) -> tuple[Pool, np.ndarray, np.ndarray, np.ndarray]:
    """Return a pool of random costs, and a partition with its costs and places."""
    stream = np.random.RandomState(seed)
    groups = groups_of(COLS, M)
    costs = stream.randint(1, 1000, size=len(groups)).astype(np.float64)
    price = {tuple(group): cost for group, cost in zip(groups.tolist(), costs.tolist(), strict=True)}
    members = np.sort(stream.permutation(COLS).reshape(-1, M), axis=1)
    own = np.array([price[tuple(group)] for group in members.tolist()])
    order = np.argsort(costs, kind="stable")[: int(share * len(groups))]
    where = np.empty(COLS, dtype=np.int64)
    where[members] = np.arange(len(members))[:, None]
    return make_pool(groups[order], costs[order], COLS), members, own, where


def check(pool: Pool, members: np.ndarray, costs: np.ndarray, where: np.ndarray, before: np.ndarray) -> None:
    """Every column is there once, where it is said to be, and every new group costs what the pool says."""
    assert sorted(members.ravel().tolist()) == list(range(COLS))
    assert (where[members] == np.arange(len(members))[:, None]).all()
    price = dict(zip(map(tuple, pool.groups.tolist()), pool.costs.tolist(), strict=True))
    for group, cost in zip(members.tolist(), costs.tolist(), strict=True):
        if sorted(group) not in before.tolist():
            assert price[tuple(sorted(group))] == cost


def test_the_pool_finds_groups_by_their_members() -> None:
    pool = start(1, share=0.1)[0]
    for column in range(COLS):
        first = pool.by_first[pool.first_at[column] : pool.first_at[column + 1]]
        assert first.tolist() == np.flatnonzero(pool.groups[:, 0] == column).tolist()
        some = pool.by_member[pool.member_at[column] : pool.member_at[column + 1]]
        assert some.tolist() == np.flatnonzero((pool.groups == column).any(axis=1)).tolist()


@pytest.mark.parametrize("noise", [0.0, 300.0])
@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("nodes", [1, 1000])
def test_a_partition_stays_one_and_improves_without_noise(noise: float, count: int, nodes: int) -> None:
    for seed in range(3):
        pool, members, costs, where = start(seed, share=0.3)
        tree, work = make_tree(CAPACITY, COLS, M), make_work(COLS, M, CAPACITY)
        for step in range(10):
            before, total = members.copy(), costs.sum()
            sizes = (count, noise, 3, nodes, 1 << 40)
            visited, done, changed = improve(pool, tree, members, costs, where, *sizes, np.uint64(step), work)
            check(pool, members, costs, where, before)
            assert 3 == done <= visited <= 3 * (nodes + 1)
            assert 0 <= changed <= 3
            assert (work.local == -1).all()
            if noise == 0.0:
                assert costs.sum() < total if changed else costs.sum() == total


def test_a_window_of_everything_reaches_the_best_of_the_groups_it_looks_at() -> None:
    for seed in range(4):
        pool, members, costs, where = start(seed, share=0.05)
        tree, work = make_tree(CAPACITY, COLS, M), make_work(COLS, M, CAPACITY)
        best = cheapest_cover(pool.groups, pool.costs, COLS)
        assert costs.sum() > best
        improve(pool, tree, members, costs, where, 5, 0.0, 20, 100_000, 1 << 40, np.uint64(seed), work)
        assert costs.sum() == best


def test_noise_lets_a_partition_get_worse() -> None:
    pool, members, costs, where = start(1)
    tree, work = make_tree(5000, COLS, M), make_work(COLS, M, 5000)
    improve(pool, tree, members, costs, where, 5, 0.0, 20, 10_000, 1 << 40, np.uint64(1), work)
    best, totals = costs.sum(), []
    for step in range(40):
        improve(pool, tree, members, costs, where, 3, 3000.0, 1, 1000, 1 << 40, np.uint64(step), work)
        totals.append(costs.sum())
    assert max(totals) > best


def test_no_window_is_begun_after_so_many_nodes() -> None:
    pool, members, costs, where = start(1)
    tree, work = make_tree(CAPACITY, COLS, M), make_work(COLS, M, CAPACITY)
    visited, done, _ = improve(pool, tree, members, costs, where, 3, 0.0, 1000, 5, 30, np.uint64(1), work)
    assert done < 1000
    assert 30 <= visited < 30 + 6
