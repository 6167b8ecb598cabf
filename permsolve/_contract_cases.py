"""What the rules of the contract are checked on: matrices of every kind, and the obvious ways to score them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import _contract_patterns as definitions
from permsolve.patterns import NM, Pattern

Array = npt.NDArray[Any]

#: Most ways to divide the columns that are all tried to know an optimum.
DIVISIONS = 10_000


def uniform(rows: int, cols: int, seed: int = 1) -> Array:
    """Return entries uniform on [0, 1).

    Parameters
    ----------
    rows, cols
        Shape.
    seed
        Of the generator.

    Returns
    -------
    numpy.ndarray
        float64 (rows, cols), the same on every machine.
    """
    return np.random.RandomState(seed).rand(rows, cols)


def width(least: int, m: int) -> int:
    """Return a number of columns that divides into at least two groups.

    Parameters
    ----------
    least
        Least number of columns.
    m
        Group size.

    Returns
    -------
    int
        The smallest multiple of m that will do.
    """
    return max(-(-least // m), 2) * m


def height(least: int, pattern: Pattern) -> int:
    """Return a number of rows that divides into tiles.

    Parameters
    ----------
    least
        Least number of rows.
    pattern
        The pattern.

    Returns
    -------
    int
        `least` itself for plain n:m; else the smallest multiple of the tile's rows, of at least two tiles.
    """
    if not pattern.moves_rows:
        return least
    return width(least, getattr(pattern, "vector", pattern.m))


def fitted(matrix: Array, pattern: Pattern) -> Array:
    """Return a matrix whose rows divide into tiles.

    Parameters
    ----------
    matrix
        The matrix.
    pattern
        The pattern.

    Returns
    -------
    numpy.ndarray
        The matrix, or its rows over and over.
    """
    rows = height(len(matrix), pattern)
    return matrix if rows == len(matrix) else np.concatenate([matrix] * -(-rows // len(matrix)))[:rows]


def _tied(cols: int) -> Array:
    return np.random.RandomState(2).randint(0, 3, size=(9, cols))


#: Kinds of matrices, by the number of columns.
MATRICES: dict[str, Callable[[int], Array]] = {
    "one row": lambda cols: uniform(1, cols),
    "three rows": lambda cols: uniform(3, cols),
    "seventeen rows": lambda cols: uniform(17, cols),
    "one column varies": lambda cols: np.hstack([np.full((5, cols - 1), 0.5), uniform(5, 1)]),
    "constant": lambda cols: np.full((5, cols), 0.1),
    "all zero": lambda cols: np.zeros((5, cols)),
    "a zero row and a zero column": lambda cols: np.pad(uniform(4, cols - 1), ((0, 1), (0, 1))),
    "duplicated columns": lambda cols: np.repeat(uniform(5, -(-cols // 4)), 4, axis=1)[:, :cols],
    "tied integers": _tied,
    "negative": lambda cols: uniform(5, cols) - 1.0,
    "sparse": lambda cols: uniform(5, cols) * (uniform(5, cols, seed=2) < 0.1),
    "heavy tails": lambda cols: np.exp(12 * uniform(5, cols)),
    "int8": lambda cols: np.random.RandomState(3).randint(-128, 128, size=(5, cols)).astype(np.int8),
    "int64": lambda cols: _tied(cols).astype(np.int64) * 10**15,
    "bool": lambda cols: uniform(5, cols) < 0.5,
    "float16": lambda cols: (uniform(5, cols) - 0.5).astype(np.float16),
    "float32": lambda cols: uniform(5, cols).astype(np.float32),
    "huge": lambda cols: uniform(5, cols) * 1e300,
    "tiny": lambda cols: uniform(5, cols) * 1e-300,
    "subnormal float32": lambda cols: (
        np.random.RandomState(4).randint(0, 100, size=(5, cols)).astype(np.float32) * 1e-45
    ),
    "Fortran order": lambda cols: np.asfortranarray(uniform(5, cols)),
    "negative strides": lambda cols: uniform(10, 2 * cols)[::-2, ::-2],
    "big-endian": lambda cols: uniform(5, cols).astype(">f4"),
}


def slow_score(saliency: Array, solution: Any, pattern: Pattern) -> float:
    """Score a solution the slow and obvious way, by sorting lists of Python numbers.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0.
    solution
        The solution; for plain n:m a permutation.
    pattern
        The pattern.

    Returns
    -------
    float
        The exactly rounded sum of what is kept.
    """
    if pattern.moves_rows:
        return definitions.slow_score(saliency, solution, pattern)
    kept = []
    for row in np.asarray(saliency, dtype=np.float64)[:, np.asarray(solution)].tolist():
        for start in range(0, len(row), pattern.m):
            kept += sorted(row[start : start + pattern.m], reverse=True)[: pattern.n]
    return math.fsum(kept)


def small_shape(pattern: Pattern) -> tuple[int, int] | None:
    """Return the shape of a matrix of which all solutions can be tried.

    Parameters
    ----------
    pattern
        The pattern.

    Returns
    -------
    tuple or None
        (rows, cols), or None if there are too many ways to divide two groups.
    """
    if pattern.moves_rows:
        return definitions.small_shape(pattern)
    assert isinstance(pattern, NM)
    cols = small_width(pattern)
    return None if cols is None else (7, cols)


def small_width(pattern: NM) -> int | None:
    """Return a number of columns of which all divisions into groups can be tried.

    Parameters
    ----------
    pattern
        The pattern.

    Returns
    -------
    int or None
        Columns, of at most `DIVISIONS` divisions; None if two groups have more.
    """
    groups, count = 1, 1
    while (count := count * math.comb((groups + 1) * pattern.m - 1, pattern.m - 1)) <= DIVISIONS:
        groups += 1
    return groups * pattern.m if groups > 1 else None


def optimum(saliency: Array, pattern: Pattern) -> float:
    """Return the best score over all solutions of a small problem.

    Parameters
    ----------
    saliency
        (rows, cols), entries >= 0, of `small_shape`.
    pattern
        The pattern.

    Returns
    -------
    float
        The optimum.
    """
    if pattern.moves_rows:
        return definitions.optimum(saliency, pattern)
    columns = range(saliency.shape[1])
    values = {group: slow_score(saliency, group, pattern) for group in itertools.combinations(columns, pattern.m)}
    return max(math.fsum(values[group] for group in groups) for groups in _divisions(tuple(columns), pattern.m))


def _divisions(columns: tuple[int, ...], m: int) -> Iterator[list[tuple[int, ...]]]:
    if not columns:
        yield []
        return
    for others in itertools.combinations(columns[1:], m - 1):
        group = (columns[0], *others)
        for rest in _divisions(tuple(column for column in columns if column not in group), m):
            yield [group, *rest]
