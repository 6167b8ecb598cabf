"""What once went wrong in compensation: sums fitted twice, ties, biases, autocast, layers that do more, other data."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

from permsolve.errors import InputError, ModelError  # noqa: E402
from permsolve.models import calibrate, prune_, recalibrate_norms_, weights  # noqa: E402
from permsolve.models.compensation import swaps  # noqa: E402
from permsolve.models.compensation.regression import Regression, refit  # noqa: E402
from permsolve.models.compensation.sequential import stages  # noqa: E402

DENSE = {"calibration": None, "update": "refit", "target": "dense", "display": False}


def noise(*shape, seed=0):
    """Inputs whose channels depend on each other, float64."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=g, dtype=torch.float64)
    return torch.randn(shape, generator=g, dtype=torch.float64) @ mixing


def magnitude(w):
    groups = w.abs().reshape(len(w), -1, 4)
    best = groups.argsort(dim=2, descending=True)[..., :2]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True).reshape(w.shape)


class Branches(nn.Module):
    """Two layers that read one tensor and end in one sum, of which one goes there straight."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = torch.tanh(self.stem(x) / 4)
        if self.kind == "first":
            straight = self.two(x)
            return straight + torch.relu(self.one(x))
        other = self.one(x)
        return (torch.relu(other) if self.kind == "second" else other) + self.two(x)


@pytest.mark.parametrize("kind", ["first", "second", "both"])
def test_siblings_that_end_in_one_sum_do_not_both_make_up_for_the_same_error(kind):
    torch.manual_seed(1)
    model, x = Branches(kind).double(), noise(300, 8)
    dense = copy.deepcopy(model)
    assert [stage.names for stage in stages(model, weights(model), x)] == [
        ("stem.weight",),
        ("one.weight",),
        ("two.weight",),
    ]
    prune_(model, "1:4", **DENSE | {"calibration": [x]}, damping=0)
    loss = (model(x) - dense(x).detach()).square().mean()
    [slope] = torch.autograd.grad(loss, [model.two.weight])
    assert (slope * (model.two.weight != 0)).abs().max() < 1e-10  # the layer fitted last knows all that is added


def test_weights_tied_by_their_memory_alone():
    torch.manual_seed(2)
    one, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).double(), noise(100, 8)
    one[2].weight = one[0].weight
    other = copy.deepcopy(one)
    other[2].weight = nn.Parameter(other[0].weight.data)  # deepcopy would part them
    for model in (one, other):
        prune_(model, "2:4", **DENSE | {"calibration": [x]})
    assert torch.equal(one[0].weight, other[0].weight) and torch.equal(other[0].weight, other[2].weight)


def test_a_bias_that_two_layers_read_stays():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).double()
    model[2].bias = model[0].bias
    dense, x = copy.deepcopy(model), noise(100, 8)
    prune_(model, "2:4", **DENSE | {"calibration": [x]}, damping=0)
    assert torch.equal(model[0].bias, dense[0].bias)
    with torch.no_grad():
        inputs, wanted = torch.tanh(model[0](x)), dense(x) - dense[0].bias
    for row, fitted in zip(wanted.T.numpy(), model[2].weight.detach().numpy(), strict=True):
        kept = fitted != 0
        best = np.linalg.lstsq(inputs[:, kept].numpy(), row, rcond=None)[0]
        np.testing.assert_allclose(fitted[kept], best, atol=1e-9)


def test_an_embedding_that_a_weight_is_tied_to_is_no_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
            self.head.weight = self.table.weight

        def forward(self, words):
            return self.head(torch.tanh(self.table(words)))

    torch.manual_seed(4)
    model = Net().double()
    inputs = torch.tanh(model.table.weight.detach())
    wanted = inputs @ model.head.weight.detach().T
    prune_(model, "2:4", **DENSE | {"calibration": [torch.arange(12)[None]]}, layers="head.weight", damping=0)
    for row, fitted in zip(wanted.T.numpy(), model.head.weight.detach().numpy(), strict=True):
        kept = fitted != 0
        assert kept.sum() == 4
        np.testing.assert_allclose(fitted[kept], np.linalg.lstsq(inputs.numpy()[:, kept], row, rcond=None)[0])


def test_inside_autocast_the_pruned_model_is_the_pruned_model():
    torch.manual_seed(5)
    dense = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    x, models = noise(200, 8).float(), []
    for precise in (True, False):  # autocast keeps copies of weights, and does not see them change in place
        models.append(copy.deepcopy(dense))
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            before = models[-1](x)
            prune_(models[-1], "1:4", **DENSE | {"calibration": [x]})
            assert not torch.equal(models[-1](x), before)
    torch.testing.assert_close(models[1][2].weight, models[0][2].weight, atol=0.05, rtol=0.05)


def test_a_layer_that_does_more_than_multiply_and_add_is_refused():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 1.5 * super().forward(x)

    torch.manual_seed(6)
    model, x = nn.Sequential(Scaled(8, 8), nn.Tanh(), nn.Linear(8, 8)), noise(60, 8).float()
    with pytest.raises(InputError, match=r"0\.weight: its Scaled puts out something else"):
        prune_(model, "2:4", **DENSE | {"calibration": [x]})
    prune_(model, "2:4", **DENSE | {"calibration": [x]}, layers="2")
    prune_(model.bfloat16(), "2:4", **DENSE | {"calibration": [x.bfloat16()]}, layers="2")


def test_batches_without_rows_and_arguments_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect", groups=1)
            self.two, self.norm = nn.ConvTranspose2d(8, 8, 2, 2, groups=2), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(input=self.two(output_size=(12, 12), input=torch.relu(self.one(input=x))))

    torch.manual_seed(7)
    dense, x = Net().double().eval(), torch.randn(20, 4, 6, 6).double()
    for how in ({}, DENSE):
        found = []
        for batches in ([x], [x[:8], x[:0], x[8:]]):
            model = copy.deepcopy(dense)
            prune_(model, "2:4", **{"update": "refit", **how, "calibration": batches})
            found.append(model)
        for one, other in zip(*(model.parameters() for model in found), strict=True):
            torch.testing.assert_close(one, other)
    with pytest.raises(InputError, match=r"one\.weight: given no input by any of the 2 batches"):
        prune_(dense, "2:4", **DENSE | {"calibration": [x[:0], x[:0]]})


class Shrinking:
    """A loader that gives one batch less every time."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches[: len(self.batches) + 1 - self.passes])


