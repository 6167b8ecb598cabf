"""Weight matrices read block by block, and their saliency gathered into one array."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import aligned, channels_last, read, readable
from permsolve.errors import InputError

Array = npt.NDArray[Any]

#: Entries read at a time.
BLOCK = 1 << 22
#: Rows are padded with zeros to a multiple of this: one 512-bit register of float32.
LANES = 16


class Source:
    """A weight matrix that is read in blocks of rows, from wherever it lies.

    Parameters
    ----------
    matrix
        NumPy array (a memory-map too), torch tensor on any device, or anything `numpy.asarray` takes, of shape
        (rows, cols) or, for a convolution, (K, C, R) or (K, C, R, S) or (K, C, R, S, T).

    Raises
    ------
    InputError
        If the matrix is not numeric, has another number of axes, or is empty.
    """

    def __init__(self, matrix: object) -> None:
        self._data, self.dtype = readable(matrix)
        #: Shape of the matrix.
        self.shape: tuple[int, ...] = tuple(self._data.shape)
        if len(self.shape) not in (2, 3, 4, 5):
            raise InputError(
                f"a weight matrix has 2 axes (rows, input channels), a convolution's 3 to 5 (K, C, R[, S[, T]]); "
                f"got {len(self.shape)} axes, shape {self.shape}"
            )
        if math.prod(self.shape) == 0:
            raise InputError(f"the matrix is empty: shape {self.shape}")

    @property
    def rows(self) -> int:
        """Rows per channel: outputs times kernel positions."""
        return self.shape[0] * math.prod(self.shape[2:])

    def parts(self) -> Iterator[slice]:
        """Cut axis 0 into parts of about `BLOCK` entries.

        Yields
        ------
        slice
            The parts, in order.
        """
        step = max(1, BLOCK // math.prod(self.shape[1:]))
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))

    def read(self, part: slice | None = None) -> tuple[Array, Array]:
        """Read a part of axis 0.

        Parameters
        ----------
        part
            The part, or None for everything.

        Returns
        -------
        tuple
            The raw array, and its values: float32, or float64 where float32 would lose something. They may share
            memory with the matrix: they are not to be written to.
        """
        return read(self._data, self.dtype, part)

    def fingerprint(self) -> str:
        """Return the hexadecimal sha256 of the matrix's C-order little-endian bytes.

        Returns
        -------
        str
            64 digits.
        """
        digest = hashlib.sha256()
        for part in self.parts():
            digest.update(raw_bytes(self.read(part)[0]))
            self.release()
        return digest.hexdigest()

    def release(self) -> None:
        """Give pages of a memory-mapped file back to the system: they count as this process's memory."""
        data = self._data
        while isinstance(data, np.ndarray) and isinstance(data.base, np.ndarray):
            data = data.base
        # A private map's pages may have been written to, and are nowhere else.
        mapped = isinstance(data, np.memmap) and isinstance(data.base, mmap.mmap) and data.mode in ("r", "r+")
        if mapped and hasattr(mmap, "MADV_DONTNEED"):
            data.base.madvise(mmap.MADV_DONTNEED)


def finite_values(matrix: object) -> Array:
    """Return the values of a matrix.

    Parameters
    ----------
    matrix
        As in `Source`.

    Returns
    -------
    numpy.ndarray
        float32, or float64 where float32 would lose something; perhaps the caller's own array.

    Raises
    ------
    InputError
        As `Source`, or if an entry is not finite.
    """
    values = Source(matrix).read()[1]
    finite = np.isfinite(values)
    if not finite.all():
        raise _not_finite(int((~finite).sum()), tuple(int(k) for k in np.argwhere(~finite)[0]))
    return values


def raw_bytes(raw: Array) -> memoryview:
    """Return an array's C-order little-endian bytes, which fingerprints are made of.

    Parameters
    ----------
    raw
        The array.

    Returns
    -------
    memoryview
        The bytes.
    """
    return np.ascontiguousarray(raw.astype(raw.dtype.newbyteorder("<"), copy=False)).data


def _not_finite(count: int, first: tuple[int, ...]) -> InputError:
    return InputError(
        f"the matrix holds {count} NaN or infinite entries, the first at {first}; "
        f"repair them first, for example with numpy.nan_to_num"
    )


