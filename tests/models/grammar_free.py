"""A grammar of what everyday networks do to channels: by construction, every weight behind another one can be permuted.

All widths are multiples of 8, channels are only cut and joined at multiples of 8, and inputs are read by layers only.
Whatever is drawn, 2:4 leaves at least two groups in each block, so that a weight that stays is a needless refusal.
"""

from __future__ import annotations

import random
from typing import Any

from grammar import Draw, Production, Rejected, Var

PRODUCTIONS: dict[Production, float] = {}


def production(weight: float) -> Any:
    """Register a production with how often it is drawn."""

    def register(function: Production) -> Production:
        PRODUCTIONS[function] = weight
        return function

    return register


def start(seed: int, rng: random.Random) -> Draw:
    """Begin with an image, tokens, or rows, and a layer."""
    width = rng.choice([8, 16, 24, 32])
    if rng.random() < 0.5:
        g = Draw(seed, rng, {"x0": ("torch.randn((2, 3, 5, 6), generator=g)", 1)})
        g.emit(f"{g.part(f'nn.Conv2d(3, {width}, 3, padding=1, bias=False)')}(x0)", axis=1)
    elif rng.random() < 0.5:
        g = Draw(seed, rng, {"x0": ("torch.randint(9, (2, 5), generator=g)", -1)})
        g.emit(f"{g.part(f'nn.Embedding(9, {width})')}(x0)")
    else:
        g = Draw(seed, rng, {"x0": ("torch.randn((2, 7), generator=g)", -1)})
        g.emit(f"{g.part(f'nn.Linear(7, {width})')}(x0)")
    return g


def pick(g: Draw, rank: int = 0, channels: int = 0) -> Var:
    """Draw a tensor with channels on axis 1 of an image, or on the last axis of anything else."""
    return g.pick(lambda x: plain(x) and (not rank or x.rank == rank) and x.channels >= channels, inputs=0)


def plain(x: Var) -> bool:
    """Whether a tensor is no heads of an attention."""
    return x.axis == (1 if x.rank == 4 else x.rank - 1)


def read(g: Draw, x: Var, width: int) -> Var:
    """Read a tensor with a layer."""
    if x.rank == 4:
        kernel = g.choose("1", "3, padding=1", "1, bias=False", "3, padding=2, dilation=2")
        return g.emit(f"{g.part(f'nn.Conv2d({x.channels}, {width}, {kernel})')}({x})", axis=1)
    if g.chance(0.15):
        return g.emit(f"{x} @ {g.part(f'parameter({x.channels}, {width})')}")
    bias = g.choose("", ", bias=False")
    return g.emit(f"{g.part(f'nn.Linear({x.channels}, {width}{bias})')}({x})")


def end(g: Draw) -> None:
    """Read all tensors that nothing has read, and return what comes out."""
    fresh = [x for x in g.vars if x.name not in g.used]
    g.output = f"({', '.join(str(read(g, x, 3)) for x in fresh)},)"


@production(6)
def layer(g: Draw) -> None:
    read(g, pick(g), g.choose(8, 16, 16, 24, 32))


@production(5)
def activation(g: Draw) -> None:
    x = pick(g)
    forms = [
        "{x}.relu()",
        "F.gelu({x})",
        "F.silu({x})",
        "{x}.tanh()",
        "F.leaky_relu({x})",
        "F.hardswish({x})",
        "F.relu6({x})",
    ]
    g.emit(g.choose(*forms, "F.dropout({x}, 0.1, False)", "{x} * 0.5", "{x}.contiguous()").format(x=x), like=x)


@production(4)
def norm(g: Draw) -> None:
    x = pick(g)
    c = x.channels
    if x.rank == 4:
        forms = [
            f"nn.BatchNorm2d({c})",
            f"nn.BatchNorm2d({c})",
            f"nn.GroupNorm({c // 8}, {c})",
            f"nn.InstanceNorm2d({c}, affine=True)",
        ]
        forms += [f"nn.GroupNorm(1, {c})", f"nn.PReLU({c})", f"nn.InstanceNorm2d({c}, track_running_stats=True)"]
        g.emit(f"{g.part(g.choose(*forms))}({x})", like=x)
    elif g.chance(0.2):
        g.emit(f"{x} * ({x}.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * {g.part(f'parameter({c})')}")
    else:
        g.emit(f"{g.part(g.choose(f'nn.LayerNorm({c})', f'nn.RMSNorm({c})', f'nn.LayerNorm({c}, bias=False)'))}({x})")


@production(5)
def residual(g: Draw) -> None:
    x = pick(g)
    y = g.pick(lambda y: y is not x and plain(y) and y.shape == x.shape, inputs=0)
    g.emit(g.choose(f"{x} + {y}", f"{x} + {y}", f"{x} * {y}", f"{x} + 0.5 * {y}", f"{x} * {y}.sigmoid()"), like=x)


@production(3)
def branch(g: Draw) -> None:
    """Read a tensor, come back to its width, and add it."""
    x = pick(g)
    y = read(g, read(g, x, g.choose(8, 16)), x.channels)
    if y.shape != x.shape:
        raise Rejected
    g.emit(f"{x} + {y}", like=x)


@production(3)
def joined(g: Draw) -> None:
    x = pick(g)
    a = x.axis

    def fits(y: Var) -> bool:
        return plain(y) and y.rank == x.rank and y.shape[:a] == x.shape[:a] and y.shape[a + 1 :] == x.shape[a + 1 :]

    y = g.pick(fits, inputs=0)
    g.emit(f"torch.cat([{x}, {y}], {g.choose(a, a - x.rank)})", like=x)


