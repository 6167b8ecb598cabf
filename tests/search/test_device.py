"""The search on a device: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import permsolve  # noqa: E402
from permsolve import errors, stop  # noqa: E402
from permsolve._devices import check_device  # noqa: E402
from permsolve.kernels.triton import gain as gains  # noqa: E402
from permsolve.run import Run  # noqa: E402
from permsolve.search import device as devices  # noqa: E402
from permsolve.search import on_device  # noqa: E402
from permsolve.search.device import DeviceExchange, panel_width  # noqa: E402
from permsolve.solver import Status  # noqa: E402
from permsolve.solvers.annealing import Annealing  # noqa: E402
from permsolve.solvers.channel_swap import ChannelSwap  # noqa: E402

HERE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds a sweep: the interpreter is slow. How rounds work together is tested with the kernels."""
    monkeypatch.setattr(devices, "ROUNDS", 2)


def matrix(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Draw a saliency of multiples of 1/64, whose float32 sums are exact."""
    return np.random.RandomState(seed).randint(0, 65, size=(rows, cols)) / 64


def state_of(
    matrices: list[np.ndarray], n: int, m: int, seed: int = 0, copies: int = 1, **options: str
) -> DeviceExchange:
    saliency = np.stack([values.T for values in matrices]).astype(np.float32)
    orders = np.repeat(np.arange(saliency.shape[1])[None], len(matrices) * copies, axis=0)
    return DeviceExchange(saliency, (n, m), orders, seed=seed, **options)


def score(values: np.ndarray, order: np.ndarray, n: int, m: int) -> float:
    return float(np.sort(values[:, order].reshape(len(values), -1, m), axis=2)[:, :, m - n :].sum())


def best_change(values: np.ndarray, order: np.ndarray, n: int, m: int) -> float:
    """Try every exchange of two columns of different groups."""
    start, best = score(values, order, n, m), -np.inf
    for p in range(len(order)):
        for q in range(p // m * m + m, len(order)):
            other = order.copy()
            other[p], other[q] = order[q], order[p]
            best = max(best, score(values, other, n, m) - start)
    return best


@pytest.mark.parametrize(("n", "m", "cols"), [(2, 4, 16), (1, 2, 12), (2, 3, 12), (3, 8, 16)])
def test_sweeps_improve_until_no_exchange_does(n: int, m: int, cols: int) -> None:
    """Two problems side by side, each to a local optimum of its own, by brute force."""
    matrices = [matrix(13, cols, seed=seed) for seed in (1, 2)]
    state = state_of(matrices, n, m)
    scores = [[score(values, np.arange(cols), n, m) for values in matrices]]
    for _ in range(50):
        moved = state.sweep()
        scores.append([score(values, order, n, m) for values, order in zip(matrices, state.orders(), strict=True)])
        np.testing.assert_array_equal(np.array(scores[-1]) > np.array(scores[-2]), moved > 0)
        np.testing.assert_array_equal(np.array(scores[-1]) >= np.array(scores[-2]), True)
        assert (state.seen == scores[-2]).all()
        if not moved.any():
            break
    assert not moved.any()
    assert scores[-1] > scores[0]
    for values, order in zip(matrices, state.orders(), strict=True):
        assert sorted(order) == list(range(cols))
        assert best_change(values, order, n, m) <= 0


def test_copies_of_one_problem_share_its_saliency_and_have_their_own_noise() -> None:
    values = matrix(9, 16)
    state = state_of([values], 2, 4, copies=3)
    state.sweep(10.0)
    orders = state.orders()
    assert len({tuple(order) for order in orders}) == 3
    state.keep()
    assert sorted(score(values, order, 2, 4) for order in state.best()) == sorted(
        score(values, order, 2, 4) for order in orders
    )
    first, *rest = (score(values, order, 2, 4) for order in state.best())
    assert first >= max(rest)  # best first


def test_what_is_kept_is_the_best_seen() -> None:
    values = matrix(9, 16)
    state = state_of([values], 2, 4, seed=3)
    seen = []
    for _ in range(6):
        state.keep()
        seen.append(score(values, state.orders()[0], 2, 4))
        state.sweep(5.0)
    assert score(values, state.best()[0], 2, 4) == max(seen)
    assert max(seen) > seen[-1]  # or it would show nothing


def test_temperatures_may_differ_within_a_batch() -> None:
    values = matrix(9, 16)
    state = state_of([values], 2, 4, copies=2)
    while state.sweep().any():
        pass
    at_rest = state.orders()
    state.sweep([1e-6, 100.0])
    after = state.orders()
    np.testing.assert_array_equal(after[0], at_rest[0])
    assert (after[1] != at_rest[1]).any()


def test_the_same_seed_gives_the_same_orders() -> None:
    runs = []
    for seed in (1, 1, 2):
        state = state_of([matrix(9, 16)], 2, 4, seed=seed)
        for _ in range(3):
            state.sweep(1.0)
        runs.append(state.orders()[0].tolist())
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_forced_exchange_moves_two_columns_and_nothing_else() -> None:
    values = matrix(9, 16)
    state = state_of([values, values], 2, 4)
    state.exchange(np.array([[0, 5], [15, 3]]))
    first, second = np.arange(16), np.arange(16)
    first[[0, 5]], second[[15, 3]] = [5, 0], [3, 15]
    np.testing.assert_array_equal(state.orders(), [first, second])
    fresh = state_of([values, values], 2, 4)
    fresh.restart(np.stack([first, second]))
    state.sweep()
    fresh.sweep()
    np.testing.assert_array_equal(state.orders(), fresh.orders())  # gains and losses were brought up to date


def test_mean_loss_is_the_mean_over_exchanges() -> None:
    values = matrix(9, 12)
    state = state_of([values], 2, 4)
    start, costs = score(values, np.arange(12), 2, 4), []
    for p in range(12):
        for q in range(p // 4 * 4 + 4, 12):
            order = np.arange(12)
            order[[p, q]] = [q, p]
            costs.append(max(start - score(values, order, 2, 4), 0.0))
    assert state.mean_loss(samples=12)[0] == pytest.approx(np.mean(costs), rel=1e-6)


def test_large_updates_are_done_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = (state_of([matrix(20, 20, seed=1), matrix(20, 20, seed=2)], 2, 4) for _ in range(2))
    monkeypatch.setattr(devices, "CHUNK", 2 * 32 * 4 * 2)  # two groups of both problems at a time
    pieces.restart(pieces.orders())
    for _ in range(4):
        np.testing.assert_array_equal(whole.sweep(), pieces.sweep())
    np.testing.assert_array_equal(whole.orders(), pieces.orders())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_storage(dtype: str) -> None:
    """Multiples of 1/64 up to 1 fit both types: nothing may change."""
    half, full = state_of([matrix(20, 16)], 2, 4, dtype=dtype), state_of([matrix(20, 16)], 2, 4)
    for _ in range(3):
        np.testing.assert_array_equal(half.sweep(), full.sweep())
    np.testing.assert_array_equal(half.orders(), full.orders())


def test_panels_are_as_wide_as_fills_the_device() -> None:
    assert panel_width(1, 11008) == 128
    assert panel_width(1, 64) == 32
    assert panel_width(1, 1024) == 32  # 64 would give 256 programs
    assert panel_width(4096, 128) == 128
    assert set(gains.TILES) == set(gains.FLAT) == {128, 64, 32}
    for width, tile in [*gains.TILES.items(), *gains.FLAT.items()]:
        assert tile.columns == width
        assert tile.slots < 32 * tile.warps  # or loads would go through shared memory
        assert tile.columns < 32 * tile.warps


def test_too_many_columns() -> None:
    with pytest.raises(errors.UnsupportedProblemError, match="65536 columns, not 65540"):
        DeviceExchange(np.zeros((1, 65540, 1), dtype=np.float32), (2, 4), np.arange(65540)[None])


def test_channel_swap_ends_at_a_local_optimum() -> None:
    values = matrix(11, 16)
    result = permsolve.solve(values, method="channel_swap", device="cuda", options={"escapes": 2})
    assert result.status is Status.LOCAL_OPTIMUM
    assert result.score > result.baseline
    assert best_change(values, result.perm, 2, 4) <= 0
    again = permsolve.solve(values, method="channel_swap", device="cuda", options={"escapes": 2})
    assert (again.perm == result.perm).all()
    assert again.iterations == result.iterations


def test_escapes_start_from_other_permutations() -> None:
    values = matrix(11, 16, seed=4)
    runs = [
        permsolve.solve(values, method="channel_swap", device="cuda", options={"escapes": escapes})
        for escapes in (0, 4)
    ]
    assert runs[1].iterations > runs[0].iterations
    assert runs[1].score >= runs[0].score


def test_annealing_finds_the_optimum_of_a_small_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "MOST_CHAINS", 1)  # the interpreter is slow
    values = matrix(7, 12, seed=2)
    optimum = permsolve.solve(values, method="exact").score
    descent = permsolve.solve(values, method="channel_swap", device="cuda", options={"escapes": 0})
    heat = {"start": 0.5, "end": 0.1, "reheats": 0}  # few sweeps: warm ones
    result = permsolve.solve(values, method="annealing", device="cuda", options=heat, stop=stop.MaxIterations(20))
    assert descent.score < optimum  # or annealing would have nothing to show
    assert result.score == pytest.approx(optimum, rel=1e-12)


def test_annealing_repeats_itself_and_keeps_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "MOST_CHAINS", 2)
    values = matrix(9, 16)
    runs = [
        permsolve.solve(values, method="annealing", device="cuda", seed=seed, stop=stop.MaxIterations(10))
        for seed in (1, 1)
    ]
    assert (runs[0].perm == runs[1].perm).all()
    assert runs[0].score > runs[0].baseline
    assert runs[0].iterations <= 10


def test_an_unlimited_schedule_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "MOST_CHAINS", 1)
    monkeypatch.setattr(on_device, "SWEEP_SECONDS", 0.02)
    result = permsolve.solve(matrix(9, 16), method="annealing", device="cuda")
    assert result.status is Status.COMPLETED
    assert 5 <= result.iterations <= 40


def test_a_run_within_another_stays_on_its_device() -> None:
    """What chains methods (``auto``) only has to hand the run on."""
    problem = permsolve.Problem.of(matrix(9, 16))
    run = Run(problem, stop=stop.MaxIterations(20), rng=np.random.default_rng(0), device="cuda")
    run.open()
    inner = run.within(iterations=6)
    assert inner.device == "cuda"
    ChannelSwap(escapes=0)(problem, inner)
    assert problem.score(run.best) > problem.baseline


def test_blocks_are_searched_one_after_the_other() -> None:
    result = permsolve.solve(
        matrix(9, 24), method="channel_swap", device="cuda", blocks=[8, 16], options={"escapes": 0}
    )
    assert sorted(result.perm[:8]) == list(range(8))
    assert result.score > result.baseline


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", 0, None, b"cuda"])
def test_unknown_devices(device: object) -> None:
    with pytest.raises(errors.InputError, match=r"device = .* 'cuda:1'"):
        permsolve.solve(matrix(3, 8), device=device)


def test_devices_may_be_torch_objects() -> None:
    assert check_device(torch.device("cpu")) == "cpu"
    assert check_device(torch.device("cuda", 0)) == "cuda:0" or HERE == "cuda"
    with pytest.raises(errors.InputError, match="meta"):
        check_device(torch.device("meta"))


def test_methods_that_do_not_run_there() -> None:
    with pytest.raises(errors.UnsupportedProblemError, match=r"'ria' does not run on device 'cuda'.*channel_swap"):
        permsolve.solve(matrix(3, 8), method="ria", device="cuda")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else object())
    with pytest.raises(errors.MissingDependencyError, match=r"needs triton: pip install 'permsolve\[gpu\]'"):
        check_device("cuda")


@pytest.mark.skipif(HERE == "cuda", reason="there is a CUDA device")
def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(errors.DeviceError, match=r"'cuda:1': torch .* (build without CUDA|sees no CUDA device)"):
        permsolve.solve(matrix(3, 8), method="channel_swap", device="cuda:1")
    assert issubclass(errors.DeviceError, (errors.PermsolveError, RuntimeError))


def test_a_device_that_torch_does_not_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == "cuda:1"
    with pytest.raises(errors.DeviceError, match="torch sees cuda:0, cuda:1 only"):
        check_device("cuda:2")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of([matrix(9, 16)], 2, 4)
    state.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**31))
    with pytest.raises(errors.DeviceError, match=r"need 3\.0 GiB on cuda:0, where 1\.0 GiB are free"):
        state._check_memory(2**31)


@pytest.mark.parametrize(("device", "said"), [("cuda", "'cuda'"), ("tpu", "'tpu'")])
def test_the_command_line(device: str, said: str, tmp_path: Path) -> None:
    """A device that is not there is one line and exit code 2."""
    if device == "cuda" and HERE == "cuda":
        pytest.skip("there is a CUDA device")
    np.save(tmp_path / "w.npy", matrix(3, 8))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "-m", "permsolve", "solve", str(tmp_path / "w.npy"), "--device", device]
    done = subprocess.run(
        [*words, "--method", "channel_swap"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("permsolve: error: device = ") and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["channel_swap", "annealing"])
def test_the_contract_on_a_gpu(method: str) -> None:
    """On the device itself: a valid permutation, better than the start, the same for the same seed, in time."""
    values = np.random.RandomState(0).standard_normal((256, 512)).astype(np.float32)
    before = values.copy()
    runs = [
        permsolve.solve(values, method=method, device="cuda", seed=1, stop=stop.MaxIterations(60)) for _ in range(2)
    ]
    assert (runs[0].perm == runs[1].perm).all()
    assert (values == before).all()
    assert runs[0].score > runs[0].baseline
    limited = permsolve.solve(values, method=method, device="cuda", time_limit=0.5)
    assert limited.runtime < 0.6
    assert sorted(limited.perm) == list(range(512))


@pytest.mark.gpu
def test_annealing_on_a_gpu_beats_the_descent() -> None:
    values = np.random.RandomState(0).random_sample((256, 512)).astype(np.float32)
    descent = permsolve.solve(values, method="channel_swap", device="cuda", options={"escapes": 0})
    annealed = permsolve.solve(values, method="annealing", device="cuda", time_limit=5.0)
    assert annealed.efficacy > descent.efficacy


def test_annealing_names_its_devices() -> None:
    assert Annealing.devices == ChannelSwap.devices == ("cpu", "cuda")
    assert permsolve.get_solver("ria").devices == ("cpu",)
