"""Plans that hold row permutations (HiNM): what is tied, what is refused, and masks that are exact after everything."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from permuting import error, outputs, state, unequal  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_parts import Net, noise, randomise  # noqa: E402

import permsolve  # noqa: E402
from permsolve import VNM, HiNM, Transposable, models  # noqa: E402
from permsolve.errors import DocumentError, InputError, ModelError  # noqa: E402
from permsolve.models import Plan  # noqa: E402
from permsolve.models.pruning import holds  # noqa: E402
from permsolve.patterns import HiNMSolution  # noqa: E402

TILES = HiNM(8, 0.5, "2:4")


def stack(seed: int = 0) -> nn.Module:
    """Three weights in a row: the middle one has rows of one group and columns of another."""
    layers = [
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 40),
        nn.Tanh(),
        nn.Linear(40, 24),
        nn.ReLU(),
        nn.Linear(24, 8),
    ]
    return randomise(nn.Sequential(*layers).eval(), seed)


STACK = (noise(3, 16),)


def glu() -> nn.Module:
    """Gate and up make the same 32 channels out of inputs of two widths."""

    def code(m: Any, x: Any, y: Any) -> Any:
        return m.down(torch.sigmoid(m.gate(x)) * m.up(y))

    parts = {"gate": nn.Linear(16, 32), "up": nn.Linear(24, 32, bias=False), "down": nn.Linear(32, 8)}
    return randomise(Net(code, **parts).eval(), 0)


GLU = (noise(3, 16), noise(3, 24))


def assign_all(plan: Plan, model: nn.Module, seed: int = 0) -> None:
    """Give every group random rows and columns."""
    rng = np.random.default_rng(seed)
    for group in plan.groups:
        plan.assign(group.name, plan.nm.draw(group.problem(model), rng))


def check_mask(weight: Any, nm: HiNM, columns: np.ndarray[Any, Any]) -> None:
    """Check a pruned matrix tile by tile, group by group, in Python."""
    matrix = weight.detach().numpy()
    kept = int(matrix.shape[1] * (1 - nm.vector_sparsity)) // nm.m * nm.m
    assert columns.shape == (matrix.shape[0] // nm.vector, kept)
    for t, members in enumerate(columns):
        tile = matrix[t * nm.vector : (t + 1) * nm.vector]
        assert len(set(members.tolist())) == kept
        assert not np.delete(tile, members, axis=1).any()
        for start in range(0, kept, nm.m):
            assert ((tile[:, members[start : start + nm.m]] != 0).sum(axis=1) == nm.n).all()


# -- what is found -----------------------------------------------------------------------------------------------------

#: Groups and weights that gain of models of all kinds, with tiles of 4 rows.
EXPECTED = {
    "mlp_batchnorm": (2, 2),
    "mlp_mixer": (5, 6),
    "encoder_batch_first": (15, 8),
    "tied_autoencoder": (2, 2),
    "parametrized": (1, 1),
    "vgg": (2, 2),
    "convnext": (5, 6),
    "phi3": (7, 8),
    "gpt2": (15, 8),
    "bert": (18, 8),
    "qwen2": (9, 10),
    "t5": (23, 9),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_random_rows_leave_outputs_as_they_are(name: str) -> None:
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs = specimen.build(0)
    before, kept = outputs(model, inputs), state(model)
    plan = models.analyze(model, inputs, HiNM(4, 0.5, "2:4"))
    assert (len(plan.groups), len(plan.makers)) == EXPECTED[name]
    assert plan.gainers == plan.makers and not plan.consumers
    assign_all(plan, model)
    checked = plan.apply_(model)
    assert checked is not None and checked.passed
    moved = unequal(kept, state(model))
    assert set(plan.makers) <= set(moved)
    tolerance = 1e-5 if name in ("phi3", "qwen2") else 1e-12  # RMSNorm casts to float32
    assert error(before, outputs(model, inputs)) <= tolerance
    plan.undo_(model)
    assert not unequal(kept, state(model))


def test_makers_of_one_product_share_their_rows() -> None:
    model = glu()
    plan = models.analyze(model, GLU, TILES)
    [group] = plan.groups
    assert (group.name, plan.makers) == ("gate", ("gate.weight", "up.weight"))
    assert (group.channels, group.lines, group.rows, group.cols) == (32, (16, 24), 32, 40)
    assert [each.axis for each in group.makers] == [1, 1] and plan.gaining == 32 * 40
    assert set(group.followers) == {"gate.bias", "down.weight"}
    problem = group.problem(model)
    both = np.hstack([model.gate.weight.detach().numpy(), model.up.weight.detach().numpy()])
    assert np.array_equal(problem.saliency, np.abs(both))
    assert problem.blocks == (16, 24) and problem.fingerprint == group.fingerprint(model)
    assert problem.fingerprint == permsolve.Problem.of(both, TILES, blocks=(16, 24)).fingerprint
    plan.solve(model, method="random", time_limit=0.1)
    assert group.result is not None and group.result.check(problem) == ()
    before = outputs(model, GLU)
    old = {name: model.get_parameter(name).detach().clone() for name in plan.makers}
    assert plan.apply_(model).passed
    assert error(before, outputs(model, GLU)) <= 1e-12
    for name in plan.makers:
        assert torch.equal(model.get_parameter(name), old[name][torch.tensor(group.solution.rows)])


def test_queries_and_keys_share_rows_within_a_head() -> None:
    model, inputs = ZOO["vit"].build(0)
    plan = models.analyze(model, inputs, HiNM(4, 0.5, "2:4"))
    heads = [group for group in plan.groups if len(group.makers) == 2]
    assert len(heads) == 8  # of two layers
    for group in heads:
        first, second = group.gaining
        assert first.name.replace("q_proj", "k_proj").replace("query", "key") == second.name
        assert np.array_equal(first.positions, second.positions)
        assert np.ptp(first.positions) == group.channels - 1 and first.positions.min() % group.channels == 0


def test_two_halves_of_one_weight_are_two_makers() -> None:
    """Gate and up in one linear layer: each half keeps columns of its own."""

    def code(m: Any, x: Any) -> Any:
        gate, up = m.both(x).chunk(2, dim=-1)
        return m.down(torch.sigmoid(gate) * up)

    model = randomise(Net(code, both=nn.Linear(16, 64), down=nn.Linear(32, 8)).eval(), 0)
    plan = models.analyze(model, (noise(3, 16),), TILES)
    [group] = plan.groups
    assert group.lines == (16, 16) and len(group.makers) == 1 and group.makers[0].size == 64 * 16
    assign_all(plan, model)
    columns = group.solution.columns
    assert plan.apply_(model).passed
    pruned = models.prune_(model, TILES, plan=plan, layers="both")
    found = pruned["both.weight"].solution.columns
    assert np.array_equal(found, np.concatenate([columns[:, :8], columns[:, 8:] - 16]))
    check_mask(model.both.weight, TILES, found)


def test_weights_stored_with_inputs_first() -> None:
    """``x @ weight``: rows of the problem are the weight's columns."""
    model = randomise(Net(lambda m, x: torch.tanh(x @ m.a) @ m.b, a=nn.Parameter(torch.ones(16, 32)),
                          b=nn.Parameter(torch.ones(32, 8))).eval(), 0)  # fmt: skip
    plan = models.analyze(model, STACK, TILES)
    assert plan.makers == ("a",) and plan["a"].makers[0].axis == 0
    assert np.array_equal(plan["a"].problem(model).saliency, np.abs(model.a.detach().numpy().T))


