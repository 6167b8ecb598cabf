"""Trainings against the published rules, written down once more in NumPy: gradient descent towards moving targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402

from permsolve import scoring  # noqa: E402
from permsolve.training import SRSTE, MaskDecay, NMSchedule, Recipe, StructureDecay  # noqa: E402

STEPS, RATE, MOMENTUM, DECAY = 20, 0.05, 0.9, 0.01
Array = np.ndarray


def mask(weight: Array, n: int, m: int) -> Array:
    return scoring.mask(np.abs(weight), np.arange(weight.shape[1]), n, m)


def start() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 64)), rng.standard_normal((STEPS, 6, 64))


def trained(recipe: Recipe, nm: str) -> Array:
    weight, targets = start()
    layer = nn.Linear(64, 6, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    sparse = NMSchedule(recipe, steps=STEPS).attach(layer, nm, optimizer)
    for target in torch.from_numpy(targets):
        optimizer.zero_grad()
        (layer.weight - target).square().sum().backward()
        optimizer.step()
        sparse.step()
    dense: Array = layer.parametrizations.weight.original.detach().numpy().copy()
    return dense


def by_hand(rule: Callable[[int, Array, Array], tuple[Array, Array, Array]]) -> Array:
    """Descend by a rule: step, weight and the factors before to the factors of weight, gradient and decay."""
    weight, targets = start()
    velocity, factor = np.zeros_like(weight), np.ones_like(weight)
    for step, target in enumerate(targets):
        factor, passed, shrunk = rule(step, weight, factor)
        gradient = 2 * (weight * factor - target) * passed + (shrunk + DECAY) * weight
        velocity = MOMENTUM * velocity + gradient
        weight = weight - RATE * velocity
    return weight


def test_sr_ste() -> None:
    def rule(step: int, weight: Array, factor: Array) -> tuple[Array, Array, Array]:
        kept = mask(weight, 2, 4)
        return kept, np.ones_like(weight), 0.03 * ~kept

    assert np.allclose(trained(SRSTE(strength=0.03), "2:4"), by_hand(rule), rtol=1e-12)


@pytest.mark.parametrize("gradient", ["scaled", "straight"])
@pytest.mark.parametrize("decay", ["linear", "exponential"])
def test_mask_decay(decay: str, gradient: str) -> None:
    """Four dense steps, ten of the decay, six with the mask of the last weights before them."""

    def rule(step: int, weight: Array, factor: Array) -> tuple[Array, Array, Array]:
        none, k = np.zeros_like(weight), step - 3
        if step < 4:
            factor = np.ones_like(weight)
        elif step < 14:
            beta = max(0.0, 1 - 0.07 * k) if decay == "linear" else np.exp(-0.07 * k)
            factor = np.where(mask(weight, 2, 4), 1.0, beta)
        elif step == 14:
            factor = mask(weight, 2, 4).astype(float)
        return factor, np.ones_like(weight) if gradient == "straight" and step < 14 else factor, none

    recipe = MaskDecay(decay, dense=0.2, fine_tune=0.3, rate=0.07, gradient=gradient)
    assert np.allclose(trained(recipe, "2:4"), by_hand(rule), rtol=1e-12)


@pytest.mark.parametrize("stages", ["stepwise", "geometric"])
def test_structure_decay(stages: str) -> None:
    """Equal shares of twelve steps, then eight with a mask that stands."""
    patterns = {"stepwise": [(3, 4), (2, 4), (1, 4)], "geometric": [(8, 32), (4, 16), (2, 8), (1, 4)]}[stages]

    def rule(step: int, weight: Array, factor: Array) -> tuple[Array, Array, Array]:
        if step < 12:
            factor = mask(weight, *patterns[step * len(patterns) // 12]).astype(float)
        elif step == 12:
            factor = mask(weight, 1, 4).astype(float)
        return factor, np.ones_like(weight) if step < 12 else factor, np.zeros_like(weight)

    assert np.allclose(trained(StructureDecay(stages, fine_tune=0.4), "1:4"), by_hand(rule), rtol=1e-12)
