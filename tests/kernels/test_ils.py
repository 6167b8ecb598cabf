"""Iterated local search of a window, and the values of unions of halves."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from reference import KINDS, PATTERNS, matrix, pack, score, shuffled, state_of, value

from permsolve.kernels.anneal import Window, make_window
from permsolve.kernels.groups import ROW_BLOCK, exchange_delta
from permsolve.kernels.ils import iterate_window, union_values

TOLERANCE = 1e-6


def iterate(
    values: np.ndarray,
    order: np.ndarray,
    n: int,
    m: int,
    kicks: int = 50,
    strength: int = 4,
    seed: int = 7,
    window: Window | None = None,
) -> tuple[np.ndarray, float]:
    packed = pack(values)
    window = window or make_window(len(order), packed.shape[1], n, m)
    last = order.copy()
    change, made = iterate_window(window, packed, last, n, m, kicks, strength, TOLERANCE, np.uint64(seed))
    assert made == kicks
    return last, change


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_reports_its_change_and_never_gets_worse(n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 21, 5 * m), shuffled(5 * m)
    last, change = iterate(values, order, n, m)
    assert sorted(last) == sorted(order)
    assert change == score(values, last, n, m) - score(values, order, n, m)
    assert change >= 0


@pytest.mark.parametrize("kicks", [0, 1, 30])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 4), (4, 8)])
def test_it_ends_where_no_exchange_improves(n: int, m: int, kicks: int) -> None:
    values, order = matrix("uniform", 21, 6 * m), shuffled(6 * m)
    last, change = iterate(values, order, n, m, kicks=kicks)
    assert change > 0
    state, group = state_of(values, last, n, m), np.argsort(last) // m
    for i in range(6 * m):
        for j in range(i):
            if group[i] != group[j]:
                assert exchange_delta(state, i, j) <= TOLERANCE


@pytest.mark.parametrize("strength", [2, 3, 16])
@pytest.mark.parametrize("groups", [2, 3, 8])
def test_kicks_of_any_strength_in_windows_of_any_width(strength: int, groups: int) -> None:
    """A kick cannot touch more groups than there are."""
    values, order = matrix("uniform", 17, 4 * groups), shuffled(4 * groups)
    last, change = iterate(values, order, 2, 4, strength=strength)
    assert sorted(last) == sorted(order)
    assert change == score(values, last, 2, 4) - score(values, order, 2, 4) >= 0


def test_kicks_go_on_improving() -> None:
    values, order = matrix("uniform", 21, 64), shuffled(64)
    changes = [iterate(values, order, 2, 4, kicks=kicks)[1] for kicks in (0, 100, 1000)]
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("kind", ["fine", "tied"])
def test_what_is_worse_is_not_kept(kind: str) -> None:
    """With the same seed a longer search repeats a shorter one: no kick may undo what the ones before it reached."""
    values, order = matrix(kind, 21, 32), shuffled(32)
    changes = [iterate(values, order, 2, 4, kicks=kicks)[1] for kicks in range(60)]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] or kind == "tied"


def test_a_window_of_some_columns_leaves_the_others_alone() -> None:
    values, order = matrix("uniform", 600, 40), shuffled(40)[:24]
    last, change = iterate(values, order, 2, 4)
    assert sorted(last) == sorted(order)
    assert change == score(values, last, 2, 4) - score(values, order, 2, 4)


def test_the_seed_decides_and_a_used_window_does_not_matter() -> None:
    values, order = matrix("uniform", 21, 64), shuffled(64)
    window = make_window(64, 32, 2, 4)
    orders = [iterate(values, order, 2, 4, seed=seed, window=window)[0].tolist() for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    assert iterate(values, order, 2, 4, seed=1)[0].tolist() == orders[0]


@pytest.mark.parametrize("rows", [21, 3000])
def test_a_halt_from_another_thread_ends_the_work_in_a_true_state(rows: int) -> None:
    """Without it this would take days: between kicks, and inside the descents of tall matrices."""
    values, order = matrix("uniform", rows, 64), shuffled(64)
    packed, last = pack(values), order.copy()
    window = make_window(64, packed.shape[1], 4, 8)
    threading.Timer(0.1, window.halt.fill, (True,)).start()
    change, made = iterate_window(window, packed, last, 4, 8, 10**9, 4, TOLERANCE, np.uint64(7))
    assert made < 10**9
    assert change == score(values, last, 4, 8) - score(values, order, 4, 8) >= 0


def test_a_halt_before_the_start_leaves_everything_as_it_is() -> None:
    values, order = matrix("uniform", 21, 40), shuffled(40)
    window = make_window(40, 32, 2, 4, np.ones(1, dtype=np.bool_))
    window.memo.deltas[:] = np.nan  # no gain was computed: none may be read
    last = order.copy()
    assert iterate_window(window, pack(values), last, 2, 4, 10, 4, TOLERANCE, np.uint64(7)) == (0.0, 0)
    assert last.tolist() == order.tolist()


@pytest.mark.parametrize(("n", "m"), [(n, m) for n, m in PATTERNS if m % 2 == 0])
@pytest.mark.parametrize("rows", [3, 128, 300])
def test_values_of_unions(n: int, m: int, rows: int) -> None:
    values = matrix("tied", rows, 4 * m)
    halves = shuffled(4 * m).reshape(-1, m // 2)
    out = np.full((8, 8), np.nan)
    union_values(pack(values), halves, n, np.empty((n + 1, ROW_BLOCK), dtype=np.float32), out)
    for a in range(8):
        for b in range(8):
            if a < b:
                assert out[a, b] == value(values, np.concatenate([halves[a], halves[b]]), n)
            else:
                assert np.isnan(out[a, b])  # left alone
