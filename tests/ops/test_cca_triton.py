"""The Triton kernels of canonical correlation under the interpreter: every route, layouts, types, and mutants.

Each launch of a program takes the interpreter tenths of a second, so that views are small, and the routes of large ones
are reached by lower limits.
"""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca import reference, triton
from tests.ops import torture

#: The limits of the backend under which a small problem takes each route.
ROUTES = {
    "one program": {},
    "shared moments": {"FEW": 8},
    "a launch for each product": {"SMALL": 0},
    "float32 iteration": {"SMALL": 0, "EXACT": 0},
}

#: Bounds of the relative errors of value and gradient in float32, where they are not these. The gradient of identical
#: views is 1e-4 of what cancels in it, and its weights are float32; that of the ill-conditioned ones 1e-3.
USUAL = (1e-6, 5e-6)
BOUNDS = {"identical views": (1e-6, 5e-3), "condition 1e6": (1e-6, 1e-4)}


@pytest.fixture
def take(monkeypatch):
    """Sends what follows down a route."""

    def limits(route):
        for name, value in ROUTES[route].items():
            monkeypatch.setattr(triton, name, value)

    return limits


def run(x, y, reg=1e-4, **options):
    """The objective and its gradients, forward and backward on Triton."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    with nk.backend("triton"), backends.record() as ran:
        loss = nk.dcca_loss(x, y, reg=reg, **options)
        dx, dy = torch.autograd.grad(loss.sum(), (x, y))
    assert ran == [("dcca", "triton")] * 2
    return -loss.detach(), -dx, -dy


def check(x, y, reg=(1e-4, 1e-4), bounds=USUAL, **options):
    """Value and gradients are those of the singular values in float64."""
    wanted = {name: value for name, value in options.items() if name != "precision"}
    found = run(x, y, reg, **options)
    errors = torture.errors(found, torture.truth(x, y, reg, **wanted))
    assert all(e <= bound for e, bound in zip(errors, bounds, strict=True)), errors
    return found


def related(*shape, d2=7, dtype=torch.float32, seed=0):
    """Two views ``[*shape]`` and ``[..., d2]`` with something in common."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    y = torch.randn(*shape[:-1], d2, dtype=torch.float64, generator=generator)
    common = min(shape[-1], d2)
    y[..., :common] += x[..., :common]
    return (x + 0.5).to(dtype), y.to(dtype)


# The list ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", torture.CASES)
def test_torture(name):
    case = torture.CASES[name]
    check(*case.inputs(), case.reg, BOUNDS.get(name, USUAL))


@pytest.mark.parametrize("name", ["duplicated unit", "constant column", "condition 1e6", "scale 1e-6", "D1 < D2"])
@pytest.mark.parametrize("route", [r for r in ROUTES if r != "one program"])
def test_torture_of_other_routes(name, route, take):
    take(route)
    case = torture.CASES[name]
    check(*case.inputs(), case.reg, BOUNDS.get(name, USUAL))


@pytest.mark.parametrize("name", ["ordinary", "three dead units", "scales 1e6 and 1e-6"])
def test_torture_of_fast(name, take):
    """The interpreter multiplies TF32 as float32: what is seen is that six steps are enough."""
    take("float32 iteration")
    case = torture.CASES[name]
    check(*case.inputs(), case.reg, (1e-4, 1e-3), precision="fast")


@pytest.mark.parametrize("route", ["one program", "a launch for each product"])
def test_float64(route, take):
    take(route)
    for name in ("identical views", "duplicated unit"):
        case = torture.CASES[name]
        found = check(*case.inputs(dtype=torch.float64), case.reg, (1e-12, 1e-10))
        assert {t.dtype for t in found} == {torch.float64}


@pytest.mark.parametrize("route", ROUTES)
def test_dead_units_have_no_gradient_at_all(route, take):
    take(route)
    x, y = torture.CASES["three dead units"].inputs()
    _, dx, _ = run(x, y)
    assert torch.equal(dx.abs().sum(0) == 0, (x == 0).all(0))
    assert int((x == 0).all(0).sum()) == 3


@pytest.mark.parametrize("route", ["one program", "a launch for each product"])
def test_correlations_near_zero(route, take):
    """Those down to 1e-6 are as much correlations as any: the iteration goes on until they are 1."""
    take(route)
    q = torch.linalg.qr(torch.randn(30, 13, dtype=torch.float64)).Q
    q = torch.linalg.qr(q - q.mean(0)).Q * 29**0.5
    c = torch.logspace(0, -6, 6, dtype=torch.float64) / 2
    x, y = q[:, :6], q[:, :6] * c + q[:, 6:12] * (1 - c**2).sqrt()
    check(x, y, bounds=(1e-12, 1e-6))


