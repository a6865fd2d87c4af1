"""`nn.DCCARegularizer`: what it computes, how it attaches, what it keeps, and that it does what it is for."""

import copy
import io
import math

import pytest
import torch
from torch import nn

import neurokernels as nk
from neurokernels.nn import DCCARegularizer

KINDS = ("dcca", "vicreg", "barlow_twins")
LOSS = {"dcca": nk.dcca_loss, "vicreg": nk.vicreg_loss, "barlow_twins": nk.barlow_twins_loss}


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seen(n=60):
    """Activations with places, and responses that depend on the first channel of them."""
    h = noise(n, 3, 4, 4)
    return h, h[:, 0].flatten(1)[:, :9] @ noise(9, 14, seed=1) + 0.3 * noise(n, 14, seed=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))


def small(loss="dcca", **options):
    return DCCARegularizer(**{"dims": 4, "hidden": (32, 16), "loss": loss, "strength": 0.3} | options)


# The regulariser, called ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("features", [(None, None), (48, 14), (None, 14)], ids=str)
def test_called(loss, features):
    """Strength times the loss of two projections, by heads of linear layers and ReLU."""
    h, y = seen()
    reg = small(loss, features=features).eval()
    value = reg(h, y)
    u, v = h.flatten(1), y
    for name in ("0", "3"):
        of_h, of_y = (reg.heads["called"][i].get_submodule(name) for i in (0, 1))
        u, v = (u @ of_h.weight.mT + of_h.bias).relu(), (v @ of_y.weight.mT + of_y.bias).relu()
    of_h, of_y = (reg.heads["called"][i].get_submodule("6") for i in (0, 1))
    u, v = u @ of_h.weight.mT + of_h.bias, v @ of_y.weight.mT + of_y.bias
    assert u.shape == v.shape == (60, 4)
    torch.testing.assert_close(value, 0.3 * LOSS[loss](u, v))
    assert value.shape == ()


@pytest.mark.parametrize("loss", KINDS)
def test_gradients_reach_everything(loss):
    """Activations, responses and every parameter."""
    h, y = (t.requires_grad_() for t in seen())
    reg = small(loss, features=(48, 14))
    gradients = torch.autograd.grad(reg(h, y), [h, y, *reg.parameters()])
    assert all(g.isfinite().all() for g in gradients)
    biases = [n.endswith("6.bias") for n, _ in reg.named_parameters()]  # a mean changes no covariance
    assert all(g.abs().max() > 0 for g, last in zip(gradients[2:], biases, strict=True) if not last)
    assert min(g.abs().max() for g in gradients[:2]) > 0


def test_options_reach_the_loss():
    h, y = seen()
    for loss, options, own in (
        ("dcca", {"objective": "topk", "k": 2, "reg": (1e-2, 1e-3)}, {}),
        ("dcca", {"objective": "fro2", "precision": "fast"}, {}),
        ("vicreg", {"invariance": 1.0, "gamma": 2.0}, {}),
        ("barlow_twins", {"lambd": 0.5}, {"reg": 1e-2}),
    ):
        reg = small(loss, **options, **own).eval()
        value = reg(h, y)
        u, v = reg.project(h, y)
        options = {"reg": 1e-4} | options if loss == "dcca" else options
        torch.testing.assert_close(value, 0.3 * LOSS[loss](u, v, **options))
        plain = LOSS[loss](u, v)
        assert abs(value.item() - 0.3 * plain.item()) > 1e-3 * abs(value.item())


def test_metrics():
    """The loss without the strength, and canonical correlations of the projections, whatever the loss is."""
    h, y = seen()
    for loss in KINDS:
        reg = small(loss, reg=1e-3).eval()
        value = reg(h, y)
        found = reg.metrics()
        assert found.keys() == {"loss", "correlations", "correlation"}
        assert not any(t.requires_grad for t in found.values())
        torch.testing.assert_close(0.3 * found["loss"], value.detach())
        u, v = reg.project(h, y)
        torch.testing.assert_close(found["correlations"], nk.canonical_correlations(u, v, reg=1e-3).detach())
        assert found["correlations"].shape == (4,)
        torch.testing.assert_close(found["correlation"], found["correlations"].mean())
        kept = {name: t.clone() for name, t in found.items()}
        reg(h.flip(0), y)
        assert all(torch.equal(found[name], t) for name, t in kept.items())
        assert not torch.equal(reg.metrics()["correlations"], kept["correlations"])


