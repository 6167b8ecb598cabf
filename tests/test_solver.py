"""The base class of methods, and their options."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Problem
from permsolve.errors import OptionError
from permsolve.solver import Solver, check_choice, check_number, check_whole

METHODS = permsolve.methods()
NAN = float("nan")

#: Values that an option must refuse.
BAD: list[tuple[str, dict[str, Any]]] = [
    ("annealing", {"start": 0}),
    ("annealing", {"start": NAN}),
    ("annealing", {"start": "hot"}),
    ("annealing", {"start": True}),
    ("annealing", {"start": 0.01, "end": 0.02}),
    ("annealing", {"end": -1.0}),
    ("annealing", {"reheats": -1}),
    ("annealing", {"reheats": 1.0}),
    ("assignment", {"block": 1}),
    ("assignment", {"block": 4097}),
    ("assignment", {"start": -0.1}),
    ("assignment", {"start": 0.01, "end": 0.02}),
    ("assignment", {"start": 0.01, "end": 0}),
    ("assignment", {"start": 0.01, "end": NAN}),
    ("channel_swap", {"escapes": -1}),
    ("channel_swap", {"escapes": 1.5}),
    ("local_search", {"strength": 1}),
    ("local_search", {"strength": 17}),
    ("local_search", {"patience": 0}),
    ("random", {"samples": 0}),
    ("ria", {"sweeps": -1}),
    ("stripe_groups", {"groups": 1}),
    ("stripe_groups", {"groups": 4}),
    ("stripe_groups", {"escapes": "many"}),
]


@pytest.mark.parametrize(("method", "options"), BAD, ids=str)
def test_option_values_that_a_method_cannot_take(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        permsolve.get_solver(method)(**options)
    assert any(f"{name} = {value!r}" in str(caught.value) for name, value in options.items())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("annealing", {"start": 1, "end": 1, "reheats": 0}),
        ("assignment", {"start": 0, "end": 0, "block": 2}),
        ("channel_swap", {"escapes": 0}),
        ("local_search", {"strength": 16, "patience": 1}),
        ("random", {"samples": 1}),
        ("ria", {"sweeps": 0}),
        ("ria", {"sweeps": 50}),
        ("stripe_groups", {"groups": 3, "escapes": 1}),
    ],
)
def test_options_at_their_limits_work_and_are_recorded(method: str, options: dict[str, Any]) -> None:
    result = permsolve.solve(uniform(7, 24), method=method, options=options, time_limit=0.2)
    assert {name: result.options[name] for name in options} == options
    assert set(result.options) == set(permsolve.get_solver(method).option_names())
    assert result.check(uniform(7, 24)) == ()
    assert permsolve.Result.from_json(result.to_json()).options == result.options


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_frozen_values(method: str) -> None:
    solver = permsolve.get_solver(method)
    assert solver() == solver()
    assert hash(solver()) == hash(solver())
    assert solver().options == {field.name: field.default for field in dataclasses.fields(solver)}
    for name in solver.option_names():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(solver(), name, 1)


def test_a_method_without_a_search_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Solver()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("groups", "nm", "cols", "named"),
    [(3, "2:8", 48, "1,577,585,295"), (2, "8:16", 64, "300,540,195"), (3, "2:4", 8, "at least")],
)
def test_stripe_groups_says_what_it_cannot_do(groups: int, nm: str, cols: int, named: str) -> None:
    reason = permsolve.get_solver("stripe_groups")(groups=groups).supports(Problem.of(np.ones((2, cols)), nm))
    assert reason is not None
    assert named in reason


@pytest.mark.parametrize("value", [1, 2, 3])
def test_whole_numbers(value: int) -> None:
    check_whole("x", value, least=1, most=3)


@pytest.mark.parametrize("value", [0, 4, 2.0, True, "2", None, NAN])
def test_what_is_no_whole_number_in_range(value: object) -> None:
    with pytest.raises(OptionError, match=re.escape(f"x = {value!r}") + ".*from 1 to 3"):
        check_whole("x", value, least=1, most=3)


@pytest.mark.parametrize("value", [0.9, 3.1, True, "2", None, NAN, float("inf"), 1j])
def test_what_is_no_number_in_range(value: object) -> None:
    with pytest.raises(OptionError, match=re.escape(f"x = {value!r}") + ".*from 1 to 3"):
        check_number("x", value, least=1, most=3)


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"], {}])
def test_what_is_no_choice(value: object) -> None:
    with pytest.raises(OptionError, match="a, b"):
        check_choice("x", value, ("a", "b"))
