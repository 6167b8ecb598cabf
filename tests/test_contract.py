"""The contract that every method keeps, whatever the pattern and the matrix: the rules of `permsolve.testing`."""

from __future__ import annotations

import functools

import pytest

import permsolve
from permsolve import testing
from permsolve._contract import sound
from permsolve._contract_cases import height, uniform, width
from permsolve.errors import MissingDependencyError
from permsolve.testing import PATTERNS, RULES, Rule, Skipped, Subject

METHODS = permsolve.methods()
#: Iterations that pass in milliseconds; a method's unit may be a single exchange or a sweep over all of them.
ITERATIONS = {"annealing": 2000, "auto": 2000, "local_search": 40}
#: The same on a wide matrix: several windows, gain matrices above one row block, an odd number of slots.
WIDE_ITERATIONS = {"annealing": 20_000, "auto": 20_000, "local_search": 20}

CASES = [(rule, on) for rule in RULES for on in (PATTERNS if rule.on is None else rule.on)]


@functools.cache
def subject(method: str) -> Subject:
    """Make the method's subject once, so that its rules share results."""
    try:
        return Subject(
            method,
            iterations=ITERATIONS.get(method, 8),
            wide_iterations=WIDE_ITERATIONS.get(method, 3),
            seed=3,
        )
    except MissingDependencyError as reason:
        pytest.skip(str(reason))


def _slow(rule: Rule, on: str, method: str) -> bool:
    """Whether a case is for the long run, as those are that enumerate all groups of 8 columns again and again."""
    if on in ("hinm(3, 0.3, 1:2)", "2:1:5", "transposable(1:3)"):  # a second pattern of each kind
        return rule.name != "permutation_score_and_bound"
    if on == "2:8" and method not in ("annealing", "auto"):  # what holds for 4:8 does for it
        return rule.name != "permutation_score_and_bound"
    repeated = ("nothing_follows_a_stop", "json_and_pickle_round_trips", "same_seed_same_permutation")
    return method in ("exact", "lns") and on in ("2:8", "4:8") and rule.name in repeated


@pytest.mark.parametrize(
    ("method", "rule", "on"),
    [
        pytest.param(
            method,
            rule,
            on,
            id=f"{testing.case(rule, on)}-{method}",
            marks=[pytest.mark.slow] if _slow(rule, on, method) else [],
        )
        for rule, on in CASES
        for method in METHODS
    ],
)
def test_rule(method: str, rule: Rule, on: str) -> None:
    try:
        subject(method).check(rule, on)
    except Skipped as reason:
        pytest.skip(f"{method}: {reason}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_torch_tensors(method: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    pattern = subject(method).pattern
    weights = uniform(height(5, pattern), width(24, pattern.m))
    tensor = (torch.from_numpy(weights) * 50 - 20).to(getattr(torch, dtype))
    before = tensor.clone()
    result = subject(method).solve(tensor, pattern)
    assert torch.equal(tensor, before)
    assert result.dtype == dtype
    sound(result, tensor.double().numpy())


def test_every_pattern_and_every_kind_of_matrix_is_checked() -> None:
    on = {rule.name: [each for other, each in CASES if other is rule] for rule in RULES}
    assert len(on) == len(RULES)
    assert on["permutation_score_and_bound"] == list(PATTERNS)
    assert len(on["every_kind_of_matrix"]) >= 23
    assert {"all zero", "tied integers", "float16", "huge", "subnormal float32"} <= set(on["every_kind_of_matrix"])
