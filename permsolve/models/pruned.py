"""What pruning did to a model, as data and as text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from permsolve.errors import InputError
from permsolve.patterns import Pattern

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class PrunedWeight:
    """What became of one weight.

    Parameters
    ----------
    name
        Its path: module and attribute.
    shape
        Its shape.
    nonzero
        Entries that are not zero.
    masked
        True where a mask holds the pruned entries at zero, False where zeros were written into the parameter.
    solution
        The pattern's solution that the weight, as a matrix of output by input channels, is pruned under: for HiNM it
        holds the columns that each tile keeps. None for plain n:m, where nothing is to be said.
    error
        Where the kept weights were fitted: mean squared error of the layer on the calibration inputs, relative to the
        mean square of its target, taken about its mean where a bias was fitted, too. Else None.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    masked: bool
    solution: Any = field(default=None, repr=False, hash=False)
    error: float | None = None

    @property
    def parameters(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def density(self) -> float:
        """Share of the entries that are not zero."""
        return self.nonzero / self.parameters


@dataclass(frozen=True)
class Pruned:
    """What `prune_` did; iterating over it gives the names of the pruned weights.

    Parameters
    ----------
    nm
        The pattern.
    saliency
        Name of the saliency.
    weights
        The pruned weights.
    left_out
        For every other weight: why it was left alone.
    """

    nm: Pattern
    saliency: str
    weights: tuple[PrunedWeight, ...]
    left_out: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the pruned weights."""
        return tuple(weight.name for weight in self.weights)

    def __getitem__(self, name: str) -> PrunedWeight:
        """Return a pruned weight by its path."""
        for weight in self.weights:
            if weight.name == name:
                return weight
        known = ", ".join(repr(weight.name) for weight in self.weights[:8])
        raise InputError(f"{name!r} was not pruned; {self.left_out.get(name, f'pruned were {known}')}")

    @property
    def density(self) -> float:
        """Share of the pruned weights' entries that are not zero."""
        return sum(weight.nonzero for weight in self.weights) / sum(weight.parameters for weight in self.weights)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return how many weights were pruned."""
        return len(self.weights)

    def __str__(self) -> str:
        """Return the table as text."""
        return as_text(self.table(), self.left_out)

    def table(self) -> Table:
        """Make the table for a terminal.

        Returns
        -------
        rich.table.Table
            One row per pruned weight, and their total.
        """
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column(f"pruned to {self.nm}")
        for heading in ("shape", "parameters", "density %"):
            table.add_column(heading, justify="right")
        table.add_column("by")
        fitted = any(weight.error is not None for weight in self.weights)
        if fitted:
            table.add_column("error %", justify="right")
        for weight in self.weights:
            shape = " x ".join(map(str, weight.shape))
            kind = "mask" if weight.masked else "zeros"
            error = [] if not fitted else ["" if weight.error is None else f"{100 * weight.error:.3g}"]
            table.add_row(weight.name, shape, f"{weight.parameters:,}", f"{100 * weight.density:.2f}", kind, *error)
        total = sum(weight.parameters for weight in self.weights)
        table.add_row(f"total of {len(self)}", "", f"{total:,}", f"{100 * self.density:.2f}", "")
        return table


def as_text(table: Table, left_out: dict[str, str]) -> str:
    """Return a table as plain text.

    Parameters
    ----------
    table
        The table.
    left_out
        Names of weights that are not in it, and why; listed below it.

    Returns
    -------
    str
        Lines without styles or trailing blanks.
    """
    from rich.console import Console

    # Wide enough for any name: a line that is cut off tells nothing.
    console = Console(file=io.StringIO(), width=1000, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    if left_out:
        lines += ["", "left out:"]
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  {', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)


def first_few(reasons: dict[str, str]) -> str:
    """Return the first of some weights and reasons, as the end of an error's message.

    Parameters
    ----------
    reasons
        Names of weights, and what is wrong with them.

    Returns
    -------
    str
        Empty if there are none.
    """
    return "".join(f"; {name}: {reason}" for name, reason in list(reasons.items())[:3])
