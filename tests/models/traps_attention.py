"""Traps: attention written out in functional code. 4 heads of 8 channels, 5 tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trap_parts import EITHER, FREE, FROZEN, Trap, net
from zoo_parts import parameter

HEADS, SIZE, WIDTH = 4, 8, 32
TOKENS = (2, 5, 20)
INSIDE = "v and the output move inside a head"
SHARED = "one permutation for each head of v, shared by its query heads"
BLOCKS = (SIZE,) * HEADS
PAIRS = ((0, 1), (2, 3))


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * SIZE**-0.5).softmax(-1) @ v


def rotate(x: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate pairs of channels of each head, every pair by its own angle at every token."""
    tokens = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    angle = tokens * 10.0 ** (-torch.arange(SIZE // 2, dtype=x.dtype) / 2)
    if interleaved:
        even, odd = x[..., ::2], x[..., 1::2]
        pairs = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(pairs, -1).flatten(-2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def qkv(query: int = WIDTH, key_value: int = WIDTH) -> dict[str, Any]:
    return {
        "q": nn.Linear(20, query),
        "k": nn.Linear(20, key_value),
        "v": nn.Linear(20, key_value),
        "last": nn.Linear(query, 12),
    }


def plain(m: Any, x: Tensor) -> Tensor:
    return m.last(merge(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))))


def causal(m: Any, x: Tensor) -> Tensor:
    """Mask with a constant triangle, as many models do by hand."""
    logits = heads(m.q(x)) @ heads(m.k(x)).mT
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return m.last(merge(logits.masked_fill(~mask, float("-inf")).softmax(-1) @ heads(m.v(x))))


def rotary(m: Any, x: Tensor) -> Tensor:
    return m.last(merge(attend(rotate(heads(m.q(x))), rotate(heads(m.k(x))), heads(m.v(x)))))


def rotary_interleaved(m: Any, x: Tensor) -> Tensor:
    q, k = rotate(heads(m.q(x)), True), rotate(heads(m.k(x)), True)
    return m.last(merge(attend(q, k, heads(m.v(x)))))


def rotary_values(m: Any, x: Tensor) -> Tensor:
    return m.last(merge(attend(heads(m.q(x)), heads(m.k(x)), rotate(heads(m.v(x))))))


def grouped_interleaved(m: Any, x: Tensor) -> Tensor:
    k, v = (heads(part(x), 2).repeat_interleave(2, dim=1) for part in (m.k, m.v))
    return m.last(merge(attend(heads(m.q(x)), k, v)))


def grouped_tiled(m: Any, x: Tensor) -> Tensor:
    k, v = (heads(part(x), 2).repeat(1, 2, 1, 1) for part in (m.k, m.v))
    return m.last(merge(attend(heads(m.q(x)), k, v)))


def grouped_expanded(m: Any, x: Tensor) -> Tensor:
    k, v = (heads(part(x), 2)[:, :, None].expand(2, 2, 2, 5, SIZE).reshape(2, 4, 5, SIZE) for part in (m.k, m.v))
    return m.last(merge(F.scaled_dot_product_attention(heads(m.q(x)), k, v)))


def grouped_sdpa(m: Any, x: Tensor) -> Tensor:
    return m.last(
        merge(F.scaled_dot_product_attention(heads(m.q(x)), heads(m.k(x), 2), heads(m.v(x), 2), enable_gqa=True))
    )


def grouped_broadcast(m: Any, x: Tensor) -> Tensor:
    return m.last(merge(attend(heads(m.q(x)), heads(m.k(x), 1), heads(m.v(x), 1))))


def fused_chunked(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, dim=-1)
    return m.last(merge(F.scaled_dot_product_attention(heads(q), heads(k), heads(v))))


def fused_by_part(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).reshape(2, 5, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
    return m.last(merge(attend(q, k, v)))


def fused_by_head(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(2, 5, HEADS, 3 * SIZE).transpose(1, 2).chunk(3, dim=-1)
    return m.last(merge(attend(q, k, v)))


def single_head(m: Any, x: Tensor) -> Tensor:
    return m.last((m.q(x) @ m.k(x).mT).softmax(-1) @ m.v(x))


def linear_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m.q(x)).softmax(-1), heads(m.k(x)).softmax(-2), heads(m.v(x))
    return m.last(merge(q @ (k.mT @ v)))


def einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = (part(x).view(2, 5, HEADS, SIZE) for part in (m.q, m.k, m.v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return m.last(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


def not_transposed_back(m: Any, x: Tensor) -> Tensor:
    mixed = attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))
    return m.last(mixed.reshape(2, 5, WIDTH))


def channels_before_heads(m: Any, x: Tensor) -> Tensor:
    """Split the width the other way round: head h holds the channels h, h + 4, h + 8, ..."""
    q, k, v = (part(x).view(2, 5, SIZE, HEADS).permute(0, 3, 1, 2) for part in (m.q, m.k, m.v))
    return m.last(attend(q, k, v).permute(0, 2, 3, 1).flatten(2))


def talking_heads(m: Any, x: Tensor) -> Tensor:
    weights = (heads(m.q(x)) @ heads(m.k(x)).mT).softmax(-1)
    weights = torch.einsum("bhqk,gh->bgqk", weights, m.mix)
    return m.last(merge(weights @ heads(m.v(x))))


def mixed_values(m: Any, x: Tensor) -> Tensor:
    mixed = attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))
    return m.last(merge(torch.einsum("bhtd,gh->bgtd", mixed, m.mix)))


def scaled_heads(m: Any, x: Tensor) -> Tensor:
    mixed = attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))
    return m.last(merge(mixed * m.scale[:, None, None]))


