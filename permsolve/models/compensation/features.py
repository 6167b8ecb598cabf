"""The outputs that go with the rows of features which a layer reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from permsolve.models.patches import Patches, Reading, Rows


def unsupported(module: nn.Module) -> str | None:
    """Say why the outputs of a module are not its weight times its inputs.

    Parameters
    ----------
    module
        The module that reads a weight.

    Returns
    -------
    str or None
        The reason, or None for linear layers, convolutions and transformers' ``Conv1D``.
    """
    if isinstance(module, nn.MultiheadAttention):
        return "read by an nn.MultiheadAttention, whose projections return nothing that can be seen"
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "the output projection of an nn.MultiheadAttention, which is not called as a layer"
    return None


def paired(
    reading: Reading, inputs: torch.Tensor, outputs: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the rows of features that a layer reads, and values in the shape of its output as rows beside them.

    Parameters
    ----------
    reading
        How the layer reads its input.
    inputs
        Its input, real.
    outputs
        Values in the shape of its output.

    Yields
    ------
    tuple
        float64 (groups, count, features) and (groups, count, outputs of a group): a part of all rows.
    """
    rows = _output_rows(reading, outputs)
    first = 0
    for matrix in reading.matrices(inputs):
        count = matrix.shape[1]
        yield matrix.double(), rows[:, first : first + count].double()
        first += count


def add_to_outputs(reading: Reading, outputs: torch.Tensor, constants: torch.Tensor) -> torch.Tensor:
    """Add a number for every output channel to values in the shape of a layer's output.

    Parameters
    ----------
    reading
        How the layer reads its input.
    outputs
        The values.
    constants
        (outputs,).

    Returns
    -------
    torch.Tensor
        The sum.
    """
    axes = len(reading.kernel) if isinstance(reading, Patches) else 0
    return outputs + constants.reshape(-1, *[1] * axes)


def _output_rows(reading: Reading, outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs as (groups, count, outputs of a group)."""
    if isinstance(reading, Rows):
        return outputs.reshape(1, -1, outputs.shape[-1])
    patches: Any = reading
    batched = outputs[None] if outputs.ndim == 1 + len(patches.kernel) else outputs
    shape = len(batched), patches.groups, batched.shape[1] // patches.groups, math.prod(batched.shape[2:])
    grouped = batched.reshape(shape)
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)  # from (batch, groups, outputs, positions)
