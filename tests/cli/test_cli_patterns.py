"""`permsolve compare` and `permsolve study` on patterns that permute rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import permsolve
from permsolve import cli, registry
from permsolve.errors import MissingDependencyError

Run = Callable[..., tuple[int, str, str]]

PATTERNS = ("hinm(4, 0.5, 2:4)", "4:2:8", "transposable(2:4)")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line beside a matrix; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).random((8, 32)))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["permsolve", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def listed(out: str) -> set[str]:
    """Return the methods in a table."""
    return {line.split()[1] for line in out.splitlines() if line.startswith("\u2502")}


@pytest.mark.parametrize("nm", PATTERNS)
def test_compare_takes_the_methods_that_support_the_problem(nm: str) -> None:
    problem = permsolve.Problem.of(np.random.default_rng(0).random((8, 32)), nm)
    solvers = {name: permsolve.get_solver(name)() for name in permsolve.methods()}
    expected = {name for name, solver in solvers.items() if solver.refusal(problem) is None}
    assert set(cli._default_methods(problem)) == expected >= {"identity", "random"}
    assert "ria" not in expected


def test_compare_says_nothing_of_methods_that_nobody_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "methods", lambda: ("identity", "random", "ria"))
    code, out, err = run("compare", "a.npy", "--nm", PATTERNS[0], "--time-limit", 0.05, "-q", "--jobs", 1)
    assert (code, err) == (0, "")
    assert listed(out) == {"identity", "random"}
    assert f"a.npy: {PATTERNS[0]} of 8 x 32" in out


def test_compare_leaves_out_what_cannot_be_loaded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> type[permsolve.Solver]:
        raise MissingDependencyError("it needs torch")

    loaders = registry._loaders()
    monkeypatch.setattr(registry, "_loaders", lambda: {"learned": missing, "random": loaders["random"]})
    problem = permsolve.Problem.of(np.random.default_rng(0).random((8, 32)), PATTERNS[0])
    assert set(cli._default_methods(problem)) == {"random"}


def test_compare_names_the_methods_that_were_asked_for_and_do_not_fit(run: Run) -> None:
    words = ("compare", "a.npy", "--nm", PATTERNS[0], "--time-limit", 0.05, "-q")
    code, out, err = run(*words, "--methods", "identity,ria")
    assert code == 0
    assert listed(out) == {"identity"}
    assert f"ria left out: it does not search patterns like {PATTERNS[0]}" in err
    code, _, err = run(*words, "--methods", "ria")
    assert code == 2
    assert "none of the methods supports this problem" in err


def test_compare_on_plain_nm_takes_the_usual_methods(run: Run) -> None:
    code, out, err = run("compare", "a.npy", "--nm", "1:2", "--time-limit", 0.02, "-q", "--jobs", 1)
    assert code == 0
    refused = {line.split()[1] for line in err.splitlines()}
    assert listed(out) | refused == set(cli._COMPARED)


@pytest.mark.parametrize("study", ["steps", "unstructured"])
@pytest.mark.parametrize("nm", PATTERNS)
def test_studies_are_of_plain_nm(run: Run, study: str, nm: str) -> None:
    code, out, err = run("study", study, "a.npy", "--nm", nm, "--json", "out.json", "-q")
    assert (code, out) == (2, "")
    assert err.startswith(f"permsolve: error: the studies are of plain n:m, got {nm}; give for example nm='2:4'")
    assert err.count("\n") == 1
    assert not Path("out.json").exists()


@pytest.mark.parametrize("nm", PATTERNS)
def test_solve_draws_every_pattern(run: Run, nm: str) -> None:
    pytest.importorskip("matplotlib")
    words = ("solve", "a.npy", "--nm", nm, "--method", "random", "--time-limit", 0.1, "--plot", "map.png", "-q")
    code, out, _ = run(*words)
    assert code == 0
    assert "picture     map.png" in out
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")
