"""Models that once were permuted wrongly, or refused for no reason: each is a bug that was found and mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from permuting import assign_all, error, outputs, state, unequal  # noqa: E402
from torch import nn  # noqa: E402
from zoo_parts import Net, noise, parameter, randomise  # noqa: E402

from permsolve import models  # noqa: E402
from permsolve.errors import InputError, ModelError  # noqa: E402

D = 16
TOKENS = (noise(3, 7, 6),)


def net(code: Callable[..., Any], **parts: Any) -> nn.Module:
    """A linear layer `e` of 6 to 16 channels, a last layer `o`, and what a test adds."""
    return randomise(Net(code, e=nn.Linear(6, D), o=nn.Linear(D, 5), **parts).eval(), 0)


def kept(model: nn.Module, inputs: tuple[Any, ...], gather: str | None = None) -> models.Plan:
    """Permute a model at random by its plan; its outputs must stay."""
    before = outputs(model, inputs)
    plan = models.analyze(model, inputs, gather=gather)
    assign_all(plan)
    plan.apply_(model, verify=False)
    assert error(before, outputs(model, inputs)) <= 1e-9, str(plan)
    return plan


def grouped(kind: type[nn.Module]) -> nn.Module:
    def code(m: Any, x: torch.Tensor) -> Any:
        h = m.l1(x)
        y = m.c(h.t().unsqueeze(-1)).squeeze(-1).t()
        return m.l2(y), m.l3(h)

    parts = {"l1": nn.Linear(6, 16), "c": kind(8, 8, 1, groups=2), "l2": nn.Linear(16, 5), "l3": nn.Linear(16, 5)}
    return randomise(Net(code, **parts).eval(), 0)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_channels_on_the_batch_axis_of_a_grouped_convolution(kind: type[nn.Module]) -> None:
    kept(grouped(kind), (noise(8, 6),))


def any_of_no_axis(m: Any, x: torch.Tensor) -> Any:
    h = m.e(x)
    return m.o(h), torch.any(h > 0, dim=()) * 1.0


def difference_with_more(m: Any, x: torch.Tensor) -> Any:
    h = m.e(x)
    return m.o(h), torch.diff(h, dim=1, append=m.p.expand(3, 1, D), n=2).pow(2).sum(-1)


def index_of_signs(m: Any, x: torch.Tensor) -> Any:
    table = torch.arange(2.0, dtype=x.dtype)
    return m.o(m.e(x) * m.p) + torch.index_select(table, 0, (m.p > 0).long()).cumsum(0)[:5]


def statistics_are_read(m: Any, x: torch.Tensor) -> Any:
    h = m.e(x)
    _, mean, _ = torch.native_batch_norm(h.transpose(1, 2), None, None, None, None, True, 0.1, 1e-5)
    return m.o(h), mean.cumsum(0)


CASES = {
    "any_of_no_axis": lambda: net(any_of_no_axis),
    "difference_with_more": lambda: net(difference_with_more, p=parameter(1, 1, D)),
    "index_of_signs": lambda: net(index_of_signs, p=parameter(D)),
    "statistics_are_read": lambda: net(statistics_are_read),
    "bias_of_two_axes": lambda: net(lambda m, x: m.o(F.linear(x, m.e.weight, m.b)), b=parameter(7, D)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_in_unusual_use(name: str) -> None:
    kept(CASES[name](), TOKENS)


def test_keys_and_values_without_batch() -> None:
    parts = {name: nn.Linear(6, D) for name in "qkv"}
    code = lambda m, x: m.o(F.scaled_dot_product_attention(m.q(x), m.k(x[0]), m.v(x[0])))  # noqa: E731
    plan = kept(randomise(Net(code, o=nn.Linear(D, 5), **parts).eval(), 0), TOKENS)
    assert plan.consumers == ("o.weight",)


def test_an_index_that_the_model_changes_is_no_constant() -> None:
    def code(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.e(x)[..., m.i]
        m.i.copy_(m.i.roll(4))
        return m.o(y)

    model = net(code)
    model.register_buffer("i", torch.arange(D))
    plan = models.analyze(model, TOKENS)
    assert not plan.consumers


def test_overlapping_parameters_on_meta_stay() -> None:
    with torch.device("meta"):
        model = Net(lambda m, x: m.o(m.b(m.e(x))), e=nn.Linear(6, D), b=nn.Linear(D, D), o=nn.Linear(D, D))
        model.b.weight = nn.Parameter(model.o.weight.data.t())
        plan = models.analyze(model.eval(), torch.empty(3, 7, 6))
    assert not plan.consumers


class FlowNormNet(nn.Module):
    """A whole model whose name speaks of norms."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(6, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(torch.relu(self.e(x)))


