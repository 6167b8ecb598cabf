"""The verification of certificates, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import PATTERNS, groups_of, whole, worth

from permsolve.kernels.certify import first_violation


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("lowered", [0, 1, 40])
@pytest.mark.parametrize("rows", [1, 6, 17])
def test_the_first_violating_group_of_every_smallest_member(n: int, m: int, lowered: int, rows: int) -> None:
    cols = m + 4
    columns = whole(rows, cols, seed=rows, most=50).astype(np.int64)
    groups = groups_of(cols, m)
    values = worth(columns, groups, n)
    duals = np.random.RandomState(5).randint(0, 20, size=cols)
    duals += -(-(values - duals[groups].sum(axis=1)).max() // m)  # the least that is feasible, all raised alike
    duals[cols // 2] -= lowered
    for first in range(cols - m + 1):
        mine = groups[:, 0] == first
        bad = groups[mine][values[mine] > duals[groups[mine]].sum(axis=1)]
        group = np.full(m, -1, dtype=np.int64)
        first_violation(columns, duals, first, n, m, group)
        assert group.tolist() == (bad[0].tolist() if len(bad) else [-1] * m)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_one_unit_too_little_is_found_wherever_it_is(n: int, m: int) -> None:
    cols = m + 3
    columns = whole(5, cols).astype(np.int64)
    groups = groups_of(cols, m)
    values = worth(columns, groups, n)
    for k in range(0, len(groups), max(len(groups) // 12, 1)):
        duals = np.full(cols, values.max() + 1)
        duals[groups[k][0]] = values[k] - duals[groups[k][1:]].sum()  # this group is tight now, others may violate
        for lowered in (0, 1):
            duals[groups[k][0]] -= lowered
            bad = groups[values > duals[groups].sum(axis=1)]
            found = np.full(m, -1, dtype=np.int64)
            for first in range(cols - m + 1):
                if found[0] < 0:
                    first_violation(columns, duals, first, n, m, found)
            assert found.tolist() == (bad[0].tolist() if len(bad) else [-1] * m)
            assert len(bad) > 0 or not lowered


def test_numbers_near_the_limit_do_not_overflow() -> None:
    columns = np.full((6, 2), 2**58, dtype=np.int64)  # a group is worth 2**60
    group = np.full(4, -1, dtype=np.int64)
    first_violation(columns, np.full(6, 2**58), 0, 2, 4, group)
    assert group[0] == -1
    first_violation(columns, np.full(6, 2**58 - 1), 0, 2, 4, group)
    assert group.tolist() == [0, 1, 2, 3]
