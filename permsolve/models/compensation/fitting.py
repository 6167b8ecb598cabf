"""Weights of a layer as rows of a regression, and what compensation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from permsolve._arrays import channels_last
from permsolve.errors import InputError
from permsolve.models.compensation.regression import Regression, refit
from permsolve.models.compensation.sparsegpt import sparsegpt
from permsolve.models.compensation.swaps import improve
from permsolve.models.prunable import PrunableWeight
from permsolve.patterns import NM, Pattern

Array = npt.NDArray[Any]

UPDATES = ("none", "sparsegpt", "refit")
TARGETS = ("own", "dense")


@dataclass(frozen=True)
class Compensation:
    """How the weights that pruning keeps make up for the others.

    Parameters
    ----------
    update
        ``"sparsegpt"`` or ``"refit"``.
    target
        What they are fitted to: ``"own"``, the outputs of the dense weights on the same inputs, or ``"dense"``, the
        outputs of the dense model while the inputs are those of the pruned one.
    swap
        The most sweeps of exchanges inside groups.
    damping
        Ridge towards the dense weights, relative to the mean of the moment's diagonal.

    Raises
    ------
    InputError
        If a value is not allowed, or they do not go together.
    """

    update: str
    target: str = "own"
    swap: int = 0
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise InputError(f"update = {self.update!r} must be one of {', '.join(map(repr, UPDATES))}")
        if self.target not in TARGETS:
            raise InputError(f"target = {self.target!r} must be one of {', '.join(map(repr, TARGETS))}")
        if isinstance(self.swap, bool) or not isinstance(self.swap, (int, np.integer)) or self.swap < 0:
            raise InputError(f"swap = {self.swap!r} must be the number of sweeps of exchanges: an integer >= 0")
        number = isinstance(self.damping, (int, float, np.number)) and not isinstance(self.damping, bool)
        if not number or not 0 <= self.damping < np.inf:
            raise InputError(f"damping = {self.damping!r} must be a finite number >= 0; 0.01 is usual")
        if self.update != "refit" and self.target != "own":
            raise InputError(f"target={self.target!r} needs update='refit'; update is {self.update!r}")
        if self.update != "refit" and self.swap:
            raise InputError(f"swap looks at the loss after a refit: it needs update='refit', not {self.update!r}")

    def check_pattern(self, pattern: Pattern) -> None:
        """Check that the pattern is one that this can work on.

        Parameters
        ----------
        pattern
            The pattern.

        Raises
        ------
        InputError
            If not.
        """
        if isinstance(pattern, NM):
            return
        if self.swap:
            raise InputError(f"swap exchanges weights inside groups of n:m; {pattern} has others: leave swap at 0")
        if self.update == "sparsegpt":
            raise InputError(f"update='sparsegpt' chooses n of m; for {pattern} take update='refit'")


@dataclass(frozen=True, eq=False)
class Choice:
    """What a weight keeps at first.

    Parameters
    ----------
    bits
        The mask, packed: an eighth of a byte per entry, so that all masks of a large model fit in memory. None where
        SparseGPT is to choose.
    nonzero
        Entries that are kept and not zero.
    solution
        The pattern's solution that goes with the mask, or None.
    """

    bits: npt.NDArray[np.uint8] | None
    nonzero: int
    solution: Any

    @classmethod
    def of(cls, mask: Array | None, values: Array, solution: Any) -> Choice:
        """Take note of a mask.

        Parameters
        ----------
        mask
            bool, of the weight's shape, or None.
        values
            The weight's values.
        solution
            The solution.

        Returns
        -------
        Choice
            The note.
        """
        if mask is None:
            return cls(None, 0, solution)
        return cls(np.packbits(mask), int(np.count_nonzero(values[mask])), solution)

    def array(self, weight: PrunableWeight) -> Array | None:
        """Return the mask in the shape of the weight, or None.

        Parameters
        ----------
        weight
            The weight.

        Returns
        -------
        numpy.ndarray or None
            bool.
        """
        if self.bits is None:
            return None
        size = int(np.prod(weight.shape))
        mask: Array = np.unpackbits(self.bits, count=size).astype(np.bool_).reshape(weight.shape)
        return mask

    def mask(self, weight: PrunableWeight) -> torch.Tensor:
        """Return the mask, which must be known.

        Parameters
        ----------
        weight
            The weight.

        Returns
        -------
        torch.Tensor
            bool, of its shape.
        """
        return torch.from_numpy(self.array(weight))


@dataclass(frozen=True, eq=False)
class Fitted:
    """What became of one weight.

    Parameters
    ----------
    mask
        bool, of the weight's shape.
    values
        float64, of the weight's shape; zero off the mask.
    bias
        float64 (outputs,), or None where the layer's bias stays.
    error
        Mean squared error on the calibration inputs, relative to the mean square of the target.
    """

    mask: torch.Tensor
    values: torch.Tensor
    bias: torch.Tensor | None
    error: float


class Rows:
    """A weight as rows of a regression: one per output channel, features channel by channel, then kernel positions.

    Parameters
    ----------
    weight
        The weight.
    """

    def __init__(self, weight: PrunableWeight) -> None:
        self._weight = weight
        self._kernel = tuple(weight.shape[2:])
        self._positions = prod(self._kernel)
        #: Features of a row.
        self.features = weight.cols * self._positions
        #: Groups of the convolution, and rows of each.
        self.groups = weight.groups
        self.outputs = prod(weight.shape) // (self.features * weight.groups)

    def of(self, array: Array) -> torch.Tensor:
        """Return an array of the weight's shape as rows.

        Parameters
        ----------
        array
            The array.

        Returns
        -------
        torch.Tensor
            (groups, outputs, features).
        """
        rows = self._weight.to_channels(array).reshape(self.groups, self.outputs, self.features)
        return torch.from_numpy(np.array(rows))

    def back(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo `of`.

        Parameters
        ----------
        rows
            (groups, outputs, features).

        Returns
        -------
        torch.Tensor
            Of the weight's shape.
        """
        array = rows.numpy().reshape(self.groups * self.outputs, self._weight.cols, *self._kernel)
        return torch.from_numpy(np.ascontiguousarray(self._weight.from_matrix(channels_last(array))))

    def members(self, m: int) -> torch.Tensor:
        """Return the features of every group of m: channels in a row, at one kernel position.

        Parameters
        ----------
        m
            Size of the groups.

        Returns
        -------
        torch.Tensor
            int64 (groups, m).
        """
        index = torch.arange(self.features).reshape(-1, m, self._positions)
        return index.permute(2, 0, 1).reshape(-1, m)


