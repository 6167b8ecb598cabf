"""Training towards n:m: masks that come in gradually, are learned, or stand from the first step.

This package imports torch; nothing of the core does. Only `permsolve.training.callback` imports transformers.
"""

from __future__ import annotations

from permsolve.errors import MissingDependencyError

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("permsolve.training needs torch: pip install 'permsolve[torch]'") from error

from permsolve.training.phases import Phases
from permsolve.training.recipes import RECIPES, SRSTE, STEP, MaskDecay, Masked, Recipe, StructureDecay
from permsolve.training.schedule import NMSchedule
from permsolve.training.sparse_training import SparseTraining

__all__ = [
    "RECIPES",
    "SRSTE",
    "STEP",
    "MaskDecay",
    "Masked",
    "NMSchedule",
    "Phases",
    "Recipe",
    "SparseTraining",
    "StructureDecay",
]

del torch
