"""Products of compressed weights with few vectors on a CPU, against the dense products of NumPy and torch.

Run ``python benchmarks/sparse_cpu.py [--only vector batch small half] [--threads 1 2]``. Every thread count is a
process of its own, since BLAS libraries read theirs at the start. Contenders take turns, figures are first quartiles
over rounds, since other processes disturb. Weights rotate through copies that exceed the last-level cache, as the
layers of a model do; "small" layers are measured warm, too. Weights are normal, permutations random. "read" is the
bandwidth of summing an array that no cache holds, with as many threads, measured beside each case.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Row, record

OUT = RESULTS / "sparse_cpu.json"
#: Bytes that the copies of a contender's weights take together.
COLD = 192 << 20
#: Patterns of 50, 75 and 87.5 % sparsity.
PATTERNS = ("2:4", "1:4", "4:16", "64:2:8", "hinm(32, 0.5, 2:4)", "hinm(64, 0.5, 2:4)", "1:8")
SIZES = ((4096, 4096), (11008, 4096), (4096, 11008))
SMALL = ((384, 384), (1536, 384), (384, 1536))


@functools.lru_cache(maxsize=1)
def compressed(rows: int, cols: int, pattern: str, dtype: str = "float32") -> Any:
    """Return compressed normal weights under a random solution."""
    import torch

    from permsolve import Problem, patterns
    from permsolve.sparse import compress

    weight = np.random.default_rng(0).standard_normal((rows, cols)).astype(np.float32)
    chosen = patterns.parse(pattern)
    solution = chosen.draw(Problem.of(np.abs(weight), chosen), np.random.default_rng(1))
    return compress(torch.from_numpy(weight).to(getattr(torch, dtype)), chosen, solution)


def copies(make: Callable[[], Any], nbytes: int, cold: bool) -> list[Any]:
    """Return as many copies as no cache holds, or one."""
    return [make() for _ in range(-(-COLD // nbytes) + 1 if cold else 1)]


def contenders(weights: Any, x: Any, cold: bool) -> dict[str, list[Callable[[], Any]]]:
    """Return what is compared: for each name one call per copy of the weights."""
    import torch

    from permsolve.sparse import cpu

    dense = weights.to_dense()
    many = copies(dense.clone, dense.nbytes, cold)
    calls: dict[str, list[Callable[[], Any]]] = {"torch": [lambda w=w: torch.nn.functional.linear(x, w) for w in many]}
    if weights.dtype == torch.float32:
        one = len(x) == 1
        arrays = [w.numpy() for w in many]
        vectors = x.numpy()[0] if one else x.numpy()
        calls["numpy"] = [(lambda w=w: w @ vectors) if one else (lambda w=w: vectors @ w.T) for w in arrays]

    def another() -> Any:
        return dataclasses.replace(weights, values=weights.values.clone())

    sparse = copies(another, cpu.layout_of(weights).nbytes, cold)
    calls["sparse"] = [lambda w=w: cpu.matmul(x, w) for w in sparse]
    reference = x.double() @ dense.double().T
    error = float((calls["sparse"][0]().double() - reference).abs().max() / reference.abs().max())
    if not error < (1e-5 if weights.dtype == torch.float32 else 2e-2):
        raise SystemExit(f"wrong product: {weights.pattern} of {weights.shape}, error {error:.1e}")
    for each in calls.values():
        for call in each:  # layouts are made, pages touched
            call()
    return calls


def race(calls: dict[str, list[Callable[[], Any]]], seconds: float) -> dict[str, float]:
    """Return the first quartile of the seconds of a call, contenders taking turns."""
    per_turn = {}
    for name, each in calls.items():
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            for call in each:
                call()
            rounds.append((time.perf_counter() - start) / len(each))
        per_turn[name] = max(int(5e-3 / min(rounds)), 1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    places = dict.fromkeys(calls, 0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, each in calls.items():
            turn = [each[(places[name] + k) % len(each)] for k in range(per_turn[name])]
            places[name] += per_turn[name]
            start = time.perf_counter()
            for call in turn:
                call()
            times[name].append((time.perf_counter() - start) / len(turn))
    return {name: float(np.quantile(each, 0.25)) for name, each in times.items()}


def bandwidth(threads: int) -> float:
    """Return bytes per second of summing an array that no cache holds."""
    from permsolve.kernels._jit import compiled

    def summed(array):  # type: ignore[no-untyped-def]
        total = np.float32(0)
        for k in range(array.shape[0]):
            total += array[k]
        return total

    kernel = compiled(summed)
    array = np.ones(COLD // 4, dtype=np.float32)
    parts = np.array_split(array, threads)
    kernel(parts[0][:16])
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(kernel, parts))
            best = min(best, time.perf_counter() - start)
    return float(array.nbytes / best)


def compare(shape: tuple[int, int], pattern: str, vectors: int, threads: int, seconds: float, **more: Any) -> Row:
    """Measure one case."""
    import torch

    from permsolve.sparse import cpu

    dtype, cold = more.get("dtype", "float32"), more.get("cold", True)
    weights = compressed(*shape, pattern, dtype)
    x = torch.randn(vectors, shape[1], generator=torch.Generator().manual_seed(0)).to(weights.dtype)
    took = race(contenders(weights, x, cold), seconds)
    best = min(value for name, value in took.items() if name != "sparse")
    layout = cpu.layout_of(weights).nbytes
    return {
        "weights": f"{shape[0]}x{shape[1]}",
        "pattern": pattern,
        "type": dtype,
        "vectors": vectors,
        "cache": "cold" if cold else "warm",
        "threads": threads,
        **{f"{name} us": 1e6 * value for name, value in took.items()},
        "speed-up": best / took["sparse"],
        "bytes of dense": layout / (shape[0] * shape[1] * weights.values.element_size()),
        "sparse GB/s": layout / took["sparse"] / 1e9,
        "read GB/s": bandwidth(threads) / 1e9,
    }


def vector(threads: int, seconds: float) -> list[Row]:
    """One vector, large layers."""
    cases = [(SIZES[0], pattern) for pattern in PATTERNS]
    cases += [(shape, pattern) for shape in SIZES[1:] for pattern in ("2:4", "1:4", "hinm(32, 0.5, 2:4)")]
    return [compare(shape, pattern, 1, threads, seconds) for shape, pattern in cases]


def batch(threads: int, seconds: float) -> list[Row]:
    """Several vectors."""
    return [
        compare((4096, 4096), pattern, vectors, threads, seconds)
        for pattern in ("2:4", "1:4", "hinm(32, 0.5, 2:4)")
        for vectors in (2, 4, 8, 16, 64, 256)
    ]


def small(threads: int, seconds: float) -> list[Row]:
    """One vector, the layers of a small encoder."""
    return [
        compare(shape, pattern, 1, threads, seconds, cold=cold)
        for shape in SMALL
        for pattern in ("2:4", "1:4", "hinm(32, 0.5, 2:4)")
        for cold in (False, True)
    ]


def half(threads: int, seconds: float) -> list[Row]:
    """One vector, half types."""
    return [
        compare((4096, 4096), pattern, 1, threads, seconds, dtype=dtype)
        for dtype in ("bfloat16", "float16")
        for pattern in ("2:4", "1:4", "hinm(32, 0.5, 2:4)")
    ]


SECTIONS = {each.__name__: each for each in (vector, batch, small, half)}


def main() -> None:
    """Run the chosen sections, each thread count in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="time of each case")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        import torch

        torch.set_num_threads(given.threads[0])
        for name in given.only:
            record(given.out, f"{name}-{given.threads[0]}", SECTIONS[name](given.threads[0], given.seconds))
        return
    for threads in given.threads:
        count = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
        command = [sys.executable, __file__, "--child", "--only", *given.only, "--threads", str(threads)]
        command += ["--seconds", str(given.seconds), "--out", str(given.out)]
        subprocess.run(command, env=os.environ | count, check=True)


if __name__ == "__main__":
    main()
