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
from permsolve.learning import SinkhornSite, TransportSite, soft_mask  # noqa: E402
from permsolve.models import trainer  # noqa: E402
from permsolve.models.forward import Batch, Forward  # noqa: E402
from permsolve.models.masking import Masks, spread  # noqa: E402
from permsolve.models.saliencies import ModelSaliency  # noqa: E402


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


class Following(nn.Module):
    """A linear layer whose groups of m cut across those of a larger one: it only follows, and its masks change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.other = nn.Linear(8, 32), nn.Linear(8, 6)
        self.large, self.joined = nn.Linear(32, 64), nn.Linear(40, 16)
        self.last = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, other = torch.relu(self.first(x)), torch.relu(self.other(x))
        return self.last(torch.relu(self.large(first))) + self.joined(torch.cat([other[:, :2], first, other], 1))


def test_weights_that_only_follow_are_masked_as_they_are_pruned() -> None:
    """Their channels move with those of others: the loss that was measured once had their masks stand still."""
    model, train = Following().eval(), inputs(32, 8)
    analyzed = models.analyze(model, train[0], "2:4")
    assert [move.name for group in analyzed.groups for move in group.movements if move.role == "carried"]
    for method in ("sinkhorn", "transport"):
        plan = copy.deepcopy(analyzed)
        settings: dict[str, Any] = {"method": method, "saliency": "magnitude", "display": False}
        learned = plan.learn(model, train, steps=8, lr=0.05, start="random", seed=2, **settings)
        rng = np.random.default_rng(0)
        for group in plan.groups:  # whatever was found: any order must be measured as it is pruned
            plan.assign(group.name, rng.permutation(group.channels))
        again = plan.learn(model, train, steps=1, start="solved", **settings)
        changed = copy.deepcopy(model)
        plan.apply_(changed)
        models.prune_(changed, "2:4")
        assert loss_of(changed, model, train) == pytest.approx(again.loss, rel=1e-4)
        assert learned.start_loss != pytest.approx(again.start_loss, rel=1e-3)


def test_permutations_that_are_not_learned_count_too() -> None:
    """A group whose own weights are left out keeps the plan's permutation, and others that follow it feel that."""
    model, train = Following().eval(), inputs(32, 8)
    plan = models.analyze(model, train[0], "2:4")
    kept = ["joined.weight", "last.weight"]
    rng = np.random.default_rng(1)
    for group in plan.groups:
        plan.assign(group.name, rng.permutation(group.channels))
    moved = {group.name: group.perm for group in plan.groups}
    learned = plan.learn(model, train, steps=3, layers=kept, saliency="magnitude")
    assert (plan["large"].perm == moved["large"]).all()
    changed = copy.deepcopy(model)
    plan.apply_(changed)
    models.prune_(changed, "2:4", layers=kept)
    assert loss_of(changed, model, train) == pytest.approx(learned.loss, rel=1e-4)


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


@pytest.mark.parametrize("kind", [SinkhornSite, TransportSite])
def test_gradients_reach_the_parameters_through_masks_and_model(kind: type) -> None:
    """By finite differences, with relaxed masks alone: blocks, a grouped convolution and parts of a weight."""
    model = Convolutions().double().eval()
    plan = plan_of("convolutions")
    masks = Masks(model, plan, ModelSaliency("magnitude"), None)
    for share in masks.shares:
        share.scores = share.scores.double()
    generator = torch.Generator().manual_seed(0)
    sites = [
        kind(np.arange(group.channels), group.blocks, 8, generator, near=True, dtype=torch.float64)
        for group in plan.groups
    ]
    batch = Batch(inputs(2, 4, 6, 6)[0].double(), torch.tensor([0, 1]))
    forward = Forward(model, [], labelled)  # in double precision: distances from the dense model are in single
    parameters = [each.detach().clone().requires_grad_() for site in sites for each in site.parameters]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        left = list(values)
        for site in sites:
            site.parameters = [left.pop(0) for _ in site.parameters]

        def masker(site: int, scores: list[torch.Tensor]) -> list[torch.Tensor]:
            soft = sites[site].soft(0.5)
            return [one.mT @ soft_mask(one @ each, 4) for one, each in zip(soft, scores, strict=True)]

        return forward.loss(masks.relaxed(sites, masker), batch, forward.reference(batch, 1))[0]

    assert len(masks.shares) >= 4
    with forward.open():
        found, steep = torch.autograd.grad(loss(*parameters), parameters), 0
        for k, gradient in enumerate(found):
            way = torch.rand(gradient.shape, generator=generator, dtype=torch.float64)
            ahead, behind = (
                float(loss(*parameters[:k], parameters[k] + size * way, *parameters[k + 1 :]).detach())
                for size in (1e-5, -1e-5)
            )
            slope = float((gradient * way).sum())
            steep += abs(slope) > 1e-6
            assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert steep >= 3


def labelled(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, target)


def test_divergence_of_softmax() -> None:
    model = mlp()
    batches = inputs(32, 16)
    plan = plan_of("mlp", "1:4")
    learned = plan.learn(model, batches, steps=60, lr=0.01, saliency="magnitude", loss="kl", start="random", seed=2)
    assert learned.loss < learned.start_loss
    plan.apply_(model, verify=False)
    dense = mlp()
    models.prune_(model, "1:4", saliency="magnitude")
    with torch.no_grad():
        wanted, found = (torch.cat([each(x) for x in batches]).double().softmax(-1) for each in (dense, model))
    divergence = (wanted * (wanted / found).log()).sum(-1).mean()
    assert learned.loss == pytest.approx(float(divergence), rel=1e-4)


