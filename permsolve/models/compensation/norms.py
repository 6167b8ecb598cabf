"""Statistics of batch norms, taken anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from permsolve.errors import InputError
from permsolve.models.calibration_batches import arguments, check_batches, failing
from permsolve.models.trace import evaluating


def recalibrate_norms_(model: nn.Module, batches: Iterable[object]) -> tuple[str, ...]:
    """Take the running statistics of a model's batch norms anew, as averages over some batches.

    It helps a model that was pruned without an update. After a refit it does harm: the refit has made up for what the
    pruning did to the outputs, with the statistics as they were.

    Parameters
    ----------
    model
        The model; all but its batch norms runs in evaluation mode.
    batches
        Inputs: tensors, tuples of arguments, or dicts of keyword arguments. Some hundred images in a few large batches
        will do.

    Returns
    -------
    tuple
        Names of the batch norms.

    Raises
    ------
    InputError
        If there is no batch norm with running statistics, or no batch, or a batch makes statistics NaN or infinite;
        the statistics are then as before.
    ModelError
        If the model fails on a batch, for example on one that gives a batch norm a single value per channel.
    """
    check_batches(batches)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not found:
        raise InputError("the model has no batch norm with running statistics: there is nothing to recalibrate")
    before = {name: {key: each.clone() for key, each in norm.named_buffers()} for name, norm in found.items()}
    momenta = {name: norm.momentum for name, norm in found.items()}
    norms, count, done = found, 0, False
    try:
        with evaluating(model), torch.no_grad():
            for norm in found.values():
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over the batches
                norm.train()
            for count, batch in enumerate(batches, start=1):
                args, kwargs = arguments(model, batch, count)
                with failing(count):
                    model(*args, **kwargs)
        if count == 0:
            raise InputError("no batch: give a list or a DataLoader of inputs")
        norms = {name: norm for name, norm in norms.items() if norm.num_batches_tracked}  # the others were not called
        _check(norms, before)
        done = True
    finally:
        for name, norm in found.items():
            norm.momentum = momenta[name]
            if not (done and name in norms):
                for key, values in before[name].items():
                    norm._buffers[key].copy_(values)  # type: ignore[union-attr]
    return tuple(norms)


def _check(norms: Mapping[str, nn.Module], before: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, norm in norms.items():
        for key in before[name]:
            if not bool(torch.isfinite(getattr(norm, key)).all()):
                raise InputError(f"the batches give {name} a {key} with NaN or infinite entries; check the inputs")
