"""The compressed format: what is stored, what comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sparse_cases import IDS, KINDS, decode, drawn, example, masked, weight  # noqa: E402

import permsolve  # noqa: E402
from permsolve import NM, VNM, HiNM, Transposable  # noqa: E402
from permsolve.errors import InputError  # noqa: E402
from permsolve.patterns import Pattern  # noqa: E402
from permsolve.sparse import Compressed, compress, load, save  # noqa: E402
from permsolve.sparse.compressed import pack  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ALL = pytest.mark.parametrize(("pattern", "rows", "cols"), KINDS, ids=IDS)


@ALL
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_kept_comes_back(pattern: Pattern, rows: int, cols: int, dtype: Any) -> None:
    weights, dense = example(pattern, rows, cols, dtype)
    assert weights.check() is weights
    assert weights.dtype == dtype and weights.shape == (rows, cols)
    assert torch.equal(weights.to_dense(), dense)
    assert torch.equal(decode(weights), dense.double())
    assert weights.to_dense().dtype == dtype
    assert weights.values.numel() >= int((dense != 0).sum()) > 0


@ALL
def test_channels_are_those_of_the_values(pattern: Pattern, rows: int, cols: int) -> None:
    weights, dense = example(pattern, rows, cols)
    channels = weights.channels()
    assert channels.shape == weights.values.shape and channels.dtype == torch.int64
    assert torch.equal(dense[weights.rows.long()[:, None], channels], weights.values)
    assert int(weights.places().max()) < weights.width


@ALL
def test_sparser_masks_are_padded_with_zeros(pattern: Pattern, rows: int, cols: int) -> None:
    matrix = weight(rows, cols)
    solution = drawn(pattern, matrix, 3)
    full = pattern.mask(matrix.abs().double().numpy(), solution)
    mask = full & (np.random.default_rng(0).random((rows, cols)) < 0.5)
    mask[0] = False
    weights = compress(matrix, pattern, solution, mask=mask).check()
    assert torch.equal(weights.to_dense(), matrix * torch.from_numpy(mask))
    assert torch.equal(compress(matrix, pattern, solution, mask=torch.from_numpy(mask)).positions, weights.positions)


@ALL
def test_without_a_solution_nothing_is_permuted(pattern: Pattern, rows: int, cols: int) -> None:
    matrix = weight(rows, cols)
    weights = compress(matrix, str(pattern))
    solution = pattern.start(permsolve.Problem.of(matrix.numpy(), pattern))
    assert torch.equal(weights.to_dense(), masked(pattern, matrix, solution))
    assert torch.equal(weights.rows, torch.arange(rows, dtype=torch.int32))
    assert bool((weights.index.diff(dim=1) > 0).all())


def test_bytes_are_as_the_format_says() -> None:
    matrix = weight(64, 128, torch.float16)
    two_of_four = compress(matrix, "2:4")
    assert two_of_four.bits == 2 and two_of_four.positions.shape == (64, 16)
    assert two_of_four.nbytes == 64 * 64 * 2 + 64 * 16 + 128 * 4 + 64 * 4
    tiles = compress(matrix, HiNM(32, 0.5, "2:4"))
    assert tiles.nbytes == 64 * 32 * 2 + 64 * 8 + 2 * 64 * 4 + 64 * 4
    vnm = compress(matrix, VNM(32, 2, 16))
    assert vnm.values.shape == (64, 16) and vnm.index.shape == (2, 32) and vnm.width == 4 and vnm.height == 32


def test_a_worked_example() -> None:
    matrix = torch.tensor([[1.0, 0, 0, 2, 0, 3, 4, 0], [0, 5, 6, 0, 7, 0, 0, 8]])
    weights = compress(matrix, "2:4", mask=matrix != 0)
    assert weights.values.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert weights.places().tolist() == [[0, 3, 1, 2], [1, 2, 0, 3]]
    assert weights.positions.tolist() == [[0b10011100], [0b11001001]]


@given(
    st.sampled_from([1, 2, 4, 8]).flatmap(
        lambda bits: st.tuples(
            st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40), st.integers(1, 3)
        )
    )
)
def test_packing_keeps_numbers(drawn: tuple[int, list[int], int]) -> None:
    bits, numbers, rows = drawn
    packed = pack(np.array([numbers] * rows), bits)
    assert packed.dtype == np.uint8 and packed.shape == (rows, -(-len(numbers) * bits // 8))
    for row in packed:
        whole = int.from_bytes(row.tobytes(), "little")
        assert [(whole >> (k * bits)) & (2**bits - 1) for k in range(len(numbers))] == numbers


def test_gradients_reach_the_values() -> None:
    weights, _ = example(HiNM(8, 0.5, "2:4"), 24, 44, torch.float64)
    values = weights.values.clone().requires_grad_()
    factors = weight(24, 44, torch.float64, seed=5)
    (dataclasses.replace(weights, values=values).to_dense() * factors).sum().backward()
    assert torch.equal(values.grad, factors[weights.rows.long()[:, None], weights.channels()])


def test_moves() -> None:
    weights, dense = example(NM(2, 4), 13, 36)
    half = weights.to(torch.float16)
    assert half.dtype == torch.float16 and half.positions is not None
    assert torch.equal(half.to_dense(), dense.half()) and weights.dtype == torch.float32
    away = weights.to("meta")
    assert away.device.type == "meta" and {each.device.type for each in (away.positions, away.index, away.rows)} == {
        "meta"
    }


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_masks_that_are_not_of_the_pattern() -> None:
    matrix = weight(8, 16)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[3, 4:7] = True
    with pytest.raises(InputError, match="not of 2:4 under this solution: it keeps 3 weights of one group"):
        compress(matrix, "2:4", mask=mask)
    perm = np.random.default_rng(0).permutation(16)
    of_another = NM(2, 4).mask(matrix.abs().numpy(), perm)
    with pytest.raises(InputError, match="weights of one group"):
        compress(matrix, "2:4", np.arange(16), mask=of_another)
    with pytest.raises(InputError, match=r"bool of shape \(8, 16\), got bool of shape \(8, 8\)"):
        compress(matrix, "2:4", mask=mask[:, :8])
    with pytest.raises(InputError, match=r"bool of shape .*got float32"):
        compress(matrix, "2:4", mask=mask.float())
    tiles = HiNM(4, 0.5, "2:4")
    solution = drawn(tiles, matrix)
    outside = np.zeros((8, 16), dtype=bool)
    outside[solution.rows[0], np.setdiff1d(np.arange(16), solution.columns[0])[0]] = True
    with pytest.raises(InputError, match="keeps weights that no slot reads"):
        compress(matrix, tiles, solution, mask=outside)


def test_solutions_of_another_matrix_or_pattern() -> None:
    matrix = weight(8, 16)
    with pytest.raises(InputError, match="16"):
        compress(matrix, "2:4", np.arange(20))
    with pytest.raises(InputError, match="HiNMSolution"):
        compress(matrix, HiNM(4, 0.5, "2:4"), np.arange(16))
    with pytest.raises(InputError, match="shape"):
        compress(matrix, HiNM(4, 0.5, "2:4"), drawn(HiNM(4, 0.5, "2:4"), weight(12, 16)))
    with pytest.raises(InputError, match="rows"):
        compress(matrix, Transposable(2, 4), drawn(Transposable(2, 4), weight(12, 16)))


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (torch.ones(4), "2-D tensor"),
        (torch.ones(2, 4, 3, 3), "2-D tensor"),
        (torch.ones(4, 8, dtype=torch.int8), "int8"),
        (np.ones((4, 8)), "ndarray"),
        (torch.full((4, 8), float("nan")), "NaN or infinite"),
        (torch.tensor([[1.0, 2, 3, float("inf")]]), "NaN or infinite"),
        (torch.ones(4, 6), "6 columns"),
    ],
)
def test_weights_that_are_none(matrix: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compress(matrix, "2:4")


def parts(weights: Compressed) -> dict[str, Any]:
    return {name: getattr(weights, name).clone() for name in ("values", "positions", "index", "rows")}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("values", lambda t: t[:, :-1], "values of compressed 2:4 of 13 x 36 is .* of shape"),
        ("values", lambda t: t.to(torch.int32), "got int32"),
        ("positions", lambda t: t.int(), "positions .* is uint8"),
        ("positions", lambda t: t[:, :-1], "positions"),
        ("index", lambda t: t.long(), "index .* is int32"),
        ("index", lambda t: t[0], "index"),
        ("rows", lambda t: t[:-1], "rows"),
        ("rows", lambda t: t.to("meta"), "on one device, got cpu, meta"),
    ],
)
def test_tensors_that_do_not_fit_together(name: str, change: Any, said: str) -> None:
    weights, _ = example(NM(2, 4), 13, 36)
    given = parts(weights)
    given[name] = change(given[name])
    with pytest.raises(InputError, match=said):
        Compressed(weights.pattern, weights.shape, **given)


def fill(row: int, col: int, value: float) -> Any:
    def change(tensor: Any) -> Any:
        tensor.view(-1)[row * (tensor.shape[-1] if tensor.ndim > 1 else 1) + col] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("pattern", "name", "change", "said"),
    [
        (NM(2, 4), "rows", fill(0, 0, 5), "permutation of 0 .. 11"),
        (NM(2, 4), "rows", fill(0, 0, -1), "permutation of 0 .. 11"),
        (NM(2, 4), "index", fill(0, 0, 24), "lie in 0 .. 23"),
        (NM(2, 4), "index", fill(0, 0, -1), "lie in 0 .. 23"),
        (HiNM(4, 0.5, "2:4"), "index", lambda t: t[:, [1, 1, *range(2, 12)]], "twice in one tile"),
        (NM(1, 3), "positions", fill(3, 1, 255), "outside its group of 3"),
        (NM(2, 4), "positions", fill(3, 1, 0), "do not ascend"),
        (VNM(4, 2, 8), "values", fill(2, 1, float("nan")), "NaN or infinite"),
        (VNM(4, 2, 8), "values", fill(2, 1, float("inf")), "NaN or infinite"),
    ],
)
def test_contents_that_are_corrupt(pattern: Pattern, name: str, change: Any, said: str) -> None:
    weights, _ = example(pattern, 12, 24)
    given = parts(weights)
    given[name] = change(given[name])
    with pytest.raises(InputError, match=said):
        Compressed(weights.pattern, weights.shape, **given).check()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: compress(torch.ones(2, 600), "2:300"), "2:300 has no compressed format: its groups have 300 slots"),
        (lambda: compress(torch.ones(4, 8, device="meta")), "on the meta device, without values"),
        (lambda: compress(torch.eye(8).to_sparse()), r"stored as torch\.sparse_coo"),
        (lambda: example(NM(2, 4), 8, 16)[0].to("meta").check(), "on the meta device, without data"),
        (lambda: dataclasses.replace(example(NM(2, 4), 8, 16)[0], shape=(0, 16)), r"got shape \(0, 16\)"),
    ],
)
def test_what_the_format_cannot_hold(make: Any, said: str) -> None:
    """Groups of more than 256, absent or sparse weights: each used to end in an error of Python's or torch's own."""
    with pytest.raises(InputError, match=said):
        make()


def test_positions_of_the_widest_groups() -> None:
    matrix = weight(2, 512)
    weights = compress(matrix, "200:256", drawn(NM(200, 256), matrix)).check()
    assert weights.bits == 8 and int(weights.places().max()) == 255
    assert torch.equal(weights.to_dense(), decode(weights).float())


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_hold_everything(tmp_path: Path) -> None:
    made = {f"layer.{k}": example(*case, dtype=DTYPES[k % 4]) for k, case in enumerate(KINDS)}
    bias = torch.arange(4.0)
    save({name: weights for name, (weights, _) in made.items()}, tmp_path / "w.safetensors", others={"bias": bias})
    found, others = load(tmp_path / "w.safetensors")
    assert found.keys() == made.keys() and torch.equal(others.pop("bias"), bias) and not others
    for name, (weights, dense) in made.items():
        again = found[name]
        assert again.pattern == weights.pattern and again.shape == weights.shape
        assert torch.equal(again.to_dense(), dense) and again.dtype == weights.dtype
        assert all(torch.equal(getattr(again, part), each) for part, each in parts(weights).items())
    assert [each.name for each in tmp_path.iterdir()] == ["w.safetensors"], "nothing temporary stays"


def write(path: Path, change: Any) -> None:
    """Save two layers of one shape, and change the file's tensors and metadata."""
    weights = {name: example(NM(2, 4), 8, 16)[0] for name in ("one", "two")}
    weights["tiles"] = example(HiNM(4, 0.5, "2:4"), 8, 32)[0]
    save(weights, path)
    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    about = json.loads(metadata["compressed"])
    del metadata["compressed"]
    change(tensors, about, metadata)
    metadata.setdefault("compressed", json.dumps(about))
    save_file({name: each.contiguous() for name, each in tensors.items()}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, a, m: t.pop("one.index"), "'one.index' of compressed weight 'one' is missing"),
        (lambda t, a, m: t["one.index"].zero_(), "'one'.*twice in one tile"),
        (lambda t, a, m: t["one.positions"].zero_(), "'one'.*do not ascend"),
        (lambda t, a, m: t.update({"one.index": t["tiles.index"].clone()}), "'one': index of compressed 2:4"),
        (lambda t, a, m: t.update({"one.values": t["one.values"].int()}), "'one': values of .*got int32"),
        (lambda t, a, m: a["one"].update(pattern="1:4"), "'one': values of compressed 1:4"),
        (lambda t, a, m: a["one"].update(pattern="two of four"), "'one'"),
        (lambda t, a, m: a["one"].update(shape=[8]), "'one'"),
        (lambda t, a, m: a["one"].update(shape=[8, 20]), "'one': values of compressed 2:4 of 8 x 20"),
        (lambda t, a, m: a["one"].pop("pattern"), "'one'"),
        (lambda t, a, m: a["tiles"].update(pattern="hinm(3, 0.5, 2:4)"), "'tiles': 8 rows"),
        (lambda t, a, m: a.update(one="2:4"), "no mapping"),
        (lambda t, a, m: a.update(three=a["one"]), "'three.values'"),
        (lambda t, a, m: m.update(schema="permsolve.sparse/2"), "its schema is 'permsolve.sparse/2'"),
        (lambda t, a, m: m.pop("schema"), "its schema is None"),
        (lambda t, a, m: m.update(compressed="nothing"), "cannot be read"),
        (lambda t, a, m: m.update(compressed="[" * 100_000), "cannot be read"),
        (lambda t, a, m: a["one"].update(shape=[0, 16]), r"'one': .*got shape \(0, 16\)"),
        (lambda t, a, m: a["one"].update(shape=[8.5, 16]), r"'one': its shape is \[8\.5, 16\], not two whole numbers"),
        (lambda t, a, m: a["one"].update(shape=["8", 16]), "not two whole numbers"),
        (lambda t, a, m: a["one"].update(shape=[8, 16, 1]), "not two whole numbers"),
        (lambda t, a, m: a["one"].update(pattern="2:300"), "'one'"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "w.safetensors"
    write(path, change)
    with pytest.raises(InputError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever bit of a file flips: a clear error, or weights that kernels can be given (a bit of a value changed)."""
    path = tmp_path / "w.safetensors"
    write(path, lambda t, a, m: None)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            for weights in load(path)[0].values():
                weights.check()
        except InputError:
            refused += 1
    assert refused > 50


def test_the_helper_alone_damages_nothing(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", lambda t, a, m: None)
    assert len(load(tmp_path / "w.safetensors")[0]) == 3


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_files_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.safetensors"
    write(path, lambda t, a, m: None)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"w\.safetensors"):
        load(path)


def test_shared_memory_is_written_under_each_name(tmp_path: Path) -> None:
    """Two weights of one structure, and tied tensors beside them; safetensors alone refuses both."""
    one, dense = example(NM(2, 4), 8, 16)
    two = dataclasses.replace(one, values=2 * one.values)
    tied = torch.arange(3.0)
    save({"one": one, "again": one, "two": two}, tmp_path / "w.safetensors", others={"a": tied, "b": tied})
    found, others = load(tmp_path / "w.safetensors")
    assert [torch.equal(found[name].to_dense(), dense) for name in ("one", "again")] == [True, True]
    assert torch.equal(found["two"].to_dense(), 2 * dense)
    assert torch.equal(others["a"], tied) and torch.equal(others["b"], tied)


def test_what_cannot_be_stored(tmp_path: Path) -> None:
    weights, dense = example(NM(2, 4), 8, 16)
    for named, others, said in (
        ({"a": dense}, {}, "'a' is a Tensor, not compressed weights"),
        ({"a": weights.to("meta")}, {}, r"a\.values is on the meta device"),
        ({"a": weights}, {"b": 3}, "b is a int and cannot be stored"),
    ):
        with pytest.raises(InputError, match=said):
            save(named, tmp_path / "w.safetensors", others=others)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read"):
        load(tmp_path / "none.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "dense.safetensors")
    with pytest.raises(InputError, match=r"not a file of 'permsolve\.sparse/1'"):
        load(tmp_path / "dense.safetensors")
    weights, _ = example(NM(2, 4), 8, 16)
    with pytest.raises(InputError, match=r"two tensors are named a\.values"):
        save({"a": weights}, tmp_path / "x.safetensors", others={"a.values": torch.ones(1)})
