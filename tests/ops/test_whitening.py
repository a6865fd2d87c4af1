"""Whitening: what comes out is white, and gradients are right where those of an eigendecomposition are not."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.cca import whitening_reference as reference
from neurokernels.ops.cca.whitening_leaves import METHODS

EPS = 1e-3


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def white(n, d):
    return torch.linalg.qr(noise(n, d) - noise(n, d).mean(0)).Q * (n - 1) ** 0.5


def duplicated(n, d):
    x = noise(n, d)
    x[:, -1] = x[:, 0]
    return x


def dead(n, d):
    x = noise(n, d)
    x[:, [0, 2, 4]] = -1
    return x.relu()


def constant(n, d):
    x = noise(n, d)
    x[:, 1], x[:, 3] = 3.7, -1e3
    return x


#: Samples whose covariance has repeated eigenvalues, or nearly none at all.
INPUTS = {
    "ordinary": noise(30, 6) * torch.linspace(0.5, 2, 6) + 0.5,
    "already white": white(30, 6),
    "duplicated unit": duplicated(30, 6),
    "three dead units": dead(30, 6),
    "constant units": constant(30, 6),
    "all constant": torch.full((30, 6), 0.1, dtype=torch.float64),
    "one unit": noise(30, 1),
    "two samples": noise(2, 5),
    "two samples of one unit": noise(2, 1),
    "as many samples as units": noise(6, 6),
    "fewer samples than units": noise(5, 9),
    "fewer samples, duplicated": duplicated(5, 9),
    "fewer samples, one of them twice": torch.cat([noise(4, 9), noise(4, 9)[:1]]),
    "a batch": torch.stack([noise(12, 4), white(12, 4), noise(12, 4) * 100]),
}


def inverse_root(c):
    """The inverse square root by Denman and Beavers' iteration: autograd of it knows no eigenvalues, and no gaps."""
    scale = c.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    root, inverse = c / scale, torch.eye(c.shape[-1], dtype=c.dtype).expand_as(c)
    for _ in range(24):
        root, inverse = (root + torch.linalg.inv(inverse)) / 2, (inverse + torch.linalg.inv(root)) / 2
    return inverse / scale.sqrt()


def truth(x, method, eps):
    """The two that need no eigendecomposition, zca and cholesky, without one, in the primal form whatever N is."""
    xc = x - x.mean(-2, keepdim=True)
    c = xc.mT @ xc / (x.shape[-2] - 1) + eps * torch.eye(x.shape[-1], dtype=x.dtype)
    if method == "zca":
        return xc @ inverse_root(c)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(c), xc.mT, upper=False).mT


def direction(y):
    return (torch.arange(1.0, y.numel() + 1, dtype=torch.float64).sqrt() * 12.9898).sin().view(y.shape).to(y.dtype)


def evaluate(function, x):
    """The samples and the gradient of a projection of them."""
    x = x.detach().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, direction(y))[0]


def on(backend, x, **options):
    """The same of the op, on a backend that is seen to run."""
    with nk.backend(backend), backends.record() as ran:
        found = evaluate(lambda x: nk.whiten(x, **options), x)
    assert ran == [("whiten", backend)] * 2
    return found


def check(backend, name, method, bound=1e-9):
    """Relative to the largest entry; a gradient may be zero throughout, that of constant units for example."""
    x = INPUTS[name]
    for got, exact in zip(
        on(backend, x, method=method, eps=EPS), evaluate(lambda x: truth(x, method, EPS), x), strict=True
    ):
        assert got.isfinite().all()
        torch.testing.assert_close(got, exact, rtol=0, atol=bound * float(exact.abs().max().clamp(min=1)))


# What it computes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zca", "cholesky"])
@pytest.mark.parametrize("name", INPUTS)
def test_values_and_gradients(backend, name, method):
    check(backend, name, method)


