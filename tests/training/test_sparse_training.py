"""Trainings from attach to finish: what they end in, how they resume, what moves along, what they refuse."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from permsolve.errors import InputError, ModelError  # noqa: E402
from permsolve.models import analyze, prune_, weights  # noqa: E402
from permsolve.models.pruning import holds  # noqa: E402
from permsolve.patterns import NM  # noqa: E402
from permsolve.training import (  # noqa: E402
    RECIPES,
    SRSTE,
    STEP,
    MaskDecay,
    NMSchedule,
    SparseTraining,
    StructureDecay,
    masks,
)

KINDS = {
    **{name: kind() for name, kind in RECIPES.items()},
    "structure_decay": StructureDecay(fine_tune=0.5),
    "linear": MaskDecay("linear", dense=0.1, fine_tune=0.4, every=3, gradient="scaled"),
    "geometric": StructureDecay("geometric", dense=0.1, fine_tune=0.4, gradient="scaled"),
    "tuned_sr_ste": SRSTE(dense=0.2, fine_tune=0.3),
    "tuned_step": STEP(earliest=0.2, latest=0.2, fine_tune=0.3),
}
STEPS = 20


def make(seed: int = 0) -> nn.Sequential:
    """A small net with a convolution, a norm and linear layers, in double precision."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4),
    ).double()  # fmt: skip


def batch(step: int) -> torch.Tensor:
    return torch.randn(6, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, sparse: SparseTraining, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        (model(batch(step)) - 1).square().mean().backward()
        optimizer.step()
        sparse.step()


def start(recipe: object, nm: str = "1:4", optimizer: type = torch.optim.AdamW) -> tuple:
    model = make()
    optimizer = optimizer(model.parameters(), lr=1e-2)
    layers = ["0.weight", "3.weight", "6.weight", "8.weight"]
    if isinstance(recipe, StructureDecay) and recipe.stages == "geometric":
        layers = ["8.weight"]
    return model, optimizer, NMSchedule(recipe, steps=STEPS).attach(model, nm, optimizer, layers=layers)


def sparse_enough(model: nn.Module, names: tuple[str, ...], nm: str) -> bool:
    found = {each.path: each for each in weights(model)}
    return all(holds(found[name].to_matrix(found[name].values()), NM.parse(nm)) for name in names)


@pytest.mark.parametrize("recipe", KINDS)
def test_every_recipe_ends_exactly_sparse(recipe: str) -> None:
    model, optimizer, sparse = start(KINDS[recipe])
    names = sparse.names
    before = (model(batch(99)) - 1).square().mean()
    train(model, optimizer, sparse, range(STEPS))
    model.eval()
    with torch.no_grad():
        last = model(batch(99))
    assert not any("parametrizations" in name for name in names)
    pruned = sparse.finish()
    assert pruned.names == names
    assert sparse_enough(model, names, "1:4")
    assert type(model[6]) is nn.Linear and set(model.state_dict()) == set(make().state_dict())
    assert torch.equal(model(batch(99)), last), "finishing changes nothing of a model whose masks stand"
    assert (last - 1).square().mean() < before
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("stop", [7, 13])
@pytest.mark.parametrize("recipe", KINDS)
def test_a_resumed_training_is_the_same(recipe: str, stop: int) -> None:
    """Bit for bit, through files that torch reads without pickle."""
    model, optimizer, sparse = start(KINDS[recipe])
    train(model, optimizer, sparse, range(stop))
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (model, optimizer, sparse)], file)
    train(model, optimizer, sparse, range(stop, STEPS))
    sparse.finish()
    again = start(KINDS[recipe])
    file.seek(0)
    for each, state in zip(again, torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(state)
    train(*again, range(stop, STEPS))
    again[2].finish()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name]), name


