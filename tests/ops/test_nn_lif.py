"""`nk.nn`: what layers hold, train, save and carry from one call to the next."""

import copy

import pytest
import torch

import neurokernels as nk
from tests.ops.agreement import identical


def test_is_the_op():
    x = torch.randn(6, 3, 4)
    options = {"reset": "subtract", "floor": -0.5, "refractory": 1, "surrogate": ("sigmoid", 2.0), "reset_at": "above"}
    layer = nk.nn.LIF(4, decay=0.8, threshold=0.7, gain=1.2, v_reset=-0.1, **options)
    expected = nk.lif(x, decay=0.8, threshold=0.7, gain=1.2, v_reset=-0.1, **options)
    identical(layer(x), expected.spikes, "spikes")
    identical(layer.run(x).membrane, expected.membrane, "membrane")
    identical(layer.run(x).state.countdown, expected.state.countdown, "countdown")
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


@pytest.mark.parametrize(
    "learn", [("decay",), ("threshold", "gain"), ("decay", "threshold", "gain", "v_reset")], ids=str
)
def test_learns_what_it_is_told(learn):
    layer = nk.nn.LIF(5, decay=0.7, learn=learn, reset_at="above")
    parameters = dict(layer.named_parameters())
    assert set(parameters) == set(learn)
    assert all(p.shape == (5,) for p in parameters.values())
    out = layer.run(torch.randn(20, 3, 5) + 0.3)
    (out.spikes.sum() + out.membrane.sum()).backward()
    for name, parameter in parameters.items():
        assert parameter.grad.abs().max() > 0, name
    assert set(layer.state_dict()) == set(learn)


def test_one_name_and_one_value():
    layer = nk.nn.LIF(learn="decay", decay=torch.tensor(0.6))
    assert layer.decay.shape == ()
    layer(torch.randn(5, 2, 7)).sum().backward()
    assert layer.decay.grad.shape == ()


def test_tensors_that_are_not_learnt_are_buffers():
    threshold = torch.tensor([0.5, 1.0, 1.5])
    layer = nk.nn.LIF(3, threshold=threshold)
    assert set(layer.state_dict()) == {"threshold"}
    assert list(layer.parameters()) == []
    threshold.zero_()
    assert layer.threshold.tolist() == [0.5, 1.0, 1.5]
    other = nk.nn.LIF(3, threshold=torch.zeros(3))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3)
    identical(other(x), layer(x), "spikes")


def test_stateful():
    """Pieces of a stream are the whole; gradients stop where a call begins; reset_state starts anew."""
    x = torch.randn(12, 2, 4)
    whole = nk.nn.LIF(4, refractory=2)(x)
    layer = nk.nn.LIF(4, refractory=2, stateful=True)
    identical(torch.cat([layer(piece) for piece in x.split(3)]), whole, "spikes")
    assert not layer.state.membrane.requires_grad
    layer.reset_state()
    assert layer.state is None
    identical(layer(x), whole, "spikes")
    leaf = x.clone().requires_grad_()
    layer.reset_state()
    layer(leaf[:6])
    layer(leaf[6:]).sum().backward()
    assert not leaf.grad[:6].any()
    assert leaf.grad[6:].any()


def test_v0_overrides_the_state():
    x = torch.randn(4, 3)
    layer = nk.nn.LIF(3, stateful=True)
    layer(x)
    v0 = torch.full((3,), 0.5)
    identical(layer(x, v0), nk.lif(x, decay=0.9, v0=v0).spikes, "spikes")
    plain = nk.nn.LIF(3)
    plain(x)
    assert plain.state is None


