"""The objective `output_error` in plans: every weight's own moments, in the columns of the group's problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from permsolve import models
from permsolve.errors import InputError
from permsolve.problem import Problem
from permsolve.saliency import OutputError


class Mixed(nn.Module):
    """A convolution, a grouped one, and two linear readers of one activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.left, self.right = nn.Linear(16, 8), nn.Linear(16, 4)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what both readers say."""
        seen = self.grouped(self.second(self.first(images).relu()).relu()).relu().mean((2, 3))
        return self.left(seen), self.right(seen)


def test_groups_score_as_the_weights_do_in_their_own_shape() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    batches = [torch.randn(3, 4, 6, 6) for _ in range(2)]
    calibration = models.calibrate(model, batches, display=False)
    errors = {name: OutputError(calibration.channel_moments(name)) for name in calibration.names}
    plan = models.analyze(model, batches[0], "2:4")
    rng = np.random.default_rng(0)
    seen = []
    for group in plan.groups:
        problem = group.problem(model, errors)
        assert problem.saliency_name == "output_error"
        assert group.problem(model, lambda name, _: errors[name]).baseline == problem.baseline
        perm = problem.pattern.draw(problem, rng)
        whole = 0.0
        for gainer in group.gainers:
            weight = model.get_parameter(gainer.name).detach().numpy()
            error = errors[gainer.name]
            seen.append(gainer.name)
            if gainer.name != "grouped.weight":
                whole += Problem.of(weight, "2:4", saliency=error).score(perm)
                continue
            for half in range(2):  # a group of the convolution: its own outputs, channels and moments
                own = OutputError(error.channel_moments[9 * half : 9 * half + 9])
                order = perm[8 * half : 8 * half + 8] - 8 * half
                whole += Problem.of(weight[8 * half : 8 * half + 8], "2:4", saliency=own).score(order)
        assert problem.score(perm) == pytest.approx(whole, rel=1e-10)
    assert sorted(seen) == ["grouped.weight", "left.weight", "right.weight", "second.weight"]
    plan.solve(model, saliency=errors, time_limit=0.4, display=False)
    assert all(group.result.score > group.result.baseline for group in plan.groups)
    plan.apply_(model)


def test_moments_that_do_not_fit_name_the_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    plan = models.analyze(model, torch.randn(2, 8), "2:4")
    with pytest.raises(InputError, match=r"2\.weight.*16 x 16"):
        plan.groups[0].problem(model, OutputError(np.eye(8)))
    rows = models.analyze(model, torch.randn(2, 8), "hinm(4, 0.5, 2:4)")
    with pytest.raises(InputError, match="plain n:m"):
        rows.groups[0].problem(model, OutputError(np.eye(8)))
