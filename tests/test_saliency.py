"""Saliencies: by name, by object, by array."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import uniform

from permsolve import Problem
from permsolve.errors import InputError
from permsolve.saliency import OBS, RIA, Energy, Magnitude, Wanda

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


@pytest.mark.parametrize("name", ["wanda", "ria", "obs", "output_error", "sparsegpt"])
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


def test_ria_is_the_published_formula() -> None:
    weights = np.array([[3.0, -1.0, 0.0, 4.0], [1.0, 1.0, 0.0, -2.0]])
    norms = np.array([4.0, 1.0, 9.0, 0.25])
    rows, columns = (8.0, 4.0), (4.0, 2.0, 0.0, 6.0)
    expected = [
        [(abs(w) / rows[r] + (abs(w) / columns[c] if w else 0)) * norms[c] ** 0.5 for c, w in enumerate(row)]
        for r, row in enumerate(weights.tolist())
    ]
    problem = Problem.of(weights, saliency=RIA(norms))
    np.testing.assert_allclose(problem.saliency, expected, rtol=1e-15)
    assert problem.saliency_name == "ria"
    empty = np.vstack([weights, np.zeros(4)])
    assert np.array_equal(RIA(norms)(empty)[2], np.zeros(4))
    np.testing.assert_allclose(RIA(norms)(empty)[:2], expected, rtol=1e-15)


def test_ria_of_a_convolution_is_that_of_its_matrix() -> None:
    weights = np.random.RandomState(1).standard_normal((4, 8, 3, 3))
    matrix = np.moveaxis(weights, 1, -1).reshape(-1, 8)
    of_matrix = Problem.of(matrix, saliency=RIA(NORMS)).saliency
    np.testing.assert_allclose(Problem.of(weights, saliency=RIA(NORMS)).saliency, of_matrix, rtol=1e-13)


def second_moment(samples: int, features: int) -> np.ndarray:
    """Of inputs that depend on each other."""
    generator = np.random.RandomState(3)
    inputs = generator.standard_normal((samples, features)) @ generator.standard_normal((features, features))
    return inputs.T @ inputs / samples


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_obs_divides_by_the_diagonal_of_the_inverse(damping: float) -> None:
    moment = second_moment(50, 8)
    inverse = np.linalg.inv(moment + damping * np.trace(moment) / 8 * np.eye(8))
    saliency = OBS(moment, damping)
    np.testing.assert_allclose(saliency.inverse_diagonal, np.diag(inverse), rtol=1e-9)
    problem = Problem.of(MATRIX, saliency=saliency)
    np.testing.assert_allclose(problem.saliency, MATRIX**2 / np.diag(inverse), rtol=1e-9)
    assert problem.saliency_name == "obs"


def test_obs_is_the_loss_of_leaving_out_a_weight_and_fitting_the_others_anew() -> None:
    moment, weights = second_moment(50, 4), MATRIX[:1, :4]
    found = OBS(moment, 0.0)(weights)
    for gone in range(4):
        others = [k for k in range(4) if k != gone]
        change = np.linalg.solve(moment[np.ix_(others, others)], moment[others, gone]) * weights[0, gone]
        step = np.zeros(4)
        step[others], step[gone] = change, -weights[0, gone]
        assert found[0, gone] == pytest.approx(step @ moment @ step, rel=1e-9)


def test_obs_of_a_convolution_has_a_feature_per_channel_and_position() -> None:
    weights = np.random.RandomState(1).standard_normal((4, 8, 3, 2))
    moment = second_moment(100, 48)
    inverse = np.diag(np.linalg.inv(moment + 0.01 * np.trace(moment) / 48 * np.eye(48)))
    expected = (weights.reshape(4, 48) ** 2 / inverse).reshape(weights.shape)
    np.testing.assert_allclose(OBS(moment)(weights), expected, rtol=1e-8)
    problem = Problem.of(weights, saliency=OBS(moment))  # block by block of the outputs
    np.testing.assert_allclose(problem.saliency, np.moveaxis(expected, 1, -1).reshape(-1, 8), rtol=1e-8)
    with pytest.raises(InputError, match=re.escape("48 features for weights of 72 (8 x 3 x 3)")):
        OBS(moment)(np.ones((4, 8, 3, 3)))


def test_obs_with_too_few_samples_needs_damping() -> None:
    few = second_moment(5, 8)
    saliency = OBS(few)(MATRIX)
    assert np.isfinite(saliency).all()
    assert (saliency > 0).all()
    with pytest.raises(InputError, match=r"fewer samples than features.* a damping above 0 \(0\.01 is usual\)"):
        OBS(few, damping=0.0)
    dead = second_moment(50, 8)
    dead[3], dead[:, 3] = 0, 0
    assert np.argmin(OBS(dead)(np.ones((1, 8)))) == 3
    with pytest.raises(InputError, match="always zero"):
        OBS(dead, damping=0)
    with pytest.raises(InputError, match="all zero"):
        OBS(np.zeros((8, 8)))


@pytest.mark.parametrize(
    ("moment", "damping", "message"),
    [
        (np.ones(8), 0.01, "got shape (8,)"),
        (np.ones((8, 7)), 0.01, "got shape (8, 7)"),
        (np.full((2, 2), np.nan), 0.01, "not finite"),
        (np.array([[1.0, 0.5], [0.4, 1.0]]), 0.01, "not symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), 0.01, "cannot be inverted"),
        ("moment", 0.01, "OBS needs the second moment"),
        (np.eye(2), -0.1, "damping = -0.1"),
        (np.eye(2), np.nan, "damping = nan"),
        (np.eye(2), True, "damping = True"),
        (np.eye(2), "much", "damping = 'much'"),
    ],
)
def test_second_moments_that_obs_cannot_use(moment: object, damping: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        OBS(moment, damping)  # type: ignore[arg-type]


@pytest.mark.parametrize("norms", [[[1.0, 2.0]], [1.0, -1.0], [1.0, np.nan], ["a", "b"], None])
def test_norms_that_ria_cannot_use(norms: object) -> None:
    with pytest.raises(InputError, match="RIA needs the norms"):
        RIA(norms)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="RIA got 7 norms for 8"):
        RIA(np.ones(7))(MATRIX)


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
