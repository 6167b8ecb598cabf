"""Productions of the grammar that hold no parameters: element-wise, movements, reductions, joins, in-place changes."""

from __future__ import annotations

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


ACTIVATIONS = """
    {x}.relu() F.gelu({x}) F.silu({x}) {x}.tanh() {x}.sigmoid() F.leaky_relu({x},0.1) F.elu({x}) F.hardswish({x})
    F.softplus({x}) {x}.abs() {x}.pow(2) {x}*2+1 {x}.clamp(-1,1) {x}.clamp(min=0) {x}.exp().clamp(max=9) {x}.sin()
    F.mish({x}) F.relu6({x}) -{x} {x}/3 1-{x} ({x}.abs()+1).log() ({x}.abs()+1).rsqrt() F.dropout({x},0.5,False)
    torch.where({x}>0,{x},{x}.exp()-1) {x}.float().double() {x}.clone() {x}.contiguous() {x}.sign() torch.addcmul({x},{x},{x})
    {x}*{x}.sigmoid() {x}+torch.zeros_like({x}) {x}*torch.full_like({x},1.5) {x}.masked_fill({x}<0,0.1) F.threshold({x},0.1,0.2)
    F.hardtanh({x}) F.rrelu({x}) F.dropout1d({x},0.5,False) torch.nan_to_num({x}) {x}.where({x}>0,0.1) F.logsigmoid({x})
""".split()  # noqa: SIM905


@production(9, len(ACTIVATIONS))
def activation(g: Draw) -> None:
    x = g.pick()
    g.emit(g.choose(*ACTIVATIONS).format(x=x), like=x)


