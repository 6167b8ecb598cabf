"""Traps: parameters and buffers with a channel axis, or without, and norms of all kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from trap_parts import EITHER, FREE, FROZEN, LINE, ROW, New, Trap, between, image, line, net
from zoo_parts import Net, buffer, parameter

FOLLOWS = "has one entry for each channel, which follows"
CONSTANT = "the same for all channels"


class With(nn.Module):
    """Combine the input with one tensor of its own."""

    def __init__(self, tensor: Any, code: Any = torch.add):
        super().__init__()
        self.tensor, self.code = tensor, code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x, self.tensor)


def own(*shape: int, code: Any = torch.add, make: Any = parameter) -> New:
    return New(lambda: With(make(*shape), code))


def fixed(*shape: int) -> nn.Buffer:
    """Make a buffer that is computed when the module is made and is not in the state dict."""
    count = torch.Size(shape).numel()
    return nn.Buffer(torch.linspace(0.5, 2, count).reshape(shape), persistent=False)


def constant(*shape: int) -> Tensor:
    """Make a plain tensor, which the module does not even know."""
    return torch.linspace(0.5, 2, torch.Size(shape).numel()).reshape(shape)


def with_lists(m: Any, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x)) * m.some[1] + m.more["shift"])


def lists() -> dict[str, Any]:
    some, more = nn.ParameterList([parameter(4), parameter(16)]), nn.ParameterDict({"shift": parameter(16)})
    return {"first": nn.Linear(10, 16), "some": some, "more": more, "last": nn.Linear(16, 12)}


ADDED = [
    image("add_c11", own(16, 1, 1), FREE, FOLLOWS),
    image("add_1c11", own(1, 16, 1, 1), FREE, FOLLOWS),
    image("add_1chw", own(1, 16, 7, 6), FREE, FOLLOWS),
    image("add_hw", own(7, 6), FREE, CONSTANT),
    image("add_111", own(1, 1, 1), FREE, CONSTANT),
    image("multiply_scalar", own(code=torch.mul), FREE, CONSTANT),
    line("add_c", own(16), FREE, FOLLOWS),
    line("add_1c", own(1, 16), FREE, FOLLOWS),
    line("add_tokens_c", own(5, 16), FREE, FOLLOWS),
    line("add_tokens_1", own(5, 1), FREE, CONSTANT),
    line("multiply_c", own(16, code=torch.mul), FREE, FOLLOWS),
    line("threshold_c", own(16, code=torch.maximum), FREE, FOLLOWS),
    line("compare_with_c", own(16, code=lambda x, t: torch.where(x > t - 1, x, 0.1 * x)), FREE, FOLLOWS),
    line("power_of_c", own(16, code=lambda x, t: x.sigmoid().pow(t)), FREE, FOLLOWS),
    net("parameters_in_lists", with_lists, lists, [LINE], FREE, FOLLOWS),
    line("buffer_c", own(16, make=buffer), FREE, FOLLOWS),
    image("buffer_c11", own(16, 1, 1, code=torch.mul, make=buffer), FREE, FOLLOWS),
    line("add_square", own(16, 16), FREE, "only the second axis has channels", length=16),
    line(
        "add_square_transposed",
        own(16, 16, code=lambda x, t: x + t.t()),
        FREE,
        "the first axis has channels",
        length=16,
    ),
    line("add_tokens_square", own(16, 1), FREE, "tokens, as many as channels", length=16),
    line("add_cube", own(16, 16, 16, code=lambda x, t: x + t.sum((0, 1))), EITHER, "only the last axis has channels"),
    line("times_square", own(16, 16, code=torch.matmul), FREE, "rows follow the producers, columns the consumers"),
    line("times_square_buffer", own(16, 16, code=torch.matmul, make=buffer), EITHER, "its columns could be reordered"),
    line(
        "times_square_and_diagonal", own(16, 16, code=lambda x, t: x @ t + x * t.diagonal()), EITHER, "both axes alike"
    ),
    line("times_square_both_ways", own(16, 16, code=lambda x, t: x @ t + x @ t.t()), EITHER, "both axes alike"),
    line("times_lower_triangle", own(16, 16, code=lambda x, t: x @ t.tril()), FROZEN, "a triangle has an order"),
    line(
        "times_inverse", own(16, 16, code=lambda x, t: x @ torch.linalg.inv(t + 4 * torch.eye(16))), EITHER, "both axes"
    ),
    line(
        "times_sorted_parameter",
        own(16, code=lambda x, t: x * t.sort().values),
        FROZEN,
        "order statistics cannot follow",
    ),
    line("times_softmax_parameter", own(16, code=lambda x, t: x * t.softmax(0)), EITHER, FOLLOWS),
    line("times_cumsum_parameter", own(16, code=lambda x, t: x * t.cumsum(0)), FROZEN, "depends on the order"),
    line("times_repeated_parameter", own(4, code=lambda x, t: x * t.repeat(4)), EITHER, "one entry for four channels"),
    line("times_sliced_parameter", own(24, code=lambda x, t: x * t[4:20]), EITHER, "16 of 24 entries follow"),
    line(
        "times_viewed_parameter", own(4, 4, code=lambda x, t: x * t.flatten()), EITHER, "16 entries, stored as a square"
    ),
    line("buffer_not_saved", own(16, code=torch.mul, make=fixed), FROZEN, "a plain state dict would not carry it"),
    line("attribute_constant", own(16, code=torch.mul, make=constant), FROZEN, "a plain state dict would not carry it"),
    line(
        "buffer_mask",
        New(lambda: With(nn.Buffer(torch.arange(16) % 3 == 0), lambda x, t: x.masked_fill(t, 0.5))),
        EITHER,
        FOLLOWS,
    ),
    line(
        "buffer_index",
        New(lambda: With(nn.Buffer(torch.arange(16).flip(0)), lambda x, t: x[..., t])),
        EITHER,
        "a fixed index map, stored in the model",
    ),
]


def normed(name: str, middle: Any, dims: int, why: str = FOLLOWS, expectation: str = FREE, **options: Any) -> Trap:
    """Trap a norm between two convolutions over ``dims`` axes (0: linear layers)."""
    if not dims:
        return net(
            name,
            lambda m, x: m.last(m.middle(m.first(x))),
            lambda: {"first": nn.Linear(10, 16), "middle": middle(), "last": nn.Linear(16, 12)},
            [ROW],
            expectation,
            why,
            **options,
        )
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    shape = (2, 3, 7, 6, 5)[: dims + 2]
    return Trap(name, lambda: between(conv(3, 16, 3), middle(), conv(16, 12, 1)), [shape], expectation, why, **options)


def in_training(module: nn.Module) -> nn.Module:
    """Keep a module in training mode, whatever its parent does."""
    module.train()
    module.train = lambda mode=True: module
    return module


def frozen_norm() -> nn.Module:
    """Make a BatchNorm of buffers, as detection models have."""

    def forward(m: Any, x: Tensor) -> Tensor:
        scale = m.weight * (m.running_var + 1e-5).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (m.bias - m.running_mean * scale).reshape(1, -1, 1, 1)

    return Net(forward, **{name: buffer(16) for name in ("weight", "bias", "running_mean", "running_var")})


def rms_by_hand() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        wide = x.float()
        return m.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    return Net(forward, weight=parameter(16))


NORMS = [
    normed("prelu", lambda: nn.PReLU(16), 2),
    normed("prelu_of_one", lambda: nn.PReLU(1), 2, CONSTANT),
    normed("batch_norm_rows", lambda: nn.BatchNorm1d(16), 0),
    normed("batch_norm_1d", lambda: nn.BatchNorm1d(16), 1),
    normed("batch_norm_2d", lambda: nn.BatchNorm2d(16), 2),
    normed("batch_norm_3d", lambda: nn.BatchNorm3d(16), 3),
    normed("batch_norm_plain", lambda: nn.BatchNorm2d(16, affine=False), 2),
    normed("batch_norm_no_statistics", lambda: nn.BatchNorm2d(16, track_running_stats=False), 2),
    normed("batch_norm_training", lambda: in_training(nn.BatchNorm2d(16)), 2, "its statistics are state", EITHER),
    normed("sync_batch_norm", lambda: nn.SyncBatchNorm(16), 2),
    normed("frozen_batch_norm", frozen_norm, 2),
    normed("instance_norm_1d", lambda: nn.InstanceNorm1d(16, affine=True), 1),
    normed("instance_norm_2d", lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True), 2),
    normed("instance_norm_3d", lambda: nn.InstanceNorm3d(16, track_running_stats=True), 3),
    normed("layer_norm", lambda: nn.LayerNorm(16), 0),
    normed("layer_norm_plain", lambda: nn.LayerNorm(16, elementwise_affine=False), 0),
    normed("layer_norm_of_images", lambda: nn.LayerNorm([16, 5, 4]), 2, "weights have a channel axis", EITHER),
    normed("rms_norm", lambda: nn.RMSNorm(16), 0),
    normed("rms_norm_by_hand", rms_by_hand, 0),
    line("batch_norm_over_tokens", New(lambda: nn.BatchNorm1d(16)), FREE, "its entries are tokens", length=16),
    line("layer_norm_of_square", New(lambda: nn.LayerNorm([16, 16])), EITHER, "tokens by channels", length=16),
]


PARAMETER_TRAPS: list[Trap] = [*ADDED, *NORMS]
