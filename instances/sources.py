"""Where the matrices of the library come from: generators, and the files that ship with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError

from . import generators

#: What a source may name as its generator.
GENERATORS: Mapping[str, Callable[..., Any]] = {
    name: getattr(generators, name)
    for name in (
        "uniform",
        "normal",
        "lognormal_columns",
        "heavy_tails",
        "planted",
        "unstructured_sparse",
        "duplicated_columns",
        "row_clusters",
    )
}

# These go through exp and log, whose last bits differ between platforms. Rounded to float32, an entry differs only
# where such a last bit decides the rounding: about once in 2**28 entries, and the library has fewer than 2**20 of them.
_ROUNDED = ("normal", "lognormal_columns", "heavy_tails", "unstructured_sparse", "row_clusters")


def draw(source: Mapping[str, int | float | str], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Make the matrix that a source describes.

    Matrices of generators that go through the C library's ``exp`` or ``log`` are rounded to float32, so that they are
    the same on every platform; the others are float64 as drawn, and stored ones float32 as stored.

    Parameters
    ----------
    source
        As `Entry.source`.
    shape
        Rows and columns.

    Returns
    -------
    numpy.ndarray
        The matrix.

    Raises
    ------
    InputError
        If there is no such generator or stored matrix, or an argument is out of range.
    TypeError
        If an argument is of the wrong kind or none of the generator's.
    """
    if "stored" in source:
        from . import load

        return load(str(source["stored"]))
    answer = generate(source, shape)
    hidden = isinstance(answer, (generators.Planted, generators.Clusters))
    matrix: npt.NDArray[Any] = answer.matrix if hidden else answer
    return matrix.astype(np.float32) if source["generator"] in _ROUNDED else matrix


def generate(source: Mapping[str, int | float | str], shape: tuple[int, int]) -> Any:
    """Return what the generator of a source answers.

    Parameters
    ----------
    source
        As `Entry.source`, no stored one.
    shape
        Rows and columns.

    Returns
    -------
    object
        The matrix in float64, or what holds it beside what was hidden in it.

    Raises
    ------
    InputError, TypeError
        As `draw`.
    """
    arguments = dict(source)
    name = str(arguments.pop("generator", None))
    if name not in GENERATORS:
        raise InputError(f"no generator is called {name!r}; there are: {', '.join(GENERATORS)}")
    return GENERATORS[name](*shape, **arguments)


def checksum(matrix: npt.NDArray[Any]) -> str:
    """Return the sha256 of a matrix: its little-endian bytes in C order.

    Parameters
    ----------
    matrix
        The matrix.

    Returns
    -------
    str
        Hexadecimal digits; equal to `Problem.fingerprint`.
    """
    little = np.ascontiguousarray(matrix, dtype=matrix.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data).hexdigest()
