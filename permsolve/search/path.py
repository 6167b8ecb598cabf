"""From one permutation to another by exchanges: a short path, and exchanges that bring a score to a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.patterns import Permutation
from permsolve.problem import Problem

Array = npt.NDArray[Any]

#: Columns among which `approach` looks at all exchanges at once.
WINDOW = 256
#: Looks that `approach` takes at most.
LOOKS = 60


class Scored:
    """A permutation whose score follows exchanges: only the two groups that change are scored again, in float64.

    Parameters
    ----------
    problem
        The problem.
    order
        The permutation; copied.
    """

    def __init__(self, problem: Problem, order: Permutation) -> None:
        self.problem = problem
        self.order = order.copy()
        self._values = np.empty(problem.groups)
        self._rescore(0, problem.groups)

    @property
    def score(self) -> float:
        """The score."""
        return float(self._values.sum())

    def copy(self) -> Scored:
        """Return an independent copy.

        Returns
        -------
        Scored
            The copy.
        """
        twin = object.__new__(Scored)
        twin.problem, twin.order, twin._values = self.problem, self.order.copy(), self._values.copy()
        return twin

    def exchange(self, slot: int, other: int) -> None:
        """Let the columns in two slots trade places.

        Parameters
        ----------
        slot, other
            Positions in the permutation.
        """
        self.order[[slot, other]] = self.order[[other, slot]]
        m = self.problem.pattern.m
        for group in {slot // m, other // m}:
            self._rescore(group, group + 1)

    def _rescore(self, first: int, last: int) -> None:
        from permsolve.kernels.score import group_values

        n, m = self.problem.pattern.n, self.problem.pattern.m
        group_values(self.problem.columns, self.order[first * m : last * m], n, m, self._values[first:last])


def align(problem: Problem, target: Permutation) -> Permutation:
    """Write a permutation so that few columns are elsewhere than in the identity; its score stays the same.

    Groups are matched to the identity's by their overlap (a linear assignment in every block), and common members stay
    in their places.

    Parameters
    ----------
    problem
        The problem, with or without blocks.
    target
        The permutation.

    Returns
    -------
    numpy.ndarray
        int64 (cols,): the same groups in another order.
    """
    from scipy.optimize import linear_sum_assignment

    m = problem.pattern.m
    aligned = np.empty_like(target)
    for span, part in problem.parts():
        groups = (target[span] - span.start).reshape(-1, m)
        overlap = np.zeros((part.groups, part.groups))
        np.add.at(overlap, (groups // m, np.arange(part.groups)[:, None]), 1.0)
        _, matched = linear_sum_assignment(overlap, maximize=True)
        for group, members in enumerate(groups[matched]):
            slots = np.arange(group * m, (group + 1) * m)
            stays = np.isin(slots, members)
            slots[~stays] = np.setdiff1d(members, slots)
            aligned[span.start + group * m : span.start + (group + 1) * m] = span.start + slots
    return aligned


def walk(problem: Problem, target: Permutation) -> Iterator[Scored]:
    """Go from the identity to a permutation, one exchange at a time, completing group after group.

    Parameters
    ----------
    problem
        The problem.
    target
        Where to; fewer exchanges where it is aligned.

    Yields
    ------
    Scored
        The identity, then the state after every exchange: one object that changes.
    """
    state = Scored(problem, np.arange(problem.cols))
    where = np.arange(problem.cols)  # of every column, its slot
    yield state
    for slot, column in enumerate(target):
        other = int(where[column])
        if other != slot:
            where[state.order[slot]] = other
            state.exchange(slot, other)
            yield state


def approach(
    state: Scored, target: float, tolerance: float, rng: np.random.Generator, looks: int = LOOKS
) -> Permutation:
    """Bring a score close to a target by exchanges within blocks.

    Every look takes all exchanges among up to 256 columns of random groups and applies the one that comes closest; a
    look that does not help is followed by a random exchange. With more than a few dozen columns there are thousands of
    changes of score to choose from, and few looks are needed.

    Parameters
    ----------
    state
        Where to start; left as it is.
    target
        The score to come close to.
    tolerance
        Distance that is close enough.
    rng
        Chooses groups and random exchanges.
    looks
        How often to look at most.

    Returns
    -------
    numpy.ndarray
        int64 (cols,): the closest permutation found, the start at worst.
    """
    spans = [span for span, part in state.problem.parts() if part.groups > 1]
    best, stuck = state, False
    for _ in range(looks if spans else 0):
        if abs(best.score - target) <= tolerance:
            break
        trial = best.copy()
        slots = _some_slots(trial, spans, rng)
        if stuck:
            trial.exchange(*map(int, rng.choice(slots, 2, replace=False)))
        trial.exchange(*_closest(trial, slots, target - trial.score))
        stuck = abs(trial.score - target) >= abs(best.score - target)
        best = best if stuck else trial
    return best.order.copy()


def _some_slots(state: Scored, spans: list[slice], rng: np.random.Generator) -> Array:
    """Draw a block, in proportion to its size, and return the slots of up to `WINDOW` columns of its groups."""
    m = state.problem.pattern.m
    sizes = np.array([span.stop - span.start for span in spans])
    span = spans[int(rng.choice(len(spans), p=sizes / sizes.sum()))]
    groups = rng.permutation((span.stop - span.start) // m)[: max(WINDOW // m, 2)]
    return np.asarray(span.start + (np.sort(groups)[:, None] * m + np.arange(m)).ravel())


def _closest(state: Scored, slots: Array, wanted: float) -> tuple[int, int]:
    """Return the exchange of two slots in different groups whose change of score is closest to the wanted one."""
    from permsolve.kernels.gain import gain_block
    from permsolve.kernels.groups import make_state, refresh_all

    n, m = state.problem.pattern.n, state.problem.pattern.m
    window = make_state(state.problem.packed[state.order[slots]], n)
    members = np.arange(slots.size)
    refresh_all(window, members, m, n)
    gain = np.empty((slots.size, slots.size), dtype=np.float32)
    gain_block(window, members, members, gain)
    net = gain.astype(np.float64) - window.losses[:, None]
    distance = np.abs((net + net.T) * state.problem.scale - wanted)
    distance[members[:, None] // m == members // m] = np.inf
    one, two = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(slots[one]), int(slots[two])
