"""Annealing of a window: what it reports is what happened, and memoised deltas are true."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from reference import KINDS, PATTERNS, matrix, pack, score, shuffled, state_of

from permsolve.kernels.anneal import LOG_UNIFORM, STEP, Window, anneal_window, make_window, mean_loss
from permsolve.kernels.groups import exchange_delta

SEED = np.uint64(12345)


def anneal(
    values: np.ndarray,
    order: np.ndarray,
    n: int,
    m: int,
    *,
    start: float = 1.0,
    end: float = 0.1,
    proposals: int = 2000,
    seed: np.uint64 = SEED,
    window: Window | None = None,
) -> tuple[np.ndarray, np.ndarray, float, float, int, Window]:
    """Return the last and the best order, their reported changes, the number accepted, and the window."""
    packed = pack(values)
    window = window or make_window(len(order), packed.shape[1], n, m)
    last, best = order.copy(), np.empty_like(order)
    change, top, accepted, _ = anneal_window(window, packed, last, best, n, m, start, end, proposals, seed)
    return last, best, change, top, accepted, window


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_reported_changes_are_those_of_the_score(n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 21, 5 * m), shuffled(5 * m)
    before = score(values, order, n, m)
    last, best, change, top, accepted, _ = anneal(values, order, n, m)
    assert change == score(values, last, n, m) - before
    assert top == score(values, best, n, m) - before
    assert top >= max(change, 0)
    assert sorted(last) == sorted(best) == sorted(order)
    assert 0 < accepted <= 2000


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 129])
@pytest.mark.parametrize("groups", [2, 3, 9])
def test_shapes(rows: int, groups: int) -> None:
    values, order = matrix("uniform", rows, 4 * groups), shuffled(4 * groups)
    before = score(values, order, 2, 4)
    last, best, change, top, _, _ = anneal(values, order, 2, 4)
    assert change == score(values, last, 2, 4) - before
    assert top == score(values, best, 2, 4) - before


def test_a_window_of_some_columns_leaves_the_others_alone() -> None:
    values = matrix("uniform", 12, 40)
    order = shuffled(40)[:16]
    last, best, change, _, _, _ = anneal(values, order, 2, 4)
    assert sorted(last) == sorted(best) == sorted(order)
    assert change == score(values, last, 2, 4) - score(values, order, 2, 4)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8)])
@pytest.mark.parametrize("proposals", [300, 20_000])
def test_memoised_deltas_hold(n: int, m: int, proposals: int) -> None:
    """Whatever the memo says is still valid equals the delta computed anew."""
    values, order = matrix("uniform", 21, 6 * m), np.arange(6 * m)
    last, _, _, _, _, window = anneal(values, order, n, m, start=0.5, end=0.3, proposals=proposals)
    state, memo = state_of(values, last, n, m), window.memo
    np.testing.assert_array_equal(window.state.thresholds, state.thresholds)
    np.testing.assert_array_equal(window.state.losses, state.losses)
    group = np.argsort(last) // m
    valid = 0
    for i in range(6 * m):
        for j in range(i + 1, 6 * m):
            if memo.stamps[i, j] == memo.versions[i] + memo.versions[j]:
                assert group[i] != group[j]
                assert memo.deltas[i, j] == exchange_delta(state, i, j)
                valid += 1
    assert valid > 0


def test_a_used_window_is_as_good_as_a_new_one() -> None:
    values, order = matrix("uniform", 21, 32), shuffled(32)
    fresh = anneal(values, order, 2, 4, seed=np.uint64(1))
    used = anneal(matrix("tied", 21, 32, seed=9), order, 2, 4)[-1]
    again = anneal(values, order, 2, 4, seed=np.uint64(1), window=used)
    for k in range(5):
        np.testing.assert_array_equal(again[k], fresh[k])


def test_the_seed_decides() -> None:
    values, order = matrix("uniform", 21, 32), shuffled(32)
    orders = {seed: anneal(values, order, 2, 4, seed=np.uint64(seed))[0].tolist() for seed in (0, 1, 2**63 - 1)}
    assert orders[0] != orders[1] != orders[2**63 - 1]
    assert anneal(values, order, 2, 4, seed=np.uint64(1))[0].tolist() == orders[1]


@pytest.mark.parametrize("kind", KINDS)
def test_when_cold_it_never_gets_worse_and_ends_in_a_local_optimum(kind: str) -> None:
    values, order = matrix(kind, 21, 16), shuffled(16)
    last, _, change, top, _, _ = anneal(values, order, 2, 4, start=1e-9, end=1e-9, proposals=40_000)
    assert change == top >= 0
    state = state_of(values, last, 2, 4)
    place = np.argsort(last) // 4
    assert all(exchange_delta(state, i, j) <= 0 for i in range(16) for j in range(16) if place[i] != place[j])


def test_it_cools_from_the_first_temperature_to_the_last() -> None:
    """Hot at first, so that it leaves a local optimum; cold in the end, so that it stays in one."""
    values, order = matrix("uniform", 21, 16), shuffled(16)
    order = anneal(values, order, 2, 4, start=1e-9, end=1e-9, proposals=40_000)[0]
    hot, cold = 10.0, 1e-6
    last, _, change, top, accepted, _ = anneal(values, order, 2, 4, start=hot, end=cold, proposals=400_000)
    state, place = state_of(values, last, 2, 4), np.argsort(last) // 4
    assert all(exchange_delta(state, i, j) <= 0 for i in range(16) for j in range(16) if place[i] != place[j])
    assert top >= change
    assert 0.05 < accepted / 400_000 < 0.5  # all hot would be above 0.9, all cold next to none


def test_when_hot_nearly_everything_is_accepted() -> None:
    values, order = matrix("uniform", 21, 32), shuffled(32)
    assert anneal(values, order, 2, 4, start=1e6, end=1e6, proposals=1280)[4] > 1270
    assert anneal(values, order, 2, 4, start=1e-9, end=1e-9, proposals=1280)[4] < 300


def test_acceptance_follows_metropolis() -> None:
    """Two groups of two columns: every exchange costs 1 or wins 1, so the share of time in the worse state is known."""
    values = np.array([[1, 1, 0, 0]])  # groups {0, 1} and {2, 3} keep 1, mixed groups keep 2
    last, _, change, _, accepted, _ = anneal(
        values, np.array([0, 2, 1, 3]), 1, 2, start=1.0, end=1.0, proposals=200_000
    )
    # From a good state half of the four exchanges lead to the bad one, and all of them back.
    leave = 0.5 * np.exp(-1.0)
    bad = leave / (1 + leave)
    expected = (1 - bad) * (0.5 + leave) + bad
    assert accepted / 200_000 == pytest.approx(expected, abs=0.01)
    assert change in (0, -1)
    assert sorted(last) == [0, 1, 2, 3]


def test_as_many_proposals_are_made_as_were_asked_for_and_at_least_one() -> None:
    for proposals, done in ((0, 1), (1, 1), (STEP - 1, STEP - 1), (STEP, STEP), (STEP + 1, STEP + 1)):
        assert anneal(np.zeros((5, 8)), shuffled(8), 2, 4, proposals=proposals)[4] == done  # all of them ties


@pytest.mark.parametrize("kind", ["uniform", "zero"])
def test_a_halt_from_another_thread_ends_the_work_in_a_true_state(kind: str) -> None:
    """Without it this would take hours; a kernel that kept the flag in a register would not see it change."""
    values, order = matrix(kind, 21, 32), shuffled(32)
    packed, window = pack(values), make_window(32, 32, 2, 4)
    last, best = order.copy(), np.empty_like(order)
    threading.Timer(0.1, window.halt.fill, (True,)).start()
    change, top, _, made = anneal_window(window, packed, last, best, 2, 4, 0.5, 0.1, 10**12, SEED)
    assert 0 < made < 10**12
    assert change == score(values, last, 2, 4) - score(values, order, 2, 4)
    assert top == score(values, best, 2, 4) - score(values, order, 2, 4)


def test_the_table_of_logarithms_is_that_of_a_uniform_variable() -> None:
    assert LOG_UNIFORM.dtype == np.float32
    assert (LOG_UNIFORM < 0).all()
    assert np.exp(LOG_UNIFORM).mean() == pytest.approx(0.5, abs=1e-6)
    for temperature in (0.5, 1.0, 3.0):  # the share that accepts a loss of 1 is exp(-1 / temperature)
        share = (temperature * LOG_UNIFORM <= -1).mean()
        assert share == pytest.approx(np.exp(-1 / temperature), abs=2 / 1024)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_mean_loss_is_the_mean_over_all_exchanges(n: int, m: int) -> None:
    values, order = matrix("uniform", 9, 3 * m), shuffled(3 * m)
    state, group = state_of(values, order, n, m), np.argsort(order) // m
    losses = [
        max(-exchange_delta(state, i, j), 0.0)
        for i in range(3 * m)
        for j in range(3 * m)
        if group[i] != group[j]
    ]  # fmt: skip
    window = make_window(3 * m, 16, n, m)
    found = mean_loss(window, pack(values), order, n, m, 400_000, SEED)
    assert found == pytest.approx(np.mean(losses), abs=4 * np.std(losses) / 400_000**0.5)
