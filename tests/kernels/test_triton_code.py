"""The Triton kernels compile for compute capability 9.0, and the gain kernel's loop is what its docstring says.

The interpreter runs programs that the compiler refuses, and says nothing of layouts; this needs no GPU either.
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
        [sys.executable, str(Path(__file__).parent / "triton_code.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_no_kernel_spills_registers(report: dict[str, Any]) -> None:
    assert {name: entry["spilt"] for name, entry in report.items() if entry["spilt"]} == {}


def test_the_loop_over_rows_stays_in_registers(report: dict[str, Any]) -> None:
    """No shared memory, no barrier, 16 bytes a load: what a change of layout would cost first."""
    for name, entry in report.items():
        if name.startswith("gain"):
            assert not {"LDS", "STS", "STSM", "BAR", "LDL", "STL", "SHFL"} & set(entry["loop"]), name
            assert entry["loop"]["FMNMX"] >= entry["terms"], name
            assert entry["loop"]["LDG"] <= max(entry["terms"] / 8, 8), name


@pytest.mark.parametrize(
    ("name", "share", "registers"),
    [
        ("gain 64x128 fp32", 0.9, 128),  # two programs of 8 warps share an SM
        ("gain 64x128 fp16", 0.86, 128),
        ("gain 64x128 bf16", 0.84, 128),
        ("gain 64x64 fp32", 0.9, 168),
        ("gain 32x128 fp32", 0.84, 80),
    ],
)
def test_most_instructions_of_the_loop_are_terms(
    report: dict[str, Any], name: str, share: float, registers: int
) -> None:
    """Two of them a term."""
    entry = report[name]
    assert 2 * entry["terms"] / entry["total"] > share
    assert entry["registers"] <= registers
