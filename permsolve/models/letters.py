"""Letters: which axes of an operator's operands correspond, and which of them their labels connect."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import numpy as np

from permsolve.models.spaces import Ints, Labels
from permsolve.models.values import Value

Letter = Hashable


class Letters:
    """The letters of several operands: which axes carry them, and which factors connect them."""

    def __init__(self, operands: Sequence[tuple[Value, Sequence[Letter]]]) -> None:
        self.operands = operands
        self.sizes: dict[Letter, int] = {}
        self.present: list[set[Letter]] = []
        self.factors: list[list[tuple[list[Letter], Labels]]] = []
        for value, letters in operands:
            names = list(letters)
            alive = {letter for axis, letter in enumerate(names) if value.shape[axis] > 1 and axis not in value.uniform}
            for axis, letter in enumerate(names):
                self.sizes[letter] = max(self.sizes.get(letter, 1), value.shape[axis])
            self.present.append(alive)
            self.factors.append([([names[axis] for axis in f.axes], f.labels) for f in value.factors])
        #: Letters along which some operand's entries differ.
        self.moving: set[Letter] = set().union(*self.present) if self.present else set()

    def components(self) -> list[list[Letter]]:
        """Return sets of letters that factors connect, each in order of appearance; fixed letters are left out."""
        found: list[list[Letter]] = []
        for value in self.factors:
            for letters, _ in value:
                touching = [component for component in found if any(letter in component for letter in letters)]
                merged = [letter for component in touching for letter in component]
                found = [component for component in found if component not in touching]
                found.append(merged + [letter for letter in letters if letter not in merged])
        return found

    def reach(self, start: set[Letter]) -> list[Letter]:
        """Return all letters that factors connect with some, these included."""
        reached = list(start)
        for component in self.components():
            if any(letter in start for letter in component):
                reached += [letter for letter in component if letter not in reached]
        grown = set(reached)
        return reached if grown == start else self.reach(grown)

    def inside(
        self, number: int, component: Sequence[Letter]
    ) -> tuple[set[Letter], list[Letter], Labels | None] | None:
        """Return what one operand has along letters: those it varies along, its factor's, its labels.

        None where it has several factors there, or a factor that reaches beyond or carries a letter twice.
        """
        chosen = [entry for entry in self.factors[number] if any(letter in component for letter in entry[0])]
        present = {letter for letter in self.present[number] if letter in component}
        if not chosen:
            return present, [], None
        letters, labels = chosen[0]
        fits = len(chosen) == 1 and all(letter in component for letter in letters)
        return (present, letters, labels) if fits and len(set(letters)) == len(letters) else None

    def labels_in(self, component: Sequence[Letter]) -> list[Labels]:
        """Return the labels of all factors that touch letters."""
        return [
            labels
            for value in self.factors
            for letters, labels in value
            if any(letter in component for letter in letters)
        ]

    def spread(self, positions: Ints, letters: Sequence[Letter], order: Sequence[Letter]) -> Ints:
        """Broadcast an array whose axes bear some letters to the grid of more letters."""
        arranged = np.transpose(positions, np.argsort([order.index(letter) for letter in letters]))
        shape = [self.sizes[letter] if letter in letters else 1 for letter in order]
        return np.broadcast_to(arranged.reshape(shape), [self.sizes[letter] for letter in order])

    def coordinates(self, order: Sequence[Letter], fixed: Collection[Letter]) -> Ints | None:
        """Return numbers of the points of a grid by their positions along some letters."""
        return coordinates_of(
            [self.sizes[letter] for letter in order], [k for k, letter in enumerate(order) if letter in fixed]
        )


def coordinates_of(shape: Sequence[int], axes: Sequence[int]) -> Ints | None:
    """Return numbers of the points of a grid by their positions along some axes; None where there are none."""
    if not axes:
        return None
    sizes = [shape[k] for k in axes]
    numbers = np.arange(int(np.prod(sizes))).reshape([shape[k] if k in axes else 1 for k in range(len(shape))])
    return np.broadcast_to(numbers, tuple(shape))
