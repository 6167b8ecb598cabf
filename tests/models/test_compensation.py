"""Compensation: weights against explicit least squares, exchanges, SparseGPT, killed runs, and what is refused."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

from permsolve import HiNM, models  # noqa: E402
from permsolve.errors import DocumentError, InputError, ModelError  # noqa: E402
from permsolve.models import calibrate  # noqa: E402
from permsolve.models.compensation import regression, swaps  # noqa: E402
from permsolve.models.compensation.norms import recalibrate_norms_  # noqa: E402
from permsolve.models.compensation.regression import Regression, refit  # noqa: E402
from permsolve.models.compensation.sequential import stages  # noqa: E402
from permsolve.models.compensation.sparsegpt import sparsegpt  # noqa: E402
from permsolve.models.prunable import weights  # noqa: E402
from permsolve.models.pruning import holds, prune_  # noqa: E402
from permsolve.patterns import parse  # noqa: E402

LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (30, 2, 8)),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3, stride=2, padding=2), (40, 8, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (30, 4, 7, 6)),
    "conv2d reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (20, 4, 7, 6)),
    "conv2d grouped": (lambda: nn.Conv2d(8, 6, 3, padding=1, stride=2, groups=2), (30, 8, 7, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, 2, padding=1, output_padding=1, groups=2), (30, 8, 4, 3)),
}


def noise(*shape, seed=0):
    """Inputs whose channels depend on each other."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=g, dtype=torch.float64)
    return torch.einsum("ac...,cb->ab...", torch.randn(shape, generator=g, dtype=torch.float64), mixing)


def problem(features=16, rows=5, count=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=g, dtype=torch.float64)
    x = x @ torch.randn(features, features, generator=g, dtype=torch.float64)
    w = torch.randn(rows, features, generator=g, dtype=torch.float64)
    y = x @ w.T + torch.randn(count, rows, generator=g, dtype=torch.float64)
    return x, y, w, Regression(x.T @ x / count, y.T @ x / count, y.square().mean(0))


def magnitude(w, n, m):
    groups = w.abs().reshape(len(w), -1, m)
    best = groups.argsort(dim=2, descending=True)[..., :n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True).reshape(w.shape)


class Residual(nn.Module):
    """Two branches that are added to a stream, and one sum that depends on what it adds to."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        x = self.stem(x)
        x = x + torch.tanh(x)  # depends on the stem's output: no branch
        x = x + self.down(torch.relu(self.up(x)))
        return x + self.out(torch.tanh(x))


class Blocks(nn.Module):
    """A convolution, a batch norm and a sum, as in residual networks."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.norm.weight.data.uniform_(-2, 2)
        self.norm.bias.data.uniform_(-1, 1)

    def forward(self, x):
        x = torch.relu_(self.first(x))
        return self.norm(self.second(x)) + x[:, :4]


