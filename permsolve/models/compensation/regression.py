"""The least-squares problem behind one pruned weight, and its solution on a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from permsolve.errors import InputError

#: Rounding of moments that were added up in float64 and in float32.
DOUBLE, SINGLE = 1e-14, 2e-6
#: Bytes of the systems that are solved at once.
_BATCH = 1 << 26
#: Iterations that conjugate gradients are counted with, and their most.
_USUAL_STEPS, _MOST_STEPS = 200, 2000
#: Where the residual of conjugate gradients is small enough, relative to the right-hand side.
_RESIDUAL = 1e-9


@dataclass(frozen=True, eq=False)
class Regression:
    """Rows of weights w regressed onto targets y: minimise the mean of (y - w x)^2, each row by itself.

    Parameters
    ----------
    moment
        float64 (features, features): the mean of x x^T.
    cross
        float64 (rows, features): the mean of y x^T.
    energy
        float64 (rows,): the mean of y^2.
    rounding
        How far the entries of the moment may be off, relative to the norms of their two features.
    """

    moment: torch.Tensor
    cross: torch.Tensor
    energy: torch.Tensor
    rounding: float = DOUBLE

    @classmethod
    def own(cls, moment: torch.Tensor, weights: torch.Tensor, rounding: float = DOUBLE) -> Regression:
        """Return the problem whose targets are what the dense weights make of the same inputs.

        Parameters
        ----------
        moment
            float64 (features, features).
        weights
            float64 (rows, features): the dense weights.
        rounding
            As of the problem.

        Returns
        -------
        Regression
            The problem; its loss is 0 at the dense weights.
        """
        cross = weights @ moment
        return cls(moment, cross, (cross * weights).sum(dim=1), rounding)

    def damped(self, weights: torch.Tensor, damping: float) -> Regression:
        """Add a ridge that draws every weight to its dense value.

        Without it, inputs with fewer rows than features, or channels that are always zero, leave weights undetermined.

        Parameters
        ----------
        weights
            float64 (rows, features): the dense weights.
        damping
            The ridge, relative to the mean of the moment's diagonal.

        Returns
        -------
        Regression
            The damped problem.
        """
        if damping == 0:
            return self
        # Inputs that are all zero have no scale: any ridge then keeps the dense values.
        ridge = damping * (float(self.moment.diagonal().mean()) or 1.0)
        moment = self.moment.clone()
        moment.diagonal().add_(ridge)
        # The ridge, not the rounding, now decides what depends on what.
        return Regression(moment, self.cross + ridge * weights, self.energy + ridge * weights.square().sum(dim=1))

    def loss(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of every row.

        Parameters
        ----------
        weights
            float64 (rows, features).

        Returns
        -------
        torch.Tensor
            float64 (rows,).
        """
        quadratic = ((weights @ self.moment - 2 * self.cross) * weights).sum(dim=1)
        return quadratic + self.energy

    def rows(self, chosen: torch.Tensor) -> Regression:
        """Return the problem of some rows.

        Parameters
        ----------
        chosen
            Their indices.

        Returns
        -------
        Regression
            The same moment, fewer rows.
        """
        return replace(self, cross=self.cross[chosen], energy=self.energy[chosen])


