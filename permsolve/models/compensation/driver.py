"""Compensating the pruned weights of a model: all from one calibration, or layer by layer towards the dense outputs."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from permsolve.errors import InputError, ModelError
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_batches import same_buffers
from permsolve.models.compensation.data import Data
from permsolve.models.compensation.fitting import Choice, Compensation, Fitted, Rows, fit
from permsolve.models.compensation.journal import Journal, fingerprint
from permsolve.models.compensation.regression import DOUBLE, SINGLE, Regression
from permsolve.models.compensation.sequential import collect, owned_bias, stages
from permsolve.models.progress import counted
from permsolve.models.prunable import PrunableWeight
from permsolve.models.trace import evaluating
from permsolve.patterns import Pattern

Array = npt.NDArray[Any]


def refusal(weight: PrunableWeight) -> str | None:
    """Say why the kept values of a weight cannot be changed.

    Parameters
    ----------
    weight
        The weight.

    Returns
    -------
    str or None
        The reason, or None if they can.
    """
    if not weight.parameter.is_floating_point() or weight.parameter.dtype.itemsize < 2:
        return f"its dtype {weight.parameter.dtype} cannot hold fitted values"
    if any(owner.parametrizations is not None for owner in weight.owners):
        return (
            "it is computed by a parametrization; make it final first with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    return None


def compensate(
    model: nn.Module,
    weights: Sequence[PrunableWeight],
    choices: Mapping[str, Choice],
    pattern: Pattern,
    how: Compensation,
    data: Data,
    *,
    save: str | os.PathLike[str] | None,
    display: bool | None,
) -> dict[str, Fitted]:
    """Find masks and values of weights. The model is not changed.

    Parameters
    ----------
    model
        The dense model.
    weights
        The weights.
    choices
        What each keeps at first, by path.
    pattern
        The pattern.
    how
        What to do.
    data
        The calibration.
    save
        A folder for finished layers, or None.
    display
        Whether to show progress.

    Returns
    -------
    dict
        The results by path, in the dtypes of the weights.

    Raises
    ------
    InputError
        If a weight cannot be compensated.
    """
    mark = (
        fingerprint(model, pattern, how, {path: each.bits for path, each in choices.items()})
        if save is not None
        else ""
    )
    journal = Journal(save, mark)
    found: dict[str, Fitted] = {}
    if how.target == "own":
        assert data.calibration is not None
        for weight in weights:
            data.calibration.site(weight.path)  # before anything is computed
        total, parts = len(weights), _apart(weights, choices, pattern, how, data.calibration, journal)
    else:
        assert data.batches is not None
        total, parts = _in_turn(model, weights, choices, pattern, how, data.batches, journal)
    with counted("compensation", total, display) as step:
        for part in parts:
            found.update(part)
            step("  ".join(f"{name}: error {100 * each.error:.3g} %" for name, each in part.items()))
    return found


def _apart(
    weights: Sequence[PrunableWeight],
    choices: Mapping[str, Choice],
    pattern: Pattern,
    how: Compensation,
    calibration: Calibration,
    journal: Journal,
) -> Iterator[dict[str, Fitted]]:
    """Yield the result of one weight after the other, each from its own inputs."""
    for number, weight in enumerate(weights):
        done = journal.read(number, {weight.path: weight})
        moments = _moments(weight, calibration)
        facts = {
            f"the number of rows that {weight.path} is given": float(calibration.count(weight.path)),
            f"the mean square of what {weight.path} is given": float(moments.diagonal(dim1=1, dim2=2).mean()),
        }
        journal.agree(facts)
        if done is None:
            values = weight.values()
            dense = Rows(weight).of(values).double()
            if how.damping == 0:
                _check_count(weight, choices[weight.path], how, calibration)
            rounding = DOUBLE if weight.parameter.dtype == torch.float64 else SINGLE  # as `calibrate` adds up
            problems = [Regression.own(*each, rounding) for each in zip(moments, dense, strict=True)]
            fitted = fit(weight, values, choices[weight.path], problems, pattern, how)
            done = {weight.path: _cast(weight, fitted)}
            journal.write(number, done, facts)
        yield done


def _check_count(weight: PrunableWeight, choice: Choice, how: Compensation, calibration: Calibration) -> None:
    """Check that there are as many rows of inputs as weights to fit: in sums of float32 that may not show."""
    mask, count, rows = choice.array(weight), calibration.count(weight.path), Rows(weight)
    needed = rows.features
    if mask is not None and how.update == "refit":
        needed = int(rows.of(mask).sum(dim=2).max())
    if count < needed:
        raise InputError(
            f"{weight.path}: {count} rows of calibration inputs have no full rank for {needed} weights of a row; give "
            f"more batches, or a damping above 0 (0.01 is usual)"
        )


def _moments(weight: PrunableWeight, calibration: Calibration) -> torch.Tensor:
    """Return the second moments of a weight's inputs, one for each group of a convolution."""
    moments, rows = calibration.second_moment(weight.path), Rows(weight)
    needed = (rows.groups, rows.features, rows.features)
    if moments.shape != needed:
        raise InputError(
            f"the calibration's second moment of {weight.path} has shape {moments.shape}, it must be {needed}: it is "
            f"of another model"
        )
    return torch.from_numpy(moments)


