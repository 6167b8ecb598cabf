"""What a user gives as calibration: statistics, or the inputs to take them from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

from torch import nn

from permsolve.errors import InputError
from permsolve.models.calibrating import calibrate
from permsolve.models.calibration import Calibration
from permsolve.models.compensation.fitting import Compensation

#: Names of saliencies that need norms of activations, and those that need second moments.
_NORMS, _MOMENTS = {"wanda", "ria"}, {"obs", "output_error"}


@dataclass(frozen=True, eq=False)
class Data:
    """What is known of a model's inputs.

    Parameters
    ----------
    calibration
        Statistics of the dense model's inputs, where anything needs them.
    batches
        The inputs themselves, for ``target="dense"``.
    """

    calibration: Calibration | None = None
    batches: Iterable[Any] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        given: Calibration | Iterable[Any] | None,
        how: Compensation,
        saliency: object,
        paths: Sequence[str],
        display: bool | None,
    ) -> Data:
        """Take what the user gave, and calibrate if it is inputs and statistics are needed.

        Parameters
        ----------
        model
            The model.
        given
            Statistics, inputs, or None.
        how
            What compensation needs.
        saliency
            What the saliency needs.
        paths
            The weights.
        display
            Whether to show progress.

        Returns
        -------
        Data
            What is needed.

        Raises
        ------
        InputError
            If it is not what is needed.
        """
        names = set(_names(saliency))
        own = how.update != "none" and how.target == "own"
        moments, norms = own or bool(names & _MOMENTS), bool(names & _NORMS)
        dense = how.target == "dense"
        if given is None:
            if own or dense:
                what = "the batches" if dense else "a Calibration (permsolve.models.calibrate), or batches"
                raise InputError(f"update={how.update!r} with target={how.target!r} needs calibration=: {what}")
            return cls()
        if isinstance(given, Calibration):
            if dense:
                raise InputError(
                    "target='dense' needs the inputs of the pruned model, layer by layer: pass the batches as "
                    "calibration=, not a Calibration"
                )
            return cls(given)
        wrong = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable) or hasattr(given, "shape")
        if wrong or (dense and isinstance(given, Iterator)):
            raise InputError(
                f"calibration is a {type(given).__name__}; it must be a Calibration, or a list or DataLoader of "
                f"batches, each a tensor, a tuple of arguments or a dict of keyword arguments"
                + (" (target='dense' goes through them once for every layer)" if dense else "")
            )
        if not (moments or norms):
            return cls(None, given)
        # Names, not patterns: brackets in one stand for themselves.
        named = [escape(path) for path in paths]
        return cls(calibrate(model, given, layers=named, covariance=moments, display=display), given)


def _names(saliency: object) -> Iterator[str]:
    for each in saliency.values() if isinstance(saliency, Mapping) else [saliency]:
        if isinstance(each, str):
            yield each
