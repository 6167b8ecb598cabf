"""A linear layer whose weight is compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from permsolve.errors import InputError
from permsolve.patterns import Pattern, parse
from permsolve.sparse.compressed import Compressed, Mask, compress
from permsolve.sparse.product import differentiable, matmul, traced

if TYPE_CHECKING:
    from permsolve.sparse.semi_structured import SemiStructuredLinear

_STRUCTURE = ("positions", "index", "rows")
#: A tensor, the address of its data and its version.
_Stamp = tuple[torch.Tensor, int, int]


class SparseLinear(nn.Module):
    """A linear layer whose weight is compressed; it reads and writes channels in the dense layer's order.

    ``values`` and ``bias`` are parameters, ``positions``, ``index`` and ``rows`` buffers, as `Compressed` describes
    them. Gradients of any order reach the input, the values and the bias; the backward pass makes the weight dense, and
    what is pruned stays pruned. Where a group keeps fewer than n weights, the format pads it with zeros, which train
    like other values. Values may be changed in place or replaced; kernels that keep a layout of their own do not notice
    what is written through ``values.data``, nor in place to values that were made in inference mode. Forward-mode
    derivatives and `torch.vmap` are not supported; whatever traces the layer (`torch.compile`, `torch.export`,
    `torch.jit.trace`, ``make_fx``) sees the dense product.

    Parameters
    ----------
    compressed
        The weight.
    bias
        (rows,), or None; of the weight's type and on its device.

    Raises
    ------
    InputError
        If the bias does not fit.
    """

    values: nn.Parameter
    positions: torch.Tensor
    index: torch.Tensor
    rows: torch.Tensor
    bias: nn.Parameter | None

    def __init__(self, compressed: Compressed, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.pattern: Pattern = compressed.pattern
        self.out_features, self.in_features = compressed.shape
        if bias is not None and (
            tuple(bias.shape) != (self.out_features,)
            or bias.dtype != compressed.dtype
            or bias.device != compressed.device
        ):
            raise InputError(
                f"the bias of these weights is {compressed.dtype} of shape ({self.out_features},) on "
                f"{compressed.device}, got {bias.dtype} of shape {tuple(bias.shape)} on {bias.device}"
            )
        self.values = _parameter(compressed.values)
        for name in _STRUCTURE:
            self.register_buffer(name, getattr(compressed, name))
        self.register_parameter("bias", None if bias is None else _parameter(bias))
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]
        self._cached: tuple[_Stamp, list[_Stamp], Compressed] | None = None

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        pattern: object = "2:4",
        solution: Any = None,
        *,
        mask: torch.Tensor | Mask | None = None,
    ) -> SparseLinear:
        """Compress a linear layer. Weight and bias are copied.

        Parameters
        ----------
        linear
            The layer, dense or pruned; masks and parametrizations of its weight become final.
        pattern
            The sparsity pattern, or what `permsolve.patterns.parse` reads.
        solution
            The pattern's solution for this weight, in the layer's own order, or a `permsolve.Result`. None: nothing is
            permuted, and tiles keep their columns of largest sums.
        mask
            bool (rows, cols): what is kept. By default the largest magnitudes under the solution.

        Returns
        -------
        SparseLinear
            The layer; without a mask it prunes.

        Raises
        ------
        InputError
            If weight, solution or mask are not of the pattern, or a result is for other weights (with a mask, which
            tells whether it fits, that is not asked).
        """
        if not isinstance(linear, nn.Linear):
            raise InputError(f"need a torch.nn.Linear, got a {type(linear).__name__}")
        chosen, weight = parse(pattern), linear.weight
        if weight.is_meta:
            raise InputError("the linear layer is on the meta device, without values; load its weight first")
        compressed = compress(weight, chosen, solution_for(weight, chosen, solution, exact=mask is None), mask=mask)
        layer = cls(compressed, None if linear.bias is None else linear.bias.detach().clone())
        layer.values.requires_grad_(weight.requires_grad)
        if linear.bias is not None and layer.bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        layer.train(linear.training)
        return layer

    def to_linear(self) -> nn.Linear:
        """Return a dense layer of the same function, with zeros.

        Returns
        -------
        torch.nn.Linear
            The layer; it shares nothing with this one.
        """
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.detach(), requires_grad=self.values.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        linear.train(self.training)
        return linear

    def to_semi_structured(self) -> SemiStructuredLinear:
        """Return a layer of the same function in torch's semi-structured format, for 2:4 on a CUDA device.

        Returns
        -------
        SemiStructuredLinear
            For inference only.

        Raises
        ------
        InputError
            If the pattern is not 2:4, or type, shape or device are not what torch can convert.
        MissingDependencyError
            If this torch sees no CUDA device or cannot convert.
        """
        from permsolve.sparse.semi_structured import SemiStructuredLinear

        return SemiStructuredLinear(self.compressed, self.bias)

    @property
    def compressed(self) -> Compressed:
        """The weight. The same object as long as no tensor changes, so that kernels can keep what they derive from it.

        Raises
        ------
        InputError
            If the buffers no longer are those of compressed weights.
        """
        cached, buffers = self._cached, self._buffers
        values = self._parameters.get("values")
        if values is None:  # torch.nn.utils.prune has it computed
            values = self.values
        structure: list[Any] = [buffers[name] for name in _STRUCTURE]
        known = cached is not None and all(map(_unchanged, structure, cached[1]))
        if cached is not None and known and _unchanged(values, cached[0]):
            return cached[2]
        self._cached = None
        shape = (self.out_features, self.in_features)
        compressed = Compressed(self.pattern, shape, values.detach(), *structure)
        if not (known or values.is_meta):
            compressed.check_structure()  # a wrong index would have kernels read anywhere
        self._cached = (_stamp(values), list(map(_stamp, structure)), compressed)
        return compressed

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, (rows, cols), made anew each time; gradients reach the values.

        Code that reads the weight past the layer, such as the fast path of `torch.nn.TransformerEncoderLayer`, computes
        the right thing with it, at the speed of dense weights.
        """
        shape = (self.out_features, self.in_features)
        structure = [getattr(self, name) for name in _STRUCTURE]
        return Compressed(self.pattern, shape, self.values, *structure).to_dense()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``input @ weight.T + bias``.

        Parameters
        ----------
        input
            (..., in_features), of the values' type and on their device. Under autocast it is converted, and the output
            has autocast's type.

        Returns
        -------
        torch.Tensor
            (..., out_features).
        """
        if traced(input):
            return functional.linear(input, self.weight, self.bias)
        kind = input.device.type
        if (kind == "cpu" or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self.forward(input.to(self.values.dtype)).to(torch.get_autocast_dtype(kind))
        weights, bias = self.compressed, self.bias
        learns = torch.is_grad_enabled()
        if learns and (input.requires_grad or self.values.requires_grad):
            output = differentiable(input, self.values, weights)
        else:
            output = matmul(input, weights)
            if bias is not None and not (learns and bias.requires_grad):
                return output.add_(bias)
        return output if bias is None else output + bias

    def extra_repr(self) -> str:
        """Return sizes and pattern, for torch's printout."""
        tensors = [self.values, *(getattr(self, name) for name in _STRUCTURE)]
        share = sum(each.nbytes for each in tensors) / (
            self.in_features * self.out_features * self.values.element_size()
        )
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"pattern={self.pattern}, {100 * share:.1f} % of the dense bytes"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is derived from the tensors, for copies and pickles."""
        return {**self.__dict__, "_cached": None}


def solution_for(weight: torch.Tensor, pattern: Pattern, solution: Any, *, exact: bool) -> Any:
    """Return a pattern's solution, taken out of the result of a solve.

    Parameters
    ----------
    weight
        The weight that it is for.
    pattern
        The pattern.
    solution
        A solution, a result, or None.
    exact
        Whether a result must be for exactly these weights.

    Returns
    -------
    object
        The solution, or None.

    Raises
    ------
    InputError
        If a result is for another pattern or another weight.
    """
    from permsolve.problem import Problem
    from permsolve.result import Result

    if not isinstance(solution, Result):
        return solution
    if solution.pattern != pattern:
        raise InputError(f"the result is for {solution.pattern}, not for {pattern}")
    if exact and solution.fingerprint != Problem.of(weight.detach(), pattern).fingerprint:
        raise InputError(
            "the result was solved for other weights than these; if it is meant for them nevertheless (in another "
            "type, say), pass its solution: result.solution"
        )
    return solution.solution


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach())


def _stamp(tensor: torch.Tensor) -> _Stamp:
    """Return a tensor, and what changes when it is written to or given other data."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor, 0 if tensor.is_meta else tensor.data_ptr(), version


def _unchanged(tensor: torch.Tensor, stamp: _Stamp) -> bool:
    """Compare with a stamp; small layers take microseconds, so nothing is asked for without need."""
    same, place, version = stamp
    if tensor is not same or tensor.is_meta:
        return False
    return tensor.data_ptr() == place and (tensor.is_inference() or tensor._version == version)


def _check_loaded(module: nn.Module, keys: object) -> None:
    """Check tensors as soon as they are loaded."""
    assert isinstance(module, SparseLinear)
    module._cached = None
    compressed = module.compressed
    if not compressed.values.is_meta:
        compressed.check()
