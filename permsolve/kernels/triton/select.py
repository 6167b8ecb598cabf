"""Choosing exchanges on the device: each group's best, and those on which two groups agree.

A round has two kernels. `best_kernel` finds every column's best exchange with a column of another group, from one pass
over the gain matrix; `match_kernel` lets every group name the best exchange of its members and accepts an exchange that
both groups name. The best exchange of all is always among them, groups that have found one leave the next round, and
exchanges of different groups do not interact: any number of rounds later all accepted exchanges are applied at once and
their changes add up exactly.

An exchange is packed in 63 bits: its change (a positive float32, whose bits sort like the number), 16 bits of a hash
of the two columns, and the partner. Both sides compute the same change and the same hash bit for bit, so that equal
changes are ordered the same way on both and ties do not leave everybody unmatched.

With a temperature, changes carry noise: T times a Gumbel variable that belongs to the pair of columns and the sweep.
The largest of ``change + T * noise`` is a draw from the Boltzmann distribution over all exchanges of a group; staying
as it is, is one more candidate, with change 0. (Heat-bath dynamics; two groups must still agree.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Columns of a problem that a packed exchange can name.
MOST_COLUMNS = 1 << 16
#: Rounds of a sweep. Where columns differ in scale all groups want the same few partners, and a round matches few of
#: them; rounds cost a pass over memory, sweeps cost gains.
ROUNDS = 8
#: Columns of a program of `best_kernel`: enough programs for every SM, and rows of tiles that fill a line of 128 bytes.
SIDE = 32


@triton.jit
def _hash(x, seed):
    """Mix 32 bits (the finaliser of MurmurHash3, Appleby 2011), twice, with a seed in between."""
    x = x.to(tl.uint32)
    for _ in tl.static_range(2):
        x = (x ^ (x >> 16)) * 0x85EBCA6B
        x = (x ^ (x >> 13)) * 0xC2B2AE35
        x = x ^ (x >> 16) ^ seed.to(tl.uint32)
    return x


@triton.jit
def _gumbel(bits):
    """Turn 32 random bits into a Gumbel variable."""
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    return -tl.log(-tl.log(uniform))


@triton.jit(do_not_specialize=["seed"])
def best_kernel(
    gain,
    losses,
    labels,
    tolerances,
    temperatures,
    best,
    cols,
    gain_stride,
    seed,
    NOISE: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Find the best exchange of SIDE columns of one problem; ``labels``: groups, -1 for columns that may not move."""
    batch = tl.program_id(1).to(tl.int64)
    seed = _hash(tl.program_id(1), seed)
    x, y = tl.program_id(0) * SIDE + tl.arange(0, SIDE), tl.arange(0, SIDE)
    gain += batch * cols * gain_stride
    losses += batch * cols
    labels += batch * cols
    label_x = tl.load(labels + x, mask=x < cols, other=-1)
    to = best + batch * cols + x
    if tl.max(label_x, axis=0) < 0:
        tl.store(to, tl.full((SIDE,), -1, tl.int64), mask=x < cols)
        return
    loss_x = tl.load(losses + x, mask=x < cols, other=0.0)
    tolerance, temperature = tl.load(tolerances + batch), tl.load(temperatures + batch)
    found = tl.full((SIDE,), -1, tl.int64)
    for start in range(0, cols, SIDE):
        z = start + y
        label_z = tl.load(labels + z, mask=z < cols, other=-1)
        loss_z = tl.load(losses + z, mask=z < cols, other=0.0)
        inside = (x < cols)[:, None] & (z < cols)[None, :]
        row = tl.load(gain + x.to(tl.int64)[:, None] * gain_stride + z[None, :], mask=inside, other=0.0)
        # The other half lies transposed: it is read along its rows and turned round here.
        inside_2 = (z < cols)[:, None] & (x < cols)[None, :]
        column = tl.load(gain + z.to(tl.int64)[:, None] * gain_stride + x[None, :], mask=inside_2, other=0.0)
        change = (row - loss_x[:, None]) + tl.trans(column - loss_z[:, None])
        low, high = tl.minimum(x[:, None], z[None, :]), tl.maximum(x[:, None], z[None, :])
        bits = _hash(low * cols + high, seed)
        if NOISE:
            change += temperature * _gumbel(bits)
        allowed = (label_x[:, None] >= 0) & (label_z[None, :] >= 0) & (label_x[:, None] != label_z[None, :])
        key = (change.to(tl.int32, bitcast=True).to(tl.int64) << 32) | ((bits & 0xFFFF).to(tl.int64) << 16)
        key = tl.where(allowed & (change > tolerance), key | z[None, :].to(tl.int64), -1)
        found = tl.maximum(found, tl.max(key, axis=1))
    tl.store(to, found, mask=x < cols)


@triton.jit
def _named(best, order, group, here, M: tl.constexpr):
    """Return the best exchange of each group: its packed key and the member that takes part."""
    key = tl.full(group.shape, -1, tl.int64)
    own = tl.zeros(group.shape, tl.int32)
    for k in range(M):
        member = tl.load(order + group * M + k, mask=here, other=0)
        candidate = tl.load(best + member, mask=here, other=-1)
        own = tl.where(candidate > key, member, own)
        key = tl.maximum(key, candidate)
    return key, own


