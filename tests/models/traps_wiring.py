"""Traps: how layers are wired: inputs that join late, hidden outputs, repeated layers, names, control flow."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint
from trap_parts import EITHER, FREE, FROZEN, LINE, Trap, net
from zoo_parts import Net

WIDE = (2, 5, 16)
JOINS = "an input of the model has these channels"
LEAVES = "an output of the model has these channels"


def linears(*widths: int, first: str = "first") -> dict[str, Any]:
    """Make ``first`` and ``last``, with ``middle1``, ``middle2``, ... between them."""
    names = [first, *(f"middle{index}" for index in range(1, len(widths) - 2)), "last"]
    return {name: nn.Linear(widths[i], widths[i + 1]) for i, name in enumerate(names)}


def square() -> dict[str, Any]:
    return linears(16, 16, 12)


def pair() -> dict[str, Any]:
    return linears(10, 16, 12)


def two() -> dict[str, Any]:
    """Make layers ``a`` and ``b`` side by side, and ``last`` behind both."""
    return {"a": nn.Linear(10, 16), "b": nn.Linear(10, 16), "last": nn.Linear(16, 12)}


INPUTS = [
    net("late_sum", lambda m, x: m.last(m.first(x) + x), square, [WIDE], FROZEN, JOINS),
    net("late_product", lambda m, x: m.last(m.first(x) * x), square, [WIDE], FROZEN, JOINS),
    net("late_where", lambda m, x: m.last(torch.where(x > 0, m.first(x), 0.1)), square, [WIDE], FROZEN, JOINS),
    net("late_in_place", lambda m, x: m.last(m.first(x).add_(x)), square, [WIDE], FROZEN, JOINS),
    net("late_second_input", lambda m, x, y: m.last(m.first(x) + y), pair, [LINE, WIDE], FROZEN, JOINS),
    net("late_row_input", lambda m, x, y: m.last(m.first(x) + y), pair, [LINE, (16,)], FROZEN, JOINS),
    net("late_gram", lambda m, x: m.last(m.first(x) @ (x.mT @ x)), square, [WIDE], FROZEN, JOINS),
    net(
        "late_cat",
        lambda m, x: m.last(torch.cat([m.first(x), x], -1)),
        lambda: {"first": nn.Linear(16, 16), "last": nn.Linear(32, 12)},
        [WIDE],
        EITHER,
        "the first 16 move among themselves, the input's 16 stay",
    ),
    net(
        "late_mean",
        lambda m, x: m.last(m.first(x) + x.mean(-1, True)),
        square,
        [WIDE],
        FREE,
        "the same for all channels",
    ),
    net("late_scalar", lambda m, x, y: m.last(m.first(x) * y), pair, [LINE, ()], FREE, "the same for all channels"),
    net("late_token", lambda m, x, y: m.last(m.first(x) + y), pair, [LINE, (5, 1)], FREE, "the same for all channels"),
    net(
        "shared_with_input",
        lambda m, x: m.last(x) + m.last(torch.tanh(m.first(x))),
        square,
        [WIDE],
        FROZEN,
        "the same weight reads the input",
    ),
    net(
        "one_hot",
        lambda m, x: m.last(F.one_hot(x, 16).to(m.last.bias.dtype)),
        lambda: {"last": nn.Linear(16, 12)},
        [torch.tensor([[3, 1, 15, 0, 7]])],
        FROZEN,
        "columns are the values of the input",
    ),
]

OUTPUTS = [
    net("hidden_is_output", lambda m, x: (m.last(m.first(x)), m.first(x)), pair, [LINE], FROZEN, LEAVES),
    net(
        "hidden_in_dict", lambda m, x: {"y": m.last(h := m.first(x)), "more": [h.tanh()]}, pair, [LINE], FROZEN, LEAVES
    ),
    net("hidden_mean_is_output", lambda m, x: (m.last(h := m.first(x)), h.mean(1)), pair, [LINE], FROZEN, LEAVES),
    net(
        "hidden_column_is_output",
        lambda m, x: (m.last(h := m.first(x)), h[..., 3]),
        pair,
        [LINE],
        EITHER,
        "channel 3 stays",
    ),
    net(
        "hidden_sum_is_output",
        lambda m, x: (m.last(h := m.first(x)), h.sum(-1)),
        pair,
        [LINE],
        FREE,
        "a sum over channels",
    ),
    net(
        "hidden_sorted_is_output",
        lambda m, x: (m.last(h := m.first(x)), h.sort(-1).values),
        pair,
        [LINE],
        EITHER,
        "no order",
    ),
    net(
        "residual_output",
        lambda m, x: (h := m.first(x)) + m.last(h),
        lambda: linears(10, 16, 16),
        [LINE],
        FROZEN,
        LEAVES,
    ),
    net("ends_in_cat", lambda m, x: torch.cat([m.last(h := m.first(x)), h], -1), pair, [LINE], FROZEN, LEAVES),
    net(
        "ends_in_cat_of_layers",
        lambda m, x: torch.cat([m.side(h := torch.tanh(m.first(x))), m.last(h)], -1),
        lambda: {**pair(), "side": nn.Linear(16, 20)},
        [LINE],
        FREE,
        "what is joined at the end is not what moves",
    ),
    net(
        "ends_in_product",
        lambda m, x: m.last(torch.tanh(m.first(x))) * m.side(x),
        lambda: {**pair(), "side": nn.Linear(10, 12)},
        [LINE],
        FREE,
        "outputs stay, hidden channels move",
    ),
]


def run_twice(m: Any, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.middle1(torch.tanh(m.middle1(torch.tanh(m.first(x)))))))


def run_in_loop(m: Any, x: Tensor) -> Tensor:
    hidden = m.first(x)
    for _ in range(3):
        hidden = hidden + m.middle1(torch.tanh(hidden))
    return m.last(hidden)


REPEATED = [
    net("called_twice", run_twice, lambda: linears(10, 16, 16, 12), [LINE], EITHER, "rows and columns move alike"),
    net("called_in_loop", run_in_loop, lambda: linears(10, 16, 16, 12), [LINE], EITHER, "rows and columns move alike"),
    net(
        "called_on_two_branches",
        lambda m, x: m.last(torch.tanh(m.a(x))) + m.last(torch.tanh(m.b(x))),
        two,
        [LINE],
        EITHER,
        "both branches move alike",
    ),
    net(
        "called_on_flipped",
        lambda m, x: m.last(m.first(x)) + m.last(m.first(x).tanh().flip(-1)),
        pair,
        [LINE],
        EITHER,
        "permutations that commute with the flip",
    ),
    net(
        "producer_called_twice",
        lambda m, x, y: m.last(torch.tanh(m.first(x))) + m.other(torch.sigmoid(m.first(y))),
        lambda: {**pair(), "other": nn.Linear(16, 12)},
        [LINE, LINE],
        EITHER,
        "both consumers move alike",
    ),
    net(
        "norm_shared",
        lambda m, x: m.last(m.norm(m.a(x))) + m.side(m.norm(m.b(x))),
        lambda: {**two(), "norm": nn.LayerNorm(16), "side": nn.Linear(16, 12)},
        [LINE],
        EITHER,
        "a and b move alike, because of the norm's weight",
    ),
    net(
        "activation_shared",
        lambda m, x: m.last(m.act(m.a(x))) + m.side(m.act(m.b(x))),
        lambda: {**two(), "act": nn.ReLU(), "side": nn.Linear(16, 12)},
        [LINE],
        FREE,
        "a and b need not move alike: a ReLU has no parameters",
    ),
    net(
        "same_layer_two_names",
        lambda m, x: m.last(torch.tanh(m.alias(x))) + m.side(torch.sigmoid(m.first(x))),
        lambda: {
            "first": (first := nn.Linear(10, 16)),
            "alias": first,
            "last": nn.Linear(16, 12),
            "side": nn.Linear(16, 12),
        },
        [LINE],
        EITHER,
        "both consumers move alike",
    ),
]


class Clashing(nn.Module):
    """Names that coincide once punctuation is dropped: ``a.10``, ``a1.0``, ``a_10``, ``a10``, ``a-10``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(*(nn.Linear(16, 16) for _ in range(11)))
        self.a1 = nn.ModuleList([nn.Linear(16, 16)])
        self.a_10, self.a10, self.a_10_weight = nn.Linear(16, 16), nn.Linear(16, 16), nn.Parameter(torch.ones(16, 16))
        self.table = nn.ModuleDict({"a-10": nn.Linear(16, 16), "a 10": nn.Linear(16, 16)})
        self.last = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.a, self.a1[0], self.a_10, self.a10, self.table["a-10"], self.table["a 10"]]:
            x = torch.tanh(layer(x))
        return self.last(torch.tanh(F.linear(x, self.a_10_weight)))


