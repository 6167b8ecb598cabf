"""The streaming pass may report too much, never too little; climbing groups have true reduced costs."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import groups_of, whole, worth

from permsolve.kernels.stream import BLOCK, ascend, hits_from

PATTERNS = [(1, 2), (1, 4), (2, 4), (3, 4), (2, 3), (2, 5)]


def near_duals(values: np.ndarray, groups: np.ndarray, cols: int, seed: int, share: float) -> np.ndarray:
    """Return random duals at which about a share of the groups is in violation."""
    m = groups.shape[1]
    spread = max(int(values.mean() / m / 10), 1)
    duals = np.random.RandomState(seed).randint(-spread, spread + 1, size=cols)
    return duals + int(np.quantile(values - duals[groups].sum(axis=1), 1 - share)) // m


def hits(columns: np.ndarray, duals: np.ndarray, coarse: int, n: int, m: int, room: int = 1 << 16) -> np.ndarray:
    """Run the pass over everything, in pieces."""
    cols, rows = columns.shape
    fine = columns.astype(np.int32)
    raised = np.zeros((rows, -(-cols // BLOCK) * BLOCK), dtype=np.uint16)
    raised[:, :cols] = -(-fine.T >> coarse)
    found = []
    for first in range(cols - m + 1):
        cuts = [(0, 0)] if m == 2 else [(first + 1, first + 3), (first + 4, cols - m + 1)]
        for second, last in cuts:
            if m > 2 and second > last:
                continue
            groups = np.empty((room, m), dtype=np.int16)
            count = hits_from(
                fine, raised, duals.astype(np.int64), coarse, first, second, min(last, cols - m + 1), n, m, groups
            )
            found.append(groups[:count])
    return np.concatenate(found).astype(np.int64)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize(("most", "coarse"), [(1, 0), (300, 0), (20_000, 0), (1_000_000, 6), (1_000_000, 10)])
def test_no_violating_group_is_missed(n: int, m: int, rows: int, most: int, coarse: int) -> None:
    cols = 14
    columns = whole(rows, cols, seed=rows, most=most)
    groups = groups_of(cols, m)
    values = worth(columns, groups, n)
    for share in (0.0, 0.02, 0.5):
        duals = near_duals(values, groups, cols, rows, share)
        violating = groups[values > duals[groups].sum(axis=1)]
        found = hits(columns, duals, coarse, n, m)
        assert set(map(tuple, violating.tolist())) <= set(map(tuple, found.tolist()))
        assert len(np.unique(found, axis=0)) == len(found)


def test_the_pass_leaves_out_nearly_all_groups_that_lie_well_below_their_duals() -> None:
    columns = whole(16, 20, most=2000)
    groups = groups_of(20, 4)
    values = worth(columns, groups, 2)
    duals = near_duals(values, groups, 20, 1, 0.001)
    slack = duals[groups].sum(axis=1) - values
    found = {tuple(group) for group in hits(columns, duals, 0, 2, 4).tolist()}
    reported = np.array([tuple(group) in found for group in groups.tolist()])
    assert not reported[slack > 2 * 16].any()  # rounding: at most one per row and member of the pair


def test_sums_beyond_16_bits_are_hits() -> None:
    columns = np.zeros((6, 8))
    columns[2:] = 30_000  # a last member adds up to 240,000, more than 65,535, to a base of zero or more
    duals = np.full(6, 1000)
    violating = groups_of(6, 4)
    values = worth(columns, violating, 2)
    assert (values > 4000).all()
    assert len(hits(columns, duals, 0, 2, 4)) == len(violating)


def test_more_columns_than_one_block() -> None:
    columns = whole(3, BLOCK + 5, most=500)
    groups = groups_of(BLOCK + 5, 2)
    values = worth(columns, groups, 1)
    duals = near_duals(values, groups, BLOCK + 5, 1, 0.03)
    violating = groups[values > duals[groups].sum(axis=1)]
    assert len(violating) > 50
    assert set(map(tuple, violating.tolist())) <= set(map(tuple, hits(columns, duals, 0, 1, 2).tolist()))


def test_what_there_is_no_room_for_is_counted() -> None:
    columns = whole(3, 10)
    fine = columns.astype(np.int32)
    raised = np.zeros((3, BLOCK), dtype=np.uint16)
    raised[:, :10] = fine.T
    groups = np.full((3, 4), -1, dtype=np.int16)
    assert hits_from(fine, raised, np.zeros(10, dtype=np.int64), 0, 0, 1, 7, 2, 4, groups[:2]) == 84
    assert groups.tolist() == [[0, 1, 2, 3], [0, 1, 2, 4], [-1] * 4]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("most", [2, 1000])
def test_climbing_groups_end_at_local_optima_with_true_reduced_costs(n: int, m: int, most: int) -> None:
    cols = 14
    columns = whole(9, cols, most=most)
    duals = np.random.RandomState(4).randint(-most, 3 * most, size=cols).astype(np.float64)
    starts = np.array([np.random.RandomState(k).permutation(cols)[:m] for k in range(20)])
    before = worth(columns, starts, n) - duals[starts].sum(axis=1)
    groups, costs = starts.copy(), np.full(20, np.nan)
    ascend(columns, duals, n, groups, costs)
    assert (groups[:, 0] == starts[:, 0]).all()
    assert all(len(set(group)) == m for group in groups.tolist())
    assert costs.tolist() == (worth(columns, groups, n) - duals[groups].sum(axis=1)).tolist()
    assert (costs >= before).all()
    for group, cost in zip(groups, costs, strict=True):
        for slot in range(1, m):
            for column in set(range(cols)) - set(group.tolist()):
                other = group.copy()
                other[slot] = column
                assert (worth(columns, other[None], n)[0] - duals[other].sum()) <= cost
