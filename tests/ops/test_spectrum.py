"""Eigenproblems and spectra: functions of matrices, repeated eigenvalues, both sides of N = D, NaN, offsets."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.spectrum import eigen, reference
from neurokernels.ops.spectrum.leaves import eigh_fwd
from tests import definitions
from tests.ops.matrices import of_values, symmetric
from tests.ops.spectra import activations, with_spectrum

SIZES = {"reference": (1, 2, 5, 24, 70), "cpu": (1, 2, 5, 24, 40, 64, 65, 100), "triton": (1, 2, 5)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def function_of(a, function):
    """f(A) = V f(L) V': what vectors are for, and free of their signs and of their order."""
    values, vectors = nk.eigh(a)
    return (vectors * function(values)[..., None, :]) @ vectors.mT


def test_functions_of_matrices(backend):
    """The exponential and its gradient, for which torch has a way without eigenvalues."""
    for n in SIZES[backend]:
        a = (symmetric(n, generator(n)) / n).requires_grad_()
        g = torch.randn(n, n, dtype=torch.float64, generator=generator(1))
        with nk.backend(backend):
            got = function_of(a, torch.exp)
        (gradient,) = torch.autograd.grad(got, a, g)
        expected = torch.linalg.matrix_exp(definitions.symmetric(a))
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, a, g)[0], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("values", [[1.0] * 6, [2.0, 2.0, 2.0, 5.0, 5.0, 9.0], [0.0] * 4 + [1.0, 1.0]], ids=str)
def test_repeated_eigenvalues(backend, values):
    """A loss that no rotation within an eigenspace changes has a finite gradient; torch.linalg's is NaN or noise."""
    a = of_values(torch.tensor(values, dtype=torch.float64), generator()).requires_grad_()
    for matrix in (a, torch.diag(torch.tensor(values, dtype=torch.float64)).requires_grad_()):
        with nk.backend(backend):
            values_, vectors = nk.eigh(matrix)
            loss = ((vectors * values_) @ vectors.mT).square().sum() + values_.exp().sum()
        (gradient,) = torch.autograd.grad(loss, matrix)
        expected = 2 * matrix + torch.linalg.matrix_exp(matrix)
        torch.testing.assert_close(gradient, expected.detach(), rtol=1e-8, atol=1e-8)


def test_gradient_of_values_has_no_gaps(backend):
    """Of any function of the values, however close they are: the gradient of their sum is the identity."""
    values = 1 + torch.arange(8, dtype=torch.float64) * 1e-13
    a = of_values(values, generator()).requires_grad_()
    with nk.backend(backend):
        for found in (nk.eigvalsh(a), nk.eigh(a)[0]):
            (gradient,) = torch.autograd.grad(found.sum(), a)
            torch.testing.assert_close(gradient, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)


def test_inverse_gaps():
    """Zero where two values agree to rounding, relative to the largest one; all else as it is."""
    values = torch.tensor([-1e6, 0.0, 1.0, 1.0, 1.0 + 1e-7, 2.0], dtype=torch.float64)
    found = eigen.inverse_gaps(values)
    assert found[2, 3] == found[3, 2] == 0
    assert found.diagonal().count_nonzero() == 0
    assert found[2, 4] == pytest.approx(1e7, rel=1e-6)
    torch.testing.assert_close(found, -found.mT)
    assert eigen.inverse_gaps(1e-9 * values)[2, 4] == pytest.approx(1e16, rel=1e-6)  # relative, not absolute
    assert eigen.inverse_gaps(torch.full((3,), torch.nan)).isfinite().all()
    assert eigen.inverse_gaps(torch.zeros(2, 0)).shape == (2, 0, 0)


def test_lower_triangle(backend):
    """As torch.linalg reads it; the gradient is that of the symmetric matrix."""
    a = symmetric(5, generator())
    spoilt = a.tril() + torch.full_like(a, torch.nan).triu(1)
    with nk.backend(backend):
        got, expected = nk.eigh(spoilt), nk.eigh(a)
        assert all(map(torch.equal, got, expected))
        assert torch.equal(nk.eigvalsh(spoilt), nk.eigvalsh(a))


