"""What a layer multiplies its weight with: rows of features, and their second moments, in bounded memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from permsolve.errors import ModelError
from permsolve.models.owner import is_exotic

#: Numbers of a matrix of inputs that are multiplied at a time: 64 MiB of float32.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Reading(ABC):
    """How a layer reads its input.

    A row holds what one output of the layer is computed from: its features, in the order of ``weight[k].reshape(-1)``
    once the weight has its input channels in axis 1.

    Parameters
    ----------
    groups
        Groups of a grouped convolution, else 1: each has rows of its own.
    """

    groups: int = 1

    @abstractmethod
    def matrices(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut an input into matrices.

        Parameters
        ----------
        inputs
            The layer's input, of real numbers.

        Yields
        ------
        torch.Tensor
            (groups, rows, features), about `CHUNK` numbers; rows in the order of the layer's outputs.
        """

    @abstractmethod
    def squares(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the sum over all rows of the squares of every input channel, averaged over kernel positions.

        Parameters
        ----------
        inputs
            The layer's input, of real numbers.

        Returns
        -------
        torch.Tensor
            float64 (channels,).
        """

    @abstractmethod
    def rows(self, inputs: torch.Tensor) -> int:
        """Return the number of rows of an input.

        Parameters
        ----------
        inputs
            The layer's input.

        Returns
        -------
        int
            Rows of one group.
        """

    def moments(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Return the second moments of an input, in parts to be added up.

        Parameters
        ----------
        inputs
            The layer's input, of real numbers.

        Yields
        ------
        torch.Tensor
            (groups, features, features): X^T X of some of the rows, in the precision of the input.
        """
        for matrix in self.matrices(inputs):
            yield torch.matmul(matrix.transpose(1, 2), matrix)


@dataclass(frozen=True)
class Rows(Reading):
    """Of a linear layer: every vector of the input is a row."""

    def matrices(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut the vectors into blocks."""
        vectors = inputs.reshape(-1, inputs.shape[-1])
        for part in torch.split(vectors, max(1, CHUNK // vectors.shape[1])):
            yield part.unsqueeze(0)

    def squares(self, inputs: torch.Tensor) -> torch.Tensor:
        """Sum the squares of the vectors."""
        total = torch.zeros(inputs.shape[-1], dtype=torch.float64, device=inputs.device)
        for [part] in self.matrices(inputs):
            total += part.square().sum(dim=0, dtype=torch.float64)
        return total

    def rows(self, inputs: torch.Tensor) -> int:
        """Return the number of vectors."""
        return inputs.numel() // inputs.shape[-1]


@dataclass(frozen=True)
class Patches(Reading):
    """Of a convolution: what lies under the kernel at one output position is a row. Padding counts as input.

    A transposed convolution is one of stride 1 over its input with zeros in between, its kernel turned around.

    Parameters
    ----------
    kernel, stride, dilation
        As of the layer, one number per spatial axis.
    pads
        What is added around the input, as `torch.nn.functional.pad` takes it: last axis first.
    mode
        What it is filled with: "zeros", "reflect", "replicate" or "circular".
    spread
        Strides of a transposed convolution: its inputs come to lie that far apart. Empty for others.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    mode: str = "zeros"
    spread: tuple[int, ...] = ()

    def matrices(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut images, and where one is too large its first axis, into blocks of patches."""
        for images in self._images(inputs):
            windows = self._windows(images)
            axes = len(self.kernel)
            each = images.shape[0] * math.prod(windows.shape[3 : 2 + axes]) * images.shape[1] * math.prod(self.kernel)
            for part in torch.split(windows, max(1, CHUNK // max(each, 1)), dim=2):
                grouped = part.view(part.shape[0], self.groups, part.shape[1] // self.groups, *part.shape[2:])
                if self.spread:
                    grouped = grouped.flip(tuple(range(grouped.dim() - axes, grouped.dim())))
                outputs = range(3, 3 + axes)
                order = (1, 0, *outputs, 2, *range(3 + axes, 3 + 2 * axes))
                features = grouped.shape[2] * math.prod(self.kernel)
                yield grouped.permute(order).reshape(self.groups, -1, features)

    def squares(self, inputs: torch.Tensor) -> torch.Tensor:
        """Sum the squares of all inputs, each as often as the kernel meets it."""
        total: torch.Tensor | None = None
        for images in self._images(inputs):
            sums = images.square().sum(dim=0, dtype=torch.float64)
            for axis in range(len(self.kernel)):
                sums = torch.tensordot(sums, self._met(sums.shape[1], axis, sums.device), dims=([1], [0]))
            total = sums if total is None else total + sums
        assert total is not None  # there is at least one block of images
        return total / math.prod(self.kernel)

    def rows(self, inputs: torch.Tensor) -> int:
        """Return the number of output positions of all images."""
        batched = self._batched(inputs)
        return batched.shape[0] * math.prod(self._outputs(self._prepare(batched[:0]).shape[2:]))

    def _batched(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.unsqueeze(0) if inputs.dim() == 1 + len(self.kernel) else inputs

    def _images(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield blocks of images, padded, such that the patches of a block are about `CHUNK` numbers."""
        batched = self._batched(inputs)
        size = self._prepare(batched[:0]).shape[2:]
        each = batched.shape[1] * math.prod(self.kernel) * math.prod(self._outputs(size))
        for images in torch.split(batched, max(1, CHUNK // max(each, 1))):
            yield self._prepare(images)

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Put zeros between the inputs of a transposed convolution, and padding around."""
        if self.spread:
            sizes = [(size - 1) * step + 1 for size, step in zip(images.shape[2:], self.spread, strict=True)]
            wide = images.new_zeros(*images.shape[:2], *sizes)
            places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.spread))
            wide[places] = images
            images = wide
        if not any(self.pads):
            return images
        # Of an empty batch only the shape is asked for, and torch pads none in other modes.
        plain = self.mode == "zeros" or not images.shape[0]
        return functional.pad(images, self.pads, mode="constant" if plain else self.mode)

    def _outputs(self, sizes: tuple[int, ...]) -> list[int]:
        """Return the number of output positions along each axis of a padded input."""
        return [self._along(axis, size) for axis, size in enumerate(sizes)]

    def _along(self, axis: int, size: int) -> int:
        return (size - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1

    def _windows(self, images: torch.Tensor) -> torch.Tensor:
        """Return a view (images, channels, outputs..., kernel...) of padded images."""
        for axis, (size, step, apart) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            images = images.unfold(2 + axis, apart * (size - 1) + 1, step)[..., ::apart]
        return images

    def _met(self, size: int, axis: int, device: torch.device) -> torch.Tensor:
        """Return how often the kernel meets each position of an axis."""
        starts = torch.arange(self._along(axis, size), device=device) * self.stride[axis]
        places = starts[:, None] + torch.arange(self.kernel[axis], device=device) * self.dilation[axis]
        return torch.bincount(places.reshape(-1), minlength=size).to(torch.float64)


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return what a layer was called with.

    Parameters
    ----------
    args, kwargs
        Its arguments.

    Returns
    -------
    tuple
        The input, or None, and the ``output_size`` of a transposed convolution, or None.
    """
    names = [*(name for name in ("input", "x") if name in kwargs), *kwargs]
    named = kwargs[names[0]] if names else None
    return args[0] if args else named, kwargs.get("output_size", args[1] if len(args) > 1 else None)


def reading_of(module: Any, inputs: torch.Tensor, output_size: Any = None) -> Reading:
    """Return how a module reads an input.

    Parameters
    ----------
    module
        A linear layer, convolution or transposed convolution.
    inputs
        Its input.
    output_size
        What a transposed convolution was called with, or None.

    Returns
    -------
    Reading
        Equal for layers that read the same rows of the same input.
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        pads = tuple(module._reversed_padding_repeated_twice)
        return Patches(module.groups, module.kernel_size, module.stride, module.dilation, pads, module.padding_mode)
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return _transposed(module, inputs, output_size)
    return Rows()


def real(inputs: object, name: str) -> torch.Tensor:
    """Return an input as a tensor of float32, or of float64 if it is one.

    Parameters
    ----------
    inputs
        What the layer was called with.
    name
        Name of its weight.

    Returns
    -------
    torch.Tensor
        Detached; on the CPU where its device knows no float64.

    Raises
    ------
    ModelError
        If it is no dense tensor of real numbers.
    """
    if not isinstance(inputs, torch.Tensor) or is_exotic(inputs) or inputs.is_complex() or inputs.is_meta:
        what = f"a {inputs.layout} tensor of {inputs.dtype}" if isinstance(inputs, torch.Tensor) else f"{inputs!r:.80}"
        raise ModelError(f"{name} was given {what}; calibration needs dense tensors of real numbers: leave it out")
    tensor = inputs.detach()
    tensor = tensor if tensor.device.type in ("cpu", "cuda") else tensor.cpu()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _transposed(module: Any, inputs: torch.Tensor, output_size: Any) -> Patches:
    axes = len(module.kernel_size)
    beyond = module._output_padding(
        inputs, output_size, module.stride, module.padding, module.kernel_size, axes, module.dilation
    )
    pads: list[int] = []
    for axis in reversed(range(axes)):
        around = module.dilation[axis] * (module.kernel_size[axis] - 1) - module.padding[axis]
        pads += [around, around + beyond[axis]]
    return Patches(
        module.groups, module.kernel_size, (1,) * axes, module.dilation, tuple(pads), "zeros", tuple(module.stride)
    )
