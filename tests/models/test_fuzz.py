"""Random networks under random permutations: outputs stay as they are, and what can move does.

``--slow`` runs 2,000 of them; ``-s`` prints what became of their weights.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import grammar_free  # noqa: E402
import grammar_layers  # noqa: E402
import grammar_moves  # noqa: E402
from grammar import Program, draw_program, pack, shrink, useful  # noqa: E402
from helpers import rarely  # noqa: E402
from zoo_parts import call  # noqa: E402

from permsolve import models  # noqa: E402

TOLERANCE = 1e-9
"""Allowed difference of outputs in float64, relative to the largest entry: a wrong permutation differs by far more."""

EVERYTHING = {**grammar_layers.PRODUCTIONS, **grammar_moves.PRODUCTIONS}
draw = partial(draw_program, start=grammar_layers.start, productions=EVERYTHING, end=grammar_layers.end)
draw_free = partial(draw_program, start=grammar_free.start, productions=grammar_free.PRODUCTIONS, end=grammar_free.end)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Such small models are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Tally:
    """What became of the weights of many networks."""

    graphs: int = 0
    permuted: int = 0
    frozen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = self.permuted + self.frozen.total()
        lines = [f"{self.graphs} networks, {self.permuted} of {total} weights permuted; the others are frozen by:"]
        return "\n".join([*lines, *(f"{count:6d} {reason}" for reason, count in self.frozen.most_common(40))])


def check(*programs: Program, tally: Tally | None = None, salt: int = 0) -> None:
    """Permute networks at random, by everything their plan allows; the outputs must stay, and undo must undo."""
    model, inputs = pack(programs)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = run(model, inputs)
    rng = np.random.default_rng([programs[0].seed, salt])
    nm = rng.choice(["2:4", "2:4", "2:4", "1:2", "1:2", "4:8"])
    gather = rng.choice([None] * 7 + ["norm", "layer", "layer"])
    plan = models.analyze(model, inputs, str(nm), gather=gather)
    same(model.state_dict(), before, "the analysis changed the model")
    shuffle(plan, rng)
    if rng.random() < 0.3:
        plan = models.Plan.from_json(plan.to_json())
    if rng.random() < 0.1:
        plan.apply_(model, example_inputs=inputs)
    else:
        plan.apply_(model, verify=False)
    error = distance(outputs, run(model, inputs))
    assert error <= TOLERANCE, f"outputs differ by {error:.1e}\n{plan}"
    plan.undo_(model)
    same(model.state_dict(), before, "undo left something")
    if tally is not None:
        tally.graphs += len(programs)
        tally.permuted += len(plan.consumers)
        tally.frozen.update(kind(refusal.reason) for refusal in plan.frozen)


def shuffle(plan: models.Plan, rng: np.random.Generator) -> None:
    """Give every group a random permutation."""
    for group in plan.groups:
        parts = np.split(np.arange(group.cols), np.cumsum(group.blocks)[:-1])
        plan.assign(group.name, np.concatenate([rng.permutation(part) for part in parts]))


def run(model: torch.nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Return the outputs and the inputs, which the model may have changed; what it changed of its own is put back."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = copy.deepcopy(inputs)
    outputs = call(model, inputs)
    for tensor, before in zip(model.state_dict().values(), kept.values(), strict=True):
        if not torch.equal(tensor, before):
            tensor.copy_(before)
    return [*outputs, *inputs]


def same(state: dict[str, torch.Tensor], before: dict[str, torch.Tensor], message: str) -> None:
    assert state.keys() == before.keys(), message
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name]), f"{message}: {name}"


def distance(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Return how far outputs are apart, relative to their largest entries."""
    assert len(before) == len(after)
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        scale = float(a.abs().max()) or 1.0
        worst = max(worst, float((a.double() - b.double()).abs().nan_to_num(1e9).max()) / scale)
    return worst


def kind(reason: str) -> str:
    """Return a reason without names and numbers."""
    return re.sub(r"\d+", "N", re.sub(r" (in|of|after) graphs\.\S+", "", reason))


def failures(programs: Sequence[Program], tally: Tally) -> list[str]:
    """Check several networks at once; describe those that fail, the first one made as small as possible."""
    try:
        check(*programs, tally=tally)
    except Exception as error:
        found: list[str] = []
        for program in programs:
            found += failure(program, smaller=not found)
        return found or [f"together only: {describe(error)}\n" + "\n".join(map(str, programs))]
    return []


def failure(program: Program, smaller: bool) -> list[str]:
    """Describe how a network fails, if it does; with several patterns and permutations, as one may be harmless."""
    for salt in range(6):
        try:
            check(program, salt=salt)
        except Exception as error:
            if smaller:
                program = shrink(program, partial(fails_with, kind=type(error), salt=salt))
            return [f"{describe(error)}\n{program}\n"]
    return []


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def fails_with(program: Program, kind: type[Exception], salt: int) -> bool:
    try:
        check(program, salt=salt)
    except kind:
        return useful(program)
    return False


def needless(programs: Sequence[Program]) -> list[str]:
    """Describe the weights of free networks that a plan leaves in place, though they read no input of the model."""
    return [text for program in programs for text in refusals(program)] if refused(*programs) else []


def refusals(program: Program) -> list[str]:
    found = refused(program)
    if not found:
        return []
    smallest = shrink(program, lambda each: found.items() & refused(each).items() != set() and useful(each))
    return [f"{found}\n{smallest}\n"]


