"""Traps: weights that are shared, share their memory or are computed, and convolutions of all kinds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from trap_parts import EITHER, FREE, FROZEN, IMAGE, LINE, New, Trap, image, line, net
from zoo_parts import Net, buffer, parameter


def counting() -> nn.Module:
    """Make a layer that keeps an average of its channels in a buffer, and subtracts it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.average.mul_(0.9).add_(0.1 * x.mean((0, 1)))
        return x - m.average

    return Net(forward, average=buffer(16))


def tie(rows: int, cols: int, **more: Any) -> dict[str, Any]:
    return {"last": parameter(rows, cols), **more}


def embeddings() -> dict[str, Any]:
    last = nn.Linear(16, 29, bias=False)
    table = nn.Embedding(29, 16)
    table.weight = last.weight
    return {"last": last, "table": table, "middle": nn.Linear(16, 16)}


def aliased() -> dict[str, Any]:
    """Make two parameters over the same memory, each the transposed other: writing one writes both."""
    first, last = nn.Linear(10, 16), nn.Linear(16, 10)
    last.weight = nn.Parameter(first.weight.detach().t())
    return {"first": first, "last": last}


def flat_memory() -> dict[str, Any]:
    """Make two weights that are pieces of one tensor, as some trainers keep them."""
    memory = torch.ones(16 * 10 + 12 * 16)
    first, last = nn.Linear(10, 16), nn.Linear(16, 12)
    first.weight = nn.Parameter(memory[:160].view(16, 10))
    last.weight = nn.Parameter(memory[160:].view(12, 16))
    return {"first": first, "last": last}


def pair(**more: Any) -> dict[str, Any]:
    return {"first": nn.Linear(10, 16), **more}


def standardise(weight: Tensor) -> Tensor:
    return (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)


