"""The examples of docs/models.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

GUIDE = Path(__file__).parents[2] / "docs" / "models.md"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    first, calibrated, fitted, second = blocks
    exec(first, {})
    printed = capsys.readouterr().out
    assert "2 groups, 2 weights gain" in printed
    assert "outputs unchanged" in printed
    assert (tmp_path / "plan.json").exists()
    exec(calibrated, {})
    exec(fitted, {})
    printed = capsys.readouterr().out
    assert "error %" in printed and "50.00" in printed
    exec(second, {})
    printed = capsys.readouterr().out
    assert "outputs unchanged" in printed
    assert "25.00" in printed
