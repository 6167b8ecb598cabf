"""Calibration: what the weights of a model are given, summed up batch by batch."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from permsolve.errors import InputError
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_batches import arguments, check_batches, check_path, failing, same_buffers
from permsolve.models.calibration_state import State
from permsolve.models.calibration_sums import NEVER, Book
from permsolve.models.observing import Watch
from permsolve.models.progress import counted
from permsolve.models.prunable import NOT_CHOSEN, catalogue
from permsolve.models.pruned import first_few
from permsolve.models.selection import Filter
from permsolve.models.trace import evaluating
from permsolve.models.verification import check_has_data


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Filter | None = None,
    covariance: bool = True,
    save: str | os.PathLike[str] | None = None,
    display: bool | None = None,
) -> Calibration:
    """Run a model on data and sum up norms and second moments of what its weights are given.

    The model runs in evaluation mode, without gradients, and is not changed. Sums are float64, of products in float32
    (float64 where the model is): one matrix of features x features for each weight, or for all weights that read the
    same tensors. Before the first sum the memory is checked that they need. The first batch runs twice: once to see who
    reads what.

    Every vector that a layer is given is a row, those of padding tokens too: leave padding out where it matters. Where
    the queries, keys and values of a `torch.nn.MultiheadAttention` differ, the rows of its joint weight are those of
    all three.

    Parameters
    ----------
    model
        The model.
    batches
        A list, a data loader or another iterable. Each batch is a tensor, a tuple or list of arguments, or a mapping of
        keyword arguments of the model's forward; tensors are moved to the device of the model's first parameter.
    layers
        Which weights, as in `weights`; by default all that can be pruned. Weights that are chosen must be called.
    covariance
        Whether to sum second moments. Without them there are only norms, which need next to no memory.
    save
        A file that the state is written to about every 30 seconds and at the end. If it is there, the batches that are
        done are passed over; they must be the same, in the same order.
    display
        Show progress: True, False, or None for where a person is watching.

    Returns
    -------
    Calibration
        The sums.

    Raises
    ------
    InputError
        If an argument does not fit, there is no batch, the batches end before those that a saved state counts, or are
        others, or a chosen weight is never called.
    ModelError
        If the model fails on a batch, or a weight is given NaN or infinite activations, or the saved state is of
        another model.
    DeviceError
        If memory does not suffice.
    FileError, DocumentError
        If the saved state cannot be read or written.
    """
    check_batches(batches)
    check_path(save)
    if not isinstance(covariance, (bool, np.bool_)):
        raise InputError(f"covariance = {covariance!r} must be True or False")
    listed = catalogue(model, layers)
    check_has_data(model)
    chosen = [weight for weight in listed if weight.reason is None]
    unseen = {each.path: each.reason for each in listed if each.reason is not None and each.reason != NOT_CHOSEN}
    if not chosen:
        raise InputError(f"no weight of the model can be calibrated{first_few(unseen)}")
    book = Book(chosen, covariance)
    state = None if save is None else State(Path(save), model, book)
    done = 0 if state is None else state.done
    size = operator.length_hint(batches, -1)
    count = 0
    with (
        evaluating(model),
        same_buffers(model),
        torch.no_grad(),
        Watch(model, chosen, book.observe) as watch,
        counted("calibration", size if size >= 0 else None, display) as step,
    ):
        for count, batch in enumerate(batches, start=1):
            if state is not None:
                state.digest(batch, count)
            if count > done:
                if not book.shared:
                    book.dry = True
                    _run(model, batch, watch, book, count)
                    book.share(copies=2 if save is not None else 1)
                _run(model, batch, watch, book, count)
                if state is not None:
                    state.save(count)
            step("")
    if count < max(done, 1):
        what = f"{count} of the {done} that {save} counts" if done else "none at all"
        raise InputError(
            f"the batches ended early, after {what}: pass all of them, in a list or a loader that is fresh"
        )
    found = book.calibration(count, unseen)
    missing = {path: reason for path, reason in found.unseen.items() if reason == NEVER}
    if layers is not None and missing:
        raise InputError(f"{len(missing)} of the chosen weights cannot be calibrated{first_few(missing)}")
    if state is not None:
        state.finish(found)
    return found


def _run(model: nn.Module, batch: Any, watch: Watch, book: Book, count: int) -> None:
    """Run the model on a batch."""
    args, kwargs = arguments(model, batch, count)
    watch.fresh()
    book.begin(count)
    with failing(count):
        model(*args, **kwargs)
    book.end()
