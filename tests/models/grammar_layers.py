"""Productions of the grammar that hold parameters: layers, norms, attention, weights in unusual use; starts and ends."""

from __future__ import annotations

import random
from typing import Any

from grammar import Draw, Production, Rejected, Var

PRODUCTIONS: dict[Production, float] = {}


def production(weight: float, options: int = 0) -> Any:
    """Register a production with how often it is drawn, and how many options it has that all must have their turn."""

    def register(function: Any) -> Production:
        PRODUCTIONS[function] = weight
        function.options = options
        return function

    return register


# -- starts and ends ---------------------------------------------------------------------------------------------------


def start(seed: int, rng: random.Random) -> Draw:
    """Begin with an image, a line of tokens, rows, or token numbers; a layer reads it."""
    kind = rng.choice(["image", "image", "image", "line", "line", "line", "row", "signal", "tokens"])
    shape = {
        "image": (2, 3, rng.choice([4, 5, 6]), rng.choice([3, 4, 7])),
        "line": (2, rng.choice([3, 5, 6, 8]), rng.choice([5, 7, 8])),
        "signal": (2, 3, rng.choice([6, 9])),
        "row": (rng.choice([2, 3]), rng.choice([7, 8])),
        "tokens": (2, rng.choice([4, 5, 6])),
    }[kind]
    made = f"torch.randint(9, {shape}, generator=g)" if kind == "tokens" else f"torch.randn({shape}, generator=g)"
    axis = 1 if kind in ("image", "signal") else -1
    width = rng.choice([8, 12, 16])
    inputs = {"x0": (made, axis)}
    if rng.random() < 0.25:  # another input, which joins late
        late = (2, width, *shape[2:]) if axis == 1 else (*(shape if kind == "tokens" else shape[:-1]), width)
        inputs["x1"] = (f"torch.randn({late}, generator=g)", axis)
    g = Draw(seed, rng, inputs)
    x = g.inputs[0]
    width = width if len(inputs) > 1 else g.width()
    if kind == "tokens":
        embedded = g.emit(f"{g.part(f'nn.Embedding(9, {width})')}(x0)")
        if g.chance(0.5):
            g.emit(f"{embedded} + {g.part(f'parameter({shape[1]}, {width})')}", like=embedded)
    elif axis == 1:
        g.emit(f"{g.part(f'nn.Conv{len(shape) - 2}d(3, {width}, 3, padding=1)')}({x})", axis=1)
    else:
        g.emit(f"{g.part(f'nn.Linear({shape[-1]}, {width})')}({x})")
    return g


def consumer(g: Draw, x: Var, width: int) -> Var:
    """Read the channels of a tensor with a layer."""
    bias = g.choose("", ", bias=False")
    if x.rank in (3, 4) and x.axis == 1 and g.chance(0.85):
        kernel = g.choose("1", "1", "3, padding=1", "1, stride=2")
        return g.emit(f"{g.part(f'nn.Conv{x.rank - 2}d({x.shape[1]}, {width}, {kernel}{bias})')}({x})", axis=1)
    if x.axis == x.rank - 1:
        return g.emit(f"{g.part(f'nn.Linear({x.shape[-1]}, {width}{bias})')}({x})")
    layer = g.part(f"nn.Linear({x.channels}, {width}{bias})")
    return g.emit(f"{layer}({x}.transpose({x.axis}, -1)).transpose({x.axis}, -1)", like=x)


def end(g: Draw) -> None:
    """Read what nothing has read yet, and return it; sometimes a hidden tensor beside it, or a concatenation."""
    fresh = [x for x in g.vars if x.name not in g.used and x.rank > 1 and x.value.is_floating_point()][-2:]
    last = []
    for x in fresh or [g.pick(lambda x: x.rank > 1, inputs=0)]:
        if x.rank == 4 and g.chance(0.3):
            x = g.emit(g.choose(f"{x}.flatten(1)", f"{x}.mean((-2, -1))", f"F.adaptive_max_pool2d({x}, 1).flatten(1)"))
        elif g.chance(0.2):
            x = g.emit(f"{x}.relu()", like=x)
        last.append(consumer(g, x, g.choose(3, 5, 8)))
    names = [str(x) for x in last]
    if g.chance(0.08):
        names.append(str(g.pick(inputs=0)))
    if g.chance(0.08):
        x = last[-1]
        names = [str(g.emit(f"torch.cat([{x}, {g.pick(lambda y: y.shape == x.shape)}], 1)"))]
    g.output = f"({', '.join(names)},)"
    if g.chance(0.1):
        g.output = "{" + ", ".join(f"'{name}': {name}" for name in dict.fromkeys(names)) + "}"


