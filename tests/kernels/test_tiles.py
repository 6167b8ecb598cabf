"""Tiles: thresholds, moves of columns and rows, deals and windows against plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import KINDS, PATTERNS, matrix, shuffled, threshold, value

from permsolve._arrays import aligned
from permsolve.kernels.tile_deals import deal_columns, make_table
from permsolve.kernels.tile_windows import anneal_tiles, mean_losses, tile_values
from permsolve.kernels.tiles import (
    Bench,
    add_row_values,
    anneal_columns,
    anneal_rows,
    make_bench,
    move_rows,
    place_width,
    refresh_slots,
)

SEED = np.uint64(99)
#: Rows of a tile around one and two registers.
VECTORS = [1, 3, 15, 16, 17, 32, 33, 70]


def lay(values: np.ndarray) -> np.ndarray:
    """Return a tile's rows as the kernels get them: by column, padded with zeros, flat."""
    rows, cols = values.shape
    width = int(place_width(rows))
    flat = aligned((cols * width,))
    flat.reshape(cols, width)[:, :rows] = values.T
    return flat


def tile_value(values: np.ndarray, slots: np.ndarray, kept: int, n: int, m: int) -> float:
    """Return the saliency that a tile keeps."""
    return sum(value(values, slots[k : k + m], n) for k in range(0, kept, m))


def bench_of(kept: int, rows: int, n: int, m: int) -> Bench:
    """Return work space for a tile."""
    return make_bench(kept, int(place_width(rows)), n, m)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 17, 33])
