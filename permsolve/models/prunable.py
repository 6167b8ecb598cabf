"""Which weights of a torch model have input channels that a pattern prunes, and why the others have not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from permsolve._arrays import channels_back, channels_last
from permsolve.errors import InputError
from permsolve.models.owner import Owner, is_exotic, memory
from permsolve.models.selection import Filter, Selection
from permsolve.patterns import Pattern, parse

Array = npt.NDArray[Any]

#: Why a weight is left out that the filter does not choose.
NOT_CHOSEN = "not chosen by layers"

_SIGNED_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class PrunableWeight:
    """A weight and its axis of input channels.

    Parameters
    ----------
    name
        Name of the parameter, as in ``model.named_parameters()``: with a parametrization it ends in ``.original``, with
        a mask of ``torch.nn.utils.prune`` in ``_orig``.
    module_name
        Name of the module that reads it; the first one where several share it.
    attribute
        Name of the weight in that module.
    shape
        Shape of the weight as the module sees it; empty where that is not known yet.
    axis
        Axis of the input channels.
    groups
        Groups of a grouped convolution, else 1. An output channel reads only the input channels of its group.
    reason
        Why it cannot be pruned, or None.
    parameter
        The parameter; the first one where a parametrization makes the weight of several.
    owners
        Every place where it is read, each once.
    names
        All names that a filter may call it by.
    """

    name: str
    module_name: str
    attribute: str
    shape: tuple[int, ...]
    axis: int
    groups: int
    reason: str | None
    parameter: torch.Tensor = field(repr=False)
    owners: tuple[Owner, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @property
    def path(self) -> str:
        """Module and attribute: the name that stays the same when parametrizations and masks come and go."""
        return self.owners[0].path

    @property
    def cols(self) -> int:
        """Input channels that each output channel reads."""
        return _cols(self.shape, self.axis, self.groups)

    def effective(self) -> torch.Tensor:
        """Return the weight as the module uses it: parametrized, or masked by ``torch.nn.utils.prune``.

        Returns
        -------
        torch.Tensor
            Detached; may share memory with the parameter.
        """
        return self.owners[0].effective()

    def values(self) -> Array:
        """Return the numbers of the effective weight.

        Returns
        -------
        numpy.ndarray
            Of the weight's shape, float32, or float64 where float32 would lose something; read-only.

        Raises
        ------
        InputError
            If the weight is on the meta device, or holds NaN or infinite entries.
        """
        if self.parameter.is_meta:
            raise InputError(f"{self.path} is on the meta device, without values; load the weights first")
        tensor = self.effective()
        wide = tensor.dtype in (torch.float64, torch.int32, torch.int64)
        array: Array = tensor.to(torch.float64 if wide else torch.float32).cpu().numpy().view()
        array.flags.writeable = False  # it may be the parameter's own memory
        if not np.isfinite(array).all():
            raise InputError(f"{self.path} holds NaN or infinite entries; repair them first")
        return array

    def to_channels(self, array: Array) -> Array:
        """Return an array of the weight's shape with the input channels in axis 1, as saliency objects expect them.

        Parameters
        ----------
        array
            Of the weight's shape.

        Returns
        -------
        numpy.ndarray
            (outputs, cols, kernel...): transposed, group by group, where the weight has its input channels in axis 0.
        """
        if self.axis == 1:
            return array
        _, outputs, *kernel = self.shape
        grouped = array.reshape(self.groups, self.cols, outputs, *kernel).swapaxes(1, 2)
        return grouped.reshape(self.groups * outputs, self.cols, *kernel)

    def to_matrix(self, array: Array) -> Array:
        """Return an array of the weight's shape as a matrix with the input channels as columns.

        Parameters
        ----------
        array
            Of the weight's shape.

        Returns
        -------
        numpy.ndarray
            (rows, cols): one row per output channel and kernel position.
        """
        return channels_last(self.to_channels(array))

    def from_matrix(self, matrix: Array) -> Array:
        """Undo `to_matrix`.

        Parameters
        ----------
        matrix
            (rows, cols).

        Returns
        -------
        numpy.ndarray
            An array of the weight's shape.
        """
        if self.axis == 1:
            return channels_back(matrix, self.shape)
        inputs, outputs, *kernel = self.shape
        array = channels_back(matrix, (self.groups * outputs, self.cols, *kernel))
        return array.reshape(self.groups, outputs, self.cols, *kernel).swapaxes(1, 2).reshape(inputs, outputs, *kernel)


def weights(model: nn.Module, layers: Filter | None = None, nm: object = None) -> list[PrunableWeight]:
    """List the weights of a model that have input channels.

    They are those of linear layers, convolutions and transposed convolutions of 1 to 3 dimensions, attention
    (`torch.nn.MultiheadAttention`) and GPT-2's ``Conv1D``, subclasses included. A weight that several modules share is
    listed once.

    Parameters
    ----------
    model
        The model.
    layers
        Which weights: names of weights or modules, or patterns of them (``"encoder.*.fc1"``), or a function of the
        weight's path and its module; None for all. A weight that is also an embedding's, or that of some other layer of
        unknown kind, has a reason against it unless it is named itself.
    nm
        Pattern; with it, weights that do not divide into its groups, tiles or blocks have a reason too.

    Returns
    -------
    list
        The weights, also those that cannot be pruned: these have a ``reason``.

    Raises
    ------
    InputError
        If a name or pattern matches nothing, or an argument is of another kind.
    """
    return [weight for weight in catalogue(model, layers, nm) if weight.reason != NOT_CHOSEN]


def catalogue(model: nn.Module, layers: Filter | None = None, nm: object = None) -> list[PrunableWeight]:
    """List all weights of a model; those that the filter does not choose have the reason `NOT_CHOSEN`.

    Parameters
    ----------
    model, layers, nm
        As in `weights`.

    Returns
    -------
    list
        The weights.

    Raises
    ------
    InputError
        As in `weights`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"need a torch.nn.Module, got a {type(model).__name__}")
    pattern = None if nm is None else parse(nm)
    selection = Selection(layers)
    elsewhere = _elsewhere(model)
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[object, list[tuple[Owner, int, int]]] = {}
    for owner, axis, groups in _slots(model):
        found.setdefault(owner.identity(), []).append((owner, axis, groups))
    listed = []
    for slots in found.values():
        parameter = slots[0][0].stored()
        tied = elsewhere.get(memory(parameter), [])
        weight = _describe(slots, parameters.get(id(parameter)), parameter, tied)
        reason = weight.reason
        if not selection.chooses(weight.path, weight.owners[0].module, weight.names):
            reason = NOT_CHOSEN
        elif reason is None and tied and not selection.names_one(weight.names):
            kind = "embedding" if isinstance(tied[0].module, nn.Embedding) else type(tied[0].module).__name__
            reason = f"shared with the {kind} {tied[0].name}; name it to prune it"
        elif reason is None and pattern is not None:
            reason = _misfit(weight, pattern)
        listed.append(replace(weight, reason=reason))
    selection.check()
    return listed


