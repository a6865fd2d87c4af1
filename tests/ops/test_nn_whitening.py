"""`nn.Whitening`: batch and running statistics, and a transform that follows them."""

import copy

import pytest
import torch
from torch import nn

import neurokernels as nk
from neurokernels.nn import Whitening, whitening

METHODS = ("zca", "pca", "cholesky")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed(n=200, d=6, seed=0):
    return noise(n, d, seed=seed) @ noise(d, d, seed=9) + 3


@pytest.mark.parametrize("method", METHODS)
def test_training_is_whiten(method):
    x = mixed().requires_grad_()
    layer = Whitening(6, method=method, eps=1e-3)
    y = layer(x)
    expected = nk.whiten(x, method=method, eps=1e-3)
    torch.testing.assert_close(y, expected)
    gradients = [torch.autograd.grad(v.sin().sum(), x)[0] for v in (y, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics(momentum):
    """Averages of means and unbiased covariances, as batch normalisation has them of means and variances."""
    layer, norm = Whitening(6, momentum=momentum), nn.BatchNorm1d(6, momentum=momentum, affine=False)
    mean, covariance = torch.zeros(6), torch.eye(6)
    for i in range(4):
        x = mixed(seed=i)
        layer(x)
        norm(x)
        weight = 1 / (i + 1) if momentum is None else momentum
        mean, covariance = mean.lerp(x.mean(0), weight), covariance.lerp(torch.cov(x.mT), weight)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_covariance, covariance[None])
    torch.testing.assert_close(layer.running_mean, norm.running_mean)
    torch.testing.assert_close(layer.running_covariance[0].diagonal(), norm.running_var)
    assert layer.num_batches_tracked == 4
    layer.reset_running_stats()
    fresh = Whitening(6).state_dict()
    assert all(torch.equal(t, fresh[name]) for name, t in layer.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_evaluation(method):
    """The transform of the running statistics, one sample at a time, and no change of anything."""
    layer = Whitening(6, method=method, momentum=None, eps=1e-6)
    for i in range(3):
        layer(mixed(seed=i))
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    x = mixed(seed=5)
    y = layer(x)
    torch.testing.assert_close(torch.cat([layer(v[None]) for v in x]), y)
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    many = (mixed(100000, seed=7) - layer.running_mean) @ torch.linalg.inv(
        torch.linalg.cholesky(layer.running_covariance[0])
    ).mT
    torch.testing.assert_close(
        torch.cov(layer(mixed(100000, seed=7)).mT).trace(), torch.cov(many.mT).trace(), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(torch.cov(y.mT), torch.eye(6), rtol=0, atol=0.6)
    gradient = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)[0]
    assert gradient.std(0).max() < 1e-5  # an affine map
    assert gradient.abs().max() > 0


def test_before_the_first_batch():
    x = mixed()
    torch.testing.assert_close(Whitening(6, eps=1e-12).eval()(x), x)


def test_channels():
    """Places of an image are samples of its channels."""
    x = mixed(2 * 5 * 4).view(2, 5, 4, 6).permute(0, 3, 1, 2)
    layer = Whitening(6)
    y = layer(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y.movedim(1, -1).reshape(-1, 6), nk.whiten(mixed(40)))
    assert layer.eval()(x).shape == x.shape
    assert Whitening(6)(x[..., 0]).shape == (2, 6, 5)


@pytest.mark.parametrize("training", [True, False])
def test_groups(training):
    """Each group of neighbours is whitened for itself."""
    x = mixed()
    layer, parts = Whitening(6, groups=3), [Whitening(2) for _ in range(3)]
    layer(x), [part(x[:, 2 * i : 2 * i + 2]) for i, part in enumerate(parts)]
    for part in (layer, *parts):
        part.train(training)
    expected = torch.cat([part(x[:, 2 * i : 2 * i + 2]) for i, part in enumerate(parts)], 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert layer.running_covariance.shape == (3, 2, 2)


def test_the_transform_follows_the_statistics():
    """Whoever writes to them: training, a checkpoint, an average of weights, another dtype."""
    x, layer, other = mixed(), Whitening(6), Whitening(6)
    layer(x), other(3 * mixed(seed=4))
    layer.eval(), other.eval()
    first = layer(x)
    assert layer(x).equal(first)
    layer.load_state_dict(other.state_dict())
    assert layer(x).equal(other(x))
    assert not layer(x).equal(first)
    second = layer(x)
    with torch.no_grad():
        layer.running_covariance.mul_(4)
    torch.testing.assert_close(layer(x), second / 2, rtol=1e-3, atol=1e-5)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.running_covariance.mul_(4)
    torch.testing.assert_close(twin(x), layer(x) / 2, rtol=1e-3, atol=1e-5)
    assert layer.double()(x).dtype == torch.float64
    layer.train()(x.double())
    layer.eval()
    assert not torch.allclose(layer(x).float(), second / 2, rtol=1e-3)


def test_the_transform_is_made_once(monkeypatch):
    made, transform = [], whitening.transform
    monkeypatch.setattr(whitening, "transform", lambda *a: made.append(1) or transform(*a))
    layer = Whitening(6)
    layer(mixed())
    layer.eval()
    with torch.inference_mode():
        layer(mixed())
    for _ in range(3):
        layer(mixed().requires_grad_()).sum().backward()
    assert len(made) == 1
    layer.train()(mixed())
    layer.eval()(mixed())
    assert len(made) == 2


def test_dtypes():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        layer, x = Whitening(6), mixed().to(dtype)
        for _ in range(2):
            assert layer(x).dtype == torch.promote_types(dtype, torch.float32)
            layer.eval()
    layer, x = Whitening(6), mixed()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        inside = layer.eval()(x)
    assert torch.equal(inside, layer(x))


@pytest.mark.parametrize("training", [True, False])
def test_compiled(training):
    torch._dynamo.reset()
    eager = Whitening(6)
    eager(mixed())
    eager.train(training)
    compiled = copy.deepcopy(eager)
    function = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        torch.testing.assert_close(function(mixed(seed=seed)), eager(mixed(seed=seed)))
    for name, t in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], t)
    torch._dynamo.reset()


def test_training_through_it():
    """A network with it learns; its gradient is that of the batch's own statistics."""
    torch.manual_seed(0)
    x = mixed()
    target = (x[:, :1] * x[:, 1:2]).tanh()
    net = nn.Sequential(Whitening(6), nn.Linear(6, 32), nn.Tanh(), Whitening(32, eps=1e-2), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"features": 0}, ValueError, ("features", ">= 1")),
        ({"features": 6, "groups": 4}, ValueError, ("groups", "divisor of features = 6", "4")),
        ({"features": 6, "method": "svd"}, ValueError, ("method", "zca, pca, cholesky", "'svd'")),
        ({"features": 6, "eps": 0.0}, ValueError, ("eps", "> 0")),
        ({"features": 6, "momentum": 2.0}, ValueError, ("momentum", "[0, 1]", "2")),
        ({"features": 6, "momentum": "fast"}, TypeError, ("momentum", "number")),
    ],
    ids=str,
)
def test_refusals(arguments, error, words):
    with pytest.raises(error) as caught:
        Whitening(**arguments)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_refusals_of_calls():
    layer = Whitening(6)
    for x, error, words in (
        (torch.ones(6), ValueError, r"x must be \[N, 6\] or \[N, 6, ...\], got shape \(6,\)"),
        (torch.ones(4, 5), ValueError, r"got shape \(4, 5\)"),
        (torch.ones(1, 6), ValueError, "at least 2 samples in training"),
        (torch.ones(4, 6, dtype=torch.int64), TypeError, "int64"),
    ):
        with pytest.raises(
            error, match=f"nn.Whitening: .*{words}" if "must" not in words else f"nn.Whitening: {words}"
        ):
            layer(x)
    assert layer.num_batches_tracked == 0
    assert layer.eval()(torch.ones(1, 6)).shape == (1, 6)


def test_repr():
    assert repr(Whitening(6, groups=2)) == "Whitening(6, method='zca', eps=1e-05, momentum=0.1, groups=2)"