def lora(m: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(m.first(x))
    return m.last(hidden) + m.up(m.down(hidden))


def experts(m: Any, x: Tensor) -> Tensor:
    """Route every token to all experts, weighted: three pairs of stacked weights."""
    hidden = torch.einsum("btc,ehc->bteh", x, m.first).relu()
    return torch.einsum("bteh,eoh,bte->bto", hidden, m.last, m.router(x).softmax(-1))


SHARED = [
    net(
        "embedding_tied",
        lambda m, x: m.last(torch.tanh(m.middle(m.table(x)))),
        embeddings,
        [torch.arange(10).view(2, 5)],
        EITHER,
        "hidden channels and the embedding's move alike, vocabulary stays",
    ),
    net(
        "embedding_tied_residual",
        lambda m, x: m.last((h := m.table(x)) + m.middle(h)),
        embeddings,
        [torch.arange(10).view(2, 5)],
        FREE,
        "one stream from the embedding to the head",
    ),
    net(
        "tied_transposed",
        lambda m, x: F.linear(F.linear(x, m.last.t()).tanh(), m.last),
        lambda: tie(10, 16),
        [LINE],
        EITHER,
        "hidden channels are columns in both uses",
        weight="last",
    ),
    net(
        "tied_square",
        lambda m, x: F.linear(F.linear(x, m.last).tanh(), m.last),
        lambda: tie(16, 16),
        [(2, 5, 16)],
        FROZEN,
        "its columns are inputs of the model, too",
        weight="last",
    ),
    net(
        "tied_square_behind",
        lambda m, x: m.out(F.linear(F.linear(m.first(x), m.last).tanh(), m.last)),
        lambda: tie(16, 16, first=nn.Linear(10, 16), out=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "rows and columns alike",
        weight="last",
    ),
    net(
        "tied_square_transposed",
        lambda m, x: m.out(F.linear(F.linear(m.first(x), m.last).tanh(), m.last.t())),
        lambda: tie(16, 16, first=nn.Linear(10, 16), out=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "rows and columns apart",
        weight="last",
    ),
    net(
        "tied_bias_and_gain",
        lambda m, x: m.last(F.linear(x, m.weight, m.both).tanh() * m.both),
        lambda: {"weight": parameter(16, 10), "both": parameter(16), "last": nn.Linear(16, 12)},
        [LINE],
        FREE,
        "the parameter follows in both uses",
    ),
    net(
        "tied_bias_of_two",
        lambda m, x: m.last(F.linear(x, m.a, m.bias).tanh()) + m.side(F.linear(x, m.b, m.bias).sin()),
        lambda: {
            "a": parameter(16, 10),
            "b": parameter(16, 10),
            "bias": parameter(16),
            "last": nn.Linear(16, 12),
            "side": nn.Linear(16, 12),
        },
        [LINE],
        EITHER,
        "a and b move alike, because of the bias",
    ),
    net(
        "row_and_gain",
        lambda m, x: m.last(m.first(x).tanh() * m.first.weight[:, 3]),
        lambda: pair(last=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "a column of the first weight, which follows",
    ),
    net(
        "memory_aliased",
        lambda m, x: m.last(torch.tanh(m.first(x))),
        aliased,
        [LINE],
        EITHER,
        "right if written once: the weights share their memory",
    ),
    net("memory_flat", lambda m, x: m.last(torch.tanh(m.first(x))), flat_memory, [LINE], FREE, "pieces of one tensor"),
    line("state_of_channels", New(counting), EITHER, "a buffer that changes at each call"),
]

COMPUTED = [
    net(
        "weight_sliced_columns",
        lambda m, x: F.linear(m.first(x).tanh(), m.last[:, :16]),
        lambda: pair(last=parameter(12, 24)),
        [LINE],
        EITHER,
        "16 of 24 columns",
        weight="last",
    ),
    net(
        "weight_sliced_rows",
        lambda m, x: m.last(F.linear(x, m.weight[:8]).tanh()),
        lambda: {"weight": parameter(16, 10), "last": nn.Linear(8, 12)},
        [LINE],
        EITHER,
        "8 of 16 rows",
    ),
    net(
        "weight_halves",
        lambda m, x: m.last(F.linear(x, m.weight[:16]).tanh() * F.linear(x, m.weight[16:])),
        lambda: {"weight": parameter(32, 10), "last": nn.Linear(16, 12)},
        [LINE],
        EITHER,
        "both halves move alike",
    ),
    net(
        "weight_flipped",
        lambda m, x: F.linear(m.first(x).tanh(), m.last.flip(1)),
        lambda: pair(last=parameter(12, 16)),
        [LINE],
        EITHER,
        "a fixed index map",
        weight="last",
    ),
    net(
        "weight_masked",
        lambda m, x: F.linear(m.first(x).tanh(), m.last * m.last_mask),
        lambda: pair(last=parameter(12, 16), last_mask=buffer(12, 16)),
        [LINE],
        EITHER,
        "the mask follows",
        weight="last",
    ),
    net(
        "weight_square_masked",
        lambda m, x: m.out(F.linear(m.first(x).tanh(), m.last * m.last_mask).tanh()),
        lambda: pair(last=parameter(16, 16), last_mask=buffer(16, 16), out=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "the mask follows along the same axis",
        weight="last",
    ),
    net(
        "weight_lower_triangle",
        lambda m, x: F.linear(m.first(x).tanh(), m.last.tril()),
        lambda: pair(last=parameter(16, 16)),
        [LINE],
        FROZEN,
        "a triangle has an order",
        weight="last",
    ),
    net(
        "weight_standardised",
        lambda m, x: F.linear(m.first(x).tanh(), standardise(m.last)),
        lambda: pair(last=parameter(12, 16)),
        [LINE],
        EITHER,
        "mean and deviation have no order",
        weight="last",
    ),
    net(
        "weight_of_two_factors",
        lambda m, x: F.linear(m.first(x).tanh(), m.rows @ m.last),
        lambda: pair(rows=parameter(12, 4), last=parameter(4, 16)),
        [LINE],
        EITHER,
        "the second factor moves",
        weight="last",
    ),
    net(
        "weight_norm",
        lambda m, x: m.last(m.first(x).tanh()),
        lambda: pair(last=parametrizations.weight_norm(nn.Linear(16, 12))),
        [LINE],
        EITHER,
        "norms of rows have no order",
        weight="last.parametrizations.weight.original1",
    ),
    net(
        "spectral_norm",
        lambda m, x: m.last(m.first(x).tanh()),
        lambda: pair(last=parametrizations.spectral_norm(nn.Linear(16, 12))),
        [LINE],
        EITHER,
        "the singular vector follows",
        weight="last.parametrizations.weight.original",
    ),
    net(
        "low_rank_addition",
        lora,
        lambda: pair(last=nn.Linear(16, 12), down=nn.Linear(16, 4, bias=False), up=nn.Linear(4, 12, bias=False)),
        [LINE],
        FREE,
        "the addition reads the same channels",
    ),
    net(
        "expert_stack",
        experts,
        lambda: {"first": parameter(3, 16, 10), "last": parameter(3, 12, 16), "router": nn.Linear(10, 3)},
        [LINE],
        EITHER,
        "every expert by itself",
        weight="last",
    ),
    net(
        "bilinear",
        lambda m, x: m.last(torch.tanh(m.first(x)), m.other(x)),
        lambda: pair(other=nn.Linear(10, 8), last=nn.Bilinear(16, 8, 12)),
        [LINE],
        EITHER,
        "an unknown operator",
    ),
    net(
        "lstm",
        lambda m, x: m.last(m.lstm(m.first(x))[0]),
        lambda: pair(lstm=nn.LSTM(16, 16, batch_first=True), last=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "an unknown operator",
    ),
    net(
        "gru_input",
        lambda m, x: m.last(torch.tanh(m.first(x)))[0],
        lambda: pair(last=nn.GRU(16, 12, batch_first=True)),
        [LINE],
        EITHER,
        "an unknown operator",
        weight="last.weight_ih_l0",
    ),
    net(
        "lstm_cell_loop",
        lambda m, x: m.last(m.cell(m.first(x[:, 1]), m.cell(m.first(x[:, 0])))[0]),
        lambda: pair(cell=nn.LSTMCell(16, 16), last=nn.Linear(16, 12)),
        [LINE],
        EITHER,
        "gates cut by chunks, state fed back",
    ),
    net(
        "embedding_bag",
        lambda m, x: m.last(m.bag(x)),
        lambda: {"bag": nn.EmbeddingBag(29, 16), "last": nn.Linear(16, 12)},
        [torch.arange(10).view(2, 5)],
        EITHER,
        "its columns move",
    ),
]


def last_conv(name: str, make: Any, expectation: str, why: str, wide: int = 16, dims: int = 2, **options: Any) -> Trap:
    """Trap a convolution of some kind as the consumer."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    parts = {"expectation": expectation, "why": why, **options}
    return net(
        name,
        lambda m, x: m.last(torch.tanh(m.first(x))),
        lambda: {"first": conv(3, wide, 3), "last": make()},
        [(2, 3, 7, 6, 5)[: dims + 2]],
        **parts,
    )


CONVS = [
    image("depthwise", New(lambda: nn.Conv2d(16, 16, 3, groups=16)), FREE, "each channel by itself"),
    image("depthwise_multiplied", New(lambda: nn.Conv2d(16, 32, 3, groups=16)), EITHER, "pairs of outputs", 32),
    image(
        "grouped_between",
        New(lambda: nn.Conv2d(16, 24, 1, groups=2)),
        FREE,
        "outputs move inside their groups",
        24,
        blocks=(12, 12),
    ),
    image(
        "transposed_between", New(lambda: nn.ConvTranspose2d(16, 20, 3, 2)), FREE, "its outputs are its second axis", 20
    ),
    image(
        "transposed_depthwise", New(lambda: nn.ConvTranspose2d(16, 16, 3, groups=16)), EITHER, "each channel by itself"
    ),
    image(
        "transposed_grouped",
        New(lambda: nn.ConvTranspose2d(16, 24, 3, groups=2)),
        EITHER,
        "each group has 12 outputs",
        24,
    ),
    last_conv("grouped", lambda: nn.Conv2d(16, 12, 1, groups=2), FREE, "inputs move inside groups of 8", blocks=(8, 8)),
    last_conv("grouped_narrow", lambda: nn.Conv2d(12, 8, 1, groups=2), EITHER, "6 columns for each group", 12),
    last_conv("depthwise_last", lambda: nn.Conv2d(16, 16, 3, groups=16), FROZEN, "one column; its outputs are outputs"),
    last_conv("transposed_1d", lambda: nn.ConvTranspose1d(16, 12, 3), FREE, "its inputs are its first axis", dims=1),
    last_conv("transposed_2d", lambda: nn.ConvTranspose2d(16, 12, 3, 2), FREE, "its inputs are its first axis"),
    last_conv("transposed_3d", lambda: nn.ConvTranspose3d(16, 12, 3), FREE, "its inputs are its first axis", dims=3),
    last_conv("transposed_square", lambda: nn.ConvTranspose2d(16, 16, 3), FREE, "its inputs are its first axis"),
    last_conv("transposed_grouped_last", lambda: nn.ConvTranspose2d(16, 12, 3, groups=2), EITHER, "inside groups of 8"),
    last_conv(
        "circular", lambda: nn.Conv2d(16, 12, 3, padding=1, padding_mode="circular"), EITHER, "only positions wrap"
    ),
    last_conv(
        "channels_last_memory",
        lambda: nn.Conv2d(16, 12, 3).to(memory_format=torch.channels_last),
        FREE,
        "strides in memory are nobody's business",
    ),
    net(
        "unbatched",
        lambda m, x: m.last(torch.tanh(m.first(x))),
        lambda: {"first": nn.Conv2d(3, 16, 3), "last": nn.Conv2d(16, 12, 1)},
        [IMAGE[1:]],
        FREE,
        "no batch axis",
    ),
]

WEIGHT_TRAPS: list[Trap] = [*SHARED, *COMPUTED, *CONVS]
