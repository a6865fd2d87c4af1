"""`nn.SimilarityRegularizer`: one similarity of several layers, running means, hooks, state, and that it learns."""

import copy
import io

import pytest
import torch
from torch import nn

import neurokernels as nk
from neurokernels.nn import SimilarityRegularizer
from tests import definitions


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


def images(n=12, seed=3):
    return noise(n, 2, 8, 8, seed=seed)


def target(n=12, seed=1):
    v = noise(n, 9, seed=seed)
    return definitions.similarity(v - v.mean(0), "cosine")


# Called ---------------------------------------------------------------------------------------------------------------


def test_called():
    """Strength times the loss, minus the mean of each channel; at the first batch that is the batch's own."""
    h, t = noise(12, 6, 3, 3) + 2, target()
    reg = SimilarityRegularizer(strength=0.3)
    value = reg(h, t)
    centred = (h - h.mean((0, 2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(value, 0.3 * definitions.rsa_loss(centred, t))
    assert value.shape == ()
    assert (value - 0.3 * nk.rsa_loss(h.flatten(1), t)).abs() > 1e-2
    torch.testing.assert_close(SimilarityRegularizer(momentum=None)(h, t), nk.rsa_loss(h.flatten(1), t))


def test_running_mean():
    """0.9 of what there was, updated before it is used; evaluation leaves it as it is. No gradient goes through it."""
    reg, t = SimilarityRegularizer(), target()
    first, second, third = (noise(12, 6, 3, seed=s) + s for s in range(3))
    reg(first, t)
    reg(second, t)
    expected = 0.9 * first.mean((0, 2)) + 0.1 * second.mean((0, 2))
    torch.testing.assert_close(reg.means["0"].mean, expected)
    h = third.requires_grad_()
    value = reg.eval()(h, t)
    torch.testing.assert_close(reg.means["0"].mean, expected)
    plain = nk.rsa_loss(h.flatten(1), t, mean=expected.repeat_interleave(3))
    torch.testing.assert_close(value, plain)
    for a, b in zip(torch.autograd.grad(value, h), torch.autograd.grad(plain, h), strict=True):
        torch.testing.assert_close(a, b)


def test_a_later_batch_does_not_change_an_earlier_gradient():
    """The mean that was used is kept, though the buffer moves on."""
    t, h = target(), noise(12, 6, 3).requires_grad_()
    reg = SimilarityRegularizer()
    value = reg(h, t)
    expected = torch.autograd.grad(SimilarityRegularizer()(h, t), h)[0]
    reg(noise(12, 6, 3, seed=9) + 5, t)
    assert torch.equal(torch.autograd.grad(value, h)[0], expected)


def test_layers_and_responses():
    """A tuple of layers, weighted by a softmax that is learnt; responses, several scans of them."""
    layers = tuple(noise(12, c, 4, seed=c).requires_grad_() for c in (3, 5))
    scans = noise(12, 7, seed=1), noise(12, 4, seed=2)
    reg = SimilarityRegularizer(layers=2, momentum=None)
    with torch.no_grad():
        reg.logits.copy_(torch.tensor([0.5, -0.5]))
    value = reg(layers, responses=scans)
    flat = tuple(h.flatten(1) for h in layers)
    torch.testing.assert_close(value, definitions.rsa_loss(flat, responses=scans, weights=reg.logits))
    gradients = torch.autograd.grad(value, [*layers, *reg.parameters()])
    assert len(gradients) == 3
    assert all(g.abs().max() > 0 for g in gradients)
    assert not SimilarityRegularizer(layers=2, learn_weights=False).logits.requires_grad


def test_metrics():
    h, t = noise(12, 6, 3), target()
    for form in ("li2019", "pearson", "cka", "cka_debiased"):
        reg = SimilarityRegularizer(form=form, strength=0.3, momentum=None)
        value = reg(h, t)
        found = reg.metrics()
        assert found.keys() == {"loss", "weights", "correlation"}
        torch.testing.assert_close(0.3 * found["loss"], value)
        assert found["weights"].tolist() == [1.0]
        s = definitions.similarity(h.flatten(1), "linear" if form.startswith("cka") else "cosine")
        i, j = torch.triu_indices(12, 12, 1)
        torch.testing.assert_close(found["correlation"], torch.corrcoef(torch.stack([s[i, j], t[i, j]]))[0, 1])
        assert not any(v.requires_grad for v in found.values())
        assert reg._last is None
        assert reg.metrics().keys() == found.keys()


# Attached -------------------------------------------------------------------------------------------------------------


def test_attached():
    """One loss of the mean similarity of all layers, not a sum of losses."""
    model, t = network(), target()
    reg = SimilarityRegularizer().attach(model, ["1", "3"])
    with pytest.raises(RuntimeError, match=r"loss\(\) needs a forward pass.*nothing came from 1, 3"):
        reg.loss(t)
    model(images())
    value = reg.loss(t)
    with pytest.raises(RuntimeError, match="needs a forward pass"):
        reg.loss(t)
    first, second = model[:2](images()), model[:4](images())
    torch.testing.assert_close(value, SimilarityRegularizer(layers=2)((first, second), t))
    assert abs(value - SimilarityRegularizer()(first, t) - SimilarityRegularizer()(second, t)) > 1e-2
    assert reg.names == ("1", "3")
    assert torch.autograd.grad(value, model[0].weight)[0].abs().max() > 0
    reg.detach()
    model(images())
    with pytest.raises(RuntimeError):
        reg.loss(t)
    with pytest.raises(RuntimeError, match=r"attach\(\) a model"):
        SimilarityRegularizer().loss(t)


def test_attached_twice():
    """Weights and means that are there stay; a layer has one weight."""
    model = network()
    reg = SimilarityRegularizer().attach(model, "1")
    model(images())
    reg.loss(target())
    kept = reg.means["1"].mean.clone()
    reg.attach(model, ["1", "3"])
    assert reg.names == ("1", "3")
    assert reg.logits.shape == (2,)
    assert torch.equal(reg.means["1"].mean, kept)
    assert len(reg._hooks) == 2
    with pytest.raises(ValueError, match=r"nn.SimilarityRegularizer: layers must be names of modules"):
        reg.attach(model, ["9"])


def test_training_brings_similarities_closer():
    """The network and the weights of its layers learn the target."""
    model, x, t = network(), images(24), target(24)
    reg = SimilarityRegularizer(scale="paper").attach(model, ["1", "3"])
    optimiser = torch.optim.Adam([*model.parameters(), *reg.parameters()], 1e-2)
    found = []
    for _ in range(40):
        optimiser.zero_grad()
        model(x)
        reg.loss(t).backward()
        optimiser.step()
        found.append({name: value.clone() for name, value in reg.metrics().items()})
    assert found[-1]["loss"] < 0.7 * found[0]["loss"]
    assert found[-1]["correlation"] > found[0]["correlation"] + 0.2
    assert not torch.equal(found[-1]["weights"], found[0]["weights"])
    torch.testing.assert_close(found[-1]["weights"].sum(), torch.tensor(1.0))


# State ----------------------------------------------------------------------------------------------------------------


def test_state_dict():
    """Into a fresh one that has seen no batch, and into one that has."""
    h, t = noise(12, 6, 3), target()
    reg = SimilarityRegularizer(layers=2)
    for seed in range(2):
        reg((h + seed, h[:, :3] * 2), t)
    file = io.BytesIO()
    torch.save(reg.state_dict(), file)
    for seen in (False, True):
        other = SimilarityRegularizer(layers=2)
        if seen:
            other((h, h[:, :3]), t)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other.eval()((h, h[:, :3]), t), reg.eval()((h, h[:, :3]), t))
    empty = SimilarityRegularizer()
    copy.deepcopy(empty).load_state_dict(empty.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    h, t = noise(12, 6, 3, dtype=dtype).requires_grad_(), target().to(dtype)
    reg = SimilarityRegularizer()
    value = reg(h, t)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.autograd.grad(value, h)[0].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert reg(h, t).dtype == value.dtype


def test_compiled():
    torch._dynamo.reset()
    h, t = noise(12, 6, 3), target()
    eager = SimilarityRegularizer().eval()
    eager.train()(h, t)
    eager.eval()
    compiled = torch.compile(copy.deepcopy(eager), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(h, t), eager(h, t))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "rsa"}, ("form", "li2019", "'rsa'")),
        ({"metric": "crossnobis"}, ("metric", "cosine", "'crossnobis'")),
        ({"metric": "linear"}, ("metric", "arctanh")),
        ({"layers": 0}, ("layers", ">= 1")),
        ({"momentum": 1.5}, ("momentum", "[0, 1]")),
        ({"strength": float("nan")}, ("strength", "nan")),
        ({"pairs": "few"}, ("pairs", "disjoint")),
        ({"eps": 0.0}, ("eps",)),
    ],
    ids=str,
)
def test_refusals(options, words):
    """At once, not at the first step of a training."""
    with pytest.raises(ValueError, match="^(nn.SimilarityRegularizer|rsa_loss): ") as caught:
        SimilarityRegularizer(**options)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_refusals_of_calls():
    h, t = noise(12, 6, 3), target()
    reg = SimilarityRegularizer()
    for arguments, error, words in (
        ((h[:, 0, 0], t), ValueError, r"h must be \[N, ...\] with at least 2 dimensions"),
        (((h, h), t), ValueError, "h must be a tuple of 1 layers, got 2 of them"),
        ((h.numpy(), t), TypeError, "h must be a tensor"),
    ):
        with pytest.raises(error, match=f"nn.SimilarityRegularizer: {words}"):
            reg(*arguments)
    with pytest.raises(ValueError, match="target or responses must be given"):
        reg(h)
    reg(h, t)
    with pytest.raises(ValueError, match="h must be of 6 channels as before, got 5"):
        reg(h[:, :5], t)


def test_repr():
    text = repr(nn.ModuleDict({"reg": SimilarityRegularizer(strength=2.0, layers=3)}))
    assert "form='li2019'" in text
    assert "strength=2, layers=3, momentum=0.9" in text