def gradients(model, dense, x, parameters):
    """Of the mean squared distance between the outputs of two models."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        wanted = dense(x)
    loss = (model(x) - wanted).square().mean()
    return torch.autograd.grad(loss, parameters), float(loss.detach())


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_a_linear_layer_is_fitted_as_by_lstsq(damping):
    torch.manual_seed(0)
    model, x = nn.Linear(12, 5).double(), noise(100, 12)
    dense = model.weight.detach().clone()
    done = prune_(model, "2:4", calibration=calibrate(model, [x]), update="refit", damping=damping)
    mask = magnitude(dense, 2, 4)
    ridge = np.sqrt(damping * float(x.square().mean()) * len(x)) * np.eye(12)
    inputs = np.concatenate([x.numpy(), ridge])  # rows that draw every weight to its dense value
    for row, kept, fitted in zip(dense.numpy(), mask.numpy(), model.weight.detach().numpy(), strict=True):
        best = np.linalg.lstsq(inputs[:, kept], inputs @ row, rcond=None)[0]
        np.testing.assert_allclose(fitted[kept], best, atol=1e-6 if damping == 0 else 1e-9)
        assert not fitted[~kept].any()
    change = (x @ (model.weight.detach() - dense).T).square().mean() / (x @ dense.T).square().mean()
    assert done["weight"].error == pytest.approx(float(change), rel=1e-6)


@pytest.mark.parametrize("target", ["own", "dense"])
@pytest.mark.parametrize("kind", LAYERS)
def test_no_kept_weight_can_do_better(kind, target):
    torch.manual_seed(1)
    make, shape = LAYERS[kind]
    model = make().double().eval()
    x = noise(*shape) if kind != "linear" else noise(60, 8).reshape(shape)
    dense, plain = copy.deepcopy(model), copy.deepcopy(model)
    prune_(plain, "2:4")
    batches = list(x.split(7))
    prune_(model, "2:4", calibration=batches, update="refit", target=target, damping=0)
    mask = model.weight.detach() != 0
    assert torch.equal(mask, plain.weight.detach() != 0)
    found, loss = gradients(model, dense, x, [model.weight, model.bias])
    assert (found[0] * mask).abs().max() < 1e-8
    if target == "dense":  # the bias is fitted, too
        assert found[1].abs().max() < 1e-8
    else:
        assert torch.equal(model.bias, dense.bias)
    assert loss < 0.95 * gradients(plain, dense, x, [plain.weight])[1]


def test_the_conv1d_of_gpt2():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    model = transformers.pytorch_utils.Conv1D(6, 8).double().eval()
    dense, x = copy.deepcopy(model), noise(50, 8).reshape(25, 2, 8)
    prune_(model, "2:4", calibration=[x], update="refit", target="dense", damping=0, swap=3)
    found, _ = gradients(model, dense, x, [model.weight, model.bias])
    assert (found[0] * (model.weight != 0)).abs().max() < 1e-10 and found[1].abs().max() < 1e-10
    assert holds(model.weight.detach().T.numpy(), parse("2:4"))


def test_a_chain_is_fitted_to_the_dense_outputs_layer_by_layer():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    dense, x = copy.deepcopy(model), noise(300, 8)
    errors = {}
    for target in ("own", "dense"):
        fitted = copy.deepcopy(model)
        prune_(fitted, "2:4", calibration=list(x.split(50)), update="refit", target=target, damping=1e-9)
        found, errors[target] = gradients(fitted, dense, x, [fitted[4].weight, fitted[4].bias])
        best = (found[0] * (fitted[4].weight != 0)).abs().max() < 1e-6
        assert best == (target == "dense")  # the last layer knows what the others have done
    assert errors["dense"] < 0.8 * errors["own"]


def test_layers_in_front_of_a_sum_make_up_for_the_stream():
    torch.manual_seed(3)
    model = Residual().double().eval()
    dense, x = copy.deepcopy(model), noise(200, 8)
    found = stages(model, weights(model), x)
    assert [(stage.names, stage.calls) for stage in found] == [
        (("stem.weight",), [False]),
        (("up.weight",), [False]),
        (("down.weight",), [True]),
        (("out.weight",), [True]),
    ]
    prune_(model, "2:4", calibration=[x[:90], x[90:]], update="refit", target="dense", damping=0)
    found, _ = gradients(model, dense, x, [model.out.weight])
    assert (found[0] * (model.out.weight != 0)).abs().max() < 1e-9


def test_a_batch_norm_between_layer_and_sum():
    torch.manual_seed(4)
    model = Blocks().double().eval()
    dense, x = copy.deepcopy(model), noise(20, 4, 6, 6)
    assert [stage.calls for stage in stages(model, weights(model), x)] == [[False], [True]]
    prune_(model, "2:4", calibration=list(x.split(8)), update="refit", target="dense", damping=0)
    found, _ = gradients(model, dense, x, [model.second.weight])
    assert (found[0] * (model.second.weight != 0)).abs().max() < 1e-9


def test_siblings_share_a_pass_and_their_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.out = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8)

        def forward(self, x):
            mixed = self.query(x) * self.key(x).repeat(1, 2)
            return self.out(torch.relu_(x)) + mixed  # the same tensor, written to

    torch.manual_seed(5)
    model = Net().double()
    found = stages(model, weights(model), noise(10, 8))
    assert [stage.names for stage in found] == [("query.weight", "key.weight"), ("out.weight",)]


def test_a_tied_weight_is_fitted_to_all_its_calls():
    torch.manual_seed(6)
    layer = nn.Linear(8, 8, bias=False)
    model = nn.Sequential(layer, nn.Tanh(), layer).double()
    dense, x = copy.deepcopy(model), noise(80, 8)
    prune_(model, "2:4", calibration=[x], update="refit", target="dense", damping=0)
    assert model[0].weight is model[2].weight
    with torch.no_grad():  # when it is fitted, the pruned model still is the dense one
        first, second = x, torch.tanh(x @ dense[0].weight.T)
    inputs, w = torch.cat([first, second]).numpy(), dense[0].weight.detach().numpy()
    for row, fitted in zip(w, model[0].weight.detach().numpy(), strict=True):
        kept = fitted != 0
        np.testing.assert_allclose(
            fitted[kept], np.linalg.lstsq(inputs[:, kept], inputs @ row, rcond=None)[0], atol=1e-9
        )


@pytest.mark.parametrize("nm", ["2:4", "1:4", "4:8", "1:2"])
def test_exchanges_end_where_none_is_left(nm):
    n, m = parse(nm).n, parse(nm).m
    _, _, w, regression = problem()
    mask, members = magnitude(w, n, m), torch.arange(16).reshape(-1, m)
    better, falls = swaps.improve(regression, mask, members, 100)
    assert (better.reshape(5, -1, m).sum(2) == n).all()
    before, after = (regression.loss(refit(regression, each)) for each in (mask, better))
    torch.testing.assert_close(before - after, falls, atol=1e-10, rtol=1e-10)
    assert (falls >= 0).all() and falls.max() > 0.01 * before.max()
    for row, group in itertools.product(range(5), members):
        kept, pruned = group[better[row, group]], group[~better[row, group]]
        for leaves, enters in itertools.product(kept, pruned):
            other = better[row : row + 1].clone()
            other[0, leaves], other[0, enters] = False, True
            one = regression.rows(torch.tensor([row]))
            assert one.loss(refit(one, other))[0] >= after[row] - 1e-9 * regression.energy[row]


def test_exchanges_do_not_depend_on_when_tableaus_are_made_anew(monkeypatch):
    _, _, w, regression = problem(32, 6, seed=1)
    members = torch.arange(32).reshape(8, 4, 1).expand(8, 4, 1)[..., 0]
    expected = swaps.improve(regression, magnitude(w, 2, 4), members, 20)
    monkeypatch.setattr(swaps, "_HISTORY", 1)
    monkeypatch.setattr(swaps, "_BATCH", 1)
    found = swaps.improve(regression, magnitude(w, 2, 4), members, 20)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    once = swaps.improve(regression, magnitude(w, 2, 4), members, 1)[1]
    assert (once <= expected[1] + 1e-12).all() and once.sum() < expected[1].sum()


def test_exchanges_leave_frozen_entries_and_empty_rows_alone():
    _, _, w, regression = problem()
    mask, members = magnitude(w, 2, 4), torch.arange(16).reshape(-1, 4)
    mask[0], mask[1, :4] = False, False
    frozen = ~mask & (torch.arange(16) % 2 == 0)
    better, falls = swaps.improve(regression, mask, members, 50, frozen)
    assert not (better & frozen).any() and falls[0] == 0 and not better[0].any()
    assert torch.equal(better.reshape(5, 4, 4).sum(2), mask.reshape(5, 4, 4).sum(2))
    assert falls.sum() > 0


def test_conjugate_gradients_find_what_factors_find(monkeypatch):
    _, _, w, regression_ = problem(24, 7, 300)
    mask = magnitude(w, 2, 4)
    mask[0, :3] = False  # rows of other lengths
    expected = refit(regression_, mask)
    monkeypatch.setattr(regression, "_USUAL_STEPS", 0)
    found = refit(regression_, mask, w)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    monkeypatch.setattr(regression, "_MOST_STEPS", 2)
    with pytest.raises(InputError, match="conjugate gradients"):
        refit(regression_, mask, w)


def test_rows_with_one_mask_and_rows_in_parts(monkeypatch):
    x, y, w, whole = problem(12, 9)
    mask = magnitude(w, 2, 4)
    mask[3:] = mask[3]
    monkeypatch.setattr(regression, "_BATCH", 1)
    found = refit(whole, mask)
    for row in range(9):
        kept = mask[row].numpy()
        best = np.linalg.lstsq(x.numpy()[:, kept], y.numpy()[:, row], rcond=None)[0]
        np.testing.assert_allclose(found[row].numpy()[kept], best, atol=1e-9)


@pytest.mark.parametrize("own", [True, False])
def test_sparsegpt_hands_errors_on_in_the_order_of_columns(own):
    _, _, w, whole = problem(12, 4)
    moment, given = whole.moment.numpy(), None if own else magnitude(w, 2, 4)
    expected, kept = w.numpy().copy(), np.zeros((4, 12), dtype=bool)
    inverses = [np.linalg.inv(moment[i:, i:]) for i in range(12)]
    for i in range(12):
        if own and i % 4 == 0:  # chosen when the group is reached, by the weights as they are then
            scores = expected[:, i : i + 4] ** 2 / [inverses[k][0, 0] for k in range(i, i + 4)]
            for row in range(4):
                kept[row, i + np.argsort(-scores[row])[:2]] = True
        keep = kept[:, i] if own else given[:, i].numpy()
        error = np.where(keep, 0, expected[:, i]) / inverses[i][0, 0]
        expected[:, i:] -= np.outer(error, inverses[i][0])
    mask, found = sparsegpt(whole.moment, w, 2, 4, given)
    assert np.array_equal(mask.numpy(), kept if own else given.numpy())
    np.testing.assert_allclose(found.numpy(), np.where(mask.numpy(), expected, 0), atol=1e-9)


def test_updates_of_a_convolution_rank_as_they_should():
    torch.manual_seed(7)
    model, x = nn.Conv2d(8, 12, 3, padding=1), noise(40, 8, 6, 6).float()
    errors = {}
    settings = {
        "none": {},
        "columns": {"update": "sparsegpt", "saliency": "magnitude"},
        "sparsegpt": {"update": "sparsegpt"},
        "refit": {"update": "refit"},
        "swap": {"update": "refit", "swap": 20},
    }
    for name, how in settings.items():
        pruned = copy.deepcopy(model)
        done = prune_(pruned, "2:4", calibration=calibrate(model, [x]), **how)
        errors[name] = float((pruned(x) - model(x)).detach().square().mean())
        assert holds(weights(pruned)[0].to_matrix(pruned.weight.detach().numpy()), parse("2:4"))
        assert done.saliency == ("sparsegpt" if name == "sparsegpt" else "magnitude")
    assert errors["swap"] < 0.8 * errors["refit"]
    assert errors["refit"] < errors["columns"] < errors["none"] and errors["sparsegpt"] < errors["columns"]


def test_a_permutation_before_compensation():
    torch.manual_seed(8)
    scales = torch.linspace(-2, 2, 16).exp()
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)).double().eval()
    model[0].weight.data *= scales[torch.randperm(16)]
    model[2].weight.data *= torch.linspace(-2, 2, 32).exp()
    x = noise(200, 16)
    errors = {}
    for permuted in (False, True):
        pruned = copy.deepcopy(model)
        if permuted:
            plan = models.analyze(pruned, x[:2], "2:4")
            plan.solve(pruned, method="annealing", time_limit=0.3, display=False)
            plan.apply_(pruned)
        prune_(pruned, "2:4", calibration=[x], update="refit", target="dense", swap=5, display=False)
        errors[permuted] = float((pruned(x) - model(x)).detach().square().mean())
    assert errors[True] < 0.9 * errors[False]


def test_fewer_rows_than_features_need_a_damping():
    torch.manual_seed(9)
    model, x = nn.Linear(32, 6), noise(10, 32).float()
    before = model.weight.detach().clone()
    for how in ({"update": "refit"}, {"update": "sparsegpt"}, {"update": "refit", "target": "dense", "swap": 2}):
        with pytest.raises(InputError, match=r"weight: .*no full rank.*damping above 0"):
            prune_(model, "2:4", calibration=[x], damping=0, **how)
        assert torch.equal(model.weight, before)
        done = prune_(copy.deepcopy(model), "2:4", calibration=[x], **how)
        plain = x @ (before * ~magnitude(before, 2, 4)).T
        assert 0 <= done["weight"].error < 0.5 * float(plain.square().mean() / (x @ before.T).square().mean())
    # Inputs that are all zero say nothing: the kept weights stay as they are.
    prune_(model, "2:4", calibration=[torch.zeros(4, 32)], update="refit")
    torch.testing.assert_close(model.weight, before * magnitude(before, 2, 4))


def test_a_killed_run_goes_on_after_its_finished_layers(tmp_path):
    torch.manual_seed(10)
    dense = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    x = noise(60, 8).float()
    how = {"update": "refit", "target": "dense", "swap": 2, "display": False}
    expected, killed = copy.deepcopy(dense), copy.deepcopy(dense)
    done = prune_(expected, "2:4", calibration=[x], **how)

    class Batches:
        def __init__(self, passes):
            self.passes = passes

        def __iter__(self):
            self.passes -= 1
            if self.passes < 0:
                raise KeyboardInterrupt
            return iter([x])

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):  # the first pass finds the order
        prune_(killed, "2:4", calibration=Batches(3), save=folder, **how)
    assert len(list(folder.iterdir())) == 2
    assert all(torch.equal(a, b) for a, b in zip(killed.parameters(), dense.parameters(), strict=True))
    with pytest.raises(InputError, match="of another run"):
        prune_(killed, "2:4", calibration=[x], save=folder, **how | {"swap": 3})
    resumed = prune_(killed, "2:4", calibration=Batches(2), save=folder, **how)
    assert resumed == done
    for one, other in zip(killed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    first = min(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-10])
    with pytest.raises((DocumentError, InputError), match="delete it"):
        prune_(copy.deepcopy(dense), "2:4", calibration=[x], save=folder, **how)


def test_a_killed_run_without_a_pass_of_its_own(tmp_path, monkeypatch):
    torch.manual_seed(11)
    dense = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    found = calibrate(dense, [noise(60, 8).float()])
    expected = copy.deepcopy(dense)
    prune_(expected, "2:4", calibration=found, update="sparsegpt")
    from permsolve.models.compensation import driver

    calls = []
    fit = driver.fit
    monkeypatch.setattr(driver, "fit", lambda weight, *rest: calls.append(weight.path) or fit(weight, *rest))
    again = copy.deepcopy(dense)
    for _ in range(2):
        prune_(copy.deepcopy(again), "2:4", calibration=found, update="sparsegpt", save=tmp_path)
    assert calls == ["0.weight", "2.weight"]
    prune_(again, "2:4", calibration=found, update="sparsegpt", save=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("target", ["own", "dense"])
def test_masks_of_torch_stay(target):
    torch.manual_seed(12)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    torch_prune.random_unstructured(model[2], "weight", amount=0.4)
    before, x = model[2].weight.detach().clone(), noise(60, 8).float()
    done = prune_(model, "2:4", calibration=[x], update="refit", target=target, swap=3)
    after = model[2].weight.detach()
    assert done["2.weight"].masked and not after[before == 0].any() and holds(after.numpy(), parse("2:4"))
    model(x)
    assert torch.equal(model[2].weight, after) and not torch.equal(after, before * (after != 0))


def test_a_mask_that_is_held():
    torch.manual_seed(13)
    model, x = nn.Linear(8, 8), noise(60, 8).float()
    plain, dense = copy.deepcopy(model), copy.deepcopy(model)
    prune_(plain, "2:4", calibration=[x], update="refit")
    prune_(model, "2:4", calibration=[x], update="refit", parametrize=True)
    assert torch.equal(model.weight, plain.weight)
    original = model.parametrizations.weight.original
    assert torch.equal(torch.where(model.weight == 0, original, 0), torch.where(model.weight == 0, dense.weight, 0))


def test_rows_of_tiles_are_fitted():
    torch.manual_seed(14)
    model, x = nn.Linear(16, 16).double(), noise(100, 16)
    dense, pattern = copy.deepcopy(model), HiNM(8, 0.5, "2:4")
    prune_(model, pattern, calibration=[x], update="refit", damping=0)
    found, _ = gradients(model, dense, x, [model.weight])
    assert (found[0] * (model.weight != 0)).abs().max() < 1e-10 and int((model.weight != 0).sum()) == 64
    for how in ({"update": "refit", "swap": 1}, {"update": "sparsegpt"}):
        with pytest.raises(InputError, match="hinm"):
            prune_(dense, pattern, calibration=[x], **how)


def test_low_precision_is_kept():
    torch.manual_seed(15)
    model, x = nn.Linear(8, 8).to(torch.bfloat16), noise(60, 8).to(torch.bfloat16)
    prune_(model, "2:4", calibration=[x], update="refit", target="dense")
    assert model.weight.dtype == torch.bfloat16 and holds(model.weight.detach().float().numpy(), parse("2:4"))


def test_batches_serve_a_saliency_too():
    torch.manual_seed(16)
    model, x = nn.Linear(8, 8), noise(60, 8).float() * torch.linspace(-3, 3, 8).exp()
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    prune_(one, "2:4", calibration=[x], saliency="wanda", update="refit", target="dense")
    prune_(other, "2:4", calibration=calibrate(model, [x]), saliency="wanda")
    assert torch.equal(one.weight != 0, other.weight != 0)
    assert not torch.equal(one.weight != 0, magnitude(model.weight.detach(), 2, 4))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"update": "all"}, "update = 'all' must be one of"),
        ({"update": "refit", "target": "both"}, "target = 'both' must be one of"),
        ({"update": "refit", "swap": -1}, "swap = -1 must be"),
        ({"update": "refit", "swap": True}, "swap = True must be"),
        ({"update": "refit", "damping": float("nan")}, "damping = nan must be"),
        ({"update": "none", "swap": 2}, "swap looks at the loss"),
        ({"update": "sparsegpt", "target": "dense"}, "needs update='refit'"),
        ({"update": "refit", "calibration": None}, "needs calibration="),
        ({"update": "refit", "calibration": torch.zeros(4, 8)}, "calibration is a Tensor"),
        ({"update": "refit", "target": "dense", "calibration": iter([torch.zeros(4, 8)])}, "once for every layer"),
        ({"update": "refit", "target": "dense", "calibration": []}, "no batch"),
        ({"update": "refit", "calibration": []}, "none at all"),
        ({"update": "refit", "target": "dense", "calibration": [torch.full((4, 8), torch.nan)]}, "NaN or infinite"),
        ({"update": "refit", "calibration": [torch.full((4, 8), torch.nan)]}, "NaN or infinite"),
        ({"update": "refit", "target": "dense", "calibration": [(torch.zeros(4, 8), 1)]}, "fails on batch 1: .*labels"),
    ],
)
def test_what_is_refused(how, said):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    before = copy.deepcopy(model)
    with pytest.raises((InputError, ModelError), match=said):
        prune_(model, "2:4", **{"calibration": [torch.randn(40, 8)], **how})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_weights_that_cannot_be_fitted_are_named():
    x = torch.randn(40, 8)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)))
    with pytest.raises(InputError, match=r"0\.weight: .*parametrization"):
        prune_(model, "2:4", calibration=[x], update="refit")
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with pytest.raises(InputError, match="MultiheadAttention"):
        prune_(attention, "2:4", calibration=[x[None]], update="refit", target="dense")
    prune_(attention, "2:4", calibration=[x[None]], update="refit", target="dense", layers="linear*")
    prune_(attention, "2:4", calibration=[x[None]], update="refit", layers="self_attn*")

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(InputError, match=r"idle\.weight: no call"):
        prune_(Half(), "2:4", calibration=[x], update="refit", target="dense")
    other = calibrate(nn.Sequential(nn.Linear(12, 8)), [torch.randn(40, 12)])
    with pytest.raises(InputError, match="of another model"):
        prune_(nn.Sequential(nn.Linear(8, 8)), "2:4", calibration=other, update="refit")
    with pytest.raises(InputError, match="pass the batches"):
        prune_(nn.Sequential(nn.Linear(12, 8)), "2:4", calibration=other, update="refit", target="dense")


def test_statistics_of_batch_norms_are_taken_anew():
    torch.manual_seed(17)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    model.train()
    x = noise(30, 4, 8, 8).float()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"1 a running_mean with NaN|1 a running_var with NaN"):
        recalibrate_norms_(model, [x, x * torch.nan])
    with pytest.raises(InputError, match="no batch"):
        recalibrate_norms_(model, [])
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert recalibrate_norms_(model, [x[:15], x[15:]]) == ("1", "4")
    assert model.training and model[1].training and model[1].momentum == 0.1
    with torch.no_grad():
        made = model[0](x)
    torch.testing.assert_close(model[1].running_mean, made.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    parts = torch.stack([each.var((0, 2, 3)) for each in made.split(15)]).mean(0)
    torch.testing.assert_close(model[1].running_var, parts, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="nothing to recalibrate"):
        recalibrate_norms_(nn.Linear(4, 4), [x])