# Along an axis {a} of length {n} of the tensor {x}; the shape stays.
ALONG = """
    {x}.softmax({a})
    {x}.log_softmax({a})
    {x} - {x}.mean({a}, keepdim=True)
    {x} / (1 + {x}.abs().sum({a}, keepdim=True))
    {x} * {x}.mean({a}, True)
    {x} + {x}.amax({a}, keepdim=True)
    {x} - {x}.max({a}, keepdim=True)[0]
    {x} * ({x} == {x}.amax({a}, keepdim=True))
    {x} / (1 + {x}.norm(dim={a}, keepdim=True))
    {x} * {x}.std({a}, keepdim=True)
    {x} + torch.logsumexp({x}, {a}, True)
    {x}.cumsum({a})
    {x}.clamp(-1, 1).cumprod({a})
    {x}.cummax({a})[0]
    {x}.logcumsumexp({a})
    {x}.flip({a})
    {x}.flip({a}).flip({a})
    {x}.roll(1, {a})
    {x}.roll({n} // 2, {a}) + {x}
    {x}.roll(({n} // 2, 1), ({a}, -1))
    {x}.sort({a})[0]
    {x}.sort({a}, descending=True).values
    {x}.argsort({a}) * {x}
    {x}.gather({a}, {x}.argsort({a}))
    torch.take_along_dim({x}, {x}.argmax({a}, keepdim=True), {a}) * {x}
    {x} * {x}.narrow({a}, 0, 1)
    {x} + {x}.narrow({a}, {n} - 1, 1)
    {x} + {x}.select({a}, 0).unsqueeze({a})
    {x} + {x}.median({a}, keepdim=True)[0]
    {x} + {x}.sum()
    {x} * {x}.mean()
    {x} - {x}.diff(dim={a}, prepend={x}.narrow({a}, 0, 1))
    torch.cat({x}.chunk(2, {a})[::-1], {a})
    torch.cat([{x}.narrow({a}, {n} // 2, {n} - {n} // 2), {x}.narrow({a}, 0, {n} // 2)], {a})
    torch.cat([{x}.narrow({a}, 0, {n} // 2), {x}.narrow({a}, {n} // 2, {n} - {n} // 2)], dim={a})
    torch.cat([p.relu() for p in {x}.tensor_split(3, {a})], {a})
    torch.stack({x}.unbind({a})[::-1], {a})
    torch.stack({x}.unbind({a}), {a})
    {x}.index_select({a}, torch.arange({n} - 1, -1, -1))
    {x}.unflatten({a}, (2, -1)).flip({a}).flatten(min({a}, {a} + 1) if {a} >= 0 else {a} - 1, {a} + 1 if {a} >= 0 else {a})
    {x}.unflatten({a}, (2, {n} // 2)).transpose({p}, {p} + 1).flatten({p}, {p} + 1)
    {x}.unflatten({a}, ({n} // 4, 4)).softmax({p}).flatten({p}, {p} + 1)
    {x}.unflatten({a}, ({n} // 4, 4)).softmax({p} + 1).flatten({p}, {p} + 1)
    {x} + {x}.unflatten({a}, ({n} // 4, 4)).mean({p} + 1, keepdim=True).expand_as({x}.unflatten({a}, ({n} // 4, 4))).flatten({p}, {p} + 1)
    {x} + {x}.unflatten({a}, (2, {n} // 2)).sum({p}, keepdim=True).expand_as({x}.unflatten({a}, (2, {n} // 2))).reshape({x}.shape)
    {x}.narrow({a}, 0, {n} // 2).repeat_interleave(2, {a})
    torch.cat(2 * [{x}.narrow({a}, {n} // 2, {n} // 2)], {a})
    {x}.transpose({a}, -1).reshape({x}.transpose({a}, -1).shape).transpose({a}, -1)
    {x}.transpose({a}, 1).contiguous().view({x}.shape)
    {x}.movedim({a}, 0).movedim(0, {a})
    {x}.movedim({a}, -1).reshape({x}.shape)
    torch.fft.fft({x}, dim={a}).real
    torch.einsum('...c,...c->...', {x}, {x}).unsqueeze(-1) * {x}
    {x}.renorm(2, {p}, 3.0)
    {x} * ({x} > {x}.mean({a}, keepdim=True))
    {x} * (torch.arange({n}) % 2 == 0).to({x}.dtype).view([-1] + [1] * ({r} - 1 - {p}))
    {x} * F.one_hot({x}.argmax({a}), {n}).movedim(-1, {p})
    {x} * {x}.any({a}, keepdim=True)
    {x}.swapaxes({a}, -1).softmax(-1).swapaxes({a}, -1)
    {x}.index_fill({a}, torch.tensor([0, {n} - 1]), 0.5)
    {x}.scatter({a}, torch.zeros_like({x}, dtype=torch.long).narrow({a}, 0, 1), 0.3)
    {x}.index_add({a}, torch.arange({n}), {x})
    {x}.slice_scatter({x}.narrow({a}, 0, {n} // 2).relu(), {a}, 0, {n} // 2)
    {x}.select_scatter({x}.select({a}, 0).relu(), {a}, {n} - 1)
    {x} * {x}.flatten().softmax(0).view({x}.shape) * 9
    {x}.permute(*reversed(range({r}))).flip(0).permute(*reversed(range({r})))
    F.layer_norm({x}.transpose({a}, -1), ({n},)).transpose({a}, -1)
    torch.var_mean({x}, {a}, keepdim=True)[1] + {x}
    {x} + torch.linalg.vector_norm({x}, dim={a}, keepdim=True)
    {x}.unfold({p}, 1, 1).squeeze(-1)
    {x}.as_strided({x}.shape, {x}.contiguous().stride()) if {x}.is_contiguous() else {x}
    {x} * {x}.shape[{a}]
    {x}[..., None].expand(*{x}.shape, 2).sum(-1)
    {x} + {x}.expand(2, *{x}.shape).mean(0)
    torch.stack([{x}, {x}.relu()], {a}).sum({a})
    torch.stack([{x}, {x}.relu()]).mean(0)
    torch.stack([{x}, {x}.relu()], -1).amax(-1)
    torch.atleast_3d({x}).view({x}.shape)
    torch.broadcast_to({x}.mean({a}, keepdim=True), {x}.shape) * {x}
    {x} * torch.eye({n}, dtype={x}.dtype).sum(0).view([-1] + [1] * ({r} - 1 - {p}))
    F.softmin({x}, {a})
    F.gumbel_softmax(0 * {x}, dim={a}).sum({a}, keepdim=True) * {x}
    {x}.kthvalue(1, {a}, keepdim=True)[0] + {x}
    {x}.aminmax(dim={a}, keepdim=True)[0] + {x}
    {x} + {x}.square().sum({a}, keepdim=True).sqrt()
    {x}.softmax({a}).softmax(-1)
    {x}.nanmean({a}, keepdim=True) + {x}
    {x}.transpose(0, {a}).transpose(0, {a})
    {x} + 0.1 * {x}.max({a}, keepdim=True)[1]
    {x} + 0.1 * {x}.argmin({a}, keepdim=True)
    {x} + 0.1 * {x}.sort({a})[1]
    {x} + 0.1 * {x}.cummax({a})[1]
    {x} + 0.1 * {x}.topk(1, {a})[1]
    {x} + {x}.min({a}, keepdim=True).values
    {x} + {x}.amin({a}, keepdim=True)
    {x} + {x}.clamp(-1, 1).prod({a}, keepdim=True)
    {x} + {x}.nansum({a}, keepdim=True)
    {x} * {x}.var({a}, keepdim=True)
    {x} * torch.std_mean({x}, {a}, keepdim=True)[0]
    {x} + 0.1 * ({x} > 0).sum({a}, keepdim=True)
    {x} + 0.1 * {x}.gt(0).all({a}, keepdim=True)
    {x} + 0.1 * {x}.relu().count_nonzero({a}).unsqueeze({a})
    {x} + {x}.mode({a}, keepdim=True)[0]
    {x} + {x}.std()
    {x} * torch.full((1,), 0.7, dtype={x}.dtype)
    {x} + torch.full({x}.shape[1:], 0.7, dtype={x}.dtype)
    {x} + torch.ones({x}.shape[-1], dtype={x}.dtype).cumsum(0)
    {x} * {x}.new_ones({x}.shape).tril()
    {x} * {x}.detach().to(torch.float64)
    {x}.repeat_interleave(2, {a}).unflatten({a}, ({n}, 2)).sum({p} + 1)
    {x} + {x}.mean([k for k in range({r}) if k != {p}], keepdim=True)
    {x} - {x}.mean(list(range(1, {r})), keepdim=True)
    F.instance_norm({x})
    F.batch_norm({x}, None, None, training=True)
    {x}.index_put((torch.tensor([0]),), {x}[1])
    {x} + {x}.sum_to_size([1] * {r})
    {x} * {x}[:, torch.tensor([0])]
    {x}.transpose({a}, -1).cumsum(-1).transpose({a}, -1)
""".strip().splitlines()


