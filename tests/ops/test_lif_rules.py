"""The rules of a LIF neuron, one by one, on numbers that can be followed by hand."""

import math

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from tests.ops.agreement import identical, made

BACKENDS = ("reference", "cpu", "triton", "cuda")

INF = math.inf


@pytest.fixture(autouse=True)
def _on(backend):
    """Every call of these tests runs on the backend that they are about."""
    with nk.backend(backend), backends.record() as ran:
        yield
    assert {name for _, name in ran} == {backend}


def spikes(x, **options):
    """Spike train of one neuron as a list."""
    return nk.lif(torch.tensor(x).view(-1, 1), **options).spikes.flatten().tolist()


def membranes(x, **options):
    """Carried membrane of one neuron after every step."""
    x = torch.tensor(x).view(-1, 1)
    return [nk.lif(x[: t + 1], **options).membrane.item() for t in range(len(x))]


def test_by_hand():
    x = [0.5, 0.5, 0.5, 0.0, 2.0]
    assert membranes(x, decay=0.5) == [0.5, 0.75, 0.875, 0.4375, 0.0]
    assert spikes(x, decay=0.5) == [0, 0, 0, 0, 1]
    assert membranes(x, decay=0.5, reset="subtract", threshold=0.75) == [0.5, 0.0, 0.5, 0.25, 1.375]
    assert membranes(x, decay=0.5, reset="none", gain=2.0) == [1.0, 1.5, 1.75, 0.875, 4.4375]
    assert membranes(x, decay=0.5, threshold=0.75, v_reset=-0.25) == [0.5, -0.25, 0.375, 0.1875, -0.25]


@pytest.mark.parametrize("threshold", [1.0, 0.1, 0.7, 1 / 3])
def test_exactly_at_the_threshold(threshold):
    """It always spikes; whether it resets is what ``reset_at`` says."""
    at = torch.tensor(threshold).item()
    below, above = (torch.nextafter(torch.tensor(at), torch.tensor(s)).item() for s in (-INF, INF))
    for reset_at, resets in (("reach", True), ("above", False)):
        given = {"decay": 0.5, "threshold": threshold, "reset_at": reset_at, "v_reset": -0.5}
        assert spikes([below, 0.0], **given) == [0, 0]
        assert membranes([below], **given) == [below]
        assert spikes([at], **given) == [1]
        assert membranes([at], **given) == [-0.5 if resets else at]
        assert spikes([above], **given) == [1]
        assert membranes([above], **given) == [-0.5]
        given |= {"reset": "subtract"}
        assert membranes([at], **given) == [0.0 if resets else at]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_fused_multiply_add(dtype):
    """Both products are rounded before they are added: with either one fused into the sum these neurons would spike."""
    small = 2.0 ** (-12 if dtype == torch.float32 else -27)
    factor = torch.full((37,), 1 + small, dtype=dtype)  # its square is 1 + 2 small, and small**2 that is rounded away
    other = torch.full((1, 37), -(1 + 2 * small), dtype=dtype)
    for given in (
        {"x": other, "decay": factor, "v0": factor},
        {"x": factor[None], "decay": 1.0, "v0": other[0], "gain": factor},
        {"x": factor[None], "decay": 1.0, "v0": other[0], "gain": 1 + small},
    ):
        out = nk.lif(**given, threshold=small**2 / 2, reset="none")
        assert not out.membrane.any()
        assert not out.spikes.any()


def largest_gap(pulses, decay, gain, gaps):
    """The largest distance between unit pulses at which that many of them still make a neuron spike; 0 if none does."""
    x = torch.zeros(gaps * (pulses - 1) + 1, gaps)
    for k in range(pulses):
        x[k * torch.arange(1, gaps + 1), torch.arange(gaps)] = 1.0
    fired = nk.lif(x, decay=decay, gain=gain).spikes.any(0)
    assert torch.equal(fired, fired.cummin(0).values.bool())  # up to a largest gap, and never beyond it
    return int(fired.sum())


