"""Spectra are those of the definition whatever hypothesis draws, gradients those that need no eigenvectors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends, covariance_reference
from tests import definitions
from tests.fuzz.strategies import DTYPES, laid_out, seeds
from tests.poison import poisoned

plain_and_cpu = pytest.mark.parametrize("backend", ["reference", "cpu"])
interpreted = pytest.mark.parametrize("backend", ["triton"])


def examples(count):
    """So many of them; in another profile so many times more."""
    return settings(max_examples=count * settings().max_examples // 100)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Noise, small integers (repeated eigenvalues), low rank, or columns of very different size; at times far away."""
    generator, kind = draw(seeds()), draw(st.sampled_from(("noise", "integers", "low rank", "graded")))
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "integers":
        x = torch.randint(-1, 2, shape, generator=generator).double()
    elif kind == "low rank":
        x = x[..., :1] * x[..., :1, :]
    elif kind == "graded":
        x = x * 10.0 ** -torch.arange(shape[-1]).clamp(max=4)
    return x * draw(st.sampled_from((1.0, 1.0, 1e-3, 1e3))) + draw(st.sampled_from((0.0, 0.0, 2.0)))


def batches():
    return st.sampled_from(((), (), (1,), (3,), (2, 2), (0,)))


@st.composite
def samples(draw: st.DrawFn, wide: int) -> tuple[Tensor, dict[str, Any]]:
    """``x[..., N, D]`` laid out in any way, and options of `neurokernels.covariance_spectrum`."""
    n, d = draw(st.integers(2, wide)), draw(st.integers(0, wide))
    x = draw(values((*draw(batches()), n, d))).to(draw(st.sampled_from(DTYPES)))
    options = {"correction": draw(st.sampled_from((1, 0, 0.5)))}
    if draw(st.booleans()):
        options["k"] = draw(st.integers(0, min(n, d)))
    return draw(laid_out(x)), options


@st.composite
def matrices(draw: st.DrawFn, wide: int) -> Tensor:
    """``a[..., D, D]`` laid out in any way, with anything above the diagonal."""
    d = draw(st.sampled_from([n for n in (1, 2, 3, 5, 8, 9, 16, 17, 24, 25, 33, 65) if n <= wide]))
    a = definitions.symmetric(draw(values((*draw(batches()), d, d)))).to(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()):
        a = a + 7 * torch.ones_like(a).triu(1)
    return draw(laid_out(a))


def near(got: Tensor, exact: Tensor, scale: Tensor, given: Tensor, name: str) -> None:
    """Asserts that no error is more than a few units of rounding times the size of the problem and its scale."""
    assert got.shape == exact.shape, name
    eps = torch.finfo(got.dtype).eps
    size = max(given.shape[-2:]) if got.dtype in (torch.float32, torch.float64) else 1  # one rounding at the end
    fits = exact.abs() < torch.finfo(got.dtype).max / 2
    error = torch.where(fits, got.double() - exact, 0).abs()
    assert (error <= (64 + 8 * size) * eps * scale + torch.finfo(got.dtype).tiny).all(), f"{name}: {error.max()}"


def check_spectrum(backend, x, options):
    leaf = x.detach().requires_grad_()
    with nk.backend(backend), backends.record() as ran:
        found = nk.covariance_spectrum(leaf, **options)
        (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
    assert ran == [("spectrum", backend)] * 2
    assert (found.dtype, gradient.dtype) == (torch.promote_types(x.dtype, torch.float32), x.dtype)
    exact = definitions.covariance_spectrum(x.double(), **options)
    c = covariance_reference.definition(x.double(), options["correction"])
    trace = c.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None]
    near(found.detach(), exact, trace, x, "values")
    assert (found.diff(dim=-1) <= 0).all()
    if "k" not in options:  # the sum of the squares is that of the elements of C: its gradient needs no eigenvectors
        expected = 4 / (x.shape[-2] - options["correction"]) * covariance_reference.centred(x.double())[0] @ c
        near(gradient, expected, trace[..., None] ** 1.5, x, "gradient")


@plain_and_cpu
@examples(200)
@given(case=samples(40))
def test_covariance_spectrum(backend, case):
    check_spectrum(backend, *case)


@interpreted
@examples(8)
@given(case=samples(6))
def test_covariance_spectrum_interpreted(backend, case):
    check_spectrum(backend, *case)


def check_eigh(backend, a):
    leaf = a.detach().requires_grad_()
    with nk.backend(backend), backends.record() as ran:
        found, vectors = nk.eigh(leaf)
        (gradient,) = torch.autograd.grad(((vectors * found[..., None, :] ** 2) @ vectors.mT).sum(), leaf)
        alone = nk.eigvalsh(a)
    assert ran == [("eigh", backend)] * 2
    full = a.double().tril() + a.double().tril(-1).mT
    norm = torch.linalg.matrix_norm(full)[..., None]
    exact, v = torch.linalg.eigvalsh(full), vectors.detach()
    near(found.detach(), exact, norm, a, "values")
    near(alone, exact, norm, a, "values alone")
    assert (found.diff(dim=-1) >= 0).all()
    rebuilt = (v.double() * found.detach().double()[..., None, :]) @ v.double().mT
    near(rebuilt.to(v.dtype), full, norm[..., None], a, "product")
    near(
        v.mT @ v,
        torch.eye(a.shape[-1], dtype=torch.float64, device=a.device).expand(a.shape),
        torch.ones(()),
        a,
        "orthogonality",
    )
    ones = torch.ones_like(full)  # the square of a matrix needs no eigenvectors
    near(gradient, ones @ full + full @ ones, a.shape[-1] * norm[..., None], a, "gradient")


@plain_and_cpu
@examples(200)
@given(a=matrices(65))
def test_eigh(backend, a):
    check_eigh(backend, a)


@interpreted
@examples(8)
@given(a=matrices(5))
def test_eigh_interpreted(backend, a):
    check_eigh(backend, a)


@examples(60)
@given(data=st.data())
def test_losses_are_finite(data):
    """Any activations, whatever their rank or scale: a finite loss, a finite gradient, in the right precision."""
    n, d = data.draw(st.integers(4, 40)), data.draw(st.integers(3, 40))
    x = data.draw(laid_out(data.draw(values((n, d))).to(data.draw(st.sampled_from(DTYPES[:3])))))
    form = data.draw(st.sampled_from(("gerum2022", "gerum2023", "nassar2020")))
    options = {"form": form, "tau": 1} if form == "nassar2020" else {"form": form, "first": 1}
    leaf = x.detach().requires_grad_()
    loss = nk.spectral_loss(leaf, data.draw(st.floats(0, 4)), **options)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.dtype == torch.promote_types(x.dtype, torch.float32)
    assert loss.isfinite()
    assert gradient.isfinite().all()