def normed_heads(m: Any, x: Tensor) -> Tensor:
    q, k = m.norm(heads(m.q(x))), m.norm(heads(m.k(x)))
    return m.last(merge(attend(rotate(q), rotate(k), heads(m.v(x)))))


def values_are_keys(m: Any, x: Tensor) -> Tensor:
    k = heads(m.k(x))
    return m.last(merge(attend(heads(m.q(x)), k, k)))


def values_are_rotated_keys(m: Any, x: Tensor) -> Tensor:
    k = rotate(heads(m.k(x)))
    return m.last(merge(attend(heads(m.q(x)), k, k)))


def weights_are_outputs(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    weights = (heads(m.q(x)) @ heads(m.k(x)).mT).softmax(-1)
    return m.last(merge(weights @ heads(m.v(x)))), weights


def cache_is_output(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, v = heads(m.k(x)), heads(m.v(x))
    return m.last(merge(attend(heads(m.q(x)), k, v))), k, v


def cache_is_input(m: Any, x: Tensor, past: Tensor) -> Tensor:
    v = torch.cat([past, heads(m.v(x))], dim=2)
    k = torch.cat([past.flip(-1), heads(m.k(x))], dim=2)
    return m.last(merge(attend(heads(m.q(x)), k, v)))


def attention(name: str, code: Any, expectation: str, why: str, parts: Any = qkv, **options: Any) -> Trap:
    return net(f"attention_{name}", code, parts, [TOKENS], expectation, why, **options)


def fused() -> dict[str, Any]:
    return {"qkv": nn.Linear(20, 3 * WIDTH), "last": nn.Linear(WIDTH, 12)}


ATTENTION_TRAPS = [
    attention("plain", plain, FREE, INSIDE, blocks=BLOCKS),
    attention("causal", causal, FREE, INSIDE, blocks=BLOCKS),
    attention("rotary", rotary, FREE, "q and k stay, " + INSIDE, blocks=BLOCKS),
    attention("rotary_interleaved", rotary_interleaved, FREE, "q and k stay, " + INSIDE, blocks=BLOCKS),
    attention("rotary_values", rotary_values, FROZEN, "every pair of v has its own frequency"),
    attention(
        "grouped_interleaved", grouped_interleaved, FREE, SHARED, lambda: qkv(32, 16), blocks=BLOCKS, alike=PAIRS
    ),
    attention("grouped_tiled", grouped_tiled, EITHER, "heads i and i + 2 move alike", lambda: qkv(32, 16)),
    attention("grouped_expanded", grouped_expanded, FREE, SHARED, lambda: qkv(32, 16), blocks=BLOCKS, alike=PAIRS),
    attention("grouped_sdpa", grouped_sdpa, EITHER, SHARED, lambda: qkv(32, 16)),
    attention("grouped_broadcast", grouped_broadcast, EITHER, "all heads move alike", lambda: qkv(32, 8)),
    attention("fused_chunked", fused_chunked, FREE, INSIDE, fused, blocks=BLOCKS),
    attention("fused_by_part", fused_by_part, FREE, INSIDE, fused, blocks=BLOCKS),
    attention("fused_by_head", fused_by_head, FREE, INSIDE, fused, blocks=BLOCKS),
    attention("single_head", single_head, FREE, "v and the output move", blocks=(WIDTH,)),
    attention("linear", linear_attention, EITHER, INSIDE),
    attention("einsum", einsum, EITHER, INSIDE),
    attention("not_transposed_back", not_transposed_back, EITHER, "all heads move alike"),
    attention("channels_before_heads", channels_before_heads, EITHER, "a head is every fourth channel"),
    attention("talking_heads", talking_heads, EITHER, INSIDE, lambda: {**qkv(), "mix": parameter(4, 4)}),
    attention("mixed_values", mixed_values, EITHER, "all heads move alike", lambda: {**qkv(), "mix": parameter(4, 4)}),
    attention("scaled_heads", scaled_heads, EITHER, INSIDE, lambda: {**qkv(), "scale": parameter(4)}),
    attention("normed_heads", normed_heads, FREE, INSIDE, lambda: {**qkv(), "norm": nn.RMSNorm(8)}, blocks=BLOCKS),
    attention("values_are_keys", values_are_keys, EITHER, "q, k and the output move alike inside a head"),
    attention("values_are_rotated_keys", values_are_rotated_keys, FROZEN, "every pair of k has its own frequency"),
    attention("weights_are_outputs", weights_are_outputs, FREE, INSIDE, blocks=BLOCKS),
    attention("cache_is_output", cache_is_output, FROZEN, "v is an output"),
    net("attention_cache_is_input", cache_is_input, qkv, [TOKENS, (2, 4, 3, 8)], FROZEN, "v joins an input"),
]
