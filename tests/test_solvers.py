"""What single methods promise beyond the common contract."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Problem, Status
from permsolve.run import Run
from permsolve.search.exchange import ExchangeDescent
from permsolve.search.slots import SlotAssignment
from permsolve.search.windows import Windows
from permsolve.solvers import auto, local_search, stripe_groups
from permsolve.stop import MaxIterations, MaxRuntime

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


def test_greedy_beats_the_identity_where_columns_differ() -> None:
    columns = np.exp(np.random.RandomState(1).standard_normal(64))
    result = permsolve.solve(uniform(32, 64) * np.sort(columns), method="greedy")
    assert result.efficacy > 20


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


def test_auto_uses_all_the_time_it_is_given() -> None:
    for cols in (32, 256):
        result = permsolve.solve(uniform(256, cols), method="auto", time_limit=0.3)
        assert result.runtime >= 0.3
        assert result.stopped_by == "MaxRuntime(seconds=0.3)"


def test_auto_chains_assignments_and_annealing_where_time_is_short() -> None:
    wide = auto._stages(Problem.of(uniform(256, 1024)), 1.0)
    assert sum(stage.share for stage in wide) == 1
    assert len(wide) == 2
    assert len(auto._stages(Problem.of(uniform(256, 1024)), 1e4)) == 1
    assert len(auto._stages(Problem.of(uniform(256, 128)), 0.01)) == 1


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
    ends = [
        permsolve.solve(MATRIX, method="assignment", options={"start": 0, "end": 0, "patience": patience})
        for patience in (5, 200)
    ]
    assert [end.status for end in ends] == [Status.LOCAL_OPTIMUM, Status.LOCAL_OPTIMUM]
    assert ends[0].iterations + 100 < ends[1].iterations < 2000


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


# Search procedures


def test_exchange_descent_recomputes_what_changed() -> None:
    """After sweeps and after a move the next sweep sees the gains that a new descent from there computes."""
    problem = Problem.of(uniform(40, 48))
    run = make_run(problem)
    descent = ExchangeDescent(problem, run, np.arange(48))
    for step in range(6):
        if step == 4:
            while descent.sweep():
                pass
            assert not descent.touched.any()
            members = descent.order.reshape(-1, 4)[[2, 7]]
            members[0, 0], members[1, 3] = members[1, 3], members[0, 0]
            descent.move(np.array([2, 7]), members)
        fresh = ExchangeDescent(problem, run, descent.order)
        assert descent.sweep() == fresh.sweep()
        np.testing.assert_array_equal(descent.gain, fresh.gain)
        assert descent.order.tolist() == fresh.order.tolist()


@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "4:8"])
def test_a_slot_assignment_is_the_best_of_all_assignments(nm: str) -> None:
    """Freeing one slot in each of four groups leaves 24 ways to refill them."""
    problem = Problem.of(uniform(9, 32), nm)
    m = problem.pattern.m
    rng = np.random.RandomState(2)
    for _ in range(5):
        start = rng.permutation(32)
        groups, slots = rng.permutation(problem.groups)[:4], rng.randint(m, size=4)
        members = start.reshape(-1, m)
        best = 0.0
        for refill in itertools.permutations(members[groups, slots]):
            trial = members.copy()
            trial[groups, slots] = refill
            best = max(best, problem.score(trial.ravel()))
        search = SlotAssignment(problem, start)
        search.step(groups, slots)
        assert problem.score(search.order) == pytest.approx(best, rel=1e-6)


def test_a_slot_assignment_with_noise_may_get_worse_and_stays_a_permutation() -> None:
    problem = Problem.of(MATRIX)
    search = SlotAssignment(problem, good())
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(20):
        search.step(np.arange(8), rng.integers(4, size=8), rng.gumbel(size=(8, 8)))
        scores.append(problem.score(search.order))
    assert min(scores) < problem.score(good())
    fresh = SlotAssignment(problem, search.order)
    np.testing.assert_array_equal(search.state.thresholds, fresh.state.thresholds)
    np.testing.assert_array_equal(search.state.losses, fresh.state.losses)


def test_a_slot_assignment_without_noise_is_taken_only_where_it_improves() -> None:
    problem = Problem.of(np.random.RandomState(1).randint(0, 2, size=(9, 64)))
    search = SlotAssignment(problem, np.arange(64))
    rng = np.random.RandomState(2)
    before = problem.score(search.order)
    changes = []
    for _ in range(200):
        changes.append(search.step(np.arange(16), rng.randint(4, size=16)))
        after = problem.score(search.order)
        assert (after > before) == changes[-1]
        before = after
    assert True in changes
    assert False in changes


def test_the_least_lost_slot() -> None:
    problem = Problem.of(MATRIX)
    search = SlotAssignment(problem, np.arange(32))
    slots = search.least_lost(np.arange(8))
    for group in range(8):
        losses = search.state.losses[search.members[group]]
        assert losses[slots[group]] == losses.min()
    assert search.mean_loss == pytest.approx(search.state.losses.mean(), rel=1e-6)


@pytest.mark.parametrize(("rows", "cols", "windows"), [(16, 128, 1), (16, 2048, 4), (2048, 512, 4), (16, 16, 1)])
def test_windows_share_out_the_groups(rows: int, cols: int, windows: int) -> None:
    problem = Problem.of(np.ones((rows, cols), dtype=np.float32))
    dealt = Windows(problem, make_run(problem))
    assert dealt.count == windows
    seen: list[np.ndarray] = []
    dealt.epoch(lambda window, order, seed: seen.append(order.copy()), lambda order: None)
    assert len(seen) == windows
    groups = np.concatenate(seen).reshape(-1, 4)
    assert sorted(map(tuple, groups)) == sorted(map(tuple, np.arange(cols).reshape(-1, 4)))
    assert sorted(dealt.orders[0]) == list(range(cols))


def test_windows_are_dealt_anew_in_every_epoch() -> None:
    problem = Problem.of(np.ones((16, 2048), dtype=np.float32))
    dealt = Windows(problem, make_run(problem))
    epochs: list[set[frozenset[int]]] = []
    for _ in range(3):
        seen: list[np.ndarray] = []
        dealt.epoch(lambda window, order, seed, seen=seen: seen.append(order.copy()), lambda order: None)
        epochs.append({frozenset(order.tolist()) for order in seen})
    assert not epochs[0] & epochs[1]
    assert not epochs[1] & epochs[2]


def test_windows_rest_when_the_time_is_over() -> None:
    problem = Problem.of(np.ones((16, 2048), dtype=np.float32))
    dealt = Windows(problem, make_run(problem, stop=MaxRuntime(0)))
    results = dealt.epoch(lambda window, order, seed: "work", lambda order: "idle")
    assert results == [["idle"] * 4]


def test_threads_get_chains_of_their_own_only_where_time_decides() -> None:
    problem = Problem.of(MATRIX)
    assert Windows(problem, make_run(problem, n_jobs=3, stop=MaxRuntime(9))).count == 3
    assert Windows(problem, make_run(problem, n_jobs=3, stop=MaxIterations(9))).count == 1
