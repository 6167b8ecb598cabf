"""Calibration: sums against explicit ones, what is shared, killed runs, and what is refused."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from permuting import assign_all, state, unequal  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_parts import Inputs, Net, doubled, noise, randomise  # noqa: E402

from permsolve import HiNM, Problem, models  # noqa: E402
from permsolve.errors import DeviceError, DocumentError, FileError, InputError, ModelError  # noqa: E402
from permsolve.models import Calibration, calibrate, calibration_state, calibration_sums, patches  # noqa: E402
from permsolve.models.saliencies import ModelSaliency  # noqa: E402
from permsolve.patterns import HiNMSolution  # noqa: E402
from permsolve.saliency import OBS, RIA, OutputError, Wanda  # noqa: E402

LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (3, 5, 8)),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3, stride=2, padding=2), (3, 8, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (2, 4, 7, 6)),
    "conv2d unbatched": (lambda: nn.Conv2d(4, 6, 3), (4, 7, 6)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2), (2, 4, 7, 6)),
    "conv2d reflected": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 7, 6)),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 6)),
    "conv2d grouped": (lambda: nn.Conv2d(8, 6, 3, padding=1, stride=2, groups=2), (2, 8, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(4, 3, (1, 2, 3), padding=1), (2, 4, 3, 4, 5)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, (4, 3), (3, 2), padding=3, dilation=2), (2, 4, 5, 4)),
    "transposed grouped": (
        lambda: nn.ConvTranspose2d(8, 6, 3, 2, padding=1, output_padding=1, groups=2),
        (2, 8, 4, 3),
    ),
    "transposed cropped": (lambda: nn.ConvTranspose1d(4, 6, 2, padding=2), (2, 4, 9)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 2, 2, 2), (1, 4, 2, 3, 2)),
}


def features(layer: nn.Module, weight: models.PrunableWeight, batch: torch.Tensor) -> np.ndarray[Any, Any]:
    """What the layer multiplies each entry of a row of its weight with, as it shows on weights of a single one.

    (groups, rows, features), rows in the order of the outputs.
    """
    probe, columns = copy.deepcopy(layer).double(), []
    shape = weight.to_channels(weight.values()).shape
    for feature in range(int(np.prod(shape[1:]))):
        one = np.zeros(shape)
        one.reshape(shape[0], -1)[:, feature] = 1
        with torch.no_grad():
            probe.weight.copy_(torch.from_numpy(weight.from_matrix(np.moveaxis(one, 1, -1).reshape(-1, shape[1]))))
            probe.bias.zero_()
            out = probe(batch.double())
        axis = -1 if isinstance(layer, nn.Linear) else batch.dim() - len(layer.kernel_size) - 1
        columns.append(out.movedim(axis, -1).reshape(-1, shape[0]).numpy()[:, :: shape[0] // weight.groups])
    return np.stack(columns, axis=-1).transpose(1, 0, 2)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("chunk", [patches.CHUNK, 40])
def test_sums_are_those_of_the_rows_that_the_layer_itself_forms(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "CHUNK", chunk)
    make, shape = LAYERS[kind]
    layer = randomise(make(), 1)
    batches = [noise(*shape, seed=k) for k in range(2)]
    [weight] = models.weights(layer)
    rows = np.concatenate([features(layer, weight, batch) for batch in batches], axis=1)
    found, norms = calibrate(layer, batches), calibrate(layer, batches, covariance=False)
    expected = rows.transpose(0, 2, 1) @ rows / rows.shape[1]
    assert found.samples == 2
    assert found.count("weight") == norms.count("weight") == rows.shape[1]
    assert found.second_moment("weight").dtype == np.float64
    np.testing.assert_allclose(found.second_moment("weight"), expected, rtol=0, atol=3e-6 * expected.max())
    positions = int(np.prod(weight.shape[2:]))
    by_position = (rows**2).sum(axis=1).reshape(-1, positions)
    for each in (found, norms):
        np.testing.assert_allclose(each.norms("weight"), np.sqrt(by_position.mean(axis=1)), rtol=3e-6)
    moments = found.channel_moments("weight")
    assert moments.shape == (weight.groups * positions, weight.cols, weight.cols)
    for group in range(weight.groups):
        for position in range(positions):
            one = expected[group, position::positions, position::positions]
            np.testing.assert_allclose(moments[group * positions + position], one, rtol=0, atol=3e-6 * expected.max())


def test_a_transposed_convolution_called_with_a_size_and_gpt2s_layer() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="needs transformers").Conv1D
    layer = randomise(nn.ConvTranspose1d(4, 6, 4, stride=3), 0)
    wide = nn.ConvTranspose1d(4, 6, 4, stride=3, output_padding=2)
    wide.load_state_dict(layer.state_dict())
    batch = noise(2, 4, 5)
    by_size = calibrate(layer, [{"input": batch, "output_size": [18]}, (batch, [18])])
    assert by_size.count("weight") == 72
    by_padding = calibrate(wide, [batch])
    np.testing.assert_allclose(by_size.second_moment("weight"), by_padding.second_moment("weight"), rtol=1e-6)
    found = calibrate(conv1d(6, 8), [{"x": noise(3, 8)}])
    np.testing.assert_allclose(found.second_moment("weight")[0], noise(3, 8).T @ noise(3, 8) / 3, rtol=1e-5, atol=1e-6)


def mlp() -> nn.Module:
    """Layers of equal widths, whose inputs lie at the same addresses one after the other."""
    return randomise(nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(5))).eval(), 0)


def inputs_of(model: nn.Module, batches: list[torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """What every linear layer is given, all batches one after the other."""
    seen: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, at=f"{name}.weight": seen.setdefault(at, []).append(args[0])
            )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return {
        name: torch.cat([each.reshape(-1, each.shape[-1]) for each in given]).numpy() for name, given in seen.items()
    }


def test_inputs_at_one_address_are_told_apart() -> None:
    model, batches = mlp(), [noise(4, 8, seed=k) for k in range(3)]
    found = calibrate(model, batches)
    expected = inputs_of(model, batches)
    assert len(found.totals) == 5
    assert found.names == tuple(expected)
    for name, rows in expected.items():
        np.testing.assert_allclose(found.second_moment(name)[0], rows.T @ rows / 12, rtol=1e-4, atol=1e-6)


def test_what_reads_the_same_tensors_has_one_sum() -> None:
    def code(m: Any, x: Any) -> Any:
        y = m.q(x) + m.k(x) + m.twice(x)
        z = m.twice(y) + m.gate(y) * m.up(y)
        y.add_(1)
        return m.late(y) + z

    names = ("q", "k", "twice", "gate", "up", "late")
    model = randomise(Net(code, **{name: nn.Linear(8, 8) for name in names}), 0)
    batches = [noise(4, 8), noise(2, 8, seed=1)]
    found = calibrate(model, batches)
    sites = {site.path.split(".")[0]: site.total for site in found.sites}
    assert len(found.totals) == 4
    assert sites["q"] == sites["k"]
    assert sites["gate"] == sites["up"]
    for name, given in inputs_of(model, batches).items():
        rows = given  # y was written to later: `add_` changed what the hook kept of it
        if name in ("q.weight", "k.weight", "late.weight"):
            np.testing.assert_allclose(found.second_moment(name)[0], rows.T @ rows / 6, rtol=1e-4, atol=1e-6)
    assert (found.count("q"), found.count("twice"), found.count("gate")) == (6, 12, 6)
    before = found.second_moment("gate")[0] * 6 + found.second_moment("q")[0] * 6
    np.testing.assert_allclose(found.second_moment("twice")[0] * 12, before, rtol=1e-5)


def test_an_embedding_that_a_weight_is_tied_to_multiplies_nothing() -> None:
    def code(m: Any, x: Any) -> Any:
        return m.head(torch.tanh(m.table(x)))

    model = Net(code, table=nn.Embedding(12, 8), head=nn.Linear(8, 12, bias=False))
    model.head.weight = model.table.weight
    words = torch.arange(6).reshape(2, 3)
    found = calibrate(model, [words], layers="head.weight")
    rows = torch.tanh(model.table(words)).detach().reshape(-1, 8)
    assert found.count("head.weight") == 6
    np.testing.assert_allclose(found.second_moment("head.weight")[0], rows.T @ rows / 6, rtol=1e-4, atol=1e-6)


def test_weights_that_part_later_are_named() -> None:
    def code(m: Any, x: Any) -> Any:
        return m.one(x) + m.other(x if len(x) > 2 else x + 1)

    model = Net(code, one=nn.Linear(8, 8), other=nn.Linear(8, 8))
    with pytest.raises(ModelError, match=r"batch 2: other\.weight and one\.weight read the same tensors"):
        calibrate(model, [noise(4, 8), noise(2, 8)])
    alone = calibrate(model, [noise(4, 8), noise(2, 8)], layers="other")
    assert alone.count("other") == 6

    def skips(m: Any, x: Any) -> Any:
        return m.one(x) + (m.other(x) if len(x) > 2 else 0)

    with pytest.raises(ModelError, match=r"batch 2: other\.weight and one\.weight"):
        calibrate(Net(skips, one=nn.Linear(8, 8), other=nn.Linear(8, 8)), [noise(4, 8), noise(2, 8)])


def test_experts_that_come_late_or_get_nothing() -> None:
    def code(m: Any, x: Any) -> Any:
        return m.late(x) if len(x) == 2 else m.early(x) + m.empty(x[:0]).sum()

    model = Net(code, early=nn.Linear(8, 8), late=nn.Linear(8, 8), empty=nn.Linear(8, 8), never=nn.Linear(8, 8))
    found = calibrate(model, [noise(4, 8), noise(2, 8), noise(2, 8)])
    assert found.names == ("early.weight", "late.weight")
    assert (found.count("early"), found.count("late")) == (4, 4)
    assert set(found.unseen) == {"empty.weight", "never.weight"}
    with pytest.raises(InputError, match=r"nothing for never\.weight: never called"):
        found.norms("never.weight")
    with pytest.raises(InputError, match=r"2 of the chosen weights .* empty\.weight: never called"):
        calibrate(model, [noise(4, 8), noise(2, 8)], layers="*")


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_which_calls_no_layers(batch_first: bool) -> None:
    model = randomise(nn.MultiheadAttention(16, 4, batch_first=batch_first, kdim=8, vdim=24).eval(), 0)
    query, key, value = noise(3, 5, 16), noise(3, 7, 8, seed=1), noise(3, 7, 24, seed=2)
    if not batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    before = model(query, key, value)[0]
    found = calibrate(model, [(query, key, value)])
    for name, rows in (("q_proj_weight", query), ("k_proj_weight", key), ("v_proj_weight", value)):
        flat = rows.reshape(-1, rows.shape[-1])
        np.testing.assert_allclose(found.second_moment(name)[0], flat.T @ flat / len(flat), rtol=1e-4, atol=1e-6)
    model.out_proj.weight.data.copy_(torch.eye(16))
    model.out_proj.bias.data.zero_()
    heads = model(query, key, value)[0].detach().reshape(-1, 16)
    np.testing.assert_allclose(found.second_moment("out_proj")[0], heads.T @ heads / 15, rtol=1e-4, atol=1e-6)
    assert before.shape == query.shape


def test_attention_of_one_tensor_counts_it_once() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = randomise(nn.TransformerEncoder(layer, 2).eval(), 0)
    batch, mask = noise(3, 5, 16), torch.arange(5) > torch.tensor([[4], [2], [3]])
    found = calibrate(model, [{"src": batch, "src_key_padding_mask": mask}])
    assert len(found.names) == 8
    assert not found.unseen
    name = "layers.0.self_attn.in_proj_weight"
    flat = batch.reshape(-1, 16)
    assert found.count(name) == 15
    np.testing.assert_allclose(found.second_moment(name)[0], flat.T @ flat / 15, rtol=1e-4, atol=1e-6)
    only = calibrate(model, [batch], layers="*.out_proj.weight")
    assert only.names == ("layers.0.self_attn.out_proj.weight", "layers.1.self_attn.out_proj.weight")
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 8)
    ).train()
    model[1].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    batches: list[torch.Tensor] = [noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=1)]
    first = calibrate(model, batches)
    again = calibrate(model, iter(batches))  # dropout would show
    for one, other in zip(first.totals, again.totals, strict=True):
        assert np.array_equal(one.values, other.values)
    with pytest.raises(ModelError, match="the model fails on batch 2"):
        calibrate(model, [batches[0], noise(2, 3, 4, 4)])
    assert not unequal(before, state(model))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


class Counter(nn.Module):
    """Writes buffers in evaluation mode: one in place, one by another tensor, and one that counts NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.register_buffer("strange", torch.tensor([torch.nan, 1.0]))
        self.register_buffer("nothing", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.strange *= 2
        self.mean = self.mean * 0.9 + x.mean(0) * 0.1
        return self.layer(x)


def test_buffers_that_forward_writes_are_put_back() -> None:
    model, batches = Counter().eval(), [noise(20, 8), noise(20, 8, seed=1)]
    held = dict(model.named_buffers())

    def check() -> None:
        assert all(buffer is held[name] for name, buffer in model.named_buffers())
        assert model.nothing is None
        assert model.calls == 0
        assert not model.mean.any()
        assert model.strange[1] == 1

    calibrate(model, batches)
    check()
    with pytest.raises(ModelError, match="fails on batch 2"):
        calibrate(model, [batches[0], noise(2, 7)])
    check()
    models.prune_(model, "2:4", calibration=batches, update="refit", target="dense", display=False)
    check()


def test_arguments_by_name_in_any_order() -> None:
    def code(m: Any, x: Any) -> Any:
        return m.up(output_size=[18], input=x)

    model, batch = Net(code, up=nn.ConvTranspose1d(4, 6, 4, stride=3)), noise(2, 4, 5)
    one, other = calibrate(model, [batch]), calibrate(model.up, [(batch, [18])])
    assert np.array_equal(one.second_moment("up.weight"), other.second_moment("weight"))


def test_a_folder_that_is_not_there_is_found_out_before_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        calibrate(mlp(), dying([], 0), save=tmp_path / "none" / "state.safetensors")
    for how, said in (({"save": 5}, "save = 5"), ({"covariance": "yes"}, "covariance = 'yes'")):
        with pytest.raises(InputError, match=said):
            calibrate(mlp(), dying([], 0), **how)  # type: ignore[arg-type]
    found = calibrate(mlp(), [noise(4, 8)])
    with pytest.raises(InputError, match="no weight 3"):
        found.norms(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no permsolve\.models\.Plan"):
        found.permuted(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_and_autocast(dtype: torch.dtype) -> None:
    model, batch = mlp(), noise(64, 8)
    if dtype == torch.float64:
        found = calibrate(model.double(), [batch.double()])
        wanted = batch.double().T @ batch.double() / 64
        np.testing.assert_allclose(found.second_moment("0.0")[0], wanted, rtol=1e-12, atol=1e-14)
        return
    rounded = batch.to(dtype).double()
    found = calibrate(model.to(dtype), [batch.to(dtype)])
    np.testing.assert_allclose(found.second_moment("0.0")[0], rounded.T @ rounded / 64, rtol=1e-5, atol=1e-6)
    inside = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = calibrate(inside, [batch])
    exact = batch.double().T @ batch.double() / 64
    np.testing.assert_allclose(mixed.second_moment("0.0")[0], exact, rtol=1e-5, atol=1e-6)


def test_products_have_all_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, multiply = [], patches.Rows.moments

    def moments(self: Any, inputs: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return multiply(self, inputs)

    monkeypatch.setattr(patches.Rows, "moments", moments)
    try:
        torch.set_float32_matmul_precision("medium")  # allows TF32 on GPUs and bfloat16 on CPUs that know it
        calibrate(mlp(), [noise(4, 8)])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


class Killed(BaseException):
    """What ends a run from outside."""


def dying(batches: list[Any], after: int) -> Iterator[Any]:
    """Yield some batches, then end the run."""
    yield from batches[:after]
    raise Killed


class Counting(nn.Module):
    """A model that counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.body(x)


@pytest.mark.parametrize("covariance", [True, False])
def test_a_killed_run_goes_on(covariance: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_state, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(calibration_state, "_SLOW", 0.0)
    model, batches, path = Counting(), [noise(4, 8, seed=k) for k in range(5)], tmp_path / "state.safetensors"
    whole = calibrate(model, batches, covariance=covariance)
    with pytest.raises(Killed):
        calibrate(model, dying(batches, 3), covariance=covariance, save=path)
    assert Calibration.load(path).samples == 3
    model.passes = 0
    found = calibrate(model, batches, covariance=covariance, save=path)
    assert model.passes == 2
    again = calibrate(model, batches, covariance=covariance, save=path)
    assert model.passes == 2
    for each in (found, again, Calibration.load(path)):
        assert each.samples == 5
        assert each.names == whole.names
        for name in whole.names:
            assert np.array_equal(each.norms(name), whole.norms(name))
            assert each.count(name) == whole.count(name)


def test_a_state_is_written_only_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        calibrate(mlp(), dying([noise(4, 8)], 1), save=path)
    assert not path.exists()


def test_a_state_is_gone_on_with_only_where_it_belongs(tmp_path: Path) -> None:
    model, batches, path = mlp(), [noise(4, 8, seed=k) for k in range(4)], tmp_path / "state.safetensors"
    calibrate(model, batches[:3], save=path)
    with pytest.raises(InputError, match=r"ended early, after 2 of the 3 that .*state\.safetensors counts"):
        calibrate(model, batches[:2], save=path)
    with pytest.raises(InputError, match="3 batches that are not these, or in another order"):
        calibrate(model, [batches[1], batches[0], *batches[2:]], save=path)
    with pytest.raises(InputError, match="begun with covariance=True"):
        calibrate(model, batches, save=path, covariance=False)
    with pytest.raises(InputError, match="begun with other layers"):
        calibrate(model, batches, save=path, layers=["0.0", "1.0"])
    other = mlp()
    other[2][0].bias.data[3] += 1
    with pytest.raises(ModelError, match="calibration of another model, or of this one with other weights"):
        calibrate(other, batches, save=path)
    assert calibrate(model, batches, save=path).samples == 4
    with pytest.raises(FileError, match="cannot be written"):
        calibrate(model, batches, save=tmp_path / "none" / "state.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("covariance", [True, False])
def test_activations_that_are_not_finite_are_located(bad: float, covariance: bool) -> None:
    def code(m: Any, x: Any) -> Any:
        return m.second(torch.where(m.first(x) > 1e9, bad, m.first(x)))

    model = Net(code, first=nn.Linear(8, 8), second=nn.Linear(8, 8))
    large = noise(4, 8) * 1e12
    with pytest.raises(ModelError, match=r"batch 2: second\.weight is given \d+ NaN or infinite activations"):
        calibrate(model, [noise(4, 8), large], covariance=covariance)
    with pytest.raises(ModelError, match=r"batch 1: first\.weight is given activations whose squares overflow"):
        calibrate(model, [noise(4, 8) * 1e25], layers="first", covariance=covariance)


def test_memory_is_checked_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = nn.Linear(1000, 8)
    monkeypatch.setattr(calibration_sums, "_available", lambda: 9_000_000)
    assert calibrate(model, [noise(3, 1000)]).names == ("weight",)
    with pytest.raises(DeviceError, match=r"1 weights take 0\.016 GB of memory, 0\.009 GB are available"):
        calibrate(model, [noise(3, 1000)], save=tmp_path / "state.safetensors")
    monkeypatch.setattr(calibration_sums, "_available", lambda: 7_000_000)
    with pytest.raises(DeviceError, match=r"0\.008 GB of memory, 0\.007 GB are available: .*covariance=False"):
        calibrate(model, [noise(3, 1000)])
    assert calibrate(model, [noise(3, 1000)], covariance=False).names == ("weight",)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "ended early, after none at all"),
        (iter(()), "ended early, after none at all"),
        (noise(3, 8), r"batches must be a list .* got a Tensor; one batch is passed as \[batch\]"),
        ({"x": noise(3, 8)}, "got a dict"),
        (7, "got a int"),
        ([noise(3, 8), 7], "batch 2 is a int"),
        ([(noise(3, 8), noise(3))], r"fails on batch 1: .* \[inputs for inputs, _ in loader\]"),
    ],
)
def test_batches_that_are_none(batches: Any, message: str) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        calibrate(mlp(), batches)


def test_loaders_and_lists_of_arguments() -> None:
    data = torch.utils.data.TensorDataset(noise(10, 8))
    found = calibrate(mlp(), torch.utils.data.DataLoader(data, batch_size=4))
    assert (found.samples, found.count("0.0")) == (3, 10)


def test_models_and_names_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="no weight of the model can be calibrated"):
        calibrate(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), [noise(1, 4, 5, 5)])
    with pytest.raises(InputError, match=r"need a torch\.nn\.Module"):
        calibrate(7, [noise(1, 4)])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="meta device"):
        calibrate(nn.Linear(8, 8, device="meta"), [noise(1, 8)])
    found = calibrate(mlp(), [noise(4, 8)], covariance=False)
    with pytest.raises(InputError, match=r"no weight '7\.weight'; "):
        found.norms("7.weight")
    with pytest.raises(InputError, match=r"norms only, no second moment of 0\.0: calibrate with covariance=True"):
        found.second_moment("0.0")
    with pytest.raises(InputError, match="display = 3"):
        calibrate(mlp(), [noise(4, 8)], display=3)  # type: ignore[arg-type]


def test_progress_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "permsolve"):
        calibrate(mlp(), [noise(4, 8)] * 2, display=False)
    said = [record.getMessage() for record in caplog.records]
    assert "calibration: 5 sums of 5 weights take 0.00256 MB" in said
    assert any(line.startswith("calibration: 2 of 2") for line in said)


def test_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "calibration.safetensors"
    model = randomise(nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.Conv2d(16, 8, 1)), 0)
    found = calibrate(model, [noise(2, 8, 5, 5)])
    found.save(path)
    read = Calibration.load(path)
    assert (read.samples, read.names, read.sites, read.unseen) == (
        found.samples,
        found.names,
        found.sites,
        found.unseen,
    )
    for name in found.names:
        assert np.array_equal(read.second_moment(name), found.second_moment(name))
    assert repr(read) == "<Calibration: second moments of 2 weights over 1 batches, 2 sums, 0.0228 MB>"
    assert all(np.array_equal(read.columns[name], found.columns[name]) for name in found.names)
    content = path.read_bytes()
    for text, other, kind, message in (
        (b"calibration/1", b"calibration/2", DocumentError, "schema"),
        (b'samples\\":1', b'samples\\":0', DocumentError, "samples: Input should be greater"),
        (b'total\\":1', b'total\\":0', DocumentError, "name other sums"),
        (b'axis\\":1', b'axis\\":0', DocumentError, "not a float64 array of its channels"),
    ):
        assert content.count(text) >= 1
        path.write_bytes(content.replace(text, other))
        with pytest.raises(kind, match=message):
            Calibration.load(path)
    path.write_bytes(content[:-40])
    with pytest.raises(FileError, match="damaged or truncated"):
        Calibration.load(path)
    found.totals[1].values[0, 0, 1] = np.nan
    found.save(path)
    with pytest.raises(DocumentError, match=r"1\.weight holds what no sum of squares"):
        Calibration.load(path)
    with pytest.raises(FileError, match="no such file"):
        Calibration.load(tmp_path / "other")


def check_permuted(model: nn.Module, inputs: Inputs, plan: models.Plan) -> int:
    """Compare the permuted calibration with that of the permuted model; return how many weights' channels moved."""
    model, given = doubled(model, inputs)
    both = [calibrate(model, [given], covariance=covariance) for covariance in (True, False)]
    plan.apply_(model, example_inputs=given)
    moved = 0
    for before in both:
        after, fresh = before.permuted(plan), calibrate(model, [given], covariance=before.covariance)
        assert after.names == fresh.names
        for weight in models.weights(model):
            if weight.path in after:
                after.check_order(weight.path, weight.to_channels(weight.values()))
        assert len(after.totals) <= len(before.sites)
        moved = 0
        for name in fresh.names:
            assert after.count(name) == fresh.count(name)
            np.testing.assert_allclose(after.norms(name), fresh.norms(name), rtol=1e-6)
            moved += not np.allclose(before.norms(name), fresh.norms(name), rtol=1e-6)
            if before.covariance:
                one, other = after.second_moment(name), fresh.second_moment(name)
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
    return moved


@pytest.mark.parametrize("name", ["resnext", "vgg", "unet", "encoder_batch_first", "gpt2"])
def test_permuted_is_the_calibration_of_the_permuted_model(name: str) -> None:
    if ZOO[name].needs:
        pytest.importorskip(ZOO[name].needs)
    model, inputs = ZOO[name].build()
    plan = models.analyze(model, inputs, "2:4")
    assign_all(plan)
    assert check_permuted(model, inputs, plan) >= 2


def test_permuted_by_explicit_gathers_and_by_rows() -> None:
    def code(m: Any, x: Any) -> Any:
        y = m.norm(x)
        return m.last(torch.tanh(m.one(y) * m.two(y))) + y

    parts = {"norm": nn.LayerNorm(16), "one": nn.Linear(16, 24), "two": nn.Linear(16, 24), "last": nn.Linear(24, 16)}
    model = randomise(Net(code, **parts).eval(), 0)
    plan = models.analyze(model, (noise(3, 16),), "2:4", gather="norm")
    assign_all(plan)
    assert check_permuted(model, (noise(3, 16),), plan) == 3
    stack = randomise(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 40), nn.Tanh(), nn.Linear(40, 8)), 0)
    rows = models.analyze(stack.eval(), (noise(3, 16),), HiNM(8, 0.5, "2:4"))
    for group in rows.groups:
        order = np.random.default_rng(0).permutation(group.channels)
        rows.assign(group.name, HiNMSolution(order, group.problem(stack).start.columns))
    assert check_permuted(stack, (noise(3, 16),), rows) == 2


def test_a_plan_of_another_model_does_not_permute() -> None:
    one, other = (nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8)) for width in (16, 24))
    plan = models.analyze(one, noise(2, 8), "2:4")
    assign_all(plan)
    with pytest.raises(ModelError, match=r"moves 16 input channels of 2\.weight, the calibration has 24"):
        calibrate(other, [noise(2, 8)]).permuted(plan)


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """Plain, grouped, transposed, and a linear layer."""
    layers = (nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=2), nn.Tanh(), nn.ConvTranspose2d(16, 4, 2))
    return randomise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 8)).eval(), 0), noise(40, 8, 4, 4)


