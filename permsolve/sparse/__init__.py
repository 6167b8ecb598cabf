"""Compressed weights and the kernels that run them.

Names are loaded when they are first used: the kernels do without the packages that files need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from permsolve.errors import MissingDependencyError

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("permsolve.sparse needs torch: pip install 'permsolve[torch]'") from error

if TYPE_CHECKING:
    from permsolve.sparse.compressed import Compressed, compress
    from permsolve.sparse.files import load, save
    from permsolve.sparse.linear import SparseLinear
    from permsolve.sparse.product import matmul
    from permsolve.sparse.semi_structured import SemiStructuredLinear

_HOMES = {
    "Compressed": "compressed",
    "SemiStructuredLinear": "semi_structured",
    "SparseLinear": "linear",
    "compress": "compressed",
    "load": "files",
    "matmul": "product",
    "save": "files",
}

__all__ = ["Compressed", "SemiStructuredLinear", "SparseLinear", "compress", "load", "matmul", "save"]

del torch


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
