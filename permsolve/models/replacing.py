"""Calling a model with other tensors in place of its own, wherever it reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from permsolve.models.tensors import tensors_of


class Places:
    """The places where a model keeps its parameters and buffers: modules and attributes, each once.

    A module that is there under two names is one place, a tensor that two modules share has two. torch goes by names:
    it would put a replacement into the module twice, and at the end take the first for what was there before.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._numbers = {name: id(tensor) for name, tensor in tensors_of(model).items()}
        self._of: dict[int, list[str]] = {}
        for prefix, module in model.named_modules():
            for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._of.setdefault(id(tensor), []).append(f"{prefix}.{attribute}" if prefix else attribute)

    def spread(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return replacements by place.

        Parameters
        ----------
        tensors
            Replacements by any name of the tensor that they replace.

        Returns
        -------
        dict
            One entry for each place where that tensor is kept.
        """
        return {place: tensor for name, tensor in tensors.items() for place in self._of[self._numbers[name]]}

    def call(self, replaced: Mapping[str, torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model.

        Parameters
        ----------
        replaced
            Replacements by place, of `spread`.
        args, kwargs
            The arguments.

        Returns
        -------
        object
            What the model returns; the model has its own tensors again.
        """
        return torch.func.functional_call(self._model, dict(replaced), args, kwargs, tie_weights=False)
