"""The peers of `bench_lif` compute the layer they are raced on, and the gate that says so can say otherwise."""

import pytest
import torch

from benchmarks import peers
from benchmarks.truth import Truth

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # Norse's

LAYERS = {
    "raced": peers.LIF(),
    "constant": peers.LIF(surrogate="constant", alpha=1.0),
    "boxcar": peers.LIF(surrogate="boxcar", alpha=1.0),
    "slow": peers.LIF(decay=0.9),
    "attached": peers.LIF(decay=0.9, detach_reset=False),
    "subtracting": peers.LIF(decay=0.9, reset="subtract"),
    "subtracting, attached": peers.LIF(decay=0.9, reset="subtract", detach_reset=False),
    "scaled": peers.LIF(decay=0.75, gain=0.25),
    "not resetting": peers.LIF(reset="none", surrogate="sigmoid", alpha=4.0),
}
REFUSED = {
    ("spikingjelly", "not resetting"): "it has no neuron that spikes and does not reset",
    ("norse", "not resetting"): "it has no neuron that spikes and does not reset",
    ("snntorch", "scaled"): "it has no gain",
    ("snntorch", "attached"): "its reset to zero is detached",
    ("snntorch", "subtracting"): "its subtraction at the step of the spike is not detached",
}
INTERPRETED = [name for name in peers.NAMES if name != "compiled"]


def _inputs(layer, dtype=torch.float32):
    """A quarter of spikes, and with subtraction no membrane of twice the threshold, at which snnTorch resets again."""
    x = torch.rand(30, 8, 32) if layer.reset == "subtract" else torch.randn(30, 8, 32) + 0.3
    return (x / layer.gain).to(dtype).requires_grad_(), torch.randn(30, 8, 32).to(dtype)


def _train(name, layer, x, g):
    adapter, reason = peers.find(name, layer)
    assert adapter is not None, reason
    spikes = adapter.lif(x, layer)
    assert spikes.dtype == x.dtype
    return spikes, torch.autograd.grad(spikes, x, g)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("name", INTERPRETED)
def test_peers_compute_the_layer_or_say_why_not(name, case, dtype):
    layer = LAYERS[case]
    if (name, case) in REFUSED:
        assert peers.find(name, layer) == (None, REFUSED[name, case])
        return
    x, g = _inputs(layer, dtype)
    truth = Truth(x.detach(), g, layer)
    assert 0.05 < truth.spikes.mean() < 0.6
    assert truth(_train(name, layer, x, g)) is None


def test_the_compiled_loop_computes_the_layer():
    layer = LAYERS["raced"]
    x, g = (t.detach()[:6] for t in _inputs(layer))
    assert Truth(x, g, layer)(_train("compiled", layer, x.requires_grad_(), g)) is None


def test_a_peer_that_is_not_installed_is_absent_with_the_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "benchmarks.peers.norse", None)
    adapter, reason = peers.find("norse", peers.LIF())
    assert adapter is None
    assert reason.startswith("it cannot be imported: ")


def _flipped(spikes, dx):
    spikes = spikes.clone()
    spikes[7, 3, 5] = 1 - spikes[7, 3, 5]
    return spikes, dx


MUTANTS = {
    "one spike": _flipped,
    "no spikes": lambda spikes, dx: (torch.zeros_like(spikes), dx),
    "gradient too large by a thousandth": lambda spikes, dx: (spikes, dx * 1.001),
    "gradient of the step before": lambda spikes, dx: (spikes, dx.roll(1, 0)),
    "a gradient of NaN": lambda spikes, dx: (spikes, torch.where(torch.arange(32) == 9, torch.nan, dx)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_gate_sees_what_is_wrong(mutant):
    layer = peers.LIF()
    x, g = _inputs(layer)
    truth, right = Truth(x.detach(), g, layer), _train("unbind", layer, x, g)
    assert truth(right) is None
    wrong = MUTANTS[mutant](right[0].detach(), right[1])
    assert "neurons disagree with the float64 result" in truth(wrong)


def test_the_gate_sees_a_wrong_neuron_in_its_sample_of_a_large_layer():
    layer = peers.LIF()
    x, g = _inputs(layer)
    truth, (spikes, dx) = Truth(x.detach(), g, layer, neurons=50), _train("unbind", layer, x, g)
    assert truth((spikes, dx)) is None
    assert truth.spikes.shape[1] <= 50
    assert truth((1 - spikes.detach(), dx)) is not None


def test_ties_at_the_threshold_are_spikes_for_every_peer():
    layer = peers.LIF()
    x = torch.tensor([[1.0, 0.5, 0.75], [1.0, 0.75, 0.625], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    for name in INTERPRETED:
        assert torch.equal(peers.find(name, layer)[0].lif(x, layer), expected), name
