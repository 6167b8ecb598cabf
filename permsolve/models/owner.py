"""Where a module keeps a weight: as a parameter, behind parametrizations, or beside a mask."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized


class Owner(NamedTuple):
    """A place where a weight is read."""

    #: Name of the module in the model.
    name: str
    module: nn.Module
    #: Name of the weight in the module, for example ``"weight"``.
    attribute: str

    @property
    def path(self) -> str:
        """Module and attribute."""
        return f"{self.name}.{self.attribute}" if self.name else self.attribute

    @property
    def parametrizations(self) -> Any:
        """The list of torch parametrizations on the weight, or None."""
        if not is_parametrized(self.module, self.attribute):
            return None
        lists: Any = self.module.parametrizations
        return lists[self.attribute]

    @property
    def mask(self) -> torch.Tensor | None:
        """The mask that ``torch.nn.utils.prune`` put on the weight, or None: the module's buffer, not a copy."""
        if self.module._parameters.get(f"{self.attribute}_orig") is None:
            return None
        return self.module._buffers.get(f"{self.attribute}_mask")

    @property
    def hooked(self) -> bool:
        """Whether a hook sets the weight before every forward pass, as ``torch.nn.utils.weight_norm`` does."""
        stored = self.attribute in self.module._parameters or self.attribute in self.module._buffers
        return not stored and self.parametrizations is None and self.mask is None

    def stored(self) -> Any:
        """Return the tensor that holds the weight, the first of them where there are several, or None if none does."""
        stack = self.parametrizations
        if stack is not None:
            return stack.original if stack.is_tensor else stack.original0
        for store in (self.module._parameters, self.module._buffers):
            if self.attribute in store:
                return store[self.attribute]
        if self.mask is not None:
            return self.module._parameters[f"{self.attribute}_orig"]
        value = getattr(self.module, self.attribute, None)
        return value if isinstance(value, torch.Tensor) else None

    def effective(self) -> torch.Tensor:
        """Return the weight as the module uses it, detached; it may share memory with the parameter."""
        with torch.no_grad():
            mask, stack = self.mask, self.parametrizations
            if mask is not None:  # the module's own product of the two is only as fresh as its last forward pass
                original = self.stored().detach()
                return torch.where(mask != 0, original * mask.to(original.dtype), 0)
            if stack is None:
                plain: torch.Tensor = self.stored().detach()
                return plain
            modes = [(part, part.training) for part in stack.modules()]
            try:
                stack.eval()  # in training mode, reading a spectral norm is a step of its power iteration
                value: torch.Tensor = stack().detach()
            finally:
                for part, training in modes:
                    part.training = training
            return value

    def identity(self) -> object:
        """Return what makes a weight the same in two modules: its tensor, and what is done to it."""
        return memory(self.stored()), tuple(map(id, self.parametrizations or ())), id(self.mask)


def memory(tensor: Any) -> object:
    """Return what two tensors have in common if they are one: tied weights need not be one Parameter.

    Parameters
    ----------
    tensor
        A tensor.

    Returns
    -------
    object
        Hashable.
    """
    if torch.nn.parameter.is_lazy(tensor) or is_exotic(tensor) or tensor.is_meta or not tensor.data_ptr():
        return id(tensor)
    return str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def is_exotic(tensor: Any) -> bool:
    """Return whether a tensor is anything but a plain dense one.

    Parameters
    ----------
    tensor
        A tensor.

    Returns
    -------
    bool
        True if it is sparse, quantised or wraps other tensors.
    """
    # __tensor_flatten__ is torch's protocol of subclasses that wrap other tensors.
    return hasattr(tensor, "__tensor_flatten__") or tensor.layout != torch.strided or tensor.is_quantized
