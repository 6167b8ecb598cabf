"""Masks computed by torch, against the patterns' own, and what gradients do with them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch import nn  # noqa: E402

from permsolve.models.prunable import weights  # noqa: E402
from permsolve.patterns import NM  # noqa: E402
from permsolve.training.masks import PAIRS, TrainingMask, is_sparse, n_largest  # noqa: E402

LAYERS = {
    "linear": lambda: nn.Linear(32, 5),
    "conv2d": lambda: nn.Conv2d(32, 3, (2, 3)),
    "grouped": lambda: nn.Conv2d(64, 6, 2, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(32, 3, (2, 3)),
    "transposed_grouped": lambda: nn.ConvTranspose1d(64, 6, 3, groups=2),
}


@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "2:8", "4:16", "1:32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_masks_are_those_of_the_pattern(layer: str, nm: str) -> None:
    """For every layout of channels, on both sides of where sorting takes over, and with ties (the first are kept)."""
    torch.manual_seed(0)
    module = LAYERS[layer]()
    pattern = NM.parse(nm)
    [weight] = weights(module)
    size = module.weight.detach().abs()
    for saliency in (size, size.mul(20).round(), torch.zeros_like(size)):
        mask = n_largest(saliency, pattern, weight.axis)
        expected = pattern.mask(weight.to_matrix(saliency.numpy()), np.arange(weight.cols))
        assert np.array_equal(weight.to_matrix(mask.numpy()), expected)
        assert is_sparse(mask, pattern, weight.axis)
    assert not is_sparse(torch.ones_like(mask), pattern, weight.axis)
    assert PAIRS == 8, "choose patterns on both sides of it"


def test_gradients_are_scaled_or_straight() -> None:
    weight = torch.tensor([[3.0, 4.0, 6.0, 8.0]], requires_grad=True)
    step = TrainingMask(torch.tensor([[False, False, True, True]]), NM(2, 4))
    outer = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    expected = {
        (0.25, False): [0.25, 0.5, 3, 4],
        (0.0, False): [0, 0, 3, 4],
        (0.25, True): [1, 2, 3, 4],
        (0.0, True): [1, 2, 3, 4],
    }
    for (step.beta, step.straight), gradient in expected.items():
        weight.grad = None
        masked = step(weight)
        assert masked.tolist() == [[3 * step.beta, 4 * step.beta, 6, 8]]
        (masked * outer).sum().backward()
        assert weight.grad.tolist() == [gradient]
    step.beta = 1.0
    assert step(weight) is weight