#: What gives the saliency of a block of rows: its number and the values of the weights go in.
Rule = Callable[[slice | None, Array], Array]


def rowwise(function: Callable[[Array], Array], name: str) -> Rule:
    """Return a rule that applies a function to blocks of weights.

    Parameters
    ----------
    function
        Gives the saliency of a block from its weights alone.
    name
        What the saliency is called in messages.

    Returns
    -------
    Callable
        The rule.
    """

    def rule(part: slice | None, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            given = function(values)
        return _checked(given, values.shape, f"saliency {name!r}")

    return rule


def given(array: object, origin: str, shape: tuple[int, ...]) -> Rule:
    """Return a rule that reads the saliency from an array.

    Parameters
    ----------
    array
        The saliency of the whole matrix.
    origin
        What it is called in messages.
    shape
        Shape of the matrix.

    Returns
    -------
    Callable
        The rule.

    Raises
    ------
    InputError
        If the array is no array of numbers of that shape.
    """
    try:
        data, dtype = readable(array)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    if tuple(data.shape) != shape:
        raise InputError(f"{origin} has shape {tuple(data.shape)}, the matrix {shape}; they must be equal")
    return lambda part, values: read(data, dtype, part)[1]


def _checked(values: object, shape: tuple[int, ...], origin: str) -> Array:
    return given(values, origin, shape)(None, np.empty(0))


def gather(pairs: Sequence[tuple[Source, Rule]], origin: str) -> tuple[Array, list[str]]:
    """Copy the saliencies of stacked matrices into one array by column, block by block, checking every entry.

    Parameters
    ----------
    pairs
        Weights with equal numbers of input channels, each with the rule of its saliency.
    origin
        What the saliency is called in messages.

    Returns
    -------
    tuple
        The saliency, (cols, padded rows), C order, float32 or float64; rows are padded with zeros to a multiple of 16.
        And the hexadecimal sha256 of each matrix's C-order little-endian bytes.

    Raises
    ------
    InputError
        If an entry is not finite, or a saliency is negative.
    """
    kinds = [rule(slice(0, 1), source.read(slice(0, 1))[1]).dtype for source, rule in pairs]
    rows = sum(source.rows for source, _ in pairs)
    columns = aligned((pairs[0][0].shape[1], -(-rows // LANES) * LANES), np.result_type(*kinds))
    digests, at = [], 0
    for source, rule in pairs:
        digests.append(_gather_one(source, rule, columns[:, at : at + source.rows], origin))
        at += source.rows
    return columns, digests


def _gather_one(source: Source, rule: Rule, columns: Array, origin: str) -> str:
    """Write the saliency of one matrix to ``columns`` and return the fingerprint of its weights."""
    digest, positions = hashlib.sha256(), math.prod(source.shape[2:])
    bad, first = 0, (0,)
    for part in source.parts():
        raw, values = source.read(part)
        digest.update(raw_bytes(raw))
        finite = np.isfinite(values)
        if not finite.all():
            if not bad:
                where = np.argwhere(~finite)[0]
                first = (int(where[0]) + part.start, *(int(k) for k in where[1:]))
            bad += int((~finite).sum())
        elif not bad:
            block = rule(part, values)
            check_saliency(block, origin)
            columns[:, part.start * positions : part.stop * positions] = channels_last(block).T
        source.release()
    if bad:
        raise _not_finite(bad, first)
    return digest.hexdigest()


def check_saliency(saliency: Array, origin: str) -> None:
    """Refuse a saliency that is not finite or negative somewhere.

    Parameters
    ----------
    saliency
        A saliency or a block of one.
    origin
        What it is called in messages.

    Raises
    ------
    InputError
        If it is.
    """
    if not np.isfinite(saliency).all():
        raise InputError(
            f"{origin} is not finite everywhere: it holds NaN or infinite entries; "
            f"where weights are very large, divide the matrix by its largest entry first"
        )
    if (saliency < 0).any():
        raise InputError(f"{origin} has negative entries; a saliency is >= 0, for example abs(weights)")
