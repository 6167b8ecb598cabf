"""permsolve: channel permutations for N:M sparsity, as the combinatorial problem they are.

The public names are loaded when they are first used, so importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from permsolve._version import __version__

if TYPE_CHECKING:
    from permsolve import (
        certificates,
        errors,
        instances,
        io,
        models,
        patterns,
        report,
        saliency,
        solvers,
        sparse,
        stop,
        studies,
        testing,
    )
    from permsolve._many import Job, solve_many
    from permsolve._solve import solve
    from permsolve.bounds import Bound, bound
    from permsolve.certificates import Certificate
    from permsolve.dispatch import Failure
    from permsolve.io import load, save
    from permsolve.patterns import NM, VNM, HiNM, Transposable
    from permsolve.problem import Problem
    from permsolve.registry import get_solver, methods
    from permsolve.result import Result
    from permsolve.solved import SolvedMany
    from permsolve.solver import Solver, Status

_HOMES = {
    "Bound": "permsolve.bounds",
    "Certificate": "permsolve.certificates",
    "bound": "permsolve.bounds",
    "Failure": "permsolve.dispatch",
    "Job": "permsolve._many",
    "solve": "permsolve._solve",
    "solve_many": "permsolve._many",
    "SolvedMany": "permsolve.solved",
    "load": "permsolve.io",
    "save": "permsolve.io",
    "NM": "permsolve.patterns",
    "HiNM": "permsolve.patterns",
    "VNM": "permsolve.patterns",
    "Transposable": "permsolve.patterns",
    "Problem": "permsolve.problem",
    "get_solver": "permsolve.registry",
    "methods": "permsolve.registry",
    "Result": "permsolve.result",
    "Solver": "permsolve.solver",
    "Status": "permsolve.solver",
}
_MODULES = (
    "certificates",
    "errors",
    "instances",
    "io",
    "models",
    "patterns",
    "report",
    "saliency",
    "solvers",
    "sparse",
    "stop",
    "studies",
    "testing",
)

__all__ = [
    "NM",
    "VNM",
    "Bound",
    "Certificate",
    "Failure",
    "HiNM",
    "Job",
    "Problem",
    "Result",
    "SolvedMany",
    "Solver",
    "Status",
    "Transposable",
    "__version__",
    "bound",
    "certificates",
    "errors",
    "get_solver",
    "instances",
    "io",
    "load",
    "methods",
    "models",
    "patterns",
    "report",
    "saliency",
    "save",
    "solve",
    "solve_many",
    "solvers",
    "sparse",
    "stop",
    "studies",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"permsolve.{name}")
    else:
        raise AttributeError(f"module 'permsolve' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