def refused(*programs: Program) -> dict[str, str]:
    """Return the weights that are not permuted in full, with reasons; and those in more blocks than they need."""
    model, inputs = pack(programs)
    plan = models.analyze(model, inputs, "2:4")
    reasons = {refusal.name: refusal.reason for refusal in plan.frozen}
    covered: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for group in plan.groups:
        for move in group.movements:
            if move.role == "consumer":
                covered[move.name] += move.positions.size
                blocks[move.name] += len(group.blocks)
    missing = {}
    for name, channels in inputs_of(model).items():
        _, number, part = name.removesuffix(".weight").split(".")
        program = programs[int(number)]
        if part not in program.first and covered[name] < channels:
            missing[name] = reasons.get(name, f"{covered[name]} of {channels} channels are permuted")
        elif blocks[name] > 1 and not DIVIDING.search(str(program)):
            missing[name] = f"{blocks[name]} blocks"
    return missing


DIVIDING = re.compile(r"cat\(|narrow|split|glu|chunk|heads|view|GroupNorm\((?!1,)|, 1, groups")
"""What divides channels into blocks."""


def inputs_of(model: torch.nn.Module) -> dict[str, int]:
    """Return the number of input channels of every weight that reads more than one."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            found[f"{name}.weight"] = module.in_features
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) and module.groups < module.in_channels:
            found[f"{name}.weight"] = module.in_channels
    return found


def chunks(count: int, size: int = 10) -> list[Any]:
    """Return ranges of seeds; those beyond 200 are for the long run."""
    starts = range(0, count, size)
    return [
        pytest.param(range(k, k + size), id=f"{k}-{k + size - 1}", marks=[pytest.mark.slow] if k >= 100 else [])
        for k in starts
    ]


ALL = Tally()


@pytest.mark.parametrize("seeds", chunks(2000))
def test_random_networks_compute_what_they_did(seeds: range) -> None:
    found = failures([draw(seed) for seed in seeds], ALL)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("nm", ["hinm(4, 0.5, 1:2)", "hinm(2, 0.25, 2:4)"])
@pytest.mark.parametrize("first", rarely(range(0, 40, 20), [20]))
def test_random_networks_compute_what_they_did_with_rows_permuted(first: int, nm: str) -> None:
    """Also: what each tile keeps stays the same numbers, wherever they have gone."""
    model, inputs = pack([draw(seed) for seed in range(first, first + 20)])
    outputs, before = run(model, inputs), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = models.analyze(model, inputs, nm)
    assert len(plan.makers) >= 8
    rng = np.random.default_rng(first)
    promised: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for group in plan.groups:
        problem = group.problem(model)
        plan.assign(group.name, plan.nm.draw(problem, rng))
        kept = np.where(plan.nm.mask(problem.saliency, group.solution), problem.saliency, 0).sum(axis=0)
        names = [move.name for move in group.gaining for _ in move.positions]
        for name, part in zip(names, np.split(kept, np.cumsum(group.lines)[:-1]), strict=True):
            promised[name] += part.sum()
            rows[name] += group.channels
    plan.apply_(model, verify=False)
    assert distance(outputs, run(model, inputs)) <= TOLERANCE
    twin = copy.deepcopy(model)
    pruned = models.prune_(twin, nm, plan=plan)
    weights = {name: twin.get_parameter(name).detach() for name in set(plan.makers) & set(pruned.names)}
    whole = [name for name, weight in weights.items() if rows[name] == weight.shape[0]]
    assert len(whole) >= 5
    for name in whole:
        assert np.isclose(float(weights[name].abs().sum()), promised[name], rtol=1e-9), name
    plan.undo_(model)
    same(model.state_dict(), before, "undo left something")


def test_enough_was_permuted_to_mean_anything() -> None:
    """Of weights that could be permuted at all: those of other widths or of one group say nothing."""
    if not ALL.graphs:
        pytest.skip("no network was drawn")
    print(ALL)
    hopeless = ("N input channels are not a multiple of N", "a block of N channels is one group", "one input channel")
    stuck = sum(count for reason, count in ALL.frozen.items() if not reason.startswith(hopeless))
    assert ALL.permuted / (ALL.permuted + stuck) > LEAST_SHARE


LEAST_SHARE = 0.5
"""Measured: 0.54 over the first 200 networks, 0.60 over 300: full of operators that hold channels for good reason."""


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_networks_without_obstacles_are_permuted_in_full(first: int) -> None:
    found = needless([draw_free(seed) for seed in range(first, first + 10)])
    assert not found, "\n\n".join(found)


def test_a_part_that_does_not_follow_is_noticed() -> None:
    """Leave out each movement in turn: outputs differ by far more than the tolerance, but for what has no effect."""
    model, inputs = pack([draw(seed) for seed in range(20)])
    outputs = run(model, inputs)
    plan = models.analyze(model, inputs, "2:4")
    shuffle(plan, np.random.default_rng(0))
    errors = {}
    for group in plan.groups:
        for move in group.movements:
            partly = replace(group, movements=tuple(each for each in group.movements if each is not move))
            wrong = replace(plan, groups=(partly,))
            wrong.apply_(model, verify=False)
            errors[move.name, move.axes] = distance(outputs, run(model, inputs))
            wrong.undo_(model)
    missed = [key for key, error in errors.items() if error < 1000 * TOLERANCE]
    assert len(errors) > 50 and len(missed) <= 0.05 * len(errors), missed
