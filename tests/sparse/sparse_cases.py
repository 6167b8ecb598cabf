"""Patterns of all kinds, and a reading of the compressed format that shares no code with the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from permsolve import NM, VNM, HiNM, Problem, Transposable
from permsolve.patterns import Pattern
from permsolve.sparse import Compressed, compress

#: Patterns with sizes that they fit, one for every number of bits, odd widths among them.
KINDS: tuple[tuple[Pattern, int, int], ...] = (
    (NM(2, 4), 13, 36),
    (NM(1, 4), 7, 20),
    (NM(1, 2), 5, 14),
    (NM(2, 3), 3, 21),
    (NM(3, 5), 4, 35),
    (NM(4, 16), 9, 48),
    (NM(5, 32), 6, 64),
    (NM(7, 100), 2, 200),
    (HiNM(8, 0.5, "2:4"), 24, 44),
    (HiNM(4, 0.25, "1:4"), 12, 40),
    (HiNM(3, 0.0, "1:3"), 9, 18),
    (VNM(8, 2, 8), 16, 40),
    (VNM(3, 1, 10), 12, 30),
    (VNM(5, 3, 4), 10, 28),
    (Transposable(2, 4), 12, 20),
    (Transposable(3, 6), 18, 12),
)
IDS = [f"{pattern} of {rows}x{cols}" for pattern, rows, cols in KINDS]


def weight(rows: int, cols: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Draw weights without zeros, exact in every type."""
    whole = torch.randint(1, 120, (rows, cols), generator=torch.Generator().manual_seed(seed))
    sign = torch.randint(0, 2, (rows, cols), generator=torch.Generator().manual_seed(seed + 1)) * 2 - 1
    return (whole * sign / 16).to(dtype)


def drawn(pattern: Pattern, matrix: torch.Tensor, seed: int = 0) -> Any:
    """Draw a solution."""
    problem = Problem.of(matrix.abs().double().numpy(), pattern)
    return pattern.draw(problem, np.random.default_rng(seed))


def masked(pattern: Pattern, matrix: torch.Tensor, solution: Any) -> torch.Tensor:
    """Return what the pattern keeps of a matrix, dense."""
    kept = pattern.mask(matrix.abs().double().numpy(), solution)
    return matrix * torch.from_numpy(kept)


def example(
    pattern: Pattern, rows: int, cols: int, dtype: torch.dtype = torch.float32
) -> tuple[Compressed, torch.Tensor]:
    """Return compressed weights under a random solution, and the same dense."""
    matrix = weight(rows, cols, dtype)
    solution = drawn(pattern, matrix)
    return compress(matrix, pattern, solution), masked(pattern, matrix, solution)


def decode(weights: Compressed) -> torch.Tensor:
    """Read the format as it is documented, value by value."""
    rows, cols = weights.shape
    dense = torch.zeros(rows, cols, dtype=torch.float64)
    tiles = weights.index.shape[0]
    for i in range(rows):
        stored = weights.positions[i].tolist()
        bits = "".join(f"{byte:08b}"[::-1] for byte in stored)  # lowest bits first
        for k, value in enumerate(weights.values[i].double().tolist()):
            place = int(bits[k * weights.bits : (k + 1) * weights.bits][::-1], 2)
            slot = k // weights.n * weights.width + place
            dense[int(weights.rows[i]), int(weights.index[i // (rows // tiles), slot])] += value
    return dense
