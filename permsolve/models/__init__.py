"""Torch models: find what may be permuted, solve it, apply it, prove the outputs unchanged, prune, compress.

This package imports torch; nothing of the core does.
"""

from __future__ import annotations

from permsolve.errors import MissingDependencyError

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("permsolve.models needs torch: pip install 'permsolve[torch]'") from error

from permsolve.models.calibrating import calibrate
from permsolve.models.calibration import Calibration
from permsolve.models.compensation.norms import recalibrate_norms_
from permsolve.models.group import Gainer, Group
from permsolve.models.grouping import Movement, Refusal
from permsolve.models.learning import Learned
from permsolve.models.plan import Plan, analyze
from permsolve.models.prunable import PrunableWeight, weights
from permsolve.models.pruned import Pruned
from permsolve.models.pruning import prune_, to_semi_structured_
from permsolve.models.retention import Report, report
from permsolve.models.sparse_files import SparseModel, load_sparse_, save_sparse
from permsolve.models.sparsified import SparseWeight, Sparsified
from permsolve.models.sparsify import densify_, sparsify_
from permsolve.models.verification import Verification, verify

__all__ = [
    "Calibration",
    "Gainer",
    "Group",
    "Learned",
    "Movement",
    "Plan",
    "PrunableWeight",
    "Pruned",
    "Refusal",
    "Report",
    "SparseModel",
    "SparseWeight",
    "Sparsified",
    "Verification",
    "analyze",
    "calibrate",
    "densify_",
    "load_sparse_",
    "prune_",
    "recalibrate_norms_",
    "report",
    "save_sparse",
    "sparsify_",
    "to_semi_structured_",
    "verify",
    "weights",
]

del torch
