"""Whitening and the losses of self-supervised learning, whatever hypothesis draws: shapes, strides, dtypes, ranks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca.whitening_leaves import METHODS
from tests.fuzz.strategies import DTYPES, laid_out, seeds
from tests.poison import poisoned

plain_and_cpu = pytest.mark.parametrize("backend", ["reference", "cpu"])


def examples(count):
    """So many of them; in another profile so many times more."""
    return settings(max_examples=count * settings().max_examples // 100)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@st.composite
def samples(draw: st.DrawFn, wide: int) -> Tensor:
    """Noise, small integers (units that are there twice, or are dead), low rank; at times far away; float64."""
    n, d = draw(st.integers(2, wide)), draw(st.integers(1, wide))
    shape = (*draw(st.sampled_from(((), (), (1,), (3,), (2, 2), (0,)))), n, d)
    generator, kind = draw(seeds()), draw(st.sampled_from(("noise", "integers", "low rank")))
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "integers":
        x = torch.randint(-1, 2, shape, generator=generator).double()
    elif kind == "low rank":
        x = x[..., :1] * x[..., :1, :]
    return x + draw(st.sampled_from((0.0, 0.0, 2.0)))


@st.composite
def calls(draw: st.DrawFn, wide: int) -> tuple[Tensor, dict[str, Any]]:
    """Samples laid out in any way, and options of `neurokernels.whiten`."""
    x = draw(laid_out(draw(samples(wide)).to(draw(st.sampled_from(DTYPES)))))
    return x, {"method": draw(st.sampled_from(METHODS)), "eps": draw(st.sampled_from((1.0, 1e-2)))}


def check(backend: str, x: Tensor, options: dict[str, Any]) -> None:
    """Y' Y / n is C (C + eps I)^-1 in some basis, and its change with x is what the gradient says it is.

    The sum of the logarithms of 1 + the eigenvalues of Y' Y / n is one number that all methods agree on, and its
    gradient is known: 2 eps / n Xc (C + eps)^-1 (2 C + eps)^-1.
    """
    leaf = x.detach().requires_grad_()
    with nk.backend(backend), backends.record() as ran:
        y = nk.whiten(leaf, **options)
        gram = y.mT.double() @ y.double() / (x.shape[-2] - 1)
        unit = torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)
        value = torch.logdet(unit + gram)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert ran == [("whiten", backend)] * 2
    assert (y.dtype, gradient.dtype) == (torch.promote_types(x.dtype, torch.float32), x.dtype)
    assert y.shape == gradient.shape == x.shape
    n, eps, xc = x.shape[-2] - 1, options["eps"], x.detach().double() - x.detach().double().mean(-2, keepdim=True)
    c = xc.mT @ xc / n
    ridged, twice = c + eps * unit, 2 * c + eps * unit
    exact = torch.logdet(twice) - torch.logdet(ridged)
    slope = 2 * eps / n * xc @ torch.linalg.inv(ridged) @ torch.linalg.inv(twice)
    bound = 3e-10 if x.dtype == torch.float64 else 3e-3
    torch.testing.assert_close(value.detach(), exact, rtol=bound, atol=bound)
    scale = float(slope.abs().max()) if slope.numel() else 0.0
    low = 0 if x.dtype in (torch.float32, torch.float64) else torch.finfo(x.dtype).eps
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=(bound + low) * max(scale, 1e-2) + low * scale)


@plain_and_cpu
@examples(150)
@given(case=calls(30))
def test_whiten(backend, case):
    check(backend, *case)


@pytest.mark.parametrize("backend", ["triton"])
@examples(8)
@given(case=calls(6))
def test_whiten_interpreted(backend, case):
    check(backend, *case)


@examples(80)
@given(data=st.data())
def test_losses(data):
    """In any precision what they are in float64, and finite with finite gradients, whatever the rank."""
    x = data.draw(samples(20))
    y = x.flip(-2) + 0.3 * x
    dtype = data.draw(st.sampled_from(DTYPES))
    x, y = (data.draw(laid_out(v.to(dtype))) for v in (x, y))
    for loss in (nk.vicreg_loss, nk.barlow_twins_loss):
        leaf = x.detach().requires_grad_()
        value = loss(leaf, y)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        exact = loss(x.double(), y.double())
        assert value.shape == x.shape[:-2]
        assert gradient.isfinite().all()
        torch.testing.assert_close(value.detach().double(), exact, rtol=1e-4, atol=1e-3)
