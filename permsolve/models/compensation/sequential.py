"""Layer by layer: what the pruned model's inputs are, regressed onto what the dense model puts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from permsolve.errors import InputError
from permsolve.models.calibration_batches import arguments, failing
from permsolve.models.compensation.features import add_to_outputs, paired, unsupported
from permsolve.models.compensation.fitting import Rows
from permsolve.models.compensation.moments import Inputs, Targets, intercepts, regressions
from permsolve.models.compensation.regression import Regression
from permsolve.models.compensation.watching import Call, Watch
from permsolve.models.owner import memory
from permsolve.models.patches import real
from permsolve.models.prunable import PrunableWeight, _layout

#: Rows that a layer's arithmetic is looked at on, and by how much its outputs may be off, in float32 and below.
_ROWS, _APART, _APART_LOW = 64, 0.01, 0.1


@dataclass(frozen=True)
class Stage:
    """Weights that are fitted from the same pass because they read the same tensor, and that do not end in a sum.

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
        Whether the layer has a bias that nothing else reads, which is fitted too.
    leads
        Whether it is this weight that adds the inputs which siblings share.
    """

    inputs: Inputs
    targets: Targets
    centred: bool
    leads: bool = True

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
        The stages, in order of execution; a layer in front of a sum comes when the sum is made.

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
    begins: dict[object, int] = {}
    for call in calls:  # `calls` holds the tensors, so that ids are theirs alone
        # What a layer in front of a sum makes up for depends on all that is added: that must be fitted before, and
        # siblings that end in one sum must not make up for the same error twice.
        alone = len(by_name[call.name]) > 1 or call.total is not None
        key = call.name if alone else call.source
        names = grouped.setdefault(key, [])
        if call.name not in names:
            names.append(call.name)
        begins.setdefault(key, call.at)
    return [
        Stage(tuple(grouped[key]), [call.total is not None for call in calls if call.name in grouped[key]])
        for key in sorted(grouped, key=begins.__getitem__)
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
    # Embeddings that a weight is tied to do not multiply anything with it.
    owners = [(owner.module, weight.path) for weight in weights for owner in weight.owners]
    return {module: path for module, path in owners if _layout(module)[2]}


def collect(
    stage: Stage,
    dense: nn.Module,
    pruned: nn.Module,
    weights: Mapping[str, PrunableWeight],
    twins: Mapping[str, PrunableWeight],
    batches: Iterable[object],
) -> tuple[dict[str, Sums], int]:
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
    tuple
        The sums of every weight of the stage, and the number of batches.

    Raises
    ------
    InputError
        If the two models call different layers on a batch, a layer does more than multiply and add, inputs are not
        finite, or there is no input.
    ModelError
        If a model fails on a batch.
    """
    ours, theirs = (layers(found[name] for name in stage.names) for found in (weights, twins))
    sums, shared = _empty(stage, dense, weights), dict[object, Inputs]()
    number = 0
    for number, batch in enumerate(batches, start=1):
        drawn = torch.get_rng_state()  # what a model draws in evaluation mode, both must draw
        wanted = _watched(Watch(ours, stage.calls), dense, batch, number)
        torch.set_rng_state(drawn)
        given = _watched(Watch(theirs, stage.calls), pruned, batch, number)
        if [call.name for call in wanted] != [call.name for call in given]:
            raise InputError(
                f"batch {number}: the dense and the pruned model call other layers: {_names(wanted)} and "
                f"{_names(given)}; control flow that depends on values cannot be fitted, take target='own'"
            )
        together = sorted(call.name for call in given) == sorted(stage.names) and len({x.source for x in given}) == 1
        if len(stage.names) > 1 and not together:
            raise InputError(
                f"batch {number}: {', '.join(stage.names)} read the same tensor in the first batch, and not in this "
                f"one; prune them in calls of their own (layers=), or take target='own'"
            )
        for first, second in zip(wanted, given, strict=True):
            if first.inputs.shape != second.inputs.shape:
                raise InputError(
                    f"batch {number}: {first.name} is given a tensor of shape {tuple(first.inputs.shape)} in the dense "
                    f"model and {tuple(second.inputs.shape)} in the pruned one: where values decide which rows a layer "
                    f"gets, as with experts, outputs cannot be compared; leave it out with layers=, or take "
                    f"target='own'"
                )
            if number == 1:
                check_product(weights[first.name], first)
            _add(sums[first.name], shared, second, target(first, second), number)
    if number == 0:
        raise InputError("the calibration holds no batch: for target='dense' give a list or a DataLoader of inputs")
    empty = [name for name, each in sums.items() if not each.inputs.count]
    if empty:
        raise InputError(
            f"{', '.join(empty[:3])}: given no input by any of the {number} batches; leave such weights out with "
            f"layers=, or give inputs that reach them"
        )
    return sums, number


