"""What `sparsify_` did to a model, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from permsolve.errors import InputError
from permsolve.models.pruned import as_text
from permsolve.patterns import Pattern

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class SparseWeight:
    """What became of one weight.

    Parameters
    ----------
    name
        Its path: module and attribute.
    shape
        Its shape.
    dense_bytes
        Bytes of the dense weight.
    bytes
        Bytes of the compressed one.
    permuted
        Whether its index or its rows are in another order than the weight.
    """

    name: str
    shape: tuple[int, ...]
    dense_bytes: int
    bytes: int
    permuted: bool

    @property
    def ratio(self) -> float:
        """Bytes of the compressed weight over those of the dense one."""
        return self.bytes / self.dense_bytes


@dataclass(frozen=True)
class Sparsified:
    """What `sparsify_` did; iterating over it gives the names of the compressed weights.

    Parameters
    ----------
    nm
        The pattern.
    weights
        The compressed weights.
    left_out
        For every other weight: why it was left alone.
    folded
        Modules whose index (``channel_order``) was taken into the index of the layers that read them.
    """

    nm: Pattern
    weights: tuple[SparseWeight, ...]
    left_out: dict[str, str]
    folded: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the compressed weights."""
        return tuple(weight.name for weight in self.weights)

    @property
    def dense_bytes(self) -> int:
        """Bytes that the compressed weights had."""
        return sum(weight.dense_bytes for weight in self.weights)

    @property
    def bytes(self) -> int:
        """Bytes that they have."""
        return sum(weight.bytes for weight in self.weights)

    def __getitem__(self, name: str) -> SparseWeight:
        """Return a compressed weight by its path."""
        for weight in self.weights:
            if weight.name == name:
                return weight
        known = ", ".join(repr(weight.name) for weight in self.weights[:8])
        raise InputError(f"{name!r} was not compressed; {self.left_out.get(name, f'compressed were {known}')}")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return how many weights were compressed."""
        return len(self.weights)

    def __str__(self) -> str:
        """Return the table as text."""
        return as_text(self.table(), self.left_out)

    def table(self) -> Table:
        """Make the table for a terminal.

        Returns
        -------
        rich.table.Table
            One row per compressed weight, and their total.
        """
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column(f"compressed {self.nm}")
        for heading in ("shape", "dense bytes", "bytes", "%"):
            table.add_column(heading, justify="right")
        table.add_column("order")
        for weight in self.weights:
            sizes = (f"{weight.dense_bytes:,}", f"{weight.bytes:,}", f"{100 * weight.ratio:.1f}")
            order = "permuted" if weight.permuted else "its own"
            table.add_row(weight.name, " x ".join(map(str, weight.shape)), *sizes, order)
        share = 100 * self.bytes / self.dense_bytes
        table.add_row(f"total of {len(self)}", "", f"{self.dense_bytes:,}", f"{self.bytes:,}", f"{share:.1f}", "")
        return table
