"""The library as it ships: its instances, and that every stored figure follows from the matrix."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import slow_score

import permsolve
from permsolve import instances
from permsolve.errors import FileError, InputError
from permsolve.instances import entries, generators, sources
from permsolve.instances.sources import checksum

LIBRARY = instances.library()


def test_the_library_covers_the_families_sizes_and_patterns_it_promises() -> None:
    assert len(LIBRARY) == len({each.name for each in LIBRARY}) >= 60
    assert {each.family for each in LIBRARY} == {
        *("uniform", "normal", "lognormal_columns", "heavy_tails", "planted"),
        *("unstructured_sparse", "duplicated_columns", "real", "hierarchical"),
    }
    uniform = [each for each in LIBRARY if each.family == "uniform"]
    for cols in (16, 32, 64, 128, 256):
        assert {each.shape[1] for each in uniform} >= {cols}
    for cols in (32, 64, 128, 256):
        assert len({each.shape[0] for each in uniform if each.shape[1] == cols}) >= 3
    assert {str(each.pattern) for each in LIBRARY} >= {"1:2", "1:4", "2:4", "3:4", "2:8", "4:8"}
    assert {each.family == "hierarchical" for each in LIBRARY if each.pattern.moves_rows} == {True}
    for kind in ("hinm", "vnm", "transposable"):
        theirs = [each for each in LIBRARY if each.pattern.kind == kind]
        assert {each.shape for each in theirs} >= {(64, 64), (256, 256)}
        assert any("stored" in each.source for each in theirs)
    stored = {each.source["stored"] for each in LIBRARY if each.family == "real"}
    assert stored == set(instances.names())


def test_the_matrices_of_the_papers_are_in_the_library() -> None:
    entry = instances.entry("uniform_128x64_2of4_s1")
    stream = np.random.RandomState(1)
    np.testing.assert_array_equal(entry.matrix(), stream.rand(128, 64))
    assert entry.baseline == pytest.approx(2852.377, abs=5e-4)
    assert entry.rows_bound == pytest.approx(3042.332, abs=5e-4)


@pytest.mark.parametrize("entry", LIBRARY, ids=lambda entry: entry.name)
def test_stored_figures_follow_from_the_matrix(entry: instances.Entry) -> None:
    problem = entry.problem()
    assert problem.fingerprint == entry.sha256
    assert (problem.rows, problem.cols) == entry.shape
    assert problem.baseline == pytest.approx(entry.baseline, rel=1e-12)
    assert problem.rows_bound == pytest.approx(entry.rows_bound, rel=1e-12)
    assert entry.best is not None
    assert problem.score(entry.best.solution) == pytest.approx(entry.best.score, rel=1e-12)
    assert entry.baseline < entry.best.score <= entry.bound * (1 + 1e-9) <= entry.rows_bound * (1 + 1e-9)
    assert entry.proved == (entry.gap <= 1e-9)


def test_a_stored_score_is_what_the_definition_gives() -> None:
    entry = instances.entry("uniform_32x16_2of8_s1")
    assert entry.best is not None
    assert slow_score(entry.matrix(), entry.best.solution, 2, 8) == pytest.approx(entry.best.score, rel=1e-12)


def test_planted_optima_are_known_and_proved() -> None:
    planted = [each for each in LIBRARY if each.family == "planted"]
    assert planted
    assert all(each.proved for each in planted)


def test_licences_are_those_of_the_stored_matrices() -> None:
    for each in LIBRARY:
        if "stored" in each.source:
            about = instances.info(str(each.source["stored"]))
            assert (each.licence, each.sha256, each.shape) == (about.licence, about.sha256, about.shape)
        else:
            assert each.licence


def test_the_index_is_small_enough_to_ship() -> None:
    assert (Path(instances.__file__).parent / entries.INDEX).stat().st_size < 400_000


def test_matrices_through_exp_and_log_are_rounded_so_that_last_bits_do_not_matter() -> None:
    for each in LIBRARY:
        dtype = (
            np.float64 if each.source.get("generator") in ("uniform", "planted", "duplicated_columns") else np.float32
        )
        assert each.matrix().dtype == dtype
    entry = instances.entry("lognormal_columns_64x16_2of4_s1")
    exact = generators.lognormal_columns(64, 16, seed=1)
    for other in (np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)):  # as another platform's exp might say
        assert checksum(other) != checksum(exact)
        assert checksum(other.astype(np.float32)) == entry.sha256


def test_an_entry_makes_its_problem_and_cannot_be_changed() -> None:
    entry = instances.entry("digits_cnn_conv5_1of4")
    problem = entry.problem()
    assert (str(problem.pattern), problem.saliency_name) == ("1:4", "magnitude")
    result = permsolve.solve(problem, method="identity")
    assert result.fingerprint == entry.sha256
    assert entry.efficacy(entry.baseline) == 0
    assert entry.efficacy(entry.rows_bound) == 100
    assert entry.best is not None
    with pytest.raises(ValueError, match="read-only"):
        entry.best.solution[0] = 1
    entry.matrix()[:] = 0
    assert entry.matrix().any()


def test_an_unknown_instance_names_similar_ones() -> None:
    with pytest.raises(InputError, match=r"'digit_cnn_conv5'; did you mean .*digits_cnn_conv5_2of4"):
        instances.entry("digit_cnn_conv5")
    with pytest.raises(InputError, match="`permsolve instances list` shows all"):
        instances.entry("???")


def test_instances_are_chosen_by_name_and_family() -> None:
    names = ["planted_64x64_2of4_s1", "uniform_32x16_2of4_s0", "planted_64x64_2of4_s1"]
    assert [each.name for each in entries.select(LIBRARY, names)] == names[:2]
    assert [each.name for each in entries.select(LIBRARY, names, "planted")] == names[:1]
    assert {each.family for each in entries.select(LIBRARY, family="planted")} == {"planted"}
    with pytest.raises(InputError, match="no family is called 'plant'; there are: uniform, "):
        entries.select(LIBRARY, family="plant")
    with pytest.raises(InputError, match="of family 'real'"):
        entries.select(LIBRARY, names, "real")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "the sha256 of its matrix is 46849e1f"),
        ({"source": {"generator": "uniform", "seed": 9}}, "the sha256 of its matrix"),
        ({"source": {"generator": "uniform", "seed": -1}}, "seed must be"),
        ({"source": {"generator": "uniform", "seed": 0, "sigma": 2}}, "unexpected keyword argument 'sigma'"),
        ({"source": {"generator": "uniforms", "seed": 0}}, "no generator is called 'uniforms'; there are: uniform"),
        ({"source": {"stored": "nope"}}, "no stored matrix is called 'nope'"),
        ({"source": {"stored": "digits_mlp_input"}}, r"shape \(256, 64\), the index says \(32, 16\)"),
    ],
)
def test_a_source_that_gives_another_matrix_is_refused(change: dict[str, object], message: str) -> None:
    entry = instances.entry("uniform_32x16_2of4_s0")
    with pytest.raises(FileError, match=rf"library\.json: instance uniform_32x16_2of4_s0: .*{message}"):
        replace(entry, **change).problem()  # type: ignore[arg-type]


def test_hidden_clusters_are_what_the_best_known_of_their_instances_is_at_least_worth() -> None:
    found = [each for each in LIBRARY if each.source.get("generator") == "row_clusters"]
    assert found
    for each in found:
        problem, hidden = each.problem(), sources.generate(each.source, each.shape)
        planted = problem.score(problem.pattern.choose(problem, hidden.rows))  # type: ignore[attr-defined]
        assert each.best is not None
        assert each.best.score >= planted * (1 - 1e-12)
        assert each.efficacy(planted) > 50


def test_reading_the_library_makes_no_matrix() -> None:
    code = (
        "import numpy as np\n"
        "from permsolve import instances\n"
        "def refuse(*_): raise AssertionError\n"
        "np.random.RandomState = instances.load = refuse\n"
        "assert instances.library()[0].best is not None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
