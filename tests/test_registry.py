"""The registry: which methods there are, and what happens to those that cannot be used."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import uniform

import permsolve
import permsolve.solvers
from permsolve import Problem, Solver, Status, registry
from permsolve.errors import MissingDependencyError, PermsolveError, UnknownMethodError
from permsolve.run import Run


@dataclass(frozen=True)
class Backwards(Solver):
    """Somebody else's method: the columns in reverse, rolled by a step."""

    step: int = 1

    def __call__(self, problem: Problem, run: Run) -> Status:
        run.offer(np.roll(np.arange(problem.cols)[::-1], self.step))
        return Status.COMPLETED


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Forget what the registry has found, before and after."""
    registry._loaders.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    registry._loaders.cache_clear()


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Let an installed package offer methods; ``points`` maps names to modules and objects."""
    module = types.ModuleType("somebody_else")
    module.Backwards, module.number = Backwards, 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_else", module)
    found = [importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points.items()]
    others = importlib.metadata.entry_points  # Numba asks for its own when it compiles for the first time

    def entry_points(**asked: str) -> object:
        return found if asked.get("group") == "permsolve.solvers" else others(**asked)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.fixture
def folder(fresh: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add a folder to the package of solvers."""
    fresh.setattr(permsolve.solvers, "__path__", [*permsolve.solvers.__path__, str(tmp_path)])
    return tmp_path


def test_the_methods_are_the_files_of_the_folder() -> None:
    files = {path.stem for path in Path(permsolve.solvers.__path__[0]).glob("[!_]*.py")}
    assert set(permsolve.methods()) >= files >= {"annealing", "auto", "identity", "random"}
    assert list(permsolve.methods()) == sorted(permsolve.methods())


def test_listing_imports_no_method_and_nothing_heavy() -> None:
    code = (
        "import permsolve, sys, json; permsolve.methods();"
        "print(json.dumps([m for m in sys.modules if m.startswith('permsolve.solvers.') "
        "or m in ('numba', 'scipy', 'torch', 'rustworkx')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", permsolve.methods())
def test_every_method_says_where_it_comes_from_and_what_it_counts(name: str) -> None:
    solver = permsolve.get_solver(name)
    assert issubclass(solver, Solver)
    assert solver.source
    assert solver.unit
    assert solver.__doc__
    for option in solver.option_names():
        assert option in solver.__doc__


@pytest.mark.parametrize("name", ["nothing", "", "__init__", "Annealing", "../annealing", None, 3, ["auto"]])
def test_an_unknown_name(name: object) -> None:
    with pytest.raises(UnknownMethodError, match="annealing"):
        permsolve.get_solver(name)  # type: ignore[arg-type]


def test_another_package_adds_a_method(fresh: pytest.MonkeyPatch) -> None:
    offer(fresh, backwards="somebody_else:Backwards")
    assert "backwards" in permsolve.methods()
    assert permsolve.get_solver("backwards") is Backwards
    result = permsolve.solve(uniform(5, 8), method="backwards", options={"step": 2})
    assert (result.method, result.options) == ("backwards", {"step": 2})


def test_two_sources_of_one_name_are_an_error(fresh: pytest.MonkeyPatch) -> None:
    offer(fresh, annealing="somebody_else:Backwards")
    with pytest.raises(PermsolveError, match=r"'annealing'.*somebody_else:Backwards"):
        permsolve.methods()


def test_an_entry_point_that_is_no_method(fresh: pytest.MonkeyPatch) -> None:
    offer(fresh, five="somebody_else:number")
    assert "five" in permsolve.methods()
    with pytest.raises(PermsolveError, match="'five'"):
        permsolve.get_solver("five")


def test_an_entry_point_whose_package_is_missing(fresh: pytest.MonkeyPatch) -> None:
    offer(fresh, absent="no_such_package_anywhere.solvers:Solver")
    assert "absent" in permsolve.methods()
    with pytest.raises(MissingDependencyError, match="pip install no_such_package_anywhere"):
        permsolve.get_solver("absent")


SOLVER = """
from dataclasses import dataclass
from permsolve.solver import Solver, Status

@dataclass(frozen=True)
class {name}(Solver):
    def __call__(self, problem, run):
        return Status.COMPLETED
"""


def test_a_new_file_is_a_new_method(folder: Path) -> None:
    (folder / "brand_new.py").write_text(SOLVER.format(name="BrandNew"))
    assert "brand_new" in permsolve.methods()
    assert permsolve.solve(uniform(5, 8), method="brand_new").method == "brand_new"


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [("no_such_package_anywhere", "pip install no_such_package_anywhere"), ("triton.language", "permsolve[gpu]")],
)
def test_a_file_whose_dependency_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, missing.partition(".")[0], None)  # type: ignore[arg-type]
    name = f"needs_{missing.partition('.')[0]}"
    (folder / f"{name}.py").write_text(f"import {missing}\n" + SOLVER.format(name="Needs"))
    assert name in permsolve.methods()
    with pytest.raises(MissingDependencyError, match=name) as caught:
        permsolve.solve(uniform(5, 8), method=name)
    assert remedy in str(caught.value)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(("count", "classes"), [(0, ()), (2, ("First", "Second"))])
def test_a_file_must_define_one_method(folder: Path, count: int, classes: tuple[str, ...]) -> None:
    (folder / f"defines_{count}.py").write_text("".join(SOLVER.format(name=name) for name in classes) or "x = 1\n")
    with pytest.raises(PermsolveError, match=f"it defines {count}"):
        permsolve.get_solver(f"defines_{count}")


def test_a_fault_inside_a_file_is_not_taken_for_a_missing_package(folder: Path) -> None:
    (folder / "faulty.py").write_text("from permsolve.no_such_module import x\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught:
        permsolve.get_solver("faulty")
    assert not isinstance(caught.value, MissingDependencyError)


def test_private_files_are_no_methods(folder: Path) -> None:
    (folder / "_shared.py").write_text("")
    assert "_shared" not in permsolve.methods()