def test_values_alone_are_the_same():
    """The native solver finds the same bits with vectors and without."""
    for n in (3, 16, 33, 64):
        a = torch.stack([symmetric(n, generator(i)) for i in range(9)])
        with nk.backend("cpu"):
            assert torch.equal(nk.eigvalsh(a), nk.eigh(a)[0])


def test_eigvalsh_computes_vectors_for_gradients_only(monkeypatch):
    asked = []

    def recorded(a, vectors, backend):
        asked.append(vectors)
        return eigh_fwd(a, vectors, backend)

    monkeypatch.setattr(eigen, "eigh_fwd", recorded)
    a = symmetric(4, generator())
    nk.eigvalsh(a)
    leaf = a.requires_grad_()
    with torch.no_grad():
        nk.eigvalsh(leaf)
    nk.eigvalsh(leaf)
    torch.func.grad(lambda a: nk.eigvalsh(a).sum())(a.detach())
    assert asked == [False, False, True, True]


# Covariance spectra -------------------------------------------------------------------------------------------------


def check(backend, x, **options):
    """Values and gradient in the precision of x, by the rule of the house, on the backend that was asked for."""

    def evaluate(function, x):
        x = x.detach().requires_grad_()
        values = function(x, **options)
        g = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view(values.shape).to(values.dtype)
        return values.detach(), torch.autograd.grad(values, x, g)[0]

    with nk.backend(backend), backends.record() as ran:
        values, gradient = evaluate(nk.covariance_spectrum, x)
    assert ran == [("spectrum", backend)] * 2
    plain, plain_gradient = evaluate(definitions.covariance_spectrum, x)
    exact, exact_gradient = evaluate(definitions.covariance_spectrum, x.double())
    floor = 256 if x.dtype == torch.float64 else 32  # sums over up to 150 samples, and nothing is more exact
    accuracy.check(values, plain, exact, ulps=floor, name="values")
    accuracy.check(gradient, plain_gradient, exact_gradient, factor=accuracy.BACKWARD, ulps=floor, name="gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 1), (3, 2, 2), (90, 20), (20, 90), (30, 30), (4, 150, 70), (2, 66, 130)], ids=str
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_spectrum(backend, shape, dtype):
    *batch, n, d = shape
    x = torch.stack([activations(n, d, seed=i) for i in range(batch[0] if batch else 1)])
    check(backend, (x if batch else x[0]).to(dtype))
    if min(n, d) > 9:
        check(backend, (x if batch else x[0]).to(dtype), k=9, correction=0)


@pytest.mark.parametrize("backend", ["triton"])
def test_spectrum_interpreted(backend):
    for shape in ((9, 4), (4, 9)):
        check(backend, activations(*shape, dtype=torch.float32))
        check(backend, activations(*shape), k=3)


def test_both_sides_of_n_equals_d(backend):
    """One sample more or less changes the route, not the numbers: x, and x beside a unit that never changes."""
    x = activations(9, 9)
    wide = torch.cat([x, torch.full((9, 1), 0.7, dtype=torch.float64)], 1)
    leaves = [t.requires_grad_() for t in (x, wide)]
    with nk.backend(backend):
        square, more = (nk.covariance_spectrum(leaf) for leaf in leaves)
    torch.testing.assert_close(more, square, rtol=1e-11, atol=1e-13)
    first, second = (
        torch.autograd.grad(v[:8].log().sum(), leaf)[0] for v, leaf in zip((square, more), leaves, strict=True)
    )
    torch.testing.assert_close(second[:, :9], first, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(second[:, 9], torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-10)


def test_known_spectrum(backend):
    values = torch.tensor([9.0, 4.0, 4.0, 1.0, 0.25, 0.0], dtype=torch.float64)
    with nk.backend(backend):
        torch.testing.assert_close(nk.covariance_spectrum(with_spectrum(values, 12)), values, rtol=1e-12, atol=1e-13)


def test_top_is_the_beginning_of_all():
    for shape in ((60, 40), (40, 60)):
        x = activations(*shape)
        every = nk.covariance_spectrum(x)
        for k in (0, 1, 7, 40):
            assert torch.equal(nk.covariance_spectrum(x, k=k), every[:k])


def test_sum_is_the_trace(backend):
    """The gradient of the sum of all eigenvalues is that of the variance: 2 / (N - 1) Xc."""
    for shape in ((8, 5), (5, 8)):
        x = activations(*shape).requires_grad_()
        with nk.backend(backend):
            (gradient,) = torch.autograd.grad(nk.covariance_spectrum(x).sum(), x)
        centred = (x - x.mean(0)).detach()
        torch.testing.assert_close(gradient, 2 / (shape[0] - 1) * centred, rtol=1e-10, atol=1e-12)


def test_equivariance():
    """Rotations of units and orders of samples change no eigenvalue; scales square."""
    x = activations(30, 20)
    q = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=generator())).Q
    expected = nk.covariance_spectrum(x)
    for changed in (x @ q, x.flip(0), x.flip(1), x + 1e3 * torch.randn(20, dtype=torch.float64, generator=generator())):
        torch.testing.assert_close(nk.covariance_spectrum(changed), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(nk.covariance_spectrum(3 * x), 9 * expected)


def test_offset():
    """Ten thousand standard deviations away from zero, the spectrum is that of the centred data."""
    x = activations(80, 30, dtype=torch.float32, offset=0.0)
    moved = x + 1e4
    exact = nk.covariance_spectrum(moved.double())
    torch.testing.assert_close(nk.covariance_spectrum(moved).double(), exact, rtol=1e-5, atol=1e-6 * float(exact[0]))


@pytest.mark.parametrize(("shape", "item"), [((3, 10, 4), 1), ((3, 4, 10), 2)], ids=str)
def test_nan_stays_in_its_item(backend, shape, item):
    x = torch.randn(shape, generator=generator())
    x[item, 1, 2] = torch.nan
    x.requires_grad_()
    with nk.backend(backend):
        values = nk.covariance_spectrum(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    clean = torch.arange(3) != item
    assert values[clean].isfinite().all()
    assert gradient[clean].isfinite().all()
    assert values[item].isnan().all()
    assert gradient[item].isnan().any()


def test_the_smaller_matrix_is_decomposed(monkeypatch):
    sizes = []
    for name in ("eigh", "eigvalsh"):
        solve = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda a, solve=solve: sizes.append(a.shape[-1]) or solve(a))
    with nk.backend("reference"):
        nk.covariance_spectrum(activations(7, 200))
        nk.covariance_spectrum(activations(200, 7))
    assert sizes == [7, 7]


def test_explain():
    """Who would run, by the names that users know."""
    x = activations(30, 20)
    for op in ("eigh", "spectrum", "covariance"):
        assert "cpu" in str(nk.explain(op, x if op != "eigh" else nk.covariance(x)))


MUTANTS = {
    "ascending": ("spectrum", lambda f: lambda *a: (f(*a)[0].flip(-1), *f(*a)[1:])),
    "not centred": ("centre", lambda f: lambda x: (x, torch.zeros_like(x[..., 0, :]))),
    "wrong sign": ("spectrum_backward", lambda f: lambda *a: -f(*a)),
    "vectors in the wrong order": ("paired", lambda f: lambda c, v, k: tuple(t.flip(-1) for t in f(c, v, k))),
    "the Gram side is not scaled": (
        "paired",
        lambda f: lambda c, v, k: (f(c, v, k)[0], torch.nn.functional.normalize(f(c, v, k)[1], dim=-2)),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(monkeypatch, name):
    x = activations(20, 30, dtype=torch.float32)
    check("reference", x)
    piece, change = MUTANTS[name]
    monkeypatch.setattr(reference, piece, change(getattr(reference, piece)))
    with pytest.raises(AssertionError):
        check("reference", x)


def test_mutant_of_eigh(monkeypatch):
    """Divided differences of the wrong sign."""
    test_functions_of_matrices("cpu")
    monkeypatch.setattr(eigen, "inverse_gaps", lambda values, right=eigen.inverse_gaps: -right(values))
    with pytest.raises(AssertionError):
        test_functions_of_matrices("cpu")
