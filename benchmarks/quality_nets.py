"""Small networks of the quality benchmark, and how their dense weights are trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Iterator[tuple[Tensor, Tensor]]


def mlp(width: int = 128) -> nn.Module:
    """Return a perceptron with three hidden layers for images of 64 pixels, behind a norm of its inputs."""
    hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def cnn() -> nn.Module:
    """Return a network of five convolutions for images of 8 x 8 pixels."""
    widths, layers = (1, 32, 32, 64, 64, 64), []
    for k in range(5):
        layers += [nn.Conv2d(widths[k], widths[k + 1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[k + 1])]
        layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if k in (1, 3) else [])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Block(nn.Module):
    """A transformer's block with its norms in front: causal attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this block."""
        batch, length, width = x.shape
        normed = self.norm1(x)
        query, key, value = (
            layer(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A GPT-style language model over characters.

    Parameters
    ----------
    vocabulary
        Number of characters.
    width, blocks, heads, context
        Its sizes.
    """

    def __init__(self, vocabulary: int, width: int = 128, blocks: int = 4, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("places", torch.arange(context), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next character at every position."""
        x = self.tokens(tokens) + self.positions(self.places[: tokens.shape[1]])
        return self.head(self.norm(self.blocks(x)))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits, whatever is in front of the classes."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def train(model: nn.Module, batches: Batches, steps: int, rate: float) -> None:
    """Train a dense model by AdamW: a short warm-up, then the rate falls to zero as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    model.train()
    for _, (inputs, targets) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    model.eval()


def cached(path: Path, build: Callable[[], nn.Module], fit: Callable[[nn.Module], None]) -> nn.Module:
    """Return a dense model, trained now or read from where an earlier run left it."""
    from safetensors.torch import load_file, save_file

    model = build().eval()
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    fit(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, part)
    part.replace(path)
    return model
