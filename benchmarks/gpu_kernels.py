"""The sparse kernels on a GPU: checks every one of them, then measures them against dense products and the device.

``python benchmarks/gpu_kernels.py [--quick] [--out FILE]`` on a machine with a CUDA device; under eight minutes; needs
numpy, numba, torch and triton only, and no data. ``--interpret`` runs everything but the clocks, on tiny sizes, in
Triton's interpreter on the CPU. Exit codes: 0 done, 1 a check failed, 2 no device. Sections of the JSON and the tables:

checks       every kernel in every shape that it is tuned over, against float64; the same result twice; CUDA graphs
roofline     what the device does: a copy, a dense product
decode       1, 4 and 16 vectors: time, speed-up over torch's dense product, bytes/s against the copy
permutation  what a random permutation costs over none
prefill      2,048 vectors: time, speed-up, FLOP/s against the dense product
search       the checks of ``gpu_search.py``, and what its kernels reach on one matrix

Weights take turns from buffers that together exceed the second-level cache three times, launches of one case are one
CUDA graph, and both sides of a ratio are timed in turns: figures are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import gpu_search as search  # before torch and triton: it reads --interpret
import numpy as np

try:
    import torch

    from permsolve.patterns import VNM, HiNM, Pattern, parse
    from permsolve.sparse import on_device
    from permsolve.sparse.compressed import Compressed, slots_of, width_of
    from permsolve.sparse.triton.layouts import layout_of
except ModuleNotFoundError as error:
    sys.exit(print(f"gpu_kernels: needs {error.name}; on Linux: pip install 'permsolve[gpu]'", file=sys.stderr) or 2)

Row = dict[str, Any]
Calls = list[Callable[[], torch.Tensor]]
RESULTS = Path(__file__).parent / "results" / "gpu_kernels.json"
DEVICE = search.DEVICE
TINY = DEVICE == "cpu"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
#: Largest relative error (Frobenius norm) allowed: roundings of the output; the interpreter truncates bfloat16.
ALLOWED = {"fp16": 6e-4, "bf16": 8e-3 if TINY else 4e-3, "fp32": 5e-6}
#: Saliency whose gain matrix is timed; `gpu_search.py` has more sizes, descents and annealing.
SEARCHED = (2048, 4096)
SHAPES = [(8192, 8192), (11008, 4096), (4096, 11008)]
TURNS, LAUNCHES = 15, 8
#: Seconds after which no further case is begun.
BUDGET = 440.0
START = time.perf_counter()


# --- weights ----------------------------------------------------------------------------------------------------------


def pack(places: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack numbers below 2^bits into bytes, on the device."""
    per_byte = 8 // bits
    rows, count = places.shape
    padded = places.new_zeros((rows, -(-count // per_byte) * per_byte), dtype=torch.uint8)
    padded[:, :count] = places
    shifts = torch.arange(per_byte, dtype=torch.uint8, device=places.device) * bits
    return (padded.view(rows, -1, per_byte) << shifts).sum(dim=2, dtype=torch.uint8)


def weights(spec: str, shape: tuple[int, int], kind: str, seed: int, *, ordered: bool = False) -> Compressed:
    """Draw compressed weights on the device: any values and places; permutations at random or, ordered, none."""
    pattern = parse(spec)
    rows, cols = shape
    slots, width, n = slots_of(pattern, cols), width_of(pattern), pattern.n
    height = getattr(pattern, "vector", rows)
    tiles, bits = rows // height, next(bits for bits in (1, 2, 4, 8) if width <= 1 << bits)
    torch.manual_seed(seed)
    places = torch.rand((rows, slots // width, width), device=DEVICE).topk(n, dim=2).indices.sort(dim=2).values
    values = torch.randn((rows, slots // width * n), device=DEVICE).to(DTYPES[kind])
    index = channels(pattern, tiles, cols, slots, ordered)
    order = torch.arange(rows, device=DEVICE)
    if not ordered and isinstance(pattern, HiNM | VNM):
        order = torch.randperm(rows, device=DEVICE)
    return Compressed(pattern, shape, values, pack(places.flatten(1), bits), index.int(), order.int())


def channels(pattern: Pattern, tiles: int, cols: int, slots: int, ordered: bool) -> torch.Tensor:
    """Draw the channels that the slots of every tile read."""
    order = torch.arange(cols, device=DEVICE) if ordered else torch.randperm(cols, device=DEVICE)
    if isinstance(pattern, VNM):
        kept = (
            torch.rand((tiles, cols // pattern.m, pattern.m), device=DEVICE).topk(4, dim=2).indices.sort(dim=2).values
        )
        first = torch.arange(cols // pattern.m, device=DEVICE)[:, None] * pattern.m
        return order[(kept + first).flatten(1)]
    if isinstance(pattern, HiNM):
        kept = torch.rand((tiles, cols), device=DEVICE).topk(slots, dim=1).indices
        return kept.sort(dim=1).values if ordered else kept
    return order[None]


def read(compressed: Compressed) -> int:
    """Return the bytes that a product must read: values, positions and index once."""
    return compressed.values.nbytes + compressed.positions.nbytes + compressed.index.nbytes


# --- checks -----------------------------------------------------------------------------------------------------------


def fault(found: torch.Tensor, x: torch.Tensor, compressed: Compressed, kind: str) -> str | None:
    """Compare a product with float64."""
    expected = x.double() @ compressed.to_dense().double().T
    wrong = float((found.double() - expected).norm() / expected.norm())
    return None if wrong <= ALLOWED[kind] else f"relative error {wrong:g}, allowed {ALLOWED[kind]:g}"


def check_product(spec: str, shape: tuple[int, int], kind: str, tokens: int, every: bool) -> str | None:
    """Check products with some weights, in every kernel shape or in the chosen one."""
    compressed = weights(spec, shape, kind, seed=tokens).check()
    x = torch.randn((tokens, shape[1]), device=DEVICE).to(DTYPES[kind])
    if wrong := fault(on_device.matmul(x, compressed), x, compressed, kind):
        return wrong
    if not every:
        return None
    layout = layout_of(compressed)
    few = tokens <= on_device.MOST_VECTORS and layout.fits_vectors
    settings = on_device.vector_settings(layout) if few else on_device.product_settings(layout, tokens)
    run = on_device.times_vectors if few else on_device.times_columns
    for each in settings:
        torch.empty(1 << 20, device=DEVICE).fill_(math.nan)  # what the next allocation may get
        try:
            first = run(x, layout, each)
        except Exception as error:  # a shape that does not fit the device is one that tuning passes over
            if "OutOfResources" not in type(error).__name__:
                return f"{each}: {type(error).__name__}: {str(error)[:200]}"
            continue
        if wrong := fault(first, x, compressed, kind):
            return f"{each}: {wrong}"
        if not torch.equal(first, run(x, layout, each)):
            return f"{each}: another result the second time"
    return None


def check_graph() -> str | None:
    """Replay a graph of products on new activations."""
    compressed = weights("2:4", (1024, 2048), "fp16", 1)
    held = torch.randn((4, 2048), device=DEVICE).half()
    for tokens in (1, 4):
        x = held[:tokens]
        on_device.matmul(x, compressed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = on_device.matmul(x, compressed)
        for _ in range(3):
            held.copy_(torch.randn_like(held))
            y.fill_(math.nan)
            graph.replay()
            if wrong := fault(y, x, compressed, "fp16"):
                return f"{tokens} vectors: {wrong}"
    return None


def checks() -> list[Row]:
    """Run all checks."""
    plan: list[tuple[str, tuple[int, int], str, int, bool]] = []
    if TINY:
        plan = [("2:4", (24, 40), kind, tokens, kind == "fp16") for kind in DTYPES for tokens in (1, 3)]
        plan += [("hinm(8, 0.5, 2:4)", (16, 32), "bf16", 70, False), ("4:2:8", (8, 32), "fp16", 2, False)]
    else:
        for kind in ("fp16", "bf16"):
            plan += [("2:4", (528, 1056), kind, tokens, True) for tokens in (1, 4, 2048)]
        plan += [("2:4", (264, 544), "fp32", tokens, False) for tokens in (1, 5, 70)]
        for spec in ("hinm(32, 0.5, 2:4)", "hinm(128, 0.5, 2:4)", "64:2:8", "128:2:16"):
            plan += [(spec, (384, 1056), "fp16", tokens, tokens > 2) for tokens in (1, 16, 200)]
        for spec, shape in (
            ("1:2", (33, 70)),
            ("1:4", (65, 100)),
            ("3:4", (19, 52)),
            ("2:3", (7, 33)),
            ("4:8", (5, 40)),
        ):
            plan += [(spec, shape, kind, tokens, False) for kind in ("fp16", "fp32") for tokens in (1, 7)]
        plan += [("2:4", (8192, 8192), "bf16", tokens, False) for tokens in (1, 16)]
    result = []
    for spec, shape, kind, tokens, every in plan:
        try:
            wrong = check_product(spec, shape, kind, tokens, every)
        except Exception as error:  # one that fails must not hide the rest
            wrong = f"{type(error).__name__}: {str(error)[:300]}"
        name = f"{spec} {shape[0]}x{shape[1]} {kind}, {tokens} vectors{', every shape' if every else ''}"
        result.append({"check": name, "result": wrong or "ok"})
    if not TINY:
        result.append({"check": "CUDA graph", "result": check_graph() or "ok"})
    return result


# --- clocks -----------------------------------------------------------------------------------------------------------


def graph_of(calls: Calls) -> Callable[[], None]:
    """Return one CUDA graph of some launches, tuned and warm; in the interpreter a plain call of each."""
    results = [call() for call in calls]
    assert all(bool(torch.isfinite(result).all()) for result in results)
    del results
    if TINY:
        return lambda: [call() for call in calls] and None
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(max(1, -(-LAUNCHES // len(calls)))):
            for call in calls:
                call()
    return graph.replay  # type: ignore[no-any-return]


def microseconds(sides: dict[str, Calls]) -> dict[str, list[float]]:
    """Time graphs of several sides in turns; microseconds a launch, a turn each."""
    graphs = {name: graph_of(calls) for name, calls in sides.items()}
    launches = {name: max(1, -(-LAUNCHES // len(calls))) * len(calls) for name, calls in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 if TINY else TURNS + 2):
        for name, replay in graphs.items():
            if TINY:
                begin = time.perf_counter()
                replay()
                spent = 1e3 * (time.perf_counter() - begin)
            else:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                replay()
                last.record()
                last.synchronize()
                spent = first.elapsed_time(last)
            if turn >= 2 or TINY:
                times[name].append(1e3 * spent / launches[name])
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Return the median over the turns of one side's time over another's."""
    return float(np.median(np.array(times[over]) / np.array(times[under])))


def copies(size: int) -> int:
    """Return how many buffers of a size exceed the second-level cache three times."""
    return 2 if TINY else max(2, -(-3 * torch.cuda.get_device_properties(0).L2_cache_size // size) + 1)


def roofline() -> tuple[list[Row], float, dict[str, float]]:
    """Measure bytes per second of a copy and FLOP per second of dense products."""
    size, side = (1 << 12, 32) if TINY else (1 << 30, 8192)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    spent = search.seconds(lambda: target.copy_(source))
    copy = 2 * size / spent
    rows = [{"what": f"copy of {size} bytes, read and written", "rate": copy / 1e12, "unit": "TB/s"}]
    flops = {}
    for kind in ("fp16", "bf16"):
        a, b = (torch.randn((side, side), device=DEVICE).to(DTYPES[kind]) for _ in range(2))
        flops[kind] = 2.0 * side**3 / search.seconds(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        rows.append({"what": f"dense product {side}^3 {kind}", "rate": flops[kind] / 1e12, "unit": "TFLOP/s"})
    return rows, copy, flops


# --- cases ------------------------------------------------------------------------------------------------------------


def sparse_calls(spec: str, shape: tuple[int, int], kind: str, x: torch.Tensor, **options: Any) -> tuple[Calls, int]:
    """Return products with several weights of one kind, and the bytes that one reads."""
    first = weights(spec, shape, kind, 0, **options)
    size = read(first)
    held = [first] + [weights(spec, shape, kind, seed, **options) for seed in range(1, copies(size))]
    return [lambda each=each: on_device.matmul(x, each) for each in held], size  # type: ignore[misc]


def dense_calls(shape: tuple[int, int], kind: str, x: torch.Tensor) -> Calls:
    """Return torch's products with several dense weights."""
    size = shape[0] * shape[1] * x.element_size()
    held = [torch.randn(shape, device=DEVICE).to(DTYPES[kind]) for _ in range(copies(size))]
    return [lambda each=each: torch.nn.functional.linear(x, each) for each in held]  # type: ignore[misc]


def semi_structured(shape: tuple[int, int], kind: str, x: torch.Tensor) -> tuple[Calls | None, str]:
    """Return torch's semi-structured products with several weights, or why there are none."""
    size = shape[0] * shape[1] * x.element_size() * 9 // 16
    try:
        held = []
        for seed in range(copies(size)):
            whole = weights("2:4", shape, kind, seed, ordered=True).to_dense()
            held.append(torch.sparse.to_sparse_semi_structured(whole))
        calls: Calls = [lambda each=each: torch.nn.functional.linear(x, each) for each in held]  # type: ignore[misc]
        calls[0]()
    except Exception as error:  # not every build has it, nor takes every shape
        return None, f"{type(error).__name__}: {str(error)[:80]}"
    return calls, ""


def timed(sides: dict[str, Calls], semi: str | float) -> tuple[dict[str, list[float]], str | float]:
    """Time several sides; without the semi-structured one, and why, where a CUDA graph does not take it, say."""
    try:
        return microseconds(sides), semi
    except Exception as error:
        if "semi" not in sides:
            raise
        rest = {name: calls for name, calls in sides.items() if name != "semi"}
        return microseconds(rest), f"{type(error).__name__}: {str(error)[:80]}"


def decode(spec: str, shape: tuple[int, int], kind: str, batch: int, copy: float) -> tuple[Row, Row | None]:
    """Time a few vectors: the kernel, with and without a permutation, torch's dense and semi-structured products."""
    x = torch.randn((batch, shape[1]), device=DEVICE).to(DTYPES[kind])
    sides: dict[str, Calls] = {}
    sides["sparse"], size = sparse_calls(spec, shape, kind, x)
    sides["dense"] = dense_calls(shape, kind, x)
    row: Row = {"pattern": spec, "shape": f"{shape[0]}x{shape[1]}", "type": kind, "vectors": batch}
    plain = spec == "2:4"
    semi: str | float = "-"
    if plain:
        sides["ordered"], _ = sparse_calls(spec, shape, kind, x, ordered=True)
        found, semi = semi_structured(shape, kind, x)
        if found is not None:
            sides["semi"] = found
    times, semi = timed(sides, semi)
    median = {name: float(np.median(each)) for name, each in times.items()}
    rate = size / median["sparse"] * 1e6
    row |= {"us": median["sparse"], "dense us": median["dense"], "speed-up": ratio(times, "dense", "sparse")}
    row |= {"ceiling": shape[0] * shape[1] * x.element_size() / size, "semi-structured us": median.get("semi", semi)}
    row |= {"TB/s": rate / 1e12, "of copy": rate / copy}
    if not plain:
        return row, None
    cost = {key: row[key] for key in ("pattern", "shape", "type", "vectors")}
    cost |= {"us": median["sparse"], "ordered us": median["ordered"]}
    return row, cost | {"cost, %": 100 * (ratio(times, "sparse", "ordered") - 1)}


def prefill(spec: str, shape: tuple[int, int], kind: str, tokens: int, flops: float) -> Row:
    """Time many vectors, also with activations that are stored by channel already."""
    x = torch.randn((tokens, shape[1]), device=DEVICE).to(DTYPES[kind])
    by_channel = x.t().contiguous().t()
    calls, _ = sparse_calls(spec, shape, kind, x)
    slots = slots_of(parse(spec), shape[1])
    sides = {"sparse": calls, "stored": sparse_calls(spec, shape, kind, by_channel)[0]}
    sides["dense"] = dense_calls(shape, kind, x)
    semi: str | float = "-"
    if spec == "2:4":
        found, semi = semi_structured(shape, kind, x)
        sides |= {} if found is None else {"semi": found}
    times, semi = timed(sides, semi)
    median = {name: float(np.median(each)) for name, each in times.items()}
    rate = 2.0 * shape[0] * slots * tokens / median["sparse"] * 1e6
    row: Row = {"pattern": spec, "shape": f"{shape[0]}x{shape[1]}", "type": kind, "vectors": tokens}
    row |= {"us": median["sparse"], "by channel us": median["stored"], "dense us": median["dense"]}
    row["semi-structured us"] = median.get("semi", semi)
    row |= {"speed-up": ratio(times, "dense", "sparse"), "multiplied TFLOP/s": rate / 1e12, "of dense": rate / flops}
    return row


def decode_plan(quick: bool) -> list[tuple[str, tuple[int, int], str, int]]:
    """List the cases of few vectors, those with goals first."""
    if TINY:
        return [("2:4", (32, 64), "fp16", 1), ("2:4", (32, 64), "bf16", 4), ("hinm(16, 0.5, 2:4)", (32, 64), "fp16", 1)]
    shapes = SHAPES[:1] if quick else SHAPES
    plan = [("2:4", shape, kind, batch) for kind in ("fp16", "bf16") for shape in shapes for batch in (1, 4, 16)]
    hinm = [(f"hinm({vector}, 0.5, 2:4)", SHAPES[0], "fp16", batch) for vector in (32, 128) for batch in (1, 16)]
    vnm = [(spec, SHAPES[0], "fp16", batch) for spec in ("64:2:8", "128:2:16") for batch in (1, 16)]
    return plan[: len(plan) // 2] + hinm + vnm + plan[len(plan) // 2 :] + [("2:4", SHAPES[0], "fp16", 2)]


def prefill_plan(quick: bool) -> list[tuple[str, tuple[int, int], str, int]]:
    """List the cases of many vectors, those with goals first."""
    if TINY:
        return [("hinm(16, 0.5, 2:4)", (32, 64), "fp16", 80), ("2:4", (32, 64), "bf16", 80)]
    specs = ["hinm(128, 0.5, 2:4)", "hinm(32, 0.5, 2:4)", "128:2:16", "64:2:8", "2:4", "hinm(64, 0.5, 2:4)"]
    plan = [(spec, SHAPES[0], "fp16", 2048) for spec in specs]
    return plan[:2] if quick else [*plan, ("hinm(128, 0.5, 2:4)", SHAPES[0], "bf16", 2048)]


def main() -> int:
    """Check, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="everything but clocks, tiny, on the CPU; no JSON")
    parser.add_argument("--quick", action="store_true", help="fewer cases: about three minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    options = parser.parse_args()
    if not TINY and not torch.cuda.is_available():
        print(f"gpu_kernels: torch {torch.__version__} sees no CUDA device; --interpret does without", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"machine": search.machine()}
    print(json.dumps(report["machine"]))

    def section(name: str, rows: list[Row], say: list[Row] | None = None) -> None:
        search.show(name, rows if say is None else say)
        report[name] = rows
        report["seconds"] = time.perf_counter() - START
        if not TINY:
            search.write(options.out, report)

    def all_of(name: str, plan: list[Any], run: Callable[..., Row]) -> list[Row]:
        """Run cases while there is time; a case that fails is a row that says so."""
        rows: list[Row] = []
        for case in plan:
            if time.perf_counter() - START > BUDGET:
                report.setdefault("left out", []).append(f"{name}: {case}: no time left")
                continue
            try:
                rows.append(run(*case))
            except Exception as error:
                report.setdefault("failed", []).append(f"{name}: {case}: {type(error).__name__}: {str(error)[:300]}")
                if TINY:
                    raise
        return rows

    verdicts = checks()
    failed = [row for row in verdicts if row["result"] != "ok"]
    section(f"checks: {len(verdicts) - len(failed)} of {len(verdicts)} passed", verdicts, failed)
    lines, copy, flops = roofline()
    section("roofline", lines)
    costs: list[Row] = []

    def decoded(*case: Any) -> Row:
        row, cost = decode(*case, copy)
        if cost is not None:
            costs.append(cost)
        return row

    section("decode", all_of("decode", decode_plan(options.quick), decoded))
    section("permutation", costs)
    section("prefill", all_of("prefill", prefill_plan(options.quick), lambda *case: prefill(*case, flops[case[2]])))
    if options.quick or time.perf_counter() - START > BUDGET:
        report.setdefault("left out", []).append("the search kernels: run gpu_search.py")
    else:
        found = search.checks(DEVICE, tiny=TINY)
        bad = [row for row in found if row["result"] != "ok"]
        section(f"search: {len(found) - len(bad)} of {len(found)} passed", found, bad)
        failed += bad
        if not TINY and time.perf_counter() - START < BUDGET:
            lines, peak, copy = search.roofline()
            section("search: roofline", lines)
            section("search: gain", search.gain_rates([SEARCHED], peak))
            section("search: others", search.other_rates(*SEARCHED, copy))
    for each in (*report.get("failed", ()), *report.get("left out", ())):
        print(each)
    search.write(options.out, report) if not TINY else None
    print(f"\n{time.perf_counter() - START:.0f} s" + ("" if TINY else f"; written to {options.out}"))
    return 1 if failed or report.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
