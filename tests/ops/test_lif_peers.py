"""SpikingJelly and snnTorch compute the same neurons: same spikes, same gradients, under the mappings written out here.

Their formulas round in another order, so that spikes may differ where a membrane lies within 2 ulp of the threshold. A
spike that differs changes what that neuron does afterwards, which therefore is not compared.
"""

import pytest
import snntorch
import torch
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based import surrogate as sj_surrogate

import neurokernels as nk
from neurokernels._core import backends

BETA = 0.75  # exact in every precision

#: Triton's spikes are the definition's bit for bit (test_lif_agreement.py); what is compared here is the definition.
BACKENDS = ("reference", "cpu")

SPIKINGJELLY = {
    "atan": sj_surrogate.ATan,
    "sigmoid": sj_surrogate.Sigmoid,
    "boxcar": sj_surrogate.Rect,
    "piecewise_quadratic": sj_surrogate.PiecewiseQuadratic,
    "piecewise_exp": sj_surrogate.PiecewiseExp,
    "erf": sj_surrogate.Erf,
}
SNNTORCH = {
    "atan": snn_surrogate.atan,
    "sigmoid": snn_surrogate.sigmoid,
    "fast_sigmoid": snn_surrogate.fast_sigmoid,
}


def ours(backend, x, **options):
    """Spikes of `neurokernels.lif` on a backend that is seen to run."""
    with nk.backend(backend), backends.record() as ran:
        spikes = nk.lif(x, **options).spikes
    assert ran == [("lif", backend)]
    return spikes


def membrane(x, threshold, **options):
    """Every u_t, from the definition in the dtype of x."""
    rising = torch.stack([nk.lif(x[: t + 1], threshold=threshold, **options).membrane for t in range(len(x))])
    before = torch.cat([torch.zeros_like(rising[:1]), rising[:-1]])
    return options["decay"] * before + options.get("gain", 1.0) * x


def compare(backend, theirs, dtype, threshold=1.0, size=(24, 500), learn=None, high=9.0, **options):
    """Spikes, and gradients of x (and of parameters) of those neurons whose spikes are the same."""
    generator = torch.Generator().manual_seed(2)
    x = (0.5 + 0.8 * torch.randn(size, dtype=torch.float64, generator=generator)).clamp(max=high).to(dtype)
    learn = learn(dtype, size[1]) if learn else {}
    given = [
        {"x": x.clone().requires_grad_()} | {k: v.clone().requires_grad_() for k, v in learn.items()} for _ in range(2)
    ]
    expected = theirs(**given[0])
    got = ours(backend, **({"threshold": threshold} | options | given[1]))
    differs = got != expected
    with torch.no_grad(), nk.backend("reference"):
        u = membrane(x, **({"threshold": threshold} | options | learn))
    theta = learn.get("threshold", torch.tensor(threshold, dtype=dtype))
    ulp = torch.finfo(dtype).eps * theta
    first = differs & (differs.cumsum(0) == 1)
    assert ((u - theta).abs() <= 2 * ulp)[first].all()
    assert differs.any(0).float().mean() < 0.01
    assert 0.05 < got.mean() < 0.95
    same = ~differs.any(0)
    direction = (
        torch.linspace(-1, 1, x.numel()).sin().to(dtype).view(size) * same
    )  # snnTorch's spikes are always float32
    gradients = [
        torch.autograd.grad(s, list(g.values()), direction) for s, g in ((got, given[1]), (expected, given[0]))
    ]
    scale = 1e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a[..., same], b[..., same], rtol=scale, atol=scale * float(b.abs().max()))