@production(2)
def cut(g: Draw) -> None:
    x = pick(g, channels=16)
    a, n = g.choose(x.axis, x.axis - x.rank), x.channels
    first = 8 * g.random.randrange(1, n // 8)
    forms = [f"{x}.narrow({a}, {first}, {n - first})", f"{x}.split([{first}, {n - first}], {a})[0]"]
    if n % 16 == 0:
        forms += [f"F.glu({x}, {a})", f"{x}.chunk(2, {a})[1]", f"torch.cat({x}.chunk(2, {a})[::-1], {a})"]
    g.emit(g.choose(*forms), like=x)


@production(2)
def free_parameter(g: Draw) -> None:
    x = pick(g)
    c = x.channels
    shapes = {
        4: [f"{c}, 1, 1", f"1, {c}, 1, 1", f"{c}, 1, {x.shape[-1]}"],
        3: [f"{c}", f"5, {c}", f"1, 5, {c}"],
        2: [f"{c}", f"1, {c}"],
    }
    kind = g.choose("parameter", "parameter", "buffer")
    other = g.part(f"{kind}({g.choose(*shapes[x.rank])})")
    g.emit(g.choose(f"{x} + {other}", f"{x} * {other}"), like=x)


@production(3)
def convolution(g: Draw) -> None:
    """Depthwise, grouped and transposed convolutions; a multiplier only in front of groups of 4 for each channel."""
    x = pick(g, rank=4)
    c = x.channels
    forms = [
        f"nn.Conv2d({c}, {c}, 3, padding=1, groups={c})",
        f"nn.Conv2d({c}, {c}, 3, padding=1, groups={c}, bias=False)",
    ]
    forms += [f"nn.ConvTranspose2d({c}, 16, 1)", f"nn.Conv2d({c}, {g.choose(1, 2) * c}, 1, groups={c // 8})"]
    forms += [
        f"nn.ConvTranspose2d({c}, {c}, 1, groups={c // 8})",
        f"nn.ConvTranspose2d({c}, {c}, 3, padding=1, groups={c})",
    ]
    g.emit(f"{g.part(g.choose(*forms))}({x})", like=x)


@production(2)
def space(g: Draw) -> None:
    """Pool, pad, interpolate; or leave the image."""
    x = pick(g, rank=4)
    forms = [
        "F.max_pool2d({x}, 2)",
        "F.avg_pool2d({x}, 3, 1, 1)",
        "F.pad({x}, (1, 1, 0, 0))",
        "{x}.flip(-1)",
        "{x}[..., 1:]",
    ]
    forms += [
        "F.interpolate({x}, scale_factor=2)",
        "F.pad({x}, (1, 0), mode='replicate')",
        "{x}.roll(1, 2)",
        "{x}.mT",
        "{x}.cumsum(3)",
    ]
    away = [
        "{x}.mean((2, 3))",
        "F.adaptive_avg_pool2d({x}, 1).flatten(1)",
        "{x}.flatten(2).transpose(1, 2)",
        "{x}.amax((-2, -1))",
    ]
    away += ["{x}.permute(0, 2, 3, 1).flatten(1, 2)", "F.adaptive_max_pool2d({x}, 1).squeeze()"]
    if g.chance(0.6):
        g.emit(g.choose(*forms).format(x=x), axis=1)
    else:
        g.emit(g.choose(*away).format(x=x))


@production(1)
def tokens(g: Draw) -> None:
    x = pick(g, rank=3)
    g.emit(g.choose(f"{x}.mean(1)", f"{x}[:, 0]", f"{x}.amax(1)", f"{x}.flip(1)", f"{x}.cumsum(1)", f"{x}[:, 1:]"))


@production(2)
def gated(g: Draw) -> None:
    x = pick(g, rank=4)
    c = x.channels
    s = g.emit(f"F.silu({g.part(f'nn.Conv2d({c}, 8, 1)')}({x}.mean((2, 3), keepdim=True)))", axis=1)
    g.emit(f"{x} * {g.part(f'nn.Conv2d(8, {c}, 1)')}({s}).sigmoid()", like=x)


@production(3)
def attention(g: Draw) -> None:
    x = pick(g, rank=3)
    c, t, d = x.channels, x.shape[1], 8
    h, kv = g.choose((2, 2), (2, 1), (4, 2), (1, 1))

    def heads(n: int) -> Var:
        return g.emit(f"{g.part(f'nn.Linear({c}, {n * d})')}({x}).view(2, {t}, {n}, {d}).transpose(1, 2)")

    q, k, v = heads(h), heads(kv), heads(kv)
    if kv < h:
        form = g.choose(
            "{}.repeat_interleave(2, 1)", f"{{}}[:, :, None].expand(2, {kv}, 2, {t}, {d}).reshape(2, {h}, {t}, {d})"
        )
        k, v = g.emit(form.format(k)), g.emit(form.format(v))
    if g.chance(0.5):
        out = g.emit(f"F.scaled_dot_product_attention({q}, {k}, {v}{g.choose('', ', is_causal=True')})")
    else:
        out = g.emit(f"({q} @ {k}.transpose(-2, -1) / 3).softmax(-1) @ {v}")
    out = g.emit(f"{out}.transpose(1, 2).reshape(2, {t}, {h * d})")
    g.emit(f"{x} + {g.part(f'nn.Linear({h * d}, {c})')}({out})")


@production(2)
def feed_forward(g: Draw) -> None:
    x = g.pick(lambda x: x.rank < 4, inputs=0)
    up, gate, down = (g.part(f"nn.Linear({a}, {b})") for a, b in ((x.channels, 16), (x.channels, 16), (16, x.channels)))
    g.emit(f"{x} + {down}({up}({x}) * F.silu({gate}({x})))", like=x)
