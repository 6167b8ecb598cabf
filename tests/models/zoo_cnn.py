"""Convolutional networks in miniature, each with the wiring that its family is known for.

Images are 16 x 12, or 12 x 10 where nothing has to divide, so that no length is a channel count by accident.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_parts import Made, Net, Specimen, noise, parameter


def conv_bn(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> nn.Module:
    """Make convolution, BatchNorm and activation; ``act=None`` leaves the activation out."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if act is None else [act()]))


class Residual(nn.Module):
    """A residual block: a body, a shortcut (identity, convolution or function), and the sum through a ReLU."""

    def __init__(self, body: nn.Module, shortcut: Any = None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut if shortcut is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def basic(inputs: int, width: int, stride: int, shortcut: Any = None) -> nn.Module:
    body = nn.Sequential(conv_bn(inputs, width, 3, stride), conv_bn(width, width, act=None))
    if shortcut is None and (stride > 1 or inputs != width):
        shortcut = conv_bn(inputs, width, 1, stride, act=None)
    return Residual(body, shortcut)


def bottleneck(inputs: int, width: int, outputs: int, stride: int, groups: int = 1) -> nn.Module:
    body = nn.Sequential(
        conv_bn(inputs, width, 1), conv_bn(width, width, 3, stride, groups), conv_bn(width, outputs, 1, act=None)
    )
    return Residual(body, conv_bn(inputs, outputs, 1, stride, act=None) if stride > 1 or inputs != outputs else None)


def classifier(width: int, classes: int = 5) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def images(seed: int, *shape: int) -> tuple[Tensor]:
    return (noise(*(shape or (2, 3, 16, 12)), seed=seed),)


def resnet_basic(seed: int) -> Made:
    stages = [basic(16, 16, 1), basic(16, 16, 1), basic(16, 24, 2), basic(24, 24, 1), basic(24, 40, 2)]
    stem = nn.Sequential(conv_bn(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, *stages, classifier(40)), images(seed, 2, 3, 32, 24)


def resnet_bottleneck(seed: int) -> Made:
    stages = [bottleneck(16, 8, 32, 1), bottleneck(32, 8, 32, 1), bottleneck(32, 20, 48, 2), bottleneck(48, 20, 48, 1)]
    return nn.Sequential(conv_bn(3, 16), *stages, classifier(48)), images(seed)


def _pad_both_sides(x: Tensor) -> Tensor:
    quarter = x.shape[1] // 2
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))


def _cat_zeros(x: Tensor) -> Tensor:
    x = F.avg_pool2d(x, 1, 2)
    return torch.cat([x, torch.zeros_like(x)], dim=1)


def _cifar_resnet(shortcut: Any, seed: int) -> Made:
    stages = [basic(16, 16, 1), basic(16, 32, 2, shortcut), basic(32, 32, 1), basic(32, 64, 2, shortcut)]
    return nn.Sequential(conv_bn(3, 16), *stages, classifier(64)), images(seed)


def cifar_resnet_pad(seed: int) -> Made:
    return _cifar_resnet(Net(lambda _, x: _pad_both_sides(x)), seed)


def cifar_resnet_cat(seed: int) -> Made:
    return _cifar_resnet(Net(lambda _, x: _cat_zeros(x)), seed)


def inverted_residual(inputs: int, hidden: int, outputs: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        conv_bn(inputs, hidden, 1, act=nn.ReLU6),
        conv_bn(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6),
        conv_bn(hidden, outputs, 1, act=None),
    )
    if stride > 1 or inputs != outputs:
        return body
    return Net(lambda block, x: x + block.body(x), body=body)


def mobilenet_v2(seed: int) -> Made:
    blocks = [(16, 32, 16, 1), (16, 32, 24, 2), (24, 48, 24, 1), (24, 56, 20, 1)]
    trunk = [inverted_residual(*block) for block in blocks]
    head = [conv_bn(20, 40, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(40, 5)]
    return nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.ReLU6), *trunk, *head), images(seed)


