"""SparseGPT: columns in order, each one's error handed on to those behind it."""

from __future__ import annotations

import torch

from permsolve.models.compensation.regression import DOUBLE, factor

#: Columns whose updates are applied to those behind them at once.
_BLOCK = 128


def sparsegpt(
    moment: torch.Tensor,
    weights: torch.Tensor,
    n: int,
    m: int,
    mask: torch.Tensor | None = None,
    frozen: torch.Tensor | None = None,
    rounding: float = DOUBLE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune columns from left to right and hand each one's error on to the columns behind it.

    With U the upper Cholesky factor of the inverse moment (H^-1 = U^T U), a pruned weight w_i changes the weights
    behind it by -w_i U[i, j] / U[i, i]. When a group is reached, the n weights of largest w_i^2 / U[i, i]^2 stay, with
    the weights as they are then. That saliency depends on the order of the columns: it is not the w^2 / (H^-1)_ii of
    `permsolve.saliency.OBS`. Kept weights are not quantised.

    Parameters
    ----------
    moment
        float64 (features, features), positive definite: damp it before.
    weights
        float64 (rows, features), groups side by side.
    n, m
        How many of how many are kept.
    mask
        bool (rows, features): what to keep, instead of the choice above.
    frozen
        bool (rows, features): entries that may not be kept.
    rounding
        As of `factor`.

    Returns
    -------
    tuple
        The mask and the new weights.

    Raises
    ------
    InputError
        If the moment has no full rank.

    Notes
    -----
    E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023,
    arXiv:2301.00774.
    """
    weights = weights.clone()
    kept = torch.zeros_like(weights, dtype=torch.bool) if mask is None else mask.clone()
    # With H = V V^T, V upper triangular, U is the inverse of V: no inverse of H, which would square its condition.
    factored = factor(moment.flip(0, 1)[None], rounding)[0].flip(0, 1)
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    upper = torch.linalg.solve_triangular(factored, identity, upper=True)
    scale = upper.diagonal()
    features = weights.shape[1]
    step = max(_BLOCK // m, 1) * m
    for first in range(0, features, step):
        last = min(first + step, features)
        block, errors = weights[:, first:last], torch.zeros_like(weights[:, first:last])
        for i in range(last - first):
            at = first + i
            if mask is None and at % m == 0:
                scores = (block[:, i : i + m] / scale[at : at + m]).square()
                if frozen is not None:
                    scores = torch.where(frozen[:, at : at + m], -1.0, scores)
                best = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :n]
                kept[:, at : at + m].scatter_(1, best, True)
                if frozen is not None:
                    kept[:, at : at + m] &= ~frozen[:, at : at + m]
            errors[:, i] = torch.where(kept[:, at], 0.0, block[:, i]) / scale[at]
            block[:, i:] -= errors[:, i, None] * upper[at, at:last]
        weights[:, last:] -= errors @ upper[first:last, last:]
    return kept, torch.where(kept, weights, 0.0)
