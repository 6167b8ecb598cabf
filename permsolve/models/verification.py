"""Proof by comparison: the outputs of a model before and after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from permsolve.errors import InputError, ModelError
from permsolve.models.replacing import Places
from permsolve.models.tensors import tensors_of
from permsolve.models.trace import as_call, evaluating

#: Largest relative error that counts as equal, by the lowest precision met on the way. A right permutation is off by
#: 1e-15 or so in float64; distances of nearly equal points and the like multiply that. A wrong one is off by far more.
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: In the model's own dtype other orders of summation show, too.
OWN_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class Verification:
    """How far the outputs of two models are apart.

    Parameters
    ----------
    max_error
        Largest difference of an output tensor, relative to its largest entry.
    tolerance
        Largest error that counts as equal.
    dtype
        The type the models ran in.
    passed
        Whether the error is within the tolerance.
    """

    max_error: float
    tolerance: float
    dtype: str
    passed: bool

    def __str__(self) -> str:
        verdict = "unchanged" if self.passed else "CHANGED"
        return f"outputs {verdict}: relative error {self.max_error:.2g} in {self.dtype}, tolerance {self.tolerance:.0e}"


@dataclass(frozen=True)
class Outputs:
    """What a model returned.

    Parameters
    ----------
    tensors
        All tensors of all runs; complex ones as pairs of real numbers.
    dtype
        The type it ran in.
    lowest
        The lowest precision met.
    """

    tensors: list[torch.Tensor]
    dtype: torch.dtype
    lowest: torch.dtype


def verify(before: nn.Module, after: nn.Module, inputs: object) -> Verification:
    """Compare the outputs of two models on the same inputs, and on random ones where these are floating-point.

    Both run in evaluation mode, in float64 where memory allows, otherwise in their own type.

    Parameters
    ----------
    before, after
        The models.
    inputs
        A tensor, a tuple of arguments, or a dict of keyword arguments.

    Returns
    -------
    Verification
        The largest relative error and whether it passes.

    Raises
    ------
    ModelError
        If a model fails on the inputs, or returns nothing that could be compared.
    """
    double = fits_double(before) and fits_double(after)
    return compare(run(before, inputs, double=double), run(after, inputs, double=double))


def compare(first: Outputs, second: Outputs) -> Verification:
    """Compare what two models returned.

    Parameters
    ----------
    first, second
        The outputs.

    Returns
    -------
    Verification
        The comparison.

    Raises
    ------
    ModelError
        If there is nothing to compare, or the first outputs are not finite.
    """
    shapes = [[tuple(tensor.shape) for tensor in each.tensors] for each in (first, second)]
    if not any(tensor.is_floating_point() for tensor in first.tensors):
        raise ModelError(
            "the model returns no floating-point tensor: there is too little to verify; apply with verify=False and "
            "compare what matters"
        )
    worst = 0.0
    if shapes[0] != shapes[1]:
        worst = float("inf")
    else:
        for one, other in zip(first.tensors, second.tensors, strict=True):
            if not one.is_floating_point():
                # Whole numbers (an argmax, say) must be equal, but may tip over by rounding in low precision.
                if first.dtype is torch.float64 and not torch.equal(one, other):
                    worst = float("inf")
                continue
            # Infinities (masked scores, say) must be the same on both sides; NaN would hide everything.
            finite = torch.isfinite(one)
            if bool(torch.isnan(one).any()) or not (bool(finite.any()) or not one.numel()):
                raise ModelError("the model's outputs are not finite on these inputs: there is nothing to verify")
            if not torch.equal(one[~finite], other[~finite].to(one.dtype)):
                worst = float("inf")
                continue
            if one.numel():
                scale = float(one[finite].abs().max()) or 1.0
                error = float((one[finite] - other[finite]).abs().max()) / scale
                worst = max(worst, error if error == error else float("inf"))
    table = TOLERANCES if first.dtype is torch.float64 else OWN_TOLERANCES
    tolerance = table.get(first.lowest, 1e-8)
    return Verification(worst, tolerance, str(first.dtype).removeprefix("torch."), worst <= tolerance)


def run(model: nn.Module, inputs: object, *, double: bool) -> Outputs:
    """Run a model on inputs, and on random ones of the same shapes.

    Parameters
    ----------
    model
        The model; it is not changed.
    inputs
        As in `verify`.
    double
        Whether to run in float64.

    Returns
    -------
    Outputs
        What it returned.

    Raises
    ------
    ModelError
        If it fails.
    """
    tensors = tensors_of(model)
    own = next((each.dtype for each in tensors.values() if each.is_floating_point()), torch.float32)
    dtype = torch.float64 if double else own
    places = Places(model)
    # Buffers are copies in any case: a forward may write to them.
    replaced = places.spread(
        {
            name: tensor.detach().to(dtype if double and tensor.is_floating_point() else tensor.dtype, copy=True)
            for name, tensor in _untied(model)
            if double or not isinstance(tensor, nn.Parameter)
        }
    )
    outputs: list[torch.Tensor] = []
    watch = _Precision(dtype)
    args, kwargs = as_call(model, inputs)
    flat, structure = pytree.tree_flatten((args, kwargs))
    floating = any(isinstance(each, torch.Tensor) and each.is_floating_point() for each in flat)
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for variant in range(2 if floating else 1):
            torch.manual_seed(variant)
            given = [_prepare(each, dtype if double else None, random=variant == 1) for each in flat]
            positional, named = pytree.tree_unflatten(given, structure)
            try:
                with watch:
                    result = places.call(replaced, positional, named)
            except Exception as error:  # whatever the model's code raises
                if variant:  # not made for random inputs
                    break
                if double:  # some models insist on a type; then they run in their own
                    return run(model, inputs, double=False)
                said = str(error).strip().splitlines()
                raise ModelError(f"the model fails on the inputs: {said[0] if said else repr(error)}") from error
            found = [_real(each) for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]
            if variant and any(bool(torch.isnan(each).any()) for each in found):
                break
            outputs += [each.detach().clone() for each in found]
    return Outputs(outputs, dtype, watch.lowest)


def fits_double(model: nn.Module) -> bool:
    """Return whether there is memory for a copy of a model in float64, twice.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    bool
        True where it fits.
    """
    tensors = {id(each): each for each in tensors_of(model).values() if each.is_floating_point()}
    needed = 16 * sum(each.numel() for each in tensors.values())
    devices = {each.device for each in tensors.values()}
    for device in devices:
        if device.type == "cuda":
            available = torch.cuda.mem_get_info(device)[0]
        elif device.type == "cpu" and hasattr(os, "sysconf"):
            available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        else:
            return False
        if needed > available // 2:
            return False
    return True


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _untied(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return each tensor once."""
    return [*model.named_parameters(), *model.named_buffers()]