def test_reasons_of_what_stays() -> None:
    model = nn.Sequential(nn.Conv1d(4, 32, 1), nn.ReLU(), nn.Conv1d(32, 6, 1), nn.Flatten(),
                          nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 32), nn.ReLU(),
                          nn.Linear(32, 8))  # fmt: skip
    plan = models.analyze(model.eval(), (noise(2, 4, 6),), TILES)
    assert plan.makers == ("8.weight",)
    reasons = {each.name: each.reason for each in plan.frozen}
    assert "3 axes, not two" in reasons["0.weight"]
    assert reasons["4.weight"] == "20 output channels are not a multiple of vector = 8"
    assert reasons["6.weight"] == "a block of 8 channels is one tile: order makes no difference"
    assert reasons["10.weight"] == "its channels are told apart by an output of the model"
    assert {each.axis for each in plan.frozen} == {0}
    assert "weights gain" in str(plan) and "columns" in str(plan)
    odd = models.analyze(stack(), STACK, HiNM(8, 0.5, "3:5"))
    assert {each.reason for each in odd.frozen} >= {"32 input channels are not a multiple of 5"}
    few = models.analyze(stack(), STACK, HiNM(8, 0.8, "2:4"))
    assert "a tile would keep less than one group of 4 of its 16 input channels" in [each.reason for each in few.frozen]


