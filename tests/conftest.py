"""What holds for the whole run: fresh kernels, and tests that need a GPU only where there is one."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest
from helpers import clear_stale_caches
from hypothesis import settings

# Without a GPU the Triton kernels are tested in Triton's interpreter, which has to be chosen before triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run: a failure is a change of the code, never of the weather.
settings.register_profile("permsolve", derandomize=True, database=None, deadline=None)
settings.load_profile("permsolve")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Throw away kernels compiled from older sources, before any of them is imported; let Ctrl-C reach child processes.

    A shell that runs a job in the background without job control has it ignore SIGINT, and so would all its children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    spec = importlib.util.find_spec("permsolve.kernels")
    for folder in () if spec is None else spec.submodule_search_locations or ():
        clear_stale_caches(Path(folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the tests that take minutes."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (many minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked ``slow`` unless asked for, and those marked ``gpu`` where torch sees no CUDA device."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    try:
        import torch
    except ModuleNotFoundError:
        reason = "needs torch, which is not installed"
    else:
        if torch.cuda.is_available():
            return
        reason = "needs a CUDA device, torch sees none"
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))
