"""What several tests share: definitions written the slow and obvious way, and the clearing of stale caches."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import permsolve

#: Patterns of the contract suite.
PATTERNS = ("1:2", "1:4", "2:4", "3:4", "2:8", "4:8", "8:16", "1:16")


def clear_stale_caches(folder: Path) -> bool:
    """Delete Numba's compiled kernels in a folder of sources unless they were made from the sources as they are now.

    Numba looks at the file a kernel is written in, not at the files of the kernels that it calls.
    """
    with contextlib.suppress(OSError):
        digest = hashlib.sha256()
        for source in sorted(folder.glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
        cache = folder / "__pycache__"
        stamp = cache / "sources.sha256"
        if stamp.is_file() and stamp.read_text() == digest.hexdigest():
            return False
        cache.mkdir(exist_ok=True)
        for compiled in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            compiled.unlink(missing_ok=True)
        stamp.write_text(digest.hexdigest())
        return True
    return False


def slow_score(saliency: Any, perm: Any, n: int, m: int) -> float:
    """Sum the n largest entries of every group of m in every row, by sorting lists of Python numbers."""
    rows = np.asarray(saliency, dtype=np.float64).tolist()
    order = [int(column) for column in perm]
    kept = []
    for row in rows:
        for start in range(0, len(order), m):
            kept += sorted((row[column] for column in order[start : start + m]), reverse=True)[:n]
    return math.fsum(kept)


def partitions(columns: tuple[int, ...], m: int) -> Iterator[tuple[int, ...]]:
    """Yield every division of the columns into groups of m once, as a permutation."""
    if not columns:
        yield ()
        return
    first, others = columns[0], columns[1:]
    for more in _combinations(others, m - 1):
        rest = tuple(column for column in others if column not in more)
        for tail in partitions(rest, m):
            yield (first, *more, *tail)


def _combinations(items: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    if size == 0:
        yield ()
        return
    for k in range(len(items)):
        for more in _combinations(items[k + 1 :], size - 1):
            yield (items[k], *more)


def brute_force(saliency: Any, n: int, m: int) -> float:
    """Return the best score over all divisions of a few columns into groups of m."""
    saliency = np.asarray(saliency, dtype=np.float64)

    @functools.cache
    def value(group: tuple[int, ...]) -> float:
        return slow_score(saliency, group, n, m)

    best = -math.inf
    for perm in partitions(tuple(range(saliency.shape[1])), m):
        groups = (perm[start : start + m] for start in range(0, len(perm), m))
        best = max(best, math.fsum(value(group) for group in groups))
    return best


def is_exactly_nm(mask: Any, n: int, m: int) -> bool:
    """Return whether every m consecutive columns of every row hold exactly n true entries."""
    mask = np.asarray(mask)
    return all(sum(map(bool, row[k : k + m])) == n for row in mask.tolist() for k in range(0, mask.shape[1], m))


def flat_methods() -> list[str]:
    """Return the methods that search plain n:m."""
    return [name for name in permsolve.methods() if "nm" in permsolve.get_solver(name).patterns]


def pattern_of(method: str) -> str:
    """Return a pattern that a method searches, 2:4 where it can; it divides 8 rows and 32 columns."""
    examples = {"nm": "2:4", "hinm": "hinm(4, 0.5, 2:4)", "vnm": "4:2:8", "transposable": "transposable(2:4)"}
    return next(examples[kind] for kind in examples if kind in permsolve.get_solver(method).patterns)


def uniform(rows: int, cols: int, seed: int = 1) -> np.ndarray:
    """Draw entries uniform on [0, 1): what ``np.random.seed(seed); np.random.rand(rows, cols)`` gives."""
    return np.random.RandomState(seed).rand(rows, cols)


def rarely(values: Iterable[Any], slow: Container[Any]) -> list[Any]:
    """Return parameters of a test, those that add little to the others marked for the long run."""
    return [pytest.param(value, marks=pytest.mark.slow) if value in slow else value for value in values]
