"""Compile the Triton kernels for a GPU that need not be there (sm_90) and print what came of it, as JSON.

A process of its own: the tests' own process may have chosen Triton's interpreter. The compiler, the assembler and the
disassembler come with triton.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from permsolve.kernels.triton import gain, groups, select

INTEGERS = {"saliency_stride": "i64", "threshold_stride": "i64", "out_stride": "i32", "gain_stride": "i32"}
TYPES = dict.fromkeys(("order", "groups", "counts", "labels", "group_of"), "*i32") | {"best": "*i64", "choices": "*i64"}
#: What the wrappers always pass as multiples of 16.
ALIGNED = ("rows", "slots", "saliency_stride", "threshold_stride", "out_stride", "gain_stride")


def compile_(kernel: Any, warps: int, constants: dict[str, Any], storage: str = "fp32") -> Any:
    """Compile a kernel with the arguments' types that the wrappers pass."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        scalar = name in ("rows", "cols", "listed", "slots", "seed") or name in INTEGERS
        signature[name] = INTEGERS.get(name, "i32") if scalar else TYPES.get(name, "*fp32")
        if name == "saliency":
            signature[name] = f"*{storage}"
        if not scalar or name in ALIGNED:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def listing(compiled: Any) -> tuple[str, str]:
    """Return the disassembly and the resource usage."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        words = [[str(tool), option, file.name] for option in ("-sass", "-res-usage")]
        code, usage = (subprocess.run(line, capture_output=True, text=True, check=True) for line in words)
    return code.stdout, usage.stdout + usage.stderr


def innermost(code: str) -> Counter[str]:
    """Count the instructions of the shortest loop that adds numbers, by name."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)(.*?);", code)
    at = [int(address, 16) for address, _, _ in found]
    loops = []
    for k, (_, name, rest) in enumerate(found):
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and target and int(target[1], 16) < at[k]:
            body = found[at.index(int(target[1], 16)) : k + 1]
            loops.append(Counter(name.partition(".")[0] for _, name, _ in body))
    return min((loop for loop in loops if loop["FADD"]), key=lambda loop: loop.total())


def figures(compiled: Any) -> dict[str, Any]:
    """Return registers, bytes spilt and, of a gain kernel, the instructions of the inner loop."""
    code, usage = listing(compiled)
    numbers = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
    return {"registers": numbers["REG"], "spilt": numbers["STACK"] + numbers["LOCAL"], "code": code}


def main() -> None:
    """Compile all kernels in shapes that the search uses; a second or two each."""
    report: dict[str, Any] = {}
    used = (gain.TILES[128], gain.TILES[64], gain.FLAT[128])
    tiles = {f"gain {tile.slots}x{tile.columns}": tile for tile in used}
    for storage in ("fp32", "fp16", "bf16"):
        for name, tile in tiles.items():
            if storage != "fp32" and tile is not gain.TILES[128]:
                continue
            constants = {"M": 4, "SLOTS": tile.slots, "COLUMNS": tile.columns, "BLOCK": groups.ROW_BLOCK}
            made = compile_(gain.gain_kernel, tile.warps, constants | {"UNROLL": tile.unroll}, storage)
            entry = figures(made)
            loop = innermost(entry.pop("code"))
            terms = tile.slots * tile.columns * tile.unroll // (32 * tile.warps)
            report[f"{name} {storage}"] = entry | {"terms": terms, "total": loop.total(), "loop": loop}
    for (n, m), storage in (((2, 4), "fp32"), ((8, 16), "bf16")):
        padded = triton.next_power_of_2(m)
        constants = {"N": n, "M": m, "PADDED_M": padded, "GROUPS": max(1, 16 // padded)}
        constants |= {"WIDTH": 128, "SLOT_WIDTH": 64, "BLOCK": groups.ROW_BLOCK}
        report[f"refresh {n}:{m} {storage}"] = figures(compile_(groups.refresh_kernel, 4, constants, storage))
    for noise in (False, True):
        constants = {"NOISE": noise, "SIDE": select.SIDE}
        report[f"best noise={noise}"] = figures(compile_(select.best_kernel, 4, constants))
        constants = {"NOISE": noise, "M": 4, "BLOCK": 64}
        report[f"match noise={noise}"] = figures(compile_(select.match_kernel, 2, constants))
    report["apply"] = figures(compile_(select.apply_kernel, 2, {"M": 4, "BLOCK": 64}))
    for entry in report.values():
        entry.pop("code", None)
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
