"""What a bench records of the machine, the versions and the code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from permsolve.bench.records import Machine

#: Packages whose version can change what a run does.
_PACKAGES = ("permsolve", "numpy", "scipy", "numba", "rustworkx", "ortools", "torch")
#: Parts of permsolve that no run executes.
_APART = ("bench", "report", "models", "sparse", "training", "instances")


def cores() -> tuple[int, ...]:
    """Return the processor cores that this process may use.

    Returns
    -------
    tuple
        Their numbers.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def machine() -> Machine:
    """Describe the machine.

    Returns
    -------
    Machine
        Processor, usable cores, memory, system.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}"
    return Machine(cpu=_processor(), cores=len(cores()), memory_gib=round(memory, 1), system=system)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in runs.

    Returns
    -------
    dict
        Versions by name; packages that are not installed are left out.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def code(methods: Iterable[str]) -> str:
    """Return a digest of the sources that runs execute, so that no bench mixes runs of different code.

    Parameters
    ----------
    methods
        Names of the methods; those of other packages count by the file that defines them.

    Returns
    -------
    str
        Hexadecimal sha256.
    """
    import permsolve.solvers as solvers

    package = importlib.util.find_spec("permsolve")
    roots = [Path(folder) for folder in (package.submodule_search_locations or ())] if package else []
    files = {
        file.relative_to(root).as_posix(): file
        for root in roots
        for file in root.rglob("*.py")
        if file.relative_to(root).parts[0] not in _APART and not file.name.startswith("cli")
    }
    files |= {f"solvers/{Path(file).name}": Path(file) for folder in solvers.__path__ for file in _python(folder)}
    for name in methods:
        if (own := _foreign_file(name)) is not None:
            files[f"method {name}"] = own
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _python(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.py"))


def _foreign_file(method: str) -> Path | None:
    """Find the file of another package's method, or None where it cannot be loaded here or has none."""
    from permsolve.errors import MissingDependencyError
    from permsolve.registry import get_solver

    try:
        module = sys.modules[get_solver(method).__module__]
    except MissingDependencyError:
        return None
    file = getattr(module, "__file__", None)
    return None if file is None or module.__name__.startswith("permsolve.") else Path(file)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
