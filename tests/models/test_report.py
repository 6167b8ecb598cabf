"""What the report says, against sums written out."""

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from helpers import slow_score  # noqa: E402
from torch import nn  # noqa: E402

from permsolve.errors import InputError  # noqa: E402
from permsolve.models.pruning import prune_  # noqa: E402
from permsolve.models.retention import report  # noqa: E402


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Conv1d(8, 3, 2), nn.Linear(6, 2))


def matrix(layer):
    weight = np.abs(layer.weight.detach().double().numpy())
    return weight if weight.ndim == 2 else np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1])


def bound(scores, n, m):
    return np.sort(scores, axis=1)[:, scores.shape[1] - scores.shape[1] // m * n :].sum()


def permuted(model):
    """The model with the channels between its first two layers in another order."""
    other = copy.deepcopy(model)
    perm = torch.arange(16).reshape(4, 4).T.reshape(-1)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[perm])
        other[0].bias.copy_(model[0].bias[perm])
        other[2].weight.copy_(model[2].weight[:, perm])
    return other


@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "4:8"])
def test_a_dense_model(nm):
    n, m = map(int, nm.split(":"))
    model = net()
    made = report(model, nm)
    layers = [model[0], model[2], model[4]] + ([model[5]] if m == 2 else [])
    kept = whole = ceiling = 0.0
    for row, layer in zip(made.rows, layers, strict=True):
        scores = matrix(layer)
        score = slow_score(scores, range(scores.shape[1]), n, m)
        assert row.retained == pytest.approx(score / scores.sum(), rel=1e-6)
        assert row.ceiling == pytest.approx(bound(scores, n, m) / scores.sum(), rel=1e-6)
        assert row.shape == tuple(layer.weight.shape) and row.parameters == layer.weight.numel()
        assert row.density == 1.0 and not row.pruned and row.retained_before is None
        assert n / m < row.retained <= row.ceiling < 1
        kept, whole, ceiling = kept + score, whole + scores.sum(), ceiling + bound(scores, n, m)
    assert made.total.retained == pytest.approx(kept / whole, rel=1e-6)
    assert made.total.ceiling == pytest.approx(ceiling / whole, rel=1e-6)
    assert made.total.parameters == sum(layer.weight.numel() for layer in layers)


def test_a_permuted_model_beside_the_one_it_was():
    model = net()
    other = permuted(model)
    made, alone = report(other, before=model), report(model)
    first, second, conv = made.rows
    assert first.retained == pytest.approx(first.retained_before) and conv.retained == conv.retained_before
    assert second.retained_before == alone.rows[1].retained != second.retained
    assert second.retained == report(other).rows[1].retained
    assert second.ceiling == pytest.approx(alone.rows[1].ceiling)
    assert made.total.retained_before == pytest.approx(alone.total.retained)


def test_a_pruned_model_is_measured_by_what_it_was():
    model = net()
    dense = report(model)
    for parametrized in (False, True):
        other = copy.deepcopy(model)
        prune_(other, parametrize=parametrized)
        made = report(other, before=model)
        assert [row.name for row in made.rows] == [row.name for row in dense.rows]
        for row, old in zip((*made.rows, made.total), (*dense.rows, dense.total), strict=True):
            assert row.pruned and row.density == 0.5
            assert row.retained == pytest.approx(old.retained) and row.retained_before == pytest.approx(old.retained)
            assert row.ceiling == pytest.approx(old.ceiling)
        alone = report(other)
        assert alone.total.retained is None and all(row.pruned and row.retained is None for row in alone.rows)
        assert "-: pruned already" in str(alone) and "-: pruned" not in str(made)
        assert report(other, "1:4").rows[0].retained is not None


def test_a_permuted_and_pruned_model():
    model = net()
    other = permuted(model)
    expected = report(other).rows[1].retained
    prune_(other)
    assert report(other, before=model).rows[1].retained == pytest.approx(expected)
    prune_(other, "1:4")
    assert report(other, before=model).total.density == 0.25


def test_a_saliency_of_arrays():
    model = nn.Linear(8, 4)
    ranks = np.random.default_rng(0).random((4, 8))
    [dense] = report(model, saliency={"weight": ranks}).rows
    assert dense.retained == pytest.approx(slow_score(ranks, range(8), 2, 4) / ranks.sum())
    before = copy.deepcopy(model)
    prune_(model, saliency={"weight": ranks})
    with pytest.raises(InputError, match="give before_saliency too"):
        report(model, before=before, saliency={"weight": ranks})
    [row] = report(model, before=before, saliency={"weight": ranks}, before_saliency={"weight": ranks}).rows
    assert row.retained == pytest.approx(dense.retained)
    energy = report(before, saliency="energy")
    assert energy.saliency == "energy" and energy.rows[0].retained > report(before).rows[0].retained


def test_nothing_to_lose():
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight.zero_()
    [row] = report(layer).rows
    assert row.pruned and row.retained == row.ceiling == 1.0 and row.density == 0.0


def test_as_text_and_as_data():
    model = net()
    made = report(permuted(model), before=model)
    lines = str(made).splitlines()
    heading = "2:4, magnitude  shape  parameters  density %  before %  retained %  at most %"
    assert " ".join(lines[0].split()) == " ".join(heading.split())
    assert lines[1].split()[:5] == ["0.weight", "16", "x", "8", "128"]
    assert lines[4].startswith("total of 3") and f"{100 * made.total.retained:.3f}" in lines[4]
    assert lines[-1] == "  5.weight: 6 input channels do not divide into groups of m = 4"
    assert "before" not in str(report(model)).splitlines()[0]
    data = json.loads(json.dumps(made.to_dict()))
    assert data["nm"] == "2:4" and data["saliency"] == "magnitude" and data["left_out"] == made.left_out
    assert [row["name"] for row in data["rows"]] == ["0.weight", "2.weight", "4.weight"]
    assert data["rows"][0]["shape"] == [16, 8] and data["total"]["retained"] == made.total.retained


def test_layers_and_what_does_not_fit():
    model = net()
    assert [row.name for row in report(model, layers="2*").rows] == ["2.weight"]
    state = copy.deepcopy(model.state_dict())
    for settings, message in (
        ({"before": nn.Linear(2, 2)}, "before has no weight 0.weight; close to it: weight"),
        ({"before": nn.Sequential(nn.Linear(16, 16))}, r"0.weight has shape \(16, 8\), in before \(16, 16\)"),
        ({"layers": "5"}, "no weight of the model can be 2:4; "),
        ({"layers": "3"}, "matches no weight"),
        ({"nm": "x"}, "is no pattern"),
        ({"saliency": "wanda"}, "needs activations"),
        ({"saliency": {"7": 1}}, "is no weight of the model"),
    ):
        with pytest.raises(InputError, match=message):
            report(model, **settings)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