class PairNorm(nn.LayerNorm):
    """A norm that returns its mean as well."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x.mean(-1)


class Custom(nn.Module):
    """A linear layer of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.w = parameter(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w)


GATHERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a_model_called_norm": (FlowNormNet, 0),
    "a_norm_of_two_results": (lambda: net(lambda m, x: m.o(m.n(m.e(x))[0]), n=PairNorm(D)), 0),
    "a_linear_layer_of_its_own": (
        lambda: net(lambda m, x: m.o(m.c(y := m.n(m.e(x))) + y), n=nn.LayerNorm(D), c=Custom()),
        0,
    ),
    "an_input_by_keyword": (
        lambda: net(lambda m, x: m.o(m.c(input=(y := m.n(m.e(x)))) + y), n=nn.LayerNorm(D), c=nn.Linear(D, D)),
        1,
    ),
    "an_encoder_layer": (
        lambda: net(lambda m, x: m.o(m.t(m.e(x))), t=nn.TransformerEncoderLayer(D, 2, 32, dropout=0.0)),
        1,
    ),
}


@pytest.mark.parametrize("name", GATHERS)
def test_indices_stand_where_they_can(name: str) -> None:
    make, least = GATHERS[name]
    plan = kept(randomise(make().eval(), 0), TOKENS, gather="norm")
    assert sum(len(group.indices) for group in plan.groups) >= least


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_a_model_is_whole_again_after_an_interrupt(verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from permsolve.models import plan as module

    model = net(lambda m, x: m.o(m.b(m.e(x))), b=nn.Linear(D, D))
    plan = models.analyze(model, TOKENS)
    assign_all(plan)
    before, original, calls = state(model), module.permute_, []

    def interrupted(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(module, "permute_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.apply_(model, verify=verify)
    assert not unequal(before, state(model))


def test_undoing_twice_is_refused() -> None:
    model = net(lambda m, x: m.o(torch.relu(m.e(x))))
    plan = models.analyze(model, TOKENS).solve(model, method="greedy")
    with pytest.raises(ModelError, match="own order already"):
        plan.undo_(model)
    plan.apply_(model)
    plan.undo_(model)
    with pytest.raises(ModelError, match="own order already"):
        plan.undo_(model)


def test_attaching_twice_is_refused() -> None:
    model = net(lambda m, x: m.o(m.n(m.e(x))), n=nn.LayerNorm(D))
    plan = models.analyze(model, TOKENS, gather="norm")
    assign_all(plan)
    plan.attach_(model)
    with pytest.raises(ModelError, match="has an index already"):
        plan.attach_(model)


def test_gradients_move_along() -> None:
    model = net(lambda m, x: m.o(torch.relu(m.e(x))))
    model(*TOKENS).sum().backward()
    gradient = model.o.weight.grad.clone()
    plan = models.analyze(model, TOKENS)
    assign_all(plan)
    plan.apply_(model)
    assert torch.equal(model.o.weight.grad, gradient[:, torch.as_tensor(plan["o"].perm)])


def test_a_plan_without_permutations_is_not_applied() -> None:
    model = net(lambda m, x: m.o(torch.relu(m.e(x))))
    with pytest.raises(InputError, match="no permutation yet"):
        models.analyze(model, TOKENS).apply_(model)


# -- verification ------------------------------------------------------------------------------------------------------


def test_whole_numbers_and_complex_outputs_are_compared() -> None:
    model = net(lambda m, x: (m.o(m.e(x)), torch.complex(m.e(x), m.e(x) * 2), m.e(x).argmax(-1)))
    twin = net(lambda m, x: (m.o(m.e(x)), torch.complex(m.e(x), m.e(x) * 3), m.e(x).argmax(-1)))
    assert models.verify(model, model, TOKENS).passed
    assert not models.verify(model, twin, TOKENS).passed
    last = net(lambda m, x: (m.o(m.e(x)), torch.complex(m.e(x), m.e(x) * 2), m.e(x).argmin(-1)))
    assert not models.verify(model, last, TOKENS).passed


def test_models_that_are_not_made_for_random_inputs() -> None:
    model = net(lambda m, x: m.o(m.e(torch.log(x))))
    positive = (TOKENS[0].abs() + 1,)
    plan = models.analyze(model, positive)
    assign_all(plan)
    assert plan.apply_(model).passed


def test_models_that_insist_on_their_type() -> None:
    def code(m: Any, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32
        return m.o(m.e(x))

    model = net(code)
    plan = models.analyze(model, TOKENS)
    assign_all(plan)
    checked = plan.apply_(model)
    assert checked is not None
    assert checked.dtype == "float32"


def test_shapes_that_depend_on_data_are_refused() -> None:
    model = net(lambda m, x: m.o(m.e(x)[x.sum(-1) > 0]))
    with pytest.raises(ModelError, match="depend"):
        models.analyze(model, TOKENS)


# -- needless refusals -------------------------------------------------------------------------------------------------


def attention(bias: Callable[[Any], Any]) -> nn.Module:
    """Two heads of 8 channels, with something learned added to the scores."""

    def code(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (m.get_submodule(name)(x).view(3, 7, 2, 8).transpose(1, 2) for name in "qkv")
        scores = (q @ k.transpose(-1, -2) * 0.3 + bias(m)).softmax(-1)
        return m.o((scores @ v).transpose(1, 2).reshape(3, 7, D))

    parts = {name: nn.Linear(6, D) for name in "qkv"}
    extra = {"table": parameter(2, 7, 7), "slopes": parameter(2, 1, 1)}
    return randomise(Net(code, o=nn.Linear(D, 5), **parts, **extra).eval(), 0)


@pytest.mark.parametrize("bias", [lambda m: m.table, lambda m: m.slopes * torch.ones(7, 7, dtype=m.slopes.dtype)])
def test_biases_of_scores_do_not_hold_values(bias: Callable[[Any], Any]) -> None:
    plan = kept(attention(bias), TOKENS)
    assert plan["o"].blocks == (8, 8)


def test_batch_norm_of_maps_made_by_a_linear_layer() -> None:
    code = lambda m, x: m.c(torch.relu(m.n(m.l(x).view(3, D, 2, 2))))  # noqa: E731
    parts = {"l": nn.Linear(6, D * 4), "n": nn.BatchNorm2d(D), "c": nn.Conv2d(D, 5, 1)}
    plan = kept(randomise(Net(code, **parts).eval(), 0), (noise(3, 6),))
    assert plan.consumers == ("c.weight",)


def test_scaled_and_masked_weights_are_consumers() -> None:
    scaled = net(lambda m, x: F.linear(torch.relu(m.e(x)), m.o.weight * 0.3))
    assert kept(scaled, TOKENS).consumers == ("o.weight",)
    model = net(lambda m, x: m.o(torch.relu(m.e(x))))
    models.prune_(model, "2:4", layers=["o"], parametrize=True)
    assert kept(model, TOKENS).consumers == ("o.parametrizations.weight.original",)


def test_spectral_norm_freezes_only_its_own_layer() -> None:
    model = net(lambda m, x: m.o(torch.relu(m.b(torch.relu(m.e(x))))), b=nn.Linear(D, D))
    nn.utils.parametrizations.spectral_norm(model.b)
    plan = kept(model, TOKENS)
    assert "o.weight" in plan.consumers