def test_a_vector_that_divides_nothing() -> None:
    plan = models.analyze(stack(), STACK, HiNM(7, 0.5, "2:4"))
    assert not plan.groups and len(plan.frozen) == 4
    assert all("not a multiple of vector = 7" in each.reason for each in plan.frozen)


def test_rows_that_are_tied_at_an_offset_only_follow() -> None:
    """The sum ties row k of one weight to row k + 4 of a larger one: tiles of 8 cannot agree."""

    def code(m: Any, x: Any) -> Any:
        wide = torch.tanh(m.wide(x))
        return m.end(torch.relu(wide[:, 4:36] + m.narrow(x))) + m.other(wide[:, :4]) + m.rest(wide[:, 36:])

    parts = {"wide": nn.Linear(16, 40), "narrow": nn.Linear(16, 32), "end": nn.Linear(32, 8)}
    model = randomise(Net(code, **parts, other=nn.Linear(4, 8), rest=nn.Linear(4, 8)).eval(), 0)
    plan = models.analyze(model, STACK, TILES)
    before = outputs(model, STACK)
    assign_all(plan, model)
    plan.apply_(model)
    assert error(before, outputs(model, STACK)) <= 1e-12
    [group] = plan.groups
    assert (group.channels, plan.makers, group.producers) == (24, ("wide.weight",), ("narrow.weight",))
    reasons = {each.name: each.reason for each in plan.frozen}
    assert reasons["narrow.weight"] == "its tiles cut across those of a larger weight: it only follows"


@pytest.mark.parametrize("nm", [VNM(8, 2, 8), Transposable(2, 4), "8:2:8", "transposable(2:4)"])
def test_patterns_that_couple_layers_are_refused(nm: object) -> None:
    with pytest.raises(InputError, match=r"row order of one layer decides the column order.*permsolve\.solve"):
        models.analyze(stack(), STACK, nm)


def test_gathers_are_for_plain_patterns() -> None:
    with pytest.raises(InputError, match="leave it out"):
        models.analyze(stack(), STACK, TILES, gather="norm")


# -- solving and storing -----------------------------------------------------------------------------------------------


def test_saliencies_reach_the_problem() -> None:
    model = glu()
    group = models.analyze(model, GLU, TILES)["gate"]
    weights = [model.gate.weight.detach().numpy(), model.up.weight.detach().numpy()]
    assert np.allclose(group.problem(model, "energy").saliency, np.hstack(weights) ** 2)
    given = {"gate.weight": np.abs(weights[0]) + 1, "up.weight": permsolve.saliency.Wanda(np.arange(1.0, 25.0))}
    expected = np.hstack([np.abs(weights[0]) + 1, np.abs(weights[1]) * np.arange(1.0, 25.0)])
    assert np.allclose(group.problem(model, given).saliency, expected)
    with pytest.raises(InputError, match=r"no entry for 'up\.weight'"):
        group.problem(model, {"gate.weight": np.abs(weights[0])})