# -- layers ------------------------------------------------------------------------------------------------------------


@production(16)
def layer(g: Draw) -> None:
    consumer(g, g.pick(lambda x: x.rank > 1), g.width())


@production(2)
def layer_on_any_axis(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1)
    wrap = g.choose("{}", "{}", "pruned({})", "weight_norm({})", "old_weight_norm({})", "twice({})")
    g.emit(f"{g.part(wrap.format(f'nn.Linear({x.shape[-1]}, {g.width()})'))}({x})", axis=g.choose(-1, x.axis))


def _divisor(g: Draw, *numbers: int) -> int:
    return g.choose(*[d for d in (1, 2, 3, 4, 6, 8, 16) if all(n % d == 0 for n in numbers)])


@production(10)
def convolution(g: Draw) -> None:
    x = g.pick(lambda x: x.rank in (3, 4) and x.axis == 1)
    c, width = x.shape[1], g.choose(x.shape[1], g.width())
    rank = x.rank - 2
    kind = g.choose(
        "plain", "grouped", "grouped", "depthwise", "depthwise", "multiplied", "transposed", "transposed_grouped"
    )
    options = [g.choose("1", "3, padding=1", "2", "3, padding=1, stride=2", "3, padding=2, dilation=2")]
    transposed = kind.startswith("transposed")
    if transposed:
        options = [g.choose("1", "2, stride=2", "3, padding=1")]
    if kind in ("depthwise", "multiplied"):
        width = c * (1 if kind == "depthwise" else g.choose(2, 3))
        options.append(f"groups={c}")
    elif kind != "plain" and kind != "transposed":
        options.append(f"groups={_divisor(g, c, width)}")
    options += ["bias=False"] if g.chance(0.5) else []
    if not transposed and g.chance(0.1):
        options.append("padding_mode='reflect'")
    text = f"nn.Conv{'Transpose' if transposed else ''}{rank}d({c}, {width}, {', '.join(options)})"
    wrap = g.choose("{}", "{}", "{}", "{}", "pruned({})", "weight_norm({})", "twice({})")
    g.emit(f"{g.part(wrap.format(text))}({x})", axis=1)


@production(1)
def convolution_3d(g: Draw) -> None:
    x = g.pick(lambda x: x.rank == 4)
    groups = _divisor(g, x.shape[1], 8)
    part = g.part(f"nn.Conv3d({x.shape[1]}, 8, (1, 3, 1), padding=(0, 1, 0), groups={groups})")
    g.emit(f"{part}({x}.unsqueeze(2)).squeeze(2)", axis=1)


@production(0.7)
def unbatched(g: Draw) -> None:
    x = g.pick(lambda x: x.rank in (3, 4) and x.axis == 1)
    width = g.width()
    part = g.part(f"nn.Conv{x.rank - 2}d({x.shape[1]}, {width}, 1, groups={_divisor(g, x.shape[1], width)})")
    g.emit(f"torch.stack([{part}({x}[0]), {part}({x}[1]).relu()])", axis=1)


@production(2)
def layer_again(g: Draw) -> None:
    name, text = g.choose(*(g.parts.items() or [("", "")]))
    if "nn.Linear" not in text and "nn.Conv" not in text and "Norm" not in text and "PReLU" not in text:
        raise Rejected
    x = g.pick()
    g.emit(f"m.{name}({x})", like=x)


@production(1.5)
def tied_layer(g: Draw) -> None:
    name, text = g.choose(*(g.parts.items() or [("", "")]))
    if not text.startswith(("nn.Linear", "nn.Conv")):
        raise Rejected
    part = g.part(f"tie({text}, m.{name}.weight)")
    x = g.pick()
    g.emit(f"{part}({x})", axis=1 if "Conv" in text else -1)


