"""Bounds of wide matrices by streaming, tried on narrow ones, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, feasible, groups_of, matrix, opened, plain, worth

from permsolve import Problem
from permsolve.certificates import prove
from permsolve.partition import lp, stream
from permsolve.partition.quantise import Quantised, total
from permsolve.partition.values import GroupValues
from permsolve.run import OPTIMAL_GAP

PATTERNS = [(1, 2), (1, 4), (2, 4), (3, 4), (2, 3), (2, 8)]


class Unlimited:
    """A run that nothing ends, on one thread."""

    n_jobs = 1
    map = staticmethod(plain)

    def proceed(self, iterations: int = 0) -> bool:
        return True


def width(m: int) -> int:
    """Return columns of which there are not too many groups to list."""
    return {2: 24, 3: 24, 4: 20, 8: 16}[m]


def near(quantised: Quantised, seed: int, share: float) -> np.ndarray:
    """Return duals at which about a share of the groups is in violation."""
    groups = groups_of(quantised.cols, quantised.m)
    values = worth(quantised.columns, groups, quantised.n)
    duals = np.floor(np.random.RandomState(seed).rand(quantised.cols) * values.max() / quantised.m / 10)
    level = np.quantile(values - duals[groups].sum(axis=1), 1 - share)
    return np.asarray(duals + np.floor(level / quantised.m))


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_the_pass_finds_exactly_the_violations_and_the_repair_mends_them(n: int, m: int, rows: int) -> None:
    for kind, seed in (("uniform", 1), ("tied", 2), ("outliers", 3)):
        problem = Problem.of(matrix(kind, rows, width(m), seed), (n, m))
        quantised = Quantised.of(problem)
        groups = groups_of(quantised.cols, m)
        values = worth(quantised.columns, groups, n)
        for share in (0.0, 0.01, 0.2):
            prices = near(quantised, seed, share)
            found = stream.sweep(quantised, prices, Unlimited())  # type: ignore[arg-type]
            assert found is not None
            excess = values - prices[groups].sum(axis=1)
            assert {tuple(g) for g in found.tolist()} == {tuple(g) for g in groups[excess > 0].tolist()}
            order = quantised.worth(found) - prices[found].sum(axis=1)
            assert order.tolist() == sorted(order, reverse=True)
            mended = stream.repair(quantised, prices, found)
            assert (mended >= prices).all()
            assert (mended == np.floor(mended)).all()
            assert feasible(quantised, mended)
            if not len(found):
                assert mended.tolist() == prices.tolist()


def test_one_unit_too_little_is_found_and_mended() -> None:
    quantised = Quantised.of(Problem.of(matrix("uniform", 9, 20)))
    values = GroupValues(quantised, plain)
    duals = lp.solve(values, np.arange(20), lambda: True, lambda: np.inf)
    groups = groups_of(20, 4)
    slack = duals.prices[groups].sum(axis=1) - worth(quantised.columns, groups, 2)
    for group in groups[np.argsort(slack)[:10]]:
        prices = duals.prices.copy()
        prices[group[0]] -= slack[(groups == group).all(axis=1)][0] + 1
        found = stream.sweep(quantised, prices, Unlimited())  # type: ignore[arg-type]
        assert found is not None
        assert group.tolist() in found.tolist()
        assert feasible(quantised, stream.repair(quantised, prices, found))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (2, 3)])
def test_the_bound_is_proved_and_not_below_the_lp(kind: str, n: int, m: int) -> None:
    problem = Problem.of(matrix(kind, 6, width(m)), (n, m))
    run, core = opened(problem)
    stream.bound(problem, run)
    quantised = Quantised.of(problem)
    least = lp.solve(GroupValues(quantised, plain), np.arange(problem.cols), lambda: True, lambda: np.inf)
    proof = core.bounds.certificate
    if proof is None:
        assert core.gap() <= OPTIMAL_GAP  # there was nothing to prove
        return
    assert prove(problem, proof) >= quantised.bound(least.bound) * (1 - 1e-9)
    assert core.bound >= quantised.bound(least.bound) * (1 - 1e-9)
    if core.bound_kind == "lp":
        assert core.bound == prove(problem, proof)


def test_the_bound_of_40_columns_is_close_to_the_lp() -> None:
    problem = Problem.of(matrix("uniform", 12, 40))
    run, core = opened(problem, n_jobs=2)
    stream.bound(problem, run)
    core.close()
    quantised = Quantised.of(problem)
    least = lp.solve(GroupValues(quantised, plain), np.arange(40), lambda: True, lambda: np.inf)
    exact = quantised.bound(least.bound)
    assert core.bound_kind == "lp"
    assert exact * (1 - 1e-9) <= core.bound <= exact * (1 + 1e-4)
    assert core.bound < problem.rows_bound


@pytest.mark.parametrize("kind", KINDS)
def test_search_starts_at_duals_that_prove_the_rows_bound(kind: str) -> None:
    problem = Problem.of(matrix(kind, 6, 16))
    quantised = Quantised.of(problem)
    run, _ = opened(problem)
    duals = stream.Duals(quantised, run, reserve=0.0)
    assert feasible(quantised, duals.origin)
    assert quantised.bound(total(duals.origin)) == pytest.approx(problem.rows_bound, rel=1e-9)


def test_every_group_belongs_to_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK", 50)
    for m, cols in ((2, 7), (3, 9), (4, 9), (8, 10)):
        pairs = [
            (first, second) for first, start, last in stream._tasks(cols, 3, m) for second in range(start, last + 1)
        ]
        expected = {(int(g[0]), 0 if m == 2 else int(g[1])) for g in groups_of(cols, m)}
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == expected


def test_too_many_hits_of_one_task_still_end_in_a_proved_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CAPACITY", 8)
    problem = Problem.of(matrix("uniform", 6, 20))
    run, core = opened(problem)
    stream.bound(problem, run)
    assert core.bounds.certificate is not None
    assert prove(problem, core.bounds.certificate) >= core.bound


def test_out_of_reach() -> None:
    assert stream.out_of_reach(Problem.of(np.ones((64, 512)))) is None
    reason = stream.out_of_reach(Problem.of(np.ones((2, 256)), (8, 16)))
    assert reason is not None
    assert "256 columns" in reason
