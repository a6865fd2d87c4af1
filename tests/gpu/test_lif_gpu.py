"""LIF on a GPU: spikes bit-equal to the definition on the CPU, gradients close, side streams and CUDA graphs."""

from itertools import product

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from tests.gpu import coverage

OPTIONS = [
    {"reset": reset, "detach_reset": detach, "floor": floor, "refractory": refractory, "surrogate": chosen}
    for (reset, detach), (floor, refractory), chosen in product(
        (("zero", True), ("zero", False), ("subtract", True), ("subtract", False), ("none", True)),
        ((None, 0), (-0.3, 2)),
        ("constant", "boxcar", "atan", "sigmoid", "gaussian", nk.surrogate.tabulated([0.0, 1.0, 0.0], low=-1, high=1)),
    )
]


def run(backend, device, x, g, **options):
    """Spikes, membrane and the gradients of input and decay, on the CPU."""
    x = x.to(device).requires_grad_()
    decay = torch.linspace(0.5, 1, x.shape[-1], device=device, requires_grad=True)
    with nk.backend(backend), backends.record() as ran:
        out = nk.lif(x, decay=decay, gain=0.8, **options)
        grads = torch.autograd.grad(out.spikes, (x, decay), g.to(device))
    assert ran == [("lif", backend)] * 2
    return [t.detach().cpu() for t in (out.spikes, out.membrane, *grads)]


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: Each option of Triton, which compiles for every one of them, in one dtype; of CUDA in all.
AGREEMENT = [
    (backend, options, dtype)
    for backend in coverage.of("lif")
    for i, options in enumerate(OPTIONS)
    for dtype in (DTYPES if backend == "cuda" else (DTYPES[i % 7 % 4],))
]


@pytest.mark.parametrize(("backend", "options", "dtype"), AGREEMENT, ids=str)
def test_agrees_with_the_definition(backend, options, dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(37, 3, 1000, generator=generator).to(dtype)
    g = torch.randn(37, 3, 1000, generator=generator).to(dtype)
    spikes, membrane, dx, ddecay = run(backend, "cuda", x, g, **options)
    expected = run("reference", "cpu", x, g, **options)
    assert torch.equal(spikes, expected[0])
    assert torch.equal(membrane, expected[1])
    for name, value, reference in (("dx", dx, expected[2]), ("ddecay", ddecay, expected[3])):
        accuracy.check(value, reference, reference, ulps=64, name=name)


def test_auto_picks_by_size():
    """CUDA has many steps of a small layer under way; a large one is Triton's."""
    with backends.record() as ran:
        nk.lif(torch.randn(5, 7, device="cuda"), decay=0.9)
        nk.lif(torch.randn(5, 2**20, device="cuda"), decay=0.9)
    assert ran == [("lif", "cuda"), ("lif", "triton")]


def test_side_stream_and_graph():
    x = torch.randn(20, 4096, device="cuda")
    expected = nk.lif(x, decay=0.9).spikes
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        aside = nk.lif(x, decay=0.9).spikes
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(aside, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = nk.lif(x, decay=0.9).spikes
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)


def test_mixed_devices_are_refused():
    with pytest.raises(ValueError, match="decay must be on cuda"):
        nk.lif(torch.randn(5, 7, device="cuda"), decay=torch.rand(7))
