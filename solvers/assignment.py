"""Repeated assignment: the Hungarian method as a very large neighbourhood, perturbed and cooled."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.search.slots import SlotAssignment
from permsolve.solver import Solver, Status, check_choice, check_number, check_whole

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Assignment(Solver):
    """Free one slot in every group of a block and assign the freed columns anew, over and over.

    Every round deals the groups at random into blocks, which are worked on side by side. In each block one slot of
    every group is freed and the freed columns are assigned by the Hungarian method: a neighbourhood of k! permutations
    for k groups. With ``start > 0`` the gains carry Gumbel noise that is cooled down, so that the assignment is a
    perturbed maximum (perturb-and-MAP) and the search an annealing of very large moves; the last tenth of the schedule,
    and all of it with ``start = 0``, accepts improvements only.

    Without a limit the schedule has ``seconds / cost`` rounds, with ``seconds = 0.7 * min(cols / 64, 60)`` and a
    modelled cost; without noise it ends sooner, after ``patience`` rounds in a row that change nothing.

    Parameters
    ----------
    block
        Most groups in a block. One assignment takes about 1 ms at 96 groups and 80 ms at 512, on one core.
    choice
        Which slot is freed: ``"random"``; ``"guided"``, that of the column its group would miss least; ``"mixed"``, one
        or the other, by a coin for every block.
    start
        First noise, in units of the mean loss of a column that leaves its group; 0 for none.
    end
        Last noise.
    patience
        Rounds without change, free of noise, after which the search ends where it has no limit.
    """

    source: ClassVar[str] = (
        "neighbourhood: Zhang et al. (RIA), ICLR 2024; noise: perturb-and-MAP, Papandreou and Yuille, ICCV 2011"
    )
    unit: ClassVar[str] = "one round: an assignment in every block"

    block: int = 128
    choice: str = "random"
    start: float = 0.015
    end: float = 0.002
    patience: int = 100

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("block", self.block, least=2, most=4096)
        check_choice("choice", self.choice, ("random", "guided", "mixed"))
        check_number("start", self.start, least=0.0, most=100.0)
        check_number("end", self.end, least=1e-9 if self.start else 0.0, most=self.start or 100.0)
        check_whole("patience", self.patience, least=1)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Work through the schedule."""
        search = SlotAssignment(problem, run.best)
        budget = max(int(run.effort * self._rounds(problem)), 1)
        unit = search.mean_loss
        done, idle, share = 0, 0, 0.0
        while share < 1.0:
            changed = self._round(search, run, unit * self._noise(share))
            run.offer(search.order)
            if not run.proceed(1):
                return Status.STOPPED
            done += 1
            limit = run.progress()
            share = done / budget if limit is None else limit
            idle = 0 if changed or self._noise(share) > 0 else idle + 1
            if limit is None and idle >= self.patience:
                return Status.LOCAL_OPTIMUM
        return Status.COMPLETED

    def _noise(self, share: float) -> float:
        """Return the noise at a share of the schedule."""
        if self.start == 0 or share > 0.9:
            return 0.0
        return float(self.start * (self.end / self.start) ** (share / 0.9))

    def _round(self, search: SlotAssignment, run: Run, noise: float) -> bool:
        """Run one step in every block; return whether any changed something."""
        groups = run.rng.permutation(len(search.members))
        blocks = np.array_split(groups, -(-len(groups) // self.block))
        tasks = [_Task(block, int(run.rng.integers(2**63)), noise) for block in blocks if len(block) > 1]
        deadline = time.perf_counter() + run.remaining()

        def work(task: _Task) -> bool:
            if time.perf_counter() >= deadline:
                return False
            rng = np.random.default_rng(task.seed)
            size = len(task.groups)
            guided = self.choice == "guided" or (self.choice == "mixed" and rng.random() < 0.5)
            slots = search.least_lost(task.groups) if guided else rng.integers(search.m, size=size)
            perturbation = task.noise * rng.gumbel(size=(size, size)) if task.noise > 0 else None
            return search.step(task.groups, slots, perturbation)

        return any(run.map(work, tasks))

    def _rounds(self, problem: Problem) -> int:
        """Return the number of rounds of the schedule without limits."""
        size = min(self.block, problem.groups)
        # Nanoseconds: gains, assignment, and what Python takes for a block.
        cost = problem.groups * (size * problem.packed.shape[1] / 15 + 60.0 * size + 6e4 / size)
        return max(int(default_seconds(problem) * 1e9 / cost), 10)


class _Task(NamedTuple):
    groups: Array
    seed: int
    noise: float
