"""`permsolve instances` as scripts see it: exit codes, one line per fault, files whole or untouched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import permsolve
from permsolve import cli, instances
from permsolve.instances import entries
from permsolve.instances.entries import INDEX, read_index, write_index

Run = Callable[..., tuple[int, str, str]]

NARROW = ("uniform_32x16_2of4_s0", "planted_32x16_2of4_s1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; return exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["permsolve", "instances", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout that holds the narrow instances without their bests."""
    folder = tmp_path / "checkout"
    (folder / "instances").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "permsolve"\n')
    fresh = [
        replace(instances.entry(name), best=None, bound=instances.entry(name).rows_bound, bound_kind="rows")
        for name in NARROW
    ]
    write_index(folder / "instances" / INDEX, [replace(entry, certificate=None) for entry in fresh])
    return folder


def package_index(monkeypatch: pytest.MonkeyPatch, *changed: instances.Entry) -> None:
    """Let the package's library be these instances."""
    monkeypatch.setattr(entries, "library", lambda: changed)


def test_list_shows_every_instance_and_filters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("list")
    assert code == 0
    for entry in instances.library():
        assert entry.name in out
    code, out, _ = run("list", "--family", "planted")
    assert code == 0
    assert "planted_64x64_4of8_s1" in out
    assert "100.000" in out
    assert "proved" in out
    assert "uniform" not in out
    code, out, _ = run("list", "--open", "--family", "planted")
    assert "planted_64x64_4of8_s1" not in out
    package_index(monkeypatch, replace(instances.entry(NARROW[0]), best=None))
    code, out, _ = run("list", "--open")
    assert code == 0
    assert NARROW[0] in out


def test_show_says_everything_and_writes_the_matrix(run: Run, tmp_path: Path) -> None:
    entry = instances.entry("digits_cnn_conv5_1of4")
    code, out, _ = run("show", entry.name, "--out", tmp_path / "matrix.npy")
    assert code == 0
    assert entry.best is not None
    for text in (entry.sha256, repr(entry.best.score), repr(entry.bound), "1:4 of 576 x 64", "CNN 13.weight"):
        assert text in out
    assert " ".join(map(str, entry.best.solution)) in out
    np.testing.assert_array_equal(np.load(tmp_path / "matrix.npy"), entry.matrix())
    code, out, _ = run("show", "unstructured_sparse_70pc_64x16_2of4_s1")
    assert "generators.unstructured_sparse(64, 16, seed=1, sparsity=0.7)" in out


def test_list_and_show_know_every_pattern(run: Run) -> None:
    code, out, _ = run("list", "--family", "hierarchical")
    assert code == 0
    theirs = [entry for entry in instances.library() if entry.family == "hierarchical"]
    assert len(theirs) >= 12
    for entry in theirs:
        assert any(entry.name in line and f" {entry.pattern} " in line for line in out.splitlines())
    for entry in theirs:
        code, out, _ = run("show", entry.name)
        assert code == 0
        assert entry.best is not None
        assert f"{entry.pattern} of {entry.shape[0]} x {entry.shape[1]}" in out
        for name, values in entry.pattern.to_lists(entry.best.solution).items():
            shown = out.partition(f"\n{name:<12} ")[2].split()
            flat = np.ravel(values)
            assert shown[: flat.size] == [str(value) for value in flat]


def test_verify_knows_every_pattern(run: Run) -> None:
    names = [f"normal_64x64_{pattern}_s1" for pattern in ("hinm16_50pc_2of4", "vnm16_2of8", "transposable_2of4")]
    code, out, err = run("verify", *names, "--jobs", 1)
    assert (code, err) == (0, "")
    assert out.startswith("ok: 3 instances, 3 scores recomputed, 0 certificates proved again, 0 notes")


def test_verify_confirms_what_is_true(run: Run) -> None:
    code, out, err = run("verify", *NARROW, "--jobs", 1)
    assert code == 0
    assert out.startswith("ok: 2 instances, 2 scores recomputed")
    assert err == ""
    code, out, _ = run("verify", *NARROW, "--family", "planted")
    assert out.startswith("ok: 1 instances")


def test_verify_names_every_fault_on_a_line_and_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (instances.entry(name) for name in NARROW)
    assert bad.best is not None
    package_index(monkeypatch, good, replace(bad, baseline=1.0, best=replace(bad.best, score=bad.best.score / 2)))
    code, out, err = run("verify", "--jobs", 1)
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"permsolve: check failed: {bad.name}: ") for line in lines[:2])
    assert lines[2] == "permsolve: 1 of 2 instances do not verify"
    assert "ok" not in out


def test_update_improves_the_checkout_and_nothing_else(run: Run, checkout: Path) -> None:
    index = checkout / "instances" / INDEX
    installed = Path(instances.__file__).parent / INDEX
    before = installed.read_bytes()
    code, out, _ = run("update", checkout, "--time-limit", 0.1, "--jobs", 1)
    assert code == 0
    assert f"{NARROW[0]}: score none -> " in out
    assert "2 of 2 instances improved" in out
    assert all(entry.best is not None for entry in read_index(index))
    assert installed.read_bytes() == before
    code, out, _ = run("update", checkout, NARROW[1], "--time-limit", 0.1, "--jobs", 1)
    assert f"{NARROW[1]}: left out: proved optimal already" in out


def test_update_takes_a_document(run: Run, checkout: Path, tmp_path: Path) -> None:
    entry = instances.entry(NARROW[0])
    result = permsolve.solve(entry.matrix(), entry.pattern, method="ria", n_jobs=1)
    permsolve.save(result, tmp_path / "doc.json")
    code, out, _ = run("update", checkout, "--from", tmp_path / "doc.json")
    assert code == 0
    assert f"{NARROW[0]}: score none -> " in out
    best = read_index(checkout / "instances" / INDEX)[0].best
    assert best is not None
    assert best.score == pytest.approx(result.score, rel=1e-12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nope"], "no instance is called 'nope'"),
        (["show", NARROW[0], "--out", "matrix.txt"], "an .npy file"),
        (["show", NARROW[0], "--out", "no/such/matrix.npy"], "cannot be written"),
        (["list", "--family", "nope"], "no family is called 'nope'"),
        (["verify", "nope"], "no instance is called 'nope'"),
        (["update", "."], "is no checkout of permsolve"),
        (["update", "absent"], "is no checkout of permsolve"),
        (["update", "checkout", "nope"], "no instance is called 'nope'"),
        (["update", "checkout", "--method", "magic"], "unknown method 'magic'"),
        (["update", "checkout", "--bound", "guess"], "'rows' or 'lp'"),
        (["update", "checkout", "--from", "absent.json"], "absent.json"),
        (["update", "checkout", NARROW[0], "--from", "absent.json"], "leave out names"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    run: Run, checkout: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(checkout.parent)
    before = (checkout / "instances" / INDEX).read_bytes()
    code, out, err = run(*words)
    assert code == 2
    assert err.startswith("permsolve: error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert out == ""
    assert (checkout / "instances" / INDEX).read_bytes() == before


def test_a_damaged_index_is_one_line_that_names_the_instance(run: Run, checkout: Path) -> None:
    index = checkout / "instances" / INDEX
    index.write_bytes(index.read_bytes().replace(b'"rows": 32', b'"rows": "32"', 1))
    code, _, err = run("update", checkout)
    assert code == 2
    assert err == f"permsolve: error: {index}: instance {NARROW[0]}: rows: Input should be a valid integer\n"
