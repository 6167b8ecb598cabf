"""What the traps are made of: the record of a trap, and models with an operation between two layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zoo_parts import Inputs, Made, Net, noise, randomise

FREE, FROZEN, EITHER = "free", "frozen", "either"

Input = tuple[int, ...] | Tensor
"""An input of a trap: the shape of a normal one, or the tensor itself."""


@dataclass(frozen=True)
class Trap:
    """A minimal model with something that a careless analysis gets wrong.

    ``expectation`` is about the input axis of ``weight``, and follows from mathematics alone:

    - "free": every permutation that stays inside ``blocks`` of the channels (no ``blocks``: any at all) can be absorbed
      exactly, where blocks listed together in ``alike`` have one permutation; the operators involved are everyday
      ones, so an analysis must find it;
    - "frozen": none but the identity is right (or the odd mirror image, which is worth no rule, or none that a plain
      state dict carries), so the weight must not move;
    - "either": some permutations are right, but it takes a special rule to see it; freezing is fine, and so is a move
      that leaves the outputs as they are.

    ``exports`` is False where ``torch.export`` fails; then an analysis may also refuse the whole model. ``doubles`` is
    False where the model does not run in float64.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Sequence[Input]
    expectation: str
    why: str
    weight: str = "last.weight"
    blocks: tuple[int, ...] = ()
    alike: tuple[tuple[int, ...], ...] = ()
    exports: bool = True
    doubles: bool = True

    def build(self, seed: int = 0) -> Made:
        """Return the model in eval mode, every parameter random, and its inputs: the same for the same seed."""
        inputs: Inputs = tuple(
            value if isinstance(value, Tensor) else noise(*value, seed=seed + index)
            for index, value in enumerate(self.inputs)
        )
        return randomise(self.make().eval(), seed), inputs


IMAGE = (2, 3, 7, 6)
LINE = (2, 5, 10)
ROW = (3, 10)


def between(first: nn.Module, middle: Any, last: nn.Module) -> nn.Module:
    """Put an operation (a module or a function of one tensor) between two layers, after a tanh."""
    if isinstance(middle, nn.Module):
        return Net(lambda m, x: m.last(m.middle(torch.tanh(m.first(x)))), first=first, middle=middle, last=last)
    return Net(lambda m, x: m.last(middle(torch.tanh(m.first(x)))), first=first, last=last)


def image(name: str, middle: Any, expectation: str, why: str, wide: int = 16, **options: Any) -> Trap:
    """Trap an operation on 16 channels of an image, which leaves ``wide`` channels."""
    return Trap(
        name,
        lambda: between(nn.Conv2d(3, 16, 3, padding=1), _fresh(middle), nn.Conv2d(wide, 12, 1)),
        [IMAGE],
        expectation,
        why,
        **options,
    )


def line(name: str, middle: Any, expectation: str, why: str, wide: int = 16, length: int = 5, **options: Any) -> Trap:
    """Trap an operation on (batch, tokens, 16 channels), which leaves ``wide`` channels."""
    return Trap(
        name,
        lambda: between(nn.Linear(10, 16), _fresh(middle), nn.Linear(wide, 12)),
        [(2, length, 10)],
        expectation,
        why,
        **options,
    )


def net(
    name: str, code: Any, parts: Callable[[], dict[str, Any]], inputs: Any, expectation: str, why: str, **options: Any
) -> Trap:
    """Trap a function of a module and its inputs; ``parts`` makes what the module holds."""
    return Trap(name, lambda: Net(code, **parts()), inputs, expectation, why, **options)


class New:
    """What makes the module in the middle, anew at each build, so that two builds share nothing."""

    def __init__(self, make: Callable[[], nn.Module]):
        self.make = make


def _fresh(middle: Any) -> Any:
    return middle.make() if isinstance(middle, New) else middle