def by_hand(kind: str, found: Calibration, weight: models.PrunableWeight) -> np.ndarray[Any, Any]:
    """The saliency of a weight in its own shape, group by group."""
    channels = weight.to_channels(weight.values())
    parts = []
    for group, part in enumerate(np.split(channels, weight.groups)):
        norms = np.split(found.norms(weight.path), weight.groups)[group]
        moment = found.second_moment(weight.path)[group]
        rule: Any = {"wanda": Wanda(norms), "ria": RIA(norms), "obs": OBS(moment)}[kind]
        parts.append(rule(part))
    matrix = np.moveaxis(np.concatenate(parts), 1, -1).reshape(-1, weight.cols)
    return weight.from_matrix(matrix)


@pytest.mark.parametrize("kind", ["wanda", "ria", "obs"])
def test_saliencies_by_name(kind: str) -> None:
    model, batch = convolutions()
    found = calibrate(model, [batch])
    ranking = ModelSaliency(kind, found)
    assert ranking.name == kind
    listed = models.weights(model)
    ranking.check(listed, listed)
    arrays = {}
    for weight in listed:
        arrays[weight.path] = by_hand(kind, found, weight)
        np.testing.assert_allclose(ranking.matrix(weight, weight.values()), weight.to_matrix(arrays[weight.path]))
        assert ranking.objective(weight) is None
    plan = models.analyze(model, batch, "2:4")
    assert {gainer.name for group in plan.groups for gainer in group.gainers} >= {"2.weight", "4.weight"}
    for group in plan.groups:
        named = group.problem(model, ranking.for_groups(model))
        given = group.problem(model, arrays)
        np.testing.assert_allclose(named.saliency, given.saliency, rtol=1e-12)


