"""What goes in and out of layers while a model runs, and the sums that their outputs are added to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from permsolve.models.patches import Reading, Rows, given_to, reading_of

_ADDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


class _Enough(BaseException):
    """Ends a forward pass: what was asked for has been seen. It is no Exception, as models may catch those."""


@dataclass(eq=False)
class Call:
    """One call of a watched layer.

    Parameters
    ----------
    name
        Name of the weight.
    module
        The layer.
    reading
        How it reads its input.
    source
        Equal for calls with the same tensor, not written to in between, as long as the tensors are held.
    inputs
        What it was called with.
    outputs
        What it returned.
    at
        A number that grows: when it was called, or when its output was added.
    other
        What was added to its output, if the first that reads the output is a sum, else None.
    total
        The sum.
    scale, shift
        What a batch norm between layer and sum makes of the output, in a shape that broadcasts with it; None without.
    """

    name: str
    module: nn.Module
    reading: Reading
    source: object
    inputs: torch.Tensor
    outputs: torch.Tensor
    at: int
    other: torch.Tensor | None = None
    total: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the calls of layers during one forward pass.

    A sum counts only if nothing else reads the layer's output before, apart from a batch norm, so what is added does
    not depend on it: then it is the branch of a residual connection.

    Parameters
    ----------
    layers
        Layers to watch, and the names of their weights.
    expected
        Calls to wait for: for each, whether its sum is needed too. The pass is ended after the last of them. None runs
        the whole model.
    copy
        Whether to copy what is recorded; without, in-place operations that follow change it.
    """

    def __init__(
        self, layers: Mapping[nn.Module, str], expected: list[bool] | None = None, *, copy: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._layers = layers
        self._expected = expected
        self._copy = copy
        #: Outputs that nobody has read yet. Tensors are compared by identity, and held, so that ids stay theirs.
        self._fresh: dict[int, tuple[torch.Tensor, Call]] = {}
        self._count = 0
        #: The call whose output the batch norm at work reads.
        self._at_norm: Call | None = None

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Call]:
        """Run the model in evaluation mode, without gradients.

        Parameters
        ----------
        model
            The model.
        args, kwargs
            Its arguments.

        Returns
        -------
        list
            The calls, in order.
        """
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole layer would hide its parts
        try:
            with self._hooked(model), torch.no_grad(), self, contextlib.suppress(_Enough):
                model(*args, **kwargs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
        return self.calls

    @contextlib.contextmanager
    def _hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        try:
            for module in model.modules():
                if module in self._layers:
                    handles.append(module.register_forward_hook(self._called, with_kwargs=True))
                elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                    handles.append(module.register_forward_pre_hook(self._enter_norm, with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leave_norm))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: torch.Tensor) -> None:
        given, size = given_to(args, kwargs)
        with _outside(self):
            reading = reading_of(module, given, size)
            source = id(given), 0 if given.is_inference() else given._version
            kept = self._kept(given), self._kept(outputs)
            call = Call(self._layers[module], module, reading, source, *kept, self._next())
        self.calls.append(call)
        self._fresh[id(outputs)] = outputs, call
        self._check_end()

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone() if self._copy else tensor

    def _check_end(self) -> None:
        wanted = self._expected
        if wanted is None or len(self.calls) < len(wanted):
            return
        if all(call.total is not None for call, needs in zip(self.calls, wanted, strict=False) if needs):
            raise _Enough

    def _enter_norm(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = self._fresh.pop(id(given_to(args, kwargs)[0]), None)
        self._at_norm = None if found is None or found[1].scale is not None else found[1]

    def _leave_norm(self, module: Any, args: tuple[Any, ...], outputs: torch.Tensor) -> None:
        call, self._at_norm = self._at_norm, None
        if call is None or module.running_var is None or not _per_output(call.reading, outputs):
            return
        with _outside(self):
            scale = torch.rsqrt(module.running_var + module.eps)
            scale = scale if module.weight is None else scale * module.weight
            shift = -module.running_mean * scale
            shift = shift if module.bias is None else shift + module.bias
            shape = (1, -1, *[1] * (outputs.ndim - 2))
            call.scale, call.shift = scale.detach().reshape(shape), shift.detach().reshape(shape)
        self._fresh[id(outputs)] = outputs, call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look whether it reads an output that nobody has read."""
        kwargs = kwargs or {}
        read = [self._fresh.pop(id(each), None) for each in _tensors(args, kwargs)] if self._fresh else []
        found = [each[1] for each in read if each is not None]
        if not found:
            return func(*args, **kwargs)
        if func not in _ADDS or len(args) != 2 or kwargs.get("alpha", 1) != 1 or not _alike(args[0], args[1]):
            return func(*args, **kwargs)
        others = []
        for each in read:
            if each is not None:
                other = args[1] if each[0] is args[0] else args[0]
                others.append((each[1], self._kept(other)))
        total = func(*args, **kwargs)
        now = self._next()
        for call, other in others:
            call.other, call.total, call.at = other, self._kept(total), now
        self._check_end()
        return total


@contextlib.contextmanager
def _outside(mode: Watch) -> Iterator[None]:
    """Keep operators of the watch itself from being watched."""
    fresh, mode._fresh = mode._fresh, {}
    try:
        yield
    finally:
        mode._fresh = fresh


def _tensors(args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from (part for part in each if isinstance(part, torch.Tensor))


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return both and one is not other and one.shape == other.shape


def _per_output(reading: Reading, outputs: torch.Tensor) -> bool:
    """Return whether a batch norm's channels, in axis 1, are the outputs of a layer."""
    return not isinstance(reading, Rows) or outputs.ndim == 2
