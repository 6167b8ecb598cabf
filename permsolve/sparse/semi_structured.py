"""Compressed 2:4 weights in the semi-structured format of torch, which GPUs multiply by sparse tensor cores."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from permsolve.errors import InputError, MissingDependencyError
from permsolve.patterns import NM, Transposable
from permsolve.sparse.compressed import Compressed

#: Types that torch converts.
_DTYPES = (torch.float16, torch.bfloat16)


class SemiStructuredLinear(nn.Module):
    """A linear layer in torch's semi-structured 2:4 format, for inference.

    Its input channels are gathered into the order in which the weight is 2:4, unless that is their own.

    Parameters
    ----------
    weights
        Compressed weights of 2:4, plain or transposable: float16 or bfloat16 on a CUDA device of compute capability
        8.0 or later.
    bias
        (rows,), or None.

    Raises
    ------
    InputError
        If pattern, type, shape or device are not what torch can convert.
    MissingDependencyError
        If this torch sees no CUDA device or cannot convert.
    """

    order: torch.Tensor | None
    bias: nn.Parameter | None

    def __init__(self, weights: Compressed, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        check_convertible(weights)
        ordered, order = in_order(weights)
        try:
            sparse = torch.sparse.to_sparse_semi_structured(ordered)
        except RuntimeError as error:  # which sizes fit differs from backend to backend: torch knows
            raise InputError(f"torch cannot convert weights of shape {weights.shape}: {error}") from error
        self.out_features, self.in_features = weights.shape
        self.weight = nn.Parameter(sparse, requires_grad=False)
        self.register_buffer("order", order)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``input @ weight.T + bias``.

        Parameters
        ----------
        input
            (..., in_features).

        Returns
        -------
        torch.Tensor
            (..., out_features).
        """
        ordered = input if self.order is None else input.index_select(-1, self.order)
        return functional.linear(ordered, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return sizes, for torch's printout."""
        gathered = "input in its own order" if self.order is None else "input gathered"
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}, {gathered}"


def in_order(weights: Compressed) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return dense weights whose columns are in the order of their groups, and that order.

    Parameters
    ----------
    weights
        Weights with one tile.

    Returns
    -------
    tuple
        (rows, cols), and int64 (cols,), or None where nothing is permuted.
    """
    order, dense = weights.index[0].long(), weights.to_dense()
    if torch.equal(order, torch.arange(order.numel(), device=order.device)):
        return dense, None
    return dense.index_select(1, order), order


def check_convertible(weights: Compressed) -> None:
    """Check that torch can convert weights.

    Parameters
    ----------
    weights
        The weights.

    Raises
    ------
    InputError
        If pattern, type or device do not fit.
    MissingDependencyError
        If this torch sees no CUDA device or cannot convert.
    """
    pattern = weights.pattern
    if not isinstance(pattern, (NM, Transposable)) or (pattern.n, pattern.m) != (2, 4):
        raise InputError(f"torch's semi-structured format holds 2:4, plain or transposable, not {pattern}")
    need_cuda()
    fault = device_fault(weights.values, _DTYPES)
    if fault is not None:
        raise InputError(f"the weights are {fault}")


def need_cuda() -> None:
    """Check that there is anything that multiplies 2:4 weights.

    Raises
    ------
    MissingDependencyError
        If this torch sees no CUDA device or cannot convert.
    """
    if not hasattr(torch.sparse, "to_sparse_semi_structured"):
        raise MissingDependencyError("this torch has no to_sparse_semi_structured; install torch 2.1 or later")
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "the semi-structured format needs a CUDA device of compute capability 8.0 or later, and torch sees no CUDA "
            "device; weights with zeros and compressed ones run anywhere"
        )


def device_fault(tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Say why the device of a tensor cannot multiply a 2:4 weight of its type.

    Parameters
    ----------
    tensor
        The weight, or its values.
    dtypes
        Types that fit.

    Returns
    -------
    str or None
        The reason, in words that go after "the weights are"; None where it can.
    """
    if not tensor.is_cuda:
        return f"on {tensor.device}; move the model to a CUDA device first"
    capability = torch.cuda.get_device_capability(tensor.device)
    if capability < (8, 0):
        return f"on {tensor.device} of compute capability {capability[0]}.{capability[1]}; 8.0 or later is needed"
    if tensor.dtype not in dtypes:
        *most, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"of dtype {str(tensor.dtype).removeprefix('torch.')}; convert them to {', '.join(most)} or {last} first"
    return None
