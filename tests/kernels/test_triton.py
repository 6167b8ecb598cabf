"""The Triton kernels against the definitions: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from permsolve.kernels.triton import gain as gains  # noqa: E402
from permsolve.kernels.triton.groups import ROW_BLOCK, refresh  # noqa: E402
from permsolve.kernels.triton.panels import pack  # noqa: E402
from permsolve.kernels.triton.select import carry_out, choose  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Patterns (n, m) that take every path: m a power of two or not, n at both ends, groups that fill a program and more.
PATTERNS = [(1, 2), (2, 3), (1, 4), (2, 4), (3, 4), (2, 8), (7, 8)]


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill what the wrappers allocate with NaN: nothing may depend on it. (torch does so in its deterministic mode.)"""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Computed(NamedTuple):
    gain: np.ndarray
    losses: np.ndarray
    values: np.ndarray
    thresholds: np.ndarray
    base: np.ndarray


def tensor(array: np.ndarray, kind: torch.dtype) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array)).to(DEVICE, kind)


def poisoned(*shape: int) -> torch.Tensor:
    return torch.full(shape, float("nan"), device=DEVICE)


def compute(
    matrices: list[np.ndarray],
    orders: list[np.ndarray],
    n: int,
    m: int,
    *,
    tile: gains.Tile = gains.TILES[32],
    dtype: torch.dtype = torch.float32,
    listed: list[list[int]] | None = None,
) -> list[Computed]:
    """Run both kernels on a batch; outputs start as NaN, and so does what lies beyond the listed slots."""
    cols = len(orders[0])
    chosen = [list(range(cols // m))] * len(orders) if listed is None else listed
    panels = pack(tensor(np.stack([values.T for values in matrices]), dtype), tile.columns)
    order = tensor(np.stack(orders), torch.int32)
    counts = tensor(np.array([len(groups) for groups in chosen]), torch.int32)
    most = max(len(groups) for groups in chosen)
    groups = tensor(np.array([groups + [0] * (most - len(groups)) for groups in chosen]), torch.int32)
    losses, values = poisoned(len(orders), cols), poisoned(len(orders), cols // m)
    thresholds, base = refresh(panels, order, groups, counts, (n, m), tile.slots, losses, values)
    out = poisoned(len(orders), cols, panels.shape[1] * tile.columns)
    gains.gain(panels, thresholds, base, order, groups, counts, m, tile, out)
    found = (out[:, :, :cols], losses, values, thresholds, base)
    return [Computed(*arrays) for arrays in zip(*(array.cpu().numpy() for array in found), strict=True)]


def slots_of(thresholds: np.ndarray, count: int) -> np.ndarray:
    """Return the thresholds of the first slots, (slots, rows), from their panels."""
    return thresholds.transpose(0, 2, 1).reshape(-1, thresholds.shape[1])[:count]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", ["uniform", "tied"])
def test_gains_thresholds_losses_and_values(n: int, m: int, kind: str) -> None:
    """Exactly: entries are multiples of a power of two. Two problems of different saliency in one launch."""
    rows, cols = 19, 3 * m
    matrices = [reference.matrix(kind, rows, cols, seed=seed) for seed in (1, 2)]
    orders = [reference.shuffled(cols, seed=seed) for seed in (3, 4)]
    for values, order, found in zip(matrices, orders, compute(matrices, orders, n, m), strict=True):
        expected = reference.gain(values, order, n, m)
        np.testing.assert_array_equal(found.gain, expected)
        np.testing.assert_array_equal(found.losses, np.diag(expected))
        groups = order.reshape(-1, m)
        np.testing.assert_array_equal(found.values, [reference.value(values, group, n) for group in groups])
        thresholds = [reference.threshold(values, group, x, n) for group in groups for x in range(m)]
        np.testing.assert_array_equal(slots_of(found.thresholds, cols)[:, :rows], thresholds)
        np.testing.assert_array_equal(found.base.sum(axis=0)[:cols], np.sum(thresholds, axis=1))


@pytest.mark.parametrize("kind", ["zero", "constant", "duplicated", "sparse", "fine"])
def test_degenerate_matrices(kind: str) -> None:
    values, order = reference.matrix(kind, 18, 12), reference.shuffled(12)
    (found,) = compute([values], [order], 2, 4)
    np.testing.assert_array_equal(found.gain, reference.gain(values, order, 2, 4))
    assert np.isclose(found.values.sum(), reference.score(values, order, 2, 4), rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, ROW_BLOCK - 1, ROW_BLOCK, ROW_BLOCK + 1, 2 * ROW_BLOCK + 5])
def test_rows_around_the_blocks(rows: int) -> None:
    values, order = reference.matrix("uniform", rows, 8), reference.shuffled(8)
    (found,) = compute([values], [order], 2, 4)
    np.testing.assert_array_equal(found.gain, reference.gain(values, order, 2, 4))
    np.testing.assert_array_equal(found.losses, np.diag(reference.gain(values, order, 2, 4)))


@pytest.mark.parametrize("cols", [4, 36, 64, 132])
@pytest.mark.parametrize("tile", [*gains.TILES.values(), *gains.FLAT.values()])
def test_columns_around_the_panels(cols: int, tile: gains.Tile) -> None:
    """Tiles of every width, slots and columns on both sides of a panel's end."""
    values, order = reference.matrix("uniform", 3, cols), reference.shuffled(cols)
    (found,) = compute([values], [order], 2, 4, tile=tile)
    np.testing.assert_array_equal(found.gain, reference.gain(values, order, 2, 4))


def test_only_the_listed_groups_are_written() -> None:
    """Of each problem its own; one has none."""
    matrices = [reference.matrix("uniform", 9, 20, seed=seed) for seed in range(3)]
    orders = [reference.shuffled(20, seed=seed) for seed in range(3)]
    listed: list[list[int]] = [[4, 1], [], [0, 2, 3]]
    found = compute(matrices, orders, 2, 4, listed=listed)
    for values, order, groups, each in zip(matrices, orders, listed, found, strict=True):
        expected, inside = reference.gain(values, order, 2, 4), order.reshape(-1, 4)[groups].ravel()
        np.testing.assert_array_equal(each.gain[inside], expected[inside])
        np.testing.assert_array_equal(each.losses[inside], np.diag(expected)[inside])
        outside = np.setdiff1d(np.arange(20), inside)
        assert np.isnan(each.gain[outside]).all()
        assert np.isnan(each.losses[outside]).all()
        assert (~np.isnan(each.values)).nonzero()[0].tolist() == sorted(groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_is_exact_on_what_it_can_hold(dtype: torch.dtype) -> None:
    """Sums are float32: these would not fit into half precision."""
    values, order = reference.matrix("uniform", 1000, 8), reference.shuffled(8)
    (found,) = compute([values], [order], 2, 4, dtype=dtype)
    np.testing.assert_array_equal(found.gain, reference.gain(values, order, 2, 4))
    sums = torch.as_tensor(found.gain)
    assert (sums.to(dtype).float() != sums).any()


def test_half_precision_storage_rounds_the_rest_once() -> None:
    values, order = np.random.RandomState(1).random_sample((40, 8)), reference.shuffled(8)
    (found,) = compute([values], [order], 2, 4, dtype=torch.float16)
    rounded = reference.gain(values.astype(np.float16).astype(np.float64), order, 2, 4)
    np.testing.assert_allclose(found.gain, rounded, atol=1e-5)
    assert np.abs(found.gain - reference.gain(values, order, 2, 4)).max() > 1e-4


def test_real_numbers_up_to_rounding() -> None:
    values, order = np.random.RandomState(1).random_sample((700, 8)), reference.shuffled(8)
    (found,) = compute([values], [order], 2, 4)
    np.testing.assert_allclose(found.gain, reference.gain(values, order, 2, 4), atol=3e-7 * values.sum(axis=0).max())


@pytest.mark.parametrize(("cols", "width"), [(5, 32), (32, 32), (70, 32), (64, 64), (65, 64)])
def test_panels_hold_every_entry_and_zeros(cols: int, width: int) -> None:
    values = 1.0 + np.random.RandomState(1).random_sample((2, cols, 9)).astype(np.float32)
    panels = pack(tensor(values, torch.float32), width).cpu().numpy()
    flat = panels.transpose(0, 1, 3, 2).reshape(2, -1, 16)
    np.testing.assert_array_equal(flat[:, :cols, :9], values)
    assert not flat[:, cols:].any()
    assert not flat[:, :, 9:].any()


def changes(values: np.ndarray, order: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return the change of score of every exchange, minus infinity within groups."""
    gain = reference.gain(values, order, n, m)
    half = gain - np.diag(gain)[:, None]
    group = np.empty(len(order), dtype=int)
    group[order] = np.arange(len(order)) // m
    return np.where(group[:, None] == group[None, :], -np.inf, half + half.T)


def selected(
    values: np.ndarray, order: np.ndarray, n: int, m: int, seed: int = 5, heat: float | None = None, rounds: int = 4
) -> tuple[list[tuple[int, int]], np.ndarray, bool]:
    """Choose exchanges; return the pairs, the order that they lead to and whether any improves."""
    (found,) = compute([values], [order], n, m)
    gain, losses = tensor(found.gain[None], torch.float32), tensor(found.losses[None], torch.float32)
    places, group_of = tensor(order[None], torch.int32), tensor(np.argsort(order)[None] // m, torch.int32)
    tolerances = torch.full((1,), 1e-6, device=DEVICE)
    temperatures = None if heat is None else torch.full((1,), heat, device=DEVICE)
    choices, some = choose(gain, losses, places, group_of, m, tolerances, seed, temperatures, rounds)
    carry_out(choices, places, group_of, m)
    after = places[0].cpu().numpy().astype(np.int64)
    np.testing.assert_array_equal(group_of[0].cpu().numpy(), np.argsort(after) // m)
    pairs = [(int(choice) >> 16, int(choice) & 0xFFFF) for choice in choices[0].cpu() if choice >= 0]
    return pairs, after, bool(some)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (2, 4), (7, 8)])
@pytest.mark.parametrize("kind", ["uniform", "tied", "duplicated"])
def test_chosen_exchanges_are_disjoint_and_their_changes_add_up(n: int, m: int, kind: str) -> None:
    values, order = reference.matrix(kind, 20, 6 * m), reference.shuffled(6 * m)
    delta = changes(values, order, n, m)
    pairs, after, some = selected(values, order, n, m)
    assert some == (delta.max() > 0)
    assert {(j, i) for i, j in pairs} == set(pairs)  # both groups name the exchange
    touched = [int(np.argsort(order)[i]) // m for i, _ in pairs]
    assert len(set(touched)) == len(touched)
    assert all(delta[pair] > 0 for pair in pairs)
    gained = sum(delta[pair] for pair in pairs) / 2
    assert reference.score(values, after, n, m) - reference.score(values, order, n, m) == gained
    if delta.max() > 0:  # the best of all is among them
        assert max(delta[pair] for pair in pairs) == delta.max()


def test_more_rounds_leave_fewer_groups_alone() -> None:
    values, order = reference.matrix("uniform", 20, 64), reference.shuffled(64)
    first, _, _ = selected(values, order, 2, 4, rounds=1)
    all_, _, _ = selected(values, order, 2, 4, rounds=4)
    assert set(first) < set(all_)


def test_nothing_to_choose_at_a_local_optimum() -> None:
    values = reference.matrix("zero", 20, 16)
    pairs, after, some = selected(values, reference.shuffled(16), 2, 4)
    assert (pairs, some) == ([], False)
    np.testing.assert_array_equal(after, reference.shuffled(16))


def test_ties_are_broken_by_the_seed_and_only_by_it() -> None:
    """All columns are one of two kinds: many exchanges are equally good."""
    values = np.zeros((4, 32))
    values[0, :16] = 1.0
    order = np.arange(32)
    runs = [selected(values, order, 2, 4, seed=seed) for seed in (1, 1, 2)]
    assert runs[0][0] == runs[1][0]
    assert runs[0][0] != runs[2][0]
    assert all(pairs for pairs, _, _ in runs)


def test_noise_follows_the_temperature() -> None:
    """Cold: improvements only, as without noise. Hot: exchanges that cost something are taken too."""
    values, order = reference.matrix("uniform", 20, 32), reference.shuffled(32)
    delta = changes(values, order, 2, 4)
    cold, _, _ = selected(values, order, 2, 4, heat=1e-6)
    plain, _, _ = selected(values, order, 2, 4)
    assert cold == plain
    hot, after, _ = selected(values, order, 2, 4, heat=100.0)
    assert min(delta[pair] for pair in hot) < 0
    assert sorted(after) == list(range(32))
    assert hot == selected(values, order, 2, 4, heat=100.0)[0]
    assert hot != selected(values, order, 2, 4, heat=100.0, seed=6)[0]
