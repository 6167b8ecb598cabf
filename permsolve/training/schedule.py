"""A schedule: a recipe, and how long the training is."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from torch import nn
from torch.optim import Optimizer

from permsolve.errors import OptionError
from permsolve.models.selection import Filter
from permsolve.training.recipes import Recipe, resolve
from permsolve.training.sparse_training import SparseTraining


@dataclass(frozen=True)
class NMSchedule:
    """How n:m masks come into a training of so many steps.

    Parameters
    ----------
    recipe
        A recipe, or its name: ``"masked"``, ``"mask_decay"``, ``"structure_decay"``, ``"sr_ste"`` or ``"step"``.
    steps
        Steps of the optimiser in all.

    Raises
    ------
    InputError
        If there is no such recipe, or recipes are combined.
    OptionError
        If the steps are none.
    """

    recipe: Recipe | str
    steps: int

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "recipe", resolve(self.recipe))
        if isinstance(self.steps, bool) or not isinstance(self.steps, Integral) or self.steps < 1:
            raise OptionError(f"steps = {self.steps!r} must be the number of optimiser steps, at least 1")
        object.__setattr__(self, "steps", int(self.steps))

    def attach(
        self, model: nn.Module, nm: object, optimizer: Optimizer, *, layers: Filter | None = None
    ) -> SparseTraining:
        """Hold a model's weights by masks that follow the schedule.

        Call ``step()`` of what is returned after every step of the optimiser, and ``finish()`` at the end.

        Parameters
        ----------
        model
            The model; it may be dense, or pruned already.
        nm
            Pattern: (n, m) or ``"n:m"``.
        optimizer
            What trains the model: made of its parameters, before this call or after it.
        layers
            Which weights, as in `permsolve.models.weights`.

        Returns
        -------
        SparseTraining
            The training.

        Raises
        ------
        InputError
            If an argument does not fit, weights are held by masks or parametrizations already, or none can be pruned.
        OptionError
            If the steps are too few for the recipe, or it cannot end in the pattern.
        """
        assert isinstance(self.recipe, Recipe)
        training = SparseTraining(model, nm, self.recipe, layers)
        try:
            training.begin(self.steps, optimizer)
        except BaseException:
            training.detach()
            raise
        return training
