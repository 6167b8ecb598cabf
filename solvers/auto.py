"""The method to take without thinking: a portfolio chosen by size and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from permsolve.partition import subsets
from permsolve.partition.master import build_seconds
from permsolve.partition.values import storable
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.search.start import allocate
from permsolve.solver import Solver, Status
from permsolve.solvers.annealing import Annealing, proposal_cost
from permsolve.solvers.joint import Joint

#: Share of the time that enumeration and linear program may take, and modelled seconds of a node of branch and bound,
#: for the schedule without limits.
LP_SHARE, NODE_SECONDS = 0.35, 4e-6
#: Columns up to which annealing by exchanges is best, and up to which it still adds something to assignments.
NARROW, MEDIUM = 128, 512
#: Where the annealings of HiNM begin, see `Joint`, and their shares of the time: alone, and before ``tilewise``.
ANNEALINGS = ((0.8, 0.3), (0.6, 0.3), (0.4, 0.3))
BEFORE_TILEWISE = ((0.8, 0.3), (0.5, 0.2))
#: How often the linear programs of all tiles must fit into the time that ``tilewise`` gets.
TILEWISE_TIMES = 2.0
#: Modelled proposals of annealing per pair of columns from which it can afford to start warm.
PLENTY_OF_PROPOSALS = 10_000


class _Stage(NamedTuple):
    share: float
    solver: Solver


@dataclass(frozen=True)
class Auto(Solver):
    """Pick and chain methods by the problem's size and the time.

    Where all groups can be enumerated (168 columns for m = 4) and the time does for their linear program, ``exact``: a
    short annealing, then large neighbourhood search and branch and bound by turns, until the optimum is proved or the
    time is over. With less time, or up to 128 columns, annealing by exchanges. Wider problems get annealed assignments,
    followed by annealing that starts cold for the last quarter of the time up to 512 columns. It uses all the time it
    is given, unless the optimum is proved. Without a limit the stages share a schedule of ``0.7 * min(cols / 64, 60)``
    modelled seconds of one core: 0.7 s at 64 columns, at most 42 s. Under an iteration limit it is annealing alone;
    where the matrix is streamed, assignments, and on a GPU annealing, whatever the size. For the output error it is
    ``exact`` or annealing: assignments need a saliency that adds up entry by entry.

    Patterns that permute rows get ``joint``, after ``gyro`` (HiNM) or ``alternating`` (V:N:M) for a moment; HiNM gets
    it three times, from falling temperatures, or twice and then ``tilewise`` where a tile's groups can be enumerated
    and the time does for that. Under an iteration limit and for transposable patterns it is ``joint`` alone.
    """

    source: ClassVar[str] = "ours: the stages' docstrings name their sources"
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    unit: ClassVar[str] = "one iteration of the stage that is running; under an iteration limit, one proposed exchange"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    patterns: ClassVar[tuple[str, ...]] = ("nm", "hinm", "vnm", "transposable")
    streams: ClassVar[bool] = True

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Run the stages one after the other."""
        if problem.pattern.moves_rows:
            return self._rows_and_columns(problem, run)
        if run.device != "cpu":
            return Annealing()(problem, run)
        if problem.cols > NARROW and run.initial is None:
            run.offer(allocate(problem))
        if problem.streamed:
            from permsolve.solvers.assignment import Assignment

            return Assignment()(problem, run)  # a round is one pass over the matrix
        if self._enumerable(problem, run):
            return self._exact(problem, run)
        seconds = min(run.remaining(), 1e9) if run.timed else default_seconds(problem)
        stages = _stages(problem, seconds * run.n_jobs if run.timed else seconds)
        if run.iterations_left() < float("inf") or problem.objective != "retained":
            # Iterations of different methods cannot be added up, and assignments know retained saliency only.
            stages = [_Stage(1.0, Annealing())]
        return self._chain(stages, problem, run)

    def _rows_and_columns(self, problem: Problem, run: Run) -> Status:
        """Let the published method find where to begin; anneal from ever lower temperatures."""
        if run.iterations_left() < float("inf") or problem.pattern.kind == "transposable":
            return Joint()(problem, run)
        from permsolve.solvers.alternating import Alternating
        from permsolve.solvers.gyro import Gyro

        if problem.pattern.kind == "vnm":
            return self._chain([_Stage(0.15, Alternating()), _Stage(0.85, Joint())], problem, run)
        return self._chain([_Stage(0.1, Gyro()), *_after_gyro(problem, run)], problem, run)

    def _chain(self, stages: list[_Stage], problem: Problem, run: Run) -> Status:
        """Run the stages one after the other; what one leaves of its time goes to the next."""
        left = 1.0
        status = Status.COMPLETED
        for stage in stages:
            share = stage.share / left
            left -= stage.share
            inner = run.within(
                seconds=run.remaining() * share, iterations=run.iterations_left() * share, effort=stage.share
            )
            status = stage.solver(problem, inner)
            if not run.proceed():
                return Status.STOPPED
        return Status.COMPLETED if status is Status.STOPPED else status

    def _enumerable(self, problem: Problem, run: Run) -> bool:
        """Return whether the linear program over all groups is within reach."""
        if not storable(problem.cols, problem.pattern.m) or run.iterations_left() < float("inf"):
            return False
        if subsets.suits(problem.cols):
            return True
        seconds = build_seconds(
            problem.rows * problem.row_cost, problem.cols, problem.pattern.m, run.n_jobs if run.timed else 1
        )
        return seconds < LP_SHARE * (run.remaining() if run.timed else 2 * default_seconds(problem))

    def _exact(self, problem: Problem, run: Run) -> Status:
        """Search and prove by turns; without a limit, for a fixed number of nodes."""
        from permsolve.solvers.exact import WARM_START, Exact

        if run.timed:
            return Exact()(problem, run)
        nodes = run.effort * default_seconds(problem) / NODE_SECONDS
        Annealing(reheats=0)(problem, run.within(effort=WARM_START, counts=False))  # exact has none where nodes count
        status = Exact()(problem, run.within(iterations=nodes))
        return Status.COMPLETED if status is Status.STOPPED else status

    def warm_up(self, problem: Problem) -> None:
        """Compile what the stages use; which of them run depends on the time."""
        if problem.pattern.moves_rows:
            self._warm_up_rows(problem)
            return
        Annealing().warm_up(problem)
        if storable(problem.cols, problem.pattern.m):
            from permsolve.solvers.exact import Exact

            Exact().warm_up(problem)
        if problem.cols > NARROW and problem.objective == "retained":
            from permsolve.solvers.assignment import Assignment

            Assignment().warm_up(problem)

    def _warm_up_rows(self, problem: Problem) -> None:
        from permsolve.solvers.alternating import Alternating
        from permsolve.solvers.gyro import Gyro
        from permsolve.solvers.tilewise import Tilewise

        Joint().warm_up(problem)
        for solver in (Gyro(), Alternating(), Tilewise()):
            if problem.pattern.kind in solver.patterns:
                solver.warm_up(problem)


