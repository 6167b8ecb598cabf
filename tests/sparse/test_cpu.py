"""Products on the CPU, against float64 products of the masked weights."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from sparse_cases import IDS, KINDS, example  # noqa: E402

from permsolve import NM, VNM, HiNM  # noqa: E402
from permsolve.errors import InputError  # noqa: E402
from permsolve.kernels import sparse_cpu as kernels  # noqa: E402
from permsolve.patterns import Pattern  # noqa: E402
from permsolve.sparse import Compressed, compress, cpu  # noqa: E402

ALL = pytest.mark.parametrize(("pattern", "rows", "cols"), KINDS, ids=IDS)
#: A position of 1, 2, 4 and 8 bits, groups that are split, groups that take several registers, tiles.
SOME = ((NM(1, 2), 5, 14), (NM(2, 4), 13, 36), (NM(4, 16), 9, 48), (NM(5, 32), 6, 64), (HiNM(3, 0.0, "1:3"), 9, 18))
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def vectors(count: int, cols: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_product(y: Any, x: Any, dense: Any) -> None:
    """Compare with a float64 product, relative to what is added up."""
    wanted, scale = x.double() @ dense.double().T, x.double().abs() @ dense.double().abs().T
    assert y.dtype == x.dtype and y.shape == wanted.shape
    assert float(((y.double() - wanted).abs() / scale).max()) < TOLERANCE[x.dtype]


def by_kernel(x: Any, layout: cpu.Layout, rows: int, threads: int = 1) -> Any:
    """Call the kernel on an output full of NaN, between two rows that it must not touch."""
    framed = np.full((len(x) + 2, rows), np.nan, dtype=np.float32)
    cpu.times_vectors(x.numpy(), layout, framed[1:-1], threads)
    assert np.isnan(framed[0]).all() and np.isnan(framed[-1]).all()
    return torch.from_numpy(framed[1:-1].copy())


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take vector code away, as on a machine without it."""
    monkeypatch.setattr(kernels, "LANES", ())
    monkeypatch.setattr(cpu, "LANES", ())
    kernels.product_kernel.cache_clear()
    yield
    kernels.product_kernel.cache_clear()


@ALL
@pytest.mark.parametrize("count", [1, 5])
def test_kernel_multiplies_every_pattern(pattern: Pattern, rows: int, cols: int, count: int) -> None:
    weights, dense = example(pattern, rows, cols)
    x = vectors(count, cols)
    assert_product(by_kernel(x, cpu.layout_of(weights), rows), x, dense)
    torch.testing.assert_close(cpu.matmul(x, weights), by_kernel(x, cpu.layout_of(weights), rows), rtol=0, atol=0)


@pytest.mark.parametrize("lanes", kernels.LANES)
@pytest.mark.parametrize(("pattern", "rows", "cols"), SOME, ids=map(str, (each[0] for each in SOME)))
def test_every_width_of_registers(pattern: Pattern, rows: int, cols: int, lanes: int) -> None:
    weights, dense = example(pattern, rows, cols)
    layout = cpu.make_layout(weights, lanes)
    assert layout.shape.vector and layout.shape.lanes == lanes
    x = vectors(1, cols)
    assert_product(by_kernel(x, layout, rows), x, dense)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("pattern", "rows", "cols"), SOME, ids=map(str, (each[0] for each in SOME)))
