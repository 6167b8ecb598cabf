"""What instances the library has; this file and the bests found since make the index.

``python -m permsolve.instances.families CHECKOUT`` writes a checkout's index anew: instances that this file defines and
the index lacks are added, what is known of the others stays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from permsolve._version import __version__
from permsolve.errors import PermsolveError
from permsolve.patterns import NM, VNM, HiNM, Pattern, parse
from permsolve.problem import Problem

from . import generators, info
from .entries import INDEX, Best, Entry, read_index, write_index
from .sources import checksum, draw, generate

SALIENCY = "magnitude"
#: Licence of matrices that the project's own generators draw.
LICENCE = "Apache-2.0"

# Sizes are (rows, cols); each instance is drawn with seed 1 unless more seeds are named.
_UNIFORM = (
    *((32, 16), (16, 32), (64, 32), (128, 32), (32, 64), (64, 64), (128, 64)),
    *((64, 128), (128, 128), (256, 128), (64, 256), (128, 256), (256, 256), (64, 512)),
)
# Sizes with published or earlier results over several seeds.
_UNIFORM_SEEDS = {(32, 16): range(5), (128, 64): range(1, 6)}
_UNIFORM_OTHER = (
    *(("1:2", 64, 64), ("1:2", 256, 1024), ("1:4", 64, 32), ("1:4", 128, 64), ("3:4", 64, 32)),
    *(("2:8", 32, 16), ("2:8", 64, 64), ("4:8", 64, 32), ("4:8", 128, 128)),
)
_NORMAL = (("2:4", 64, 16), ("2:4", 128, 32), ("2:4", 128, 64), ("2:4", 128, 128), ("2:4", 256, 256), ("1:4", 64, 32))
_LOGNORMAL = (
    *(("2:4", 64, 16), ("2:4", 128, 32), ("2:4", 256, 64), ("2:4", 256, 128), ("2:4", 256, 256), ("2:4", 512, 512)),
    ("4:8", 128, 64),
)
_HEAVY_TAILS = (
    ("2:4", 64, 16),
    ("2:4", 64, 32),
    ("2:4", 64, 64),
    ("2:4", 128, 128),
    ("2:4", 128, 256),
    ("1:4", 64, 64),
)
_PLANTED = (("2:4", 32, 16), ("2:4", 64, 64), ("2:4", 128, 128), ("2:4", 256, 256), ("4:8", 64, 64), ("4:8", 128, 128))
_SPARSE = (
    *((0.5, "2:4", 64, 16), (0.5, "2:4", 128, 32), (0.5, "2:4", 128, 64), (0.5, "2:4", 256, 128)),
    *((0.7, "2:4", 64, 16), (0.7, "2:4", 128, 32), (0.7, "2:4", 128, 64), (0.7, "2:4", 256, 256)),
)
_DUPLICATED = ((2, "2:4", 64, 32), (2, "2:4", 64, 64), (4, "2:4", 64, 128))
_REAL = (
    *(("2:4", "digits_cnn_conv2"), ("2:4", "digits_cnn_conv3"), ("2:4", "digits_cnn_conv4_1x1")),
    *(("2:4", "digits_cnn_conv5"), ("2:4", "digits_mlp_input"), ("2:4", "digits_mlp_hidden")),
    *(("2:4", "minilm_l0_attention_output"), ("2:4", "minilm_l4_attention_value")),
    *(("1:4", "digits_cnn_conv5"), ("1:4", "digits_cnn_conv2"), ("4:8", "minilm_l4_attention_value")),
)
#: Family of the instances whose pattern permutes rows, too.
HIERARCHICAL = "hierarchical"
# The settings of published results, and one instance of each pattern that is small.
_HIERARCHICAL = (
    *(("hinm(32, 0.5, 2:4)", 256, 256), ("hinm(64, 0.5, 2:4)", 256, 256), ("hinm(32, 0.75, 2:4)", 256, 256)),
    *(("16:2:8", 256, 256), ("64:2:8", 256, 256), ("transposable(2:4)", 256, 256)),
    *(("hinm(16, 0.5, 2:4)", 64, 64), ("16:2:8", 64, 64), ("transposable(2:4)", 64, 64)),
)
_CLUSTERS = ((32, "hinm(32, 0.5, 2:4)", 256, 256), (16, "hinm(16, 0.5, 2:4)", 64, 64))
# Rows must be output channels: no convolutions but those of 1 x 1.
_HIERARCHICAL_REAL = (
    *(("hinm(32, 0.5, 2:4)", "digits_mlp_hidden"), ("hinm(32, 0.5, 2:4)", "minilm_l0_attention_output")),
    *(("16:2:8", "digits_cnn_conv4_1x1"), ("64:2:8", "minilm_l4_attention_value")),
    *(("transposable(2:4)", "digits_mlp_hidden"),),
)


class Definition(NamedTuple):
    """What makes an instance: everything else in the index follows from it."""

    name: str
    family: str
    shape: tuple[int, int]
    pattern: Pattern
    source: dict[str, int | float | str]
    licence: str = LICENCE


def definitions() -> tuple[Definition, ...]:
    """List the instances of the library.

    Returns
    -------
    tuple of Definition
        In the order of the index.
    """
    return (*_generated(), *_real(), *_hierarchical())


def fresh(definition: Definition) -> Entry:
    """Make the entry of an instance of which nothing has been searched for yet.

    Parameters
    ----------
    definition
        The instance.

    Returns
    -------
    Entry
        With its checksum, baseline and rows bound, and the solution that its generator has hidden, if that is not
        optimal (then any search finds and proves it).
    """
    matrix = draw(definition.source, definition.shape)
    problem = Problem.of(matrix, definition.pattern, saliency=SALIENCY)
    return Entry(
        name=definition.name,
        family=definition.family,
        shape=definition.shape,
        pattern=definition.pattern,
        saliency=SALIENCY,
        source=definition.source,
        licence=definition.licence,
        sha256=checksum(matrix),
        baseline=problem.baseline,
        rows_bound=problem.rows_bound,
        best=_hidden(definition, problem),
        bound=problem.rows_bound,
        bound_kind="rows",
        certificate=None,
    )


def extend(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Bring an index up to the definitions.

    Parameters
    ----------
    entries
        The index as it is.

    Returns
    -------
    tuple of Entry
        The instances defined here, then those that are not. What was known of an instance stays, unless its
        definition now gives another matrix or pattern.
    """
    known = {entry.name: entry for entry in entries}
    made = []
    for definition in definitions():
        entry, old = fresh(definition), known.pop(definition.name, None)
        if old is not None and _same(old, entry):
            entry = replace(
                entry, best=old.best, bound=old.bound, bound_kind=old.bound_kind, certificate=old.certificate
            )
        made.append(entry)
    return (*made, *known.values())


