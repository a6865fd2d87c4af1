"""VICReg and Barlow Twins: the numbers of the published code, gradients of any order, and what dead units get."""

import math

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca import selfsupervised

LOSSES = {"vicreg": nk.vicreg_loss, "barlow twins": nk.barlow_twins_loss}


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(*shape, dtype=torch.float64):
    """Two views that have something in common, and an offset."""
    x = noise(*shape)
    return (x + 0.5).to(dtype), (0.6 * x + 0.7 * noise(*shape, seed=1) - 1).to(dtype)


def vicreg(x, y, invariance=25.0, variance=25.0, covariance=1.0, gamma=1.0, eps=1e-4):
    """Algorithm 1 of the paper, with loops, and the halves and the mean over features of the published code."""
    n, d = x.shape
    total = invariance * sum((x[i, j] - y[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    for z in (x, y):
        mean = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        for j in range(d):
            for k in range(d):
                c = sum((z[i, j] - mean[j]) * (z[i, k] - mean[k]) for i in range(n)) / (n - 1)
                if j == k:
                    total = total + variance / 2 * (gamma - (c + eps).sqrt()).clamp(min=0) / d
                else:
                    total = total + covariance * c**2 / d
    return total


def barlow_twins(x, y, lambd=5e-3, eps=1e-5):
    """Algorithm 1 of the paper, normalised with the variance of N samples and eps beside it."""

    def norm(z):
        return (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()

    c = norm(x).mT @ norm(y) / len(x)
    difference = (c - torch.eye(len(c), dtype=c.dtype)).square()
    return difference.trace() + lambd * (difference.sum() - difference.trace())


def test_normalisation_is_that_of_the_published_code():
    """Which is `torch.nn.BatchNorm1d` without affine parameters."""
    for z in pair(9, 4):
        norm = torch.nn.BatchNorm1d(4, affine=False).double()
        torch.testing.assert_close(selfsupervised._normalised(z, 1e-5), norm(z), rtol=1e-12, atol=1e-12)


GOLDEN = {"vicreg": vicreg, "barlow twins": barlow_twins}
SETTINGS = {
    "vicreg": [{}, {"invariance": 1.0, "variance": 3.0, "covariance": 0.3, "gamma": 2.0, "eps": 0.1}],
    "barlow twins": [{}, {"lambd": 0.7, "eps": 0.2}],
}


def evaluate(function, x, y, **options):
    """The loss and the gradients of both views."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = function(x, y, **options)
    return value.detach(), *torch.autograd.grad(value.sum(), (x, y))


def check(name, x, y, **options):
    for got, exact in zip(
        evaluate(LOSSES[name], x, y, **options), evaluate(GOLDEN[name], x, y, **options), strict=True
    ):
        torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("setting", [0, 1])
def test_golden(backend, name, setting):
    for x, y in (pair(9, 4), pair(3, 5), pair(6, 1)):
        with nk.backend(backend), backends.record() as ran:
            check(name, x, y, **SETTINGS[name][setting])
        assert ran == [("covariance", backend)] * (2 if name == "vicreg" else 0)  # which is torch's own products


MUTANTS = {
    "the diagonal counts": ("_parts", lambda f: lambda c: (c.square().sum((-2, -1)), f(c)[1])),
    "one triangle": ("_parts", lambda f: lambda c: (f(c)[0] / 2, f(c)[1])),
    "the diagonal is lost": ("_parts", lambda f: lambda c: (f(c)[0], 0 * f(c)[1])),
    "biased variance": ("second_moments", lambda f: lambda x: f(x, correction=0)),
    "not normalised": ("_normalised", lambda f: lambda x, eps: x - x.mean(-2, keepdim=True)),
    "no mean": ("_normalised", lambda f: lambda x, eps: x * (x.var(-2, correction=0, keepdim=True) + eps).rsqrt()),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(monkeypatch, name):
    x, y = pair(9, 4)
    for loss in LOSSES:
        check(loss, x, y)
    piece, change = MUTANTS[name]
    monkeypatch.setattr(selfsupervised, piece, change(getattr(selfsupervised, piece)))
    used = [loss for loss in LOSSES if piece == "_parts" or (loss == "vicreg") == (piece == "second_moments")]
    for loss in used:
        with pytest.raises(AssertionError):
            check(loss, x, y)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name):
    """Of first and second order, in both modes, against finite differences."""
    views = tuple(v.requires_grad_() for v in pair(2, 5, 3))
    assert torch.autograd.gradcheck(LOSSES[name], views, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(
        LOSSES[name], views, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("name", LOSSES)
def test_third_order(name):
    def third(function):
        x, y = (v.requires_grad_() for v in pair(6, 3))
        value = function(x, y)
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sin().sum(), x, create_graph=True)
        return value

    torch.testing.assert_close(third(LOSSES[name]), third(GOLDEN[name]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_batches(name):
    """Leading dimensions are items; vmap and loops agree with them."""
    x, y = pair(3, 2, 8, 4)
    got = LOSSES[name](x, y)
    assert got.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(got[i, j], GOLDEN[name](x[i, j], y[i, j]), rtol=1e-11, atol=1e-12)
    mapped = torch.vmap(torch.vmap(torch.func.grad(LOSSES[name])))(x, y)
    torch.testing.assert_close(mapped, evaluate(LOSSES[name], x, y)[1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(name, dtype):
    """Half precision computes in float32; gradients come back in the dtype of their view."""
    x, y = pair(64, 10, dtype=dtype)
    got = evaluate(LOSSES[name], x, y)
    exact = evaluate(LOSSES[name], x.double(), y.double())
    assert [t.dtype for t in got] == [torch.float32, dtype, dtype]
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=4 * torch.finfo(a.dtype).eps * float(b.abs().max()))
    mixed = LOSSES[name](x, y.double())
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, exact[0])


@pytest.mark.parametrize("name", LOSSES)
def test_dead_units(name):
    """Constant features, all of them too: finite values and gradients, and none for a feature that cannot move it."""
    x, y = pair(12, 5)
    x[:, [1, 3]], y[:, [1, 2]] = 0.1, -7.0
    value, dx, dy = evaluate(LOSSES[name], x, y)
    assert value.isfinite()
    assert dx.isfinite().all()
    assert dy.isfinite().all()
    assert dx[:, 0].abs().max() > 0
    same = torch.full((8, 3), 0.1, dtype=torch.float64)
    value, dx, dy = evaluate(LOSSES[name], same, same.clone())
    assert torch.equal(dx, torch.zeros_like(dx))
    expected = 25 * (1 - 1e-2) if name == "vicreg" else 3.0
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_white_identical_views_are_the_least(name):
    """Where two views are one and the same, without correlation and of unit variance."""
    x = torch.linalg.qr(noise(40, 6) - noise(40, 6).mean(0)).Q * 39**0.5
    x = x * (1 if name == "barlow twins" else 1.01)
    value, dx, dy = evaluate(LOSSES[name], x, x.clone())
    assert abs(float(value)) < 1e-8
    assert max(dx.abs().max(), dy.abs().max()) < 1e-6
    assert LOSSES[name](x, x.flip(0)) > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_offset(name):
    """10,000 standard deviations away from zero, in float32."""
    x, y = (v.float() + 1e4 for v in pair(50, 8))
    got, exact = evaluate(LOSSES[name], x, y), evaluate(LOSSES[name], x.double(), y.double())
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(name, value):
    x, y = pair(3, 6, 4)
    clean = LOSSES[name](x, y)
    x[1, 2, 3] = value
    got = LOSSES[name](x, y)
    assert torch.equal(got[[0, 2]], clean[[0, 2]])
    assert not got[1].isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_compile_and_autocast(name):
    torch._dynamo.reset()
    x, y = pair(20, 6, dtype=torch.float32)
    expected = evaluate(LOSSES[name], x, y)
    function = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    for a, b in zip(evaluate(function, x, y), expected, strict=True):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(evaluate(LOSSES[name], x, y), expected, strict=True):
            assert torch.equal(a, b)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", LOSSES)
def test_layouts_and_threads(name):
    """Strides change no bit; threads no more than the order in which torch adds."""
    x, y = pair(2, 300, 20, dtype=torch.float32)
    expected = evaluate(LOSSES[name], x, y)
    wide = torch.full((2, 300, 61), torch.nan)[..., 1::3].copy_(x)
    for view in (wide, x.mT.contiguous().mT, x.transpose(0, 1).contiguous().transpose(0, 1)):
        for a, b in zip(evaluate(LOSSES[name], view, y), expected, strict=True):
            assert torch.equal(a, b)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for a, b in zip(evaluate(LOSSES[name], x, y), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", LOSSES)
def test_arrays(name):
    x, y = pair(20, 6)
    got = LOSSES[name](x.numpy(), y.numpy())
    assert type(got).__module__ == "numpy"
    assert float(got) == float(LOSSES[name](x, y))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "(3,)")),
        ({"y": torch.ones(5, 2)}, ValueError, ("y must be of the shape of x, (5, 3)", "(5, 2)")),
        ({"y": torch.ones(2, 5, 3)}, ValueError, ("y must be of the shape of x", "(2, 5, 3)")),
        ({"x": torch.ones(1, 3), "y": torch.ones(1, 3)}, ValueError, ("at least 2 samples", "N = 1")),
        ({"x": torch.ones(4, 0), "y": torch.ones(4, 0)}, ValueError, ("at least 1 feature", "D = 0")),
        ({"x": [[1.0]]}, TypeError, ("x must be a tensor", "list")),
        ({"y": torch.ones(5, 3, dtype=torch.int64)}, TypeError, ("y must be float32", "int64")),
        ({"eps": 0.0}, ValueError, ("eps must be positive", "0.0")),
        ({"eps": math.nan}, ValueError, ("eps", "nan")),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", LOSSES)
def test_refusals(name, changes, error, words):
    arguments = {"x": torch.ones(5, 3), "y": torch.ones(5, 3)} | changes
    with pytest.raises(error) as caught:
        LOSSES[name](**arguments)
    text = str(caught.value)
    assert text.startswith(LOSSES[name].__name__ + ": ")
    assert [word for word in words if word not in text] == [], text


def test_weights_must_be_numbers():
    x = torch.ones(5, 3)
    for option in ("invariance", "variance", "covariance", "gamma"):
        with pytest.raises(TypeError, match=f"vicreg_loss: {option} must be a number"):
            nk.vicreg_loss(x, x, **{option: "much"})
    with pytest.raises(TypeError, match="barlow_twins_loss: lambd must be a number"):
        nk.barlow_twins_loss(x, x, lambd="much")
