"""The index as a file: what is written is read again, what is damaged is refused with the name of the instance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import small

from permsolve import instances
from permsolve.errors import FileError, InputError
from permsolve.instances import entries, records
from permsolve.instances.entries import INDEX, Best, canonical

SHIPPED = Path(instances.__file__).parent / INDEX


def found() -> tuple[instances.Entry, ...]:
    """Make the small library with a permutation for its first instance."""
    first, *others = small()
    return replace(first, best=Best(first.baseline, np.arange(8), "identity", "0.0.1")), *others


def test_the_shipped_index_is_written_as_it_was_read() -> None:
    raw = SHIPPED.read_bytes()
    assert records.dump(records.parse(raw, "x")) == raw


def test_an_instance_is_a_line() -> None:
    lines = records.dump(found()).decode().splitlines()
    assert len(lines) == len(found()) + 2
    assert json.loads(lines[1].removesuffix(","))["name"] == "uniform_12x8"


@given(st.sampled_from([2, 4, 8]), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_permutations_survive_the_compact_form(m: int, groups: int, seed: int) -> None:
    perm = canonical(np.random.RandomState(seed).permutation(groups * m), m)
    text = records.encode(perm)
    np.testing.assert_array_equal(records.decode(text, groups * m, m), perm)
    assert len(text) <= 4 * (groups * m * (1 if groups * m <= 256 else 2) / 3 + 1)


@pytest.mark.parametrize("cols", [256, 260, 1024])
def test_column_numbers_take_one_byte_up_to_256_columns_and_two_beyond(cols: int) -> None:
    perm = np.arange(cols)
    np.testing.assert_array_equal(records.decode(records.encode(perm), cols, 4), perm)


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([0, 1, 2, 3, 4, 5, 6], "holds 7 bytes, 8 columns take 8"),
        ([0, 1, 2, 3, 4, 5, 6, 6], "no permutation of 8 columns"),
        ([0, 1, 2, 3, 4, 5, 6, 8], "no permutation of 8 columns"),
        ([1, 0, 2, 3, 4, 5, 6, 7], "canonical"),
        ([4, 5, 6, 7, 0, 1, 2, 3], "canonical"),
    ],
)
def test_what_is_no_canonical_permutation_is_refused(perm: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        records.decode(records.encode(np.array(perm)), 8, 4)


def edit(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Make a function that sets a field of a record."""

    def change(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return change


def without_bound(record: dict[str, Any]) -> None:
    del record["bound"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_bound, "bound: Field required"),
        (edit("extra", to=1), "extra: Extra inputs"),
        (edit("rows", to="12"), "rows: "),
        (edit("rows", to=0), "rows: "),
        (edit("cols", to=9), "9 columns .* do not divide"),
        (edit("cols", to=12), "holds 8 bytes, 12 columns take 12"),
        (edit("nm", to="4:2"), "1 <= n < m"),
        (edit("saliency", to="wanda"), "saliency: "),
        (edit("sha256", to="abc"), "sha256: "),
        (edit("baseline", to=float("nan")), "baseline: .*finite"),
        (edit("best", "score", to=float("inf")), "best.score: .*finite"),
        (edit("best", "perm", to="?"), "best.perm is not base64"),
        (edit("best", "perm", to="é"), "best.perm is not base64"),
        (edit("best", "version", to=""), "best.version: "),
        (edit("source", to={"generator": "uniforms", "seed": 1}), "generators: uniform, "),
        (edit("source", to={"generator": "uniform"}), "generator with its seed"),
        (edit("source", to={"stored": "x", "seed": 1}), "must be a stored matrix or"),
        (edit("source", "seed", to=[1]), "source.seed"),
        (edit("bound", "kind", to="guess"), "bound.kind: "),
        (edit("bound", "kind", to="lp"), "needs its certificate"),
        (edit("bound", "certificate", to={"exponent": 1, "duals": [1] * 8}), "takes no certificate"),
        (edit("bound", to={"value": 1.0, "kind": "lp", "certificate": {"exponent": 1, "duals": [1]}}), "1 duals for 8"),
        (edit("bound", "certificate", to={"exponent": 1, "duals": [0.5] * 8}), "duals.0: .*integer"),
    ],
)
def test_a_damaged_instance_is_refused_by_name(damage: Callable[[dict[str, Any]], None], message: str) -> None:
    document = json.loads(records.dump(found()))
    damage(document["instances"][0])
    with pytest.raises(FileError, match=rf"^some/file: instance uniform_12x8: .*{message}"):
        records.parse(json.dumps(document).encode(), "some/file")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "unknown schema"),
        (b'{"schema": "permsolve.instances/2", "instances": []}', "unknown schema: .*permsolve.instances/1"),
        (b'{"schema": "permsolve.instances/1"}', "a list of instances"),
        (b'{"schema": "permsolve.instances/1", "instances": {}}', "a list of instances"),
        (b'{"schema": "permsolve.instances/1", "instances": [], "more": 1}', "nothing else"),
        (b'{"schema": "permsolve.instances/1", "instances": [1]}', "instance number 1: "),
        (b'{"schema": "permsolve.instances/1", "instances": [{"name": "a b"}]}', "instance a b: name: "),
    ],
)
def test_what_is_no_index_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(FileError, match=rf"(?s)^some/file: .*{message}"):
        records.parse(raw, "some/file")


def test_a_cut_off_index_is_refused_wherever_it_ends() -> None:
    raw = records.dump(found())
    for end in range(0, len(raw) - 2, 97):
        with pytest.raises(FileError, match="not JSON"):
            records.parse(raw[:end], "x")


def test_a_name_listed_twice_is_refused() -> None:
    first = small()[0]
    with pytest.raises(FileError, match="uniform_12x8: listed twice"):
        records.parse(records.dump([first, first]), "x")


def test_an_index_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / INDEX
    entries.write_index(path, found())
    before = path.read_bytes()
    with pytest.raises(FileError, match="baseline"):
        entries.write_index(path, [replace(found()[0], baseline=float("nan"))])
    assert path.read_bytes() == before
    assert [each.name for each in entries.read_index(path)] == [each.name for each in found()]


def test_a_missing_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        entries.read_index(tmp_path / INDEX)