def _after_gyro(problem: Problem, run: Run) -> list[_Stage]:
    """Return the stages of HiNM after its published method."""
    from permsolve.solvers.tilewise import Tilewise, prepare_seconds

    annealings: tuple[tuple[float, float], ...] = ANNEALINGS
    polish = 0.0
    seconds = prepare_seconds(problem)
    if run.timed and seconds is not None:
        last = 0.9 - sum(share for _, share in BEFORE_TILEWISE)
        if TILEWISE_TIMES * seconds < last * run.remaining() * run.n_jobs:
            annealings, polish = BEFORE_TILEWISE, last
    stages = [_Stage(share, Joint(start=start)) for start, share in annealings]
    return [*stages, _Stage(polish, Tilewise())] if polish else stages


def _stages(problem: Problem, core_seconds: float) -> list[_Stage]:
    if problem.cols <= NARROW:
        proposals = core_seconds * 1e9 / proposal_cost(problem)
        patient = proposals >= PLENTY_OF_PROPOSALS * problem.cols**2 / 2
        return [_Stage(1.0, Annealing() if patient else Annealing(start=0.055))]
    from permsolve.solvers.assignment import Assignment

    if problem.cols > MEDIUM:
        return [_Stage(1.0, Assignment())]
    return [_Stage(0.75, Assignment()), _Stage(0.25, Annealing(start=0.026, reheats=0))]
