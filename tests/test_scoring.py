"""The NumPy reference scorer against lists of Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import PATTERNS, is_exactly_nm, slow_score, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from permsolve import scoring

entries = st.floats(0, 1e6) | st.integers(0, 3).map(float)
SHAPES = [(rows, groups) for rows in (1, 2, 3, 17) for groups in (1, 2, 5)]


def pair(nm: str) -> tuple[int, int]:
    n, m = nm.split(":")
    return int(n), int(m)


@pytest.mark.parametrize("nm", PATTERNS)
@pytest.mark.parametrize(("rows", "groups"), SHAPES)
def test_group_values(nm: str, rows: int, groups: int) -> None:
    n, m = pair(nm)
    saliency = uniform(rows, groups * m)
    order = np.random.RandomState(rows).permutation(groups * m)
    values = scoring.group_values(saliency, order, n, m)
    assert values.shape == (groups,)
    for g in range(groups):
        assert values[g] == pytest.approx(slow_score(saliency, order[g * m : g * m + m], n, m), rel=1e-13)


def test_group_values_of_some_columns_only() -> None:
    saliency = uniform(5, 12)
    order = np.array([7, 1, 11, 4])
    assert scoring.group_values(saliency, order, 2, 4)[0] == pytest.approx(slow_score(saliency, order, 2, 4))


def test_float32_is_summed_in_float64() -> None:
    """A million times 0.1 in float32 would be off in the fourth digit if the sum were float32."""
    saliency = np.full((250_000, 4), 0.1, dtype=np.float32)
    exact = 500_000 * float(np.float32(0.1))
    assert scoring.group_values(saliency, np.arange(4), 2, 4)[0] == pytest.approx(exact, rel=1e-12)
    assert scoring.largest_sum(saliency, saliency.shape[1] // 2) == pytest.approx(exact, rel=1e-12)


def test_rows_in_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    saliency, order = uniform(23, 24), np.random.RandomState(1).permutation(24)
    whole = (
        scoring.group_values(saliency, order, 2, 4),
        scoring.largest_sum(saliency, saliency.shape[1] // 2),
        scoring.mask(saliency, order, 2, 4),
    )
    monkeypatch.setattr(scoring, "_CHUNK", 5 * 24)  # four chunks of five rows and one of three
    np.testing.assert_allclose(scoring.group_values(saliency, order, 2, 4), whole[0], rtol=1e-14)
    assert scoring.largest_sum(saliency, saliency.shape[1] // 2) == pytest.approx(whole[1], rel=1e-14)
    np.testing.assert_array_equal(scoring.mask(saliency, order, 2, 4), whole[2])
    monkeypatch.setattr(scoring, "_CHUNK", 1)  # less than a row
    assert scoring.largest_sum(saliency, saliency.shape[1] // 2) == pytest.approx(whole[1], rel=1e-14)


@pytest.mark.parametrize("nm", PATTERNS)
def test_rows_bound(nm: str) -> None:
    n, m = pair(nm)
    saliency = uniform(7, 3 * m)
    expected = math.fsum(x for row in saliency.tolist() for x in sorted(row, reverse=True)[: 3 * n])
    assert scoring.largest_sum(saliency, saliency.shape[1] // m * n) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 4), (3, 64), (40, 200)])
def test_ties_in_the_mask_go_to_the_first_in_permuted_order(n: int, m: int) -> None:
    """Also in groups so large that sorting algorithms change."""
    stream = np.random.RandomState(1)
    saliency, order = stream.randint(0, 3, size=(5, 2 * m)).astype(float), stream.permutation(2 * m)
    expected = np.zeros((5, 2 * m), dtype=bool)
    for row in range(5):
        for start in (0, m):
            group = order[start : start + m].tolist()
            expected[row, sorted(group, key=lambda column: -saliency[row, column])[:n]] = True
    np.testing.assert_array_equal(scoring.mask(saliency, order, n, m), expected)


@settings(max_examples=60)
@given(st.data(), st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (2, 3), (5, 8)]))
def test_any_matrix(data: st.DataObject, nm: tuple[int, int]) -> None:
    """Score by definition, exactly n of m in the mask, nothing above the bound, order of groups irrelevant."""
    n, m = nm
    groups = data.draw(st.integers(1, 3))
    saliency = data.draw(hnp.arrays(np.float64, (data.draw(st.integers(1, 5)), groups * m), elements=entries))
    order = np.array(data.draw(st.permutations(range(groups * m))))
    score = scoring.group_values(saliency, order, n, m).sum()
    assert score == pytest.approx(slow_score(saliency, order, n, m), rel=1e-12, abs=1e-300)
    mask = scoring.mask(saliency, order, n, m)
    assert is_exactly_nm(mask[:, order], n, m)
    assert saliency[mask].sum() == pytest.approx(score, rel=1e-12)
    assert score <= scoring.largest_sum(saliency, saliency.shape[1] // m * n) * (1 + 1e-12)
    turned = order.reshape(groups, m)[::-1, ::-1].ravel()
    assert scoring.group_values(saliency, turned, n, m).sum() == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize(
    ("score", "baseline", "bound", "expected"),
    [
        (5, 4, 8, 25),
        (4, 4, 8, 0),
        (8, 4, 8, 100),
        (3, 4, 8, -25),
        (4, 4, 4, 100),
        (0, 0, 0, 100),
        (4, 4, 4 + 1e-13, 100),
    ],
)
def test_efficacy(score: float, baseline: float, bound: float, expected: float) -> None:
    assert scoring.efficacy(score, baseline, bound) == expected
