"""The guide for writing a solver does what it says: its code is run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "writing-a-solver.md"
PATTERNS = GUIDE.parent / "patterns.md"


def blocks(kind: str) -> list[str]:
    """Return the guide's blocks of a kind of code."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """Return the blocks that are whole files, by the name in their first line."""
    named = ((re.match(r"# (\w+\.py)\n", block), block) for block in blocks("python"))
    return {name[1]: block for name, block in named if name}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what installing the guide's package puts into site-packages: its modules and its metadata."""
    site = tmp_path_factory.mktemp("site")
    (text,) = blocks("toml")
    config = tomllib.loads(text)
    name, version = config["project"]["name"], config["project"]["version"]
    assert {f"{module}.py" for module in config["tool"]["setuptools"]["py-modules"]} == set(files())
    for file, source in files().items():
        (site / file).write_text(source)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{method} = {value}\n" for method, value in found.items())
        for group, found in config["project"]["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points)
    np.save(site / "weights.npy", np.random.default_rng(0).standard_normal((8, 32)))
    return site


def python(site: Path, *words: str) -> str:
    """Run an interpreter that finds the package, in its folder; return what it printed."""
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=site,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_code_of_the_guide_runs(installed: Path) -> None:
    code = "\n".join(block for block in blocks("python") if block not in files().values())
    (installed / "guide.py").write_text(code + "\ntest_the_contract()\n")
    printed = python(installed, "guide.py")
    assert "divisions, more than most = 10,000" in printed
    assert re.search(r"ThresholdAccepting: \d+ checks passed", printed)
    assert "Careless breaks the rule same_seed_same_permutation on 1:2" in printed
    assert "use run.rng only" in printed


def test_the_code_about_patterns_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PATTERNS.read_text(), re.DOTALL)
    printed = python(tmp_path, "-c", code)
    assert "hinm(32, 0.5, 2:4) of 256 x 256" in printed
    assert float(printed.split()[-1]) > 0.44


def test_the_code_about_objectives_prints_its_table(tmp_path: Path) -> None:
    text = (GUIDE.parent / "objectives.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = python(tmp_path, "-c", code)
    lines = re.findall(r"keeps (\d+), error ([\d.]+)", printed)
    table = re.findall(r"^\| by .* \| \**(\d+)\** \| \**([\d.]+)\** \|$", text, re.MULTILINE)
    assert len(table) == 4
    assert lines == table
    assert printed.endswith("optimal: 285.2 group by group, 239.6\n")


def test_the_code_about_sparse_weights_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    code = re.findall(r"```python\n(.*?)```", (GUIDE.parent / "sparse.md").read_text(), re.DOTALL)[0]
    assert "of the bytes" in python(tmp_path, "-c", code)


def test_its_commands_run(installed: Path) -> None:
    (text,) = blocks("sh")
    lines = text.splitlines()
    assert all(line.startswith("permsolve ") for line in lines)
    printed = [python(installed, "-m", *shlex.split(line)) for line in lines]
    assert "Dueck and Scheuer" in printed[0]
    assert "method      threshold_accepting: " in printed[1]
    assert "threshold_accepting" in printed[2]


def test_the_same_file_is_a_method_of_the_repository(installed: Path, tmp_path: Path) -> None:
    """In the folder of solvers the file needs nothing else; here that folder is a temporary one beside the real one."""
    shutil.copy(installed / "exhaustive.py", tmp_path / "exhaustive_of_the_guide.py")
    code = (
        "import permsolve.solvers\n"
        f"permsolve.solvers.__path__.append({str(tmp_path)!r})\n"
        "from permsolve.testing import check_solver\n"
        "assert 'exhaustive_of_the_guide' in permsolve.methods()\n"
        "print(check_solver('exhaustive_of_the_guide', patterns=['2:4'], cols=12, iterations=100).summary())"
    )
    assert re.search(r"exhaustive_of_the_guide: \d+ checks passed", python(installed, "-c", code))


def test_the_guide_points_to_files_that_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / link).is_file()
    for path in re.findall(r"`((?:tests|solvers|docs)/[\w./-]*)`", GUIDE.read_text()):
        assert (ROOT / path).exists()
