"""Placing columns one by one."""

from __future__ import annotations

import numpy as np
import pytest
from reference import KINDS, PATTERNS, matrix, pack, shuffled

from permsolve.kernels.construct import place_columns


def reference_groups(values: np.ndarray, columns: np.ndarray, groups: int, n: int, m: int) -> list[list[int]]:
    """Place each column into that of the smallest groups where it adds most over the group's fair share."""
    members: list[list[int]] = [[] for _ in range(groups)]
    for column in columns.tolist():
        size = min(map(len, members))
        gains = []
        for group in members:
            largest = np.zeros((len(values), n))
            if group:
                best = -np.sort(-values[:, group], axis=1)[:, :n]
                largest[:, : best.shape[1]] = best
            floor = largest[:, min(size * n // m, n - 1)]
            gains.append(np.maximum(values[:, column] - floor, 0).sum() if len(group) == size else -1)
        members[int(np.argmax(gains))].append(column)
    return members


def place(values: np.ndarray, pieces: list[np.ndarray], groups: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    packed = pack(values)
    kept = np.zeros((groups, n, packed.shape[1]), dtype=np.float32)
    members, sizes = np.full((groups, m), -1), np.zeros(groups, dtype=np.int64)
    for piece in pieces:
        place_columns(packed, piece, kept, members, sizes, n, m)
    assert sizes.tolist() == (members >= 0).sum(axis=1).tolist()
    return members, kept


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_columns_go_where_they_add_most(n: int, m: int, kind: str) -> None:
    values, columns = matrix(kind, 17, 3 * m), shuffled(3 * m)
    members, kept = place(values, [columns], 3, n, m)
    assert members.tolist() == reference_groups(values, columns, 3, n, m)
    for group in range(3):
        expected = -np.sort(-values[:, members[group]], axis=1)[:, :n]
        np.testing.assert_array_equal(kept[group, :, :17].T, expected)


@pytest.mark.parametrize("rows", [1, 16, 129])
@pytest.mark.parametrize("pieces", [2, 5])
def test_columns_in_pieces_are_placed_as_at_once(rows: int, pieces: int) -> None:
    values, columns = matrix("uniform", rows, 40), shuffled(40)
    whole, _ = place(values, [columns], 10, 2, 4)
    parts, _ = place(values, np.array_split(columns, pieces), 10, 2, 4)
    assert parts.tolist() == whole.tolist()
    assert sorted(whole.ravel()) == list(range(40))


def test_groups_grow_together() -> None:
    values, columns = matrix("uniform", 9, 24), shuffled(24)
    members, _ = place(values, [columns[:14]], 6, 2, 4)
    assert sorted((members >= 0).sum(axis=1)) == [2, 2, 2, 2, 3, 3]
