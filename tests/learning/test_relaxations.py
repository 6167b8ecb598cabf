"""Relaxed permutations and masks: their gradients, their limits, and what hardening makes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from permsolve import scoring  # noqa: E402
from permsolve.errors import InputError  # noqa: E402
from permsolve.learning import (  # noqa: E402
    AdamW,
    assign,
    sinkhorn,
    soft_mask,
    straight_through_mask,
    top_mask,
    transport,
)
from permsolve.learning.masks import put_back, take  # noqa: E402


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "relax", [sinkhorn, lambda x: transport(x, 0.3), lambda x: transport(x, 1.0, 3), lambda x: sinkhorn(x / 0.2)]
)
def test_gradients_of_relaxed_permutations(relax) -> None:
    logits = draw(2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(relax, logits)


@pytest.mark.parametrize(("m", "temperature"), [(2, 1.0), (4, 0.3)])
def test_gradient_of_the_relaxed_mask(m: int, temperature: float) -> None:
    scores = draw(2, 8, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_mask(x, m, temperature), scores)


@pytest.mark.parametrize(("relax", "rows"), [(sinkhorn, 0.2), (lambda x: transport(x, 0.5, 200), 1e-6)])
def test_relaxed_permutations_are_doubly_stochastic(relax, rows: float) -> None:
    soft = relax(draw(3, 8, 8))
    assert (soft > 0).all()
    assert torch.allclose(soft.sum(-2), torch.ones(3, 8, dtype=torch.float64))  # columns come last
    assert (soft.sum(-1) - 1).abs().max() < rows


def test_transport_is_the_optimum_of_its_definition() -> None:
    """At an optimum of the entropic problem, log(plan) + cost / epsilon is a sum of a row term and a column term."""
    cost, epsilon = draw(5, 5), 0.4
    plan = transport(cost, epsilon, 2000)
    dual = plan.log() + cost / epsilon
    assert torch.allclose(dual - dual[:1], (dual - dual[:1])[:, :1].expand(5, 5), atol=1e-9)


def test_small_epsilons_neither_overflow_nor_vanish_and_end_at_the_assignment() -> None:
    cost = draw(1, 5, 5)
    assert torch.isfinite(transport(cost.float() * 100, 0.05, 300)).all()
    plan = transport(cost * 100, 4.0, 2000)
    best = min(itertools.permutations(range(5)), key=lambda each: sum(cost[0, i, j] for i, j in enumerate(each)))
    assert assign(plan)[0].tolist() == list(best)
    assert plan[0, range(5), list(best)].min() > 0.95


def test_cold_logits_end_at_the_assignment() -> None:
    logits = draw(1, 6, 6)
    soft = sinkhorn(logits / 0.002, 400)
    best = max(itertools.permutations(range(6)), key=lambda each: sum(logits[0, i, j] for i, j in enumerate(each)))
    assert assign(soft)[0].tolist() == list(best)


def test_assignment_refuses_what_is_not_finite() -> None:
    soft = torch.full((1, 4, 4), 0.25)
    soft[0, 1, 2] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        assign(soft)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (4, 8), (3, 4)])
def test_top_mask_is_the_reference_mask(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    for saliency in (rng.random((7, 24)), rng.integers(0, 3, (7, 24)).astype(float), np.zeros((7, 24))):
        expected = scoring.mask(saliency, np.arange(24), n, m)
        found = top_mask(torch.from_numpy(saliency.T), n, m).numpy().T
        assert (found == expected).all()


def test_permuting_and_putting_back() -> None:
    scores = draw(2, 8, 3)
    hard = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(k)) for k in range(2)])
    assert torch.equal(take(scores, hard)[1, 2], scores[1, hard[1, 2]])
    assert torch.equal(put_back(take(scores, hard), hard), scores)


@pytest.mark.parametrize(("n", "m", "temperature"), [(2, 4, 1.0), (1, 4, 0.3)])
def test_the_straight_through_gradient_is_that_of_its_parts(n: int, m: int, temperature: float) -> None:
    """Against torch's own: hard values everywhere, the gradients of the relaxed permutation and of the softmax."""
    soft = sinkhorn(draw(2, 8, 8)).requires_grad_()
    scores, weight = draw(2, 8, 5, seed=1).abs(), draw(2, 8, 5, seed=2)
    hard = assign(soft)
    exact = torch.nn.functional.one_hot(hard, 8).double()
    through = exact + soft - soft.detach()
    permuted = through @ scores
    relaxed = soft_mask(permuted, m, temperature)
    mask = through.mT @ (top_mask(permuted, n, m).double() + relaxed - relaxed.detach())
    (expected,) = torch.autograd.grad((mask * weight).sum(), soft)
    ours = straight_through_mask(soft, scores, hard, n, m, temperature)
    assert torch.equal(ours, mask.detach().round())
    (found,) = torch.autograd.grad((ours * weight).sum(), soft)
    assert torch.allclose(found, expected)
    assert found.abs().max() > 1e-3


def test_adamw_makes_the_steps_of_torch() -> None:
    start, target = draw(3, 4), draw(3, 4, seed=1)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    reference = torch.optim.AdamW([theirs], lr=0.03, weight_decay=0.1)
    optimiser = AdamW([ours], decay=0.1)
    for _ in range(7):
        for value in (ours, theirs):
            ((value - target) ** 4).sum().backward()
        optimiser.step(0.03)
        reference.step()
        reference.zero_grad()
    assert torch.allclose(ours, theirs, rtol=1e-9)
    assert (ours - start).abs().min() > 0.01