def test_other_inputs_than_other_layers_had(tmp_path):
    torch.manual_seed(8)
    dense = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    batches = list(noise(60, 8).float().split(10))
    with pytest.raises(InputError, match="number of batches was 5 and is 4 now"):
        prune_(copy.deepcopy(dense), "2:4", **DENSE | {"calibration": Shrinking(batches)})
    how = {"update": "refit", "save": tmp_path, "display": False}
    prune_(copy.deepcopy(dense), "2:4", calibration=calibrate(dense, batches), **how)
    prune_(copy.deepcopy(dense), "2:4", calibration=calibrate(dense, batches[::-1]), **how)
    louder = [*batches[1:], 2 * batches[0]]
    for others, said in ((batches[:5], "rows that 0.weight is given was 60 and is 50"), (louder, "mean square")):
        with pytest.raises(InputError, match=said):
            prune_(copy.deepcopy(dense), "2:4", calibration=calibrate(dense, others), **how)
    part = calibrate(dense, batches, layers="0")
    with pytest.raises(InputError, match=r"no weight '2\.weight'"):
        prune_(copy.deepcopy(dense), "2:4", calibration=part, update="refit")


def test_siblings_that_part_later_are_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.one(x) * self.two(x if len(x) > 20 else x + 1)

    torch.manual_seed(9)
    with pytest.raises(InputError, match=r"batch 2: one\.weight, two\.weight read the same tensor"):
        prune_(Net(), "2:4", **DENSE | {"calibration": [torch.randn(30, 8), torch.randn(20, 8)]})


