"""What single methods promise beyond the common contract."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from helpers import flat_methods, uniform

import permsolve
from permsolve import Problem, Status
from permsolve.run import Run
from permsolve.search.slots import SlotAssignment
from permsolve.solvers import auto, greedy, local_search, stripe_groups
from permsolve.stop import MaxIterations

MATRIX = uniform(9, 32)


@functools.cache
def good() -> np.ndarray:
    return permsolve.solve(MATRIX, method="channel_swap").perm


def make_run(problem: Problem, **more: Any) -> Run:
    run = Run(problem, rng=np.random.default_rng(0), **{"stop": None, **more})
    run.open()
    return run


def test_identity_and_random_do_what_they_say() -> None:
    assert permsolve.solve(MATRIX, method="identity").perm.tolist() == list(range(32))
    problem = Problem.of(MATRIX)
    rng = np.random.default_rng(4)
    best = max(problem.score(rng.permutation(32)) for _ in range(50))
    result = permsolve.solve(MATRIX, method="random", options={"samples": 50}, seed=4)
    assert result.score == pytest.approx(best, rel=1e-12)
    assert result.status is Status.COMPLETED


@pytest.mark.parametrize("nm", ["1:2", "2:4", "1:4", "4:8"])
def test_channel_swap_ends_where_no_exchange_improves(nm: str) -> None:
    result = permsolve.solve(MATRIX, nm, method="channel_swap", options={"escapes": 0})
    assert result.status is Status.LOCAL_OPTIMUM
    problem = Problem.of(MATRIX, nm)
    for p in range(32):
        for q in range(p):
            other = result.perm.copy()
            other[[p, q]] = other[[q, p]]
            assert problem.score(other) <= result.score * (1 + 1e-6)


@pytest.mark.parametrize("method", ["channel_swap", "stripe_groups"])
def test_escapes_never_make_it_worse_and_sometimes_better(method: str) -> None:
    gains = []
    for seed in range(8):
        matrix = uniform(32, 16, seed=seed)
        scores = [permsolve.solve(matrix, method=method, options={"escapes": k}).score for k in (0, 10, 100)]
        assert scores == sorted(scores)
        gains.append(scores[-1] - scores[0])
    assert max(gains) > 0


@pytest.mark.parametrize("groups", [2, 3])
def test_stripe_groups_ends_where_no_regrouping_improves(groups: int) -> None:
    matrix = uniform(40, 12, seed=3)
    result = permsolve.solve(matrix, method="stripe_groups", options={"groups": groups, "escapes": 0})
    again = permsolve.solve(
        matrix, method="stripe_groups", options={"groups": groups, "escapes": 0}, initial=result.perm
    )
    assert result.status is Status.LOCAL_OPTIMUM
    assert again.score == result.score


def test_stripes_of_a_wide_problem_stay_inside_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide problems are searched in halves first: the halves are of the incumbent, wherever its columns are."""
    monkeypatch.setattr(stripe_groups, "WIDEST_TRIPLES", 16)
    kernel = stripe_groups.best_regroupings

    def watched(packed: np.ndarray, order: np.ndarray, *more: Any) -> None:
        assert sorted(order.tolist()) == list(range(len(packed)))
        kernel(packed, order, *more)

    monkeypatch.setattr(stripe_groups, "best_regroupings", watched)
    solver = stripe_groups.StripeGroups(groups=3, escapes=0)
    assert permsolve.solve(MATRIX, method=solver).score > Problem.of(MATRIX).baseline
    result = permsolve.solve(MATRIX, method=solver, initial=good())
    assert result.score >= Problem.of(MATRIX).score(good())


@pytest.mark.parametrize(("groups", "k"), [(4, 2), (9, 3), (3, 3), (5, 4)])
def test_stripes_are_all_sets_of_groups(groups: int, k: int) -> None:
    among = np.arange(groups) * 7 + 2
    assert stripe_groups._stripes(among, k).tolist() == [list(x) for x in itertools.combinations(among.tolist(), k)]


