"""PermLLM's learned permutation, with the retained saliency as its loss."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_choice, check_number, check_whole

if importlib.util.find_spec("torch") is None:  # found out without importing it, which takes seconds
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


@dataclass(frozen=True)
class Sinkhorn(Solver):
    """Learn logits; Sinkhorn's normalisation makes them a relaxed permutation, an assignment makes that a hard one.

    The relaxation, its temperatures, its initial values and the optimiser are those published (AdamW, weight decay 0.1,
    a rate that falls along a cosine); a channel stays in its block of ``block`` consecutive columns. The
    published loss is of a whole model's output, which is `permsolve.models.Plan.learn`; here it is minus the retained
    saliency, or the output error where that is the problem's objective. Gradients go straight through the assignment,
    and through a softmax in place of the choice within each group. The best iterate of every block is kept.

    Where a score is all that counts it is no match for a search: straight-through gradients favour the columns that a
    slot holds already (on uniform noise of 128 x 64 an efficacy of 10 to 13, `ria` 28, `annealing` 39).

    Without a limit there are ``steps`` steps; with one, the schedule follows it. It runs on one thread.

    Parameters
    ----------
    block
        Columns of a block, rounded up to a multiple of m.
    steps
        Steps of the schedule that nothing limits.
    lr
        Learning rate at the beginning. The published 0.001 and 0.005 are for thousands of steps.
    start
        ``"random"``, as published: small random logits, a random permutation within blocks. ``"identity"``: logits that
        begin at the columns as they are. ``"annealing"`` (ours): at the outcome of a short annealing, whose groups are
        dealt into blocks. An initial permutation that the user gives takes the place of all three.
    """

    source: ClassVar[str] = "Zou et al., PermLLM, NeurIPS 2025, arXiv 2510.10136"
    unit: ClassVar[str] = "one gradient step"
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")

    block: int = 64
    steps: int = 100
    lr: float = 0.02
    start: str = "random"

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("block", self.block, least=2, most=4096)
        check_whole("steps", self.steps, least=1)
        check_number("lr", self.lr, least=1e-6, most=10.0)
        check_choice("start", self.start, ("random", "identity", "annealing"))

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Learn until the schedule or a limit ends."""
        from permsolve.learning.matrix import learn_matrix
        from permsolve.learning.sites import SinkhornSite, block_size

        size = block_size(problem.cols, problem.pattern.m, block=self.block)
        return learn_matrix(
            problem,
            run,
            lambda order, generator, near: SinkhornSite(order, None, size, generator, near=near),
            steps=self.steps,
            start=self.start,
            lr=self.lr,
            straight=True,
            every=1,
        )
