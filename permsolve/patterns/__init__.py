"""Sparsity patterns: what is kept, and what a solution of the problem consists of."""

from __future__ import annotations

from permsolve.patterns.base import Array, Hierarchical, Pattern, Permutation, Solution
from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.patterns.nm import NM
from permsolve.patterns.parsing import parse
from permsolve.patterns.transposable import Transposable, TransposableSolution
from permsolve.patterns.vnm import VNM, VNMSolution

__all__ = [
    "NM",
    "VNM",
    "Array",
    "HiNM",
    "HiNMSolution",
    "Hierarchical",
    "Pattern",
    "Permutation",
    "Solution",
    "Transposable",
    "TransposableSolution",
    "VNMSolution",
    "parse",
]
