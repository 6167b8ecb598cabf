"""Annealed assignment: one slot of every group refilled at once, with noise that cools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.search.start import allocate, starting_order
from permsolve.solver import Solver, Status, check_number, check_whole

#: Share of the schedule, at its end, that is free of noise.
COLD = 0.1
#: Rounds without noise and without change after which a search that has no limit ends.
PATIENCE = 30
#: Rounds between two offers while there is noise: scoring everything takes as long as a round.
OFFER_EVERY = 10


@dataclass(frozen=True)
class Assignment(Solver):
    """Free one random slot in every group and assign the freed columns anew, over and over, with noise that cools.

    Every round deals the groups at random into blocks. In each, one random slot of every group is freed and the freed
    columns are assigned to the free slots at best: a neighbourhood of k! permutations for k groups. With ``start > 0``
    the gains carry Gumbel noise that is cooled down, so that the assignment is a perturbed maximum (perturb-and-MAP)
    and the search an annealing of very large moves; the last tenth of the schedule, and all of it with ``start = 0``,
    takes improvements only. Assignments start from the prices that the columns had in earlier ones, which almost solves
    them; nearly all the time goes into gains, at about two thirds of the machine's vector peak.

    It starts from RIA's allocation unless an initial permutation is given. A problem that is streamed is read once in
    every round.

    A step that no limit interrupts is the assignment of one block: a few milliseconds, but up to a second where gains
    are nearly a sum over columns and slots, and more with larger blocks.

    Without a limit the schedule has ``seconds / cost`` rounds, with ``seconds = 0.7 * min(cols / 64, 60)`` and a
    modelled cost; without noise it ends sooner, after 30 rounds in a row that change nothing.

    Parameters
    ----------
    block
        Groups in a block, about. Larger ones find more for the same number of operations.
    start
        First noise, in units of the mean loss of a column that leaves its group over the root of the number of rows;
        0 for none. A gain is a sum over rows: that is the scale of what tells one place for a column from another.
    end
        Last noise.
    """

    source: ClassVar[str] = (
        "neighbourhood: Zhang et al. (RIA), ICLR 2024; noise: perturb-and-MAP, Papandreou and Yuille, ICCV 2011; "
        "assignments: Jonker and Volgenant, Computing 38, 1987, from warm prices"
    )
    unit: ClassVar[str] = "one round: every group refills a slot once"
    streams: ClassVar[bool] = True

    block: int = 512
    start: float = 0.12
    end: float = 0.03

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("block", self.block, least=2, most=4096)
        check_number("start", self.start, least=0.0, most=100.0)
        check_number("end", self.end, least=1e-9 if self.start else 0.0, most=self.start or 100.0)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Work through the schedule."""
        from permsolve.search.deals import Deals

        if run.initial is None:
            run.offer(allocate(problem))
        search = Deals(problem, run, starting_order(run), self.block)
        budget = max(int(run.effort * self._rounds(problem)), 1)
        unit = search.mean_loss / problem.rows**0.5
        done, idle, share = 0, 0, 0.0
        while share < 1.0:
            noise = self._noise(share)
            moved = search.round(unit * noise)
            done += 1
            going = run.proceed(1)
            if moved is not None and (noise == 0 or done % OFFER_EVERY == 0 or not going):
                run.offer(search.order)
            if not going:
                return Status.STOPPED
            limit = run.progress()
            share = done / budget if limit is None else limit
            idle = 0 if moved or noise > 0 else idle + 1
            if limit is None and idle >= PATIENCE:
                return Status.LOCAL_OPTIMUM
        return Status.COMPLETED

    def _noise(self, share: float) -> float:
        """Return the noise at a share of the schedule."""
        if self.start == 0 or share > 1 - COLD:
            return 0.0
        return float(self.start * (self.end / self.start) ** (share / (1 - COLD)))

    def _rounds(self, problem: Problem) -> int:
        """Return the number of rounds of the schedule without limits."""
        size = min(self.block, problem.groups)
        rows = problem.rows
        # Nanoseconds: of a group its gains, its thresholds, its share of the assignment; and what Python takes.
        cost = problem.groups * (size * rows / 25 + 0.3 * rows + 10.0 * size + 200.0) + 2e5
        return max(int(default_seconds(problem) * 1e9 / cost), 10)
