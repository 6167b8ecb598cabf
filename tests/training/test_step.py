"""STEP: steps with variances that stand, and when they come to stand."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402

from permsolve.patterns import NM  # noqa: E402
from permsolve.training import STEP, NMSchedule  # noqa: E402
from permsolve.training.masks import n_largest  # noqa: E402

STEPS, SWITCH, RATE, DECAY = 12, 6, 0.05, 0.1
BETAS, EPS = (0.9, 0.99), 1e-8


def loss(weight: torch.Tensor, step: int) -> torch.Tensor:
    target = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(step))
    return (weight - target).square().sum()


def by_hand(weight: torch.Tensor, decoupled: bool) -> torch.Tensor:
    """The published algorithm, written down once more; weight decay as in Adam, or decoupled as in AdamW."""
    mean, variance, frozen = torch.zeros_like(weight), torch.zeros_like(weight), None
    for t in range(1, STEPS + 1):
        learned = t > SWITCH
        mask = n_largest(weight.abs(), NM(2, 4), 1) if learned else torch.ones_like(weight, dtype=torch.bool)
        seen = (weight * mask).requires_grad_()
        [gradient] = torch.autograd.grad(loss(seen, t - 1), seen)
        if decoupled:
            weight = weight * (1 - RATE * DECAY)
        else:
            gradient = gradient + DECAY * weight
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        if learned and frozen is None:
            frozen = variance / (1 - BETAS[1] ** (t - 1))
        variance = BETAS[1] * variance + (1 - BETAS[1]) * gradient**2
        divisor = frozen if learned else variance / (1 - BETAS[1] ** t)
        ratio = mean / (1 - BETAS[0] ** t) / (divisor.sqrt() + EPS)
        weight = weight - RATE * (ratio.clamp(-1, 1) if learned else ratio)
    return weight


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_steps_with_a_variance_that_stands(kind: type) -> None:
    torch.manual_seed(0)
    module = nn.Linear(8, 5, bias=False).double()
    optimizer = kind(module.parameters(), lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)
    expected = by_hand(module.weight.detach().clone(), kind is torch.optim.AdamW)
    sparse = NMSchedule(STEP(earliest=0.5, latest=0.5, fine_tune=0.0), steps=STEPS).attach(module, "2:4", optimizer)
    dense = module.parametrizations.weight.original
    for step in range(STEPS):
        assert sparse.phase == ("dense" if step < SWITCH else "masks")
        optimizer.zero_grad()
        loss(module.weight, step).backward()
        optimizer.step()
        assert dense.grad is not None, "gradients are there after the step, for whoever logs their norm"
        sparse.step()
    assert torch.allclose(dense, expected, rtol=1e-10)
    sparse.finish()
    assert set(optimizer.state[dense]) == {"step", "exp_avg", "exp_avg_sq"}


def test_the_switch_comes_when_variances_have_settled() -> None:
    """Gradients of one: with beta_2 = 1/2 the variance changes by 2^-t; the mean of two falls below .001 at t = 11."""
    module = nn.Linear(4, 4, bias=False).double()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, betas=(0.9, 0.5), eps=1e-3)
    sparse = NMSchedule(STEP(earliest=0.05, latest=0.5, fine_tune=0.0), steps=40).attach(module, "2:4", optimizer)
    phases = []
    for _ in range(40):
        phases.append(sparse.phase)
        optimizer.zero_grad()
        module.weight.sum().backward()
        optimizer.step()
        sparse.step()
    assert phases == ["dense"] * 11 + ["masks"] * 29


def test_the_switch_comes_between_its_limits() -> None:
    for earliest, expected in ((0.4, 16), (0.05, 2)):
        module = nn.Linear(4, 4, bias=False)
        # Any variance has settled for such an eps.
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e3)
        sparse = NMSchedule(STEP(earliest=earliest, latest=0.5), steps=40).attach(module, "2:4", optimizer)
        while sparse.phase == "dense":
            module.weight.sum().backward()
            optimizer.step()
            sparse.step()
        assert sparse.steps_done == expected


def test_entries_without_a_gradient_so_far_make_no_giant_steps() -> None:
    """Rows of an embedding that first occur after the switch, say."""
    module = nn.Sequential(nn.Linear(4, 4, bias=False))
    late = nn.Parameter(torch.zeros(2))
    later = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*module.parameters(), late, later], lr=0.01)
    sparse = NMSchedule(STEP(earliest=0.5, latest=0.5), steps=8).attach(module, "2:4", optimizer)
    for step in range(8):
        optimizer.zero_grad()
        value = module[0].weight.sum() + late[0]
        if step >= 4:
            value = value + 5 * late[1] + later.sum()
        value.backward()
        optimizer.step()
        sparse.step()
    assert late[0].item() == pytest.approx(-0.08, rel=1e-3)
    assert late[1].item() == pytest.approx(-0.04, rel=1e-3), "no further than the learning rate"
    assert later.tolist() == pytest.approx([-0.04, -0.04], rel=1e-3), "no variance was learned: Adam as usual"
