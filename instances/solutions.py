"""Solutions in one form for all that mean the same, and as short text."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError
from permsolve.patterns import (
    NM,
    VNM,
    HiNM,
    HiNMSolution,
    Pattern,
    Permutation,
    Transposable,
    TransposableSolution,
    VNMSolution,
)


def canonical(pattern: Pattern, solution: Any) -> Any:
    """Bring a solution to the one form that all with the same tiles and groups share.

    Parameters
    ----------
    pattern
        The pattern.
    solution
        A solution that it has checked, of a problem without blocks.

    Returns
    -------
    object
        The solution, not writable: rows ascend inside tiles, columns inside groups; tiles ascend by their first row,
        groups by their first column. What belongs to a tile or a group moves with it.
    """
    return pattern.freeze(_FORMS[pattern.kind](pattern, solution))


def encode(pattern: Pattern, solution: Any, shape: tuple[int, int]) -> dict[str, str]:
    """Write a solution compactly.

    Parameters
    ----------
    pattern
        The pattern.
    solution
        A solution of it.
    shape
        Rows and columns of the matrix.

    Returns
    -------
    dict
        For each array of the solution the base64 of its numbers, one byte each where the matrix has up to 256 columns
        (for ``rows``: rows), else two or four, little-endian. Before those of an array of several dimensions stand its
        sizes, as in ``8x128:AAEC``.
    """
    return {name: _text(name, values, shape) for name, values in pattern.to_lists(solution).items()}


def decode(pattern: Pattern, texts: Mapping[str, str], shape: tuple[int, int]) -> Any:
    """Read a solution that `encode` wrote.

    Parameters
    ----------
    pattern
        The pattern.
    texts
        The text of each array.
    shape
        Rows and columns of the matrix.

    Returns
    -------
    object
        The solution, not writable.

    Raises
    ------
    InputError
        If an array is missing or more than is known, is damaged, or if the whole is no solution in canonical form.
    """
    if set(texts) != set(pattern.parts):
        raise InputError(
            f"best: a solution of {pattern} consists of {', '.join(pattern.parts)}; got {', '.join(texts) or 'nothing'}"
        )
    arrays = {name: _array(name, texts[name], shape) for name in pattern.parts}
    try:
        solution = pattern.check_solution(pattern.from_lists(arrays), shape)
    except InputError as error:
        raise InputError(f"best: {error}") from error
    form = canonical(pattern, solution)
    if pattern.to_lists(form) != pattern.to_lists(solution):
        raise InputError(
            "best is not in canonical form: rows ascend in tiles and columns in groups, tiles and groups by their first"
        )
    return form


def _number(name: str, shape: tuple[int, int]) -> np.dtype[Any]:
    """Return the type of an array's numbers: those of ``rows`` are rows, all others at most as large as columns."""
    most = shape[0] if name == "rows" else shape[1]
    return np.dtype("u1" if most <= 1 << 8 else "<u2" if most <= 1 << 16 else "<u4")


def _text(name: str, values: Any, shape: tuple[int, int]) -> str:
    array = np.asarray(values)
    sizes = "" if array.ndim == 1 else "x".join(map(str, array.shape)) + ":"
    return sizes + base64.b64encode(array.astype(_number(name, shape)).tobytes()).decode()


def _array(name: str, text: str, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    sizes, colon, numbers = text.rpartition(":")
    if colon and not re.fullmatch(r"\d{1,9}(x\d{1,9})+", sizes):
        raise InputError(f"best.{name} begins with {sizes[:40]!r}, which are no sizes such as 8x128")
    try:
        raw = base64.b64decode(numbers, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"best.{name} is not base64: {error}") from error
    kind = _number(name, shape)
    dimensions = tuple(map(int, sizes.split("x"))) if colon else (len(raw) // kind.itemsize,)
    if len(raw) != math.prod(dimensions) * kind.itemsize:
        wanted = f"{' x '.join(map(str, dimensions))} numbers of {kind.itemsize} bytes"
        raise InputError(f"best.{name} holds {len(raw)} bytes, which are no {wanted}")
    return np.frombuffer(raw, dtype=kind).astype(np.int64).reshape(dimensions)


def _grouped(order: Permutation, size: int) -> Permutation:
    """Sort a permutation inside groups of a size, and the groups by their first."""
    groups = np.sort(order.reshape(-1, size), axis=1)
    return groups[np.argsort(groups[:, 0])].reshape(-1)


def _tiled(rows: Permutation, vector: int) -> tuple[Permutation, Permutation]:
    """Sort rows inside tiles, and the tiles by their first; return the order of the tiles as well."""
    tiles = np.sort(rows.reshape(-1, vector), axis=1)
    order = np.argsort(tiles[:, 0])
    return tiles[order].reshape(-1), order


def _nm(pattern: NM, solution: Permutation) -> Permutation:
    return _grouped(solution, pattern.m)


def _transposable(pattern: Transposable, solution: TransposableSolution) -> TransposableSolution:
    return TransposableSolution(_grouped(solution.rows, pattern.m), _grouped(solution.columns, pattern.m))


def _hinm(pattern: HiNM, solution: HiNMSolution) -> HiNMSolution:
    rows, order = _tiled(solution.rows, pattern.vector)
    return HiNMSolution(rows, np.array([_grouped(solution.columns[tile], pattern.m) for tile in order]))


def _vnm(pattern: VNM, solution: VNMSolution) -> VNMSolution:
    rows, tiles = _tiled(solution.rows, pattern.vector)
    groups = solution.columns.reshape(-1, pattern.m)
    rank = np.argsort(np.argsort(groups, axis=1), axis=1)  # where each position of a group goes
    kept = np.sort(rank[np.arange(len(groups))[:, None], solution.kept], axis=2)
    order = np.argsort(groups.min(axis=1))
    return VNMSolution(rows, _grouped(solution.columns, pattern.m), kept[tiles][:, order])


_FORMS: Mapping[str, Callable[[Any, Any], Any]] = {
    NM.kind: _nm,
    HiNM.kind: _hinm,
    VNM.kind: _vnm,
    Transposable.kind: _transposable,
}
