"""The index as a file: what is written is read again, what is damaged is refused with the name of the instance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import hierarchical, small

from permsolve import instances
from permsolve.errors import FileError
from permsolve.instances import entries, records
from permsolve.instances.entries import INDEX, Best

SHIPPED = Path(instances.__file__).parent / INDEX


def found() -> tuple[instances.Entry, ...]:
    """Make the small library with a permutation for its first instance."""
    first, *others = small()
    return replace(first, best=Best(first.baseline, np.arange(8), "identity", "0.0.1")), *others


def test_the_shipped_index_is_written_as_it_was_read() -> None:
    raw = SHIPPED.read_bytes()
    assert records.dump(records.parse(raw, "x")) == raw


@pytest.mark.parametrize("entry", hierarchical(), ids=lambda entry: entry.pattern.kind)
def test_instances_of_other_patterns_are_read_as_they_were_written(entry: instances.Entry) -> None:
    problem = entry.problem()
    best = Best.of(problem, problem.pattern.draw(problem, np.random.default_rng(0)), "random", "0.0.1")
    raw = records.dump([replace(entry, best=best)])
    (again,) = records.parse(raw, "x")
    assert again.best is not None
    assert again.pattern == entry.pattern
    assert again.best.solution == best.solution
    assert records.dump([again]) == raw
    (fresh,) = records.parse(records.dump([entry]), "x")
    assert fresh.best is None


def test_an_instance_is_a_line() -> None:
    lines = records.dump(found()).decode().splitlines()
    assert len(lines) == len(found()) + 2
    assert json.loads(lines[1].removesuffix(","))["name"] == "uniform_12x8"


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
        (edit("cols", to=12), r"a permutation of 12 columns is .* got int64 of shape \(8,\)"),
        (edit("nm", to="2 : 4"), "must be written '2:4'"),
        (edit("nm", to="4:2"), "1 <= n < m"),
        (edit("saliency", to="wanda"), "saliency: "),
        (edit("sha256", to="abc"), "sha256: "),
        (edit("baseline", to=float("nan")), "baseline: .*finite"),
        (edit("best", "score", to=float("inf")), "best.score: .*finite"),
        (edit("best", "perm", to="?"), "best.perm is not base64"),
        (edit("best", "perm", to="é"), "best.perm is not base64"),
        (edit("best", "perm", to=7), "best.perm: "),
        (edit("best", "rows", to="AAEC"), "consists of perm; got perm, rows"),
        (edit("best", to={"score": 1.0, "method": "x", "version": "1"}), "consists of perm; got nothing"),
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
    ("damage", "message"),
    [
        (edit("rows", to=10), "10 rows .* do not divide into tiles"),
        (edit("nm", to="transposable(2:4)"), "consists of rows, columns; got rows, columns, kept"),
        (edit("nm", to="vnm(4, 2, 8)"), "must be written '4:2:8'"),
        (edit("best", "kept", to="AAEC"), r"kept of a solution of 4:2:8 for 12 x 16 has shape \(3, 2, 4\)"),
        (edit("bound", "kind", to="lp"), "certificates are of plain n:m, not of 4:2:8"),
        (edit("bound", "certificate", to={"exponent": 1, "duals": [1] * 16}), "are of plain n:m, not of 4:2:8"),
    ],
)
def test_a_damaged_instance_of_another_pattern_is_refused_by_name(
    damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    entry = hierarchical()[1]
    problem = entry.problem()
    best = Best.of(problem, problem.pattern.draw(problem, np.random.default_rng(0)), "random", "0.0.1")
    document = json.loads(records.dump([replace(entry, best=best)]))
    damage(document["instances"][0])
    with pytest.raises(FileError, match=rf"^some/file: instance uniform_vnm: .*{message}"):
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