def test_a_plan_is_stored_with_its_columns(tmp_path: Path) -> None:
    model = stack()
    plan = models.analyze(model, STACK, TILES).solve(model, method="random", time_limit=0.1)
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json() and str(again) == str(plan) and again.nm == TILES
    for one, two in zip(plan.groups, again.groups, strict=True):
        assert one.solution == two.solution and isinstance(two.solution, HiNMSolution)
        assert one.lines == two.lines
    twin = copy.deepcopy(model)
    plan.apply_(model)
    again.apply_(twin, example_inputs=STACK)
    assert not unequal(state(model), state(twin))
    here, there = models.prune_(model, TILES, plan=plan), models.prune_(twin, TILES, plan=again)
    assert not unequal(state(model), state(twin))
    assert here["2.weight"].solution == there["2.weight"].solution


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["pattern"].update(vector=0), "at least 1"),
        (lambda d: d["pattern"].update(vector=12), "multiples of 12"),
        (lambda d: d.update(pattern={"kind": "nm", "n": 2, "m": 4}), "cannot gain|has no consumer"),
        (lambda d: d.update(pattern={"kind": "vnm", "vector": 8, "n": 2, "m": 8}), "row order"),
        (lambda d: d["groups"][0].update(blocks=[16, 16]), "one block"),
        (lambda d: d["groups"][0]["solution"].update(rows=[0] * 32), "group '0'.*permutation of rows"),
        (lambda d: d["groups"][0]["solution"]["columns"][0].__setitem__(0, 99), "group '0'.*columns must differ"),
        (lambda d: d["groups"][0].update(solution={"perm": list(range(32))}), "holds perm"),
        (lambda d: d["groups"][0]["solution"]["columns"].reverse(), "not that of its result"),
        (lambda d: d["groups"][0]["movements"][0].update(positions=[[[1, 1, 31], [0, 1, 1]]]), "whole tiles"),
        (lambda d: d["groups"][0]["movements"][0].update(role="consumer"), "cannot gain|no maker"),
    ],
)
def test_damaged_documents_are_refused(change: Any, said: str) -> None:
    model = stack()
    plan = models.analyze(model, STACK, TILES).solve(model, method="random", time_limit=0.1)
    document = json.loads(plan.to_json())
    change(document)
    with pytest.raises(DocumentError, match=said):
        Plan.from_json(json.dumps(document))


def test_solutions_of_ones_own_are_checked() -> None:
    model = stack()
    plan = models.analyze(model, STACK, TILES)
    with pytest.raises(InputError, match=r"group '0'.*HiNMSolution"):
        plan.assign("0", np.arange(32))
    with pytest.raises(InputError, match=r"group '0'.*shape"):
        plan.assign("0", HiNMSolution(np.arange(32), np.zeros((4, 4), np.int64)))


def test_compilation_is_no_part_of_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from permsolve.models import solving

    clock = [100.0]
    monkeypatch.setattr(solving.time, "perf_counter", lambda: clock[0])
    shares = solving._Shares(4.0, 1, {"a": 1.0, "b": 1.0})
    assert shares.begun("a") == 2.0
    clock[0] += 32.0
    shares.ended("a", 30.0)
    assert shares.begun("b") == 2.0


# -- pruning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nm", [TILES, HiNM(4, 0.25, "1:4"), HiNM(8, 0.5, "1:2"), HiNM(1, 0.5, "2:4")])
def test_masks_of_a_stack_hold_what_the_plan_promised(nm: HiNM) -> None:
    """Rows of every weight and columns of the next ones move together; each tile's columns are carried along."""
    model = stack()
    plan = models.analyze(model, STACK, nm)
    assert plan.makers == ("0.weight", "2.weight", "4.weight")
    plan.solve(model, method="random", time_limit=0.2)
    plan.apply_(model)
    pruned = models.prune_(model, nm, plan=plan)
    for group in plan.groups:
        weight = model.get_parameter(group.gaining[0].name)
        done = pruned[group.gaining[0].name]
        check_mask(weight, nm, done.solution.columns)
        assert np.array_equal(done.solution.rows, np.arange(weight.shape[0]))
        assert group.result is not None
        assert np.isclose(float(weight.detach().double().abs().sum()), group.result.score, rtol=1e-6)
        assert holds(weight.detach().numpy(), nm, done.solution)
    columns = pruned["2.weight"].solution.columns
    assert not np.array_equal(columns, plan["2"].solution.columns), "the columns of this weight have moved"
    assert np.array_equal(np.argsort(plan["0"].perm)[plan["2"].solution.columns], columns)


