"""The contract that every method keeps, whatever the pattern and the matrix."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import PATTERNS, slow_score, uniform

import permsolve
from permsolve import NM, Problem, Result, Status
from permsolve.stop import MaxIterations

METHODS = permsolve.methods()
#: Iterations that pass in milliseconds; a method's unit may be a single exchange or a sweep over all of them.
ITERATIONS = {"annealing": 2000, "auto": 2000, "local_search": 40}
FEW = 8
#: Seconds by which a loaded test machine may delay an answer, on top of what the contract allows.
SLACK = 0.3

MATRIX = uniform(17, 32)

#: A NaN or an overflow inside a method is a fault even where the outcome happens to be right.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def limit(method: str, factor: float = 1.0) -> MaxIterations:
    return MaxIterations(int(ITERATIONS.get(method, FEW) * factor))


def solve(method: str, matrix: Any, nm: object = "2:4", **more: Any) -> Result:
    """Solve with a few iterations, or skip where the method says why it cannot."""
    problem = matrix if isinstance(matrix, Problem) else Problem.of(matrix, nm, blocks=more.get("blocks"))
    solver = permsolve.get_solver(method)()
    for _, part in problem.parts():
        reason = solver.supports(part)
        if reason is not None:
            pytest.skip(f"{method}: {reason}")
    return permsolve.solve(matrix, nm, method=method, stop=more.pop("stop", limit(method)), **more)


@functools.cache
def _solved(method: str, nm: str) -> Result:
    return solve(method, MATRIX, nm, seed=3, n_jobs=1)


@pytest.fixture(params=PATTERNS)
def nm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def result(method: str, nm: str) -> Result:
    """Solve the common matrix; solved once for all tests."""
    return _solved(method, nm)


def check(result: Result, matrix: np.ndarray) -> None:
    """Check what must hold of every result, with scores by the slow scorer; ``matrix`` is the saliency."""
    n, m = result.pattern.n, result.pattern.m
    assert sorted(result.perm.tolist()) == list(range(matrix.shape[1]))
    assert result.perm.dtype == np.int64
    assert result.score == pytest.approx(slow_score(matrix, result.perm, n, m), rel=1e-12, abs=0)
    assert result.baseline == pytest.approx(slow_score(matrix, range(matrix.shape[1]), n, m), rel=1e-12, abs=0)
    assert result.score >= result.baseline
    assert result.bound >= result.score * (1 - 1e-12)
    assert result.rows_bound >= result.bound
    assert isinstance(result.status, Status)


def test_permutation_score_and_bound(result: Result) -> None:
    """A permutation, scored as the slow scorer does, no worse than none, no better than the bound."""
    check(result, MATRIX)


def test_trace_rises_with_time(result: Result) -> None:
    times, scores, bounds = zip(*result.trace, strict=True)
    assert list(times) == sorted(times)
    assert times[0] == 0
    assert times[-1] <= result.runtime
    assert list(scores) == sorted(scores)
    assert list(bounds) == sorted(bounds, reverse=True)
    assert scores[0] == pytest.approx(result.baseline, rel=1e-12)
    assert scores[-1] == pytest.approx(result.score, rel=1e-12)
    assert bounds[-1] == result.bound


def test_recomputing_finds_no_fault(result: Result) -> None:
    assert result.check(MATRIX) == ()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_same_seed_same_permutation(method: str, nm: str, result: Result, n_jobs: int) -> None:
    again = solve(method, MATRIX, nm, seed=3, n_jobs=n_jobs)
    assert again.perm.tolist() == result.perm.tolist()
    assert again.score == result.score
    assert again.iterations == result.iterations


def test_threads_do_not_matter_where_work_is_shared(method: str) -> None:
    """Several windows, gain matrices above one row block, an odd number of slots: one, two and three threads agree."""
    matrix = uniform(700, 288)
    few = MaxIterations({"annealing": 20_000, "auto": 60, "local_search": 20}.get(method, 3))
    perms = {tuple(solve(method, matrix, seed=1, n_jobs=jobs, stop=few).perm) for jobs in (1, 2, 3)}
    assert len(perms) == 1


def test_input_is_not_modified(method: str, nm: str) -> None:
    matrix = MATRIX - 0.5
    before = matrix.tobytes()
    solve(method, matrix, nm)
    assert matrix.tobytes() == before


def test_read_only_input_is_accepted(method: str) -> None:
    matrix = MATRIX.copy()
    matrix.flags.writeable = False
    check(solve(method, matrix), matrix)


def test_no_global_random_state(method: str) -> None:
    np.random.seed(7)  # noqa: NPY002 - the global stream is what is watched
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    solve(method, MATRIX)
    assert np.random.rand() == expected  # noqa: NPY002


def test_columns_stay_in_their_blocks(method: str, nm: str) -> None:
    result = solve(method, np.hstack([MATRIX, MATRIX[:, ::-1], MATRIX[:, 1::2]]), nm, blocks=(32, 48))
    assert set(result.perm[:32].tolist()) == set(range(32))
    assert set(result.perm[32:].tolist()) == set(range(32, 80))
    assert result.score >= result.baseline
    assert result.blocks == (32, 48)


def test_blocks_of_one_group_have_nothing_to_search(method: str) -> None:
    if permsolve.get_solver(method)().supports(Problem.of(MATRIX[:, :4])) is not None:
        pytest.skip("needs more than one group")
    result = solve(method, MATRIX, blocks=(4,) * 8)
    assert result.score == result.baseline


def test_an_initial_permutation_is_never_made_worse(method: str, nm: str) -> None:
    stream = np.random.RandomState(5)
    start = np.asarray(max((stream.permutation(32) for _ in range(20)), key=Problem.of(MATRIX, nm).score))
    result = solve(method, MATRIX, nm, initial=start, stop=limit(method, 0.5))
    pattern = NM.parse(nm)
    assert result.score >= slow_score(MATRIX, start, pattern.n, pattern.m) * (1 - 1e-12)
    check(result, MATRIX)


def test_json_and_pickle_round_trips(result: Result) -> None:
    for again in (Result.from_json(result.to_json()), pickle.loads(pickle.dumps(result))):
        assert again.to_json() == result.to_json()
        assert again.perm.tolist() == result.perm.tolist()
        assert again.check(MATRIX) == ()


def test_no_iterations_allowed(method: str) -> None:
    check(solve(method, MATRIX, stop=MaxIterations(0)), MATRIX)


def test_a_limit_on_iterations_is_named(method: str) -> None:
    """A method that is stopped says by what; one that ended by itself says nothing."""
    result = solve(method, MATRIX, stop=MaxIterations(1))
    if result.status is Status.STOPPED:
        assert result.stopped_by == "MaxIterations(iterations=1)"
        assert result.iterations >= 1
    else:
        assert result.status in (Status.COMPLETED, Status.LOCAL_OPTIMUM)


def overrun(method: str, matrix: np.ndarray, seconds: float, **more: Any) -> float:
    """Return by how much a method overruns its time, at best of three: this machine may be busy with something else."""
    return min(solve(method, matrix, stop=None, time_limit=seconds, **more).runtime - seconds for _ in range(3))


@pytest.mark.parametrize("nm", ["2:4", "4:8"])
def test_stops_in_time(method: str, nm: str) -> None:
    """Up to 512 columns a limit is met within the larger of 50 ms and 5%."""
    assert overrun(method, uniform(256, 512), 0.1, nm=nm) <= max(0.05, 0.05 * 0.1) + SLACK


def test_stops_in_time_with_blocks(method: str) -> None:
    """The blocks share the time."""
    assert overrun(method, uniform(64, 512), 0.1, blocks=(128,) * 4) <= 0.05 + SLACK


def tied() -> np.ndarray:
    return np.random.RandomState(2).randint(0, 3, size=(9, 24))


MATRICES: dict[str, Callable[[], np.ndarray]] = {
    "one row": lambda: uniform(1, 24),
    "three rows": lambda: uniform(3, 24),
    "seventeen rows": lambda: uniform(17, 24),
    "one column varies": lambda: np.hstack([np.full((5, 23), 0.5), uniform(5, 1)]),
    "constant": lambda: np.full((5, 24), 0.1),
    "all zero": lambda: np.zeros((5, 24)),
    "a zero row and a zero column": lambda: np.pad(uniform(4, 23), ((0, 1), (0, 1))),
    "duplicated columns": lambda: np.repeat(uniform(5, 6), 4, axis=1),
    "tied integers": tied,
    "negative": lambda: uniform(5, 24) - 1.0,
    "sparse": lambda: uniform(5, 24) * (uniform(5, 24, seed=2) < 0.1),
    "heavy tails": lambda: np.exp(12 * uniform(5, 24)),
    "int8": lambda: np.random.RandomState(3).randint(-128, 128, size=(5, 24)).astype(np.int8),
    "int64": lambda: tied().astype(np.int64) * 10**15,
    "bool": lambda: uniform(5, 24) < 0.5,
    "float16": lambda: (uniform(5, 24) - 0.5).astype(np.float16),
    "float32": lambda: uniform(5, 24).astype(np.float32),
    "huge": lambda: uniform(5, 24) * 1e300,
    "tiny": lambda: uniform(5, 24) * 1e-300,
    "subnormal float32": lambda: np.random.RandomState(4).randint(0, 100, size=(5, 24)).astype(np.float32) * 1e-45,
    "Fortran order": lambda: np.asfortranarray(uniform(5, 24)),
    "negative strides": lambda: uniform(10, 48)[::-2, ::-2],
    "big-endian": lambda: uniform(5, 24).astype(">f4"),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_every_kind_of_matrix(method: str, kind: str) -> None:
    matrix = MATRICES[kind]()
    check(solve(method, matrix), np.abs(matrix.astype(np.float64)))


def test_one_group(method: str) -> None:
    """There is one way to put m columns into one group, and that is proved best."""
    result = solve(method, uniform(5, 4))
    check(result, uniform(5, 4))
    assert result.status is Status.OPTIMAL
    assert result.score == result.baseline == result.bound


@pytest.mark.parametrize("kind", ["constant", "all zero"])
def test_a_matrix_without_a_choice_is_optimal_at_once(method: str, kind: str) -> None:
    """Where the identity meets the bound on all rows, nothing is left to search."""
    result = solve(method, MATRICES[kind]())
    assert result.status is Status.OPTIMAL
    assert result.gap == 0
    assert result.efficacy == 100


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8"])
def test_torch_tensors(method: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = (torch.from_numpy(MATRIX[:5, :24]) * 50 - 20).to(getattr(torch, dtype))
    before = tensor.clone()
    result = solve(method, tensor)
    assert torch.equal(tensor, before)
    assert result.dtype == dtype
    check(result, tensor.double().abs().numpy())
