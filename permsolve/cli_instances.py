"""The command line of the instance library: ``permsolve instances list | show | verify | update``."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from permsolve.errors import InputError

if TYPE_CHECKING:
    from permsolve.instances import Entry
    from permsolve.instances.updates import Outcome
    from permsolve.patterns import Pattern

INTERRUPTED = 130

app = typer.Typer(
    name="instances",
    help="The benchmark library: matrices, best known solutions, bounds.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these instances.")]
_Family = Annotated[str | None, typer.Option("--family", help="Only instances of this family.")]
_Jobs = Annotated[int | None, typer.Option("--jobs", metavar="THREADS", help="Threads; all cores by default.")]


@app.command("list")
def list_instances(
    family: _Family = None,
    unproved: Annotated[bool, typer.Option("--open", help="Only instances whose optimum is not proved.")] = False,
) -> None:
    """List instances: best efficacy known, bound, status."""
    from rich.console import Console
    from rich.table import Table

    from permsolve.instances import entries

    library = entries.library()
    chosen = [entry for entry in entries.select(library, family=family) if not (unproved and entry.proved)]
    table = Table(title=f"{len(chosen)} of {len(library)} instances", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("family")
    for heading in ("shape", "pattern", "best %", "bound %", "gap %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status")
    for entry in chosen:
        table.add_row(
            entry.name,
            entry.family,
            f"{entry.shape[0]} x {entry.shape[1]}",
            str(entry.pattern),
            "" if entry.best is None else f"{entry.efficacy(entry.best.score):.3f}",
            f"{entry.efficacy(entry.bound):.3f}",
            "" if entry.best is None else f"{100 * entry.gap:.3g}",
            _status(entry),
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the instance.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.npy", help="Write the matrix here.")] = None,
) -> None:
    """Print what is known of an instance; write its matrix."""
    from permsolve import instances

    if out is not None and out.suffix != ".npy":
        raise InputError(f"{out}: the matrix is written as an .npy file; name one")
    entry = instances.entry(name)
    if out is not None:  # first of all: a file that cannot be written leaves nothing printed either
        import numpy as np

        from permsolve.io import write_atomically

        stream = io.BytesIO()
        np.save(stream, entry.matrix(), allow_pickle=False)
        write_atomically(out, stream.getvalue())
    typer.echo("\n".join(f"{label:<12} {text}" for label, text in _describe(entry)))
    if out is not None:
        typer.echo(f"{'written':<12} {out}")


@app.command()
def verify(
    names: _Names = None,
    family: _Family = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Also solve wide instances again whose optimality is claimed.")
    ] = False,
    jobs: _Jobs = None,
) -> None:
    """Recompute every matrix, score and bound; exit 1 on a fault."""
    from permsolve.instances import checks, entries

    chosen = entries.select(entries.library(), names or (), family)
    with _progress(len(chosen)) as progress:
        reports = []
        for done, entry in enumerate(chosen):
            watch = partial(progress, done, entry.name)
            watch(0.0)
            reports.append(checks.check(entry, prove=prove, n_jobs=jobs, progress=watch))
    noted = 0
    for report in reports:
        for fault in report.faults:
            typer.echo(f"permsolve: check failed: {report.name}: {fault}", err=True)
        for note in report.notes:
            typer.echo(f"{report.name}: {note}")
            noted += 1
    bad = sum(bool(report.faults) for report in reports)
    if bad:
        typer.echo(f"permsolve: {bad} of {len(reports)} instances do not verify", err=True)
        raise typer.Exit(1)
    proofs = sum(entry.certificate is not None for entry in chosen)
    scores = sum(entry.best is not None for entry in chosen)
    typer.echo(
        f"ok: {len(reports)} instances, {scores} scores recomputed, {proofs} certificates proved again, {noted} notes"
    )


@app.command()
def update(
    checkout: Annotated[Path, typer.Argument(metavar="CHECKOUT", help="Folder of a checkout of permsolve.")],
    names: _Names = None,
    document: Annotated[
        Path | None,
        typer.Option("--from", metavar="DOC", help="Take the solution of this document instead of solving."),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="See `permsolve methods`.")] = "auto",
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="Time of each solve.")
    ] = 10.0,
    seed: Annotated[int, typer.Option("--seed", help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="Solves per instance, with consecutive seeds.", min=1)] = 1,
    bound: Annotated[str, typer.Option("--bound", help="lp: compute an LP bound with its certificate too.")] = "rows",
    family: _Family = None,
    jobs: _Jobs = None,
) -> None:
    """Put better values into a checkout's index, nothing else."""
    from permsolve.instances import entries, updates

    index = updates.locate(checkout)
    if document is not None:
        if names or family:
            raise InputError("--from finds the instances by the document's matrix; leave out names and --family")
        outcomes: Iterable[Outcome] = updates.contribute(index, document)
    else:
        chosen = entries.select(entries.read_index(index), names or (), family)
        effort = updates.Effort(method, time_limit, seed, seeds, bound, jobs)
        outcomes = updates.improve(index, chosen, effort)
    done = []
    for outcome in outcomes:
        done.append(outcome)
        _report(outcome)
    better = sum(bool(outcome.changes) for outcome in done)
    typer.echo(f"{better} of {len(done)} instances improved in {index}")
    if any(outcome.interrupted for outcome in done):
        raise typer.Exit(INTERRUPTED)