def test_groups_that_are_not_solved_move_nothing() -> None:
    """One group of three has a solution: it permutes the columns of a weight whose own rows stay."""
    model = stack()
    plan = models.analyze(model, STACK, TILES)
    plan.assign("0", TILES.draw(plan["0"].problem(model), np.random.default_rng(1)))
    plan.apply_(model)
    pruned = models.prune_(model, TILES, plan=plan)
    chosen = TILES.start(permsolve.Problem.of(stack()[2].weight.detach()[:, torch.tensor(plan["0"].perm)], TILES))
    assert pruned["2.weight"].solution == chosen
    check_mask(model[2].weight, TILES, chosen.columns)


def test_rows_and_columns_of_one_weight_in_one_group() -> None:
    """A square weight on a residual stream: the group's own rows permute the columns that its tiles name."""

    def code(m: Any, ids: Any) -> Any:
        x = m.embedding(ids)
        return m.head(x + torch.tanh(m.square(x)))

    parts = {"embedding": nn.Embedding(11, 32), "square": nn.Linear(32, 32), "head": nn.Linear(32, 5)}
    model = randomise(Net(code, **parts).eval(), 0)
    ids = (torch.arange(6).reshape(2, 3),)
    plan = models.analyze(model, ids, TILES)
    assert plan.makers == ("square.weight",)
    plan.solve(model, method="random", time_limit=0.1)
    before = outputs(model, ids)
    plan.apply_(model)
    assert error(before, outputs(model, ids)) <= 1e-12
    pruned = models.prune_(model, TILES, plan=plan, layers="square")
    check_mask(model.square.weight, TILES, pruned["square.weight"].solution.columns)
    result = plan["square"].result
    assert result is not None
    assert np.isclose(float(model.square.weight.detach().double().abs().sum()), result.score, rtol=1e-6)


def test_a_part_of_a_weight_may_be_planned() -> None:
    """Of packed queries, keys and values without rotation all heads are free; a fixed half keeps its own columns."""

    def code(m: Any, x: Any) -> Any:
        both = m.both(x)
        return m.end(torch.relu(both[:, :16])), torch.cumsum(both[:, 16:], dim=-1)

    model = randomise(Net(code, both=nn.Linear(16, 32), end=nn.Linear(16, 8)).eval(), 0)
    plan = models.analyze(model, STACK, TILES)
    [group] = plan.groups
    assert group.channels == 16 and group.gaining[0].positions.max() == 15
    assign_all(plan, model)
    plan.apply_(model)
    start = TILES.start(permsolve.Problem.of(model.both.weight.detach(), TILES))
    pruned = models.prune_(model, TILES, plan=plan, layers="both")
    columns = pruned["both.weight"].solution.columns
    assert np.array_equal(columns[:2], group.solution.columns)
    assert np.array_equal(columns[2:], start.columns[2:])
    check_mask(model.both.weight, TILES, columns)


def test_pruning_without_a_plan_keeps_the_columns_of_largest_sums() -> None:
    model = stack()
    dense = {name: each.detach().abs().clone() for name, each in model.named_parameters()}
    pruned = models.prune_(model, TILES)
    assert pruned.names == ("0.weight", "2.weight", "4.weight", "6.weight") and pruned.density == 0.25
    for weight in pruned.weights:
        scores = dense[weight.name].numpy()
        for t, columns in enumerate(weight.solution.columns):
            sums = scores[t * 8 : (t + 1) * 8].sum(axis=0, dtype=np.float64)
            assert sums[columns].min() >= np.delete(sums, columns).max()
            assert (np.diff(columns) > 0).all()
        check_mask(model.get_parameter(weight.name), TILES, weight.solution.columns)


