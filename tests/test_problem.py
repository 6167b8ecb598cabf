"""The problem: what makes one, and what its parts and figures are."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PATTERNS, slow_score, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import permsolve
from permsolve import NM, Problem
from permsolve.errors import InputError
from permsolve.stop import MaxIterations

MATRIX = uniform(5, 24) - 0.5


def test_one_matrix() -> None:
    problem = Problem.of(MATRIX, "2:4")
    assert (problem.rows, problem.cols, problem.groups) == (5, 24, 6)
    assert problem.pattern == NM(2, 4)
    assert problem.shape == (5, 24)
    assert problem.dtype == "float64"
    assert problem.saliency_name == "magnitude"
    assert problem.blocks is None
    assert problem.fingerprint == hashlib.sha256(MATRIX.tobytes()).hexdigest()
    np.testing.assert_array_equal(problem.saliency, np.abs(MATRIX))
    np.testing.assert_array_equal(problem.columns, np.abs(MATRIX).T)
    assert problem.columns.flags.c_contiguous


@pytest.mark.parametrize("nm", PATTERNS)
def test_figures_by_definition(nm: str) -> None:
    pattern = NM.parse(nm)
    matrix = uniform(5, 48)
    problem = Problem.of(matrix, nm)
    perm = np.random.RandomState(1).permutation(48)
    assert problem.score(perm) == pytest.approx(slow_score(matrix, perm, pattern.n, pattern.m), rel=1e-13)
    assert problem.baseline == pytest.approx(slow_score(matrix, range(48), pattern.n, pattern.m), rel=1e-13)
    assert problem.rows_bound == pytest.approx(np.sort(matrix)[:, 48 - 48 // pattern.m * pattern.n :].sum(), rel=1e-13)


@pytest.mark.parametrize("cols", [1, 2, 3, 5, 4098])
def test_columns_must_divide_into_groups(cols: int) -> None:
    with pytest.raises(InputError, match=f"{cols} columns"):
        Problem.of(np.ones((2, cols)))


@pytest.mark.parametrize("shape", [(6, 8, 3), (6, 8, 3, 3), (2, 8, 3, 1, 2)])
def test_convolution_weights_are_the_matrix_of_all_kernel_positions(shape: tuple[int, ...]) -> None:
    weights = np.random.RandomState(1).standard_normal(shape)
    matrix = np.moveaxis(weights, 1, -1).reshape(-1, shape[1])
    problem, flat = Problem.of(weights), Problem.of(matrix)
    np.testing.assert_array_equal(problem.columns, flat.columns)
    assert problem.shape == shape
    assert (problem.baseline, problem.rows_bound) == (flat.baseline, flat.rows_bound)


# Blocks


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ((), "()"),
        ((12, 8), "20"),
        ((12, 12, 4), "28"),
        ((24, 0), "0"),
        ((28, -4), "-4"),
        ((10, 14), "10"),
        ((12.0, 12.0), "12.0"),
        ((12, 12.5), "12.5"),
        ((True, 23), "True"),
        (("12", "12"), "'12'"),
        ("1212", "'1'"),
        (24, "24"),
        (12.5, "12.5"),
        ([[12, 12]], "[12, 12]"),
        ((None, 24), "None"),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_are_named(blocks: Any, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Problem.of(MATRIX, blocks=blocks)


@pytest.mark.parametrize("blocks", [(24,), (12, 12), [8, 4, 12], np.array([16, 8])])
def test_parts_are_the_blocks_problems(blocks: Any) -> None:
    problem = Problem.of(MATRIX, blocks=blocks)
    assert problem.blocks == tuple(int(size) for size in blocks)
    start = 0
    for (span, part), size in zip(problem.parts(), problem.blocks, strict=True):
        assert (span.start, span.stop) == (start, start + size)
        alone = Problem.of(MATRIX[:, span])
        np.testing.assert_array_equal(part.columns, alone.columns)
        assert part.blocks is None
        assert part.shape == (5, size)
        assert part.rows_bound == alone.rows_bound
        np.testing.assert_array_equal(part.packed, alone.packed)
        start += size
    assert sum(part.baseline for _, part in problem.parts()) == pytest.approx(problem.baseline)


def test_without_blocks_the_part_is_the_problem() -> None:
    problem = Problem.of(MATRIX)
    ((span, part),) = problem.parts()
    assert part is problem
    assert span == slice(0, 24)


def test_a_permutation_must_respect_the_blocks() -> None:
    problem = Problem.of(MATRIX, blocks=(12, 12))
    inside = np.concatenate([np.arange(12)[::-1], np.arange(12, 24)[::-1]])
    assert problem.check_solution(inside).tolist() == inside.tolist()
    crossing = inside.copy()
    crossing[[3, 15]] = crossing[[15, 3]]
    with pytest.raises(InputError, match=f"column {crossing[3]} "):
        problem.check_solution(crossing)
    assert Problem.of(MATRIX).check_solution(crossing).tolist() == crossing.tolist()


@pytest.mark.parametrize("perm", [np.arange(23), np.zeros(24, dtype=int), np.arange(24) + 1, np.arange(24) / 1])
def test_what_is_no_permutation_has_no_score(perm: np.ndarray) -> None:
    with pytest.raises(InputError):
        Problem.of(MATRIX).score(perm)


# Several matrices


def test_a_stack_is_the_concatenation_of_rows() -> None:
    pieces = [uniform(3, 24), uniform(5, 24, seed=2) - 1, uniform(2, 24, seed=3)]
    stack, whole = Problem.stack(pieces, (1, 4), blocks=(8, 16)), Problem.of(np.concatenate(pieces), (1, 4))
    np.testing.assert_array_equal(stack.columns, whole.columns)
    assert stack.shape == whole.shape == (10, 24)
    assert stack.blocks == (8, 16)
    assert (stack.baseline, stack.rows_bound) == (whole.baseline, whole.rows_bound)


def test_a_stack_of_linear_and_convolution_weights() -> None:
    linear, conv = uniform(3, 8).astype(np.float32), np.random.RandomState(1).standard_normal((2, 8, 3, 3))
    stack = Problem.stack([linear, conv])
    flat = np.concatenate([linear.astype(np.float64), np.moveaxis(conv, 1, -1).reshape(-1, 8)])
    np.testing.assert_array_equal(stack.columns, np.abs(flat).T)
    assert stack.shape == (21, 8)
    assert stack.dtype == "float32+float64"
    digests = [hashlib.sha256(x.tobytes()).digest() for x in (linear, conv)]
    assert stack.fingerprint == hashlib.sha256(b"".join(digests)).hexdigest()


def test_a_stack_with_one_saliency_each() -> None:
    stack = Problem.stack([MATRIX, MATRIX], saliency=["magnitude", "energy"])
    np.testing.assert_allclose(stack.saliency[5:], MATRIX**2, rtol=1e-15)
    assert stack.saliency_name == "magnitude+energy"


@pytest.mark.parametrize(
    ("matrices", "saliency", "named"),
    [
        ([], "magnitude", "non-empty"),
        (MATRIX, "magnitude", "Problem.of"),
        (5, "magnitude", "non-empty"),
        ([MATRIX, MATRIX[:, :20]], "magnitude", "[20, 24]"),
        ([MATRIX, MATRIX], ["energy"], "1 saliencies for 2"),
        ([MATRIX, MATRIX * np.nan], "magnitude", "NaN"),
        ([MATRIX, "x"], "magnitude", "str"),
    ],
)
def test_matrices_that_cannot_be_stacked(matrices: Any, saliency: Any, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Problem.stack(matrices, saliency=saliency)


# Packed saliency


def clipped(matrix: np.ndarray, n: int = 2) -> np.ndarray:
    """Return the matrix with every row clipped at its (n + 1)-th largest entry."""
    return np.minimum(matrix, np.sort(matrix, axis=1)[:, -n - 1, None])


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "1:8", "7:8"])
def test_packed_is_clipped_scaled_and_padded_with_zeros(rows: int, dtype: type, nm: str) -> None:
    matrix = (uniform(rows, 8) * 7).astype(dtype)
    problem = Problem.of(matrix, nm)
    packed = problem.packed
    assert packed.dtype == np.float32
    assert packed.shape == (8, -(-rows // 16) * 16)
    assert packed.flags.c_contiguous
    assert packed.max() == 1
    assert not packed[:, rows:].any()
    np.testing.assert_allclose(packed[:, :rows].T * problem.scale, clipped(matrix, problem.pattern.n), rtol=1e-6)


def test_packed_in_pieces_is_packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = uniform(37, 24)
    whole = Problem.of(matrix)
    for chunk in (1, 100):
        monkeypatch.setattr("permsolve.problem._CHUNK", chunk)
        pieces = Problem.of(matrix)
        np.testing.assert_array_equal(pieces.packed, whole.packed)
        assert pieces.scale == whole.scale


def test_an_outlier_does_not_blind_the_search() -> None:
    """One entry a billion times the rest: float32 in its unit sees nothing else. It is kept whatever the grouping."""
    matrix = uniform(64, 64)
    plain = permsolve.solve(matrix, method="channel_swap", options={"escapes": 0})
    matrix[5, 9] = 1e9
    result = permsolve.solve(matrix, method="channel_swap", options={"escapes": 0})
    assert plain.efficacy > 40
    assert result.efficacy > 40
    assert result.score == pytest.approx(slow_score(matrix, result.perm, 2, 4), rel=1e-15)


def test_a_row_with_few_entries_is_no_choice_at_all() -> None:
    """Up to n entries of a row are kept by any grouping: nothing of the row is left for the search."""
    matrix = np.zeros((2, 8))
    matrix[0, [1, 6]] = 5, 7
    matrix[1, [0, 1, 2]] = 3, 1, 2
    packed = Problem.of(matrix).packed
    assert not packed[:, 0].any()
    assert packed[:3, 1].tolist() == [1, 1, 1]


@settings(max_examples=200)
@given(st.data(), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (2, 6)]), st.integers(1, 3), st.integers(1, 4))
def test_differences_of_packed_scores_are_those_of_true_scores(
    data: st.DataObject, nm: tuple[int, int], groups: int, rows: int
) -> None:
    """Whatever towers over the rest; a power of two as unit, so that float32 is exact where it should be."""
    (n, m), cols = nm, groups * nm[1]
    entries = st.integers(0, 8) | st.sampled_from([2**20, 2**30, 2**40])
    matrix = data.draw(hnp.arrays(np.float64, (rows, cols), elements=entries))
    first, second = (np.array(data.draw(st.permutations(range(cols)))) for _ in range(2))
    problem = Problem.of(matrix, nm)
    packed = problem.packed[:, :rows].T.astype(np.float64) * problem.scale
    np.testing.assert_allclose(packed, clipped(matrix, n), rtol=1e-7)
    found = slow_score(packed, first, n, m) - slow_score(packed, second, n, m)
    expected = slow_score(matrix, first, n, m) - slow_score(matrix, second, n, m)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6 * cols * rows * problem.scale)


@pytest.mark.parametrize("unit", [1e300, 1e-300, 5e-324])
def test_packed_of_extreme_values(unit: float) -> None:
    matrix = np.array([[1, 2, 3, 4], [8, 0, 4, 2]]) * unit
    problem = Problem.of(matrix)
    np.testing.assert_allclose(problem.packed[:, :2].T, np.array([[1, 2, 2, 2], [2, 0, 2, 2]]) / 2, rtol=1e-6)
    assert problem.baseline == 19 * unit
    assert problem.rows_bound == 19 * unit


def test_packed_of_float32_subnormals() -> None:
    tiny = np.float32(1e-45)
    problem = Problem.of(np.array([[1, 2, 3, 4, 4, 4, 0, 0]], dtype=np.float32) * tiny)
    np.testing.assert_allclose(problem.packed[:, 0], [0.25, 0.5, 0.75, 1, 1, 1, 0, 0])
    assert problem.baseline == 15 * float(tiny)


def test_packed_of_zeros_is_zero() -> None:
    problem = Problem.of(np.zeros((3, 8)))
    assert not problem.packed.any()
    assert (problem.baseline, problem.rows_bound, problem.scale) == (0, 0, 1)


def test_a_sum_that_overflows_is_refused() -> None:
    with pytest.raises(InputError, match="overflows"):
        Problem.of(np.full((2, 4), 1e308))


def test_the_problem_does_not_change_with_the_arrays_it_was_made_of() -> None:
    for order in "CF":
        weights, saliency = np.ones((4, 8), order=order), np.ones((4, 8), order=order)  # type: ignore[call-overload]
        problem = Problem.of(weights, saliency=saliency)
        weights[:], saliency[:] = 0, 0
        assert problem.columns.all()


@settings(max_examples=40)
@given(st.lists(st.integers(-1, 5), max_size=5))
def test_blocks_fit_exactly_or_are_refused(sizes: list[int]) -> None:
    blocks = [4 * size for size in sizes]
    fits = bool(blocks) and min(blocks) > 0 and sum(blocks) == 24
    try:
        problem = Problem.of(MATRIX, blocks=blocks)
    except InputError:
        assert not fits
    else:
        assert fits
        assert len(problem.parts()) == len(blocks)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 24), st.integers(0, 6), st.integers(0, 8))
def test_a_matrix_makes_a_problem_exactly_if_its_columns_divide(
    data: st.DataObject, rows: int, cols: int, n: int, m: int
) -> None:
    matrix = data.draw(hnp.arrays(np.float64, (rows, cols), elements=st.floats(-1e6, 1e6)))
    before = matrix.tobytes()
    try:
        problem = Problem.of(matrix, (n, m))
    except InputError:
        assert not 1 <= n < m or cols % m
    else:
        assert cols % m == 0
        assert problem.baseline == pytest.approx(slow_score(np.abs(matrix), range(cols), n, m), rel=1e-12, abs=1e-300)
        assert problem.rows_bound >= problem.baseline * (1 - 1e-12)
        assert np.isfinite(problem.packed).all()
        assert 0 <= problem.packed.min() <= problem.packed.max() <= 1
    assert matrix.tobytes() == before


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permsolve.problem._LARGE", 1)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("rows", [16, 21, 64])
def test_a_large_saliency_is_held_once(rows: int) -> None:
    matrix = uniform(rows, 24).astype(np.float32)
    problem = Problem.of(matrix)
    assert np.shares_memory(problem.packed, problem.columns)
    assert problem.packed.shape == (24, -(-rows // 16) * 16)
    assert problem.packed.ctypes.data % 64 == 0
    assert problem.scale == 1
    np.testing.assert_array_equal(problem.packed[:, :rows], matrix.T)
    assert not problem.packed[:, rows:].any()
    part = problem.part(slice(8, 16))
    np.testing.assert_array_equal(part.packed[:, :rows], matrix[:, 8:16].T)
    order = np.random.RandomState(1).permutation(24)
    assert problem.group_values(order).sum() == pytest.approx(problem.score(order), rel=1e-12)
    again = pickle.loads(pickle.dumps(problem))
    np.testing.assert_array_equal(again.columns, problem.columns)
    assert again.score(order) == problem.score(order)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("kind", ["outlier", "huge", "tiny", "zero", "float64"])
def test_a_large_saliency_is_copied_where_float32_needs_it(kind: str) -> None:
    matrix = uniform(21, 24).astype(np.float64 if kind == "float64" else np.float32)
    matrix[0, 0] = {"outlier": 1e6}.get(kind, 1.0)
    matrix *= matrix.dtype.type({"huge": 1e30, "tiny": 1e-30, "zero": 0.0}.get(kind, 1.0))
    problem = Problem.of(matrix)
    assert not np.shares_memory(problem.packed, problem.columns)
    assert problem.packed.dtype == np.float32
    assert problem.packed.max() == (0 if kind == "zero" else 1)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("method", ["assignment", "annealing", "channel_swap", "exact", "local_search"])
def test_methods_on_a_saliency_that_is_held_once(method: str) -> None:
    """Rows that are no multiple of 16 make ``columns`` a view of the padded array."""
    matrix = uniform(21, 16).astype(np.float32)
    result = permsolve.solve(matrix, method=method, stop=MaxIterations(50))
    assert result.score == pytest.approx(Problem.of(matrix).score(result.perm), rel=1e-12)
    assert result.score > result.baseline


@pytest.mark.parametrize("kind", ["array", "memmap", "fortran", "strided", "big-endian", "bfloat16", "conv"])
def test_matrices_are_read_block_by_block(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one row and of all rows give the same problem, wherever the matrix lies."""
    matrix: Any = uniform(13, 24).astype(np.float16) - np.float16(0.5)
    if kind == "memmap":
        np.save(tmp_path / "matrix.npy", matrix)
        matrix = np.load(tmp_path / "matrix.npy", mmap_mode="r")[1:]
    elif kind == "fortran":
        matrix = np.asfortranarray(matrix)
    elif kind == "strided":
        matrix = np.repeat(matrix, 2, axis=0)[::2]
    elif kind == "big-endian":
        matrix = matrix.astype(">f2")
    elif kind == "bfloat16":
        matrix = pytest.importorskip("torch").tensor(matrix).bfloat16()
    elif kind == "conv":
        matrix = matrix.reshape(13, 4, 3, 2)
    problems = []
    for entries in (1, 1 << 22):
        monkeypatch.setattr("permsolve.sources.BLOCK", entries)
        problems.append(Problem.of(matrix))
    one, whole = problems
    np.testing.assert_array_equal(one.columns, whole.columns)
    assert one.fingerprint == whole.fingerprint
    expected = np.abs(np.asarray(matrix.float() if kind == "bfloat16" else matrix, dtype=np.float32))
    if kind == "conv":
        expected = np.moveaxis(expected, 1, -1).reshape(-1, 4)
    np.testing.assert_array_equal(whole.saliency, expected)


def test_nan_in_any_block_is_counted_and_the_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permsolve.sources.BLOCK", 48)
    matrix = uniform(13, 24)
    matrix[[5, 9, 12], [3, 7, 20]] = np.nan
    with pytest.raises(InputError, match=re.escape("3 NaN or infinite entries, the first at (5, 3)")):
        Problem.of(matrix)
