"""Canonical correlation: the formulas against autograd, and every backend on the views on which others fail."""

import math
import warnings

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca import correlations as module
from tests.ops import torture

BACKENDS = ("reference", "cpu", "cuda")
OBJECTIVES = (("nuclear", 0), ("topk", 2), ("fro2", 0))

#: Bounds on the errors of value and gradient in float32, relative to the largest entry, for small views. What is not
#: listed is held to `USUAL`. The reference computes in float64, and small views do on the CPU: what is left is the
#: rounding of the weights. Where that shows, the gradient is a small difference: of terms that are 1e4 times as large
#: for identical views, and of directions whose variance is 1e-6 of others for the condition number.
USUAL = (1e-6, 5e-6)
BOUNDS = {"condition 1e6": (1e-6, 2e-4), "identical views": (1e-6, 1e-2)}
#: The same for views that take the wide kernels, which compute in float32 wherever that suffices.
WIDE = (2e-6, 1e-5)
WIDE_BOUNDS = {"condition 1e6": (2e-6, 5e-4), "identical views": (2e-6, 5e-2)}
#: What ``precision="fast"`` promises, but for differences of nearly equal terms.
FAST = (1e-3, 1e-2)
FAST_BOUNDS = {"condition 1e6": (1e-3, 1e-1), "identical views": (1e-3, 1e-1)}


def evaluate(backend, x, y, reg, objective="nuclear", k=0, precision="high"):
    """The objective and its gradients, on the backend that was asked for."""
    x, y = (v.detach().requires_grad_() for v in (x, y))
    with nk.backend(backend), backends.record() as ran:
        loss = nk.dcca_loss(x, y, reg=reg, objective=objective, k=k or None, precision=precision)
        dx, dy = torch.autograd.grad(loss.sum(), (x, y))
    assert ran == [("dcca", backend)] * 2
    assert (dx.dtype, dy.dtype) == (x.dtype, y.dtype)
    return -loss.detach(), -dx, -dy


def held(got, exact, bounds):
    """Asserts that value and gradients are within their bounds; a NaN is not."""
    value, gradient = torture.errors(got, exact)
    assert value <= bounds[0], f"value is off by {value:.2g}, {bounds[0]:g} is allowed"
    assert gradient <= bounds[1], f"gradient is off by {gradient:.2g}, {bounds[1]:g} is allowed"


# The formulas -------------------------------------------------------------------------------------------------------


def by_eigenvectors(x, y, reg, objective, k):
    """What papers write down: symmetric roots of both covariances, singular values, and autograd through all of it."""
    n = len(x) - 1
    xc, yc = x - x.mean(0), y - y.mean(0)

    def root(c, r):
        values, vectors = torch.linalg.eigh(c / n + r * torch.eye(len(c), dtype=c.dtype))
        return (vectors * values.rsqrt()) @ vectors.T

    m = root(xc.T @ xc, reg[0]) @ (xc.T @ yc / n) @ root(yc.T @ yc, reg[1])
    _, s, _ = torch.linalg.svd(m, full_matrices=False)
    return {"nuclear": s.sum(), "topk": s[:k].sum(), "fro2": s.square().sum()}[objective], s


@pytest.mark.parametrize(("objective", "k"), OBJECTIVES)
@pytest.mark.parametrize("shape", [(40, 6, 6), (30, 5, 9), (25, 8, 3), (9, 6, 4)], ids=str)
def test_formulas(backend, shape, objective, k):
    x, y = torture.CASES["ordinary"].inputs(shape, torch.float64)
    reg = (1e-2, 3e-2)
    x, y = x.requires_grad_(), y.requires_grad_()
    expected = by_eigenvectors(x, y, reg, objective, k)[0]
    gradients = torch.autograd.grad(expected, (x, y))
    got = evaluate(backend, x, y, reg, objective, k)
    exact = torture.truth(x.detach(), y.detach(), reg, objective, k)
    for a, b, c in zip(got, exact, (expected.detach(), *gradients), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b, c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(40, 6, 6), (25, 8, 3), (6, 9, 7), (90, 70, 66)], ids=str)
