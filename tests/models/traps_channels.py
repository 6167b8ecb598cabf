"""Traps: operations along or across the channel axis, between a layer and the next."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trap_parts import EITHER, FREE, FROZEN, IMAGE, LINE, New, Trap, image, line, net
from zoo_parts import parameter

MAP = "a fixed index map: producers can follow it"
ORDER = "depends on the order of the channels"
SYMMETRIC = "commutes with every permutation of the channels"
MIXED = "entries of the result belong to all channels"


def shuffle(x: Tensor) -> Tensor:
    batch, _, height, length = x.shape
    return x.view(batch, 4, 4, height, length).transpose(1, 2).reshape(batch, 16, height, length)


def chunk_then_swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def set_slice(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :4] = 0
    return y


def scale_slice(x: Tensor) -> Tensor:
    x[:, 3:9] *= 2.5
    return x


def copy_slice(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 4:] = x[:, :12]
    return y


def every_other(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, ::2].tanh_()
    return x


def rotate_pairs(x: Tensor) -> Tensor:
    """Rotate channels as rotary embeddings do: every pair (i, i + 8) by its own angle at every token."""
    frequencies = 10.0 ** (-torch.arange(8, dtype=x.dtype) / 4)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * frequencies + 0.5
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., 8:], x[..., :8]], -1) * sin


def hartley(x: Tensor) -> Tensor:
    spectrum = torch.fft.fft(x)
    return spectrum.real + spectrum.imag


def sorted_gather(x: Tensor) -> Tensor:
    return x.gather(-1, x.argsort(-1))


REVERSED = torch.arange(15, -1, -1)
REPEATED = torch.tensor([0, 0, 1, 2, 3, 5, 5, 7, 8, 9, 10, 15])
EVEN = torch.arange(16) % 2 == 0

INDEX_MAPS = [
    image("channel_shuffle", shuffle, EITHER, MAP),
    image("channel_shuffle_module", New(lambda: nn.ChannelShuffle(4)), EITHER, MAP),
    image("flip_channels", lambda x: x.flip(1), EITHER, MAP),
    image("roll_channels", lambda x: x.roll(3, dims=1), EITHER, MAP),
    image("chunk_then_swap", chunk_then_swap, EITHER, MAP),
    image("split_then_swap", lambda x: torch.cat(x.split([6, 10], 1)[::-1], 1), EITHER, MAP),
    image("unbind_then_stack", lambda x: torch.stack(x.unbind(1)[::-1], 1), EITHER, MAP),
    image("slice_of_channels", lambda x: x[:, 2:14], EITHER, "only channels 2 to 13 are read", 12),
    image("strided_channels", lambda x: x[:, ::2], EITHER, "only even channels are read", 8),
    image("index_select", lambda x: x.index_select(1, REVERSED), EITHER, MAP),
    image("index_by_list", lambda x: x[:, [4, 1, 15, 2, 9, 8, 0, 3]], EITHER, MAP, 8),
    image("index_with_repeats", lambda x: x[:, REPEATED], EITHER, "copies of a channel cannot part", 12),
    line("gather_by_constant", lambda x: x.gather(-1, REVERSED.expand(2, 5, 16)), EITHER, MAP),
    image("repeat_channels", lambda x: x.repeat(1, 2, 1, 1), EITHER, "both copies move alike", 32),
    image("repeat_interleave", lambda x: x.repeat_interleave(2, 1), EITHER, "pairs of copies move as one", 32),
    image(
        "cat_with_flipped", lambda x: torch.cat([x, x.flip(1)], 1), EITHER, "the second half moves in mirror image", 32
    ),
    image("cat_with_negative", lambda x: torch.cat([x, -x], 1).relu(), EITHER, "both halves move alike", 32),
    image("pad_channels", lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), EITHER, "the padding stays or trades places", 20),
    line(
        "pad_channels_circular", lambda x: F.pad(x, (2, 2), mode="circular"), EITHER, "some channels appear twice", 20
    ),
    image("pixel_shuffle", New(lambda: nn.PixelShuffle(2)), EITHER, "4 channels in a row move as one", 4),
    line("windows_of_channels", lambda x: x.unfold(-1, 4, 2).flatten(2), EITHER, "most channels are read twice", 28),
    image("set_slice", set_slice, EITHER, "channels 0 to 3 are zero; the sets cannot mix"),
    image("scale_slice_in_place", scale_slice, EITHER, "channels 3 to 8 are scaled; the sets cannot mix"),
    image("copy_slice", copy_slice, EITHER, "12 channels move up by 4"),
    image("every_other_in_place", every_other, EITHER, "even channels are squashed twice; the sets cannot mix"),
    image(
        "masked_fill_by_channel",
        lambda x: x.masked_fill(EVEN.view(16, 1, 1), 0.5),
        EITHER,
        "even channels are constant",
    ),
    line("tokens_by_index", lambda x: x[:, [0, 2, 3]], EITHER, "an index map of tokens"),
    line("slice_of_tokens", lambda x: x[:, 1:4], FREE, "only tokens are cut"),
    line("roll_tokens", lambda x: x.roll(2, dims=1), FREE, "only tokens move"),
    image("flip_columns", lambda x: x.flip(-1), FREE, "only positions move"),
]

SYMMETRIC_OPS = [
    image("softmax_channels", lambda x: x.softmax(1), EITHER, SYMMETRIC),
    image("log_softmax_channels", lambda x: x.log_softmax(1), EITHER, SYMMETRIC),
    image("normalize_channels", lambda x: F.normalize(x, dim=1), EITHER, SYMMETRIC),
    image("subtract_channel_mean", lambda x: x - x.mean(1, keepdim=True), EITHER, SYMMETRIC),
    image("gate_by_channel_maximum", lambda x: x * (x == x.amax(1, keepdim=True)), EITHER, SYMMETRIC),
    image("where_above_mean", lambda x: torch.where(x > x.mean(1, keepdim=True), x, -0.5), EITHER, SYMMETRIC),
    image("layer_norm_images", lambda x: F.layer_norm(x, x.shape[1:]), EITHER, SYMMETRIC),
    image("masked_fill", lambda x: x.masked_fill(x < 0, 0.25), FREE, "element by element"),
    image("clamp_and_cast", lambda x: x.double().clamp(-0.5, 0.7).to(x.dtype), FREE, "element by element"),
    image("upsample", New(lambda: nn.Upsample(scale_factor=2)), FREE, "each channel by itself"),
    image("blur_by_constant", lambda x: F.conv2d(x, x.new_ones(16, 1, 3, 3), groups=16), EITHER, "equal kernels"),
    image(
        "float32_only",
        lambda x: F.conv2d(x, torch.ones(16, 1, 3, 3), groups=16),
        EITHER,
        "equal kernels",
        doubles=False,
    ),
    image("detached", lambda x: x.detach(), FREE, "the identity"),
    image("mean_over_positions", lambda x: x.mean(dim=(-2, -1), keepdim=True), FREE, "each channel by itself"),
    line("softmax_tokens", lambda x: x.softmax(1), FREE, "each channel by itself"),
    line("cumsum_tokens", lambda x: x.cumsum(1), FREE, "each channel by itself"),
    line("arange_tokens", lambda x: x + torch.arange(5.0).view(5, 1), FREE, "the same for all channels"),
    line("fft_tokens", lambda x: torch.fft.fft(x, dim=1).real, EITHER, "each channel by itself"),
]

GROUPED_OPS = [
    image("group_norm", lambda x: F.group_norm(x, 4), EITHER, "symmetric inside groups of 4"),
    image("group_norm_module", New(lambda: nn.GroupNorm(2, 16)), FREE, "symmetric inside groups of 8", blocks=(8, 8)),
    image("group_norm_of_one", New(lambda: nn.GroupNorm(1, 16)), FREE, "one group of all channels"),
    image("group_norm_of_each", New(lambda: nn.GroupNorm(16, 16)), FREE, "each channel by itself"),
    image("glu", New(lambda: nn.GLU(1)), EITHER, "values move with their gates", 8),
    line("gated_by_chunk", lambda x: x[..., :8] * x[..., 8:].sigmoid(), EITHER, "values move with their gates", 8),
    image("maxout", lambda x: x.view(2, 8, 2, 7, 6).amax(2), EITHER, "pairs of channels move as one", 8),
    image("mean_of_groups", lambda x: x.view(2, 4, 4, 7, 6).mean(2), EITHER, "fours of channels move as one", 4),
    image("mean_across_groups", lambda x: x.view(2, 4, 4, 7, 6).mean(1), EITHER, "channels i + 4k move as one", 4),
    image(
        "softmax_in_groups", lambda x: x.view(2, 4, 4, 7, 6).softmax(2).view_as(x), EITHER, "symmetric inside groups"
    ),
    image("times_first_channel", lambda x: x * x[:, :1], EITHER, "channel 0 is fixed"),
    image("split_treated_apart", lambda x: torch.cat([x[:, :4].exp(), x[:, 4:]], 1), EITHER, "the sets cannot mix"),
    line("complex_modulus", lambda x: torch.complex(x[..., :8], x[..., 8:]).abs(), EITHER, "parts move together", 8),
    line("view_as_complex", lambda x: torch.view_as_complex(x.view(2, 5, 8, 2)).abs(), EITHER, "pairs move as one", 8),
]

ORDERED_OPS = [
    image("cumsum_channels", lambda x: x.cumsum(1), FROZEN, ORDER),
    image("cumprod_channels", lambda x: x.cumprod(1), FROZEN, ORDER),
    image("cummax_channels", lambda x: x.cummax(1).values, FROZEN, ORDER),
    image("diff_channels", lambda x: x.diff(dim=1, prepend=0 * x[:, :1]), FROZEN, ORDER),
    image("local_response_norm", New(lambda: nn.LocalResponseNorm(3)), FROZEN, "a window over neighbours"),
    image("even_response_norm", lambda x: F.local_response_norm(x, 4, alpha=1.0), FROZEN, "a window over neighbours"),
    line("pool_over_channels", lambda x: F.avg_pool1d(x, 3, 1, 1), FROZEN, "a window over neighbours"),
    line("interpolate_channels", lambda x: F.interpolate(x, 24, mode="linear"), FROZEN, "a blend of neighbours", 24),
    line("linspace_times_channels", lambda x: x * torch.linspace(0.5, 2, 16), FROZEN, "a constant that cannot follow"),
    image(
        "arange_per_channel", lambda x: x + torch.arange(16.0).view(-1, 1, 1), FROZEN, "a constant that cannot follow"
    ),
    image(
        "arange_per_channel_like", lambda x: x + x.new_ones(16, 1, 1).cumsum(0), FROZEN, "a constant that cannot follow"
    ),
    line("sort_channels", lambda x: x.sort(-1).values, FROZEN, "order statistics, not channels"),
    line("topk_channels", lambda x: x.topk(8, -1).values, FROZEN, "order statistics, not channels", 8),
    line("gather_by_argsort", sorted_gather, FROZEN, "order statistics, not channels"),
    line("fft_channels", hartley, FROZEN, MIXED),
    line("rfft_channels", lambda x: torch.fft.rfft(x, n=22).abs(), FROZEN, MIXED, 12),
    line("fft_both", lambda x: torch.fft.fft2(x).real, FROZEN, MIXED),
    line("filter_in_frequency", lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :5], n=16), FROZEN, MIXED),
    line("rotary_pairs", rotate_pairs, FROZEN, "every pair has its own frequency"),
    line("lower_triangle", lambda x: x.tril(), FROZEN, "channel i is there from token i on", length=16),
    line("haar_step", lambda x: (x.view(2, 5, 8, 2) * math.sqrt(0.5)).sum(-1).cumsum(-1), FROZEN, ORDER, 8),
]


def gram(x: Tensor) -> Tensor:
    return torch.einsum("btc,btd->bcd", x, x)


ACROSS = [
    line("gram_of_channels", gram, FROZEN, "the other channel axis is an output"),
    line("gram_matmul", lambda x: x.transpose(1, 2) @ x, FROZEN, "the other channel axis is an output"),
    line("gram_softmax", lambda x: gram(x).softmax(-1), FROZEN, "the other channel axis is an output"),
    line("gram_mean", lambda x: gram(x).mean(1), EITHER, "one axis is summed, the other moves"),
    line("gram_flattened", lambda x: gram(x).flatten(1), EITHER, "256 columns move as pairs of channels", 256),
    line(
        "outer_flattened",
        lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2),
        EITHER,
        "columns move as pairs",
        256,
    ),
    line("token_similarity", lambda x: x @ x.transpose(1, 2), FROZEN, "tokens, in the order of the input", 8, length=8),
    line("channel_attention", lambda x: x @ gram(x).softmax(-1), EITHER, SYMMETRIC),
    line("inverse", lambda x: torch.linalg.inv(x + 4 * torch.eye(16)), FROZEN, "rows became columns", length=16),
    line("diagonal", lambda x: x.diagonal(dim1=1, dim2=2), FROZEN, "entry i is channel i of token i", length=16),
    line("transposed", lambda x: x.transpose(1, 2), FROZEN, "tokens, in the order of the input", length=16),
    line("twice_transposed", lambda x: x.mT.contiguous().mT, FREE, "the identity", length=16),
    line("view_mixes_tokens", lambda x: x.reshape(2, 10, 8), EITHER, "the halves of a token move alike", 8),
    net(
        "view_misaligned",
        lambda m, x: m.last(torch.tanh(m.first(x)).reshape(2, 15, 16)),
        lambda: {"first": nn.Linear(10, 15), "last": nn.Linear(16, 12)},
        [(2, 16, 10)],
        FROZEN,
        "15 channels of 16 tokens: every row starts at another channel",
    ),
    image("channels_as_rows", lambda x: x.permute(0, 2, 1, 3)[:, :4], FROZEN, "rows of the image, in order", 4),
    net(
        "channels_as_depth",
        lambda m, x: m.last(m.first(x).unsqueeze(1)),
        lambda: {"first": nn.Conv2d(3, 16, 3), "last": nn.Conv3d(1, 12, 3)},
        [IMAGE],
        FROZEN,
        "one input channel, slid over the old ones",
    ),
    net(
        "eca_attention",
        lambda m, x: m.last(
            m.first(x) * m.slide(m.first(x).mean((2, 3)).unsqueeze(1)).transpose(1, 2)[..., None].sigmoid()
        ),
        lambda: {
            "first": nn.Conv2d(3, 16, 3),
            "slide": nn.Conv1d(1, 1, 3, padding=1),
            "last": nn.Conv2d(16, 12, 1),
        },
        [IMAGE],
        FROZEN,
        "a convolution along the channels",
    ),
    net(
        "unfold",
        lambda m, x: m.last(F.unfold(m.first(x), 3).transpose(1, 2)),
        lambda: {"first": nn.Conv2d(3, 16, 3), "last": nn.Linear(144, 12)},
        [IMAGE],
        EITHER,
        "9 columns for each channel, moved as one",
    ),
    net(
        "einsum_consumer",
        lambda m, x: torch.einsum("bchw,dc->bdhw", torch.tanh(m.first(x)), m.last),
        lambda: {"first": nn.Conv2d(3, 16, 3), "last": parameter(12, 16)},
        [IMAGE],
        EITHER,
        "a linear layer by another name",
        weight="last",
    ),
    net(
        "token_mixing",
        lambda m, x: m.last(torch.tanh(m.first(x)).transpose(1, 2)),
        lambda: {"first": nn.Linear(10, 16), "last": nn.Linear(8, 12)},
        [(2, 8, 10)],
        FROZEN,
        "tokens, in the order of the input",
    ),
    net(
        "token_mixing_between",
        lambda m, x: m.last(m.mix(m.first(x).transpose(1, 2)).transpose(1, 2)),
        lambda: {"first": nn.Linear(10, 16), "mix": nn.Linear(16, 16), "last": nn.Linear(16, 12)},
        [(2, 16, 10)],
        FREE,
        "each channel by itself; tokens have the same length by accident",
    ),
    net(
        "token_mixing_square",
        lambda m, x: m.last(m.mix(m.first(x).transpose(1, 2))),
        lambda: {"first": nn.Linear(10, 16), "mix": nn.Linear(16, 16), "last": nn.Linear(16, 12)},
        [(2, 16, 10)],
        FREE,
        "the mixed tokens are the producers' rows; channels stay",
    ),
    net(
        "argmax_as_output",
        lambda m, x: (m.last(m.first(x)), m.first(x).argmax(-1)),
        lambda: {"first": nn.Linear(10, 16), "last": nn.Linear(16, 12)},
        [LINE],
        FROZEN,
        "a channel's number is an output",
    ),
    net(
        "argmax_as_index",
        lambda m, x: m.last(m.table(m.first(x).argmax(-1))) + m.side(m.first(x)),
        lambda: {
            "first": nn.Linear(10, 16),
            "table": nn.Embedding(16, 20),
            "last": nn.Linear(20, 12),
            "side": nn.Linear(16, 12),
        },
        [LINE],
        EITHER,
        "rows of the table would have to follow",
        weight="side.weight",
    ),
]

CHANNEL_TRAPS: list[Trap] = [*INDEX_MAPS, *SYMMETRIC_OPS, *GROUPED_OPS, *ORDERED_OPS, *ACROSS]