def test_plans_are_solved_with_a_calibration() -> None:
    model, batch = mlp(), noise(50, 8)
    found = calibrate(model, [batch])
    plan, other = (models.analyze(model, batch, "2:4") for _ in range(2))
    plan.solve(model, saliency="wanda", calibration=found, method="identity", display=False)
    mapping = {name: Wanda(found.norms(name)) for name in found.names}
    other.solve(model, saliency=mapping, method="identity", display=False)
    for one, two in zip(plan.groups, other.groups, strict=True):
        assert one.result is not None and two.result is not None
        assert one.result.score == pytest.approx(two.result.score, rel=1e-12)
        assert one.result.baseline != pytest.approx(one.problem(model).baseline)
    mixed = {**mapping, "3.0.weight": "obs"}
    by_mapping = ModelSaliency(mixed, found)
    assert by_mapping.name == "wanda+obs"
    models.analyze(model, batch, "2:4").solve(model, saliency=mixed, calibration=found, method="identity")
    rows = models.analyze(model, batch, HiNM(2, 0.5, "1:2"))
    rows.solve(model, saliency="ria", calibration=found, method="identity", display=False)
    assert rows.solved


@pytest.mark.parametrize("kind", ["wanda", "ria", "obs", "output_error"])
def test_pruning_by_name(kind: str) -> None:
    model, batch = convolutions()
    found = calibrate(model, [batch])
    masks = {}
    for weight in models.weights(model, nm="2:4"):
        if kind == "output_error":
            channels = weight.to_channels(weight.values())
            kept = np.moveaxis(OutputError(found.channel_moments(weight.path)).mask(channels, "2:4"), 1, -1)
            masks[weight.path] = weight.from_matrix(kept.reshape(-1, weight.cols))
        else:
            matrix = weight.to_matrix(by_hand(kind, found, weight))
            ranks = np.argsort(np.argsort(-matrix.reshape(len(matrix), -1, 4), axis=2), axis=2)
            masks[weight.path] = weight.from_matrix((ranks < 2).reshape(matrix.shape))
    pruned = models.prune_(model, "2:4", saliency=kind, calibration=found)
    assert set(pruned.names) == set(masks)
    for weight in models.weights(model, nm="2:4"):
        assert np.array_equal(weight.values() != 0, masks[weight.path])