@pytest.mark.parametrize("route", [r for r in ROUTES if r != "float32 iteration"])
def test_sum_of_squares(route, take):
    take(route)
    check(*related(40, 5), objective="fro2")


# Shapes, layouts and types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d1", "d2"), [(5, 1, 1), (34, 16, 17), (60, 32, 3), (513, 2, 2), (70, 40, 33)], ids=str)
def test_shapes(n, d1, d2):
    """Both sizes of a program, and one unit more; more samples than a program reads; more rows than a block."""
    check(*related(n, d1, d2=d2), bounds=(1e-6, 1e-5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("route", ["one program", "float32 iteration"])
def test_half_precision(route, dtype, take):
    """Computes in float32 or better; the gradient is rounded once."""
    take(route)
    value, dx, dy = check(*related(40, 5, dtype=dtype), bounds=(1e-6, torch.finfo(dtype).eps))
    assert (value.dtype, dx.dtype, dy.dtype) == (torch.float32, dtype, dtype)


@pytest.mark.parametrize("route", ROUTES)
def test_batches_and_strides(route, take):
    take(route)
    x, y = related(2, 1, 12, 5)
    found = run(x, y)
    assert [t.shape for t in found] == [(2, 1), x.shape, y.shape]
    for one, batched in zip(run(x[1, 0], y[1, 0]), found, strict=True):
        assert torch.equal(one, batched[1, 0])
    spaced = torch.full((2, 1, 25, 16), torch.nan)[..., 1::2, 1::3]
    spaced.copy_(x)
    for ours, theirs in zip(run(spaced, y.transpose(0, 1).mT.contiguous().mT.transpose(0, 1)), found, strict=True):
        assert torch.equal(ours, theirs)
    assert [t.shape for t in run(x[:0], y[:0])] == [(0, 1), (0, 1, 12, 5), (0, 1, 12, 7)]


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_not_finite_spoils_itself(route, take):
    take(route)
    x, y = related(3, 12, 3, d2=4)
    expected = run(x[1], y[1])
    x[0, 5, 2], x[2, 5, 2] = torch.nan, torch.inf
    for ours, theirs in zip(run(x, y), expected, strict=True):
        assert ours[::2].isnan().all()
        assert torch.equal(ours[1], theirs)


def test_an_offset_costs_no_digits(take, monkeypatch):
    """The mean is kept in float32; what its rounding leaves in every sample is taken off again."""
    x, y = related(40, 5)
    x, y = x + 1e4, y - 1e4
    check(x, y)
    take("shared moments")
    check(x, y)
    monkeypatch.setattr(triton, "_drift", lambda x, y, mean: torch.zeros_like(mean))
    with pytest.raises(AssertionError):
        check(x, y)


# What is the reference's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "options"), [(40, {"objective": "topk", "k": 2}), (6, {}), (6, {"objective": "fro2"})])
def test_what_needs_a_decomposition(n, options):
    x, y = related(n, 6)
    found = check(x, y, (1e-2, 1e-3), bounds=(1e-6, 5e-6), **options)
    with nk.backend("reference"):
        assert torch.equal(found[0], -nk.dcca_loss(x, y, reg=(1e-2, 1e-3), **options))


def test_single_correlations():
    x, y = related(2, 20, 4)
    x.requires_grad_()
    with nk.backend("triton"), backends.record() as ran:
        values = nk.canonical_correlations(x, y)
        (dx,) = torch.autograd.grad(values[..., 0].sum(), x)
    assert ran == [("dcca", "triton")] * 2
    with nk.backend("reference"):
        expected = nk.canonical_correlations(x, y)
        assert torch.equal(values, expected)
        assert torch.equal(dx, torch.autograd.grad(expected[..., 0].sum(), x)[0])


# Products and the iteration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("k", "d"), [(37, 45), (5, 1), (3, 130)])
def test_products(k, d, dtype):
    """One tile and several, of both sizes, over a batch."""
    f, s = torch.randn(2, k, d, dtype=dtype), torch.randn(2, d, d, dtype=dtype)
    s = s + s.mT
    found = triton.gram(f, 0.7, -1.3, s)
    exact = 0.7 * f.double().mT @ f.double() - 1.3 * s.double()
    close = {"rtol": 0, "atol": 64 * torch.finfo(dtype).eps * float(exact.abs().max())}
    torch.testing.assert_close(found.double(), exact, **close)
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(triton.gram(f, 2.0).double(), 2 * f.double().mT @ f.double(), **close)
    exact = 3 * f.double() + f.double() @ s.double()
    close["atol"] = 64 * torch.finfo(dtype).eps * float(exact.abs().max())
    torch.testing.assert_close(triton.update(f, s, 3.0).double(), exact, **close)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(triton.update(f, s, 0.0).double(), exact, **close)


def of_values(values, wide, dtype):
    """A matrix with the given singular values, and its polar factor."""
    u, v = (torch.linalg.qr(torch.randn(n, len(values), dtype=torch.float64)).Q for n in (len(values) + 3, len(values)))
    s = torch.as_tensor(values, dtype=torch.float64)
    m, w = (u * s) @ v.mT, (u * (s > 0)) @ v.mT
    return (m.mT.contiguous(), w.mT) if wide else (m.to(dtype), w)


@pytest.mark.parametrize(
    ("dtype", "fast", "values", "bound"),
    [
        (torch.float64, False, [1, 0.3, 1e-3, 1e-5, 2e-7, 0], 1e-9),
        (torch.float64, False, [1e-9, 3e-11, 0], 1e-12),
        (torch.float32, False, [1, 0.3, 1e-2, 2e-4, 0], 1e-2),
        (torch.float32, True, [1, 0.3, 1e-2, 0], 1e-4),
    ],
)
def test_polar_factor(dtype, fast, values, bound):
    """Of both shapes: what is small but not 0 counts in full, however small it all is, and what is 0 does not count.

    A singular value of 2e-4 has directions to 1e-3 in float32, which is what its bound allows for.
    """
    for wide in (False, True):
        m, w = of_values(values, wide, dtype)
        found = triton.polar_factor(m.to(dtype)[None], fast)[0]
        assert found.dtype == dtype
        assert (found.double() - w).abs().max() <= bound
    assert (triton.polar_factor(torch.zeros(1, 4, 4, dtype=dtype), fast) == 0).all()


def test_schedules():
    """What takes which singular values where: the promises of the comments."""
    for steps, reached, lost in (
        (triton.HIGH[torch.float32], 1e-4, 1e-6),
        (triton.HIGH[torch.float64], 1e-7, 1e-9),
        (triton.FAST, 2e-3, 1e-5),
    ):
        x = y = torch.logspace(-12, 0, 4001, dtype=torch.float64)
        for a, b, c in steps:
            y = a * y + b * y**3 + c * y**5
        assert (y[x >= reached] - 1).abs().max() < (1e-4 if steps is triton.FAST else 1e-12)
        assert y[x <= lost].max() < 1e-3
        assert y.max() < 1.001


# Mutants -------------------------------------------------------------------------------------------------------------


def test_mutants_of_the_iteration(take, monkeypatch):
    """Steps that stop early; steps without the last one, which make a correlation of rounding."""
    take("float32 iteration")
    x, y = torture.CASES["duplicated unit"].inputs()
    steps = triton.HIGH[torch.float32]
    check(x, y)
    for mutant in (steps[:5], (*steps[:2], *steps[2:3] * 9, *steps[3:-1])):
        monkeypatch.setitem(triton.HIGH, torch.float32, mutant)
        with pytest.raises(AssertionError):
            check(x, y)


def without_own(weights):
    weights[:5, :5] = 0
    return weights


@pytest.mark.parametrize(
    "mutant",
    [
        lambda value, weights, mean: (value, weights, mean + 0.1),
        lambda value, weights, mean: (value, weights * 39 / 40, mean),
        lambda value, weights, mean: (value, without_own(weights), mean),
        lambda value, weights, mean: (value, weights.flip(0, 1), mean),
        lambda value, weights, mean: (value * 39 / 40, weights, mean),
    ],
    ids=["mean", "n", "P", "views", "value"],
)
def test_mutants_of_the_gradient(mutant, monkeypatch, take):
    take("shared moments")
    x, y = related(40, 5, d2=5)
    check(x, y)
    forward = triton.dcca
    monkeypatch.setattr(triton, "_drift", lambda x, y, mean: torch.zeros_like(mean))  # it would repair the mean
    monkeypatch.setattr(triton, "dcca", lambda *arguments: mutant(*forward(*arguments)))
    with pytest.raises(AssertionError):
        check(x, y)


def test_the_reference_is_not_what_runs(monkeypatch):
    """Where the kernels serve a call they serve it alone."""
    monkeypatch.setattr(reference, "dcca", None)
    monkeypatch.setattr(reference, "dcca_backward", None)
    check(*related(40, 5))