@pytest.mark.parametrize(
    ("decay", "gain"), [(0.9, 0.6), (0.9, 0.4), (0.97, 0.55), (0.8, 0.75), (0.95, 0.35), (0.7, 0.31)]
)
def test_phase_diagram(backend, decay, gain):
    """Gerum & Schilling: with a = decay**m, k pulses m steps apart make a spike if gain (1 + ... + a**(k-1)) >= 1."""
    gaps = 12 if backend == "triton" else 40
    conditions = {
        2: lambda a: gain * (1 + a) >= 1,
        3: lambda a: gain * (1 + a + a * a) >= 1,
        60: lambda a: gain / (1 - a) >= 1,  # as good as endlessly many
    }
    for pulses in (2,) if backend == "triton" else conditions:
        bound = sum(conditions[pulses](decay**m) for m in range(1, gaps + 1))
        assert largest_gap(pulses, decay, gain, gaps) == bound
    assert sum(conditions[60](decay**m) for m in range(1, 41)) > sum(conditions[2](decay**m) for m in range(1, 41))


def test_gerum_preset_spikes_and_stays():
    """At exactly the threshold their published code spikes and does not reset; the floor keeps membranes at zero."""
    given = {"decay": 0.5, "floor": 0.0, "reset_at": "above", "surrogate": "constant"}
    assert spikes([1.0, 0.5, 0.75, -9.0, 0.5], **given) == [1, 1, 1, 0, 0]
    assert membranes([1.0, 0.5, 0.75, -9.0, 0.5], **given) == [1.0, 1.0, 0.0, 0.0, 0.5]


def test_floor():
    assert membranes([-2.0, 0.25, -0.5], decay=0.5, floor=-0.25) == [-0.25, 0.125, -0.25]
    x = torch.tensor([[-2.0], [0.25], [-0.265625], [0.1875]], requires_grad=True)
    out = nk.lif(x, decay=0.5, floor=-0.1875)
    out.membrane.sum().backward()
    assert out.membrane.item() == 0.09375
    assert x.grad.flatten().tolist() == [0.0, 0.0, 0.0, 1.0]  # u = floor exactly lets nothing through either


def test_floor_above_the_threshold():
    """A floor that is high makes every step spike, and lets no gradient through."""
    x = torch.randn(5, 3, requires_grad=True)
    out = nk.lif(x, decay=0.5, floor=2.0)
    assert out.spikes.all()
    out.spikes.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_refractory(steps):
    """After a spike, so many steps at v_reset, whatever the input: a spike every steps + 1."""
    x = [2.0] * 13
    expected = [float(t % (steps + 1) == 0) for t in range(13)]
    assert spikes(x, decay=0.5, refractory=steps) == expected
    assert membranes(x[:3], decay=0.5, refractory=5, v_reset=-0.5) == [-0.5, -0.5, -0.5]
    out = nk.lif(torch.tensor(x[:1]).view(1, 1), decay=0.5, refractory=steps)
    assert out.state.countdown.tolist() == [steps]
    assert out.state.countdown.dtype == torch.int32


def test_refractory_passes_no_gradient():
    x = torch.tensor([[2.0], [0.3], [0.4], [0.5]], requires_grad=True)
    decay = torch.tensor([0.5], requires_grad=True)
    v_reset = torch.tensor([0.25], requires_grad=True)
    out = nk.lif(x, decay=decay, v_reset=v_reset, refractory=2, surrogate="constant")
    (out.spikes[1:3].sum() + out.membrane.sum()).backward()
    assert x.grad.flatten().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert decay.grad.item() == 0.25  # the membrane that the last step starts from
    assert v_reset.grad.item() == 0.0