def test_a_search_of_columns_keeps_more() -> None:
    plain, searched = stack(), stack()
    plan = models.analyze(plain, STACK, TILES)
    plan.assign("2", TILES.draw(plan["2"].problem(plain), np.random.default_rng(0)))
    plan.apply_(plain, verify=False)
    plan.apply_(searched, verify=False)
    models.prune_(plain, TILES, plan=plan)
    pruned = models.prune_(searched, TILES, plan=plan, search=1.5)
    kept = [sum(float(model.get_parameter(f"{k}.weight").detach().abs().sum()) for k in (0, 4, 6))
            for model in (plain, searched)]  # fmt: skip
    assert kept[1] > kept[0]
    for name in ("0.weight", "4.weight", "6.weight"):
        check_mask(searched.get_parameter(name), TILES, pruned[name].solution.columns)
        assert np.array_equal(pruned[name].solution.rows, np.arange(len(searched.get_parameter(name))))
        assert searched.get_parameter(name).abs().sum() >= 0.999999 * plain.get_parameter(name).abs().sum()
    assert torch.equal(plain[2].weight, searched[2].weight), "what the plan says stays"
    for wrong in (0, -1.0, True, "x", float("inf")):
        with pytest.raises(InputError, match="positive number of seconds"):
            models.prune_(stack(), TILES, search=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave it out"):
        models.prune_(stack(), "2:4", search=1.0)


def test_masks_of_torch_stay() -> None:
    model = stack()
    torch_prune.random_unstructured(model[2], "weight", 0.3)
    plan = models.analyze(model, STACK, TILES)
    group = plan["2.weight_orig"]
    assert group.problem(model).saliency.min() == 0
    plan.solve(model, method="random", time_limit=0.1)
    plan.apply_(model)
    before = model[2].weight_mask.clone()
    pruned = models.prune_(model, TILES, plan=plan)
    assert (model[2].weight_mask <= before).all()
    assert holds(model[2].weight_mask.numpy(), TILES, pruned["2.weight"].solution)
    assert group.result is not None
    assert np.isclose(float(model[2].weight.detach().double().abs().sum()), group.result.score, rtol=1e-6)


def test_masks_as_parametrizations_and_the_way_back() -> None:
    model = stack()
    plan = models.analyze(model, STACK, TILES).solve(model, method="random", time_limit=0.1)
    plan.apply_(model)
    pruned = models.prune_(model, TILES, plan=plan, parametrize=True)
    check_mask(model[2].weight, TILES, pruned["2.weight"].solution.columns)
    kept = state(model)
    with pytest.raises(ModelError, match=r"remove_parametrizations"):
        plan.undo_(model)
    assert not unequal(kept, state(model))
    before = outputs(model, STACK)
    for layer in (0, 2, 4, 6):
        nn.utils.parametrize.remove_parametrizations(model[layer], "weight")
    plan.undo_(model)
    assert error(before, outputs(model, STACK)) <= 1e-12


@pytest.mark.parametrize("nm", [VNM(8, 2, 8), Transposable(2, 4)])
def test_other_patterns_are_pruned_as_they_stand(nm: Any) -> None:
    model = stack()
    dense = model[2].weight.detach().clone()
    torch_prune.random_unstructured(model[4], "weight", 0.3)
    before = model[4].weight_mask.clone()
    pruned = models.prune_(model, nm)
    problem = permsolve.Problem.of(dense, nm)
    assert np.isclose(float(model[2].weight.detach().double().abs().sum()), problem.baseline, rtol=1e-6)
    assert pruned["2.weight"].density == (0.25 if nm.kind == "vnm" else 0.5)
    assert holds(model[2].weight.detach().numpy(), nm) and not holds(dense.numpy(), nm)
    assert (model[4].weight_mask <= before).all() and holds(model[4].weight_mask.numpy(), nm)


def test_what_does_not_fit_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(16, 12), nn.Linear(10, 16), nn.Linear(4, 16), nn.Linear(16, 16))
    pruned = models.prune_(model, TILES)
    assert pruned.names == ("4.weight",)
    assert "4 axes" in pruned.left_out["0.weight"]
    assert pruned.left_out["1.weight"].startswith("12 rows (output channels) do not divide into tiles of vector = 8")
    assert pruned.left_out["2.weight"].startswith("10 columns (input channels) do not divide")
    assert "less than one group of m = 4 (0.5 of 4 columns)" in pruned.left_out["3.weight"]
    with pytest.raises(InputError, match=r"'1.weight' was not pruned; 12 rows"):
        pruned["1.weight"]
    with pytest.raises(InputError, match="no weight of the model can be pruned to hinm"):
        models.prune_(nn.Sequential(nn.Conv2d(8, 8, 3)), TILES)


