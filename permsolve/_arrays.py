"""Whatever a user passes as a matrix, as NumPy values and a dtype name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError

Array = npt.NDArray[Any]

_TENSOR_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


#: Bytes of a cache line and of the widest vector register.
_LINE = 64


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Return zeros in C order that begin at a cache line.

    NumPy's arrays begin at multiples of 16 bytes. Vectors of 64 bytes would then straddle two lines, each of them,
    which costs the gain kernel a tenth of its speed.

    Parameters
    ----------
    shape
        The shape.
    dtype
        Type of the entries.

    Returns
    -------
    numpy.ndarray
        The array.
    """
    size = np.dtype(dtype).itemsize * math.prod(shape)
    raw = np.zeros(size + _LINE, dtype=np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + size].view(dtype).reshape(shape)


def channels_last(array: Array) -> Array:
    """Return weights as a matrix whose columns are the input channels.

    Parameters
    ----------
    array
        (rows, cols) or (K, C, kernel...).

    Returns
    -------
    numpy.ndarray
        (rows, cols) or (K * kernel size, C).
    """
    return array if array.ndim == 2 else np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def channels_back(matrix: Array, shape: tuple[int, ...]) -> Array:
    """Undo `channels_last`.

    Parameters
    ----------
    matrix
        (rows, cols), made by `channels_last`.
    shape
        Shape of the original weights.

    Returns
    -------
    numpy.ndarray
        Weights of that shape.
    """
    if len(shape) == 2:
        return matrix
    return np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def is_tensor(value: object) -> bool:
    """Return whether a value is a torch tensor, without importing torch.

    Parameters
    ----------
    value
        Anything.

    Returns
    -------
    bool
        True for a tensor.
    """
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(value).__mro__)


def to_array(matrix: object) -> tuple[Array, Array, str]:
    """Return an array or tensor of real numbers of any shape as NumPy arrays.

    Parameters
    ----------
    matrix
        NumPy array, torch tensor, or anything `numpy.asarray` takes.

    Returns
    -------
    tuple
        The raw array (for fingerprints), its values as float32 or float64, and the name of its dtype.

    Raises
    ------
    InputError
        If it holds no real numbers.
    """
    data, name = readable(matrix)
    return *read(data, name), name


def readable(matrix: object) -> tuple[Any, str]:
    """Return an array or tensor of real numbers that `read` understands, without copying it.

    Parameters
    ----------
    matrix
        NumPy array, torch tensor, or anything `numpy.asarray` takes.

    Returns
    -------
    tuple
        The array or tensor, and the name of its dtype.

    Raises
    ------
    InputError
        If it holds no real numbers.
    """
    if is_tensor(matrix):
        return _readable_tensor(cast(Any, matrix))
    if isinstance(matrix, np.ma.MaskedArray):
        raise InputError(
            f"got {_describe(matrix)}: its mask would be lost; fill the masked entries first, "
            f"for example with matrix.filled(0)"
        )
    try:
        raw = matrix if isinstance(matrix, np.memmap) else np.asarray(matrix)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot read a matrix from {_describe(matrix)}: {error}") from error
    name = raw.dtype.name
    # The ml_dtypes extension type bfloat16: NumPy reports its kind as void.
    if name != "bfloat16" and (raw.dtype.kind not in "fiub" or raw.dtype.itemsize > 8):
        raise InputError(
            f"a matrix holds real numbers (float16, bfloat16, float32, float64 or integers); "
            f"got dtype {name} from {_describe(matrix)}"
        )
    return raw, name


def read(data: Any, name: str, part: slice | None = None) -> tuple[Array, Array]:
    """Read an array or tensor, or a part of its first axis.

    Parameters
    ----------
    data, name
        What `readable` returned.
    part
        The part, or None for everything.

    Returns
    -------
    tuple
        The raw array (for fingerprints) and its values as float32 or float64, which may be one array, and may be the
        caller's.
    """
    chosen = data if part is None else data[part]
    if not is_tensor(chosen):
        raw = np.asarray(chosen)
        if name == "bfloat16":
            return raw.view(np.uint16), raw.astype(np.float32)
        return raw, raw.astype(_float_type(raw.dtype), copy=False)
    tensor = chosen.detach().cpu().contiguous()
    if name == "bfloat16":
        import torch

        return tensor.view(torch.int16).numpy(), tensor.float().numpy()
    raw = tensor.numpy()
    return raw, raw.astype(_float_type(raw.dtype), copy=False)


def _readable_tensor(tensor: Any) -> tuple[Any, str]:
    name = str(tensor.dtype).removeprefix("torch.")
    dense = str(tensor.layout) == "torch.strided" and not tensor.is_meta
    if not dense or name not in _TENSOR_TYPES:
        raise InputError(
            f"need a dense tensor with data, of one of the types {', '.join(_TENSOR_TYPES)}; "
            f"got {_describe(tensor)} of dtype {name}, layout {tensor.layout}, device {tensor.device}"
        )
    return tensor, name


def _float_type(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    exact_in_single = dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize <= 2)
    exact_in_single |= dtype.kind == "f" and dtype.itemsize <= 4
    return np.float32 if exact_in_single else np.float64


def _describe(value: object) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"a {name} of length {len(value)}"
    return f"a {name}"