@production(12, len(ALONG))
def along(g: Draw) -> None:
    x = g.pick()
    a = g.axis(x)
    p = a % x.rank
    g.emit(g.choose(*ALONG).strip().format(x=x, a=a, p=p, n=x.shape[a], r=x.rank), like=x)


# The axis {a} gets another length, or the shape changes otherwise; the rank stays.
RESIZING = """
    {x}.narrow({a}, {n} // 2, {n} // 2)
    {x}.narrow({a}, 0, {n} // 2)
    {x}.narrow({a}, 1, {n} - 1)
    {x}.narrow({a}, 0, {n} // 4 * 4)
    {x}.movedim({p}, 0)[::2].movedim(0, {p})
    {x}.movedim({p}, 0)[1::2].movedim(0, {p})
    {x}.movedim({p}, -1)[..., -4:].movedim(-1, {p})
    {x}.chunk(2, {a})[0] + {x}.chunk(2, {a})[1]
    {x}.chunk(2, {a})[0] * {x}.chunk(2, {a})[1].sigmoid()
    {x}.split([{n} // 4, {n} - {n} // 4], {a})[1]
    {x}.split({n} // 4, {a})[1] + {x}.split({n} // 4, {a})[2]
    F.glu({x}, {a})
    torch.cat([{x}, {x}], {a})
    torch.cat([{x}, -{x}], dim={a})
    torch.cat(tensors=[{x}, {x}.flip({a})], dim={a})
    torch.cat([{x}, {x}.mean({a}, keepdim=True)], {a})
    torch.cat([{x}, torch.zeros_like({x})], {a})
    torch.cat([torch.ones_like({x}).narrow({a}, 0, 1), {x}], {a})
    torch.cat([{x}.narrow({a}, 0, {n} // 2), {x}], {a})
    torch.cat([{x}.new_zeros(0), {x}])
    {x}.repeat_interleave(2, {a})
    {x}.repeat(*[1 + (k == {p}) for k in range({r})])
    {x}.tile(2)
    {x}.unflatten({a}, ({n} // 2, 2)).sum({p})
    {x}.unflatten({a}, ({n} // 2, 2)).sum({p} + 1)
    {x}.unflatten({a}, ({n} // 4, 4)).amax({p})
    {x}.unflatten({a}, ({n} // 4, 4)).mean({p} + 1)
    {x}.unflatten({a}, ({n} // 4, 4)).select({p}, 0)
    {x}.unflatten({a}, ({n} // 4, 4)).select({p} + 1, 1)
    {x}.unflatten({a}, ({n} // 4, 4)).std({p})
    {x}.topk(2, {a})[0]
    {x}.sort({a})[0].narrow({a}, 0, {n} // 2)
    {x}.diff(dim={a})
    {x}.unfold({p}, 2, 2).sum(-1)
    {x}.unfold({p}, 3, 1).mean(-1)
    F.pad({x}, (1, 0))
    F.pad({x}, (0, 4))
    F.pad({x}, (0, -1))
    F.pad({x}, (0, 0, 4, 4), value=0.5)
    F.pad({x}, (0, 0, 1, 1, 4, 0))
    F.pad({x}, (1, 1), mode='reflect')
    F.pad({x}, (1, 2), mode='circular')
    F.pad({x}, (1, 1), mode='replicate')
    F.pad({x}.transpose({a}, -1), (4, 4)).transpose({a}, -1)
    {x}.transpose({a}, 1)
    {x}.transpose(1, -1)
    {x}.mT
    F.avg_pool1d({x}.transpose({a}, -1).flatten(1, -2), 2).unsqueeze(1) if {r} == 4 else F.avg_pool1d({x}, 2)
    F.max_pool2d({x}, 2)
    F.max_pool2d({x}, (1, 2))
    F.avg_pool2d({x}, 2, 1)
    F.adaptive_avg_pool2d({x}, (2, 1))
    F.adaptive_max_pool2d({x}, 1)
    F.lp_pool2d({x}, 2, (2, 1))
    F.max_pool1d({x}, 2)
    F.adaptive_avg_pool1d({x}, 2)
    F.interpolate({x}, scale_factor=2)
    F.interpolate({x}, size=(3, 5), mode='bilinear', align_corners=False)
    F.pixel_shuffle({x}, 2)
    F.pixel_unshuffle({x}, 2)
    F.channel_shuffle({x}, 2)
    F.channel_shuffle({x}, {n} // 2)
    {x}.reshape({x}.shape[0], -1, 2 * {x}.shape[-1])
    {x}.reshape({x}.shape[0], {x}.shape[1] // 2, *{x}.shape[2:-1], 2 * {x}.shape[-1])
    {x}.reshape({x}.shape[0], 2 * {x}.shape[1], *{x}.shape[2:-1], {x}.shape[-1] // 2)
    {x}.view({x}.shape[::-1])
    {x}[:, torch.tensor([0, 2, 1, 3])]
    {x}[:, [1, 0]]
    {x}[:, ::2] + {x}[:, 1::2]
    {x}[..., ::2] * {x}[..., 1::2]
    {x}[:, -1:]
    {x}[..., None, :].flatten(-2)
    {x}[{x}.shape[0] - 1 :]
    {x}[torch.arange({x}.shape[0]).flip(0)]
    {x} @ {x}.mT
    {x}.mT @ {x}
    {x} @ {x}.mT @ {x}
    ({x} @ {x}.mT).softmax(-1) @ {x}
    ({x}.mT @ {x}).softmax(-1)
    torch.cdist({x}, {x} + 1)
    {x}.abs().sqrt().mT.softmax(-1) @ {x}
    torch.outer({x}.flatten()[:4], {x}.flatten()[-4:]).expand({x}.shape[0], 4, 4)
    {x}.sum(0, keepdim=True)
    {x}.triu() + {x}.tril(-1).relu()
    F.cosine_similarity({x}[:, :, None], {x}[:, None], dim=-1)
    {x}.softmax(-1) @ torch.ones({x}.shape[-1], 5, dtype={x}.dtype)
    F.conv1d({x}, torch.ones(2, {x}.shape[1], 1, dtype={x}.dtype))
    {x}.cumsum({a}).narrow({a}, {n} - 1, 1) * {x}
    {x}.index_select({a}, torch.tensor([0, 0, 1, 1]))
    0.1 * F.max_pool2d({x}, 2, return_indices=True)[1].to({x}.dtype)
    F.max_pool2d({x}, 2, return_indices=True)[0]
    F.adaptive_max_pool1d({x}, 3)
    F.max_pool3d({x}, (1, 1, 2))
    F.avg_pool3d({x}, (2, 1, 1))
    F.interpolate({x}, scale_factor=2, mode='linear')
    F.interpolate({x}, scale_factor=2, mode='nearest-exact')
    F.interpolate({x}, size=(4, 4), mode='bicubic')
    {x}[torch.arange({x}.shape[0])[:, None], torch.tensor([1, 0, 2])]
    {x}[:, torch.tensor([[0, 1], [2, 3]])].flatten(1, 2)
    {x}[:, :, torch.tensor([1, 0])]
    {x}[:, torch.arange({x}.shape[1])]
    {x}[..., torch.arange({x}.shape[-1] // 2)]
    {x}[:, 1:3]
    {x}.narrow({a}, {n} // 2, {n} // 2) * {x}.narrow({a}, 0, {n} // 2)
    torch.cat([{x}.narrow({a}, 0, 4), {x}.narrow({a}, {n} - 4, 4)], {a})
    torch.hstack([{x}, {x}])
    torch.concat([{x}, {x}.relu(), {x}], {a})
    {x}.unflatten({a}, (-1, 4))[..., 0] if {p} == {r} - 1 else {x}
""".strip().splitlines()


