"""Every model of the zoo is permuted by random permutations of all its groups, and computes what it did before.

The table below is what a run of this file prints with ``-s``: how much of each model may be permuted.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from helpers import rarely
from permuting import assign_all, error, outputs, state, unequal
from zoo import ZOO

from permsolve import models

#: Groups, weights that gain, weights that stay. Fewer that stay is progress; more is a needless refusal.
EXPECTED = {
    "resnet_basic": (8, 13, 1),
    "resnet_bottleneck": (11, 15, 1),
    "cifar_resnet_pad": (7, 9, 1),
    "cifar_resnet_cat": (7, 9, 1),
    "mobilenet_v2": (8, 10, 1),
    "densenet": (12, 12, 1),
    "inception": (11, 13, 1),
    "unet": (7, 7, 1),
    "resnext": (9, 12, 1),
    "vgg": (4, 4, 2),
    "conv1d": (2, 2, 2),
    "conv3d": (3, 3, 1),
    "norm_mix": (4, 4, 1),
    "efficientnet": (6, 9, 1),
    "shufflenet": (5, 5, 4),
    "convnext": (5, 8, 1),
    "mlp_mixer": (5, 7, 3),
    "encoder_batch_first": (5, 9, 0),
    "encoder_sequence_first": (5, 9, 0),
    "transformer_batch_first": (9, 15, 1),
    "transformer_sequence_first": (9, 15, 1),
    "mlp_batchnorm": (3, 3, 1),
    "lstm": (1, 1, 2),
    "embedding_mean": (2, 2, 0),
    "functional": (3, 3, 1),
    "tied_autoencoder": (1, 1, 2),
    "pruned": (3, 3, 1),
    "parametrized": (2, 2, 1),
    "llama": (5, 15, 0),
    "llama_eager": (5, 15, 0),
    "qwen2": (5, 15, 0),
    "qwen3": (5, 15, 0),
    "mistral": (5, 15, 0),
    "phi3": (5, 9, 0),
    "gemma": (5, 15, 0),
    "gpt_neox": (5, 9, 0),
    "opt": (5, 13, 0),
    "opt_projected": (4, 9, 0),
    "gpt2": (5, 9, 0),
    "bert_masked_lm": (5, 14, 0),
    "bert": (4, 4, 9),
    "vit": (5, 13, 1),
    "t5": (7, 7, 16),
    "bart": (5, 5, 12),
    "mixtral": (3, 11, 0),
    "mixtral_grouped": (2, 2, 9),
}
#: Models of the same structure as Llama, for the long run.
LIKE_LLAMA = ("llama_eager", "qwen2", "mistral", "gemma")
#: Some norms of transformers compute in float32 whatever the model's type is.
CASTING = ("llama", "llama_eager", "qwen2", "qwen3", "mistral", "phi3", "gemma", "mixtral")


def test_the_table_names_every_model() -> None:
    assert set(EXPECTED) == set(ZOO)


@pytest.mark.parametrize("name", rarely(ZOO, LIKE_LLAMA))
def test_random_permutations_leave_outputs_unchanged(name: str) -> None:
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    before, kept = outputs(model, inputs, double=specimen.doubles), state(model)

    plan = models.analyze(model, inputs, "2:4")
    assert not unequal(kept, state(model)), "the analysis changed the model"
    assign_all(plan)
    plan.apply_(model, verify=False)

    moved = {move.name for group in plan.groups for move in group.movements}
    assert set(unequal(kept, state(model))) == moved, "what moves is what the plan says, and all of it"
    limit = 5e-5 if not specimen.doubles else 5e-7 if name in CASTING else 1e-10
    assert error(before, outputs(model, inputs, double=specimen.doubles)) <= limit

    models.Plan.from_json(plan.to_json()).undo_(model)
    assert not unequal(kept, state(model)), "undo is exact"

    share = plan.gaining / plan.parameters
    print(f"{name:28s} {len(plan.groups):3d} {len(plan.consumers):3d} {len(plan.frozen):3d}  {100 * share:5.1f} %")
    assert (len(plan.groups), len(plan.consumers), len(plan.frozen)) == EXPECTED[name]


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "t5", "encoder_batch_first", "resnet_basic"])
def test_gathers_free_each_layer(name: str) -> None:
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    before, kept = outputs(model, inputs), state(model)
    plan = models.analyze(model, inputs, "2:4", gather="norm")
    assign_all(plan)
    plan.apply_(model, verify=False)
    assert error(before, outputs(model, inputs)) <= (5e-7 if name in CASTING else 1e-10)

    # A fresh model with the plan's indices loads the permuted checkpoint.
    twin, _ = specimen.build(1)
    plan.attach_(twin)
    twin.load_state_dict(model.state_dict())
    assert error(before, outputs(twin, inputs)) <= (5e-7 if name in CASTING else 1e-10)

    plan.undo_(model)
    assert not unequal(kept, state(model)), "undo takes the indices away, too"


@pytest.mark.parametrize("name", rarely(["bert", "t5", "mlp_mixer", "qwen3", "tied_autoencoder"], ["t5", "qwen3"]))
def test_every_linear_layer_may_have_an_order_of_its_own(name: str) -> None:
    """With no more indices than needed: where a layer is the only one to read a free order, that order is its own."""
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    before, kept = outputs(model, inputs), state(model)
    legal, plan = models.analyze(model, inputs, "2:4"), models.analyze(model, inputs, "2:4", gather="layer")
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - dict(model.named_parameters()).keys()
    linears = {f"{path}.weight": each for path, each in model.named_modules() if type(each) is torch.nn.Linear}
    groups = {group.consumers[0].name: group for group in plan.groups if len(group.consumers) == 1}
    had = {group.consumers[0].name for group in legal.groups if len(group.consumers) == 1}
    for weight in linears.keys() - tied:
        assert groups[weight].blocks == (linears[weight].in_features,)
        if weight in had and legal[groups[weight].name].blocks == groups[weight].blocks:
            assert not groups[weight].indices, f"{weight} needs no index"
        else:
            assert groups[weight].indices == (weight.removesuffix(".weight"),)
    assign_all(plan)
    plan.apply_(model, verify=False)
    assert error(before, outputs(model, inputs)) <= (5e-7 if name in CASTING else 1e-10)
    plan.undo_(model)
    assert not unequal(kept, state(model))


@pytest.mark.parametrize("nm", ["1:2", "1:4", "4:8", "3:4"])
def test_other_patterns(nm: str) -> None:
    model, inputs = ZOO["densenet"].build(0)
    before = outputs(model, inputs)
    plan = models.analyze(model, inputs, nm)
    assert all(size % plan.nm.m == 0 for group in plan.groups for size in group.blocks)
    assert plan.groups
    assign_all(plan)
    plan.apply_(model, verify=False)
    assert error(before, outputs(model, inputs)) <= 1e-10