def test_plans_that_do_not_belong_are_refused() -> None:
    model = stack()
    kept = state(model)
    plan = models.analyze(model, STACK, TILES).solve(model, method="random", time_limit=0.1)
    flat = models.analyze(model, STACK, "2:4")
    with pytest.raises(InputError, match=r"the plan is of 2:4, not of hinm\(8, 0.5, 2:4\)"):
        models.prune_(model, TILES, plan=flat)
    with pytest.raises(InputError, match=r"pass nm='hinm\(8, 0.5, 2:4\)'"):
        models.prune_(model, plan=plan)
    with pytest.raises(InputError, match=r"old order: call plan.apply_"):
        models.prune_(model, TILES, plan=plan)
    with pytest.raises(InputError, match="is no plan"):
        models.prune_(model, TILES, plan="plan.json")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="for another model"):
        models.prune_(nn.Sequential(nn.Linear(16, 32)), TILES, plan=plan)
    assert not unequal(kept, state(model))
    plan.apply_(model)
    with pytest.raises(ModelError, match="permuted already"):
        plan.apply_(model)


def test_a_plain_plan_may_be_passed_along() -> None:
    one, two = stack(), stack()
    plan = models.analyze(one, STACK, "2:4").solve(one, method="greedy")
    plan.apply_(one)
    plan.apply_(two)
    models.prune_(one, "2:4", plan=plan)
    models.prune_(two, "2:4")
    assert not unequal(state(one), state(two))


def test_reports_know_the_columns() -> None:
    model = stack()
    original = copy.deepcopy(model)
    plan = models.analyze(model, STACK, TILES).solve(model, method="random", time_limit=0.2)
    plan.apply_(model)
    dense = models.report(model, TILES, before=original, plan=plan)
    pruned = models.prune_(model, TILES, plan=plan)
    after = models.report(model, TILES, before=original, plan=plan, pruned=pruned)
    for row, old in zip(after.rows, dense.rows, strict=True):
        assert row.pruned and not old.pruned and row.density == 0.25
        assert row.retained == pytest.approx(old.retained) and row.ceiling == pytest.approx(old.ceiling)
    for group in plan.groups:
        [row] = [row for row in dense.rows if row.name == group.gaining[0].name]
        whole = float(original.get_parameter(row.name).detach().double().abs().sum())
        assert group.result is not None
        assert row.retained == pytest.approx(group.result.score / whole, rel=1e-6)
        assert row.retained_before == pytest.approx(group.result.baseline / whole, rel=1e-6)
        assert row.ceiling == pytest.approx(group.result.rows_bound / whole, rel=1e-6)
    with pytest.raises(InputError, match="not what prune_ returned"):
        models.report(model, "2:4", pruned=pruned)


