"""Feeding a user's batches to a model, and leaving the model as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from permsolve.errors import InputError, ModelError, PermsolveError
from permsolve.models.owner import is_exotic
from permsolve.models.trace import as_call


def check_batches(batches: object) -> None:
    """Check that batches are many, and not one.

    Parameters
    ----------
    batches
        What a user gave.

    Raises
    ------
    InputError
        If they are not.
    """
    if isinstance(batches, (torch.Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches must be a list or another iterable of batches, each a tensor, a tuple of arguments or a mapping "
            f"of keyword arguments; got a {type(batches).__name__}; one batch is passed as [batch]"
        )


def check_path(save: object) -> None:
    """Check that a path is one.

    Parameters
    ----------
    save
        What a user gave, or None.

    Raises
    ------
    InputError
        If it is something else.
    """
    if save is not None and not isinstance(save, (str, os.PathLike)):
        raise InputError(f"save = {save!r} must be a path")


def arguments(model: nn.Module, batch: object, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch as arguments, on the model's device.

    Parameters
    ----------
    model
        The model.
    batch
        A tensor, a tuple or list of arguments, or a mapping of keyword arguments.
    number
        Its number, from 1.

    Returns
    -------
    tuple
        Arguments and keyword arguments.

    Raises
    ------
    InputError
        If it is something else.
    """
    if not isinstance(batch, (torch.Tensor, tuple, list, Mapping)):
        raise InputError(
            f"batch {number} is a {type(batch).__name__}; a batch is a tensor, a tuple of arguments or a mapping of "
            f"keyword arguments"
        )
    given = dict(batch) if isinstance(batch, Mapping) else tuple(batch) if isinstance(batch, list) else batch
    device = next(model.parameters()).device
    moved: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        torch.Tensor, lambda each: each.to(device), as_call(model, given)
    )
    return moved


@contextmanager
def failing(number: int) -> Iterator[None]:
    """Say at which batch a model fails.

    Parameters
    ----------
    number
        The batch.

    Yields
    ------
    None
        The model runs meanwhile.

    Raises
    ------
    ModelError
        If it fails.
    """
    try:
        yield
    except PermsolveError:
        raise
    except Exception as error:  # whatever the model's code raises
        said = (str(error).strip() or repr(error)).splitlines()[0]
        raise ModelError(
            f"the model fails on batch {number}: {said} (a batch holds inputs of forward alone: of a loader of inputs "
            f"and labels pass [inputs for inputs, _ in loader])"
        ) from error


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what forward passes write into the buffers of a model: counters, caches, moving averages.

    Parameters
    ----------
    model
        The model.

    Yields
    ------
    None
        Afterwards its buffers are the tensors that they were, with the same values.
    """
    before = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in before:
                module._buffers[name] = buffer
                if buffer is not None and values is not None and not _same(buffer, values):
                    buffer.copy_(values)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors have the same values, NaN being one; True where nothing can be compared."""
    if one.is_meta or is_exotic(one):
        return True
    return bool(((one == other) | ((one != one) & (other != other))).all())
