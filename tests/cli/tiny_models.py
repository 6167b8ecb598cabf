"""Models for the tests of ``permsolve model``: a file as users write one."""

import torch
from torch import nn


class Net(nn.Module):
    """Pre-activation blocks, so that every group has something to say."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 8)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        x = self.stem(x)
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Chain(nn.Sequential):
    def __init__(self):
        parts = [part for _ in range(4) for part in (nn.Linear(192, 192), nn.ReLU())]
        super().__init__(*parts, nn.Linear(192, 8))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def build():
    return Net(), torch.randn(2, 3, 8, 8)


def bare():
    return Net()


def tied():
    return Tied(), torch.arange(12).reshape(2, 6)


def prenorm():
    return PreNorm(), torch.randn(3, 4)


def chain():
    return Chain(), torch.randn(2, 192)


def odd():
    return Odd(), torch.randn(2, 3)


def conv():
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)), torch.randn(2, 8, 8, 8)


def stubborn():
    class Model(Net):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    return Model(), torch.randn(2, 3, 8, 8)


def notanumber():
    class Model(Net):
        def forward(self, x):
            return super().forward(x) / 0 * 0

    return Model(), torch.randn(2, 3, 8, 8)
