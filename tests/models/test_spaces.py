"""Atoms, ties and relations settle into cells: checked against all permutations of small systems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")  # the package imports it

from hypothesis import given
from hypothesis import strategies as st

from permsolve.models.spaces import Labels, Spaces


def cells_of(spaces: Spaces, labels: Labels) -> list[set[int]]:
    cells = spaces.settle()
    found: dict[int, set[int]] = {}
    for position, group in enumerate(cells.cell[cells.of(labels)].reshape(-1).tolist()):
        found.setdefault(group, set()).add(position)
    return sorted(found.values(), key=min)


def own(spaces: Spaces, size: int) -> Labels:
    labels = spaces.fresh((size,))
    spaces.relate([(labels, labels.positions())], "itself")
    return labels


def test_axes_of_their_own_never_mix() -> None:
    spaces = Spaces()
    one, other = own(spaces, 3), own(spaces, 2)
    assert cells_of(spaces, one) == [{0, 1, 2}]
    cells = spaces.settle()
    assert not set(cells.cell[cells.of(one)]) & set(cells.cell[cells.of(other)])


def test_a_slice_tells_inside_from_outside() -> None:
    spaces = Spaces()
    whole, part = own(spaces, 6), spaces.fresh((4,))
    spaces.relate([(whole, np.arange(1, 5)), (part, part.positions())], "slice")
    assert cells_of(spaces, whole) == [{0, 5}, {1, 2, 3, 4}]


def test_freezing_gives_a_reason() -> None:
    spaces = Spaces()
    labels = own(spaces, 4)
    spaces.freeze(labels, "because")
    assert cells_of(spaces, labels) == [{0}, {1}, {2}, {3}]
    cells = spaces.settle()
    assert {cells.reasons[int(each)] for each in cells.of(labels)} == {"because"}


def test_mirror_image_ties_pairs() -> None:
    """x + flip(x): position k moves with its mirror image, in the same way on both sides."""
    spaces = Spaces()
    labels = own(spaces, 6)
    spaces.relate([(labels, np.arange(6)), (labels, np.arange(6)[::-1].copy())], "sum with the mirror image")
    cells = spaces.settle()
    classes = cells.of(labels)
    assert np.array_equal(classes, classes[::-1])
    assert len(set(cells.cell[classes].tolist())) == 1


def test_occurrences_in_another_order_are_no_symmetry() -> None:
    """Channel 0 is copied as (first, second), channel 1 as (second, first): they may not change places."""
    spaces = Spaces()
    source, copy = own(spaces, 2), spaces.fresh((4,))
    twice = Labels(source.atoms[[0, 1, 1, 0]])
    spaces.relate([(source, np.array([0, 1, 1, 0])), (twice, np.arange(4))], "copies")
    spaces.relate([(twice, np.array([0, 2, 3, 1])), (copy, np.arange(4))], "a shuffle of the copies")
    spaces.relate([(copy, np.arange(4)), (copy, np.array([1, 0, 3, 2]))], "pairs")
    assert cells_of(spaces, source) in ([{0}, {1}], [{0, 1}])
    assert_sound(spaces, [source, twice, copy])


def assert_sound(spaces: Spaces, arrays: list[Labels]) -> None:
    """Every exchange of two classes of one cell maps each relation onto itself."""
    cells = spaces.settle()
    count = int(cells.cell.size)
    for a, b in itertools.combinations(range(count), 2):
        if cells.cell[a] != cells.cell[b]:
            continue
        moves = {id(labels): exchange(cells.of(labels).reshape(-1), a, b) for labels in arrays}
        for relation in spaces._relations:
            coordinates = relation.coordinates
            points = set()
            images = set()
            for k in range(relation.parts[0][1].size):
                extra = () if coordinates is None else (int(coordinates[k]),)
                points.add((*(int(at[k]) for _, at in relation.parts), *extra))
                images.add((*(int(moves[id(labels)][at[k]]) for labels, at in relation.parts), *extra))
            assert points == images, (a, b, relation.reason)


def exchange(classes: np.ndarray, a: int, b: int) -> np.ndarray:
    """Return where each position goes when two classes change places, occurrence by occurrence."""
    to = np.arange(classes.size)
    one, other = np.flatnonzero(classes == a), np.flatnonzero(classes == b)
    assert one.size == other.size
    to[one], to[other] = other, one
    return to


@st.composite
def systems(draw: st.DrawFn) -> tuple[Spaces, list[Labels]]:
    """A few arrays, some made of atoms of earlier ones, and relations at random."""
    spaces = Spaces()
    arrays = [own(spaces, draw(st.integers(2, 6)))]
    for _ in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(arrays))
        size = source.atoms.size
        kind = draw(st.sampled_from(["fresh", "part", "copy", "tie"]))
        if kind == "fresh":
            arrays.append(own(spaces, draw(st.integers(2, 6))))
            continue
        at = np.array(draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
        if kind == "tie":
            other = draw(st.sampled_from(arrays))
            to = np.array(draw(st.lists(st.integers(0, other.atoms.size - 1), min_size=at.size, max_size=at.size)))
            spaces.relate([(source, at), (other, to)], "tie")
            continue
        labels = Labels(source.atoms.reshape(-1)[at]) if kind == "copy" else spaces.fresh((at.size,))
        coordinates = np.array(draw(st.lists(st.integers(0, 1), min_size=at.size, max_size=at.size)))
        chosen = coordinates if draw(st.booleans()) else None
        spaces.relate([(source, at), (labels, np.arange(at.size))], kind, coordinates=chosen)
        spaces.relate([(labels, labels.positions())], "itself")
        arrays.append(labels)
    return spaces, arrays


@given(systems())
def test_every_exchange_within_a_cell_keeps_every_relation(system: tuple[Spaces, list[Labels]]) -> None:
    assert_sound(*system)
