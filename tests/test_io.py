"""Files: documents are written whole or not at all; matrices are read or refused, and never executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import uniform
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import permsolve
from permsolve import Result
from permsolve import io as files
from permsolve.errors import DocumentError, FileError
from permsolve.io import read_matrix

#: What torch says of pickles that are not its own, before it refuses them.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")

MATRIX = uniform(9, 16).astype(np.float32)
RESULT = permsolve.solve(MATRIX, method="random")


# Documents


def test_saved_is_loaded(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", str(tmp_path / "b.json")):
        permsolve.save(RESULT, path)
        assert isinstance(permsolve.load(path), Result)
        assert permsolve.load(path).to_json() == RESULT.to_json()
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def test_saving_replaces_and_honours_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    before = os.umask(0o027)
    try:
        permsolve.save(RESULT, path)
    finally:
        os.umask(before)
    assert permsolve.load(path).score == RESULT.score
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile if step == "mkstemp" else files.os, step, fail)
    with pytest.raises(FileError, match="No space left on device") as caught:
        permsolve.save(RESULT, path)
    assert "a.json" in str(caught.value)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        permsolve.save(RESULT, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("missing/a.json", "file/a.json", "folder"):
        with pytest.raises(FileError, match=place):
            permsolve.save(RESULT, tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(FileError, match="Permission denied"):
            permsolve.save(RESULT, tmp_path / "a.json")
    finally:
        tmp_path.chmod(0o700)


def test_documents_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"missing\.json"):
        permsolve.load(tmp_path / "missing.json")
    with pytest.raises(FileError):
        permsolve.load(tmp_path)
    for content in (b"", b"{", b"\xff\xfe", RESULT.to_json().encode()[:200]):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DocumentError, match=r"bad\.json"):
            permsolve.load(tmp_path / "bad.json")


# Matrices


def write(path: Path, **tensors: np.ndarray) -> Path:
    """Write tensors in the kind of file that the suffix names."""
    if path.suffix == ".npy":
        np.save(path, next(iter(tensors.values())))
    elif path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(tensors, path)
    else:
        torch = pytest.importorskip("torch", reason="needs torch")
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    return path


KINDS = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".bin")
NAMED = KINDS[1:]


@pytest.mark.parametrize("kind", [*KINDS, ".NPY"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8"])
def test_a_single_matrix_is_read(tmp_path: Path, kind: str, dtype: str) -> None:
    path = write(tmp_path / f"w{kind.lower()}", weight=MATRIX.astype(dtype))
    path = path.rename(tmp_path / f"w{kind}")
    matrix = np.asarray(read_matrix(path))
    assert matrix.dtype == dtype
    np.testing.assert_array_equal(matrix, MATRIX.astype(dtype))
    assert permsolve.Problem.of(read_matrix(str(path))).cols == 16


@pytest.mark.parametrize("kind", NAMED)
def test_a_matrix_is_read_by_name(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"w{kind}", first=MATRIX, second=MATRIX * 2, bias=MATRIX[0])
    np.testing.assert_array_equal(np.asarray(read_matrix(path, "second")), MATRIX * 2)
    np.testing.assert_array_equal(np.asarray(read_matrix(path, "bias")), MATRIX[0])
    with pytest.raises(FileError, match="2 matrices") as caught:
        read_matrix(path)
    assert "first" in str(caught.value)
    assert "bias" not in str(caught.value)
    with pytest.raises(FileError, match="'third'") as caught:
        read_matrix(path, "third")
    for name in ("first", "second", "bias"):
        assert name in str(caught.value)


@pytest.mark.parametrize("kind", NAMED)
def test_the_only_matrix_among_vectors_needs_no_name(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"w{kind}", bias=MATRIX[0], weight=MATRIX)
    np.testing.assert_array_equal(np.asarray(read_matrix(path)), MATRIX)
    with pytest.raises(FileError, match="no tensor of two or more axes; it holds bias"):
        read_matrix(write(tmp_path / f"v{kind}", bias=MATRIX[0]))


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "w.npz", **{f"layer{k:02}": MATRIX for k in range(20)})
    with pytest.raises(FileError, match="layer07 and 12 more"):
        read_matrix(path)


def test_an_npy_file_has_no_names(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="'weight'"):
        read_matrix(write(tmp_path / "w.npy", weight=MATRIX), "weight")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("1 2")
    (tmp_path / "folder.npy").mkdir()
    for name, named in (("w.txt", "'.txt'"), ("none.npy", "no such file"), ("folder.npy", "not a file"), ("w", "''")):
        with pytest.raises(FileError, match=named) as caught:
            read_matrix(tmp_path / name)
        assert caught.value.path == tmp_path / name


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 3, 40, 0.5, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, keep: float) -> None:
    path = write(tmp_path / f"w{kind}", weight=MATRIX)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(FileError, match=f"w{kind}"):
        read_matrix(path)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors", ".pt"])
def test_files_of_another_kind_under_a_wrong_name_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"text{kind}").write_text("these are not the weights that you are looking for\n" * 9)
    with pytest.raises(FileError):
        read_matrix(tmp_path / f"text{kind}")
    for other in (".npy", ".npz", ".safetensors", ".pt"):
        if other != kind:
            path = write(tmp_path / f"v{other}", weight=MATRIX).rename(tmp_path / f"renamed{other[1:]}{kind}")
            with pytest.raises(FileError):
                read_matrix(path)


CONTENTS: dict[str, bytes] = {}


@pytest.mark.parametrize("kind", [".npy", ".npz", "compressed.npz", ".safetensors", ".pt"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(tmp_path: Path, kind: str, where: float, value: int) -> None:
    """A damaged file is an array of other numbers, or a FileError that names it; nothing else ever comes out."""
    path = tmp_path / f"w{kind}"
    if kind not in CONTENTS:
        if kind == "compressed.npz":
            np.savez_compressed(path, weight=MATRIX)
        else:
            write(path, weight=MATRIX)
        CONTENTS[kind] = path.read_bytes()
    data = bytearray(CONTENTS[kind])
    data[int(where * len(data))] = value
    path.write_bytes(data)
    try:
        matrix = read_matrix(path)
    except FileError as error:
        assert path.name in str(error)
    else:
        assert hasattr(matrix, "shape")
        assert hasattr(matrix, "dtype")


def test_a_compressed_archive_with_damaged_data(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, weight=MATRIX)
    data = bytearray(path.read_bytes())
    data[60:80] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(FileError, match="damaged"):
        read_matrix(path)


def damage(path: Path, member: str) -> None:
    """Overwrite the end of a member's data."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    data = bytearray(path.read_bytes())
    end = data.index(member.encode(), info.header_offset) + len(member) + info.compress_size
    data[end - 20 : end] = b"\xff" * 20
    path.write_bytes(data)


