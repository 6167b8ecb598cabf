"""Plans: solving, applying, undoing, verifying, storing; and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from permuting import assign_all, error, outputs, state, unequal  # noqa: E402
from torch import nn  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_parts import Net, noise, randomise  # noqa: E402

import permsolve  # noqa: E402
from permsolve import models  # noqa: E402
from permsolve.errors import DocumentError, FileError, InputError, ModelError, VerificationError  # noqa: E402
from permsolve.models import Plan  # noqa: E402
from permsolve.stop import Progress  # noqa: E402

INPUTS = (noise(2, 3, 9, 8),)


def small(seed: int = 0) -> nn.Module:
    """Two permutable layers, with norms, in eval mode."""
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.ReLU()]
    return randomise(nn.Sequential(*layers, nn.Conv2d(24, 5, 1)).eval(), seed)


@pytest.fixture
def model() -> nn.Module:
    return small()


@pytest.fixture
def plan(model: nn.Module) -> Plan:
    return models.analyze(model, INPUTS, "2:4")


def test_analysis_leaves_mode_and_gradients_alone() -> None:
    model = small().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    models.analyze(model, INPUTS)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1


def test_solve_keeps_more_and_apply_verifies(model: nn.Module, plan: Plan) -> None:
    before = outputs(model, INPUTS)
    assert plan.solve(model, time_limit=0.2, n_jobs=1) is plan
    assert plan.solved
    checked = plan.apply_(model)
    assert checked is not None
    assert checked.passed
    assert checked.dtype == "float64"
    assert error(before, outputs(model, INPUTS)) <= 1e-10
    for group in plan.groups:
        assert group.result is not None
        assert group.result.score > group.result.baseline
        for move in group.movements:
            if move.role == "consumer":  # the permuted model keeps in its own order what the result says
                now = permsolve.solve(group.problem(model), method="identity")
                assert np.isclose(now.score, group.result.score, rtol=1e-12)


def test_stacked_siblings_and_blocks_are_one_problem() -> None:
    specimen = ZOO["llama"]
    pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    plan = models.analyze(model, inputs)
    heads = plan["model.layers.0.self_attn.o_proj"]
    problem = heads.problem(model)
    assert problem.blocks == heads.blocks
    assert problem.shape == (heads.rows, heads.cols)
    weight = model.get_parameter("model.layers.0.self_attn.o_proj.weight").detach().abs().numpy()
    move = next(each for each in heads.movements if each.role == "consumer")
    assert np.array_equal(problem.saliency, np.concatenate([weight[:, at] for at in move.positions]))


def test_saliency_by_name_mapping_function_and_object(model: nn.Module, plan: Plan) -> None:
    group = plan["3"]
    weight = model[3].weight.detach().numpy()
    columns = np.moveaxis(weight, 1, -1).reshape(-1, 16)
    assert np.allclose(group.problem(model, "energy").saliency, columns**2)
    array = np.abs(weight) + 1
    expected = np.abs(columns) + 1
    assert np.allclose(group.problem(model, {"3.weight": array}).saliency, expected)
    assert np.allclose(group.problem(model, lambda name, values: np.abs(values) + 1).saliency, expected)
    norms = np.arange(1.0, 17.0)
    wanda = permsolve.saliency.Wanda(norms)
    assert np.allclose(group.problem(model, wanda).saliency, np.abs(columns) * norms)
    with pytest.raises(InputError, match=r"no entry for '3.weight'"):
        group.problem(model, {"0.weight": array})
    with pytest.raises(InputError, match="shape"):
        group.problem(model, {"3.weight": array[:1]})


def test_saliency_of_weights_with_inputs_on_axis_0() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 6, 2)).eval()
    group = models.analyze(model, INPUTS)["1"]
    weight = model[1].weight.detach().numpy()
    norms = np.arange(1.0, 17.0)
    expected = np.abs(weight).transpose(1, 2, 3, 0).reshape(-1, 16) * norms
    assert np.allclose(group.problem(model, permsolve.saliency.Wanda(norms)).saliency, expected)
    array = np.abs(weight) * norms.reshape(-1, 1, 1, 1)  # an array has the weight's own shape
    assert np.allclose(group.problem(model, {"1.weight": array}).saliency, expected)


def test_callbacks_see_the_group_and_end_it(model: nn.Module, plan: Plan) -> None:
    seen: list[str] = []

    def stop(group: models.Group, progress: Progress) -> bool:
        assert progress.score > 0
        seen.append(group.name)
        return True

    plan.solve(model, method="annealing", n_jobs=1, callbacks=[stop])
    assert list(dict.fromkeys(seen)) == ["3", "6"]
    assert all(group.result is not None and group.result.stopped_by == "callback" for group in plan.groups)


def test_solved_groups_are_left_alone_unless_asked(model: nn.Module, plan: Plan) -> None:
    plan.assign("3", np.arange(16)[::-1].copy())
    plan.solve(model, method="greedy")
    assert plan["3"].result is None
    assert plan["6"].result is not None
    plan.solve(model, method="greedy", again=True)
    assert plan["3"].result is not None


def test_interrupted_solve_goes_on_from_its_file(model: nn.Module, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"

    class Killed(Exception):
        pass

    def kill(group: models.Group, progress: Progress) -> None:
        if group.name == "6":
            raise Killed

    with pytest.raises(Killed):
        plan.solve(model, method="annealing", time_limit=0.2, n_jobs=1, callbacks=[kill], save=path)
    again = Plan.load(path)
    assert [group.perm is not None for group in again.groups] == [True, False]
    first = again["3"].perm
    again.solve(model, time_limit=0.1, n_jobs=1, save=path)
    assert again["3"].perm is first
    assert again.apply_(model, example_inputs=INPUTS).passed
    assert Plan.load(path).to_json() == again.to_json()


def test_undo_after_training(model: nn.Module, plan: Plan) -> None:
    twin = copy.deepcopy(model)
    assign_all(plan)
    plan.apply_(model)
    with torch.no_grad():  # the same step on both, channel by channel
        model[3].weight.mul_(2)
        twin[3].weight.mul_(2)
    plan.undo_(model)
    assert not unequal(state(model), state(twin))


def test_own_type_is_verified_group_by_group(model: nn.Module, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permsolve.models.verification.fits_double", lambda _: False)
    assign_all(plan)
    checked = plan.apply_(model)
    assert checked is not None
    assert (checked.dtype, checked.passed) == ("float32", True)
    assert checked.max_error > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(model: nn.Module, plan: Plan, dtype: Any) -> None:
    model.to(dtype)
    plan.solve(model, method="greedy")
    kept = state(model)
    assert plan.apply_(model, example_inputs=(INPUTS[0].to(dtype),)).passed
    assert model[0].weight.dtype is dtype
    plan.undo_(model)
    assert not unequal(kept, state(model))


def test_changed_outputs_are_rolled_back(model: nn.Module, plan: Plan) -> None:
    """A follower that is left out, as a wrong rule would do, is noticed, and the model is as it was."""
    assign_all(plan)
    for group in plan.groups:
        group.movements = tuple(move for move in group.movements if "running_mean" not in move.name)
    kept = state(model)
    with pytest.raises(VerificationError, match=r"CHANGED.*put back"):
        plan.apply_(model)
    assert not unequal(kept, state(model))


def test_verify_tells_two_models_apart(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    assert models.verify(model, twin, INPUTS).passed
    with torch.no_grad():
        twin[6].bias[0] += 1e-4
    checked = models.verify(model, twin, INPUTS)
    assert not checked.passed
    assert "CHANGED" in str(checked)


def test_verify_does_not_write_to_the_model() -> None:
    model = small()
    model[1].train()  # its forward would update running statistics
    kept = state(model)
    models.verify(model, model, INPUTS)
    assert not unequal(kept, state(model))


def test_outputs_that_are_not_finite_prove_nothing(model: nn.Module) -> None:
    with torch.no_grad():
        model[6].bias[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        models.verify(model, model, INPUTS)


def test_masks_of_pruned_models_move_along() -> None:
    model, inputs = ZOO["pruned"].build(0)
    plan = models.analyze(model, inputs)
    masks = {name for name, _ in model.named_buffers() if name.endswith("mask")}
    moved = {move.name for group in plan.groups for move in group.movements}
    assert masks & moved
    consumer = next(move for group in plan.groups for move in group.movements if move.masks)
    problem = next(group for group in plan.groups if consumer in group.movements).problem(model)
    assert (problem.saliency == 0).any(), "what a mask removes counts nothing"


def test_pruned_and_permuted_model_stays_n_m(model: nn.Module, plan: Plan) -> None:
    """Permute, prune, undo: the same function, the mask in the old order."""
    plan.solve(model, time_limit=0.2, n_jobs=1)
    before = models.report(model, "2:4")
    plan.apply_(model)
    after = models.report(model, "2:4")
    assert after.rows
    pruned = models.prune_(model, "2:4")
    assert {"3.weight", "6.weight"} <= set(pruned.names)
    kept = outputs(model, INPUTS)
    plan.undo_(model)
    assert error(kept, outputs(model, INPUTS)) <= 1e-10
    gained = {row.name: row.retained for row in after.rows}
    for row in before.rows:
        assert gained[row.name] >= row.retained - 1e-12


def test_meta_models_can_be_planned_but_not_solved() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
        plan = models.analyze(model, torch.empty(2, 8))
    assert plan["2"].cols == 64
    with pytest.raises(ModelError, match="meta device"):
        plan.solve(model)
    with pytest.raises(ModelError, match="meta device"):
        plan.apply_(model)


def test_names_that_differ_by_punctuation_only() -> None:
    parts = nn.ModuleDict({"a1": nn.ModuleList([nn.Linear(8, 16)]), "a": nn.ModuleList([nn.Linear(8, 16)] * 0)})
    parts["a"].extend([nn.Linear(8, 16) for _ in range(11)])
    code = lambda m, x: m.last(m.parts["a"][10](x).tanh()) + m.end(m.parts["a1"][0](x).tanh())  # noqa: E731
    model = randomise(Net(code, parts=parts, last=nn.Linear(16, 5), end=nn.Linear(16, 5)).eval(), 0)
    plan = models.analyze(model, noise(3, 8))
    assert plan["last"].producers == ("parts.a.10.weight",)
    assert plan["end"].producers == ("parts.a1.0.weight",)


def test_table(plan: Plan) -> None:
    text = str(plan)
    assert "2 groups, 2 weights gain" in text
    assert "3 input channels are not a multiple of 4" in text
    assert "0.weight" in text


def test_group_names_are_looked_up(plan: Plan) -> None:
    with pytest.raises(InputError, match=r"no group 'x'; it has '3', '6'"):
        plan["x"]


@pytest.mark.parametrize("perm", [[0, 1], np.zeros(16, int), np.arange(1, 17), "abc", None])
def test_own_permutations_are_checked(plan: Plan, perm: Any) -> None:
    with pytest.raises(InputError, match="group '3'"):
        plan.assign("3", perm)


def test_own_permutations_stay_in_their_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1, groups=2)).eval()
    plan = models.analyze(model, INPUTS)
    with pytest.raises(InputError, match="out of its block"):
        plan.assign("1", np.arange(16)[::-1].copy())


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_traced() -> None:
    code = lambda m, x: m.a(x) if x.sum() > 0 else m.a(-x)  # noqa: E731
    with pytest.raises(ModelError, match=r"cannot be traced .* control flow"):
        models.analyze(Net(code, a=nn.Linear(8, 8)), noise(2, 8))


@pytest.mark.parametrize("example", [noise(2, 4, 9, 8), (), {"x": INPUTS[0]}, (INPUTS[0], INPUTS[0])])
def test_an_example_that_does_not_fit(model: nn.Module, example: Any) -> None:
    with pytest.raises(ModelError, match="with this example"):
        models.analyze(model, example)


def test_wrong_arguments(model: nn.Module, plan: Plan) -> None:
    with pytest.raises(InputError, match="example_inputs is a int"):
        models.analyze(model, 3)
    with pytest.raises(InputError, match=r"need a torch.nn.Module"):
        models.analyze("model", INPUTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gather"):
        models.analyze(model, INPUTS, gather="all")
    with pytest.raises(InputError, match="2:4"):
        models.analyze(model, INPUTS, "24")
    with pytest.raises(InputError, match="time_limit"):
        plan.solve(model, time_limit=-1)
    with pytest.raises(InputError, match="unknown method"):
        plan.solve(model, method="nothing")
    with pytest.raises(InputError, match="display"):
        plan.solve(model, display=3)  # type: ignore[arg-type]


def test_a_plan_for_another_model(plan: Plan) -> None:
    assign_all(plan)
    other = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 20, 3)).eval()
    kept = state(other)
    for call in (plan.apply_, plan.undo_, plan.solve):
        with pytest.raises(ModelError, match="for another model"):
            call(other)
    assert not unequal(kept, state(other))


def test_a_plan_for_other_weights(model: nn.Module, plan: Plan) -> None:
    """Also: a plan that was applied already is not applied once more."""
    plan.solve(model, method="greedy")
    with pytest.raises(ModelError, match="other weights"):
        plan.apply_(small(seed=1))
    plan.apply_(model)
    with pytest.raises(ModelError, match="permuted already"):
        plan.apply_(model)


def test_a_plan_from_a_file_needs_inputs_to_verify(model: nn.Module, plan: Plan) -> None:
    assign_all(plan)
    again = Plan.from_json(plan.to_json())
    with pytest.raises(InputError, match="no example inputs"):
        again.apply_(model)
    assert again.apply_(model, example_inputs=INPUTS).passed


def test_documents_round_trip(plan: Plan, model: nn.Module, tmp_path: Path) -> None:
    plan.solve(model, method="greedy")
    path = tmp_path / "plan.json"
    plan.save(path)
    again = Plan.load(path)
    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)
    with pytest.raises(FileError):
        Plan.load(tmp_path / "missing.json")
    with pytest.raises(FileError):
        plan.save(tmp_path / "missing" / "plan.json")


def damaged(plan: Plan, change: Any) -> str:
    document = json.loads(plan.to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema="permsolve.plan/9"), "unknown schema"),
        (lambda d: d.pop("groups"), "groups"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["pattern"].update(n=4), "1 <= n < m"),
        (lambda d: d["groups"][0].update(solution={"perm": [0] * 16}), "group '3'"),
        (lambda d: d["groups"][0].update(blocks=[10, 6]), "multiples of 4"),
        (lambda d: d["groups"][0]["movements"][0].update(axes=[7]), "are not axes"),
        (lambda d: d["groups"][0]["movements"][0].update(role="boss"), "role"),
        (lambda d: d["groups"][0]["movements"][0].update(positions=[[[0, 1, 15]]]), "do not fit"),
        (lambda d: d["groups"][0]["movements"][0].update(positions=[[[0, 0, 16]]]), "come twice"),
        (lambda d: d["groups"][0]["movements"][0].update(positions=[[[-3, 1, 16]]]), "outside"),
        (lambda d: d["groups"][0]["movements"][0].update(positions=[[[0, 1, 1 << 40]]]), "do not fit"),
        (lambda d: d["groups"][1].update(name="3"), "one name"),
        (lambda d: d["groups"][0].update(solution=None), "not that of its result"),
    ],
)
def test_damaged_documents_are_refused(plan: Plan, model: nn.Module, change: Any, said: str) -> None:
    plan.solve(model, method="greedy")
    with pytest.raises(DocumentError, match=said):
        Plan.from_json(damaged(plan, change))


def test_not_a_document() -> None:
    with pytest.raises(DocumentError, match="not a JSON document"):
        Plan.from_json("{")


@pytest.mark.parametrize("kind", ["list", "attribute"])
def test_parameters_that_are_also_plain_attributes_stay(kind: str) -> None:
    """The graph shows such a tensor as a constant, but it is the parameter's memory and would be permuted with it."""

    def code(m: Any, x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(16.0, dtype=x.dtype)
        return m.c(m.b(m.a(x).tanh()).tanh()) * nn.functional.linear(table, m.also[0]).sum()

    model = randomise(Net(code, a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 5)).eval(), 0)
    model.also = [model.b.weight if kind == "list" else model.b.weight.detach()]
    inputs = (noise(3, 8),)
    with torch.no_grad():
        before = model(*inputs)
    plan = models.analyze(model, inputs)
    assert "b.weight" not in plan.consumers
    assign_all(plan)
    plan.apply_(model, verify=False)
    with torch.no_grad():
        assert error([before], [model(*inputs)]) < 1e-5