def _prepare(value: Any, dtype: torch.dtype | None, *, random: bool) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    if random:
        value = torch.randn_like(value)
    return value if dtype is None else value.to(dtype)


class _Precision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the lowest precision of any tensor an operator returns."""

    supports_higher_order_operators = True

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lowest = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in pytree.tree_leaves(result):
            low = isinstance(each, torch.Tensor) and each.dtype in TOLERANCES and each.dim() > 0
            if low and TOLERANCES[each.dtype] > TOLERANCES.get(self.lowest, 0.0):
                self.lowest = each.dtype
        return result


def check_has_data(model: nn.Module) -> None:
    """Refuse a model without data.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    ModelError
        If a parameter is on the meta device.
    """
    for name, tensor in tensors_of(model).items():
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no data: load the weights first")


def need_inputs(given: object, kept: object) -> object:
    """Return the example inputs to verify with.

    Parameters
    ----------
    given
        What the user passed now.
    kept
        What was passed to the analysis.

    Returns
    -------
    object
        The first that is there.

    Raises
    ------
    InputError
        If neither is.
    """
    if given is not None:
        return given
    if kept is None:
        raise InputError(
            "this plan was read from a file and has no example inputs to verify with; pass example_inputs=..., "
            "or verify=False"
        )
    return kept