def test_only_the_matrix_of_an_archive_is_read(tmp_path: Path) -> None:
    """To find it among vectors their headers are enough: damage further on does not matter, nor does their size."""
    path = write(tmp_path / "w.npz", bias=np.ones(5000), weight=MATRIX, scale=np.ones(5000))
    damage(path, "bias.npy")
    np.testing.assert_array_equal(read_matrix(path), MATRIX)
    np.testing.assert_array_equal(read_matrix(path, "weight"), MATRIX)
    with pytest.raises(FileError, match="damaged"):
        read_matrix(path, "bias")
    damage(path, "weight.npy")
    for tensor in (None, "weight"):
        with pytest.raises(FileError, match="damaged"):
            read_matrix(path, tensor)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_headers_of_every_version_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("weight.npy", "w") as stream:
        np.lib.format.write_array(stream, MATRIX, version=version)
    np.testing.assert_array_equal(read_matrix(path), MATRIX)


def test_an_archive_with_a_member_that_is_no_array(tmp_path: Path) -> None:
    path = write(tmp_path / "w.npz", weight=MATRIX)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "weights of a small network")
    np.testing.assert_array_equal(read_matrix(path, "weight"), MATRIX)
    np.testing.assert_array_equal(read_matrix(path), MATRIX)
    with pytest.raises(FileError):
        read_matrix(path, "README.txt")


