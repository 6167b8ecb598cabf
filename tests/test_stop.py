"""Stop criteria: what they accept, when they stop, how they join."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Status
from permsolve.errors import InputError
from permsolve.stop import (
    AnyOf,
    Criterion,
    GapReached,
    MaxIterations,
    MaxRuntime,
    NoImprovement,
    Progress,
    TargetScore,
)

MATRIX = uniform(16, 32)
START = Progress(
    elapsed=0.0, iterations=0, score=10.0, efficacy=0.0, bound=20.0, gap=0.5, stalled_time=0.0, stalled_iterations=0
)


def at(**changes: float) -> Progress:
    return START._replace(**changes)


@pytest.mark.parametrize(
    ("criterion", "before", "after"),
    [
        (MaxRuntime(2), at(elapsed=1.99), at(elapsed=2.0)),
        (MaxRuntime(0.5), at(elapsed=0.4), at(elapsed=0.6)),
        (MaxIterations(3), at(iterations=2), at(iterations=3)),
        (NoImprovement(seconds=1.5), at(stalled_time=1.4, elapsed=9), at(stalled_time=1.5)),
        (NoImprovement(iterations=7), at(stalled_iterations=6, iterations=99), at(stalled_iterations=7)),
        (TargetScore(11), at(score=10.9), at(score=11)),
        (TargetScore(-1.5), at(score=-2), at(score=-1.5)),
        (GapReached(0.1), at(gap=0.11), at(gap=0.1)),
    ],
)
def test_each_stops_when_it_should(criterion: Criterion, before: Progress, after: Progress) -> None:
    assert criterion(before) is False
    assert criterion(after) is True
    joined = criterion | TargetScore(1e9)
    assert (joined(before), joined(after)) == (False, True)
    assert joined.first(after) is criterion


@pytest.mark.parametrize(
    "value", [-1, -1e-9, math.nan, math.inf, -math.inf, "2", None, True, [1], 1j, np.array([1.0])], ids=repr
)
@pytest.mark.parametrize("make", [MaxRuntime, GapReached, lambda value: NoImprovement(seconds=value)])
def test_numbers_that_are_no_limit(make: Callable[[Any], Criterion], value: object) -> None:
    with pytest.raises(InputError, match=f"{re.escape(repr(value))}|NoImprovement needs"):
        make(value)


@pytest.mark.parametrize("value", [-1, 1.0, 2.5, math.nan, math.inf, "2", None, True, [1]])
@pytest.mark.parametrize("make", [MaxIterations, lambda value: NoImprovement(iterations=value)])
def test_numbers_that_count_nothing(make: Callable[[Any], Criterion], value: object) -> None:
    with pytest.raises(InputError, match=f"{re.escape(repr(value))}|NoImprovement needs"):
        make(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "2", None, False])
def test_scores_that_are_no_target(value: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"target score = {value!r} must be a finite number") + "$"):
        TargetScore(value)


@pytest.mark.parametrize(
    ("criteria", "named"),
    [
        ((MaxIterations(1), "x"), "'x'"),
        ((None,), "None"),
        ((AnyOf, MaxIterations(1)), "AnyOf"),
        ((), "()"),
        (MaxIterations(1), "MaxIterations"),
        ("ab", "'ab'"),
    ],
)
def test_what_is_no_criterion_cannot_be_joined(criteria: Any, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        AnyOf(criteria)


@pytest.mark.parametrize("limits", [{}, {"seconds": 1, "iterations": 1}, {"seconds": 0}, {"iterations": 0}])
def test_no_improvement_needs_one_positive_limit(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="NoImprovement"):
        NoImprovement(**limits)


@pytest.mark.parametrize("number", [np.float64(2), np.float32(2), np.int64(2)])
def test_numpy_numbers_are_numbers(number: Any) -> None:
    """`n_jobs`, `seed` and n:m take them too."""
    assert MaxRuntime(number)(at(elapsed=2))
    if isinstance(number, np.integer):
        assert MaxIterations(number)(at(iterations=2))


def test_joining_is_flat_and_keeps_order() -> None:
    a, b, c, d = MaxRuntime(1), MaxIterations(2), TargetScore(3), GapReached(0.1)
    assert ((a | b) | (c | d)).criteria == (a, b, c, d)
    assert (a | (b | c)).criteria == (a, b, c)
    assert (a | b) == AnyOf((a, b))
    with pytest.raises(TypeError):
        a | 3  # type: ignore[operator]


def test_criteria_are_frozen_equal_by_value_and_picklable() -> None:
    criterion = MaxRuntime(1) | NoImprovement(iterations=3)
    assert pickle.loads(pickle.dumps(criterion)) == criterion == MaxRuntime(1) | NoImprovement(iterations=3)
    assert len({criterion, MaxRuntime(1) | NoImprovement(iterations=3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        criterion.criteria[0].seconds = 9  # type: ignore[attr-defined]


def test_shares_and_what_is_left() -> None:
    joined = MaxRuntime(4) | MaxIterations(10) | MaxRuntime(8)
    assert joined.fraction(at(elapsed=1, iterations=8)) == 0.8
    assert joined.fraction(at(elapsed=3, iterations=0)) == 0.75
    assert joined.fraction(at(elapsed=99)) == 1
    assert joined.seconds_left(1.0) == 3
    assert joined.seconds_left(5.0) == 0
    assert joined.iterations_left(4) == 6
    assert joined.iterations_left(11) == 0
    unlimited = TargetScore(1) | GapReached(0)
    assert unlimited.fraction(START) is None
    assert unlimited.seconds_left(1e9) == unlimited.iterations_left(10**9) == math.inf
    assert (MaxRuntime(0) | MaxIterations(0)).fraction(START) == 1


def test_a_nested_any_of_keeps_its_limits() -> None:
    nested = AnyOf((AnyOf((MaxRuntime(4), MaxIterations(10))), TargetScore(99)))
    assert nested(at(elapsed=4))
    assert nested.seconds_left(1.0) == 3
    assert nested.iterations_left(4) == 6


@pytest.mark.parametrize(
    ("stop", "named"),
    [
        (MaxIterations(5), "MaxIterations(iterations=5)"),
        (MaxIterations(5) | TargetScore(1e9), "MaxIterations(iterations=5)"),
        (TargetScore(1e9) | NoImprovement(iterations=3), "NoImprovement(seconds=None, iterations=3)"),
        (TargetScore(1.0), "TargetScore(score=1.0)"),
        (GapReached(0.9), "GapReached(gap=0.9)"),
        (MaxRuntime(0), "MaxRuntime(seconds=0)"),
        (NoImprovement(seconds=1e-9), "NoImprovement(seconds=1e-09, iterations=None)"),
    ],
)
def test_a_solve_is_stopped_by_each(stop: Criterion, named: str) -> None:
    result = permsolve.solve(MATRIX, method="random", options={"samples": 10**6}, stop=stop, time_limit=20)
    assert result.stopped_by == named
    assert result.status is Status.STOPPED
    assert result.runtime < 20
    if "MaxIterations" in named:
        assert result.iterations == 5


def test_a_target_is_met_when_it_stops_the_solve() -> None:
    free = permsolve.solve(MATRIX, method="random", options={"samples": 200})
    target = free.trace[2].score
    result = permsolve.solve(MATRIX, method="random", options={"samples": 200}, stop=TargetScore(target))
    assert target <= result.score < free.score
    assert result.iterations < free.iterations


def test_one_criterion_serves_many_solves() -> None:
    stop = MaxIterations(50) | NoImprovement(iterations=10)
    first, second = (permsolve.solve(MATRIX, method="random", stop=stop) for _ in range(2))
    assert first.perm.tolist() == second.perm.tolist()
    assert first.iterations == second.iterations > 10


class After(Criterion):
    """Stop once a number of improvements has been seen in the score alone."""

    def __init__(self, score: float) -> None:
        self.score = score

    def __call__(self, progress: Progress) -> bool:
        return progress.score > self.score

    def __repr__(self) -> str:
        return "After"


def test_a_criterion_of_somebody_else() -> None:
    baseline = permsolve.Problem.of(MATRIX).baseline
    for stop in (After(baseline), After(baseline) | MaxIterations(10**6)):
        result = permsolve.solve(MATRIX, method="annealing", stop=stop)
        assert result.stopped_by == "After"
        assert result.score > baseline


def test_a_time_limit_of_numpy_becomes_a_plain_number() -> None:
    """A timer takes no NumPy scalar: the alarm died of one."""
    assert type(MaxRuntime(np.float32(0.5)).seconds) is float
