"""The methods that learn a permutation of one matrix: `sinkhorn` and `transport`."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import Problem
from permsolve.errors import MissingDependencyError, OptionError
from permsolve.saliency import OutputError
from permsolve.solver import Status
from permsolve.solvers.annealing import Annealing
from permsolve.stop import MaxIterations

torch = pytest.importorskip("torch")

from permsolve.learning.matrix import one_thread  # noqa: E402
from permsolve.learning.objectives import Errors, Retained, objective_of  # noqa: E402
from permsolve.learning.sites import SinkhornSite, TransportSite, block_size  # noqa: E402

METHODS = ("sinkhorn", "transport")


def clustered(rows: int = 64, cols: int = 64) -> np.ndarray[Any, Any]:
    """Columns that matter to the same rows stand next to each other: the identity is bad."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(cols // 4), 4)
    return rng.random((rows, cols)) * np.where(rng.integers(0, cols // 4, (rows, 1)) % 4 == kinds % 4, 4.0, 0.3)


def solve(matrix: Any, **settings: Any) -> permsolve.Result:
    return permsolve.solve(matrix, settings.pop("nm", "2:4"), display=False, **settings)


@pytest.mark.parametrize("start", ["random", "identity"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_find_more_than_as_many_random_permutations(method: str, start: str) -> None:
    matrix = clustered()
    learned = solve(matrix, method=method, options={"steps": 100, "start": start})
    # Random orders offered one by one: hardenings of the learned ones are no more than that.
    chance = solve(matrix, method="random", options={"samples": 100})
    assert learned.status is Status.COMPLETED
    assert learned.iterations == 100
    assert learned.efficacy > chance.efficacy > 0
    assert learned.check(matrix) == ()


@pytest.mark.parametrize("method", METHODS)
def test_starts_from_annealing_and_from_what_the_user_gives(method: str) -> None:
    matrix = uniform(32, 64)
    given = solve(matrix, method="ria")
    on_top = solve(matrix, method=method, initial=given.perm, stop=MaxIterations(30))
    assert on_top.score >= given.score
    warm = solve(matrix, method=method, options={"start": "annealing", "steps": 10})
    assert warm.efficacy > given.efficacy
    assert warm.iterations == 10
    limited = solve(matrix, method=method, options={"start": "annealing"}, stop=MaxIterations(5))
    assert limited.iterations == 5


def starts_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets the orders at which sites start, and whether the first permutation is near."""
    seen: list[Any] = []
    for kind in (SinkhornSite, TransportSite):
        initial = kind._initial

        def noting(site: Any, draws: Any, near: bool, initial: Any = initial) -> Any:
            seen.append((site.order.tolist(), near))
            return initial(site, draws, near)

        monkeypatch.setattr(kind, "_initial", noting)
    return seen


@pytest.mark.parametrize("start", ["random", "identity", "annealing"])
@pytest.mark.parametrize("method", METHODS)
def test_what_the_user_gives_is_started_from_whatever_it_is_worth(
    method: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the identity, and an order that is worse than it."""
    matrix, seen = clustered(16, 32), starts_of(monkeypatch)
    score = Problem.of(matrix, "2:4").score
    orders = [np.random.default_rng(k).permutation(32) for k in range(50)]
    matrix = matrix[:, max(orders, key=score)]
    score = Problem.of(matrix, "2:4").score
    worst = min(orders, key=score)
    assert score(worst) < score(np.arange(32))
    for given in (np.arange(32), worst):
        solve(matrix, method=method, initial=given, options={"start": start}, stop=MaxIterations(1))
        assert seen.pop() == (given.tolist(), True)


def test_blocks_are_annealed_first_too() -> None:
    options = {"start": "annealing", "steps": 2}
    found = solve(uniform(32, 64), method="sinkhorn", options=options, blocks=[16, 48])
    assert found.score > solve(uniform(32, 64), method="ria", blocks=[16, 48]).score


def test_an_interrupt_does_not_lose_what_annealing_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = uniform(32, 64)
    better = solve(matrix, method="ria")

    def interrupted(self: Any, problem: Any, run: Any) -> None:
        run.offer(better.perm)
        raise KeyboardInterrupt

    monkeypatch.setattr(Annealing, "__call__", interrupted)
    found = solve(matrix, method="sinkhorn", options={"start": "annealing"})
    assert found.status is Status.STOPPED
    assert found.score == better.score


@pytest.mark.parametrize("scale", [1e-60, 1e60])
@pytest.mark.parametrize("method", METHODS)
def test_units_of_weights_and_moments_do_not_matter(method: str, scale: float) -> None:
    weights, moments = uniform(8, 32) - 0.4, np.cov(uniform(80, 32).T) + np.eye(32)
    results = [
        solve(weights * one, method=method, saliency=OutputError(moments * other), options={"steps": 10})
        for one, other in ((1.0, 1.0), (scale, 1.0), (scale, scale))
    ]
    assert len({result.perm.tobytes() for result in results}) == 1
    assert results[0].score > results[0].baseline


@pytest.mark.parametrize(("method", "options"), [("sinkhorn", {"block": 16}), ("transport", {"groups": 4})])
def test_columns_stay_in_blocks_of_the_method(method: str, options: dict[str, Any]) -> None:
    found = solve(uniform(9, 56), method=method, options={"steps": 20, **options}).perm
    for start in range(0, 56, 16):  # the last block is smaller
        block = sorted(found[start : start + 16])
        assert block == list(range(start, start + 16))[: len(block)]
    assert (found != np.arange(56)).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(12, 32), (8, 32, 2, 2)])
def test_the_output_error_falls(method: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 32)) + 0.3 * rng.standard_normal((200, 32))
    moments = np.stack([inputs.T @ inputs / 200 * (1 + k) for k in range(4 if len(shape) > 2 else 1)])
    weights = rng.standard_normal(shape)
    result = solve(weights, method=method, saliency=OutputError(moments), options={"steps": 60})
    assert result.baseline < 0
    assert result.score > 0.97 * result.baseline
    problem = Problem.of(weights, "2:4", saliency=OutputError(moments))
    assert result.score == pytest.approx(problem.score(result.perm))


@pytest.mark.parametrize("nm", ["2:4", "1:4", "2:3"])
@pytest.mark.parametrize("error", [False, True])
def test_losses_of_hard_permutations_are_the_scores(nm: str, error: bool) -> None:
    weights = uniform(7, 36) - 0.4
    moments = np.cov(uniform(80, 36).T) + np.eye(36)
    problem = Problem.of(weights, nm, saliency=OutputError(moments) if error else "magnitude")
    generator = torch.Generator().manual_seed(0)
    site = SinkhornSite(np.random.default_rng(0).permutation(36), None, 24, generator)
    objective = objective_of(problem, site)
    assert isinstance(objective, Errors if error else Retained)
    soft = [torch.rand(each.shape + each.shape[-1:], generator=generator) for each in site.stacks]
    hard, start = site.harden(soft), site.start()
    assert (site.perm(start) == site.order).all()
    losses, before = (sum(float(each.sum()) for each in objective.values(order)) for order in (hard, start))
    unit = problem.energy / problem.columns.size if error else np.minimum(problem.columns, problem._ceilings).mean()
    difference = problem.score(site.perm(start)) - problem.score(site.perm(hard))
    assert (losses - before) * unit == pytest.approx(difference, rel=1e-4, abs=1e-6)
    assert abs(difference) > 0.01
    straight = objective.straight(soft, hard)
    assert sum(float(each.sum()) for each in straight) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("error", [False, True])
def test_the_gradient_of_the_relaxed_loss(error: bool) -> None:
    moments = np.cov(uniform(80, 16).T) + np.eye(16)
    problem = Problem.of(uniform(5, 16), "2:4", saliency=OutputError(moments) if error else "magnitude")
    site = TransportSite(np.arange(16), None, 8, torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = objective_of(problem, site)
    for name, tensors in vars(objective).items():
        if name in ("_scores", "_weights", "_moments"):
            setattr(objective, name, [each.double() for each in tensors])
    parameter = site.parameters[0].detach().clone().requires_grad_()

    def loss(value: torch.Tensor) -> torch.Tensor:
        site.parameters = [value]
        return objective.relaxed(site.soft(0.5))[0].sum()

    assert torch.autograd.gradcheck(loss, parameter)


def test_blocks_are_of_whole_groups_and_two_at_least() -> None:
    assert block_size(96, 4, block=64) == 64
    assert block_size(96, 16, block=4) == 32
    assert block_size(96, 4, groups=4) == 24
    assert block_size(100, 4, groups=8) == 16


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        *((method, "steps", 0) for method in METHODS),
        *((method, "lr", value) for method in METHODS for value in (0, float("nan"), "fast")),
        *((method, "start", "nowhere") for method in METHODS),
        ("sinkhorn", "block", 1),
        ("transport", "groups", 0),
    ],
)
def test_options_that_cannot_be(method: str, name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"option {name} ="):
        permsolve.get_solver(method)(**{name: value})


