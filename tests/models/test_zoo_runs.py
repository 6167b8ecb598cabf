"""The models of the zoo and the traps run, are the same for the same seed, and hide no wrong permutation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from traps import CORE, EITHER, FREE, FROZEN, TRAPS, Trap  # noqa: E402
from zoo import ZOO, call, doubled  # noqa: E402
from zoo_parts import Specimen, tensors  # noqa: E402

# What has no effect by mathematics: biases of keys vanish in the softmax, those before an InstanceNorm or, in a mixer,
# before a LayerNorm, in the mean. Tied weights may be permuted along one axis: that is what they are there for.
POWERLESS = ("key.bias", "k_proj.bias", "token_mixing.2.bias")
POWERLESS_IN = {"norm_mix": ("6.bias",)}
POWERLESS_AXES = {("tied_transposed", 1), ("tied_square_transposed", 0)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Such small models are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return all(torch.equal(x, y) for x, y in pairs)


def differ(a: list[Any], b: list[Any]) -> float:
    """Return the largest difference of outputs, relative to the largest entry."""
    return max(float((x.double() - y.double()).abs().max() / x.double().abs().max()) for x, y in zip(a, b, strict=True))


def check(specimen: Specimen | Trap) -> tuple[Any, Any, Any]:
    """Check what every builder promises; return the model in float64, its inputs and outputs."""
    (model, inputs), (again, inputs_again) = specimen.build(3), specimen.build(3)
    assert not model.training
    assert same(model.state_dict(), again.state_dict()) and same(inputs, inputs_again)
    first, second = call(model, inputs), call(again, inputs_again)
    assert same(first, second)
    assert all(output.isfinite().all() for output in first)
    assert differ(first, call(*specimen.build(4))) > 1e-3
    if specimen.doubles:
        again, inputs = doubled(again, inputs)
    copied = copy.deepcopy(again)
    outputs = call(again, inputs)
    assert same(outputs, call(copied, inputs)), "a copy is as good as the original"
    return copied, inputs, outputs


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_zoo(name: str) -> None:
    specimen = ZOO[name]
    if specimen.needs:
        pytest.importorskip(specimen.needs)
    model, inputs, outputs = check(specimen)
    result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in tensors(result))
    loss.backward()
    for path, parameter in model.named_parameters():
        if path.endswith(POWERLESS + POWERLESS_IN.get(name, ())):
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, f"{path} has no effect"
    saved = model.state_dict().keys()
    buffers = [(path, buffer) for path, buffer in model.named_buffers() if buffer.is_floating_point() and path in saved]
    for path, buffer in buffers[::3]:  # statistics have no gradients; a third of them, to be quick
        kept = buffer.clone()
        buffer.copy_(kept.roll(1, max(range(kept.ndim), key=lambda axis: kept.shape[axis])))
        assert differ(outputs, call(model, inputs)) > 1e-6, f"the order of {path} has no effect"
        buffer.copy_(kept)


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name: str) -> None:
    trap = TRAPS[name]
    model, inputs, outputs = check(trap)
    weight = dict(model.named_parameters(remove_duplicate=False))[trap.weight]
    assert trap.expectation in (FREE, FROZEN, EITHER) and trap.why
    for axis in range(min(weight.ndim, 2)):
        if weight.shape[axis] > 1:
            with torch.no_grad():
                weight.copy_(weight.roll(1, axis))
            changed = differ(outputs, call(model, inputs)) > 1e-6
            assert changed or (name, axis) in POWERLESS_AXES, f"the order of axis {axis} has no effect"
            with torch.no_grad():
                weight.copy_(weight.roll(-1, axis))


def test_every_expectation_is_there() -> None:
    for expectation in (FREE, FROZEN, EITHER):
        assert sum(trap.expectation == expectation for trap in TRAPS.values()) > 50
        assert sum(TRAPS[name].expectation == expectation for name in CORE) > 20


@pytest.mark.parametrize("name", ["grouped_interleaved", "grouped_expanded"])
def test_alike_blocks_are_free(name: str) -> None:
    """One permutation for each key-value head is right; independent ones for its query heads are wrong."""
    trap = TRAPS[f"attention_{name}"]
    model, inputs = doubled(*trap.build())
    before, size = call(model, inputs), trap.blocks[0]
    generator = torch.Generator().manual_seed(2)
    perms = [torch.randperm(size, generator=generator) for _ in trap.alike]
    columns = torch.arange(model.last.in_features).view(-1, size).clone()
    for perm, heads in zip(perms, trap.alike, strict=True):
        for head in heads:
            columns[head] = columns[head, perm]
    rows = torch.cat([perm + size * head for head, perm in enumerate(perms)])
    with torch.no_grad():
        model.v.weight.copy_(model.v.weight[rows])
        model.v.bias.copy_(model.v.bias[rows])
        model.last.weight.copy_(model.last.weight[:, columns.flatten()])
    assert differ(before, call(model, inputs)) < 1e-12
    with torch.no_grad():
        model.last.weight[:, :size] = model.last.weight[:, :size].flip(1)
    assert differ(before, call(model, inputs)) > 1e-3