@production(5, 48)
def raw_weight(g: Draw) -> None:
    """Multiply with a free parameter, in one of the ways that people write that."""
    x = g.pick(lambda x: x.rank > 1)
    c, k = x.shape[-1], g.choose(x.shape[-1], g.width())
    w = [part for part, text in g.parts.items() if text == f"parameter({k}, {c})"]
    w = f"m.{g.choose(*w)}" if w and g.chance(0.5) else g.part(f"parameter({k}, {c})")
    forms = [
        *(f"F.linear({x}, {w})", f"{x} @ {w}.t()", f"{x} @ {w}.mT", f"torch.matmul({x}, {w}.transpose(0, -1))"),
        *(f"F.linear({x}, {w}[: {max(1, k // 2)}])", f"F.linear({x}, {w}[::2])", f"F.linear({x}, {w}.flip(0))"),
        *(f"F.linear({x}, {w}.flip(1))", f"F.linear({x}[..., 1:], {w}[:, 1:])", f"F.linear({x}, {w}.roll(1, 1))"),
        *(f"F.linear({x}[..., : {c // 2}], {w}[:, {c - c // 2} :])", f"F.linear(F.linear({x}, {w}), {w}.t())"),
        *(f"torch.einsum('...c,kc->...k', {x}, {w})", f"F.linear({x}, {w}.abs())", f"F.linear({x}, {w} / {w}.std())"),
        f"F.linear({x}, torch.cat([{w}, {w}]))",
        f"F.linear({x}, torch.cat([{w}[:, {c // 2} :], {w}[:, : {c // 2}]], 1))",
        f"F.linear({x}, {w}.softmax({g.choose(0, 1, -1)}))",
        f"F.linear({x}, {w} - {w}.mean({g.choose(0, 1)}, keepdim=True))",
        f"F.linear({x}, F.normalize({w}, dim={g.choose(0, 1)}))",
        f"F.linear({x}, {w} * {g.part(f'buffer({k}, {c})')})",
        f"F.linear({x}, {w}.where({g.part(f'mask({k}, {c})')}, 0.0))",
        f"F.linear({x}, {w} * {g.part(f'parameter({k}, 1)')})",
        f"F.linear({x}, {w} * {g.part(f'parameter({c})')})",
        f"F.linear({x}, {w} + {g.part(f'parameter({k}, 4)')} @ {g.part(f'parameter(4, {c})')})",
        f"F.linear({x}, {g.part(f'parameter({c}, {k})')}.t(), {g.part(f'parameter({k})')})",
        f"{x} * ({x} @ {g.part(f'parameter({c})')})[..., None]",
        f"({x} * {g.part(f'parameter({c})')}).sum(-1, keepdim=True) + {x}",
        f"F.linear({x}, {g.part(f'parameter({k * c})')}.view({k}, {c}))",
        f"F.linear({x}, {g.part(f'parameter({c}, {k})')}.reshape({k}, {c}))",
        f"F.linear({x}, {g.part(f'parameter({k}, 2, {c})')}.sum(1))",
        f"F.linear({x}, {g.part(f'parameter(2, {k}, {c})')}[{g.choose(0, 1)}])",
        f"F.linear({x}, {w}.tril())" if k == c else f"F.linear({x}, {w}.repeat(2, 1))",
        f"F.linear({x}, ({w} + {w}.t()) / 2)" if k == c else f"F.linear({x}, {w}.repeat_interleave(2, 0))",
    ]
    if x.rank == 3:
        forms += [
            f"torch.bmm({x}, {w}.t().expand({x.shape[0]}, -1, -1))",
            f"torch.baddbmm({g.part(f'parameter({k})')}.expand({x.shape[0]}, {x.shape[1]}, -1), {x}, {w}.t().repeat({x.shape[0]}, 1, 1))",
            f"({w} @ {x}.mT).mT",
            f"torch.einsum('ntc,kc->nkt', {x}, {w}).mT",
            f"torch.einsum('ntc,tck->ntk', {x}, {g.part(f'parameter({x.shape[1]}, {c}, {k})')})",
            f"torch.einsum('ntc,tkc->nk', {x}, {g.part(f'parameter({x.shape[1]}, {k}, {c})')})",
            f"torch.einsum('ntc,ck,nsk->nts', {x}, {g.part(f'parameter({c}, 4)')}, {x} @ {g.part(f'parameter({c}, 4)')})",
            f"torch.tensordot({x}, {w}, dims=([2], [1]))",
        ]
    if x.rank == 4 and x.axis == 1:
        forms += [
            f"torch.einsum('nchw,kc->nkhw', {x}, {g.part(f'parameter({k}, {x.shape[1]})')})",
            f"F.conv2d({x}, {g.part(f'parameter({k}, {x.shape[1]})')}[:, :, None, None])",
            f"F.conv2d({x}, {g.part(f'parameter({x.shape[1]}, 1, 3, 3)')}.expand(-1, 1, 3, 3), groups={x.shape[1]})",
        ]
    if x.rank == 2:
        forms += 2 * [f"torch.addmm({g.part(f'parameter({k})')}, {x}, {w}.t())", f"torch.mm({x}, {w}.t())"]
        forms += [
            f"torch.mm({w}, {x}.t()).t()",
            f"torch.addmm({x}.t(), {w}.t(), {g.part(f'parameter({k}, {x.shape[0]})')})",
        ]
    g.emit(g.choose(*forms), axis=1 if x.rank == 4 and x.axis == 1 else -1)


