"""Masks of n:m as functions of saliency and permutation: hard, relaxed, and hard with the gradient of the relaxed.

All work on channels by lines, (..., channels, lines): groups of m are consecutive channels, and loops over lines are
contiguous.
"""

from __future__ import annotations

from typing import Any

import torch


def in_groups(scores: torch.Tensor, m: int) -> torch.Tensor:
    """Return a view with an axis for the groups.

    Parameters
    ----------
    scores
        (..., channels, lines).
    m
        Group size.

    Returns
    -------
    torch.Tensor
        (..., channels / m, m, lines).
    """
    return scores.reshape(*scores.shape[:-2], -1, m, scores.shape[-1])


def top_mask(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Keep the n largest of every m consecutive channels, of equal ones the first.

    Parameters
    ----------
    scores
        (..., channels, lines).
    n, m
        The pattern.

    Returns
    -------
    torch.Tensor
        bool, of the same shape; exactly n of every m are true.
    """
    grouped = in_groups(scores, m)
    # Ranks by comparison: a sort of four numbers costs several times as much.
    rank = torch.zeros(grouped.shape, dtype=torch.int16, device=scores.device)
    for k in range(m):
        other = grouped[..., k : k + 1, :]
        rank[..., :k, :] += other > grouped[..., :k, :]
        rank[..., k + 1 :, :] += other >= grouped[..., k + 1 :, :]
    return (rank < n).flatten(-3, -2)


def soft_mask(scores: torch.Tensor, m: int, temperature: float = 1.0) -> torch.Tensor:
    """Relax a mask by a softmax within every m consecutive channels.

    Parameters
    ----------
    scores
        (..., channels, lines).
    m
        Group size.
    temperature
        The smaller, the closer to a mask that keeps one of every m.

    Returns
    -------
    torch.Tensor
        Of the same shape, groups that sum to 1.
    """
    return torch.softmax(in_groups(scores, m) / temperature, dim=-2).flatten(-3, -2)


class _StraightThrough(torch.autograd.Function):
    """The hard mask under hard permutations, with the gradient that the relaxed ones would have."""

    @staticmethod
    def forward(ctx: Any, soft: Any, scores: Any, hard: Any, n: int, m: int, temperature: float) -> Any:
        permuted = take(scores, hard)
        kept = top_mask(permuted, n, m)
        ctx.save_for_backward(scores, hard, kept)
        ctx.m, ctx.temperature = m, temperature
        return put_back(kept, hard).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        scores, hard, kept = ctx.saved_tensors
        own = gradients[0]
        # mask = P^T kept(P scores), both P relaxed: d mask / d P has a term for each.
        slots = take(own, hard)
        relaxed = in_groups(soft_mask(take(scores, hard), ctx.m, ctx.temperature), ctx.m)
        slots = in_groups(slots, ctx.m)
        through = relaxed * (slots - (relaxed * slots).sum(-2, keepdim=True)) / ctx.temperature
        gradient = through.flatten(-3, -2) @ scores.mT
        gradient += kept.to(own.dtype) @ own.mT
        return gradient, None, None, None, None, None


def straight_through_mask(
    soft: torch.Tensor, scores: torch.Tensor, hard: torch.Tensor, n: int, m: int, temperature: float = 1.0
) -> torch.Tensor:
    """Return the mask under hard permutations in the channels' own order, with the gradient of relaxed ones.

    Forward: permute, keep the n largest of every m, put back. Backward: both permutations have the gradient of
    ``soft``, and the choice that of a softmax within each group, as in PermLLM. Nothing of the size of the scores is
    kept for the gradient but the scores and one bit for each.

    Parameters
    ----------
    soft
        (k, b, b): relaxed permutations, whose gradient is computed.
    scores
        (k, b, lines): saliency, channels in their own order.
    hard
        int64 (k, b): the hardened permutations.
    n, m
        The pattern.
    temperature
        Of the softmax.

    Returns
    -------
    torch.Tensor
        (k, b, lines), zeros and ones.
    """
    mask: torch.Tensor = _StraightThrough.apply(soft, scores, hard, n, m, temperature)  # type: ignore[no-untyped-call]
    return mask


def take(scores: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
    """Permute channels: slot i takes position hard[i].

    Parameters
    ----------
    scores
        (k, b, lines).
    hard
        int64 (k, b).

    Returns
    -------
    torch.Tensor
        (k, b, lines).
    """
    return torch.stack([each.index_select(0, order) for each, order in zip(scores, hard, strict=True)])


def put_back(permuted: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
    """Undo `take`.

    Parameters
    ----------
    permuted
        (k, b, lines).
    hard
        int64 (k, b).

    Returns
    -------
    torch.Tensor
        (k, b, lines).
    """
    return take(permuted, torch.argsort(hard, dim=-1))
