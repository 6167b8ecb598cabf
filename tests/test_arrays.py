"""Whatever a user passes as a matrix."""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from permsolve._arrays import channels_back, channels_last, is_tensor
from permsolve.errors import InputError
from permsolve.sources import Source, finite_values


class Weights(NamedTuple):
    values: np.ndarray
    dtype: str
    fingerprint: str


def as_weights(matrix: object) -> Weights:
    """Read a matrix as a problem does."""
    source = Source(matrix)
    return Weights(finite_values(matrix), source.dtype, source.fingerprint())


BASE = (uniform(3, 4) * 100).astype(np.int8)


def damaged(value: float) -> np.ndarray:
    matrix = uniform(3, 8)
    matrix[1, 5] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "named"),
    [
        (damaged(np.nan), ["NaN", "(1, 5)", "1 "]),
        (damaged(np.inf), ["infinite", "(1, 5)"]),
        (damaged(-np.inf), ["infinite", "(1, 5)"]),
        (np.full((2, 4), np.inf, dtype=np.float16), ["8 NaN or infinite", "(0, 0)"]),
        (np.ones(8), ["1 axes", "(8,)"]),
        (np.float64(3), ["0 axes", "()"]),
        (7, ["0 axes"]),
        (np.ones((1,) * 6), ["6 axes", "(1, 1, 1, 1, 1, 1)"]),
        (np.ones((0, 4)), ["empty", "(0, 4)"]),
        (np.ones((4, 0)), ["empty", "(4, 0)"]),
        ([], ["1 axes"]),
        ([[]], ["empty"]),
        ("weights", ["str"]),
        ([["a", "b"]], ["list"]),
        (b"bytes", ["bytes"]),
        (np.ones((2, 4), dtype=complex), ["complex128"]),
        (np.array([[1, None]], dtype=object), ["object"]),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), ["datetime64"]),
        (np.ones((2, 4), dtype=np.longdouble), ["longdouble"]),
        ([[1.0, 2.0], [3.0]], ["list"]),
        (None, ["NoneType"]),
        ({"weight": 1}, ["dict"]),
        (object(), ["object"]),
        (np.zeros((2, 4), dtype=[("a", "f4")]), ["void"]),
        (np.ma.masked_less(uniform(2, 4), 0.5), ["MaskedArray", "filled"]),
        (np.ma.masked_array(uniform(2, 4)), ["MaskedArray", "filled"]),
    ],
    # No addresses: test processes must agree on the names.
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_what_is_no_weight_matrix_is_named(matrix: object, named: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        as_weights(matrix)
    for text in named:
        assert text.replace("longdouble", np.dtype(np.longdouble).name) in str(caught.value)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "float16", "float32"])
def test_small_types_become_float32_exactly(dtype: str) -> None:
    matrix = BASE.astype(dtype)
    weights = as_weights(matrix)
    assert weights.values.dtype == np.float32
    assert weights.dtype == dtype
    np.testing.assert_array_equal(weights.values.astype(dtype), matrix)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float64"])
def test_large_types_become_float64(dtype: str) -> None:
    """Integers of more than 24 bits would not survive float32."""
    matrix = np.array([[2**24 + 1, 3]], dtype=dtype)
    weights = as_weights(matrix)
    assert weights.values.dtype == np.float64
    np.testing.assert_array_equal(weights.values.astype(dtype), matrix)


def test_lists_of_numbers_are_a_matrix() -> None:
    assert as_weights([[1, 2.5], [3, 4]]).values.tolist() == [[1, 2.5], [3, 4]]
    assert as_weights(((1, 2), (3, 4))).dtype == "int64"


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_fingerprint_is_that_of_the_little_endian_bytes_in_c_order(dtype: str) -> None:
    matrix = np.ascontiguousarray(BASE.astype(dtype))
    expected = hashlib.sha256(matrix.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).hexdigest()
    assert as_weights(matrix).fingerprint == expected
    assert as_weights(np.asfortranarray(matrix)).fingerprint == expected
    assert as_weights(matrix.astype(np.dtype(dtype).newbyteorder(">"))).fingerprint == expected
    assert as_weights(np.repeat(matrix, 2, axis=0)[::2]).fingerprint == expected


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3), (5, 8, 2, 3), (5, 8, 2, 3, 2)])
def test_channels_last_and_back(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    matrix = channels_last(array)
    assert matrix.shape == (array.size // 8, 8)
    for channel in range(8):
        assert sorted(matrix[:, channel]) == sorted(array[:, channel].ravel())
    np.testing.assert_array_equal(channels_back(matrix, shape), array)


def test_a_row_is_one_kernel_position_of_one_output_channel() -> None:
    array = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    np.testing.assert_array_equal(channels_last(array)[0], array[0, :, 0])
    np.testing.assert_array_equal(channels_last(array)[5], array[1, :, 2])


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3), (5, 8, 2, 3)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "bfloat16", "float32", "float64", "int32"])
def test_tensors_are_as_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = torch.arange(np.prod(shape)).reshape(shape).to(getattr(torch, dtype))
    weights = as_weights(tensor)
    assert weights.dtype == dtype
    np.testing.assert_array_equal(weights.values, tensor.double().numpy())
    if dtype != "bfloat16":
        assert weights.fingerprint == as_weights(tensor.numpy()).fingerprint


def test_tensors_with_gradient_views_and_subclasses() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    parameter = torch.nn.Parameter(torch.from_numpy(uniform(8, 6)))
    assert is_tensor(parameter)
    assert as_weights(parameter.T).values.tolist() == uniform(8, 6).T.tolist()
    assert as_weights(parameter.T).fingerprint == as_weights(uniform(8, 6).T).fingerprint
    assert not is_tensor(uniform(2, 2))


def test_bfloat16_fingerprint_is_of_the_two_bytes() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16)
    assert as_weights(tensor).fingerprint == hashlib.sha256(bytes.fromhex("803f00c0")).hexdigest()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("kind", ["coo", "csr", "meta", "complex", "float8", "1-D"])
def test_tensors_that_are_no_dense_real_matrix_are_refused(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    dense = torch.ones(4, 4)
    tensor: Any = {
        "coo": lambda: dense.to_sparse(),
        "csr": lambda: dense.to_sparse_csr(),
        "meta": lambda: torch.ones(4, 4, device="meta"),
        "complex": lambda: dense.to(torch.complex64),
        "float8": lambda: dense.to(torch.float8_e4m3fn),
        "1-D": lambda: dense[0],
    }[kind]()
    with pytest.raises(InputError):
        as_weights(tensor)


def test_nan_in_a_tensor_is_found() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    tensor = torch.ones(4, 4, dtype=torch.bfloat16)
    tensor[2, 3] = float("nan")
    with pytest.raises(InputError, match=re.escape("(2, 3)")):
        as_weights(tensor)


@settings(max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from([np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=3),
    )
)
def test_any_array_is_weights_or_an_input_error(array: np.ndarray) -> None:
    before = array.tobytes()
    try:
        weights = as_weights(array)
    except InputError:
        assert (
            array.ndim not in (2, 3, 4, 5) or array.size == 0 or not np.isfinite(array).all() or array.dtype.kind == "c"
        )
    else:
        assert weights.values.shape == array.shape
        assert weights.values.dtype in (np.float32, np.float64)
        assert weights.fingerprint == as_weights(array.copy(order="F")).fingerprint
    assert array.tobytes() == before
