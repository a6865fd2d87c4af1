"""The Triton kernels of covariance and spectrum under the interpreter: layouts, splits, padding, and mutants.

Matrices are small: a sweep of a 64 x 64 matrix takes the interpreter a third of a second.
"""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends, covariance_triton
from neurokernels._core.covariance_triton import centred, covariance_backward, covariance_forward, rank_update
from neurokernels.ops.spectrum import reference, triton, triton_limits
from neurokernels.ops.spectrum.state import SpectrumState
from tests.ops import matrices

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Eigenproblems -------------------------------------------------------------------------------------------------------


def symmetric(count, size, dtype=torch.float64, seed=0):
    a = torch.randn(count, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (a + a.mT).to(dtype)


def of_values(values, seed=0):
    """A matrix with the given eigenvalues."""
    q = torch.linalg.qr(symmetric(1, len(values), seed=seed)[0]).Q
    return (q * torch.as_tensor(values, dtype=torch.float64)) @ q.T


def errors(a, values, vectors):
    """Residual, loss of orthogonality and error of the values, in units of D eps times the norm."""
    a = a.double().tril()
    a = a + a.tril(-1).mT
    exact, size = torch.linalg.eigvalsh(a), a.shape[-1]
    unit = size * torch.finfo(values.dtype).eps
    values, vectors = values.double(), vectors.double()
    norm = exact.abs().amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
    residual = torch.linalg.matrix_norm(a @ vectors - vectors * values[..., None, :], 2) / norm
    turned = torch.linalg.matrix_norm(vectors.mT @ vectors - torch.eye(size, dtype=torch.float64), 2)
    return (residual.max() / unit, turned.max() / unit, ((values - exact).abs().amax(-1) / norm).max() / unit)


def check(a, **options):
    """Like LAPACK up to a small factor: measured are at most 2, 1 and 1."""
    values, vectors = triton.small_eigh(a, **options)
    assert torch.equal(values, values.sort(-1).values)
    assert all(error < 4 for error in errors(a, values, vectors)), errors(a, values, vectors)
    return values, vectors


STEPS = torch.arange(7.0)
ZOO = {
    "random": lambda: symmetric(1, 7)[0],
    "rank deficient": lambda: of_values([0.0] * 4 + [1, 2, 3]),
    "clustered": lambda: of_values(1 + 1e-6 * STEPS),
    "two values": lambda: of_values([1.0, -1.0] * 3 + [1.0]),
    "graded": lambda: of_values(100.0**-STEPS),
    "graded, both signs": lambda: of_values(100.0**-STEPS * (-1) ** STEPS),
    "diagonal": lambda: torch.diag(STEPS - 3),
    "descending": lambda: torch.diag(3 - STEPS),
    "zero": lambda: torch.zeros(7, 7),
    "minus identity": lambda: -torch.eye(7),
    "ones": lambda: torch.ones(7, 7),
    "exchange": lambda: torch.eye(7).flip(0),
    "Wilkinson": lambda: torch.diag((STEPS - 3).abs()) + torch.ones(7, 7).tril(1).triu(-1) - torch.eye(7),
    "huge": lambda: symmetric(1, 7)[0] * 1e36,
    "tiny": lambda: symmetric(1, 7)[0] * 1e-36,
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_eigh_of_any_matrix(name):
    check(ZOO[name]().float())
    check(ZOO[name]().double())


@pytest.mark.parametrize(
    ("count", "size", "dtype"),
    [
        (3, 1, torch.float32), (3, 1, torch.float64), (17, 2, torch.float32), (17, 2, torch.float64),
        (1, 3, torch.float32), (5, 8, torch.float32), (2, 9, torch.float64), (1, 32, torch.float64),
        (1, 33, torch.float32),
    ],
    ids=str,
)  # fmt: skip
def test_eigh_of_any_size(count, size, dtype):
    """Lanes that hold several matrices, one, and half of one; padding in each."""
    a = symmetric(count, size, dtype)
    values, vectors = check(a)
    for one in {0, count - 1} if size < 9 else ():  # neighbours and batch leave no trace
        assert torch.equal(triton.small_eigh(a[one])[1], vectors[one])
    if size < 32:
        alone, nothing = triton.small_eigh(a, vectors=False)
        assert nothing.numel() == 0
        assert torch.equal(alone, values)


def test_eigh_of_the_largest():
    """A matrix in four groups of registers; few sweeps, as the warm solver asks for, suffice near a diagonal."""
    values = torch.arange(1.0, 71) ** -1.2
    a = torch.diag(values) + 1e-4 * symmetric(1, 70)[0] / 70
    check(a.float(), sweeps=4, positive=True)


def test_eigh_turns_pairs_down_to_rounding():
    """Not only down to where no further sweep is asked for: vectors of this one would be 9 eps from orthonormal."""
    names, a = matrices.zoo(33, torch.float32)
    a = a[names.index("no diagonal")]
    found = matrices.errors(a[None], *(t[None] for t in check(a)))
    assert found["orthogonality"] < 6 * torch.finfo(torch.float32).eps


def test_eigh_needs_its_sweeps():
    """Mutant: a solver that stops early."""
    with pytest.raises(AssertionError):
        check(symmetric(1, 12, torch.float32)[0], sweeps=2)


def test_eigh_needs_its_shift():
    """Mutant: columns of an indefinite matrix, of which only the magnitude of eigenvalues can be read."""
    with pytest.raises(AssertionError):
        check(symmetric(1, 12, torch.float32)[0], positive=True)


def test_small_eigenvalues_of_a_positive_matrix():
    """Promised to be positive, a graded matrix gives digits where its norm would drown them."""
    scale = 10.0 ** -torch.arange(8.0)
    a = (symmetric(1, 8)[0] / 20 + torch.eye(8)) * scale[:, None] * scale
    exact = torch.linalg.eigvalsh(a.double())
    values, _ = triton.small_eigh(a.double(), positive=True)
    assert ((values - exact).abs() / exact).max() < 1e-3
    assert ((values - exact).abs()).max() < 1e-14


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_itself(bad):
    a = symmetric(6, 5, torch.float32)
    values, vectors = triton.small_eigh(a)
    broken = a.clone()
    broken[2, 4, 1] = bad  # only the lower triangle is read
    broken[3, 1, 4] = bad
    found, columns = triton.small_eigh(broken)
    assert found[2].isnan().all()
    assert columns[2].isnan().all()
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(found[keep], values[keep])
    assert torch.equal(columns[keep], vectors[keep])


def test_eigh_strides():
    a = symmetric(6, 5, torch.float32)
    values, vectors = triton.small_eigh(a)
    spaced = torch.full((6, 9, 11), torch.nan)[:, ::2, 1::2]
    spaced.copy_(a)
    for same in (spaced, a.mT, a.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        assert torch.equal(triton.small_eigh(same)[0], values)
        assert torch.equal(triton.small_eigh(same)[1], vectors)
    assert torch.equal(triton.small_eigh(a.view(2, 3, 5, 5))[1], vectors.view(2, 3, 5, 5))
    assert torch.equal(triton.small_eigh(a[:1].expand(4, 5, 5))[0], values[:1].expand(4, 5))


def test_eigh_of_nothing_and_of_too_much():
    assert [t.shape for t in triton.small_eigh(torch.empty(2, 0, 0))] == [(2, 0), (2, 0, 0)]
    assert [t.shape for t in triton.small_eigh(torch.empty(0, 3, 3))] == [(0, 3), (0, 3, 3)]
    with nk.backend("triton"):
        for size, dtype in ((129, torch.float32), (129, torch.bfloat16), (65, torch.float64)):
            with pytest.raises(backends.BackendError, match=f"D = {size}.*up to D = {size - 1}"):
                nk.eigh(torch.zeros(size, size, dtype=dtype))
    assert triton_limits.refuses(torch.zeros(128, 128)) is None


def test_eigh_is_what_runs():
    a = symmetric(2, 4, torch.bfloat16)
    with nk.backend("triton"), backends.record() as ran:
        values, vectors = nk.eigh(a)
        alone = nk.eigvalsh(a)
    assert ran == [("eigh", "triton")] * 2
    assert torch.equal(alone, values)
    assert max(errors(a, values, vectors)) < 4


# Covariance ----------------------------------------------------------------------------------------------------------


def exactly(x, correction):
    """Covariance and mean in float64."""
    mean = x.double().mean(-2)
    rows = x.double() - mean[..., None, :]
    return rows.mT @ rows / (x.shape[-2] - correction), mean


def plainly(x, correction):
    """The same in the dtype that is computed in."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    rows = x - x.mean(-2, keepdim=True)
    return rows.mT @ rows / (x.shape[-2] - correction), x.mean(-2)


def check_covariance(x, correction=1.0):
    found = covariance_forward(x, correction)
    rules = zip(("covariance", "mean"), found, plainly(x, correction), exactly(x, correction), strict=True)
    for name, value, plain, exact in rules:
        assert value.dtype == torch.promote_types(x.dtype, torch.float32)
        accuracy.check(value, plain, exact, ulps=64 if x.dtype == torch.float64 else 4, name=name)
    assert torch.equal(found[0], found[0].mT)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (3, 5, 3), (2, 2, 40, 33), (70, 17), (33, 150)], ids=str)
def test_covariance(shape, dtype):
    """One tile and six, of every size; rows that fill no block."""
    check_covariance((torch.randn(shape) + 3).to(dtype))


@pytest.mark.parametrize("size", [1, 60, 130, 200, 260])
def test_covariance_in_parts(size, monkeypatch):
    """Few tiles share the rows; how many depends on the shape only. One to five tiles along the diagonal."""
    monkeypatch.setattr(covariance_triton, "SHORTEST", 16)
    check_covariance(torch.randn(70, size) + 3)


def test_splits_depend_on_shapes_only():
    """On any GPU the same sums are added in the same order."""
    assert covariance_triton._split(4096, 3, 16) == (128, 32)
    assert covariance_triton._split(1500, 528, 16) == (1504, 1)
    assert covariance_triton._split(300, 1, 16) == (160, 2)


def test_tf32_where_the_user_allows_it():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for setting, expected in (("ieee", "ieee"), ("tf32", "tf32")):
            matmul.fp32_precision = setting
            assert covariance_triton._precision(torch.empty(0)) == expected
            assert covariance_triton._precision(torch.empty(0, dtype=torch.float64)) == "ieee"
            assert covariance_triton._precision(torch.empty(0, dtype=torch.bfloat16)) == "tf32x3"
    finally:
        matmul.fp32_precision = before


def test_covariance_layouts():
    x = torch.randn(3, 20, 10)
    expected = covariance_forward(x, 1.0)
    spaced = torch.full((3, 40, 31), torch.nan)[:, 1::2, ::3][..., :10]
    spaced.copy_(x)
    for same in (spaced, x.mT.contiguous().mT, x.transpose(0, 1).contiguous().transpose(0, 1)):
        for ours, theirs in zip(covariance_forward(same, 1.0), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(covariance_forward(x[:1].expand(3, 20, 10), 1.0)[0][2], expected[0][0])


def test_covariance_of_constants_and_offsets():
    """A constant column has no variance at all, and an offset costs no digits."""
    x = torch.randn(50, 6, dtype=torch.float64)
    x[:, 2] = 1e4 / 3
    x[:, 4] += 1e4
    x = x.float()
    found = check_covariance(x)[0]
    assert (found[2] == 0).all()
    rows = x - 0
    mutant = (rows.mT @ rows - 50 * x.mean(0)[:, None] * x.mean(0)) / 49
    with pytest.raises(AssertionError):
        accuracy.check(mutant, *(f(x, 1.0)[0] for f in (plainly, exactly)), name="uncentred")


def test_covariance_of_what_is_not_finite():
    x = torch.randn(2, 20, 5)
    expected = covariance_forward(x, 1.0)[0]
    x[1, 7, 3] = torch.nan
    found = covariance_forward(x, 1.0)[0]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1].isnan(), torch.arange(5)[:, None].eq(3) | torch.arange(5).eq(3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_covariance_backward(dtype):
    x = (torch.randn(2, 9, 7) + 3).to(dtype)
    c, mean = covariance_forward(x, 0.5)
    g = torch.randn_like(c)
    leaf = x.double().requires_grad_()
    (exact,) = torch.autograd.grad(exactly(leaf, 0.5)[0], leaf, g.double())
    leaf = x.to(c.dtype).requires_grad_()
    (plain,) = torch.autograd.grad(plainly(leaf, 0.5)[0], leaf, g)
    found = covariance_backward(g, x, mean, 0.5)
    assert found.dtype == dtype
    accuracy.check(found, plain.to(dtype), exact, factor=accuracy.BACKWARD, name="dx")


# The pieces of the warm solver ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "out"), [*((d, torch.bfloat16) for d in DTYPES), (torch.float32,) * 2], ids=str)
def test_centred(dtype, out):
    x = (torch.randn(2, 70, 150) + 3).to(dtype)
    rows, mean, total = centred(x, out)
    exact = x.double() - x.double().mean(-2, keepdim=True)
    plain = x.to(mean.dtype) - x.to(mean.dtype).mean(-2, keepdim=True)
    assert rows.dtype == out
    accuracy.check(rows, plain.to(out), exact, name="rows")
    accuracy.check(mean, x.to(mean.dtype).mean(-2), x.double().mean(-2), name="mean")
    accuracy.check(total, plain.square().sum((-2, -1)), exact.square().sum((-2, -1)), name="total")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 5, 50])
def test_rank_update(k, dtype):
    x = (torch.randn(2, 40, 70) + 3).to(dtype)
    mean = x.to(torch.promote_types(dtype, torch.float32)).mean(-2)
    y, scale, v, trend = (mean.new_empty(2, *s).normal_() for s in ((40, k), (k,), (70, k), ()))
    found = rank_update(y, scale, v, x, mean, trend)
    plain, exact = (
        (y.to(d) * scale.to(d)[:, None]) @ v.to(d).mT
        + trend.to(d)[:, None, None] * (x.to(d) - mean.to(d)[:, None])
        for d in (mean.dtype, torch.float64)
    )  # fmt: skip
    assert found.dtype == dtype
    accuracy.check(found, plain.to(dtype), exact, name="dx")
    accuracy.check(rank_update(y, scale, v, x.mT.contiguous().mT, mean, trend), plain.to(dtype), exact, name="dx")
    with pytest.raises(AssertionError):  # mutant: a trace that is not centred
        accuracy.check(rank_update(y, scale, v, x, 0 * mean, trend), plain.to(dtype), exact, name="dx")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(20, 6), (2, 5, 12), (3, 1)], ids=str)
def test_spectrum(shape, dtype):
    """Both sides, forward and backward, through the public function."""
    x, found = torch.randn(shape).to(dtype), {}
    k = min(4, *shape[-2:])
    for backend in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        with nk.backend(backend), backends.record() as ran:
            values = nk.covariance_spectrum(leaf, k=k)
            found[backend] = values, *torch.autograd.grad(values.square().sum(), leaf)
        assert set(ran) == {("spectrum", backend)}
    leaf = x.double().requires_grad_()
    with nk.backend("reference"):
        values = nk.covariance_spectrum(leaf, k=k)
        exact = values, *torch.autograd.grad(values.square().sum(), leaf)
    for name, *one in zip(("values", "dx"), found["triton"], found["reference"], exact, strict=True):
        accuracy.check(*one, factor=accuracy.BACKWARD, ulps=16, name=name)


def test_spectrum_of_what_fits_no_program():
    """Solved by torch.linalg; a wide gradient is the reference's."""
    x = torch.randn(70, 130, dtype=torch.float64)
    ours, theirs = (f(x, 70, 1.0, True) for f in (triton.spectrum, reference.spectrum))
    for name, a, b in zip(("values", "trace", "mean"), (*ours[:2], ours[4]), (*theirs[:2], theirs[4]), strict=True):
        accuracy.check(a, b, b, ulps=256, name=name)
    g, g_trace = torch.randn(70, dtype=x.dtype), torch.randn((), dtype=x.dtype)
    arguments = (x, g, g_trace, *ours[2:], 1.0)
    assert torch.equal(triton.spectrum_backward(*arguments), reference.spectrum_backward(*arguments))


def test_warm_spectrum():
    """Two steps of the warm solver; what it solves on the way is nearly diagonal."""
    x, found = torch.randn(60, 40) * torch.arange(1.0, 41) ** -1, {}
    for backend in ("triton", "reference"):
        state = SpectrumState()
        with nk.backend(backend), backends.record() as ran:
            for step in (x, x * 1.01):
                values = nk.covariance_spectrum(step, k=5, solver="warm", state=state)
        assert {"spectrum", backend} == {name for pair in ran for name in pair}
        found[backend] = values
    accuracy.check(found["triton"], found["reference"], nk.covariance_spectrum(1.01 * x.double(), k=5), ulps=64)
