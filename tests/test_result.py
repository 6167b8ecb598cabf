"""A result: what it does to matrices, and how it is checked."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from typing import Any

import numpy as np
import pytest
from helpers import PATTERNS, is_exactly_nm, uniform

import permsolve
from permsolve import NM, Problem, Result, Status
from permsolve.errors import InputError
from permsolve.stop import MaxIterations

MATRIX = uniform(9, 32) - 0.5
FEW = MaxIterations(4000)
RESULT = permsolve.solve(MATRIX, method="annealing", stop=FEW)
BLOCKED = permsolve.solve(MATRIX, method="annealing", stop=FEW, blocks=(16, 16))


def test_apply_permutes_the_input_channels() -> None:
    permuted = RESULT.apply(MATRIX)
    np.testing.assert_array_equal(permuted, MATRIX[:, RESULT.perm])
    assert permuted.flags.owndata or permuted.base is not MATRIX
    np.testing.assert_array_equal(permuted[:, RESULT.inverse], MATRIX)
    kept = np.sort(np.abs(permuted).reshape(9, 8, 4), axis=2)[:, :, 2:].sum()
    assert kept == pytest.approx(RESULT.score, rel=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "bool", "complex128", "U3"])
@pytest.mark.parametrize("shape", [(2, 32), (2, 32, 3), (2, 32, 3, 1), (0, 32)])
def test_apply_keeps_kind_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    permuted = RESULT.apply(array)
    assert (permuted.dtype, permuted.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(permuted, array[:, RESULT.perm])


@pytest.mark.parametrize("array", [np.ones(32), np.ones((32, 31)), np.ones((32, 4)), [1, 2], 5])
def test_apply_to_another_number_of_channels(array: Any) -> None:
    with pytest.raises(InputError, match="32 input channels") as caught:
        RESULT.apply(array)
    assert str(np.shape(array)) in str(caught.value)
    with pytest.raises(InputError):
        RESULT.mask(array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", [(2, 32), (2, 32, 3, 3)])
def test_apply_to_tensors(dtype: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = torch.arange(np.prod(shape)).reshape(shape).to(getattr(torch, dtype))
    permuted = RESULT.apply(tensor)
    assert permuted.dtype == tensor.dtype
    assert torch.equal(permuted, tensor[:, RESULT.perm.tolist()])
    assert torch.equal(permuted[:, RESULT.inverse.tolist()], tensor)


def test_apply_to_a_parameter_carries_the_gradient() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    parameter = torch.nn.Parameter(torch.ones(2, 32))
    (RESULT.apply(parameter) * torch.arange(32)).sum().backward()
    assert parameter.grad[0].tolist() == RESULT.inverse.tolist()


@pytest.mark.gpu
def test_apply_on_a_gpu_stays_there() -> None:
    import torch

    tensor = torch.rand(4, 32, device="cuda")
    permuted = RESULT.apply(tensor)
    assert permuted.device == tensor.device
    assert torch.equal(permuted.cpu(), tensor.cpu()[:, RESULT.perm.tolist()])


@pytest.mark.parametrize("nm", PATTERNS)
def test_masked_and_permuted_is_exactly_nm(nm: str) -> None:
    pattern = NM.parse(nm)
    result = permsolve.solve(MATRIX, nm, method="annealing", stop=FEW)
    mask = result.mask(MATRIX)
    assert mask.dtype == np.bool_
    assert mask.shape == MATRIX.shape
    assert is_exactly_nm(result.apply(mask), pattern.n, pattern.m)
    assert np.abs(MATRIX * mask).sum() == pytest.approx(result.score, rel=1e-12)
    assert is_exactly_nm(result.apply(MATRIX * mask) != 0, pattern.n, pattern.m)


@pytest.mark.parametrize("nm", ["2:4", "1:16"])
def test_ties_leave_exactly_n_of_m(nm: str) -> None:
    pattern = NM.parse(nm)
    for matrix in (np.zeros((3, 32)), np.full((3, 32), -7), np.random.RandomState(1).randint(-1, 2, (9, 32))):
        result = permsolve.solve(matrix, nm, method="random", stop=MaxIterations(5))
        assert is_exactly_nm(result.apply(result.mask(matrix)), pattern.n, pattern.m)


def test_the_mask_ranks_by_the_saliency_of_the_solve_where_it_has_a_name() -> None:
    result = permsolve.solve(MATRIX, method="annealing", stop=FEW, saliency="energy")
    assert (MATRIX**2)[result.mask(MATRIX)].sum() == pytest.approx(result.score, rel=1e-12)
    assert result.check(MATRIX) == ()


@pytest.mark.parametrize("saliency", [permsolve.saliency.Wanda(np.arange(32) + 1.0), MATRIX**4])
def test_a_saliency_without_a_name_must_be_given_again(saliency: Any) -> None:
    result = permsolve.solve(MATRIX, method="annealing", stop=FEW, saliency=saliency)
    values = Problem.of(MATRIX, saliency=saliency).saliency
    assert values[result.mask(MATRIX, saliency=saliency)].sum() == pytest.approx(result.score, rel=1e-12)
    assert result.check(MATRIX, saliency) == ()
    for needs in (result.mask, result.check):
        with pytest.raises(InputError, match="pass saliency="):
            needs(MATRIX)


def test_masks_of_tensors_and_convolutions() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    weights = torch.randn(3, 32, 3, 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    result = permsolve.solve(weights, method="annealing", stop=FEW)
    mask = result.mask(weights)
    assert mask.shape == (3, 32, 3, 3)
    kept = (weights * torch.from_numpy(mask)).double().abs().sum()
    assert float(kept) == pytest.approx(result.score, rel=1e-9)
    assert result.check(weights) == ()


def test_solution_and_inverse_cannot_be_changed() -> None:
    for again in (RESULT, pickle.loads(pickle.dumps(RESULT)), copy.deepcopy(RESULT), copy.copy(RESULT)):
        for array in (again.solution, again.perm, again.inverse):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        RESULT.score = 1e9  # type: ignore[misc]


def test_a_result_holds_no_matrix() -> None:
    wide = permsolve.solve(np.ones((4000, 8)) + np.arange(8), method="identity")
    assert len(pickle.dumps(wide)) < 5000


def test_pickling_keeps_every_field() -> None:
    RESULT.inverse  # noqa: B018 - a derived array that must not travel
    again = pickle.loads(pickle.dumps(RESULT))
    for field in dataclasses.fields(Result):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(RESULT, field.name))
    assert "inverse" not in RESULT.__getstate__()
    assert again.inverse.tolist() == RESULT.inverse.tolist()


def test_summary_names_what_matters() -> None:
    text = RESULT.summary()
    for part in ("2:4", "9 x 32 float64", "magnitude", "annealing", "MaxIterations(iterations=4000)", "stopped"):
        assert part in text
    assert f"{RESULT.efficacy:.2f} %" in text
    assert f"{RESULT.score:.6g}" in text


# Checking


def test_a_true_result_has_no_fault() -> None:
    assert RESULT.check(MATRIX) == ()
    assert RESULT.check(Problem.of(MATRIX)) == ()
    assert BLOCKED.check(MATRIX) == ()
    assert RESULT.check(np.asfortranarray(MATRIX)) == ()


def swapped(result: Result) -> np.ndarray:
    """Exchange two columns of different groups: a permutation, but another score."""
    perm = result.perm.copy()
    perm[[0, 9]] = perm[[9, 0]]
    return perm


TAMPERED: dict[str, tuple[Result, dict[str, Any], str]] = {
    "another permutation": (RESULT, {"solution": swapped(RESULT)}, "score"),
    "a column twice": (RESULT, {"solution": np.zeros(32, dtype=int)}, "solution"),
    "a column too few": (RESULT, {"solution": np.arange(31)}, "solution"),
    "a better score": (RESULT, {"score": RESULT.score * (1 + 1e-8)}, "score"),
    "a score of NaN": (RESULT, {"score": float("nan")}, "score"),
    "a lower baseline": (RESULT, {"baseline": RESULT.baseline * 0.99}, "baseline"),
    "a lower rows bound": (RESULT, {"rows_bound": RESULT.rows_bound * 0.999}, "rows_bound"),
    "a bound below the score": (RESULT, {"bound": RESULT.score * 0.9, "bound_kind": "exact"}, "bound"),
    "a bound that is not of rows": (RESULT, {"bound": RESULT.rows_bound * 0.999}, "bound"),
    "a bound of NaN": (RESULT, {"bound": float("nan"), "bound_kind": "lp"}, "bound"),
    "optimal": (RESULT, {"status": Status.OPTIMAL}, "status"),
    "another matrix": (RESULT, {"fingerprint": "0" * 64}, "fingerprint"),
    "another dtype": (RESULT, {"dtype": "float32"}, "dtype"),
    "another shape": (RESULT, {"shape": (32, 32)}, "shape"),
    "another pattern": (RESULT, {"pattern": NM(1, 4)}, "score"),
    "another pattern, one that scores": (RESULT, {"pattern": NM(4, 8)}, "score"),
    "another saliency": (RESULT, {"saliency": "energy"}, "score"),
    "blocks that were left": (RESULT, {"blocks": (16, 16)}, "solution"),
    "finer blocks than there were": (BLOCKED, {"blocks": (4,) * 8}, "solution"),
}


@pytest.mark.parametrize("how", ["matrix", "problem"])
@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(name: str, how: str) -> None:
    """Whatever was changed, and whether the check gets the matrix or the problem that the result was made for."""
    result, change, found = TAMPERED[name]
    false = dataclasses.replace(result, **change)
    matrix = MATRIX if how == "matrix" else Problem.of(MATRIX, blocks=result.blocks)
    faults = false.check(matrix)
    assert faults
    if how == "matrix":
        assert any(re.match(f"{found}|the matrix has {found}", fault) for fault in faults)


@pytest.mark.parametrize("change", ["one entry", "another shape", "another dtype", "another matrix of that shape"])
def test_another_matrix_is_found(change: str) -> None:
    matrix = MATRIX.copy()
    if change == "one entry":
        matrix[8, 31] = np.nextafter(matrix[8, 31], 1)
    elif change == "another shape":
        matrix = matrix[:8]
    elif change == "another dtype":
        matrix = matrix.astype(np.float32)
    else:
        matrix = uniform(9, 32, seed=2)
    assert RESULT.check(matrix)
    assert RESULT.check(Problem.of(matrix))


def test_every_fault_is_named_not_only_the_first() -> None:
    false = dataclasses.replace(RESULT, score=1.0, baseline=2.0, fingerprint="0" * 64)
    assert len(false.check(MATRIX)) >= 3


def test_a_matrix_that_cannot_be_used_is_an_error() -> None:
    with pytest.raises(InputError, match="NaN"):
        RESULT.check(np.full((9, 32), np.nan))