def branch(m: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(m.first(x))
    if hidden.sum() > 0:
        hidden = hidden.flip(-1)
    return m.last(hidden)


def loop(m: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(m.first(x))
    for _ in range(int(x.abs().mean().item() * 3)):
        hidden = hidden.cumsum(-1)
    return m.last(hidden)


def by_shape(m: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(m.first(x))
    return m.last(hidden if x.shape[0] < 100 else hidden.flip(-1))


def cond(m: Any, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda h: m.last(h.flip(-1)), lambda h: m.last(2 * h), (torch.tanh(m.first(x)),))


def no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = m.first(x).tanh().flip(-1)
    return m.last(hidden)


def autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        hidden = m.first(x).tanh().cumsum(-1)
    return m.last(hidden)


def hooked() -> nn.Module:
    """Make two layers, with a hook on the first that weights its channels by their numbers."""
    model = Net(lambda m, x: m.last(m.first(x)), **pair())
    model.first.register_forward_hook(lambda _layer, _inputs, output: output * torch.arange(16.0))
    return model


def hooked_outside() -> nn.Module:
    model = Net(lambda m, x: m.last(m.first(x)), **square())
    model.register_forward_pre_hook(lambda _model, inputs: (inputs[0].cumsum(-1),))
    return model


CONTROL = [
    Trap("names_by_punctuation", Clashing, [WIDE], FREE, "a chain of layers, whatever their names"),
    net("branch_on_data", branch, pair, [LINE], EITHER, "half of the model is never seen", exports=False),
    net("loop_on_data", loop, pair, [LINE], FROZEN, "cumsum over channels, some number of times", exports=False),
    net("branch_on_shape", by_shape, pair, [LINE], EITHER, "right for the batch sizes of this branch only"),
    net("torch_cond", cond, pair, [LINE], EITHER, "permutations that commute with the flip"),
    net(
        "casts_to_float32",
        lambda m, x: m.last(torch.tanh(m.first(x.float()))),
        pair,
        [LINE],
        FREE,
        "runs in float32 only",
        doubles=False,
    ),
    net("no_grad_region", no_grad, pair, [LINE], EITHER, "a fixed index map inside a region"),
    net("autocast_region", autocast, pair, [LINE], FROZEN, "depends on the order, inside a region"),
    net(
        "checkpointed",
        lambda m, x: m.last(checkpoint.checkpoint(lambda y: m.first(y).cumsum(-1), x, use_reentrant=False)),
        pair,
        [LINE],
        FROZEN,
        "depends on the order, inside a region",
    ),
    Trap("forward_hook", hooked, [LINE], FROZEN, "a constant per channel, in a hook"),
    Trap("root_hook", hooked_outside, [WIDE], FREE, "the hook changes the input only"),
]

WIRING_TRAPS: list[Trap] = [*INPUTS, *OUTPUTS, *REPEATED, *CONTROL]