def test_weights_of_two_modules_are_held_once() -> None:
    """SR-STE shrinks a shared weight once for each step, however often it is read or gradients are accumulated."""
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second)
    parameter = first.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparse = NMSchedule(SRSTE(strength=0.5), steps=2).attach(model, "2:4", optimizer)
    assert sparse.names == ("0.weight",)
    assert torch.equal(first.weight, second.weight)
    pruned = first.weight == 0
    assert pruned.sum() == 32
    for _ in range(2):
        (model(torch.ones(1, 8)).sum() * 0).backward()
    optimizer.step()
    assert torch.equal(parameter.grad, torch.where(pruned, 0.5 * parameter.detach(), 0))
    sparse.step()
    sparse.finish()
    assert first.weight is second.weight is parameter
    assert torch.equal(parameter == 0, pruned)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_permutation_takes_moments_along(optimizer: type) -> None:
    """A dense net that is permuted between two steps trains on as if it were not."""
    rng = np.random.default_rng(0)
    nets = []
    for permuted in (False, True):
        model = make()
        moments = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        opt = optimizer(model.parameters(), lr=1e-2, **moments)
        sparse = NMSchedule(MaskDecay(dense=0.8, fine_tune=0.1), steps=STEPS).attach(model, "2:4", opt)
        train(model, opt, sparse, range(6))
        if permuted:
            with sparse.dense() as bare:
                plan = analyze(bare, batch(0), "2:4")
                assert sorted(group.channels for group in plan.groups) == [16, 16, 32]
                for group in plan.groups:
                    plan.assign(group.name, rng.permutation(group.channels))
            assert sparse.permute(plan).passed
        train(model, opt, sparse, range(6, 14))
        nets.append(model.eval())
    assert torch.allclose(nets[0](batch(50)), nets[1](batch(50)), rtol=1e-9)
    assert not torch.allclose(nets[0][8].weight, nets[1][8].weight)


def test_parameters_keep_their_order() -> None:
    """Optimisers load their state by it; torch puts a weight last when a parametrization is taken off."""
    model, optimizer, sparse = start("mask_decay", "2:4")
    names = [name for name, _ in make().named_parameters()]
    with sparse.dense() as bare:
        assert [name for name, _ in bare.named_parameters()] == names
    train(model, optimizer, sparse, range(2))
    sparse.finish()
    assert [name for name, _ in model.named_parameters()] == names
    attention = nn.MultiheadAttention(8, 2, kdim=16, vdim=16)  # several weights in one module
    names = [name for name, _ in attention.named_parameters()]
    NMSchedule("masked", steps=2).attach(attention, "2:4", torch.optim.SGD(attention.parameters())).detach()
    assert [name for name, _ in attention.named_parameters()] == names


def test_within_dense() -> None:
    """Permuting works there as well; what takes the masks off for good says that they are off already."""
    model, optimizer, sparse = start(MaskDecay(dense=0.5, fine_tune=0.2), "2:4")
    train(model, optimizer, sparse, range(2))
    expected = model.eval()(batch(50))
    with sparse.dense() as bare, sparse.dense():
        plan = analyze(bare, batch(0), "2:4")
        for group in plan.groups:
            plan.assign(group.name, np.random.default_rng(0).permutation(group.channels))
        assert sparse.permute(plan).passed
        for wrong in (sparse.finish, sparse.detach):
            with pytest.raises(InputError, match="leave the block of dense"):
                wrong()
        assert type(bare[6]) is nn.Linear
    assert type(model[6]) is not nn.Linear
    assert torch.allclose(model(batch(50)), expected, rtol=1e-9)
    train(model, optimizer, sparse, range(2, 4))
    sparse.finish()
    assert type(model[6]) is nn.Linear


