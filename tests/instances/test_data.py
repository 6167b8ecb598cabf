"""Stored matrices: every one is what the index says, and a damaged one is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from permsolve import instances
from permsolve.errors import PermsolveError

NAMES = instances.names()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the package read a copy of its data that a test may damage."""
    home = Path(instances.__file__).parent
    shutil.copy(home / "index.json", tmp_path)
    shutil.copytree(home / "data", tmp_path / "data")
    monkeypatch.setattr(instances, "_root", lambda: tmp_path)
    return tmp_path


def test_names() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 8
    assert {instances.info(name).family for name in NAMES} == {"digits", "minilm"}


@pytest.mark.parametrize("name", NAMES)
def test_matrix_is_what_the_index_says(name: str) -> None:
    entry = instances.info(name)
    matrix = instances.load(name)
    assert entry.name == name
    assert matrix.shape == entry.shape
    assert matrix.dtype == np.dtype(entry.dtype) == np.float32
    assert matrix.flags.c_contiguous
    assert np.isfinite(matrix).all()
    assert matrix.shape[1] % 4 == 0
    assert (np.abs(matrix).max(axis=0) > 0).all()
    assert len(np.unique(matrix, axis=1).T) == matrix.shape[1]  # no column twice
    assert hashlib.sha256(matrix.astype("<f4").tobytes()).hexdigest() == entry.sha256
    kernels, channels, *window = entry.original_shape
    assert entry.shape == (kernels * int(np.prod(window)), channels)


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_where_the_matrix_comes_from(name: str) -> None:
    entry = instances.info(name)
    assert entry.licence == "Apache-2.0"
    for text in (entry.layer, entry.change, entry.made, entry.script, entry.source):
        assert text.strip()
    if entry.family == "digits":
        assert entry.seed is not None
        assert entry.test_accuracy is not None
        assert 0.9 < entry.test_accuracy <= 1
    else:
        assert entry.seed is None
        assert entry.test_accuracy is None


def test_sizes_that_tests_and_examples_rely_on() -> None:
    columns = {instances.info(name).shape[1] for name in NAMES}
    assert {64, 128, 256, 384} <= columns


def test_files_are_small_and_all_listed() -> None:
    files = sorted((Path(instances.__file__).parent / "data").iterdir())
    assert [f"data/{file.name}" for file in files] == sorted(instances.info(name).file for name in NAMES)
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 1_000_000
    assert sum(sizes) <= 4_000_000


def test_loads_are_independent() -> None:
    first = instances.load(NAMES[0])
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(instances.load(NAMES[0]), expected)


def test_file_is_a_plain_npy_file() -> None:
    path = Path(instances.__file__).parent / instances.info(NAMES[0]).file
    np.testing.assert_array_equal(np.load(path), instances.load(NAMES[0]))


def test_unknown_name_lists_what_exists() -> None:
    for function in (instances.info, instances.load):
        with pytest.raises(ValueError, match="no stored matrix is called 'nope'") as caught:
            function("nope")
        assert isinstance(caught.value, PermsolveError)
        assert all(name in str(caught.value) for name in NAMES)


def test_instance_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        instances.info(NAMES[0]).file = "elsewhere"  # type: ignore[misc]


def test_untouched_copy_loads(copy: Path) -> None:
    # Without this, a fixture that breaks everything would make the tests of damage pass.
    for name in NAMES:
        assert instances.load(name).shape == instances.info(name).shape


def one_bit(path: Path) -> None:
    """Flip the last bit of the last entry."""
    raw = bytearray(path.read_bytes())
    raw[-4] ^= 1
    path.write_bytes(raw)


def truncated(path: Path) -> None:
    """Lose the last entry."""
    path.write_bytes(path.read_bytes()[:-4])


def longer(path: Path) -> None:
    """Gain bytes at the end."""
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")


def empty(path: Path) -> None:
    """Lose everything."""
    path.write_bytes(b"")


def text(path: Path) -> None:
    """Become what a failed download leaves."""
    path.write_text("<html>not found</html>\n" * 100)


def bad_header(path: Path) -> None:
    """Keep the magic and the entries, spoil the header between them."""
    raw = bytearray(path.read_bytes())
    raw[10:16] = b"(((((("
    path.write_bytes(raw)


def transposed(path: Path) -> None:
    """Hold the same bytes as another shape."""
    matrix = np.load(path)
    np.save(path, matrix.reshape(matrix.shape[::-1]))


def fortran(path: Path) -> None:
    """Hold the same matrix column by column."""
    np.save(path, np.asfortranarray(np.load(path)))


def double(path: Path) -> None:
    """Hold the same matrix as float64."""
    np.save(path, np.load(path).astype(np.float64))


def missing(path: Path) -> None:
    """Be gone."""
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_bit, "sha256"),
        (truncated, "sha256"),
        (longer, "sha256"),
        (empty, "header"),
        (text, "header"),
        (bad_header, "header"),
        (transposed, r"it holds \(shape, dtype, Fortran order\)"),
        (fortran, r"it holds \(shape, dtype, Fortran order\)"),
        (double, r"it holds \(shape, dtype, Fortran order\)"),
        (missing, "cannot be opened"),
    ],
)
def test_damaged_matrix_is_refused(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    entry = instances.info("digits_cnn_conv2")
    damage(copy / entry.file)
    with pytest.raises(PermsolveError, match=message) as caught:
        instances.load(entry.name)
    assert entry.file in str(caught.value)
    assert "damaged" in str(caught.value)
    instances.load("digits_mlp_input")  # the others are still there


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"name": "x"}]', '[{"name": "x", "shape": 3}]', "null"])
def test_damaged_index_is_refused(copy: Path, content: str) -> None:
    (copy / "index.json").write_text(content)
    with pytest.raises(PermsolveError, match=r"index\.json.*damaged"):
        instances.names()


def test_missing_index_is_refused(copy: Path) -> None:
    (copy / "index.json").unlink()
    with pytest.raises(PermsolveError, match=r"index\.json.*cannot be opened"):
        instances.load(NAMES[0])


def test_index_has_no_unread_fields() -> None:
    records = json.loads((Path(instances.__file__).parent / "index.json").read_text())
    known = {field.name for field in dataclasses.fields(instances.Instance)}
    assert all(set(record) == known for record in records)


def test_import_needs_only_numpy() -> None:
    code = (
        "import sys, permsolve.instances\n"
        "third = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'numpy', 'permsolve'}\n"
        "heavy = third & {'torch', 'sklearn', 'safetensors', 'scipy', 'numba', 'ortools', 'pydantic', 'pandas'}\n"
        "build = 'permsolve.instances.build' in sys.modules\n"
        "sys.exit(f'imported {heavy or build}' if heavy or build else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
