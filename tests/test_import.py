"""What importing the package costs, and what it offers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import permsolve

HEAVY = [
    "numba",
    "scipy",
    "torch",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
    "rustworkx",
    "safetensors",
    "joblib",
    "numpy",
]


def imported(code: str) -> set[str]:
    """Run code in a new interpreter and return the modules it imported."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not imported("import permsolve") & set(HEAVY)


def test_using_names_imports_no_more_than_they_need() -> None:
    names = "permsolve.solve, permsolve.Problem, permsolve.Result, permsolve.load, permsolve.save, permsolve.stop"
    loaded = imported(f"import permsolve; {names}; permsolve.Problem.of([[1, 2, 3, 4]]).rows_bound")
    assert not loaded & {"torch", "pydantic", "typer", "rich", "matplotlib", "rustworkx", "scipy", "numba"}
    assert "numpy" in loaded


def test_a_solve_does_not_import_torch() -> None:
    loaded = imported("import permsolve; permsolve.solve([[1, 2, 3, 4, 5, 6, 7, 8]], time_limit=0.01).to_json()")
    assert not loaded & {"torch", "matplotlib", "typer"}


def test_every_public_name_exists() -> None:
    for name in permsolve.__all__:
        assert getattr(permsolve, name) is not None
    assert dir(permsolve) == sorted(permsolve.__all__)
    assert callable(permsolve.solve)


def test_a_module_never_hides_the_function_of_the_same_name() -> None:
    import permsolve._solve
    import permsolve.registry

    assert callable(permsolve.solve)
    assert callable(permsolve.methods)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="'solv'"):
        permsolve.solv  # noqa: B018


def test_no_package_called_solvers_or_instances_is_installed() -> None:
    code = "import importlib.util as u; assert u.find_spec('solvers') is None and u.find_spec('instances') is None"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
