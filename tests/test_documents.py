"""Documents: what is written is read back; what is not as it should be is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import uniform
from hypothesis import given, settings
from hypothesis import strategies as st

import permsolve
from permsolve import Result, Status
from permsolve.errors import DocumentError, PermsolveError
from permsolve.stop import MaxIterations

MATRIX = uniform(9, 16)
RESULT = permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(1000), seed=7)
TEXT = RESULT.to_json()


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(TEXT)
    change(document)
    return json.dumps(document)


def set_(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of one field of a document."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def test_a_document_says_everything() -> None:
    document = json.loads(TEXT)
    assert document["schema"] == "permsolve.permutation/1"
    assert document["version"] == permsolve.__version__
    assert document["pattern"] == {"kind": "nm", "n": 2, "m": 4}
    assert document["solution"] == {"perm": RESULT.perm.tolist()}
    assert document["matrix"] == {"shape": [9, 16], "dtype": "float64", "fingerprint": RESULT.fingerprint}
    assert document["efficacy"] == RESULT.efficacy
    assert document["gap"] == RESULT.gap
    assert document["seed"] == 7
    assert document["status"] == "stopped"
    assert document["trace"][0] == {"time": 0.0, "score": RESULT.trace[0].score, "bound": RESULT.bound}


def test_what_is_written_is_read_back_to_the_last_bit() -> None:
    again = Result.from_json(TEXT)
    names = "score baseline rows_bound bound runtime setup_time trace options shape blocks status seed"
    for name in names.split():
        assert getattr(again, name) == getattr(RESULT, name), name
    assert again.perm.tolist() == RESULT.perm.tolist()
    assert again.to_json() == TEXT
    assert again.check(MATRIX) == ()


def test_the_text_is_stable_and_a_line_holds_a_field() -> None:
    assert RESULT.to_json() == TEXT
    assert TEXT.endswith("\n")
    assert len(TEXT.splitlines()) == len(json.loads(TEXT)) + 2


@pytest.mark.parametrize(
    "more",
    [
        {"blocks": (8, 8)},
        {"method": "identity"},
        {"saliency": permsolve.saliency.Wanda(np.ones(16))},
        {"seed": np.random.default_rng(1)},
        {"seed": 10**30},
        {"nm": "1:2"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_round_trips_of_other_results(more: dict[str, Any]) -> None:
    result = permsolve.solve(MATRIX, **{"method": "random", "stop": MaxIterations(5), **more})
    assert Result.from_json(result.to_json()).to_json() == result.to_json()


@pytest.mark.parametrize("scale", [1e300, 1e-300, 0.0])
def test_round_trips_of_extreme_scores(scale: float) -> None:
    result = permsolve.solve(MATRIX * scale, method="random", stop=MaxIterations(5))
    again = Result.from_json(result.to_json())
    assert (again.score, again.gap, again.efficacy) == (result.score, result.gap, result.efficacy)


def test_options_that_no_document_can_hold_are_an_error_of_the_family() -> None:
    """A method of somebody else may have an option that is no plain value."""
    import dataclasses

    odd = dataclasses.replace(RESULT, options={"widths": (1, 2)})
    with pytest.raises(PermsolveError, match="widths"):
        odd.to_json()


@pytest.mark.parametrize("field", sorted(json.loads(TEXT)))
def test_every_field_is_required(field: str) -> None:
    with pytest.raises(DocumentError, match=field):
        Result.from_json(edited(lambda document: document.pop(field)))


@pytest.mark.parametrize(("part", "field"), [("matrix", "dtype"), ("pattern", "n"), ("solution", "perm")])
def test_every_field_of_a_part_is_required(part: str, field: str) -> None:
    with pytest.raises(DocumentError, match=f"{part}.{field}"):
        Result.from_json(edited(lambda document: document[part].pop(field)))


@pytest.mark.parametrize("part", [None, "matrix", "pattern", "solution"])
def test_no_other_field_is_allowed(part: str | None) -> None:
    with pytest.raises(DocumentError, match="extra_field"):
        Result.from_json(edited(lambda document: (document[part] if part else document).update(extra_field=1)))


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (set_("schema", to="permsolve.permutation/2"), "permsolve.permutation/1"),
    (set_("schema", to=None), "unknown schema"),
    (set_("solution", "perm", to=[0] * 16), "exactly once"),
    (set_("solution", "perm", to=list(range(1, 17))), "exactly once"),
    (set_("solution", "perm", to=list(range(15))), "(15,)"),
    (set_("solution", "perm", to=[]), "solution"),
    (set_("solution", "perm", 0, to=1.5), "solution.perm.0"),
    (set_("solution", "perm", 0, to="1"), "solution.perm.0"),
    (set_("solution", "perm", 0, to=True), "solution.perm.0"),
    (set_("solution", "perm", 0, to=2**70), "solution"),
    (set_("solution", "perm", 0, to=-1), "exactly once"),
    (set_("pattern", "n", to=4), "1 <= n < m"),
    (set_("pattern", "m", to=0), "1 <= n < m"),
    (set_("pattern", "m", to=5), "16 columns"),
    (set_("pattern", "kind", to="hinm"), "pattern.vector"),
    (set_("pattern", "kind", to="m:n"), "pattern"),
    (set_("matrix", "shape", to=[9]), "shape"),
    (set_("matrix", "shape", to=[9, 20]), "shape"),
    (set_("matrix", "shape", to=[16, 9]), "9 columns"),
    (set_("matrix", "shape", 0, to=0), "matrix.shape.0"),
    (set_("matrix", "fingerprint", to="abc"), "matrix.fingerprint"),
    (set_("matrix", "fingerprint", to="G" * 64), "matrix.fingerprint"),
    (set_("matrix", "fingerprint", to="a" * 64 + "\n"), "matrix.fingerprint"),
    (set_("blocks", to=[8, 4]), "blocks"),
    (set_("blocks", to=[10, 6]), "blocks"),
    (set_("blocks", to=[16, 0]), "blocks"),
    (set_("blocks", to=[20, -4]), "blocks"),
    (set_("blocks", to=[]), "blocks"),
    (set_("score", to="nan"), "score"),
    (set_("score", to=None), "score"),
    (set_("bound_kind", to="guess"), "bound_kind"),
    (set_("status", to="perfect"), "status"),
    (set_("status", to="OPTIMAL"), "status"),
    (set_("efficacy", to=99.0), "efficacy"),
    (set_("efficacy", to=RESULT.efficacy + 1e-6), "efficacy"),
    (set_("gap", to=0.0), "gap"),
    (set_("score", to=RESULT.score + 1e-3), "efficacy"),
    (set_("iterations", to=1.5), "iterations"),
    (set_("iterations", to=-1), "iterations"),
    (set_("runtime", to=-1.0), "runtime"),
    (set_("setup_time", to=-1.0), "setup_time"),
    (set_("seed", to=-1), "seed"),
    (set_("seed", to="7"), "seed"),
    (set_("options", to=[]), "options"),
    (set_("options", "start", to=[1]), "options"),
    (set_("trace", to={}), "trace"),
    (set_("trace", 0, to={"time": 0.0, "score": 1.0}), "trace.0.bound"),
    (set_("trace", 0, "time", to="0"), "trace.0.time"),
    (set_("method", to=None), "method"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_documents_that_are_not_valid_say_where(case: int) -> None:
    change, named = BAD[case]
    with pytest.raises(DocumentError) as caught:
        Result.from_json(edited(change))
    assert named in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["score", "baseline", "rows_bound", "bound", "gap", "efficacy", "runtime"])
def test_numbers_that_are_none(field: str, number: str) -> None:
    lines = [f'"{field}": {number},' if line.startswith(f'"{field}":') else line for line in TEXT.splitlines()]
    with pytest.raises(DocumentError, match=field):
        Result.from_json("\n".join(lines))


def test_options_that_are_no_numbers() -> None:
    with pytest.raises(DocumentError, match="options"):
        Result.from_json(TEXT.replace('"start": ', '"start": NaN, "old": '))


@pytest.mark.parametrize("text", ["", " ", "null", "[]", "5", '"text"', "{}", "{", TEXT[:-3], TEXT + "}", "\ud800"])
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(DocumentError):
        Result.from_json(text)


@pytest.mark.parametrize("cut", range(0, len(TEXT) - 3, 97))
def test_a_truncated_document_is_refused(cut: int) -> None:
    with pytest.raises(DocumentError, match="not a JSON document"):
        Result.from_json(TEXT[:cut])


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(DocumentError):
        Result.from_json(TEXT.encode("utf-16"))  # type: ignore[arg-type]


@settings(max_examples=60)
@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_one_changed_character_is_refused_or_harmless(where: int, character: str) -> None:
    """Reading never fails in another way than by a DocumentError, and what is read is consistent."""
    try:
        result = Result.from_json(TEXT[:where] + character + TEXT[where + 1 :])
    except DocumentError:
        return
    assert sorted(result.perm.tolist()) == list(range(16))
    assert isinstance(result.status, Status)
    result.check(MATRIX, saliency="magnitude")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=60)
@given(values, st.sampled_from(sorted(json.loads(TEXT))))
def test_any_value_in_any_field_is_read_or_refused(value: Any, field: str) -> None:
    try:
        result = Result.from_json(edited(set_(field, to=value)))
    except DocumentError:
        return
    assert Result.from_json(result.to_json()).to_json() == result.to_json()
