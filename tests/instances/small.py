"""A library small enough for tests, in a folder that passes for a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from permsolve.instances.entries import INDEX, Entry, write_index
from permsolve.instances.families import Definition, fresh
from permsolve.patterns import parse


def make(name: str, nm: str, rows: int, cols: int, **source: Any) -> Entry:
    """Make the fresh entry of a generated matrix, uniform with seed 1 unless the source says otherwise."""
    source = {"generator": "uniform", "seed": 1, **source}
    return fresh(Definition(name, source["generator"], (rows, cols), parse(nm), source))


#: A tiny instance of every pattern that permutes rows.
HIERARCHICAL = {
    "hinm": ("hinm(4, 0.5, 1:2)", 12, 16),
    "vnm": ("4:2:8", 12, 16),
    "transposable": ("transposable(2:4)", 12, 16),
}


def hierarchical() -> tuple[Entry, ...]:
    """Make a tiny instance of every pattern that permutes rows."""
    return tuple(make(f"uniform_{kind}", *rest) for kind, rest in HIERARCHICAL.items())


def small() -> tuple[Entry, ...]:
    """Make a few tiny instances; 12x8 and 8x12 have the same bytes."""
    return (
        make("uniform_12x8", "2:4", 12, 8),
        make("uniform_8x12", "2:4", 8, 12),
        make("normal_12x16", "1:2", 12, 16, generator="normal"),
        make("planted_8x16", "4:8", 8, 16, generator="planted", n=4, m=8),
    )


def checkout(folder: Path, entries: Iterable[Entry] | None = None) -> Path:
    """Make a checkout with the small library, or with other instances; return its index."""
    (folder / "instances").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "permsolve"\n')
    write_index(folder / "instances" / INDEX, small() if entries is None else entries)
    return folder / "instances" / INDEX
