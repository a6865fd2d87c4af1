"""`neurokernels.cka`: golden values, both engines, independence of bias, degenerate views."""

import numpy as np
import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.rsa import loss_closed
from tests import definitions

BACKENDS = ("reference", "cpu")


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def views(n=12, d=5, m=7, batch=(), dtype=torch.float64):
    x, y = noise(*batch, n, d, seed=1), noise(*batch, n, m, seed=2)
    y[..., : min(d, m)] += x[..., : min(d, m)]
    return (x + 1).to(dtype), (y * 3 - 2).to(dtype)


def loops(x, y, debiased):
    """HSIC by loops over images: Kornblith et al. 2019, equation 3, and Song et al. 2012, equation 5."""
    n = len(x)
    kernels = [v @ v.T for v in (x.numpy(), y.numpy())]

    def hsic(k, t):
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.trace(k @ h @ t @ h) / (n - 1) ** 2
        first = sum(k[i, j] * t[j, i] for i in range(n) for j in range(n) if i != j)
        sums = [sum(a[i, j] for i in range(n) for j in range(n) if i != j) for a in (k, t)]
        third = sum(k[i, j] * t[j, q] for i in range(n) for j in range(n) for q in range(n) if i != j and j != q)
        return (first + sums[0] * sums[1] / ((n - 1) * (n - 2)) - 2 / (n - 2) * third) / (n * (n - 3))

    k, t = kernels
    return hsic(k, t) / np.sqrt(hsic(k, k) * hsic(t, t))


@pytest.fixture(params=["matrices", "grams"])
def engine(request, monkeypatch):
    monkeypatch.setattr(loss_closed, "prefers_matrices_of_views", lambda *_: request.param == "matrices")
    return request.param


@pytest.mark.parametrize("debiased", [False, True])
def test_golden(backend, debiased, engine):
    x, y = views()
    with nk.backend(backend), backends.record() as ran:
        value = nk.cka(x, y, debiased=debiased)
    assert ran == [("rsa_loss", backend)]
    assert value.item() == pytest.approx(loops(x, y, debiased), rel=1e-12)
    assert abs(value.item() - loops(x, y, not debiased)) > 1e-3


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("wanted", ["xy", "x", "y"])
def test_gradients(debiased, wanted, engine):
    """Of both views, and of one of them, which costs less."""
    given = [v.requires_grad_(name in wanted) for name, v in zip("xy", views(batch=(2,)), strict=True)]
    leaves = [v for v in given if v.requires_grad]
    with nk.backend("cpu"):
        found = torch.autograd.grad(nk.cka(*given, debiased=debiased).sum(), leaves)
    exact = torch.autograd.grad(definitions.cka(*given, debiased=debiased).sum(), leaves)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_invariances():
    """A rotation, a scale and an offset change nothing; a map of units does."""
    x, y = views()
    for debiased in (False, True):
        value = nk.cka(x, y, debiased=debiased)
        rotation = torch.linalg.qr(noise(5, 5, seed=3)).Q
        torch.testing.assert_close(nk.cka(3 * x @ rotation + 7, y, debiased=debiased), value)
        torch.testing.assert_close(nk.cka(y, x, debiased=debiased), value)
        torch.testing.assert_close(nk.cka(x, x, debiased=debiased), torch.ones_like(value))
        assert abs(nk.cka(x @ torch.diag(torch.arange(1.0, 6.0).double()), y, debiased=debiased) - value) > 1e-3


def test_the_bias_is_gone():
    """Independent views of more units than images: near 1 with the bias, about 0 without it."""
    x, y = noise(200, 20, 100, seed=1), noise(200, 20, 100, seed=2)
    assert nk.cka(x, y).mean() > 0.8
    assert abs(nk.cka(x, y, debiased=True).mean()) < 0.02


def test_what_does_not_vary_has_none():
    x, y = views(dtype=torch.float32)
    for debiased in (False, True):
        constant = torch.full_like(x, 1.7).requires_grad_()
        value = nk.cka(constant, y, debiased=debiased)
        assert value.isnan()
        assert torch.autograd.grad(value, constant)[0].isnan().any()
    batch = torch.stack([x, torch.full_like(x, torch.nan), x])
    value = nk.cka(batch, y.expand(3, -1, -1))
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_offset(dtype, engine):
    """Centred before anything is multiplied: an offset costs no digits but those of the input."""
    x, y = views(300, 6, 9, dtype=torch.float64)
    x, y = (x + 50).to(dtype), (y - 20).to(dtype)
    torch.testing.assert_close(nk.cka(x, y).double(), nk.cka(x.double(), y.double()), rtol=3e-5, atol=0)