@pytest.mark.usefixtures("plain")
def test_machines_without_vector_code(pattern: Pattern, rows: int, cols: int, count: int) -> None:
    weights, dense = example(pattern, rows, cols, torch.bfloat16)
    layout = cpu.layout_of(weights)
    assert not layout.shape.vector
    x = vectors(count, cols)
    assert_product(by_kernel(x, layout, rows), x, dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("pattern", "rows", "cols"), [(NM(2, 4), 37, 36), (HiNM(8, 0.5, "2:4"), 24, 44), (NM(7, 100), 2, 200)]
)
def test_half_types_are_rounded_once(pattern: Pattern, rows: int, cols: int, dtype: Any) -> None:
    weights, dense = example(pattern, rows, cols, dtype)
    x = torch.randint(-8, 9, (2, cols), generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = x.double() @ dense.double().T  # whole sixteenths: exact in float32
    assert torch.equal(cpu.matmul(x, weights), exact.to(dtype))
    if cpu.layout_of(weights).shape.vector:
        assert cpu.layout_of(weights).values.nbytes % 2 == 0 and cpu.layout_of(weights).values.itemsize == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@ALL
def test_many_vectors_go_through_panels(
    pattern: Pattern, rows: int, cols: int, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "PANEL", 2 * 16 * cols)  # several panels
    weights, dense = example(pattern, rows, cols, dtype)
    for count in (cpu.MOST_VECTORS, cpu.MOST_VECTORS + 1) if dtype == torch.float32 else (cpu.MOST_VECTORS + 1,):
        x = vectors(count, cols, dtype)
        assert_product(cpu.matmul(x, weights), x, dense)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 19), st.integers(0, 1 << 16))
def test_sizes(rows: int, groups: int, count: int, seed: int) -> None:
    weights, dense = example(NM(1, 4), rows, 4 * groups)
    x = vectors(count, 4 * groups, seed=seed)
    assert_product(by_kernel(x, cpu.layout_of(weights), rows), x, dense)


@pytest.mark.parametrize("count", [1, 11])
@pytest.mark.parametrize(
    ("pattern", "rows", "cols"), [(NM(1, 4), 150, 64), (HiNM(24, 0.5, "2:4"), 120, 64), (VNM(40, 2, 8), 120, 64)]
)
def test_results_do_not_depend_on_threads(
    pattern: Pattern, rows: int, cols: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "BYTES_PER_THREAD", 1)
    weights, dense = example(pattern, rows, cols)
    x, layout = vectors(count, cols), cpu.layout_of(weights)
    alone = by_kernel(x, layout, rows)
    assert_product(alone, x, dense)
    for threads in (2, 3, 64):
        assert torch.equal(by_kernel(x, layout, rows, threads), alone)


def test_vectors_are_taken_in_portions_that_fit_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "NEAR", 1)
    for pattern, rows, cols in ((NM(1, 4), 50, 64), (HiNM(24, 0.5, "2:4"), 120, 64)):
        weights, dense = example(pattern, rows, cols)
        assert cpu.layout_of(weights).together == 8
        x = vectors(19, cols)
        assert_product(by_kernel(x, cpu.layout_of(weights), rows), x, dense)


def test_threads_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "BYTES_PER_THREAD", 1)
    weights, dense = example(NM(1, 4), 150, 64)
    inputs = [vectors(3, 64, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda x: by_kernel(x, cpu.layout_of(weights), 150, 3), inputs))
    for x, y in zip(inputs, outputs, strict=True):
        assert_product(y, x, dense)


