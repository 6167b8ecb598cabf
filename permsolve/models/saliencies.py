"""The saliency of a model's weights: one rule for all of them, or each its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from permsolve._arrays import channels_last, to_array
from permsolve.errors import InputError
from permsolve.models.calibration import Calibration
from permsolve.models.prunable import PrunableWeight, catalogue
from permsolve.models.selection import close_names
from permsolve.saliency import CALIBRATED, OBS, RIA, Energy, OutputError, Saliency, Wanda, resolve

Array = npt.NDArray[Any]


class ModelSaliency:
    """What the weights of a model are ranked by.

    Parameters
    ----------
    spec
        A name or a saliency object; a function of a weight's name and its values that returns an array (objects and
        functions see a weight with its input channels in axis 1); or a mapping from weights' names to any of these or
        to arrays of the weights' own shapes. With a calibration ``"wanda"``, ``"ria"``, ``"obs"`` and
        ``"output_error"`` are names, too.
    calibration
        Norms and second moments of the weights' inputs, or None.

    Raises
    ------
    InputError
        If it is none of these, or a name needs a calibration and there is none.
    """

    def __init__(self, spec: object, calibration: Calibration | None = None) -> None:
        if calibration is not None and not isinstance(calibration, Calibration):
            raise InputError(f"calibration = {calibration!r:.80} is none of permsolve.models.calibrate")
        self._spec = spec
        self._calibration = calibration
        if isinstance(spec, Mapping):
            self.name = "+".join(dict.fromkeys(self._kind(entry) for entry in spec.values())) or "none"
            return
        self.name = self._kind(spec)
        if self.name == "array":
            raise InputError("one saliency array cannot serve a model; give a mapping {weight name: array}")

    def check(self, listed: Sequence[PrunableWeight], needed: Sequence[PrunableWeight]) -> None:
        """Check that a mapping names weights of the model, that none lacks a saliency, and that the calibration fits.

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
        ModelError
            If the calibration is of another model, or of this one with its channels in another order.
        """
        for weight in needed if self._calibration is not None else ():
            assert self._calibration is not None
            if self._calibrated(self._of(weight)) or weight.path in self._calibration:
                self._calibration.check_order(weight.path, weight.to_channels(weight.values()))
        if not isinstance(self._spec, Mapping):
            return
        known = [name for weight in listed for name in (weight.path, weight.name)]
        for name in self._spec:
            if name not in known:
                raise InputError(f"saliency: {name!r} is no weight of the model; {close_names(str(name), known)}")
        missing = [weight.path for weight in needed if self._of(weight) is None]
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
        given, own_shape = self._evaluate(weight, values)
        if isinstance(given, OutputError):
            raise InputError(
                f"saliency of {weight.path}: 'output_error' ranks no single entries, as is needed here; use one "
                f"that does, such as 'wanda' or 'obs'"
            )
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

    def objective(self, weight: PrunableWeight) -> OutputError | None:
        """Return the objective of a weight that is to be pruned for the least output error.

        Parameters
        ----------
        weight
            The weight.

        Returns
        -------
        permsolve.saliency.OutputError or None
            For the weight with its input channels in axis 1 (`PrunableWeight.to_channels`); its ``mask`` takes the
            place of a ranking. None where entries are ranked one by one.

        Raises
        ------
        InputError
            If the calibration lacks the weight, or second moments.
        """
        spec = self._of(weight)
        if self._calibrated(spec) and spec == "output_error":
            assert self._calibration is not None
            return OutputError(self._calibration.channel_moments(weight.path))
        return spec if isinstance(spec, OutputError) else None

    def for_groups(self, model: nn.Module) -> object:
        """Return a saliency as the groups of a plan take it.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        object
            What was given where no name needs the calibration; else a function of a parameter's name and its values,
            input channels in axis 1.
        """
        specs = self._spec.values() if isinstance(self._spec, Mapping) else [self._spec]
        if not any(self._calibrated(each) for each in specs):
            return self._spec
        by_name: dict[str, PrunableWeight] = {}
        for weight in catalogue(model):
            by_name |= {name: weight for name in (*weight.names, weight.name)}

        def saliency(name: str, channels: Array) -> object:
            weight = by_name.get(name)
            if weight is None:
                raise InputError(
                    f"saliency: {name} belongs to no layer that can be calibrated; solve the plan with a saliency that "
                    f"needs no activations"
                )
            values = np.moveaxis(channels, 1, weight.axis)
            if self._calibration is not None and weight.path in self._calibration:
                self._calibration.check_order(weight.path, weight.to_channels(values))
            objective = self.objective(weight)
            if objective is not None:
                return objective
            own = self.matrix(weight, values)
            return np.moveaxis(weight.from_matrix(own), weight.axis, 1)

        return saliency

    def _of(self, weight: PrunableWeight) -> object:
        """Return what was given for a weight; None where a mapping has nothing."""
        if not isinstance(self._spec, Mapping):
            return self._spec
        return next((self._spec[name] for name in (weight.path, weight.name) if name in self._spec), None)

    def _calibrated(self, spec: object) -> bool:
        return isinstance(spec, str) and spec in CALIBRATED and self._calibration is not None

    def _kind(self, spec: object) -> str:
        if _is_function(spec):
            return getattr(spec, "__name__", type(spec).__name__)
        return str(spec) if self._calibrated(spec) else resolve(spec)[0]

    def _evaluate(self, weight: PrunableWeight, values: Array) -> tuple[object, bool]:
        """Return a saliency, and whether it is in the weight's own shape or has the input channels in axis 1."""
        spec = self._of(weight)
        if callable(spec) and _is_function(spec):
            return spec(weight.name, weight.to_channels(values).copy()), False
        objective = self.objective(weight)
        if objective is not None:
            return objective, True
        if self._calibrated(spec):
            assert self._calibration is not None
            return calibrated(str(spec), self._calibration, weight.path, weight.to_channels(values)), False
        rule = resolve(spec)[1]
        if not isinstance(rule, Saliency):
            return rule, True
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return rule(weight.to_channels(values)), False
        except InputError as error:
            raise InputError(f"saliency of {weight.path}: {error}") from error


def calibrated(name: str, calibration: Calibration, path: str, channels: Array) -> Array:
    """Return a saliency of single entries that needs activations.

    Parameters
    ----------
    name
        ``"wanda"``, ``"ria"`` or ``"obs"``.
    calibration
        The activations.
    path
        Path of the weight.
    channels
        Its values with the input channels of a group in axis 1, outputs group by group in axis 0.

    Returns
    -------
    numpy.ndarray
        Of the shape of the values.

    Raises
    ------
    InputError
        If the calibration lacks the weight, or second moments.
    """
    site = calibration.site(path)
    parts = np.split(channels, site.groups)
    rules: list[Saliency]
    try:
        if name == "obs":
            # Inputs that are all zero have no scale: what is left is w^2, as where a refit is damped.
            moments = calibration.second_moment(path)
            rules = [OBS(moment) if moment.any() else Energy() for moment in moments]
        else:
            kind = Wanda if name == "wanda" else RIA
            rules = [kind(norms) for norms in calibration.norms(path).reshape(site.groups, -1)]
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate([rule(part) for rule, part in zip(rules, parts, strict=True)])
    except InputError as error:
        raise InputError(f"saliency {name!r} of {path}: {error}") from error


def _is_function(spec: object) -> bool:
    return callable(spec) and not isinstance(spec, (Saliency, OutputError, type))
