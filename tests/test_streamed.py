"""Matrices that do not fit into the memory they are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Problem, saliency, sources, streamed
from permsolve.errors import InputError, UnsupportedProblemError
from permsolve.stop import MaxIterations
from permsolve.streamed import Streamed, memory_in_bytes, open_problem

MATRIX = (uniform(700, 96) - 0.4).astype(np.float16)


@pytest.fixture(autouse=True)
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, and let work space cost nothing."""
    monkeypatch.setattr(sources, "BLOCK", 100 * 96)
    monkeypatch.setattr(streamed, "OVERHEAD", 1)


def stream(matrix: object = MATRIX, nm: object = "2:4", rule: object = "magnitude") -> Streamed:
    problem = open_problem(matrix, nm, rule, None, 1000)
    assert isinstance(problem, Streamed)
    return problem


def test_a_streamed_problem_is_the_same_problem() -> None:
    whole, order = Problem.of(MATRIX), np.random.RandomState(1).permutation(96)
    problem = stream()
    for name in ("rows", "cols", "groups", "shape", "dtype", "fingerprint", "saliency_name", "pattern", "blocks"):
        assert getattr(problem, name) == getattr(whole, name), name
    assert problem.streamed and not whole.streamed
    assert problem.baseline == pytest.approx(whole.baseline, rel=1e-12)
    assert problem.rows_bound == pytest.approx(whole.rows_bound, rel=1e-12)
    assert problem.score(order) == pytest.approx(whole.score(order), rel=1e-12)
    np.testing.assert_allclose(problem.column_sums, whole.column_sums, rtol=1e-12)
    np.testing.assert_allclose(problem.group_values(order), whole.group_values(order), rtol=1e-12)
    np.testing.assert_allclose(problem.group_values(order[:8]), whole.group_values(order[:8]), rtol=1e-12)


def test_the_chunks_are_all_rows_once() -> None:
    chunks = [chunk.copy() for chunk in stream().chunks()]
    assert [chunk.shape for chunk in chunks] == [(96, 112)] * 7
    rows = np.concatenate([chunk[:, :100] for chunk in chunks], axis=1)
    np.testing.assert_allclose(rows, Problem.of(MATRIX).packed[:, :700], rtol=1e-6)
    assert not any(chunk[:, 100:].any() for chunk in chunks)


@pytest.mark.parametrize("method", ["assignment", "auto", "identity", "random"])
def test_methods_that_stream(method: str) -> None:
    result = permsolve.solve(MATRIX, method=method, memory_limit=1000, stop=MaxIterations(20))
    assert result.score == pytest.approx(Problem.of(MATRIX).score(result.perm), rel=1e-12)
    if method in ("assignment", "auto"):
        whole = permsolve.solve(MATRIX, method="assignment", stop=MaxIterations(20))
        assert result.efficacy > 0.9 * whole.efficacy > 0


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_threads_change_nothing(n_jobs: int) -> None:
    runs = [
        permsolve.solve(MATRIX, method="assignment", memory_limit=1000, stop=MaxIterations(5), n_jobs=jobs)
        for jobs in (1, n_jobs)
    ]
    assert runs[0].perm.tolist() == runs[1].perm.tolist()


def test_a_convolution_a_wide_type_and_a_saliency_array() -> None:
    kernels = np.random.RandomState(1).standard_normal((60, 32, 3, 2))
    importance = np.abs(kernels) * 2
    for rule in ("energy", importance, saliency.Wanda(np.arange(32.0))):
        problem, whole = stream(kernels, "1:4", rule), Problem.of(kernels, "1:4", saliency=rule)
        order = np.random.RandomState(2).permutation(32)
        assert problem.score(order) == pytest.approx(whole.score(order), rel=1e-12)
        assert (problem.shape, problem.fingerprint) == (whole.shape, whole.fingerprint)


def test_what_cannot_be_streamed_says_so() -> None:
    with pytest.raises(UnsupportedProblemError, match=r"memory_limit.*assignment, auto"):
        permsolve.solve(MATRIX, method="annealing", memory_limit=1000)
    with pytest.raises(UnsupportedProblemError, match="lp"):
        permsolve.solve(MATRIX, bound="lp", memory_limit=1000)
    with pytest.raises(InputError, match="blocks"):
        permsolve.solve(MATRIX, blocks=[48, 48], memory_limit=1000)

    class Whole:
        name = "whole"

        def __call__(self, weights: np.ndarray) -> np.ndarray:
            return np.abs(weights) / np.abs(weights).max()

    with pytest.raises(InputError, match=r"'whole'.*whole matrix"):
        permsolve.solve(MATRIX, saliency=Whole(), memory_limit=1000)
    with pytest.raises(InputError, match="in memory"):
        _ = stream().packed


