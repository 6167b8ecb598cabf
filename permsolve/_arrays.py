"""Whatever a user passes as a matrix, as NumPy values, a dtype name and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError

Array = npt.NDArray[Any]

_TENSOR_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


class Weights(NamedTuple):
    """Validated weights."""

    #: Finite floating-point values in the original shape: float32, or float64 where float32 would lose something.
    values: Array
    #: Name of the original dtype, for example ``"bfloat16"``.
    dtype: str
    #: Hexadecimal sha256 of the original C-order little-endian bytes.
    fingerprint: str


def as_weights(matrix: object) -> Weights:
    """Validate a weight matrix.

    Parameters
    ----------
    matrix
        NumPy array, torch tensor, or anything `numpy.asarray` takes, of shape (rows, cols) or, for a convolution,
        (K, C, R) or (K, C, R, S) or (K, C, R, S, T).

    Returns
    -------
    Weights
        Values, dtype and fingerprint. The values may share memory with the input: they are not to be written to.

    Raises
    ------
    InputError
        If the matrix is not numeric, has another number of axes, is empty, or holds NaN or inf.
    """
    raw, values, dtype = to_array(matrix)
    if values.ndim not in (2, 3, 4, 5):
        raise InputError(
            f"a weight matrix has 2 axes (rows, input channels), a convolution's 3 to 5 (K, C, R[, S[, T]]); "
            f"got {values.ndim} axes, shape {values.shape}"
        )
    if values.size == 0:
        raise InputError(f"the matrix is empty: shape {values.shape}")
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(k) for k in np.argwhere(~finite)[0])
        raise InputError(
            f"the matrix holds {int((~finite).sum())} NaN or infinite entries, the first at {where}; "
            f"repair them first, for example with numpy.nan_to_num"
        )
    little = raw.astype(raw.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()
    return Weights(values, dtype, digest)


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
    if is_tensor(matrix):
        return _tensor_values(cast(Any, matrix))
    if isinstance(matrix, np.ma.MaskedArray):
        raise InputError(
            f"got {_describe(matrix)}: its mask would be lost; fill the masked entries first, "
            f"for example with matrix.filled(0)"
        )
    try:
        raw = np.asarray(matrix)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot read a matrix from {_describe(matrix)}: {error}") from error
    name = raw.dtype.name
    if name == "bfloat16":  # the ml_dtypes extension type: NumPy reports its kind as void
        return raw.view(np.uint16), raw.astype(np.float32), name
    if raw.dtype.kind not in "fiub" or raw.dtype.itemsize > 8:
        raise InputError(
            f"a matrix holds real numbers (float16, bfloat16, float32, float64 or integers); "
            f"got dtype {name} from {_describe(matrix)}"
        )
    return raw, raw.astype(_float_type(raw.dtype), copy=False), name


def _tensor_values(tensor: Any) -> tuple[Array, Array, str]:
    name = str(tensor.dtype).removeprefix("torch.")
    dense = str(tensor.layout) == "torch.strided" and not tensor.is_meta
    if not dense or name not in _TENSOR_TYPES:
        raise InputError(
            f"need a dense tensor with data, of one of the types {', '.join(_TENSOR_TYPES)}; "
            f"got {_describe(tensor)} of dtype {name}, layout {tensor.layout}, device {tensor.device}"
        )
    tensor = tensor.detach().cpu().contiguous()
    if name == "bfloat16":
        import torch

        return tensor.view(torch.int16).numpy(), tensor.float().numpy(), name
    raw = tensor.numpy()
    return raw, raw.astype(_float_type(raw.dtype), copy=False), name


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