def test_rows_that_are_chosen_by_values_are_refused():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.expert = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = torch.tanh(self.first(x))
            return self.expert(x[x[:, 0] > 0])

    torch.manual_seed(14)
    model, x = Experts(), torch.randn(60, 8)
    with pytest.raises(InputError, match=r"expert\.weight is given a tensor of shape \(\d+, 8\).*take target='own'"):
        prune_(model, "1:4", **DENSE | {"calibration": [x]})
    prune_(model, "1:4", calibration=[x], update="refit")


def test_what_is_wrong_with_a_batch_is_said_with_its_number():
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(30, 8)
    for bad, said in ((x * torch.inf, "batch 2: .* 0.weight hold NaN"), (7, "batch 2 is a int"), (x[:, :4], "batch 2")):
        with pytest.raises((InputError, ModelError), match=said):
            prune_(model, "2:4", **DENSE | {"calibration": [x, bad]})
    norm = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    for bad, said in (
        (x, "must be a list"),
        ([x, x[:1]], "batch 2: Expected more than 1"),
        ([x, 5], "batch 2"),
    ):
        with pytest.raises((InputError, ModelError), match=said):
            recalibrate_norms_(norm, bad)
    assert norm[1].num_batches_tracked == 0 and not norm[1].running_mean.any()


def test_names_with_brackets_are_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"part[0]": nn.Linear(8, 8), "part0": nn.Linear(8, 8)})

        def forward(self, x):
            return self.parts["part[0]"](x)

    done = prune_(Net(), "2:4", calibration=[torch.randn(30, 8)], saliency="wanda", layers=lambda path, _: "[" in path)
    assert done.names == ("parts.part[0].weight",)


def test_channels_of_very_different_sizes_are_no_dependence():
    torch.manual_seed(10)
    model = nn.Linear(8, 4).double()
    dense, x = copy.deepcopy(model), noise(200, 8) * torch.tensor([1e8, *[1] * 6, 1e-3])
    prune_(model, "2:4", calibration=[x], update="refit", damping=0)
    units = x.square().mean(0).sqrt()
    moment = (x / units).T @ (x / units) / len(x)
    for row, fitted in zip(dense.weight.detach() * units, model.weight.detach() * units, strict=True):
        kept = fitted != 0
        best = torch.linalg.solve(moment[kept][:, kept], moment[kept] @ row)
        torch.testing.assert_close(fitted[kept], best, rtol=1e-5, atol=1e-5 * float(best.abs().max()))


def test_a_channel_that_never_changes_is_left_to_the_bias():
    torch.manual_seed(15)
    model, x = nn.Linear(8, 4).double(), noise(200, 8)
    x[:, 2] = 1000 / 3  # its variance is what rounding leaves, of either sign
    model.weight.data[:, 2] *= 10
    dense = copy.deepcopy(model)
    with pytest.raises(InputError, match="no full rank"):
        prune_(model, "2:4", **DENSE | {"calibration": [x]}, damping=0)
    prune_(model, "2:4", **DENSE | {"calibration": list(x.split(30))}, damping=1e-9)
    assert (model.weight[:, 2] != 0).any()
    kept = model.weight[:, 2] != 0
    torch.testing.assert_close(model.weight[kept, 2], dense.weight[kept, 2])
    assert (model(x) - dense(x)).mean(0).abs().max() < 1e-9  # the bias makes up for what is gone


@pytest.mark.parametrize("update", ["refit", "sparsegpt"])
def test_sums_in_float32_do_not_hide_what_depends_on_each_other(update):
    for seed in range(6):  # rounding makes the least pivot positive as often as negative
        torch.manual_seed(seed)
        x = torch.randn(200, 8)
        x[:, 7] = x[:, 0] + x[:, 3]
        model = nn.Linear(8, 1)
        model.weight.data[:, [0, 3, 7]] *= 100
        with pytest.raises(InputError, match=r"no full rank.*damping above 0"):
            prune_(model, "2:4", calibration=[x], update=update, damping=0)
        with pytest.raises(InputError, match=r"weight: 15 rows of calibration inputs have no full rank"):
            prune_(nn.Linear(32, 1), "2:4", calibration=[torch.randn(15, 32)], update=update, damping=0)
    prune_(nn.Linear(32, 4), "2:4", calibration=[torch.randn(200, 32)], update=update, damping=0)