def test_groups_that_a_method_cannot_solve_are_named(model: nn.Module) -> None:
    plan = models.analyze(model, INPUTS, "1:8")  # 16 channels are two groups
    with pytest.raises(permsolve.errors.UnsupportedProblemError, match="group '3'"):
        plan.solve(model, method="stripe_groups", options={"groups": 3})


# -- groups side by side -----------------------------------------------------------------------------------------------


def test_two_workers_find_what_one_does(model: nn.Module, plan: Plan, tmp_path: Path) -> None:
    alone = models.analyze(model, INPUTS, "2:4").solve(model, method="annealing", n_jobs=1)
    plan.solve(model, method="annealing", workers=2, save=tmp_path / "plan.json")
    for one, two in zip(alone.groups, plan.groups, strict=True):
        assert one.result is not None and two.result is not None
        assert np.array_equal(one.perm, two.perm)
        assert (one.result.score, one.result.seed) == (two.result.score, two.result.seed)
    assert Plan.load(tmp_path / "plan.json").solved
    assert plan.apply_(model).passed


def test_a_group_that_fails_in_a_worker_is_named_and_the_others_are_solved(model: nn.Module) -> None:
    plan = models.analyze(model, INPUTS, "1:8")

    def saliency(name: str, weight: np.ndarray) -> np.ndarray:
        return np.abs(weight) if name == "6.weight" else -np.abs(weight)

    with pytest.raises(InputError, match=r"'3': InputError: .*negative"):
        plan.solve(model, method="ria", saliency=saliency, workers=2)
    assert [group.perm is None for group in plan.groups] == [True, False]
    with pytest.raises(permsolve.errors.UnsupportedProblemError, match="'3'"):
        plan.solve(model, method="stripe_groups", options={"groups": 3}, workers=2)


