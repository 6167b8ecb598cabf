"""Solutions as text and in canonical form: nothing is lost, and what is damaged is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import permsolve
from permsolve.errors import InputError
from permsolve.instances.solutions import canonical, decode, encode
from permsolve.patterns import NM, HiNMSolution, TransposableSolution, VNMSolution, parse

PATTERNS = (
    "2:4",
    "hinm(4, 0.5, 2:4)",
    "hinm(2, 0.25, 1:2)",
    "4:2:8",
    "2:1:4",
    "transposable(1:2)",
    "transposable(2:4)",
)
RNG = np.random.default_rng


def random_problem(nm: str, seed: int = 0, shape: tuple[int, int] = (8, 32)) -> permsolve.Problem:
    """Make a random problem."""
    return permsolve.Problem.of(RNG(seed).random(shape), nm)


def shuffled(nm: str, solution: Any, rng: np.random.Generator) -> Any:
    """Shuffle whatever has no meaning: rows in tiles, columns in groups, tiles, groups."""
    pattern = parse(nm)

    def regrouped(order: Any, size: int) -> Any:
        groups = rng.permutation(order.reshape(-1, size))
        return np.concatenate([rng.permutation(group) for group in groups])

    if isinstance(pattern, NM):
        return regrouped(solution, pattern.m)
    if isinstance(solution, TransposableSolution):
        return TransposableSolution(regrouped(solution.rows, pattern.m), regrouped(solution.columns, pattern.m))
    tiles = solution.rows.reshape(-1, pattern.vector)  # type: ignore[attr-defined]
    order = rng.permutation(len(tiles))
    rows = np.concatenate([rng.permutation(tiles[t]) for t in order])
    if isinstance(solution, HiNMSolution):
        return HiNMSolution(rows, np.array([regrouped(solution.columns[t], pattern.m) for t in order]))
    assert isinstance(solution, VNMSolution)
    groups = rng.permutation(len(solution.columns) // pattern.m)
    inside = [rng.permutation(pattern.m) for _ in groups]
    columns = np.concatenate([solution.columns.reshape(-1, pattern.m)[g][inside[k]] for k, g in enumerate(groups)])
    kept = [
        [np.sort([list(inside[k]).index(place) for place in solution.kept[t, g]]) for k, g in enumerate(groups)]
        for t in order
    ]
    return VNMSolution(rows, columns, np.array(kept))


@pytest.mark.parametrize("nm", PATTERNS)
@given(st.integers(0, 2**32 - 1))
def test_the_canonical_form_is_shared_by_all_orders_of_the_same_tiles_and_groups(nm: str, seed: int) -> None:
    problem, rng = random_problem(nm), RNG(seed)
    pattern, solution = problem.pattern, problem.pattern.draw(problem, rng)
    other = pattern.check_solution(shuffled(nm, solution, rng), (8, 32))
    form = pattern.check_solution(canonical(pattern, solution), (8, 32))
    assert pattern.to_lists(form) == pattern.to_lists(canonical(pattern, other))
    assert pattern.to_lists(form) == pattern.to_lists(canonical(pattern, form))
    assert problem.score(form) == pytest.approx(problem.score(solution), rel=1e-14)
    np.testing.assert_array_equal(pattern.mask(problem.saliency, form), pattern.mask(problem.saliency, solution))


def test_the_canonical_form_ascends() -> None:
    form = canonical(NM(2, 4), RNG(0).permutation(16)).reshape(-1, 4)
    assert (np.diff(form, axis=1) > 0).all()
    assert (np.diff(form[:, 0]) > 0).all()
    problem = random_problem("4:2:8")
    tiled = canonical(problem.pattern, problem.pattern.draw(problem, RNG(0)))
    assert (np.diff(tiled.rows.reshape(-1, 4), axis=1) > 0).all()
    assert (np.diff(tiled.rows[::4]) > 0).all()
    assert (np.diff(tiled.columns.reshape(-1, 8), axis=1) > 0).all()
    assert (np.diff(tiled.columns[::8]) > 0).all()
    assert (np.diff(tiled.kept, axis=2) > 0).all()


@pytest.mark.parametrize("nm", PATTERNS)
@pytest.mark.parametrize("shape", [(8, 32), (8, 256), (8, 264), (264, 32)])
def test_solutions_survive_the_compact_form(nm: str, shape: tuple[int, int]) -> None:
    problem = random_problem(nm, shape=shape)
    pattern = problem.pattern
    form = canonical(pattern, pattern.draw(problem, RNG(1)))
    texts = encode(pattern, form, shape)
    again = decode(pattern, texts, shape)
    assert pattern.to_lists(again) == pattern.to_lists(form)
    assert encode(pattern, again, shape) == texts
    for name, values in pattern.to_lists(form).items():
        size = 1 if shape[0 if name == "rows" else 1] <= 256 else 2
        numbers = base64.b64decode(texts[name].rpartition(":")[2])
        assert len(numbers) == np.asarray(values).size * size


def test_many_rows_take_four_bytes() -> None:
    solution = canonical(parse("transposable(1:2)"), TransposableSolution(RNG(0).permutation(70_000), np.arange(4)))
    texts = encode(parse("transposable(1:2)"), solution, (70_000, 4))
    assert len(base64.b64decode(texts["rows"])) == 4 * 70_000
    assert decode(parse("transposable(1:2)"), texts, (70_000, 4)) == solution


def test_a_decoded_solution_cannot_be_changed() -> None:
    perm = decode(NM(2, 4), encode(NM(2, 4), np.arange(8), (3, 8)), (3, 8))
    with pytest.raises(ValueError, match="read-only"):
        perm[0] = 1


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([0, 1, 2, 3, 4, 5, 6], r"a permutation of 8 columns is .* got int64 of shape \(7,\)"),
        ([0, 1, 2, 3, 4, 5, 6, 6], "each of 0 .. 7 must occur exactly once"),
        ([0, 1, 2, 3, 4, 5, 6, 8], "each of 0 .. 7 must occur exactly once"),
        ([1, 0, 2, 3, 4, 5, 6, 7], "canonical"),
        ([4, 5, 6, 7, 0, 1, 2, 3], "canonical"),
    ],
)
def test_what_is_no_canonical_permutation_is_refused(perm: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"best.*{message}"):
        decode(NM(2, 4), encode(NM(2, 4), np.array(perm), (3, 8)), (3, 8))


def columns(*tiles: list[int]) -> dict[str, str]:
    """Encode a solution for hinm(2, 0.5, 1:2) of 4 x 8 without checking it."""
    pattern = parse("hinm(2, 0.5, 1:2)")
    return encode(pattern, HiNMSolution(np.arange(4), np.array(tiles)), (4, 8))


GOOD = columns([0, 1, 2, 3], [2, 3, 4, 7])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (columns([0, 1, 2, 3]), r"has shape \(2, 4\), got \(1, 4\)"),
        (columns([0, 1, 2, 3], [2, 3, 4, 4]), "must differ and lie in 0 .. 7"),
        (columns([0, 1, 2, 3], [2, 3, 4, 8]), "must differ and lie in 0 .. 7"),
        (columns([0, 1, 2, 3], [3, 2, 4, 7]), "canonical"),
        (columns([2, 3, 0, 1], [2, 3, 4, 7]), "canonical"),
        ({"rows": GOOD["rows"]}, "consists of rows, columns; got rows$"),
        ({**GOOD, "kept": "AAEC"}, "consists of rows, columns; got rows, columns, kept"),
        ({**GOOD, "columns": "3x4:" + GOOD["columns"][4:]}, "best.columns holds 8 bytes, which are no 3 x 4 numbers"),
        ({**GOOD, "columns": "4x2:" + GOOD["columns"][4:]}, r"has shape \(2, 4\), got \(4, 2\)"),
        ({**GOOD, "columns": GOOD["columns"][4:]}, r"has shape \(2, 4\), got \(8,\)"),
        ({**GOOD, "columns": "8:" + GOOD["columns"][4:]}, "begins with '8', which are no sizes"),
        ({**GOOD, "columns": "2x4"}, "best.columns is not base64"),
        ({**GOOD, "rows": "1x4:" + GOOD["rows"]}, "best: a permutation of 4 rows"),
        ({**GOOD, "rows": "?"}, "best.rows is not base64"),
        ({**GOOD, "rows": "\u00e9"}, "best.rows is not base64"),
    ],
)
def test_damaged_texts_are_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(parse("hinm(2, 0.5, 1:2)"), texts, (4, 8))


def test_the_texts_of_the_damaged_ones_are_good_otherwise() -> None:
    assert GOOD["columns"].startswith("2x4:")
    solution = decode(parse("hinm(2, 0.5, 1:2)"), GOOD, (4, 8))
    assert solution == HiNMSolution(np.arange(4), np.array([[0, 1, 2, 3], [2, 3, 4, 7]]))