@production(9, len(RESIZING))
def resized(g: Draw) -> None:
    x = g.pick(lambda x: x.rank > 1)
    a = g.axis(x)
    text = g.choose(*RESIZING).strip()
    moved = "transpose(1, -1)" in text or "mT" in text
    made = g.emit(text.format(x=x, a=a, p=a % x.rank, n=x.shape[a], r=x.rank), like=x)
    if made.rank != x.rank or (moved and x.axis in (1, x.rank - 1) and g.chance(0.5)):
        made.axis = made.rank - 1 if x.axis == 1 or made.rank < 3 else 1


# The rank changes: the template, the rank it needs (0: any), and where the channels are then.
RERANKED: list[tuple[str, int, Any]] = [
    ("{x}.flatten(1)", 0, -1),
    ("{x}.flatten(2)", 4, 1),
    ("{x}.flatten(2).transpose(1, 2)", 4, -1),
    ("{x}.permute(0, 2, 3, 1)", 4, -1),
    ("{x}.permute(0, 2, 3, 1).reshape({x}.shape[0], -1, {x}.shape[1])", 4, -1),
    ("{x}.permute(0, 2, 3, 1).flatten(1)", 4, -1),
    ("{x}.permute(0, 3, 1, 2)", 4, 1),
    ("{x}.permute(2, 3, 0, 1).flatten(0, 2)", 4, -1),
    ("{x}.flatten(-2)", 4, -1),
    ("{x}.flatten(0, 1)", 0, -1),
    ("{x}.transpose(1, 2).flatten(2)", 4, -1),
    ("{x}.unflatten(1, (2, -1)).flatten(2)", 0, -1),
    ("{x}.transpose(1, -1).flatten(1)", 0, -1),
    ("{x}.mT.unsqueeze(-1)", 3, 1),
    ("{x}.mT", 3, 1),
    ("{x}.transpose(1, 2).unflatten(-1, (2, -1))", 3, 1),
    ("{x}.reshape(2, {x}.shape[1], 4, -1)", 3, -1),
    ("{x}.unsqueeze(1)", 0, -1),
    ("{x}[:, None].expand(-1, 3, *{x}.shape[1:])", 0, -1),
    ("{x}[..., None]", 0, -2),
    ("{x}.unflatten(-1, (-1, 4))", 0, -2),
    ("{x}.unflatten(-1, (4, -1))", 0, -1),
    ("{x}.view({x}.shape[0], 4, -1)", 2, -1),
    ("{x}.view({x}.shape[0], -1, 4)", 2, 1),
    ("{x}[:, :, None, None]", 2, 1),
    ("{x}[:, :, None] * {x}[:, None]", 2, -1),
    ("({x}[:, :, None] + {x}[:, None]).flatten(1)", 2, -1),
    ("torch.einsum('nc,nd->ncd', {x}, {x}.relu())", 2, -1),
    ("{x}.mean(1)", 0, -1),
    ("{x}.sum((2, 3))", 4, -1),
    ("{x}.mean((-2, -1))", 4, -1),
    ("{x}.amax(-1)", 4, 1),
    ("{x}.mean((0, 1), keepdim=True).expand_as({x}).flatten(1)", 0, -1),
    ("{x}[:, 0]", 0, -1),
    ("{x}[:, -1]", 0, -1),
    ("{x}[..., 0]", 0, 1),
    ("{x}.max(1)[0]", 0, -1),
    ("{x}.max(-1).values", 0, 1),
    ("{x}.std(1)", 0, -1),
    ("torch.cat([{x}.mean(1), {x}.amax(1)], -1)", 3, -1),
    ("torch.stack([{x}, {x}.relu()], 1)", 0, -1),
    ("torch.stack([{x}, {x}.relu()], -1).flatten(-2)", 0, -1),
    ("torch.stack([{x}, {x}.tanh()], 1).flatten(1, 2)", 0, 1),
    ("torch.stack([{x}, {x}.tanh()], 2).flatten(1, 2)", 3, 1),
    ("torch.einsum('ntc,nsc->nts', {x}, {x}.relu())", 3, -1),
    ("torch.einsum('ntc,ntd->ncd', {x}, {x}.softmax(1))", 3, -1),
    ("torch.einsum('ntc,nsc->nc', {x}, {x})", 3, -1),
    ("torch.einsum('nchw,ndhw->ncd', {x}, {x})", 4, -1),
    ("torch.einsum('nchw->nhwc', {x})", 4, -1),
    ("F.unfold({x}, 2).mT", 4, -1),
    ("{x}.unfold(1, 4, 4).flatten(2)", 3, -1),
    ("{x}.unbind(1)[1]", 0, -1),
    ("{x}.T", 2, -1),
    ("torch.diagonal({x}, 0, 1, 2)", 3, -1),
    ("torch.bmm({x}, {x}.mT).flatten(1)", 3, -1),
    ("{x}.flatten(1).unflatten(1, (-1, 4)).mean(1)", 0, -1),
    ("F.adaptive_avg_pool2d({x}, 1)[..., 0, 0]", 4, -1),
    ("F.max_pool2d({x}, {x}.shape[-2:]).squeeze()", 4, -1),
    ("{x}.view({x}.shape[0], -1)", 0, -1),
    ("{x}.reshape(-1, {x}.shape[-1])", 0, -1),
    ("torch.tensordot({x}, {x}, dims=([1], [1])).flatten(1)", 2, -1),
    ("torch.tensordot({x}, {x}, dims=2).expand(2, 4)", 2, -1),
    ("{x}[torch.tensor([1, 0]), :, torch.tensor([0, 1])]", 3, -1),
    ("{x}[torch.tensor([1, 0]), torch.tensor([0, 1])]", 0, -1),
    ("torch.linalg.norm({x}, dim=-1)", 0, 1),
    ("{x}.prod(-1)", 0, 1),
    ("{x}.var((1, 2))", 4, -1),
    ("torch.cat([{x}.mean((2, 3)), {x}.amax((2, 3))], 1)", 4, -1),
    ("{x}.unfold(2, 2, 2).flatten(2)", 4, 1),
    ("{x}.unflatten(1, (4, -1)).mean(2)", 4, 1),
    ("{x}.unflatten(1, (-1, 4)).amax(1)", 4, 1),
    ("torch.kron({x}, torch.ones(1, 2, dtype={x}.dtype))", 2, -1),
]