@pytest.mark.parametrize("name", INPUTS)
def test_components_span_what_zca_does(backend, name):
    """Losses that no rotation of the components changes: gradients are those of zca, at repeated eigenvalues too."""
    x = INPUTS[name]

    def gram(function):
        def squares(x):
            y = function(x)
            return y @ y.mT

        return squares

    with nk.backend(backend):
        found = evaluate(gram(lambda x: nk.whiten(x, method="pca", eps=EPS)), x)
    for got, exact in zip(found, evaluate(gram(lambda x: truth(x, "zca", EPS)), x), strict=True):
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-8 * float(exact.abs().max().clamp(min=1)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_is_white(backend, method, dtype):
    x = (noise(60, 7) @ noise(7, 7, seed=1) + 3).to(dtype)
    y, _ = on(backend, x, method=method, eps=1e-8)
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(torch.cov(y.mT), torch.eye(7, dtype=y.dtype), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.mean(0), torch.zeros_like(y[0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_samples_are_orthogonal_where_they_are_few(backend, method):
    """Y Y' / (N - 1) is the projection that leaves the mean out."""
    y, _ = on(backend, noise(5, 9), method=method, eps=1e-10)
    torch.testing.assert_close(y @ y.mT / 4, torch.eye(5, dtype=y.dtype) - 0.2, rtol=0, atol=1e-8)


def test_zca_is_closest(backend):
    """Its transform is symmetric: of all white versions of x, none is closer to x."""
    x = INPUTS["ordinary"]
    distance = {
        m: float((on(backend, x, method=m)[0] - (x - x.mean(0))).square().sum()) for m in ("zca", "pca", "cholesky")
    }
    assert distance["zca"] < 0.9 * min(distance["pca"], distance["cholesky"])


def test_components_are_in_order_and_have_a_sign(backend):
    x = noise(40, 5) @ torch.diag(torch.tensor([0.3, 2, 0.1, 1, 0.6], dtype=torch.float64)) @ noise(5, 5, seed=3)
    y, _ = on(backend, x, method="pca", eps=1e-9)
    u, s, vh = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    signs = torch.gather(vh, 1, vh.abs().argmax(1, keepdim=True)).sign().mT
    torch.testing.assert_close(y, u * signs * 39**0.5, rtol=0, atol=1e-5)
    wide = noise(4, 7)
    y, _ = on(backend, wide, method="pca", eps=1e-9)
    u, s, vh = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    signs = torch.gather(vh, 1, vh.abs().argmax(1, keepdim=True)).sign().mT
    torch.testing.assert_close(y[:, :3], (u * signs * 3**0.5)[:, :3], rtol=0, atol=1e-6)
    assert torch.equal(y[:, 3:], torch.zeros(4, 4, dtype=y.dtype))


def test_cholesky_is_triangular(backend):
    """Feature i depends on the features up to i alone."""
    x = INPUTS["ordinary"]
    changed = x.clone()
    changed[:, 3] += noise(30, seed=5)
    a, b = (on(backend, v, method="cholesky")[0] for v in (x, changed))
    torch.testing.assert_close(a[:, :3], b[:, :3], rtol=1e-12, atol=1e-12)
    assert ((a - b)[:, 3:].abs().amax(0) > 1e-2).all()


# Derivatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zca", "cholesky"])
@pytest.mark.parametrize("name", ["already white", "three dead units", "fewer samples, duplicated", "two samples"])
def test_finite_differences_at_repeated_eigenvalues(backend, name, method):
    """Where autograd of an eigendecomposition divides zero by zero."""
    x = INPUTS[name][:12].clone().requires_grad_()
    with nk.backend(backend):
        for forward in (False, True):
            assert torch.autograd.gradcheck(
                lambda x: nk.whiten(x, method=method, eps=0.1),
                x,
                fast_mode=True,
                check_forward_ad=forward,
                check_backward_ad=not forward,
            )


def test_autograd_of_an_eigendecomposition_is_wrong_there():
    """That the inputs above are what they are said to be: the plain code has no gradient for a constant layer."""
    _, gradient = evaluate(lambda x: reference.definition(x, "zca", EPS), INPUTS["all constant"])
    assert not gradient.isfinite().all()


def test_weights_of_a_pair_are_one():
    """What makes Y' Y stay what it is: W + W' = 1, in all three rotations."""
    values = torch.tensor([3.0, 2.0, 2.0, 0.5, 1e-9], dtype=torch.float64)
    for method in METHODS:
        w = reference.weights(method, values, 5)
        torch.testing.assert_close(w + w.mT, torch.ones_like(w), rtol=0, atol=1e-12)


def test_a_dead_unit_gets_no_gradient_from_the_others(backend):
    """And finite ones of its own: what its samples would do if they began to differ."""
    x = INPUTS["three dead units"].clone().requires_grad_()
    with nk.backend(backend):
        y = nk.whiten(x, eps=EPS)
    assert y[:, [0, 2, 4]].abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(y[:, [1, 3, 5]].sin().sum(), x)
    assert gradient[:, [0, 2, 4]].abs().max() < 1e-12
    assert gradient[:, [1, 3, 5]].abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(200, 24), (3, 40, 8), (12, 30)], ids=str)
def test_float32(backend, method, shape):
    """Within the accuracy rule of autograd through plain PyTorch, values and gradients."""
    x = noise(*shape) * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5
    x = x.float()
    got = on(backend, x, method=method, eps=1e-2)
    plain = evaluate(lambda x: reference.definition(x, method, 1e-2), x)
    exact = evaluate(lambda x: reference.definition(x, method, 1e-2), x.double())
    accuracy.check(got[0], plain[0], exact[0], factor=3, ulps=32 if method != "pca" else 512, name="samples")
    accuracy.check(got[1], plain[1], exact[1], factor=3, ulps=32 if method != "pca" else 512, name="gradient")


@pytest.mark.parametrize("method", METHODS)
def test_offset_and_scale(backend, method):
    """An offset of 1,000 standard deviations costs a few digits of a float32 sample and no more; so does a scale."""
    x = (INPUTS["ordinary"] + 1e3).float()
    exact = evaluate(lambda x: reference.definition(x, method, 1e-5), x.double())
    got = on(backend, x, method=method)
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-4 * float(b.abs().max()))
    for factor in (1e3, 1e-3):
        scaled = on(backend, factor * x, method=method, eps=1e-5 * factor**2)
        torch.testing.assert_close(scaled[0], got[0], rtol=0, atol=2e-3)
        torch.testing.assert_close(factor * scaled[1], got[1], rtol=0, atol=2e-3 * float(got[1].abs().max()))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_cholesky_of_what_float32_cannot_factor(backend):
    """A unit that is there twice, at a variance of 1e6, of which rounding leaves nothing: y and gradient are right."""
    x = (1e3 * duplicated(50, 12)).float()
    x = torch.stack([x, noise(50, 12).float()])
    y, gradient = on(backend, x, method="cholesky")
    exact = evaluate(lambda x: truth(x, "cholesky", 1e-5), x.double())
    for item in range(2):
        torch.testing.assert_close(y[item].double(), exact[0][item], rtol=0, atol=2e-5)
        bound = 1e-4 * float(exact[1][item].abs().max())
        torch.testing.assert_close(gradient[item].double(), exact[1][item], rtol=0, atol=bound)


# Everything else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", [(3, 12, 4), (3, 4, 6)], ids=str)
def test_not_finite(backend, method, value, shape):
    """An item with a NaN is NaN, alone."""
    x = noise(*shape)
    clean = on(backend, x, method=method)
    x[1, 2, 1] = value
    got = on(backend, x, method=method)
    for a, b in zip(got, clean, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert a[1].isnan().any()
    assert got[0][1].isnan().all()


@pytest.mark.parametrize("method", METHODS)
def test_autocast_leaves_float32_alone(backend, method):
    x = noise(20, 5).float()
    expected = on(backend, x, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        got = on(backend, x, method=method)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_the_smaller_matrix_is_decomposed(monkeypatch):
    sizes, eigh = [], reference.PARTS.eigh
    spy = reference.PARTS._replace(eigh=lambda a, vectors: sizes.append(a.shape[-1]) or eigh(a, vectors))
    monkeypatch.setattr(reference, "PARTS", spy)
    with nk.backend("reference"):
        for method in METHODS:
            nk.whiten(noise(4, 40), method=method)
            nk.whiten(noise(40, 4), method=method)
    assert sizes == [4] * 3  # components of few samples are those of the samples themselves


MUTANTS = {
    "weights the other way round": ("weights", lambda f: lambda *a: f(*a).mT),
    "weights of one half": ("weights", lambda f: lambda *a: torch.full_like(f(*a), 0.5)),
    "no weights": ("weights", lambda f: lambda *a: torch.zeros_like(f(*a))),
    "not in the eigenbasis": ("_within", lambda f: lambda basis, m, weight: weight(m)),
    "divided by N": ("_moments", lambda f: lambda x, c: (*f(x, c)[:2], None if not c else f(x, c)[2] * 29 / 30)),
    "not centred": ("_moments", lambda f: lambda x, c: (x, *f(x, c)[1:])),
    "no ridge": ("_ridged", lambda f: lambda c, eps: c),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(monkeypatch, name):
    def both():
        for method in ("zca", "cholesky"):
            check("reference", "ordinary", method)

    both()
    piece, change = MUTANTS[name]
    monkeypatch.setattr(reference, piece, change(getattr(reference, piece)))
    monkeypatch.setattr(
        reference, "PARTS", reference.PARTS._replace(moments=reference._moments, triangular=reference.triangular)
    )
    with pytest.raises(AssertionError):
        both()
