"""What a method is: the base class of every solver."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from permsolve.errors import OptionError

if TYPE_CHECKING:
    from permsolve.problem import Problem
    from permsolve.run import Run


class Status(enum.Enum):
    """How a solve ended."""

    #: The incumbent is proved best: its gap is at most 1e-9.
    OPTIMAL = "optimal"
    #: No move of the method's neighbourhood improves the incumbent.
    LOCAL_OPTIMUM = "local optimum"
    #: The method's schedule came to its end.
    COMPLETED = "completed"
    #: A stop criterion, a callback or an interrupt ended the solve.
    STOPPED = "stopped"


@dataclass(frozen=True)
class Solver(ABC):
    """A method: a frozen dataclass whose fields are its options.

    Subclasses validate their options in ``__post_init__`` (raising `OptionError`), name their source and their unit of
    iteration, and implement ``__call__``.
    """

    #: Where the method comes from: publication, year, identifier.
    source: ClassVar[str] = ""
    #: What one iteration is.
    unit: ClassVar[str] = "step"
    #: Kinds of devices it runs on: ``"cpu"``, ``"cuda"``. The run says which one is meant (``run.device``).
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    #: Kinds of patterns it searches (`Pattern.kind`).
    patterns: ClassVar[tuple[str, ...]] = ("nm",)
    #: Objectives it searches (`Problem.objective`): ``"retained"``, saliency that adds up entry by entry, and perhaps
    #: ``"output_error"``, which does not.
    objectives: ClassVar[tuple[str, ...]] = ("retained",)
    #: Whether it can do without the matrix in memory: it reads nothing of the problem but `Problem.chunks`.
    streams: ClassVar[bool] = False

    def refusal(self, problem: Problem) -> str | None:
        """Say why a problem cannot be solved by this method, or None if it can.

        That is decided by `patterns`, `objectives` and `supports`.

        Parameters
        ----------
        problem
            The problem, without blocks.

        Returns
        -------
        str or None
            The reason, or None.
        """
        if problem.pattern.kind not in self.patterns:
            return f"it does not search patterns like {problem.pattern}, only those of kind {', '.join(self.patterns)}"
        if problem.objective not in self.objectives:
            return f"it needs a saliency that adds up entry by entry, and {problem.objective!r} does not"
        return self.supports(problem)

    def supports(self, problem: Problem) -> str | None:
        """Say why a problem of one of the method's patterns cannot be solved, or None if it can.

        Parameters
        ----------
        problem
            The problem, without blocks where they are independent.

        Returns
        -------
        str or None
            The reason, or None.
        """
        return None

    @abstractmethod
    def __call__(self, problem: Problem, run: Run) -> Status:
        """Search until done or until ``run.proceed()`` says no.

        Parameters
        ----------
        problem
            The problem, without blocks.
        run
            Takes offers of permutations and bounds, and holds generator, threads and limits.

        Returns
        -------
        Status
            How the search ended.
        """

    def warm_up(self, problem: Problem) -> None:
        """Compile, or load from disk, what a solve will use, so that no time limit pays for it.

        By default the solver runs once on a corner of the problem (`Problem.sample`).

        Parameters
        ----------
        problem
            The problem about to be solved, of at least two groups.
        """
        import numpy as np

        from permsolve.run import Run
        from permsolve.stop import MaxIterations

        sample = problem.sample()
        run = Run(sample, stop=MaxIterations(2), rng=np.random.default_rng(0))
        run.open()
        self(sample, run)

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of the options.

        Returns
        -------
        tuple
            Names, in the order of definition.
        """
        return tuple(field.name for field in fields(cls))

    @property
    def options(self) -> dict[str, Any]:
        """The options and their values."""
        return {name: getattr(self, name) for name in self.option_names()}


def check_whole(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise `OptionError` unless an option is a whole number in a range.

    Parameters
    ----------
    name
        Name of the option.
    value
        Its value.
    least
        Smallest allowed value.
    most
        Largest allowed value, or None.

    Raises
    ------
    OptionError
        If it is not.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not good or (most is not None and isinstance(value, int) and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise OptionError(f"option {name} = {value!r} must be a whole number {span}")


def check_number(name: str, value: object, *, least: float, most: float) -> None:
    """Raise `OptionError` unless an option is a number in a range.

    Parameters
    ----------
    name
        Name of the option.
    value
        Its value.
    least
        Smallest allowed value.
    most
        Largest allowed value.

    Raises
    ------
    OptionError
        If it is not.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not isinstance(value, (int, float)) or not least <= value <= most:
        raise OptionError(f"option {name} = {value!r} must be a number from {least:g} to {most:g}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `OptionError` unless an option is one of a few words.

    Parameters
    ----------
    name
        Name of the option.
    value
        Its value.
    choices
        Allowed values.

    Raises
    ------
    OptionError
        If it is not.
    """
    if value not in choices:
        raise OptionError(f"option {name} = {value!r} must be one of {', '.join(choices)}")
