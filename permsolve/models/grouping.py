"""From cells to problems: which positions of which weights one permutation moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from permsolve.models.analysis import Axis, Findings, Gather
from permsolve.models.rules.registry import Use
from permsolve.models.sides import Side
from permsolve.models.spaces import Cells, Ints, Labels


@dataclass(frozen=True)
class Movement:
    """What a group's permutation does to one parameter, buffer or index.

    Parameters
    ----------
    name
        Its full name; of the module for an index.
    role
        ``"consumer"``: reads the channels and gains; ``"maker"``: makes them and gains; ``"carried"``: reads them
        without gain; ``"producer"``: makes them without gain; ``"follower"``: anything else with an entry for each
        channel; ``"index"``: an index after a norm that makes them; ``"pointed"``: such an index that points to them.
    view
        The shape it is looked at in.
    axes
        Axes of the view whose positions move together, flattened in this order.
    positions
        Flat positions, (occurrences, cols): entry ``[k, s]`` moves like slot s.
    masks
        Buffers that a weight that gains is multiplied with.
    """

    name: str
    role: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    positions: Ints
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Channels that may change places among themselves.

    Parameters
    ----------
    classes
        Their classes, in units of the pattern (groups or tiles), in the order of the first weight that gains.
    movements
        What moves with them.
    """

    classes: Ints
    movements: tuple[Movement, ...]


@dataclass(frozen=True)
class Refusal:
    """A weight whose channels stay, and why.

    Parameters
    ----------
    name
        Name of the parameter.
    axis
        Its axis of input channels; of output channels where the pattern permutes these.
    reason
        Why.
    """

    name: str
    axis: int
    reason: str


def divide(found: Findings, side: Side) -> tuple[list[list[Block]], list[Refusal]]:
    """Divide what may move into groups of blocks.

    Parameters
    ----------
    found
        What the analysis found.
    side
        The side of its weights that the pattern permutes.

    Returns
    -------
    tuple
        Groups, each a list of blocks that move the same parameters, and the weights that stay.
    """
    return _Division(found, side).run()


class _Candidate:
    """A weight that may gain: its channels by class, in units of the pattern."""

    def __init__(self, axis: Axis, use: Use, cells: Cells) -> None:
        self.axis = axis
        self.use = use
        self.classes = cells.of(axis.labels)
        inside = [axis.view[k] for k in axis.axes]
        self.lines = int(np.prod(axis.view)) // int(np.prod(inside))

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        return self.axis.name, self.axis.axes

    def units(self, size: int) -> Ints:
        """Classes of the groups or tiles, (units, size)."""
        return self.classes.reshape(-1, size)


