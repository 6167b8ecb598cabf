"""The objective `output_error`: its value, its proofs, and what it is for."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from helpers import is_exactly_nm, partitions

import permsolve
from permsolve.bounds import prove_lp
from permsolve.certificates import Certificate, prove
from permsolve.error_problem import ErrorProblem
from permsolve.errors import CertificateError, InputError, UnsupportedProblemError
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.saliency import OutputError
from permsolve.solver import Status


def inputs(count: int, channels: int, seed: int = 0, rank: int | None = None) -> np.ndarray:
    """Draw correlated activations: a random mixture of a few sources and some noise of their own."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((count, rank or channels // 2))
    noise = 0 if rank else 0.3 * rng.standard_normal((count, channels))
    return sources @ rng.standard_normal((sources.shape[1], channels)) + noise


def moments(channels: int, seed: int = 0, rank: int | None = None) -> np.ndarray:
    """Return the second moments of such activations."""
    x = inputs(200, channels, seed, rank)
    return x.T @ x / len(x)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Draw weights."""
    return np.random.default_rng(seed).standard_normal(shape)


def slow_error(w: Any, h: Any, group: Any, n: int) -> float:
    """Try all masks of a group in every row: the definition, entry by entry."""
    total = 0.0
    for row in w:
        errors = []
        for dropped in itertools.combinations(group, len(group) - n):
            errors.append(sum(row[a] * row[b] * h[a, b] for a in dropped for b in dropped))
        total += min(errors)
    return total


def slow_score(w: Any, h: Any, perm: Any, n: int, m: int) -> float:
    """Add up minus the errors of the groups of a permutation."""
    return -sum(slow_error(w, h, perm[k : k + m], n) for k in range(0, len(perm), m))


@pytest.mark.parametrize("nm", ["1:2", "2:3", "2:4", "1:4", "3:4", "4:8", "1:6"])
def test_score_baseline_and_mask_follow_the_definition(nm: str) -> None:
    pattern = permsolve.NM.parse(nm)
    n, m = pattern.n, pattern.m
    cols = 2 * m
    w, h = weights(3, cols), moments(cols)
    problem = Problem.of(w, nm, saliency=OutputError(h))
    perm = np.random.default_rng(2).permutation(cols)
    expected = slow_score(w, h, perm, n, m)
    assert problem.score(perm) == pytest.approx(expected, rel=1e-12)
    assert problem.group_values(perm).sum() == pytest.approx(expected, rel=1e-12)
    assert problem.baseline == pytest.approx(slow_score(w, h, np.arange(cols), n, m), rel=1e-12)
    assert problem.rows_bound == 0.0
    mask = OutputError(h).mask(w, nm, perm)
    assert is_exactly_nm(mask[:, perm], n, m)
    pruned = np.where(mask, 0, w)
    total = sum(float(np.sum(pruned[:, g] @ h[np.ix_(g, g)] * pruned[:, g])) for g in perm.reshape(-1, m))
    assert -total == pytest.approx(expected, rel=1e-10)


def test_measured_error_is_that_of_the_layer() -> None:
    x, w = inputs(300, 16), weights(5, 16)
    error = OutputError(x.T @ x / len(x))
    mask = error.mask(w, "2:4")
    change = x @ np.where(mask, 0, w).T
    assert error.measure(w, mask) == pytest.approx(float(np.square(change).sum(axis=1).mean()), rel=1e-10)
    assert error.measure(w, np.ones_like(mask)) == 0.0


@pytest.mark.parametrize(("nm", "cols"), [("2:4", 8), ("2:4", 12), ("1:4", 12), ("1:2", 8), ("3:6", 12)])
@pytest.mark.parametrize("rank", [None, 3])
def test_exact_proves_what_brute_force_finds(nm: str, cols: int, rank: int | None) -> None:
    w, h = weights(4, cols), moments(cols, rank=rank)
    problem = Problem.of(w, nm, saliency=OutputError(h))
    n, m = problem.pattern.n, problem.pattern.m
    value = {group: slow_error(w, h, group, n) for group in itertools.combinations(range(cols), m)}
    best = min(
        sum(value[tuple(sorted(p[k : k + m]))] for k in range(0, cols, m)) for p in partitions(tuple(range(cols)), m)
    )
    result = permsolve.solve(problem, method="exact")
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(-best, rel=1e-9)
    assert result.bound >= result.score
    assert result.gap <= 1e-9
    assert result.check(problem) == ()


@pytest.mark.parametrize("nm", ["2:4", "1:4", "1:2"])
def test_branch_and_bound_proves_and_certificates_hold(nm: str) -> None:
    """At 20 columns dynamic programming over subsets is out: what is used is what larger problems use."""
    w, h = weights(16, 20), moments(20)
    error = OutputError(h)
    result = permsolve.solve(w, nm, saliency=error, method="exact")
    assert result.status is Status.OPTIMAL
    assert result.saliency == "output_error"
    assert result.check(w, saliency=error) == ()
    assert result.certificate is not None
    problem = Problem.of(w, nm, saliency=error)
    assert prove(problem, result.certificate) >= result.bound >= result.score
    weaker = dataclasses.replace(result.certificate, duals=tuple(d - 1000 for d in result.certificate.duals))
    with pytest.raises(CertificateError, match="worth more than it says"):
        prove(problem, weaker)
    again = permsolve.Result.from_json(result.to_json())
    assert again.score == result.score
    assert again.efficacy == pytest.approx(100 * (1 - result.score / result.baseline), rel=1e-12)
    for method in ("annealing", "lns", "auto"):
        other = permsolve.solve(problem, method=method, time_limit=0.1)
        assert result.baseline < other.score <= result.score + 1e-9 * abs(result.score)


def test_lp_bound_of_blocks_and_of_single_groups_adds_up() -> None:
    w, h = weights(8, 44), moments(44)
    error = OutputError(h)
    result = permsolve.solve(w, "2:4", saliency=error, method="auto", blocks=[20, 4, 20], bound="lp", time_limit=2)
    assert result.check(w, saliency=error) == ()
    assert result.score <= result.bound < 0
    parts = Problem.of(w, "2:4", saliency=error, blocks=[20, 4, 20]).parts()
    scores = [permsolve.solve(part, method="exact").score for _, part in parts]
    assert result.score == pytest.approx(sum(scores), rel=1e-9)


def test_lp_bound_holds_and_wide_problems_refuse_it() -> None:
    w = weights(4, 20).astype(np.float32)
    proved = permsolve.bound(w, "2:4", saliency=OutputError(moments(20)))
    assert proved.kind == "lp"
    assert proved.certificate is not None
    exact = permsolve.solve(w, "2:4", saliency=OutputError(moments(20)), method="exact")
    assert exact.score <= proved.value < 0
    assert 0 <= proved.gap(exact.score) < 0.2
    with pytest.raises(UnsupportedProblemError, match="can be enumerated"):
        permsolve.bound(weights(2, 172), "2:4", saliency=OutputError(np.eye(172)))


def test_certificate_with_a_unit_too_small_is_refused() -> None:
    problem = Problem.of(weights(4, 8), "2:4", saliency=OutputError(moments(8)))
    with pytest.raises(CertificateError, match="too large"):
        prove(problem, Certificate(60, (0,) * 8))


def test_uncorrelated_channels_are_the_separable_objective() -> None:
    """With a diagonal moment the error pruned is the energy not kept."""
    w, norms = weights(8, 16), np.random.default_rng(3).random(16)
    problem = Problem.of(w, "2:4", saliency=OutputError(np.diag(norms)))
    energy = w**2 * norms
    separable = Problem.of(w, "2:4", saliency=energy)
    perm = np.random.default_rng(4).permutation(16)
    assert problem.score(perm) == pytest.approx(separable.score(perm) - energy.sum(), rel=1e-12)
    best = permsolve.solve(problem, method="exact")
    assert best.score == pytest.approx(permsolve.solve(separable, method="exact").score - energy.sum(), rel=1e-9)


def test_convolution_rows_use_the_moment_of_their_position() -> None:
    w, h = weights(3, 8, 2, 2), np.stack([moments(8, seed) for seed in range(4)])
    error = OutputError(h)
    problem = Problem.of(w, "2:4", saliency=error)
    perm = np.random.default_rng(5).permutation(8)
    expected = sum(slow_score(w[:, :, r, s], h[2 * r + s], perm, 2, 4) for r in range(2) for s in range(2))
    assert problem.score(perm) == pytest.approx(expected, rel=1e-12)
    mask = error.mask(w, "2:4", perm)
    for r, s in itertools.product(range(2), range(2)):
        assert (mask[:, :, r, s] == OutputError(h[2 * r + s]).mask(w[:, :, r, s], "2:4", perm)).all()
    parts = [OutputError(h[2 * r + s]).measure(w[:, :, r, s], mask[:, :, r, s]) for r in range(2) for s in range(2)]
    assert error.measure(w, mask) == pytest.approx(sum(parts), rel=1e-12)


def test_grouped_convolution_rows_use_the_moment_of_their_group() -> None:
    w, h = weights(4, 8, 2), np.stack([moments(8, seed) for seed in range(4)])
    perm = np.arange(8)[::-1]
    expected = sum(slow_score(w[2 * g : 2 * g + 2, :, p], h[2 * g + p], perm, 2, 4) for g in range(2) for p in range(2))
    assert Problem.of(w, "2:4", saliency=OutputError(h)).score(perm) == pytest.approx(expected, rel=1e-12)


def test_stacked_matrices_add_up() -> None:
    a, b, c = weights(3, 12), weights(2, 12, 2, seed=2), weights(4, 12, seed=3)
    own, other = OutputError(moments(12)), OutputError(np.stack([moments(12, 5), moments(12, 6)]))
    stacked = Problem.stack([a, b, c], "2:4", saliency=[own, other, own])
    perm = np.random.default_rng(5).permutation(12)
    alone = [Problem.of(w, "2:4", saliency=e).score(perm) for w, e in ((a, own), (b, other), (c, own))]
    assert stacked.score(perm) == pytest.approx(sum(alone), rel=1e-12)
    assert isinstance(stacked, ErrorProblem)
    assert len(stacked.moments) == 3  # the first and the last share theirs
    mask = stacked.mask(perm)
    assert (mask[:3] == own.mask(a, "2:4", perm)).all()
    assert (mask[-4:] == own.mask(c, "2:4", perm)).all()
    assert Problem.stack([a], "2:4", saliency=own).fingerprint != Problem.of(a, "2:4", saliency=own).fingerprint


def test_scaling_changes_nothing_but_the_unit() -> None:
    w, h = weights(8, 20), moments(20)
    base = permsolve.solve(w, "2:4", saliency=OutputError(h), method="exact")
    for scale, factor in ((2.0**-40, 2.0**30), (2.0**60, 2.0**-20)):
        scaled = permsolve.solve(w * scale, "2:4", saliency=OutputError(h * factor), method="exact")
        assert scaled.status is Status.OPTIMAL
        assert scaled.score == pytest.approx(base.score * scale**2 * factor, rel=1e-12)
        assert scaled.gap == pytest.approx(base.gap, abs=1e-10)


def test_dead_channels_and_zero_weights_cost_nothing() -> None:
    h = moments(20)
    h[:10], h[:, :10] = 0, 0
    result = permsolve.solve(weights(5, 20), "2:4", saliency=OutputError(h), method="exact")
    assert result.score == 0.0
    assert result.status is Status.OPTIMAL
    w = weights(5, 20)
    w[:, 5:] = 0
    result = permsolve.solve(w, "2:4", saliency=OutputError(moments(20)), method="exact")
    assert result.score == 0.0
    assert result.efficacy == 100.0


def test_same_seed_same_permutation_whatever_the_threads() -> None:
    problem = Problem.of(weights(8, 176), "2:4", saliency=OutputError(moments(176)))
    found = [
        permsolve.solve(problem, method="annealing", stop=permsolve.stop.MaxIterations(3000), seed=3, n_jobs=jobs)
        for jobs in (1, 2)
    ]
    assert (found[0].perm == found[1].perm).all()
    assert found[0].score > problem.baseline
    assert found[0].score == pytest.approx(problem.score(found[0].perm), rel=1e-12)


def test_problem_survives_pickling_and_parts() -> None:
    problem = Problem.of(weights(4, 16), "2:4", saliency=OutputError(moments(16)), blocks=[8, 8])
    again = pickle.loads(pickle.dumps(problem))
    perm = np.concatenate([np.arange(8)[::-1], np.arange(8, 16)])
    assert again.score(perm) == problem.score(perm)
    halves = sum(part.score(perm[span] - span.start) for span, part in problem.parts())
    assert halves == pytest.approx(problem.score(perm), rel=1e-12)
    many = permsolve.solve_many({"one": weights(4, 16)}, "2:4", saliency=OutputError(moments(16)), time_limit=1)
    assert many["one"].saliency == "output_error"


def test_methods_that_need_single_entries_say_so() -> None:
    w, error = weights(4, 16), OutputError(moments(16))
    for method in ("ria", "local_search", "channel_swap", "assignment", "greedy", "stripe_groups"):
        with pytest.raises(UnsupportedProblemError, match=r"adds up entry by entry.*annealing.*exact"):
            permsolve.solve(w, saliency=error, method=method)
    with pytest.raises(InputError, match="plain n:m"):
        permsolve.solve(w, "hinm(4, 0.5, 2:4)", saliency=error)
    with pytest.raises(InputError, match="ways to keep"):
        permsolve.solve(w, "8:16", saliency=error)
    with pytest.raises(InputError, match="give all stacked matrices one"):
        Problem.stack([w, w], saliency=[error, "magnitude"])
    with pytest.raises(InputError, match="cannot be streamed"):
        permsolve.solve(w, saliency=error, memory_limit=1000)
    with pytest.raises(InputError, match="no saliency of single entries"):
        _ = Problem.of(w, saliency=error).saliency


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 4)), "shape"),
        (np.ones(4), "shape"),
        (np.zeros((0, 0)), "shape"),
        ("wanda", "OutputError needs"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.diag([1.0, 1, 1, -1]), "negative diagonal"),
        (np.triu(np.ones((4, 4))), "not symmetric"),
        (np.array([[1.0, 2], [2, 1]]), "not positive semidefinite"),
        (np.array([[1.0, 0.5], [0.5, 0]]), "norm 0"),
        (np.stack([np.eye(4), -np.eye(4)]), "position 1"),
    ],
)
def test_bad_moments_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OutputError(given)


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="12 input channels"):
        Problem.of(weights(4, 16), saliency=OutputError(moments(12)))
    with pytest.raises(InputError, match="kernel position"):
        Problem.of(weights(4, 16, 3), saliency=OutputError(np.stack([np.eye(16)] * 2)))
    with pytest.raises(InputError, match="NaN"):
        Problem.of(np.full((4, 16), np.nan), saliency=OutputError(np.eye(16)))
    with pytest.raises(InputError, match="mask must be bool"):
        OutputError(np.eye(4)).measure(weights(2, 4), np.ones((2, 4)))
    with pytest.raises(InputError, match="shape"):
        OutputError(np.eye(4)).measure(weights(2, 4), np.ones((2, 8), dtype=bool))


def test_sums_in_float32_and_rank_deficient_moments_are_accepted() -> None:
    x = inputs(50, 96, rank=8).astype(np.float32)
    error = OutputError(x.T @ x / np.float32(50))
    problem = Problem.of(weights(4, 96), saliency=error)
    assert problem.baseline < 0
    assert (problem.group_values(np.arange(96)) <= 0).all()


def test_moments_in_any_memory_order_are_accepted() -> None:
    """A stack of moments cut out of a larger array, positions last, ended in a BufferError."""
    plain = np.stack([moments(8, 3), moments(8, 4)])
    strided = np.stack([moments(8, 3), moments(8, 4)], axis=-1).transpose(2, 0, 1)
    assert not strided.flags.c_contiguous
    kernels = weights(5, 8, 2)
    scores = [permsolve.solve(kernels, saliency=OutputError(each), n_jobs=1).score for each in (plain, strided)]
    assert scores[0] == scores[1] < 0


def test_bounds_of_random_problems_are_never_below_any_score() -> None:
    """Values in integers are upper bounds; the LP bound is at least the best score that is known."""
    for seed in range(3):
        w, h = weights(12, 20, seed=seed) * np.geomspace(0.5, 2, 20), moments(20, seed)
        problem = Problem.of(w, "2:4", saliency=OutputError(h))
        run = Run(problem, stop=None, rng=np.random.default_rng(0))
        core = run.open()
        prove_lp(problem, run)
        exact = permsolve.solve(problem, method="exact")
        assert core.bound >= exact.score - 1e-12 * abs(exact.score)
        assert exact.status is Status.OPTIMAL


def test_a_channel_whose_squares_vanish_in_float32_is_a_dead_one() -> None:
    rng = np.random.RandomState(0)
    inputs = rng.standard_normal((40, 8)).astype(np.float32)
    inputs[:, 3] = -3e-25  # a gate that is all but closed: its squares are zero, its products with others are not
    moment = inputs.T @ inputs / 40
    assert moment[3, 3] == 0
    assert moment[3].any()
    weights = rng.standard_normal((4, 8))
    dead = np.where(np.outer(np.arange(8) != 3, np.arange(8) != 3), moment, 0)
    assert OutputError(moment).channel_moments[0] == pytest.approx(dead)
    found = permsolve.solve(weights, "2:4", saliency=OutputError(moment), method="exact")
    assert found.score == permsolve.solve(weights, "2:4", saliency=OutputError(dead), method="exact").score
    moment[3, 4] = moment[4, 3] = 1e-3
    with pytest.raises(InputError, match="norm 0 with other entries"):
        OutputError(moment)
