"""The command line: ``permsolve solve | bound | check | methods | compare | bench | instances | study | model``.

Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted (what was found by then is written).
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from permsolve.cli_bench import bench
from permsolve.cli_instances import app as instances_app
from permsolve.cli_model import model
from permsolve.cli_study import app as study_app
from permsolve.errors import InputError, MissingDependencyError, OptionError, PermsolveError

if TYPE_CHECKING:
    from permsolve.problem import Problem
    from permsolve.solver import Solver

INTERRUPTED = 130
#: Methods that `compare` runs on plain n:m where none are named.
_COMPARED = (
    *("identity", "random", "greedy", "ria", "channel_swap"),
    *("stripe_groups", "local_search", "assignment", "annealing", "auto"),
)

app = typer.Typer(
    name="permsolve",
    help="Channel permutations for N:M sparsity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .npy, .npz, .safetensors or .pt.")]
_Tensor = Annotated[str | None, typer.Option("--tensor", help="Name of the tensor in a file that holds several.")]
_NM = Annotated[
    str, typer.Option("--nm", metavar="PATTERN", help="2:4, 'hinm(32, 0.5, 2:4)', 64:2:8 or 'transposable(2:4)'.")
]
_Saliency = Annotated[str, typer.Option("--saliency", help="magnitude or energy.")]
_Blocks = Annotated[
    str | None, typer.Option("--blocks", metavar="SIZES", help="Sizes of blocks no column may leave: 64,64.")
]
_Limit = Annotated[float | None, typer.Option("--time-limit", metavar="SECONDS", help="Time the solver may take.")]
_Jobs = Annotated[int | None, typer.Option("--jobs", metavar="THREADS", help="Threads; all cores by default.")]
_Device = Annotated[str, typer.Option("--device", help="Where to search: cpu, cuda or cuda:1.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def solve(
    file: _File,
    tensor: _Tensor = None,
    nm: _NM = "2:4",
    method: Annotated[str, typer.Option("--method", help="See `permsolve methods`.")] = "auto",
    saliency: _Saliency = "magnitude",
    blocks: _Blocks = None,
    bound: Annotated[str, typer.Option("--bound", help="Upper bound to prove first: rows or lp.")] = "rows",
    time_limit: _Limit = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the method; repeatable.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the document here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw a before/after map.")] = None,
    device: _Device = "cpu",
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Find a permutation of the input channels and print what it keeps."""
    import permsolve
    from permsolve._devices import check_device
    from permsolve.io import read_matrix, save

    chosen = parse_options(method, options or [])
    _check_outputs(file, json_out, plot)
    place = check_device(device)
    problem = permsolve.Problem.of(read_matrix(file, tensor), nm, saliency=saliency, blocks=_parse_blocks(blocks))
    result = permsolve.solve(
        problem,
        method=method,
        bound=bound,
        time_limit=time_limit,
        seed=seed,
        options=chosen,
        device=place,
        n_jobs=jobs,
        display=False if quiet else None,
    )
    typer.echo(result.summary())
    if json_out is not None:
        save(result, json_out)
        typer.echo(f"document    {json_out}")
    if plot is not None:
        from permsolve.report import plots

        plots.save(plots.before_after(problem, result), plot)
        typer.echo(f"picture     {plot}")
    if result.stopped_by == "interrupt":
        raise typer.Exit(INTERRUPTED)


