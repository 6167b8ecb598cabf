"""The definition of the library: the shipped index is made of it, and making it anew loses nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import make

from permsolve import instances
from permsolve.instances import families
from permsolve.instances.entries import INDEX, Best, read_index, write_index
from permsolve.instances.records import dump
from permsolve.patterns import parse


def test_the_shipped_index_is_what_the_definitions_and_its_bests_give() -> None:
    library = instances.library()
    assert [each.name for each in library] == [each.name for each in families.definitions()]
    assert dump(families.extend(library)) == dump(library)


def test_extending_adds_what_is_missing_and_keeps_what_is_known() -> None:
    known, changed, foreign = "uniform_32x16_2of4_s1", "uniform_32x16_2of4_s2", make("theirs", "2:4", 4, 8)
    old = {each.name: replace(each, sha256="0" * 64 if each.name == changed else each.sha256) for each in library(40)}
    new = families.extend([*old.values(), foreign])
    by_name = {each.name: each for each in new}
    assert [each.name for each in new] == [*(each.name for each in families.definitions()), "theirs"]
    assert by_name[known].best is old[known].best
    assert by_name[known].bound == old[known].bound
    assert by_name[changed].best is None  # it is another matrix now: what was known was of the old one
    added = by_name[families.definitions()[-1].name]
    assert (added.best, added.bound, added.bound_kind) == (None, added.rows_bound, "rows")
    clusters = by_name["row_clusters_64x64_hinm16_50pc_2of4_s1"]
    assert clusters.best is not None
    assert clusters.best.method == "planted"
    assert clusters.best.score == clusters.problem().score(clusters.best.solution) > clusters.baseline


def test_names_tell_patterns_apart() -> None:
    names = [each.name for each in families.definitions()]
    assert len(set(names)) == len(names)
    assert {families._short(parse(nm)) for nm in ("2:4", "hinm(32, 0.75, 2:4)", "64:2:8", "transposable(1:2)")} == {
        *("2of4", "hinm32_75pc_2of4", "vnm64_2of8", "transposable_1of2")
    }


def library(count: int) -> tuple[instances.Entry, ...]:
    """Return the first instances of the shipped library."""
    return instances.library()[:count]


def test_a_checkout_without_index_gets_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families, "definitions", lambda: all_definitions[:3])
    monkeypatch.setattr(sys, "argv", ["families", str(tmp_path)])
    assert families.main() == 2
    assert "no checkout" in capsys.readouterr().err
    (tmp_path / "instances").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "permsolve"\n')
    assert families.main() == 0
    index = tmp_path / "instances" / INDEX
    entries = read_index(index)
    assert [each.best for each in entries] == [None] * 3
    best = Best(entries[0].baseline, np.arange(16), "identity", "0.0.1")
    write_index(index, [replace(entries[0], best=best), *entries[1:]])
    before = index.read_bytes()
    assert families.main() == 0
    assert index.read_bytes() == before
    assert "3 instances, 0 of them new" in capsys.readouterr().out


all_definitions = families.definitions()