def test_threads_of_torch_are_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    try:
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        solve(uniform(5, 16), method="sinkhorn", options={"steps": 2})
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(before)


def test_solves_side_by_side_leave_the_threads_of_torch_as_they_were() -> None:
    """The second began when the first had set one thread already, and ended last: one was left for good."""
    before = torch.get_num_threads()
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with one_thread():
            entered.set()
            left.wait(10)

    torch.set_num_threads(3)
    try:
        other = threading.Thread(target=second)
        with one_thread():
            other.start()
            assert entered.wait(10)
        left.set()
        other.join()
        assert torch.get_num_threads() == 3
        with one_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_torch_the_methods_say_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import permsolve\n"
        "assert {'sinkhorn', 'transport'} <= set(permsolve.methods())\n"
        "for name in ('sinkhorn', 'transport'):\n"
        "    try:\n"
        "        permsolve.get_solver(name)\n"
        "    except permsolve.errors.MissingDependencyError as error:\n"
        "        assert 'permsolve[torch]' in str(error), error\n"
        "    else:\n"
        "        raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert MissingDependencyError is permsolve.errors.MissingDependencyError


def test_looking_at_the_methods_does_not_import_torch() -> None:
    code = "import sys, permsolve; permsolve.get_solver('sinkhorn'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
