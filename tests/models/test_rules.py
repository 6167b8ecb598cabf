"""What may move in transformers and CNNs, and what not, is found by analysis alone, with exactly its constraint."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from helpers import rarely  # noqa: E402
from torch import nn  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_parts import Net, noise  # noqa: E402

from permsolve import models  # noqa: E402
from permsolve.models import Group, Plan  # noqa: E402


@cache
def planned(name: str, gather: str | None = None) -> tuple[Plan, nn.Module]:
    """Return a model of the zoo and its plan; nobody changes either."""
    pytest.importorskip(ZOO[name].needs or "torch")
    model, inputs = ZOO[name].build(0)
    return models.analyze(model, inputs, "2:4", gather=gather), model


def only(plan: Plan, consumer: str) -> Group:
    """Return the one group in which a weight gains."""
    found = [group for group in plan.groups if consumer in [each.name for each in group.consumers]]
    assert len(found) == 1, consumer
    return found[0]


def moved(plan: Plan) -> set[tuple[str, tuple[int, ...]]]:
    return {(move.name, move.axes) for group in plan.groups for move in group.movements}


GATED = rarely(
    ("llama", "llama_eager", "qwen2", "qwen3", "mistral", "gemma"), ("llama_eager", "qwen2", "mistral", "gemma")
)


@pytest.mark.parametrize("name", GATED)
def test_down_projection_is_absorbed_by_gate_and_up(name: str) -> None:
    plan, model = planned(name)
    for layer in range(2):
        path = f"model.layers.{layer}.mlp"
        group = only(plan, f"{path}.down_proj.weight")
        assert [each.name for each in group.consumers] == [f"{path}.down_proj.weight"]
        assert set(group.producers) == {f"{path}.gate_proj.weight", f"{path}.up_proj.weight"}
        assert group.blocks == (model.get_submodule(f"{path}.down_proj").in_features,)  # any permutation


@pytest.mark.parametrize("name", GATED)
def test_output_projection_moves_within_key_value_heads(name: str) -> None:
    plan, model = planned(name)
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // config.num_key_value_heads
    for layer in range(2):
        path = f"model.layers.{layer}.self_attn"
        group = only(plan, f"{path}.o_proj.weight")
        assert group.blocks == (size,) * config.num_key_value_heads
        assert set(group.producers) == {f"{path}.v_proj.weight"}
        consumer = next(move for move in group.movements if move.role == "consumer")
        assert consumer.positions.shape == (shared, size * config.num_key_value_heads)  # query heads move alike
        first = consumer.positions[:, 0]
        assert np.array_equal(first, size * np.arange(shared)), "the query heads of the first key/value head"


@pytest.mark.parametrize("name", GATED)
def test_rotary_rows_never_move(name: str) -> None:
    for gather in (None, "norm", "layer"):
        plan, _ = planned(name, gather)
        for layer in range(2):
            for part in ("q_proj", "k_proj", "q_norm", "k_norm"):
                path = f"model.layers.{layer}.self_attn.{part}"
                assert (f"{path}.weight", (0,)) not in moved(plan)
                assert (f"{path}.bias", (0,)) not in moved(plan)
        assert not [name for name, _ in moved(plan) if "inv_freq" in name]


@pytest.mark.parametrize("name", GATED)
def test_residual_stream_has_one_permutation(name: str) -> None:
    plan, model = planned(name)
    tied = model.config.tie_word_embeddings
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    group = only(plan, head)
    layers = [f"model.layers.{layer}" for layer in range(2)]
    reading = [f"{layer}.self_attn.{part}_proj.weight" for layer in layers for part in "qkv"]
    reading += [f"{layer}.mlp.{part}_proj.weight" for layer in layers for part in ("gate", "up")]
    assert {each.name for each in group.consumers} == {head, *reading}
    assert group.blocks == (model.config.hidden_size,)
    writing = {f"{layer}.{part}.weight" for layer in layers for part in ("self_attn.o_proj", "mlp.down_proj")}
    assert writing <= set(group.producers)
    norms = {f"{layer}.{norm}.weight" for layer in layers for norm in ("input_layernorm", "post_attention_layernorm")}
    assert {"model.norm.weight", *norms} <= set(group.followers)


def test_gathers_give_each_layer_its_own_order() -> None:
    plan, _ = planned("llama", "norm")
    attention = only(plan, "model.layers.1.self_attn.q_proj.weight")
    assert {each.name for each in attention.consumers} == {
        f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"
    }
    assert attention.indices == ("model.layers.1.input_layernorm",)
    assert not attention.producers
    assert not attention.followers
    assert only(plan, "model.layers.1.mlp.up_proj.weight").indices == ("model.layers.1.post_attention_layernorm",)


def test_opt_moves_positions_biases_and_whole_feed_forward() -> None:
    plan, _ = planned("opt")
    group = only(plan, "model.decoder.layers.0.fc2.weight")
    assert group.producers == ("model.decoder.layers.0.fc1.weight",)
    assert group.followers == ("model.decoder.layers.0.fc1.bias",)
    stream = only(plan, "model.decoder.layers.1.fc1.weight")
    assert {"model.decoder.embed_positions.weight", "model.decoder.layers.0.fc2.bias"} <= set(stream.followers)
    assert "model.decoder.layers.0.self_attn_layer_norm.bias" in stream.followers


def test_bert_moves_three_embeddings_and_the_language_model_head() -> None:
    plan, _ = planned("bert_masked_lm")
    stream = only(plan, "bert.encoder.layer.0.attention.self.query.weight")
    embeddings = {f"bert.embeddings.{part}_embeddings.weight" for part in ("position", "token_type")}
    assert embeddings <= set(stream.followers)
    assert "bert.embeddings.LayerNorm.bias" in stream.followers
    heads = only(plan, "bert.encoder.layer.0.attention.output.dense.weight")
    assert len(set(heads.blocks)) == 1
    assert len(heads.blocks) > 1


def test_hidden_states_that_are_outputs_stay() -> None:
    plan, _ = planned("bert")
    reasons = {each.name: each.reason for each in plan.frozen}
    assert "output of the model" in reasons["encoder.layer.0.attention.self.query.weight"]
    assert plan.consumers == tuple(
        f"encoder.layer.{layer}.{part}.dense.weight" for layer in range(2) for part in ("attention.output", "output")
    )


def test_vit_moves_patches_class_token_and_positions() -> None:
    plan, _ = planned("vit")
    names = {name for name, _ in moved(plan)}
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"} <= names
    assert [each.name for each in plan.frozen] == ["vit.embeddings.patch_embeddings.projection.weight"]


def test_fused_queries_keys_and_values_of_gpt2() -> None:
    plan, model = planned("gpt2")
    group = only(plan, "transformer.h.0.attn.c_proj.weight")
    producer = next(move for move in group.movements if move.name == "transformer.h.0.attn.c_attn.weight")
    assert producer.axes == (1,)  # Conv1D holds outputs on axis 1
    assert producer.positions.min() == 2 * model.config.n_embd  # only the values' third


def test_shortcuts_that_pad_channels() -> None:
    plan, _ = planned("cifar_resnet_pad")
    sizes = [sum(group.blocks) for group in plan.groups if len(group.consumers) > 1]
    for group in plan.groups:
        widest = max(max(move.positions.shape[1] for move in group.movements), group.cols)
        assert widest == group.cols
    assert sizes, "copied and padded ranges are shared by several layers"


def test_grouped_convolution_moves_inside_its_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 24, 3, groups=4), nn.Conv2d(24, 5, 1))
    plan = models.analyze(model, noise(2, 3, 6, 5), "2:4")
    assert only(plan, "2.weight").blocks == (8,) * 4


def test_depthwise_convolution_passes_the_permutation_on() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 5, 1))
    plan = models.analyze(model, noise(2, 3, 6, 5), "2:4")
    group = only(plan, "2.weight")
    assert set(group.producers) == {"0.weight"}
    assert {"1.weight", "1.bias", "0.bias"} <= set(group.followers)


def test_concatenation_divides_by_offset() -> None:
    code = lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], dim=1))  # noqa: E731
    model = Net(code, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 16, 1), c=nn.Conv2d(24, 5, 1))
    plan = models.analyze(model, noise(2, 3, 6, 5), "2:4")
    assert sorted(group.cols for group in plan.groups) == [8, 16]
    for group in plan.groups:
        assert len(group.producers) == 1


def test_misaligned_concatenation_keeps_the_mixed_group() -> None:
    code = lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], dim=1))  # noqa: E731
    model = Net(code, a=nn.Conv2d(3, 10, 1), b=nn.Conv2d(3, 14, 1), c=nn.Conv2d(24, 5, 1))
    plan = models.analyze(model, noise(2, 3, 6, 5), "2:4")
    columns = {
        tuple(sorted(move.positions.reshape(-1).tolist()))
        for group in plan.groups
        for move in group.movements
        if move.role == "consumer"
    }
    assert columns == {tuple(range(8)), tuple(range(12, 24))}  # columns 8 to 11 come from both


@pytest.mark.parametrize("side", [2, 3])
def test_linear_after_flatten_follows_in_whole_maps(side: int) -> None:
    code = lambda m, x: (m.c(m.a(x)), m.d(m.a(x).flatten(1)))  # noqa: E731
    parts = {"a": nn.Conv2d(3, 16, 1), "c": nn.Conv2d(16, 5, 1), "d": nn.Linear(16 * side * side, 7)}
    plan = models.analyze(Net(code, **parts), noise(2, 3, side, side), "2:4")
    group = only(plan, "c.weight")
    carried = next(move for move in group.movements if move.name == "d.weight")
    assert carried.role == "carried"
    assert carried.positions.shape == (side * side, 16)
    assert "it only follows" in next(each.reason for each in plan.frozen if each.name == "d.weight")


def test_equal_sizes_are_told_apart_by_the_graph() -> None:
    """Batch, tokens and channels of one length: a rule by lengths would mix them up."""
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm([8, 8]), nn.Linear(8, 8))
    plan = models.analyze(model, noise(8, 8, 8), "2:4")
    group = only(plan, "2.weight")
    norm = next(move for move in group.movements if move.name == "1.weight")
    assert norm.axes == (1,)