@production(1)
def heads_with_weights(g: Draw) -> None:
    """A matrix of its own for every head."""
    x = g.pick(lambda x: x.rank == 3 and x.axis == 2 and x.channels % 8 == 0)
    h, d = 2, x.channels // 2
    w = g.part(f"parameter({h}, {d}, {d})")
    split = f"{x}.view(2, -1, {h}, {d})"
    g.emit(
        g.choose(f"torch.einsum('nthd,hde->nthe', {split}, {w}).flatten(2)", f"({split}.unsqueeze(3) @ {w}).flatten(2)")
    )


@production(0.4)
def recurrent(g: Draw) -> None:
    x = g.pick(lambda x: x.rank == 3 and x.axis == 2)
    kind = g.choose("GRU", "LSTM", "RNN")
    g.emit(f"{g.part(f'nn.{kind}({x.channels}, {g.choose(x.channels, 8)}, batch_first=True)')}({x})[0]")


@production(0.4)
def bilinear(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1)
    y = g.pick(lambda y: y.shape[:-1] == x.shape[:-1])
    g.emit(f"{g.part(f'nn.Bilinear({x.shape[-1]}, {y.shape[-1]}, 8)')}({x}, {y})")


# -- norms and parameters ----------------------------------------------------------------------------------------------


@production(6, 24)
def norm(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1)
    c, last = x.shape[1], x.shape[-1]
    affine = g.choose("", "", ", affine=True, track_running_stats=True", ", affine=True")
    dims = "1d" if x.rank < 4 else "2d"
    groups = _divisor(g, c)
    forms = [
        f"{g.part(f'nn.LayerNorm({last})')}({x})",
        f"{g.part(f'nn.RMSNorm({last})')}({x})",
        f"{x} * ({x}.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * {g.part(f'parameter({last})')}",
        f"{g.part(f'nn.LayerNorm({list(x.shape[g.choose(1, -1) :])}, elementwise_affine={g.choose(True, False)})')}({x})",
        f"{g.part(f'nn.GroupNorm({groups}, {c})')}({x})",
        f"F.group_norm({x}, {groups})",
        f"{g.part(f'nn.GroupNorm({_divisor(g, last)}, {last})')}({x}.transpose(1, -1)).transpose(1, -1)",
        f"F.normalize({x}, dim={g.axis(x)})",
        f"F.normalize({x}, p=1, dim={g.axis(x)})",
        f"({x} - {x}.mean({g.axis(x)}, keepdim=True)) / (1 + {x}.std({g.axis(x)}, keepdim=True))",
    ]
    if x.rank < 5:
        forms += 4 * [f"{g.part(f'nn.BatchNorm{dims}({c})')}({x})"]
        forms.append(f"{g.part(f'nn.BatchNorm{dims}({c}, affine=False)')}({x})")
        forms.append(f"{g.part(f'nn.BatchNorm{dims}({c}, track_running_stats=False)')}({x})")
    if x.rank in (3, 4) and min(x.shape[2:]) > 1:
        forms += 2 * [f"{g.part(f'nn.InstanceNorm{dims}({c}{affine})')}({x})"]
        forms.append(f"F.local_response_norm({x}, 3)")
    g.emit(g.choose(*forms), like=x)


