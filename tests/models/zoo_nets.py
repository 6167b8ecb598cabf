"""Other small networks: a mixer, torch's own transformers, recurrent and functional code, shared and masked weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from zoo_parts import Made, Net, Specimen, buffer, noise, parameter, tokens


def mlp_mixer(seed: int) -> Made:
    """Patches as tokens; each block mixes over the 12 tokens, then over the 20 channels."""

    def mlp(width: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def block(positions: int, width: int) -> nn.Module:
        def forward(m: Any, x: Tensor) -> Tensor:
            x = x + m.token_mixing(m.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + m.channel_mixing(m.norm2(x))

        norms = {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width)}
        return Net(forward, **norms, token_mixing=mlp(positions, 28), channel_mixing=mlp(width, 36))

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).flatten(2).transpose(1, 2)
        return m.head(m.norm(m.blocks(x)).mean(dim=1))

    parts = {"patches": nn.Conv2d(3, 20, 4, 4), "blocks": nn.Sequential(block(12, 20), block(12, 20))}
    model = Net(forward, **parts, norm=nn.LayerNorm(20), head=nn.Linear(20, 5))
    return model, (noise(2, 3, 16, 12, seed=seed),)


def _encoder(batch_first: bool, norm_first: bool, seed: int) -> Made:
    layer = nn.TransformerEncoderLayer(
        24, 3, 40, activation="gelu", batch_first=batch_first, norm_first=norm_first, dropout=0.1
    )
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(24), enable_nested_tensor=False)

    def forward(m: Any, ids: Tensor) -> Tensor:
        x = m.embedding(ids) + m.positions
        return m.head(m.encoder(x if batch_first else x.transpose(0, 1)))

    parts = {"embedding": nn.Embedding(29, 24), "encoder": encoder, "head": nn.Linear(24, 9)}
    return Net(forward, **parts, positions=parameter(1, 7, 24)), (tokens(29, 2, 7, seed=seed),)


def encoder_batch_first(seed: int) -> Made:
    return _encoder(True, True, seed)


def encoder_sequence_first(seed: int) -> Made:
    return _encoder(False, False, seed)


def _transformer(batch_first: bool, seed: int) -> Made:
    model = nn.Transformer(24, 3, 1, 2, 40, batch_first=batch_first)

    def forward(m: Any, source: Tensor, target: Tensor) -> Tensor:
        source, target = m.enter(source), m.enter(target)
        if not batch_first:
            source, target = source.transpose(0, 1), target.transpose(0, 1)
        return m.leave(m.transformer(source, target))

    parts = {"enter": nn.Linear(10, 24), "transformer": model, "leave": nn.Linear(24, 9)}
    return Net(forward, **parts), (noise(2, 7, 10, seed=seed), noise(2, 5, 10, seed=seed + 1))


def transformer_batch_first(seed: int) -> Made:
    return _transformer(True, seed)


def transformer_sequence_first(seed: int) -> Made:
    return _transformer(False, seed)


def mlp_batchnorm(seed: int) -> Made:
    layers = [nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24, bias=False), nn.BatchNorm1d(24)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(24, 20), nn.Softplus(), nn.Linear(20, 5)), (
        noise(3, 10, seed=seed),
    )


def lstm(seed: int) -> Made:
    """Linear layers before and after an LSTM, whose own weights nobody may touch."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x, _ = m.lstm(torch.tanh(m.enter(x)))
        return m.leave(F.relu(m.middle(x[:, -1])))

    parts = {"enter": nn.Linear(10, 16), "lstm": nn.LSTM(16, 12, batch_first=True), "middle": nn.Linear(12, 20)}
    return Net(forward, **parts, leave=nn.Linear(20, 5)), (noise(2, 7, 10, seed=seed),)


def embedding_mean(seed: int) -> Made:
    def forward(m: Any, ids: Tensor) -> Tensor:
        return m.leave(F.relu(m.middle(m.embedding(ids).mean(dim=1))))

    parts = {"embedding": nn.Embedding(29, 24), "middle": nn.Linear(24, 32), "leave": nn.Linear(32, 5)}
    return Net(forward, **parts), (tokens(29, 2, 7, seed=seed),)


class Functional(nn.Module):
    """No layers: free parameters, functional calls, and a buffer with one entry per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.kernel_bias = parameter(16, 3, 3, 3), parameter(16)
        self.second = parameter(24, 16, 1, 1)
        self.register_buffer("offset", torch.ones(1, 16, 1, 1))
        self.gain, self.shift = parameter(24), buffer(24)
        self.matrix, self.matrix_bias = parameter(20, 24), parameter(20)
        self.last = parameter(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.kernel_bias, padding=1)) + self.offset
        x = F.conv2d(x, self.second, stride=2).mean((2, 3))
        x = F.linear(torch.sigmoid(x * self.gain - self.shift), self.matrix, self.matrix_bias)
        return F.silu(x) @ self.last


def functional(seed: int) -> Made:
    return Functional(), (noise(2, 3, 8, 6, seed=seed),)


def tied_autoencoder(seed: int) -> Made:
    """The decoder is the transposed encoder: hidden channels are free, inputs and outputs are not."""

    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(x, m.outer, m.bias1))
        code = torch.tanh(F.linear(hidden, m.inner, m.bias2))
        hidden = torch.tanh(F.linear(code, m.inner.t(), m.bias3))
        return F.linear(hidden, m.outer.t(), m.bias4)

    weights = {"outer": parameter(32, 20), "inner": parameter(16, 32)}
    biases = {f"bias{index}": parameter(width) for index, width in enumerate((32, 16, 32, 20), 1)}
    return Net(forward, **weights, **biases), (noise(3, 20, seed=seed),)


def pruned(seed: int) -> Made:
    """Masks of ``torch.nn.utils.prune`` on two layers: the mask moves with its weight."""
    layers = [
        nn.Linear(10, 32),
        nn.ReLU(),
        nn.Linear(32, 24),
        nn.ReLU(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    ]
    prune.random_unstructured(layers[2], "weight", 0.4)
    prune.random_unstructured(layers[4], "weight", 0.4)
    return nn.Sequential(*layers), (noise(3, 10, seed=seed),)


class Masked(nn.Module):
    """A parametrization that multiplies a weight by a mask."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("weight_mask", torch.ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.weight_mask


def parametrized(seed: int) -> Made:
    """Weights computed at every call: one masked, one normalised by rows."""
    layers = [
        nn.Linear(10, 32),
        nn.ReLU(),
        nn.Linear(32, 24),
        nn.ReLU(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    ]
    parametrize.register_parametrization(layers[2], "weight", Masked(24, 32))
    parametrizations.weight_norm(layers[4])
    return nn.Sequential(*layers), (noise(3, 10, seed=seed),)


NETS = [
    Specimen(make.__name__, make)
    for make in (
        mlp_mixer,
        encoder_batch_first,
        encoder_sequence_first,
        transformer_batch_first,
        transformer_sequence_first,
        mlp_batchnorm,
        lstm,
        embedding_mean,
        functional,
        tied_autoencoder,
        pruned,
        parametrized,
    )
]
