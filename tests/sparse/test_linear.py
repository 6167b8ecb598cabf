"""Compressed linear layers: what the dense layer computes, its gradients, its state, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sparse_cases import IDS, KINDS, drawn, example, masked, weight  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn import functional  # noqa: E402

import permsolve  # noqa: E402
from permsolve import NM, VNM, HiNM, Transposable  # noqa: E402
from permsolve.errors import InputError, MissingDependencyError  # noqa: E402
from permsolve.patterns import Pattern  # noqa: E402
from permsolve.sparse import Compressed, SemiStructuredLinear, SparseLinear, compress, matmul  # noqa: E402
from permsolve.sparse import semi_structured as conversion  # noqa: E402

ALL = pytest.mark.parametrize(("pattern", "rows", "cols"), KINDS, ids=IDS)
TILES = HiNM(8, 0.5, "2:4")
#: What runs on compiled kernels, which take seconds to compile for each kind; their own tests have all kinds.
FEW = [KINDS[k] for k in (0, 8, 11)]


def noise(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer(pattern: Pattern, rows: int, cols: int, dtype: Any = torch.float64) -> tuple[SparseLinear, Any, Any]:
    """Return a layer under a random solution, and weight and bias of the dense one."""
    weights, dense = example(pattern, rows, cols, dtype)
    bias = noise(rows, seed=9, dtype=dtype)
    return SparseLinear(weights, bias.clone()), dense, bias


def test_products_are_refused_that_cannot_be() -> None:
    weights, _ = example(NM(2, 4), 13, 36)
    for x, said in (
        (torch.ones(3, 35), r"13 x 36 multiply tensors of shape \(\.\.\., 36\), got a tensor of shape \(3, 35\)"),
        (torch.ones(()), "shape"),
        (np.ones((3, 36)), "got ndarray"),
        (torch.ones(3, 36, dtype=torch.float64), "activations are float64, the compressed weights float32"),
        (torch.ones(3, 36, device="meta"), "activations are on meta, the compressed weights on cpu"),
    ):
        with pytest.raises(InputError, match=said):
            matmul(x, weights)
    with pytest.raises(InputError, match="need compressed weights, got a Tensor"):
        matmul(torch.ones(3, 36), torch.ones(13, 36))


@ALL
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (100,), (0,), (2, 0)], ids=str)
def test_outputs_are_the_masked_dense_ones(pattern: Pattern, rows: int, cols: int, shape: tuple[int, ...]) -> None:
    compiled = (pattern, rows, cols) in FEW
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5))[: 1 + compiled]:
        sparse, dense, bias = layer(pattern, rows, cols, dtype)
        x = noise(*shape, cols, seed=3, dtype=dtype)
        expected = x.double() @ dense.double().T + bias.double()
        for found in (sparse(x), torch.no_grad()(sparse)(x), sparse.to_linear()(x)):
            assert found.shape == (*shape, rows) and found.dtype == dtype
            if found.numel():
                assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)], ids=str)
def test_half_types(dtype: Any, tolerance: float) -> None:
    sparse, dense, bias = layer(TILES, 24, 44, dtype)
    for tokens in (2, 300):  # what tests/sparse/test_cpu.py compiles, too
        x = noise(tokens, 44, seed=3, dtype=dtype)
        expected = x.double() @ dense.double().T + bias.double()
        assert sparse(x).dtype == dtype
        assert (sparse(x) - expected).abs().max() <= tolerance * expected.abs().max()


def test_inputs_may_have_any_strides() -> None:
    sparse, dense, bias = layer(TILES, 24, 44)
    wide = noise(5, 3, 88, dtype=torch.float64)
    for x in (wide[..., ::2], wide[..., :44].transpose(0, 1), noise(44, 7, dtype=torch.float64).T, wide[:1, :1, :44]):
        with torch.no_grad():
            assert torch.allclose(sparse(x), functional.linear(x, dense, bias), rtol=1e-12, atol=1e-12)


def test_outputs_do_not_depend_on_what_was_in_memory() -> None:
    sparse, _, _ = layer(VNM(8, 2, 8), 16, 40, torch.float32)
    x = noise(5, 40)
    with torch.no_grad():
        first = sparse(x)
        for _ in range(5):
            poison = torch.full((5, 16), float("nan"))
            del poison
            assert torch.equal(sparse(x), first)


# -- gradients ---------------------------------------------------------------------------------------------------------


@ALL
def test_gradients_are_those_of_the_dense_layer(pattern: Pattern, rows: int, cols: int) -> None:
    sparse, dense, bias = layer(pattern, rows, cols)
    x, y = (noise(2, 3, cols, seed=1, dtype=torch.float64).requires_grad_() for _ in range(2))
    linear = nn.Linear(cols, rows, dtype=torch.float64)
    linear.weight.data, linear.bias.data = dense.clone(), bias.clone()
    for module, given in ((sparse, x), (linear, y)):
        module(given).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-10)
    assert torch.allclose(sparse.bias.grad, linear.bias.grad, rtol=1e-10)
    weights = sparse.compressed
    at = weights.rows.long()[:, None], weights.channels()
    assert torch.allclose(sparse.values.grad, linear.weight.grad[at], rtol=1e-10)
    assert not any(each.requires_grad for each in sparse.buffers())


def test_gradients_of_gradients() -> None:
    sparse, _, _ = layer(HiNM(4, 0.25, "1:4"), 12, 40)
    x = noise(3, 40, seed=1, dtype=torch.float64).requires_grad_()

    def run(x: Any, values: Any) -> Any:
        return torch.func.functional_call(sparse, {"values": values}, (x,))

    assert torch.autograd.gradcheck(run, (x, sparse.values), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, sparse.values), fast_mode=True)


def test_only_what_needs_gradients_gets_them() -> None:
    sparse, dense, _ = layer(NM(2, 4), 13, 36)
    sparse.requires_grad_(False)
    assert not sparse(noise(2, 36, dtype=torch.float64)).requires_grad
    x = noise(2, 36, dtype=torch.float64).requires_grad_()
    sparse(x).sum().backward()
    assert torch.allclose(x.grad, dense.sum(0).expand(2, -1)) and sparse.values.grad is None
    sparse.bias.requires_grad_(True)
    sparse(noise(2, 36, dtype=torch.float64)).sum().backward()
    assert torch.equal(sparse.bias.grad, torch.full((13,), 2.0, dtype=torch.float64)) and sparse.values.grad is None


def test_training_keeps_the_pattern_and_learns() -> None:
    sparse, dense, _ = layer(TILES, 24, 44)
    kept = dense != 0
    x, target = noise(64, 44, dtype=torch.float64), noise(64, 24, seed=4, dtype=torch.float64)
    optimiser = torch.optim.Adam(sparse.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = functional.mse_loss(sparse(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert not sparse.weight[~kept].any() and not torch.equal(sparse.weight, dense)
    with torch.no_grad():  # what the kernels derived from the first values is not used any more
        assert torch.allclose(sparse(x), sparse.to_linear()(x), rtol=1e-12, atol=1e-12)


# -- layers made of dense ones -----------------------------------------------------------------------------------------


def test_from_linear_and_back() -> None:
    linear = nn.Linear(36, 12, dtype=torch.float64).eval()
    linear.bias.requires_grad_(False)
    for pattern in (NM(2, 4), HiNM(4, 0.5, "1:4"), VNM(4, 2, 12), Transposable(2, 4)):
        solution = drawn(pattern, linear.weight.detach())
        sparse = SparseLinear.from_linear(linear, pattern, solution)
        assert not sparse.training and sparse.values.requires_grad and not sparse.bias.requires_grad
        dense = masked(pattern, linear.weight.detach(), solution)
        assert torch.equal(sparse.weight, dense)
        again = sparse.to_linear()
        assert type(again) is nn.Linear and not again.training and again.weight.requires_grad
        assert torch.equal(again.weight, dense) and torch.equal(again.bias, linear.bias)
        again.bias.fill_(7)
        assert not (sparse.bias == 7).any() and not (linear.bias == 7).any()
    without = SparseLinear.from_linear(nn.Linear(36, 12, bias=False))
    assert without.bias is None and without.to_linear().bias is None and without(torch.ones(1, 36)).shape == (1, 12)


def test_results_are_for_their_own_weights() -> None:
    one, two = nn.Linear(32, 16), nn.Linear(32, 16)
    result = permsolve.solve(one.weight, "2:4", method="channel_swap")
    assert not np.array_equal(result.perm, np.arange(32)), "its groups are not those of the columns as they stand"
    sparse = SparseLinear.from_linear(one, "2:4", result)
    assert np.isclose(float(sparse.weight.detach().double().abs().sum()), result.score, rtol=1e-6)
    with pytest.raises(InputError, match=r"solved for other weights than these.*result\.solution"):
        SparseLinear.from_linear(two, "2:4", result)
    with pytest.raises(InputError, match="result is for 2:4, not for 1:4"):
        SparseLinear.from_linear(one, "1:4", result)
    assert torch.equal(
        SparseLinear.from_linear(copy.deepcopy(one).double(), "2:4", result.solution).weight, sparse.weight.double()
    )
    mask = torch.from_numpy(result.mask(one.weight.detach().numpy()))
    pruned = nn.Linear(32, 16)
    pruned.weight = nn.Parameter(one.weight.detach() * mask)
    assert torch.equal(SparseLinear.from_linear(pruned, "2:4", result, mask=mask).weight, pruned.weight)
    with pytest.raises(InputError, match="weights of one group"):
        SparseLinear.from_linear(pruned, "2:4", mask=mask)


def test_parametrizations_become_final() -> None:
    linear = nn.Linear(16, 8)
    torch.nn.utils.parametrizations.weight_norm(linear)
    sparse = SparseLinear.from_linear(linear, "2:4")
    kept = sparse.weight != 0
    assert torch.equal(sparse.weight[kept], linear.weight.detach()[kept])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SparseLinear.from_linear(nn.Conv1d(8, 8, 1)), "got a Conv1d"),
        (lambda: SparseLinear.from_linear(nn.Linear(6, 4)), "6 columns"),
        (lambda: SparseLinear.from_linear(nn.Linear(8, 4, device="meta")), "meta device"),
        (lambda: SparseLinear.from_linear(nn.Linear(8, 4), "2:4", np.arange(12)), "12"),
        (lambda: SparseLinear(example(NM(2, 4), 8, 16)[0], torch.ones(7)), r"shape \(8,\)"),
        (lambda: SparseLinear(example(NM(2, 4), 8, 16)[0], torch.ones(8).double()), "bias .* got torch.float64"),
    ],
)
def test_what_is_no_layer(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_printed() -> None:
    printed = repr(SparseLinear(compress(weight(64, 128, torch.float16), HiNM(32, 0.5, "2:4"))))
    assert "in_features=128, out_features=64, bias=False, pattern=hinm(32, 0.5, 2:4)" in printed
    share = (64 * 32 * 2 + 64 * 8 + 2 * 64 * 4 + 64 * 4) / (64 * 128 * 2)
    assert f"{100 * share:.1f} % of the dense bytes" in printed


# -- state -------------------------------------------------------------------------------------------------------------


@ALL
def test_state_goes_round(pattern: Pattern, rows: int, cols: int) -> None:
    sparse, dense, bias = layer(pattern, rows, cols)
    state = sparse.state_dict()
    assert set(state) == {"values", "positions", "index", "rows", "bias"}
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    other = SparseLinear(compress(weight(rows, cols, torch.float64, seed=7), pattern), torch.zeros_like(bias))
    before = other.compressed
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert other.compressed is not before
    assert torch.equal(other.weight, dense) and torch.equal(other.bias, bias)
    x = noise(3, cols, dtype=torch.float64)
    assert torch.equal(other(x), sparse(x))
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(twin(x), sparse(x))
        with torch.no_grad():
            twin.values.zero_()
        assert torch.equal(twin(x), bias.expand(3, -1)) and not torch.equal(sparse(x), twin(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["index"].fill_(99), "lie in 0 .. 43|twice"),
        (lambda s: s["index"].zero_(), "twice in one tile"),
        (lambda s: s["rows"].zero_(), "permutation of 0 .. 23"),
        (lambda s: s["positions"].zero_(), "do not ascend"),
        (lambda s: s["values"].fill_(float("nan")), "NaN"),
    ],
)
def test_corrupt_state_is_refused(change: Any, said: str) -> None:
    sparse, _, _ = layer(TILES, 24, 44)
    model = nn.Sequential(nn.ReLU(), sparse)
    state = {name: each.clone() for name, each in model.state_dict().items()}
    change({name.partition(".")[2]: each for name, each in state.items()})
    with pytest.raises(InputError, match=said):
        model.load_state_dict(state)
    if said != "NaN":
        with pytest.raises(InputError, match=said):
            model(noise(1, 44, dtype=torch.float64))


def test_a_diverged_layer_computes_nan_wherever_it_is_copied_to() -> None:
    """As a dense layer does; copies and conversions used to end in an error at their first product."""
    sparse, _, _ = layer(NM(2, 4), 13, 36)
    with torch.no_grad():
        sparse.values.fill_(torch.nan)
    x = noise(1, 36, dtype=torch.float64)
    for each in (sparse, copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert each(x).isnan().all()
    assert sparse.float()(x.float()).isnan().all()


def test_state_of_another_shape_is_refused() -> None:
    sparse, _, _ = layer(TILES, 24, 44)
    with pytest.raises(RuntimeError, match="size mismatch for index"):
        sparse.load_state_dict(layer(TILES, 48, 44)[0].state_dict())


def test_an_index_that_was_overwritten_is_noticed() -> None:
    """A kernel must never read where a broken index points."""
    sparse, _, _ = layer(NM(2, 4), 13, 36)
    sparse(noise(1, 36, dtype=torch.float64))
    sparse.index[0, 3] = 10**6
    with pytest.raises(InputError, match=r"lie in 0 \.\. 35"):
        sparse(noise(1, 36, dtype=torch.float64))


def test_what_kernels_derive_is_kept_until_values_change() -> None:
    sparse, _, bias = layer(TILES, 24, 44)
    first = sparse.compressed
    assert sparse.compressed is first and isinstance(first, Compressed)
    with torch.no_grad():
        sparse.values.mul_(2)
    second = sparse.compressed
    assert second is not first and torch.equal(second.values, sparse.values)
    sparse.values.data = sparse.values.data * 2
    assert sparse.compressed is not second
    x = noise(5, 44, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(sparse(x), functional.linear(x, sparse.weight, bias))
    sparse.to(torch.float32)
    assert sparse.compressed.dtype == torch.float32 and sparse.positions.dtype == torch.uint8
    assert sparse.index.dtype == sparse.rows.dtype == torch.int32
    assert sparse(x.float()).dtype == torch.float32
    with pytest.raises(InputError, match="activations are float64"):
        sparse(x)


def test_layers_made_in_inference_mode() -> None:
    with torch.inference_mode():
        sparse, dense, bias = layer(NM(2, 4), 13, 36)
        x = noise(2, 36, dtype=torch.float64)
        assert torch.allclose(sparse(x), functional.linear(x, dense, bias))


def test_meta_and_back() -> None:
    sparse, dense, bias = layer(TILES, 24, 44)
    state = sparse.state_dict()
    away = copy.deepcopy(sparse).to("meta")
    assert away(torch.ones(2, 3, 44, dtype=torch.float64, device="meta")).shape == (2, 3, 24)
    away.load_state_dict(state, assign=True)
    x = noise(2, 44, dtype=torch.float64)
    assert torch.allclose(away(x), functional.linear(x, dense, bias))


def test_autocast() -> None:
    sparse, dense, bias = layer(TILES, 24, 44, torch.float32)
    x = noise(5, 44)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = [sparse(given) for given in (x, x.bfloat16())]
        assert torch.is_autocast_enabled("cpu")
    expected = functional.linear(x, dense, bias)
    for found in outputs:
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_exported_graphs_compute_the_same() -> None:
    sparse, dense, bias = layer(TILES, 24, 44)
    x = noise(5, 44, dtype=torch.float64)
    exported = torch.export.export(nn.Sequential(sparse), (x,))
    assert torch.allclose(exported.module()(x), functional.linear(x, dense, bias))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_graphs_compute_the_same() -> None:
    """A compiled kernel's output would be a constant of the graph: right for the example only."""
    sparse, dense, bias = layer(NM(2, 4), 13, 36, torch.float32)
    sparse.requires_grad_(False)
    x, other = noise(5, 36), noise(5, 36, seed=1)
    expected = functional.linear(other, dense, bias)
    for traced in (torch.jit.trace(sparse, x), make_fx(sparse)(x)):
        assert torch.allclose(traced(other), expected, atol=1e-4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert sparse(torch.empty(5, 36)).shape == (5, 13)


def test_code_that_reads_the_weight() -> None:
    """The fast path of an encoder layer in evaluation mode takes weights past their layers."""
    encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dtype=torch.float64).eval()
    twin = copy.deepcopy(encoder)
    for name in ("linear1", "linear2"):
        made = SparseLinear.from_linear(getattr(encoder, name), "2:4")
        setattr(encoder, name, made)
        setattr(twin, name, made.to_linear())
    x = noise(2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(encoder(x), twin(x), rtol=1e-10, atol=1e-12)
    encoder.train()
    assert encoder(x).requires_grad


# -- torch's semi-structured format ------------------------------------------------------------------------------------


def test_semi_structured_needs_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(MissingDependencyError, match="needs a CUDA device of compute capability"):
        SparseLinear(example(NM(2, 4), 32, 64, torch.float16)[0]).to_semi_structured()


@pytest.mark.parametrize("case", [(NM(1, 4), 32, 64), (TILES, 32, 64), (VNM(8, 2, 8), 32, 64), (NM(4, 8), 32, 64)])
def test_semi_structured_is_two_of_four(case: tuple[Pattern, int, int]) -> None:
    with pytest.raises(InputError, match=r"holds 2:4, plain or transposable, not"):
        SparseLinear(example(*case)[0]).to_semi_structured()


@pytest.mark.parametrize("pattern", [NM(2, 4), Transposable(2, 4)], ids=str)
def test_columns_are_put_in_order_for_torch(pattern: Pattern, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what torch is handed is 2:4 in consecutive columns, and the input is gathered to match."""

    def convert(dense: Any) -> Any:
        assert ((dense.reshape(len(dense), -1, 4) != 0).sum(-1) <= 2).all()
        return dense.clone()

    monkeypatch.setattr(conversion, "check_convertible", lambda weights: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", convert)
    sparse, dense, bias = layer(pattern, 24, 36)
    converted = sparse.to_semi_structured()
    assert converted.order is not None and not converted.weight.requires_grad and "input gathered" in repr(converted)
    x = noise(2, 3, 36, dtype=torch.float64)
    assert torch.allclose(converted(x), functional.linear(x, dense, bias))
    plain = SemiStructuredLinear(compress(weight(24, 36), "2:4"))
    assert plain.order is None and plain.bias is None and "own order" in repr(plain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_semi_structured_on_a_gpu(dtype: Any) -> None:
    sparse, dense, bias = layer(NM(2, 4), 128, 256, dtype)
    converted = sparse.cuda().to_semi_structured()
    x = noise(64, 256, dtype=dtype).cuda()
    expected = x.double() @ dense.cuda().double().T + bias.cuda().double()
    assert (converted(x) - expected).abs().max() <= 2e-2 * expected.abs().max()
    assert (sparse(x) - expected).abs().max() <= 2e-2 * expected.abs().max()
    with pytest.raises(InputError, match="convert them to float16 or bfloat16"):
        sparse.float().to_semi_structured()
