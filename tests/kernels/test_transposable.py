"""Transposable masks: best against all masks and against OR-Tools, and annealing that reports what happened."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from ortools.graph.python import min_cost_flow
from reference import KINDS, matrix, shuffled

from permsolve.kernels.transposable import block_masks, block_values
from permsolve.kernels.transposable_narrow import anneal_narrow, make_narrow, narrow_loss
from permsolve.kernels.transposable_wide import anneal_wide, make_wide, selection_network, wide_loss

SMALL = [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)]
LARGE = [(4, 8), (3, 7), (8, 16), (1, 16), (15, 16)]
#: Each is compiled for itself: two for every day, the others for the long run.
ANNEALERS = [
    (1, 4),
    (2, 4),
    *(pytest.param(*nm, marks=pytest.mark.slow) for nm in [(1, 2), (3, 4), (2, 3), (4, 8), (3, 6)]),
]


def all_masks(n: int, m: int) -> np.ndarray:
    rows = [np.isin(np.arange(m), kept) for kept in combinations(range(m), n)]
    masks = np.array([mask for mask in product(rows, repeat=m) if (np.sum(mask, axis=0) == n).all()])
    assert (n, m) != (2, 4) or len(masks) == 90
    return masks


def flow_value(block: np.ndarray, n: int) -> int:
    """Return the value of the best mask of a block of integers by OR-Tools."""
    m, flow = len(block), min_cost_flow.SimpleMinCostFlow()
    for i, j in product(range(m), repeat=2):
        flow.add_arc_with_capacity_and_unit_cost(i, m + j, 1, -int(block[i, j]))
    for k in range(m):
        flow.set_node_supply(k, n)
        flow.set_node_supply(m + k, -n)
    assert flow.solve() == flow.OPTIMAL
    return -flow.optimal_cost()


def values_of(saliency: np.ndarray, rows: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    rows, order = rows.reshape(-1, m), order.reshape(-1, m)
    out = np.full(len(rows) * len(order), np.nan)
    columns = np.ascontiguousarray(saliency.T)
    block_values(columns, rows, order, n, np.arange(out.size), out)
    return out.reshape(len(rows), len(order))


def mask_of(saliency: np.ndarray, n: int, m: int) -> np.ndarray:
    mask = np.zeros(saliency.shape, dtype=bool)
    block_masks(np.ascontiguousarray(saliency), n, m, mask)
    blocks = mask.reshape(len(mask) // m, m, -1, m)
    assert (blocks.sum(axis=1) == n).all()
    assert (blocks.sum(axis=3) == n).all()
    return mask


def cut(saliency: np.ndarray, m: int) -> np.ndarray:
    rows, cols = saliency.shape
    return saliency.reshape(rows // m, m, cols // m, m).swapaxes(1, 2)


@pytest.mark.parametrize(("n", "m"), SMALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_blocks_against_all_masks(n: int, m: int, kind: str, dtype: type) -> None:
    saliency = matrix(kind, 7 * m, 19 * m).astype(dtype)
    best = np.tensordot(cut(saliency, m).astype(float), all_masks(n, m), axes=((2, 3), (1, 2))).max(axis=2)
    rows, order = np.arange(7 * m), np.arange(19 * m)
    np.testing.assert_array_equal(values_of(saliency, rows, order, n, m), best)
    kept = cut(np.where(mask_of(saliency, n, m), saliency, 0), m).sum(axis=(2, 3), dtype=float)
    np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize(("n", "m"), LARGE)
@pytest.mark.parametrize("kind", KINDS)
def test_large_blocks_against_min_cost_flow(n: int, m: int, kind: str) -> None:
    saliency = matrix(kind, 3 * m, 4 * m)
    blocks = cut((saliency * 2.0**17).astype(np.int64), m)
    best = np.array([[flow_value(block, n) for block in line] for line in blocks]) / 2.0**17
    np.testing.assert_array_equal(values_of(saliency, np.arange(3 * m), np.arange(4 * m), n, m), best)
    kept = cut(np.where(mask_of(saliency, n, m), saliency, 0), m).sum(axis=(2, 3))
    np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 4), (4, 8), (16, 32)])
def test_real_numbers_against_min_cost_flow(n: int, m: int) -> None:
    """Numbers of no common unit; the oracle rounds to 2^-40."""
    saliency = np.abs(np.random.RandomState(3).standard_normal((2 * m, 3 * m)))
    best = np.array([[flow_value(np.round(block * 2.0**40), n) for block in line] for line in cut(saliency, m)])
    found = values_of(saliency, np.arange(2 * m), np.arange(3 * m), n, m)
    np.testing.assert_allclose(found, best / 2.0**40, rtol=1e-11)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 4), (2, 3), (4, 8)])
@pytest.mark.parametrize("factor", [2.0**-1060, 2.0**-1000, 2.0**-500, 2.0**500, 2.0**1010])
def test_magnitudes(n: int, m: int, factor: float) -> None:
    """Powers of two change nothing but the unit; 2^-1060 makes all entries subnormal, 2^1010 nearly overflows sums."""
    saliency = matrix("uniform", 2 * m, 2 * m)
    order = np.arange(2 * m)
    np.testing.assert_array_equal(
        values_of(saliency * factor, order, order, n, m), values_of(saliency, order, order, n, m) * factor
    )
    np.testing.assert_array_equal(mask_of(saliency * factor, n, m), mask_of(saliency, n, m))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8)])
def test_listed_blocks_of_permuted_rows_and_columns(n: int, m: int) -> None:
    saliency = matrix("uniform", 5 * m, 7 * m)
    rows, order = shuffled(5 * m, 1), shuffled(7 * m, 2)
    whole = values_of(saliency, rows, order, n, m)
    kept = cut(np.where(mask_of(saliency[rows][:, order], n, m), saliency[rows][:, order], 0), m)
    np.testing.assert_array_equal(whole, kept.sum(axis=(2, 3)))
    which = np.array([34, 0, 8, 9, 30])
    out = np.zeros(5)
    columns = np.ascontiguousarray(saliency.T)
    block_values(columns, rows.reshape(-1, m), order.reshape(-1, m), n, which, out)
    np.testing.assert_array_equal(out, whole.ravel()[which])


@pytest.mark.parametrize(("n", "m"), [(n, m) for m in (2, 3, 4, 5, 8, 16, 17) for n in range(1, m)])
def test_selection_networks(n: int, m: int) -> None:
    """By the 0-1 principle, for all zero-one inputs up to m = 8; on random numbers beyond."""
    if m <= 8:
        numbers = np.array(list(product((0.0, 1.0), repeat=m)))
    else:
        numbers = np.random.RandomState(4).random_sample((500, m))
    best = np.sort(numbers, axis=1)[:, m - n :].sum(axis=1)
    for a, b in selection_network(n, m):
        pair = numbers[:, [a, b]]
        numbers[:, a], numbers[:, b] = pair.max(axis=1), pair.min(axis=1)
    np.testing.assert_allclose(numbers[:, :n].sum(axis=1), best, rtol=1e-14)


def anneal(
    saliency: np.ndarray, rows: np.ndarray, order: np.ndarray, n: int, m: int, heat: float, proposals: int = 400
) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """Return the last and the best order, their reported changes, and the number accepted."""
    narrow = m in (2, 4)
    window = (make_narrow if narrow else make_wide)(len(order), len(rows), n, m, np.zeros(1, dtype=bool))
    packed = np.ascontiguousarray(saliency.T, dtype=np.float32)
    last, best = order.copy(), np.empty_like(order)
    kernel = anneal_narrow if narrow else anneal_wide
    change, top, accepted, made = kernel(window, packed, rows, last, best, n, m, heat, heat, proposals, np.uint64(5))
    assert made == proposals
    assert sorted(last) == sorted(best) == sorted(order)
    return last, best, change, top, accepted


@pytest.mark.parametrize(("n", "m"), ANNEALERS)
@pytest.mark.parametrize("kind", KINDS)
def test_annealing_reports_what_happened(n: int, m: int, kind: str) -> None:
    saliency, rows, order = matrix(kind, 18 * m, 5 * m), shuffled(18 * m, 3), shuffled(5 * m)
    before = values_of(saliency, rows, order, n, m).sum()
    last, best, change, top, accepted = anneal(saliency, rows, order, n, m, heat=1.0)
    assert change == pytest.approx(values_of(saliency, rows, last, n, m).sum() - before, abs=1e-3)
    assert top == pytest.approx(values_of(saliency, rows, best, n, m).sum() - before, abs=1e-3)
    assert top >= max(change, 0)
    assert accepted > 0


@pytest.mark.parametrize(("n", "m"), ANNEALERS)
def test_cold_annealing_ends_in_a_local_optimum(n: int, m: int) -> None:
    """Checked by scoring all exchanges: bounds have hidden no improvement."""
    saliency, rows = matrix("uniform", 3 * m, 3 * m), shuffled(3 * m, 3)
    order = anneal(saliency, rows, np.arange(3 * m), n, m, 1e-6, 20_000)[0]
    value = values_of(saliency, rows, order, n, m).sum()
    for p in range(3 * m):
        for q in range(p):
            other = order.copy()
            other[[p, q]] = other[[q, p]]
            assert values_of(saliency, rows, other, n, m).sum() <= value + 1e-4


@pytest.mark.parametrize(("n", "m"), [(2, 4), (2, 3)])
def test_the_mean_loss_is_that_of_the_scores(n: int, m: int) -> None:
    saliency, rows, order = matrix("uniform", 4 * m, 2 * m), np.arange(4 * m), np.arange(2 * m)
    packed, halt = np.ascontiguousarray(saliency.T, dtype=np.float32), np.zeros(1, dtype=bool)
    value, losses = values_of(saliency, rows, order, n, m).sum(), []
    for p, q in product(range(m), range(m, 2 * m)):
        other = order.copy()
        other[[p, q]] = q, p
        losses.append(max(value - values_of(saliency, rows, other, n, m).sum(), 0.0))
    make, loss = (make_narrow, narrow_loss) if m == 4 else (make_wide, wide_loss)
    found = loss(make(2 * m, 4 * m, n, m, halt), packed, rows, order, n, m, 20_000, np.uint64(1))
    assert found == pytest.approx(np.mean(losses), rel=0.02)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_the_flag_ends_the_work(n: int, m: int) -> None:
    saliency, rows, order = matrix("uniform", 4 * m, 4 * m), np.arange(4 * m), np.arange(4 * m)
    packed, halt = np.ascontiguousarray(saliency.T, dtype=np.float32), np.ones(1, dtype=bool)
    best = np.empty_like(order)
    narrow = m == 4
    window = (make_narrow if narrow else make_wide)(4 * m, 4 * m, n, m, halt)
    kernel = anneal_narrow if narrow else anneal_wide
    made = kernel(window, packed, rows, order, best, n, m, 1.0, 1.0, 10**9, np.uint64(1))[3]
    assert made <= 128
    assert sorted(order) == sorted(best) == list(range(4 * m))
