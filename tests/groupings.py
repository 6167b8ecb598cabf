"""Group values, covers and LPs, written the slow and obvious way; and matrices that bounds find hard."""

from __future__ import annotations

import functools
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from permsolve import Problem
from permsolve.partition.quantise import Quantised
from permsolve.run import Run
from permsolve.stop import Criterion

PATTERNS = [(1, 2), (1, 4), (2, 4), (3, 4), (2, 3), (1, 3), (4, 8)]
KINDS = ["uniform", "tied", "zero", "constant", "duplicated", "sparse", "half", "outliers", "tiny", "huge", "spread"]
#: The same for tests that take seconds for each: most of them run with ``--slow`` only.
SOME_KINDS = [
    kind if kind in ("uniform", "duplicated", "outliers") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in KINDS
]


def matrix(kind: str, rows: int, cols: int, seed: int = 1) -> np.ndarray:
    """Draw a saliency of a kind that is common, or hard for rounding, or full of ties."""
    stream = np.random.RandomState(seed)
    values = stream.rand(rows, cols)
    if kind == "tied":
        return np.round(values * 2)
    if kind == "zero":
        return values * 0
    if kind == "constant":
        return np.tile(values[0], (rows, 1))
    if kind == "duplicated":
        return values[:, stream.randint(0, max(cols // 3, 2), size=cols)]
    if kind == "sparse":
        return values * (stream.rand(rows, cols) < 0.2)
    if kind == "half":
        return values.astype(np.float16)
    if kind == "outliers":
        values[0, :3] = 1e9, 2e9, 3e9
        values[-1, 1] = 1e9
        return values
    factors = {"tiny": 1e-300, "huge": 1e300, "spread": 10.0 ** stream.randint(-8, 8, size=(rows, 1))}
    return values * factors.get(kind, 1.0)


def whole(rows: int, cols: int, seed: int = 1, most: int = 1000) -> np.ndarray:
    """Draw columns as the kernels get them: integer-valued float64 (cols, rows)."""
    return np.random.RandomState(seed).randint(0, most + 1, size=(cols, rows)).astype(np.float64)


def groups_of(cols: int, m: int, first: int | None = None) -> np.ndarray:
    """List all groups in lexicographic order, or those of one smallest member."""
    listed = [group for group in combinations(range(cols), m) if first is None or group[0] == first]
    return np.array(listed, dtype=np.int64).reshape(-1, m)


def worth(columns: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """Sum over rows the n largest entries of every group."""
    m = groups.shape[1]
    return np.sort(columns[groups], axis=1)[:, m - n :].sum(axis=(1, 2))


def cheapest_cover(groups: np.ndarray, costs: np.ndarray, cols: int) -> float:
    """Return the least cost of disjoint groups that cover all columns, infinite where there are none."""
    by_column: list[list[tuple[int, float]]] = [[] for _ in range(cols)]
    for group, cost in zip(groups.tolist(), costs.tolist(), strict=True):
        by_column[min(group)].append((sum(1 << column for column in group), cost))

    @functools.cache
    def best(covered: int) -> float:
        if covered == (1 << cols) - 1:
            return 0.0
        lowest = next(column for column in range(cols) if not covered >> column & 1)
        return min(
            (cost + best(covered | mask) for mask, cost in by_column[lowest] if not covered & mask), default=np.inf
        )

    return best(0)


def opened(problem: Problem, n_jobs: int = 1, stop: Criterion | None = None, seed: int = 0) -> tuple[Run, Any]:
    """Return a run of a problem whose clock is running, and its core."""
    run = Run(problem, stop=stop, rng=np.random.default_rng(seed), n_jobs=n_jobs)
    return run, run.open()


def plain(work: Any, items: Any) -> list[Any]:
    """Apply a function to items, on no thread."""
    return [work(item) for item in items]


def is_partition(perm: np.ndarray, cols: int) -> bool:
    """Return whether every column is there once."""
    return sorted(np.asarray(perm).ravel().tolist()) == list(range(cols))


def feasible(quantised: Quantised, prices: np.ndarray) -> bool:
    """Return whether no group of all is worth more than its duals."""
    groups = groups_of(quantised.cols, quantised.m)
    return bool((worth(quantised.columns, groups, quantised.n) <= prices[groups].sum(axis=1)).all())