def fit(
    weight: PrunableWeight,
    values: Array,
    choice: Choice,
    problems: Sequence[Regression],
    pattern: Pattern,
    how: Compensation,
) -> Fitted:
    """Compensate one weight.

    Parameters
    ----------
    weight
        The weight.
    values
        Its dense values.
    choice
        What is kept at first.
    problems
        The regression of every group of the convolution, one for other layers; not damped.
    pattern
        The pattern.
    how
        What to do.

    Returns
    -------
    Fitted
        The result, without a bias.

    Raises
    ------
    InputError
        If the moments hold NaN or infinite entries, or have no full rank and are not damped.
    """
    rows = Rows(weight)
    dense = rows.of(values).double()
    mask, before = choice.array(weight), weight.owners[0].mask
    kept = None if mask is None else rows.of(mask)
    gone = None if before is None else rows.of((before == 0).cpu().numpy())
    masks, results, error, energy = [], [], 0.0, 0.0
    for group, problem in enumerate(problems):
        if not bool(torch.isfinite(problem.moment).all() and torch.isfinite(problem.cross).all()):
            raise InputError(f"the calibration inputs or outputs of {weight.path} hold NaN or infinite values")
        try:
            chosen, result = _fit_group(
                dense[group],
                None if kept is None else kept[group],
                None if gone is None else gone[group],
                problem,
                rows,
                pattern,
                how,
            )
        except InputError as fault:
            raise InputError(f"{weight.path}: {fault}") from fault
        masks.append(chosen)
        results.append(result)
        error += float(problem.loss(result).sum())
        energy += float(problem.energy.sum())
    return Fitted(
        rows.back(torch.stack(masks)), rows.back(torch.stack(results)), None, max(error, 0.0) / (energy or 1.0)
    )


def _fit_group(
    dense: torch.Tensor,
    mask: torch.Tensor | None,
    dead: torch.Tensor | None,
    problem: Regression,
    rows: Rows,
    pattern: Pattern,
    how: Compensation,
) -> tuple[torch.Tensor, torch.Tensor]:
    damped = problem.damped(dense, how.damping)
    if how.update == "sparsegpt":
        assert isinstance(pattern, NM)
        order = rows.members(pattern.m).reshape(-1)
        moment = damped.moment[order][:, order]
        known, gone = (None if each is None else each[:, order] for each in (mask, dead))
        there = sparsegpt(moment, dense[:, order], pattern.n, pattern.m, known, gone, damped.rounding)
        back = torch.argsort(order)
        return there[0][:, back], there[1][:, back]
    assert mask is not None
    if how.swap:
        mask = improve(damped, mask, rows.members(pattern.m), min(int(how.swap), 1 << 31), dead)[0]
    return mask, refit(damped, mask, dense)