class _Division:
    def __init__(self, found: Findings, side: Side) -> None:
        self.found = found
        self.side = side
        self.cells = found.spaces.settle()
        self.candidates: list[_Candidate] = []
        self.refused: dict[tuple[str, int], str] = {}
        self.notes: dict[tuple[str, int], Counter[str]] = {}

    def run(self) -> tuple[list[list[Block]], list[Refusal]]:
        self._find_candidates()
        sets, gaining = self._choose_sets()
        blocks = self._blocks(sets, gaining)
        groups: dict[object, list[Block]] = {}
        for number, block in enumerate(blocks):
            shape = tuple((move.name, move.role, move.axes, len(move.positions)) for move in block.movements)
            groups.setdefault(shape if self.side.merges else number, []).append(block)
        moved = {move.name for block in blocks for move in block.movements if move.role == self.side.role}
        refusals = [
            Refusal(use.name, use.axis if (axis := self.side.axis(use)) is None else axis, self._why(use))
            for use in {(each.name, each.axis): each for each in self.found.uses}.values()
            if use.name not in moved
        ]
        return list(groups.values()), refusals

    def _find_candidates(self) -> None:
        by_name: dict[str, list[Axis]] = {}
        for each in self.found.axes:
            by_name.setdefault(each.name, []).append(each)
        taken: dict[str, int] = {}
        for use in self.found.uses:
            key = (use.name, use.axis)
            along = self.side.axis(use)
            axis = next((axis for axis in by_name.get(use.name, ()) if _lies_on(axis, along)), None)
            shape = self.found.shapes.get(use.name, ())
            if axis is None:
                self.refused[key] = self._unlabelled(use, along, shape)
            elif fault := self.side.fault(shape, axis.labels.shape[-1]):
                self.refused[key] = fault
            elif use.name not in taken:
                taken[use.name] = use.axis
                self.candidates.append(_Candidate(axis, use, self.cells))
            elif taken[use.name] != use.axis:
                self.refused.setdefault(key, "it is read along another axis, too")

    def _unlabelled(self, use: Use, along: int | None, shape: tuple[int, ...]) -> str:
        if along is None:
            return f"it has no axis of {self.side.channels}: {use.where}"
        if along >= len(shape) or shape[along] != 1:
            return "it shares memory with another parameter"
        return f"one {self.side.channels.removesuffix('s')}: {use.where}"

    def _choose_sets(self) -> tuple[dict[int, tuple[int, ...]], dict[int, list[_Candidate]]]:
        """Choose for every class that may move the set of classes it shares a unit with, and the weights that gain.

        A weight's unit counts if its classes differ and lie in one cell. A unit that mixes cells pins its classes.
        Where weights disagree, the one with most lines decides, and the others are carried along.
        """
        unit = self.side.unit_name
        chosen: dict[int, tuple[int, ...]] = {}
        gaining: dict[int, list[_Candidate]] = {}
        pinned: set[int] = set()
        alone = np.bincount(self.cells.cell, minlength=1)
        for weight in sorted(self.candidates, key=lambda each: -each.lines):
            chunks = weight.units(self.side.unit)
            cell = self.cells.cell[chunks]
            ordered = np.sort(chunks, axis=1)
            whole = (cell == cell[:, :1]).all(axis=1)
            distinct = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
            movable = alone[cell].max(axis=1) > 1
            repeated = {int(k) for k in np.unique(cell[whole & ~distinct & movable])}
            for row in chunks[~whole & movable]:
                pinned.update(int(each) for each in row)
            conflicts = set()
            proposals = []
            for k in np.flatnonzero(whole & distinct & movable):
                home = int(cell[k, 0])
                members = tuple(int(each) for each in chunks[k])
                known = [chosen.get(each) for each in members]
                if home in repeated or any(each is not None and set(each) != set(members) for each in known):
                    conflicts.add(home)
                elif any(each is None for each in known):
                    proposals.append((home, members))
            for home, members in proposals:
                if home not in conflicts and all(each not in chosen for each in members):
                    chosen.update(dict.fromkeys(members, members))
                elif home not in conflicts and any(set(chosen.get(each, members)) != set(members) for each in members):
                    conflicts.add(home)
            for home in sorted({int(each) for each in np.unique(cell[whole & movable])}):
                if home in repeated:
                    self._note(weight, "every channel comes several times in a row (a flattened map): it only follows")
                elif home in conflicts:
                    self._note(weight, f"its {unit}s cut across those of a larger weight: it only follows")
                else:
                    gaining.setdefault(home, []).append(weight)
            if (~whole & movable).any():
                self._note(weight, f"its channels fall into runs that are not multiples of {self.side.unit}")
        loose = {members for members in chosen.values() if pinned.intersection(members)}
        return {key: members for key, members in chosen.items() if members not in loose}, gaining

    def _blocks(self, sets: dict[int, tuple[int, ...]], gaining: dict[int, list[_Candidate]]) -> list[Block]:
        tables = [_Table(each, self.cells) for each in self._movers()]
        touching: dict[int, list[_Table]] = {}
        for table in tables:
            for home in table.homes:
                touching.setdefault(home, []).append(table)
        by_home: dict[int, list[tuple[int, ...]]] = {}
        for members in dict.fromkeys(sets.values()):
            by_home.setdefault(int(self.cells.cell[members[0]]), []).append(members)
        blocks = []
        for home, groups in by_home.items():
            weights = gaining.get(home, [])
            if not weights:
                continue
            if len(groups) < 2:
                one = f"a block of {self.side.unit} channels is one {self.side.unit_name}"
                for weight in weights:
                    self._note(weight, f"{one}: order makes no difference")
                continue
            leader = {int(each): k for k, each in reversed(list(enumerate(weights[0].classes.reshape(-1))))}
            groups.sort(key=lambda members: min(leader.get(each, 1 << 62) for each in members))
            classes = np.array([each for members in groups for each in members], dtype=np.int64)
            gains = {weight.key: weight for weight in weights}
            movements = tuple(self._movement(table, classes, gains) for table in touching[home] if table.holds(classes))
            blocks.append(Block(classes, movements))
        order = {weight.axis.name: k for k, weight in enumerate(self.candidates)}
        blocks.sort(key=lambda block: min(order.get(move.name, 1 << 62) for move in block.movements))
        return blocks

    def _movers(self) -> Iterable[tuple[Axis | Gather, Labels]]:
        return [
            *((axis, axis.labels) for axis in self.found.axes),
            *((each, each.labels) for each in self.found.gathers),
        ]

    def _movement(self, table: _Table, classes: Ints, gains: dict[tuple[str, tuple[int, ...]], _Candidate]) -> Movement:
        origin = table.origin
        positions = table.positions(classes)
        if isinstance(origin, Gather):
            role = "pointed" if origin.values else "index"
            return Movement(origin.module, role, origin.labels.shape, (0,), positions)
        weight = gains.get((origin.name, origin.axes))
        if weight is not None:
            return Movement(origin.name, self.side.role, origin.view, origin.axes, positions, weight.use.masks)
        return Movement(origin.name, self._role(origin), origin.view, origin.axes, positions)

    def _role(self, axis: Axis) -> str:
        for use in self.found.uses:
            if use.name == axis.name:
                return "carried" if _lies_on(axis, use.axis) else "producer"
        return "follower"

    def _note(self, weight: _Candidate, reason: str) -> None:
        self.notes.setdefault((weight.use.name, weight.use.axis), Counter())[reason] += 1

    def _why(self, use: Use) -> str:
        """Return the reason that says most about why a weight stays."""
        key = (use.name, use.axis)
        if key in self.refused:
            return self.refused[key]
        weight = next(each for each in self.candidates if (each.use.name, each.use.axis) == key)
        classes = weight.classes.reshape(-1)
        reasons = Counter(self.cells.reasons[int(each)] for each in classes if int(each) in self.cells.reasons)
        if key in self.notes and (not reasons or reasons.most_common(1)[0][1] < classes.size):
            return self.notes[key].most_common(1)[0][0]
        if reasons:
            return f"its channels are told apart by {reasons.most_common(1)[0][0]}"
        return f"its channels cannot be exchanged in whole {self.side.unit_name}s"