@pytest.mark.parametrize("loss", KINDS)
def test_training_finds_what_is_shared(loss):
    """The heads alone learn the responses; with responses in another order there is less to learn."""
    found = {}
    h, y = seen(300)
    for order in ("right", "shuffled"):
        torch.manual_seed(0)
        reg = small(loss, features=(48, 14), strength=1.0)
        optimizer = torch.optim.Adam(reg.parameters(), 3e-3)
        target = y if order == "right" else y[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
        losses = []
        for step in range(60):
            chosen = torch.randperm(200, generator=torch.Generator().manual_seed(step))[:100]
            optimizer.zero_grad()
            value = reg(h[chosen], target[chosen])
            value.backward()
            optimizer.step()
            losses.append(value.item())
        assert losses[-1] < losses[0]
        reg.eval()(h[200:], target[200:])
        found[order] = reg.metrics()["correlation"].item()
    assert found["right"] > found["shuffled"] + 0.15


def test_dropout_is_for_training():
    h, y = seen()
    reg = small(dropout=0.5, features=(48, 14))
    a, b = reg(h, y), reg(h, y)
    assert a.item() != b.item()
    reg.eval()
    assert reg(h, y).item() == reg(h, y).item()
    still = small(dropout=0.0, features=(48, 14))
    assert still(h, y).item() == still(h, y).item()


def test_dtypes_are_those_of_the_heads():
    """Counts and doubles are converted; a double head computes in double."""
    h, y = seen()
    reg = small(features=(48, 14)).eval()
    expected = reg(h, y.round())
    assert torch.equal(reg(h.double(), y.round().int()), expected)
    double = copy.deepcopy(reg).double()
    assert double(h, y.round()).dtype == torch.float64
    torch.testing.assert_close(double(h, y.round()).float(), expected, rtol=1e-4, atol=1e-4)


# Attached -------------------------------------------------------------------------------------------------------------


def test_attached():
    """A pair of heads for each layer, the sum over them, and one layer at a time by name."""
    model, x, (_, y) = network(), noise(60, 8), seen()
    reg = small().attach(model, ["1", "3"]).eval()
    assert isinstance(reg, DCCARegularizer)
    assert set(reg.heads) == {"1", "3"}
    with pytest.raises(RuntimeError, match=r"nn.DCCARegularizer: loss\(\) needs a forward pass"):
        reg.loss(y)
    model(x)
    total = reg.loss(y)
    assert reg.metrics().keys() == {f"{n}.{m}" for n in "13" for m in ("loss", "correlations", "correlation")}
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        reg.loss(y)
    first, second = model[:2](x), model[:4](x)
    torch.testing.assert_close(total, reg(first, y, "1") + reg(second, y, layer="3"))
    assert reg.metrics().keys() == {"3.loss", "3.correlations", "3.correlation"}
    with pytest.raises(
        ValueError, match=r"nn.DCCARegularizer: layer must be one that is attached \('1', '3'\), got ''"
    ):
        reg(first, y)
    gradient = torch.autograd.grad(total, model[0].weight)[0]
    assert gradient.abs().max() > 0


def test_an_optimiser_made_after_attaching_trains_the_heads():
    """Lazy ones too: their parameters are the same objects before and after the first batch."""
    model, x, (_, y) = network(), noise(60, 8), seen()
    reg = small().attach(model, ["3"])
    optimizer = torch.optim.Adam([*model.parameters(), *reg.parameters()], 1e-2)
    model(x)
    before = reg.loss(y)
    kept = [p.detach().clone() for p in reg.parameters()]
    for _ in range(20):
        optimizer.zero_grad()
        model(x)
        reg.loss(y).backward()
        optimizer.step()
    model(x)
    assert reg.loss(y) < before - 0.1
    moved = [(p - q).abs().max() > 0 for p, q in zip(reg.parameters(), kept, strict=True)]
    assert all(moved)
    assert len(moved) == 12


def test_layer_names_with_dots():
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(8, 6), nn.ReLU())})
    reg = small().attach(model, "body.1")
    model["body"](noise(60, 8))
    reg.loss(seen()[1])
    assert reg.metrics().keys() == {"body.1.loss", "body.1.correlations", "body.1.correlation"}
    assert "heads.body/1.0.0.weight" in reg.state_dict()


def test_unknown_layers():
    model, reg = network(), small()
    with pytest.raises(ValueError, match=r"nn.DCCARegularizer: layers must be names of modules .*got tanh"):
        reg.attach(model, ["1", "tanh"])
    assert not model[1]._forward_hooks
    assert set(reg.heads) == {"called"}