def test_thresholds_and_worths(n: int, m: int, kind: str, rows: int) -> None:
    values, slots = matrix(kind, rows, 4 * m), shuffled(4 * m)
    width = int(place_width(rows))
    bench = bench_of(2 * m, rows, n, m)
    for first in (0, m):
        refresh_slots(bench, lay(values), slots, first, n, m, width)
    got = bench.thresholds.reshape(-1, width)
    for p in range(2 * m):
        group = slots[p // m * m : p // m * m + m]
        t = threshold(values, group, p % m, n)
        np.testing.assert_array_equal(got[p, :rows], t)
        assert not got[p, rows:].any()
        assert bench.bases[p] == np.maximum(values[:, slots[p]], t).sum()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", VECTORS)
def test_values_of_rows(n: int, m: int, rows: int) -> None:
    values, slots = matrix("fine", rows, 3 * m), shuffled(3 * m)
    width = int(place_width(rows))
    out = aligned((2 * width,))
    out[:] = 1.0
    add_row_values(bench_of(2 * m, rows, n, m), lay(values), slots, 2 * m, n, m, width, out, width)
    expected = [1.0 + tile_value(values[[r]], slots, 2 * m, n, m) for r in range(rows)]
    np.testing.assert_array_equal(out[width : width + rows], expected)
    np.testing.assert_array_equal(out[:width], 1.0)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_column_moves_change_the_value_by_what_they_say(n: int, m: int, kind: str) -> None:
    values, slots = matrix(kind, 21, 6 * m), shuffled(6 * m)
    before, old = tile_value(values, slots, 3 * m, n, m), slots.copy()
    bench = bench_of(3 * m, 21, n, m)
    change, losing, finished = anneal_columns(bench, lay(values), slots, 3 * m, n, m, 32, 2.0, 3000, SEED)
    assert change == tile_value(values, slots, 3 * m, n, m) - before
    assert finished
    assert sorted(slots) == sorted(old)
    if kind in ("uniform", "fine"):
        assert losing > 0
        assert set(slots[: 3 * m]) != set(old[: 3 * m])


@pytest.mark.parametrize("rows", VECTORS)
def test_cold_column_moves_only_gain_and_end_at_a_local_optimum(rows: int) -> None:
    values, slots = matrix("uniform", rows, 24), shuffled(24)
    bench, width = bench_of(12, rows, 2, 4), int(place_width(rows))
    change, losing, _ = anneal_columns(bench, lay(values), slots, 12, 2, 4, width, 0.0, 40_000, SEED)
    best = tile_value(values, slots, 12, 2, 4)
    assert change > 0
    assert losing == 0
    for p in range(12):
        for q in range(p // 4 * 4 + 4, 24):
            other = slots.copy()
            other[p], other[q] = other[q], other[p]
            assert tile_value(values, other, 12, 2, 4) <= best


@pytest.mark.parametrize(("kept", "size"), [(4, 4), (0, 8)])
def test_where_there_is_one_group_and_nothing_else_nothing_moves(kept: int, size: int) -> None:
    values, slots = matrix("uniform", 5, size), shuffled(size)
    before = slots.copy()
    bench = bench_of(4, 5, 2, 4)
    assert anneal_columns(bench, lay(values), slots, kept, 2, 4, 16, 1.0, 100, SEED) == (0.0, 0, True)
    np.testing.assert_array_equal(slots, before)


def test_one_group_exchanges_with_dropped_columns() -> None:
    values = matrix("uniform", 9, 20)
    slots = np.argsort(values.sum(axis=0))
    anneal_columns(bench_of(4, 9, 2, 4), lay(values), slots, 4, 2, 4, 16, 0.0, 5000, SEED)
    best = tile_value(values, slots, 4, 2, 4)
    singles = [np.concatenate([np.delete(slots[:4], p), [q]]) for p in range(4) for q in slots[4:]]
    assert best >= max(value(values, group, 2) for group in singles)


def test_the_flag_ends_the_work() -> None:
    values, slots = matrix("uniform", 9, 20), shuffled(20)
    halt = np.ones(1, dtype=np.bool_)
    bench = make_bench(8, 16, 2, 4, halt)
    before = slots.copy()
    assert anneal_columns(bench, lay(values), slots, 8, 2, 4, 16, 1.0, 100, SEED) == (0.0, 0, False)
    np.testing.assert_array_equal(slots, before)


def rows_problem(tiles: int, vector: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a table of values by tile and lane, its places, and their lanes as the kernel numbers them."""
    width = int(place_width(vector))
    table = np.random.RandomState(3).randint(0, 100, size=(tiles, tiles * width)).astype(np.float32)
    place = np.array([p // vector * width + p % vector for p in range(tiles * vector)])
    return table, place, place.copy()


def placed(table: np.ndarray, place: np.ndarray, vector: int) -> float:
    """Return the sum of what rows bring where they are."""
    return float(sum(table[p // vector, lane] for p, lane in enumerate(place)))


@pytest.mark.parametrize(("tiles", "vector"), [(2, 1), (2, 5), (3, 16), (5, 3), (4, 33)])
def test_row_moves_change_the_sum_by_what_they_say(tiles: int, vector: int) -> None:
    table, place, lanes = rows_problem(tiles, vector)
    width = int(place_width(vector))
    before = placed(table, place, vector)
    change, accepted = anneal_rows(table, place, vector, width, 30.0, 0.0, 2000, SEED)
    assert change == placed(table, place, vector) - before
    assert sorted(place) == sorted(lanes)
    assert accepted > 0


def test_cold_row_moves_end_where_no_exchange_gains() -> None:
    table, place, _ = rows_problem(3, 6)
    anneal_rows(table, place, 6, 16, 0.0, 0.0, 20_000, SEED)
    best = placed(table, place, 6)
    for p in range(18):
        for q in range(p):
            other = place.copy()
            other[p], other[q] = other[q], other[p]
            assert placed(table, other, 6) <= best


def test_a_bias_lets_losing_rows_pass() -> None:
    table, place, lanes = rows_problem(3, 6)
    anneal_rows(table, place, 6, 16, 0.0, 0.0, 20_000, SEED)
    best, still = placed(table, place, 6), place.copy()
    assert anneal_rows(table, place, 6, 16, 0.0, 0.0, 5000, SEED)[1] == 0
    np.testing.assert_array_equal(place, still)
    change, accepted = anneal_rows(table, place, 6, 16, 0.0, 50.0, 5000, SEED)
    assert accepted > 0
    assert change == placed(table, place, 6) - best
    assert sorted(place) == sorted(lanes)


def test_one_tile_has_no_row_moves() -> None:
    table, place, _ = rows_problem(1, 7)
    assert anneal_rows(table, place, 7, 16, 10.0, 0.0, 100, SEED) == (0.0, 0)


@pytest.mark.parametrize(("vector", "chosen"), [(1, [0, 1]), (5, [2, 0]), (16, [3, 1, 0]), (33, [1, 3])])
def test_rows_are_brought_to_their_places(vector: int, chosen: list[int]) -> None:
    width, cols = int(place_width(vector)), 6
    values = np.random.RandomState(1).random_sample((4, vector, cols)).astype(np.float32)
    data = aligned((4, cols * width))
    for tile in range(4):
        data[tile] = lay(values[tile])
    rows = np.arange(4 * vector).reshape(4, vector)
    order = np.random.RandomState(2).permutation(len(chosen) * vector)
    place = order // vector * width + order % vector
    move_rows(data, rows, np.array(chosen), place, vector)
    np.testing.assert_array_equal(place, [p // vector * width + p % vector for p in range(len(order))])
    names = np.arange(4 * vector).reshape(4, vector)
    expected = names.copy()
    expected[chosen] = names[chosen].ravel()[order].reshape(len(chosen), vector)
    np.testing.assert_array_equal(rows, expected)
    for tile in range(4):
        np.testing.assert_array_equal(data[tile], lay(values.reshape(-1, cols)[expected[tile]]))


def dealt(kind: str, n: int, m: int, block: int, temperature: float, halt: bool = False) -> tuple[Any, ...]:
    """Deal the columns of a tile of 13 groups, 9 of them kept; return values, slots before and after, and prices."""
    values, slots = matrix(kind, 21, 13 * m), shuffled(13 * m)
    before = slots.copy()
    bench = make_bench(9 * m, 32, n, m, np.array([halt]))
    table, prices = make_table(block, 9), np.zeros(13 * m, dtype=np.float32)
    args = (lay(values), slots, 9 * m, n, m, 32, prices, temperature, block, SEED)
    moved = deal_columns(table, bench, *args)
    return values, before, slots, moved, table


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("block", [3, 9, 512])
def test_deals_keep_the_columns_and_move_one_of_each_group_at_most(n: int, m: int, block: int) -> None:
    _, before, after, moved, _ = dealt("uniform", n, m, block, 0.3)
    assert sorted(after[: 9 * m]) == sorted(before[: 9 * m])
    np.testing.assert_array_equal(after[9 * m :], before[9 * m :])
    changed = (after != before)[: 9 * m].reshape(9, m).sum(axis=1)
    assert changed.max() <= 1
    assert moved == changed.sum() > 0


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_a_deal_without_noise_is_the_best_assignment(n: int, m: int) -> None:
    from scipy.optimize import linear_sum_assignment

    values, before, after, _, table = dealt("uniform", n, m, 9, 0.0)
    places, names = table.places[:9], table.names[:9]
    np.testing.assert_array_equal(before[places], names)
    worth = np.empty((9, 9))
    for x, place in enumerate(places):
        first = place // m * m
        for y, name in enumerate(names):
            group = before[first : first + m].copy()
            group[place - first] = name
            worth[x, y] = value(values, group, n)
    best = worth[linear_sum_assignment(-worth)].sum()
    assert tile_value(values, after, 9 * m, n, m) == pytest.approx(best, rel=1e-6)
    # The costs are what a column brings less than the one that was there: gains are read off thresholds.
    own = np.diagonal(worth)
    np.testing.assert_allclose(table.cost[:9, :9], own[:, None] - worth, atol=1e-5)


def test_noise_changes_deals_and_the_flag_ends_them() -> None:
    quiet, loud = dealt("uniform", 2, 4, 9, 0.0)[2], dealt("uniform", 2, 4, 9, 5.0)[2]
    assert (quiet != loud).any()
    _, before, after, moved, _ = dealt("uniform", 2, 4, 9, 0.3, halt=True)
    assert moved == 0
    np.testing.assert_array_equal(before, after)


def window(vector: int, n: int, m: int, kind: str = "uniform", deals: int = 0) -> dict[str, Any]:
    """Return the arrays of a search over four tiles with two blocks of columns, of which 3 and 2 groups are kept."""
    rows, cols = 4 * vector, 10 * m
    values = matrix(kind, rows, cols)
    data = aligned((4, cols * int(place_width(vector))))
    for tile in range(4):
        data[tile] = lay(values[tile * vector : (tile + 1) * vector])
    slots = np.array([np.concatenate([shuffled(6 * m, t), 6 * m + shuffled(4 * m, t)]) for t in range(4)])
    return {
        "values": values,
        "data": data,
        "rows": np.arange(rows).reshape(4, vector),
        "slots": slots,
        "prices": np.zeros((4, cols), dtype=np.float32),
        "spans": np.array([[0, 6 * m, 3 * m, 60, deals], [6 * m, 4 * m, 2 * m, 40, deals]]),
        "bench": make_bench(3 * m, int(place_width(vector)), n, m),
        "table": make_table(max(deals, 1), 3),
    }


def total(w: dict[str, Any], tiles: list[int], n: int, m: int) -> float:
    """Return the saliency that tiles keep, from the definition."""
    kept = np.r_[0 : 3 * m, 6 * m : 8 * m]
    return sum(tile_value(w["values"][w["rows"][t]], w["slots"][t][kept], 5 * m, n, m) for t in tiles)


def run_window(
    w: dict[str, Any], tiles: list[int], n: int, m: int, rows: int, heat: float = 1.0, rounds: int = 7
) -> Any:
    """Anneal some tiles."""
    arrays = [w[name] for name in ("bench", "table", "data", "rows", "slots", "prices", "spans")]
    return anneal_tiles(*arrays, np.array(tiles), n, m, (1.0, 0.5), 0.1, rows, 7, SEED)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8), (2, 3)])
@pytest.mark.parametrize("vector", [1, 7, 33])
@pytest.mark.parametrize("deals", [0, 2])
def test_windows_change_the_score_by_what_they_say(n: int, m: int, vector: int, deals: int) -> None:
    w = window(vector, n, m, deals=deals)
    old = {name: w[name].copy() for name in ("rows", "slots", "data")}
    before = total(w, [2, 0, 3], n, m)
    change, _, moved, rounds = run_window(w, [2, 0, 3], n, m, 200)
    assert change == pytest.approx(total(w, [2, 0, 3], n, m) - before, abs=1e-3)
    assert rounds == 7
    assert moved > 0
    for name in old:  # the tile outside the window is left alone
        np.testing.assert_array_equal(w[name][1], old[name][1])
    np.testing.assert_array_equal(np.sort(w["rows"].ravel()), np.arange(4 * vector))
    for tile in range(4):
        np.testing.assert_array_equal(w["data"][tile], lay(w["values"][w["rows"][tile]]))
        assert sorted(w["slots"][tile][: 6 * m]) == list(range(6 * m))
        assert sorted(w["slots"][tile][6 * m :]) == list(range(6 * m, 10 * m))


def test_rows_stay_without_row_proposals() -> None:
    w = window(5, 2, 4)
    before = w["rows"].copy()
    assert run_window(w, [0, 1, 2, 3], 2, 4, 0)[2] == 0
    np.testing.assert_array_equal(w["rows"], before)


def test_cold_windows_never_lose() -> None:
    w = window(5, 2, 4)
    values = []
    for _ in range(5):
        change, losing, _, _ = anneal_tiles(
            *(w[name] for name in ("bench", "table", "data", "rows", "slots", "prices", "spans")),
            np.arange(4), 2, 4, (0.0, 0.0), 0.0, 50, 3, SEED
        )  # fmt: skip
        assert losing == 0
        values.append(change)
    assert min(values) >= 0
    assert values[0] > 0


def test_halted_windows_say_how_far_they_came() -> None:
    w = window(5, 2, 4)
    w["bench"].halt[0] = True
    before = w["slots"].copy()
    change, _, moved, rounds = run_window(w, [0, 1], 2, 4, 10)
    assert (change, moved, rounds) == (0.0, 0, 0)
    np.testing.assert_array_equal(w["slots"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_mean_losses(kind: str) -> None:
    w = window(7, 2, 4, kind)
    arrays = [w[name] for name in ("bench", "data", "slots", "spans")]
    tiles = np.array([1, 3])
    assert tile_values(*arrays, tiles, 2, 4, 7) == total(w, [1, 3], 2, 4)
    loss = mean_losses(*arrays, tiles, 2, 4, 7, 4000, SEED)
    assert loss == 0.0 if kind == "zero" else loss >= 0
    if kind == "uniform":
        expected = _all_losses(w, [1, 3])
        assert loss == pytest.approx(expected, rel=0.05)


def _all_losses(w: dict[str, Any], tiles: list[int]) -> float:
    """Return the mean loss over blocks, kept columns, and columns of other groups or none."""
    means = []
    for tile in tiles:
        values = w["values"][w["rows"][tile]]
        for first, size, kept, *_ in w["spans"].tolist():
            slots = w["slots"][tile][first : first + size]
            before, losses = tile_value(values, slots, kept, 2, 4), []
            for p in range(kept):
                for q in (q for q in range(size) if q // 4 != p // 4):
                    other = slots.copy()
                    other[p], other[q] = other[q], other[p]
                    losses.append(max(before - tile_value(values, other, kept, 2, 4), 0.0))
            means.append(np.mean(losses))
    return float(np.mean(means))
