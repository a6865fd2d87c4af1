"""The state that one call hands to the next: through NumPy, vmap, compile, derivatives, saving and other backends."""

import numpy as np
import pytest
import torch

import neurokernels as nk
from tests.ops.agreement import identical

BACKENDS = ("reference", "cpu", "triton", "cuda")

REST = {"decay": 0.8, "refractory": 3, "threshold": 0.7}


@pytest.fixture
def x():
    return torch.randn(12, 2, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _on(backend):
    with nk.backend(backend):
        yield


def whole(x, **options):
    """Spikes of the last six steps, and the state after them, of an uninterrupted run."""
    out = nk.lif(x, **(REST | options))
    assert out.state.countdown.any()
    return out.spikes[6:], out.state


def first(x, **options):
    """The state after six steps, in the middle of refractory periods."""
    state = nk.lif(x[:6], **(REST | options)).state
    assert state.countdown.any()
    return state


def same(out, expected):
    identical(out.spikes, expected[0], "spikes")
    identical(out.state.membrane, expected[1].membrane, "membrane")
    identical(out.state.countdown, expected[1].countdown, "countdown")
    assert out.membrane is out.state.membrane


def test_goes_on(x):
    state = first(x)
    kept = [s.clone() for s in state]
    same(nk.lif(x[6:], v0=state, **REST), whole(x))
    same(nk.lif(x[6:], v0=tuple(state), **REST), whole(x))
    for a, b in zip(state, kept, strict=True):
        identical(a, b, "the state that was handed in")


def test_a_membrane_alone_forgets_the_countdown(x):
    out = nk.lif(x[6:], v0=first(x).membrane, **REST)
    assert not torch.equal(out.spikes, whole(x)[0])


def test_other_backends(x, backend):
    with nk.backend("cpu" if backend == "reference" else "reference"):
        state = first(x)
    same(nk.lif(x[6:], v0=state, **REST), whole(x))


def test_numpy(x):
    out = nk.lif(x[:6].numpy(), **REST)
    assert isinstance(out.state, nk.LIFState)
    assert [type(s) for s in out.state] == [np.ndarray] * 2
    again = nk.lif(x[6:].numpy(), v0=out.state, **REST)
    spikes, state = whole(x)
    np.testing.assert_array_equal(again.spikes, spikes.numpy(), strict=True)
    np.testing.assert_array_equal(again.state.countdown, state.countdown.numpy(), strict=True)


def test_saved(x, tmp_path):
    torch.save(tuple(first(x)), tmp_path / "state.pt")
    state = nk.LIFState(*torch.load(tmp_path / "state.pt", weights_only=True))
    same(nk.lif(x[6:], v0=state, **REST), whole(x))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap(x, dim):
    """Over streams, each with a state of its own."""
    many = torch.stack([x, -x, 2 * x], dim)

    def pieces(stream):
        state = nk.lif(stream[:6], **REST).state
        out = nk.lif(stream[6:], v0=state, **REST)
        return out.spikes, *out.state

    got = torch.vmap(pieces, dim)(many)
    for i, stream in enumerate((x, -x, 2 * x)):
        for a, b in zip(got, pieces(stream), strict=True):
            identical(a[i], b, f"stream {i}")


def test_vmap_over_states(x):
    """One input, many states."""
    states = torch.stack([torch.zeros(2, 5), torch.full((2, 5), 0.6)])
    left = torch.stack([torch.full((2, 5), 2, dtype=torch.int32), torch.zeros(2, 5, dtype=torch.int32)])
    got = torch.vmap(lambda v, n: nk.lif(x, v0=nk.LIFState(v, n), **REST).spikes)(states, left)
    for i in range(2):
        identical(got[i], nk.lif(x, v0=nk.LIFState(states[i], left[i]), **REST).spikes, f"state {i}")


def test_compile(x):
    torch._dynamo.reset()

    def step(piece, state):
        return nk.lif(piece, v0=state, **REST)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    state = compiled(x[:6], None).state
    same(compiled(x[6:], state), whole(x))
    torch._dynamo.reset()


def test_derivatives(x):
    """Through the pieces as through the whole: reverse, and forward."""
    options = {"surrogate": "triangle"}

    def pieces(values):
        state = nk.lif(values[:6], **REST, **options).state
        out = nk.lif(values[6:], v0=state, **REST, **options)
        return (out.spikes * torch.linspace(-1, 1, 60).view(6, 2, 5)).sum() + out.membrane.square().sum()

    def uninterrupted(values):
        out = nk.lif(values, **REST, **options)
        return (out.spikes[6:] * torch.linspace(-1, 1, 60).view(6, 2, 5)).sum() + out.membrane.square().sum()

    gradient = torch.func.grad(pieces)(x)
    assert gradient[:6].any()
    identical(gradient, torch.func.grad(uninterrupted)(x), "gradient")
    tangents = torch.ones_like(x)
    got, expected = (torch.func.jvp(f, (x,), (tangents,))[1] for f in (pieces, uninterrupted))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got, (gradient * tangents).sum(), rtol=1e-4, atol=1e-4)


def test_requires_grad():
    """The countdown is a number of steps: it has no gradient and asks for none."""
    out = nk.lif(torch.randn(4, 3, requires_grad=True), **REST)
    assert out.state.membrane.requires_grad
    assert not out.state.countdown.requires_grad
