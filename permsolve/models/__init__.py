"""Torch models: find what may be permuted, solve it, apply it, prove the outputs unchanged, prune.

This package imports torch; nothing of the core does.
"""

from __future__ import annotations

from permsolve.errors import MissingDependencyError

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("permsolve.models needs torch: pip install 'permsolve[torch]'") from error

from permsolve.models.group import Consumer, Group
from permsolve.models.grouping import Movement, Refusal
from permsolve.models.plan import Plan, analyze
from permsolve.models.prunable import PrunableWeight, weights
from permsolve.models.pruned import Pruned
from permsolve.models.pruning import prune_, to_semi_structured_
from permsolve.models.retention import Report, report
from permsolve.models.verification import Verification, verify

__all__ = [
    "Consumer",
    "Group",
    "Movement",
    "Plan",
    "PrunableWeight",
    "Pruned",
    "Refusal",
    "Report",
    "Verification",
    "analyze",
    "prune_",
    "report",
    "to_semi_structured_",
    "verify",
    "weights",
]

del torch
