"""Models of the transformers package from tiny configurations, with random weights.

Widths are chosen apart: hidden, heads x head size, feed-forward, tokens and vocabulary differ where they can. The
package is imported by the builders, not here, so that the rest of the zoo does without it.
"""

from __future__ import annotations

from typing import Any

from zoo_parts import Made, Specimen, noise, tokens

VOCABULARY = 61


def _make(model: str, config: str, seed: int, inputs: dict[str, Any] | None = None, **options: Any) -> Made:
    import transformers

    if not model.startswith("ViT"):
        options = {"vocab_size": VOCABULARY, "use_cache": False, **options}
    options.setdefault("attn_implementation", "sdpa")
    made = getattr(transformers, model)(getattr(transformers, config)(**options))
    return made, inputs if inputs is not None else {"input_ids": tokens(VOCABULARY, 2, 7, seed=seed)}


# Two layers, 4 query heads of 12 on a stream of 40: the heads together are wider (48) than the stream.
WIDE_HEADS = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}


def llama(seed: int) -> Made:
    return _make("LlamaForCausalLM", "LlamaConfig", seed, **WIDE_HEADS)


def llama_eager(seed: int) -> Made:
    return _make("LlamaForCausalLM", "LlamaConfig", seed, **WIDE_HEADS, attn_implementation="eager")


def qwen2(seed: int) -> Made:
    """Biases on q, k and v; the head is the embedding; 2 query heads for each of 3 key-value heads."""
    widths = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 6}
    return _make(
        "Qwen2ForCausalLM", "Qwen2Config", seed, **widths, num_key_value_heads=3, tie_word_embeddings=True, **SPECIAL
    )


def qwen3(seed: int) -> Made:
    return _make("Qwen3ForCausalLM", "Qwen3Config", seed, **WIDE_HEADS, **SPECIAL)


def mistral(seed: int) -> Made:
    """3 query heads for each of 2 key-value heads; tokens see no further back than 4."""
    widths = {**WIDE_HEADS, "hidden_size": 52, "num_attention_heads": 6, "head_dim": 8}
    return _make("MistralForCausalLM", "MistralConfig", seed, **widths, sliding_window=4)


def phi3(seed: int) -> Made:
    """q, k and v are one linear layer, and so are gate and up."""
    widths = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    widths["num_key_value_heads"] = 2
    return _make("Phi3ForCausalLM", "Phi3Config", seed, **widths, **SPECIAL)


def gemma(seed: int) -> Made:
    """Norms that multiply by 1 + weight, a scaled embedding, and one key-value head for all query heads."""
    return _make("GemmaForCausalLM", "GemmaConfig", seed, **{**WIDE_HEADS, "num_key_value_heads": 1}, **SPECIAL)


def gpt_neox(seed: int) -> Made:
    """q, k and v interleaved by heads in one linear layer; attention and feed-forward side by side."""
    widths = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    return _make("GPTNeoXForCausalLM", "GPTNeoXConfig", seed, **widths, max_position_embeddings=32, **SPECIAL)


def opt(seed: int) -> Made:
    widths = {"hidden_size": 48, "ffn_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    return _make(
        "OPTForCausalLM",
        "OPTConfig",
        seed,
        **widths,
        word_embed_proj_dim=48,
        max_position_embeddings=32,
        **SPECIAL,
    )


def opt_projected(seed: int) -> Made:
    """As OPT-350m: norms after the sum, and embeddings narrower than the stream, with projections in and out."""
    widths = {"hidden_size": 48, "ffn_dim": 56, "num_hidden_layers": 1, "num_attention_heads": 4}
    return _make(
        "OPTForCausalLM",
        "OPTConfig",
        seed,
        **widths,
        word_embed_proj_dim=20,
        max_position_embeddings=32,
        do_layer_norm_before=False,
        **SPECIAL,
    )


def gpt2(seed: int) -> Made:
    """Weights stored as (inputs, outputs); q, k and v in one; the head is the embedding."""
    widths = {"n_embd": 36, "n_layer": 2, "n_head": 3, "n_inner": 56, "n_positions": 32}
    return _make("GPT2LMHeadModel", "GPT2Config", seed, **widths, **SPECIAL)


BERT = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def bert_masked_lm(seed: int) -> Made:
    ids = tokens(VOCABULARY, 2, 7, seed=seed)
    mask = ids.new_ones(2, 7)
    mask[1, 5:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": tokens(2, 2, 7, seed=seed)}
    return _make("BertForMaskedLM", "BertConfig", seed, inputs, **BERT)


def bert(seed: int) -> Made:
    """The hidden states are an output here, so the stream is not free."""
    return _make("BertModel", "BertConfig", seed, **BERT)


def vit(seed: int) -> Made:
    widths = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    inputs = {"pixel_values": noise(2, 3, 12, 12, seed=seed)}
    options = {**widths, "image_size": 12, "patch_size": 4, "num_labels": 5}
    return _make("ViTForImageClassification", "ViTConfig", seed, inputs, **options)


def _pair(seed: int) -> dict[str, Any]:
    return {
        "input_ids": tokens(VOCABULARY, 2, 7, seed=seed),
        "decoder_input_ids": tokens(VOCABULARY, 2, 5, seed=seed + 1),
    }


def t5(seed: int) -> Made:
    """No biases, relative positions, heads wider (48) than the stream, and a head tied to the embedding."""
    widths = {"d_model": 40, "d_kv": 12, "num_heads": 4, "d_ff": 56, "num_layers": 2, "num_decoder_layers": 1}
    return _make("T5ForConditionalGeneration", "T5Config", seed, _pair(seed), **widths)


def bart(seed: int) -> Made:
    widths = {"d_model": 48, "encoder_ffn_dim": 56, "decoder_ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 3, "max_position_embeddings": 32}
    return _make("BartForConditionalGeneration", "BartConfig", seed, _pair(seed), **widths, **heads, **SPECIAL)


EXPERTS = {**WIDE_HEADS, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None}


def mixtral(seed: int) -> Made:
    """Each token goes through 2 of 3 experts, whose weights are stacked."""
    return _make("MixtralForCausalLM", "MixtralConfig", seed, **EXPERTS, experts_implementation="batched_mm")


def mixtral_grouped(seed: int) -> Made:
    """As above with the default operator for the experts, which knows no float64."""
    return _make("MixtralForCausalLM", "MixtralConfig", seed, **EXPERTS, experts_implementation="grouped_mm")


TRANSFORMERS = [
    Specimen(make.__name__, make, needs="transformers", doubles=make is not mixtral_grouped)
    for make in (
        llama,
        llama_eager,
        qwen2,
        qwen3,
        mistral,
        phi3,
        gemma,
        gpt_neox,
        opt,
        opt_projected,
        gpt2,
        bert_masked_lm,
        bert,
        vit,
        t5,
        bart,
        mixtral,
        mixtral_grouped,
    )
]