def test_a_sweep_applies_the_best_stripes_first_and_changes_a_group_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.of(uniform(9, 96))
    monkeypatch.setattr(stripe_groups, "RANKED", 5)
    descent = stripe_groups._Descent(problem, make_run(problem), 2, np.arange(96))
    descent._evaluate()
    expected, touched = [], set()
    for stripe in np.argsort(-descent.gains, kind="stable"):
        groups = set(descent.stripes[stripe].tolist())
        if descent.gains[stripe] > descent.tolerance and not groups & touched:
            expected.append(int(stripe))
            touched |= groups
    applied: list[int] = []
    apply = descent._apply

    def watched(stripe: int) -> None:
        applied.append(int(stripe))
        apply(stripe)

    monkeypatch.setattr(descent, "_apply", watched)
    assert descent._sweep()
    assert applied == expected
    assert len(applied) > 5


def test_greedy_beats_the_identity_where_columns_differ() -> None:
    columns = np.exp(np.random.RandomState(1).standard_normal(64))
    result = permsolve.solve(uniform(32, 64) * np.sort(columns), method="greedy")
    assert result.efficacy > 20


def test_greedy_stops_at_the_limit_and_fills_up_the_rest() -> None:
    """After k columns the others go to the free places: the first k are where the whole construction puts them."""
    problem = Problem.of(uniform(32, 64) * np.arange(1, 65))
    whole = make_run(problem)
    greedy.Greedy()(problem, whole)
    ranked = np.argsort(-problem.columns.sum(axis=1))
    home = np.argsort(whole.best) // 4
    for limit in (1, 20, 63):
        offered: list[np.ndarray] = []
        run = make_run(problem, stop=MaxIterations(limit))
        run.offer = offered.append  # type: ignore[method-assign, assignment]
        assert greedy.Greedy()(problem, run) is Status.STOPPED
        assert run.iterations == limit
        assert sorted(offered[0]) == list(range(64))
        assert (np.argsort(offered[0]) // 4)[ranked[:limit]].tolist() == home[ranked[:limit]].tolist()
    assert greedy.Greedy()(problem, make_run(problem, stop=MaxIterations(64))) is Status.COMPLETED


@pytest.mark.parametrize("method", flat_methods())
def test_no_iterations_are_none(method: str) -> None:
    """Nothing but the start is looked at, and it is said what stopped the search."""
    result = permsolve.solve(MATRIX, method=method, stop=MaxIterations(0), initial=good())
    assert result.perm.tolist() == good().tolist()
    assert result.iterations == 0
    assert result.stopped_by == "MaxIterations(iterations=0)"


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_annealing_makes_as_many_proposals_as_are_allowed(limit: int) -> None:
    assert permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(limit)).iterations == limit


def bad() -> np.ndarray:
    """Return an order that scores less than the identity."""
    problem = Problem.of(MATRIX)
    draws = [np.random.RandomState(seed).permutation(32) for seed in range(50)]
    worst = min(draws, key=problem.score)
    assert problem.score(worst) < problem.baseline
    return worst


@pytest.mark.parametrize("method", ["channel_swap", "stripe_groups"])
def test_a_search_starts_where_it_is_told_to_even_below_the_identity(method: str) -> None:
    """Deterministic descents: from the given start they end where that start leads, not where the identity does."""
    results = [
        permsolve.solve(MATRIX[:, order], method=method, options={"escapes": 0}, initial=initial)
        for order, initial in ((np.arange(32), bad()), (bad(), None))
    ]
    assert results[0].score == pytest.approx(results[1].score, rel=1e-12)
    assert results[0].perm.tolist() == bad()[results[1].perm].tolist()
    assert results[0].score != permsolve.solve(MATRIX, method=method, options={"escapes": 0}).score


def test_an_initial_permutation_is_not_written_to() -> None:
    for method in flat_methods():
        start = bad()
        permsolve.solve(MATRIX, method=method, initial=start, stop=MaxIterations(3))
        assert start.tolist() == bad().tolist()


def test_ria_warms_up_also_where_the_first_groups_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def watched(search: SlotAssignment, groups: np.ndarray, *more: Any) -> bool:
        steps.append(len(groups))
        return step(search, groups, *more)

    step = SlotAssignment.step
    monkeypatch.setattr(SlotAssignment, "step", watched)
    matrix = MATRIX.copy()
    matrix[:, :16] = 0
    permsolve.get_solver("ria")().warm_up(Problem.of(matrix))
    assert steps == [4]