@app.command()
def bound(
    file: _File,
    tensor: _Tensor = None,
    nm: _NM = "2:4",
    kind: Annotated[str, typer.Option("--kind", help="rows or lp.")] = "lp",
    saliency: _Saliency = "magnitude",
    blocks: _Blocks = None,
    time_limit: _Limit = None,
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Prove an upper bound on what any permutation can keep and print it."""
    import permsolve
    from permsolve.io import read_matrix

    problem = permsolve.Problem.of(read_matrix(file, tensor), nm, saliency=saliency, blocks=_parse_blocks(blocks))
    proved = permsolve.bound(problem, kind=kind, time_limit=time_limit, n_jobs=jobs, display=False if quiet else None)
    typer.echo(f"bound       {proved.value:.8g} ({proved.kind}), efficacy {proved.efficacy:.4f} %")
    typer.echo(f"unpermuted  {proved.baseline:.8g}, rows bound {proved.rows_bound:.8g}; {proved.runtime:.2f} s")
    if kind == "lp" and proved.kind == "rows":
        typer.echo("permsolve: the time was too short for anything better than the rows bound", err=True)


@app.command()
def check(
    document: Annotated[Path, typer.Argument(metavar="DOC", help="A document written by `permsolve solve --json`.")],
    file: _File,
    tensor: _Tensor = None,
) -> None:
    """Recompute everything a document says about a matrix; exit with 1 if anything disagrees."""
    from permsolve.io import load, read_matrix

    result = load(document)
    faults = result.check(read_matrix(file, tensor))
    for fault in faults:
        typer.echo(f"permsolve: check failed: {fault}", err=True)
    if faults:
        raise typer.Exit(1)
    typer.echo(f"ok: {document} belongs to {file}; score {result.score:.8g}, efficacy {result.efficacy:.3f} %")


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="Only this method, with its docstring.")
    ] = None,
) -> None:
    """List the methods with their options, defaults and sources."""
    from permsolve import registry

    if name is not None:
        typer.echo(_describe(name))
        typer.echo("")
        typer.echo(inspect.cleandoc(registry.get_solver(name).__doc__ or ""))
        return
    typer.echo("\n\n".join(_describe(each) for each in registry.methods()))


@app.command()
def compare(
    file: _File,
    tensor: _Tensor = None,
    nm: _NM = "2:4",
    names: Annotated[
        str | None,
        typer.Option("--methods", metavar="A,B,...", help="Methods to compare; those that support the problem."),
    ] = None,
    saliency: _Saliency = "magnitude",
    blocks: _Blocks = None,
    time_limit: Annotated[float, typer.Option("--time-limit", metavar="SECONDS", help="Time per solve.")] = 2.0,
    seeds: Annotated[int, typer.Option("--seeds", help="Solves per method, with seeds 0, 1, ...", min=1)] = 1,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw the anytime curves.")] = None,
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Run several methods on one matrix under the same time limit; print a table, draw the anytime curves."""
    from rich.console import Console

    import permsolve
    from permsolve.io import read_matrix
    from permsolve.report import plots, tables

    chosen = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if chosen == []:
        raise OptionError("--methods names no method; give some, for example --methods annealing,auto")
    solvers = {name: permsolve.get_solver(name)() for name in chosen or ()}
    _check_outputs(file, None, plot)
    problem = permsolve.Problem.of(read_matrix(file, tensor), nm, saliency=saliency, blocks=_parse_blocks(blocks))
    solvers = solvers or _default_methods(problem)
    results: dict[str, list[permsolve.Result]] = {}
    for name, solver in solvers.items():
        if (reason := _refusal(solver, problem)) is not None:
            typer.echo(f"permsolve: {name} left out: {reason}", err=True)
            continue
        for seed in range(seeds):
            result = permsolve.solve(
                problem, method=name, time_limit=time_limit, seed=seed, n_jobs=jobs, display=False if quiet else None
            )
            results.setdefault(name, []).append(result)
            if result.stopped_by == "interrupt":
                break
        else:
            continue
        break
    interrupted = any(run.stopped_by == "interrupt" for runs in results.values() for run in runs)
    if not results:
        raise InputError("none of the methods supports this problem")
    shape = " x ".join(map(str, problem.shape))
    title = f"{file.name}: {problem.pattern} of {shape}, up to {time_limit:g} s each"
    Console(width=None if sys.stdout.isatty() else 120).print(tables.comparison(results, title))
    if plot is not None:
        plots.save(plots.anytime(results, title), plot)
        typer.echo(f"picture: {plot}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _default_methods(problem: Problem) -> dict[str, Solver]:
    """Return the methods that are compared where none are named."""
    from permsolve.registry import get_solver, methods

    if problem.pattern.kind == "nm":
        return {name: get_solver(name)() for name in _COMPARED}
    found: dict[str, Solver] = {}
    for name in methods():
        with contextlib.suppress(MissingDependencyError):
            solver = get_solver(name)()
            if _refusal(solver, problem) is None:
                found[name] = solver
    return found


def _refusal(solver: Solver, problem: Problem) -> str | None:
    """Say why a method does not support a problem, or None."""
    reasons = {reason for _, part in problem.parts() if (reason := solver.refusal(part)) is not None}
    return min(reasons, default=None)


def parse_options(method: str, settings: list[str]) -> dict[str, Any]:
    """Turn ``option=value`` strings into values of the types that the method's options have.

    Parameters
    ----------
    method
        Name of the method.
    settings
        The strings.

    Returns
    -------
    dict
        Options by name.

    Raises
    ------
    OptionError
        If a string has no ``=``, names no option of the method, or its value is of another type.
    """
    from permsolve.registry import get_solver

    solver = get_solver(method)
    types = typing.get_type_hints(solver)
    chosen: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise OptionError(f"--set {setting!r} is not of the form option=value")
        if name not in solver.option_names():
            valid = ", ".join(solver.option_names()) or "none"
            raise OptionError(f"method {method!r} has no option {name!r}; its options: {valid}")
        chosen[name] = _parse_value(name, text.strip(), types[name])
    return chosen


def _parse_value(name: str, text: str, kind: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError:
        expected = getattr(kind, "__name__", str(kind))
        raise OptionError(f"option {name} = {text!r} is not of type {expected}") from None


def _parse_blocks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise InputError(f"--blocks {text!r} is not a list of sizes such as 64,64") from None


def _check_outputs(file: Path, json_out: Path | None, plot: Path | None) -> None:
    """Find out before the work, not after it, that a result could not be written."""
    for path in (json_out, plot):
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: the folder {path.absolute().parent} does not exist; make it first")
        if path.exists() and (not path.is_file() or not os.access(path.absolute().parent, os.W_OK)):
            raise InputError(f"{path}: is a folder or another thing that cannot be replaced; name a file")
        if path.resolve() == file.resolve():
            raise InputError(f"{path}: would replace the weights; name another file")
    if plot is not None:
        from permsolve.report.plots import check_suffix

        check_suffix(plot)


def _describe(name: str) -> str:
    from permsolve.registry import get_solver

    try:
        solver = get_solver(name)
    except MissingDependencyError as error:
        return f"{name}\n  not available: {error}"
    summary = inspect.cleandoc(solver.__doc__ or "").splitlines()[0]
    options = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(solver)) or "none"
    return f"{name}\n  {summary}\n  options:   {options}\n  iteration: {solver.unit}\n  source:    {solver.source}"


app.add_typer(instances_app, name="instances")
app.add_typer(study_app, name="study")
app.command()(bench)
app.command()(model)


def main() -> None:
    """Run the command line: every expected error is one line on standard error."""
    try:
        app()
    except PermsolveError as error:
        typer.echo(f"permsolve: error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("permsolve: interrupted", err=True)
        sys.exit(INTERRUPTED)
