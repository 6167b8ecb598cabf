"""Seeded synthetic matrices.

Every function draws from its own :class:`numpy.random.RandomState`, whose streams NumPy has frozen: a seed names the
same matrix under every NumPy version, which a :class:`numpy.random.Generator` does not promise. The matrices are
float64 in C order. Those of `uniform`, `duplicated_columns` and `planted` are the same to the last bit on every
platform; the others go through the C library's ``exp`` and ``log``, whose last bits may differ.

Some matrices have negative entries: they are weights, whose saliency (their magnitude, say) is the caller's choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError

__all__ = [
    "Clusters",
    "Planted",
    "duplicated_columns",
    "heavy_tails",
    "lognormal_columns",
    "normal",
    "planted",
    "row_clusters",
    "uniform",
    "unstructured_sparse",
]

_Matrix = npt.NDArray[np.float64]

# Planted entries are multiples of 1/2**20, so float64 sums of them are exact in any order up to 2**33 in value.
_STEPS = 2**19


class Planted(NamedTuple):
    """A matrix whose best grouping is known.

    Attributes
    ----------
    matrix
        Non-negative entries, shape (rows, cols).
    perm
        An optimal permutation, shape (cols,): ``matrix[:, perm]`` has the planted groups as consecutive columns.
    optimum
        The score of `perm`, equal to the sum of all entries.
    """

    matrix: _Matrix
    perm: npt.NDArray[np.int64]
    optimum: float


class Clusters(NamedTuple):
    """A matrix whose rows come in clusters, shuffled.

    Attributes
    ----------
    matrix
        Entries of either sign, shape (rows, cols).
    rows
        The hidden order, shape (rows,): in ``matrix[rows]`` the rows of a cluster are consecutive.
    """

    matrix: _Matrix
    rows: npt.NDArray[np.int64]


def uniform(rows: int, cols: int, *, seed: int) -> _Matrix:
    """Draw entries uniform on [0, 1).

    The matrix equals ``np.random.seed(seed); np.random.rand(rows, cols)``, the instance used in the field's code.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1.
    seed
        From 0 to 2**32 - 1.

    Returns
    -------
    Shape (rows, cols).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    return _stream(seed).random_sample((rows, cols))


