"""Canonical correlation on a GPU: as accurate as promised, the same at every run, and without waiting for it."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca.cuda_limits import SMALL
from tests.gpu import coverage
from tests.ops import torture

SHAPES = [
    (50, 10, 10), (128, 10, 7), (256, 32, 17), (512, 1, 16), (4096, 10, 10), (4096, 32, 20), (300, 64, 33),
    (1024, 256, 256), (501, 333, 250), (4096, 512, 100),
]  # fmt: skip
LAUNCHES = [(128, 10, 10), (2048, 32, 32), (512, 64, 64), (1024, 256, 256)]


@pytest.fixture(autouse=True, params=coverage.of("dcca"))
def backend(request):
    """Every test on every backend; wide views are none of CUDA's, which hands them to the reference."""
    shape = request.node.callspec.params.get("shape", ())
    if request.param == "cuda" and max(shape[1:], default=0) > SMALL:
        pytest.skip("CUDA has kernels for small views")
    with nk.backend(request.param):
        yield request.param


def related(n, d1, d2, *batch, dtype=torch.float32):
    """Two views on the GPU, the same ones every time."""
    generator = torch.Generator().manual_seed(n + d1 + d2)
    x, y = (torch.randn(*batch, n, d, dtype=torch.float64, generator=generator) for d in (d1, d2))
    common = min(d1, d2)
    y[..., :common] += x[..., :common]
    return (x + 0.5).to("cuda", dtype), y.to("cuda", dtype)


def run(x, y, reg=1e-4, **options):
    """The objective and its gradients."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    loss = nk.dcca_loss(x, y, reg=reg, **options)
    dx, dy = torch.autograd.grad(loss.sum(), (x, y))
    return -loss.detach(), -dx, -dy


def check(x, y, reg=(1e-4, 1e-4), bounds=(1e-6, 1e-5), **options):
    """Within the bounds of what singular values in float64 say, and the same again."""
    with backends.record() as ran:
        found = run(x, y, reg, **options)
    assert ran == [("dcca", backends.requested())] * 2
    wanted = {name: value for name, value in options.items() if name != "precision"}
    errors = torture.errors(tuple(t.cpu() for t in found), torture.truth(x.cpu(), y.cpu(), reg, **wanted))
    assert all(e <= bound for e, bound in zip(errors, bounds, strict=True)), errors
    for again, first in zip(run(x, y, reg, **options), found, strict=True):
        assert torch.equal(again, first)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(shape):
    check(*related(*shape))
    check(*related(*shape), objective="fro2")
    check(*related(*shape), bounds=(1e-3, 1e-2), precision="fast")
    check(*related(*shape, dtype=torch.float64), bounds=(1e-11, 1e-9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", LAUNCHES, ids=str)
def test_half_precision(shape, dtype):
    found = check(*related(*shape, dtype=dtype), bounds=(1e-6, 2 * torch.finfo(dtype).eps))
    assert [t.dtype for t in found] == [torch.float32, dtype, dtype]


@pytest.mark.parametrize("name", torture.CASES)
def test_torture(name):
    case = torture.CASES[name]
    x, y = (v.cuda() for v in case.inputs())
    loose = {"identical views": 5e-3, "condition 1e6": 1e-4}
    check(x, y, case.reg, bounds=(1e-6, loose.get(name, 1e-5)))
    if name in ("ordinary", "duplicated unit", "three dead units", "scale 1e-6"):
        x, y = (v.cuda() for v in case.inputs((1024, 200, 200)))
        check(x, y, case.reg, bounds=(1e-6, 5e-5))


def test_high_precision_is_not_a_setting_of_torch():
    """Products of float64 and of TF32 in three parts do not heed what the user allows for products of float32."""
    x, y = related(1024, 256, 256)
    expected = run(x, y)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    for ours, theirs in zip(run(x, y), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", LAUNCHES, ids=str)
def test_batches_and_strides(shape):
    x, y = related(*shape, 3)
    found = run(x, y)
    # Other sizes and strides are other programs, which may add in another order.
    turned = run(x.mT.contiguous().mT, y.mT.contiguous().mT)
    for same, items in ((run(x[1:2], y[1:2]), slice(1, 2)), (turned, slice(3))):
        for ours, theirs in zip(same, found, strict=True):
            torch.testing.assert_close(ours, theirs[items], rtol=0, atol=1e-5 * float(theirs.abs().max()))
    x[1, 3, 0] = torch.nan
    for ours, theirs in zip(run(x, y), found, strict=True):
        assert ours[1].isnan().all()
        assert torch.equal(ours[::2], theirs[::2])


@pytest.mark.parametrize("precision", ["high", "fast"])
@pytest.mark.parametrize("shape", LAUNCHES, ids=str)
def test_nothing_waits_for_the_gpu(shape, precision):
    x, y = related(*shape)
    run(x, y, precision=precision)  # compiles, and makes the handles of torch's libraries
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(x, y, precision=precision)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["high", "fast"])
@pytest.mark.parametrize("shape", LAUNCHES, ids=str)
def test_side_stream_and_graph(shape, precision):
    """Value and gradients of other data come out of a graph that was captured once."""
    x, y = related(*shape)
    u, v = x.clone(), y.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        aside = run(u, v, precision=precision)
    torch.cuda.current_stream().wait_stream(stream)
    expected = run(x, y, precision=precision)
    for ours, theirs in zip(aside, expected, strict=True):
        assert torch.equal(ours, theirs)
    u.normal_()
    v.normal_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(u, v, precision=precision)
    u.copy_(x)
    v.copy_(y)
    for one in captured:
        one.zero_()
    graph.replay()
    for ours, theirs in zip(captured, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_what_needs_a_decomposition():
    """It is torch.linalg's, on the GPU."""
    check(*related(100, 20, 30), bounds=(1e-6, 1e-4), objective="topk", k=5)
    check(*related(128, 256, 100), (1e-2, 1e-2), bounds=(1e-6, 1e-4))
    x, y = related(100, 20, 30)
    values = nk.canonical_correlations(x, y)
    assert values.is_cuda
    torch.testing.assert_close(values.sum().cpu(), -nk.dcca_loss(x.cpu(), y.cpu()), rtol=1e-5, atol=0)
