"""The intrinsics against NumPy, at every offset and length that the kernels may use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import matrix

from permsolve._arrays import aligned
from permsolve.kernels._jit import compiled
from permsolve.kernels.memory import scratch
from permsolve.kernels.vector import (
    LANES,
    TILE,
    TILE_COLUMNS,
    add_tile,
    copy_stretch,
    peak_chains,
    second_of_three,
)

WIDE = TILE_COLUMNS == 4


@compiled
def tile(thresholds, saliency, slots, columns, length, out, at):  # type: ignore[no-untyped-def]
    four = (slots[0], slots[1], slots[2], slots[3])
    if WIDE:
        add_tile(thresholds, saliency, four, (columns[0], columns[1], columns[2], columns[3]), length, out, at)
    else:
        add_tile(thresholds, saliency, four, (columns[0], columns[1]), length, out, at)


@compiled
def second(saliency, a, b, c, length, out, at):  # type: ignore[no-untyped-def]
    return second_of_three(saliency, a, b, c, length, out, at)


@compiled
def copy(source, at, length, target, to):  # type: ignore[no-untyped-def]
    return copy_stretch(source, at, length, target, to)


@compiled
def peak(length):  # type: ignore[no-untyped-def]
    return peak_chains(length)


@compiled
def work_space(size):  # type: ignore[no-untyped-def]
    return scratch(size)


def flat(kind: str = "uniform") -> Any:
    return matrix(kind, 100, 16).astype(np.float32).ravel()


@pytest.mark.parametrize("length", [LANES, 2 * LANES, 5 * LANES])
@pytest.mark.parametrize("kind", ["uniform", "tied", "zero"])
def test_a_tile_adds_its_sums_in_order(length: int, kind: str) -> None:
    thresholds, saliency = flat(kind), flat("fine")
    slots, columns = np.array([3, 700, 3, 129]), np.array([0, 901, 57, 333])[:TILE_COLUMNS]
    out = np.ones(TILE * TILE_COLUMNS + 2, dtype=np.float32)
    tile(thresholds, saliency, slots, columns, length, out, 1)
    expected = [np.maximum(saliency[c : c + length], thresholds[s : s + length]).sum() for s in slots for c in columns]
    np.testing.assert_array_equal(out[1:-1], np.array(expected) + 1)
    assert out[0] == out[-1] == 1


@pytest.mark.parametrize("length", [LANES, 3 * LANES])
def test_the_middle_one_of_three(length: int) -> None:
    saliency = flat("tied")
    for a, b, c in ((0, 200, 401), (401, 0, 200), (5, 5, 300), (7, 7, 7)):
        out = np.full(length + 4, np.nan, dtype=np.float32)
        total = second(saliency, a, b, c, length, out, 2)
        expected = np.sort([saliency[k : k + length] for k in (a, b, c)], axis=0)[1]
        np.testing.assert_array_equal(out[2:-2], expected)
        assert np.isnan(out[[0, 1, -2, -1]]).all()
        assert total == expected.sum()


def test_a_copy_and_its_sum() -> None:
    source, target = flat(), np.full(3 * LANES, np.nan, dtype=np.float32)
    total = copy(source, 5, 2 * LANES, target, LANES // 2)
    np.testing.assert_array_equal(target[LANES // 2 : -LANES // 2], source[5 : 5 + 2 * LANES])
    assert total == source[5 : 5 + 2 * LANES].sum()
    assert np.isnan(target[: LANES // 2]).all()


def test_the_yardstick_does_what_it_counts() -> None:
    """Chain k holds, after each round, ``max(chain, seed) + other seed``: lane 0 of their sum, computed here anew."""
    for length in (1, 2, 9):
        chains = np.zeros(16)
        for _ in range(length):
            for k in range(16):
                chains[k] = max(chains[k], length * (1.0 + k % 4)) + length * (5.0 + k // 4)
        assert peak(length) == chains.sum()


def test_work_space_begins_at_a_cache_line() -> None:
    for size in (1, 15, 16, 1000):
        array = work_space(size)
        assert array.shape == (size,)
        assert array.ctypes.data % 64 == 0
        array = aligned((3, size))
        assert array.shape == (3, size)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0
        assert not array.any()