def test_a_calibration_in_another_order_is_refused() -> None:
    model, batch = convolutions()
    found = calibrate(model, [batch])
    plan = models.analyze(model, batch, "2:4")
    assign_all(plan)
    plan.apply_(model)
    listed = models.weights(model)
    for kind in ("wanda", "magnitude"):  # whatever the calibration is for: a refit reads it, too
        with pytest.raises(
            ModelError, match=r"channels of 2\.weight are in another order.* calibration\.permuted\(plan\)"
        ):
            ModelSaliency(kind, found).check(listed, listed)
    fresh = models.analyze(model, batch, "2:4")
    for kind in ("wanda", "output_error"):
        with pytest.raises(ModelError, match=r"2\.weight are in another order"):
            fresh.solve(model, saliency=kind, calibration=found, method="identity", display=False)
    moved = found.permuted(plan)
    ModelSaliency("wanda", moved).check(listed, listed)
    fresh.solve(model, saliency="wanda", calibration=moved, method="identity", display=False)
    with torch.no_grad():
        model[2].weight.mul_(1.5)  # trained since
    ModelSaliency("wanda", moved).check(listed, listed)
    wide = nn.Sequential(nn.Conv2d(16, 16, 3))
    with pytest.raises(ModelError, match=r"of another model: 0\.weight had 8 input channels"):
        ModelSaliency("wanda", found).check(models.weights(wide), models.weights(wide))


