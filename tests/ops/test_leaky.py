"""The leaky integrator: trace bit for bit, gradients within the accuracy rule, streaming, floor, and what it keeps."""

import math

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from tests import definitions
from tests.ops import golden
from tests.ops.agreement import identical, numpy

BACKENDS = ("reference", "cpu", "triton", "cuda")


def made(steps, *neurons, dtype=torch.float32, seed=0):
    """Arguments by name, every one a tensor."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.promote_types(dtype, torch.float32)

    def draw(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator)

    return {
        "x": draw(steps, *neurons).to(dtype),
        "decay": draw(neurons[-1]).sigmoid().to(state),
        "gain": (1 + 0.2 * draw(*neurons)).to(state),
        "v0": draw(*neurons).to(state),
    }


def evaluate(function, tensors, learn, **options):
    """The trace, and the gradients of a projection of it by argument."""
    given = {name: t.detach().requires_grad_(name in learn) for name, t in tensors.items()}
    trace = function(**given, **options)
    g = torch.linspace(-2, 2, trace.numel(), dtype=trace.dtype).cos().view(trace.shape).to(trace.device)
    leaves = [given[name] for name in learn]
    if not trace.requires_grad:  # the definition, of no steps
        return trace, g, {name: torch.zeros_like(given[name]) for name in learn}
    gradients = torch.autograd.grad(trace, leaves, g, materialize_grads=True)
    return trace.detach(), g, dict(zip(learn, gradients, strict=True))


def check(backend, tensors, floor=None, learn=("x", "decay", "gain", "v0"), ulps=4, place=lambda tensor: tensor):
    """Trace and gradients of one backend, where its tensors are placed, against the definition and float64."""
    with nk.backend(backend), backends.record() as ran:
        placed = {name: place(tensor) for name, tensor in tensors.items()}
        trace, g, gradients = evaluate(nk.leaky_integrate, placed, learn, floor=floor)
    trace, g, gradients = trace.cpu(), g.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}
    assert ran == [("leaky_integrate", backend)] * 2
    reference = evaluate(definitions.leaky_integrate, tensors, learn, floor=floor)
    identical(trace, reference[0], "trace")
    x = tensors["x"].to(trace.dtype).numpy()
    decay, gain, v0 = (tensors[name].numpy() for name in ("decay", "gain", "v0"))
    single = golden.leaky(x, decay, gain, floor, v0)
    identical(trace, torch.tensor(single), "trace")
    low = None if floor is None else single <= floor
    values = [numpy(tensors[name]) for name in ("x", "decay", "gain", "v0")]
    exact_trace = golden.leaky(values[0], *values[1:3], floor, values[3], low)
    exact, magnitude = golden.leaky_gradients(values[0], exact_trace, *values[1:3], low, values[3], numpy(g))
    for name, gradient in gradients.items():
        value, cancels = torch.tensor(exact[name]), 1.0
        if name in magnitude:
            value = value.sum_to_size(gradient.shape)
            terms = torch.tensor(magnitude[name]).sum_to_size(gradient.shape)
            cancels = float(terms.max() / value.abs().max().clamp(min=1e-300)) if value.numel() else 1.0
        allowed = ulps * max(cancels, 1.0) * (16 if trace.dtype == torch.float64 else 1)
        accuracy.check(
            gradient, reference[2][name], value, factor=accuracy.BACKWARD, ulps=allowed, name=f"gradient of {name}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("floor", [None, 0.0, -0.5])
def test_agreement(backend, dtype, floor):
    steps = 6 if backend == "triton" else 40
    check(backend, made(steps, 3, 9, dtype=dtype), floor)


@pytest.mark.parametrize("learn", [("x",), ("v0",), ("decay",), ("gain",), ("x", "decay"), ("gain", "v0")], ids=str)
def test_what_is_not_asked_for(backend, learn):
    """Fewer wanted gradients keep fewer tensors; the numbers stay."""
    steps = 5 if backend == "triton" else 20
    for floor in (None, -0.5):
        check(backend, made(steps, 2, 5), floor, learn)


def test_by_hand(backend):
    x = torch.tensor([1.0, -2.0, 0.5, 0.5]).view(4, 1)
    with nk.backend(backend):
        assert nk.leaky_integrate(x, decay=0.5).flatten().tolist() == [1.0, -1.5, -0.25, 0.375]
        assert nk.leaky_integrate(x, decay=0.5, floor=0.0).flatten().tolist() == [1.0, 0.0, 0.5, 0.75]
        assert nk.leaky_integrate(x, decay=0.5, gain=2.0, v0=torch.tensor([4.0]))[0].item() == 4.0
        assert nk.leaky_integrate(x, decay=1.0).flatten().tolist() == [1.0, -1.0, -0.5, 0.0]
        assert nk.leaky_integrate(x, decay=0.0).flatten().tolist() == x.flatten().tolist()


def test_is_lif_without_resets(backend):
    """The same membrane as a LIF neuron that never resets, at every step."""
    x = torch.randn(7, 5)
    with nk.backend(backend):
        trace = nk.leaky_integrate(x, decay=0.9, gain=1.1, floor=-1.0)
        for t in range(7):
            out = nk.lif(x[: t + 1], decay=0.9, gain=1.1, floor=-1.0, reset="none")
            identical(trace[t], out.membrane, f"membrane of step {t}")


def test_streaming(backend):
    """The last step of one piece is where the next one starts: the whole, bit for bit."""
    tensors = made(12, 2, 3)
    with nk.backend(backend):
        whole = nk.leaky_integrate(**tensors, floor=-0.3)
        v0, parts = tensors["v0"], []
        for piece in tensors["x"].split(4):
            parts.append(nk.leaky_integrate(**tensors | {"x": piece, "v0": v0}, floor=-0.3))
            v0 = parts[-1][-1]
    identical(torch.cat(parts), whole, "trace")


def test_not_finite(backend):
    x = torch.zeros(4, 4)
    x[1, 1], x[1, 2], x[1, 3] = math.inf, -math.inf, math.nan
    with nk.backend(backend):
        trace = nk.leaky_integrate(x, decay=0.5, floor=-1.0)
    assert trace[:, 0].tolist() == [0.0] * 4
    assert trace[1:, 1].tolist() == [math.inf] * 3
    assert trace[1:, 2].tolist() == [-1.0, -0.5, -0.25]
    assert trace[1:, 3].isnan().all()


def test_no_steps(backend):
    v0 = torch.ones(3, requires_grad=True)
    with nk.backend(backend):
        trace = nk.leaky_integrate(torch.zeros(0, 3), decay=0.5, v0=v0)
        trace.sum().backward()
    assert trace.shape == (0, 3)
    assert v0.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("learn", "options", "kept"),
    [
        ((), {}, 0),
        ((), {"floor": 0.0}, 4),
        (("decay",), {}, 4),
        (("gain",), {}, 4),
        (("decay", "gain"), {"floor": 0.0}, 8),
    ],
    ids=str,
)
def test_what_is_kept(backend, learn, options, kept):
    """Nothing for a filter with fixed factors; the trace for a floor or a decay, x for a gain: bytes per step."""
    x = torch.randn(16, 64, requires_grad=True)
    values = {"decay": torch.full((64,), 0.9), "gain": torch.ones(64)}
    given = {n: v.requires_grad_() if n in learn else float(v[0]) for n, v in values.items()}
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with nk.backend(backend), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        nk.leaky_integrate(x, **given, **options)
    small = 4 * 64 * len(learn)
    assert kept * x.numel() <= sum(storages.values()) <= kept * x.numel() + small
