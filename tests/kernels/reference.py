"""Plain NumPy and Python for what the kernels compute, from the definitions in their docstrings."""

from __future__ import annotations

import numpy as np

from permsolve.kernels.groups import State, make_state, refresh_all

#: Patterns that take every path through the kernels: 2:4 is written out, the others are general.
PATTERNS = [(1, 2), (1, 4), (2, 4), (3, 4), (2, 8), (4, 8), (8, 16), (1, 16), (2, 3), (6, 7)]
#: Rows around the 16 lanes, the 128 rows of a scratch block and the 512 rows of a gain block.
ROWS = [1, 2, 15, 16, 17, 127, 128, 129, 300]
KINDS = ["uniform", "fine", "tied", "zero", "constant", "duplicated", "sparse"]


def matrix(kind: str, rows: int, cols: int, seed: int = 1) -> np.ndarray:
    """Draw a saliency whose entries are multiples of a power of two up to 1, so that float32 sums of them are exact."""
    stream = np.random.RandomState(seed)
    values = stream.randint(0, 65, size=(rows, cols)) / 64
    if kind == "fine":
        values = 0.5 + values / 1024
    elif kind == "tied":
        values = np.round(values * 2) / 2
    elif kind == "zero":
        values = values * 0
    elif kind == "constant":
        values = np.broadcast_to(stream.randint(1, 3, size=cols) / 2, (rows, cols)).copy()
    elif kind == "duplicated":
        values = values[:, stream.randint(0, 3, size=cols)]
    elif kind == "sparse":
        values = values * (stream.random_sample((rows, cols)) < 0.1)
    return values


def pack(values: np.ndarray) -> np.ndarray:
    """Return the columns as the kernels get them: float32, rows padded with zeros to 16; not clipped, not scaled."""
    rows, cols = values.shape
    packed = np.zeros((cols, -(-rows // 16) * 16), dtype=np.float32)
    packed[:, :rows] = values.T
    return packed


def state_of(values: np.ndarray, order: np.ndarray, n: int, m: int) -> State:
    """Return an up-to-date state of the kernels."""
    state = make_state(pack(values), n)
    refresh_all(state, order, m, n)
    return state


def value(values: np.ndarray, members: np.ndarray, n: int) -> float:
    """Sum over rows the n largest entries of a group."""
    return float(np.sort(values[:, members], axis=1)[:, len(members) - n :].sum())


def score(values: np.ndarray, order: np.ndarray, n: int, m: int) -> float:
    """Sum the values of all groups."""
    return sum(value(values, order[start : start + m], n) for start in range(0, len(order), m))


def threshold(values: np.ndarray, members: np.ndarray, x: int, n: int) -> np.ndarray:
    """Return, by row, the n-th largest entry of a group without its x-th member."""
    others = np.delete(members, x)
    return np.sort(values[:, others], axis=1)[:, len(others) - n]


def gain(values: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return ``gain[i, j] = sum_r max(S[r, j] - t_i[r], 0)`` for all columns i and j."""
    result = np.zeros((values.shape[1], values.shape[1]))
    for start in range(0, len(order), m):
        members = order[start : start + m]
        for x, i in enumerate(members):
            t = threshold(values, members, x, n)
            result[i] = np.maximum(values - t[:, None], 0).sum(axis=0)
    return result


def shuffled(cols: int, seed: int = 2) -> np.ndarray:
    """Return a permutation of the columns."""
    return np.random.RandomState(seed).permutation(cols)
