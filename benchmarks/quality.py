"""Model quality: what saliencies, permutations, updates and recipes do to real pruned models.

``python benchmarks/quality.py --text FILE [--tasks ...] [--parts ...] [--seeds N] [--cache FOLDER]``. Tasks:

digits_mlp, digits_cnn   classifiers of scikit-learn's digits, another dense net for every seed
gpt                      a character model of 0.8 million parameters of the text; one dense net, seeds vary the rest
minilm                   the sentence encoder all-MiniLM-L6-v2; seeds vary calibration and search

Parts of the table, each a product:

saliencies   every saliency x no permutation, RIA's, ours; 2:4, 4:8, 1:4, nothing else done
updates      magnitude (and wanda) x permutations x none, sparsegpt, refit, refit+dense+swap; 2:4 and 1:4
learned      wanda x learned permutations, from the identity and from ours; 2:4 and 1:4
recipes      every recipe of permsolve.training, with and without our permutation; 2:4 and 1:4

Every finished cell is a line of a file in the cache folder: a repeated run does only what is missing, and processes
with different tasks may share the folder. What is pruned are all linear layers and convolutions (of the encoder those
of its blocks), the classifier included; a weight whose number of input channels m does not divide stays dense.
``--summarise`` makes the tables, the JSON and the picture of what is there.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

from common import RESULTS
from quality_cells import Bench, Way, grid
from quality_summary import Done, write
from quality_tasks import NAMES, build

from permsolve.errors import PermsolveError

#: Seeds of each task in the time that a whole run may take, about 40 minutes.
SEEDS = {"digits_mlp": 5, "digits_cnn": 5, "gpt": 3, "minilm": 1}
PARTS = ("saliencies", "updates", "learned", "recipes")


def finished(journal: Path) -> Done:
    """Return the figures in a journal by way and seed; of what was done twice the later ones hold."""
    if not journal.exists():
        return {}
    done: Done = {}
    for text in journal.read_text().splitlines():
        try:
            line = json.loads(text)
            done[Way(**line["way"]), line["seed"]] = line["figures"]
        except ValueError:  # an empty line, or one that a killed run left half written
            continue
    return done


def run(cells: list[tuple[Way, int]], journal: Path, cache: Path, text: Path | None) -> None:
    """Carry out ways and seeds that the journal lacks."""
    done = finished(journal)
    missing = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(missing)} to do", flush=True)
    journal.parent.mkdir(parents=True, exist_ok=True)
    bench: Bench | None = None
    for k, (way, seed) in enumerate(missing):
        if bench is None or (bench.task.name, bench.task.seed) != (way.task, seed):
            bench = Bench(build(way.task, seed, cache, text), cache / "plans")
        title = f"[{k + 1}/{len(missing)}] {' '.join(way)} {seed}"
        start = time.perf_counter()
        try:
            figures = bench.measure(way)
        except PermsolveError as error:  # one cell that cannot be done is no reason to lose the others
            print(f"{title}: {type(error).__name__}: {error}", flush=True)
            continue
        with journal.open("a") as file:
            file.write("\n" + json.dumps({"way": way._asdict(), "seed": seed, "figures": figures}))
        seconds = time.perf_counter() - start
        print(f"{title}: loss {figures['loss']:.4f}, mse {figures['mse']:.4g} ({seconds:.1f} s)", flush=True)


def main() -> None:
    """Run the cells, then summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the text that the task gpt learns")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, help=f"of every task; by default {SEEDS}")
    for field in ("nm", "saliency", "permutation", "update", "recipe"):
        parser.add_argument(f"--{field}", nargs="+", default=[], help=f"only these values of {field}")
    parser.add_argument("--cache", type=Path, default=Path("out/quality"), help="dense models, plans, finished cells")
    parser.add_argument("--summarise", action="store_true", help="carry out nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    parser.add_argument("--plot", type=Path, help="a picture of the part `updates`")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    journal = args.cache / "cells.jsonl"
    only = {field: getattr(args, field) for field in ("nm", "saliency", "permutation", "update", "recipe")}
    if not args.summarise:
        cells = [
            (way, seed)
            for task in args.tasks
            for seed in range(args.seeds or SEEDS[task])
            for way in grid(args.parts, task, only)
        ]
        run(cells, journal, args.cache, args.text)
    write(finished(journal), args.out, args.plot)


if __name__ == "__main__":
    main()
