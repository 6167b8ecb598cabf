"""Tracing: a model and an example become a graph of ATen operators."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from permsolve.errors import InputError, ModelError


@dataclass(frozen=True)
class Source:
    """What a placeholder of the graph stands for.

    Parameters
    ----------
    kind
        ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"input"``.
    name
        Full name of the parameter, buffer or constant; of the input otherwise.
    saved
        Whether it is part of the model's state_dict.
    tensor
        The tensor itself, or None for inputs.
    written
        Whether the model's forward changes it.
    """

    kind: str
    name: str
    saved: bool
    tensor: torch.Tensor | None
    written: bool = False


@dataclass(frozen=True)
class Traced:
    """A graph of functional ATen operators.

    Parameters
    ----------
    module
        The graph.
    sources
        What each placeholder stands for, by the placeholder's name.
    norms
        Names of norms that are called once and return one tensor.
    linears
        Names of `torch.nn.Linear` modules that are called once.
    """

    module: torch.fx.GraphModule
    sources: dict[str, Source]
    norms: frozenset[str] = frozenset()
    linears: frozenset[str] = frozenset()


def as_call(model: nn.Module, example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn what a user gives as example into positional and keyword arguments.

    Parameters
    ----------
    model
        The model; where its forward takes ``use_cache`` and the example does not say, it is called without a cache,
        as a cache would make hidden tensors outputs.
    example_inputs
        A tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Returns
    -------
    tuple
        Arguments and keyword arguments.

    Raises
    ------
    InputError
        If it is none of these.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, torch.Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = {str(name): value for name, value in example_inputs.items()}
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    else:
        raise InputError(
            f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments, "
            f"or a dict of keyword arguments for the model's forward"
        )
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters and "use_cache" not in kwargs:
        position = list(parameters).index("use_cache")
        if len(args) <= position:
            kwargs["use_cache"] = False
    return args, kwargs


def trace(model: nn.Module, example_inputs: object, *, watch: bool = False) -> Traced:
    """Trace a model in evaluation mode.

    Parameters
    ----------
    model
        The model; its mode is restored.
    example_inputs
        As in `as_call`.
    watch
        Whether to note what norms and linear layers return. Branches of `torch.cond` cannot be watched.

    Returns
    -------
    Traced
        The graph.

    Raises
    ------
    ModelError
        If the model cannot be traced with this example.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"need a torch.nn.Module, got a {type(model).__name__}")
    args, kwargs = as_call(model, example_inputs)
    calls = _Calls(model if watch else nn.Module())
    with evaluating(model), torch.no_grad(), _exact_attention(), _silence(), calls:
        try:
            program = torch.export.export(model, args, kwargs, strict=False)
            program = program.run_decompositions({})
        except Exception as error:
            raise ModelError(_explain(model, error)) from error
    return Traced(program.graph_module, _sources(model, program), calls.norms(), calls.linears())


class _Calls:
    """Notes while a model is traced what its norms and linear layers return, and how often they are called."""

    def __init__(self, model: nn.Module) -> None:
        self._candidates = {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if name and (isinstance(module, nn.Linear) or _is_norm(module))
        }
        self._returned: dict[int, list[bool]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for module in set(self._candidates.values()):
            self._handles.append(module.register_forward_hook(self._note))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, module: nn.Module, args: object, output: object) -> None:
        self._returned.setdefault(id(module), []).append(isinstance(output, torch.Tensor))

    def norms(self) -> frozenset[str]:
        """Return the norms that are called once and return one tensor."""
        return self._once(linear=False)

    def linears(self) -> frozenset[str]:
        """Return the linear layers that are called once."""
        return self._once(linear=True)

    def _once(self, *, linear: bool) -> frozenset[str]:
        return frozenset(
            name
            for name, module in self._candidates.items()
            if self._returned.get(id(module)) == [True] and isinstance(module, nn.Linear) == linear
        )


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while.

    Parameters
    ----------
    model
        The model.

    Yields
    ------
    None
        Afterwards every module has its old mode.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = modes.get(name, module.training)


@contextmanager
def _exact_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention from calling one fused operator that hides its matrices."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch from printing whole graphs of models that it cannot trace; the error says what is wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explain(model: nn.Module, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return (
        f"{type(model).__name__} cannot be traced by torch.export with this example: {said[:300]} "
        f"(check that model(*example) runs; control flow that depends on data cannot be followed: analyse the "
        f"submodules that have none on their own)"
    )


def _sources(model: nn.Module, program: torch.export.ExportedProgram) -> dict[str, Source]:
    from torch.export.graph_signature import InputKind

    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    saved = set(model.state_dict(keep_vars=True))
    kinds = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer", InputKind.CONSTANT_TENSOR: "constant"}
    sources = {}
    written = set(program.graph_signature.buffers_to_mutate.values())
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        kind = kinds.get(spec.kind, "input")
        target = spec.target or name
        tensor = tensors.get(target)
        if kind == "constant":
            tensor = program.constants.get(target)
        if kind in ("parameter", "buffer") and tensor is None:  # made while tracing
            kind = "constant"
            tensor = program.state_dict.get(target)
        sources[name] = Source(kind, target, kind == "parameter" or target in saved, tensor, target in written)
    return sources