def unlisted(model: nn.Module) -> dict[str, str]:
    """Name the parameters of two or more axes whose modules are of no known type, such as experts stacked into one.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    dict
        Names of parameters, and why they are not among its `weights`. Embeddings, which have no input channels, and
        norms are passed over.
    """
    named = {id(parameter): name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    kinds: dict[str, str] = {}
    for module in model.modules():
        stacks = isinstance(module, (ParametrizationList, nn.Embedding, nn.EmbeddingBag, nn.LayerNorm))
        for parameter in module.parameters(recurse=False):
            name = named.get(id(parameter))
            if name is None:
                continue
            if stacks or _layout(module)[2]:
                del named[id(parameter)]  # known there, whoever else reads it
                kinds.pop(name, None)
            else:
                kinds[name] = type(module).__name__
    return {name: f"in a {kind}: not a kind of layer that is pruned" for name, kind in kinds.items()}


def _slots(model: nn.Module) -> Iterator[tuple[Owner, int, int]]:
    """Yield owner, axis and groups of everything that modules of known types read, under each of its names."""
    for name, module in model.named_modules(remove_duplicate=False):
        axis, groups, attributes = _layout(module)
        for attribute in attributes:
            owner = Owner(name, module, attribute)
            if owner.stored() is not None:
                yield owner, axis, groups


def _layout(module: nn.Module) -> tuple[int, int, tuple[str, ...]]:
    if isinstance(module, nn.Linear):
        return 1, 1, ("weight",)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return 1, module.groups, ("weight",)
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return 0, module.groups, ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        return 1, 1, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if any(
        (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D") for kind in type(module).__mro__
    ):
        return 0, 1, ("weight",)
    return 1, 1, ()


def _elsewhere(model: nn.Module) -> dict[object, list[Owner]]:
    """Return who reads parameters other than the layers of known types, embeddings above all."""
    found: dict[object, list[Owner]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ParametrizationList):
            continue  # it holds what its module reads
        known = _layout(module)[2]
        parametrized: Any = module.parametrizations if is_parametrized(module) else ()
        for attribute in (*module._parameters, *parametrized):
            owner = Owner(name, module, attribute)
            stored = owner.stored()
            if stored is not None and attribute.removesuffix("_orig") not in known:
                found.setdefault(memory(stored), []).append(owner)
    return found


def _describe(
    slots: Sequence[tuple[Owner, int, int]], name: str | None, parameter: torch.Tensor, tied: Sequence[Owner]
) -> PrunableWeight:
    first, axis, groups = slots[0]
    owners = [*(owner for owner, _, _ in slots), *tied]
    places: dict[object, Owner] = {}
    for owner in owners:  # a module that the model holds under two names is one place
        places.setdefault((id(owner.module), owner.attribute), owner)
    names = [first.path, *([name] if name else []), *(text for owner in owners for text in (owner.path, owner.name))]
    shape: tuple[int, ...] = ()
    if torch.nn.parameter.is_lazy(parameter):
        reason: str | None = "not initialised yet; run a forward pass first"
    elif first.hooked:
        reason = "computed by a hook, for example of torch.nn.utils.weight_norm; remove the hook first"
    else:
        tensor = parameter if first.parametrizations is None else first.effective()
        shape, reason = tuple(tensor.shape), _fault(tensor, first.module, axis, groups)
        if reason is None and any((other, parts) != (axis, groups) for _, other, parts in slots):
            reason = "shared by modules that read it along different axes"
    return PrunableWeight(
        name=name or first.path,
        module_name=first.name,
        attribute=first.attribute,
        shape=shape,
        axis=axis,
        groups=groups,
        reason=reason,
        parameter=parameter,
        owners=tuple(places.values()),
        names=tuple(text for text in dict.fromkeys(names) if text),
    )


def _fault(tensor: torch.Tensor, module: nn.Module, axis: int, groups: int) -> str | None:
    """Say why a tensor cannot be pruned along its input channels, whatever the pattern."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if is_exotic(tensor):
        return f"a {type(tensor).__name__} of dtype {dtype}, not a plain dense tensor"
    if not (tensor.is_floating_point() or tensor.dtype in _SIGNED_INTEGERS):
        return f"of dtype {dtype}: packed, or not of real numbers"
    if len(shape) != 2 + len(getattr(module, "kernel_size", ())) or not tensor.numel():
        return f"of shape {shape}, which is not that of a {type(module).__name__}'s weight: packed or sharded"
    if _cols(shape, axis, groups) == 1:
        return "depthwise: every output channel reads one input channel" if groups > 1 else "only one input channel"
    return None


def _misfit(weight: PrunableWeight, pattern: Pattern) -> str | None:
    """Say why a weight does not divide as a pattern needs."""
    if not pattern.moves_rows and weight.cols % pattern.m:
        each = " per group" if weight.groups > 1 else ""
        return f"{weight.cols} input channels{each} do not divide into groups of m = {pattern.m}"
    if pattern.moves_rows and len(weight.shape) != 2:
        return f"of {len(weight.shape)} axes, not two; {pattern} is a pattern of matrices"
    if pattern.moves_rows:
        try:
            pattern.validate((weight.shape[1 - weight.axis], weight.cols))
        except InputError as error:
            return str(error).partition("; ")[0]
    return None


def _cols(shape: tuple[int, ...], axis: int, groups: int) -> int:
    return shape[axis] // groups if axis == 0 else shape[axis]
