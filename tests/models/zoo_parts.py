"""What the zoo and the traps are made of: named builders, random parameters, inputs, and a module around a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...] | dict[str, Any]
"""Example inputs: positional arguments, or keyword arguments."""

Made = tuple[nn.Module, Inputs]


@dataclass(frozen=True)
class Specimen:
    """A named model of the zoo; ``needs`` is a package beyond torch, ``doubles`` says whether it runs in float64."""

    name: str
    make: Callable[[int], Made]
    needs: str = ""
    doubles: bool = True

    def build(self, seed: int = 0) -> Made:
        """Return the model in eval mode, every parameter random, and its inputs: the same for the same seed."""
        model, inputs = self.make(seed)
        return randomise(model.eval(), seed), inputs


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter and persistent floating-point buffer at random, so that no wrong permutation goes unnoticed.

    Values are written in place: what shares memory still does. Masks of ``torch.nn.utils.prune`` stay masks.
    """
    generator = torch.Generator().manual_seed(seed)
    persistent = model.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in persistent]
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *buffers]:
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(_values(name.rpartition(".")[2], tensor, generator))
    return model


def _values(leaf: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw values that keep activations near 1: gains near 1, variances positive, weights divided by their fan-in."""
    shape = tuple(tensor.shape)
    if leaf.endswith("_mask"):
        return (torch.rand(shape, generator=generator) < 0.6).to(tensor.dtype)
    if tensor.is_complex():
        return torch.randn(shape, generator=generator, dtype=tensor.dtype)
    if leaf == "running_var":
        return 0.5 + torch.rand(shape, generator=generator)
    if tensor.ndim >= 2 and max(shape) < tensor.numel():
        fan_in = tensor.numel() / shape[0]
        return torch.randn(shape, generator=generator) * (1.4 / fan_in**0.5)
    if "bias" in leaf or leaf == "running_mean":
        return 0.4 * torch.randn(shape, generator=generator)
    return 1 + 0.3 * (2 * torch.rand(shape, generator=generator) - 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Draw a standard normal tensor, the same for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7919 + seed))


def tokens(vocabulary: int, *shape: int, seed: int = 0) -> Tensor:
    """Draw token numbers, the same for the same shape and seed."""
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(7919 + seed))


def call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run the model without gradients; return all tensors of its output, in order."""
    with torch.no_grad():
        return list(tensors(model(**inputs) if isinstance(inputs, dict) else model(*inputs)))


def tensors(value: Any) -> Iterator[Tensor]:
    """Walk through the tensors in nested tuples, lists and dicts (outputs of transformers are dicts)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from tensors(part)


def doubled(model: nn.Module, inputs: Inputs) -> Made:
    """Convert model and inputs to float64, in which the outputs of a right permutation agree to 1e-12 or so."""
    return model.double(), _double(inputs)


def _double(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _double(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_double(part) for part in value)
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


class Net(nn.Module):
    """A function of a module and its inputs, with the modules, parameters and buffers that it uses as attributes.

    The function reaches them through its first argument only, so that a copy of the module is a copy.
    """

    def __init__(self, code: Callable[..., Any], **parts: Any):
        super().__init__()
        self.code = code
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.code(self, *args, **kwargs)


def parameter(*shape: int) -> nn.Parameter:
    """Make a parameter of a shape; ``randomise`` fills it."""
    return nn.Parameter(torch.ones(shape))


def buffer(*shape: int) -> nn.Buffer:
    """Make a persistent buffer of a shape; ``randomise`` fills it."""
    return nn.Buffer(torch.ones(shape))
