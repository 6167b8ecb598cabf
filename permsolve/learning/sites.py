"""Sites: a permutation that is being learned, as blocks of a starting order, with the parameters of its relaxation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from permsolve.errors import InputError
from permsolve.learning.relaxations import assign, sinkhorn, transport

Ints = npt.NDArray[np.int64]

#: Published: logits are uniform within this of zero, times a learned factor that starts at its inverse.
_SPAN = 1.0 / 8.0
#: Ours: where the first permutation is to be the starting order, noise is less, and the diagonal leads by little, so
#: that rates as small as the published ones move away from it.
_NEAR, _LEAD = 0.25, 0.4


def block_size(channels: int, unit: int, *, block: int | None = None, groups: int | None = None) -> int:
    """Return the size of blocks in whole units.

    Parameters
    ----------
    channels
        Number of channels.
    unit
        The pattern's m.
    block
        Wanted size, or None.
    groups
        Wanted number of blocks, where no size is wanted.

    Returns
    -------
    int
        A multiple of the unit, at least two units.
    """
    wanted = math.ceil(channels / (groups or 1)) if block is None else block
    return max(math.ceil(wanted / unit), 2) * unit


class Site(ABC):
    """A permutation that is being learned.

    The channels stand in a starting order; consecutive ones make blocks, and a channel stays in its block. Memory and
    time are those of blocks, never of channels x channels. Blocks of equal size are worked on together: a *stack*.

    Parameters
    ----------
    order
        int64 (channels,): the starting order. What is learned is relative to it.
    cells
        Sizes of consecutive blocks of channels that no channel may leave, or None.
    block
        Largest size of a block, a multiple of the pattern's m.
    generator
        Draws the noise that the parameters start with.
    near
        Whether the first permutation is to be the starting order; otherwise it is random within blocks, as published.
    device
        Where to work.
    dtype
        Type of the parameters.
    """

    #: Learning rate where none is given.
    lr: float
    #: Weight decay.
    decay: float

    def __init__(
        self,
        order: Ints,
        cells: Sequence[int] | None,
        block: int,
        generator: torch.Generator,
        *,
        near: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.order = np.asarray(order, dtype=np.int64).copy()
        by_size: dict[int, list[Ints]] = {}
        at = 0
        for size in cells or (self.order.size,):
            for start in range(0, size, block):
                positions = np.arange(at + start, at + min(start + block, size))
                by_size.setdefault(positions.size, []).append(positions)
            at += size
        if at != self.order.size:
            raise InputError(f"cells of {at} channels for a site of {self.order.size}")
        #: Per stack, int64 (k, b): which channels stand in each block, in starting order.
        self.stacks = [torch.as_tensor(self.order[np.stack(blocks)], device=device) for blocks in by_size.values()]
        self._positions = [np.stack(blocks) for blocks in by_size.values()]
        draws = [torch.rand(stack.shape + stack.shape[-1:], generator=generator) for stack in self.stacks]
        #: What is learned: one tensor for each stack, and perhaps others.
        self.parameters = [each.to(device, dtype) for each in self._initial(draws, near)]
        for each in self.parameters:
            each.requires_grad_()

    @abstractmethod
    def _initial(self, draws: list[torch.Tensor], near: bool) -> list[torch.Tensor]:
        """Return the parameters to start with, made of uniform numbers on [0, 1)."""

    @abstractmethod
    def soft(self, share: float) -> list[torch.Tensor]:
        """Return the relaxed permutations, sharper as the schedule goes on.

        Parameters
        ----------
        share
            Share of the schedule that is over, in [0, 1].

        Returns
        -------
        list
            (k, b, b) for each stack: entry [i, j] says how much slot i takes of position j.
        """

    def harden(self, soft: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the permutations nearest to relaxed ones.

        Parameters
        ----------
        soft
            What `soft` returned.

        Returns
        -------
        list
            int64 (k, b) for each stack.
        """
        return [assign(each) for each in soft]

    def start(self) -> list[torch.Tensor]:
        """Return the permutations that leave the starting order as it is.

        Returns
        -------
        list
            int64 (k, b) for each stack.
        """
        return [torch.arange(each.shape[1], device=each.device).expand(each.shape) for each in self.stacks]

    def perm(self, hard: Sequence[torch.Tensor]) -> Ints:
        """Return the permutation of all channels.

        Parameters
        ----------
        hard
            Permutations of the blocks.

        Returns
        -------
        numpy.ndarray
            int64 (channels,).
        """
        perm = self.order.copy()
        for positions, order in zip(self._positions, hard, strict=True):
            perm[positions] = self.order[np.take_along_axis(positions, order.cpu().numpy(), axis=1)]
        return perm


class SinkhornSite(Site):
    """PermLLM's permutation: logits, Sinkhorn normalisation, linear sum assignment.

    As published: uniform on +-1/8, times a learned factor that starts at 8, clamped to [-1, 1]; divided by a
    temperature that falls linearly from 1 to 0.1; five normalisations; a step every time goes through the hard
    permutation, straight through to the relaxed one.
    """

    lr = 1e-3
    decay = 0.1

    def _initial(self, draws: list[torch.Tensor], near: bool) -> list[torch.Tensor]:
        logits = [(2.0 * each - 1.0) * (_SPAN * (_NEAR if near else 1.0)) for each in draws]
        for each in logits if near else ():
            each.diagonal(dim1=-2, dim2=-1).fill_(_LEAD * _SPAN)
        return [*logits, torch.tensor(1.0 / _SPAN)]

    def soft(self, share: float) -> list[torch.Tensor]:
        """Return softmax of the clamped logits, normalised five times."""
        *logits, factor = self.parameters
        temperature = 1.0 - 0.9 * min(share, 1.0)
        return [sinkhorn((each * factor).clamp(-1.0, 1.0) / temperature) for each in logits]


class TransportSite(Site):
    """A permutation as entropic optimal transport under a learned cost, whose epsilon is annealed.

    No step of the training goes through a hard permutation. The published text leaves schedule, rate and start open;
    the defaults were the best of a handful for the outputs of small networks.

    Parameters
    ----------
    *settings
        As of `Site`.
    epsilons
        First and last weight of the entropy; it falls geometrically.
    noise
        Half the width of the noise that the costs start with.
    lead
        By how much the costs of a starting order are lower.
    **more
        As of `Site`.
    """

    lr = 3e-2
    decay = 0.01

    def __init__(
        self,
        *settings: Any,
        epsilons: tuple[float, float] = (0.1, 0.01),
        noise: float = 0.02,
        lead: float = 0.2,
        **more: Any,
    ) -> None:
        self._epsilons, self._noise, self._lead = epsilons, noise, lead
        super().__init__(*settings, **more)

    def _initial(self, draws: list[torch.Tensor], near: bool) -> list[torch.Tensor]:
        costs = [(2.0 * each - 1.0) * self._noise for each in draws]
        for each in costs if near else ():
            each.diagonal(dim1=-2, dim2=-1).fill_(-self._lead)
        return costs

    def soft(self, share: float) -> list[torch.Tensor]:
        """Return the transport plans."""
        first, last = self._epsilons
        epsilon = first * (last / first) ** min(share, 1.0)
        return [transport(each, epsilon) for each in self.parameters]
