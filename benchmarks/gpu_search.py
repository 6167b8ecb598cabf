"""The search on a GPU: checks every kernel, then measures it against what the device can do at most.

``python benchmarks/gpu_search.py [--quick] [--out FILE]`` on a machine with a CUDA device; under five minutes; needs
numpy, torch and triton only, and no data. ``--interpret`` runs the checks alone, on tiny sizes, in Triton's interpreter
on the CPU. Exit codes: 0 done, 1 a check failed, 2 no device. Sections of the JSON and the tables:

checks     every kernel against NumPy or float64 torch, on odd shapes, in every tile and storage
roofline   what the device does: maxima and additions in registers (the gain kernel's terms without its loads), copies
gain       terms per second of the gain matrix, by tile and storage, and its share of the roofline
others     thresholds and selection, which are bound by memory
optimum    time from the identity to a permutation that no exchange improves, one wide matrix and a batch of heads
annealing  sweeps per second with noise
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if "--interpret" in sys.argv:  # read by triton when it is imported
    os.environ["TRITON_INTERPRET"] = "1"
try:
    import permsolve
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import permsolve

import numpy as np

try:
    import torch
    import triton
    import triton.language as tl

    from permsolve.kernels.triton import gain as gains
    from permsolve.kernels.triton.groups import refresh
    from permsolve.kernels.triton.panels import pack
    from permsolve.kernels.triton.select import carry_out, choose
    from permsolve.search.device import DeviceExchange
except ModuleNotFoundError as error:
    sys.exit(print(f"gpu_search: needs {error.name}; on Linux: pip install 'permsolve[gpu]'", file=sys.stderr) or 2)

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "gpu_search.json"
#: Where tensors live.
DEVICE = "cpu" if "--interpret" in sys.argv else "cuda"
STORAGE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: More tiles than the search uses, to see whether it uses the right ones.
TILES = [
    gains.Tile(64, 128, 8),
    gains.Tile(128, 128, 8),
    gains.Tile(32, 128, 8),
    gains.Tile(64, 64, 4),
    gains.Tile(128, 64, 8),
    gains.Tile(32, 32, 2),
    gains.Tile(64, 128, 8, 4),
    gains.Tile(128, 128, 8, 4),
    gains.Tile(128, 128, 8, 2),
    gains.Tile(64, 64, 4, 4),
]
#: A GPU's caches; the copy is timed on arrays beyond them.
BEYOND_CACHE = 1 << 30


def matrix(rows: int, cols: int, seed: int) -> np.ndarray:
    """Draw float32 weights whose columns and rows differ in scale, as those of networks do."""
    stream = np.random.RandomState(seed)
    values = stream.standard_normal((rows, cols)).astype(np.float32)
    values *= np.exp(0.5 * stream.standard_normal(cols)).astype(np.float32)
    return values * np.exp(0.5 * stream.standard_normal((rows, 1))).astype(np.float32)


# --- checks -----------------------------------------------------------------------------------------------------------


def exact(rows: int, cols: int, seed: int) -> np.ndarray:
    """Draw multiples of 1/64 up to 1, with ties, whose float32 sums are exact and which fit half precision."""
    return np.random.RandomState(seed).randint(0, 65, size=(rows, cols)) / 64


def thresholds_of(values: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return the threshold of every column, (cols, rows), from the definition."""
    result = np.empty((len(order), len(values)))
    for members in order.reshape(-1, m):
        for i in members:
            result[i] = np.sort(values[:, members[members != i]], axis=1)[:, m - 1 - n]
    return result


