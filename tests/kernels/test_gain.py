"""The gain matrix against its definition, on every fringe of its tiles."""

from __future__ import annotations

import numpy as np
import pytest
from reference import KINDS, PATTERNS, gain, matrix, shuffled, state_of

from permsolve.kernels.gain import gain_block, gain_matrix


def block(values: np.ndarray, order: np.ndarray, n: int, m: int, slots: np.ndarray, columns: np.ndarray) -> np.ndarray:
    out = np.full((len(slots), len(columns)), np.nan, dtype=np.float32)
    gain_block(state_of(values, order, n, m), slots, columns, out)
    return out


@pytest.mark.parametrize("slots", range(6))
@pytest.mark.parametrize("columns", range(10))
def test_fringes_of_the_tiles(slots: int, columns: int) -> None:
    """Tiles are four slots high and up to four columns wide."""
    values, order = matrix("uniform", 17, 16), shuffled(16)
    chosen, offered = shuffled(16, seed=3)[:slots], shuffled(16, seed=4)[:columns]
    expected = gain(values, order, 2, 4)[np.ix_(chosen, offered)]
    np.testing.assert_array_equal(block(values, order, 2, 4, chosen, offered), expected)


@pytest.mark.parametrize("rows", [1, 16, 255, 256, 257, 512, 1100])
def test_rows_around_the_blocks(rows: int) -> None:
    """Rows are summed in blocks of 256."""
    values, order = matrix("uniform", rows, 12), shuffled(12)
    expected = gain(values, order, 2, 4)
    everything = np.arange(12)
    np.testing.assert_array_equal(block(values, order, 2, 4, everything, everything), expected)
    odd = np.arange(9)
    np.testing.assert_array_equal(block(values, order, 2, 4, odd, odd), expected[:9, :9])


@pytest.mark.parametrize(("slots", "columns"), [(31, 5), (32, 5), (33, 300), (258, 259), (300, 7)])
def test_fringes_of_the_blocks(slots: int, columns: int) -> None:
    """Blocks are 256 slots high and 256 columns wide; fewer than 32 slots are not copied."""
    values, order = matrix("uniform", 270, 304), shuffled(304)
    chosen, offered = shuffled(304, seed=3)[:slots], shuffled(304, seed=4)[:columns]
    expected = gain(values, order, 2, 4)[np.ix_(chosen, offered)]
    np.testing.assert_array_equal(block(values, order, 2, 4, chosen, offered), expected)


def test_gains_do_not_depend_on_how_many_slots_are_asked_for() -> None:
    values = np.random.RandomState(1).random_sample((700, 48))
    state, columns = state_of(values, shuffled(48), 2, 4), np.arange(48)
    whole, part = np.zeros((48, 48), dtype=np.float32), np.zeros((5, 48), dtype=np.float32)
    gain_block(state, columns, columns, whole)
    gain_block(state, columns[10:15], columns, part)
    np.testing.assert_array_equal(part, whole[10:15])


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_patterns_ties_zeros_and_constants(n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 20, 3 * m), shuffled(3 * m)
    everything = np.arange(3 * m)
    np.testing.assert_array_equal(block(values, order, n, m, everything, everything), gain(values, order, n, m))


def test_real_numbers_up_to_rounding() -> None:
    """In float32, relative to the sums of a column's entries."""
    values = np.random.RandomState(1).random_sample((3000, 8))
    values[0, 0] = 1.0
    order = shuffled(8)
    found = block(values, order, 2, 4, np.arange(8), np.arange(8))
    np.testing.assert_allclose(found, gain(values, order, 2, 4), atol=1e-6 * values.sum(axis=0).max())


def test_a_slot_or_column_may_come_twice() -> None:
    values, order = matrix("uniform", 9, 8), shuffled(8)
    slots, columns = np.array([3, 3, 1]), np.array([5, 5, 5, 0, 5])
    found = block(values, order, 2, 4, slots, columns)
    np.testing.assert_array_equal(found, gain(values, order, 2, 4)[np.ix_(slots, columns)])


@pytest.mark.parametrize("jobs", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("slots", [1, 2, 7, 16])
def test_threads_split_the_slots_and_change_nothing(jobs: int, slots: int) -> None:
    """Not even the last bit: on rows where the order of a sum would show."""
    values = np.random.RandomState(1).random_sample((700, 16))
    values[0, 0] = 1.0
    state = state_of(values, shuffled(16), 2, 4)
    whole, split = np.zeros((slots, 16), dtype=np.float32), np.full((slots, 16), np.nan, dtype=np.float32)
    chosen, columns = np.arange(slots), np.arange(16)
    gain_block(state, chosen, columns, whole)
    spans: list[slice] = []

    def apply(function, items) -> None:  # type: ignore[no-untyped-def]
        for item in items:
            spans.append(item)
            function(item)

    gain_matrix(apply, jobs, state, chosen, columns, split)
    np.testing.assert_array_equal(split, whole)
    assert len(spans) <= jobs
