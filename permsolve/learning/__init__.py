"""Learned permutations: relaxations of a permutation that gradients pass through, and what is optimised by them.

This package imports torch; nothing of the core does. `permsolve.solvers.sinkhorn` and `permsolve.solvers.transport` use
it on single matrices, `permsolve.models.Plan.learn` on whole models.
"""

from __future__ import annotations

from permsolve.errors import MissingDependencyError

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("permsolve.learning needs torch: pip install 'permsolve[torch]'") from error

from permsolve.learning.adamw import AdamW, cosine
from permsolve.learning.masks import soft_mask, straight_through_mask, top_mask
from permsolve.learning.relaxations import assign, sinkhorn, transport
from permsolve.learning.sites import SinkhornSite, Site, TransportSite

__all__ = [
    "AdamW",
    "SinkhornSite",
    "Site",
    "TransportSite",
    "assign",
    "cosine",
    "sinkhorn",
    "soft_mask",
    "straight_through_mask",
    "top_mask",
    "transport",
]

del torch
