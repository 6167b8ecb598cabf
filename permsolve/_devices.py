"""Where a search runs: what ``device=`` may be, and whether it is there."""

from __future__ import annotations

import importlib.util
import os
import re

from permsolve.errors import DeviceError, InputError, MissingDependencyError


def check_device(device: object) -> str:
    """Return the device that is meant, after making sure that it can be used.

    Parameters
    ----------
    device
        What the user passed: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or a ``torch.device``.

    Returns
    -------
    str
        The device's name.

    Raises
    ------
    InputError
        If it is no such thing.
    MissingDependencyError
        If torch or triton is not installed.
    DeviceError
        If torch does not see the device.
    """
    name = device if isinstance(device, str) else str(device) if type(device).__module__ == "torch" else ""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"device = {device!r} must be 'cpu', 'cuda', 'cuda:1' (any number) or such a torch.device")
    if name != "cpu":
        _check_cuda(name)
    return name


def interpreting() -> bool:
    """Return whether Triton interprets kernels on the CPU, for tests (its variable ``TRITON_INTERPRET``)."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")


def _check_cuda(name: str) -> None:
    missing = [package for package in ("torch", "triton") if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"device = {name!r} needs {' and '.join(missing)}: pip install 'permsolve[gpu]' (on Linux), "
            f"or use device='cpu'"
        )
    if interpreting():
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) < count:
        return
    if count:
        seen = f"torch sees {', '.join(f'cuda:{k}' for k in range(count))} only; name one of them"
    elif torch.version.cuda is None and torch.version.hip is None:
        seen = f"torch {torch.__version__} is a build without CUDA; install one with CUDA, or use device='cpu'"
    else:
        seen = (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no CUDA device; check that `nvidia-smi` lists "
            f"one and that CUDA_VISIBLE_DEVICES does not hide it, or use device='cpu'"
        )
    raise DeviceError(f"device = {name!r}: {seen}")
