"""Exactness of n:m masks for every kind of layer, what is left out and why, and what pruning leaves behind."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

from permsolve import scoring  # noqa: E402
from permsolve.errors import InputError, MissingDependencyError  # noqa: E402
from permsolve.models import pruning  # noqa: E402
from permsolve.models.prunable import weights  # noqa: E402
from permsolve.models.pruning import NMMask, prune_, to_semi_structured_  # noqa: E402
from permsolve.saliency import Wanda  # noqa: E402

PATTERNS = ("1:2", "2:4", "4:8", "1:4", "3:4")
LAYERS = {
    "linear": (lambda: nn.Linear(16, 5), "weight", 1),
    "conv1d": (lambda: nn.Conv1d(8, 3, 3), "weight", 1),
    "conv2d": (lambda: nn.Conv2d(16, 3, (2, 3)), "weight", 1),
    "conv3d": (lambda: nn.Conv3d(8, 2, (1, 2, 2)), "weight", 1),
    "grouped": (lambda: nn.Conv2d(16, 6, 2, groups=2), "weight", 1),
    "transposed1d": (lambda: nn.ConvTranspose1d(8, 5, 3), "weight", 0),
    "transposed2d": (lambda: nn.ConvTranspose2d(16, 3, (2, 3)), "weight", 0),
    "transposed3d": (lambda: nn.ConvTranspose3d(8, 2, (1, 2, 2)), "weight", 0),
    "transposed grouped": (lambda: nn.ConvTranspose2d(16, 6, 2, groups=2), "weight", 0),
    "attention": (lambda: nn.MultiheadAttention(16, 2), "in_proj_weight", 1),
    "cross attention": (lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=24), "k_proj_weight", 1),
}
FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn")


def brute(scores, axis, n, m):
    """The mask, one group at a time, in Python; of equal scores the lower channel is kept."""
    scores = np.moveaxis(np.asarray(scores, dtype=np.float64), axis, -1)
    mask = np.zeros(scores.shape, dtype=bool)
    for index in np.ndindex(scores.shape[:-1]):
        for start in range(0, scores.shape[-1], m):
            order = sorted(range(start, start + m), key=lambda k, i=index: (-scores[(*i, k)], k))
            for k in order[:n]:
                mask[(*index, k)] = True
    return np.moveaxis(mask, -1, axis)


def numbers(tensor):
    return tensor.detach().to(torch.float64).numpy()


def parse(nm):
    return tuple(int(part) for part in nm.split(":"))


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("nm", PATTERNS)
def test_every_layer_is_pruned_as_by_hand(kind, nm):
    torch.manual_seed(1)
    make, name, axis = LAYERS[kind]
    model = make()
    dense = numbers(getattr(model, name)).copy()
    done = prune_(model, nm)
    expected = dense * brute(np.abs(dense), axis, *parse(nm))
    assert np.array_equal(numbers(getattr(model, name)), expected)
    n, m = parse(nm)
    assert name in done.names and done.density == n / m
    assert isinstance(getattr(model, name), nn.Parameter)


@pytest.mark.parametrize("nm", PATTERNS)
def test_the_conv1d_of_gpt2(nm):
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="needs transformers").Conv1D
    torch.manual_seed(1)

    class Own(conv1d):
        pass

    for kind in (conv1d, Own):
        model = kind(6, 16)
        dense = numbers(model.weight).copy()
        [weight] = weights(model)
        assert (weight.axis, weight.cols) == (0, 16)
        prune_(model, nm)
        assert np.array_equal(numbers(model.weight), dense * brute(np.abs(dense), 0, *parse(nm)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("parametrized", [False, True])
def test_every_dtype(dtype, parametrized):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(16, 6), nn.ConvTranspose1d(8, 4, 2))
    with torch.no_grad():
        for layer in model:  # few distinct values, so that ties are many
            layer.weight.copy_(torch.round(layer.weight * 8) / 4)
    model = model.to(getattr(torch, dtype))
    dense = [numbers(layer.weight) for layer in model]
    prune_(model, "2:4", parametrize=parametrized)
    for layer, old, axis in zip(model, dense, (1, 0), strict=True):
        assert layer.weight.dtype == getattr(torch, dtype)
        assert np.array_equal(numbers(layer.weight), old * brute(np.abs(old), axis, 2, 4))


def test_integers_can_be_pruned_and_bytes_cannot():
    layer = nn.Linear(8, 2)
    layer.weight = nn.Parameter(torch.tensor([[-128, 1, 2, 127] * 2] * 2, dtype=torch.int8), requires_grad=False)
    prune_(layer, "1:4")
    assert layer.weight.tolist() == [[-128, 0, 0, 0] * 2] * 2
    layer.weight = nn.Parameter(torch.ones(2, 8, dtype=torch.uint8), requires_grad=False)
    assert "packed" in weights(layer)[0].reason
    layer.weight = nn.Parameter(torch.ones(8, 2, 1), requires_grad=False)
    assert "packed or sharded" in weights(layer)[0].reason
    layer.weight = nn.Parameter(torch.ones(2, 8, dtype=torch.complex64))
    assert "not of real numbers" in weights(layer)[0].reason


@pytest.mark.parametrize("nm", PATTERNS)
def test_ties_and_zeros_go_to_the_lowest_channel(nm):
    n, m = parse(nm)
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight[0], layer.weight[1], layer.weight[2] = 1.0, 0.0, torch.tensor([0.0, -2.0] * 8)
    prune_(layer, nm, parametrize=True)
    mask = numbers(layer.parametrizations.weight[0].mask)
    assert np.array_equal(mask[0], np.tile(np.arange(m) < n, 16 // m))
    assert np.array_equal(mask[1], mask[0])
    assert np.array_equal(mask, brute(np.abs([[1.0] * 16, [0.0] * 16, [0.0, -2.0] * 8]), 1, n, m))
    assert not torch.signbit(layer.weight[:2]).any()


def test_pruned_entries_are_positive_zeros_and_the_others_untouched():
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, -3.0, -2.0, -0.5]]))
    parameter = layer.weight
    prune_(layer)
    assert layer.weight is parameter and parameter.requires_grad and parameter.grad is None
    assert layer.weight.tolist() == [[0.0, -3.0, -2.0, 0.0]]
    assert not torch.signbit(layer.weight[0, [0, 3]]).any()


def test_pruning_twice_changes_nothing():
    model = net()
    prune_(model)
    state = copy.deepcopy(model.state_dict())
    assert prune_(model).density == 0.5
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_non_contiguous_weights():
    conv = nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)
    dense = numbers(conv.weight).copy()
    prune_(conv)
    assert np.array_equal(numbers(conv.weight), dense * brute(np.abs(dense), 1, 2, 4))


def test_a_mask_as_parametrization():
    plain, model = net(), net()
    inputs = torch.randn(3, 8)
    prune_(plain, layers=["2", "4"])
    dense = model[2].weight.detach().clone()
    done = prune_(model, parametrize=True, layers=["2", "4"])
    assert done.names == ("2.weight", "4.weight") and all(weight.masked for weight in done.weights)
    assert torch.equal(model(inputs), plain(inputs))
    model(inputs).sum().backward()
    stack = model[2].parametrizations.weight
    assert torch.equal(stack.original, dense)
    assert stack[0].mask.dtype == torch.bool and (stack.original.grad[~stack[0].mask] == 0).all()
    assert "2:4" in repr(stack[0])
    assert [weight.name for weight in weights(model)][1] == "2.parametrizations.weight.original"
    assert [weight.path for weight in weights(model)] == ["0.weight", "2.weight", "4.weight"]
    with pytest.raises(InputError, match="by a mask already"):
        prune_(model, parametrize=True)
    with pytest.raises(InputError, match="remove_parametrizations"):
        prune_(model, layers="2.weight")
    parametrize.remove_parametrizations(model[2], "weight")
    parametrize.remove_parametrizations(model[4], "weight", leave_parametrized=False)
    assert torch.equal(model[2].weight, plain[2].weight)
    assert torch.equal(model[4].weight, net()[4].weight)


def test_assigning_to_a_masked_weight_keeps_what_is_masked_for_later():
    layer = nn.Linear(8, 2)
    prune_(layer, parametrize=True)
    new = torch.ones(2, 8)
    layer.weight = new
    assert torch.equal(layer.parametrizations.weight.original, new) and layer.weight.sum() == 8


def test_state_dicts_of_pruned_models():
    model, fresh = net(), nn.Sequential(*[copy.deepcopy(layer) for layer in net()])
    prune_(model)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh[2].weight, model[2].weight)
    masked, other = net(), net()
    with torch.no_grad():
        other[2].weight.normal_()
    prune_(masked, parametrize=True)
    prune_(other, parametrize=True)
    other.load_state_dict(masked.state_dict())
    assert torch.equal(other[2].weight, masked[2].weight)
    assert torch.equal(copy.deepcopy(masked)[2].weight, masked[2].weight)


def test_weights_that_have_a_parametrization_get_the_mask_on_top():
    torch.manual_seed(4)
    for wrap in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
        layer = wrap(nn.Linear(8, 6))
        state = copy.deepcopy(layer.state_dict())
        [weight] = weights(layer)
        values = weight.values()
        assert weight.shape == (6, 8) and weight.path == "weight" and layer.training
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())
        [done] = prune_(layer).weights
        assert done.masked and done.density == 0.5
        mask = brute(np.abs(values), 1, 2, 4)
        assert np.array_equal(numbers(layer.eval().weight) != 0, mask)
        assert isinstance(layer.parametrizations.weight[-1], NMMask)


def test_masks_of_torch_are_kept():
    torch.manual_seed(5)
    layer = nn.Linear(16, 4)
    torch_prune.random_unstructured(layer, "weight", 0.6)
    before, original = layer.weight_mask.clone(), layer.weight_orig.detach().clone()
    ranks = np.random.default_rng(0).random((4, 16))
    [weight] = weights(layer)
    assert (weight.name, weight.path) == ("weight_orig", "weight")
    [done] = prune_(layer, saliency={"weight": ranks}).weights
    alive = before.numpy() != 0
    expected = brute(np.where(alive, ranks, -1.0), 1, 2, 4) & alive
    assert np.array_equal(layer.weight_mask.numpy() != 0, expected)
    assert done.masked and done.nonzero == expected.sum()
    assert torch.equal(layer.weight_orig, original)
    assert np.array_equal(layer.weight.detach().numpy(), original.numpy() * expected)
    layer(torch.ones(1, 16)).sum().backward()
    torch_prune.remove(layer, "weight")
    assert np.array_equal(layer.weight.detach().numpy(), original.numpy() * expected)
    prune_(layer)
    assert np.array_equal(layer.weight.detach().numpy(), original.numpy() * expected)


def test_a_mask_of_torch_that_is_older_than_its_weight():
    layer = nn.Linear(8, 2)
    torch_prune.identity(layer, "weight")
    with torch.no_grad():
        layer.weight_orig.copy_(torch.arange(16.0).reshape(2, 8))  # as an optimiser does between two forward passes
    prune_(layer)
    assert torch.equal(layer.weight[0], torch.tensor([0.0, 0, 2, 3, 0, 0, 6, 7]))


def test_saliencies():
    model = nn.Sequential(nn.Linear(8, 3), nn.ConvTranspose1d(8, 4, 2, groups=2))
    dense = [numbers(layer.weight).copy() for layer in model]
    rng = np.random.default_rng(1)
    arrays = [rng.random(array.shape) for array in dense]
    norms = rng.random(8)

    def pruned(saliency, nm="2:4"):
        copied = copy.deepcopy(model)
        done = prune_(copied, nm, saliency=saliency)
        return [numbers(layer.weight) != 0 for layer in copied], done.saliency

    expected = [brute(arrays[0], 1, 2, 4), brute(arrays[1], 0, 2, 4)]
    masks, name = pruned({"0.weight": arrays[0], "1.weight": torch.from_numpy(arrays[1])})
    assert name == "array" and all(map(np.array_equal, masks, expected))
    seen = {}

    def own(name, weight):
        seen[name] = weight
        assert weight.flags.writeable
        return weight**2 + 1

    masks, name = pruned(own)
    assert name == "own" and all(
        map(np.array_equal, masks, [brute(dense[0] ** 2, 1, 2, 4), brute(dense[1] ** 2, 0, 2, 4)])
    )
    assert seen["1.weight"].shape == (4, 4, 2)  # four outputs, each of the four inputs of its group
    assert np.array_equal(seen["1.weight"][2:, :, 0], dense[1][4:, :, 0].T)
    masks, name = pruned({"0.weight": Wanda(norms), "1.weight": "energy"})
    assert name == "wanda+energy" and np.array_equal(masks[0], brute(np.abs(dense[0]) * norms, 1, 2, 4))
    single = nn.ConvTranspose1d(8, 4, 2)
    kept = brute(np.abs(numbers(single.weight)) * norms[:, None, None], 0, 2, 4)
    prune_(single, saliency=Wanda(norms))
    assert np.array_equal(numbers(single.weight) != 0, kept)


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        ({"0.weight": np.ones((16, 8))}, "nothing for 2.weight, 4.weight"),
        ({"0.waight": np.ones((16, 8))}, "'0.waight' is no weight of the model; close to it: 0.weight"),
        (np.ones((16, 8)), "one saliency array cannot serve a model"),
        ("wanda", "needs activations"),
        (Wanda, "is a class"),
        (Wanda(np.ones(5)), "saliency of 0.weight: Wanda got 5 norms for 8 input channels"),
        (lambda name, weight: weight[:1], "the saliency of 0.weight has shape"),
        (lambda name, weight: weight * np.nan, "NaN or infinite"),
        (lambda name, weight: weight - 9, "negative entries"),
        (lambda name, weight: "seven", "saliency of 0.weight"),
        (lambda name, weight: np.abs(weight) - (name == "4.weight"), "the saliency of 4.weight has negative entries"),
    ],
)
def test_a_saliency_that_does_not_fit_leaves_the_model_as_it_was(saliency, message):
    model = net()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        prune_(model, saliency=saliency)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))


def test_weights_shared_with_an_embedding_are_pruned_only_by_name():
    model = Tied()
    body, head = sorted(weights(model), key=lambda weight: weight.path)
    assert body.reason is None and "shared with the embedding embed" in head.reason
    assert (head.name, head.path) == ("embed.weight", "head.weight")
    done = prune_(model)
    assert done.names == ("body.weight",) and list(done.left_out) == ["head.weight"]
    assert "head.weight: shared with the embedding" in str(done)
    assert [weight.reason for weight in weights(model, "*head*") if weight.path == "head.weight"] == [head.reason]
    for name in ("head", "head.weight", "embed.weight"):
        assert weights(model, name)[0].reason is None
    model = Tied()
    tokens = torch.arange(10)
    assert prune_(model, layers=["head"], parametrize=True).names == ("head.weight",)
    assert torch.equal(model.embed.weight, model.head.weight) and (model.head.weight == 0).sum() == 40
    assert model.head.parametrizations.weight.original is model.embed.parametrizations.weight.original
    model(tokens)


def test_weights_that_are_one_in_memory_but_not_one_parameter():
    model = Tied()
    model.head.weight = nn.Parameter(model.embed.weight.data)
    assert prune_(model).names == ("body.weight",)


def test_shared_weights_are_listed_and_pruned_once():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": shared, "b": nn.Linear(8, 8), "c": shared, "d": nn.Conv1d(8, 8, 1)})
    model["b"].weight = shared.weight
    first, _ = weights(model)
    assert [owner.name for owner in first.owners] == ["a", "b"]
    assert {"a", "b", "c", "c.weight"} <= set(first.names)
    assert prune_(model, layers="c").names == ("a.weight",)
    prune_(model, layers=["b", "d"], parametrize=True)
    assert torch.equal(model["a"].weight, model["b"].weight)
    assert len(weights(model)) == 2
    parametrize.remove_parametrizations(shared, "weight")
    parametrize.remove_parametrizations(model["b"], "weight")
    assert shared.weight is model["b"].weight and (shared.weight == 0).sum() == 32
    turned = nn.ModuleList([nn.Conv1d(8, 8, 3), nn.ConvTranspose1d(8, 8, 3)])
    turned[1].weight = turned[0].weight
    assert "different axes" in weights(turned)[0].reason


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_cannot_be_pruned_says_why():
    model = nn.ModuleDict(
        {
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "depthwise transposed": nn.ConvTranspose2d(8, 8, 3, groups=8),
            "grey": nn.Conv2d(1, 8, 3),
            "colour": nn.Conv2d(3, 8, 3),
            "grouped": nn.ConvTranspose2d(12, 8, 3, groups=2),
            "lazy": nn.LazyLinear(4),
            "hook": nn.utils.weight_norm(nn.Linear(8, 4)),
            "spectral": nn.utils.spectral_norm(nn.Linear(8, 4)),
            "bilinear": nn.Bilinear(8, 8, 4),
            "good": nn.Linear(8, 4),
        }
    )
    assert {weight.module_name: weight.reason for weight in weights(model, nm="2:4")} == {
        "depthwise": "depthwise: every output channel reads one input channel",
        "depthwise transposed": "depthwise: every output channel reads one input channel",
        "grey": "only one input channel",
        "colour": "3 input channels do not divide into groups of m = 4",
        "grouped": "6 input channels per group do not divide into groups of m = 4",
        "lazy": "not initialised yet; run a forward pass first",
        "hook": "computed by a hook, for example of torch.nn.utils.weight_norm; remove the hook first",
        "spectral": "computed by a hook, for example of torch.nn.utils.weight_norm; remove the hook first",
        "good": None,
    }
    assert [weight.module_name for weight in weights(model, nm="1:3") if weight.reason is None] == ["colour", "grouped"]
    done = prune_(model)
    assert done.names == tuple(done) == ("good.weight",) and len(done) == 1 and len(done.left_out) == 9
    text = str(done)
    assert text.splitlines()[0].split() == ["pruned", "to", "2:4", "shape", "parameters", "density", "%", "by"]
    assert "good.weight    4 x 8          32      50.00  zeros" in text
    assert "  colour.weight: 3 input channels" in text
    assert "  depthwise.weight, depthwise transposed.weight: depthwise: every" in text
    assert "  bilinear.weight: in a Bilinear: not a kind of layer that is pruned" in text
    del model["good"]
    with pytest.raises(InputError, match=r"no weight of the model can be pruned to 2:4; depthwise.weight: depthwise"):
        prune_(model)


def test_parameters_outside_known_layers_are_not_passed_over_in_silence():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.ones(4, 8, 8))
            self.scale = nn.Parameter(torch.ones(8))

    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({str(k): Experts() for k in range(5)} | {"rnn": nn.LSTM(8, 4, bias=False), "good": shared})
    model["0"].extra = shared.weight
    model["embed"], model["norm"] = nn.Embedding(8, 8), nn.LayerNorm((4, 8))
    model["normed"] = parametrizations.weight_norm(nn.Linear(8, 8))
    done = prune_(model)
    assert done.names == ("normed.weight",) and len(done.left_out) == 8
    assert done.left_out["good.weight"] == "shared with the Experts 0; name it to prune it"
    assert str(done).splitlines()[-2:] == [
        "  0.up, 1.up, 2.up and 2 more: in a Experts: not a kind of layer that is pruned",
        "  rnn.weight_ih_l0, rnn.weight_hh_l0: in a LSTM: not a kind of layer that is pruned",
    ]
    prune_(model, layers=["good"], parametrize=True)
    assert torch.equal(model["0"].extra, shared.weight)
    del model["good"], model["normed"]
    with pytest.raises(InputError, match=r"can be pruned to 2:4; 0.up: in a"):
        prune_(model)


def test_filters():
    model = nn.ModuleDict({"enc": net(), "dec": net(), "attn": nn.MultiheadAttention(8, 2)})
    everything = [weight.path for weight in weights(model)]
    assert everything[-2:] == ["attn.in_proj_weight", "attn.out_proj.weight"] and len(everything) == 8
    cases = {
        "enc.*": everything[:3],
        "*.2": [everything[1], everything[4]],
        "attn": ["attn.in_proj_weight"],
        ("enc.0", "*in_proj*"): [everything[0], "attn.in_proj_weight"],
        (name for name in ("dec.4.weight",)): ["dec.4.weight"],
        (lambda name, module: name.startswith("dec") and module.in_features == 16): ["dec.2.weight"],
    }
    for layers, expected in cases.items():
        assert [weight.path for weight in weights(model, layers)] == expected
    done = prune_(model, layers=["enc.*"])
    assert list(done) == everything[:3]
    assert done.left_out == dict.fromkeys(everything[3:], "not chosen by layers")
    assert (model["dec"][2].weight != 0).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("1.weight", "'1.weight' matches no weight; close to it: 4.weight, 2.weight, 0.weight"),
        (["0", "encoder.*"], r"'encoder.\*' matches no weight; there are, for example, 0.weight"),
        ([7], "every entry must be a name"),
        (7, "is no filter"),
        ([], "no weight of the model can be pruned to 2:4; 0.weight: not chosen by layers"),
    ],
)
def test_filters_that_do_not_fit(layers, message):
    with pytest.raises(InputError, match=message):
        prune_(net(), layers=layers)


def test_other_things_that_do_not_fit():
    for nm, message in (("4:2", "1 <= n < m"), ("2of4", "is no pattern"), (24, "not a pattern")):
        with pytest.raises(InputError, match=message):
            prune_(net(), nm)
    with pytest.raises(InputError, match=r"need a torch.nn.Module, got a Ordered"):
        prune_(net().state_dict())
    with pytest.raises(InputError, match=r"no weight of the model can be pruned to 2:4$"):
        prune_(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match="'a' matches no weight; the model has no weights"):
        prune_(nn.Sequential(nn.ReLU()), layers="a")
    with torch.device("meta"):
        meta = net()
    assert len(weights(meta, nm="2:4")) == 3
    with pytest.raises(InputError, match=r"0.weight is on the meta device"):
        prune_(meta)
    broken = net()
    with torch.no_grad():
        broken[4].weight[1, 2] = float("inf")
    first = broken[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"4.weight holds NaN or infinite entries"):
        prune_(broken)
    assert torch.equal(broken[0].weight, first)


def test_attention_computes_with_the_pruned_weights():
    torch.manual_seed(6)
    inputs = torch.randn(5, 2, 16)
    for options in ({}, {"kdim": 8, "vdim": 24}):
        plain = nn.MultiheadAttention(16, 4, **options)
        masked = copy.deepcopy(plain)
        names = prune_(plain, "4:8").names
        assert names == prune_(masked, "4:8", parametrize=True).names and len(names) == (4 if options else 2)
        key, value = torch.randn(5, 2, plain.kdim), torch.randn(5, 2, plain.vdim)
        assert torch.equal(plain(inputs, key, value)[0], masked(inputs, key, value)[0])


def test_masks_made_in_pieces_are_the_same():
    torch.manual_seed(7)
    layer = nn.Linear(512, 300)
    whole, parts = copy.deepcopy(layer), copy.deepcopy(layer)
    prune_(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_CHUNK", 1000)
        prune_(parts)
    assert torch.equal(whole.weight, parts.weight)


def test_converting_needs_2_to_4_weights_and_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"3 of 3 weights cannot be converted; 0.weight: not 2:4"):
        to_semi_structured_(net())
    with pytest.raises(InputError, match="weight: not a linear layer's"):
        to_semi_structured_(nn.Conv1d(8, 8, 1))
    with pytest.raises(InputError, match="0 of 0 weights"):
        to_semi_structured_(nn.ReLU())
    with pytest.raises(InputError, match="weight: 6 input channels do not divide"):
        to_semi_structured_(nn.Linear(6, 8), layers="weight")
    masked = net()
    prune_(masked, parametrize=True)
    with pytest.raises(InputError, match="remove it first"):
        to_semi_structured_(masked)
    model = net()
    prune_(model, layers="2")
    with pytest.raises(MissingDependencyError, match="torch sees no CUDA device"):
        to_semi_structured_(model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match=r"2.weight: on cpu; move the model"):
        to_semi_structured_(model, layers="2")
    monkeypatch.delattr(torch.sparse, "to_sparse_semi_structured")
    with pytest.raises(MissingDependencyError, match="this torch has no"):
        to_semi_structured_(model)


def test_converting_where_a_device_and_torch_say_yes(monkeypatch):
    """The bookkeeping only: what torch makes of the weights is in the test that needs a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pruning, "device_fault", lambda tensor, dtypes: None)
    seen = []

    def convert(tensor):
        if tensor.shape[0] == 12:
            raise RuntimeError("Both dimensions must be multiples")
        seen.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", convert)
    model = net()
    prune_(model, layers=["0", "2"])
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InputError, match=r"1 of 2 weights cannot be converted; 2.weight: torch cannot convert it: Both"
    ):
        to_semi_structured_(model, layers=["0", "2"])
    assert model[0].weight.requires_grad
    assert to_semi_structured_(model) == ("0.weight",)
    assert len(seen) == 2 and not model[0].weight.requires_grad and model[2].weight.requires_grad
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_devices_that_cannot_multiply_2_to_4(monkeypatch):
    class Fake:
        is_cuda, device = True, "cuda:0"

        def __init__(self, dtype):
            self.dtype = dtype

    for capability, dtype, message in (
        ((7, 5), torch.float16, "on cuda:0 of compute capability 7.5; 8.0 or later"),
        ((8, 0), torch.float32, "of dtype float32; convert them to float16, bfloat16 or int8 first"),
        ((8, 6), torch.bfloat16, None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, pair=capability: pair)
        fault = pruning.device_fault(Fake(dtype), pruning.CONVERTIBLE)
        assert fault is None if message is None else message in fault


@pytest.mark.gpu
def test_converting_on_a_gpu():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs compute capability 8.0")
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128)).cuda().half().eval()
    prune_(model)
    inputs = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    with torch.inference_mode():
        dense = model(inputs)
        assert to_semi_structured_(model) == ("0.weight", "2.weight")
        assert torch.allclose(model(inputs), dense, atol=2e-2, rtol=2e-2)
    assert "not a plain dense tensor" in weights(model)[0].reason


@pytest.mark.gpu
def test_pruning_on_a_gpu():
    for parametrized, dtype in itertools.product((False, True), ("float32", "bfloat16")):
        model = net().to(getattr(torch, dtype))
        moved = copy.deepcopy(model).cuda()
        prune_(model, parametrize=parametrized)
        prune_(moved, parametrize=parametrized)
        assert torch.equal(moved[2].weight.cpu(), model[2].weight)
