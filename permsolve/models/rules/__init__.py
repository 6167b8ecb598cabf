"""What each ATen operator does to channels. An operator without a rule keeps every channel it reads in its place."""

from __future__ import annotations

from permsolve.models.rules import attention, contractions, movements, norms, pointwise, reductions
from permsolve.models.rules.registry import Call, rule_of

__all__ = ["Call", "attention", "contractions", "movements", "norms", "pointwise", "reductions", "rule_of"]
