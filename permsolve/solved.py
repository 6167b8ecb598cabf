"""What `permsolve.solve_many` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from permsolve.dispatch import Failure
from permsolve.errors import InputError, SolverError
from permsolve.result import Result

#: Lines of a summary, and failures that an error names.
_LISTED = 8


class NoResultError(InputError, KeyError):
    """A name of `SolvedMany` without a result; it is a KeyError, too."""

    __str__ = Exception.__str__  # a KeyError shows the repr of its message


@dataclass(frozen=True, eq=False)
class SolvedMany(Mapping[str, Result]):
    """The results of many problems: a mapping from names to results, in the order of the problems.

    Parameters
    ----------
    results
        The result of each solved problem.
    failures
        Why a problem has no result, for each that failed.
    unfinished
        Names of the problems that were not solved because the call was stopped.
    stopped_by
        ``"interrupt"``, ``"callback"``, or None where all problems were tried.
    runtime
        Seconds of the call.
    """

    results: Mapping[str, Result]
    failures: Mapping[str, Failure]
    unfinished: tuple[str, ...]
    stopped_by: str | None
    runtime: float

    def __post_init__(self) -> None:
        """Make the mappings read-only."""
        for name in ("results", "failures"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getitem__(self, name: str) -> Result:
        """Return the result of a problem."""
        if name in self.results:
            return self.results[name]
        if name in self.failures:
            raise NoResultError(f"there is no result, the problem failed: {self.failures[name]}")
        if name in self.unfinished:
            raise NoResultError(f"problem {name!r} was not solved: the call was stopped by {self.stopped_by} before")
        known = [repr(each) for each in self.results]
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        raise NoResultError(f"no problem is called {name!r}; there are {', '.join(known[:_LISTED]) or 'none'}{more}")

    def __iter__(self) -> Iterator[str]:
        """Go over the names of the solved problems."""
        return iter(self.results)

    def __len__(self) -> int:
        """Return the number of solved problems."""
        return len(self.results)

    def raise_failures(self) -> None:
        """Do nothing if every problem was solved.

        Raises
        ------
        SolverError
            If problems failed or were not reached; it names them.
        """
        said = []
        if self.failures:
            shown = "; ".join(str(failure) for failure in list(self.failures.values())[:_LISTED])
            more = f"; and {len(self.failures) - _LISTED} more" if len(self.failures) > _LISTED else ""
            said.append(f"{len(self.failures)} of {self._total} problems failed: {shown}{more}")
        if self.unfinished:
            said.append(f"{len(self.unfinished)} of {self._total} problems were not solved before the call was stopped")
        if said:
            raise SolverError("; ".join(said))

    def summary(self) -> str:
        """Return a few lines for people.

        Returns
        -------
        str
            Counts, what was gained over all, the least and the most efficacy, and each failure.
        """
        counts = [f"{len(self.results)} of {self._total} problems solved in {self.runtime:.1f} s"]
        counts += [f"{len(self.failures)} failed"] if self.failures else []
        counts += [f"stopped by {self.stopped_by}"] if self.stopped_by else []
        lines = [", ".join(counts)]
        if self.results:
            found = {name: result.efficacy for name, result in self.results.items()}
            least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
            lines.append(f"efficacy    mean {sum(found.values()) / len(found):.2f} %")
            lines.append(f"            least {found[least]:.2f} % ({least}), most {found[most]:.2f} % ({most})")
        lines += [f"failed      {failure}" for failure in list(self.failures.values())[:_LISTED]]
        if len(self.failures) > _LISTED:
            lines.append(f"            and {len(self.failures) - _LISTED} more")
        return "\n".join(lines)

    @property
    def _total(self) -> int:
        return len(self.results) + len(self.failures) + len(self.unfinished)

    def __repr__(self) -> str:
        """Return a line that counts."""
        return (
            f"<SolvedMany: {len(self.results)} results, {len(self.failures)} failures, "
            f"{len(self.unfinished)} unfinished>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle plain dictionaries."""
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return state | {"results": dict(self.results), "failures": dict(self.failures)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the fields."""
        self.__dict__.update(state)
        self.__post_init__()