@triton.jit
def _bar(group, temperature, seed):
    """Return what a group's staying as it is draws."""
    return temperature * _gumbel(_hash(group, seed ^ 0x5BD1E995))


@triton.jit(do_not_specialize=["seed"])
def match_kernel(
    best,
    order,
    group_of,
    temperatures,
    labels,
    choices,
    cols,
    seed,
    NOISE: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Accept the exchanges that both groups name: choices become own member * 2^16 + partner, labels -1."""
    batch = tl.program_id(1).to(tl.int64)
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = group < cols // M
    best += batch * cols
    order += batch * cols
    key, own = _named(best, order, group, here, M)
    some = here & (key >= 0)
    partner = (key & 0xFFFF).to(tl.int32)
    other = tl.load(group_of + batch * cols + partner, mask=some, other=0)
    key_2, own_2 = _named(best, order, other, some, M)
    agreed = some & ((key_2 & 0xFFFF).to(tl.int32) == own) & (own_2 == partner) & (key_2 >= 0)
    if NOISE:
        seed = _hash(tl.program_id(1), seed)
        temperature = tl.load(temperatures + batch)
        change = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        agreed = agreed & (change > _bar(group, temperature, seed)) & (change > _bar(other, temperature, seed))
    tl.store(choices + batch * (cols // M) + group, own.to(tl.int64) << 16 | partner.to(tl.int64), mask=agreed)
    for k in range(M):
        member = tl.load(order + group * M + k, mask=agreed, other=0)
        tl.store(labels + batch * cols + member, tl.full((BLOCK,), -1, tl.int32), mask=agreed)


@triton.jit
def apply_kernel(choices, order, group_of, cols, M: tl.constexpr, BLOCK: tl.constexpr):
    """Carry out the accepted exchanges: every group replaces its own member."""
    batch = tl.program_id(1).to(tl.int64)
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    choice = tl.load(choices + batch * (cols // M) + group, mask=group < cols // M, other=-1)
    chosen = choice >= 0
    own, partner = (choice >> 16).to(tl.int32), (choice & 0xFFFF).to(tl.int32)
    for k in range(M):
        place = order + batch * cols + group * M + k
        member = tl.load(place, mask=chosen, other=-1)
        tl.store(place, partner, mask=chosen & (member == own))
    tl.store(group_of + batch * cols + partner, group, mask=chosen)


def choose(
    gain: torch.Tensor,
    losses: torch.Tensor,
    order: torch.Tensor,
    group_of: torch.Tensor,
    m: int,
    tolerances: torch.Tensor,
    seed: int,
    temperatures: torch.Tensor | None = None,
    rounds: int = ROUNDS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose exchanges that share no group.

    Parameters
    ----------
    gain
        float32 (batch, cols, padded cols).
    losses
        float32 (batch, cols).
    order
        int32 (batch, cols): columns in groups of m.
    group_of
        int32 (batch, cols): the group of every column.
    m
        Group size.
    tolerances
        float32 (batch,): changes up to this are not improvements.
    seed
        Seed of the ties and of the noise, below 2^31.
    temperatures
        float32 (batch,), or None for improvements only.
    rounds
        How often the groups left over choose again.

    Returns
    -------
    tuple
        int64 (batch, groups): a group's own member * 2^16 + the column it gets for it, or -1 for groups that stay as
        they are; and bool (): whether any exchange was better than the tolerance in the first round.
    """
    batch, cols = order.shape
    noise = temperatures is not None
    heat = losses if temperatures is None else temperatures  # something to point at
    labels = group_of.clone()
    best = torch.empty((batch, cols), dtype=torch.int64, device=order.device)
    choices = torch.full((batch, cols // m), -1, dtype=torch.int64, device=order.device)
    open_ = torch.zeros((), dtype=torch.bool, device=order.device)
    for turn in range(rounds):
        best_kernel[(triton.cdiv(cols, SIDE), batch)](
            gain,
            losses,
            labels,
            tolerances,
            heat,
            best,
            cols,
            gain.stride(1),
            seed,
            NOISE=noise,
            SIDE=SIDE,
            num_warps=4,
        )
        if turn == 0:
            open_ = (best >= 0).any()
        match_kernel[(triton.cdiv(cols // m, 64), batch)](
            best, order, group_of, heat, labels, choices, cols, seed, NOISE=noise, M=m, BLOCK=64, num_warps=2
        )
    return choices, open_


def carry_out(choices: torch.Tensor, order: torch.Tensor, group_of: torch.Tensor, m: int) -> None:
    """Apply exchanges to the order, in place.

    Parameters
    ----------
    choices
        As `choose` returns them.
    order, group_of
        int32 (batch, cols), changed.
    m
        Group size.
    """
    batch, cols = order.shape
    apply_kernel[(triton.cdiv(cols // m, 64), batch)](choices, order, group_of, cols, M=m, BLOCK=64, num_warps=2)
