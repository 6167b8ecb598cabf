"""Saliencies: by name, by object, by array."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import uniform

from permsolve import Problem
from permsolve.errors import InputError
from permsolve.saliency import Energy, Magnitude, Wanda

MATRIX = uniform(3, 8) - 0.5
NORMS = np.arange(8) / 4


class Doubled:
    """A saliency of somebody else."""

    name = "doubled"

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return 2 * np.abs(weights)


class Broken:
    """A saliency that answers whatever it is told to."""

    name = "broken"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, weights: np.ndarray) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("saliency", "name", "expected"),
    [
        ("magnitude", "magnitude", np.abs(MATRIX)),
        (Magnitude(), "magnitude", np.abs(MATRIX)),
        ("energy", "energy", MATRIX**2),
        (Energy(), "energy", MATRIX**2),
        (Wanda(NORMS), "wanda", np.abs(MATRIX) * NORMS),
        (Doubled(), "doubled", 2 * np.abs(MATRIX)),
        (MATRIX**4, "array", MATRIX**4),
        ((MATRIX**4).tolist(), "array", MATRIX**4),
        (MATRIX > 0, "array", MATRIX > 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_saliency(saliency: object, name: str, expected: np.ndarray) -> None:
    problem = Problem.of(MATRIX, saliency=saliency)
    np.testing.assert_allclose(problem.saliency, expected, rtol=1e-15)
    assert problem.saliency_name == name


@pytest.mark.parametrize("name", ["wanda", "ria", "obs", "sparsegpt"])
def test_a_name_that_needs_activations_says_so(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' needs activations"):
        Problem.of(MATRIX, saliency=name)


@pytest.mark.parametrize(
    ("saliency", "named"),
    [
        ("Magnitude", "'Magnitude'"),
        ("", "''"),
        ("taylor", "magnitude, energy"),
        (None, "None"),
        (Wanda, "Wanda is a class"),
        (np.ones((3, 4)), "(3, 4)"),
        (np.ones((8, 3)), "(8, 3)"),
        (np.ones(8), "(8,)"),
        (5.0, "()"),
        (-np.ones((3, 8)), "negative"),
        (np.where(MATRIX < 0, -1e-9, 0.5), "negative"),
        (np.full((3, 8), np.nan), "NaN"),
        (np.full((3, 8), np.inf), "infinite"),
        (np.ones((3, 8), dtype=complex), "complex128"),
        ([[1.0] * 8, [1.0] * 8, [1.0] * 7], "saliency"),
        (abs, "object"),
        (Broken(np.ones((3, 4))), "'broken'"),
        (Broken(-np.ones((3, 8))), "'broken'"),
        (Broken(np.full((3, 8), np.nan)), "'broken'"),
        (Broken(np.ones((3, 8), dtype=complex)), "'broken'"),
        (Broken(np.full((3, 8), "x")), "'broken'"),
        (Broken(None), "'broken'"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_saliency_is_named(saliency: object, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Problem.of(MATRIX, saliency=saliency)


def test_energy_of_small_weights_does_not_vanish() -> None:
    weights = np.full((2, 4), 1e-30, dtype=np.float32)
    assert Problem.of(weights, saliency="energy").baseline == pytest.approx(4 * 1e-60, rel=1e-6)


def test_energy_that_overflows_is_refused() -> None:
    with pytest.raises(InputError, match="'energy' is not finite"):
        Problem.of(np.full((2, 4), 1e200), saliency="energy")


def test_wanda_scales_the_channels_of_a_convolution() -> None:
    weights = np.random.RandomState(1).standard_normal((4, 8, 3, 3))
    problem = Problem.of(weights, saliency=Wanda(NORMS))
    expected = np.abs(weights) * NORMS[None, :, None, None]
    np.testing.assert_allclose(problem.saliency, np.moveaxis(expected, 1, -1).reshape(-1, 8))


@pytest.mark.parametrize(
    "norms",
    [[[1.0, 2.0]], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0], ["a", "b"], [1j, 2j], 3.0, None, [[1.0], [2.0, 3.0]]],
)
def test_norms_that_wanda_cannot_use(norms: object) -> None:
    with pytest.raises(InputError, match="Wanda"):
        Wanda(norms)  # type: ignore[arg-type]


def test_wanda_needs_a_norm_for_every_channel() -> None:
    with pytest.raises(InputError, match="7 norms for 8"):
        Problem.of(MATRIX, saliency=Wanda(np.ones(7)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_tensor_may_be_the_saliency(dtype: str, gradient: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    saliency = torch.ones(3, 8, dtype=getattr(torch, dtype), requires_grad=gradient)
    problem = Problem.of(MATRIX, saliency=saliency)
    assert problem.saliency_name == "array"
    assert problem.baseline == 12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_may_be_norms(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    norms = torch.arange(8).to(getattr(torch, dtype))
    problem = Problem.of(MATRIX, saliency=Wanda(norms))
    np.testing.assert_allclose(problem.saliency, np.abs(MATRIX) * np.arange(8))


def test_the_fingerprint_is_that_of_the_weights_not_of_the_saliency() -> None:
    assert Problem.of(MATRIX, saliency="energy").fingerprint == Problem.of(MATRIX).fingerprint
