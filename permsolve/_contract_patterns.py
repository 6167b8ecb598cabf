"""Slow and obvious definitions of the patterns that permute rows: what the contract holds solutions against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from permsolve.patterns import VNM, Array, HiNM, Pattern, Transposable
from permsolve.patterns.vnm import WIDTH

Matrix = list[list[float]]


def slow_score(saliency: Array, solution: Any, pattern: Pattern) -> float:
    """Score a solution by sorting lists of Python numbers.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    solution
        The solution.
    pattern
        `HiNM`, `VNM` or `Transposable`.

    Returns
    -------
    float
        The exactly rounded sum of what is kept.
    """
    matrix = np.asarray(saliency, dtype=np.float64).tolist()
    if isinstance(pattern, Transposable):
        rows, columns = (_cut(order.tolist(), pattern.m) for order in (solution.rows, solution.columns))
        return math.fsum(
            _block([[matrix[r][c] for c in right] for r in left], pattern.n) for left in rows for right in columns
        )
    assert isinstance(pattern, (HiNM, VNM))
    kept = (solution.columns if isinstance(pattern, HiNM) else solution.absolute()).tolist()
    width = pattern.m if isinstance(pattern, HiNM) else WIDTH
    values = []
    for tile, columns in zip(_cut(solution.rows.tolist(), pattern.vector), kept, strict=True):
        for group in _cut(columns, width):
            for row in tile:
                values += sorted((matrix[row][c] for c in group), reverse=True)[: pattern.n]
    return math.fsum(values)


def faults(solution: Any, pattern: Pattern, shape: tuple[int, int]) -> list[str]:
    """Say what is wrong with a solution.

    Parameters
    ----------
    solution
        The solution.
    pattern
        `HiNM`, `VNM` or `Transposable`.
    shape
        (rows, cols).

    Returns
    -------
    list
        One sentence for each fault.
    """
    found = [] if sorted(solution.rows.tolist()) == list(range(shape[0])) else ["rows are no permutation"]
    if isinstance(pattern, HiNM):
        # Blocks have been checked by the core; without them the number kept follows from the definition.
        for t, columns in enumerate(solution.columns.tolist()):
            if len(set(columns)) != len(columns) or not all(0 <= c < shape[1] for c in columns):
                found.append(f"the columns of tile {t} are not different ones of the matrix")
        return found
    if sorted(solution.columns.tolist()) != list(range(shape[1])):
        found.append("columns are no permutation")
    if isinstance(pattern, VNM):
        for four in solution.kept.reshape(-1, WIDTH).tolist():
            if sorted(set(four)) != four or not 0 <= four[0] <= four[-1] < pattern.m:
                found.append(f"{four} are not four ascending positions in a group of {pattern.m}")
    return found


def small_shape(pattern: Pattern) -> tuple[int, int]:
    """Return the shape of a matrix of which all solutions can be tried.

    Parameters
    ----------
    pattern
        `HiNM`, `VNM` or `Transposable`.

    Returns
    -------
    tuple
        Two tiles of rows (or one block, transposable), columns for one group per tile (or two blocks).
    """
    if isinstance(pattern, Transposable):
        return pattern.m, 2 * pattern.m
    assert isinstance(pattern, (HiNM, VNM))
    cols = pattern.m
    while isinstance(pattern, HiNM) and pattern.kept(cols) == 0:
        cols += pattern.m
    return 2 * pattern.vector, cols


def optimum(saliency: Array, pattern: Pattern) -> float:
    """Return the best score over all solutions of a matrix of `small_shape`.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    pattern
        `HiNM`, `VNM` or `Transposable`.

    Returns
    -------
    float
        The optimum.
    """
    matrix = np.asarray(saliency, dtype=np.float64).tolist()
    rows, cols = range(len(matrix)), range(len(matrix[0]))
    if isinstance(pattern, Transposable):
        return max(
            math.fsum(_block([[row[c] for c in part] for row in matrix], pattern.n) for part in parts)
            for parts in _halves(cols)
        )
    width = pattern.m if isinstance(pattern, HiNM) else WIDTH

    @cache
    def best(tile: tuple[int, ...]) -> float:
        return max(
            math.fsum(x for r in tile for x in sorted((matrix[r][c] for c in group), reverse=True)[: pattern.n])
            for group in itertools.combinations(cols, width)
        )

    return max(best(first) + best(second) for first, second in _halves(rows))


def _cut(items: list[int], size: int) -> list[list[int]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


def _halves(items: range) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Go through the ways to cut items into two equal halves."""
    for rest in itertools.combinations(items[1:], len(items) // 2 - 1):
        first = (items[0], *rest)
        yield first, tuple(item for item in items if item not in first)


def _block(block: Matrix, n: int) -> float:
    """Return the most that a mask with n entries per row and column of a square block keeps: all masks, row by row."""

    @cache
    def rest(row: int, left: tuple[int, ...]) -> float:
        if row == len(block):
            return 0.0
        values = []
        for chosen in itertools.combinations(range(len(block)), n):
            if all(left[c] for c in chosen):
                less = tuple(count - (c in chosen) for c, count in enumerate(left))
                if max(less) < len(block) - row:  # what is left must fit the rows below
                    values.append(sum(block[row][c] for c in chosen) + rest(row + 1, less))
        return max(values, default=-math.inf)

    return rest(0, (n,) * len(block))