# -- the whole path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gyro", "joint"])
def test_a_transformer_from_plan_to_masks(method: str) -> None:
    pytest.importorskip("transformers")
    model, inputs = ZOO["opt"].build(0)
    nm = HiNM(4, 0.5, "2:4")
    plan = models.analyze(model, inputs, nm)
    plan.solve(model, method=method, time_limit=1.0, n_jobs=1)
    assert all(group.result is not None and group.result.score >= group.result.baseline for group in plan.groups)
    before = outputs(model, inputs)
    assert plan.apply_(model).passed
    assert error(before, outputs(model, inputs)) <= 1e-10
    pruned = models.prune_(model, nm, plan=plan, layers="model.*")
    kept = 0.0
    for weight in pruned.weights:
        value = model.get_parameter(weight.name)
        check_mask(value, nm, weight.solution.columns)
        kept += float(value.detach().double().abs().sum()) if weight.name in plan.makers else 0.0
    promised = sum(group.result.score for group in plan.groups if group.result is not None)
    assert np.isclose(kept, promised, rtol=1e-6)


ARCH = """
import torch
from torch import nn


def build():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 40), nn.Tanh(), nn.Linear(40, 24))
    return model, (torch.randn(3, 16),)
"""


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    from permsolve import cli
    from permsolve.models.statefile import build

    def run(*words: object) -> tuple[int, str, str]:
        command = ["permsolve", "model", "net.pt", "--arch", "net.py:build", "--jobs", 1, *words]
        monkeypatch.setattr("sys.argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as end:
            cli.main()
            raise SystemExit(0)
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out, out.err

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(ARCH)
    model, _ = build(Path("net.py"), "build")
    torch.save(model.state_dict(), "net.pt")
    fast = ("--method", "random", "--time-limit", 1)
    code, out, err = run("--nm", "hinm(8, 0.5, 2:4)", "--out", "out", "--prune", "--search", 1, *fast)
    assert code == 0, err
    assert "2 groups, 2 weights gain" in out and "3 weights pruned to hinm(8, 0.5, 2:4)" in out
    report = json.loads(Path("out/report.json").read_text())
    assert [group["makers"] for group in report["groups"]] == [["0.weight"], ["2.weight"]]
    assert [group["consumers"] for group in report["groups"]] == [[], []]
    assert (report["groups"][1]["rows"], report["groups"][1]["cols"]) == (40, 32)
    weights = load_file("out/model.safetensors")
    assert all((weights[f"{k}.weight"] != 0).float().mean() == 0.25 for k in (0, 2, 4))
    plan = Plan.load("out/plan.json")
    rows = {row["name"]: row for row in report["retained"]["rows"]}
    for group in plan.groups:
        name = group.gaining[0].name
        assert group.result is not None and rows[name]["pruned"]
        assert np.isclose(float(weights[name].double().abs().sum()), group.result.score, rtol=1e-6)
    code, out, _ = run("--nm", "hinm(8,0.5,2:4)", "--out", "out", "--prune", "--search", 1, *fast)
    assert code == 0 and "finished already" in out
    for words, said in (
        (("--nm", "8:2:8", "--out", "v"), "row order of one layer"),
        (("--nm", "hinm(8, 0.5, 2:4)", "--out", "v", "--search", 1), "needs --prune"),
        (("--nm", "2:4", "--out", "v", "--prune", "--search", 1), "leave it out"),
        (("--nm", "hinm(8, 0.5, 2:4)", "--out", "v", "--gather", "norm"), "leave it out"),
    ):
        code, _, err = run(*words)
        assert code == 2 and said in err, err
        assert not Path("v").exists()


def test_what_holds_under_a_solution() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(16, 24))
    problem = permsolve.Problem.of(matrix, TILES)
    drawn = TILES.draw(problem, rng)
    kept = matrix * TILES.mask(problem.saliency, drawn)
    assert holds(kept, TILES, drawn) and not holds(kept, TILES) and not holds(matrix, TILES, drawn)
    where = np.argwhere(kept[drawn.rows[:8]][:, drawn.columns[0]] == 0)[0]
    kept[drawn.rows[where[0]], drawn.columns[0, where[1]]] = 1.0  # one entry more than its group may keep
    assert not holds(kept, TILES, drawn)
    flat, perm = permsolve.NM(2, 4), rng.permutation(24)
    pruned = matrix * flat.mask(np.abs(matrix), perm)
    assert holds(pruned, flat, perm) and not holds(pruned, flat) and holds(pruned[:, perm], flat)