@production(5, len(RERANKED))
def reranked(g: Draw) -> None:
    text, rank, axis = g.choose(*RERANKED)
    x = g.pick(lambda x: x.rank == rank or (not rank and x.rank > 1))
    g.emit(text.format(x=x), axis=axis)


@production(4)
def unranked_back(g: Draw) -> None:
    """Make an image of tokens, or tokens of an image."""
    x = g.pick(lambda x: x.rank == 3)
    if x.axis == 2:
        g.emit(f"{x}.transpose(1, 2)[..., None]" if x.shape[1] % 2 else f"{x}.mT.unflatten(2, (2, -1))", axis=1)
    else:
        g.emit(f"{x}.transpose(1, 2)", axis=-1)


JOINS = """
    {x}+{y} {x}+{y} {x}+{y} {x}*{y} torch.maximum({x},{y}) {x}*{y}.sigmoid() torch.where({x}>0,{x},{y}) {x}.lerp({y},0.3)
    torch.addcmul({x},{x},{y}) {y}-2*{x} {x}/(1+{y}.abs()) torch.add({x},{y},alpha=2) torch.hypot({x},{y}) {y}.expand_as({x}+{y})+{x}
    torch.stack([{x}.expand_as({x}+{y}),{y}.expand_as({x}+{y})],1).sum(1) {x}*{y}.softmax(-1) torch.atan2({x},{y}) torch.stack([{x},{y}]).amax(0)
""".split()  # noqa: SIM905


