"""Watching what a model's weights are given in a forward pass."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from permsolve.models.patches import Reading, Rows, given_to, reading_of
from permsolve.models.prunable import PrunableWeight, _layout

#: Called with the path of a weight, what it was given, a number that equal inputs share, and how it reads them.
Observer = Callable[[str, Any, int, Reading], None]

_ATTENTION = inspect.signature(functional.multi_head_attention_forward)
#: Arguments of attention that its weights read.
_READ_BY = {"in_proj_weight": ("query", "key", "value"), "q_proj_weight": ("query",), "k_proj_weight": ("key",),
            "v_proj_weight": ("value",)}  # fmt: skip


class Watch:
    """Tells an observer what weights are given while the context is open.

    Parameters
    ----------
    model
        The model.
    weights
        Weights of it.
    observer
        What is told.
    """

    def __init__(self, model: nn.Module, weights: Sequence[PrunableWeight], observer: Observer) -> None:
        self.observer = observer
        self._places = {(id(each.module), each.attribute): weight.path for weight in weights for each in weight.owners}
        watched = {place[0] for place in self._places}
        # Embeddings and others that a weight is tied to do not multiply anything with it.
        modules = [each for each in model.modules() if id(each) in watched and _layout(each)[2]]
        self._called_modules = [each for each in modules if not isinstance(each, nn.MultiheadAttention)]
        self._attentions = [
            each
            for each in model.modules()
            if isinstance(each, nn.MultiheadAttention) and (id(each) in watched or id(each.out_proj) in watched)
        ]
        self._tokens = _Tokens()

    def fresh(self) -> None:
        """Forget the tensors of the last forward pass; to be called before each."""
        self._tokens = _Tokens()

    def __enter__(self) -> Watch:
        with ExitStack() as stack:
            for module in self._called_modules:
                stack.callback(module.register_forward_pre_hook(self._called, with_kwargs=True).remove)
            if self._attentions:
                attention = _Attention(self)
                for module in self._attentions:
                    stack.callback(module.register_forward_pre_hook(attention.entering).remove)
                # A fused operator would hide the matrices.
                stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
                torch.backends.mha.set_fastpath_enabled(False)
                stack.enter_context(attention)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given, size = given_to(args, kwargs)
        if given is not None:
            self.tell(module, "weight", given, reading_of(module, given, size))

    def tell(self, module: nn.Module, attribute: str, given: Any, reading: Reading) -> None:
        """Tell the observer what a weight is given, if it is one of those that are watched.

        Parameters
        ----------
        module, attribute
            The weight.
        given
            What it is given.
        reading
            How it reads that.
        """
        path = self._places.get((id(module), attribute))
        if path is not None:
            self.observer(path, given, self._tokens.of(given), reading)


class _Tokens:
    """Numbers for tensors: the same tensor, not written to in between, has the same number.

    Tensors are known by weak references: an address may be another tensor's as soon as one is freed.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self._next = 0

    def of(self, tensor: Any) -> int:
        """Return the number of a tensor."""
        if not isinstance(tensor, torch.Tensor) or tensor.is_inference():  # these do not count their versions
            self._next += 1
            return self._next
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            return known[2]
        self._next += 1
        self._known[id(tensor)] = weakref.ref(tensor), tensor._version, self._next
        return self._next


class _Attention(TorchFunctionMode):
    """Sees the calls of attention, whose weights belong to no module that is called."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._entered: list[nn.Module] = []

    def entering(self, module: nn.Module, args: object) -> None:
        """Note which module is about to compute attention: a forward pre-hook."""
        self._entered.append(module)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.multi_head_attention_forward or not self._entered:
            return func(*args, **kwargs)
        module: Any = self._entered.pop()
        call = _ATTENTION.bind(*args, **kwargs)
        for attribute, names in _READ_BY.items():
            for given in {id(call.arguments[name]): call.arguments[name] for name in names}.values():
                self._watch.tell(module, attribute, given, Rows())
        # What the output projection is given shows if it is replaced by one that changes nothing.
        weight, bias = call.arguments["out_proj_weight"], call.arguments["out_proj_bias"]
        call.arguments["out_proj_weight"] = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        call.arguments["out_proj_bias"] = None
        heads, attention = func(*call.args, **call.kwargs)
        self._watch.tell(module.out_proj, "weight", heads, Rows())
        return functional.linear(heads, weight, bias), attention
