"""The examples of docs/training.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

GUIDE = Path(__file__).parents[2] / "docs" / "training.md"


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL):
        if "Trainer(" not in code:
            exec(code, names)
    printed = capsys.readouterr().out
    assert "2 weights" in printed
    assert "outputs unchanged" in printed
