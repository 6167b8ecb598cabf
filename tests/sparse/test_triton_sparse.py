"""The sparse Triton kernels against float64: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from permsolve.errors import DeviceError, InputError  # noqa: E402
from permsolve.patterns import parse  # noqa: E402
from permsolve.problem import Problem  # noqa: E402
from permsolve.sparse import on_device  # noqa: E402
from permsolve.sparse.compressed import Compressed, compress  # noqa: E402
from permsolve.sparse.triton.layouts import layout_of  # noqa: E402
from permsolve.sparse.triton.products import chosen_bytes  # noqa: E402
from permsolve.sparse.triton.transposed import transposed  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Largest relative error: a rounding of the output, which the interpreter truncates to bfloat16.
ALLOWED = {torch.float16: 6e-4, torch.bfloat16: 8e-3, torch.float32: 5e-6}
#: One pattern of every kind; rows and columns that no tile of the kernels divides.
KINDS = [
    ("1:4", 9, 36),
    ("2:4", 13, 44),
    ("4:8", 9, 40),
    ("6:2:8", 12, 40),
    ("hinm(6, 0.5, 2:4)", 12, 40),
    ("transposable(2:4)", 12, 20),
]
#: Every number of bits, n and widths that are no powers of two, groups that only one kernel takes, or none.
ODD = [
    ("1:2", 9, 36),
    ("3:4", 9, 36),
    ("2:3", 9, 33),
    ("1:5", 9, 35),
    ("8:1:5", 16, 35),
    ("hinm(6, 0.3, 1:4)", 12, 28),
    ("2:16", 9, 64),
    ("10:16", 5, 32),
    ("1:32", 5, 64),
    ("17:32", 5, 64),
]
#: A shape of the vector kernel for the interpreter, which takes as long for a step of few rows as for one of many.
FEW_STEPS = {"ROWS": 16, "STEPS": 1, "UNROLL": 1, "TOGETHER": 16, "WORDS": 4}


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill what the launchers allocate with NaN, as torch does in its deterministic mode: nothing may depend on it."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def weights(spec: str, rows: int, cols: int, kind: torch.dtype, seed: int) -> Compressed:
    """Compress random weights under a random solution."""
    values = torch.randn((rows, cols), generator=torch.Generator().manual_seed(seed)).to(kind)
    pattern = parse(spec)
    solution = pattern.draw(Problem.of(values.abs().double().numpy(), pattern), np.random.default_rng(seed))
    return compress(values, pattern, solution).to(DEVICE).check()


def vectors(tokens: int, cols: int, kind: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn((tokens, cols), generator=torch.Generator().manual_seed(seed)).to(DEVICE, kind)


def error(found: torch.Tensor, x: torch.Tensor, compressed: Compressed) -> float:
    """Return the relative error; NaN where an output was not written."""
    expected = x.double() @ compressed.to_dense().double().T
    assert found.shape == expected.shape
    assert found.dtype == x.dtype
    assert found.is_contiguous()
    return float((found.double() - expected).norm() / expected.norm())


def product(x: torch.Tensor, compressed: Compressed) -> torch.Tensor:
    """Multiply; in the interpreter in few steps, with the slots split among programs where there are two words."""
    layout = layout_of(compressed)
    if DEVICE == "cpu" and len(x) <= on_device.MOST_VECTORS and layout.fits_vectors:
        return on_device.times_vectors(x, layout, FEW_STEPS)
    return on_device.matmul(x, compressed)


@pytest.mark.parametrize("kind", ALLOWED, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 5], ids=["decode", "decode two", "prefill"])
@pytest.mark.parametrize(("spec", "rows", "cols"), KINDS)
def test_products_of_all_kinds_and_types(spec: str, rows: int, cols: int, tokens: int, kind: torch.dtype) -> None:
    compressed, x = weights(spec, rows, cols, kind, rows * tokens), vectors(tokens, cols, kind)
    layout = layout_of(compressed)
    assert layout.fits_vectors and on_device.fits_products(layout)
    assert error(product(x, compressed), x, compressed) <= ALLOWED[kind]


@pytest.mark.parametrize(("spec", "rows", "cols"), ODD)
def test_odd_groups(spec: str, rows: int, cols: int) -> None:
    for tokens in (1, 3):
        kind = list(ALLOWED)[(ODD.index((spec, rows, cols)) + tokens) % 3]
        compressed, x = weights(spec, rows, cols, kind, rows * tokens), vectors(tokens, cols, kind)
        assert error(product(x, compressed), x, compressed) <= ALLOWED[kind]


@pytest.mark.parametrize(("spec", "tokens"), [("2:4", 1), ("2:4", 20), ("hinm(16, 0.5, 2:4)", 70)])
def test_shapes_that_the_launcher_chooses(spec: str, tokens: int) -> None:
    """A vector, few and many columns; outputs in order and scattered."""
    compressed, x = weights(spec, 32, 44, torch.float16, tokens), vectors(tokens, 44, torch.float16)
    assert error(on_device.matmul(x, compressed), x, compressed) <= ALLOWED[torch.float16]


def test_every_shape_of_the_kernels() -> None:
    """Also with slots split among programs, whose sums are added in a fixed order."""
    for tokens, rows, cols in ((1, 34, 520), (5, 70, 264), (70, 70, 136)):
        compressed, x = weights("2:4", rows, cols, torch.float16, tokens), vectors(tokens, cols, torch.float16)
        layout = layout_of(compressed)
        few = tokens == 1
        every = on_device.vector_settings(layout) if few else on_device.product_settings(layout, tokens)
        run = on_device.times_vectors if few else on_device.times_columns
        chosen = [each for each in every if each["PARTS"] == 4] if tokens == 5 else every[:: 2 if few else 4]
        assert len(chosen) >= 2
        results = []
        for settings in chosen:
            results.append(run(x, layout, settings))
            assert error(results[-1], x, compressed) <= ALLOWED[torch.float16], settings
            assert not layout.arrived.any()  # ready for the next launch
        assert torch.equal(run(x, layout, chosen[0]), results[0])


def test_activations_of_any_strides() -> None:
    compressed = weights("2:4", 16, 24, torch.float32, 3)
    wide = vectors(16, 48, torch.float32)
    for x in (wide[:, ::2], wide[:, :24].t().contiguous().t(), wide[:1, :24], wide[:, 3:27], wide[:2, ::2]):
        assert error(on_device.matmul(x, compressed), x, compressed) <= ALLOWED[torch.float32]
    assert on_device.matmul(wide[:0, :24], compressed).shape == (0, 16)


def test_layouts_share_memory_where_they_can() -> None:
    compressed = weights("2:4", 8, 64, torch.float16, 4)
    layout = layout_of(compressed)
    assert layout.values.data_ptr() == compressed.values.data_ptr()
    assert layout.positions.data_ptr() == compressed.positions.data_ptr()
    assert layout_of(compressed) is layout
    x = vectors(1, 64, torch.float16)
    before = on_device.matmul(x, compressed)
    compressed.values.mul_(2)
    assert torch.equal(on_device.matmul(x, compressed), 2 * before)


def test_layouts_of_their_own_follow_changed_values() -> None:
    compressed = weights("3:4", 8, 20, torch.float16, 4)
    x = vectors(1, 20, torch.float16)
    before = on_device.matmul(x, compressed)
    compressed.values.mul_(2)
    assert torch.equal(on_device.matmul(x, compressed), 2 * before)


def test_transposition_of_odd_shapes() -> None:
    for rows, cols in ((1, 1), (3, 70), (65, 64)):
        matrix = vectors(rows, cols, torch.float16)
        assert torch.equal(transposed(matrix), matrix.t())
        wide = transposed(matrix, rows + 5)
        assert torch.equal(wide[:, :rows], matrix.t())
        assert not wide[:, rows:].any()


def test_bytes_are_chosen_as_the_instruction_does() -> None:
    """What stands in for the instruction in the interpreter, against its definition."""
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(pair, selector, out, NATIVE: tl.constexpr):
        at = tl.arange(0, 16)
        tl.store(out + at, chosen_bytes(tl.load(pair + at), tl.load(selector + at), NATIVE))

    rng = np.random.default_rng(5)
    pairs = rng.integers(-(2**31), 2**31, 16).astype(np.int32)
    selectors = rng.integers(0, 8, (16, 4))
    packed = (selectors * 16 ** np.arange(4)).sum(axis=1).astype(np.int32)
    out = torch.zeros(16, dtype=torch.int32, device=DEVICE)
    kernel[(1,)](torch.tensor(pairs, device=DEVICE), torch.tensor(packed, device=DEVICE), out, NATIVE=DEVICE == "cuda")
    bytes_ = np.concatenate([pairs.view(np.uint8).reshape(16, 4), np.zeros((16, 4), np.uint8)], axis=1)
    expected = np.take_along_axis(bytes_, selectors, axis=1).copy().view(np.int32).ravel()
    assert np.array_equal(out.cpu().numpy(), expected)


def test_errors_name_what_does_not_fit() -> None:
    compressed = weights("2:4", 8, 16, torch.float16, 1)
    with pytest.raises(InputError, match=r"\(tokens, 16\), got \(2, 20\)"):
        on_device.matmul(vectors(2, 20, torch.float16), compressed)
    with pytest.raises(InputError, match=r"torch.float32 and torch.float16"):
        on_device.matmul(vectors(2, 16, torch.float32), compressed)
    wide = compressed.to(torch.float64)
    with pytest.raises(InputError, match="float16, bfloat16 or float32"):
        on_device.matmul(vectors(2, 16, torch.float64), wide)


def test_tensors_on_the_cpu_are_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "interpreting", lambda: False)
    compressed = weights("2:4", 8, 16, torch.float16, 1).to("cpu")
    with pytest.raises(DeviceError, match=r"tensors on a CUDA device, got cpu"):
        on_device.matmul(vectors(1, 16, torch.float16).cpu(), compressed)


def test_imports_stay_few() -> None:
    """The GPU machine of a benchmark may have no more than numpy, numba, torch and triton."""
    code = (
        "import sys; import permsolve.sparse.on_device; "
        "print(sorted({'ortools', 'pydantic', 'safetensors', 'rich', 'typer', 'scipy', 'joblib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_products_in_a_graph_of_launches() -> None:
    compressed, x = weights("2:4", 256, 512, torch.float16, 1), vectors(1, 512, torch.float16)
    with pytest.raises(DeviceError, match="multiply once before capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        on_device.matmul(x, compressed)
    on_device.matmul(x, compressed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = on_device.matmul(x, compressed)
    x.copy_(vectors(1, 512, torch.float16, seed=2))
    y.fill_(math.nan)
    graph.replay()
    assert error(y, x, compressed) <= ALLOWED[torch.float16]
