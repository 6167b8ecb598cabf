"""A library small enough for tests, in a folder that passes for a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from permsolve.instances.entries import INDEX, Entry, write_index
from permsolve.instances.families import Definition, fresh
from permsolve.patterns import NM


def make(name: str, nm: str, rows: int, cols: int, **source: Any) -> Entry:
    """Make the fresh entry of a generated matrix, uniform with seed 1 unless the source says otherwise."""
    source = {"generator": "uniform", "seed": 1, **source}
    return fresh(Definition(name, source["generator"], (rows, cols), NM.parse(nm), source))


def small() -> tuple[Entry, ...]:
    """Make a few tiny instances; 12x8 and 8x12 have the same bytes."""
    return (
        make("uniform_12x8", "2:4", 12, 8),
        make("uniform_8x12", "2:4", 8, 12),
        make("normal_12x16", "1:2", 12, 16, generator="normal"),
        make("planted_8x16", "4:8", 8, 16, generator="planted", n=4, m=8),
    )


def checkout(folder: Path) -> Path:
    """Make a checkout with the small library; return its index."""
    (folder / "instances").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "permsolve"\n')
    write_index(folder / "instances" / INDEX, small())
    return folder / "instances" / INDEX
