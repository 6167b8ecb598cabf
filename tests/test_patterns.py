"""Patterns: what may be written for n:m, and what a solution is."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from helpers import PATTERNS, is_exactly_nm, slow_score, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from permsolve import NM
from permsolve.errors import InputError, PermsolveError


@pytest.mark.parametrize(
    "spec", [(2, 4), [2, 4], "2:4", " 2 : 4\n", "02:4", NM(2, 4), (np.int64(2), np.int8(4)), NM(np.int32(2), 4)]
)
def test_ways_to_write_a_pattern(spec: object) -> None:
    pattern = NM.parse(spec)
    assert (pattern.n, pattern.m) == (2, 4)
    assert type(pattern.n) is type(pattern.m) is int
    assert pattern == NM(2, 4)
    assert str(pattern) == "2:4"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "''"),
        ("2", "'2'"),
        ("2-4", "'2-4'"),
        ("2:4:8", "'2:4:8'"),
        ("-2:4", "'-2:4'"),
        ("2.0:4", "'2.0:4'"),
        ("two:four", "'two:four'"),
        ("2:99999999999", "'2:99999999999'"),
        (None, "None"),
        (4, "4"),
        (2.4, "2.4"),
        ((2,), "(2,)"),
        ((2, 4, 8), "(2, 4, 8)"),
        ({2, 4}, "{2, 4}"),
        ((2.0, 4), "2.0"),
        ((2, 4.0), "4.0"),
        ((2.5, 4), "2.5"),
        ((True, 4), "True"),
        ((1, True), "True"),
        (("2", "4"), "'2'"),
        ((None, 4), "None"),
        ((2, np.float32(4)), "4.0"),
        ((float("nan"), 4), "nan"),
    ],
)
def test_what_is_no_pattern_is_named(spec: object, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        NM.parse(spec)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (-1, 4), (4, 4), (5, 4), (1, 1), (0, 0), (1, -4)])
def test_n_must_be_from_one_to_below_m(n: int, m: int) -> None:
    with pytest.raises(InputError, match=re.escape(f"{n}:{m}")) as caught:
        NM(n, m)
    assert "1 <= n < m" in str(caught.value)


def test_errors_are_one_family_and_value_errors() -> None:
    with pytest.raises(ValueError, match="nm"):
        NM(4, 4)
    with pytest.raises(PermsolveError):
        NM(4, 4)


def test_a_pattern_cannot_be_changed_and_can_be_a_key() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NM(2, 4).n = 1  # type: ignore[misc]
    assert {NM(2, 4): 1}[NM.parse("2:4")] == 1


@pytest.mark.parametrize(("cols", "padded"), [(6, 8), (1, 4), (4097, 4100)])
def test_columns_that_do_not_divide_are_told_what_to_do(cols: int, padded: int) -> None:
    with pytest.raises(InputError, match=f"{cols} columns") as caught:
        NM(2, 4).validate((3, cols))
    assert str(padded) in str(caught.value)
    assert "m = 4" in str(caught.value)


@pytest.mark.parametrize(
    ("solution", "named"),
    [
        ([0, 1, 2], "(3,)"),
        ([0, 1, 2, 3, 4], "(5,)"),
        ([[0, 1], [2, 3]], "(2, 2)"),
        ([0.0, 1.0, 2.0, 3.0], "float64"),
        ([True, False, True, False], "bool"),
        (["0", "1", "2", "3"], "U1"),
        ([0, 1, 2, 2], "exactly once"),
        ([1, 2, 3, 4], "exactly once"),
        ([-1, 0, 1, 2], "exactly once"),
        (np.array([2**64 - 1, 0, 1, 2], dtype=np.uint64), "exactly once"),
        ([2**70, 0, 1, 2], "object"),
        (None, "object"),
        ([[0], [1, 2], 3], "permutation"),
    ],
)
def test_what_is_no_permutation_is_named(solution: object, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        NM(2, 4).check_solution(solution, (3, 4))  # type: ignore[arg-type]


def test_a_checked_solution_is_a_copy() -> None:
    given_ = np.array([3, 2, 1, 0])
    checked = NM(2, 4).check_solution(given_, (3, 4))
    given_[:] = 0
    assert checked.tolist() == [3, 2, 1, 0]
    assert checked.dtype == np.int64


@pytest.mark.parametrize("nm", PATTERNS)
def test_score_and_mask_follow_the_definition(nm: str) -> None:
    pattern = NM.parse(nm)
    saliency = uniform(7, 48)
    perm = np.random.RandomState(2).permutation(48)
    assert pattern.score(saliency, perm) == pytest.approx(slow_score(saliency, perm, pattern.n, pattern.m), rel=1e-13)
    mask = pattern.mask(saliency, perm)
    assert mask.dtype == np.bool_
    assert is_exactly_nm(mask[:, perm], pattern.n, pattern.m)
    assert saliency[mask].sum() == pytest.approx(pattern.score(saliency, perm), rel=1e-13)


@settings(max_examples=60)
@given(st.text(max_size=12) | st.integers() | st.floats() | st.lists(st.integers(-3, 20), max_size=4) | st.none())
def test_whatever_is_written_is_a_pattern_or_an_input_error(spec: object) -> None:
    try:
        pattern = NM.parse(spec)
    except InputError:
        return
    assert 1 <= pattern.n < pattern.m


@settings(max_examples=40)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_usual_notation_reads_back(n: int, m: int) -> None:
    if n < m and m < 10**6:
        assert NM.parse(str(NM(n, m))) == NM(n, m)
    else:
        with pytest.raises(InputError):
            NM.parse(f"{max(n, m)}:{min(n, m)}")