def test_exchanges_do_not_bring_in_what_depends_on_the_others():
    made = 0
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(200, 16, generator=g, dtype=torch.float64)
        x[:, 5], x[:, 9], x[:, 7] = x[:, 0], x[:, 2] - x[:, 12], 0
        w = torch.randn(5, 16, generator=g, dtype=torch.float64)
        w[:, [5, 7, 9]] *= 0.01
        y = x @ w.T + torch.randn(200, 5, generator=g, dtype=torch.float64)
        problem = Regression(x.T @ x / 200, y.T @ x / 200, y.square().mean(0))
        mask = magnitude(w)
        try:
            before = problem.loss(refit(problem, mask))
        except InputError:  # singular from the beginning
            continue
        better, falls = swaps.improve(problem, mask, torch.arange(16).reshape(4, 4), 50)
        torch.testing.assert_close(before - problem.loss(refit(problem, better)), falls, atol=1e-9, rtol=1e-9)
        made += 1
    assert made >= 6


def test_both_models_draw_the_same():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(8, 8)

        def forward(self, x):
            return self.one(nn.functional.dropout(x, 0.5, training=True))  # in evaluation mode, too

    torch.manual_seed(13)
    model, x = Noisy().double(), noise(200, 8)
    dense, state = copy.deepcopy(model), torch.get_rng_state()
    prune_(model, "2:4", **DENSE | {"calibration": [x]}, damping=0)
    torch.set_rng_state(state)
    dropped = nn.functional.dropout(x, 0.5)  # what was drawn to find the order
    inputs = nn.functional.dropout(x, 0.5)
    assert not torch.equal(dropped, inputs)
    for row, fitted in zip((inputs @ dense.one.weight.detach().T).T, model.one.weight.detach().numpy(), strict=True):
        kept, inner = fitted != 0, (inputs - inputs.mean(0)).numpy()
        best = np.linalg.lstsq(inner[:, kept], (row - row.mean()).numpy(), rcond=None)[0]
        np.testing.assert_allclose(fitted[kept], best, atol=1e-9)


def test_masks_that_are_no_zeros_and_ones():
    torch.manual_seed(12)
    model, x = nn.Linear(8, 8).double(), noise(60, 8)
    torch_prune.custom_from_mask(model, "weight", torch.rand(8, 8) + 0.1)
    dense = model.weight.detach().clone()
    done = prune_(model, "2:4", calibration=[x], update="refit", damping=0)
    model(x)  # torch multiplies anew
    error = (x @ (model.weight.detach() - dense).T).square().mean() / (x @ dense.T).square().mean()
    assert done["weight"].error == pytest.approx(float(error))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"save": 5}, "save = 5 must be a path"),
        ({"save": "folder", "update": "none"}, "leave it out"),
        ({"calibration": [None], "target": "dense"}, "batch 1 is a NoneType"),
        ({"damping": "much"}, "damping = 'much'"),
    ],
)
def test_arguments_that_are_refused(how, said):
    with pytest.raises(InputError, match=said):
        prune_(nn.Linear(8, 8), "2:4", **{"calibration": [torch.randn(30, 8)], "update": "refit", **how})
    prune_(
        nn.Linear(8, 8), "2:4", calibration=[torch.randn(30, 8)], update="refit", swap=2**70, damping=np.float32(0.1)
    )


def test_dead_layers_do_not_stop_the_others():
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[0].weight.data.zero_()
    model[0].bias.data.fill_(-1)  # everything behind the ReLU is zero
    dense = model[2].weight.detach().clone()
    prune_(model, "2:4", calibration=[torch.randn(30, 8)], saliency="obs")
    assert torch.equal(model[2].weight != 0, magnitude(dense))
