"""Compile the sparse kernels for a GPU that need not be there (sm_90), as the launchers would, and print figures.

A process of its own, as ``tests/kernels/triton_code.py``. ``--all`` compiles every shape that kernels are tuned over.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from permsolve.sparse import on_device
from permsolve.sparse.compressed import compress
from permsolve.sparse.triton.layouts import layout_of

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))
from triton_code import listing

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int8: "*i8"}
POINTERS |= {torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64"}
#: Pattern, rows, columns, type, vectors.
CASES = {
    "vectors fp16": ("2:4", 256, 2048, torch.float16, 1),
    "vectors bf16": ("2:4", 256, 2048, torch.bfloat16, 1),
    "few fp16": ("2:4", 256, 2048, torch.float16, 16),
    "many fp16": ("2:4", 256, 2048, torch.float16, 2048),
    "many bf16": ("2:4", 256, 2048, torch.bfloat16, 2048),
    "tiles of 32": ("hinm(32, 0.5, 2:4)", 256, 2048, torch.float16, 2048),
}
#: Compiled with ``--all`` only.
MORE = {
    "vectors fp32": ("2:4", 256, 1024, torch.float32, 2),
    "vectors 2:16": ("2:16", 256, 2048, torch.float16, 1),
    "few fp32": ("2:4", 256, 1024, torch.float32, 16),
    "many 1:4": ("1:4", 256, 2048, torch.float16, 2048),
}


class Launched(Exception):
    """What a launcher was about to launch."""


def intercept(kernel: Any, key: Any, grid: Any, arguments: Any, constants: Any, choices: Any, settings: Any) -> None:
    """Stand in for `on_device._launch`."""
    raise Launched(kernel, arguments, constants, choices)


def compiled(kernel: Any, arguments: Any, constants: dict[str, Any], settings: dict[str, int]) -> Any:
    """Compile a kernel for these arguments; whole numbers are specialised as a launch would."""
    known = constants | settings
    options = {name: known.pop(name) for name in ("num_warps", "num_stages") if name in known}
    constexprs = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | known
    signature, attributes = {}, {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        if name in constexprs:
            signature[name] = "constexpr"
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[name] = POINTERS[value.dtype] if tensor else "i32"
        if tensor or (value % 16 == 0 and not parameter.do_not_specialize):
            attributes[place,] = [["tt.divisibility", 16]]
    fixed = {name: values[name] for name in constexprs}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def loop(code: str, marks: tuple[str, ...]) -> Counter[str]:
    """Count the instructions of the shortest loop with one of some instructions, by name."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)(.*?);", code)
    at = [int(address, 16) for address, _, _ in found]
    loops = []
    for k, (_, name, rest) in enumerate(found):
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and target and int(target[1], 16) < at[k]:
            body = [name for _, name, _ in found[at.index(int(target[1], 16)) : k + 1]]
            # What shows the width or the kind of a load is kept.
            loops.append(
                Counter(name if name.startswith(("LDG", "LDGSTS")) else name.partition(".")[0] for name in body)
            )
    return min((each for each in loops if any(each[mark] for mark in marks)), key=lambda each: each.total())


def figures(kernel: Any, arguments: Any, constants: Any, settings: dict[str, int]) -> dict[str, Any]:
    """Return registers, bytes spilt, the inner loop's instructions and the values that a thread has in it."""
    code, usage = listing(compiled(kernel, arguments, constants, settings))
    numbers = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
    inner = loop(code, ("FFMA",) if "VALUES" in constants else ("HGMMA", "HMMA"))
    if "VALUES" in constants:
        values = settings["STEPS"] * settings["UNROLL"] * constants["VALUES"]
    else:
        values = settings["ROWS"] * settings["GROUPS"] * constants["N"] // (32 * settings["num_warps"])
    entry = {"registers": numbers["REG"], "spilt": numbers["STACK"] + numbers["LOCAL"], "values": values}
    return entry | {"settings": settings, "total": inner.total(), "loop": inner}


def main() -> None:
    """Compile; a few seconds each."""
    on_device._launch = intercept  # type: ignore[assignment]
    on_device.transposed = lambda x, padded=None: x.t().contiguous()  # type: ignore[assignment]
    everything = "--all" in sys.argv
    report: dict[str, list[dict[str, Any]]] = {}
    for name, (pattern, rows, cols, dtype, tokens) in (CASES | MORE if everything else CASES).items():
        weights = compress(torch.randn((rows, cols), generator=torch.Generator().manual_seed(1)).to(dtype), pattern)
        run = on_device.times_vectors if tokens <= on_device.MOST_VECTORS else on_device.times_columns
        try:
            run(torch.zeros((tokens, cols), dtype=dtype), layout_of(weights))
        except Launched as launched:
            kernel, arguments, constants, choices = launched.args
        if "SPLIT" in choices[0]:  # other parts are the same code
            choices = [each for each in choices if each["PARTS"] == 1]
        choices = choices if everything else choices[:1]
        report[name] = [figures(kernel, arguments, constants, each) for each in choices]
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