def layer(node):
    """A multi-step SpikingJelly node as a function."""

    def run(x):
        node.reset()
        return node(x)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("decay_input", [True, False], ids=["scaled", "plain"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_spikingjelly(backend, dtype, detach, decay_input, reset):
    """``LIFNode(tau, decay_input)``: decay is 1 - 1/tau, gain 1/tau or 1; ``v_reset=None`` subtracts."""
    for tau, threshold in (2.0, 0.6), (5.0, 0.4) if decay_input else (1.25, 1.0):
        node = neuron.LIFNode(
            tau, decay_input, threshold, 0.0 if reset == "zero" else None, sj_surrogate.ATan(2.0), detach, step_mode="m"
        )
        options = {
            "decay": 1 - 1 / tau,
            "gain": 1 / tau if decay_input else 1.0,
            "reset": reset,
            "detach_reset": detach,
        }
        compare(backend, layer(node), dtype, threshold, **options)


@pytest.mark.parametrize("name", SPIKINGJELLY)
def test_spikingjelly_surrogates(backend, name):
    for alpha in (0.7, 3.0):
        node = neuron.LIFNode(2.0, False, 1.0, 0.0, SPIKINGJELLY[name](alpha), True, step_mode="m")
        compare(backend, layer(node), torch.float64, decay=0.5, surrogate=(name, alpha))


def test_spikingjelly_resting_potential(backend):
    """Their membrane decays to ``v_reset``, ours to zero: measured from v_reset the two are one."""
    node = neuron.LIFNode(2.0, True, 0.3, -0.2, sj_surrogate.ATan(2.0), True, step_mode="m")
    compare(backend, layer(node), torch.float64, threshold=0.3 + 0.2, decay=0.5, gain=0.5)


def test_spikingjelly_integrate_and_fire(backend):
    """``IFNode`` does not leak: decay is 1."""
    node = neuron.IFNode(1.0, None, sj_surrogate.ATan(2.0), True, step_mode="m")
    compare(backend, layer(node), torch.float64, decay=1.0, reset="subtract")


def leaky(before=lambda x, s: x, **settings):
    """The ``Leaky`` of snnTorch as a function; ``before`` sees the input and the last spikes."""

    def run(x, decay=None, threshold=None):
        beta = settings["beta"] if decay is None else decay
        node = snntorch.Leaky(**(settings | {"beta": beta} | ({} if threshold is None else {"threshold": threshold})))
        v, trains = torch.zeros_like(x[0]), []
        for current in x:
            s, v = node(before(current, trains[-1] if trains else torch.zeros_like(v)), v)
            trains.append(s)
        return torch.stack(trains)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("reset", ["zero", "none"])
def test_snntorch(backend, dtype, reset):
    """Their delayed reset to zero empties the membrane before the next step: ours, detached. Without: the same."""
    options = {"beta": BETA, "threshold": 1.0, "reset_mechanism": reset, "spike_grad": snn_surrogate.atan(2.0)}
    compare(backend, leaky(**options), dtype, decay=BETA, reset=reset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_snntorch_subtract(backend, dtype):
    """Their delayed subtraction comes after the decay, ours before: beta c + x - theta, not beta (c - theta) + x.

    The difference is a current, (1 - beta) threshold after every spike; with it the two are one.
    """
    threshold = 1.0
    options = {
        "beta": BETA,
        "threshold": threshold,
        "reset_mechanism": "subtract",
        "spike_grad": snn_surrogate.atan(2.0),
    }
    theirs = leaky(lambda x, s: x + (1 - BETA) * threshold * s.detach(), **options)
    compare(backend, theirs, dtype, threshold, decay=BETA, reset="subtract")


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_snntorch_without_delay(backend, reset):
    """``reset_delay=False`` resets at the step of the spike and lets the gradient through: ours, attached.

    Where a membrane stays above the threshold after its reset they subtract twice: here none reaches twice it.
    """
    theirs = leaky(
        beta=BETA, threshold=2.0, reset_mechanism=reset, reset_delay=False, spike_grad=snn_surrogate.atan(2.0)
    )
    options = {"threshold": 2.0, "decay": BETA, "reset": reset, "detach_reset": False}
    compare(backend, theirs, torch.float32, **options, high=1.2)


@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch_surrogates(backend, name):
    for alpha in (0.5, 4.0):
        theirs = leaky(beta=BETA, reset_mechanism="zero", spike_grad=SNNTORCH[name](alpha))
        compare(backend, theirs, torch.float64, decay=BETA, surrogate=(name, alpha))


def test_snntorch_straight_through(backend):
    theirs = leaky(beta=BETA, reset_mechanism="zero", spike_grad=snn_surrogate.straight_through_estimator())
    compare(backend, theirs, torch.float64, decay=BETA, surrogate="constant")


def test_snntorch_learnable(backend):
    """Gradients of their ``beta`` and ``threshold``, one per neuron."""

    def learn(dtype, size):
        generator = torch.Generator().manual_seed(5)
        draw = torch.rand(2, size, dtype=torch.float64, generator=generator).to(dtype)
        return {"decay": 0.5 + 0.4 * draw[0], "threshold": 0.8 + 0.4 * draw[1]}

    theirs = leaky(
        beta=0.0, reset_mechanism="zero", spike_grad=snn_surrogate.atan(2.0), learn_beta=False, learn_threshold=False
    )
    compare(backend, theirs, torch.float64, learn=learn)
