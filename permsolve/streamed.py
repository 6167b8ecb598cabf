"""Problems that do not fit into memory: the matrix is read anew, block by block, whenever all of it is needed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import scoring
from permsolve._arrays import aligned, channels_last
from permsolve.errors import InputError
from permsolve.objectives import OutputError
from permsolve.patterns import NM, Permutation, parse
from permsolve.problem import Problem, rule_of
from permsolve.sources import LANES, Rule, Source, check_saliency, raw_bytes

Array = npt.NDArray[Any]

#: Share of the machine's memory that a problem may take where no limit is given.
SHARE = 0.7
#: Bytes besides the saliency: blocks that are read, in several forms, and the work space of blocks of groups.
OVERHEAD = 100_000_000
#: Bytes per weight of a problem of the output error: weights, energies, what the search works on, and a copy.
ERROR_BYTES = 24
#: Rows of the sample that kernels are compiled with.
SAMPLE_ROWS = 16

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def memory_in_bytes(limit: object) -> int:
    """Return a memory limit in bytes.

    Parameters
    ----------
    limit
        Bytes, or a string such as ``"2 GB"`` or ``"512MiB"``; None for 70 % of the machine's memory.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if limit is None:
        return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if isinstance(limit, (int, np.integer)) and not isinstance(limit, bool) and limit > 0:
        return int(limit)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", limit.lower()) if isinstance(limit, str) else None
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise InputError(f"memory_limit = {limit!r} must be a number of bytes or a string such as '2 GB' or '512 MiB'")
    return int(float(match[1]) * _UNITS[match[2]])


def open_problem(matrix: object, nm: object, saliency: object, blocks: Any, limit: object) -> Problem:
    """Make the problem of a matrix in memory, or streamed where it would take more than it may.

    Parameters
    ----------
    matrix, nm, saliency, blocks
        As in `Problem.of`.
    limit
        As in `memory_in_bytes`.

    Returns
    -------
    Problem
        The problem.

    Raises
    ------
    InputError
        If anything does not fit.
    """
    allowed = memory_in_bytes(limit)
    source = Source(matrix)
    if isinstance(saliency, OutputError):
        needed = OVERHEAD + source.rows * source.shape[1] * ERROR_BYTES + 2 * saliency.channel_moments.nbytes
        if needed > allowed:
            raise InputError(
                f"the problem of the output error takes about {needed:.3g} bytes, memory_limit allows {allowed:.3g}: "
                f"it cannot be streamed; raise the limit, or use a saliency"
            )
        return Problem.of(matrix, nm, saliency=saliency, blocks=blocks)
    rule = rule_of(source, saliency, whole=False)[1]
    first = slice(0, 1)
    wide = rule is not None and rule(first, source.read(first)[1]).dtype == np.float64
    needed = OVERHEAD + source.rows * source.shape[1] * (12 if wide else 4 if blocks is None else 8)
    if needed <= allowed:
        return Problem.of(matrix, nm, saliency=saliency, blocks=blocks)
    return Streamed.open(source, nm, saliency, blocks, needed, allowed)


