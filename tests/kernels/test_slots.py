"""Slots freed and refilled, against the definition of gains and all ways to refill."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from reference import KINDS, PATTERNS, gain, matrix, pack, score, shuffled

from permsolve.kernels.slots import fill_slots, free_slots, make_block, make_stretch, slot_gains

NOBODY = np.zeros(1, dtype=np.bool_)


def freed(members: np.ndarray, groups: np.ndarray, seed: int = 1) -> Any:
    block = make_block(len(groups))
    block.gain[:] = np.nan
    free_slots(block, members, groups, members.shape[1], np.uint64(seed))
    return block


def gains(values: np.ndarray, members: np.ndarray, groups: np.ndarray, n: int, spans: int = 1) -> Any:
    block, m = freed(members, groups), members.shape[1]
    stretch = make_stretch(len(groups), n)
    ends = np.linspace(0, len(groups), spans + 1).astype(int)
    for first, last in itertools.pairwise(ends):
        slot_gains(stretch, block, pack(values), members, groups, first, last, n, m, False, NOBODY)
    return block


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_gains_of_every_pattern(n: int, m: int, kind: str) -> None:
    values, members = matrix(kind, 20, 7 * m), shuffled(7 * m).reshape(-1, m)
    groups = np.array([5, 0, 3, 6, 1])
    block = gains(values, members, groups, n)
    np.testing.assert_array_equal(block.names, members[groups, block.slots])
    expected = gain(values, members.ravel(), n, m)[np.ix_(block.names, block.names)]
    np.testing.assert_array_equal(block.gain, expected)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 17, 33])
@pytest.mark.parametrize("rows", [1, 16, 511, 513, 1100])
def test_gains_at_the_fringes_of_tiles_and_stretches(count: int, rows: int) -> None:
    values, members = matrix("uniform", rows, 4 * count), shuffled(4 * count).reshape(-1, 4)
    groups = shuffled(count, seed=5)
    block = gains(values, members, groups, 2)
    expected = gain(values, members.ravel(), 2, 4)[np.ix_(block.names, block.names)]
    np.testing.assert_array_equal(block.gain, expected)


@pytest.mark.parametrize("spans", [2, 3, 8])
def test_threads_that_share_a_block_change_not_even_the_last_bit(spans: int) -> None:
    values = np.random.RandomState(1).random_sample((700, 80))
    members, groups = shuffled(80).reshape(-1, 4), np.arange(20)
    whole, split = gains(values, members, groups, 2), gains(values, members, groups, 2, spans)
    np.testing.assert_array_equal(split.gain, whole.gain)


def test_gains_of_further_rows_are_added() -> None:
    values, members, groups = matrix("uniform", 600, 48), shuffled(48).reshape(-1, 4), np.arange(12)
    whole, parts, stretch = gains(values, members, groups, 2), freed(members, groups), make_stretch(12, 2)
    for k, rows in enumerate((values[:100], values[100:500], values[500:])):
        slot_gains(stretch, parts, pack(rows), members, groups, 0, 12, 2, 4, k > 0, NOBODY)
    np.testing.assert_array_equal(parts.gain, whole.gain)


def test_the_slots_are_random_ones_of_their_groups() -> None:
    members, groups = shuffled(2048).reshape(-1, 4), np.arange(512)
    block = freed(members, groups)
    np.testing.assert_array_equal(block.names, members[groups, block.slots])
    assert (np.bincount(block.slots, minlength=4) > 90).all()
    assert (freed(members, groups, seed=2).slots != block.slots).any()
    three = freed(shuffled(1536).reshape(-1, 3), groups)
    assert (np.bincount(three.slots, minlength=3) > 130).all()


def test_a_refill_without_noise_is_the_best_of_all() -> None:
    values = matrix("uniform", 30, 20)
    for seed in range(10):
        members, groups = shuffled(20, seed=seed).reshape(-1, 4), np.arange(5)
        block = gains(values, members, groups, 2)
        before, trial = score(values, members.ravel(), 2, 4), members.copy()
        best = before
        for refill in itertools.permutations(block.names):
            trial[groups, block.slots] = refill
            best = max(best, score(values, trial.ravel(), 2, 4))
        prices = np.random.RandomState(seed).random_sample(20).astype(np.float32)
        moved = fill_slots(block, members, groups, prices, 0.0, np.uint64(1))
        assert score(values, members.ravel(), 2, 4) == best
        assert (moved > 0) == (best > before)
        assert sorted(members.ravel()) == list(range(20))


def test_noise_draws_better_refills_more_often() -> None:
    """Two groups, two outcomes: with Gumbel noise the odds follow the difference of their values (a logistic law)."""
    values = matrix("uniform", 30, 8)
    members, groups = shuffled(8).reshape(-1, 4), np.arange(2)
    block = gains(values, members, groups, 2)
    stay = float(block.gain[0, 0] + block.gain[1, 1])
    swap = float(block.gain[0, 1] + block.gain[1, 0])
    temperature = abs(swap - stay) / 2
    prices = np.zeros(8, dtype=np.float32)
    swapped = 0
    for seed in range(2000):
        swapped += fill_slots(block, members.copy(), groups, prices, temperature, np.uint64(977 * seed)) > 0
    # The difference of two sums of two Gumbel variables, simulated by NumPy.
    noise = np.random.RandomState(4).gumbel(size=(200_000, 4)) @ np.array([1, 1, -1, -1])
    expected = float((swap - stay + temperature * noise > 0).mean())
    assert 0.02 < expected < 0.98
    assert swapped / 2000 == pytest.approx(expected, abs=0.04)


def test_prices_keep_their_mean_and_make_the_next_assignment_easy() -> None:
    values, members = matrix("fine", 60, 80), shuffled(80).reshape(-1, 4)
    groups, prices = np.arange(20), np.full(80, 3, dtype=np.float32)
    block = gains(values, members, groups, 2)
    fill_slots(block, members, groups, prices, 0.0, np.uint64(1))
    assert prices[block.names].mean() == pytest.approx(3, rel=1e-5)
    others = np.setdiff1d(np.arange(80), block.names)
    assert (prices[others] == 3).all()


def test_a_halted_block_returns_at_once() -> None:
    values, members, groups = matrix("uniform", 600, 16), shuffled(16).reshape(-1, 4), np.arange(4)
    block = freed(members, groups)
    slot_gains(make_stretch(4, 2), block, pack(values), members, groups, 0, 4, 2, 4, False, np.ones(1, dtype=np.bool_))
    assert np.isnan(block.gain).all()
