"""``permsolve model``: permute a whole model, prove its outputs unchanged, prune it, write it."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from permsolve.errors import FileError, InputError, VerificationError

if TYPE_CHECKING:
    from torch import nn

    from permsolve.models import Group, Plan, Pruned, Report, Sparsified, Verification
    from permsolve.models.outputs import OutputFolder
    from permsolve.models.pretrained import Pretrained
    from permsolve.models.statefile import Loaded, StateFile

_FAILED = 1
_INTERRUPTED = 130
_REPORTS = ("report.json", "report.txt")
_SPARSE = "sparse"
_LOAD_SPARSE = f"permsolve.models.load_sparse_(model, '{_SPARSE}')"


@dataclass(frozen=True)
class _Request:
    """What the user asks for."""

    checkpoint: Path
    arch: str
    nm: str
    out: Path | None
    example: Path | None
    text: str | None
    method: str
    saliency: str
    time_limit: float | None
    seed: int
    gather: str | None
    prune: bool
    sparse: bool
    search: float | None
    jobs: int | None
    workers: int
    plan_only: bool
    quiet: bool

    def settings(self) -> dict[str, Any]:
        """Return what decides on the results; a run that only plans leaves open how to solve."""
        from permsolve.patterns import parse

        given = self.text if self.example is None else self.example.name
        found: dict[str, Any] = {
            "arch": self.arch if self.arch == "transformers" else self.arch.rpartition(":")[2],
            "nm": str(parse(self.nm)),
            "gather": self.gather,
            "example": "default" if given is None else given,
        }
        if not self.plan_only:
            names = ("method", "saliency", "time_limit", "seed", "prune", "search", "sparse")
            found |= {name: getattr(self, name) for name in names}
        return found


def model(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A state_dict (.safetensors, .pt, .pth, .bin), or a folder of transformers."
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            "--arch", help="transformers, or FILE.py:FUNCTION that returns a model, or a model and example inputs."
        ),
    ],
    nm: Annotated[
        str, typer.Option("--nm", metavar="PATTERN", help="2:4 keeps 2 of every 4; or 'hinm(32, 0.5, 2:4)'.")
    ] = "2:4",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Holds the new model and reports.")] = None,
    example: Annotated[
        Path | None, typer.Option("--example", metavar="FILE", help="Inputs to trace with: .pt or .safetensors.")
    ] = None,
    example_text: Annotated[
        str | None, typer.Option("--example-text", help="A sentence to trace with, for a folder with a tokenizer.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="See `permsolve methods`.")] = "auto",
    saliency: Annotated[str, typer.Option("--saliency", help="magnitude or energy.")] = "magnitude",
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="Time for all groups together.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    gather: Annotated[
        str | None,
        typer.Option(
            "--gather",
            metavar="norm|layer",
            help="norm: let norms gather their output's channels; layer: let each linear layer gather its input's.",
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Write the model pruned, not only permuted.")] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="With --prune: also write it compressed, into DIR/sparse.")
    ] = False,
    search: Annotated[
        float | None,
        typer.Option(
            "--search", metavar="SECONDS", help="With --prune, hinm: search columns of tiles that are not in the plan."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="THREADS", help="Threads; all cores by default.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="PROCESSES", help="Groups solved side by side; -1: one per core.")
    ] = 1,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Only find out what may be permuted.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table of the plan.")] = False,
) -> None:
    """Permute a whole model without changing its function, prove that, prune it, write it.

    The same command again goes on where one was stopped. DIR holds model.safetensors (dense; with the config and
    tokenizer of a transformers folder), plan.json, report.json, report.txt and, with --sparse, the folder sparse. The
    checkpoint is never changed.
    """
    ask = _Request(
        *(checkpoint, arch, nm, out, example, example_text, method, saliency, time_limit, seed),
        *(gather, prune, sparse, search, jobs, workers, plan_only, quiet),
    )
    _check(ask)
    progress: list[str] = []
    try:
        _work(ask, progress)
    except KeyboardInterrupt:
        kept = "the same command goes on from here" if progress else "nothing was written"
        typer.echo(f"permsolve: interrupted; {kept}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _check(ask: _Request) -> None:
    """Find out before the work what can be found out without the model."""
    from permsolve._solve import generator, threads
    from permsolve.dispatch import worker_count
    from permsolve.models.sides import side_of
    from permsolve.models.standing import check_search
    from permsolve.patterns import parse
    from permsolve.registry import make_solver
    from permsolve.saliency import resolve

    if ask.out is None and not ask.plan_only:
        raise InputError("--out names the folder for the new model; give it, or --plan-only")
    pattern = side_of(parse(ask.nm)).pattern
    check_search(ask.search, pattern)
    if ask.search is not None and not ask.prune:
        raise InputError("--search is for the columns that pruning keeps: it needs --prune")
    if ask.sparse and not ask.prune:
        raise InputError("--sparse writes the pruned model compressed: it needs --prune")
    make_solver(ask.method, None)
    resolve(ask.saliency)
    threads(ask.jobs)
    worker_count(ask.workers)
    generator(ask.seed)
    if ask.time_limit is not None and not 0 < ask.time_limit < math.inf:
        raise InputError(f"--time-limit {ask.time_limit:g} must be a positive number of seconds")
    if ask.gather not in (None, "norm", "layer"):
        raise InputError(f"--gather {ask.gather!r} must be norm or layer")
    if ask.text is not None and ask.arch != "transformers":
        raise InputError("--example-text needs --arch transformers; give inputs by --example")
    if ask.text is not None and ask.example is not None:
        raise InputError("--example-text and --example exclude each other")


def _work(ask: _Request, progress: list[str]) -> None:
    """Do everything; ``progress`` is no longer empty when there is something to go on from."""
    from permsolve import models
    from permsolve.models import checkpoints, outputs, pretrained, statefile, verification

    started = time.perf_counter()
    source: Pretrained | StateFile = (
        pretrained.Pretrained(ask.checkpoint, ask.text)
        if ask.arch == "transformers"
        else statefile.StateFile(ask.checkpoint, ask.arch)
    )
    folder = plan = None
    given = None if ask.example is None else checkpoints.read_example(ask.example)
    if ask.out is not None:
        files = source.files | ({} if ask.example is None else {"example": ask.example})
        sha256 = checkpoints.fingerprints(files)
        folder = outputs.OutputFolder(ask.out, ask.checkpoint, sha256, ask.settings())
        if folder.finished and not ask.plan_only:
            typer.echo(f"finished already: {ask.out / checkpoints.WEIGHTS}; name another --out, or delete {ask.out}")
            return
        plan = folder.plan()
        progress += ["planned"] if plan is not None else []
    loaded = source.load(given)
    if loaded.unused:
        typer.echo(
            f"permsolve: {len(loaded.unused)} tensors of the checkpoint are not the model's and are left out "
            f"({checkpoints.listing(loaded.unused)})",
            err=True,
        )
    if plan is None:
        plan = models.analyze(loaded.model, loaded.example, ask.nm, gather=ask.gather)
    else:
        plan.check(loaded.model)
    analysed = time.perf_counter()
    if not ask.plan_only:
        # A model that cannot be verified, solved or pruned is refused before anything is written.
        outcome = verification.run(loaded.model, loaded.example, double=verification.fits_double(loaded.model))
        verification.compare(outcome, outcome)
        _check_solvable(ask, plan, loaded)
    if ask.plan_only or not ask.quiet:
        typer.echo(str(plan))
    if folder is None:
        return
    with folder.claim():
        plan.save(folder.path / outputs.PLAN)
        progress.append("planned")
        if ask.plan_only:
            typer.echo(f"plan        {folder.path / outputs.PLAN}")
            return
        _solve(ask, plan, loaded, folder)
        times = {"loading and analysis": analysed - started, "solve": _spent(plan)}
        _finish(ask, source, plan, loaded, folder, times)


def _check_solvable(ask: _Request, plan: Plan, loaded: Loaded) -> None:
    from permsolve import models
    from permsolve.errors import UnsupportedProblemError
    from permsolve.models import sparsify
    from permsolve.registry import make_solver

    if ask.prune:
        listed = models.weights(loaded.model, None, ask.nm)
        if all(weight.reason is not None for weight in listed):
            reasons = "".join(f"; {weight.path}: {weight.reason}" for weight in listed[:3])
            raise InputError(f"--prune: no weight of the model can be pruned to {ask.nm}{reasons}")
    if ask.sparse:
        sparsify.check_compressible(loaded.model, ask.nm)
    _, solver = make_solver(ask.method, None)
    for group in plan.groups:
        if group.result is not None and group.fingerprint(loaded.model) != group.result.fingerprint:
            raise InputError(f"group {group.name!r} of plan.json was solved for other weights; name a new --out")
        if group.solution is None:
            for _, part in group.problem(loaded.model, ask.saliency).parts():
                reason = solver.refusal(part)
                if reason is not None:
                    raise UnsupportedProblemError(
                        f"method {ask.method!r} does not support group {group.name!r}: {reason}"
                    )


def _spent(plan: Plan) -> float:
    return sum(group.result.runtime for group in plan.groups if group.result is not None)


def _solve(ask: _Request, plan: Plan, loaded: Loaded, folder: OutputFolder) -> None:
    from permsolve.models.outputs import PLAN

    done = sum(group.solution is not None for group in plan.groups)
    if done and not ask.quiet:
        typer.echo(f"going on: {done} of {len(plan.groups)} groups are solved already")
    # The limit is for all groups, those that an earlier run has solved among them.
    left = None if ask.time_limit is None else max(ask.time_limit - _spent(plan), 0.01)
    plan.solve(
        loaded.model,
        method=ask.method,
        saliency=ask.saliency,
        time_limit=left,
        seed=ask.seed,
        n_jobs=ask.jobs,
        workers=ask.workers,
        display=False if ask.quiet else None,
        save=folder.path / PLAN,
    )


def _finish(
    ask: _Request,
    source: Pretrained | StateFile,
    plan: Plan,
    loaded: Loaded,
    folder: OutputFolder,
    times: dict[str, float],
) -> None:
    """Apply, verify, prune, write."""
    from permsolve import models
    from permsolve.models import checkpoints
    from permsolve.models.outputs import PLAN

    begun = time.perf_counter()
    try:
        verified = plan.apply_(loaded.model, example_inputs=loaded.example)
    except VerificationError as error:
        typer.echo(f"permsolve: check failed: {error}; no model was written", err=True)
        raise typer.Exit(_FAILED) from None
    assert verified is not None
    typer.echo(str(verified))
    pruned = None
    if ask.prune:
        pruned = models.prune_(loaded.model, ask.nm, plan=plan, search=ask.search, saliency=ask.saliency)
    original = source.load(loaded.example).model
    try:
        retained = models.report(loaded.model, ask.nm, before=original, plan=plan, pruned=pruned, saliency=ask.saliency)
    except InputError:  # no weight of this model can be of the pattern
        retained = None
    del original
    if retained is not None:
        typer.echo(_headline(retained))
    with folder.staged() as stage:
        code = source.write(loaded.model, stage, indices=any(group.indices for group in plan.groups))
        compressed = None if not ask.sparse else _write_sparse(loaded.model, plan, pruned, stage)
        times["apply, verify, write"] = time.perf_counter() - begun
        written = [file.relative_to(stage).as_posix() for file in sorted(stage.rglob("*")) if file.is_file()]
        written += [PLAN, *_REPORTS]
        document = {
            "schema": "permsolve.model/1",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **folder.about(),
            "versions": _versions(),
            "model": {"class": plan.model, "parameters": plan.parameters, "gaining": plan.gaining},
            "groups": [_group(group) for group in plan.groups],
            "frozen": [{"name": each.name, "axis": each.axis, "reason": each.reason} for each in plan.frozen],
            "verification": asdict(verified),
            "retained": None if retained is None else retained.to_dict(),
            "pruned": None if pruned is None else list(pruned),
            "compressed": None if compressed is None else _compressed(compressed),
            "left_out": sorted(source.names - checkpoints.names_in(stage / checkpoints.WEIGHTS)),
            "seconds": {name: round(seconds, 3) for name, seconds in times.items()},
            "files": written,
            "load": code,
        }
        text = _text(ask, document, plan, verified, retained, compressed)
        try:
            (stage / _REPORTS[0]).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            (stage / _REPORTS[1]).write_text(text, encoding="utf-8")
        except OSError as error:
            raise FileError(stage, f"cannot be written: {error.strerror or error}") from error
    folder.finish(written)
    what = "permuted" if pruned is None else f"permuted, {len(pruned)} weights pruned to {ask.nm}"
    typer.echo(f"model       {folder.path / checkpoints.WEIGHTS} ({what})")
    if compressed is not None:
        share = f"{100 * compressed.bytes / compressed.dense_bytes:.1f} % of the bytes"
        typer.echo(f"compressed  {folder.path / _SPARSE} ({len(compressed)} weights, {share})")
    typer.echo(f"plan        {folder.path / PLAN}")
    typer.echo(f"report      {', '.join(str(folder.path / name) for name in _REPORTS[::-1])}")


def _write_sparse(model: nn.Module, plan: Plan, pruned: Pruned | None, stage: Path) -> Sparsified:
    """Compress the model and write it, in the widest type that the checkpoint has."""
    import torch
    from safetensors import safe_open

    from permsolve.models import checkpoints, save_sparse, sparsify_

    compressed = sparsify_(model, plan, pruned=pruned)
    with safe_open(stage / checkpoints.WEIGHTS, framework="pt") as archive:
        kinds = {archive.get_tensor(name).dtype for name in archive.keys()}  # noqa: SIM118 (no mapping)
    floating = [kind for kind in kinds if kind.is_floating_point]
    if floating:
        model.to(functools.reduce(torch.promote_types, floating))
    save_sparse(model, stage / _SPARSE, plan=plan)
    return compressed


def _compressed(compressed: Sparsified) -> dict[str, Any]:
    return {
        "weights": [asdict(weight) for weight in compressed.weights],
        "left_out": compressed.left_out,
        "folder": _SPARSE,
        "load": _LOAD_SPARSE,
    }


def _headline(retained: Report) -> str:
    total = retained.total
    shares = [math.nan if each is None else each for each in (total.retained_before, total.retained, total.ceiling)]
    before, after, most = (f"{100 * share:.3f} %" for share in shares)
    return f"{retained.nm} keeps {after} of the {retained.saliency}, unpermuted {before}, in any order at most {most}"


def _group(group: Group) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": group.name,
        "blocks": list(group.blocks),
        "rows": group.rows,
        "cols": group.cols,
        "consumers": [each.name for each in group.consumers],
        "makers": [each.name for each in group.makers],
        "producers": list(group.producers),
        "followers": list(group.followers),
        "indices": list(group.indices),
    }
    result = group.result
    if result is not None:
        figures = ("efficacy", "score", "baseline", "rows_bound", "bound", "bound_kind", "method", "runtime")
        about |= {name: getattr(result, name) for name in figures} | {"status": result.status.value}
    return about


def _versions() -> dict[str, str]:
    from importlib import metadata

    from permsolve.bench.machine import versions

    found = versions()
    for package in ("safetensors", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _text(
    ask: _Request,
    document: dict[str, Any],
    plan: Plan,
    verified: Verification,
    retained: Report | None,
    compressed: Sparsified | None,
) -> str:
    """Return the report for people."""
    done = "permuted" if document["pruned"] is None else f"permuted and pruned to {ask.nm}"
    pairs = {
        "checkpoint": document["checkpoint"],
        **{f"sha256 of {name}": digest for name, digest in document["sha256"].items()},
        **{name.replace("_", " "): "none" if value is None else value for name, value in document["settings"].items()},
        **{name: version for name, version in document["versions"].items()},
        **{f"seconds of {name}": f"{seconds:.1f}" for name, seconds in document["seconds"].items()},
    }
    width = max(map(len, pairs))
    parts = [
        f"{plan.model}, {done}, {document['made']}",
        str(plan),
        f"Before and after the permutation (nothing pruned yet): {verified}",
    ]
    if retained is not None:
        parts.append(f"{_headline(retained)}\n\n{retained}")
    if document["left_out"]:
        names = "\n".join(document["left_out"])
        parts.append(
            f"Tensors of the checkpoint that are not in the new one: the model does not use them, or calls them "
            f"otherwise:\n{names}"
        )
    parts.append(f"To load it, in this folder:\n\n{document['load']}")
    if compressed is not None:
        parts.append(f"{compressed}\n\nTo load it into a fresh, dense model, in this folder:\n\n{_LOAD_SPARSE}")
    parts.append("\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs.items()))
    return "\n\n".join(parts) + "\n"