def test_ria_without_sweeps_is_its_allocation_and_sweeps_improve_it() -> None:
    scores = [permsolve.solve(uniform(64, 64), method="ria", options={"sweeps": k}).score for k in (0, 1, 50)]
    assert scores == sorted(scores)
    assert scores[0] < scores[1]
    result = permsolve.solve(uniform(64, 64), method="ria", options={"sweeps": 50})
    assert result.status is Status.LOCAL_OPTIMUM
    assert result.iterations < 200


@pytest.mark.parametrize("cols", [32, 512])
def test_auto_works_through_its_schedule(cols: int) -> None:
    result = permsolve.solve(uniform(64, cols), method="auto", stop=MaxIterations(500), n_jobs=1)
    assert result.stopped_by == "MaxIterations(iterations=500)"
    assert result.score > result.baseline


def test_auto_uses_all_the_time_it_is_given_unless_the_optimum_is_proved() -> None:
    for cols in (32, 256):
        result = permsolve.solve(uniform(256, cols), method="auto", time_limit=0.3)
        if result.status is Status.OPTIMAL:
            assert cols == 32  # proved within a fraction of the time; the wide one cannot be
        else:
            assert result.runtime >= 0.3
            assert result.stopped_by == "MaxRuntime(seconds=0.3)"


@pytest.mark.parametrize(
    ("cols", "methods"),
    [(64, ["Annealing"]), (128, ["Annealing"]), (256, ["Assignment", "Annealing"]), (1024, ["Assignment"])],
)
def test_auto_picks_by_the_number_of_columns(cols: int, methods: list[str]) -> None:
    stages = auto._stages(Problem.of(uniform(16, cols)), 1.0)
    assert [type(stage.solver).__name__ for stage in stages] == methods
    assert sum(stage.share for stage in stages) == 1


@pytest.mark.parametrize("nm", ["2:4", "1:16"])
def test_a_schedule_ends_by_itself(nm: str) -> None:
    for method in ("annealing", "local_search", "assignment", "auto"):
        result = permsolve.solve(uniform(2, 32), nm, method=method)
        assert result.status in (Status.COMPLETED, Status.LOCAL_OPTIMUM, Status.OPTIMAL)
        assert result.stopped_by is None


def test_the_noise_of_assignments_cools_down_and_ends() -> None:
    solver = permsolve.get_solver("assignment")(start=0.5, end=0.05)
    noise = [solver._noise(share) for share in np.linspace(0, 1, 21)]
    assert noise[0] == 0.5
    assert noise[18] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(noise[:19]))
    assert noise[19:] == [0, 0]
    assert permsolve.get_solver("assignment")(start=0, end=0)._noise(0.0) == 0


def test_assignments_without_noise_end_when_nothing_changes_any_more() -> None:
    end = permsolve.solve(MATRIX, method="assignment", options={"start": 0, "end": 0})
    assert end.status is Status.LOCAL_OPTIMUM
    assert 30 < end.iterations < 2000
    again = permsolve.solve(MATRIX, method="assignment", options={"start": 0, "end": 0}, initial=end.perm, seed=1)
    assert again.score <= end.score * 1.01


def test_local_search_starts_again_when_it_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score that it works on falls at a restart, and never otherwise."""
    problem = Problem.of(uniform(9, 16))

    def scores(patience: int) -> list[float]:
        seen: list[float] = []

        def watched(problem: Problem, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            seen.append(problem.score(order))
            return order

        monkeypatch.setattr(local_search, "rematch", watched)
        solver = local_search.LocalSearch(patience=patience)
        monkeypatch.setattr(local_search, "EPOCH", 0)  # epochs of four kicks
        permsolve.solve(problem, method=solver, stop=MaxIterations(400))
        return seen

    patient, impatient = scores(10**6), scores(1)
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(patient))
    assert any(a > b * (1 + 1e-9) for a, b in itertools.pairwise(impatient))
