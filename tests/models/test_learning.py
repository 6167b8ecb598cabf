"""Permutations learned by the outputs of the pruned model."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from permsolve import HiNM, models  # noqa: E402
from permsolve.errors import DocumentError, InputError, ModelError  # noqa: E402
from permsolve.models import trainer  # noqa: E402
from permsolve.models.masking import spread  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    )
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(torch.randn(layer.weight.shape).exp())  # heavy tails: masks matter
    return model.eval()


class Convolutions(nn.Module):
    """Two blocks of channels by a grouped convolution, parts of a weight by a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.other = nn.Conv2d(16, 8, 1)
        self.joined = nn.Conv2d(24, 12, 1)
        self.last = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.cat([torch.relu(self.grouped(x)), torch.relu(self.other(x))], 1)
        return self.last(torch.relu(self.joined(x)).mean((2, 3)))


def inputs(*shape: int, count: int = 4, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


@functools.cache
def _analyzed(kind: str, nm: str) -> models.Plan:
    if kind == "mlp":
        return models.analyze(mlp(), inputs(2, 16)[0], nm)
    return models.analyze(Convolutions().eval(), inputs(2, 4, 6, 6)[0], nm)


def plan_of(kind: str, nm: str = "2:4") -> models.Plan:
    """Return a plan that nothing was done to; tracing takes longer than all the rest."""
    return copy.deepcopy(_analyzed(kind, nm))


def loss_of(pruned: nn.Module, dense: nn.Module, batches: list[torch.Tensor]) -> float:
    with torch.no_grad():
        apart = [1 - nn.functional.cosine_similarity(pruned(x), dense(x), dim=-1).mean() for x in batches]
    return float(torch.stack(apart).mean())


@pytest.mark.parametrize("start", ["identity", "solved", "random"])
@pytest.mark.parametrize("method", ["sinkhorn", "transport"])
def test_the_held_out_loss_falls_and_is_that_of_the_permuted_and_pruned_model(method: str, start: str) -> None:
    model, train, held = mlp(), inputs(64, 16, count=6), inputs(256, 16, count=1, seed=1)
    plan = plan_of("mlp")
    calibration = models.calibrate(model, train, display=False)
    if start == "solved":
        few = {"samples": 5}
        plan.solve(model, method="random", options=few, saliency="wanda", calibration=calibration, display=False)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    settings: dict[str, Any] = {"held_out": held, "calibration": calibration, "display": False}
    lr = 0.015 if method == "sinkhorn" else 0.03  # the published rate is for more steps
    learned = plan.learn(model, train, method=method, steps=40, lr=lr, start=start, **settings)
    assert learned.loss < 0.9 * learned.start_loss
    assert learned.best_step > 0
    assert min(loss for _, loss in learned.history) == learned.loss
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not any(each.grad is not None for each in model.parameters())
    changed = copy.deepcopy(model)
    plan.apply_(changed)
    models.prune_(changed, "2:4", saliency="wanda", calibration=calibration.permuted(plan))
    assert loss_of(changed, model, held) == pytest.approx(learned.loss, rel=1e-4)


@pytest.mark.parametrize("method", ["sinkhorn", "transport"])
def test_permutations_stay_in_blocks_and_convolutions_are_masked_as_they_are_pruned(method: str) -> None:
    model, train = Convolutions().eval(), inputs(4, 4, 6, 6)
    plan = plan_of("convolutions")
    blocks = [group.blocks for group in plan.groups]
    assert any(len(each) > 1 for each in blocks)
    learned = plan.learn(model, train, method=method, steps=20, lr=0.02, block=4 * 2, saliency="magnitude", seed=1)
    for group in plan.groups:
        assert group.perm is not None
        at = 0
        for size in group.blocks:
            for first in range(at, at + size, 8 if method == "sinkhorn" else size):
                inside = range(first, min(first + (8 if method == "sinkhorn" else size), at + size))
                assert sorted(group.perm[inside]) == list(inside)
            at += size
        assert group.result is not None
        assert group.result.method == f"learn:{method}"
    assert not learned.held_out
    changed = copy.deepcopy(model)
    assert plan.apply_(changed).passed
    models.prune_(changed, "2:4")
    assert loss_of(changed, model, train) == pytest.approx(learned.loss, rel=1e-4)
    again = models.Plan.from_json(plan.to_json())
    assert all((one.perm == other.perm).all() for one, other in zip(again.groups, plan.groups, strict=True))
    with pytest.raises(ModelError, match="permuted already"):
        plan.apply_(changed)


def test_parts_of_a_weight_are_put_back_where_they_came_from() -> None:
    model = Convolutions().eval()
    plan = plan_of("convolutions")
    seen = 0
    for group in plan.groups:
        for move, matrix in zip(group.gaining, group.matrices(model), strict=True):
            weight = model.get_parameter(move.name)
            numbered = spread(move, torch.zeros_like(weight), matrix)
            touched = numbered != 0
            assert torch.equal(numbered[touched], weight[touched])
            assert int(touched.sum()) == matrix.numel()
            seen += 1
    assert seen >= 3


def labelled(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, target)


def test_a_loss_of_ones_own() -> None:
    model = mlp()
    pairs = [(x, model(x).argmax(-1)) for x in inputs(32, 16)]
    plan = plan_of("mlp", "1:4")
    learned = plan.learn(model, pairs, method="transport", steps=40, loss=labelled, start="random", seed=2)
    assert learned.loss < 0.95 * learned.start_loss
    with torch.no_grad():
        assert learned.start_loss > float(np.mean([labelled(model(x), y) for x, y in pairs]))


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["sinkhorn", "transport"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0.0)
    model, save = mlp(), tmp_path / "state.safetensors"
    pairs = [(x, model(x).argmax(-1)) for x in inputs(16, 16, count=3)]
    settings: dict[str, Any] = {"method": method, "steps": 20, "lr": 0.02, "held_out": pairs[:1], "display": False}
    settings["saliency"] = "magnitude"
    calls = []

    def dying(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 20:
            raise Killed
        return labelled(outputs, target)

    plans = [plan_of("mlp") for _ in range(3)]
    whole = plans[0].learn(model, pairs, loss=labelled, **settings)
    with pytest.raises(Killed):
        plans[1].learn(model, pairs, loss=dying, save=save, **settings)
    assert not plans[1].solved
    with pytest.raises(InputError, match="batches ends after 1 batches; the saved run had used 3"):
        plans[1].learn(model, pairs[:1], loss=labelled, save=save, **settings)
    resumed = plans[1].learn(model, pairs, loss=labelled, save=save, **settings)
    assert resumed == whole
    for one, other in zip(plans[0].groups, plans[1].groups, strict=True):
        assert (one.perm == other.perm).all()
    # A run that is finished is read, not repeated.
    assert plans[2].learn(model, pairs, loss=dying, save=save, **settings) == whole
    with pytest.raises(InputError, match="seed = 0"):
        plans[2].learn(model, pairs, loss=labelled, save=save, seed=1, **settings)
    save.write_bytes(b"nonsense")
    with pytest.raises(DocumentError, match="delete it"):
        plans[2].learn(model, pairs, loss=labelled, save=save, **settings)


def test_bad_input() -> None:
    model, train = mlp(), inputs(8, 16)
    plan = plan_of("mlp")

    def refused(match: str, batches: Any = train, **settings: Any) -> None:
        with pytest.raises(InputError, match=match):
            plan.learn(model, batches, **{"steps": 3, "saliency": "magnitude", "display": False, **settings})

    refused("method = 'gumbel'", method="gumbel")
    refused("start = 'here'", start="here")
    refused("steps = 0", steps=0)
    refused("lr = -1", lr=-1)
    refused("block = 1", block=1)
    refused("seed = 0.5", seed=0.5)
    refused("no permutation: call plan.solve", start="solved")
    refused("batches holds no batch", batches=[])
    refused("held_out holds no batch", held_out=[])
    refused("gone through", batches=iter(train))
    refused("gone through", batches=train[0])
    refused("no pair", loss=labelled)
    refused("tensor of one number", batches=[(train[0], train[0])], loss=lambda outputs, target: outputs)
    refused("output_error", saliency="output_error")
    refused("matches no", layers="nothing.*")
    broken = [train[0], train[1].clone()]
    broken[1][0, 0] = float("nan")
    refused(r"batch 2 .*NaN", batches=broken)
    refused("NaN", batches=broken, saliency="wanda")
    refused("display", display="yes")
    assert not plan.solved
    rows = models.analyze(model, train[0], HiNM(8, 0.5, "2:4"))
    with pytest.raises(InputError, match=r"plain n:m"):
        rows.learn(model, train)
    with pytest.raises(ModelError, match="another model"):
        plan.learn(nn.Linear(16, 4), train)


def test_a_plan_that_was_applied_is_not_learned_from() -> None:
    model, train = mlp(), inputs(8, 16)
    plan = plan_of("mlp").solve(model, method="ria", display=False)
    plan.apply_(model)
    with pytest.raises(ModelError, match=r"before plan\.apply_"):
        plan.learn(model, train, start="solved", saliency="magnitude")