def normal(rows: int, cols: int, *, seed: int) -> _Matrix:
    """Draw entries of the standard normal distribution: weights of either sign.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1.
    seed
        From 0 to 2**32 - 1.

    Returns
    -------
    Shape (rows, cols).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    return _stream(seed).standard_normal((rows, cols))


def lognormal_columns(rows: int, cols: int, *, seed: int, sigma: float = 0.5) -> _Matrix:
    """Draw normal entries and scale each column by a lognormal factor.

    Columns of unequal weight are what trained networks have, and what makes the grouping matter. The normal entries
    are those of `normal` with the same seed.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1.
    seed
        From 0 to 2**32 - 1.
    sigma
        Standard deviation of the logarithm of the column scales, at least 0; with 0 all scales are 1.

    Returns
    -------
    Shape (rows, cols).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    if not (np.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma must be a finite number, 0 or more; got {sigma!r}")
    stream = _stream(seed)
    matrix = stream.standard_normal((rows, cols))
    return matrix * np.exp(sigma * stream.standard_normal(cols))


def heavy_tails(rows: int, cols: int, *, seed: int, df: float = 2.0) -> _Matrix:
    """Draw entries of Student's t distribution: a few of them outweigh the rest.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1.
    seed
        From 0 to 2**32 - 1.
    df
        Degrees of freedom, above 0; the smaller, the heavier the tails.

    Returns
    -------
    Shape (rows, cols).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    if not (np.isfinite(df) and df > 0):
        raise InputError(f"df must be a finite number above 0; got {df!r}")
    return _stream(seed).standard_t(df, (rows, cols))


def duplicated_columns(rows: int, cols: int, *, seed: int, copies: int = 2) -> _Matrix:
    """Draw uniform columns, repeat each, and shuffle them: many permutations share a score.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1; `cols` is a multiple of `copies`.
    seed
        From 0 to 2**32 - 1.
    copies
        How often each distinct column occurs, at least 1.

    Returns
    -------
    Shape (rows, cols), with ``cols / copies`` distinct columns.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    _check_count("copies", copies)
    if cols % copies:
        raise InputError(f"cols must be a multiple of copies; got cols={cols}, copies={copies}")
    stream = _stream(seed)
    matrix = np.repeat(stream.random_sample((rows, cols // copies)), copies, axis=1)
    # Indexing columns answers in Fortran order here.
    return np.ascontiguousarray(matrix[:, stream.permutation(cols)])


def planted(rows: int, cols: int, *, seed: int, n: int = 2, m: int = 4) -> Planted:
    """Draw a matrix with a hidden grouping that loses nothing.

    In every row, each planted group of `m` columns has exactly `n` entries from 0.5 up to 1 and zeros elsewhere. The
    planted grouping therefore keeps the sum of all entries, which no grouping exceeds: it is optimal. The columns are
    then shuffled. Entries are multiples of ``2**-20``, so sums of them are exact in float64 (in float32 the entries
    are exact, long sums are not) and the optimum can be compared with ``==``.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1; `cols` is a multiple of `m`.
    seed
        From 0 to 2**32 - 1.
    n
        Entries kept of every `m`, at least 1.
    m
        Columns in a group, above `n`.

    Returns
    -------
    The matrix, an optimal permutation and the score it reaches.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    _check_count("n", n)
    _check_count("m", m)
    if n >= m:
        raise InputError(f"n must be below m; got n={n}, m={m}")
    if cols % m:
        raise InputError(f"cols must be a multiple of m; got cols={cols}, m={m}")
    stream = _stream(seed)
    entries = (_STEPS + np.floor(_STEPS * stream.random_sample((rows, cols)))) / (2 * _STEPS)
    # Uniform draws, ranked, pick the n places of every group at random.
    order = stream.random_sample((rows, cols // m, m)).argsort(axis=2, kind="stable")
    ranks = order.argsort(axis=2)
    entries[(ranks >= n).reshape(rows, cols)] = 0.0
    shuffle = stream.permutation(cols)
    perm = shuffle.argsort().astype(np.int64)
    return Planted(np.ascontiguousarray(entries[:, shuffle]), perm, float(entries.sum()))


def row_clusters(rows: int, cols: int, *, seed: int, vector: int = 32) -> Clusters:
    """Draw clusters of rows that weigh the columns alike, and shuffle the rows.

    Each cluster of `vector` rows has a lognormal factor for each column, which scales normal entries. Patterns that
    choose columns per tile of rows keep much more where a tile is a cluster. The hidden order is a good one to find,
    not an optimal one: rows of clusters may fit each other better still. The normal entries are those of `normal` with
    the same seed.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1; `rows` is a multiple of `vector`.
    seed
        From 0 to 2**32 - 1.
    vector
        Rows of a cluster, at least 1.

    Returns
    -------
    The matrix and the order of rows that it hides.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    _check_count("vector", vector)
    if rows % vector:
        raise InputError(f"rows must be a multiple of vector; got rows={rows}, vector={vector}")
    stream = _stream(seed)
    matrix = stream.standard_normal((rows, cols))
    matrix *= np.repeat(np.exp(stream.standard_normal((rows // vector, cols))), vector, axis=0)
    shuffle = stream.permutation(rows)
    return Clusters(matrix[shuffle], shuffle.argsort().astype(np.int64))


def unstructured_sparse(rows: int, cols: int, *, seed: int, sparsity: float = 0.5) -> _Matrix:
    """Draw normal entries and set those of smallest magnitude, over the whole matrix, to zero.

    What unstructured pruning leaves: the zeros lie anywhere, and a permutation decides how many of the other entries an
    n:m pattern has to give up as well. The entries that remain are those of `normal` with the same seed.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, each at least 1.
    seed
        From 0 to 2**32 - 1.
    sparsity
        Share of zeros, from 0 to below 1; their number is rounded to the nearest.

    Returns
    -------
    Shape (rows, cols).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_shape(rows, cols)
    if not 0 <= sparsity < 1:  # refuses NaN too
        raise InputError(f"sparsity must be at least 0 and below 1; got {sparsity!r}")
    matrix = _stream(seed).standard_normal((rows, cols))
    smallest = np.abs(matrix).argsort(axis=None, kind="stable")[: round(sparsity * matrix.size)]
    matrix.flat[smallest] = 0.0
    return matrix


def _stream(seed: int) -> np.random.RandomState:
    """Start the frozen stream of a seed."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be an integer from 0 to 2**32 - 1; got {seed!r}")
    return np.random.RandomState(int(seed))  # not a Generator: streams must be stable across NumPy versions


def _check_shape(rows: int, cols: int) -> None:
    """Refuse an empty or fractional shape."""
    _check_count("rows", rows)
    _check_count("cols", cols)


def _check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1; got {value!r}")
