"""Which channels of a network may change places: atoms, ties and relations, settled into cells.

Every permutable axis (or joint set of axes) of a tensor carries `Labels`: one atom for each of its positions. A
permutation of the network acts on atoms. Operators demand that atoms move together (ties) and that corresponding
positions of two tensors stay corresponding (relations). `Spaces` collects these demands and settles them:

- tied atoms form *classes*; a class may occur at several positions of an axis, its *occurrences*, ranked by position;
- two classes are in one *cell*, and may change places, if no relation tells them apart.

A permutation of classes within cells acts on an axis by sending the occurrence of rank r of one class to that of rank r
of the other. A relation holds under it if classes of one cell enter the relation with equal ranks and equal
coordinates, as often as each other: that is what makes two classes alike here, and all that `settle` checks. What
nothing is known about is kept apart by giving each position a coordinate of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Labels:
    """Atoms of the positions of an axis, or of several axes taken together.

    Parameters
    ----------
    atoms
        Atom of each position, any shape.
    """

    __slots__ = ("atoms",)

    def __init__(self, atoms: Ints) -> None:
        self.atoms = atoms

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.atoms.shape)

    def positions(self) -> Ints:
        """Return the flat position of every element, in the shape of the labels.

        Returns
        -------
        numpy.ndarray
            0, 1, ... in C order.
        """
        return np.arange(self.atoms.size).reshape(self.atoms.shape)


@dataclass(frozen=True)
class Relation:
    """Positions of several labels that correspond to each other, point by point.

    Parameters
    ----------
    parts
        Pairs of labels and the flat positions in them, all of one length.
    coordinates
        What else tells the points apart, one number for each, or None.
    reason
        What demands it, for people.
    """

    parts: tuple[tuple[Labels, Ints], ...]
    coordinates: Ints | None
    reason: str


@dataclass
class Spaces:
    """All atoms of a network and what is demanded of them."""

    _count: int = 0
    _ties: list[tuple[Ints, Ints]] = field(default_factory=list)
    _relations: list[Relation] = field(default_factory=list)

    def fresh(self, shape: Sequence[int]) -> Labels:
        """Make labels of new atoms.

        Parameters
        ----------
        shape
            Lengths of the axes.

        Returns
        -------
        Labels
            No two positions share an atom.
        """
        size = int(np.prod(shape, dtype=np.int64))
        atoms = np.arange(self._count, self._count + size).reshape(tuple(shape))
        self._count += size
        return Labels(atoms)

    def relate(self, parts: Sequence[tuple[Labels, Ints]], reason: str, *, coordinates: Ints | None = None) -> None:
        """Demand that corresponding positions move alike, and tie their atoms.

        Parameters
        ----------
        parts
            Labels and flat positions in them; arrays of equal shapes.
        reason
            What demands it.
        coordinates
            Numbers that must not change either, of the same shape.
        """
        flat = tuple((labels, positions.reshape(-1)) for labels, positions in parts)
        if not flat or not flat[0][1].size:
            return
        first = flat[0][0].atoms.reshape(-1)[flat[0][1]]
        for labels, positions in flat[1:]:
            other = labels.atoms.reshape(-1)[positions]
            if other is not first and not np.array_equal(first, other):
                self._ties.append((first, other))
        self._relations.append(Relation(flat, None if coordinates is None else coordinates.reshape(-1), reason))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keep every position where it is.

        Parameters
        ----------
        labels
            The labels.
        reason
            Why.
        """
        positions = labels.positions()
        self.relate([(labels, positions)], reason, coordinates=positions)

    def settle(self) -> Cells:
        """Work out which atoms are tied and which may change places.

        Returns
        -------
        Cells
            Classes and cells.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._count:
            return Cells(np.empty(0, np.int64), np.empty(0, np.int64), {})
        left = np.concatenate([np.empty(0, np.int64), *(a for a, _ in self._ties)])
        right = np.concatenate([np.empty(0, np.int64), *(b for _, b in self._ties)])
        graph = coo_array((np.ones(left.size, np.int8), (left, right)), shape=(self._count, self._count))
        count, classes = connected_components(graph, directed=False)
        partition = _Partition(count)
        ranks: dict[int, Ints] = {}
        for number, relation in enumerate(self._relations):
            keys = np.full(relation.parts[0][1].size, _scramble(np.uint64(number)), dtype=np.uint64)
            for labels, positions in relation.parts:
                if id(labels) not in ranks:
                    ranks[id(labels)] = _ranks(classes[labels.atoms.reshape(-1)])
                keys = _scramble(keys ^ ranks[id(labels)][positions].astype(np.uint64))
            if relation.coordinates is not None:
                keys = _scramble(keys ^ relation.coordinates.astype(np.uint64))
            labels, positions = relation.parts[0]
            partition.refine(classes[labels.atoms.reshape(-1)[positions]], keys, relation.reason)
        return Cells(classes.astype(np.int64), partition.cell, partition.reasons)


@dataclass(frozen=True)
class Cells:
    """What may change places.

    Parameters
    ----------
    classes
        Class of each atom, (atoms,).
    cell
        Cell of each class, (classes,).
    reasons
        For classes that are alone in their cell: what set them apart.
    """

    classes: Ints
    cell: Ints
    reasons: dict[int, str]

    def of(self, labels: Labels) -> Ints:
        """Return the class of every position.

        Parameters
        ----------
        labels
            The labels.

        Returns
        -------
        numpy.ndarray
            Classes in the shape of the labels.
        """
        return self.classes[labels.atoms]


class _Partition:
    """A partition of classes into cells that relations refine."""

    def __init__(self, count: int) -> None:
        self.cell: Ints = np.zeros(count, dtype=np.int64)
        self.sizes = [count]
        self.reasons: dict[int, str] = {}

    def refine(self, classes: Ints, keys: Keys, reason: str) -> None:
        """Split cells by the multiset of keys that each class meets; classes not met stay where they are."""
        order = np.argsort(classes, kind="stable")
        ordered = classes[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        met = ordered[starts]
        with np.errstate(over="ignore"):
            sums = np.add.reduceat(keys[order], starts)
        old = self.cell[met]
        by = np.lexsort((sums, old))
        old, sums, met = old[by], sums[by], met[by]
        first = np.r_[True, (old[1:] != old[:-1]) | (sums[1:] != sums[:-1])]
        sizes = np.diff(np.r_[np.flatnonzero(first), old.size])
        self.cell[met] = len(self.sizes) - 1 + np.cumsum(first)
        for before, size, position in zip(
            old[first].tolist(), sizes.tolist(), np.flatnonzero(first).tolist(), strict=True
        ):
            if size == 1 and self.sizes[before] > 1:
                self.reasons.setdefault(int(met[position]), reason)
        self.sizes.extend(sizes.tolist())


def _ranks(classes: Ints) -> Ints:
    """Return how many earlier positions have the same class, for each position."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]]
    first = np.maximum.accumulate(np.where(starts, np.arange(classes.size), 0))
    ranks = np.empty(classes.size, dtype=np.int64)
    ranks[order] = np.arange(classes.size) - first
    return ranks


def _scramble(keys: Any) -> Any:
    """Mix the bits of keys (splitmix64), so that sums of keys tell multisets apart."""
    with np.errstate(over="ignore"):
        keys = keys + _GOLDEN
        keys = (keys ^ (keys >> np.uint64(30))) * _FIRST
        keys = (keys ^ (keys >> np.uint64(27))) * _SECOND
    return keys ^ (keys >> np.uint64(31))