def test_refractory_spike_of_v_reset():
    """Where v_reset reaches the threshold a neuron that has spiked goes on spiking."""
    assert spikes([2.0, 0.0, 0.0, 0.0], decay=0.5, refractory=1, v_reset=1.5) == [1, 1, 1, 1]


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_not_finite(backend, reset):
    """Infinity resets cleanly where resets select; NaN goes on, and stays in its neuron."""
    x = torch.full((6, 4), 0.25)
    x[1, 1], x[1, 2], x[1, 3] = INF, -INF, math.nan
    given = {"decay": 0.5, "reset": reset}
    out = nk.lif(x, **given)
    assert out.spikes[:, 0].tolist() == [0.0] * 6
    assert out.membrane[0] == nk.lif(x[:, :1], **given).membrane[0]
    if reset == "zero":
        assert out.spikes[:, 1].tolist() == [0, 1, 0, 0, 0, 0]
        assert out.membrane[1] == nk.lif(x[2:, 1:2], **given).membrane[0]
    else:
        assert out.spikes[:, 1].tolist() == [0, 1, 1, 1, 1, 1]
        assert out.membrane[1] == INF
    assert out.membrane[2] == -INF
    assert out.spikes[:, 2].tolist() == [0.0] * 6
    assert out.membrane[3].isnan()
    assert out.spikes[1:, 3].tolist() == [0.0] * 5  # NaN reaches no threshold
    floored = nk.lif(x, floor=-1.0, **given)
    assert floored.membrane[2] == nk.lif(torch.full((4, 1), 0.25), v0=torch.tensor([-1.0]), **given).membrane[0]
    assert floored.membrane[3].isnan()


def test_gradients_of_not_finite_neurons_stay_there():
    x = torch.full((6, 4), 0.25)
    x[1, 1], x[1, 2], x[1, 3] = INF, -INF, math.nan
    for detach in (True, False):
        leaf = x.clone().requires_grad_()
        out = nk.lif(leaf, decay=0.5, detach_reset=detach)
        out.spikes.sum().backward()
        alone = x[:, :1].clone().requires_grad_()
        nk.lif(alone, decay=0.5, detach_reset=detach).spikes.sum().backward()
        identical(leaf.grad[:, :1], alone.grad, "gradient of a finite neuron")
        assert leaf.grad[3:, 1].isfinite().all()  # after the reset, all is well again
        assert leaf.grad[:, 3].isnan().any()


@pytest.mark.parametrize("time_dim", [0, 1, -1])
def test_no_steps(time_dim):
    """T = 0: no spikes, the membrane is v0, and its gradient passes."""
    shape = [2, 3]
    shape.insert(time_dim % 3, 0)
    v0 = torch.randn(2, 3, requires_grad=True)
    out = nk.lif(torch.zeros(shape), decay=0.9, v0=v0, time_dim=time_dim, refractory=2)
    assert list(out.spikes.shape) == shape
    identical(out.membrane.detach(), v0.detach(), "membrane")
    assert not out.state.countdown.any()
    (3 * out.membrane).sum().backward()
    assert v0.grad.tolist() == [[3.0] * 3] * 2
    state = nk.LIFState(v0.detach(), torch.tensor([[0, 1, 2]] * 2, dtype=torch.int32))
    kept = nk.lif(torch.zeros(shape), decay=0.9, v0=state, time_dim=time_dim, refractory=2).state
    identical(kept.countdown, state.countdown, "countdown")
    assert nk.lif(torch.zeros(shape), decay=0.9, time_dim=time_dim).membrane.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("chosen", ["atan", "boxcar"])
