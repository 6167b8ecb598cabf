"""When a training is dense, when its masks come in, and when they stand."""

from __future__ import annotations

from dataclasses import dataclass

from permsolve.errors import OptionError
from permsolve.patterns import NM


@dataclass(frozen=True)
class Phases:
    """The three parts of a training, in optimiser steps counted from 0.

    Parameters
    ----------
    dense
        Steps before this one use the dense weights.
    fine_tune
        From this step on masks stand as they are and pruned weights are zero; between the two masks come in, or are
        learned.
    steps
        Steps in all.
    """

    dense: int
    fine_tune: int
    steps: int

    @classmethod
    def of(cls, steps: int, dense: float, fine_tune: float, least: int) -> Phases:
        """Divide steps by shares.

        Parameters
        ----------
        steps
            Steps in all.
        dense, fine_tune
            Shares of the first and of the last part.
        least
            Steps that the part between them needs.

        Returns
        -------
        Phases
            The parts.

        Raises
        ------
        OptionError
            If the steps are too few: then some part that has a share gets no step, or the middle less than it needs.
        """
        parts = round(steps * dense), round(steps * fine_tune)
        between = steps - sum(parts)
        empty = [share for share, part in zip((dense, fine_tune), parts, strict=True) if share > 0 and not part]
        if between < least or empty:
            raise OptionError(
                f"steps = {steps} are too few: {parts[0]} dense ones ({dense:g}), {parts[1]} to fine-tune "
                f"({fine_tune:g}), and {between} for the masks in between, which need at least {least}; give more "
                f"steps or other shares"
            )
        return cls(parts[0], steps - parts[1], steps)

    def at(self, step: int) -> str:
        """Return the part that a step belongs to.

        Parameters
        ----------
        step
            Number of the step, from 0; steps beyond the end belong to the last part.

        Returns
        -------
        str
            ``"dense"``, ``"masks"`` or ``"fine_tune"``.
        """
        if step < self.dense:
            return "dense"
        return "masks" if step < self.fine_tune or self.fine_tune == self.steps else "fine_tune"


@dataclass(frozen=True)
class Moment:
    """What holds during one step.

    Parameters
    ----------
    phase
        The part it belongs to.
    nm
        The pattern of the masks.
    beta
        What pruned weights are multiplied by.
    straight
        Whether the gradient of the masked weight is passed whole to the weight, instead of that of the product.
    refresh
        Whether masks are computed anew from the weights before the step.
    """

    phase: str
    nm: NM
    beta: float
    straight: bool = False
    refresh: bool = False
