"""Second moments of a layer's inputs and targets, added up batch by batch."""

from __future__ import annotations

import torch

from permsolve.models.compensation.regression import Regression

#: Features whose variance is less than this share of their second moment never change: the rest is rounding.
_CONSTANT = 1e-12


class Inputs:
    """Sums over the rows of inputs that siblings share.

    Attributes
    ----------
    count
        Number of rows.
    squares
        float64 (groups, features, features): sum of x x^T.
    sums
        float64 (groups, features): sum of x.
    """

    def __init__(self) -> None:
        self.count = 0
        self.squares: torch.Tensor | None = None
        self.sums: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Add rows.

        Parameters
        ----------
        rows
            float64 (groups, count, features).
        """
        self.count += rows.shape[1]
        squares, sums = (rows.mT @ rows).cpu(), rows.sum(dim=1).cpu()
        self.squares = squares if self.squares is None else self.squares.add_(squares)
        self.sums = sums if self.sums is None else self.sums.add_(sums)


class Targets:
    """Sums over the rows of a weight's targets.

    Attributes
    ----------
    products
        float64 (groups, outputs, features): sum of y x^T.
    squares, sums
        float64 (groups, outputs): sums of y^2 and y.
    """

    def __init__(self) -> None:
        self.products: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None
        self.sums: torch.Tensor | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was added."""
        return self.products is not None

    def add(self, rows: torch.Tensor, wanted: torch.Tensor) -> None:
        """Add rows.

        Parameters
        ----------
        rows
            float64 (groups, count, features).
        wanted
            float64 (groups, count, outputs).
        """
        parts = (wanted.mT @ rows).cpu(), wanted.square().sum(dim=1).cpu(), wanted.sum(dim=1).cpu()
        if self.products is None or self.squares is None or self.sums is None:
            self.products, self.squares, self.sums = parts
            return
        for total, part in zip((self.products, self.squares, self.sums), parts, strict=True):
            total.add_(part)


def regressions(inputs: Inputs, targets: Targets, centred: bool) -> list[Regression]:
    """Return the regression of every group of a layer.

    Parameters
    ----------
    inputs, targets
        The sums.
    centred
        Whether a constant is fitted too: then everything is taken about its mean.

    Returns
    -------
    list
        One for each group.
    """
    assert inputs.squares is not None and inputs.sums is not None
    assert targets.products is not None and targets.squares is not None and targets.sums is not None
    found = []
    for group in range(len(inputs.squares)):
        moment = inputs.squares[group] / inputs.count
        cross, energy = targets.products[group] / inputs.count, targets.squares[group] / inputs.count
        if centred:
            mean, level = inputs.sums[group] / inputs.count, targets.sums[group] / inputs.count
            constant = moment.diagonal() - mean.square() < _CONSTANT * moment.diagonal()
            moment = moment - torch.outer(mean, mean)
            cross, energy = cross - torch.outer(level, mean), energy - level.square()
            moment[constant], moment[:, constant], cross[:, constant] = 0.0, 0.0, 0.0
        found.append(Regression(moment, cross, energy))
    return found


def intercepts(inputs: Inputs, targets: Targets, rows: torch.Tensor) -> torch.Tensor:
    """Return the constants that go with weights fitted to centred sums.

    Parameters
    ----------
    inputs, targets
        The sums.
    rows
        float64 (groups, outputs, features): the weights.

    Returns
    -------
    torch.Tensor
        float64 (groups * outputs,).
    """
    assert inputs.sums is not None and targets.sums is not None
    return ((targets.sums - (rows @ inputs.sums[..., None])[..., 0]) / inputs.count).reshape(-1)