def _report(outcome: Outcome) -> None:
    for change in outcome.changes:
        typer.echo(f"{outcome.name}: {change}")
    if outcome.skipped:
        typer.echo(f"{outcome.name}: left out: {outcome.skipped}")
    elif not outcome.changes:
        typer.echo(f"{outcome.name}: nothing better")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str, float], None]]:
    """Provide a function that shows which instance is worked on and how far, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bars:
        task = bars.add_task("verify", total=total)

        def show(done: int, name: str, share: float) -> None:
            bars.update(task, description=name, completed=done + share)

        yield show


def _describe(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield labels and what they say."""
    from permsolve import instances

    best, certificate = entry.best, entry.certificate
    yield "name", entry.name
    yield "family", entry.family
    yield "problem", f"{entry.pattern} of {entry.shape[0]} x {entry.shape[1]}, saliency {entry.saliency}"
    if "stored" in entry.source:
        about = instances.info(str(entry.source["stored"]))
        yield "source", f"stored {about.name}: {about.layer}, {about.change}"
        yield "", about.made
        yield "", about.source
    else:
        arguments = {key: value for key, value in entry.source.items() if key != "generator"}
        listed = "".join(f", {key}={value}" for key, value in arguments.items())
        yield "source", f"generators.{entry.source['generator']}({entry.shape[0]}, {entry.shape[1]}{listed})"
    yield "licence", entry.licence
    yield "sha256", entry.sha256
    yield "baseline", f"{entry.baseline!r}"
    yield "rows bound", f"{entry.rows_bound!r}"
    if best is None:
        yield "best", "none known"
    else:
        yield "best", f"{best.score!r} ({entry.efficacy(best.score):.4f} %) by {best.method}, permsolve {best.version}"
    proof = "" if certificate is None else ", certificate stored"
    yield "bound", f"{entry.bound!r} ({entry.efficacy(entry.bound):.4f} %), {entry.bound_kind}{proof}"
    yield "status", f"{_status(entry)}, gap {100 * entry.gap:.3g} %"
    if best is not None:
        yield from _listed(entry.pattern, best.solution)


def _listed(pattern: Pattern, solution: Any) -> Iterator[tuple[str, str]]:
    """Yield the arrays of a solution, a tile to a line where they have one part for each."""
    import numpy as np

    for name, values in pattern.to_lists(solution).items():
        array = np.asarray(values)
        lines = array.reshape(1 if array.ndim == 1 else len(array), -1)
        for k, line in enumerate(lines.tolist()):
            yield "" if k else name, " ".join(map(str, line))


def _status(entry: Entry) -> str:
    return "proved" if entry.proved else "open"