def _empty(stage: Stage, dense: nn.Module, weights: Mapping[str, PrunableWeight]) -> dict[str, Sums]:
    biases = Counter(
        memory(bias) for module in dense.modules() for bias in module._parameters.values() if bias is not None
    )
    found = {}
    for name in stage.names:
        bias = owned_bias(weights[name])
        found[name] = Sums(Inputs(), Targets(), bias is not None and biases[memory(bias)] == 1)
    return found


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


def check_product(weight: PrunableWeight, call: Call) -> None:
    """Check on a few rows that a layer puts out its weight times its input plus its bias, as the regression assumes.

    Parameters
    ----------
    weight
        The weight.
    call
        A call of the dense model.

    Raises
    ------
    InputError
        If it does not.
    """
    inputs, outputs = real(call.inputs, call.name), _less_bias(call, call.outputs)
    for matrix, wanted in paired(call.reading, inputs, outputs):
        rows, wanted = matrix[:, :_ROWS], wanted[:, :_ROWS]
        values = Rows(weight).of(weight.values()).to(rows)
        apart, size = (rows @ values.mT - wanted).abs(), wanted.abs()
        most = _APART if call.outputs.dtype.itemsize >= 4 else _APART_LOW
        if apart.numel() and float(apart.max()) > most * float(size.max()):
            raise InputError(
                f"{weight.path}: its {type(call.module).__name__} puts out something else than weight times input plus "
                f"bias, which target='dense' fits; leave it out with layers=, or take target='own'"
            )
        return


def _less_bias(call: Call, outputs: torch.Tensor) -> torch.Tensor:
    bias = getattr(call.module, "bias", None)
    return outputs if bias is None else add_to_outputs(call.reading, outputs, -bias.detach())


def _add(own: Sums, shared: dict[object, Inputs], call: Call, wanted: torch.Tensor, number: int) -> None:
    """Add the rows of one call; the first weight of those that read the same rows adds their inputs."""
    inputs = real(call.inputs, call.name)
    if not bool(torch.isfinite(inputs).all() and torch.isfinite(wanted).all()):
        raise InputError(
            f"batch {number}: the inputs or outputs of {call.name} hold NaN or infinite values; look for the layer "
            f"that makes them, or leave the batch out"
        )
    if not own.targets.begun:
        first = shared.setdefault(call.reading, own.inputs)
        own.inputs, own.leads = first, first is own.inputs
    if not own.centred:
        wanted = _less_bias(call, wanted)
    for rows, targets in paired(call.reading, inputs, wanted):
        if own.leads:
            own.inputs.add(rows)
        own.targets.add(rows, targets)


def owned_bias(weight: PrunableWeight) -> nn.Parameter | None:
    """Return the bias of a weight's layer, if only that layer reads the weight.

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
    args, kwargs = arguments(model, batch, number)
    with failing(number):
        return watch.run(model, args, kwargs)


def _names(calls: Sequence[Call]) -> str:
    return ", ".join(call.name for call in calls) or "none"
