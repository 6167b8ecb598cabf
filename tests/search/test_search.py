"""Procedures that several methods share."""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Problem
from permsolve.kernels.anneal import Window
from permsolve.run import Run
from permsolve.search import exchange, matching
from permsolve.search.exchange import ExchangeDescent
from permsolve.search.slots import SlotAssignment
from permsolve.search.windows import Windows
from permsolve.stop import MaxIterations, MaxRuntime

MATRIX = uniform(9, 32)


@functools.cache
def good() -> np.ndarray:
    return permsolve.solve(MATRIX, method="channel_swap").perm


def make_run(problem: Problem, **more: Any) -> Run:
    run = Run(problem, rng=np.random.default_rng(0), **{"stop": None, **more})
    run.open()
    return run


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


def test_a_slot_assignment_is_taken_only_where_it_improves() -> None:
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


def test_a_window_is_told_to_halt_when_the_time_is_over() -> None:
    """The work never ends by itself; where there is no time limit, nobody tells it to."""
    problem = Problem.of(np.ones((16, 2048), dtype=np.float32))
    dealt = Windows(problem, make_run(problem, stop=MaxRuntime(0.05), n_jobs=2))

    def work(window: Window, order: np.ndarray, seed: np.uint64) -> str:
        while not window.halt[0]:
            time.sleep(0.001)
        return "halted"

    results = dealt.epoch(work, lambda order: "idle")
    assert set(results[0]) <= {"halted", "idle"}
    assert "halted" in results[0]
    free = Windows(problem, make_run(problem, stop=MaxIterations(9)))
    free.epoch(lambda window, order, seed: None, lambda order: None)
    assert not free.alarm.halt[0]


def test_the_alarm_of_an_epoch_that_ends_in_time_is_called_off() -> None:
    problem = Problem.of(MATRIX)
    dealt = Windows(problem, make_run(problem, stop=MaxRuntime(0.05)))
    with dealt.alarm.watch():
        pass
    time.sleep(0.1)
    assert not dealt.alarm.halt[0]


def test_gains_take_a_while_and_are_given_up_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.of(uniform(40, 48))
    whole = ExchangeDescent(problem, make_run(problem), np.arange(48))
    moved = whole.sweep()
    monkeypatch.setattr(exchange, "PIECE", 0)
    pieces = ExchangeDescent(problem, make_run(problem), np.arange(48))
    assert pieces.sweep() == moved
    np.testing.assert_array_equal(pieces.gain, whole.gain)
    late = ExchangeDescent(problem, make_run(problem, stop=MaxRuntime(0)), np.arange(48))
    assert late.sweep() is None
    assert late.order.tolist() == list(range(48))


@pytest.mark.parametrize(("rows", "nm", "groups"), [(64, "2:4", 48), (16384, "2:4", 17), (4096, "8:16", 8)])
def test_fewer_groups_are_matched_where_there_are_many_rows(rows: int, nm: str, groups: int) -> None:
    assert matching._most_groups(Problem.of(np.ones((rows, 16), dtype=np.float32), nm)) == groups


def test_windows_rest_when_the_time_is_over() -> None:
    problem = Problem.of(np.ones((16, 2048), dtype=np.float32))
    dealt = Windows(problem, make_run(problem, stop=MaxRuntime(0)))
    results = dealt.epoch(lambda window, order, seed: "work", lambda order: "idle")
    assert results == [["idle"] * 4]


def test_threads_get_chains_of_their_own_only_where_time_decides() -> None:
    problem = Problem.of(MATRIX)
    assert Windows(problem, make_run(problem, n_jobs=3, stop=MaxRuntime(9))).count == 3
    assert Windows(problem, make_run(problem, n_jobs=3, stop=MaxIterations(9))).count == 1


def test_windows_start_from_what_is_given_else_from_the_incumbent() -> None:
    problem, start = Problem.of(MATRIX), np.arange(32).reshape(8, 4).T.ravel()
    given, free = make_run(problem, initial=start), make_run(problem)
    for run in (given, free):
        run.offer(good())
    assert Windows(problem, given).orders[0].tolist() == start.tolist()
    assert Windows(problem, free).orders[0].tolist() == good().tolist()