def refit(problem: Regression, mask: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """Return the best weights on a mask.

    Rows with the same mask share one Cholesky factor. Where factors would cost more than `_USUAL_STEPS` products with
    the moment (beyond some 5,000 features at 2:4), all rows go by conjugate gradients side by side instead.

    Parameters
    ----------
    problem
        The problem, damped where its moment is not of full rank.
    mask
        bool (rows, features): what may be other than zero.
    start
        float64 (rows, features): where conjugate gradients begin; zeros by default.

    Returns
    -------
    torch.Tensor
        float64 (rows, features), zero off the mask.

    Raises
    ------
    InputError
        If the moment has no full rank on a row's mask.
    """
    patterns, which = torch.unique(mask, dim=0, return_inverse=True)
    kept = int(mask.sum(dim=1).max()) if mask.numel() else 0
    features = mask.shape[1]
    if len(patterns) * kept**3 / 3 > _USUAL_STEPS * len(mask) * features**2:
        return _by_gradients(problem, mask, start)
    return _by_factors(problem, mask, patterns, which, kept)


def positions(mask: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the places of every row's true entries, in order.

    Parameters
    ----------
    mask
        bool (rows, features).
    kept
        The most that a row has; rows with fewer go on with places that are false.

    Returns
    -------
    torch.Tensor
        int64 (rows, kept).
    """
    return torch.argsort(~mask, dim=1, stable=True)[:, :kept]


def factor(systems: torch.Tensor, rounding: float = DOUBLE) -> torch.Tensor:
    """Return the Cholesky factors of symmetric matrices.

    Parameters
    ----------
    systems
        float64 (count, size, size).
    rounding
        How far their entries may be off, relative to the roots of the two diagonal entries.

    Returns
    -------
    torch.Tensor
        Lower triangles.

    Raises
    ------
    InputError
        If one of them has no full rank, as far as the rounding can tell.
    """
    lower: torch.Tensor
    lower, failed = torch.linalg.cholesky_ex(systems)
    least = systems.shape[-1] ** 0.5 * rounding
    # A pivot is what of a feature those before it do not explain; to be judged by that feature's own size.
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    if bool(failed.any()) or not bool((pivots > least * systems.diagonal(dim1=-2, dim2=-1)).all()):
        raise InputError(
            "the second moment of the inputs has no full rank: there are fewer rows of calibration inputs than "
            "features, or channels that depend on each other; give more batches, or a damping above 0 (0.01 is usual)"
        )
    return lower


def _by_factors(
    problem: Regression, mask: torch.Tensor, patterns: torch.Tensor, which: torch.Tensor, kept: int
) -> torch.Tensor:
    result = torch.zeros_like(problem.cross)
    if kept == 0:
        return result
    order = torch.argsort(which, stable=True)
    ends = torch.cumsum(torch.bincount(which, minlength=len(patterns)), 0).tolist()
    step = max(_BATCH // (8 * kept * kept), 1)
    for first in range(0, len(patterns), step):
        chosen = patterns[first : first + step]
        places = positions(chosen, kept)
        lower = factor(subsystems(problem.moment, chosen, places), problem.rounding)
        rows = order[ends[first - 1] if first else 0 : ends[first + len(chosen) - 1]]
        own = which[rows] - first
        if len(chosen) == 1:  # one factor, all rows at once
            there = places[0]
            result[rows[:, None], there] = torch.cholesky_solve(problem.cross[rows][:, there].T, lower[0]).T
            continue
        wanted = torch.gather(problem.cross[rows], 1, places[own])[..., None]
        solved = torch.cholesky_solve(wanted, lower if len(rows) == len(chosen) else lower[own])[..., 0]
        result[rows] = result[rows].scatter(1, places[own], solved)
    return torch.where(mask, result, 0.0)


def subsystems(moment: torch.Tensor, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the part of a moment that every mask keeps.

    Parameters
    ----------
    moment
        float64 (features, features).
    masks
        bool (count, features).
    places
        What `positions` returned for them.

    Returns
    -------
    torch.Tensor
        float64 (count, kept, kept). Places that a mask does not keep stand alone: a one on the diagonal.
    """
    systems = moment[places[:, :, None], places[:, None, :]]
    there = torch.gather(masks, 1, places)
    if not bool(there.all()):
        both = there[:, :, None] & there[:, None, :]
        systems = torch.where(both, systems, torch.eye(places.shape[1], dtype=moment.dtype, device=moment.device))
    return systems


def _by_gradients(problem: Regression, mask: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """Conjugate gradients with the diagonal as preconditioner, for all rows at once."""
    diagonal = problem.moment.diagonal()
    if not bool((diagonal > 0).all()):
        raise InputError("a feature of the calibration inputs is always zero; give a damping above 0 (0.01 is usual)")
    weights = torch.zeros_like(problem.cross) if start is None else torch.where(mask, start, 0.0)
    residual = torch.where(mask, problem.cross - weights @ problem.moment, 0.0)
    small = _RESIDUAL * torch.where(mask, problem.cross, 0.0).norm(dim=1)
    direction = residual / diagonal
    slope = (residual * direction).sum(dim=1, keepdim=True)
    for _ in range(_MOST_STEPS):
        if bool((residual.norm(dim=1) <= small).all()):
            return weights
        image = torch.where(mask, direction @ problem.moment, 0.0)
        curvature = (direction * image).sum(dim=1, keepdim=True)
        length = torch.where(curvature > 0, slope / curvature, 0.0)
        weights += length * direction
        residual -= length * image
        scaled = residual / diagonal
        before, slope = slope, (residual * scaled).sum(dim=1, keepdim=True)
        direction = scaled + torch.where(before > 0, slope / before, 0.0) * direction
    raise InputError(
        f"conjugate gradients did not solve the least-squares problem in {_MOST_STEPS:,} steps: the second moment of "
        f"the inputs is too badly conditioned; give more batches or a larger damping"
    )
