"""The saliency of a model's weights: one rule for all of them, or each its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import channels_last, to_array
from permsolve.errors import InputError
from permsolve.models.prunable import PrunableWeight
from permsolve.models.selection import close_names
from permsolve.saliency import Saliency, resolve

Array = npt.NDArray[Any]


class ModelSaliency:
    """What the weights of a model are ranked by.

    Parameters
    ----------
    spec
        A name or a saliency object; a function of a weight's name and its values that returns an array (objects and
        functions see a weight with its input channels in axis 1); or a mapping from weights' names to any of these or
        to arrays of the weights' own shapes.

    Raises
    ------
    InputError
        If it is none of these.
    """

    def __init__(self, spec: object) -> None:
        self._spec = spec
        if isinstance(spec, Mapping):
            self.name = "+".join(dict.fromkeys(_kind(entry) for entry in spec.values())) or "none"
            return
        self.name = _kind(spec)
        if self.name == "array":
            raise InputError("one saliency array cannot serve a model; give a mapping {weight name: array}")

    def check(self, listed: Sequence[PrunableWeight], needed: Sequence[PrunableWeight]) -> None:
        """Check that a mapping names weights of the model and leaves out none that is needed.

        Parameters
        ----------
        listed
            All weights of the model.
        needed
            Those whose saliency will be asked for.

        Raises
        ------
        InputError
            If that is not so.
        """
        if not isinstance(self._spec, Mapping):
            return
        known = [name for weight in listed for name in (weight.path, weight.name)]
        for name in self._spec:
            if name not in known:
                raise InputError(f"saliency: {name!r} is no weight of the model; {close_names(str(name), known)}")
        missing = [weight.path for weight in needed if weight.path not in self._spec and weight.name not in self._spec]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise InputError(
                f"saliency: the mapping has nothing for {', '.join(missing[:3])}{more}; "
                f"add them, or choose the weights to prune with layers="
            )

    def matrix(self, weight: PrunableWeight, values: Array) -> Array:
        """Return the saliency of a weight.

        Parameters
        ----------
        weight
            The weight.
        values
            Its values, in its own shape.

        Returns
        -------
        numpy.ndarray
            (rows, cols) with the input channels as columns, finite, entries >= 0.

        Raises
        ------
        InputError
            If the saliency is not of that kind.
        """
        spec = self._spec
        if isinstance(spec, Mapping):
            spec = spec[weight.path] if weight.path in spec else spec[weight.name]
        given, own_shape = _evaluate(spec, weight, values)
        try:
            result = to_array(given)[1]
        except InputError as error:
            raise InputError(f"saliency of {weight.path}: {error}") from error
        shape = values.shape if own_shape else weight.to_channels(values).shape
        if result.shape != shape:
            raise InputError(f"the saliency of {weight.path} has shape {result.shape}, it must be {shape}")
        if not np.isfinite(result).all():
            raise InputError(f"the saliency of {weight.path} holds NaN or infinite entries")
        if (result < 0).any():
            raise InputError(f"the saliency of {weight.path} has negative entries; a saliency is >= 0")
        return channels_last(weight.to_channels(result) if own_shape else result)


def _kind(spec: object) -> str:
    if _is_function(spec):
        return getattr(spec, "__name__", type(spec).__name__)
    return resolve(spec)[0]


def _is_function(spec: object) -> bool:
    return callable(spec) and not isinstance(spec, (Saliency, type))


def _evaluate(spec: object, weight: PrunableWeight, values: Array) -> tuple[object, bool]:
    """Return a saliency, and whether it is in the weight's own shape or has the input channels in axis 1."""
    if callable(spec) and _is_function(spec):
        return spec(weight.name, weight.to_channels(values).copy()), False
    rule = resolve(spec)[1]
    if not isinstance(rule, Saliency):
        return rule, True
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return rule(weight.to_channels(values)), False
    except InputError as error:
        raise InputError(f"saliency of {weight.path}: {error}") from error
