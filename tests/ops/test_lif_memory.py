"""What a call keeps for its backward pass, in bytes per step and neuron, and that it keeps nothing else alive."""

import gc

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import neurokernels as nk
from neurokernels._core import backends

BACKENDS = ("reference", "cpu", "triton", "cuda")

STEPS, NEURONS = 100, (8, 16)


def saved(x, **options):
    """Bytes of all storages that autograd keeps, per step and neuron, and those that are not x itself."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = nk.lif(x, **options)
    own = {k: v for k, v in storages.items() if k != x.untyped_storage().data_ptr()}
    return sum(storages.values()) / x.numel(), sum(own.values()) / x.numel(), out


def gone(watched, backend):
    """Whether a storage is free; without the garbage collector, but for the interpreter, whose frames are cyclic."""
    if backend == "triton":
        gc.collect()
    return watched.expired()


@pytest.fixture
def x(backend):
    steps = 16 if backend == "triton" else STEPS
    with nk.backend(backend), backends.record() as ran:
        yield torch.randn(steps, *NEURONS).requires_grad_()
    assert {name for _, name in ran} == {backend}


@pytest.mark.parametrize("chosen", ["constant", "boxcar"])
@pytest.mark.parametrize(
    "options", [{}, {"floor": -0.5, "refractory": 2}, {"reset": "subtract", "detach_reset": False}]
)
def test_bits(x, chosen, options):
    """Two bits in words of 16 steps: 4 bytes for 16 steps, and the last word may be part empty. x is not kept."""
    whole, own, out = saved(x, decay=0.9, surrogate=chosen, **options)
    words = -(-x.shape[0] // 16)
    assert whole == own == 4 * words / x.shape[0]
    assert whole <= 0.4
    out.spikes.sum().backward()
    assert x.grad.abs().sum() > 0


def test_recompute(x):
    """x, which lives anyway, and one membrane of every 16: 4.3 bytes of float32 of which at most 0.25 are new."""
    for options in ({}, {"detach_reset": False}, {"reset": "subtract"}, {"surrogate": "triangle", "refractory": 3}):
        whole, own, _ = saved(x, decay=0.9, **options)
        assert own <= 0.25 + (1 / 16 if "refractory" in options else 0)
        assert whole <= 4.3


def test_recompute_of_low_precision(x):
    half = x.detach().bfloat16().requires_grad_()
    whole, own, _ = saved(half, decay=0.9)
    assert own <= 0.25
    assert whole <= 2.3


def test_learnable_parameters(x):
    """They need x again, whatever the surrogate; themselves they are small."""
    decay = torch.full(NEURONS[-1:], 0.9, requires_grad=True)
    whole, own, _ = saved(x, decay=decay, surrogate="constant")
    assert own <= 0.25 + 0.01
    assert whole <= 4.3


def test_membrane(x):
    """Every u, instead of x."""
    whole, own, _ = saved(x, decay=0.9, residual="membrane")
    assert whole == own == 4.0


def test_nothing_without_gradients(x):
    constant = x.detach()
    assert saved(constant, decay=0.9)[0] == 0
    with torch.no_grad():
        assert saved(x, decay=0.9)[0] == 0
    with torch.inference_mode():
        assert saved(x, decay=0.9)[0] == 0


@pytest.mark.parametrize(
    ("options", "goes"), [({"surrogate": "boxcar"}, True), ({"residual": "membrane"}, True), ({}, False)]
)
def test_the_input_is_let_go(x, backend, options, goes):
    """Where the backward pass does not need it, the memory of x is free as soon as the caller lets it go."""
    current = x * 2
    watched = StorageWeakRef(current.untyped_storage())
    out = nk.lif(current, decay=0.9, **options)
    del current
    assert gone(watched, backend) == goes
    out.spikes.sum().backward()
    assert gone(watched, backend)


def test_nothing_is_kept_after_the_backward_pass(x, backend):
    out = nk.lif(x, decay=0.9, residual="membrane")
    saved_tensors = out.spikes.grad_fn.saved_tensors
    watched = [StorageWeakRef(t.untyped_storage()) for t in saved_tensors if t is not None]
    assert watched
    del saved_tensors
    out.spikes.sum().backward()
    assert all(gone(w, backend) for w in watched)
