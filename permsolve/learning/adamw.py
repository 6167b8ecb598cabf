"""AdamW with a state that is plain tensors, so that it can be stored; and the schedule of its rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    It is written out because ``torch.optim`` imports the compiler, which takes seconds, and hides its state.

    Parameters
    ----------
    parameters
        Tensors with gradients; those without one are left as they are.
    decay
        Weight decay, a factor of the rate.
    betas
        Decay of the running means of gradients and of their squares.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], *, decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(each) for each in self.parameters]
        self.squares = [torch.zeros_like(each) for each in self.parameters]
        self.count = 0
        self._decay, self._betas = decay, betas

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change the parameters by their gradients, and drop these.

        Parameters
        ----------
        rate
            Learning rate of this step.
        """
        self.count += 1
        first, second = self._betas
        size = rate / (1.0 - first**self.count)
        root = math.sqrt(1.0 - second**self.count)
        for value, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            if value.grad is None:
                continue
            value.mul_(1.0 - rate * self._decay)
            mean.lerp_(value.grad, 1.0 - first)
            square.mul_(second).addcmul_(value.grad, value.grad, value=1.0 - second)
            value.addcdiv_(mean, square.sqrt().div_(root).add_(1e-8), value=-size)
            value.grad = None


def cosine(rate: float, share: float) -> float:
    """Return a learning rate that falls to zero along half a cosine.

    Parameters
    ----------
    rate
        The rate at the beginning.
    share
        Share of the schedule that is over, in [0, 1].

    Returns
    -------
    float
        The rate.
    """
    return rate * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