def test_softmax_of_one_column_is_refused() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    plan = models.analyze(model, inputs(2, 16)[0], "2:4")
    with pytest.raises(InputError, match="logits of several classes"):
        plan.learn(model, inputs(8, 16), loss="kl", saliency="magnitude")


def test_a_loss_of_ones_own() -> None:
    model = mlp()
    pairs = [(x, model(x).argmax(-1)) for x in inputs(32, 16)]
    plan = plan_of("mlp", "1:4")
    learned = plan.learn(model, pairs, method="transport", steps=40, loss=labelled, start="random", seed=2)
    assert learned.loss < 0.95 * learned.start_loss
    with torch.no_grad():
        assert learned.start_loss > float(np.mean([labelled(model(x), y) for x, y in pairs]))


class Aliased(nn.Module):
    """A module under two names, and a parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.inner, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.again = self.inner
        self.last.weight = self.inner.weight
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.inner(torch.relu(self.first(x))))
        return self.out(torch.relu(self.last(torch.relu(self.again(x)))))


def test_modules_under_two_names_are_left_as_they_are() -> None:
    """torch puts a replaced weight back by its names: such modules were left pruned by learning, double by apply_."""
    model, train = Aliased().eval(), inputs(16, 8)
    before, types = dict(model.named_parameters()), {name: each.dtype for name, each in model.named_parameters()}
    plan = models.analyze(model, train[0], "2:4")
    learned = plan.learn(model, train, steps=3, lr=0.05, start="random", saliency="magnitude")
    assert all(each is before[name] for name, each in model.named_parameters())
    changed = copy.deepcopy(model)
    assert plan.apply_(changed).passed
    assert {name: each.dtype for name, each in changed.named_parameters()} == types
    models.prune_(changed, "2:4")
    assert loss_of(changed, model, train) == pytest.approx(learned.loss, rel=1e-4)


def test_outputs_that_are_not_kept_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = mlp(), []
    for kept in (trainer.KEPT, 2 * 16 * 6):  # 16 vectors of 6 in each of four batches
        monkeypatch.setattr(trainer, "KEPT", kept)
        runs = []
        real = Forward.reference
        monkeypatch.setattr(Forward, "reference", lambda *given, real=real, runs=runs: runs.append(1) or real(*given))
        found.append(plan_of("mlp").learn(model, inputs(16, 16), steps=4, lr=0.05, saliency="magnitude"))
        monkeypatch.setattr(Forward, "reference", real)
        assert len(runs) == 4 + 4 + (0 if kept == 1 << 28 else 5 * 2)
    assert found[0] == found[1]


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
    with pytest.raises(InputError, match="the first 3 of batches are not those that the saved run had used"):
        plans[1].learn(model, pairs[::-1], loss=labelled, save=save, **settings)
    with pytest.raises(InputError, match="looked at other held_out than these"):
        plans[1].learn(model, pairs, loss=labelled, save=save, **{**settings, "held_out": pairs[1:2]})
    with pytest.raises(InputError, match="nm = '2:4'"):
        plan_of("mlp", "1:4").learn(model, pairs, loss=labelled, save=save, **settings)
    with pytest.raises(InputError, match="loss = 'own'"):
        plans[1].learn(model, [x for x, _ in pairs], save=save, **{**settings, "held_out": None})
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
    refused("no gradient", batches=[(train[0], train[0])], loss=lambda outputs, target: outputs.detach().sum())
    refused("loss = 'mse' must be 'cosine' or 'kl', or a function", loss="mse")
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
    with pytest.raises(ModelError, match="pairs of inputs and targets need a loss of your own"):
        plan.learn(model, [(train[0], torch.zeros(8))], saliency="magnitude")


class Labelled(nn.Module):
    """Returns its own loss first, as models of transformers do where a batch has labels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_outputs_are_compared_and_not_the_loss_that_a_model_returns_with_them() -> None:
    model = Labelled(mlp())
    train = [{"x": x, "labels": torch.zeros(len(x), dtype=torch.long)} for x in inputs(16, 16)]
    plan = models.analyze(model, train[0], "2:4")
    learned = plan.learn(model, train, steps=1, saliency="magnitude")
    masked = copy.deepcopy(model.inner)
    models.prune_(masked, "2:4")
    assert learned.start_loss == pytest.approx(loss_of(masked, model.inner, [each["x"] for each in train]), rel=1e-4)


def test_distances_of_convolutions_are_of_channels() -> None:
    model = Convolutions().eval()
    watch = Forward(model, [model.first, model.last], "cosine")
    batch = Batch(inputs(2, 4, 6, 6)[0])
    with watch.open():
        dense = watch.reference(batch, 1)
        other = {"first.weight": model.first.weight.detach() * 0.5}
        _, apart = watch.loss(other, batch, dense)
        _, changed = watch._call(other, batch)
    pairs = zip(changed, dense.layers, strict=True)
    sums = [nn.functional.smooth_l1_loss(one, two, reduction="none").sum(-1) for one, two in pairs]
    assert [each.shape for each in sums] == [(2, 6, 6), (2,)]
    assert float(apart) == pytest.approx(float(sum(each.mean() for each in sums)))
    assert dense.layers[0].shape == (2, 6, 6, 16)


def test_a_plan_that_was_applied_is_not_learned_from() -> None:
    model, train = mlp(), inputs(8, 16)
    plan = plan_of("mlp").solve(model, method="ria", display=False)
    plan.apply_(model)
    with pytest.raises(ModelError, match=r"before plan\.apply_"):
        plan.learn(model, train, start="solved", saliency="magnitude")
