"""V:N:M kernels against plain NumPy: choices, gains of exchanges, tables of rows, transportation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from reference import KINDS, matrix, shuffled
from scipy.optimize import linear_sum_assignment

from permsolve.kernels import vnm as kernel
from permsolve.kernels.vnm_choice import best_four, choose_columns, freed_values
from permsolve.kernels.vnm_rows import move_lanes, row_worths, transport_rows

NOBODY = np.zeros(1, dtype=np.bool_)
#: Rows of a tile, tiles, n, m, groups: below, at and above a register; tiles around the four of a register.
CASES = [(1, 1, 2, 4, 2), (3, 2, 1, 5, 3), (16, 5, 2, 8, 3), (17, 4, 3, 6, 2), (33, 3, 2, 16, 2), (8, 9, 2, 7, 4)]


def four(values: np.ndarray, n: int) -> float:
    """Sum the n largest entries of each row of four columns."""
    return float(np.sort(values, axis=1)[:, 4 - n :].sum())


def lay(values: np.ndarray, vector: int) -> np.ndarray:
    """Return a matrix by column, each tile's rows padded to whole registers."""
    rows, cols = values.shape
    lanes = kernel.lanes_of(vector)
    data = np.zeros((cols, rows // vector, lanes), dtype=np.float32)
    data[:, :, :vector] = values.T.reshape(cols, -1, vector)
    return data.reshape(cols, -1)


def kept_at_random(groups: int, tiles: int, m: int, seed: int = 3) -> np.ndarray:
    stream = np.random.RandomState(seed)
    return np.array([[stream.permutation(m)[:4] for _ in range(tiles)] for _ in range(groups)])


class Case:
    """A matrix, a solution of it, and a window that holds all of it."""

    def __init__(self, kind: str, vector: int, tiles: int, n: int, m: int, groups: int) -> None:
        self.vector, self.tiles, self.n, self.m, self.groups = vector, tiles, n, m, groups
        self.values = matrix(kind, vector * tiles, groups * m)
        self.members = shuffled(groups * m).reshape(-1, m)
        self.kept = kept_at_random(groups, tiles, m)
        self.lanes = kernel.lanes_of(vector)
        self.window = kernel.make_window(groups, m, tiles, self.lanes)
        self.data = lay(self.values, vector)
        self.total = self.load()

    def load(self) -> float:
        everything = np.arange(self.groups)
        return float(
            kernel.load_window(self.window, self.data, everything, self.members, self.kept, self.n, self.m, self.lanes)
        )

    def store(self) -> None:
        kernel.store_window(self.window, np.arange(self.groups), self.members, self.kept, self.m)

    def tile(self, tile: int) -> np.ndarray:
        return self.values[tile * self.vector : (tile + 1) * self.vector]

    def value(self, tile: int, columns: Any) -> float:
        return four(self.tile(tile)[:, list(columns)], self.n)

    def score(self) -> float:
        return sum(
            self.value(t, self.members[g, self.kept[g, t]]) for g in range(self.groups) for t in range(self.tiles)
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_four_are_the_first_of_all_best(kind: str, case: tuple[int, ...]) -> None:
    vector, _, n, m, _ = case
    values = matrix(kind, vector, m)
    out = np.zeros(4, dtype=np.int64)
    value = best_four(np.ascontiguousarray(values.T), n, np.empty(vector), out)
    everything = list(itertools.combinations(range(m), 4))
    worth = [four(values[:, list(columns)], n) for columns in everything]
    assert value == max(worth)
    assert tuple(out) == everything[int(np.argmax(worth))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_choosing_goes_through_all_groups_of_a_tile(dtype: Any) -> None:
    values = matrix("fine", 12, 24).astype(dtype)
    rows, order, kept = shuffled(12)[:5], shuffled(24, 4), np.zeros((3, 4), dtype=np.int64)
    value = choose_columns(np.ascontiguousarray(values.T), rows, order, 2, 8, kept, NOBODY)
    expected = 0.0
    for g in range(3):
        group = values[np.ix_(rows, order[8 * g : 8 * g + 8])].astype(np.float64)
        best = max(itertools.combinations(range(8), 4), key=lambda columns: four(group[:, list(columns)], 2))
        assert tuple(kept[g]) == best
        expected += four(group[:, list(best)], 2)
    assert value == pytest.approx(expected, rel=1e-12)
    assert choose_columns(np.ascontiguousarray(values.T), rows, order, 2, 8, kept, np.ones(1, dtype=np.bool_)) == 0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_settled_choices_gain_by_no_exchange(kind: str, case: tuple[int, ...]) -> None:
    work = Case(kind, *case)
    before = work.score()
    work.store()
    assert work.total == pytest.approx(work.score(), rel=1e-6, abs=1e-9)
    assert work.score() >= before
    for g, t in np.ndindex(work.groups, work.tiles):
        kept = work.kept[g, t]
        assert len(set(kept)) == 4
        own = work.value(t, work.members[g, kept])
        for k, other in itertools.product(range(4), range(work.m)):
            if other not in kept:
                changed = np.where(np.arange(4) == k, other, kept)
                assert work.value(t, work.members[g, changed]) <= own * (1 + 2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_the_best_choices_one_exchange_away(kind: str, case: tuple[int, ...]) -> None:
    work = Case(kind, *case)
    work.store()
    out, m = np.empty(work.m, dtype=np.float32), work.m
    work.load()  # now the window's columns stand in the order of the slots
    for j, g in itertools.product(range(0, work.groups * m, 3), range(work.groups)):
        if j // m == g:
            continue
        name, own = work.members.ravel()[j], work.members[g]
        kernel.column_gains(work.window, j, g, m, work.lanes, out)
        for x in range(m):
            expected = 0.0
            for t in range(work.tiles):
                kept = list(work.kept[g, t])
                now = work.value(t, own[kept])
                if x in kept:
                    comes = [name, *(own[y] for y in range(m) if y not in kept)]
                    stays = [own[y] for y in kept if y != x]
                    expected += max(work.value(t, [*stays, column]) for column in comes) - now
                else:
                    trials = [[*(own[y] for y in kept if y != z), name] for z in kept]
                    expected += max(0.0, max(work.value(t, trial) - now for trial in trials))
            assert out[x] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [1e-7, 1.0])
def test_annealing_keeps_count_of_the_value(case: tuple[int, ...], temperature: float) -> None:
    work = Case("uniform", *case)
    names = np.sort(work.members.ravel())
    change, accepted, made = kernel.anneal_columns(
        work.window, work.n, work.m, work.lanes, temperature, 3000, np.uint64(5), 1 << 40
    )
    work.store()
    assert made == 3000
    assert accepted > 0
    assert work.total + change == pytest.approx(work.score(), rel=1e-6)
    np.testing.assert_array_equal(np.sort(work.members.ravel()), names)
    if temperature < 1:
        assert change > 0 or case == CASES[0]  # which is at its best from the start


def test_frozen_annealing_ends_where_no_exchange_gains() -> None:
    work = Case("uniform", 16, 6, 2, 8, 3)
    work.data = lay(np.random.RandomState(1).random_sample(work.values.shape), 16)  # without ties
    work.load()
    for seed in range(20):
        _, accepted, _ = kernel.anneal_columns(work.window, 2, 8, work.lanes, 1e-7, 5000, np.uint64(seed), 1 << 40)
        if not accepted:
            break
    assert accepted == 0
    one, two = np.empty(8, dtype=np.float32), np.empty(8, dtype=np.float32)
    place, worst = work.window.place, []
    for p, q in itertools.combinations(range(24), 2):
        if p // 8 != q // 8:
            kernel.column_gains(work.window, place[q], p // 8, 8, work.lanes, one)
            kernel.column_gains(work.window, place[p], q // 8, 8, work.lanes, two)
            worst.append(one[p % 8] + two[q % 8])
    assert max(worst) <= 0
    least = [-max(w for w, (p, q) in zip(worst, pairs(), strict=True) if x in (p, q)) for x in range(24)]
    assert kernel.mean_least_loss(work.window, 8, work.lanes) == pytest.approx(np.mean(least), rel=1e-5)


def pairs() -> list[tuple[int, int]]:
    return [(p, q) for p, q in itertools.combinations(range(24), 2) if p // 8 != q // 8]


def test_annealing_heeds_its_budget_and_the_alarm() -> None:
    work = Case("uniform", 16, 2, 2, 8, 3)
    assert kernel.anneal_columns(work.window, 2, 8, work.lanes, 1.0, 3000, np.uint64(1), 40)[2] < 100
    work.window.halt[0] = True
    assert kernel.anneal_columns(work.window, 2, 8, work.lanes, 1.0, 3000, np.uint64(1), 1 << 40) == (0.0, 0, 0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["uniform", "tied", "zero"])
def test_worths_of_rows(kind: str, case: tuple[int, ...]) -> None:
    work = Case(kind, *case)
    tiles = shuffled(work.tiles)[: max(1, work.tiles - 1)]
    table = np.full((len(tiles), len(tiles) * work.lanes), np.nan, dtype=np.float32)
    row_worths(work.data, work.members, work.kept, work.n, work.lanes, tiles, table)
    for (t, one), (u, two) in itertools.product(enumerate(tiles), enumerate(tiles)):
        for x in range(work.vector):
            row = work.values[two * work.vector + x]
            expected = sum(
                np.sort(row[work.members[g, work.kept[g, one]]])[4 - work.n :].sum() for g in range(work.groups)
            )
            assert table[t, u * work.lanes + x] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("vector", "tiles"), [(1, 1), (1, 6), (5, 2), (7, 4), (16, 3), (3, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_transportation_is_the_assignment_with_repeated_tiles(kind: str, vector: int, tiles: int) -> None:
    lanes = kernel.lanes_of(vector)
    table = matrix(kind, tiles, tiles * lanes).astype(np.float32)
    start = (np.arange(tiles)[:, None] * lanes + np.arange(vector)).ravel()
    place = start[shuffled(start.size)]
    own = np.repeat(np.arange(tiles), vector)
    before = table[own, place].sum(dtype=np.float64)
    gain = transport_rows(table, place, vector, 1e-9, NOBODY)
    after = table[own, place].sum(dtype=np.float64)
    costs = table[own][:, start].astype(np.float64)
    best = costs[linear_sum_assignment(costs, maximize=True)].sum()
    np.testing.assert_array_equal(np.sort(place), start)
    assert after == pytest.approx(best, rel=1e-9)
    assert gain == pytest.approx(after - before, abs=1e-9)


def test_lanes_move_in_cycles() -> None:
    data = matrix("uniform", 6, 20).astype(np.float32)
    to, origin = np.array([3, 9, 1, 0]), np.array([9, 1, 3, 0])
    expected = data.copy()
    expected[2:5, to] = data[2:5][:, origin]
    move_lanes(data, 2, 5, to, origin)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("by_sums", [True, False])
def test_values_of_refilled_groups(case: tuple[int, ...], by_sums: bool) -> None:
    work = Case("uniform", *case)
    groups = np.arange(work.groups)[::-1].copy()
    slots = np.arange(work.groups) % work.m
    columns = np.arange(work.groups * work.m)
    sums = np.array([work.tile(t)[:, columns].sum(axis=0) for t in range(work.tiles)])
    out = np.full((work.groups, work.groups), np.nan)
    given = sums if by_sums else sums[:, :0].copy()
    for part in ((0, 1), (1, work.groups)):
        freed_values(work.data, work.lanes, work.members, groups, slots, work.n, given, *part, out, NOBODY)
    for x, y in np.ndindex(out.shape):
        others = np.delete(work.members[groups[x]], slots[x])
        new = work.members[groups[y], slots[y]]
        expected = 0.0
        for t in range(work.tiles):
            if by_sums:
                ranked = sorted(others, key=lambda column: -sums[t, column])
                ranked = sorted([*ranked[:4], new], key=lambda column: -sums[t, column])
                expected += work.value(t, ranked[:4])
            elif work.m == 4:
                expected += work.value(t, [*others, new])
            else:
                best = max(itertools.combinations(others, 4), key=lambda four: work.value(t, four))
                trials = [best, *([*(set(best) - {gone}), new] for gone in best)]
                expected += max(work.value(t, trial) for trial in trials)
        assert out[x, y] == pytest.approx(expected, rel=1e-6)