# What is kept and saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [True, False])
def test_state_dict(lazy):
    """Into a fresh one, which has seen no batch: heads and loss are the same afterwards."""
    h, y = seen()
    features = (None, None) if lazy else (48, 14)
    torch.manual_seed(0)
    reg = small(features=features)
    reg(h, y)
    file = io.BytesIO()
    torch.save(reg.state_dict(), file)
    file.seek(0)
    other = small(features=features)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(h, y), reg.eval()(h, y))


@pytest.mark.parametrize("called", [False, True])
def test_copies_are_apart(called):
    h, y = seen()
    reg = small()
    if called:
        reg(h, y)
    other = copy.deepcopy(reg)
    reg(h, y)
    other(h, y)
    with torch.no_grad():
        for p in reg.parameters():
            p.zero_()
    assert all(p.abs().max() > 0 for p in other.parameters())


def test_autocast():
    """Heads in bfloat16, the loss of them in float32, gradients of the parameters in float32."""
    h, y = seen()
    for loss in KINDS:
        reg = small(loss, features=(48, 14)).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert reg.project(h, y)[0].dtype == torch.bfloat16
            value = reg(h, y)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(reg(h, y).item(), rel=0.05, abs=0.05)
        assert all(g.dtype == torch.float32 for g in torch.autograd.grad(value, list(reg.parameters())))
        assert reg.metrics()["correlations"].dtype == torch.float32


@pytest.mark.parametrize("loss", KINDS)
def test_compiled(loss):
    torch._dynamo.reset()
    h, y = seen()
    eager = small(loss, features=(48, 14)).eval()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    values = [reg(h, y) for reg in (eager, compiled)]
    torch.testing.assert_close(values[1], values[0])
    gradients = [
        torch.autograd.grad(v, list(reg.parameters())) for v, reg in zip(values, (eager, compiled), strict=True)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dims": 0}, ValueError, ("dims", ">= 1")),
        ({"features": 3}, TypeError, ("features", "pair", "3")),
        ({"features": (3, 0)}, ValueError, ("features", ">= 1")),
        ({"hidden": (3, 0)}, ValueError, ("hidden", ">= 1")),
        ({"dropout": 1.5}, ValueError, ("dropout", "[0, 1]", "1.5")),
        ({"loss": "cca"}, ValueError, ("loss", "dcca, vicreg, barlow_twins", "'cca'")),
        ({"strength": math.nan}, ValueError, ("strength", "nan")),
        ({"colour": 1.0}, TypeError, ("options", "loss='dcca'", "colour")),
        ({"gamma": 1.0}, TypeError, ("options", "loss='dcca'", "gamma")),
        ({"loss": "vicreg", "lambd": 1.0}, TypeError, ("options", "invariance", "lambd")),
        ({"loss": "vicreg", "objective": "fro2"}, ValueError, ("objective", "loss='dcca'", "fro2")),
        ({"loss": "vicreg", "eps": 0.0}, ValueError, ("eps", "positive")),
        ({"reg": 0.0}, ValueError, ("reg", "> 0")),
        ({"loss": "vicreg", "reg": -1.0}, ValueError, ("reg", "> 0")),
        ({"objective": "trace"}, ValueError, ("objective", "nuclear", "'trace'")),
        ({"objective": "topk"}, ValueError, ("k", "topk")),
        ({"objective": "topk", "k": 11}, ValueError, ("k", "10", "11")),
        ({"precision": "low"}, ValueError, ("precision", "'low'")),
    ],
    ids=str,
)
def test_refusals(arguments, error, words):
    """At once, not at the first step of a training."""
    with pytest.raises(error) as caught:
        DCCARegularizer(**arguments)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_refusals_of_calls():
    h, y = seen()
    reg = small()
    for arguments, error, words in (
        ((h, y[:50]), ValueError, "y must be of N = 60 samples as h is, got N = 50"),
        ((h[:, 0, 0, 0], y), ValueError, r"h must be \[N, ...\] with at least 2 dimensions"),
        ((h, y.numpy()), TypeError, "y must be a tensor of real numbers, got ndarray"),
        ((h + 1j, y), TypeError, "h must be a tensor of real numbers, got torch.complex64"),
    ):
        with pytest.raises(error, match=f"nn.DCCARegularizer: {words}"):
            reg(*arguments)


def test_repr():
    text = repr(nn.ModuleDict({"reg": DCCARegularizer(7, loss="vicreg", gamma=2.0)}))
    assert "dims=7, loss='vicreg', strength=1, dropout=0.0001, gamma=2.0" in text