def test_a_limit_too_small_even_for_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "OVERHEAD", 10**8)
    with pytest.raises(InputError, match=r"memory_limit allows 0.05 GB; streaming it takes 0.1 GB"):
        permsolve.solve(MATRIX, memory_limit="50 MB")


def test_bad_entries_are_found_in_any_block() -> None:
    matrix = MATRIX.copy()
    matrix[650, 3] = np.nan
    with pytest.raises(InputError, match="rows 600 to 699"):
        permsolve.solve(matrix, memory_limit=1000)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1000, 1000), ("2 GB", 2 * 10**9), ("512MiB", 2**29), ("1.5kb", 1500), (" 7 ", 7), (np.int64(5), 5)],
)
def test_limits(limit: object, expected: int) -> None:
    assert memory_in_bytes(limit) == expected
    assert memory_in_bytes(None) > 2**28


@pytest.mark.parametrize("limit", [0, -1, "much", "2 TBX", "", 1.5, True, "-1 GB", [1]])
def test_limits_that_are_none(limit: object) -> None:
    with pytest.raises(InputError, match="memory_limit"):
        memory_in_bytes(limit)


MEASURE = """
import resource, sys
import numpy as np, permsolve
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
stop = permsolve.stop.MaxIterations(2)
small = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float16)
permsolve.solve(small, method="assignment", stop=stop)  # imports and compilation
before = peak()
matrix = np.load(sys.argv[1], mmap_mode="r")
limit = None if sys.argv[2] == "-" else sys.argv[2]
permsolve.solve(matrix, method="assignment", stop=stop, memory_limit=limit)
print(peak() - before)
"""


@pytest.mark.parametrize("limit", ["-", "110 MB"])
def test_memory_stays_within_the_documented_bound(tmp_path: Path, limit: str) -> None:
    """In memory: 4 bytes an entry and 100 MB; streamed: the limit. The file has 64 MB."""
    rows, cols = 32768, 1024
    file = tmp_path / "matrix.npy"
    matrix = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(rows, cols))
    stream = np.random.default_rng(0)
    for start in range(0, rows, 4096):
        matrix[start : start + 4096] = stream.standard_normal((4096, cols), dtype=np.float32)
    matrix.flush()
    del matrix
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file), limit], check=True, capture_output=True, text=True, timeout=300
    )
    allowed = 4 * rows * cols + 100e6 if limit == "-" else 110e6
    assert int(done.stdout) <= allowed


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_streamed_rows_are_scaled_before_they_become_float32(scale: float) -> None:
    matrix = MATRIX.astype(np.float64)
    plain, scaled = (
        permsolve.solve(each, method="assignment", memory_limit=1000, stop=MaxIterations(15))
        for each in (matrix, matrix * scale)
    )
    assert scaled.efficacy == pytest.approx(plain.efficacy, rel=0.02)


def test_outliers_do_not_blind_a_streamed_search() -> None:
    matrix = MATRIX.astype(np.float64)
    matrix[3, [5, 7]] = 1e12
    chunks = np.concatenate(list(chunk.copy() for chunk in stream(matrix).chunks()), axis=1)
    assert chunks.max() == 1
    assert np.median(chunks[chunks > 0]) > 0.1


def test_sums_that_overflow_are_refused() -> None:
    matrix = np.zeros((700, 96))
    matrix[400:] = 1e308
    with pytest.raises(InputError, match="overflows"):
        permsolve.solve(matrix, memory_limit=1000)


def test_wide_types_count_three_times() -> None:
    """A saliency of float64 is held as float64 and, for the search, as float32."""
    entries = MATRIX.size
    for matrix, rule, streams in (
        (MATRIX, "magnitude", False),
        (MATRIX, "energy", True),
        (MATRIX.astype(np.int32), "magnitude", True),
        (MATRIX.astype(np.float64), "magnitude", True),
    ):
        problem = open_problem(matrix, "2:4", rule, None, 8 * entries)
        assert problem.streamed == streams


def test_a_problem_in_memory_takes_no_limit_and_a_streamed_one_no_parts() -> None:
    with pytest.raises(InputError, match="too late"):
        permsolve.solve(Problem.of(MATRIX), memory_limit="1 GB")
    with pytest.raises(InputError, match="parts"):
        stream().part(slice(0, 8))