def test_gerum_floor():
    """Decay 1 - w_leak, floor 0, constant surrogate; at exactly the threshold a neuron spikes and does not reset."""
    layer = nk.nn.LIF.gerum2020(3, dt=0.005, generator=torch.Generator().manual_seed(1))
    assert (layer.w_leak >= 0).all()
    assert (layer.w_leak <= 0.1 * 0.005).all()
    assert layer.w_leak.unique().numel() == 3
    assert set(dict(layer.named_parameters())) == {"w_leak"}
    x = torch.rand(30, 2, 3) - 0.2
    expected = nk.lif(x, decay=1 - layer.w_leak, floor=0.0, reset_at="above", surrogate="constant")
    identical(layer(x), expected.spikes, "spikes")
    with torch.no_grad():
        layer.w_leak.fill_(0.0)
    out = layer.run(torch.tensor([1.0, 0.5, -9.0]).view(3, 1, 1).expand(3, 1, 3))
    assert out.spikes[:, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert out.membrane.tolist() == [[0.0] * 3]
    layer.run(x).membrane.sum().backward()
    assert layer.w_leak.grad.abs().max() > 0


def test_gerum_refractory():
    """Their first version: no floor, the membrane held at zero for some steps after a spike."""
    layer = nk.nn.LIF.gerum2020(2, variant="refractory", refractory=3)
    x = torch.full((8, 1, 2), 1.5)
    assert layer(x)[:, 0, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert layer.run(torch.full((2, 1, 2), -1.0)).membrane.max() < -1.0
    assert "floor" not in layer.options


def test_gerum_input_weight():
    layer = nk.nn.LIF.gerum2020(2, w_input=0.5, learn_input=True)
    assert layer.w_input.shape == ()
    out = layer.run(torch.rand(10, 2))
    (out.spikes.sum() + out.membrane.sum()).backward()
    assert layer.w_input.grad.abs() > 0
    fixed = nk.nn.LIF.gerum2020(2, w_input=0.5)
    identical(fixed.neuron()["decay"], 1 - fixed.w_leak, "decay")
    assert fixed.neuron()["gain"] == 0.5


def test_readout():
    x = torch.randn(7, 3, 4)
    layer = nk.nn.LeakyReadout(4, w_leak=0.2)
    trace = nk.leaky_integrate(x, decay=1 - layer.w_leak, floor=0.0)
    identical(layer.trace(x), trace, "trace")
    identical(layer(x), trace[-1], "last membrane")
    layer(x).sum().backward()
    assert layer.w_leak.grad.abs().max() > 0
    batch_first = nk.nn.LeakyReadout(4, w_leak=0.2, time_dim=1)
    identical(batch_first(x.transpose(0, 1)), layer(x), "last membrane")
    fixed = nk.nn.LeakyReadout(4, learn=False)
    assert list(fixed.parameters()) == []
    assert set(fixed.state_dict()) == {"w_leak"}


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), nk.nn.LIF.gerum2020(8, dt=0.5), torch.nn.Linear(8, 3), nk.nn.LeakyReadout(3)
    )


def test_trains():
    """A few steps of Adam make a small network tell three patterns apart."""
    network, labels = model(), torch.arange(15) % 3
    x = 0.3 * torch.rand(20, 15, 6) + torch.nn.functional.one_hot(labels, 6)
    target = torch.nn.functional.one_hot(labels, 3).float()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(x).softmax(-1) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_saved_and_copied(tmp_path):
    network, x = model(), torch.rand(5, 2, 6)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    identical(other(x), network(x), "output")
    identical(copy.deepcopy(network)(x), network(x), "output")


def test_low_precision_and_double():
    network, x = model(), torch.rand(5, 2, 6)
    assert network.double()(x.double()).dtype == torch.float64
    half = model().bfloat16()
    assert half[1](half[0](x.bfloat16())).dtype == torch.bfloat16
    assert half[3](half[2](half[1](half[0](x.bfloat16())))).dtype == torch.float32


def test_compiles():
    network, x = model(), torch.rand(5, 2, 6)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    identical(compiled(x), network(x), "output")
    compiled(x).sum().backward()


def test_prints_what_it_is():
    text = repr(nk.nn.LIF(4, surrogate="boxcar", stateful=True))
    assert text == "LIF(features=4, stateful=True, surrogate='boxcar')"
    assert repr(nk.nn.LeakyReadout(3)) == "LeakyReadout(features=3, gain=1.0, floor=0.0, time_dim=0)"
    assert "GerumLIF(features=2" in repr(nk.nn.LIF.gerum2020(2))


def test_bad_arguments():
    with pytest.raises(ValueError, match="nn.LIF: learn must be among decay, threshold, gain, v_reset, got .*leak"):
        nk.nn.LIF(3, learn=("leak",))
    with pytest.raises(ValueError, match="variant must be one of floor, refractory, got 'final'"):
        nk.nn.LIF.gerum2020(3, variant="final")
    with pytest.raises(ValueError, match="lif: reset must be one of zero, subtract, none, got 'hard'"):
        nk.nn.LIF(3, reset="hard")(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"decay must be broadcastable to the neurons \(4,\), got shape \(3,\)"):
        nk.nn.LIF(3, learn="decay")(torch.zeros(2, 4))


def test_an_option_that_does_not_exist_is_refused_at_once():
    with pytest.raises(TypeError, match=r"nn.LIF: options must be among reset.*got \['thresold'\]"):
        nk.nn.LIF(3, thresold=2.0)


def test_a_readout_of_no_steps_is_at_rest():
    assert torch.equal(nk.nn.LeakyReadout(4)(torch.ones(0, 3, 4)), torch.zeros(3, 4))