def _hidden(definition: Definition, problem: Problem) -> Best | None:
    """Return the solution with a generator's clusters as tiles; columns stay as they are."""
    pattern = definition.pattern
    if "stored" in definition.source or not isinstance(pattern, HiNM):
        return None
    hidden = generate(definition.source, definition.shape)
    if not isinstance(hidden, generators.Clusters):
        return None
    return Best.of(problem, pattern.choose(problem, hidden.rows), "planted", __version__)


def _same(one: Entry, other: Entry) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("sha256", "shape", "pattern", "saliency"))


def _generated() -> Iterator[Definition]:
    for rows, cols in _UNIFORM:
        for seed in _UNIFORM_SEEDS.get((rows, cols), (1,)):
            yield _drawn("uniform", "2:4", rows, cols, seed=seed)
    for nm, rows, cols in _UNIFORM_OTHER:
        yield _drawn("uniform", nm, rows, cols)
    for family, sizes in (("normal", _NORMAL), ("lognormal_columns", _LOGNORMAL), ("heavy_tails", _HEAVY_TAILS)):
        for nm, rows, cols in sizes:
            yield _drawn(family, nm, rows, cols)
    for nm, rows, cols in _PLANTED:
        pattern = NM.parse(nm)
        yield _drawn("planted", nm, rows, cols, n=pattern.n, m=pattern.m)
    for sparsity, nm, rows, cols in _SPARSE:
        yield _drawn("unstructured_sparse", nm, rows, cols, f"_{100 * sparsity:.0f}pc", sparsity=sparsity)
    for copies, nm, rows, cols in _DUPLICATED:
        yield _drawn("duplicated_columns", nm, rows, cols, f"_x{copies}", copies=copies)


def _drawn(
    generator: str,
    nm: str,
    rows: int,
    cols: int,
    variant: str = "",
    *,
    seed: int = 1,
    family: str | None = None,
    **arguments: float,
) -> Definition:
    """Define a generated instance; everything that tells it from others is in its name."""
    pattern = parse(nm)
    name = f"{generator}{variant}_{rows}x{cols}_{_short(pattern)}_s{seed}"
    source: dict[str, int | float | str] = {"generator": generator, "seed": seed, **arguments}
    return Definition(name, family or generator, (rows, cols), pattern, source)


def _real() -> Iterator[Definition]:
    for nm, stored in _REAL:
        yield _stored(nm, stored, "real")


def _stored(nm: str, stored: str, family: str) -> Definition:
    about, pattern = info(stored), parse(nm)
    return Definition(f"{stored}_{_short(pattern)}", family, about.shape, pattern, {"stored": stored}, about.licence)


def _hierarchical() -> Iterator[Definition]:
    for nm, rows, cols in _HIERARCHICAL:
        yield _drawn("normal", nm, rows, cols, family=HIERARCHICAL)
    for vector, nm, rows, cols in _CLUSTERS:
        yield _drawn("row_clusters", nm, rows, cols, family=HIERARCHICAL, vector=vector)
    for nm, stored in _HIERARCHICAL_REAL:
        yield _stored(nm, stored, HIERARCHICAL)


def _short(pattern: Pattern) -> str:
    """Return a pattern as a part of a name: ``2of4``, ``hinm32_50pc_2of4``, ``vnm16_2of8``, ``transposable_2of4``."""
    kept = f"{pattern.n}of{pattern.m}"
    if isinstance(pattern, HiNM):
        return f"hinm{pattern.vector}_{100 * pattern.vector_sparsity:.0f}pc_{kept}"
    if isinstance(pattern, VNM):
        return f"vnm{pattern.vector}_{kept}"
    return kept if isinstance(pattern, NM) else f"{pattern.kind}_{kept}"


def main() -> int:
    """Write the index of the checkout that the command line names."""
    from .updates import locate

    if len(sys.argv) != 2:
        print("usage: python -m permsolve.instances.families CHECKOUT", file=sys.stderr)
        return 2
    try:
        path = locate(Path(sys.argv[1]), new=True)
        old = read_index(path) if path.exists() else ()
        entries = extend(old)
        write_index(path, entries)
    except PermsolveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {len(entries)} instances, {len(entries) - len(old)} of them new; {INDEX} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
