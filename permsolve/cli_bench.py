"""``permsolve bench``: compare methods on many instances under equal time on one core."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from permsolve.errors import InputError

if TYPE_CHECKING:
    from permsolve.bench.records import Record, Settings, Source

_INTERRUPTED = 130
_Text = str | None


def bench(
    folder: Annotated[Path, typer.Argument(metavar="OUT_FOLDER", help="Holds the runs and the report.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Matrices to run on instead of the library.")
    ] = None,
    methods: Annotated[_Text, typer.Option("--methods", metavar="A,B,...", help="Methods to compare.")] = None,
    instances: Annotated[
        _Text, typer.Option("--instances", metavar="A,B,...", help="Instances of the library, or all.")
    ] = None,
    family: Annotated[_Text, typer.Option("--family", help="Only the library's instances of this family.")] = None,
    limits: Annotated[
        _Text, typer.Option("--time-limit", metavar="SECONDS,...", help="Time per run; several are runs apart.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs per method, instance and limit.", min=1)] = None,
    nm: Annotated[_Text, typer.Option("--nm", metavar="PATTERN", help="Pattern of the files' matrices; 2:4.")] = None,
    saliency: Annotated[_Text, typer.Option("--saliency", help="magnitude or energy, of the files' matrices.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Runs at a time, one core each; all cores.", min=1)] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Only make the report anew.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")] = False,
) -> None:
    """Compare methods on the instance library under equal time on one core each; write a report.

    The same command again goes on where a bench was stopped. OUT_FOLDER holds settings.json, runs.jsonl (a line per
    finished run), report.json and report.html.
    """
    from permsolve.bench import journal, runner
    from permsolve.report import html

    html.check()
    given = (files, methods, instances, family, limits, seeds, nm, saliency, jobs)
    if report_only:
        if any(value for value in given):
            raise InputError("--report-only takes everything from the folder; leave out the files and other options")
        settings = journal.read_settings(folder)
        _report(folder, settings, journal.read_runs(folder, settings), quiet)
        return
    settings = _settings(files or [], methods, instances, family, limits, seeds, nm, saliency, jobs)
    if not quiet:
        _announce(settings)
    try:
        with _progress(settings, quiet) as notify:
            records = runner.run(settings, folder, notify=notify)
    except KeyboardInterrupt:
        _report(folder, settings, journal.read_runs(folder, settings), quiet)
        typer.echo("permsolve: interrupted; the same command goes on from here", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    _report(folder, settings, records, quiet)


def _settings(
    files: list[Path],
    methods: _Text,
    instances: _Text,
    family: _Text,
    limits: _Text,
    seeds: int | None,
    nm: _Text,
    saliency: _Text,
    jobs: int | None,
) -> Settings:
    from permsolve.bench import plan

    if not files and (nm or saliency):
        raise InputError("--nm and --saliency are for matrices in files; the library's instances have their own")
    sources: list[Source] = []
    if instances or family or not files:
        names = None if instances in (None, "all") else _listed("--instances", instances or "")
        sources += plan.library_sources(names, family)
    sources += plan.file_sources(files, nm or "2:4", saliency or "magnitude")
    return plan.make_settings(
        sources,
        methods=None if methods is None else _listed("--methods", methods),
        limits=plan.LIMITS if limits is None else _numbers(limits),
        seeds=plan.SEEDS if seeds is None else seeds,
        jobs=jobs,
    )


def _listed(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"{option} names nothing; give names with commas between them")
    return names


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in _listed("--time-limit", text)]
    except ValueError:
        raise InputError(f"--time-limit {text!r} is not a list of seconds such as 0.1,1") from None


def _announce(settings: Settings) -> None:
    limits = ", ".join(f"{limit:g}" for limit in settings.limits)
    typer.echo(
        f"{settings.count():,} runs: {len(settings.methods)} methods x {len(settings.instances)} instances x "
        f"{len(settings.seeds)} seeds x {limits} s, {settings.jobs} at a time: at most about "
        f"{_duration(settings.seconds() + 0.1 * settings.count() / settings.jobs)}"
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


@contextmanager
def _progress(settings: Settings, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Provide what shows the number of finished runs, where a person is watching."""
    if quiet:
        yield None
        return
    told: list[int] = []

    def tell(finished: int) -> None:
        if finished and not told:
            typer.echo(f"going on: {finished:,} runs are there already")
        told.append(finished)

    if not sys.stderr.isatty():
        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("runs", total=settings.count())

        def show(finished: int) -> None:
            tell(finished)
            bars.update(task, completed=finished)

        yield show


def _report(folder: Path, settings: Settings, records: list[Record], quiet: bool) -> None:
    """Score everything again, write report.json and report.html, print the tables."""
    import json

    from rich.console import Console

    from permsolve.bench import tables
    from permsolve.bench.groups import kinds
    from permsolve.bench.records import KINDS
    from permsolve.bench.summary import summarise
    from permsolve.io import write_atomically
    from permsolve.report import html

    report = summarise(settings, records)
    write_atomically(folder / "report.json", json.dumps(report, allow_nan=False).encode() + b"\n")
    write_atomically(folder / "report.html", html.page(report).encode())
    if quiet:
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    present = kinds(report["instances"])
    for limit, kind in itertools.product(settings.limits, present):
        if any((group["limit"], group["kind"]) == (limit, kind) for group in report["groups"]):
            sizes = "All sizes" if len(present) == 1 else f"{KINDS[kind]}, all sizes"
            typer.echo(f"\n{sizes}, {limit:g} s on one core:")
            console.print(tables.overall(report, limit, kind))
            typer.echo(
                f"\nGap to the best known in %, by columns (instances), {limit:g} s on one core; * the method to take:"
            )
            console.print(tables.by_size(report, limit, kind))
    for note in tables.notes(report):
        typer.echo(note)
    typer.echo(f"report: {folder / 'report.html'}")
