"""The compiled float64 scorer against the NumPy reference and lists of Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import KINDS, PATTERNS, ROWS, matrix, shuffled

from permsolve import scoring
from permsolve.kernels.score import group_values


def compiled(values: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    out = np.full(len(order) // m, np.nan)
    group_values(np.ascontiguousarray(values.T), order, n, m, out)
    return out


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_group_values(n: int, m: int, rows: int, dtype: type) -> None:
    values, order = matrix("uniform", rows, 3 * m).astype(dtype), shuffled(3 * m)
    np.testing.assert_array_equal(compiled(values, order, n, m), scoring.group_values(values, order, n, m))


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_ties_zeros_and_constants(n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 19, 2 * m), shuffled(2 * m)
    np.testing.assert_array_equal(compiled(values, order, n, m), scoring.group_values(values, order, n, m))


def test_some_groups_only_and_columns_that_are_a_view() -> None:
    values = matrix("uniform", 9, 16)
    order = np.array([9, 2, 4, 11])
    assert compiled(values, order, 2, 4)[0] == scoring.group_values(values, order, 2, 4)[0]
    columns = np.ascontiguousarray(values.T)[4:12]
    out = np.zeros(2)
    group_values(columns, np.arange(8), 2, 4, out)
    np.testing.assert_array_equal(out, scoring.group_values(values[:, 4:12], np.arange(8), 2, 4))


@pytest.mark.parametrize("unit", [1e300, 1e-300, 1e-320])
def test_extreme_values(unit: float) -> None:
    values = matrix("uniform", 50, 8) * unit
    np.testing.assert_allclose(
        compiled(values, np.arange(8), 2, 4), scoring.group_values(values, np.arange(8), 2, 4), rtol=1e-12
    )


def test_float32_is_summed_in_float64() -> None:
    values = np.random.RandomState(1).random_sample((20_000, 4)).astype(np.float32)
    exact = math.fsum(x for row in values.tolist() for x in sorted(row)[2:])
    assert compiled(values, np.arange(4), 2, 4)[0] == pytest.approx(exact, rel=1e-12)
