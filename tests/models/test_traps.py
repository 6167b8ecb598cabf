"""Whatever a careless analysis gets wrong: handled right, or refused with a reason, and never a changed output."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from permuting import assign_all, error, outputs, state, unequal
from traps import CORE, FREE, FROZEN, TRAPS

from permsolve import models
from permsolve.errors import ModelError

#: These compute in float32 whatever the type of their input.
CASTING = ("rms_norm_by_hand",)
OTHERS = [name for name in TRAPS if name not in CORE]


@pytest.mark.parametrize("name", [*CORE, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_trap(name: str) -> None:
    trap = TRAPS[name]
    model, inputs = trap.build(0)
    kept = state(model)
    try:
        plan = models.analyze(model, inputs, "2:4")
    except ModelError as refusal:
        assert not trap.exports
        assert "cannot be traced" in str(refusal)
        return
    before = outputs(model, inputs, double=trap.doubles)
    assign_all(plan)
    plan.apply_(model, verify=False)
    limit = 5e-5 if not trap.doubles else 5e-7 if name in CASTING else 1e-10
    assert error(before, outputs(model, inputs, double=trap.doubles)) <= limit, trap.why
    plan.undo_(model)
    assert not unequal(kept, state(model))

    free = trap.weight in plan.consumers
    if trap.expectation == FREE:
        assert free, f"a needless refusal: {trap.why}"
        blocks = [group.blocks for group in plan.groups if trap.weight in [each.name for each in group.consumers]]
        if trap.blocks and not trap.alike:
            sizes = sorted(size for each in blocks for size in each)
            assert sizes == sorted(size for size in trap.blocks if size > 4)  # one group alone is no choice
    elif trap.expectation == FROZEN:
        assert not free, trap.why
        reasons = [each.reason for each in plan.frozen if each.name == trap.weight]
        assert all(reasons)


def test_what_follows_is_seen_by_its_absence() -> None:
    """The check above can fail: whatever follower stays behind, the outputs change."""
    model, inputs = TRAPS["batch_norm_2d"].build(0)
    plan = models.analyze(model, inputs, "2:4")
    before, kept = outputs(model, inputs), state(model)
    assign_all(plan)
    plan.apply_(model, verify=False)
    after = state(model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    names = {move.name for group in plan.groups for move in group.movements}
    assert {"middle.running_mean", "middle.running_var", "middle.weight", "middle.bias"} <= names
    for name in names:
        tensors[name].data.copy_(kept[name])
        assert error(before, outputs(model, inputs)) > 1e-6, f"{name} left where it was goes unnoticed"
        tensors[name].data.copy_(after[name])