class _Table:
    """Positions of classes on one labelled axis."""

    def __init__(self, mover: tuple[Axis | Gather, Labels], cells: Cells) -> None:
        self.origin = mover[0]
        labels = mover[1]
        classes = cells.of(labels).reshape(-1)
        self.order = np.argsort(classes, kind="stable")
        self.sorted = classes[self.order]
        self.homes = np.unique(cells.cell[classes]).tolist()

    def holds(self, classes: Ints) -> bool:
        """Whether the axis has these classes: all of them, or none."""
        at = np.searchsorted(self.sorted, classes)
        present = self.sorted[np.minimum(at, self.sorted.size - 1)] == classes
        if present.any() != present.all():
            raise AssertionError(f"{self.origin}: an axis holds a part of a cell")
        return bool(present.all())

    def positions(self, classes: Ints) -> Ints:
        """Flat positions, (occurrences, classes)."""
        start = np.searchsorted(self.sorted, classes, side="left")
        stop = np.searchsorted(self.sorted, classes, side="right")
        counts = stop - start
        if (counts != counts[0]).any():
            raise AssertionError(f"{self.origin}: classes of one cell occur unequally often")
        found: Ints = self.order[start[None, :] + np.arange(int(counts[0]))[:, None]]
        return found


def _lies_on(axis: Axis, along: int | None) -> bool:
    """Whether labels lie on a weight's own axis."""
    if along is None or len(axis.axes) == 1:
        return axis.axes == (along,)
    # Of a grouped convolution (groups, k, c, ...), or transposed (groups, c, k, ...).
    return axis.axes == ((0, 2) if along == 1 else (0, 1))