def test_the_output_error_by_name() -> None:
    model, batch = convolutions()
    found = calibrate(model, [batch])
    ranking = ModelSaliency("output_error", found)
    by_itself = {}
    for weight in models.weights(model):
        objective = ranking.objective(weight)
        assert isinstance(objective, OutputError)
        np.testing.assert_allclose(objective.channel_moments, found.channel_moments(weight.path))
        alone = Problem.of(weight.to_channels(weight.values()), "2:4", saliency=objective)
        by_itself[weight.name] = alone.baseline
        with pytest.raises(InputError, match="'output_error' ranks no single entries"):
            ranking.matrix(weight, weight.values())
    plan = models.analyze(model, batch, "2:4")
    assert len(plan.groups) == 2
    for group in plan.groups:
        [gainer] = group.gainers
        problem = group.problem(model, ranking.for_groups(model))
        assert problem.baseline < 0
        assert problem.baseline == pytest.approx(by_itself[gainer.name], rel=1e-9)


def test_saliencies_that_lack_something() -> None:
    model, batch = convolutions()
    norms = calibrate(model, [batch], covariance=False)
    listed = models.weights(model)
    with pytest.raises(InputError, match=r"'wanda' needs activations.*calibration=permsolve\.models\.calibrate"):
        ModelSaliency("wanda")
    with pytest.raises(InputError, match="calibration = 7"):
        ModelSaliency("wanda", 7)  # type: ignore[arg-type]
    for kind in ("obs", "output_error"):
        with pytest.raises(InputError, match="norms only, no second moment"):
            ModelSaliency(kind, norms)._evaluate(listed[0], listed[0].values())
    part = calibrate(model, [batch], layers=["0"])
    with pytest.raises(InputError, match=r"no weight '2\.weight'"):
        ModelSaliency("wanda", part).check(listed, listed)
    with pytest.raises(InputError, match=r"no weight '2\.weight'"):
        models.analyze(model, batch, "2:4").solve(model, saliency="ria", calibration=part, display=False)
    arrays = {"0.weight": np.ones(listed[0].shape), "2.weight": "wanda"}
    ranking = ModelSaliency(arrays, norms)
    assert ranking.name == "array+wanda"
    assert np.array_equal(ranking.matrix(listed[0], listed[0].values()), np.ones((9 * 16, 8)))
    plain = ModelSaliency("magnitude", norms)
    assert np.array_equal(plain.matrix(listed[0], listed[0].values()), np.abs(listed[0].to_matrix(listed[0].values())))


def test_weights_behind_masks_and_parametrizations() -> None:
    model = mlp()
    torch_prune.l1_unstructured(model[1][0], "weight", 0.3)
    nn.utils.parametrizations.orthogonal(model[2][0])
    found = calibrate(model, [noise(20, 8)])
    assert found.names == tuple(f"{k}.0.weight" for k in range(5))
    plan = models.analyze(model, noise(20, 8), "2:4")
    plan.solve(model, saliency="wanda", calibration=found, method="identity", display=False)
    assert plan.solved
