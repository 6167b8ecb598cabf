"""Synthetic matrices: their streams, their shapes, and what each of them promises."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from permsolve import instances

generators = instances.generators

row_clusters = partial(generators.row_clusters, vector=2)

ALL: tuple[Callable[..., Any], ...] = (
    generators.uniform,
    generators.normal,
    generators.lognormal_columns,
    generators.heavy_tails,
    generators.duplicated_columns,
    generators.planted,
    generators.unstructured_sparse,
    row_clusters,
)


def draw(generator: Callable[..., Any], *shape: int, **options: Any) -> np.ndarray:
    """Draw a matrix, whatever else the generator answers."""
    answer = generator(*shape, **options)
    return answer.matrix if isinstance(answer, (generators.Planted, generators.Clusters)) else answer


def kept(matrix: np.ndarray, n: int, m: int) -> float:
    """Sum the n largest of every m consecutive entries, by sorting: the definition, not the library's scorer."""
    groups = np.sort(matrix.reshape(len(matrix), -1, m), axis=2)
    return float(groups[:, :, m - n :].sum())


def digest(matrix: np.ndarray) -> str:
    """Hash the little-endian bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(matrix, dtype="<f8").tobytes()).hexdigest()


@pytest.mark.parametrize("generator", ALL)
def test_shape_type_order_and_seed(generator: Callable[..., Any]) -> None:
    matrix = draw(generator, 6, 8, seed=3)
    assert matrix.shape == (6, 8)
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous
    assert matrix.flags.writeable
    assert np.isfinite(matrix).all()
    np.testing.assert_array_equal(matrix, draw(generator, 6, 8, seed=3))
    assert not np.array_equal(matrix, draw(generator, 6, 8, seed=4))


@pytest.mark.parametrize("generator", ALL)
def test_global_stream_is_left_alone(generator: Callable[..., Any]) -> None:
    np.random.seed(11)  # noqa: NPY002 - the global stream is what is watched
    expected = np.random.rand(4)  # noqa: NPY002
    np.random.seed(11)  # noqa: NPY002
    generator(4, 8, seed=0)
    np.testing.assert_array_equal(np.random.rand(4), expected)  # noqa: NPY002


@pytest.mark.parametrize(("rows", "cols", "seed"), [(5, 8, 0), (1, 1, 7), (64, 12, 2**32 - 1)])
def test_uniform_is_the_global_stream_of_its_seed(rows: int, cols: int, seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - the very stream that is promised
    np.testing.assert_array_equal(generators.uniform(rows, cols, seed=seed), np.random.rand(rows, cols))  # noqa: NPY002


@pytest.mark.parametrize(
    ("generator", "options", "expected"),
    [
        (generators.uniform, {}, "9d03372d503f294e3555a1ebb3d58fcab1795379bb183816edf570b26e292f3f"),
        (generators.duplicated_columns, {}, "0665734825bccf3522b6242f8ef8c79dc291bbe54f380dac62503ae75c3a0cb1"),
        (
            generators.duplicated_columns,
            {"copies": 4},
            "145e4730ef9a4ccc52c21a34ec3bf40d35b3ccd7ab2d887f606d70d0ea610b5f",
        ),
        (generators.planted, {}, "94d38d1df2d261755ddd7f2ca0da81ec054343d61173167634bfd94d99c9feb8"),
        (generators.planted, {"n": 1, "m": 8}, "f5e5aeb73a3ef266ccf0c2d569103221e8ad588f5b72a06748035e5a1959d66c"),
    ],
)
def test_checksums_of_streams_without_exp_and_log(
    generator: Callable[..., Any], options: dict[str, int], expected: str
) -> None:
    assert digest(draw(generator, 16, 32, seed=1, **options)) == expected


@pytest.mark.parametrize(
    ("generator", "first_row"),
    [
        (generators.normal, [1.6243453636632417, -0.6117564136500754, -0.5281717522634557, -1.0729686221561705]),
        (
            generators.lognormal_columns,
            [1.3825039056553348, -0.5048730487392147, -0.9310437236540554, -0.619082699444694],
        ),
        (generators.heavy_tails, [151.88005569908395, -1.0195759610456032, -0.7429079025843174, -1.2196292373271165]),
    ],
)
def test_entries_of_streams_with_exp_and_log(generator: Callable[..., Any], first_row: list[float]) -> None:
    # Last bits of exp and log differ between platforms, so these have no checksum.
    np.testing.assert_allclose(generator(3, 4, seed=1)[0], first_row, rtol=1e-12)


def test_lognormal_columns_scale_whole_columns() -> None:
    plain = generators.normal(50, 12, seed=5)
    np.testing.assert_array_equal(generators.lognormal_columns(50, 12, seed=5, sigma=0), plain)
    ratio = generators.lognormal_columns(50, 12, seed=5, sigma=1.5) / plain
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-12)
    assert (ratio > 0).all()
    assert len(np.unique(ratio[0].round(9))) == 12


def test_heavy_tails_are_heavier_than_normal() -> None:
    def peak(matrix: np.ndarray) -> float:
        return float(np.abs(matrix).max() / np.median(np.abs(matrix)))

    assert peak(generators.heavy_tails(200, 200, seed=0)) > 10 * peak(generators.normal(200, 200, seed=0))
    heaviest = peak(generators.heavy_tails(200, 200, seed=0, df=1.0))
    assert heaviest > peak(generators.heavy_tails(200, 200, seed=0, df=5.0))


@pytest.mark.parametrize("copies", [1, 2, 3, 6])
def test_duplicated_columns_occur_copies_times(copies: int) -> None:
    matrix = generators.duplicated_columns(7, 12, seed=2, copies=copies)
    counts = Counter(column.tobytes() for column in matrix.T)
    assert set(counts.values()) == {copies}
    assert len(counts) == 12 // copies


def test_duplicated_columns_are_shuffled() -> None:
    matrix = generators.duplicated_columns(7, 32, seed=2)
    neighbours = [np.array_equal(matrix[:, i], matrix[:, i + 1]) for i in range(0, 32, 2)]
    assert not all(neighbours)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7, 0.99])
def test_unstructured_sparse_loses_the_smallest_magnitudes_of_the_whole_matrix(sparsity: float) -> None:
    plain = generators.normal(40, 30, seed=5)
    matrix = generators.unstructured_sparse(40, 30, seed=5, sparsity=sparsity)
    kept = matrix != 0
    assert int((~kept).sum()) == round(sparsity * plain.size)
    np.testing.assert_array_equal(matrix[kept], plain[kept])
    if sparsity:
        assert np.abs(plain[~kept]).max() < np.abs(plain[kept]).min()
        assert (matrix < 0).any()  # by magnitude, not by value


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (2, 5), (4, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_optimum(n: int, m: int, seed: int) -> None:
    instance = generators.planted(20, 6 * m, seed=seed, n=n, m=m)
    matrix = instance.matrix
    assert instance.perm.dtype == np.int64
    np.testing.assert_array_equal(np.sort(instance.perm), np.arange(6 * m))
    groups = matrix[:, instance.perm].reshape(20, 6, m)
    np.testing.assert_array_equal((groups > 0).sum(axis=2), n)
    # Exactly equal: entries are multiples of 2**-20, so no order of summation rounds.
    assert kept(matrix[:, instance.perm], n, m) == instance.optimum == matrix.sum() == matrix[::-1, ::-1].sum()
    assert kept(matrix, n, m) < instance.optimum
    assert matrix[matrix > 0].min() >= 0.5
    assert matrix.max() < 1
    np.testing.assert_array_equal(matrix * 2**20, np.floor(matrix * 2**20))


def test_planted_places_vary() -> None:
    instance = generators.planted(400, 4, seed=0)
    share = (instance.matrix > 0).mean(axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.1)
    assert len(np.unique(instance.matrix > 0, axis=0)) == 6  # all ways to choose 2 of 4


def test_rows_of_a_cluster_share_the_factors_of_the_columns() -> None:
    answer = generators.row_clusters(24, 10, seed=5, vector=8)
    plain = generators.normal(24, 10, seed=5)
    np.testing.assert_array_equal(np.sort(answer.rows), np.arange(24))
    assert answer.rows.tolist() != list(range(24))
    factors = (answer.matrix[answer.rows] / plain).reshape(3, 8, 10)
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-12)
    assert (factors > 0).all()
    assert len(np.unique(factors[:, 0].round(9))) == 30


@pytest.mark.parametrize("generator", ALL)
@pytest.mark.parametrize(
    ("shape", "seed", "message"),
    [
        ((0, 8), 0, "rows must be an integer of at least 1; got 0"),
        ((8, 0), 0, "cols must be an integer of at least 1; got 0"),
        ((-4, 8), 0, "rows must be"),
        ((8, 8.0), 0, "cols must be"),
        ((True, 8), 0, "rows must be"),
        ((8, 8), -1, r"seed must be an integer from 0 to 2\*\*32 - 1; got -1"),
        ((8, 8), 2**32, "seed must be"),
        ((8, 8), 0.5, "seed must be"),
        ((8, 8), None, "seed must be"),
    ],
)
def test_bad_shapes_and_seeds(generator: Callable[..., Any], shape: Any, seed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator(*shape, seed=seed)


@pytest.mark.parametrize(
    ("generator", "cols", "options", "message"),
    [
        (generators.lognormal_columns, 8, {"sigma": -0.1}, "sigma must be"),
        (generators.lognormal_columns, 8, {"sigma": float("nan")}, "sigma must be"),
        (generators.heavy_tails, 8, {"df": 0.0}, "df must be"),
        (generators.heavy_tails, 8, {"df": float("inf")}, "df must be"),
        (generators.unstructured_sparse, 8, {"sparsity": 1.0}, "sparsity must be"),
        (generators.unstructured_sparse, 8, {"sparsity": -0.1}, "sparsity must be"),
        (generators.unstructured_sparse, 8, {"sparsity": float("nan")}, "sparsity must be"),
        (generators.duplicated_columns, 8, {"copies": 0}, "copies must be"),
        (generators.duplicated_columns, 8, {"copies": 3}, "cols must be a multiple of copies; got cols=8, copies=3"),
        (generators.planted, 8, {"n": 0}, "n must be an integer"),
        (generators.planted, 8, {"n": 4}, "n must be below m; got n=4, m=4"),
        (generators.planted, 8, {"n": 5, "m": 4}, "n must be below m"),
        (generators.planted, 10, {}, "cols must be a multiple of m; got cols=10, m=4"),
        (generators.row_clusters, 8, {"vector": 3}, "rows must be a multiple of vector; got rows=4, vector=3"),
        (generators.row_clusters, 8, {"vector": 0}, "vector must be"),
    ],
)
def test_bad_options(generator: Callable[..., Any], cols: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator(4, cols, seed=0, **options)


def test_numpy_integers_are_integers() -> None:
    matrix = generators.uniform(np.int32(4), np.int64(8), seed=np.uint32(1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(matrix, generators.uniform(4, 8, seed=1))


def test_seed_is_keyword_only() -> None:
    for generator in ALL:
        with pytest.raises(TypeError):
            generator(4, 8, 0)