@production(3)
def slopes(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1)
    g.emit(f"{g.part(f'nn.PReLU({g.choose(x.shape[1], x.shape[1], 1)})')}({x})", like=x)


@production(7, 16)
def free_parameter(g: Draw) -> None:
    """Add or multiply a parameter, buffer or constant with entries along some of the axes."""
    x = g.pick()
    kept = [axis == x.axis % x.rank if g.chance(0.75) else g.chance(0.4) for axis in range(x.rank)]
    shape = [size if keep else 1 for size, keep in zip(x.shape, kept, strict=True)]
    shape[0] = 1
    while len(shape) > 1 and shape[0] == 1 and g.chance(0.6):
        shape.pop(0)
    sizes = ", ".join(map(str, shape))
    kind = g.choose(*4 * ["parameter"], *2 * ["buffer"], "unsaved", "constant", "arange", "mask", "linspace")
    if kind == "arange":
        other = f"torch.arange({int(x.value[0].numel())}, dtype={x}.dtype).view({x}.shape[1:]) / {x}.numel()"
    elif kind == "linspace":
        other = f"torch.linspace(0.5, 1.5, {shape[-1]}, dtype={x}.dtype)"
    elif kind == "mask":
        m = g.part(f"mask({sizes})")
        g.emit(g.choose(f"{x}.masked_fill({m}, 0.5)", f"torch.where({m}, {x}, -{x})", f"{x} * {m}"), like=x)
        return
    elif kind == "constant":
        other = g.part(f"Constant({sizes})") + ".value"
    else:
        other = g.part(f"{kind}({sizes})")
    forms = 3 * [f"{x} + {other}", f"{x} * {other}"]
    forms += [f"torch.maximum({x}, {other})", f"{other} - {x}", f"torch.where({other} > 1, {x}, -{x})"]
    forms += [f"torch.lerp({x}, {other}.expand_as({x}), 0.3)", f"{x} * {other}.sigmoid()", f"{x} + {other}.exp()"]
    forms += [f"{x} * {other}.softmax(-1)", f"{x} + {other}.mean()", f"{x}.abs() ** {other}.abs()"]
    g.emit(g.choose(*forms), like=x)


@production(1.5)
def gated_block(g: Draw) -> None:
    """Squeeze and excite."""
    x = g.pick(lambda x: x.rank == 4 and x.axis == 1)
    c = x.channels
    if g.chance(0.5):
        s = g.emit(f"{g.part(f'nn.Linear({c}, 8)')}({x}.mean((2, 3))).relu()")
        s = g.emit(f"{g.part(f'nn.Linear(8, {c})')}({s}).sigmoid()")
        g.emit(f"{x} * {s}[:, :, None, None]", like=x)
    else:
        s = g.emit(f"F.silu({g.part(f'nn.Conv2d({c}, 8, 1)')}(F.adaptive_avg_pool2d({x}, 1)))", axis=1)
        g.emit(f"{x} * torch.sigmoid({g.part(f'nn.Conv2d(8, {c}, 1)')}({s}))", like=x)


@production(2)
def feed_forward(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1 and x.axis == x.rank - 1)
    c, k = x.channels, g.choose(16, 12)
    up, gate, down = (g.part(f"nn.Linear({a}, {b})") for a, b in ((c, k), (c, k), (k, c)))
    if g.chance(0.3):
        inner = g.emit(f"F.glu({g.part(f'nn.Linear({c}, {2 * k})')}({x}))")
    else:
        inner = g.emit(f"{up}({x}) * F.silu({gate}({x}))")
    g.emit(g.choose(f"{x} + {down}({inner})", f"{down}({inner})"), like=x)