def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    monkeypatch.setattr(cpu, "BYTES_PER_THREAD", 1)
    weights, _ = example(NM(1, 4), 150, 64)
    x, layout = vectors(1, 64), cpu.layout_of(weights)
    wanted, context = by_kernel(x, layout, 150, 3), multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    array = x.numpy()

    def child() -> None:
        out = np.full((1, 150), np.nan, dtype=np.float32)
        cpu.times_vectors(array, layout, out, 3)
        queue.put(out.tolist())

    process = context.Process(target=child, daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == wanted.tolist()


def test_what_fills_up_registers_touches_nothing() -> None:
    """Infinite activations reach the rows that read them, and no padding of words, groups and tiles."""
    for pattern, rows, cols in ((NM(1, 4), 7, 20), (NM(2, 3), 3, 21), (HiNM(3, 0.0, "1:3"), 9, 18)):
        weights, dense = example(pattern, rows, cols)
        for channel in range(cols):
            x = vectors(1, cols)
            x[0, channel] = torch.inf
            reads = dense[:, channel] != 0
            y = cpu.matmul(x, weights)[0]
            assert torch.isinf(y[reads]).all() and torch.isfinite(y[~reads]).all()


def test_nan_in_one_vector_stays_there() -> None:
    weights, dense = example(NM(2, 4), 13, 36)
    x = vectors(3, 36)
    x[1] = torch.nan
    y = cpu.matmul(x, weights)
    assert torch.isnan(y[1]).all()
    assert_product(y[::2], x[::2], dense)


def test_shapes_and_strides() -> None:
    weights, dense = example(NM(2, 4), 13, 36)
    wide = vectors(6, 72)
    for x in (wide[:, ::2], wide[:, :36].reshape(2, 3, 36), wide[0, :36], vectors(36, 6).T, wide[:, 1:37]):
        before = x.clone()
        assert_product(cpu.matmul(x, weights), x, dense)
        assert torch.equal(x, before)
    assert cpu.matmul(torch.empty(0, 36), weights).shape == (0, 13)
    assert cpu.matmul(torch.empty(2, 0, 36), weights).shape == (2, 0, 13)


def test_negated_views() -> None:
    """The imaginary part of a conjugate is negated when it is read; NumPy cannot."""
    weights, dense = example(NM(2, 4), 13, 36)
    x = torch.complex(vectors(5, 36), vectors(5, 36, seed=1)).conj().imag
    assert x.is_neg()
    assert_product(cpu.matmul(x, weights), x, dense)


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("index", (0, 3), 10**6, r"lie in 0 \.\. 34"),
        ("rows", (1,), -5, "permutation"),
        ("positions", (0, 0), 255, "group of 5"),
    ],
)
def test_kernels_never_see_a_broken_structure(name: str, place: tuple[int, ...], value: int, said: str) -> None:
    """Weights put together by hand need not have been checked: the kernel would read or write anywhere."""
    weights, _ = example(NM(3, 5), 4, 35)
    tensor = getattr(weights, name).clone()
    tensor[place] = value
    with pytest.raises(InputError, match=said):
        cpu.matmul(vectors(1, 35), dataclasses.replace(weights, **{name: tensor}))


def test_float64_is_dense() -> None:
    weights, dense = example(NM(2, 4), 13, 36, torch.float64)
    x = vectors(2, 36, torch.float64)
    torch.testing.assert_close(cpu.matmul(x, weights), x @ dense.T, rtol=1e-14, atol=1e-14)


def test_gradients_take_the_dense_product() -> None:
    weights, dense = example(NM(2, 4), 13, 36)
    x = vectors(2, 36).requires_grad_()
    cpu.matmul(x, weights).sum().backward()
    torch.testing.assert_close(x.grad, dense.sum(dim=0).expand(2, -1), rtol=1e-6, atol=1e-5)
    with torch.no_grad():
        assert_product(cpu.matmul(x, weights), x.detach(), dense)


def test_values_that_change_in_place_are_seen() -> None:
    weights, dense = example(NM(2, 4), 13, 36)
    x = vectors(1, 36)
    first = cpu.layout_of(weights)
    cpu.matmul(x, weights)
    assert cpu.layout_of(weights) is first  # made once
    weights.values.mul_(-2)
    assert_product(cpu.matmul(x, weights), x, -2 * dense)


def test_layouts_go_with_their_weights() -> None:
    weights, _ = example(NM(2, 4), 13, 36)
    layout = weakref.ref(cpu.layout_of(weights))
    del weights
    gc.collect()
    assert layout() is None


def test_bytes_of_a_large_layer() -> None:
    """1:4 in float32 takes 4.25 of 16 bytes, 2:4 in bfloat16 4.5 of 8: values, positions, and hardly anything else."""
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))
    for pattern, dtype, share in (("1:4", torch.float32, 4.25 / 16), ("2:4", torch.bfloat16, 4.5 / 8)):
        weights: Compressed = compress(weight.to(dtype), pattern)
        layout = cpu.layout_of(weights)
        if layout.shape.vector:
            dense = weight.numel() * dtype.itemsize
            assert share <= layout.nbytes / dense < share + 0.01
