"""The commands ``permsolve study steps`` and ``permsolve study unstructured``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

INTERRUPTED = 130

app = typer.Typer(
    name="study",
    help="The two studies of Pool and Yu (NeurIPS 2021).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .npy, .npz, .safetensors or .pt.")]
_Tensor = Annotated[str | None, typer.Option("--tensor", help="Name of the tensor in a file that holds several.")]
_NM = Annotated[str, typer.Option("--nm", metavar="N:M", help="Keep N of every M.")]
_Method = Annotated[str, typer.Option("--method", help="See `permsolve methods`.")]
_Saliency = Annotated[str, typer.Option("--saliency", help="magnitude or energy.")]
_Blocks = Annotated[
    str | None, typer.Option("--blocks", metavar="SIZES", help="Sizes of blocks no column may leave: 64,64.")
]
_Limit = Annotated[float | None, typer.Option("--time-limit", metavar="SECONDS", help="Time of each solve.")]
_Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
_Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the method; repeatable.")
]
_Json = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the document here.")]
_Jobs = Annotated[int | None, typer.Option("--jobs", metavar="THREADS", help="Threads; all cores by default.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def steps(
    file: _File,
    tensor: _Tensor = None,
    nm: _NM = "2:4",
    count: Annotated[int, typer.Option("--steps", help="Equal steps from the identity to the best.")] = 10,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Close enough, in points of efficacy.")] = 0.01,
    method: _Method = "auto",
    saliency: _Saliency = "magnitude",
    blocks: _Blocks = None,
    time_limit: _Limit = None,
    seed: _Seed = 0,
    options: _Options = None,
    json_out: _Json = None,
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Permutations at equal steps of efficacy between the identity and the best found."""
    from permsolve.studies import intermediate_steps

    given = _arguments(file, tensor, nm, method, saliency, blocks, time_limit, seed, options, json_out, jobs, quiet)
    study = intermediate_steps(**given, steps=count, tolerance=tolerance)
    rows = [
        (str(k), f"{step.target:.4f}", f"{step.efficacy:.4f}", f"{step.error:+.4f}", f"{step.score:.9g}")
        for k, step in enumerate(study.steps)
    ]
    _print(("step", "target %", "efficacy %", "error", "score"), rows, f"{file.name}: {study.result.method}, {nm}")
    typer.echo(f"largest error {study.largest_error:.2g} points")
    _finish(study, json_out, study.result.stopped_by == "interrupt")


@app.command()
def unstructured(
    file: _File,
    tensor: _Tensor = None,
    nm: _NM = "2:4",
    tolerance: Annotated[float, typer.Option("--tolerance", help="The bisection ends when this close.")] = 0.001,
    method: _Method = "auto",
    saliency: _Saliency = "magnitude",
    blocks: _Blocks = None,
    time_limit: _Limit = None,
    seed: _Seed = 0,
    options: _Options = None,
    json_out: _Json = None,
    jobs: _Jobs = None,
    quiet: _Quiet = False,
) -> None:
    """Smallest unstructured sparsity at which a permutation makes the matrix exactly n:m."""
    from permsolve.studies import unstructured_study

    given = _arguments(file, tensor, nm, method, saliency, blocks, time_limit, seed, options, json_out, jobs, quiet)
    study = unstructured_study(**given, tolerance=tolerance)
    rows = [
        (
            f"{100 * trial.sparsity:.3f}",
            f"{trial.violations:,}",
            f"{100 * trial.reached:.3f}",
            "none exists" if trial.proved else "",
            f"{trial.runtime:.2f}",
        )
        for trial in study.trials
    ]
    title = f"{file.name}: {study.method}, {nm}"
    _print(("sparsity %", "violations", "its permutation fits at %", "proof", "time s"), rows, title)
    typer.echo(f"without permutation  {100 * study.identity:.3f} %")
    typer.echo(f"with permutation     {100 * study.sparsity:.3f} %")
    typer.echo(f"proved lower bound   {100 * study.lower_bound:.3f} %")
    _finish(study, json_out, study.interrupted)


def _arguments(
    file: Path,
    tensor: str | None,
    nm: str,
    method: str,
    saliency: str,
    blocks: str | None,
    time_limit: float | None,
    seed: int,
    options: list[str] | None,
    json_out: Path | None,
    jobs: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Turn what both commands take into the arguments of a study."""
    from permsolve.cli import _check_outputs, _parse_blocks, parse_options
    from permsolve.io import read_matrix

    chosen = parse_options(method, options or [])
    _check_outputs(file, json_out, None)
    return {
        "matrix": read_matrix(file, tensor),
        "nm": nm,
        "method": method,
        "saliency": saliency,
        "blocks": _parse_blocks(blocks),
        "time_limit": time_limit,
        "seed": seed,
        "options": chosen,
        "n_jobs": jobs,
        "display": False if quiet else None,
    }


def _print(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _finish(study: Any, json_out: Path | None, interrupted: bool) -> None:
    """Write the document; an interrupted study has its own exit code."""
    from permsolve.io import write_atomically

    if json_out is not None:
        write_atomically(json_out, study.to_json().encode())
        typer.echo(f"document             {json_out}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
