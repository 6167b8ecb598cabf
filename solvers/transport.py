"""A learned permutation by differentiable matching, with the retained saliency as its loss."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_choice, check_number, check_whole

if importlib.util.find_spec("torch") is None:  # found out without importing it, which takes seconds
    raise ModuleNotFoundError("No module named 'torch'", name="torch")

#: Steps between two hardenings, whose permutations are offered.
EVERY = 10
#: The best of a handful of schedules; smoother than for the outputs of networks.
SCHEDULE: dict[str, Any] = {"epsilons": (1.0, 0.03), "noise": 0.1, "lead": 0.1}


@dataclass(frozen=True)
class Transport(Solver):
    """Learn a cost matrix; entropic optimal transport under it is a relaxed permutation that sharpens as epsilon falls.

    As published there is no hard step in training: the loss, minus the n largest of every m mixed columns, is that of
    the relaxed permutation, and an assignment ends the schedule. Channels stay in one of ``groups`` groups of
    consecutive columns. The published loss is of a whole model (`permsolve.models.Plan.learn`). Ours: every ten steps
    the permutation is hardened, and the best of every group of columns is kept.

    Where a score is all that counts it is no match for a search (on uniform noise of 128 x 64 an efficacy of 9 to 11,
    `ria` 28, `annealing` 39).

    Without a limit there are ``steps`` steps; with one, the schedule follows it. It runs on one thread.

    Parameters
    ----------
    groups
        Number of groups of columns that no column leaves.
    steps
        Steps of the schedule that nothing limits.
    lr
        Learning rate at the beginning, with AdamW; it falls along a cosine.
    start
        ``"random"``: small random costs. ``"identity"``: costs that begin at the columns as they are. ``"annealing"``
        (ours): at the outcome of a short annealing. An initial permutation that the user gives takes the place of all
        three.
    """

    source: ClassVar[str] = "Li et al., Learnable Permutation for Structured Sparsity, 2026, arXiv 2601.22980"
    unit: ClassVar[str] = "one gradient step"
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")

    groups: int = 4
    steps: int = 100
    lr: float = 0.05
    start: str = "random"

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("groups", self.groups, least=1, most=4096)
        check_whole("steps", self.steps, least=1)
        check_number("lr", self.lr, least=1e-6, most=10.0)
        check_choice("start", self.start, ("random", "identity", "annealing"))

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Learn until the schedule or a limit ends."""
        from permsolve.learning.matrix import learn_matrix
        from permsolve.learning.sites import TransportSite, block_size

        size = block_size(problem.cols, problem.pattern.m, groups=self.groups)
        return learn_matrix(
            problem,
            run,
            lambda order, generator, near: TransportSite(order, None, size, generator, near=near, **SCHEDULE),
            steps=self.steps,
            start=self.start,
            lr=self.lr,
            straight=False,
            every=EVERY,
        )