@dataclass(frozen=True, eq=False)
class Streamed(Problem):
    """A problem whose saliency is made from its source, a block of rows at a time, in every pass over it.

    It has no ``columns`` and no ``packed``. Make one with `open_problem`.

    Parameters
    ----------
    source
        The weights.
    rule
        Gives the saliency of a block.
    baseline_values
        Values of the groups of the identity, float64 (groups,).
    sums
        The sum of each column, float64 (cols,).
    ceilings
        The (n + 1)-th largest entry of every row, (rows,): see `Problem.packed`.
    bound
        The rows bound.
    """

    source: Source = field(kw_only=True)
    rule: Rule = field(kw_only=True)
    baseline_values: Array = field(kw_only=True)
    sums: Array = field(kw_only=True)
    ceilings: Array = field(kw_only=True)
    bound: float = field(kw_only=True)

    @classmethod
    def open(cls, source: Source, nm: object, saliency: object, blocks: object, needed: int, allowed: int) -> Streamed:
        """Read a matrix once: check it, and compute what needs no permutation.

        Parameters
        ----------
        source
            The weights.
        nm, saliency
            As in `Problem.of`.
        blocks
            Must be None.
        needed, allowed
            Bytes that the problem would take in memory, and may take.

        Returns
        -------
        Streamed
            The problem.

        Raises
        ------
        InputError
            If anything does not fit, or the problem cannot be streamed.
        """
        pattern = parse(nm)
        pattern.validate((source.rows, source.shape[1]))
        name, rule = rule_of(source, saliency, whole=False)
        what = f"the problem takes {needed / 1e9:.3g} GB of memory, memory_limit allows {allowed / 1e9:.3g} GB"
        if not isinstance(pattern, NM):
            raise InputError(f"{what}, and {pattern} needs the matrix in memory: raise the limit")
        if rule is None:
            raise InputError(f"{what}, and saliency {name!r} looks at the whole matrix: raise the limit")
        if blocks is not None:
            raise InputError(f"{what}, and blocks cannot be streamed: raise the limit, or solve the blocks one by one")
        if allowed < OVERHEAD:
            raise InputError(f"{what}; streaming it takes {OVERHEAD / 1e9:.3g} GB still: raise the limit")
        digest, bound = hashlib.sha256(), 0.0
        values, sums = np.zeros(source.shape[1] // pattern.m), np.zeros(source.shape[1])
        everything, ceilings = np.arange(source.shape[1]), []
        rank = source.shape[1] - pattern.n - 1
        for part in source.parts():
            raw, weights = source.read(part)
            digest.update(raw_bytes(raw))
            if not np.isfinite(weights).all():
                raise InputError(
                    f"the matrix holds NaN or infinite entries in rows {part.start} to {part.stop - 1}; "
                    f"repair them first, for example with numpy.nan_to_num"
                )
            block = channels_last(rule(part, weights))
            check_saliency(block, f"saliency {name!r}")
            ceilings.append(np.partition(block, rank, axis=1)[:, rank])
            sums += block.sum(axis=0, dtype=np.float64)
            values += scoring.group_values(block, everything, pattern.n, pattern.m)
            bound += pattern.rows_bound(block)
            source.release()
        with np.errstate(over="ignore"):
            total = sums.sum()
        if not np.isfinite(total):
            raise InputError("the saliency's sum overflows float64; divide the matrix by its largest entry first")
        nothing = np.empty((source.shape[1], 0), dtype=np.float32)
        return cls(
            nothing,
            pattern,
            None,
            source.shape,
            source.dtype,
            digest.hexdigest(),
            name,
            source=source,
            rule=rule,
            baseline_values=values,
            sums=sums,
            ceilings=np.concatenate(ceilings),
            bound=bound,
        )

    @property
    def streamed(self) -> bool:
        """True."""
        return True

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.source.rows

    @property
    def saliency(self) -> Array:
        """Not there.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("a streamed problem has no saliency matrix in memory; give it more")

    @cached_property
    def scale(self) -> float:
        """The unit of `chunks`: the largest entry of the clipped saliency."""
        return float(self.ceilings.max()) or 1.0

    def part(self, span: slice) -> Problem:
        """Not there.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("a streamed problem has no parts; give it more memory")

    @property
    def packed(self) -> Array:
        """Not there.

        Raises
        ------
        InputError
            Always.
        """
        return self.saliency

    @cached_property
    def column_sums(self) -> npt.NDArray[np.float64]:
        """The sum of each column, (cols,)."""
        return self.sums

    @cached_property
    def baseline(self) -> float:
        """Score of the identity."""
        return float(self.baseline_values.sum())

    @cached_property
    def rows_bound(self) -> float:
        """Sum over rows of the cols * n / m largest entries: no permutation scores more."""
        return self.bound

    @property
    def standin(self) -> Problem:
        """A problem of the first rows, in memory: kernels are compiled with it."""
        few = slice(0, min(SAMPLE_ROWS, self.source.shape[0]))
        return Problem.of(self.rule(few, self.source.read(few)[1]), self.pattern)

    def blocks_of_rows(self) -> Iterator[Array]:
        """Read the saliency once.

        Yields
        ------
        numpy.ndarray
            Blocks of its rows, (some rows, cols).
        """
        for part in self.source.parts():
            yield channels_last(self.rule(part, self.source.read(part)[1]))
            self.source.release()

    def chunks(self) -> Iterator[Array]:
        """Read the saliency once, by column.

        Yields
        ------
        numpy.ndarray
            float32 (cols, some rows padded with zeros to 16), clipped and scaled as `Problem.packed`: one array,
            written anew for every block.
        """
        space, at = aligned((0, LANES)), 0
        for block in self.blocks_of_rows():
            ceilings = self.ceilings[at : at + len(block), None]
            at += len(block)
            block = np.minimum(block, ceilings) / block.dtype.type(self.scale)
            width = -(-len(block) // LANES) * LANES
            if space.shape != (self.cols, width):
                space = aligned((self.cols, width))
            space[:, len(block) :] = 0
            space[:, : len(block)] = block.T
            yield space

    def group_values(self, order: Permutation) -> npt.NDArray[np.float64]:
        """Return the values of groups, by one pass over the matrix.

        Parameters
        ----------
        order
            int64 (groups * m,), columns in groups of m; need not name every column.

        Returns
        -------
        numpy.ndarray
            float64 (groups,).
        """
        from permsolve.kernels.score import group_values

        n, m = self.pattern.n, self.pattern.m
        if order.shape == (self.cols,) and np.array_equal(order, np.arange(self.cols)):
            return self.baseline_values.copy()
        total, part = np.zeros(len(order) // m), np.empty(len(order) // m)
        for block in self.blocks_of_rows():
            group_values(np.ascontiguousarray(block[:, order].T), np.arange(len(order)), n, m, part)
            total += part
        return total

    def score(self, perm: npt.ArrayLike) -> float:
        """Return the score of a permutation by the NumPy reference scorer, in one pass.

        Parameters
        ----------
        perm
            Permutation, integers of shape (cols,).

        Returns
        -------
        float
            Sum over rows and groups of the n largest entries.
        """
        order = self.pattern.check_solution(perm, (self.rows, self.cols))
        n, m = self.pattern.n, self.pattern.m
        return float(sum(scoring.group_values(block, order, n, m).sum() for block in self.blocks_of_rows()))