# Nothing in a file is executed


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.mark, "executed"))


@pytest.mark.parametrize("kind", [".pt", ".pth", ".bin", ".npy", ".npz", "stream.npy"])
def test_a_pickle_in_a_file_is_not_executed(tmp_path: Path, kind: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / f"w{kind}"
    trap = Trap(mark)
    pickle.loads(pickle.dumps(trap))
    assert mark.exists()  # the trap works
    mark.unlink()
    if kind in (".pt", ".pth"):
        torch = pytest.importorskip("torch", reason="needs torch")
        torch.save({"weight": torch.ones(4, 4), "extra": trap}, path)
    elif kind in (".bin", "stream.npy"):
        path.write_bytes(pickle.dumps(trap))
    elif kind == ".npy":
        np.save(path, np.array([[trap]], dtype=object), allow_pickle=True)
    else:
        np.savez(path, weight=np.array([[trap]], dtype=object))
    with pytest.raises(FileError):
        read_matrix(path)
    assert not mark.exists()


def test_the_refusal_of_a_pickle_does_not_advise_to_load_it_anyway(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save(Trap(tmp_path / "mark"), tmp_path / "w.pt")
    with pytest.raises(FileError) as caught:
        read_matrix(tmp_path / "w.pt")
    assert "weights_only=False" not in str(caught.value)
    assert "False" not in str(caught.value)


# Checkpoints


def test_nested_checkpoints_have_dotted_names(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    weight, path = torch.from_numpy(MATRIX), tmp_path / "w.pt"
    torch.save(
        {"epoch": 3, "name": "net", "none": None, "model": {"fc": {"weight": weight, "bias": weight[0]}, 7: weight[1]}},
        path,
    )
    assert torch.equal(read_matrix(path), weight)
    assert torch.equal(read_matrix(path, "model.fc.bias"), weight[0])
    with pytest.raises(FileError, match=r"model\.fc\.weight, model\.fc\.bias, model\.7"):
        read_matrix(path, "fc.weight")


@pytest.mark.parametrize("content", ["tensor", "module state", "no tensor"])
def test_other_checkpoints(tmp_path: Path, content: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    layer, path = torch.nn.Linear(8, 4), tmp_path / "w.pt"
    torch.save(
        {"tensor": layer.weight.detach(), "module state": layer.state_dict(), "no tensor": {"epoch": 1}}[content], path
    )
    if content == "no tensor":
        with pytest.raises(FileError, match="it holds nothing"):
            read_matrix(path)
    else:
        assert torch.equal(read_matrix(path), layer.weight)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float8_e4m3fn"])
def test_safetensors_of_low_precision(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    from safetensors.torch import save_file

    tensor = torch.from_numpy(MATRIX).to(getattr(torch, dtype))
    save_file({"weight": tensor, "bias": tensor[0].clone()}, tmp_path / "w.safetensors")
    if dtype == "float8_e4m3fn":  # no float type of NumPy: refused, by name
        with pytest.raises(FileError, match="weight"):
            read_matrix(tmp_path / "w.safetensors")
        return
    matrix = torch.as_tensor(read_matrix(tmp_path / "w.safetensors"))
    assert torch.equal(matrix, tensor)
    assert permsolve.Problem.of(read_matrix(tmp_path / "w.safetensors")).dtype == dtype


def test_an_array_in_fortran_order_and_version_2_headers(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(MATRIX))
    np.testing.assert_array_equal(read_matrix(tmp_path / "f.npy"), MATRIX)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, MATRIX, version=(2, 0))
    (tmp_path / "v2.npy").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_matrix(tmp_path / "v2.npy"), MATRIX)