@production(14)
def joined(g: Draw) -> None:
    """Two tensors of equal shapes, or shapes that broadcast, meet element by element."""
    x = g.pick()
    exact = g.chance(0.7)

    def fits(y: Var) -> bool:
        if y is x or exact:
            return y is not x and y.shape == x.shape
        pairs = zip(reversed(x.shape), reversed(y.shape), strict=False)
        return x.rank >= y.rank and all(b in (1, a) for a, b in pairs)

    y = g.pick(fits, inputs=0.1)
    g.emit(g.choose(*JOINS).format(x=x, y=y), like=x)


@production(7)
def concatenated(g: Draw) -> None:
    x = g.pick()
    a = g.axis(x)
    others = [k for k in range(x.rank) if k != a % x.rank]

    def fits(y: Var) -> bool:
        return y.rank == x.rank and all(y.shape[k] == x.shape[k] for k in others)

    ys = [g.pick(fits, inputs=0.1) for _ in range(g.choose(1, 1, 2))]
    names = [str(each) for each in [x, *ys]]
    g.random.shuffle(names)
    made = g.emit(f"torch.cat([{', '.join(names)}], {g.choose('', 'dim=')}{a})", like=x)
    if g.chance(0.15):
        size = x.shape[a]
        g.emit(f"{made}.narrow({a}, {g.choose(0, size, 4, size // 2)}, {g.choose(size, size // 2, 4)})", like=x)


