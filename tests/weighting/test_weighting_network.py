"""The meta-network's backward pass in closed form is that of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rwkd_lightning.weighting.network import TanhNetwork


@pytest.mark.parametrize("rows", [1, 7])
def test_the_closed_form_is_that_of_autograd(rows):
    """Prevents a gradient of φ that is transposed, of another layer, or without the derivative of tanh: φ would still
    move, and learn something else.
    """
    torch.manual_seed(0)
    network = TanhNetwork(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    plain = nn.Sequential(*network)  # the same layers, by autograd
    x, towards = torch.randn(rows, 5, dtype=torch.float64), torch.randn(rows, 3, dtype=torch.float64)
    assert torch.equal(network(x), plain(x))
    parameters = list(network.parameters())
    mine, expected = (torch.autograd.grad((n(x).sin() * towards).sum(), parameters) for n in (network, plain))
    for a, b in zip(mine, expected, strict=True):
        assert b.abs().min() > 0
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
