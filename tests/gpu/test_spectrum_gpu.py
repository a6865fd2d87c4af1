"""Covariance and spectra on a GPU: as accurate as plain PyTorch, the same at every run, and without waiting for it."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels._core.covariance_triton import centred, covariance_backward, covariance_forward, rank_update
from neurokernels.ops.spectrum import triton
from tests.gpu import coverage

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(100, 200, 32), (1500, 2000), (4096, 128), (7, 501, 333), (70000, 3, 5), (3, 1)]


def plainly(x, dtype, correction=1.0):
    x = x.to(dtype)
    rows = x - x.mean(-2, keepdim=True)
    return rows.mT @ rows / (x.shape[-2] - correction)


def compute(dtype):
    return torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_covariance(shape, dtype):
    x = (torch.randn(shape, device="cuda") + 3).to(dtype)
    found, mean = covariance_forward(x, 1.0)
    exact = plainly(x, torch.float64)
    accuracy.check(found, plainly(x, compute(dtype)), exact, ulps=64, name="covariance")
    assert torch.equal(found, found.mT)
    assert torch.equal(covariance_forward(x, 1.0)[0], found)
    g = torch.randn_like(found)
    leaf = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(plainly(leaf, torch.float64), leaf, g.double())
    dx = covariance_backward(g, x, mean, 1.0)
    accuracy.check(dx, expected.to(dtype), expected, factor=accuracy.BACKWARD, ulps=64, name="dx")


def test_tf32_where_the_user_allows_it():
    x = torch.randn(1500, 300, device="cuda")
    exact = plainly(x, torch.float64)
    precise, _ = accuracy.error(covariance_forward(x, 1.0)[0], exact)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    fast, _ = accuracy.error(covariance_forward(x, 1.0)[0], exact)
    assert precise < 1e-5 < fast < 1e-2


def test_offset():
    x = torch.randn(500, 64, device="cuda") + 1e4
    accuracy.check(covariance_forward(x, 1.0)[0], plainly(x, x.dtype), plainly(x, torch.float64), name="covariance")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pieces_of_the_warm_solver(dtype):
    x = (torch.randn(1500, 2000, device="cuda") + 3).to(dtype)
    exact = x.double() - x.double().mean(0)
    rows, mean, total = centred(x, torch.bfloat16)
    accuracy.check(rows, exact.bfloat16(), exact, name="rows")
    accuracy.check(total, exact.square().sum().to(total.dtype), exact.square().sum(), ulps=16, name="total")
    y, scale, v = (torch.randn(s, device="cuda", dtype=mean.dtype) for s in ((1500, 50), (50,), (2000, 50)))
    expected = (y.double() * scale.double()) @ v.double().T + 0.3 * exact
    found = rank_update(y, scale, v, x, mean, mean.new_tensor(0.3))
    accuracy.check(found, expected.to(dtype), expected, ulps=16, name="dx")


def symmetric(count, size, dtype):
    a = torch.randn(count, size, size, device="cuda", dtype=torch.float64)
    return (a + a.mT).to(dtype)


def check(a, values, vectors):
    """Within a small multiple of D eps and the norm of what float64 says."""
    exact = torch.linalg.eigvalsh(a.double())
    unit, norm = a.shape[-1] * torch.finfo(values.dtype).eps, exact.abs().amax(-1)
    values, vectors = values.double(), vectors.double()
    eye = torch.eye(a.shape[-1], device="cuda", dtype=torch.float64)
    residual = torch.linalg.matrix_norm(a.double() @ vectors - vectors * values[:, None], 2) / norm
    assert (residual < 6 * unit).all()
    assert (torch.linalg.matrix_norm(vectors.mT @ vectors - eye, 2) < 6 * unit).all()
    assert ((values - exact).abs().amax(-1) < 4 * unit * norm).all()


@pytest.fixture(params=coverage.of("eigh"))
def backend(request):
    with nk.backend(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16, 20, 32, 33, 64, 100, 128])
def test_eigh(size, dtype, backend):
    a = symmetric(257, size, dtype)
    refused = {row.name: row.why_not(a) for row in backends.rows("eigh")}[backend]
    if refused:
        assert (backend, dtype) == ("triton", torch.float64)
        assert size > 64
        with pytest.raises(backends.BackendError, match="up to D = 64"):
            nk.eigh(a)
        return
    with backends.record() as ran:
        values, vectors = nk.eigh(a)
        alone = nk.eigvalsh(a)
    assert ran == [("eigh", backend)] * 2
    check(a, values, vectors)
    # Without vectors a kernel is compiled anew, and its sums may be contracted in another way.
    accuracy.check(alone, values, values, ulps=4 * size, name="values")
    assert torch.equal(nk.eigh(a[100:101])[1], vectors[100:101])  # neighbours leave no trace
    clusters = symmetric(3, size, dtype).sign().cumsum(-1).sign()
    clusters = clusters.tril() + clusters.tril(-1).mT
    check(clusters, *nk.eigh(clusters))


def test_not_finite(backend):
    a = symmetric(100, 7, torch.float32)
    vectors = nk.eigh(a)[1]
    a[31, 4, 2] = torch.nan
    found = nk.eigh(a)
    assert found[0][31].isnan().all()
    assert torch.equal(found[1][32:], vectors[32:])
    assert torch.equal(found[1][:31], vectors[:31])


def test_nothing_waits_for_the_gpu():
    """All of a warm step can be captured in a graph."""
    x = torch.randn(300, 400, device="cuda")
    basis = torch.linalg.qr(torch.randn(400, 128, device="cuda")).Q

    def step():
        rows, mean, total = centred(x, torch.float32)
        y = rows @ basis
        values, turn = triton.small_eigh(y.mT @ y, sweeps=4, positive=True)
        return rank_update(y @ turn[:, -50:], values[-50:], basis @ turn[:, -50:], x, mean, total)

    expected = step()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        captured = step()
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)
