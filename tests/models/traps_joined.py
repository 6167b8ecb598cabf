"""Traps: concatenated, stacked, flattened and unflattened channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trap_parts import EITHER, FREE, FROZEN, IMAGE, LINE, ROW, Trap, net


def two(last: int = 32) -> dict[str, Any]:
    """Make layers ``a`` and ``b`` side by side, and ``last``."""
    return {"a": nn.Linear(10, 16), "b": nn.Linear(10, 16), "last": nn.Linear(last, 12)}


CONCATS = [
    net(
        "cat_negative_dim",
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], dim=-3)),
        lambda: {"a": nn.Conv2d(3, 16, 3), "b": nn.Conv2d(3, 12, 3), "last": nn.Conv2d(28, 12, 1)},
        [IMAGE],
        FREE,
        "each part moves by itself",
        blocks=(16, 12),
    ),
    net(
        "cat_keywords",
        lambda m, x: m.last(torch.mean(input=torch.cat(tensors=(m.a(x), m.b(x)), dim=1), dim=(-2, -1), keepdim=False)),
        lambda: {"a": nn.Conv2d(3, 16, 3), "b": nn.Conv2d(3, 12, 3), "last": nn.Linear(28, 12)},
        [IMAGE],
        FREE,
        "each part moves by itself",
        blocks=(16, 12),
    ),
    net(
        "cat_misaligned",
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], -1)),
        lambda: {"a": nn.Linear(10, 6), "b": nn.Linear(10, 10), "last": nn.Linear(16, 12)},
        [LINE],
        EITHER,
        "parts of 6 and 10: one group of 4 has columns of both",
    ),
    net(
        "cat_twice_the_same",
        lambda m, x: m.last(torch.cat([h := m.a(x), m.b(x), h], -1)),
        lambda: two(48),
        [LINE],
        EITHER,
        "the first and the last part move alike",
    ),
    net(
        "cat_over_tokens",
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], 1)),
        lambda: two(16),
        [LINE],
        FREE,
        "a and b move alike",
    ),
    net(
        "stack_then_flatten",
        lambda m, x: m.last(torch.stack([m.a(x), m.b(x)], -1).flatten(-2)),
        two,
        [LINE],
        EITHER,
        "interleaved: pairs of columns move as one or both parts alike",
    ),
    net(
        "stack_then_view",
        lambda m, x: m.last(torch.stack([m.a(x), m.b(x)], -2).flatten(-2)),
        two,
        [LINE],
        EITHER,
        "each part moves by itself",
    ),
    net(
        "stack_then_sum",
        lambda m, x: m.last(torch.stack([m.a(x), m.b(x)]).sum(0)),
        lambda: two(16),
        [LINE],
        FREE,
        "a and b move alike",
    ),
    net(
        "cat_then_sum",
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], -1) + m.c(x)),
        lambda: {**two(), "c": nn.Linear(10, 32)},
        [LINE],
        FREE,
        "c keeps to the parts of a and b",
        blocks=(16, 16),
    ),
    net(
        "cat_of_other_cut",
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], -1) + torch.cat([m.c(x), m.d(x)], -1)),
        lambda: {**two(), "c": nn.Linear(10, 12), "d": nn.Linear(10, 20)},
        [LINE],
        FREE,
        "columns keep to 0-11, 12-15 and 16-31",
        blocks=(12, 4, 16),
    ),
    net(
        "cat_with_coordinates",
        lambda m, x: m.last(torch.cat([m.a(x), torch.linspace(-1, 1, 4).expand(2, 5, 4)], -1)),
        lambda: {"a": nn.Linear(10, 16), "last": nn.Linear(20, 12)},
        [LINE],
        EITHER,
        "the first 16 move, the coordinates stay",
    ),
]


def flatten_beside(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = torch.tanh(m.first(x))
    return m.last(hidden), m.head(hidden.flatten(1))


def conv(**more: nn.Module) -> dict[str, Any]:
    return {"first": nn.Conv2d(3, 16, 3), **more}


FLATTENED = [
    net(
        "flatten_9_positions",
        lambda m, x: m.last(torch.tanh(m.first(x)).flatten(1)),
        lambda: conv(last=nn.Linear(144, 12)),
        [(2, 3, 5, 5)],
        EITHER,
        "9 columns for each channel, moved as one",
    ),
    net(
        "flatten_4_positions",
        lambda m, x: m.last(torch.tanh(m.first(x)).flatten(1)),
        lambda: conv(last=nn.Linear(64, 12)),
        [(2, 3, 4, 4)],
        EITHER,
        "4 columns for each channel, moved as one: nothing gained",
    ),
    net(
        "flatten_beside_conv",
        flatten_beside,
        lambda: conv(last=nn.Conv2d(16, 12, 1), head=nn.Linear(144, 5)),
        [(2, 3, 5, 5)],
        FREE,
        "the flattened columns follow in blocks of 9",
    ),
    net(
        "view_beside_conv",
        lambda m, x: (m.last(h := m.first(x)), m.head(h.view(h.size(0), -1))),
        lambda: conv(last=nn.Conv2d(16, 12, 1), head=nn.Linear(64, 5)),
        [(2, 3, 4, 4)],
        FREE,
        "the flattened columns follow in blocks of 4",
    ),
    net(
        "flatten_channels_last",
        lambda m, x: m.last(m.first(x).permute(0, 2, 3, 1).flatten(1)),
        lambda: conv(last=nn.Linear(144, 12)),
        [(2, 3, 5, 5)],
        EITHER,
        "all 9 blocks of 16 columns move alike",
    ),
    net(
        "flatten_with_height",
        lambda m, x: m.last(m.first(x).flatten(1, 2)),
        lambda: conv(last=nn.Linear(4, 12)),
        [(2, 3, 5, 6)],
        FROZEN,
        "columns are positions",
    ),
    net(
        "flatten_positions",
        lambda m, x: m.last(m.first(x).flatten(2)),
        lambda: conv(last=nn.Linear(12, 12)),
        [(2, 3, 5, 6)],
        FROZEN,
        "columns are positions",
    ),
    net(
        "flatten_then_transpose",
        lambda m, x: m.last(m.first(x).flatten(2).mT),
        lambda: conv(last=nn.Linear(16, 12)),
        [(2, 3, 5, 6)],
        FREE,
        "positions became tokens",
    ),
    net(
        "pool_then_flatten",
        lambda m, x: m.last(F.adaptive_max_pool2d(m.first(x), 1).flatten(1)),
        lambda: conv(last=nn.Linear(16, 12)),
        [IMAGE],
        FREE,
        "one position: channels stay columns",
    ),
    net(
        "unflatten",
        lambda m, x: m.last(torch.tanh(m.first(x)).unflatten(-1, (16, 3, 3))),
        lambda: {"first": nn.Linear(10, 144), "last": nn.Conv2d(16, 12, 3)},
        [ROW],
        EITHER,
        "9 rows for each channel",
    ),
]


JOINED_TRAPS: list[Trap] = [*CONCATS, *FLATTENED]
