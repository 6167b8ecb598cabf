"""The methods that exist: the files of ``permsolve.solvers`` and the entry points of other packages.

Names come from file names and entry points, so listing them imports no solver; a solver's file is imported when it is
asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from permsolve.errors import MissingDependencyError, OptionError, PermsolveError, UnknownMethodError
from permsolve.solver import Solver

#: Entry-point group in which other packages offer methods: ``name = "package.module:SolverClass"``.
ENTRY_POINTS = "permsolve.solvers"

#: Extras of this package that bring a module which is no core dependency.
_EXTRAS = {"torch": "torch", "triton": "gpu", "matplotlib": "plot", "jinja2": "plot", "dask": "cluster"}


def methods() -> tuple[str, ...]:
    """Return the names of all methods, without importing any.

    Returns
    -------
    tuple
        Sorted names.

    Raises
    ------
    PermsolveError
        If two sources offer the same name.
    """
    return tuple(sorted(_loaders()))


def get_solver(name: str) -> type[Solver]:
    """Return the class of a method.

    Parameters
    ----------
    name
        Name of the method.

    Returns
    -------
    type
        A subclass of `Solver`; its fields are the method's options.

    Raises
    ------
    UnknownMethodError
        If there is no such method.
    MissingDependencyError
        If the method needs a package that is not installed.
    """
    loaders = _loaders()
    if not isinstance(name, str) or name not in loaders:
        raise UnknownMethodError(f"unknown method {name!r}; known: {', '.join(sorted(loaders))}")
    return loaders[name]()


def make_solver(method: str | Solver, options: Mapping[str, Any] | None = None) -> tuple[str, Solver]:
    """Return a name and an instance for what a user passes as method.

    Parameters
    ----------
    method
        Name or instance.
    options
        Options by name; only with a name.

    Returns
    -------
    tuple
        Name and solver.

    Raises
    ------
    OptionError
        If an option does not exist, has a bad value, or comes with an instance.
    UnknownMethodError
        If there is no such method.
    """
    if isinstance(method, Solver):
        if options:
            raise OptionError("options go with a method's name; a solver instance already carries its own")
        return type(method).__module__.rpartition(".")[2], method
    if isinstance(method, type) and issubclass(method, Solver):
        raise OptionError(f"method {method.__name__} is a class; pass its name or an instance, {method.__name__}()")
    solver = get_solver(method)
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(f"options = {options!r} must be a dictionary, for example {{'samples': 100}}")
    options = dict(options or {})
    unknown = [name for name in options if name not in solver.option_names()]
    if unknown:
        valid = ", ".join(solver.option_names()) or "none"
        raise OptionError(f"method {method!r} has no option {unknown[0]!r}; its options: {valid}")
    return method, solver(**options)


@cache
def _loaders() -> dict[str, Callable[[], type[Solver]]]:
    import permsolve.solvers as package

    def own(name: str) -> Callable[[], type[Solver]]:
        return lambda: _load_file(name)

    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    found = {name: own(name) for name in names}
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found:
            raise PermsolveError(
                f"two sources offer a method named {point.name!r}, one of them {point.value}; rename it"
            )
        found[point.name] = lambda point=point: _checked(point.name, _guarded(point.name, point.load))  # type: ignore[misc]
    return found


def _load_file(name: str) -> type[Solver]:
    module = _guarded(name, lambda: importlib.import_module(f"permsolve.solvers.{name}"))
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Solver) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise PermsolveError(f"solvers/{name}.py must define exactly one solver class, it defines {len(classes)}")
    return classes[0]


def _guarded(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "permsolve"):
            raise
        extra = _EXTRAS.get(missing)
        remedy = f"pip install 'permsolve[{extra}]'" if extra else f"pip install {missing}"
        raise MissingDependencyError(f"method {name!r} needs the package {missing!r}: {remedy}") from error


def _checked(name: str, value: object) -> type[Solver]:
    if not (inspect.isclass(value) and issubclass(value, Solver)):
        raise PermsolveError(f"the entry point of method {name!r} is not a subclass of permsolve.solver.Solver")
    return value