def test_a_history_is_not_permuted() -> None:
    model = make()
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS([parameters[-1], *parameters[:-1]])  # keeps everything under the first, which stays
    sparse = NMSchedule(MaskDecay(dense=0.8, fine_tune=0.1), steps=STEPS).attach(model, "2:4", optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(batch(0)) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    sparse.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="LBFGS keeps a history"):
        permute(sparse, groups_reversed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def permute(sparse: SparseTraining, order: object) -> None:
    with sparse.dense() as bare:
        plan = analyze(bare, batch(0), "2:4")
    for group in plan.groups:
        plan.assign(group.name, order(group.channels))
    sparse.permute(plan)


def groups_reversed(channels: int) -> np.ndarray:
    return np.arange(channels).reshape(-1, 4)[::-1].reshape(-1)


def test_a_permutation_of_standing_masks_must_keep_them() -> None:
    nets = []
    for permuted in (False, True):
        model, optimizer, sparse = start("masked", "2:4")
        train(model, optimizer, sparse, range(5))
        if permuted:
            with pytest.raises(InputError, match="stands, and is not 2:4 in the new order: permute before fine-tuning"):
                permute(sparse, np.random.default_rng(0).permutation)
            permute(sparse, groups_reversed)
        train(model, optimizer, sparse, range(5, 12))
        names = sparse.names
        sparse.finish()
        assert sparse_enough(model, names, "2:4")
        nets.append(model.eval())
    assert torch.allclose(nets[0](batch(50)), nets[1](batch(50)), rtol=1e-9)
    assert not torch.allclose(nets[0][8].weight, nets[1][8].weight)


def test_masks_that_decay_are_chosen_anew_in_the_new_order() -> None:
    model, optimizer, sparse = start(MaskDecay(dense=0, every=100), "2:4")
    train(model, optimizer, sparse, range(5))
    permute(sparse, np.random.default_rng(0).permutation)
    for index in (0, 3, 6, 8):
        step = model[index].parametrizations.weight[0]
        original = model[index].parametrizations.weight.original
        expected = NM(2, 4).mask(*_matrix(original))
        assert np.array_equal(_matrix(step.mask)[0], expected)


def _matrix(tensor: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    array = np.moveaxis(tensor.detach().abs().numpy() if tensor.is_floating_point() else tensor.numpy(), 1, -1)
    matrix = array.reshape(-1, array.shape[-1])
    return matrix, np.arange(matrix.shape[1])


def test_a_permutation_that_fails_changes_nothing() -> None:
    model, optimizer, sparse = start(MaskDecay(dense=0.8, fine_tune=0.1), "2:4")
    train(model, optimizer, sparse, range(3))
    before = copy.deepcopy(model.state_dict())
    moments = optimizer.state[model[6].parametrizations.weight.original]
    moments["odd"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"AdamW keeps 'odd' of shape \(3,\) for a parameter of shape"):
        permute(sparse, groups_reversed)
    del moments["odd"]
    with sparse.dense() as bare:
        plan = analyze(bare, batch(0), "2:4")
    with pytest.raises(InputError, match="no permutation yet"):
        sparse.permute(plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    train(model, optimizer, sparse, range(3, 5))


def test_pruned_weights_keep_their_masks() -> None:
    """What prune_ chose, by whatever saliency, is what masked fine-tuning keeps."""
    model = make()
    prune_(model, "2:4", saliency=lambda name, values: 1 / np.abs(values))
    zero = model[6].weight.detach() == 0
    assert (zero != (make()[6].weight == 0)).any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sparse = NMSchedule("masked", steps=3).attach(model, "2:4", optimizer)
    train(model, optimizer, sparse, range(3))
    sparse.finish()
    assert torch.equal(model[6].weight == 0, zero)


def test_a_training_can_be_given_up_or_cut_short() -> None:
    model, optimizer, sparse = start("mask_decay", "2:4")
    train(model, optimizer, sparse, range(2))
    dense = model[6].parametrizations.weight.original
    sparse.detach()
    assert model[6].weight is dense and (dense != 0).all()
    sparse = NMSchedule("structure_decay", steps=STEPS).attach(model, "2:4", optimizer)
    train(model, optimizer, sparse, range(1))
    names = sparse.names
    sparse.finish()  # before its last stage
    assert sparse_enough(model, names, "2:4")


def test_what_attach_refuses() -> None:
    model, optimizer, sparse = start("mask_decay")
    with pytest.raises(InputError, match=r"one recipe at a time .SR-STE cannot be combined with a decay"):
        NMSchedule("sr_ste", steps=5).attach(model, "2:4", optimizer)
    sparse.finish()
    other = make(1)
    attach = NMSchedule("sr_ste", steps=5).attach
    for wrong, problem in [
        (lambda: attach(model, "2:4", torch.optim.SGD(other.parameters())), "trains none of the weights"),
        (lambda: attach(model, "2:4", "adam"), "no torch.optim.Optimizer"),
        (lambda: attach(model, "2:5", optimizer), "no weight of the model can be trained to 2:5"),
        (lambda: attach(model, "two", optimizer), "not of the form 'n:m'"),
        (lambda: attach(model, "2:4", optimizer, layers="9.*"), "matches no weight"),
        (lambda: attach("model", "2:4", optimizer), "need a torch.nn.Module"),
        (lambda: attach(nn.Linear(8, 2, device="meta"), "2:4", optimizer), "meta device"),
        (
            lambda: NMSchedule("step", steps=20).attach(model, "2:4", torch.optim.SGD(model.parameters())),
            "SGD has none: use torch.optim.Adam",
        ),
        (
            lambda: NMSchedule("step", steps=20).attach(
                model, "2:4", torch.optim.Adam(model.parameters(), amsgrad=True)
            ),
            "amsgrad=True",
        ),
    ]:
        with pytest.raises(InputError, match=problem):
            wrong()
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    with pytest.raises(InputError, match=r"0\.weight is held by a mask or parametrization already"):
        attach(normed, "2:4", torch.optim.SGD(normed.parameters()))
    assert type(model[0]) is nn.Conv2d and type(normed[1]) is nn.Linear, "nothing is held"


def test_what_cannot_be_held_leaves_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    real, calls = masks.register_parametrization, []

    def failing(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise RuntimeError("no room")
        return real(*given)

    monkeypatch.setattr(masks, "register_parametrization", failing)
    with pytest.raises(RuntimeError, match="no room"):
        NMSchedule("masked", steps=3).attach(model, "2:4", torch.optim.SGD(model.parameters()))
    assert not any("parametrizations" in name for name in model.state_dict())


def test_misuse_in_the_loop() -> None:
    model, optimizer, sparse = start("sr_ste")
    model(batch(0)).sum().backward()
    with pytest.raises(InputError, match="without closure"):
        optimizer.step(lambda: 0.0)
    optimizer.step(None)
    with pytest.raises(InputError, match=r"without sparse\.step"):
        optimizer.step()
    sparse.step()
    with pytest.raises(InputError, match="begun already"):
        sparse.begin(5, optimizer)
    state = sparse.state_dict()
    for name, value in (("steps", 5), ("nm", "2:4"), ("recipe", "MaskDecay()"), ("weights", ["0.weight"])):
        with pytest.raises(InputError, match=f"of another training: {name} was"):
            sparse.load_state_dict({**state, name: value})
    with pytest.raises(InputError, match="no state of a SparseTraining"):
        sparse.load_state_dict({})
    for name, value in (("step", -1), ("step", "7"), ("dense", 99), ("hook", None), ("hook", ["x"])):
        with pytest.raises(InputError, match="the state is damaged"):
            sparse.load_state_dict({**state, name: value})
    assert sparse.steps_done == 1
    with torch.no_grad():
        model[6].parametrizations.weight.original[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"6\.weight holds NaN or infinite entries: the training has diverged"):
        sparse.finish()
    with torch.no_grad():
        model[6].parametrizations.weight.original[0, 0] = 0
    sparse.finish()
    for late in (sparse.finish, sparse.step, sparse.detach, sparse.dense().__enter__):
        with pytest.raises(InputError, match="finished"):
            late()