def densenet(seed: int) -> Made:
    """Every layer reads the concatenation of all before it; a transition halves the width."""

    def layer(inputs: int, growth: int) -> nn.Module:
        norms = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 20, 1, bias=False))
        convs = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, growth, 3, padding=1, bias=False))
        return Net(lambda m, x: torch.cat([x, m.convs(m.norms(x))], 1), norms=norms, convs=convs)

    transition = nn.Sequential(nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 24, 1, bias=False), nn.AvgPool2d(2))
    parts = [conv_bn(3, 16), layer(16, 8), layer(24, 8), layer(32, 8), transition, layer(24, 8), layer(32, 8)]
    return nn.Sequential(*parts, nn.BatchNorm2d(40), nn.ReLU(), classifier(40)), images(seed)


def inception(seed: int) -> Made:
    def block(inputs: int, a: int, b: int, c: int, d: int) -> nn.Module:
        branches = [
            conv_bn(inputs, a, 1),
            nn.Sequential(conv_bn(inputs, 8, 1), conv_bn(8, b, 3)),
            nn.Sequential(conv_bn(inputs, 12, 1), conv_bn(12, c, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(inputs, d, 1)),
        ]
        return Net(lambda m, x: torch.cat([branch(x) for branch in m.branches], 1), branches=nn.ModuleList(branches))

    return nn.Sequential(conv_bn(3, 16), block(16, 8, 12, 4, 8), block(32, 4, 16, 8, 12), classifier(40)), images(seed)


class UNet(nn.Module):
    """Two levels down and up; the skips join by concatenation, and the output is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down, self.bottom = conv_bn(3, 16), conv_bn(16, 24), conv_bn(24, 40)
        self.up1, self.merge1 = nn.ConvTranspose2d(40, 24, 2, 2), conv_bn(48, 24)
        self.up2, self.merge2 = nn.ConvTranspose2d(24, 16, 2, 2), conv_bn(32, 20)
        self.head = nn.Conv2d(20, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.enter(x)
        middle = self.down(F.max_pool2d(high, 2))
        low = self.bottom(F.max_pool2d(middle, 2))
        middle = self.merge1(torch.cat([middle, self.up1(low)], dim=1))
        return self.head(self.merge2(torch.cat([self.up2(middle), high], dim=1)))


def unet(seed: int) -> Made:
    return UNet(), images(seed)


def resnext(seed: int) -> Made:
    stages = [bottleneck(16, 24, 32, 1, groups=3), bottleneck(32, 24, 32, 1, groups=3), bottleneck(32, 40, 48, 2, 5)]
    return nn.Sequential(conv_bn(3, 16), *stages, classifier(48)), images(seed)


def vgg(seed: int) -> Made:
    """Convolutions with biases, then flatten and linears: 2 x 3 positions, so 6 columns for each channel."""
    widths = [3, 16, 20, 24]
    convs = [
        part for a, b in pairwise(widths) for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2))
    ]
    head = [nn.Flatten(), nn.Linear(24 * 6, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 28), nn.ReLU()]
    return nn.Sequential(*convs, *head, nn.Linear(28, 5)), images(seed, 2, 3, 16, 24)


def conv1d(seed: int) -> Made:
    layers = [nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.GELU(), nn.Conv1d(16, 24, 3, 2, dilation=2)]
    head = [nn.SiLU(), nn.MaxPool1d(2), nn.Conv1d(24, 20, 1), nn.Tanh(), nn.AdaptiveAvgPool1d(3), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(60, 5)), images(seed, 2, 6, 23)


def conv3d(seed: int) -> Made:
    layers = [
        nn.Conv3d(3, 16, 3, padding=1),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(16, 20, 3, 1, 1),
    ]
    head = [nn.LeakyReLU(0.2), nn.AvgPool3d(2), nn.ConvTranspose3d(20, 12, 2, 2), nn.ELU(), nn.Conv3d(12, 4, 1)]
    return nn.Sequential(*layers, *head), images(seed, 2, 3, 4, 10, 8)


def norm_mix(seed: int) -> Made:
    """InstanceNorm with and without running statistics, GroupNorm, and PReLU with one slope per channel."""
    first = [nn.Conv2d(3, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True, track_running_stats=True), nn.PReLU(16)]
    second = [nn.Conv2d(16, 24, 3, 2, 1), nn.GroupNorm(3, 24), nn.PReLU(), nn.Conv2d(24, 20, 3, padding=1)]
    third = [nn.InstanceNorm2d(20, affine=True), nn.PReLU(20), nn.Conv2d(20, 28, 1), nn.GroupNorm(1, 28)]
    return nn.Sequential(*first, *second, *third, nn.Hardswish(), classifier(28)), images(seed)


def efficientnet(seed: int) -> Made:
    """Inverted residuals whose hidden channels are weighted by squeeze and excitation."""

    def block(inputs: int, hidden: int, outputs: int) -> nn.Module:
        gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(hidden, 8, 1), nn.SiLU(), nn.Conv2d(8, hidden, 1), nn.Sigmoid()
        )
        wide = nn.Sequential(
            conv_bn(inputs, hidden, 1, act=nn.SiLU), conv_bn(hidden, hidden, 5, 1, groups=hidden, act=nn.SiLU)
        )
        thin = conv_bn(hidden, outputs, 1, act=None)

        def forward(m: Any, x: Tensor) -> Tensor:
            hidden = m.wide(x)
            y = m.thin(hidden * m.gate(hidden))
            return x + y if y.shape == x.shape else y

        return Net(forward, wide=wide, gate=gate, thin=thin)

    return nn.Sequential(conv_bn(3, 16, 3, 2), block(16, 32, 16), block(16, 40, 24), classifier(24)), images(seed)


def shufflenet(seed: int) -> Made:
    """ShuffleNet v2: half of the channels pass by, then all are shuffled in two groups."""

    def unit(width: int) -> nn.Module:
        half = width // 2
        body = nn.Sequential(
            conv_bn(half, half, 1), conv_bn(half, half, 3, groups=half, act=None), conv_bn(half, half, 1)
        )

        def forward(m: Any, x: Tensor) -> Tensor:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat([kept, m.body(changed)], dim=1)
            batch, channels, height, length = x.shape
            return x.view(batch, 2, channels // 2, height, length).transpose(1, 2).reshape(batch, -1, height, length)

        return Net(forward, body=body)

    stages = [unit(32), unit(32), conv_bn(32, 40, 3, 2), unit(40)]
    return nn.Sequential(conv_bn(3, 32, 3, 2), *stages, classifier(40)), images(seed)


def convnext(seed: int) -> Made:
    """Depthwise convolution, LayerNorm and linears with the channels last, layer scale, and the residual sum."""

    def block(width: int) -> nn.Module:
        def forward(m: Any, x: Tensor) -> Tensor:
            y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
            y = m.scale * m.thin(F.gelu(m.wide(y)))
            return x + y.permute(0, 3, 1, 2)

        depthwise, norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        wide, thin = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return Net(forward, depthwise=depthwise, norm=norm, wide=wide, thin=thin, scale=parameter(width))

    def channel_norm(width: int) -> nn.Module:
        return Net(lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(width))

    down = [channel_norm(16), nn.Conv2d(16, 20, 2, 2)]
    head = Net(lambda m, x: m.linear(m.norm(x.mean([-2, -1]))), norm=nn.LayerNorm(20), linear=nn.Linear(20, 5))
    stem = [nn.Conv2d(3, 16, 4, 4), channel_norm(16)]
    return nn.Sequential(*stem, block(16), *down, block(20), block(20), head), images(seed, 2, 3, 32, 24)


CNNS = [
    Specimen(make.__name__, make)
    for make in (
        resnet_basic,
        resnet_bottleneck,
        cifar_resnet_pad,
        cifar_resnet_cat,
        mobilenet_v2,
        densenet,
        inception,
        unet,
        resnext,
        vgg,
        conv1d,
        conv3d,
        norm_mix,
        efficientnet,
        shufflenet,
        convnext,
    )
]
