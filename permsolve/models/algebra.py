"""How operators join and move the channels of their operands."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from permsolve.models.letters import Letter, Letters, coordinates_of
from permsolve.models.spaces import Ints, Labels, Spaces
from permsolve.models.values import Factor, Value


class Algebra:
    """The demands that operators make, in terms of letters and index maps.

    Parameters
    ----------
    spaces
        Where they are recorded.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        #: What the operator at hand is called where a demand needs a reason.
        self.reason = ""

    # -- demands ---------------------------------------------------------------------------------------------------

    def freeze(self, value: Value, reason: str | None = None) -> Value:
        """Keep every channel of a tensor in its place.

        Parameters
        ----------
        value
            The tensor.
        reason
            Why; by default the operator at hand.

        Returns
        -------
        Value
            The tensor without factors.
        """
        for factor in value.factors:
            self.spaces.freeze(factor.labels, reason or self.reason)
        return value.plain()

    def join(
        self,
        operands: Sequence[tuple[Value, Sequence[Letter]]],
        out: Sequence[Letter],
        shape: Sequence[int],
        *,
        hold: Collection[Letter] = (),
        within: Collection[Letter] | None = None,
    ) -> Value:
        """Return the result of an operator that treats equal letters alike, such as an einsum or broadcasting.

        Parameters
        ----------
        operands
            Tensors with one letter for each axis. Positions along equal letters correspond.
        out
            One letter for each axis of the result; letters that are missing are reduced symmetrically.
        shape
            Shape of the result.
        hold
            Letters along which the operator tells positions apart: no permutation may move along them.
        within
            Letters that the operator treats as one symmetric set, as a norm does: channels may move among them, but
            not along other letters at the same time.

        Returns
        -------
        Value
            The result.
        """
        work = Letters(operands)
        factors: list[Factor] = []
        position = {letter: axis for axis, letter in enumerate(out) if shape[axis] > 1}
        for component in work.components():
            held = {letter for letter in component if letter in hold}
            if within is not None and any(letter in within for letter in component):
                held |= {letter for letter in component if letter not in within}
            kept = [letter for letter in component if letter in position]
            if len(kept) < len(component):
                held |= set(kept)
            joined = self._join_component(work, component, held)
            if joined is not None and len(kept) == len(component) and not held.issuperset(component):
                factor = self._factor(*joined, [position[letter] for letter in joined[0]])
                if factor is not None:
                    factors.append(factor)
        uniform = frozenset(
            axis
            for letter, axis in position.items()
            if letter in work.sizes and letter not in work.moving and letter not in hold
        )
        constant = all(value.constant for value, _ in operands)
        return Value(tuple(shape), tuple(factors), uniform, constant)

    def _join_component(
        self, work: Letters, component: list[Letter], held: set[Letter]
    ) -> tuple[list[Letter], list[tuple[Labels, Ints]], Ints | None] | None:
        """Relate what the operands hold along the letters of one component; None where they cannot be joined."""
        parts: list[tuple[Labels, Ints]] = []
        whole: list[tuple[list[Letter], Labels]] = []
        fixed = set(held)
        for number in range(len(work.operands)):
            inside = work.inside(number, component)
            if inside is None:
                for met in work.labels_in(component):
                    self.spaces.freeze(met, self.reason)
                return None
            present, letters, labels = inside
            fixed |= present.difference(letters)
            if labels is not None:
                parts.append((labels, work.spread(labels.positions(), letters, component)))
                if len(letters) == len(component):
                    whole.append((letters, labels))
        coordinates = work.coordinates(component, fixed) if fixed else None
        if coordinates is None and whole and all(each is whole[0][1] for each, _ in parts):
            order, full = whole[0]
            if all(letters == order for letters, _ in whole):  # nothing new is demanded
                return order, [(full, full.positions())], None
        beside = " beside channels that cannot move" if fixed != held else ""
        self.spaces.relate(parts, self.reason + beside, coordinates=coordinates)
        if fixed.issuperset(component):  # nothing moves here: the result's axes are fixed
            return None
        if whole:
            order, full = whole[0]
            return order, [(full, full.positions())], None
        return component, parts, coordinates

    def _factor(
        self, order: list[Letter], parts: list[tuple[Labels, Ints]], coordinates: Ints | None, axes: list[int]
    ) -> Factor | None:
        """Return the factor of a result: an operand's own labels where they fit, new ones otherwise."""
        labels, positions = parts[0]
        if labels.shape == positions.shape and positions.size == labels.atoms.size and len(order) == len(labels.shape):
            return Factor(labels, tuple(axes))
        return self.derive(labels.atoms.reshape(-1)[positions], axes, parts, coordinates)

    def derive(
        self,
        atoms: Ints,
        axes: Sequence[int],
        parts: Sequence[tuple[Labels, Ints]],
        coordinates: Ints | None = None,
    ) -> Factor | None:
        """Make new labels of existing atoms and relate them to where these came from.

        Parameters
        ----------
        atoms
            Atom of each position.
        axes
            Axes of the new tensor, one for each axis of ``atoms``.
        parts
            Labels and the position in them of each atom.
        coordinates
            What else tells the positions apart.

        Returns
        -------
        Factor or None
            The factor, without the axes along which nothing changes; None where no axis is left.
        """
        keep = [k for k in range(atoms.ndim) if atoms.shape[k] > 1 and not (atoms == np.take(atoms, [0], axis=k)).all()]
        small = atoms[tuple(slice(None) if k in keep else 0 for k in range(atoms.ndim))]
        if not keep:
            self.spaces.relate(parts, self.reason, coordinates=coordinates)
            return None
        labels = Labels(np.ascontiguousarray(small))
        shape = [atoms.shape[k] if k in keep else 1 for k in range(atoms.ndim)]
        own = np.broadcast_to(labels.positions().reshape(shape), atoms.shape)
        dropped = coordinates_of(atoms.shape, [k for k in range(atoms.ndim) if k not in keep and atoms.shape[k] > 1])
        if dropped is not None:
            coordinates = dropped if coordinates is None else coordinates * atoms.size + dropped
        self.spaces.relate([*parts, (labels, own)], self.reason, coordinates=coordinates)
        return Factor(labels, tuple(axes[k] for k in keep))

    # -- movements -------------------------------------------------------------------------------------------------

    def pointwise(self, operands: Sequence[Value], shape: Sequence[int]) -> Value:
        """Return the result of an element-wise operator with broadcasting.

        Parameters
        ----------
        operands
            Tensors; their last axes correspond.
        shape
            Shape of the result.

        Returns
        -------
        Value
            The result.
        """
        rank = len(shape)
        lettered = [(value, range(rank - len(value.shape), rank)) for value in operands]
        return self.join(lettered, range(rank), shape)

    def relabel(self, value: Value, axes: Sequence[int | None], shape: Sequence[int]) -> Value:
        """Return a tensor whose axes are reordered, dropped or added.

        Parameters
        ----------
        value
            The tensor.
        axes
            For every axis of the result the axis it was, or None for a new axis: of length 1, or uniform.
        shape
            Shape of the result.

        Returns
        -------
        Value
            The result. Axes that are dropped must have length 1.
        """
        to = {old: new for new, old in enumerate(axes) if old is not None}
        factors = tuple(Factor(f.labels, tuple(to[axis] for axis in f.axes)) for f in value.factors)
        uniform = {to[axis] for axis in value.uniform if axis in to}
        uniform |= {new for new, old in enumerate(axes) if shape[new] > 1 and (old is None or value.shape[old] == 1)}
        leaf = value.leaf
        if leaf is not None:
            same = all(old is None or value.shape[old] == shape[new] for new, old in enumerate(axes))
            known = [axis for axis in axes if axis is not None]
            full = same and len(known) == len(axes) == len(value.shape)
            leaf = replace(leaf, axes=tuple(leaf.axes[axis] for axis in known)) if full else None
        return Value(tuple(shape), factors, frozenset(uniform), value.constant, leaf)

    def move(self, value: Value, axis: int, source: Ints) -> Value:
        """Return a tensor whose positions along one axis are taken from given positions.

        Parameters
        ----------
        value
            The tensor.
        axis
            The axis.
        source
            Position in the tensor for each position of the result; -1 for a constant that is equal everywhere.

        Returns
        -------
        Value
            The result.
        """
        shape = (*value.shape[:axis], int(source.size), *value.shape[axis + 1 :])
        if not source.size:
            return Value(shape, constant=value.constant)
        filled = source < 0
        if axis in value.uniform or value.shape[axis] == 1:
            # Equal entries stay equal, unless others come to stand beside them.
            uniform = value.uniform - {axis} if filled.any() else value.uniform | {axis}
            return Value(shape, value.factors, uniform, value.constant)
        factors = []
        for factor in value.factors:
            if axis not in factor.axes:
                factors.append(factor)
                continue
            moved = self._move_factor(factor, factor.axes.index(axis), source, filled)
            if moved is not None:
                factors.append(moved)
        return Value(shape, tuple(factors), value.uniform, value.constant)

    def _move_factor(self, factor: Factor, k: int, source: Ints, filled: npt.NDArray[np.bool_]) -> Factor | None:
        labels = factor.labels
        positions = np.take(labels.positions(), np.maximum(source, 0), axis=k)
        if not filled.any():
            return self.derive(labels.atoms.reshape(-1)[positions], factor.axes, [(labels, positions)])
        taken = np.flatnonzero(~filled)
        added = np.flatnonzero(filled)
        shape = list(positions.shape)
        shape[k] = added.size
        atoms = labels.atoms.reshape(-1)[positions]
        index = [slice(None)] * atoms.ndim
        index[k] = added  # type: ignore[call-overload]
        atoms[tuple(index)] = self.spaces.fresh(shape).atoms
        result = Labels(atoms)
        own = result.positions()
        self.spaces.relate(
            [(labels, np.take(positions, taken, axis=k)), (result, np.take(own, taken, axis=k))], self.reason
        )
        self.spaces.relate([(result, np.take(own, added, axis=k))], f"{self.reason} (padding)")
        return Factor(result, factor.axes)

    def cat(self, values: Sequence[Value], axis: int, shape: Sequence[int]) -> Value:
        """Return tensors joined along an axis.

        Parameters
        ----------
        values
            Tensors of equal shapes but for the axis.
        axis
            The axis.
        shape
            Shape of the result.

        Returns
        -------
        Value
            The result.
        """
        rank = len(shape)
        lettered = [
            (value, [("part", number) if k == axis else k for k in range(rank)]) for number, value in enumerate(values)
        ]
        work = Letters(lettered)
        own: set[Letter] = {("part", number) for number in range(len(values))}
        labelled = {letter for value in work.factors for letters, _ in value for letter in letters} & own
        across = [] if not labelled else work.reach(own)
        others = [letter for letter in range(rank) if letter not in across and letter != axis]
        # Along axes that no factor connects with the one that is joined, the tensors correspond.
        result = self.join(
            [(_only(value, others), letters) for value, letters in lettered],
            [k if k in others else ("none", k) for k in range(rank)],
            shape,
        )
        uniform = frozenset(k for k in result.uniform if k in others)
        constant = all(value.constant for value in values)
        factors = result.factors
        if labelled:
            joined = self._cat_factor(work, axis, [letter for letter in across if letter not in own])
            factors += () if joined is None else (joined,)
        return Value(tuple(shape), factors, uniform, constant)

    def _cat_factor(self, work: Letters, axis: int, others: list[Letter]) -> Factor | None:
        blocks = []
        demands: list[tuple[Labels | None, Ints, set[Letter], list[Letter]]] = []
        for number in range(len(work.operands)):
            part = ("part", number)
            order = [part, *others]
            grid = [work.sizes[part], *(work.sizes[letter] for letter in others)]
            if not grid[0]:
                continue
            inside = work.inside(number, order)
            if inside is None:
                for met in work.labels_in([*(("part", k) for k in range(len(work.operands))), *others]):
                    self.spaces.freeze(met, self.reason)
                return None
            present, letters, labels = inside
            if labels is None:
                atoms = self.spaces.fresh(grid).atoms
                demands.append((None, atoms, present, order))
            else:
                positions = work.spread(labels.positions(), letters, order)
                atoms = labels.atoms.reshape(-1)[positions]
                demands.append((labels, positions, present.difference(letters), order))
            blocks.append(np.asarray(atoms))
        result = Labels(np.concatenate(blocks, axis=0))
        offset = 0
        for block, (source, positions, fixed, order) in zip(blocks, demands, strict=True):
            own = result.positions()[offset : offset + block.shape[0]]
            offset += block.shape[0]
            coordinates = work.coordinates(order, fixed) if fixed else None
            parts = [(result, own)] if source is None else [(source, positions), (result, own)]
            self.spaces.relate(parts, self.reason, coordinates=coordinates)
        return Factor(result, (axis, *(int(letter) for letter in others)))  # type: ignore[call-overload]

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Return a tensor in another shape, in C order.

        Parameters
        ----------
        value
            The tensor.
        shape
            The new shape, without -1.

        Returns
        -------
        Value
            The result.
        """
        chunks = _chunks(value.shape, shape)
        factors = []
        uniform: set[int] = set()
        chunk_of = {axis: number for number, (old, _) in enumerate(chunks) for axis in old}
        for old, new in chunks:
            if all(axis in value.uniform or value.shape[axis] == 1 for axis in old):
                uniform |= {axis for axis in new if shape[axis] > 1}
        groups: list[tuple[set[int], list[Factor]]] = []
        for factor in value.factors:
            touched = {chunk_of[axis] for axis in factor.axes}
            members = [factor]
            for other in [group for group in groups if group[0] & touched]:
                touched |= other[0]
                members = other[1] + members
                groups.remove(other)
            groups.append((touched, members))
        for touched, members in groups:
            if all(len(_long(chunks[k][0], value.shape)) == len(_long(chunks[k][1], shape)) == 1 for k in touched):
                to = {_long(chunks[k][0], value.shape)[0]: _long(chunks[k][1], shape)[0] for k in touched}
                factors += [Factor(f.labels, tuple(to[axis] for axis in f.axes)) for f in members]
                continue
            if len(members) > 1:
                for member in members:
                    self.spaces.freeze(member.labels, self.reason)
                continue
            old = [axis for k in sorted(touched) for axis in chunks[k][0]]
            new = [axis for k in sorted(touched) for axis in chunks[k][1]]
            reshaped = self._reshape_factor(members[0], old, value.shape, new, shape)
            factors += [] if reshaped is None else [reshaped]
        leaf = value.leaf if tuple(shape) == value.shape else None
        return Value(tuple(shape), tuple(factors), frozenset(uniform), value.constant, leaf)

    def _reshape_factor(
        self, factor: Factor, old: list[int], old_shape: Sequence[int], new: list[int], new_shape: Sequence[int]
    ) -> Factor | None:
        sizes = [old_shape[axis] for axis in old]
        order = np.argsort([old.index(axis) for axis in factor.axes])
        positions = np.transpose(factor.labels.positions(), order)
        inside = [sizes[k] if axis in factor.axes else 1 for k, axis in enumerate(old)]
        target = [new_shape[axis] for axis in new]
        positions = np.broadcast_to(positions.reshape(inside), sizes).reshape(target)
        spectators = coordinates_of(
            sizes, [k for k, axis in enumerate(old) if axis not in factor.axes and sizes[k] > 1]
        )
        coordinates = None if spectators is None else spectators.reshape(target)
        atoms = factor.labels.atoms.reshape(-1)[positions]
        return self.derive(atoms, new, [(factor.labels, positions)], coordinates)


def _only(value: Value, axes: Collection[int]) -> Value:
    """Return a tensor with the factors on some axes only; the other axes count as uniform."""
    factors = tuple(factor for factor in value.factors if set(factor.axes) <= set(axes))
    hidden = {axis for axis in range(len(value.shape)) if axis not in axes}
    return Value(value.shape, factors, frozenset(value.uniform | hidden), value.constant)


def _long(axes: Sequence[int], shape: Sequence[int]) -> list[int]:
    return [axis for axis in axes if shape[axis] > 1]


def _chunks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Divide both shapes into the smallest runs of axes that hold the same elements."""
    chunks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        a, b = (old[i] if left else 1), (new[j] if right else 1)
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b:
                a *= old[i]
                left.append(i)
                i += 1
            else:
                b *= new[j]
                right.append(j)
                j += 1
        chunks.append((left, right))
    return chunks