def gains_of(values: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return ``gain[i, j]`` from the definition."""
    return np.maximum(values.T[None] - thresholds_of(values, order, n, m)[:, None], 0).sum(axis=2)


def check_gain(device: str, tile: gains.Tile, storage: str, n: int, m: int, rows: int, groups: int) -> str | None:
    """Compare thresholds, losses, values and gains of a batch of two; return what is wrong."""
    cols = m * groups
    values = [exact(rows, cols, seed) for seed in (1, 2)]
    orders = [np.random.RandomState(seed).permutation(cols) for seed in (3, 4)]
    panels = pack(torch.tensor(np.stack([v.T for v in values]), device=device, dtype=STORAGE[storage]), tile.columns)
    order = torch.tensor(np.stack(orders), device=device, dtype=torch.int32)
    listed = torch.arange(groups, device=device, dtype=torch.int32).repeat(2, 1)
    counts = torch.tensor([groups, groups - 1], device=device, dtype=torch.int32)
    losses, scores = (torch.full((2, size), float("nan"), device=device) for size in (cols, groups))
    thresholds, base = refresh(panels, order, listed, counts, (n, m), tile.slots, losses, scores)
    out = torch.full((2, cols, panels.shape[1] * tile.columns), float("nan"), device=device)
    gains.gain(panels, thresholds, base, order, listed, counts, m, tile, out)
    for k, live in enumerate((groups, groups - 1)):
        expected = gains_of(values[k], orders[k], n, m)
        inside, outside = orders[k][: live * m], orders[k][live * m :]
        found = out[k, :, :cols].cpu().numpy()
        if not np.array_equal(found[inside], expected[inside]):
            return f"gain differs by up to {np.abs(found[inside] - expected[inside]).max():g}"
        if not np.array_equal(losses[k].cpu().numpy()[inside], np.diag(expected)[inside]):
            return "losses differ"
        if not np.isnan(found[outside]).all():
            return "rows of groups that were not listed have been written"
        sums = [np.sort(values[k][:, g], axis=1)[:, m - n :].sum() for g in orders[k].reshape(-1, m)[:live]]
        if not np.array_equal(scores[k, :live].cpu().numpy(), sums):
            return "values differ"
    return None


def check_selection(device: str, n: int, m: int, groups: int, heat: float | None) -> str | None:
    """Check that chosen exchanges are disjoint, agreed on, worth their sum, and repeatable; return what is wrong."""
    cols = m * groups
    values, order = exact(40, cols, 5), np.random.RandomState(6).permutation(cols)
    gain = gains_of(values, order, n, m)
    delta = gain - np.diag(gain)[:, None]
    delta = delta + delta.T
    group = np.argsort(order) // m
    delta[group[:, None] == group[None, :]] = -np.inf
    on_device = torch.tensor(gain, device=device, dtype=torch.float32)[None]
    losses = on_device[0].diagonal()[None].contiguous()
    tolerances = torch.full((1,), 1e-6, device=device)
    temperatures = None if heat is None else torch.full((1,), heat, device=device)
    runs = []
    for _ in range(2):
        places = torch.tensor(order[None], device=device, dtype=torch.int32)
        group_of = torch.tensor(group[None], device=device, dtype=torch.int32)
        choices, some = choose(on_device, losses, places, group_of, m, tolerances, 7, temperatures)
        carry_out(choices, places, group_of, m)
        runs.append((choices.cpu(), places.cpu().numpy()[0].astype(np.int64)))
    if not torch.equal(runs[0][0], runs[1][0]):
        return "the same seed chose other exchanges"
    chosen, after = runs[0]
    pairs = [(int(c) >> 16, int(c) & 0xFFFF) for c in chosen[0] if c >= 0]
    if {(j, i) for i, j in pairs} != set(pairs) or len({group[i] for i, _ in pairs}) != len(pairs):
        return "exchanges are not disjoint pairs"
    gained = sum(delta[pair] for pair in pairs) / 2
    before, now = (
        sum(np.sort(values[:, g], axis=1)[:, m - n :].sum() for g in o.reshape(-1, m)) for o in (order, after)
    )
    if now - before != gained:
        return f"changes add up to {gained}, the score changed by {now - before}"
    if heat is None and (bool(some) != (delta.max() > 0) or delta.max() != max((delta[p] for p in pairs), default=0.0)):
        return "the best exchange was not chosen"
    return None


def check_descent(device: str, rows: int, cols: int, batch: int) -> str | None:
    """Descend on a batch and try every exchange at its end; return what is wrong."""
    values = [exact(rows, cols, seed) for seed in range(batch)]
    saliency = np.stack([v.T for v in values]).astype(np.float32)
    state = DeviceExchange(saliency, (2, 4), np.repeat(np.arange(cols)[None], batch, 0), device=device)
    for _ in range(10 * cols):
        if not state.sweep().any():
            break
    for v, order in zip(values, state.orders(), strict=True):
        if sorted(order) != list(range(cols)):
            return "no permutation"
        gain = gains_of(v, order, 2, 4)
        delta = gain - np.diag(gain)[:, None]
        group = np.argsort(order) // 4
        if np.where(group[:, None] == group[None, :], 0.0, delta + delta.T).max() > 0:
            return "an exchange improves the end of the descent"
    return None


def check_large(device: str, rows: int, cols: int) -> str | None:
    """Compare some slots of a full-sized gain matrix with float64 on the device; return what is wrong."""
    saliency = np.abs(matrix(rows, cols, 1)).T
    saliency /= saliency.max()
    state = DeviceExchange(saliency[None], (2, 4), np.random.RandomState(2).permutation(cols)[None], device=device)
    order, values = state.orders()[0], torch.tensor(saliency, device=device).double()
    worst = 0.0
    for members in order.reshape(-1, 4)[:: cols // 16]:
        t = values[torch.tensor(members[1:], device=device)].sort(dim=0).values[1]
        expected = (values - t).clamp(min=0).sum(dim=1)
        worst = max(worst, float((state._gain[0, members[0], :cols].double() - expected).abs().max()))
    allowed = 2e-7 * float(values.sum(dim=1).max())
    return None if worst <= allowed else f"gains are off by {worst:g}, more than {allowed:g}"


def checks(device: str, tiny: bool) -> list[Row]:
    """Run all checks."""
    plan: list[tuple[str, Callable[[], str | None]]] = []
    shapes = [(17, 5)] if tiny else [(1, 2), (17, 9), (64, 33), (131, 67)]
    tiles = list(gains.TILES.values()) if tiny else dict.fromkeys([*TILES, *gains.TILES.values(), *gains.FLAT.values()])
    for tile in tiles:
        used = tile in (gains.TILES[128], gains.FLAT[128], gains.TILES[32])
        for storage in STORAGE if used and not tiny else ("float32",):
            for rows, groups in shapes:
                plan.append(
                    (
                        f"gain {tuple(tile)} {storage} {rows}x{4 * groups}",
                        lambda t=tile, s=storage, r=rows, g=groups: check_gain(device, t, s, 2, 4, r, g),  # type: ignore[misc]
                    )
                )
    for n, m in ((1, 2), (2, 3), (1, 4), (7, 8)) if tiny else ((1, 2), (2, 3), (1, 4), (3, 4), (2, 8), (7, 8), (8, 16)):
        plan.append((f"gain {n}:{m}", lambda n=n, m=m: check_gain(device, gains.TILES[32], "float32", n, m, 19, 3)))  # type: ignore[misc]
    for heat in (None, 0.5):
        for n, m, groups in ((2, 4, 5), (2, 3, 4)) if tiny else ((2, 4, 70), (2, 3, 41), (1, 2, 33), (7, 8, 9)):
            plan.append(
                (
                    f"selection {n}:{m} {'no noise' if heat is None else 'noise'}",
                    lambda n=n, m=m, g=groups, h=heat: check_selection(device, n, m, g, h),  # type: ignore[misc]
                )
            )
    for rows, cols, batch in ((9, 16, 2),) if tiny else ((9, 16, 2), (70, 132, 3), (33, 260, 1)):
        plan.append(
            (f"descent {batch} x {rows}x{cols}", lambda r=rows, c=cols, b=batch: check_descent(device, r, c, b))
        )  # type: ignore[misc]
    if not tiny:
        plan.append(("gain 4096x4096, float64", lambda: check_large(device, 4096, 4096)))
    rows_ = []
    for name, check in plan:
        try:
            fault = check()
        except Exception as error:  # a tile that does not compile must not hide the rest
            fault = f"{type(error).__name__}: {str(error)[:200]}"
        rows_.append({"check": name, "result": fault or "ok"})
    return rows_


# --- measurements -----------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call on the device, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def wait() -> None:
    """Wait until the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@triton.jit
def peak_kernel(out, turns, SLOTS: tl.constexpr, COLUMNS: tl.constexpr, FORM: tl.constexpr):
    """Do the gain kernel's arithmetic without its loads: one number in 16 changes from term to term, in a register."""
    left, right = tl.zeros((SLOTS, 16), tl.float32), tl.zeros((16, COLUMNS), tl.float32)
    total = tl.dot(left, right, input_precision="ieee")  # for the layout; see permsolve.kernels.triton.gain
    x, y = tl.arange(0, SLOTS), tl.arange(0, COLUMNS)
    t, s = x.to(tl.float32), y.to(tl.float32) * 0.5
    for _ in range(turns):
        for _ in tl.static_range(8):
            if FORM == "max":
                total += tl.maximum(t[:, None], s[None, :])
            else:
                total += tl.abs(t[:, None] - s[None, :])
            s += 0.25
    tl.store(out + x[:, None] * COLUMNS + y[None, :], total)


def roofline() -> tuple[list[Row], float, float]:
    """Measure terms per second in registers and bytes per second of a copy."""
    rows, best = [], 0.0
    out = torch.empty(128 * 128, device=DEVICE)
    programs, turns = torch.cuda.get_device_properties(0).multi_processor_count * 16, 2000
    for form, slots, warps in (("max", 128, 8), ("max", 64, 8), ("abs", 128, 8)):

        def call(form: str = form, slots: int = slots, warps: int = warps) -> None:
            peak_kernel[(programs,)](out, turns, SLOTS=slots, COLUMNS=128, FORM=form, num_warps=warps)

        rate = programs * turns * 8 * slots * 128 / seconds(call)
        rows.append({"what": f"registers, {form}+add, {slots}x128", "rate": rate / 1e12, "unit": "T terms/s"})
        best = max(best, rate) if form == "max" else best
    source = torch.zeros(BEYOND_CACHE, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = 2 * BEYOND_CACHE / seconds(lambda: target.copy_(source))
    rows.append({"what": "copy of 1 GiB, read and written", "rate": copy / 1e12, "unit": "TB/s"})
    return rows, best, copy


def gain_rates(shapes: list[tuple[int, int]], peak: float) -> list[Row]:
    """Time the full gain matrix of random problems."""
    rows_ = []
    for rows, cols in shapes:
        base_values = torch.rand((1, cols, rows), device=DEVICE)
        order = torch.randperm(cols, device=DEVICE).to(torch.int32)[None]
        listed = torch.arange(cols // 4, device=DEVICE, dtype=torch.int32)[None]
        counts = torch.full((1,), cols // 4, device=DEVICE, dtype=torch.int32)
        losses, values = torch.empty((1, cols), device=DEVICE), torch.empty((1, cols // 4), device=DEVICE)
        for storage, kind in STORAGE.items():
            for tile in TILES if storage == "float32" else TILES[:3]:
                panels = pack(base_values.to(kind), tile.columns)
                thresholds, base = refresh(panels, order, listed, counts, (2, 4), tile.slots, losses, values)
                out = torch.empty((1, cols, panels.shape[1] * tile.columns), device=DEVICE)
                row: Row = {"rows": rows, "cols": cols, "storage": storage, "tile": "x".join(map(str, tile[:2]))}
                row |= {"warps": tile.warps, "unroll": tile.unroll}
                arguments = (panels, thresholds, base, order, listed, counts, 4, tile, out)
                try:
                    took = seconds(lambda a=arguments: gains.gain(*a), 3)  # type: ignore[misc]
                    rate = rows * float(cols) ** 2 / took
                    row |= {"ms": took * 1e3, "T terms/s": rate / 1e12, "share of peak": rate / peak}
                except Exception as error:  # out of registers, say: the other tiles still count
                    row |= {"ms": None, "T terms/s": None, "share of peak": f"{type(error).__name__}"}
                rows_.append(row)
    return rows_


def other_rates(rows: int, cols: int, copy: float) -> list[Row]:
    """Time thresholds and selection; both should run at the speed of memory."""
    saliency = np.abs(matrix(rows, cols, 1)).T
    state = DeviceExchange(saliency[None] / saliency.max(), (2, 4), np.arange(cols)[None])
    m, order = 4, state._order
    listed = torch.arange(cols // m, device=DEVICE, dtype=torch.int32)[None]
    counts = torch.full((1,), cols // m, device=DEVICE, dtype=torch.int32)
    heat = torch.full((1,), 0.01, device=DEVICE)
    calls: list[tuple[str, float, Callable[[], object]]] = [
        (
            "thresholds of all groups",
            8.0 * rows * cols,
            lambda: refresh(state._panels, order, listed, counts, (2, 4), 64, state._losses, state._values),
        )
    ]
    for name, temperatures in (("selection, a round", None), ("selection with noise, a round", heat)):
        calls.append(
            (
                name,
                8.0 * cols * cols,
                lambda t=temperatures: choose(  # type: ignore[misc]
                    state._gain, state._losses, order, state._group_of, m, state._tolerances, 1, t, rounds=1
                ),
            )
        )
    result = []
    for name, size, call in calls:
        took = seconds(call)
        result.append({"what": name, "rows": rows, "cols": cols, "ms": took * 1e3, "TB/s": size / took / 1e12})
        result[-1]["share of copy"] = size / took / copy
    return result


def descents(plan: list[tuple[int, int, int]]) -> list[Row]:
    """Time descents from the identity to local optima; the optimum is checked on gains computed afresh."""
    result = []
    for batch, rows, cols in plan:
        problems = [permsolve.Problem.of(matrix(rows, cols, seed)) for seed in range(batch)]
        saliency = np.stack([problem.packed for problem in problems])
        identity = np.repeat(np.arange(cols)[None], batch, 0)
        warm = DeviceExchange(np.ascontiguousarray(saliency[:, :, :16]), (2, 4), identity)
        while warm.sweep().any():  # compiles all tiles
            pass
        del warm
        wait()
        start = time.perf_counter()
        state = DeviceExchange(saliency, (2, 4), identity)
        wait()
        first = time.perf_counter()
        sweeps, slots = 0, 0
        while True:
            moved = state.sweep()
            sweeps += 1
            slots += 8 * int(moved.sum())
            if not moved.any():
                break
        orders = state.orders()
        end = time.perf_counter()
        state.restart(orders)
        terms = (batch * cols + slots) * float(cols) * rows
        scored = [problem.score(order) for problem, order in zip(problems[:2], orders, strict=False)]
        result.append(
            {
                "problems": batch,
                "rows": rows,
                "cols": cols,
                "upload and first gains, s": first - start,
                "descent, s": end - first,
                "sweeps": sweeps,
                "gain matrices' worth": (batch * cols + slots) / (batch * cols),
                "T terms/s overall": terms / (end - start) / 1e12,
                "efficacy, %": float(np.mean([_efficacy(p, s) for p, s in zip(problems[:2], scored, strict=False)])),
                "local optimum, afresh": bool(not state.sweep().any()),
            }
        )
    return result


def _efficacy(problem: permsolve.Problem, score: float) -> float:
    return 100 * (score - problem.baseline) / (problem.rows_bound - problem.baseline)


def noisy_sweeps(plan: list[tuple[int, int, int]]) -> list[Row]:
    """Time sweeps near the freezing point, from a local optimum."""
    result = []
    for chains, rows, cols in plan:
        problem = permsolve.Problem.of(matrix(rows, cols, 0))
        state = DeviceExchange(problem.packed[None], (2, 4), np.repeat(np.arange(cols)[None], chains, 0))
        while state.sweep().any():
            pass
        unit = state.mean_loss()
        for temperature in (0.07, 0.04, 0.024):
            state.sweep(unit * temperature)
            start, count, moved = time.perf_counter(), 0, 0
            while time.perf_counter() - start < 2.0:
                moved += int(state.sweep(unit * temperature).sum())
                state.keep()
                count += 1
            wait()
            took = time.perf_counter() - start
            row: Row = {"chains": chains, "rows": rows, "cols": cols, "temperature": temperature}
            row |= {"sweeps/s": count / took, "share of groups moved": 8 * moved / (count * chains * cols)}
            result.append(row)
    return result


# --- report -----------------------------------------------------------------------------------------------------------


def machine() -> Row:
    """Describe the machine and the versions."""
    found: Row = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    found |= {"triton": triton.__version__, "permsolve": permsolve.__version__}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {"device": device.name, "processors": device.multi_processor_count, "cuda": torch.version.cuda}
        found["memory, GiB"] = round(device.total_memory / 2**30, 1)
    found["date"] = datetime.now(UTC).strftime("%Y-%m-%d")
    return found


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    print(f"\n## {title}")
    if rows:
        print("| " + " | ".join(rows[0]) + " |\n| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        cells = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)


def write(out: Path, report: dict[str, Any]) -> None:
    """Write what is known so far, so that an interrupted run leaves its sections."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(out)


def main() -> int:
    """Check, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="checks only, in Triton's interpreter, on the CPU")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: half a minute")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    options = parser.parse_args()
    if not options.interpret and not torch.cuda.is_available():
        print(
            f"gpu_search: torch {torch.__version__} sees no CUDA device; --interpret runs the checks without one",
            file=sys.stderr,
        )
        return 2
    start = time.perf_counter()
    verdicts = checks(DEVICE, tiny=options.interpret)
    failed = [row for row in verdicts if row["result"] != "ok"]
    show(f"checks: {len(verdicts) - len(failed)} of {len(verdicts)} passed", failed)
    if options.interpret:
        return 1 if failed else 0
    report: dict[str, Any] = {"machine": machine(), "checks": {"run": len(verdicts), "failed": failed}}

    def section(name: str, rows: list[Row]) -> None:
        show(name, rows)
        report[name] = rows
        report["seconds"] = time.perf_counter() - start
        write(options.out, report)

    print(f"\n{json.dumps(report['machine'])}")
    lines, peak, copy = roofline()
    section("roofline", lines)
    wide = (1024, 2048) if options.quick else (4096, 11008)
    section("gain", gain_rates([(1024, 1024)] if options.quick else [(4096, 4096), wide], peak))
    section("others", other_rates(*wide, copy))
    heads = (8, 256, 128) if options.quick else (32, 4096, 128)
    section("optimum", descents([(1, *wide), heads]))
    section("annealing", noisy_sweeps([(16, 128, 128)] if options.quick else [(16, 4096, 128), (1, 4096, 2048)]))
    print(f"\n{report['seconds']:.0f} s; written to {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
