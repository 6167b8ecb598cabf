"""What recipes say of every step, and what they refuse."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402

from permsolve.errors import InputError, OptionError  # noqa: E402
from permsolve.patterns import NM  # noqa: E402
from permsolve.training import (  # noqa: E402
    RECIPES,
    SRSTE,
    STEP,
    MaskDecay,
    Masked,
    NMSchedule,
    Phases,
    Recipe,
    StructureDecay,
)


def layer() -> nn.Linear:
    """The matrix of the published example."""
    module = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4, 6, 8], [1, 2, 1, 4]]))
    return module


def test_the_decay_of_the_published_example() -> None:
    """W at k = 0, 1 and 10 for w = .1, with weights that no optimiser moves."""
    module = layer()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    recipe = MaskDecay("linear", rate=0.1, dense=1 / 16, fine_tune=4 / 16)
    sparse = NMSchedule(recipe, steps=16).attach(module, "2:4", optimizer)
    seen = []
    for _ in range(16):
        seen.append(module.weight.detach().clone())
        optimizer.step()
        sparse.step()
    assert torch.equal(seen[0], layer().weight)
    assert torch.allclose(seen[1], torch.tensor([[2.7, 3.6, 6, 8], [0.9, 2, 0.9, 4]]))
    assert torch.allclose(seen[7], torch.tensor([[0.9, 1.2, 6, 8], [0.3, 2, 0.3, 4]]))
    binary = torch.tensor([[0.0, 0, 6, 8], [0, 2, 0, 4]])
    assert not torch.equal(seen[9], binary) and torch.equal(seen[10], binary) and torch.equal(seen[15], binary)
    assert sparse.finish().names == ("weight",)
    assert torch.equal(module.weight, binary)


def test_betas_fall_over_the_steps() -> None:
    linear = MaskDecay("linear", dense=0.2, fine_tune=0.4)
    phases = linear.phases(10, NM(2, 4))
    assert phases == Phases(2, 6, 10)
    assert [linear.moment(step, phases, NM(2, 4)).beta for step in range(8)] == pytest.approx(
        [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0]
    )
    recipe = MaskDecay("exponential", every=2, rate=0.5)
    moments = [recipe.moment(step, phases, NM(2, 4)) for step in range(8)]
    assert [m.beta for m in moments[2:]] == pytest.approx([math.exp(-0.5)] * 2 + [math.exp(-1)] * 2 + [0, 0])
    assert [m.refresh for m in moments] == [False, False, True, False, True, False, True, False]
    assert MaskDecay().beta(4, 4) == pytest.approx(0.01)


def test_stages_of_structure_decay() -> None:
    def stages(nm: str, how: object = "stepwise") -> str:
        return " ".join(map(str, StructureDecay(how).patterns(NM.parse(nm))))

    assert stages("1:16") == "15:16 8:16 4:16 2:16 1:16"
    assert stages("1:8") == "7:8 4:8 2:8 1:8"
    assert stages("2:4") == "3:4 2:4"
    assert stages("3:4") == "3:4" and stages("1:2") == "1:2" and stages("3:6") == "5:6 3:6"
    assert stages("1:8", "geometric") == "8:64 4:32 2:16 1:8"
    assert stages("3:8", ["7:8", (5, 8), "3:8"]) == "7:8 5:8 3:8"
    for nm in ("3:8", "2:6", "1:3"):
        with pytest.raises(OptionError, match="never comes to"):
            stages(nm)
    with pytest.raises(OptionError, match="end in 4:8, not in 3:8"):
        stages("3:8", ["7:8", "4:8"])
    with pytest.raises(OptionError, match="none denser than the one before"):
        StructureDecay(["2:8", "4:8"])


def test_stages_take_equal_shares() -> None:
    recipe = StructureDecay(dense=0.2, fine_tune=0.2, every=100)
    phases = recipe.phases(20, NM(1, 8))
    moments = [recipe.moment(step, phases, NM(1, 8)) for step in range(22)]
    assert [str(m.nm) for m in moments] == ["7:8"] * 7 + ["4:8"] * 3 + ["2:8"] * 3 + ["1:8"] * 9
    assert [step for step, m in enumerate(moments) if m.refresh] == [4, 7, 10, 13, 16]
    assert [m.beta for m in moments] == [1.0] * 4 + [0.0] * 18


def test_geometric_stages_need_wide_layers() -> None:
    model = nn.Sequential(nn.Linear(32, 24), nn.Linear(24, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"1\.weight has 24 input channels, which do not divide into .* 16:32"):
        NMSchedule(StructureDecay("geometric"), steps=100).attach(model, "2:4", optimizer)
    NMSchedule(StructureDecay("geometric"), steps=100).attach(model, "2:4", optimizer, layers="0.weight").detach()


@pytest.mark.parametrize(
    ("recipe", "steps", "problem"),
    [
        (MaskDecay(dense=0.1, fine_tune=0.4), 3, r"steps = 3 are too few: 0 dense ones \(0\.1\)"),
        (StructureDecay(dense=0, fine_tune=0.5), 6, "which need at least 4"),
        (STEP(), 4, "too few"),
        (SRSTE(fine_tune=0.1), 2, "too few"),
    ],
)
def test_too_few_steps(recipe: object, steps: int, problem: str) -> None:
    model = nn.Linear(16, 4)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(OptionError, match=problem):
        NMSchedule(recipe, steps=steps).attach(model, "1:8", optimizer)
    assert type(model) is nn.Linear, "the model is as it was"


def test_wrong_options() -> None:
    wrong = [
        (lambda: MaskDecay("cosine"), "'linear' or 'exponential'"),
        (lambda: MaskDecay(dense=0.7, fine_tune=0.4), "leave no steps"),
        (lambda: MaskDecay(dense=1.5), "dense = 1.5 must be a share"),
        (lambda: Masked(dense=1), "dense = 1 must be a share"),
        (lambda: MaskDecay(rate=0), "rate = 0"),
        (lambda: MaskDecay(every=0), "every = 0"),
        (lambda: MaskDecay(gradient="sr_ste"), "SR-STE cannot be combined with a decay"),
        (lambda: StructureDecay("sudden"), "'stepwise' or 'geometric'"),
        (lambda: StructureDecay([]), "must be patterns"),
        (lambda: StructureDecay(5), "'stepwise' or 'geometric'"),
        (lambda: NMSchedule(Recipe, steps=10), "is unknown; give one of"),
        (lambda: StructureDecay(gradient="none"), "'scaled' or 'straight'"),
        (lambda: SRSTE(strength=-1), "strength = -1"),
        (lambda: STEP(earliest=0.2), "earliest <= latest"),
        (lambda: NMSchedule("lottery", steps=10), "recipe = 'lottery' is unknown; give one of 'masked', 'mask_decay'"),
        (lambda: NMSchedule([SRSTE(), MaskDecay()], steps=10), "cannot be combined, got SRSTE and MaskDecay"),
        (lambda: NMSchedule("masked", steps=0), "steps = 0"),
        (lambda: NMSchedule("masked", steps=2.5), "steps = 2.5"),
    ]
    for make, problem in wrong:
        with pytest.raises(InputError, match=problem):
            make()


def test_names_stand_for_recipes() -> None:
    assert NMSchedule("masked", steps=1).recipe == Masked() == NMSchedule(Masked, steps=1).recipe
    for name, kind in RECIPES.items():
        assert NMSchedule(name, steps=10) == NMSchedule(kind(), steps=10)
        assert kind.source
    assert Masked(dense=0.3).phases(10, NM(2, 4)) == Phases(3, 3, 10)