@production(2)
def multiplied(g: Draw) -> None:
    """A product of two activations."""
    x, y = g.pick(lambda x: x.rank > 1), g.pick(lambda x: x.rank > 1)
    forms = [
        f"{x} @ {y}",
        f"{x} @ {y}.mT",
        f"{x}.mT @ {y}",
        f"({x} @ {y}.mT).softmax(-1)",
        f"({x} @ {y}.mT).tanh() @ {y}",
    ]
    if x.rank == y.rank == 3:
        forms += [
            f"torch.einsum('{eq}', {x}, {y})"
            for eq in ("ntc,nsc->nts", "ntc,nsc->ntsc", "ntc,nsd->ncd", "ntc,ntd->ntcd")
        ]
    g.emit(g.choose(*forms))


@production(3)
def pieces(g: Draw) -> None:
    """Split, do something to each piece, and put them together in some order."""
    x = g.pick()
    a, n = g.axis(x), 0
    n = x.shape[a]
    sizes = g.choose([n // 2, n - n // 2], [4, n - 4], [n // 4, n // 4, n - 2 * (n // 4)], [n - 4, 4], [1, n - 1])
    if min(sizes) <= 0:
        raise Rejected
    parts = g.several([x.axis] * len(sizes), f"{x}.split({sizes}, {a})")
    changed = [g.choose("{}", "{}.relu()", "{}.tanh()", "2 * {}").format(part) for part in parts]
    if g.chance(0.3):
        g.random.shuffle(changed)
    if g.chance(0.1):
        changed = changed[1:] + changed
    g.emit(f"torch.cat([{', '.join(changed)}], {a})", like=x)


@production(3)
def indexed(g: Draw) -> None:
    """Pick positions by an index in a buffer."""
    x = g.pick(lambda x: x.rank > 1)
    a = g.axis(x)
    p, n = a % x.rank, x.shape[a]
    order = list(range(n))
    kind = g.choose("shuffle", "blocks", "subset", "repeat", "same")
    if kind == "blocks" and n % 4 == 0:
        order = [4 * k + j for k in g.random.sample(range(n // 4), n // 4) for j in range(4)]
    elif kind != "same":
        order = g.random.sample(order, n)
        order = order[: n // 2] if kind == "subset" else order + order[:4] if kind == "repeat" else order
    index = g.part(f"table{tuple(order)}" if len(order) > 1 else f"table({order[0]})")
    g.emit(
        g.choose(
            f"{x}.index_select({a}, {index})",
            f"{x}[{':, ' * p}{index}]",
            f"{x}.movedim({p}, 0)[{index}].movedim(0, {p})",
        ),
        like=x,
    )


@production(0.7)
def running_state(g: Draw) -> None:
    """A buffer that follows the activations: the model changes its own state."""
    x = g.pick(lambda x: x.rank > 1, inputs=0)
    state = g.part(f"buffer({x.shape[-1]})")
    g.do(f"{state}.lerp_({x}.flatten(0, -2).mean(0), 0.1)")
    g.emit(g.choose(f"{x} - {state}", f"{x} + 0 * {state}", f"{x} * 2"), like=x)


@production(5, 21)
def in_place(g: Draw) -> None:
    x = g.pick()
    if g.chance(0.5):
        x = g.emit(
            g.choose(f"{x}.clone()", f"1 * {x}", f"torch.empty_like({x}).copy_({x})", f"torch.zeros_like({x})"), like=x
        )
    half = x.shape[1] // 2 if x.rank > 1 else 1
    y = g.pick(lambda y: y.shape == x.shape)
    forms = [
        *(f"{x}.relu_()", f"{x}.mul_({y})", f"{x}.add_({y}.tanh())", f"{x}[:, :{half}] = 0.3", f"{x}[:, {half}:] += 1"),
        *(
            f"{x}[:, :{half}] = {y}[:, -{half}:]",
            f"{x}[:, ::2] *= 2",
            f"{x}[..., 0] = {y}[..., -1]",
            f"F.relu({x}, inplace=True)",
        ),
        *(
            f"{x}[:, {half}:].relu_()",
            f"{x}.narrow(-1, 0, 1).mul_(0.5)",
            f"{x}.copy_({y}.flip(1))",
            f"{x}.transpose(0, -1).mul_(1.5)",
        ),
        *(
            f"{x}[0] = {y}[0].relu()",
            f"{x} += {y}",
            f"{x}.masked_fill_({y} > 0, 0.1)",
            f"{x}.clamp_(-1, 1)",
            f"{x}.fill_(0.5)",
        ),
        *(
            f"{x}[..., :{half}].copy_({y}[..., :{half}])",
            f"{x}.select(1, 0).add_(1)",
            f"{x}.chunk(2, 1)[0].neg_()",
            f"{x}.zero_().add_({y})",
        ),
    ]
    g.do(g.choose(*forms))
    g.used.discard(str(x))
