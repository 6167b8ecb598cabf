"""The sparse kernels compile for compute capability 9.0 as they are launched, into the loops of their docstrings.

The interpreter knows nothing of layouts, asynchronous copies and tensor cores; this needs no GPU either.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,  # it compiles every kernel
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the disassembler may not come with triton here"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "sparse_code.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return {name: entries[0] for name, entries in made.items()}


def test_no_kernel_spills_registers(report: dict[str, Any]) -> None:
    assert {name: entry["spilt"] for name, entry in report.items() if entry["spilt"]} == {}


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_vectors_are_bound_by_loads(report: dict[str, Any], kind: str) -> None:
    """16 bytes of values a load, nothing through shared memory, and few instructions a value."""
    entry = report[f"vectors {kind}"]
    loop = entry["loop"]
    loads = {name: count for name, count in loop.items() if name.startswith("LDG")}
    assert loads == {"LDG.E.128": entry["values"] // 8, "LDG.E.U16": entry["values"] // 8}
    assert not {"LDS", "STS", "BAR", "LDL", "STL"} & set(loop)
    assert entry["total"] <= 10 * entry["values"]


@pytest.mark.parametrize("name", ["few fp16", "many fp16", "many bf16"])
def test_products_feed_tensor_cores_from_asynchronous_copies(report: dict[str, Any], name: str) -> None:
    entry = report[name]
    loop, settings = entry["loop"], entry["settings"]
    slots = settings["GROUPS"] * 4
    assert loop["HGMMA"] == slots // 16 * max(settings["ROWS"] // (16 * settings["num_warps"]), 1)
    assert not [op for op in loop if op.startswith("LDG.")]  # loads that would wait
    # Dense weights pass shared memory once, 16 bytes a store; activations stay where they were loaded to.
    assert loop["STS"] == settings["ROWS"] * slots * 2 // (16 * 32 * settings["num_warps"])
    assert loop["PRMT"] == entry["values"]  # one choice of bytes for two slots


def test_few_vectors_take_few_instructions(report: dict[str, Any]) -> None:
    assert report["few fp16"]["total"] <= 13.5 * report["few fp16"]["values"]


def test_short_tiles_still_use_tensor_cores(report: dict[str, Any]) -> None:
    loop = report["tiles of 32"]["loop"]
    assert loop["HMMA"] > 0
    assert not [op for op in loop if op.startswith("LDG.")]
