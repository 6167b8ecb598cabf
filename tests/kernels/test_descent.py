"""Sweeps of exchanges against the rule: rank once, apply best first, skip what touches a changed group."""

from __future__ import annotations

import numpy as np
import pytest
from reference import KINDS, PATTERNS, gain, matrix, score, shuffled, state_of

from permsolve.kernels.descent import exchange_sweep


def reference_sweep(
    values: np.ndarray, order: np.ndarray, n: int, m: int, tolerance: float
) -> tuple[np.ndarray, set[int]]:
    """Return the order after a sweep and the groups it changed, all from rescored permutations."""
    now = score(values, order, n, m)
    moves = []
    for p in range(len(order)):
        for q in range(p - p % m + m, len(order)):
            other = order.copy()
            other[[p, q]] = other[[q, p]]
            moves.append((score(values, other, n, m) - now, p, q))
    order, touched = order.copy(), set()
    for delta, p, q in sorted(moves, key=lambda move: -move[0]):  # stable: the first of equals stays first
        if delta > tolerance and not touched & {p // m, q // m}:
            order[[p, q]] = order[[q, p]]
            touched |= {p // m, q // m}
    return order, touched


@pytest.mark.parametrize(("n", "m"), [(n, m) for n, m in PATTERNS if m <= 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_a_sweep(n: int, m: int, kind: str, tolerance: float) -> None:
    values, order = matrix(kind, 9, 5 * m), shuffled(5 * m)
    expected, changed = reference_sweep(values, order, n, m, tolerance)
    state = state_of(values, order, n, m)
    touched = np.ones(5, dtype=np.bool_)
    applied = exchange_sweep(state, gain(values, order, n, m).astype(np.float32), order, n, m, tolerance, touched)
    assert order.tolist() == expected.tolist()
    assert set(np.flatnonzero(touched)) == changed
    assert applied == len(changed) // 2
    fresh = state_of(values, order, n, m)
    np.testing.assert_array_equal(state.thresholds, fresh.thresholds)
    np.testing.assert_array_equal(state.losses, fresh.losses)


def test_sweeps_end_in_a_local_optimum() -> None:
    values, order = matrix("uniform", 21, 32), shuffled(32)
    before, touched = score(values, order, 2, 4), np.zeros(8, dtype=np.bool_)
    state = state_of(values, order, 2, 4)
    sweeps = 0
    while exchange_sweep(state, gain(values, order, 2, 4).astype(np.float32), order, 2, 4, 1e-6, touched):
        after = score(values, order, 2, 4)
        assert after > before
        before, sweeps = after, sweeps + 1
    assert sweeps > 1
    assert not touched.any()
    assert reference_sweep(values, order, 2, 4, 1e-6)[1] == set()
