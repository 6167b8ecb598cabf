"""Layer by layer: what the pruned model's inputs are, regressed onto what the dense model puts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from permsolve.errors import InputError, ModelError, PermsolveError
from permsolve.models.compensation.features import add_to_outputs, paired, unsupported
from permsolve.models.compensation.fitting import Rows
from permsolve.models.compensation.moments import Inputs, Targets, intercepts, regressions
from permsolve.models.compensation.regression import Regression
from permsolve.models.compensation.watching import Call, Watch
from permsolve.models.patches import real
from permsolve.models.prunable import PrunableWeight
from permsolve.models.trace import as_call


@dataclass(frozen=True)
class Stage:
    """Weights that are fitted from the same pass because they read the same tensor.

    Parameters
    ----------
    names
        Paths of the weights.
    calls
        For each call of a forward pass that they take part in: whether its output goes straight into a sum.
    """

    names: tuple[str, ...]
    calls: list[bool] = field(hash=False)


@dataclass(eq=False)
class Sums:
    """What a pass over the batches has found for one weight.

    Parameters
    ----------
    inputs
        Sums of the inputs.
    targets
        Sums of the targets.
    centred
        Whether the layer has a bias of its own, which is fitted too.
    leads
        Whether it is this weight that adds the inputs which siblings share.
    """

    inputs: Inputs
    targets: Targets
    centred: bool
    leads: bool

    def regressions(self) -> list[Regression]:
        """Return the regression of every group.

        Returns
        -------
        list
            One for each group of the convolution.
        """
        return regressions(self.inputs, self.targets, self.centred)

    def bias(self, weight: PrunableWeight, values: torch.Tensor) -> torch.Tensor | None:
        """Return the bias that goes with fitted values.

        Parameters
        ----------
        weight
            The weight.
        values
            float64, of its shape.

        Returns
        -------
        torch.Tensor or None
            float64 (outputs,), or None if the bias stays.
        """
        return intercepts(self.inputs, self.targets, Rows(weight).of(values.numpy())) if self.centred else None


def stages(model: nn.Module, weights: Sequence[PrunableWeight], batch: object) -> list[Stage]:
    """Find in which order weights are read, and which of them read the same tensor.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    weights
        The weights.
    batch
        Inputs to look at.

    Returns
    -------
    list
        The stages, in order of execution.

    Raises
    ------
    InputError
        If a weight is not read, or its inputs cannot be seen.
    ModelError
        If the model fails.
    """
    for weight in weights:
        for owner in weight.owners:
            reason = unsupported(owner.module)
            if reason is not None:
                raise InputError(f"{weight.path}: {reason}; leave it out with layers=, or take target='own'")
    calls = _watched(Watch(layers(weights), copy=False), model, batch, 1)
    by_name: dict[str, list[Call]] = {weight.path: [] for weight in weights}
    for call in calls:
        by_name[call.name].append(call)
    missing = [name for name, own in by_name.items() if not own]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{', '.join(missing[:3])}{more}: no call of the layer was seen on the first calibration batch; "
            f"leave such weights out with layers=, or give inputs that reach them"
        )
    grouped: dict[object, list[str]] = {}
    for call in calls:  # `calls` holds the tensors, so that ids are theirs alone
        alone = len(by_name[call.name]) > 1
        names = grouped.setdefault(call.name if alone else call.source, [])
        if call.name not in names:
            names.append(call.name)
    return [
        Stage(tuple(names), [call.total is not None for call in calls if call.name in names])
        for names in grouped.values()
    ]


def layers(weights: Iterable[PrunableWeight]) -> dict[nn.Module, str]:
    """Return the layers that read weights.

    Parameters
    ----------
    weights
        The weights.

    Returns
    -------
    dict
        Paths of the weights by module.
    """
    return {owner.module: weight.path for weight in weights for owner in weight.owners}


def collect(
    stage: Stage,
    dense: nn.Module,
    pruned: nn.Module,
    weights: Mapping[str, PrunableWeight],
    twins: Mapping[str, PrunableWeight],
    batches: Iterable[object],
) -> dict[str, Sums]:
    """Run both models over the batches, up to the last layer of a stage, and add up its moments.

    Parameters
    ----------
    stage
        The stage.
    dense, pruned
        The models, in evaluation mode; in the pruned one everything before the stage is final, the rest dense.
    weights, twins
        Their weights by path.
    batches
        The calibration inputs.

    Returns
    -------
    dict
        The sums of every weight of the stage.

    Raises
    ------
    InputError
        If the two models call different layers on a batch, or there is no batch.
    ModelError
        If a model fails on a batch.
    """
    ours, theirs = (layers(found[name] for name in stage.names) for found in (weights, twins))
    shared: dict[object, Inputs] = {}
    sums: dict[str, Sums] = {}
    number = 0
    for number, batch in enumerate(batches, start=1):
        wanted = _watched(Watch(ours, stage.calls), dense, batch, number)
        given = _watched(Watch(theirs, stage.calls), pruned, batch, number)
        if [call.name for call in wanted] != [call.name for call in given]:
            raise InputError(
                f"batch {number}: the dense and the pruned model call other layers: {_names(wanted)} and "
                f"{_names(given)}; control flow that depends on values cannot be fitted, take target='own'"
            )
        for first, second in zip(wanted, given, strict=True):
            _add(sums, shared, weights[first.name], second, target(first, second))
    if number == 0:
        raise InputError("the calibration holds no batch: for target='dense' give a list or a DataLoader of inputs")
    return sums


def target(wanted: Call, given: Call) -> torch.Tensor:
    """Return what a layer of the pruned model should put out.

    Where the output goes straight into a sum, as at the end of a residual branch, that is the dense sum less what the
    pruned model adds: the layer then makes up for what earlier layers did to the stream, too.

    Parameters
    ----------
    wanted, given
        The call in the dense and in the pruned model.

    Returns
    -------
    torch.Tensor
        In the shape of the output.
    """
    if wanted.total is None or given.other is None:
        return wanted.outputs
    branch = wanted.total.double() - given.other.double()
    if wanted.scale is None or wanted.shift is None:
        return branch
    scale = wanted.scale.double()
    usable = scale.abs() > 1e-6 * scale.abs().max()
    before = (branch - wanted.shift.double()) / torch.where(usable, scale, 1.0)
    return torch.where(usable, before, wanted.outputs.double())


def _add(
    sums: dict[str, Sums], shared: dict[object, Inputs], weight: PrunableWeight, call: Call, wanted: torch.Tensor
) -> None:
    """Add the rows of one call; the first weight of those that read the same rows adds their inputs."""
    inputs = real(call.inputs, call.name)
    reading = call.reading
    if call.name not in sums:
        leads = reading not in shared
        sums[call.name] = Sums(shared.setdefault(reading, Inputs()), Targets(), owned_bias(weight) is not None, leads)
    own = sums[call.name]
    bias = getattr(call.module, "bias", None)
    if bias is not None and not own.centred:
        wanted = add_to_outputs(reading, wanted, -bias.detach())
    for rows, targets in paired(reading, inputs, wanted):
        if own.leads:
            own.inputs.add(rows)
        own.targets.add(rows, targets)


def owned_bias(weight: PrunableWeight) -> nn.Parameter | None:
    """Return the bias of a weight's layer, if only that layer reads weight and bias.

    Parameters
    ----------
    weight
        The weight.

    Returns
    -------
    torch.nn.Parameter or None
        The bias.
    """
    module = weight.owners[0].module
    bias = module._parameters.get("bias")
    return bias if len(weight.owners) == 1 else None


def _watched(watch: Watch, model: nn.Module, batch: object, number: int) -> list[Call]:
    """Run a model on a batch, and say so if it fails."""
    args, kwargs = arguments(model, batch)
    try:
        return watch.run(model, args, kwargs)
    except PermsolveError:
        raise
    except Exception as error:  # whatever the model's code raises
        said = (str(error).strip() or repr(error)).splitlines()[0]
        raise ModelError(
            f"the model fails on batch {number}: {said} (a batch holds inputs of forward alone: of a loader of inputs "
            f"and labels pass [inputs for inputs, _ in loader])"
        ) from error


def arguments(model: nn.Module, batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch as arguments, on the model's device.

    Parameters
    ----------
    model
        The model.
    batch
        A tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Returns
    -------
    tuple
        Arguments and keyword arguments.

    Raises
    ------
    InputError
        If it is something else.
    """
    device = next(model.parameters()).device
    return tree_map_only(torch.Tensor, lambda each: each.to(device), as_call(model, batch))  # type: ignore[no-any-return]


def _names(calls: Sequence[Call]) -> str:
    return ", ".join(call.name for call in calls) or "none"
