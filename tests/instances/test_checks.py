"""Verification: what is true passes, and every kind of false claim is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import brute_force
from small import hierarchical, make, small

import permsolve
from permsolve import instances
from permsolve.instances import checks
from permsolve.instances.entries import Best
from permsolve.instances.solutions import canonical
from permsolve.patterns import NM


def solved(entry: instances.Entry) -> instances.Entry:
    """Add a permutation that is better than none."""
    problem = entry.problem()
    result = permsolve.solve(problem, method="local_search", stop=permsolve.stop.MaxIterations(2000), n_jobs=1)
    return replace(entry, best=Best.of(problem, result.perm, "local_search", "0.0.1"))


@pytest.mark.parametrize("entry", small(), ids=lambda entry: entry.name)
def test_true_entries_pass_with_and_without_a_permutation(entry: instances.Entry) -> None:
    assert checks.check(entry) == (entry.name, (), ())
    assert checks.check(solved(entry)) == (entry.name, (), ())


def drawn(entry: instances.Entry) -> instances.Entry:
    """Add the best of a few random solutions, as any method that knows the pattern would."""
    problem, rng = entry.problem(), np.random.default_rng(0)
    best = max((problem.pattern.draw(problem, rng) for _ in range(50)), key=problem.score)
    return replace(entry, best=Best.of(problem, best, "random", "0.0.1"))


@pytest.mark.parametrize("entry", hierarchical(), ids=lambda entry: entry.pattern.kind)
def test_entries_of_other_patterns_are_checked_like_all(entry: instances.Entry) -> None:
    assert checks.check(entry) == (entry.name, (), ())
    good = drawn(entry)
    assert checks.check(good) == (entry.name, (), ())
    assert good.best is not None
    (fault,) = checks.check(change_best(good, score=good.best.score * (1 + 1e-11))).faults
    assert "score: the solution scores" in fault
    (fault,) = checks.check(replace(good, rows_bound=entry.rows_bound * (1 + 1e-8))).faults
    assert "rows_bound: recomputed" in fault
    claimed = replace(good, bound=good.best.score, bound_kind="exact")
    assert checks.check(claimed, prove=True, n_jobs=1).faults[0].startswith("exact: cannot be proved again: ")


def test_narrow_shipped_instances_pass() -> None:
    narrow = [each for each in instances.library() if each.shape[1] <= 16]
    assert len(narrow) >= 8
    for each in narrow:
        assert checks.check(each, n_jobs=1).faults == ()


def change_best(entry: instances.Entry, **values: Any) -> instances.Entry:
    """Change fields of the best."""
    assert entry.best is not None
    return replace(entry, best=replace(entry.best, **values))


def test_each_false_figure_is_one_fault() -> None:
    entry = solved(small()[0])
    assert entry.best is not None
    worst = min(
        (np.random.RandomState(seed).permutation(8) for seed in range(50)), key=lambda perm: entry.problem().score(perm)
    )
    bad = Best(entry.problem().score(worst), canonical(NM(2, 4), worst), "random", "0.0.1")
    assert bad.score < entry.baseline
    cases = {
        "sha256 of its matrix": replace(entry, sha256="0" * 64),
        "baseline: recomputed": replace(entry, baseline=entry.baseline * (1 + 1e-8)),
        "rows_bound: recomputed": replace(entry, rows_bound=entry.rows_bound * (1 + 1e-8)),
        "score: the solution scores": change_best(entry, score=entry.best.score * (1 + 1e-11)),
        "below the": replace(entry, best=bad),
        "the rows bound is": replace(entry, bound=entry.bound * (1 + 1e-8)),
    }
    for message, false in cases.items():
        faults = checks.check(false).faults
        assert len(faults) == 1, faults
        assert message in faults[0]


def test_a_bound_below_the_score_is_no_bound() -> None:
    entry = solved(small()[0])
    faults = checks.check(replace(entry, bound=entry.baseline)).faults
    assert any("is no bound, the solution scores" in fault for fault in faults)


def test_an_exact_bound_that_is_not_attained_is_a_fault() -> None:
    entry = solved(small()[1])
    assert entry.best is not None
    bound = (entry.best.score + entry.rows_bound) / 2
    faults = checks.check(replace(entry, bound=bound, bound_kind="exact")).faults
    assert len(faults) == 1
    assert "exact means attained" in faults[0]


def optimal(entry: instances.Entry) -> instances.Entry:
    """Add the optimum and claim that it is one."""
    entry = solved(entry)
    assert entry.best is not None
    optimum = brute_force(entry.matrix(), entry.pattern.n, entry.pattern.m)
    assert entry.best.score == pytest.approx(optimum, rel=1e-12)
    return replace(entry, bound=entry.best.score, bound_kind="exact")


def test_an_exact_bound_of_a_narrow_instance_is_proved_again() -> None:
    entry = optimal(small()[1])
    assert checks.check(entry, n_jobs=1) == (entry.name, (), ())
    assert entry.best is not None
    problem = entry.problem()
    lesser = next(
        perm
        for perm in (np.random.RandomState(seed).permutation(12) for seed in range(50))
        if entry.baseline < problem.score(perm) < entry.best.score * 0.999
    )
    score = problem.score(lesser)
    false = replace(entry, best=Best(score, canonical(NM(2, 4), lesser), "random", "0.0.1"), bound=score)
    faults = checks.check(false, n_jobs=1).faults
    assert len(faults) == 1
    assert "is not optimal, solving again finds" in faults[0]


def test_an_exact_bound_of_a_wide_instance_is_reported_as_claimed() -> None:
    entry = solved(make("uniform_8x64", "2:4", 8, 64))
    assert entry.best is not None
    report = checks.check(replace(entry, bound=entry.best.score, bound_kind="exact"))
    assert report.faults == ()
    assert report.notes == ("exact: claimed, not re-proved; pass --prove to solve it again",)


def certified(entry: instances.Entry) -> instances.Entry:
    """Add a certificate of the rows bound: duals that charge a column what it has above the thresholds of the rows."""
    from permsolve.certificates import Certificate

    matrix = entry.matrix()
    matrix = np.minimum(matrix, -np.sort(-matrix, axis=1)[:, 2:3])  # certificates are of the matrix clipped at n + 1
    exponent = 21  # planted entries are multiples of 2**-20, and half of one occurs
    kept = entry.shape[1] // 2
    threshold = -np.sort(-matrix, axis=1)[:, kept - 1 : kept]
    duals = (np.maximum(matrix - threshold, 0) + threshold / 2).sum(axis=0) * 2**exponent
    assert (duals == np.floor(duals)).all()
    certificate = Certificate(exponent, tuple(int(dual) for dual in duals))
    return replace(entry, bound_kind="lp", certificate=certificate)


def test_a_certificate_is_proved_again() -> None:
    entry = certified(make("planted_8x12", "2:4", 8, 12, generator="planted"))
    assert checks.check(entry, n_jobs=1) == (entry.name, (), ())
    faults = checks.check(replace(entry, bound=entry.bound * (1 - 1e-10)), n_jobs=1).faults
    assert len(faults) == 1
    assert "certificate: it proves the bound" in faults[0]


def test_a_certificate_that_proves_nothing_is_a_fault() -> None:
    entry = certified(make("planted_8x12", "2:4", 8, 12, generator="planted"))
    certificate = entry.certificate
    assert certificate is not None
    false = replace(certificate, duals=tuple(dual // 2 for dual in certificate.duals))
    faults = checks.check(replace(entry, certificate=false, bound=entry.bound / 2), n_jobs=1).faults
    assert any(fault.startswith("certificate: ") for fault in faults)


def test_an_exact_bound_may_not_exceed_what_its_certificate_proves() -> None:
    entry = certified(solved(make("planted_8x12", "2:4", 8, 12, generator="planted")))
    assert entry.proved
    exact = replace(entry, bound_kind="exact")
    assert checks.check(exact, n_jobs=1).faults == ()
    faults = checks.check(replace(exact, bound=exact.bound * (1 + 5e-10)), n_jobs=1).faults
    assert len(faults) == 1
    assert "better than the exact one" in faults[0]
