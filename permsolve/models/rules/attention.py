"""Attention in one operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from permsolve.models.rules.registry import Call, rule, span
from permsolve.models.values import Value


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """Queries against keys, then a mean of values; heads stay, channels may move within a head."""
    query, key, value = call["query"], call["key"], call["value"]
    rank = len(query.shape)
    if call.get("enable_gqa") and rank > 2 and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        source = np.repeat(span(0, key.shape[-3]), times)
        key, value = (call.algebra.move(each, len(each.shape) - 3, source) for each in (key, value))
    rank = len(call.shape)
    lead: list[Any] = list(range(rank - 2))
    scores = [*lead, "t", "s"]
    operands = [
        (query, [*lead[len(lead) + 2 - len(query.shape) :], "t", "d"]),
        (key, [*lead[len(lead) + 2 - len(key.shape) :], "s", "d"]),
    ]
    mask = call.get("attn_mask")
    if mask is not None:
        operands.append((mask, scores[rank - len(mask.shape) :]))
    shape = (*call.shape[:-1], key.shape[-2])
    hold = {"t", "s"} if call.get("is_causal") else set()
    weights = call.algebra.join(operands, scores, shape, hold=hold)
    # The softmax compares all keys with each other: it is symmetric along "s" alone.
    weights = call.algebra.join([(weights, scores)], scores, shape, within={"s"})
    last = [*lead[len(lead) + 2 - len(value.shape) :], "s", "d"]
    return call.algebra.join([(weights, scores), (value, last)], [*lead, "t", "d"], call.shape)