def _in_turn(
    model: nn.Module,
    weights: Sequence[PrunableWeight],
    choices: Mapping[str, Choice],
    pattern: Pattern,
    how: Compensation,
    batches: Iterable[object],
    journal: Journal,
) -> tuple[int, Iterator[dict[str, Fitted]]]:
    """Return the number of stages, and yield their results; a copy of the model is pruned along."""
    first = list(islice(batches, 1))
    if not first:
        raise InputError("the calibration holds no batch: give a list or a DataLoader of inputs")
    with evaluating(model), same_buffers(model):
        order = stages(model, weights, first[0])
    ours = {weight.path: weight for weight in weights}

    def run() -> Iterator[dict[str, Fitted]]:
        pruned = _copied(model)
        twins = {weight.path: _twin(weight, pruned) for weight in weights}
        for number, stage in enumerate(order):
            members = {name: ours[name] for name in stage.names}
            done = journal.read(number, members)
            if done is None:
                with evaluating(model), evaluating(pruned), same_buffers(model), same_buffers(pruned):
                    sums, count = collect(stage, model, pruned, ours, twins, batches)
                facts = {"the number of batches": float(count)}
                journal.agree(facts)
                done = {}
                for name, weight in members.items():
                    problems = sums[name].regressions()
                    fitted = fit(weight, weight.values(), choices[name], problems, pattern, how)
                    bias = sums[name].bias(weight, fitted.values)
                    done[name] = _cast(weight, replace(fitted, bias=bias))
                journal.write(number, done, facts)
            for name, fitted in done.items():
                put(twins[name], fitted, whole=True)
            yield done

    return len(order), run()


def _twin(weight: PrunableWeight, copied: nn.Module) -> PrunableWeight:
    """Return a weight of a copy of the model: by its places, for weights that are tied by memory alone part there."""
    owners = tuple(owner._replace(module=copied.get_submodule(owner.name)) for owner in weight.owners)
    return replace(weight, owners=owners, parameter=owners[0].stored())


def put(weight: PrunableWeight, fitted: Fitted, *, whole: bool) -> None:
    """Write fitted values, and the bias, where a weight is read.

    Parameters
    ----------
    weight
        The weight.
    fitted
        What was found for it.
    whole
        Whether what is pruned becomes zero; else it stays as it is.
    """
    with torch.no_grad():
        for owner in weight.owners:
            stored = owner.stored()
            values, before = fitted.values.to(stored.device), owner.mask
            if before is not None:  # what torch multiplies with need not be 1
                values = torch.where(before != 0, values / before, values).to(values.dtype)
            stored.copy_(values if whole else torch.where(fitted.mask.to(stored.device), values, stored))
        bias = owned_bias(weight)
        if fitted.bias is not None and bias is not None:
            bias.copy_(fitted.bias)
    torch.clear_autocast_cache()  # inside torch.autocast the next forward pass would read the weights as they were


def _cast(weight: PrunableWeight, fitted: Fitted) -> Fitted:
    """Return a result in the dtype of the weight: a run that goes on later must find the same numbers."""
    dtype = weight.parameter.dtype
    values = fitted.values.to(dtype)
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{weight.path}: fitted values exceed {dtype}; give more batches or a larger damping")
    bias = owned_bias(weight)
    level = None if fitted.bias is None or bias is None else fitted.bias.to(bias.dtype)
    return replace(fitted, values=values, bias=level)


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, also of one whose modules hold results of gradient mode, as torch's masks do."""
    with _detached(model):
        try:
            return copy.deepcopy(model)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model cannot be copied, which target='dense' needs: {error}; take target='own'"
            ) from error


@contextmanager
def _detached(model: nn.Module) -> Iterator[None]:
    """Take tensors that are no leaves out of gradient mode for a while."""
    held = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    ]
    try:
        for module, name, value in held:
            setattr(module, name, value.detach())
        yield
    finally:
        for module, name, value in held:
            setattr(module, name, value)
