"""Relaxations of a permutation: nearly doubly stochastic matrices that gradients pass through."""

from __future__ import annotations

import numpy as np
import torch

from permsolve.errors import InputError


def sinkhorn(logits: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Relax permutations by a softmax and a few normalisations of rows and columns.

    As in PermLLM (Zou et al., NeurIPS 2025, arXiv 2510.10136), after Sinkhorn (1964) and Mena et al. (ICLR 2018).

    Parameters
    ----------
    logits
        (..., b, b), divided by the temperature already.
    iterations
        Normalisations, each of the rows and then of the columns.

    Returns
    -------
    torch.Tensor
        (..., b, b), entries >= 0, columns that sum to 1, rows nearly so.
    """
    soft = torch.softmax(logits, dim=-1)
    for _ in range(iterations):
        soft = soft / soft.sum(dim=-1, keepdim=True)
        soft = soft / soft.sum(dim=-2, keepdim=True)
    return soft


def transport(cost: torch.Tensor, epsilon: float, iterations: int = 10) -> torch.Tensor:
    """Relax permutations as entropic optimal transport between uniform marginals, in the log domain.

    The minimiser of ``(plan * cost).sum() - epsilon * entropy(plan)`` (Cuturi, NeurIPS 2013), as in Li et al., 2026
    (arXiv 2601.22980). Small epsilons neither overflow nor vanish.

    Parameters
    ----------
    cost
        (..., b, b).
    epsilon
        Weight of the entropy, positive: the smaller, the closer to a permutation.
    iterations
        Scalings, each of the rows and then of the columns.

    Returns
    -------
    torch.Tensor
        (..., b, b), entries >= 0, columns that sum to 1, rows nearly so.
    """
    log = cost / -epsilon
    for _ in range(iterations):
        log = log - torch.logsumexp(log, dim=-1, keepdim=True)
        log = log - torch.logsumexp(log, dim=-2, keepdim=True)
    return log.exp()


def assign(soft: torch.Tensor) -> torch.Tensor:
    """Harden relaxed permutations by linear sum assignment, each block by itself.

    Parameters
    ----------
    soft
        (k, b, b): entry [i, j] says how much slot i takes of position j.

    Returns
    -------
    torch.Tensor
        int64 (k, b), on the same device: slot i takes position [i], every position once.

    Raises
    ------
    InputError
        If an entry is NaN or infinite.
    """
    from scipy.optimize import linear_sum_assignment

    blocks = soft.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(blocks).all():
        raise InputError("the learned permutation holds NaN or infinite entries: lower the learning rate")
    chosen = np.stack([linear_sum_assignment(block, maximize=True)[1] for block in blocks])
    return torch.as_tensor(chosen, dtype=torch.int64, device=soft.device)
