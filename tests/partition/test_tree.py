"""Proofs: stages of growing budget, and the windows between them."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, cheapest_cover, groups_of, is_partition, matrix, opened, worth

from permsolve import Problem
from permsolve.partition import neighbourhood, tree
from permsolve.partition.master import Master
from permsolve.partition.quantise import Quantised
from permsolve.run import OPTIMAL_GAP
from permsolve.stop import MaxIterations


def built(values: np.ndarray, n_jobs: int = 1) -> tuple[Master, object, object]:
    """Return the master of a matrix, the run and its core."""
    problem = Problem.of(values)
    run, core = opened(problem, n_jobs)
    master = Master.build(problem, run)
    assert master is not None
    return master, run, core


def proved(master: Master, run: object, core: object) -> bool:
    """Prove the optimum; the run says so itself where the LP's optimum was a partition."""
    return tree.prove(master, run) or core.gap() <= OPTIMAL_GAP  # type: ignore[arg-type, attr-defined]


def best_of(values: np.ndarray) -> float:
    """Return the optimum by dynamic programming over sets of columns, with Python's own integers."""
    quantised = Quantised.of(Problem.of(values))
    groups = groups_of(quantised.cols, 4)
    units = -cheapest_cover(groups, -worth(quantised.columns, groups, 2), quantised.cols)
    return quantised.bound(int(units))


def test_the_pool_holds_exactly_the_groups_below_a_cost() -> None:
    master, _, _ = built(matrix("uniform", 6, 16))
    groups = groups_of(16, 4)
    costs = master.duals.prices[groups].sum(axis=1) - worth(master.quantised.columns, groups, 2)
    assert costs.min() >= 0
    level = float(np.median(costs))
    pool = tree.pool_below(master.values, master.duals, level)
    assert pool is not None
    assert pool.costs.tolist() == np.sort(costs[costs < level]).tolist()


def test_too_many_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        values = matrix("uniform", 24, 20, seed)
        master, run, core = built(values)
        if core.gap() > 1e-4:  # the LP alone does not do
            break
    else:
        raise AssertionError("none of these matrices needs branch and bound")
    monkeypatch.setattr(tree, "MOST_GROUPS", 10)
    assert tree.pool_below(master.values, master.duals, 1e18) is None
    monkeypatch.setattr(tree, "FIRST_STAGE", 60)
    assert not tree.prove(master, run)
    assert core.bound >= best_of(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_branch_and_bound_proves_the_optimum(kind: str, seed: int) -> None:
    values = matrix(kind, 6, 16, seed)
    run, core = opened(Problem.of(values))
    master = Master.build(Problem.of(values), run)
    optimum = best_of(values)
    assert proved(master, run, core) if master is not None else core.gap() <= OPTIMAL_GAP
    assert core.score == pytest.approx(optimum, rel=1e-9)  # what OPTIMAL means
    assert core.bound == pytest.approx(optimum, rel=1e-9)
    assert core.bound >= core.score * (1 - 1e-14)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_dealt_out_to_parts_and_with_windows_between_the_proof_is_the_same(
    monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    monkeypatch.setattr(tree, "ALONE", 3)
    monkeypatch.setattr(tree, "SPLIT", 2)
    monkeypatch.setattr(tree, "FIRST_STAGE", 1)
    nodes = []
    for seed in range(6):
        values = matrix("uniform", 24, 16, seed)
        master, run, core = built(values, n_jobs)
        assert proved(master, run, core)
        core.close()
        assert core.score == pytest.approx(best_of(values), rel=1e-9)
        nodes.append(core.iterations)
    assert max(nodes) > 100


@pytest.mark.parametrize("limit", [2, 10, 200, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 3, 5, 40))])
def test_interrupted_anywhere_the_bound_holds(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(tree, "FIRST_STAGE", 1)
    for seed in range(3):
        values = matrix("uniform", 8, 16, seed)
        problem = Problem.of(values)
        run, core = opened(problem, stop=MaxIterations(limit))
        master = Master.build(problem, run)
        assert master is not None
        tree.prove(master, run)
        optimum = best_of(values)
        assert core.bound >= optimum * (1 - 1e-13)
        assert core.score <= optimum * (1 + 1e-13)
        assert is_partition(core.solution, 16)


def test_the_bound_falls_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "FIRST_STAGE", 1)
    seen = []
    for seed in range(20):
        master, run, core = built(matrix("uniform", 24, 20, seed))
        assert proved(master, run, core)
        bounds = [point.bound for point in core.trace]
        assert bounds == sorted(bounds, reverse=True)
        seen.append(len(set(bounds)))
    assert max(seen) > 3  # rows, LP, at least one stage, optimum


def test_windows_never_lose_the_best_partition_and_their_cost_is_true() -> None:
    master, run, core = built(matrix("uniform", 12, 28))
    pool = neighbourhood.make_candidates(master.values, master.duals, 2000)
    start = np.random.RandomState(1).permutation(28)
    chain = neighbourhood.Chain(master.quantised, master.duals, pool, start, np.random.default_rng(1))
    assert chain.cost == master.duals.bound - master.quantised.score(start)
    costs = [chain.cost]
    for _ in range(40):
        assert chain.step(5) >= 1
        costs.append(chain.cost)
        assert is_partition(chain.perm, 28)
        assert chain.cost == master.duals.bound - master.quantised.score(chain.perm)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    assert proved(master, run, core)
    optimum = master.duals.bound - master.quantised.score(run.best)  # type: ignore[attr-defined]
    assert costs[-1] >= optimum
    chain.restart(run.best)  # type: ignore[attr-defined]
    assert chain.cost == optimum
