"""Thresholds, losses and exchanges against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from reference import KINDS, PATTERNS, ROWS, gain, matrix, pack, score, shuffled, state_of, threshold, value

from permsolve.kernels.groups import exchange_delta, make_state, refresh_all, refresh_group


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", ROWS)
def test_thresholds_and_losses_by_definition(n: int, m: int, rows: int) -> None:
    values, order = matrix("uniform", rows, 3 * m), shuffled(3 * m)
    check(values, order, n, m)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_and_losses_with_ties_zeros_and_constants(n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 33, 3 * m), shuffled(3 * m)
    check(values, order, n, m)


def check(values: np.ndarray, order: np.ndarray, n: int, m: int) -> None:
    state = state_of(values, order, n, m)
    rows = values.shape[0]
    for start in range(0, len(order), m):
        members = order[start : start + m]
        for x, i in enumerate(members):
            np.testing.assert_array_equal(state.thresholds[i, :rows], threshold(values, members, x, n))
            loss = value(values, members, n) - value(values, np.delete(members, x), n)
            assert state.losses[i] == loss
    assert not state.thresholds[:, rows:].any()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exchange_changes_the_score_by_its_delta(n: int, m: int, kind: str) -> None:
    """For all pairs of columns of different groups."""
    values, order = matrix(kind, 17, 2 * m), shuffled(2 * m)
    state = state_of(values, order, n, m)
    before = score(values, order, n, m)
    for p in range(m):
        for q in range(m, 2 * m):
            other = order.copy()
            other[[p, q]] = other[[q, p]]
            assert exchange_delta(state, order[p], order[q]) == score(values, other, n, m) - before
            assert exchange_delta(state, order[q], order[p]) == exchange_delta(state, order[p], order[q])


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_the_delta_is_gains_less_losses(n: int, m: int) -> None:
    values, order = matrix("uniform", 40, 3 * m), shuffled(3 * m)
    state, expected = state_of(values, order, n, m), gain(values, order, n, m)
    for i, j in [(order[0], order[m]), (order[m - 1], order[2 * m]), (order[3 * m - 1], order[m])]:
        delta = expected[i, j] + expected[j, i] - state.losses[i] - state.losses[j]
        assert exchange_delta(state, i, j) == delta


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 2)])
def test_a_group_is_refreshed_without_touching_the_others(n: int, m: int) -> None:
    values, order = matrix("uniform", 200, 4 * m), shuffled(4 * m)
    state = state_of(values, order, n, m)
    thresholds, losses = state.thresholds.copy(), state.losses.copy()
    order[[0, m]] = order[[m, 0]]
    refresh_group(state, order[:m], n)
    others = order[2 * m :]
    np.testing.assert_array_equal(state.thresholds[others], thresholds[others])
    np.testing.assert_array_equal(state.losses[others], losses[others])
    refresh_group(state, order[m : 2 * m], n)
    fresh = state_of(values, order, n, m)
    np.testing.assert_array_equal(state.thresholds, fresh.thresholds)
    np.testing.assert_array_equal(state.losses, fresh.losses)


def test_the_order_inside_a_group_does_not_matter() -> None:
    values = matrix("tied", 50, 8)
    first = state_of(values, np.arange(8), 2, 4)
    second = state_of(values, np.array([3, 1, 0, 2, 6, 7, 5, 4]), 2, 4)
    np.testing.assert_array_equal(first.thresholds, second.thresholds)
    np.testing.assert_array_equal(first.losses, second.losses)


def test_the_written_out_case_agrees_with_the_general_one() -> None:
    """2:4 has code of its own; a fifth column of zeros makes the general code compute the same group."""
    values = matrix("tied", 90, 4)
    special = state_of(values, np.arange(4), 2, 4)
    general = make_state(pack(np.hstack([np.zeros((90, 1)), values])), 2)
    refresh_all(general, np.arange(5), 5, 2)
    np.testing.assert_array_equal(special.thresholds, general.thresholds[1:])
    np.testing.assert_array_equal(special.losses, general.losses[1:])


def test_saliency_is_kept_not_copied() -> None:
    packed = pack(matrix("uniform", 5, 8))
    assert make_state(packed, 2).saliency is packed