def test_ten_times_ten_steps(backend, refractory, chosen):
    """Pieces with the state handed on are the whole run, bit for bit, and so is the gradient of x."""
    pieces, length = (2, 9) if backend == "triton" else (10, 10)
    case = made(pieces * length, 2, 3, state=False, floor=-0.5, refractory=refractory, surrogate=chosen)

    def run(cuts):
        x = case.x.clone().requires_grad_()
        given = {name: p.clone().requires_grad_() for name, p in case.parameters.items()}
        state, trains = None, []
        for piece in x.split(cuts):
            out = nk.lif(piece, **given, v0=state, **case.options)
            trains.append(out.spikes)
            state = out.state
        train = torch.cat(trains)
        loss = (train * torch.linspace(-1, 1, train.numel()).view(train.shape)).sum() + out.membrane.square().sum()
        return train, *state, torch.autograd.grad(loss, [x, *given.values()])

    whole, parts = run(pieces * length), run(length)
    assert whole[0].any()
    for a, b in zip(whole[:-1], parts[:-1], strict=True):
        if a is not None:
            identical(b.detach(), a.detach(), "output")
    identical(parts[-1][0], whole[-1][0], "gradient of x")
    for a, b in zip(whole[-1][1:], parts[-1][1:], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_state_is_detached_only_by_who_asks():
    v0 = torch.zeros(3, requires_grad=True)
    first = nk.lif(torch.full((4, 3), 0.1), decay=0.5, v0=v0)
    second = nk.lif(torch.full((4, 3), 0.1), decay=0.5, v0=first.state)
    second.membrane.sum().backward()
    assert v0.grad.tolist() == [0.5**8] * 3


def test_gradients_that_do_not_exist_are_zero():
    """v_reset where nothing resets to it, threshold where it decides nothing."""
    x = torch.randn(6, 3)
    for reset in ("subtract", "none"):
        v_reset = torch.zeros(3, requires_grad=True)
        nk.lif(x, decay=0.9, v_reset=v_reset, reset=reset).spikes.sum().backward()
        assert v_reset.grad.tolist() == [0.0] * 3


def test_time_dim():
    x = torch.randn(2, 5, 3, 4)
    for d in range(-4, 4):
        moved = nk.lif(x.movedim(1, d % 4), decay=0.9, time_dim=d)
        expected = nk.lif(x.transpose(0, 1).contiguous(), decay=0.9)
        identical(moved.spikes.movedim(d % 4, 0), expected.spikes, "spikes")
        identical(moved.membrane, expected.membrane, "membrane")


def test_broadcast_parameters(backend):
    """Per neuron, per channel, per row, one for all: as if they were written out."""
    x = torch.randn(5, 2, 3, 4)
    shapes = ((3, 1), (), (1,), (4,), (2, 1, 1), (3, 4), (2, 3, 4), (1, 1, 4))
    for shape in shapes[:1] if backend == "triton" else shapes:
        decay = torch.rand(shape) * 0.5 + 0.4
        wide = decay.expand(2, 3, 4)
        leaf, leaf_wide = decay.clone().requires_grad_(), wide.contiguous().requires_grad_()
        a, b = nk.lif(x, decay=leaf), nk.lif(x, decay=leaf_wide)
        identical(a.spikes, b.spikes, "spikes")
        (grad,) = torch.autograd.grad(a.membrane.sum(), leaf)
        (wide_grad,) = torch.autograd.grad(b.membrane.sum(), leaf_wide)
        torch.testing.assert_close(grad, wide_grad.sum_to_size(shape))
    for number in (0.75, torch.tensor(0.75), 1, 0):
        out = nk.lif(x, decay=number)
        identical(out.spikes, nk.lif(x, decay=float(number)).spikes, "spikes")


def test_results_are_named():
    out = nk.lif(torch.zeros(3, 2), decay=0.5)
    assert out._fields == ("spikes", "membrane", "state")
    assert out.state._fields == ("membrane", "countdown")
    assert out.state.countdown is None
    assert (out.spikes.dtype, out.membrane.dtype) == (torch.float32, torch.float32)
    half = nk.lif(torch.zeros(3, 2, dtype=torch.bfloat16), decay=0.5)
    assert (half.spikes.dtype, half.membrane.dtype) == (torch.bfloat16, torch.float32)