def test_correlations_one_by_one(backend, shape):
    """A sum of the correlations with weights, so that each one's own derivative counts."""
    x, y = torture.CASES["ordinary"].inputs(shape, torch.float64)
    reg = (0.2, 0.3)
    weights = torch.linspace(2, -1, min(shape[1:]), dtype=torch.float64)
    x, y = x.requires_grad_(), y.requires_grad_()
    expected = by_eigenvectors(x, y, reg, "nuclear", 0)[1]
    with nk.backend(backend), backends.record() as ran:
        got = nk.canonical_correlations(x, y, reg=reg)
        gradients = torch.autograd.grad((got * weights).sum(), (x, y))
    assert ran == [("dcca", backend)] * 2
    real = min(shape[0] - 1, *shape[1:])  # no more of them can differ from zero
    torch.testing.assert_close(got[:real], expected[:real], rtol=1e-11, atol=1e-12)
    assert torch.equal(got[real:].detach(), torch.zeros(len(got) - real, dtype=torch.float64))
    assert (got.diff() <= 0).all()
    assert ((got >= 0) & (got < 1)).all()
    for a, b in zip(gradients, torch.autograd.grad((expected[:real] * weights[:real]).sum(), (x, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_objectives_are_of_the_correlations(backend):
    x, y = torture.CASES["D1 > D2"].inputs(dtype=torch.float64)
    with nk.backend(backend):
        s = nk.canonical_correlations(x, y)
        torch.testing.assert_close(nk.dcca_loss(x, y), -s.sum())
        torch.testing.assert_close(nk.dcca_loss(x, y, objective="topk", k=3), -s[:3].sum())
        torch.testing.assert_close(nk.dcca_loss(x, y, objective="fro2"), -s.square().sum())


def test_invariance(backend):
    """Correlations do not change under invertible maps of either view, as far as the regulariser lets them."""
    x, y = torture.CASES["ordinary"].inputs(dtype=torch.float64)
    a = torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with nk.backend(backend):
        torch.testing.assert_close(
            nk.canonical_correlations(x @ a + 3, y, reg=1e-12), nk.canonical_correlations(x, y, reg=1e-12)
        )


# The torture list ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "k"), OBJECTIVES)
@pytest.mark.parametrize("name", torture.CASES)
def test_torture(backend, name, objective, k):
    case = torture.CASES[name]
    x, y = case.inputs()
    k = min(k, *case.shape[1:])
    exact = torture.truth(x, y, case.reg, objective, k)
    held(evaluate(backend, x, y, case.reg, objective, k), exact, BOUNDS.get(name, USUAL))
    held(evaluate(backend, x, y, case.reg, objective, k, "fast"), exact, FAST_BOUNDS.get(name, FAST))


@pytest.mark.parametrize("name", torture.CASES)
def test_torture_in_double(backend, name):
    case = torture.CASES[name]
    x, y = case.inputs(dtype=torch.float64)
    held(evaluate(backend, x, y, case.reg), torture.truth(x, y, case.reg), (1e-11, 1e-9))


#: Cases as they come in layers: the first ones take the polar iteration, the others also what it hands on.
LARGE = [
    (name, shape)
    for name in torture.CASES
    if not name.startswith("N ") and not name.startswith("D")
    for shape in ((400, 100, 100), (300, 70, 130), (300, 130, 70))
]


@pytest.mark.parametrize(("name", "shape"), LARGE, ids=str)
def test_torture_of_wide_views(name, shape):
    case = torture.CASES[name]
    if name == "identical views":
        shape = (shape[0], shape[1], shape[1])
    x, y = case.inputs(shape)
    for objective in ("nuclear", "fro2"):
        exact = torture.truth(x, y, case.reg, objective)
        held(evaluate("cpu", x, y, case.reg, objective), exact, WIDE_BOUNDS.get(name, WIDE))
        held(evaluate("cpu", x, y, case.reg, objective, precision="fast"), exact, FAST_BOUNDS.get(name, FAST))
    x, y = x.double(), y.double()
    held(evaluate("cpu", x, y, case.reg), torture.truth(x, y, case.reg), (1e-11, 1e-9))


@pytest.mark.parametrize("units", [256, 1024])
@pytest.mark.parametrize("reg", [1e-1, 1e-2, 1e-3, 1e-4])
def test_fewer_samples_than_units(units, reg):
    """The case in which covariances have no inverse but for the regulariser: float32 covariances were off by 1e-2."""
    x, y = torture.CASES["ordinary"].inputs((128, units, units))
    held(evaluate("cpu", x, y, (reg, reg)), torture.truth(x, y, (reg, reg)), USUAL)


@pytest.mark.parametrize("shape", [(40, 10, 10), (300, 80, 80)], ids=str)
def test_dead_units_get_exactly_nothing(backend, shape):
    x, y = torture.CASES["three dead units"].inputs(shape)
    _, dx, dy = evaluate(backend, x, y, (1e-4, 1e-4))
    silent = torch.tensor([0, 2, 4])
    assert torch.equal(dx[:, silent], torch.zeros(shape[0], 3))
    assert (dx.abs().amax(0) > 0).sum() == shape[1] - 3
    assert (dy.abs().amax(0) > 0).all()


def test_half_precision_under_autocast(backend):
    """float16 goes in, float32 comes out, and what autocast does to products is not done to these."""
    x, y = torture.CASES["ordinary"].inputs(dtype=torch.float16)
    exact = torture.truth(x, y, (1e-4, 1e-4))
    with torch.autocast("cpu", torch.bfloat16):
        value, dx, dy = evaluate(backend, x, y, (1e-4, 1e-4))
    assert value.dtype == torch.float32
    held((value, dx, dy), exact, (1e-6, 1e-3))  # gradients are rounded to float16


# Mutants ------------------------------------------------------------------------------------------------------------


def closed_form(x, y, reg, change=""):
    """The formulas of the room in float64, or with one of them broken."""
    n = len(x) if change == "wrong n" else len(x) - 1
    x, y = x.double(), y.double()
    centre = 0 if change == "missing mean" else 1
    xc, yc = x - centre * x.mean(0), y - centre * y.mean(0)
    l1, l2 = (
        torch.linalg.cholesky(v.T @ v / n + r * torch.eye(v.shape[1], dtype=v.dtype))
        for v, r in ((xc, reg[0]), (yc, reg[1]))
    )
    t1, t2 = torch.linalg.inv(l1), torch.linalg.inv(l2)
    if change == "not whitened":
        t2 = torch.eye(y.shape[1], dtype=y.dtype)
    m = t1 @ (xc.T @ yc / n) @ t2.T
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    w = u @ vh
    if change == "transposed":
        w = w.T
    p, h = (0 * m @ w.T, 0 * w.T @ m) if change == "missing P" else (m @ w.T, w.T @ m)
    g12, g11, g22 = t1.T @ w @ t2, t1.T @ p @ t1, t2.T @ h @ t2
    return (u @ vh * m).sum(), (yc @ g12.T - xc @ g11) / n, (xc @ g12 - yc @ g22) / n


def test_mutants():
    """What a broken formula computes is held to the same bounds, and rejected."""
    x, y = torture.CASES["ordinary"].inputs()
    reg = (0.1, 0.2)  # where it is next to nothing, so is the difference between N and N - 1
    exact = torture.truth(x, y, reg)
    held(closed_form(x, y, reg), exact, (1e-12, 1e-11))
    for change in ("missing mean", "wrong n", "not whitened", "transposed", "missing P"):
        with pytest.raises(AssertionError, match="is off by"):
            held(closed_form(x, y, reg, change), exact, USUAL)


def test_the_truth_has_teeth():
    """The naive loss, through eigenvectors in float32, has no place within the bounds."""
    case = torture.CASES["already white"]
    x, y = (v.requires_grad_() for v in case.inputs())
    value = by_eigenvectors(x, y, case.reg, "nuclear", 0)[0]
    got = value.detach(), *torch.autograd.grad(value, (x, y))
    with pytest.raises(AssertionError, match="gradient is off by"):
        held(got, torture.truth(x.detach(), y.detach(), case.reg), USUAL)


# Behaviour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(20, 4, 3), (6, 9, 8), (150, 70, 66)], ids=str)
def test_not_finite(backend, shape, value):
    """It spoils its item of a batch, value and gradients, and no other one."""
    case = torture.CASES["ordinary"]
    x, y = (torch.stack([v, -v, 2 * v]) for v in case.inputs(shape))
    expected = evaluate(backend, x, y, case.reg)
    x[1, 2, 1] = value
    got = evaluate(backend, x, y, case.reg)
    for a, b in zip(got, expected, strict=True):
        assert a[1].isnan().all()
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    with nk.backend(backend):
        s = nk.canonical_correlations(x, y)
    assert s[1].isnan().all()
    assert s[[0, 2]].isfinite().all()


def test_nothing_at_all(backend):
    """Views without variance have no correlation, and a gradient of zeros."""
    for shape in ((20, 4), (3, 6), (90, 70)):
        x, y = torch.full(shape, 3.7), torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for result in evaluate(backend, x, y, (1e-4, 1e-4)):
            assert torch.equal(result, torch.zeros_like(result))


def test_warns_once(backend, monkeypatch):
    monkeypatch.setattr(module, "_warned", False)
    x, y = torture.CASES["ordinary"].inputs((8, 10, 4))
    with nk.backend(backend), warnings.catch_warnings():
        warnings.simplefilter("error")
        nk.dcca_loss(x, y, reg=1e-4)
        nk.dcca_loss(x, y[:, :3].repeat(2, 1)[:8], reg=1e-4)
        nk.dcca_loss(x[:, :4], y, reg=1e-6)  # more samples than units
        with pytest.raises(UserWarning, match=r"N = 8 samples of D = 10 units and reg = 1e-06 .* N - 1 = 7"):
            nk.dcca_loss(x, y, reg=(1e-4, 1e-6))
        nk.dcca_loss(x, y, reg=1e-6)
        nk.canonical_correlations(x, y, reg=1e-6)


def test_mixed_dtypes(backend):
    """Promoted to one; every gradient comes back in its own."""
    x, y = torture.CASES["ordinary"].inputs()
    with nk.backend(backend):
        for a, b, result in (
            (torch.float32, torch.float64, torch.float64),
            (torch.bfloat16, torch.float16, torch.float32),
        ):
            one, other = x.detach().to(a).requires_grad_(), y.detach().to(b).requires_grad_()
            loss = nk.dcca_loss(one, other)
            loss.backward()
            assert (loss.dtype, one.grad.dtype, other.grad.dtype) == (result, a, b)
