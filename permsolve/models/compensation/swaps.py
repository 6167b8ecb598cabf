"""Which weights to keep, by exchanges inside groups on the loss of the refit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from permsolve._solve import threads
from permsolve.kernels.refit import exchange
from permsolve.models.compensation.regression import Regression, factor, positions

#: Bytes of the tableaus that are worked on at once.
_BATCH = 1 << 28
#: Exchanges of a row after which its tableau is made anew. Until then a column costs as much as there were exchanges.
_HISTORY = 256
#: An exchange must lower the loss by more than this, relative to the targets' energy: below is rounding.
_FLOOR = 1e-10
#: What a weight that comes back must have of its own, not explained by those kept, as a share of its feature's size:
#: with less the tableau loses all digits, and a refit would be refused.
_OWN = 1e-8


def improve(
    problem: Regression,
    mask: torch.Tensor,
    members: torch.Tensor,
    sweeps: int,
    frozen: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exchange kept and pruned weights inside groups as long as the loss of the refitted rows falls.

    In each sweep every group of a row makes its best exchange, if there is one that lowers the loss with all kept
    weights of the row refitted. Rows are independent and divided among threads.

    Parameters
    ----------
    problem
        The problem, damped where its moment is not of full rank.
    mask
        bool (rows, features): what is kept.
    members
        int64 (groups, m): the features of each group.
    sweeps
        The most sweeps of a row; it ends before if a sweep makes no exchange.
    frozen
        bool (rows, features): pruned entries that may not come back; by default all may.

    Returns
    -------
    tuple
        The new mask, which keeps as many of every group, and by how much each row's loss fell.

    Raises
    ------
    InputError
        If the moment has no full rank on a row's mask.
    """
    mask = mask.clone()
    falls = torch.zeros_like(problem.energy)
    states = np.zeros((len(mask), 4), np.int64)
    counts = mask.sum(dim=1)
    features = mask.shape[1]
    step = max(_BATCH // (24 * features * features), 1)
    with ThreadPoolExecutor(threads(None)) as pool:
        for kept in torch.unique(counts).tolist():  # one number, unless masks were there before
            if kept == 0:
                continue
            left = torch.nonzero(counts == kept)[:, 0]
            while len(left):
                again = [
                    _batch(problem, mask, members, sweeps, frozen, left[first : first + step], states, falls, pool)
                    for first in range(0, len(left), step)
                ]
                left = torch.cat(again)
    return mask, falls


def _batch(
    problem: Regression,
    mask: torch.Tensor,
    members: torch.Tensor,
    sweeps: int,
    frozen: torch.Tensor | None,
    rows: torch.Tensor,
    states: np.ndarray,
    falls: torch.Tensor,
    pool: ThreadPoolExecutor,
) -> torch.Tensor:
    """Work on some rows with equally many kept weights; return those whose tableaus must be made anew."""
    kept = int(mask[rows[0]].sum())
    order = positions(mask[rows], mask.shape[1])  # kept features first: the tableau's blocks are contiguous
    tables, linear = _tableaus(problem, rows, order, kept)
    status = np.zeros(tables.shape[:2], np.int8)
    status[:, :kept] = 1
    if frozen is not None:
        status[torch.gather(frozen[rows], 1, order).cpu().numpy() & (status == 0)] = 2
    places = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    grouped = places[:, members.reshape(-1)].reshape(len(rows), *members.shape).numpy()
    floors = (_FLOOR * problem.energy[rows]).tolist()
    which = rows.tolist()
    history = min(_HISTORY, mask.shape[1])
    least = max(_OWN, mask.shape[1] ** 0.5 * problem.rounding) * problem.moment.diagonal()[order].numpy()

    def work(i: int) -> tuple[float, bool]:
        past = np.empty((2 * history, tables.shape[1]))
        fall, full = exchange(
            *(tables[i], linear[i], status[i], grouped[i], least[i], past, np.empty(2 * history)),
            *(floors[i], sweeps, states[which[i]]),
        )
        return float(fall), bool(full)

    done = list(pool.map(work, range(len(which))))
    mask[rows] = torch.zeros_like(mask[rows]).scatter(1, order, torch.from_numpy(status == 1))
    falls[rows] += torch.tensor([fall for fall, _ in done], dtype=falls.dtype)
    return rows[torch.tensor([full for _, full in done])]


def _tableaus(problem: Regression, rows: torch.Tensor, order: torch.Tensor, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the swept tableaus of rows, and the vectors h; see `permsolve.kernels.refit`."""
    moments = problem.moment[order[:, :, None], order[:, None, :]]
    wanted = torch.gather(problem.cross[rows], 1, order)
    across, between = moments[:, :kept, kept:].clone(), moments[:, kept:, kept:]
    inverse = torch.cholesky_inverse(factor(moments[:, :kept, :kept], problem.rounding))
    solved = inverse @ across
    linear = torch.empty_like(wanted)
    linear[:, :kept] = (inverse @ wanted[:, :kept, None])[..., 0]
    linear[:, kept:] = wanted[:, kept:] - (linear[:, None, :kept] @ across)[:, 0]
    between -= across.mT @ solved
    moments[:, :kept, :kept] = -inverse
    moments[:, :kept, kept:] = solved
    moments[:, kept:, :kept] = solved.mT
    return moments.numpy(), linear.numpy()
