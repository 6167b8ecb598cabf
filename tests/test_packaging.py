"""What an ordinary install holds: an editable one sees folders that a wheel would leave out."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_folder_is_installed() -> None:
    """A folder missing from the list once made every installed wheel fail at its first solve."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {"permsolve": "permsolve", "permsolve.solvers": "solvers", "permsolve.instances": "instances"}
    found = set()
    for package, folder in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert listed == found