@production(3)
def attention(g: Draw) -> None:
    x = g.pick(lambda x: x.rank == 3 and x.axis == 2)
    c, t = x.channels, x.shape[1]
    d, h = g.choose(4, 8), g.choose(2, 2, 4)
    if g.chance(0.15):
        if c % 4:
            raise Rejected
        block = g.part(f"nn.MultiheadAttention({c}, 2, batch_first=True)")
        g.emit(f"{block}({x}, {x}, {x}{g.choose('', ', need_weights=False')})[0]")
        return
    kv = g.choose(h, h, h // 2)
    k = g.emit(f"{g.part(f'nn.Linear({c}, {kv * d})')}({x}).view(2, {t}, {kv}, {d}).transpose(1, 2)")
    if g.chance(0.15):
        q, v = g.emit(f"{g.part(f'nn.Linear({c}, {h * d})')}({x}).unflatten(-1, ({h}, {d})).transpose(1, 2)"), k
    elif kv == h and g.chance(0.4):
        fused = g.emit(f"{g.part(f'nn.Linear({c}, {3 * h * d})')}({x})")
        q, k, v = g.several(
            [-1] * 3,
            g.choose(
                f"{fused}.view(2, {t}, 3, {h}, {d}).permute(2, 0, 3, 1, 4).unbind(0)",
                f"{fused}.view(2, {t}, {h}, {3 * d}).transpose(1, 2).chunk(3, dim=-1)",
                f"{fused}.view(2, {t}, {h}, 3, {d}).permute(3, 0, 2, 1, 4)",
                f"[part.view(2, {t}, {h}, {d}).transpose(1, 2) for part in {fused}.chunk(3, dim=-1)]",
            ).replace(f"{d}).permute(3, 0, 2, 1, 4)", f"{d}).permute(3, 0, 2, 1, 4).unbind(0)"),
        )
    else:
        q = g.emit(f"{g.part(f'nn.Linear({c}, {h * d})')}({x}).view(2, {t}, {h}, {d}).transpose(1, 2)")
        v = g.emit(f"{g.part(f'nn.Linear({c}, {kv * d})')}({x}).view(2, {t}, {kv}, {d}).transpose(1, 2)")
    if g.chance(0.2):
        cos = g.part(f"buffer({t}, {d})")
        q, k = (g.emit(f"{y} * {cos} + torch.cat([-{y}[..., {d // 2}:], {y}[..., :{d // 2}]], -1)") for y in (q, k))
    if kv < h and not (native := g.chance(0.3)):
        form = g.choose(
            f"{{}}.repeat_interleave({h // kv}, 1)",
            f"{{}}[:, :, None].expand(2, {kv}, {h // kv}, {t}, {d}).reshape(2, {h}, {t}, {d})",
            f"{{}}.repeat(1, {h // kv}, 1, 1)",
        )
        k, v = g.emit(form.format(k)), g.emit(form.format(v))
    options = ", enable_gqa=True" if kv < h and native else ""
    options += g.choose("", "", ", is_causal=True", f", attn_mask={g.part(f'buffer({t}, {t})')}")
    if options.startswith(", enable") or g.chance(0.5):
        out = g.emit(f"F.scaled_dot_product_attention({q}, {k}, {v}{options})")
    else:
        scores = g.emit(f"{q} @ {k}.transpose(-2, -1) / {d}**0.5")
        if g.chance(0.3):
            scores = g.emit(f"{scores}.masked_fill(torch.ones({t}, {t}, dtype=torch.bool).triu(1), -1e3)")
        elif g.chance(0.2):
            scores = g.emit(f"{scores} + {g.part(f'parameter({h}, 1, {t})')}")
        out = g.emit(f"{scores}.softmax({g.choose(-1, -1, -1, -1, 1, -2)}) @ {v}")
    out = g.emit(
        f"{out}.transpose(1, 2).reshape(2, {t}, {h * d})" if g.chance(0.9) else f"{out}.reshape(2, {t}, {h * d})"
    )
    width = g.choose(c, 8)
    out = g.emit(f"{g.part(f'nn.Linear({h * d}, {width})')}({out})")
    if width == c and g.chance(0.6):
        g.emit(f"{x} + {out}")
