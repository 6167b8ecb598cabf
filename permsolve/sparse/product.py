"""Products with compressed weights: whichever kernel the device has, and gradients."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from permsolve.errors import InputError
from permsolve.sparse.compressed import Compressed

#: Types that the kernels of a GPU multiply; other types go through dense weights.
_ON_DEVICE = (torch.float16, torch.bfloat16, torch.float32)


def matmul(x: torch.Tensor, weights: Compressed) -> torch.Tensor:
    """Multiply activations with compressed weights: what ``x @ weights.to_dense().T`` is, without gradients.

    On a CUDA device by Triton kernels, on the CPU by a compiled one where that is the fastest. Other devices, float64
    and systems without Triton take a dense product. Gradients are `SparseLinear`'s.

    Parameters
    ----------
    x
        (..., cols), of the weights' type and on their device.
    weights
        The weights.

    Returns
    -------
    torch.Tensor
        (..., rows), of the same type.

    Raises
    ------
    InputError
        If type, device or number of channels are not the weights', or these are not compressed.
    """
    _check(x, weights)
    if x.requires_grad:
        x = x.detach()
    if traced(x):
        return x @ weights.to_dense().T
    if not x.numel():
        return x.new_zeros((*x.shape[:-1], weights.shape[0]))
    if x.is_cuda and x.dtype in _ON_DEVICE and _has_triton():
        from permsolve.sparse import on_device

        product: torch.Tensor = on_device.matmul(x.reshape(-1, x.shape[-1]), weights)
        return product.reshape(*x.shape[:-1], weights.shape[0])
    if x.device.type == "cpu":
        return _on_cpu()(x, weights)
    return x @ weights.to_dense().T


def differentiable(x: torch.Tensor, values: torch.Tensor, weights: Compressed) -> torch.Tensor:
    """Multiply as `matmul` does, with gradients of any order with respect to activations and values.

    The backward pass makes the weights dense.

    Parameters
    ----------
    x
        (..., cols).
    values
        The values of the weights, which gradients go to.
    weights
        The weights.

    Returns
    -------
    torch.Tensor
        (..., rows).

    Raises
    ------
    InputError
        As in `matmul`.
    """
    product: torch.Tensor = _Product.apply(x, values, weights)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    """The product of the kernels, and the derivatives of the dense one."""

    @staticmethod
    def forward(x: torch.Tensor, values: torch.Tensor, weights: Compressed) -> torch.Tensor:
        return matmul(x, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, Compressed], output: torch.Tensor) -> None:
        x, values, ctx.weights = inputs
        ctx.save_for_backward(x, values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        [grad], (x, values) = grads, ctx.saved_tensors
        weights = dataclasses.replace(ctx.weights, values=values)
        for_x = for_values = None
        if ctx.needs_input_grad[0]:
            for_x = grad @ weights.to_dense()
        if ctx.needs_input_grad[1]:
            dense = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
            for_values = dense[weights.rows.long()[:, None], weights.channels()]
        return for_x, for_values, None


def traced(x: torch.Tensor) -> bool:
    """Return whether operations are recorded, or stood in for: compiled kernels would be constants there.

    Parameters
    ----------
    x
        What is to be multiplied.

    Returns
    -------
    bool
        True while compiling, exporting or tracing, under a dispatch mode, and for subclasses of tensors.
    """
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return True
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return True
    return type(x) is not torch.Tensor and not isinstance(x, torch.nn.Parameter)


@functools.cache
def _on_cpu() -> Callable[[torch.Tensor, Compressed], torch.Tensor]:
    """Return the CPU's product; imported once, and only where it is needed."""
    from permsolve.sparse import cpu

    return cpu.matmul


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _check(x: torch.Tensor, weights: Compressed) -> None:
    if not isinstance(weights, Compressed):
        raise InputError(f"need compressed weights, got a {type(weights).__name__}: make them by compress")
    rows, cols = weights.shape
    if not isinstance(x, torch.Tensor) or not x.ndim or x.shape[-1] != cols:
        what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(f"weights of {rows} x {cols} multiply tensors of shape (..., {cols}), got {what}")
    if x.dtype != weights.dtype:
        raise InputError(
            f"activations are {_name(x.dtype)}, the compressed weights {_name(weights.dtype)}: convert one of them"
        )
    if x.device != weights.device:
        raise InputError(f"activations are on {x.device}, the compressed weights on {weights.device}: move one of them")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
