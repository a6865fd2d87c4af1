"""What autograd Functions share: refusals of second order, and whether somebody transforms."""

import pytest
import torch
from torch.autograd import forward_ad

from neurokernels._core.autograd import FirstOrderOnly, forward_mode, transformed


class Cube(FirstOrderOnly):
    refusal = "cube: enough"

    @staticmethod
    def forward(x):
        return x**3


def test_refuses_with_its_own_words():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="cube: enough"):
        Cube.apply(x).sum().backward()
    with pytest.raises(RuntimeError, match="cube: enough"), forward_ad.dual_level():
        Cube.apply(forward_ad.make_dual(torch.ones(2), torch.ones(2)))
    assert Cube.apply(torch.full((1,), 2.0)).item() == 8.0


def test_transformed():
    seen = []

    def look(x):
        seen.append(transformed())
        return x.sum()

    look(torch.ones(2))
    torch.func.grad(look)(torch.ones(2))
    torch.vmap(look)(torch.ones(2, 2))
    look(torch.ones(2))
    assert seen == [False, True, True, False]


def test_forward_mode():
    assert not forward_mode()
    with forward_ad.dual_level():
        assert forward_mode()
    assert not forward_mode()