def test_callbacks_need_one_worker(model: nn.Module, plan: Plan) -> None:
    with pytest.raises(InputError, match="need workers=1"):
        plan.solve(model, workers=2, callbacks=[lambda group, progress: None])
    with pytest.raises(InputError, match="n_jobs = 0"):
        plan.solve(model, workers=0)


def deal(monkeypatch: pytest.MonkeyPatch, workers: int, weights: list[float], early: float = 1.0) -> list[float]:
    """Play a solve of groups under a limit of 12 s; each uses a part of its share. Return the shares."""
    from permsolve.models import solving

    clock = [100.0]
    monkeypatch.setattr(solving.time, "perf_counter", lambda: clock[0])
    shares = solving._Shares(12.0, workers, {str(k): weight for k, weight in enumerate(weights)})
    running: list[tuple[float, str]] = []
    dealt = []
    for k in range(len(weights)):
        if len(running) == workers:
            clock[0], name = min(running)
            running.remove((clock[0], name))
            shares.ended(name)
        dealt.append(shares.begun(str(k)))
        running.append((clock[0] + early * dealt[-1], str(k)))
    assert max(running)[0] <= 112.0 + 1e-9, "the limit is for all groups together"
    return dealt


def test_a_time_limit_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.allclose(deal(monkeypatch, 1, [1, 2, 3]), [2, 4, 6])
    assert np.allclose(deal(monkeypatch, 2, [1] * 6), [4] * 6)
    assert np.allclose(deal(monkeypatch, 3, [4, 4, 4]), [12] * 3)
    assert np.allclose(deal(monkeypatch, 2, [1]), [12])  # one group cannot use two workers
    uneven = deal(monkeypatch, 2, [4, 2, 1, 1])
    assert np.allclose(uneven, [12, 6, 3, 3])
    assert deal(monkeypatch, 1, [1, 1, 1], early=0.5)[-1] > 4  # what one leaves over the others get
    assert deal(monkeypatch, 2, [1] * 6, early=0.5)[-1] > 4
